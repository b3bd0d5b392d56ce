//! Groups that are ordered by key.
//!
//! The group's queue takes in all events; who of the members is its active consumer asks the bus
//! for the key of each, one after the other, and sends it to the partition of that key: to each
//! partition one at a time, since the next must not go before one that is refused. Each
//! partition is a queue with one active consumer as well. So all events of a key are in one hand
//! at a time, in order; in that hand they wait in a line for each key. A failed one waits for its
//! retry right there: the tiers would let the next one of its key pass.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::SystemTime;

use busway_groups::Lanes;
use busway_transport::{
    Delivery, Failure, GroupDeliveries, GroupSpec, Notice, Outcome, Settlement, TransportError,
};
use futures::future::BoxFuture;
use futures::stream::{self, FuturesUnordered};
use futures::{FutureExt, StreamExt};
use lapin::options::BasicAckOptions;
use tokio::sync::{mpsc, oneshot, watch};

use crate::connection::backoff;
use crate::error::{OPERATION, timed_out};
use crate::forward::{Died, Original, Target};
use crate::group;
use crate::line::{Arrived, Line};
use crate::presence::Registration;
use crate::properties::{self, Table};
use crate::shared::Shared;
use crate::tasks::{Counted, Phase};
use crate::topology::Stand;

/// How many events whose keys are to be told a member has at once.
const INTAKE: u16 = 64;
/// How many events of one partition a member has at once, waiting ones included: behind so many of
/// one failing key the partition's other keys wait.
const PREFETCH: u16 = 64;

pub(crate) async fn join(
    shared: &Arc<Shared>,
    spec: GroupSpec,
    partitions: NonZeroU16,
) -> Result<GroupDeliveries, TransportError> {
    let stands = (0..partitions.get())
        .map(|number| shared.topology.partition(&spec, number))
        .collect::<Result<Vec<Stand>, _>>()?;
    let work = shared.topology.group(&spec)?;
    let (to, arriving) = mpsc::channel(1);
    let (leave, leaving) = watch::channel(false);
    let mut waiting = Vec::new();
    let mut start = |stand: Stand, partition: Option<u16>, prefetch| {
        let (ready, is_ready) = oneshot::channel();
        let (shared, group) = (shared.clone(), spec.key.clone());
        let (to, leaving) = (to.clone(), leaving.clone());
        let line = Line { shared, group, stand, partition, prefetch, to, leaving };
        line.shared.tasks.clone().spawn(line.run(ready));
        waiting.push(is_ready);
    };
    start(work.clone(), None, INTAKE);
    for (number, stand) in (0..).zip(&stands) {
        start(stand.clone(), Some(number), PREFETCH);
    }
    drop(to);
    // Dropped before they are ready, nothing is left: without the sender all lines end.
    let all_ready = async {
        for is_ready in waiting {
            is_ready.await.unwrap_or(Err(TransportError::Closed))?;
        }
        Ok(())
    };
    tokio::time::timeout(OPERATION, all_ready)
        .await
        .unwrap_or_else(|_| Err(timed_out("declaring partitions", OPERATION)))?;

    let (out, mut items) = mpsc::channel(1);
    let (settled_to, settled) = mpsc::unbounded_channel();
    let place = Place {
        out,
        _consumer: shared.consumers.count(),
        _registration: Registration::group(&shared.presence, spec.key.clone()),
    };
    let group = Group {
        dead: shared.topology.dead(&spec.key)?,
        shared: shared.clone(),
        work,
        partitions: stands,
        spec,
    };
    let desk = Desk {
        group: Arc::new(group),
        arriving,
        place: Some(place),
        leave,
        settled_to,
        settled,
        lanes: Lanes::new(),
        unkeyed: VecDeque::new(),
        telling: false,
        moving: HashMap::new(),
        in_work: 0,
        retries: FuturesUnordered::new(),
        steps: FuturesUnordered::new(),
    };
    shared.tasks.spawn(desk.run());
    shared.told().await?;
    Ok(Box::pin(stream::poll_fn(move |context| items.poll_recv(context))))
}

/// What all deliveries need.
struct Group {
    shared: Arc<Shared>,
    spec: GroupSpec,
    work: Stand,
    partitions: Vec<Stand>,
    dead: Stand,
}

/// A delivery here.
struct Held {
    arrived: Arrived,
    /// `None`: it is to be told.
    key: Option<u64>,
    attempt: u32,
    /// When the last attempt began.
    attempted: SystemTime,
    /// While it is in work: for its line, and for the bus's drain.
    counted: Option<(Counted, Counted)>,
}

/// What a member has until it leaves.
struct Place {
    out: mpsc::Sender<Delivery>,
    _consumer: Counted,
    _registration: Registration,
}

/// Where a member's deliveries wait for their turn.
struct Desk {
    group: Arc<Group>,
    arriving: mpsc::Receiver<Arrived>,
    place: Option<Place>,
    leave: watch::Sender<bool>,
    settled_to: mpsc::UnboundedSender<(Held, Outcome)>,
    settled: mpsc::UnboundedReceiver<(Held, Outcome)>,
    lanes: Lanes<Held>,
    /// Whose key is to be told.
    unkeyed: VecDeque<Held>,
    /// Whether one is being told: the next comes after it, so that they keep their order.
    telling: bool,
    /// By partition, while one is sent there: what goes after it, with its key.
    moving: HashMap<usize, VecDeque<(Held, u64)>>,
    /// How many are handed out or being settled.
    in_work: usize,
    /// Wait for their next attempt; their key waits with them.
    retries: FuturesUnordered<BoxFuture<'static, Held>>,
    /// Are being acked, buried or sent to their partition, which is told then.
    steps: FuturesUnordered<BoxFuture<'static, (Held, Option<usize>)>>,
}

impl Desk {
    async fn run(mut self) {
        let phase = self.group.shared.phase.clone();
        loop {
            if self.place.is_none() && self.in_work == 0 {
                return;
            }
            let next = self.place.is_some() && self.has_next();
            let place = self.place.as_ref().map(|place| place.out.clone());
            tokio::select! {
                () = phase.reached(Phase::Closed) => return,
                () = gone(place.as_ref(), &self.group.shared) => self.leave(),
                arrived = self.arriving.recv(), if place.is_some() => match arrived {
                    Some(arrived) => self.arrived(arrived),
                    // All lines have ended, for good.
                    None => self.leave(),
                },
                Some((held, outcome)) = self.settled.recv() => self.settle(held, outcome),
                Some(held) = self.retries.next(), if !self.retries.is_empty() => self.put_back(held),
                Some((held, partition)) = self.steps.next(), if !self.steps.is_empty() => {
                    self.done(held);
                    if let Some(partition) = partition {
                        self.arrived_at(partition);
                    }
                }
                Ok(room) = reserve(place.as_ref()), if next => {
                    if let Some(held) = self.next() {
                        room.send(self.hand_out(held));
                    }
                }
            }
        }
    }

    /// Hands out no more. What is not in work goes back with its line's channel.
    fn leave(&mut self) {
        self.place = None;
        self.leave.send_replace(true);
        self.arriving.close();
        self.lanes = Lanes::new();
        self.unkeyed.clear();
        self.retries.clear();
        for waiting in self.moving.values_mut() {
            self.in_work -= waiting.len();
            waiting.clear();
        }
    }

    fn arrived(&mut self, arrived: Arrived) {
        if arrived.turn.is_over() || self.place.is_none() {
            return;
        }
        let attempt = group::attempt(&arrived.properties);
        let of_key = || {
            let text = properties::text(&arrived.properties, properties::KEY)?;
            u64::from_str_radix(&text, 16).ok()
        };
        // One that somebody put there by hand has no key: all of those are in one line.
        let key = arrived.has_key.then(|| of_key().unwrap_or(0));
        let held = Held { arrived, key, attempt, attempted: SystemTime::now(), counted: None };
        match key {
            Some(key) => self.lanes.push(key, held),
            None => self.unkeyed.push_back(held),
        }
    }

    fn has_next(&self) -> bool {
        self.lanes.is_ready() || (!self.telling && !self.unkeyed.is_empty())
    }

    /// The next to hand out, counted as in work.
    fn next(&mut self) -> Option<Held> {
        loop {
            let popped = self.lanes.pop().map(|(_, held)| held);
            let untold = || if self.telling { None } else { self.unkeyed.pop_front() };
            let mut held = popped.or_else(untold)?;
            held.counted =
                held.arrived.turn.enter().map(|in_turn| (in_turn, self.group.shared.work.count()));
            if held.counted.is_some() {
                return Some(held);
            }
            if let Some(key) = held.key {
                self.lanes.done(key);
            }
        }
    }

    fn hand_out(&mut self, mut held: Held) -> Delivery {
        self.in_work += 1;
        self.telling |= held.key.is_none();
        held.attempted = SystemTime::now();
        let arrived = &held.arrived;
        let bytes = arrived.payload.clone();
        let envelope =
            properties::decode_event(&arrived.routing_key, &arrived.properties, bytes.clone())
                .unwrap_or_else(|| {
                    let topic = self.group.spec.key.topic.clone();
                    properties::decode(topic, &arrived.properties, bytes)
                });
        let (attempt, key, settled_to) = (held.attempt, held.key, self.settled_to.clone());
        // Closed only with the bus: then the broker has it back.
        let settlement = Settlement::new(move |outcome| drop(settled_to.send((held, outcome))));
        Delivery::new(envelope, attempt, settlement).with_key(key)
    }

    fn settle(&mut self, mut held: Held, outcome: Outcome) {
        self.telling &= held.key.is_some();
        if !held.arrived.acker.usable() {
            // The broker has it back already.
            return self.done(held);
        }
        let group = self.group.clone();
        let step: BoxFuture<'static, Held> = match (outcome, held.key) {
            (Outcome::Done, _) => Box::pin(ack(held)),
            (Outcome::Keyed(key), None) => return self.move_on(held, key),
            (Outcome::Failed(failure), Some(_)) => match group.spec.retry.after(held.attempt) {
                Some(delay) => {
                    self.in_work -= 1;
                    held.counted = None;
                    held.attempt = held.attempt.saturating_add(1);
                    self.retries.push(Box::pin(async move {
                        tokio::time::sleep(delay).await;
                        held
                    }));
                    return;
                }
                None => Box::pin(group.bury(held, failure)),
            },
            (Outcome::Failed(failure) | Outcome::Refused(failure), _) => {
                Box::pin(group.bury(held, failure))
            }
            _ => {
                self.in_work -= 1;
                held.counted = None;
                return self.put_back(held);
            }
        };
        self.steps.push(Box::pin(step.map(|held| (held, None))));
    }

    /// Its next attempt may begin.
    fn put_back(&mut self, held: Held) {
        match held.key {
            Some(key) => self.lanes.put_back(key, held),
            None => self.unkeyed.push_front(held),
        }
    }

    /// Sends an event to the partition of its key, behind those that are on their way there.
    fn move_on(&mut self, held: Held, key: u64) {
        let partition = self.group.partition_of(key);
        match self.moving.entry(partition) {
            Entry::Occupied(mut before) => before.get_mut().push_back((held, key)),
            Entry::Vacant(nobody) => {
                nobody.insert(VecDeque::new());
                self.send_to(partition, held, key);
            }
        }
    }

    fn send_to(&mut self, partition: usize, held: Held, key: u64) {
        let group = self.group.clone();
        let sent = group.to_partition(held, partition, key);
        self.steps.push(Box::pin(async move { (sent.await, Some(partition)) }));
    }

    /// The next one may go to a partition.
    fn arrived_at(&mut self, partition: usize) {
        while let Some(waiting) = self.moving.get_mut(&partition) {
            match waiting.pop_front() {
                None => drop(self.moving.remove(&partition)),
                // The broker has it back already.
                Some((held, _)) if !held.arrived.acker.usable() => self.done(held),
                Some((held, key)) => return self.send_to(partition, held, key),
            }
        }
    }

    /// It is out of our hands.
    fn done(&mut self, held: Held) {
        self.in_work -= 1;
        if let Some(key) = held.key {
            self.lanes.done(key);
        }
    }
}

impl Group {
    fn partition_of(&self, key: u64) -> usize {
        let number = key % self.partitions.len() as u64;
        usize::try_from(number).unwrap_or(0)
    }

    /// Sends an event to the partition of its key.
    async fn to_partition(self: Arc<Self>, held: Held, partition: usize, key: u64) -> Held {
        let target = Target::queue(self.partitions.get(partition).unwrap_or(&self.work));
        let (back, original) = (&self.shared.back, self.original(&held));
        let mut delays = backoff();
        loop {
            let mut table = Table::of(original.properties);
            table.text(properties::KEY, &format!("{key:016x}"));
            match original.send(back, table, &target).await {
                Ok(true) => return ack(held).await,
                // Full: it holds up those behind it, and so the group's queue fills, and its
                // publishers are told.
                Ok(false) | Err(_) if held.arrived.acker.usable() => {
                    tokio::time::sleep(delays.next().unwrap_or_default()).await;
                }
                Ok(false) | Err(_) => return held,
            }
        }
    }

    async fn bury(self: Arc<Self>, held: Held, failure: Failure) -> Held {
        let (attempts, attempted) = (held.attempt, held.attempted);
        let died = Died { attempts, failure, attempted, queue: self.work.queue.clone() };
        let mut delays = backoff();
        loop {
            match self.original(&held).bury(&self.shared.back, &self.dead, &died).await {
                Ok(true) => {
                    self.shared.notice(Notice::DeadLettered(self.spec.key.clone()));
                    return ack(held).await;
                }
                Ok(false) | Err(_) if held.arrived.acker.usable() => {
                    tokio::time::sleep(delays.next().unwrap_or_default()).await;
                }
                Ok(false) | Err(_) => return held,
            }
        }
    }

    fn original<'a>(&'a self, held: &'a Held) -> Original<'a> {
        let Arrived { acker, properties, payload, .. } = &held.arrived;
        Original { group: &self.spec.key, acker, properties, payload }
    }
}

async fn ack(held: Held) -> Held {
    // An error means that the channel is gone: the broker has it back.
    let _ = held.arrived.acker.ack(BasicAckOptions::default()).await;
    held
}

/// Resolves when the stream was dropped or the bus leaves; never after that.
async fn gone(out: Option<&mpsc::Sender<Delivery>>, shared: &Shared) {
    match out {
        Some(out) => tokio::select! {
            () = out.closed() => {}
            () = shared.phase.reached(Phase::Leaving) => {}
        },
        None => std::future::pending().await,
    }
}

async fn reserve(
    out: Option<&mpsc::Sender<Delivery>>,
) -> Result<mpsc::Permit<'_, Delivery>, mpsc::error::SendError<()>> {
    match out {
        Some(out) => out.reserve().await,
        None => std::future::pending().await,
    }
}
