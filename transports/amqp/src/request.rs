//! Requests: published mandatory to the responders' queue, answered over direct reply-to.
//!
//! The answers come on the channel that asked. Who asks writes the request in its own task, while
//! the channel is there; one task brings the channel back and gives out the answers. Returned
//! requests are matched by message id.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Instant;

use busway_transport::{
    ContentType, FailureKind, MessageId, OutgoingRequest, Payload, Reply, TransportError,
};
use futures::future::{Fuse, FusedFuture};
use futures::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection, Consumer};
use tokio::sync::{mpsc, oneshot};

use crate::address::Settings;
use crate::answers::{self, Kept};
use crate::connection::{Link, backoff};
use crate::desk::{Answer, Caller, Desk, Job, Todo, WHILE, Waiting};
use crate::error::{OPERATION, losing, short, timed_out, within};
use crate::properties;
use crate::publish::Publisher;
use crate::tasks::{Phase, PhaseWatch, Tasks};
use crate::topology::Topology;

/// The pseudo-queue of direct reply-to; the address of a caller begins like it.
const REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// A larger answer goes over the confirmed channel: a broker that refuses it closes its channel, and
/// on this one everybody's requests would fail, or wait behind it.
const LARGE: usize = 128 * 1024;

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
        back: Publisher,
        tasks: &Tasks,
        phase: PhaseWatch,
    ) -> Self {
        let (jobs, queue) = mpsc::channel(settings.window);
        let (confirm, answers) = mpsc::unbounded_channel();
        tasks.spawn(answers::confirm_all(back, answers, phase.clone()));
        let desk = Arc::new(Desk::new(settings, confirm));
        let asker =
            Asker { desk: desk.clone(), link: link.clone(), phase, jobs: queue, held: None };
        tasks.spawn(asker.run());
        Self { desk, jobs, link }
    }

    /// `known`: somebody is known to respond.
    pub(crate) async fn ask(
        &self,
        topology: &Topology,
        request: OutgoingRequest,
        known: bool,
    ) -> Answer {
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
        waiting.insert(id, Caller::new(topic.to_string(), answer));
        let _forget = Forget(waiting, id);
        let asked = async {
            let job = Job { id, key, properties, payload, deadline, known };
            if let Some(job) = self.desk.ask(job) {
                self.jobs.send(job).await.map_err(|_| self.closed())?;
            }
            is_answered.await.map_err(|_| self.closed())?
        };
        tokio::time::timeout_at(deadline.into(), asked).await.unwrap_or_else(|_| {
            Err(timed_out(topic.as_str(), deadline.saturating_duration_since(start)))
        })
    }

    /// Answers a request. `room`: how many answers may be open before they hold up their responder.
    pub(crate) fn answer(&self, kept: Kept, room: usize) {
        // There is no queue in which it could get lost: it is the caller's when it was routed.
        if is_direct(&kept.out.key) && kept.out.payload.len() <= LARGE {
            self.desk.answer(kept, room);
        } else {
            self.desk.confirm(kept);
        }
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
                    let channel = Arc::new(channel);
                    self.desk.open(channel.clone());
                    let lost = self.ask_on(&connection, &channel, replies).await;
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
        channel: &Channel,
        mut replies: Consumer,
    ) -> TransportError {
        let (phase, link, desk) = (self.phase.clone(), self.link.clone(), self.desk.clone());
        let (closed, gone) = (phase.reached(Phase::Closed), link.long_gone(connection));
        let (tick, look) = (tokio::time::sleep(WHILE), Fuse::terminated());
        tokio::pin!(closed, gone, tick, look);
        let mut ticks = false;
        loop {
            self.held = self.held.take().and_then(|job| self.desk.ask(job));
            let wants_room = self.held.is_some();
            tokio::select! {
                () = &mut closed => return TransportError::Closed,
                () = &mut gone => return lost("the connection to the broker was lost"),
                reply = replies.next() => match reply {
                    Some(Ok(delivery)) => {
                        if let Some((id, reply)) = decode(delivery) {
                            self.desk.give(id, Ok(reply));
                        }
                    }
                    Some(Err(error)) => return losing(&desk.settings, &error),
                    None => return lost("the broker ended the replies"),
                },
                todo = poll_fn(|context| self.desk.poll(context, wants_room)) => match todo {
                    Ok(Todo::Write) => {}
                    Ok(Todo::Look(goal)) => {
                        let looking = look_at(&desk.settings, connection, channel);
                        look.set(looking.map(move |seen| (goal, seen)).fuse());
                    }
                    Ok(Todo::Tick) => {
                        tick.as_mut().reset(tokio::time::Instant::now() + WHILE);
                        ticks = true;
                    }
                    Err(lost) => return lost,
                },
                (goal, seen) = &mut look, if !look.is_terminated() => match seen {
                    Ok(came_back) => self.desk.looked(goal, came_back.into_iter()),
                    Err(error) => return error,
                },
                () = &mut tick, if ticks => {
                    ticks = self.desk.tick();
                    tick.as_mut().reset(tokio::time::Instant::now() + WHILE);
                }
                Some(job) = self.jobs.recv(), if !wants_room => self.held = Some(job),
            }
        }
    }

    fn end(&mut self, error: &TransportError) {
        self.jobs.close();
        self.desk.close(error);
    }
}

/// A call that the broker answers after everything written before. Gives what came back of that.
async fn look_at(
    settings: &Settings,
    connection: &Connection,
    channel: &Channel,
) -> Result<Vec<MessageId>, TransportError> {
    // It changes nothing: the one consumer is there already, and has no acks.
    let qos = channel.basic_qos(0, BasicQosOptions::default());
    tokio::pin!(qos);
    loop {
        match tokio::time::timeout(OPERATION, &mut qos).await {
            Ok(done) => break done.map_err(|error| losing(settings, &error))?,
            // It goes on when the broker does.
            Err(_) if connection.status().blocked() => {}
            Err(_) => return Err(lost("the broker does not answer")),
        }
    }
    // Without confirms this waits for nothing.
    let returned = channel.wait_for_confirms().await.map_err(|error| losing(settings, &error))?;
    Ok(returned.iter().map(|message| properties::id_of(&message.properties)).collect())
}

/// Whether an answer goes to the caller's channel itself, and not to a queue.
fn is_direct(reply_to: &ShortString) -> bool {
    reply_to.as_str().strip_prefix(REPLY_TO).is_some_and(|address| address.starts_with('.'))
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
