//! Responders: requests from the queue of their name, and from the queue of endpoint and name.

use std::sync::Arc;
use std::time::Duration;

use busway_transport::{Ask, Asks, FailureKind, Replier, Reply, ResponderSpec, TransportError};
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use lapin::BasicProperties;
use lapin::types::ShortString;

use crate::error::short;
use crate::flight::Cargo;
use crate::presence::Registration;
use crate::properties::{self, Table};
use crate::publish::Outgoing;
use crate::request::REPLY_TO;
use crate::served::{self, After, Answer, Settle, Taken, Work};
use crate::shared::Shared;
use crate::topology::Stand;

/// For a request that says nothing about its deadline.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) async fn respond(
    shared: &Arc<Shared>,
    spec: ResponderSpec,
) -> Result<Asks, TransportError> {
    shared.ensure_open()?;
    let responder = Responder {
        any: shared.topology.responder(&spec.topic, None)?,
        own: shared.topology.responder(&spec.topic, Some(&spec.endpoint))?,
        spec: Arc::new(spec),
        shared: shared.clone(),
    };
    let stream = served::serve(shared, responder).await?;
    shared.told().await?;
    Ok(stream)
}

#[derive(Clone)]
struct Responder {
    shared: Arc<Shared>,
    spec: Arc<ResponderSpec>,
    any: Stand,
    own: Stand,
}

impl Work for Responder {
    type Item = Ask;
    type Verdict = Verdict;

    fn stands(&self) -> Vec<Stand> {
        vec![self.any.clone(), self.own.clone()]
    }

    fn register(&self) -> Registration {
        let (topic, endpoint) = (self.spec.topic.clone(), self.spec.endpoint.clone());
        Registration::responder(&self.shared.presence, topic, endpoint)
    }

    fn prefetch(&self) -> u16 {
        u16::try_from(self.spec.concurrency.max(1)).unwrap_or(u16::MAX)
    }

    fn take(&self, taken: &Taken, answer: Answer<Verdict>) -> Result<Ask, Verdict> {
        if taken.redelivered {
            // Somebody had it and went away, perhaps in the middle: never run it twice.
            return Err(Verdict::Reply(Reply::Failed {
                kind: FailureKind::Abandoned,
                text: "the responder went away before it answered".into(),
            }));
        }
        let topic = self.spec.topic.clone();
        let envelope = properties::decode(topic, &taken.properties, taken.payload.clone());
        let deadline = taken.arrived + self.left_of(taken);
        let responder = self.clone();
        let replier = Replier::new(move |reply| {
            let verdict = responder.reply_now(answer.to(), reply);
            answer.give(verdict);
        });
        // RabbitMQ does not tell when a caller has gone.
        Ok(Ask::new(envelope, deadline, replier, Box::pin(std::future::pending())))
    }

    fn settle(&self, taken: Arc<Taken>, verdict: Verdict) -> Settle {
        let responder = self.clone();
        Settle::Later(Box::pin(async move {
            match verdict {
                Verdict::Reply(reply) => responder.reply(&taken, reply).await,
                Verdict::Replied(confirmed) => responder.replied(confirmed.await),
            }
        }))
    }

    /// Nobody saw it, so another responder may run it: as a new message, for a redelivered one
    /// is never run.
    fn give_back(&self, taken: Arc<Taken>) -> Settle {
        let responder = self.clone();
        Settle::Later(Box::pin(async move {
            let left = responder.left_of(&taken).saturating_sub(taken.arrived.elapsed());
            let mut table = Table::of(&taken.properties);
            table.number(properties::TIMEOUT_MS, properties::millis(left));
            if let Some(asked_ms) = properties::number(&taken.properties, properties::TIME_MS) {
                // Still by the caller's clock.
                let over = properties::millis(timeout_of(&taken.properties).saturating_sub(left));
                table.number(properties::TIME_MS, asked_ms.saturating_add(over));
            }
            let mut properties = properties::resend(&taken.properties, table).with_delivery_mode(1);
            if let Ok(expiration) = short(properties::millis(left).to_string()) {
                properties = properties.with_expiration(expiration);
            }
            let out = Outgoing {
                id: properties::id_of(&properties),
                what: responder.spec.topic.to_string(),
                exchange: "".into(),
                key: taken.queue.clone(),
                mandatory: true,
                properties,
                payload: taken.payload.clone(),
                needs: None,
                replaces: Some(taken.acker.clone()),
            };
            match responder.shared.back.send(out).await {
                Ok(receipt) if receipt.reached > 0 => After::Ack,
                _ => {
                    let reply = Reply::Failed {
                        kind: FailureKind::Abandoned,
                        text: "the last responder left".into(),
                    };
                    responder.reply(&taken, reply).await
                }
            }
        }))
    }
}

/// How a request is answered.
enum Verdict {
    Reply(Reply),
    /// The answer was written already.
    Replied(BoxFuture<'static, Result<(), TransportError>>),
}

impl Responder {
    /// How long the caller still waits, from the message's arrival here: without what it took to
    /// get here, where the caller's clock is known.
    fn left_of(&self, taken: &Taken) -> Duration {
        let timeout = timeout_of(&taken.properties);
        let asked_ms = properties::number(&taken.properties, properties::TIME_MS);
        let peer = properties::peer_of(&taken.properties);
        let since = asked_ms.and_then(|asked_ms| self.shared.presence.others.since(peer, asked_ms));
        let before = since.unwrap_or_default().saturating_sub(taken.arrived.elapsed());
        timeout.saturating_sub(before)
    }

    /// Answers in the task of whoever has the answer, if there is room.
    fn reply_now(&self, taken: &Taken, reply: Reply) -> Verdict {
        let Some(reply_to) = taken.properties.reply_to().clone() else {
            return Verdict::Reply(reply);
        };
        let slot = match is_direct(&reply_to) {
            true => None,
            false => match self.shared.back.try_reserve() {
                Ok(Some(slot)) => Some(slot),
                _ => return Verdict::Reply(reply),
            },
        };
        Verdict::Replied(match (self.answer(taken, reply_to, reply), slot) {
            (Ok(out), Some(slot)) => slot.commit(out).map(|sent| sent.map(drop)).boxed(),
            (Ok(out), None) => self.send_direct(out).boxed(),
            (Err(error), _) => std::future::ready(Err(error)).boxed(),
        })
    }

    /// Answers, if somebody wants to know, and is done with the request whatever comes of it.
    async fn reply(&self, taken: &Taken, reply: Reply) -> After {
        let Some(reply_to) = taken.properties.reply_to().clone() else { return After::Ack };
        let is_direct = is_direct(&reply_to);
        self.replied(match self.answer(taken, reply_to, reply) {
            Ok(out) if is_direct => self.send_direct(out).await,
            Ok(out) => self.shared.back.send(out).await.map(drop),
            Err(error) => Err(error),
        })
    }

    /// To a caller's channel, without a confirm: there is no queue in which it could get lost, so
    /// it is the caller's when it was routed. If that is not known it is sent again, with one.
    fn send_direct(
        &self,
        out: Outgoing,
    ) -> impl Future<Output = Result<(), TransportError>> + Send + 'static {
        let Outgoing { id, what, exchange, key, mandatory, properties, payload, .. } = out;
        let cargo = Cargo { exchange, key, mandatory, properties, payload };
        // As many as are acked together.
        let room = (self.spec.concurrency / 4).max(1);
        let sent = self.shared.requests.answer(cargo, room);
        let shared = self.shared.clone();
        async move {
            let Err(cargo) = sent.await? else { return Ok(()) };
            let Cargo { exchange, key, mandatory, properties, payload } = cargo;
            let (needs, replaces) = (None, None);
            let out = Outgoing {
                id,
                what,
                exchange,
                key,
                mandatory,
                properties,
                payload,
                needs,
                replaces,
            };
            shared.back.send(out).await.map(drop)
        }
    }

    fn replied(&self, sent: Result<(), TransportError>) -> After {
        if let Err(error) = sent {
            tracing::warn!(%error, topic = %self.spec.topic, "an answer was lost");
        }
        After::Ack
    }

    fn answer(
        &self,
        taken: &Taken,
        reply_to: ShortString,
        reply: Reply,
    ) -> Result<Outgoing, TransportError> {
        let (properties, payload) = encode(reply, self.spec.topic.as_str()).or_else(|error| {
            // The caller must hear something.
            let (kind, text) = (FailureKind::Abandoned, error.to_string());
            encode(Reply::Failed { kind, text }, self.spec.topic.as_str())
        })?;
        let id = properties::id_of(&taken.properties);
        let correlation = match taken.properties.correlation_id() {
            Some(correlation) => correlation.clone(),
            None => short(id.to_string())?,
        };
        let properties = properties
            .with_correlation_id(correlation)
            .with_type(short(self.spec.topic.as_str())?)
            .with_app_id(short(self.spec.endpoint.as_str())?);
        Ok(Outgoing {
            id,
            what: self.spec.topic.to_string(),
            exchange: "".into(),
            key: reply_to,
            // A caller that has gone is no news.
            mandatory: false,
            properties,
            payload,
            needs: None,
            replaces: None,
        })
    }
}

/// Whether an answer goes to the caller's channel itself, and not to a queue.
fn is_direct(reply_to: &ShortString) -> bool {
    reply_to.as_str().strip_prefix(REPLY_TO).is_some_and(|address| address.starts_with('.'))
}

fn encode(reply: Reply, topic: &str) -> Result<(BasicProperties, Bytes), TransportError> {
    let mut table = Table::default();
    let (status, payload) = match reply {
        Reply::Response(payload) => ("response", Some(payload)),
        Reply::Refused(payload) => ("refused", Some(payload)),
        Reply::Failed { kind, text } => {
            table.text(properties::FAILURE, kind.as_str());
            table.text(properties::TEXT, &text.chars().take(2000).collect::<String>());
            ("failed", None)
        }
        _ => ("failed", None),
    };
    table.text(properties::STATUS, status);
    let mut properties = BasicProperties::default().with_delivery_mode(1);
    let mut bytes = Bytes::new();
    if let Some(payload) = payload {
        let (content_type, encoded) = properties::payload(payload, topic)?;
        properties = properties.with_content_type(short(content_type.as_str())?);
        bytes = encoded;
    }
    Ok((properties.with_headers(table.done()), bytes))
}

/// How long the caller waits in all.
fn timeout_of(properties: &BasicProperties) -> Duration {
    let expiration = || properties.expiration().as_ref()?.as_str().parse().ok();
    properties::number(properties, properties::TIMEOUT_MS)
        .or_else(expiration)
        .map_or(DEFAULT_TIMEOUT, Duration::from_millis)
        // A stranger's number must not overflow the clock.
        .min(Duration::from_secs(24 * 3600))
}
