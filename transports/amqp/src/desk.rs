//! Requests and direct answers on their way: written unconfirmed, on one channel.
//!
//! A confirm of each would wake three threads for news that hardly anybody waits for. The broker
//! handles what comes by one channel in order: by the time it answers a call there, everything that
//! was written before has been routed, or has come back. Such a call is a *look*. There is one at a
//! time: at once for a request to which perhaps nobody responds, and when answers hold up their
//! responder; a while later for all that is still open by then.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use busway_transport::{MessageId, Reply, TransportError};
use bytes::Bytes;
use dashmap::DashMap;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel};
use tokio::sync::oneshot;

use crate::address::Settings;
use crate::error;
use crate::flight::{Cargo, Flight};
use crate::properties;
use crate::shared::lock;

pub(crate) type Answer = Result<Reply, TransportError>;
/// The callers that wait, by the id of their request. Each removes itself when it is dropped.
pub(crate) type Waiting = Arc<DashMap<MessageId, Caller>>;

pub(crate) struct Caller {
    topic: String,
    answer: oneshot::Sender<Answer>,
    /// Of its request; 0 until that is written.
    number: u64,
}

impl Caller {
    pub(crate) fn new(topic: String, answer: oneshot::Sender<Answer>) -> Self {
        Self { topic, answer, number: 0 }
    }
}

/// A request to be written.
pub(crate) struct Job {
    pub(crate) id: MessageId,
    pub(crate) key: ShortString,
    pub(crate) properties: BasicProperties,
    pub(crate) payload: Bytes,
    pub(crate) deadline: Instant,
    /// Whether somebody is known to respond.
    pub(crate) known: bool,
}

/// What became of an answer: it was routed, or is given back, for that is not known.
pub(crate) type Sent = Result<(), Cargo>;

/// An answer that may not have been routed yet, and who hears what becomes of it.
struct Kept {
    cargo: Cargo,
    sent: oneshot::Sender<Sent>,
}

/// What callers, responders and the task of [`Requests`](crate::request::Requests) share.
pub(crate) struct Desk {
    pub(crate) settings: Arc<Settings>,
    pub(crate) waiting: Waiting,
    state: Mutex<State>,
}

/// What there is to do for the task.
pub(crate) enum Todo {
    /// There is room for the request that it holds.
    Write,
    /// A look at everything before this number, all of which is written.
    Look(u64),
    /// See again in a while.
    Tick,
}

enum Look {
    Idle,
    /// What it looks at is still being written: lapin would let the call overtake it.
    Writing(u64),
    Calling,
}

struct State {
    channel: Option<Arc<Channel>>,
    flying: FuturesUnordered<Flight<u64>>,
    /// The number of the next message.
    next: u64,
    /// All before this one are written: lapin writes in order.
    written: u64,
    /// All before this one were looked at, or are.
    looked: u64,
    /// All before this one were there when the clock ticked last.
    mark: u64,
    look: Look,
    /// The next look is to be at once.
    hurry: bool,
    /// Whether the clock goes.
    ticks: bool,
    /// What is unanswered should the channel be lost.
    asked: BTreeMap<u64, MessageId>,
    answers: BTreeMap<u64, Kept>,
    /// Why the channel was lost.
    lost: Option<TransportError>,
    /// Whether the task waits for something to be written: else it need not be woken for that.
    waits: bool,
    /// Of the task.
    waker: Waker,
}

impl Desk {
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        let state = Mutex::new(State {
            channel: None,
            flying: FuturesUnordered::new(),
            next: 1,
            written: 1,
            looked: 1,
            mark: 1,
            look: Look::Idle,
            hurry: false,
            ticks: false,
            asked: BTreeMap::new(),
            answers: BTreeMap::new(),
            lost: None,
            waits: false,
            waker: Waker::noop().clone(),
        });
        Self { settings, waiting: Waiting::default(), state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Writes a request now, or gives it back: there is no channel, or no room.
    pub(crate) fn ask(&self, job: Job) -> Option<Job> {
        let mut state = self.state();
        state.hear(&self.settings);
        let Some(channel) = state.channel.clone() else { return Some(job) };
        if state.flying.len() >= self.settings.window {
            return Some(job);
        }
        let left = job.deadline.saturating_duration_since(Instant::now());
        match self.waiting.get_mut(&job.id) {
            Some(mut caller) if !left.is_zero() => caller.number = state.next,
            // Nobody waits for it any more.
            _ => return None,
        }
        let expires = ShortString::from(properties::millis(left).max(1).to_string()); // at most 20 digits
        let number = state.write(
            &channel,
            Cargo {
                exchange: ShortString::default(),
                key: job.key,
                mandatory: true,
                properties: job.properties.with_expiration(expires),
                payload: job.payload,
            },
        );
        state.asked.insert(number, job.id);
        if state.asked.len() > 4 * self.settings.window.max(self.waiting.len()) {
            state.asked.retain(|_, id| self.waiting.contains_key(id));
        }
        state.hurry |= !job.known;
        self.written(state);
        None
    }

    /// Writes an answer now. Resolves when the broker has routed it, or with the answer when there
    /// is no channel, or it was lost before. `room`: how many may be open before they hold up
    /// somebody.
    pub(crate) fn answer(&self, cargo: Cargo, room: usize) -> oneshot::Receiver<Sent> {
        let (sent, is_sent) = oneshot::channel();
        let mut state = self.state();
        let Some(channel) = state.channel.clone() else {
            let _ = sent.send(Err(cargo));
            return is_sent;
        };
        let number = state.write(&channel, cargo.clone());
        state.answers.insert(number, Kept { cargo, sent });
        state.hurry |= state.answers.len() >= room;
        self.written(state);
        is_sent
    }

    /// After a write: has it begin, and wakes the task if that has something to do.
    fn written(&self, mut state: MutexGuard<'_, State>) {
        state.hear(&self.settings);
        let wakes = state.hurry || !state.ticks || state.lost.is_some();
        let waker = wakes.then(|| state.waker.clone());
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// A new channel.
    pub(crate) fn open(&self, channel: Arc<Channel>) {
        let mut state = self.state();
        state.channel = Some(channel);
        (state.written, state.looked, state.mark) = (state.next, state.next, state.next);
    }

    /// For the task: what there is to do, or why the channel is lost.
    pub(crate) fn poll(
        &self,
        context: &mut Context<'_>,
        wants_room: bool,
    ) -> Poll<Result<Todo, TransportError>> {
        let mut state = self.state();
        state.waker.clone_from(context.waker());
        if matches!(state.look, Look::Idle) && state.hurry {
            (state.look, state.hurry) = (Look::Writing(state.next), false);
            state.looked = state.next;
        }
        state.waits = wants_room || matches!(state.look, Look::Writing(_));
        state.hear(&self.settings);
        if let Some(error) = state.lost.clone() {
            return Poll::Ready(Err(error));
        }
        let todo = match state.look {
            Look::Writing(goal) if state.written >= goal => {
                state.look = Look::Calling;
                Todo::Look(goal)
            }
            _ if wants_room && state.flying.len() < self.settings.window => Todo::Write,
            _ if !state.ticks && state.is_open() => {
                (state.ticks, state.mark) = (true, state.next);
                Todo::Tick
            }
            _ => return Poll::Pending,
        };
        Poll::Ready(Ok(todo))
    }

    /// A while has passed. Says whether another one is to be waited for.
    pub(crate) fn tick(&self) -> bool {
        let mut state = self.state();
        let (looked, mark) = (state.looked, state.mark.max(state.looked));
        let is_old = state.asked.range(looked..mark).next().is_some()
            || state.answers.range(looked..mark).next().is_some();
        state.hurry |= is_old;
        state.mark = state.next;
        state.ticks = state.is_open();
        state.ticks
    }

    /// Everything before `goal` was routed, but for what came back.
    pub(crate) fn looked(&self, goal: u64, came_back: impl Iterator<Item = MessageId>) {
        let mut state = self.state();
        state.look = Look::Idle;
        let later = state.answers.split_off(&goal);
        let routed = std::mem::replace(&mut state.answers, later);
        drop(state);
        for kept in routed.into_values() {
            // Nobody waits for it when its delivery went back to the broker.
            let _ = kept.sent.send(Ok(()));
        }
        for id in came_back {
            if let Some((number, caller)) = self.called(id) {
                self.state().asked.remove(&number);
                let Caller { topic, answer, .. } = caller;
                let _ = answer.send(Err(TransportError::NoResponder { topic }));
            }
        }
    }

    /// Gives an answer to whoever waits for it.
    pub(crate) fn give(&self, id: MessageId, answer: Answer) {
        // A late one finds nobody, and harms nothing.
        if let Some((number, caller)) = self.called(id) {
            self.state().asked.remove(&number);
            let _ = caller.answer.send(answer);
        }
    }

    fn called(&self, id: MessageId) -> Option<(u64, Caller)> {
        self.waiting.remove(&id).map(|(_, caller)| (caller.number, caller))
    }

    /// What was asked may have been answered to nobody, and answers may have got nowhere.
    pub(crate) fn lost(&self, error: &TransportError) {
        let mut state = self.state();
        (state.channel, state.lost) = (None, None);
        state.flying = FuturesUnordered::new();
        (state.look, state.hurry, state.ticks) = (Look::Idle, false, false);
        let asked = std::mem::take(&mut state.asked);
        let answers = std::mem::take(&mut state.answers);
        drop(state);
        for Kept { cargo, sent } in answers.into_values() {
            let _ = sent.send(Err(cargo));
        }
        for id in asked.into_values() {
            self.give(id, Err(error.clone()));
        }
    }

    /// The end: nothing more is written.
    pub(crate) fn close(&self, error: &TransportError) {
        self.lost(error);
        self.state().waker = Waker::noop().clone();
        let ids: Vec<MessageId> = self.waiting.iter().map(|entry| *entry.key()).collect();
        for id in ids {
            self.give(id, Err(error.clone()));
        }
    }
}

impl State {
    fn write(&mut self, channel: &Arc<Channel>, cargo: Cargo) -> u64 {
        let number = self.next;
        self.next += 1;
        self.flying.push(Flight::new(number, channel.clone(), cargo));
        number
    }

    /// Whether anything is there of which it is not known whether it was routed.
    fn is_open(&self) -> bool {
        !self.answers.is_empty() || self.asked.range(self.looked..).next().is_some()
    }

    /// Has what is new written, and takes in what was. The task is woken for more only when it
    /// waits for that.
    fn hear(&mut self, settings: &Settings) {
        let waker = if self.waits { self.waker.clone() } else { Waker::noop().clone() };
        let mut context = Context::from_waker(&waker);
        while let Poll::Ready(Some((_, outcome))) = self.flying.poll_next_unpin(&mut context) {
            match outcome {
                Ok(_) => self.written += 1,
                Err(error) => {
                    self.channel = None;
                    self.lost = Some(match error::is_channel_error(&error) {
                        true => error::calling(settings, "a request", &error),
                        false => TransportError::Disconnected { reason: error.to_string() },
                    });
                    break;
                }
            }
        }
    }
}
