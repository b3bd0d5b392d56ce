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
use std::time::{Duration, Instant};

use busway_transport::{MessageId, Reply, TransportError};
use bytes::Bytes;
use dashmap::DashMap;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel};
use tokio::sync::{mpsc, oneshot};

use crate::address::Settings;
use crate::answers::{self, Confirm, Kept};
use crate::error;
use crate::flight::{Cargo, Flight};
use crate::properties;
use crate::shared::lock;

/// How long what is unconfirmed may be open before it is looked at, up to twice that.
pub(crate) const WHILE: Duration = Duration::from_millis(5);

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

/// What callers, responders and the task of [`Requests`](crate::request::Requests) share.
pub(crate) struct Desk {
    pub(crate) settings: Arc<Settings>,
    pub(crate) waiting: Waiting,
    /// For answers of which it is not known whether they were routed.
    confirm: Confirm,
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

/// What is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Request,
    Answer,
}

struct State {
    channel: Option<Arc<Channel>>,
    flying: FuturesUnordered<Flight<Kind>>,
    /// How many of those are requests. Answers need no room: their responders' prefetch bounds them.
    asking: usize,
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
    /// Those that may not have been routed yet.
    answers: BTreeMap<u64, Kept>,
    /// Why the channel was lost.
    lost: Option<TransportError>,
    /// Whether the task waits for something to be written: else it need not be woken for that.
    waits: bool,
    /// Of the task.
    waker: Waker,
}

impl Desk {
    pub(crate) fn new(settings: Arc<Settings>, confirm: Confirm) -> Self {
        let state = Mutex::new(State {
            channel: None,
            flying: FuturesUnordered::new(),
            asking: 0,
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
        Self { settings, waiting: Waiting::default(), confirm, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Writes a request now, or gives it back: there is no channel, or no room.
    pub(crate) fn ask(&self, job: Job) -> Option<Job> {
        let mut state = self.state();
        state.hear(&self.settings);
        let Some(channel) = state.channel.clone() else { return Some(job) };
        if state.asking >= self.settings.window {
            return Some(job);
        }
        let left = job.deadline.saturating_duration_since(Instant::now());
        match self.waiting.get_mut(&job.id) {
            Some(mut caller) if !left.is_zero() => caller.number = state.next,
            // Nobody waits for it any more.
            _ => return None,
        }
        let expires = ShortString::from(properties::millis(left).max(1).to_string()); // at most 20 digits
        state.asking += 1;
        let number = state.write(
            &channel,
            Kind::Request,
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
        // A look in a while would come after the deadline.
        state.hurry |= !job.known || left < 4 * WHILE;
        self.written(state);
        None
    }

    /// Writes an answer now, or has it confirmed when there is no channel, or that is lost before it
    /// is known that the answer was routed. `room`: how many may be open before they hold up
    /// their responder.
    pub(crate) fn answer(&self, kept: Kept, room: usize) {
        let mut state = self.state();
        let Some(channel) = state.channel.clone() else {
            drop(state);
            return self.confirm(kept);
        };
        let number = state.write(&channel, Kind::Answer, kept.out.cargo());
        state.keep(number, kept, room);
        self.written(state);
    }

    /// Sends an answer with a confirm.
    pub(crate) fn confirm(&self, kept: Kept) {
        if let Err(mpsc::error::SendError(kept)) = self.confirm.send(kept) {
            answers::lost(&kept.out.what, &TransportError::Closed);
        }
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
            _ if wants_room && state.asking < self.settings.window => Todo::Write,
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
        routed.into_values().for_each(Kept::done);
        for id in came_back {
            if let Some(Caller { topic, answer, .. }) = self.called(id) {
                let _ = answer.send(Err(TransportError::NoResponder { topic }));
            }
        }
    }

    /// Gives an answer to whoever waits for it.
    pub(crate) fn give(&self, id: MessageId, answer: Answer) {
        // A late one finds nobody, and harms nothing.
        if let Some(caller) = self.called(id) {
            let _ = caller.answer.send(answer);
        }
    }

    /// Who waits for that answer, if somebody does: it is for the caller of this to give.
    fn called(&self, id: MessageId) -> Option<Caller> {
        let (_, caller) = self.waiting.remove(&id)?;
        self.state().asked.remove(&caller.number);
        Some(caller)
    }

    /// What was asked may have been answered to nobody, and answers may have got nowhere.
    pub(crate) fn lost(&self, error: &TransportError) {
        let mut state = self.state();
        (state.channel, state.lost) = (None, None);
        (state.flying, state.asking) = (FuturesUnordered::new(), 0);
        (state.look, state.hurry, state.ticks) = (Look::Idle, false, false);
        let asked = std::mem::take(&mut state.asked);
        let answers = std::mem::take(&mut state.answers);
        drop(state);
        answers.into_values().for_each(|kept| self.confirm(kept));
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
    fn write(&mut self, channel: &Arc<Channel>, kind: Kind, cargo: Cargo) -> u64 {
        let number = self.next;
        self.next += 1;
        self.flying.push(Flight::new(kind, channel.clone(), cargo));
        number
    }

    fn keep(&mut self, number: u64, kept: Kept, room: usize) {
        self.answers.insert(number, kept);
        self.hurry |= self.answers.len() >= room;
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
        while let Poll::Ready(Some((kind, outcome))) = self.flying.poll_next_unpin(&mut context) {
            self.asking -= usize::from(kind == Kind::Request);
            match outcome {
                Ok(_) => self.written += 1,
                Err(error) => {
                    self.channel = None;
                    self.lost = Some(error::losing(settings, &error));
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::publish::Outgoing;
    use crate::tasks::Gauge;

    fn desk() -> (Desk, mpsc::UnboundedReceiver<Kept>) {
        let settings = Settings::parse(&"amqp://h?bus=b".parse().unwrap()).unwrap();
        let (confirm, confirmed) = mpsc::unbounded_channel();
        (Desk::new(Arc::new(settings), confirm), confirmed)
    }

    /// An answer for whose end nobody waits: its delivery has gone.
    fn answer(work: &Gauge) -> Kept {
        Kept::new(Outgoing::empty("shop.price"), work.count()).0
    }

    #[test]
    fn answers_that_may_not_be_out_are_confirmed_and_the_bus_waits_for_them() {
        let ((desk, mut confirmed), work) = (desk(), Gauge::new());
        let (early, written) = (answer(&work), answer(&work));
        let ids = [early.out.id, written.out.id];
        // There is no channel yet.
        desk.answer(early, 1);
        desk.state().keep(1, written, 16);
        desk.lost(&TransportError::Closed);
        for id in ids {
            assert!(work.zero().now_or_never().is_none());
            let kept = confirmed.try_recv().unwrap();
            assert_eq!(kept.out.id, id);
            kept.done();
        }
        assert!(work.zero().now_or_never().is_some());
        // Once each.
        desk.lost(&TransportError::Closed);
        assert!(confirmed.try_recv().is_err());
    }

    #[test]
    fn a_look_ends_what_was_written_before_it_alone() {
        let ((desk, mut confirmed), work) = (desk(), Gauge::new());
        let (before, after) = (answer(&work), answer(&work));
        let id = after.out.id;
        desk.state().keep(1, before, 16);
        desk.state().keep(2, after, 16);
        desk.looked(2, std::iter::empty());
        desk.close(&TransportError::Closed);
        assert_eq!(confirmed.try_recv().unwrap().out.id, id);
        assert!(confirmed.try_recv().is_err());
        assert!(work.zero().now_or_never().is_some());
    }

    #[test]
    fn answers_that_take_all_the_room_are_looked_at_at_once() {
        let ((desk, _confirmed), work) = (desk(), Gauge::new());
        desk.state().keep(1, answer(&work), 2);
        assert!(!desk.state().hurry);
        desk.state().keep(2, answer(&work), 2);
        assert!(desk.state().hurry);
    }
}
