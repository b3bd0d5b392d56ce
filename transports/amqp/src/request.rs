//! Requests: published mandatory to the responders' queue, answered over direct reply-to.
//!
//! The answers come on the channel that asked. Who asks writes the request in its own task, while
//! the channel is there; one task brings the channel back and gives out the answers. Returned
//! requests are matched by message id: lapin hands a return to whichever confirm comes next.

use std::collections::HashSet;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use busway_transport::{
    ContentType, FailureKind, MessageId, OutgoingRequest, Payload, Reply, TransportError,
};
use bytes::Bytes;
use dashmap::DashMap;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, ConfirmSelectOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, Consumer};
use tokio::sync::{mpsc, oneshot};

use crate::address::Settings;
use crate::connection::{Link, backoff};
use crate::error::{self, short, timed_out, within};
use crate::flight::{Cargo, Flight};
use crate::properties;
use crate::shared::lock;
use crate::tasks::{Phase, PhaseWatch, Tasks};
use crate::topology::Topology;

/// The pseudo-queue of direct reply-to.
const REPLY_TO: &str = "amq.rabbitmq.reply-to";

type Answer = Result<Reply, TransportError>;
/// The callers that wait, by the id of their request. Each removes itself when it is dropped.
type Waiting = Arc<DashMap<MessageId, Caller>>;

struct Caller {
    topic: String,
    answer: oneshot::Sender<Answer>,
}

struct Job {
    id: MessageId,
    key: ShortString,
    properties: BasicProperties,
    payload: Bytes,
    deadline: Instant,
}

/// Asks. Clones share it.
#[derive(Clone)]
pub(crate) struct Requests {
    desk: Arc<Desk>,
    jobs: mpsc::Sender<Job>,
    link: Link,
}

impl Requests {
    pub(crate) fn start(
        settings: Arc<Settings>,
        link: Link,
        tasks: &Tasks,
        phase: PhaseWatch,
    ) -> Self {
        let (jobs, queue) = mpsc::channel(settings.window);
        let state = Mutex::new(State {
            channel: None,
            flying: FuturesUnordered::new(),
            sent: HashSet::new(),
            lost: None,
            waker: Waker::noop().clone(),
        });
        let desk = Arc::new(Desk { settings, waiting: Waiting::default(), state });
        let asker =
            Asker { desk: desk.clone(), link: link.clone(), phase, jobs: queue, held: None };
        tasks.spawn(asker.run());
        Self { desk, jobs, link }
    }

    pub(crate) async fn ask(&self, topology: &Topology, request: OutgoingRequest) -> Answer {
        let OutgoingRequest { envelope, deadline, .. } = request;
        let start = Instant::now();
        let (id, topic) = (envelope.id, envelope.topic.clone());
        let key = topology.request_key(&topic, envelope.to.as_ref())?;
        let (properties, mut table, payload) = properties::encode(envelope)?;
        table.number(
            properties::TIMEOUT_MS,
            properties::millis(deadline.saturating_duration_since(start)),
        );
        // From when on: what it waits anywhere is taken off.
        table.number(properties::TIME_MS, properties::now_ms());
        let properties = properties
            .with_correlation_id(short(id.to_string())?)
            .with_reply_to(REPLY_TO.into())
            .with_delivery_mode(1)
            .with_headers(table.done());
        let (answer, is_answered) = oneshot::channel();
        let waiting = &self.desk.waiting;
        waiting.insert(id, Caller { topic: topic.to_string(), answer });
        let _forget = Forget(waiting, id);
        let asked = async {
            let job = Job { id, key, properties, payload, deadline };
            if let Some(job) = self.desk.ask(job) {
                self.jobs.send(job).await.map_err(|_| self.closed())?;
            }
            is_answered.await.map_err(|_| self.closed())?
        };
        tokio::time::timeout_at(deadline.into(), asked).await.unwrap_or_else(|_| {
            Err(timed_out(topic.as_str(), deadline.saturating_duration_since(start)))
        })
    }

    /// Why nothing is asked any more: what ended the connection, or the bus.
    fn closed(&self) -> TransportError {
        self.link.is_up().err().unwrap_or(TransportError::Closed)
    }
}

/// Takes a caller out, however its wait ended.
struct Forget<'a>(&'a Waiting, MessageId);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.remove(&self.1);
    }
}

/// What callers and the asker's task share.
struct Desk {
    settings: Arc<Settings>,
    waiting: Waiting,
    state: Mutex<State>,
}

struct State {
    channel: Option<Arc<Channel>>,
    flying: FuturesUnordered<Flight<MessageId>>,
    /// What is unanswered should the channel be lost.
    sent: HashSet<MessageId>,
    /// Why it was.
    lost: Option<TransportError>,
    /// Of the asker's task.
    waker: Waker,
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Writes a request now, or gives it back: there is no channel, or no room.
    fn ask(&self, job: Job) -> Option<Job> {
        let mut state = self.state();
        let Some(channel) = state.channel.clone() else { return Some(job) };
        if state.flying.len() >= self.settings.window {
            return Some(job);
        }
        let left = job.deadline.saturating_duration_since(Instant::now());
        // Nobody waits for it any more.
        if left.is_zero() || !self.waiting.contains_key(&job.id) {
            return None;
        }
        state.sent.insert(job.id);
        if state.sent.len() > 4 * self.settings.window.max(self.waiting.len()) {
            state.sent.retain(|id| self.waiting.contains_key(id));
        }
        let expires = ShortString::from(properties::millis(left).max(1).to_string()); // at most 20 digits
        let cargo = Cargo {
            exchange: ShortString::default(),
            key: job.key,
            mandatory: true,
            properties: job.properties.with_expiration(expires),
            payload: job.payload,
        };
        state.flying.push(Flight::new(job.id, channel, cargo));
        let waker = state.waker.clone();
        let returned = self.hear(&mut state, &mut Context::from_waker(&waker));
        let lost = state.lost.is_some();
        drop(state);
        if lost {
            waker.wake();
        }
        self.unanswerable(returned);
        None
    }

    /// Takes in what the broker said of requests. What came back is to be told.
    fn hear(&self, state: &mut State, context: &mut Context<'_>) -> Vec<MessageId> {
        let mut came_back = Vec::new();
        while let Poll::Ready(Some((id, outcome))) = state.flying.poll_next_unpin(context) {
            match outcome {
                Ok(Confirmation::Ack(returned) | Confirmation::Nack(returned)) => {
                    if let Some(returned) = returned {
                        let id = properties::id_of(&returned.properties);
                        state.sent.remove(&id);
                        came_back.push(id);
                    }
                    // Whoever gave up meanwhile need not be remembered.
                    if !self.waiting.contains_key(&id) {
                        state.sent.remove(&id);
                    }
                }
                Ok(Confirmation::NotRequested) => {}
                Err(error) => {
                    state.channel = None;
                    state.lost = Some(match error::is_channel_error(&error) {
                        true => error::calling(&self.settings, "a request", &error),
                        false => lost(&error.to_string()),
                    });
                    break;
                }
            }
        }
        came_back
    }

    /// For the asker's task: ready when there is room, if that is wanted, or with why the channel
    /// is lost.
    fn poll(
        &self,
        context: &mut Context<'_>,
        wants_room: bool,
    ) -> Poll<Result<(), TransportError>> {
        let mut state = self.state();
        state.waker.clone_from(context.waker());
        let returned = self.hear(&mut state, context);
        let lost = state.lost.clone();
        let has_room = state.flying.len() < self.settings.window;
        drop(state);
        self.unanswerable(returned);
        match lost {
            Some(error) => Poll::Ready(Err(error)),
            None if wants_room && has_room => Poll::Ready(Ok(())),
            None => Poll::Pending,
        }
    }

    fn give(&self, id: MessageId, answer: Answer) {
        // A late answer finds nobody, and harms nothing.
        if let Some((_, caller)) = self.waiting.remove(&id) {
            let _ = caller.answer.send(answer);
        }
    }

    fn unanswerable(&self, returned: Vec<MessageId>) {
        for id in returned {
            if let Some((_, caller)) = self.waiting.remove(&id) {
                let topic = caller.topic;
                let _ = caller.answer.send(Err(TransportError::NoResponder { topic }));
            }
        }
    }

    /// What was sent may have been answered to nobody.
    fn lost(&self, error: &TransportError) {
        let mut state = self.state();
        (state.channel, state.lost) = (None, None);
        state.flying = FuturesUnordered::new();
        let sent = std::mem::take(&mut state.sent);
        drop(state);
        for id in sent {
            self.give(id, Err(error.clone()));
        }
    }
}

/// The task behind it.
struct Asker {
    desk: Arc<Desk>,
    link: Link,
    phase: PhaseWatch,
    jobs: mpsc::Receiver<Job>,
    /// The next one, while there is no room for it.
    held: Option<Job>,
}

/// However the task ends, also with its runtime: whoever asks may live on another one.
impl Drop for Asker {
    fn drop(&mut self) {
        self.end(&TransportError::Closed);
    }
}

impl Asker {
    async fn run(mut self) {
        let mut delays = backoff();
        let phase = self.phase.clone();
        loop {
            let up = tokio::select! {
                () = phase.reached(Phase::Closed) => Err(TransportError::Closed),
                up = self.link.up() => up,
            };
            let connection = match up {
                Ok(connection) => connection,
                Err(error) => return self.end(&error),
            };
            match self.open(&connection).await {
                Ok((channel, replies)) => {
                    delays = backoff();
                    self.desk.state().channel = Some(Arc::new(channel));
                    let lost = self.ask_on(&connection, replies).await;
                    // What was not sent still waits.
                    self.desk.lost(&lost);
                }
                Err(error) => tracing::debug!(%error, "not yet"),
            }
            tokio::select! {
                () = phase.reached(Phase::Closed) => {}
                () = tokio::time::sleep(delays.next().unwrap_or_default()) => {}
            }
        }
    }

    async fn open(&self, connection: &Connection) -> Result<(Channel, Consumer), TransportError> {
        let settings = &self.desk.settings;
        let channel = within(settings, "opening a channel", connection.create_channel()).await?;
        let confirm = channel.confirm_select(ConfirmSelectOptions::default());
        within(settings, "asking for confirms", confirm).await?;
        let consume = channel.basic_consume(
            REPLY_TO.into(),
            "".into(),
            // Direct reply-to has no acks; there is one answer per request in flight.
            BasicConsumeOptions { no_ack: true, ..Default::default() },
            FieldTable::default(),
        );
        let replies = within(settings, "consuming replies", consume).await?;
        Ok((channel, replies))
    }

    /// Gives out answers until the channel is lost.
    async fn ask_on(
        &mut self,
        connection: &Arc<Connection>,
        mut replies: Consumer,
    ) -> TransportError {
        let (phase, link) = (self.phase.clone(), self.link.clone());
        let (closed, gone) = (phase.reached(Phase::Closed), link.long_gone(connection));
        tokio::pin!(closed, gone);
        loop {
            self.held = self.held.take().and_then(|job| self.desk.ask(job));
            let wants_room = self.held.is_some();
            tokio::select! {
                () = &mut closed => return TransportError::Closed,
                () = &mut gone => return lost("the connection to the broker was lost"),
                reply = replies.next() => match reply {
                    Some(Ok(delivery)) => {
                        if let Some((id, reply)) = decode(delivery) {
                            self.desk.state().sent.remove(&id);
                            self.desk.give(id, Ok(reply));
                        }
                    }
                    Some(Err(error)) => return lost(&error.to_string()),
                    None => return lost("the broker ended the replies"),
                },
                room = poll_fn(|context| self.desk.poll(context, wants_room)) => {
                    if let Err(lost) = room {
                        return lost;
                    }
                }
                Some(job) = self.jobs.recv(), if !wants_room => self.held = Some(job),
            }
        }
    }

    fn end(&mut self, error: &TransportError) {
        self.jobs.close();
        self.desk.lost(error);
        let waiting = &self.desk.waiting;
        let ids: Vec<MessageId> = waiting.iter().map(|entry| *entry.key()).collect();
        for id in ids {
            self.desk.give(id, Err(error.clone()));
        }
    }
}

fn lost(reason: &str) -> TransportError {
    TransportError::Disconnected { reason: reason.to_owned() }
}

fn decode(delivery: Delivery) -> Option<(MessageId, Reply)> {
    let properties = &delivery.properties;
    let id = properties.correlation_id().as_ref()?.as_str().parse().ok()?;
    let content_type = match properties.content_type() {
        Some(text) if !text.as_str().is_empty() => ContentType::new(text.as_str()),
        _ => ContentType::JSON,
    };
    let payload = Payload::encoded(content_type, delivery.data);
    // A responder in another language need not say that its response is one.
    let reply = match properties::text(properties, properties::STATUS).as_deref() {
        Some("refused") => Reply::Refused(payload),
        Some("failed") => Reply::Failed {
            kind: properties::text(properties, properties::FAILURE)
                .and_then(|kind| FailureKind::parse(&kind))
                .unwrap_or(FailureKind::Abandoned),
            text: properties::text(properties, properties::TEXT).unwrap_or_default(),
        },
        _ => Reply::Response(payload),
    };
    Some((id, reply))
}
