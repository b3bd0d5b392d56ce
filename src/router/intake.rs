//! From the transport to the queues: one interest and one pump per topic filter, shared by all
//! subscriptions of this bus with that filter.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

use busway_transport::{
    Capability, GapReason, Name, PlainInterest, SubscriptionId, TopicFilter, TransportError,
    TransportHandle,
};

use super::inlet::{Inlet, Queues, pump};
use super::queue::Queue;
use crate::sync::Locked;

/// Subscriptions share an intake when they have the same filter and capacity: the transport bounds
/// what it holds by the latter, and may drop beyond it.
type Key = (TopicFilter, usize);

/// All intakes of one bus.
pub(crate) struct Intakes {
    transport: TransportHandle,
    by_filter: Mutex<HashMap<Key, Arc<Intake>>>,
    /// Why there is a hole in a publisher's numbers: without a broker nothing but a lost link
    /// makes one.
    hole: GapReason,
    next_id: AtomicU64,
    pumps: TaskTracker,
}

/// What an intake needs of its bus.
struct Link {
    transport: TransportHandle,
    pumps: TaskTracker,
    hole: GapReason,
}

struct Intake {
    id: SubscriptionId,
    filter: TopicFilter,
    capacity: usize,
    queues: Queues,
    opened: tokio::sync::Mutex<Opened>,
}

/// What the transport knows of an intake.
#[derive(Default)]
struct Opened {
    pump: Option<AbortHandle>,
    endpoints: BTreeSet<Name>,
}

impl Drop for Intake {
    fn drop(&mut self) {
        // Ends the pump, and with its deliveries the interest.
        if let Some(pump) = &self.opened.get_mut().pump {
            pump.abort();
        }
    }
}

impl Intakes {
    pub(crate) fn new(transport: TransportHandle) -> Arc<Self> {
        let brokerless = transport.capabilities().has(Capability::NamedBackPressure);
        Arc::new(Self {
            transport,
            hole: if brokerless { GapReason::Disconnected } else { GapReason::Overflow },
            by_filter: Mutex::default(),
            next_id: AtomicU64::new(1),
            pumps: TaskTracker::new(),
        })
    }

    /// Makes the transport deliver to a queue. When it returns, the interest is live.
    ///
    /// Cancel safe together with [`detach`](Self::detach), which the caller owes in any case.
    pub(crate) async fn attach(
        &self,
        filter: &TopicFilter,
        queue: &Arc<Queue>,
        capacity: usize,
    ) -> Result<(), TransportError> {
        // Listed before the transport is asked: whoever detaches in the meantime sees it and
        // keeps the intake.
        let intake = {
            let mut by_filter = self.by_filter.locked();
            let intake = by_filter.entry((filter.clone(), capacity)).or_insert_with(|| {
                Arc::new(Intake {
                    id: SubscriptionId(self.next_id.fetch_add(1, Ordering::Relaxed)),
                    filter: filter.clone(),
                    capacity,
                    queues: Queues::default(),
                    opened: tokio::sync::Mutex::default(),
                })
            });
            intake.change(|queues| queues.push(queue.clone()));
            intake.clone()
        };
        intake.open(self.link()).await
    }

    /// Waits until all that the transport had accepted is in the queues, after it left.
    pub(crate) async fn drained(&self) {
        self.pumps.close();
        self.pumps.wait().await;
    }

    fn link(&self) -> Link {
        Link {
            transport: self.transport.clone(),
            pumps: self.pumps.clone(),
            hole: self.hole.clone(),
        }
    }

    /// Stops delivering to a queue; the last one of a filter withdraws the interest.
    pub(crate) fn detach(&self, filter: &TopicFilter, queue: &Arc<Queue>, capacity: usize) {
        let mut by_filter = self.by_filter.locked();
        let key = (filter.clone(), capacity);
        let Some(intake) = by_filter.get(&key) else { return };
        let last_of_endpoint = {
            intake.change(|queues| queues.retain(|other| !Arc::ptr_eq(other, queue)));
            !intake.queues.load().iter().any(|other| other.endpoint == queue.endpoint)
        };
        if intake.queues.load().is_empty() {
            by_filter.remove(&key);
        } else if last_of_endpoint && let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (intake, link) = (Arc::downgrade(intake), self.link());
            runtime.spawn(async move {
                if let Some(intake) = Weak::upgrade(&intake) {
                    // Too much interest is no harm: what comes is for nobody and is passed over.
                    let _ = intake.open(link).await;
                }
            });
        }
    }
}

impl Intake {
    /// Only under the lock of all intakes.
    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Queue>>)) {
        let mut queues = Vec::clone(&self.queues.load());
        change(&mut queues);
        self.queues.store(Arc::new(queues));
    }

    fn wanted(&self) -> BTreeSet<Name> {
        self.queues.load().iter().map(|queue| queue.endpoint.clone()).collect()
    }

    /// Brings the transport's knowledge of this intake up to date.
    async fn open(&self, link: Link) -> Result<(), TransportError> {
        let mut opened = self.opened.lock().await;
        let wanted = self.wanted();
        if opened.pump.is_none() {
            let inlet = Inlet::new(self.queues.clone(), link.hole);
            let interest =
                PlainInterest::new(self.id, self.filter.clone(), wanted.clone(), self.capacity)
                    .with_sink(inlet.clone());
            let deliveries = link.transport.subscribe(interest).await?;
            let task = link.pumps.spawn(pump(deliveries, inlet));
            opened.pump = Some(task.abort_handle());
            opened.endpoints = wanted;
        } else if opened.endpoints != wanted {
            link.transport.update(self.id, wanted.clone()).await?;
            opened.endpoints = wanted;
        }
        Ok(())
    }
}
