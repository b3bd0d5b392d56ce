//! Plain interests: an exclusive queue each, on a channel of its own, so that one stuck
//! subscriber stalls nothing else. Its bound is the queue's length and the prefetch; what the
//! queue drops is seen by the bus as a hole in the sequence.
//!
//! Events go to the bus before their acks are written: those wait for each other a little while,
//! as long as they hold up nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use busway_transport::{
    Arrival, Deliveries, Gap, GapReason, Name, Notice, PlainInterest, SubscriptionId,
    TransportError,
};
use dashmap::DashMap;
use futures::future::{Fuse, FusedFuture};
use futures::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection, Consumer};
use tokio::sync::{mpsc, oneshot};

use crate::connection::backoff;
use crate::error::{self, OPERATION, timed_out, within};
use crate::presence::Registration;
use crate::properties;
use crate::shared::Shared;
use crate::tasks::{Counted, Phase};
use crate::topology::{self, Declare};
use crate::way_in::{Given, WayIn, way_in};

/// The most that is under way to us unacked.
const PREFETCH: usize = 256;
/// How many are acked at once while there is more to take.
const ACK_EVERY: usize = 64;
/// How long an ack waits for others, as long as there is room for more deliveries: it only makes
/// room, for the queue goes with its connection.
const LINGER: Duration = Duration::from_millis(20);

/// The open interests of a bus, for `update`.
pub(crate) type Open = Arc<DashMap<SubscriptionId, mpsc::Sender<Update>>>;

/// Other endpoints for an open interest.
pub(crate) struct Update {
    endpoints: BTreeSet<Name>,
    done: oneshot::Sender<Result<(), TransportError>>,
}

pub(crate) async fn subscribe(
    shared: &Arc<Shared>,
    open: &Open,
    interest: PlainInterest,
) -> Result<Deliveries, TransportError> {
    shared.ensure_open()?;
    let id = interest.id;
    let prefetch = interest.capacity.clamp(1, PREFETCH);
    let (out, deliveries) = way_in(prefetch.min(ACK_EVERY), interest.sink.clone());
    let (updates_to, updates) = mpsc::channel(1);
    let (ready, is_ready) = oneshot::channel();
    open.insert(id, updates_to);
    let worker = Plain {
        shared: shared.clone(),
        open: open.clone(),
        prefetch: u16::try_from(prefetch).unwrap_or(u16::MAX),
        endpoints: interest.endpoints.clone(),
        interest,
        place: Some((shared.consumers.count(), None)),
        out,
        updates,
        owed: Vec::new(),
        ready: Some(ready),
    };
    shared.tasks.spawn(worker.run());
    match tokio::time::timeout(OPERATION, is_ready).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => return Err(error),
        Ok(Err(_)) => return Err(TransportError::Closed),
        Err(_) => return Err(timed_out("subscribing", OPERATION)),
    }
    shared.told().await?;
    Ok(deliveries)
}

pub(crate) async fn update(
    shared: &Shared,
    open: &Open,
    id: SubscriptionId,
    endpoints: BTreeSet<Name>,
) -> Result<(), TransportError> {
    shared.ensure_open()?;
    let gone = || TransportError::Rejected {
        what: format!("interest {}", id.0),
        reason: "it is not open".into(),
    };
    let worker = open.get(&id).map(|entry| entry.value().clone()).ok_or_else(gone)?;
    let (done, is_done) = oneshot::channel();
    let told = async {
        let update = Update { endpoints: endpoints.clone(), done };
        worker.send(update).await.map_err(|_| gone())?;
        is_done.await.map_err(|_| gone())?
    };
    tokio::time::timeout(OPERATION, told)
        .await
        .map_err(|_| timed_out("changing a subscription", OPERATION))??;
    shared.presence.set_endpoints(id, endpoints);
    shared.told().await
}

struct Plain {
    shared: Arc<Shared>,
    open: Open,
    interest: PlainInterest,
    prefetch: u16,
    endpoints: BTreeSet<Name>,
    /// Among the open consumers; and with the peers, from when its queue was bound for the first
    /// time: they count on it. Goes when it leaves.
    place: Option<(Counted, Option<Registration>)>,
    out: WayIn,
    updates: mpsc::Receiver<Update>,
    /// Updates to answer once the next binding stands.
    owed: Vec<oneshot::Sender<Result<(), TransportError>>>,
    ready: Option<oneshot::Sender<Result<(), TransportError>>>,
}

enum End {
    Done,
    Lost,
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.updates.close();
        self.open.remove_if(&self.interest.id, |_, worker| worker.is_closed());
    }
}

impl Plain {
    async fn run(mut self) {
        let mut delays = backoff();
        loop {
            let phase = self.shared.phase.clone();
            let connection = tokio::select! {
                () = phase.reached(Phase::Leaving) => return,
                () = self.out.queue.closed() => return,
                Some(update) = self.updates.recv() => {
                    self.endpoints = update.endpoints;
                    self.owed.push(update.done);
                    continue;
                }
                up = self.shared.consume.up() => match up {
                    Ok(connection) => connection,
                    Err(error) => return self.fail(error),
                }
            };
            match self.open(&connection).await {
                Ok((channel, consumer, queue)) => {
                    delays = backoff();
                    for owed in self.owed.drain(..) {
                        let _ = owed.send(Ok(()));
                    }
                    if let Some((_, registration @ None)) = &mut self.place {
                        *registration = Some(Registration::interest(
                            &self.shared.presence,
                            self.interest.id,
                            self.interest.filter.clone(),
                            self.endpoints.clone(),
                        ));
                    }
                    if let Some(ready) = self.ready.take() {
                        let _ = ready.send(Ok(()));
                    }
                    if matches!(self.pump(&connection, &channel, consumer, &queue).await, End::Done)
                    {
                        return;
                    }
                    // In its place: after what was received, before what comes next.
                    let gap = Arrival::Gap(Gap::new(None, GapReason::Disconnected));
                    tokio::select! {
                        () = phase.reached(Phase::Leaving) => return,
                        sent = self.out.send(gap) => if !sent { return },
                    }
                }
                Err(error) if error::is_final(&error) && self.ready.is_some() => {
                    return self.fail(error);
                }
                Err(error @ TransportError::Denied { .. }) => return self.fail(error),
                Err(error) => {
                    tracing::warn!(%error, "a subscription is not back yet");
                    tokio::time::sleep(delays.next().unwrap_or_default()).await;
                }
            }
        }
    }

    fn fail(&mut self, error: TransportError) {
        match self.ready.take() {
            Some(ready) => drop(ready.send(Err(error))),
            None => tracing::error!(%error, filter = %self.interest.filter, "a subscription ended"),
        }
    }

    async fn open(
        &self,
        connection: &Connection,
    ) -> Result<(Channel, Consumer, ShortString), TransportError> {
        let (shared, interest) = (&self.shared, &self.interest);
        let settings = &shared.settings;
        let stand = shared.topology.plain(
            shared.peer,
            interest.id,
            &interest.filter,
            &self.endpoints,
            interest.capacity,
        )?;
        let what = stand.queue.as_str();
        let channel = within(settings, "opening a channel", connection.create_channel()).await?;
        let qos = channel.basic_qos(self.prefetch, BasicQosOptions::default());
        within(settings, what, qos).await?;
        within(settings, what, topology::apply(&channel, &stand.declare)).await?;
        let consume = channel.basic_consume(
            stand.queue.clone(),
            "".into(),
            BasicConsumeOptions { exclusive: true, ..Default::default() },
            FieldTable::default(),
        );
        let consumer = within(settings, what, consume).await?;
        Ok((channel, consumer, stand.queue))
    }

    async fn pump(
        &mut self,
        connection: &Arc<Connection>,
        channel: &Channel,
        mut consumer: Consumer,
        queue: &ShortString,
    ) -> End {
        let phase = self.shared.phase.clone();
        let mut rebind = self.shared.rebind.watch();
        let mut unacked = Unacked { count: 0, last: 0 };
        // A part of the prefetch, so that the broker goes on delivering meanwhile.
        let batch = (usize::from(self.prefetch) / 4).clamp(1, ACK_EVERY);
        let acking = Fuse::terminated();
        let link = self.shared.consume.clone();
        let (linger, gone) = (tokio::time::sleep(LINGER), link.long_gone(connection));
        // Made once: each takes a place among those who wait for the same.
        let (closed, leaving) = (phase.reached(Phase::Closed), phase.reached(Phase::Leaving));
        let (leaving, queue_to) = (leaving.fuse(), self.out.queue.clone());
        let dropped = queue_to.closed();
        tokio::pin!(acking, linger, gone, closed, leaving, dropped);
        let mut lingers = false;
        let mut pending: Option<(u64, Arrival)> = None;
        loop {
            if pending.is_none() && unacked.count < batch {
                match consumer.next().now_or_never() {
                    Some(Some(Ok(delivery))) => {
                        pending = self.arrived(delivery, &mut unacked);
                        if pending.is_none() {
                            continue;
                        }
                    }
                    Some(_) => return self.ended(),
                    None => {}
                }
            }
            if let Some((tag, arrival)) = pending.take() {
                match self.out.give(arrival) {
                    Given::Taken => {
                        unacked.add(tag);
                        continue;
                    }
                    Given::Full(arrival) => pending = Some((tag, arrival)),
                    Given::Closed => {
                        self.leave(channel, &consumer).await;
                        return End::Done;
                    }
                }
            }
            if unacked.count >= batch && acking.is_terminated() {
                // Whoever got the events goes first.
                tokio::task::yield_now().await;
                acking.set(unacked.ack(channel).fuse());
                lingers = false;
            } else if unacked.count > 0 && !lingers {
                linger.as_mut().reset(tokio::time::Instant::now() + LINGER);
                lingers = true;
            }
            let is_full = unacked.count >= batch;
            tokio::select! {
                () = &mut closed => return End::Done,
                // Nothing more of what came before is there to be given.
                () = &mut gone, if pending.is_none() && !is_full => return self.ended(),
                // What was published meanwhile did not come: a new queue, and a gap.
                Ok(()) = rebind.changed(), if self.place.is_some() => return End::Lost,
                () = &mut dropped => {
                    self.leave(channel, &consumer).await;
                    return End::Done;
                }
                () = &mut leaving, if !leaving.is_terminated() => {
                    self.leave(channel, &consumer).await;
                }
                Some(update) = self.updates.recv(), if self.place.is_some() => {
                    self.rebind(channel, queue, update).await;
                }
                () = room(&self.out.queue), if pending.is_some() => {}
                delivery = consumer.next(), if pending.is_none() && !is_full => match delivery {
                    Some(Ok(delivery)) => pending = self.arrived(delivery, &mut unacked),
                    _ => return self.ended(),
                },
                () = &mut acking, if !acking.is_terminated() => {}
                () = &mut linger, if lingers && acking.is_terminated() => {
                    acking.set(unacked.ack(channel).fuse());
                    lingers = false;
                }
            }
        }
    }

    /// The consumer's stream ended: after a `leave` as it should, else with what it consumed.
    fn ended(&self) -> End {
        if self.place.is_none() { End::Done } else { End::Lost }
    }

    fn arrived(&self, delivery: Delivery, unacked: &mut Unacked) -> Option<(u64, Arrival)> {
        let tag = delivery.delivery_tag;
        if properties::peer_of(&delivery.properties) == self.shared.peer {
            // The bus has delivered its own events itself.
            unacked.add(tag);
            return None;
        }
        let (key, properties) = (delivery.routing_key.as_str(), &delivery.properties);
        let Some(envelope) = properties::decode_event(key, properties, delivery.data.into()) else {
            unacked.add(tag);
            self.shared.notice(Notice::Protocol {
                peer: properties::peer_of(properties).to_string(),
                reason: format!("{key:?} is no routing key of an event"),
            });
            return None;
        };
        Some((tag, Arrival::Event(envelope)))
    }

    async fn rebind(&mut self, channel: &Channel, queue: &ShortString, update: Update) {
        let Update { endpoints, done } = update;
        let filter = self.interest.filter.as_str();
        let topology = &self.shared.topology;
        let changed = async {
            for new in endpoints.difference(&self.endpoints) {
                let bind: Declare = topology.bind(queue, topology.pattern(filter, Some(new))?);
                within(&self.shared.settings, filter, topology::apply(channel, &[bind])).await?;
            }
            for old in self.endpoints.difference(&endpoints) {
                let key = topology.pattern(filter, Some(old))?;
                let (queue, events) = (queue.clone(), topology.events.clone());
                let unbind = channel.queue_unbind(queue, events, key, FieldTable::default());
                within(&self.shared.settings, filter, unbind).await?;
            }
            Ok(())
        };
        let changed = changed.await;
        // Also after an error: the channel is gone then, and the next one binds these.
        self.endpoints = endpoints;
        let _ = done.send(changed);
    }

    /// Nothing more comes, what has come is still handed out.
    async fn leave(&mut self, channel: &Channel, consumer: &Consumer) {
        let cancel = channel.basic_cancel(consumer.tag(), BasicCancelOptions::default());
        let _ = within(&self.shared.settings, "unsubscribing", cancel).await;
        self.place = None;
    }
}

/// Resolves when there is room, or nobody to have room for.
async fn room(out: &mpsc::Sender<Arrival>) {
    // Given back at once: this task is the only sender, so the room stays.
    drop(out.reserve().await);
}

/// Handed out and not acked: one `multiple` ack for many is twice as fast.
struct Unacked {
    count: usize,
    last: u64,
}

impl Unacked {
    fn add(&mut self, tag: u64) {
        self.count += 1;
        self.last = tag;
    }

    /// Acks them all.
    fn ack(&mut self, channel: &Channel) -> impl Future<Output = ()> + use<> {
        self.count = 0;
        let (channel, last) = (channel.clone(), self.last);
        async move {
            // An error means that the channel is gone, and the queue with it.
            let _ = channel.basic_ack(last, BasicAckOptions { multiple: true }).await;
        }
    }
}
