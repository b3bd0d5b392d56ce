//! The dead letters of a group: listed, replayed, purged.
//!
//! They are read by taking them one by one and not acking them; at the end they are given back.
//! So while somebody reads, others see a part of them or none. Whoever reads therefore holds a
//! lock first, on the broker: an exclusive queue that goes with its channel. It lets go only when
//! the broker has the letters again.

use busway_transport::{DeadLetter, DeadReason, Failure, GroupKey, Letters, TransportError};
use bytes::Bytes;
use futures::future;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions, QueueDeclareOptions,
    QueuePurgeOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Consumer};

use crate::connection::backoff;
use crate::error::{self, within};
use crate::forward::{Original, Target, time_of};
use crate::properties::{self, Table};
use crate::shared::Shared;
use crate::topology;

/// How many dead letters one listing reads.
const LISTED: usize = 1000;

/// The dead letters of one group, in nobody else's hands.
pub(crate) struct Reading<'a> {
    shared: &'a Shared,
    group: &'a GroupKey,
    queue: ShortString,
    pub(crate) channel: Channel,
    /// What was taken and not acked, oldest first.
    held: Vec<u64>,
    /// How many were left in the queue when the last one was taken.
    left: u32,
    /// Keeps the lock: its queue goes with its last consumer.
    _lock: Consumer,
    /// One reader in this process at a time: the broker's lock is between connections.
    _turn: tokio::sync::MutexGuard<'a, ()>,
}

pub(crate) async fn list(
    shared: &Shared,
    group: &GroupKey,
) -> Result<Vec<DeadLetter>, TransportError> {
    let mut reading = Reading::begin(shared, group).await?;
    let listed = reading.list().await;
    let mut letters = reading.end_with(listed).await?;
    letters.sort_by_key(|letter| letter.at);
    Ok(letters)
}

pub(crate) async fn replay(
    shared: &Shared,
    group: &GroupKey,
    which: Letters,
) -> Result<usize, TransportError> {
    let mut reading = Reading::begin(shared, group).await?;
    let replayed = reading.replay(which).await;
    reading.end_with(replayed).await
}

pub(crate) async fn purge(
    shared: &Shared,
    group: &GroupKey,
    which: Letters,
) -> Result<usize, TransportError> {
    let mut reading = Reading::begin(shared, group).await?;
    let purged = reading.purge(which).await;
    reading.end_with(purged).await
}

fn is_meant(delivery: &Delivery, which: Letters) -> bool {
    match which {
        Letters::All => true,
        Letters::One(id) => properties::id_of(&delivery.properties) == id,
    }
}

impl<'a> Reading<'a> {
    /// Waits for its turn.
    pub(crate) async fn begin(
        shared: &'a Shared,
        group: &'a GroupKey,
    ) -> Result<Self, TransportError> {
        let turn = shared.reading.lock().await;
        let queue = shared.topology.dead_queue(group)?;
        let name = shared.topology.lock_queue(group)?;
        let settings = &shared.settings;
        let mut delays = backoff();
        loop {
            let connection = shared.consume.up().await?;
            let channel =
                within(settings, "opening a channel", connection.create_channel()).await?;
            let locking = async {
                let exclusive = QueueDeclareOptions {
                    exclusive: true,
                    auto_delete: true,
                    ..QueueDeclareOptions::default()
                };
                channel.queue_declare(name.clone(), exclusive, FieldTable::default()).await?;
                let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
                channel.basic_consume(name.clone(), "".into(), options, FieldTable::default()).await
            };
            match tokio::time::timeout(error::OPERATION, locking).await {
                Ok(Ok(lock)) => {
                    let (held, left) = (Vec::new(), 0);
                    return Ok(Self {
                        shared,
                        group,
                        queue,
                        channel,
                        held,
                        left,
                        _lock: lock,
                        _turn: turn,
                    });
                }
                // Somebody else has it (RESOURCE_LOCKED), or has just let go of it.
                Ok(Err(error)) if matches!(error::code(&error), Some(404 | 405)) => {
                    tokio::time::sleep(delays.next().unwrap_or_default()).await;
                }
                Ok(Err(error)) => return Err(error::calling(settings, name.as_str(), &error)),
                Err(_) => return Err(error::timed_out("reading dead letters", error::OPERATION)),
            }
        }
    }

    async fn list(&mut self) -> Result<Vec<DeadLetter>, TransportError> {
        let mut letters = Vec::new();
        while letters.len() < LISTED {
            let Some(delivery) = self.next().await? else { break };
            letters.push(letter(self.group, delivery));
        }
        Ok(letters)
    }

    async fn replay(&mut self, which: Letters) -> Result<usize, TransportError> {
        let mut replayed = 0;
        // What dies anew meanwhile comes behind these.
        let mut left = None;
        while left != Some(0) {
            let Some(delivery) = self.next().await? else { break };
            left = Some(left.map_or(self.left, |left: u32| left - 1));
            if is_meant(&delivery, which) {
                self.give_back(&delivery).await?;
                replayed += 1;
                if which != Letters::All {
                    break;
                }
            }
        }
        Ok(replayed)
    }

    async fn purge(&mut self, which: Letters) -> Result<usize, TransportError> {
        if which == Letters::All {
            let purging =
                self.channel.queue_purge(self.queue.clone(), QueuePurgeOptions::default());
            return match tokio::time::timeout(error::OPERATION, purging).await {
                Ok(Ok(count)) => Ok(count as usize),
                Ok(Err(error)) if error::code(&error) == Some(404) => Ok(0),
                Ok(Err(error)) => Err(self.failed(&error)),
                Err(_) => Err(error::timed_out("purging dead letters", error::OPERATION)),
            };
        }
        while let Some(delivery) = self.next().await? {
            if is_meant(&delivery, which) {
                self.ack(&delivery).await?;
                return Ok(1);
            }
        }
        Ok(0)
    }

    /// The next letter.
    async fn next(&mut self) -> Result<Option<Delivery>, TransportError> {
        let getting = self.channel.basic_get(self.queue.clone(), BasicGetOptions::default());
        let got = match tokio::time::timeout(error::OPERATION, getting).await {
            Ok(Ok(got)) => got,
            // Nothing has died there yet, and the group may never have been joined.
            Ok(Err(error)) if error::code(&error) == Some(404) => None,
            Ok(Err(error)) => return Err(self.failed(&error)),
            Err(_) => return Err(error::timed_out("reading dead letters", error::OPERATION)),
        };
        self.left = got.as_ref().map_or(0, |got| got.message_count);
        self.held.extend(got.as_ref().map(|got| got.delivery.delivery_tag));
        Ok(got.map(|got| got.delivery))
    }

    /// Gives a letter back to its group, and acks it when the group has it.
    async fn give_back(&mut self, delivery: &Delivery) -> Result<(), TransportError> {
        let payload = Bytes::from(delivery.data.clone());
        let (properties, acker) = (&delivery.properties, &delivery.acker);
        let original = Original { group: self.group, acker, properties, payload: &payload };
        for queue in self.homes(properties)? {
            let mut table = Table::of(properties);
            table.forget_attempts();
            let target = Target { exchange: "".into(), key: queue, needs: None };
            if original.send(&self.shared.back, table, &target).await? {
                return self.ack(delivery).await;
            }
        }
        Err(TransportError::NoGroup { group: Box::new(self.group.clone()) })
    }

    /// The queues to which its group's events come: first the one from which it came.
    fn homes(&self, properties: &BasicProperties) -> Result<Vec<ShortString>, TransportError> {
        let topology = &self.shared.topology;
        let mut homes =
            vec![topology.group_queue(self.group, true)?, topology.group_queue(self.group, false)?];
        let from = properties::text(properties, properties::QUEUE)
            .or_else(|| properties::text(properties, "x-first-death-queue"));
        if from.is_some_and(|from| from == homes[1].as_str()) {
            homes.swap(0, 1);
        }
        Ok(homes)
    }

    async fn ack(&mut self, delivery: &Delivery) -> Result<(), TransportError> {
        let acking = delivery.acker.ack(BasicAckOptions::default());
        within(&self.shared.settings, self.queue.as_str(), acking).await?;
        self.held.retain(|tag| *tag != delivery.delivery_tag);
        Ok(())
    }

    /// Ends it, whatever came of it.
    async fn end_with<T>(self, outcome: Result<T, TransportError>) -> Result<T, TransportError> {
        let ended = self.end().await;
        let value = outcome?;
        ended.map(|()| value)
    }

    /// Puts the rest back.
    pub(crate) async fn end(self) -> Result<(), TransportError> {
        // A queue that was not there closed it already.
        if !self.channel.status().connected() {
            return Ok(());
        }
        if !self.held.is_empty() {
            let putting = tokio::time::timeout(error::OPERATION, self.put_back());
            match putting.await {
                Ok(Ok(())) => {}
                // Somebody deleted the queue meanwhile.
                Ok(Err(error)) if error::code(&error) == Some(404) => return Ok(()),
                Ok(Err(error)) => return Err(self.failed(&error)),
                Err(_) => {
                    return Err(error::timed_out("putting dead letters back", error::OPERATION));
                }
            }
        }
        let closing = self.channel.close(200, "read".into());
        within(&self.shared.settings, "closing a channel", closing).await
    }

    /// Gives all back that are held, and waits until the broker has them: a quorum queue takes
    /// them back some time after it was told, and after it has said that the channel is closed.
    async fn put_back(&self) -> Result<(), lapin::Error> {
        // One after the other, oldest first: so they come back in their order.
        let requeue = BasicNackOptions { requeue: true, multiple: false };
        let nack = |tag: &u64| self.channel.basic_nack(*tag, requeue);
        future::try_join_all(self.held.iter().map(nack)).await?;
        let held = u32::try_from(self.held.len()).unwrap_or(u32::MAX);
        // More may have died meanwhile, and then the oldest made room.
        let goal = self.left.saturating_add(held).min(topology::DEAD_LETTERS);
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let mut delays = backoff();
        loop {
            let (name, none) = (self.queue.clone(), FieldTable::default());
            if self.channel.queue_declare(name, passive, none).await?.message_count() >= goal {
                return Ok(());
            }
            tokio::time::sleep(delays.next().unwrap_or_default()).await;
        }
    }

    fn failed(&self, error: &lapin::Error) -> TransportError {
        error::calling(&self.shared.settings, self.queue.as_str(), error)
    }
}

fn letter(group: &GroupKey, delivery: Delivery) -> DeadLetter {
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
    letter.first_attempt = time_of(&properties, properties::FIRST_MS);
    letter.last_attempt = time_of(&properties, properties::LAST_MS);
    if let Some(at) = time_of(&properties, properties::DEAD_AT_MS) {
        letter.at = at;
    }
    letter
}
