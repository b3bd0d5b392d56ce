//! Members of queue groups: how shared work arrives and how each outcome becomes acks, retries
//! and dead letters.

use std::sync::Arc;
use std::time::Duration;

use busway_transport::{
    DeadReason, Delivery, Failure, GroupDeliveries, GroupSpec, Notice, Outcome, Settlement,
    TransportError,
};
use lapin::BasicProperties;

use crate::address::QueueType;
use crate::again::Again;
use crate::forward::{self, Died, Original, Target};
use crate::keyed;
use crate::presence::Registration;
use crate::properties::{self, Table};
use crate::served::{self, After, Answer, Settle, Taken, Work};
use crate::shared::Shared;
use crate::topology::Stand;

pub(crate) async fn join(
    shared: &Arc<Shared>,
    spec: GroupSpec,
) -> Result<GroupDeliveries, TransportError> {
    shared.ensure_open()?;
    if let Some(partitions) = spec.keyed {
        return keyed::join(shared, spec, partitions).await;
    }
    let member = Member {
        stand: shared.topology.group(&spec)?,
        again: Arc::new(Again::new(shared.settings.queue_type == QueueType::Quorum)),
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
    again: Arc<Again>,
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
        if self.again.arrived(&taken.properties, taken.redelivered) {
            let text = "its member died, or lost its connection, during the attempt";
            return Err(Outcome::Failed(Failure::new(DeadReason::Lost, text)));
        }
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
            Outcome::Done => {
                self.again.settled(&taken.properties);
                return Settle::Now(After::Ack);
            }
            Outcome::Failed(failure) => (self.spec.retry.after(attempt_of(&taken)), failure),
            Outcome::Refused(failure) => (None, failure),
            _ => return self.hand_back(taken),
        };
        let member = self.clone();
        Settle::Later(Box::pin(async move {
            let after = match again {
                Some(delay) => member.retry(&taken, delay).await,
                None => member.bury(&taken, failure).await,
            };
            if after == After::Ack {
                member.again.settled(&taken.properties);
            }
            after
        }))
    }

    fn give_back(&self, taken: Arc<Taken>) -> Settle {
        self.hand_back(taken)
    }
}

impl Member {
    /// Handing back is no attempt. On a classic queue only a new message does not look like one.
    fn hand_back(&self, taken: Arc<Taken>) -> Settle {
        if self.again.counts() {
            return Settle::Now(After::HandBack);
        }
        let member = self.clone();
        Settle::Later(Box::pin(async move {
            let (table, back) = (Table::of(&taken.properties), &member.shared.back);
            let target = Target::queue(&member.stand);
            let after = member.replaced(member.original(&taken).send(back, table, &target).await);
            if after == After::Ack {
                member.again.settled(&taken.properties);
            }
            after
        }))
    }

    /// Sends a copy through the tier of the delay; the ack comes only when the broker has it.
    async fn retry(&self, taken: &Taken, delay: Duration) -> After {
        let first_ms = forward::first_ms(&taken.properties, taken.arrived());
        let table = || {
            let mut table = Table::of(&taken.properties);
            let attempt = attempt_of(taken).saturating_add(1);
            table.number(properties::ATTEMPT, u64::from(attempt));
            table.number(properties::FIRST_MS, first_ms);
            table
        };
        let tier = |delay| {
            let tier = self.shared.topology.tier(delay)?;
            let (exchange, key) = (tier.queue.clone(), taken.queue.clone());
            Ok(Target { exchange, key, needs: Some(tier) })
        };
        let through = async |target: Result<Target, TransportError>| {
            self.original(taken).send(&self.shared.back, table(), &target?).await
        };
        let sent = match delay.is_zero() {
            false => through(tier(delay)).await,
            true => match through(Ok(Target::queue(&self.stand))).await {
                // The tiers have room, and what comes out of them is never refused.
                Err(TransportError::GroupFull { .. }) => through(tier(delay)).await,
                sent => sent,
            },
        };
        self.replaced(sent)
    }

    /// Sends a copy to the dead letters; the ack comes only when the broker has it.
    async fn bury(&self, taken: &Taken, failure: Failure) -> After {
        let (attempts, attempted) = (attempt_of(taken), taken.arrived());
        let died = Died { attempts, failure, attempted, queue: taken.queue.clone() };
        let sent = self.original(taken).bury(&self.shared.back, &self.dead, &died).await;
        let after = self.replaced(sent);
        if after == After::Ack {
            self.shared.notice(Notice::DeadLettered(self.spec.key.clone()));
        }
        after
    }

    fn original<'a>(&'a self, taken: &'a Taken) -> Original<'a> {
        let (acker, properties, payload) = (&taken.acker, &taken.properties, &taken.payload);
        Original { group: &self.spec.key, acker, properties, payload }
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
    attempt(&taken.properties)
}

/// Which attempt a message is, from 1.
pub(crate) fn attempt(properties: &BasicProperties) -> u32 {
    properties::number(properties, properties::ATTEMPT)
        .and_then(|attempt| u32::try_from(attempt).ok())
        .unwrap_or(1)
        .max(1)
}
