//! Requests: published mandatory to the responders' queue, answered over direct reply-to.
//!
//! The answers come on the channel that asked, so one task owns both. Returned requests are
//! matched by message id: lapin hands a return to whichever confirm comes next.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use busway_transport::{
    ContentType, FailureKind, MessageId, OutgoingRequest, Payload, Reply, TransportError,
};
use bytes::Bytes;
use dashmap::DashMap;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, Consumer};
use tokio::sync::{mpsc, oneshot};

use crate::address::Settings;
use crate::connection::{Link, backoff};
use crate::error::{self, short, timed_out, within};
use crate::properties;
use crate::respond::millis;
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
    waiting: Waiting,
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
        let waiting = Waiting::default();
        let (jobs, queue) = mpsc::channel(settings.window);
        let asker =
            Asker { settings, link: link.clone(), phase, jobs: queue, waiting: waiting.clone() };
        tasks.spawn(asker.run());
        Self { waiting, jobs, link }
    }

    pub(crate) async fn ask(&self, topology: &Topology, request: OutgoingRequest) -> Answer {
        let OutgoingRequest { envelope, deadline, .. } = request;
        let start = Instant::now();
        let (id, topic) = (envelope.id, envelope.topic.clone());
        let key = topology.request_key(&topic, envelope.to.as_ref())?;
        let (properties, mut table, payload) = properties::encode(envelope)?;
        table.number(properties::TIMEOUT_MS, millis(deadline.saturating_duration_since(start)));
        let properties = properties
            .with_correlation_id(short(id.to_string())?)
            .with_reply_to(REPLY_TO.into())
            .with_delivery_mode(1)
            .with_headers(table.done());
        let (answer, is_answered) = oneshot::channel();
        self.waiting.insert(id, Caller { topic: topic.to_string(), answer });
        let _forget = Forget(&self.waiting, id);
        let asked = async {
            let job = Job { id, key, properties, payload, deadline };
            self.jobs.send(job).await.map_err(|_| self.closed())?;
            is_answered.await.map_err(|_| self.closed())?
        };
        tokio::time::timeout_at(deadline.into(), asked).await.unwrap_or_else(|_| {
            Err(timed_out(topic.as_str(), deadline.saturating_duration_since(start)))
        })
    }
}

impl Requests {
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

struct Asker {
    settings: Arc<Settings>,
    link: Link,
    phase: PhaseWatch,
    jobs: mpsc::Receiver<Job>,
    waiting: Waiting,
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
                Ok((channel, mut replies)) => {
                    delays = backoff();
                    let mut sent = HashSet::new();
                    let lost = self.ask_on(&channel, &mut replies, &mut sent).await;
                    // What was sent may have been answered to nobody; what was not still waits.
                    for id in sent {
                        self.give(id, Err(lost.clone()));
                    }
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
        let settings = &self.settings;
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

    /// Asks until the channel is lost; `sent` is what is unanswered then.
    async fn ask_on(
        &mut self,
        channel: &Channel,
        replies: &mut Consumer,
        sent: &mut HashSet<MessageId>,
    ) -> TransportError {
        let phase = self.phase.clone();
        let mut flying = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = phase.reached(Phase::Closed) => return TransportError::Closed,
                reply = replies.next() => match reply {
                    Some(Ok(delivery)) => {
                        if let Some((id, reply)) = decode(delivery) {
                            sent.remove(&id);
                            self.give(id, Ok(reply));
                        }
                    }
                    Some(Err(error)) => return lost(&error.to_string()),
                    None => return lost("the broker ended the replies"),
                },
                Some((id, outcome)) = flying.next(), if !flying.is_empty() => match outcome {
                    Ok(Confirmation::Ack(returned) | Confirmation::Nack(returned)) => {
                        if let Some(returned) = returned {
                            let id = properties::id_of(&returned.properties);
                            sent.remove(&id);
                            self.unanswerable(id);
                        }
                        // Whoever gave up meanwhile need not be remembered.
                        if !self.waiting.contains_key(&id) {
                            sent.remove(&id);
                        }
                    }
                    Ok(Confirmation::NotRequested) => {}
                    Err(error) if error::is_channel_error(&error) => {
                        return error::calling(&self.settings, "a request", &error);
                    }
                    Err(error) => return lost(&error.to_string()),
                },
                Some(job) = self.jobs.recv(), if flying.len() < self.settings.window => {
                    let left = job.deadline.saturating_duration_since(Instant::now());
                    // Nobody waits for it any more.
                    if left.is_zero() || !self.waiting.contains_key(&job.id) {
                        continue;
                    }
                    sent.insert(job.id);
                    if sent.len() > 4 * self.settings.window.max(self.waiting.len()) {
                        sent.retain(|id| self.waiting.contains_key(id));
                    }
                    flying.push(fly(channel.clone(), job, millis(left).max(1)));
                }
            }
        }
    }

    fn give(&self, id: MessageId, answer: Answer) {
        // A late answer finds nobody, and harms nothing.
        if let Some((_, caller)) = self.waiting.remove(&id) {
            let _ = caller.answer.send(answer);
        }
    }

    fn unanswerable(&self, id: MessageId) {
        if let Some((_, caller)) = self.waiting.remove(&id) {
            let topic = caller.topic;
            let _ = caller.answer.send(Err(TransportError::NoResponder { topic }));
        }
    }

    fn end(&mut self, error: &TransportError) {
        self.jobs.close();
        let ids: Vec<MessageId> = self.waiting.iter().map(|entry| *entry.key()).collect();
        for id in ids {
            self.give(id, Err(error.clone()));
        }
    }
}

fn lost(reason: &str) -> TransportError {
    TransportError::Disconnected { reason: reason.to_owned() }
}

async fn fly(
    channel: Channel,
    job: Job,
    expires_ms: u64,
) -> (MessageId, Result<Confirmation, lapin::Error>) {
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    let expiration = ShortString::from(expires_ms.to_string()); // at most 20 digits
    let properties = job.properties.with_expiration(expiration);
    let sent = channel
        .basic_publish(ShortString::default(), job.key, options, &job.payload, properties)
        .await;
    let outcome = match sent {
        Ok(confirm) => confirm.await,
        Err(error) => Err(error),
    };
    (job.id, outcome)
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
