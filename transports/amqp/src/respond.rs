//! Responders: requests from the queue of their name, and from the queue of endpoint and name.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use busway_transport::{Ask, Asks, FailureKind, Replier, Reply, ResponderSpec, TransportError};
use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::ShortString;
use tokio::sync::oneshot;

use crate::acks;
use crate::answers::{self, Kept};
use crate::error::short;
use crate::presence::Registration;
use crate::properties::{self, Table};
use crate::publish::Outgoing;
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
        held_any: Arc::default(),
        held_own: Arc::default(),
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
    /// How many places are taken of what each queue may have in our hands.
    held_any: Arc<AtomicUsize>,
    held_own: Arc<AtomicUsize>,
}

impl Work for Responder {
    type Item = Ask;
    type Verdict = Replied;

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

    fn take(&self, taken: &Taken, answer: Answer<Replied>) -> Result<Ask, Replied> {
        let held = Held::new(self.held(&taken.queue));
        if taken.redelivered {
            // Somebody had it and went away, perhaps in the middle: never run it twice.
            let reply = Reply::Failed {
                kind: FailureKind::Abandoned,
                text: "the responder went away before it answered".into(),
            };
            return Err(Replied { done: self.reply(taken, reply), held });
        }
        let topic = self.spec.topic.clone();
        let envelope = properties::decode(topic, &taken.properties, taken.payload.clone());
        let deadline = taken.arrived + self.left_of(taken);
        let responder = self.clone();
        let replier = Replier::new(move |reply| {
            let done = responder.reply(answer.to(), reply);
            answer.give(Replied { done, held });
        });
        // RabbitMQ does not tell when a caller has gone.
        Ok(Ask::new(envelope, deadline, replier, Box::pin(std::future::pending())))
    }

    fn settle(&self, _taken: Arc<Taken>, Replied { done, held }: Replied) -> Settle {
        let Some(done) = done else { return Settle::Now(After::Ack) };
        Settle::Later(Box::pin(async move {
            // An error: the bus closed.
            let _ = done.await;
            drop(held);
            After::Ack
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
                    if let Some(done) = responder.reply(&taken, reply) {
                        let _ = done.await;
                    }
                    After::Ack
                }
            }
        }))
    }
}

/// A request that was answered, and when the broker has the answer, if somebody wanted one.
struct Replied {
    done: Option<oneshot::Receiver<()>>,
    held: Held,
}

/// A request that takes one of a queue's places, until the broker has its answer.
struct Held(Arc<AtomicUsize>);

impl Held {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many answers may be open before they hold up their responder: as many as are acked
/// together, but none when all places are taken.
fn room(held: usize, prefetch: usize) -> usize {
    if held >= prefetch { 1 } else { acks::batch(prefetch) }
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

    /// How many requests of a queue take a place.
    fn held(&self, queue: &ShortString) -> &Arc<AtomicUsize> {
        if *queue == self.own.queue { &self.held_own } else { &self.held_any }
    }

    /// Answers in the task of whoever has the answer, and is done with the request whatever comes
    /// of it. The answer then does not depend on the request's delivery: neither it nor the
    /// receiver need stay.
    fn reply(&self, taken: &Taken, reply: Reply) -> Option<oneshot::Receiver<()>> {
        let reply_to = taken.properties.reply_to().clone()?;
        match self.answer(taken, reply_to, reply) {
            Ok(out) => {
                let (kept, is_done) = Kept::new(out, self.shared.work.count());
                let held = self.held(&taken.queue).load(Ordering::Relaxed);
                self.shared.requests.answer(kept, room(held, usize::from(self.prefetch())));
                Some(is_done)
            }
            Err(error) => {
                answers::lost(self.spec.topic.as_str(), &error);
                None
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_waits_for_others_while_there_are_places_for_more_requests() {
        let count = Arc::<AtomicUsize>::default();
        let room = || room(count.load(Ordering::Relaxed), 8);
        let held: Vec<Held> = (0..7).map(|_| Held::new(&count)).collect();
        assert_eq!(room(), 2);
        let last = Held::new(&count);
        assert_eq!(room(), 1, "the next one comes when this one's answer was looked at");
        drop(last);
        assert_eq!(room(), 2);
        drop(held);
        assert_eq!(count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn no_more_answers_wait_for_each_other_than_are_acked_together() {
        assert_eq!((room(1, 1), room(1, 2), room(1, 1000)), (1, 1, 64));
    }
}
