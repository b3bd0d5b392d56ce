//! One topic: the subscriptions of this process that its events go to.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use arc_swap::{ArcSwap, Guard};

use busway_transport::{Name, Party, Topic};

use super::drained::Drained;
use super::queue::{Overflow, Queue};
use super::ring::{Claim, Desk, Reader, Ring};
use crate::parcel::Parcel;
use crate::sync::Locked;

/// The queues of one topic as they stood at one time. A publish and its receipt share it.
pub(crate) type Snapshot = Arc<Vec<Arc<Queue>>>;

/// No ring is longer: a subscription that asks for more has a queue instead.
const LONGEST: usize = 1 << 16;

/// The ring of one topic.
pub(crate) type TopicRing = Ring<Arc<dyn Parcel>, InTheWay>;

/// Room on the ring for events that are being written.
pub(crate) type TopicClaim<'a> = Claim<'a, Arc<dyn Parcel>, InTheWay>;

/// A subscription's place on its topic's ring.
pub(crate) type RingReader = Reader<Arc<dyn Parcel>, InTheWay>;

/// Which subscription has no room.
#[derive(Debug, Clone)]
pub(crate) struct InTheWay {
    /// The address of its queue, by which a handler knows its own.
    pub(crate) queue: usize,
    pub(crate) endpoint: Name,
}

impl InTheWay {
    pub(crate) fn of(queue: &Arc<Queue>) -> Self {
        Self { queue: Arc::as_ptr(queue).addr(), endpoint: queue.endpoint.clone() }
    }

    pub(crate) fn party(&self) -> Party {
        Party::endpoint(self.endpoint.clone())
    }
}

/// How a subscription takes part in its topic's ring.
pub(crate) struct Lane {
    pub(crate) ring: Arc<TopicRing>,
    desk: Arc<Desk<InTheWay>>,
    /// Told by the subscription's reader, before it sleeps.
    pub(crate) drained: Drained,
}

impl Lane {
    pub(crate) fn arrived(&self) -> u64 {
        self.ring.arrived(&self.desk)
    }

    pub(crate) fn waiting(&self) -> u64 {
        self.ring.waiting_for(&self.desk)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.ring.is_full_for(&self.desk)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.desk.is_open()
    }

    pub(crate) fn close(&self) {
        self.ring.close(&self.desk);
        // Its reader may be gone.
        self.drained.tell();
    }

    /// Waits until all that is on the ring is read, or nothing more is taken from it.
    pub(crate) async fn drained(&self) {
        self.drained.wait(|| self.waiting() == 0 || !self.is_open()).await;
    }
}

/// One topic of one bus.
pub(crate) struct TopicNode {
    pub(crate) topic: Topic,
    /// What goes to everyone here who waits for all of it, made with the first who does.
    ring: OnceLock<Arc<TopicRing>>,
    /// How long it is at least.
    length: usize,
    /// Why a publish needs more than the ring: see [`Busy`]. 0 when it does not.
    busy: AtomicU8,
    /// The transport's count of changes when nobody outside took this topic; 0 for never.
    nobody_outside_at: AtomicU64,
    queues: ArcSwap<Vec<Arc<Queue>>>,
    /// Held for the moment of one attempt to publish that concerns more than the ring, so that
    /// events reach every queue and the transport in one order. No user code runs under it.
    attempt: Mutex<Sequences>,
    /// Whose turn it is among publishers that lost patience; see [`crate::publish::line`].
    turn: tokio::sync::Mutex<()>,
}

/// Reasons for a publish to take the long way, as bits of one word.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum Busy {
    /// Some subscriptions have only a queue: they lose what they have no room for, take several
    /// topics, or more than the ring is long.
    Queues = 1,
    /// A publisher has lost patience, and goes first.
    Waiting = 2,
    /// The bus is closing.
    Closing = 4,
    /// What is accepted goes past all bounds into the queues.
    Draining = 8,
}

/// How many plain events with each address left this bus.
#[derive(Default)]
pub(crate) struct Sequences {
    /// Those for everyone, which nearly all are.
    everyone: u64,
    addressed: HashMap<Name, u64>,
}

impl TopicNode {
    pub(crate) fn new(topic: Topic, length: usize, queues: Vec<Arc<Queue>>) -> Self {
        let node = Self {
            topic,
            ring: OnceLock::new(),
            length,
            busy: AtomicU8::new(0),
            nobody_outside_at: AtomicU64::new(0),
            queues: ArcSwap::default(),
            attempt: Mutex::default(),
            turn: tokio::sync::Mutex::new(()),
        };
        node.change(|all| all.extend(queues));
        node
    }

    #[inline]
    pub(crate) fn ring(&self) -> Option<&Arc<TopicRing>> {
        self.ring.get()
    }

    /// A place on the ring for a subscription that can have one: it waits for all that comes, and
    /// asks for no more capacity than the ring has. (The first one may ask for any.)
    pub(crate) fn ride(&self, queue: &Arc<Queue>) -> Option<RingReader> {
        if queue.overflow != Overflow::Wait || queue.capacity > LONGEST {
            return None;
        }
        let make = || Arc::new(Ring::new(self.length.max(queue.capacity)));
        let ring = self.ring.get_or_init(make);
        if queue.capacity > ring.length() {
            return None;
        }
        let reader = ring.subscribe(queue.capacity, InTheWay::of(queue));
        queue.ride(Lane {
            ring: ring.clone(),
            desk: reader.desk().clone(),
            drained: Drained::default(),
        });
        Some(reader)
    }

    /// Whether a publish concerns nothing but the ring, as far as this process goes.
    #[inline]
    pub(crate) fn is_simple(&self) -> bool {
        self.busy.load(Ordering::Acquire) == 0
    }

    /// Whether a publish concerns nothing but the ring and queues, as far as this process goes.
    #[inline]
    pub(crate) fn is_local(&self) -> bool {
        self.busy.load(Ordering::Acquire) & !(Busy::Queues as u8) == 0
    }

    pub(crate) fn is(&self, busy: Busy) -> bool {
        self.busy.load(Ordering::Acquire) & busy as u8 != 0
    }

    pub(crate) fn set(&self, busy: Busy) {
        self.busy.fetch_or(busy as u8, Ordering::AcqRel);
    }

    pub(crate) fn unset(&self, busy: Busy) {
        self.busy.fetch_and(!(busy as u8), Ordering::AcqRel);
    }

    /// Whether nobody outside took this topic at that count of the transport's changes.
    #[inline]
    pub(crate) fn is_for_nobody_outside(&self, changes: u64) -> bool {
        self.nobody_outside_at.load(Ordering::Relaxed) == changes
    }

    /// Remembers that nobody outside took this topic at that count of the transport's changes.
    pub(crate) fn nobody_outside(&self, changes: u64) {
        self.nobody_outside_at.store(changes, Ordering::Relaxed);
    }

    pub(crate) fn is_subscribed(&self) -> bool {
        !self.queues.load().is_empty()
    }

    pub(crate) fn queues(&self) -> Snapshot {
        self.queues.load_full()
    }

    /// As [`queues`](Self::queues), not for keeping.
    pub(crate) fn queues_now(&self) -> Guard<Snapshot> {
        self.queues.load()
    }

    pub(crate) fn add(&self, queue: Arc<Queue>) {
        self.change(|queues| queues.push(queue));
    }

    pub(crate) fn remove(&self, queue: &Arc<Queue>) {
        self.change(|queues| queues.retain(|other| !Arc::ptr_eq(other, queue)));
    }

    /// Only under the router's lock.
    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Queue>>)) {
        let mut queues = Vec::clone(&self.queues.load());
        change(&mut queues);
        let some_have_no_lane = queues.iter().any(|queue| queue.lane().is_none());
        self.queues.store(Arc::new(queues));
        match some_have_no_lane {
            true => self.set(Busy::Queues),
            false => self.unset(Busy::Queues),
        }
    }

    /// Lets what waits for room look again.
    pub(crate) fn wake_publishers(&self) {
        if let Some(ring) = self.ring() {
            ring.open_gate();
        }
    }

    /// The right to one attempt.
    #[inline]
    pub(crate) fn attempt(&self) -> MutexGuard<'_, Sequences> {
        self.attempt.locked()
    }

    /// Waits for the turn.
    pub(crate) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }
}

impl Sequences {
    /// The next sequence number of plain events with this address.
    #[inline]
    pub(crate) fn next(&mut self, to: Option<&Name>) -> u64 {
        let last = match to {
            None => &mut self.everyone,
            Some(to) => self.addressed.entry(to.clone()).or_default(),
        };
        *last += 1;
        *last
    }
}
