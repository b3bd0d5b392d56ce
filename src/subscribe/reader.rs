//! What a plain subscription and a stream share: from the queue to messages.

use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use busway_transport::{Gap, GapReason, Name, Source, TopicFilter};

use crate::bus::Core;
use crate::error::SubscribeError;
use crate::ledger::Fate;
use crate::parcel::Parcel;
use crate::router::queue::{Item, Overflow, Queue};
use crate::subscribe::builder::{Options, Subscribe};
use crate::subscribe::handler::panic_text;
use crate::subscribe::kind::{Carried, Kind};

/// The registration of a queue with its bus; dropping it ends the subscription.
pub(crate) struct Registration {
    bus: Weak<Core>,
    pub(crate) filter: TopicFilter,
    pub(crate) queue: Arc<Queue>,
    capacity: usize,
    shared: bool,
}

impl Registration {
    /// Registers a queue here and with the transport. When it returns, it is live.
    async fn new(
        bus: &Arc<Core>,
        filter: TopicFilter,
        queue: Arc<Queue>,
        capacity: usize,
        shared: bool,
    ) -> Result<Self, SubscribeError> {
        let topic = filter.to_string();
        bus.check_not_closing(|| SubscribeError::Closed { topic: topic.clone() })?;
        let this = Self { bus: Arc::downgrade(bus), filter, queue, capacity, shared };
        bus.router.add(&this.filter, &this.queue);
        if shared {
            let attach = bus.intakes.attach(&this.filter, &this.queue, capacity);
            bus.within(&topic, attach).await?;
        }
        bus.board.touch();
        // A bus that closed meanwhile has drained without this one.
        bus.check_not_closing(|| SubscribeError::Closed { topic })?;
        Ok(this)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.end();
    }
}

impl Registration {
    /// Ends the subscription; what is still in its queue is dropped and counted.
    pub(crate) fn end(&self) {
        if let Some(bus) = self.bus.upgrade() {
            bus.router.remove(&self.filter, &self.queue);
            if self.shared {
                bus.intakes.detach(&self.filter, &self.queue, self.capacity);
            }
            bus.board.touch();
        }
        self.queue.end();
    }
}

/// Reads one subscription's queue: passes over what it does not want, and opens the rest.
pub(crate) struct Reader<K: Kind> {
    pub(crate) registration: Registration,
    pub(crate) options: Options<K>,
    from: Option<Name>,
    /// Set when own events are not wanted: this endpoint on this bus.
    not_from: Option<Source>,
    left: Option<u64>,
}

/// What a reader makes of an event.
pub(crate) enum Opened<M> {
    Message(M),
    Filtered,
    /// The subscription's filter panicked.
    Panicked(String),
    Lost(Fate, GapReason),
}

impl<K: Kind> Reader<K> {
    /// Makes a subscription live. `handled` says whether a handler reads it, `shared` whether peers
    /// are asked for its events too.
    pub(crate) async fn start<M>(
        mut builder: Subscribe<'_, K, M>,
        handled: bool,
        shared: bool,
    ) -> Result<Self, SubscribeError> {
        let scope = builder.scope()?;
        let capacity = builder.capacity_or_default();
        let (endpoint, options) = (builder.endpoint, builder.options);
        let queue = Queue::new(endpoint.name.clone(), handled, capacity, options.overflow);
        let inbound = match options.overflow {
            // What a transport holds for a subscription that wants only the newest is stale.
            Overflow::Latest => 1,
            _ => capacity,
        };
        let registration =
            Registration::new(&endpoint.bus, scope.filter, queue, inbound, shared).await?;
        let not_from = options.not_own.then(|| endpoint.bus.source(&endpoint.name));
        let left = options.take;
        Ok(Self { registration, options, from: scope.from, not_from, left })
    }

    /// The next message or gap; `None` after the last.
    pub(crate) fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<K::Message, Gap>>> {
        // A queue that never runs empty must not keep its task's thread from others.
        let budget = ready!(tokio::task::coop::poll_proceed(context));
        for _ in 0..256 {
            if self.left == Some(0) {
                return Poll::Ready(None);
            }
            let item = ready!(self.registration.queue.poll_next(context));
            budget.made_progress();
            let parcel = match item {
                None => return Poll::Ready(None),
                Some(Item::Gap(gap)) => return Poll::Ready(Some(Err(gap))),
                Some(Item::Event(parcel)) => parcel,
            };
            let (from, not_from) = (self.from.as_ref(), self.not_from.as_ref());
            match open(&parcel, 1, from, not_from, &self.options) {
                Opened::Message(message) => {
                    self.left = self.left.map(|left| left - 1);
                    if self.left == Some(0) {
                        // Over: it is in no publisher's way, also while it is not dropped.
                        self.registration.end();
                    }
                    return Poll::Ready(Some(Ok(message)));
                }
                Opened::Filtered => self.settle(Fate::filtered),
                Opened::Panicked(panic) => {
                    self.settle(Fate::failed);
                    tracing::error!(
                        topic = %self.registration.filter, panic, "a subscription's filter panicked"
                    );
                }
                Opened::Lost(fate, reason) => {
                    self.settle(fate);
                    return Poll::Ready(Some(Err(Gap::new(Some(1), reason))));
                }
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    pub(crate) async fn next(&mut self) -> Option<Result<K::Message, Gap>> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    pub(crate) fn settle(&self, fate: Fate) {
        self.registration.queue.counters.settled(fate);
    }
}

/// Opens a parcel for a subscriber, or says why not.
pub(crate) fn open<K: Kind>(
    parcel: &Arc<dyn Parcel>,
    attempt: u32,
    from: Option<&Name>,
    not_from: Option<&Source>,
    options: &Options<K>,
) -> Opened<K::Message> {
    let source = &parcel.meta().source;
    if from.is_some_and(|from| source.endpoint != *from) || not_from == Some(source) {
        return Opened::Filtered;
    }
    let message = match K::open(Carried(parcel), attempt) {
        Ok(message) => message,
        Err(reason @ GapReason::Version { .. }) => {
            return Opened::Lost(Fate::dropped_version, reason);
        }
        Err(reason) => return Opened::Lost(Fate::dropped_undecodable, reason),
    };
    let Some(predicate) = &options.predicate else { return Opened::Message(message) };
    let looking = std::panic::AssertUnwindSafe(|| predicate(K::view(&message)));
    match std::panic::catch_unwind(looking) {
        Ok(true) => Opened::Message(message),
        Ok(false) => Opened::Filtered,
        Err(panic) => Opened::Panicked(panic_text(&*panic)),
    }
}
