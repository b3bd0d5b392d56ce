//! What a plain subscription and a stream share: from the ring and the queue to messages.

use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use busway_transport::{Gap, GapReason, Name, Source, TopicFilter};

use crate::bus::Core;
use crate::error::SubscribeError;
use crate::ledger::Fate;
use crate::parcel::Parcel;
use crate::router::queue::{Item, Overflow, Queue};
use crate::router::topic::RingReader;
use crate::subscribe::builder::{Options, Subscribe};
use crate::subscribe::handler::panic_text;
use crate::subscribe::kind::{Carried, Kind};

/// How many steps a reader takes before it asks the runtime whether it may go on.
const STEPS: u32 = 16;

/// After so many events of the ring a reader lets others run before it goes to sleep.
const RUN: u64 = 16;

/// The registration of a queue with its bus; dropping it ends the subscription.
pub(crate) struct Registration {
    bus: Weak<Core>,
    pub(crate) filter: TopicFilter,
    pub(crate) queue: Arc<Queue>,
    /// Its place on the topic's ring, if it has one.
    pub(super) ring: Option<RingReader>,
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
        let mut ring = bus.router.add(&filter, &queue);
        if let Some(ring) = ring.as_mut().filter(|_| !queue.handled) {
            ring.go_by_steps();
        }
        let this = Self { bus: Arc::downgrade(bus), filter, queue, ring, capacity, shared };
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
    /// Ends the subscription; what is still there for it is dropped and counted.
    pub(crate) fn end(&mut self) {
        if let Some(bus) = self.bus.upgrade() {
            bus.router.remove(&self.filter, &self.queue);
            if self.shared {
                bus.intakes.detach(&self.filter, &self.queue, self.capacity);
            }
            bus.board.touch();
        }
        self.queue.end();
        if let Some(ring) = &mut self.ring {
            self.queue.left(ring.leave());
        }
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
    /// Whether it takes everything, for ever.
    pub(super) simple: bool,
    /// How many steps were taken without a pause.
    steps: u32,
    /// The place of the ring at which it last slept, or let others run before it did.
    slept_at: u64,
}

/// What a reader makes of an event.
pub(crate) enum Opened<M> {
    Message(M),
    Filtered,
    /// The subscription's filter panicked.
    Panicked(String),
    Lost(Fate, GapReason),
}

/// What comes next.
enum Next<M> {
    /// An event, opened, which is counted when it is settled.
    Event(Opened<M>),
    Gap(Gap),
    /// A place whose publisher gave up.
    Nothing,
    End,
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
        // One that loses events would have them decoded for nothing.
        let early = K::early().filter(|_| options.overflow == Overflow::Wait);
        let name = endpoint.name.clone();
        let queue = Queue::new(name, handled, capacity, options.overflow, early.map(|it| it.0));
        let inbound = match options.overflow {
            // What a transport holds for a subscription that wants only the newest is stale.
            Overflow::Latest => 1,
            _ => capacity,
        };
        let registration =
            Registration::new(&endpoint.bus, scope.filter, queue, inbound, shared).await?;
        let not_from = options.not_own.then(|| endpoint.bus.source(&endpoint.name));
        let left = options.take;
        let simple = scope.from.is_none()
            && not_from.is_none()
            && left.is_none()
            && options.predicate.is_none();
        Ok(Self {
            registration,
            options,
            from: scope.from,
            not_from,
            left,
            simple,
            steps: 0,
            slept_at: 0,
        })
    }

    /// The next message, where it stands on the ring, is of the very type that was asked for, and
    /// nothing more was asked.
    #[inline]
    pub(crate) fn take_simply(&mut self) -> Option<K::Message> {
        if !self.simple || self.steps.is_multiple_of(STEPS) {
            return None;
        }
        let Registration { queue, ring: Some(ring), .. } = &mut self.registration else {
            return None;
        };
        // In this order: what was put into the queue before the ring's next event was published is
        // seen once that event is.
        let position = ring.cursor();
        let parcel = ring.peek()??;
        if queue.first_at() <= position {
            return None;
        }
        let message = K::take(Carried(parcel))?;
        queue.is_busy();
        ring.advance(1);
        self.steps = self.steps.wrapping_add(1);
        Some(message)
    }

    /// The next message or gap; `None` after the last.
    #[inline(never)]
    pub(crate) fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<K::Message, Gap>>> {
        loop {
            // What never runs empty must not keep its task's thread from others. The runtime's own
            // count costs more than a step here, and is asked only now and then.
            if self.steps.is_multiple_of(STEPS) {
                ready!(tokio::task::coop::poll_proceed(context)).made_progress();
            }
            if self.left == Some(0) {
                return Poll::Ready(None);
            }
            let next = ready!(self.poll_step(context));
            self.steps = self.steps.wrapping_add(1);
            match next {
                Next::Event(Opened::Message(message)) => {
                    if let Some(left) = &mut self.left {
                        *left -= 1;
                        if *left == 0 {
                            // Over: it is in no publisher's way, also while it is not dropped.
                            self.registration.end();
                        }
                    }
                    return Poll::Ready(Some(Ok(message)));
                }
                Next::Event(opened) => {
                    if let Some(gap) = self.passed_over(opened) {
                        return Poll::Ready(Some(Err(gap)));
                    }
                }
                Next::Gap(gap) => return Poll::Ready(Some(Err(gap))),
                Next::Nothing => {}
                Next::End => return Poll::Ready(None),
            }
        }
    }

    /// Takes one step: from the ring, or from the queue what stands before the ring's next place.
    #[inline]
    fn poll_step(&mut self, context: &mut Context<'_>) -> Poll<Next<K::Message>> {
        let (from, not_from) = (self.from.as_ref(), self.not_from.as_ref());
        let Registration { queue, ring: Some(ring), .. } = &mut self.registration else {
            return self.poll_queue(context, u64::MAX);
        };
        // In this order: what was put into the queue before the ring's next event was published is
        // seen once that event is.
        let position = ring.cursor();
        let Some(there) = ring.peek().filter(|_| queue.first_at() > position) else {
            return self.poll_both(context);
        };
        queue.is_busy();
        let next = match there {
            Some(parcel) => Next::Event(open(parcel, 1, from, not_from, &self.options)),
            None => {
                ring.count_empty(1);
                Next::Nothing
            }
        };
        ring.advance(1);
        Poll::Ready(next)
    }

    /// A step where there is nothing on the ring, or something in the queue before it.
    #[cold]
    fn poll_both(&mut self, context: &mut Context<'_>) -> Poll<Next<K::Message>> {
        let Registration { queue, ring: Some(ring), .. } = &mut self.registration else {
            return Poll::Ready(Next::End);
        };
        let before = ring.cursor();
        // After a run of events more are likely to come: others run first, and it looks once more
        // before it goes to sleep and has to be woken. (Not where they come from outside: who brings
        // them waits for this to sleep, or for more of them. A thread of the runtime that finds nothing
        // to run, and then something, wakes another, which takes one of the two to another processor.)
        let run = before - std::mem::replace(&mut self.slept_at, before);
        let is_fed = queue.lane().is_some_and(|lane| lane.drained.was_fed());
        if run >= RUN && !is_fed && queue.first_at() > before && !ring.is_over() {
            let _ = std::pin::pin!(tokio::task::yield_now()).poll(context);
            return Poll::Pending;
        }
        // What stands behind the ring's end is read all the same.
        let before = if ring.is_over() { u64::MAX } else { before };
        let from_queue = match self.poll_queue(context, before) {
            Poll::Ready(Next::End) => None,
            Poll::Ready(next) => return Poll::Ready(next),
            Poll::Pending => Some(()),
        };
        let Registration { queue, ring: Some(ring), .. } = &mut self.registration else {
            return Poll::Ready(Next::End);
        };
        if from_queue.is_none() && (ring.is_over() || queue.has_ended()) {
            return Poll::Ready(Next::End);
        }
        if ring.park(context.waker()) {
            if let Some(lane) = queue.lane() {
                lane.drained.tell();
            }
            return Poll::Pending;
        }
        // Something came, or the end was set, in between: once more.
        Poll::Ready(Next::Nothing)
    }

    fn poll_queue(&mut self, context: &mut Context<'_>, before: u64) -> Poll<Next<K::Message>> {
        Poll::Ready(match ready!(self.registration.queue.poll_next(context, before)) {
            None => Next::End,
            Some(Item::Gap(gap)) => Next::Gap(gap),
            Some(Item::Event(parcel)) => {
                let (from, not_from) = (self.from.as_ref(), self.not_from.as_ref());
                Next::Event(open(&parcel, 1, from, not_from, &self.options))
            }
        })
    }

    /// Counts an event that is not given out; gives the gap to be told, if that is a loss.
    fn passed_over(&mut self, opened: Opened<K::Message>) -> Option<Gap> {
        match opened {
            Opened::Message(_) => None,
            Opened::Filtered => {
                self.settle(Fate::filtered);
                None
            }
            Opened::Panicked(panic) => {
                self.settle(Fate::failed);
                tracing::error!(
                    topic = %self.registration.filter, panic, "a subscription's filter panicked"
                );
                None
            }
            Opened::Lost(fate, reason) => {
                self.settle(fate);
                Some(Gap::new(Some(1), reason))
            }
        }
    }

    pub(crate) async fn next(&mut self) -> Option<Result<K::Message, Gap>> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    #[inline]
    pub(crate) fn settle(&self, fate: Fate) {
        self.registration.queue.settled(fate);
    }
}

/// Opens a parcel for a subscriber, or says why not.
#[inline]
pub(crate) fn open<K: Kind>(
    parcel: &Arc<dyn Parcel>,
    attempt: u32,
    from: Option<&Name>,
    not_from: Option<&Source>,
    options: &Options<K>,
) -> Opened<K::Message> {
    let source = || parcel.meta().source();
    if from.is_some_and(|from| source().endpoint != *from)
        || not_from.is_some_and(|own| own == source())
    {
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
