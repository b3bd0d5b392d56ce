//! The world of one case: a fresh address, the participants that meet there, and the books.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use busway::{
    Builder, Bus, Capabilities, Capability, Endpoint, Event, Notice, Notices, Publish,
    PublishError, Receipt, Starting, Subscription,
};

use crate::Harness;
use crate::books::{Alive, Books};
use crate::inbox::Inbox;
use crate::verdict::Failed;

/// The world of one case. Clones are the same world.
#[derive(Clone)]
pub(crate) struct World {
    inner: Arc<Inner>,
}

struct Inner {
    harness: Arc<dyn Harness>,
    address: String,
    books: Books,
    /// Every bus that was neither abandoned nor dropped, to be closed in the end.
    buses: Mutex<Vec<Slot>>,
    capabilities: OnceLock<Capabilities>,
}

/// Where the world keeps a bus that its participant may take out again.
type Slot = Arc<Mutex<Option<Bus>>>;

/// A lock without poison: a case that panicked has failed already.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(crate) fn new(harness: Arc<dyn Harness>, case: &str) -> Self {
        let address = harness.address(case);
        let inner = Inner {
            harness,
            address,
            books: Books::default(),
            buses: Mutex::default(),
            capabilities: OnceLock::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Opens a bus here, as another process would, with one endpoint.
    pub(crate) async fn join(&self, endpoint: &str) -> Result<Participant, Failed> {
        self.join_with(endpoint, |builder| builder).await
    }

    /// Opens a bus with settings of its own.
    pub(crate) async fn join_with(
        &self,
        endpoint: &str,
        settings: impl FnOnce(Builder) -> Builder,
    ) -> Result<Participant, Failed> {
        let builder = Bus::builder().without_configuration().transport(&self.inner.address);
        let bus = settings(self.inner.harness.connector(builder)).open().await?;
        self.inner.capabilities.get_or_init(|| bus.capabilities().clone());
        let endpoint = bus.endpoint(endpoint)?;
        let slot = Arc::new(Mutex::new(Some(bus.clone())));
        locked(&self.inner.buses).push(slot.clone());
        let alive = Arc::new(AtomicBool::new(true));
        Ok(Participant { endpoint, bus, slot, alive, books: self.inner.books.clone() })
    }

    /// Opens a bus for each name, and lets them wait for each other at the start-up barrier.
    pub(crate) async fn meet<const N: usize>(
        &self,
        names: [&str; N],
    ) -> Result<[Participant; N], Failed> {
        let mut all = Vec::with_capacity(N);
        for name in names {
            all.push(self.join(name).await?);
        }
        futures::future::try_join_all(all.iter().map(|one| one.bus.ready(names))).await?;
        all.try_into().map_err(|_| Failed::new("as many participants as names"))
    }

    /// Publishes, and keeps the books.
    pub(crate) async fn publish<E: Event>(
        &self,
        publish: Publish<'_, E>,
    ) -> Result<Receipt, PublishError> {
        let receipt = publish.await?;
        self.inner.books.published(&receipt);
        Ok(receipt)
    }

    /// Whether the transport claims it. Only after somebody joined.
    pub(crate) fn can(&self, capability: Capability) -> bool {
        self.capabilities().is_some_and(|capabilities| capabilities.has(capability))
    }

    pub(crate) fn capabilities(&self) -> Option<&Capabilities> {
        self.inner.capabilities.get()
    }

    pub(crate) fn books(&self) -> &Books {
        &self.inner.books
    }

    pub(crate) fn harness(&self) -> &dyn Harness {
        &*self.inner.harness
    }

    pub(crate) fn address(&self) -> &str {
        &self.inner.address
    }

    /// Closes every bus that is still there, and looks at the books.
    pub(crate) async fn end(self) -> Vec<String> {
        let slots = std::mem::take(&mut *locked(&self.inner.buses));
        let buses: Vec<_> = slots.iter().filter_map(|slot| locked(slot).take()).collect();
        let closing = buses.iter().map(|bus| async move { (bus.id(), bus.close().await) });
        for (id, closed) in futures::future::join_all(closing).await {
            if let Err(error) = closed {
                self.books().violation(format!("law 12: closing {id} in the end: {error}"));
            }
        }
        self.books().audit()
    }
}

/// One bus and its first endpoint, to which it derefs.
pub(crate) struct Participant {
    endpoint: Endpoint,
    bus: Bus,
    slot: Slot,
    alive: Alive,
    books: Books,
}

impl Participant {
    pub(crate) fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Another endpoint of the same bus.
    pub(crate) fn also(&self, name: &str) -> Result<Endpoint, Failed> {
        Ok(self.bus.endpoint(name)?)
    }

    /// Looks at a subscription's account in the end.
    pub(crate) fn keep(&self, subscription: Subscription) -> Arc<Subscription> {
        let subscription = Arc::new(subscription);
        self.books.watch(subscription.clone(), self.alive.clone());
        subscription
    }

    /// Opens a stream that keeps the books.
    pub(crate) async fn open<E: Event>(
        &self,
        starting: impl IntoFuture<
            Output = Result<busway::EventStream<E>, busway::SubscribeError>,
            IntoFuture = Starting<'_, busway::EventStream<E>>,
        >,
    ) -> Result<Inbox<E>, Failed> {
        Ok(Inbox::new(starting.await?, self.books.clone()))
    }

    /// An inbox of all events of a type, with room for all that a case publishes.
    pub(crate) async fn inbox<E: Event>(&self) -> Result<Inbox<E>, Failed> {
        self.open(self.stream::<E>().capacity(4096)).await
    }

    pub(crate) fn books(&self) -> &Books {
        &self.books
    }

    /// Dies: lets go of everything without closing. Nothing else may hold the bus or an endpoint
    /// of it.
    pub(crate) fn abandon(self) {
        self.alive.store(false, Ordering::Release);
        locked(&self.slot).take();
    }
}

impl Deref for Participant {
    type Target = Endpoint;
    fn deref(&self) -> &Endpoint {
        &self.endpoint
    }
}

/// Waits for a notice.
pub(crate) async fn notice(
    notices: &mut Notices,
    is_it: impl Fn(&Notice) -> bool,
) -> Result<Notice, Failed> {
    loop {
        match notices.next().await {
            Some(notice) if is_it(&notice) => return Ok(notice),
            Some(_) => {}
            None => return Err(Failed::new("the bus was gone before it gave that notice")),
        }
    }
}
