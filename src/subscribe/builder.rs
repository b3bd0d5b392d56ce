//! `endpoint.subscribe::<E>()` and `endpoint.stream::<E>()`: the options that all have.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project::pin_project;

use busway_transport::{BoxFuture, Gap, Name, NameError, TopicFilter};

use crate::config::MOST;
use crate::endpoint::Endpoint;
use crate::error::SubscribeError;
use crate::router::queue::Overflow;
use crate::subscribe::kind::{Kind, Scope};

/// A subscription that is not live yet. `M` says how it is read: [`Plain`](super::Plain) ends
/// with `for_each` or `try_for_each`, [`Pull`](super::Pull) is awaited, [`Grouped`](super::Grouped)
/// shares the work.
#[must_use = "a subscription is live only after it was started and awaited"]
pub struct Subscribe<'a, K: Kind, M> {
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) filter: Result<TopicFilter, NameError>,
    pub(crate) options: Options<K>,
    pub(crate) mode: M,
}

type Predicate<K> = Arc<dyn Fn(&<K as Kind>::View) -> bool + Send + Sync>;
type KeyOf<K> = Arc<dyn Fn(&<K as Kind>::View) -> u64 + Send + Sync>;
type OnGap = Arc<dyn Fn(Gap) + Send + Sync>;

/// What every subscription can be told.
pub(crate) struct Options<K: Kind> {
    pub(crate) from: Option<Name>,
    pub(crate) wrong: Option<NameError>,
    pub(crate) predicate: Option<Predicate<K>>,
    /// Only in groups.
    pub(crate) key: Option<KeyOf<K>>,
    pub(crate) capacity: Option<usize>,
    pub(crate) overflow: Overflow,
    pub(crate) on_gap: Option<OnGap>,
    pub(crate) take: Option<u64>,
    pub(crate) not_own: bool,
    kind: PhantomData<fn(K)>,
}

impl<K: Kind> Default for Options<K> {
    fn default() -> Self {
        Self {
            from: None,
            wrong: None,
            predicate: None,
            key: None,
            capacity: None,
            overflow: Overflow::Wait,
            on_gap: None,
            take: None,
            not_own: false,
            kind: PhantomData,
        }
    }
}

impl<'a, K: Kind, M> Subscribe<'a, K, M> {
    pub(crate) fn new(
        endpoint: &'a Endpoint,
        filter: Result<TopicFilter, NameError>,
        mode: M,
    ) -> Self {
        Self { endpoint, filter, options: Options::default(), mode }
    }

    /// Only events that this endpoint published.
    pub fn from(mut self, endpoint: &str) -> Self {
        match Name::new(endpoint) {
            Ok(name) => self.options.from = Some(name),
            Err(error) => self.options.wrong = Some(error),
        }
        self
    }

    /// Only events for which `predicate` holds. It runs on the subscriber's side.
    pub fn filter(mut self, predicate: impl Fn(&K::View) -> bool + Send + Sync + 'static) -> Self {
        self.options.predicate = Some(Arc::new(predicate));
        self
    }

    /// How many events wait for it at most (1024 unless set here or in the configuration). What other
    /// processes publish, and what is [addressed](crate::Publish::to) to it, is counted by itself.
    ///
    /// Of a group: how many events wait for all of its members together. Without a broker their
    /// publishers wait then; on RabbitMQ it is the bound of the group's queue (100,000 unless set
    /// here), and publishers get [`PublishError::GroupFull`](crate::PublishError::GroupFull).
    pub fn capacity(mut self, events: usize) -> Self {
        self.options.capacity = Some(events);
        self
    }

    /// Called with each gap, in its place between the events. Without it a gap is a warning in
    /// the log, a counter and a [notice](crate::Notice::Gap) on the bus.
    pub fn on_gap(mut self, on_gap: impl Fn(Gap) + Send + Sync + 'static) -> Self {
        self.options.on_gap = Some(Arc::new(on_gap));
        self
    }

    /// Ends after so many events.
    pub fn take(mut self, events: u64) -> Self {
        self.options.take = Some(events);
        self
    }

    /// Without the events that this endpoint itself publishes.
    pub fn not_own(mut self) -> Self {
        self.options.not_own = true;
        self
    }

    /// The checked scope, or the first wrong name.
    pub(crate) fn scope(&mut self) -> Result<Scope, SubscribeError> {
        let topic = self.filter.as_ref().map_or("?", TopicFilter::as_str).to_owned();
        let filter = match (self.filter.clone(), self.options.wrong.take()) {
            (Ok(filter), None) => filter,
            (Err(error), _) | (_, Some(error)) => {
                return Err(SubscribeError::Name { topic, error });
            }
        };
        Ok(Scope { filter, from: self.options.from.take() })
    }

    pub(crate) fn capacity_or_default(&self) -> usize {
        self.options.capacity.unwrap_or(self.endpoint.bus.settings.capacity).clamp(1, MOST)
    }
}

/// What a full queue does; groups have none of these: their backlog holds publishers back.
macro_rules! overflow {
    ($($mode:ty),*) => { $(
        impl<K: Kind> Subscribe<'_, K, $mode> {
            /// What a full queue does: [`Overflow::Wait`] unless set.
            pub fn overflow(mut self, overflow: Overflow) -> Self {
                self.options.overflow = overflow;
                self
            }
        }
    )* };
}
overflow!(super::Plain, super::Pull);

impl<K: Kind, M> std::fmt::Debug for Subscribe<'_, K, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscribe").field("filter", &self.filter).finish_non_exhaustive()
    }
}

/// A subscription, stream or responder on its way to being live.
///
/// # Cancel safety
/// Dropped before it is ready, nothing is registered.
#[must_use = "it is live only after it was awaited"]
#[pin_project]
pub struct Starting<'a, T> {
    #[pin]
    start: BoxFuture<'a, Result<T, SubscribeError>>,
}

impl<'a, T> Starting<'a, T> {
    pub(crate) fn new(start: impl Future<Output = Result<T, SubscribeError>> + Send + 'a) -> Self {
        Self { start: Box::pin(start) }
    }
}

impl<T> Future for Starting<'_, T> {
    type Output = Result<T, SubscribeError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().start.poll(context)
    }
}

impl<T> std::fmt::Debug for Starting<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Starting")
    }
}
