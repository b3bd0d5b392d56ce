//! Members of queue groups: how shared work arrives and how each outcome becomes acks, retries
//! and dead letters.

use std::sync::Arc;
use std::time::Duration;

use busway_transport::{
    DeadLetter, DeadReason, Delivery, Failure, GroupDeliveries, GroupKey, GroupSpec, Notice,
    Outcome, Settlement, TransportError,
};
use bytes::Bytes;
use lapin::options::BasicGetOptions;
use lapin::types::ShortString;

use crate::error::{self, within};
use crate::presence::Registration;
use crate::properties::{self, Table};
use crate::publish::Outgoing;
use crate::served::{self, After, Answer, Settle, Taken, Work};
use crate::shared::Shared;
use crate::topology::Stand;

/// How many dead letters one listing reads.
const LISTED: usize = 1000;
/// The longest error text that travels: all headers share one frame.
const LONGEST_TEXT: usize = 8 * 1024;

pub(crate) async fn join(
    shared: &Arc<Shared>,
    spec: GroupSpec,
) -> Result<GroupDeliveries, TransportError> {
    shared.ensure_open()?;
    let member = Member {
        stand: shared.topology.group(&spec)?,
        dead: shared.topology.dead(&spec.key)?,
        spec: Arc::new(spec),
        shared: shared.clone(),
    };
    let stream = served::serve(shared, member).await?;
    shared.told().await?;
    Ok(stream)
}

#[derive(Clone)]
struct Member {
    shared: Arc<Shared>,
    spec: Arc<GroupSpec>,
    stand: Stand,
    dead: Stand,
}

impl Work for Member {
    type Item = Delivery;
    type Verdict = Outcome;

    fn stands(&self) -> Vec<Stand> {
        vec![self.stand.clone()]
    }

    fn register(&self) -> Registration {
        Registration::group(&self.shared.presence, self.spec.key.clone())
    }

    fn prefetch(&self) -> u16 {
        u16::try_from(self.spec.concurrency.max(1)).unwrap_or(u16::MAX)
    }

    fn take(&self, taken: &Taken, answer: Answer<Outcome>) -> Result<Delivery, Outcome> {
        let (key, bytes) = (taken.routing_key.as_str(), taken.payload.clone());
        let envelope = properties::decode_event(key, &taken.properties, bytes.clone())
            // Put here by hand: the queue says what it is.
            .unwrap_or_else(|| {
                properties::decode(self.spec.key.topic.clone(), &taken.properties, bytes)
            });
        let settlement = Settlement::new(move |outcome| answer.give(outcome));
        Ok(Delivery::new(envelope, attempt_of(taken), settlement))
    }

    fn settle(&self, taken: Arc<Taken>, outcome: Outcome) -> Settle {
        let (again, failure) = match outcome {
            Outcome::Done => return Settle::Now(After::Ack),
            Outcome::Failed(failure) => (self.spec.retry.after(attempt_of(&taken)), failure),
            Outcome::Refused(failure) => (None, failure),
            _ => return Settle::Now(After::HandBack),
        };
        let member = self.clone();
        Settle::Later(Box::pin(async move {
            match again {
                Some(delay) => member.retry(&taken, delay).await,
                None => member.bury(&taken, failure).await,
            }
        }))
    }

    fn give_back(&self, _: Arc<Taken>) -> Settle {
        Settle::Now(After::HandBack)
    }
}

impl Member {
    /// Sends a copy through the tier of the delay; the ack comes only when the broker has it.
    async fn retry(&self, taken: &Taken, delay: Duration) -> After {
        let attempt = attempt_of(taken).saturating_add(1);
        let mut table = Table::of(&taken.properties);
        table.number(properties::ATTEMPT, u64::from(attempt));
        let sent = match self.shared.topology.tier(delay) {
            _ if delay.is_zero() => self.send(taken, table, None, taken.queue.clone()).await,
            Ok(tier) => self.send(taken, table, Some(tier), taken.queue.clone()).await,
            Err(error) => Err(error),
        };
        self.replaced(sent)
    }

    /// Sends a copy to the dead letters; the ack comes only when the broker has it.
    async fn bury(&self, taken: &Taken, failure: Failure) -> After {
        let mut table = Table::of(&taken.properties);
        table.number(properties::ATTEMPT, u64::from(attempt_of(taken)));
        table.text(properties::DEAD_REASON, failure.reason.as_str());
        table.text(properties::TEXT, shorten(&failure.text));
        table.number(properties::DEAD_AT_MS, properties::now_ms());
        let sent = self.send(taken, table, None, self.dead.queue.clone()).await;
        let after = self.replaced(sent);
        if after == After::Ack {
            self.shared.notice(Notice::DeadLettered(self.spec.key.clone()));
        }
        after
    }

    async fn send(
        &self,
        taken: &Taken,
        table: Table,
        tier: Option<Stand>,
        key: ShortString,
    ) -> Result<bool, TransportError> {
        let exchange = tier.as_ref().map_or_else(|| "".into(), |tier| tier.queue.clone());
        let needs = tier.unwrap_or_else(|| self.dead.clone());
        let mut properties = properties::resend(&taken.properties, table);
        let id = properties::id_of(&properties);
        if properties.message_id().is_none() {
            // From here on it keeps the id that it was given.
            properties = properties.with_message_id(error::short(id.to_string())?);
        }
        // Once more when what it needs has been deleted under us.
        for _ in 0..2 {
            let out = Outgoing {
                id,
                what: self.spec.key.to_string(),
                exchange: exchange.clone(),
                key: key.clone(),
                mandatory: true,
                properties: properties.clone(),
                payload: taken.payload.clone(),
                needs: Some(needs.clone()),
                replaces: Some(taken.acker.clone()),
            };
            if self.shared.back.send(out).await?.reached > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A delivery whose copy the broker has is acked; another goes back.
    fn replaced(&self, sent: Result<bool, TransportError>) -> After {
        match sent {
            Ok(true) => After::Ack,
            Ok(false) => After::HandBack,
            Err(error) => {
                tracing::warn!(%error, group = %self.spec.key, "not retried, but handed back");
                After::HandBack
            }
        }
    }
}

fn attempt_of(taken: &Taken) -> u32 {
    properties::number(&taken.properties, properties::ATTEMPT)
        .and_then(|attempt| u32::try_from(attempt).ok())
        .unwrap_or(1)
        .max(1)
}

fn shorten(text: &str) -> &str {
    let mut end = text.len().min(LONGEST_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Reads the dead letters without taking them: closing the channel puts them back.
pub(crate) async fn dead_letters(
    shared: &Shared,
    group: &GroupKey,
) -> Result<Vec<DeadLetter>, TransportError> {
    let queue = shared.topology.dead_queue(group)?;
    let connection = shared.consume.up().await?;
    let opening = connection.create_channel();
    let channel = within(&shared.settings, "opening a channel", opening).await?;
    let mut letters = Vec::new();
    let reading = async {
        while letters.len() < LISTED {
            let got = channel.basic_get(queue.clone(), BasicGetOptions::default()).await?;
            let Some(message) = got else { break };
            letters.push(letter(group, message.delivery));
        }
        Ok(())
    };
    match tokio::time::timeout(error::OPERATION, reading).await {
        Ok(Ok(())) => {}
        // Nothing has died there yet, and the group may never have been joined.
        Ok(Err(error)) if error::code(&error) == Some(404) => return Ok(Vec::new()),
        Ok(Err(error)) => return Err(error::calling(&shared.settings, queue.as_str(), &error)),
        Err(_) => return Err(error::timed_out("reading dead letters", error::OPERATION)),
    }
    let closing = channel.close(200, "read".into());
    within(&shared.settings, "putting dead letters back", closing).await?;
    letters.sort_by_key(|letter| letter.at);
    Ok(letters)
}

fn letter(group: &GroupKey, delivery: lapin::message::Delivery) -> DeadLetter {
    let (properties, payload) = (delivery.properties, Bytes::from(delivery.data));
    let envelope = properties::decode(group.topic.clone(), &properties, payload);
    let number = |key| properties::number(&properties, key);
    let attempts = number(properties::ATTEMPT).and_then(|n| u32::try_from(n).ok()).unwrap_or(1);
    let reason = properties::text(&properties, properties::DEAD_REASON);
    // Without our headers it was the broker: too many deliveries, each lost with its connection.
    let failure = Failure::new(
        reason.and_then(|reason| DeadReason::parse(&reason)).unwrap_or(DeadReason::Lost),
        properties::text(&properties, properties::TEXT)
            .unwrap_or_else(|| "dead-lettered by the broker".into()),
    );
    let mut letter = DeadLetter::new(group.clone(), envelope, attempts, failure);
    if let Some(at) = number(properties::DEAD_AT_MS) {
        letter.at = std::time::UNIX_EPOCH + Duration::from_millis(at);
    }
    letter
}
