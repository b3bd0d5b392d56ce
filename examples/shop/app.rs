//! What the applications have in common.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use busway::subscribe::Grouped;
use busway::{Bus, Capability, Endpoint, Event, Retry, Subscribe};
use tokio::sync::Notify;

use crate::error::ShopError;
use crate::events::{DayReport, EndDay};

/// The five applications; the name of each is that of its endpoint.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum App {
    Sales,
    SpareParts,
    Support,
    Warranty,
    Mail,
}

impl App {
    pub(crate) const NAMES: [&'static str; 5] =
        ["sales", "spare-parts", "support", "warranty", "mail"];

    /// Those that sales sends home.
    pub(crate) const STAFF: [Self; 4] =
        [Self::SpareParts, Self::Support, Self::Warranty, Self::Mail];

    pub(crate) fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// Shared work: one process with this endpoint gets each event, and it counts as done only when
/// the handler returned `Ok`. So handlers tell the outcome first and return then: whoever is
/// killed between the two does it again, and nothing is lost.
///
/// Where the transport can, the work also survives all processes of the shop.
pub(crate) fn work<'a, E: Event>(
    bus: &Bus,
    app: &'a Endpoint,
    group: &str,
) -> Subscribe<'a, E, Grouped> {
    // Ten attempts in 25 s: time enough for a neighbour to be started again.
    let retry = Retry::exponential(Duration::from_millis(100), Duration::from_secs(5)).attempts(10);
    let work = app.subscribe::<E>().group(group).concurrency(8).retry(retry);
    if bus.capabilities().has(Capability::DurableGroups) { work.durable() } else { work }
}

/// What was done already, so that work which arrives again has its effect once.
#[derive(Debug)]
pub(crate) struct Done<K> {
    keys: Mutex<HashSet<K>>,
    repeats: AtomicU64,
}

impl<K: Hash + Eq> Done<K> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { keys: Mutex::default(), repeats: AtomicU64::new(0) })
    }

    /// Whether this is the first time.
    pub(crate) fn is_first(&self, key: K) -> bool {
        let first = locked(&self.keys).insert(key);
        if !first {
            self.repeats.fetch_add(1, Ordering::Relaxed);
        }
        first
    }

    pub(crate) fn report(&self) -> DayReport {
        DayReport { repeats: self.repeats.load(Ordering::Relaxed) }
    }
}

/// How an application learns that the day is over.
///
/// Sales asks for the report, instead of publishing a last event, because a question has an
/// outcome: when the application is just being started again, sales knows, and asks once more.
pub(crate) struct Closing(Arc<Notify>);

impl Closing {
    pub(crate) async fn open<K: Hash + Eq + Send + 'static>(
        app: &Endpoint,
        done: Arc<Done<K>>,
    ) -> Result<Self, ShopError> {
        let over = Arc::new(Notify::new());
        let told = over.clone();
        // The responder stays registered as long as the bus; its handle is not needed.
        app.respond::<EndDay>()
            .with(move |_| {
                told.notify_one();
                std::future::ready(Ok(done.report()))
            })
            .await?;
        Ok(Self(over))
    }

    /// Waits for the end of the day. The answer to sales may still be on its way then: closing
    /// the bus waits for it.
    pub(crate) async fn wait(self) {
        self.0.notified().await;
    }
}

/// A lock that is never held over anything that can panic halfway.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
