//! How plain events arrive at a bus.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;

use crate::{Common, Envelope, Name, Run, TopicFilter};

/// A bus's number for one of its plain interests, unique on that bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionId(pub u64);

/// What a bus wants to receive: one of these per filter, however many of its subscriptions share
/// it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PlainInterest {
    /// The number by which the interest is changed later.
    pub id: SubscriptionId,
    /// Which topics.
    pub filter: TopicFilter,
    /// The endpoints that subscribed: an event addressed to one of them is wanted as well.
    pub endpoints: BTreeSet<Name>,
    /// How many events may wait in the transport on the receiving side: of one publishing process, where
    /// those are told apart. Up to 64 are meant exactly; of more, a transport whose peers run at different
    /// times may let up to four times as many wait.
    pub capacity: usize,
    /// Takes events where they arrive, where the transport can do that.
    pub sink: Option<SinkHandle>,
}

/// Where the events of a plain interest go while none of them waits: a transport that has one in
/// its hands gives it here, without a queue and another task in between.
///
/// It may do so only while the interest's [`Deliveries`] hold nothing and wait for more, or else
/// events of one publisher could overtake each other.
pub trait Sink: Send + Sync + 'static {
    /// Takes as many of these events as there is room for, in their order; there are `most` of them
    /// or fewer. Those that it leaves go by the deliveries, and so does all that comes until they
    /// wait again.
    fn take(&self, most: usize, events: &mut dyn Iterator<Item = Envelope>);

    /// Takes events of a run from its front, as far as it can take them like that: in any case those
    /// that it leaves go by [`take`](Self::take), or by the deliveries. Says whether it may take more
    /// when those have read who are to read it.
    fn take_run(&self, common: &Common, run: &mut dyn Run) -> bool;

    /// Resolves when those who are to read have read what was in the way of a run, or take no more. That
    /// may be never: whoever brings events of others as well must not wait for long.
    fn room(&self) -> BoxFuture<'static, ()>;
}

/// A [`Sink`] of any kind. Clones share it.
#[derive(Clone)]
pub struct SinkHandle(Arc<dyn Sink>);

impl SinkHandle {
    /// Erases a sink.
    pub fn new(sink: impl Sink) -> Self {
        Self(Arc::new(sink))
    }

    /// See [`Sink::take`].
    pub fn take(&self, most: usize, events: &mut dyn Iterator<Item = Envelope>) {
        self.0.take(most, events);
    }

    /// See [`Sink::take_run`].
    pub fn take_run(&self, common: &Common, run: &mut dyn Run) -> bool {
        self.0.take_run(common, run)
    }

    /// See [`Sink::room`].
    pub fn room(&self) -> BoxFuture<'static, ()> {
        self.0.room()
    }
}

impl std::fmt::Debug for SinkHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SinkHandle")
    }
}

impl PlainInterest {
    /// An interest of one bus.
    pub fn new(
        id: SubscriptionId,
        filter: TopicFilter,
        endpoints: BTreeSet<Name>,
        capacity: usize,
    ) -> Self {
        Self { id, filter, endpoints, capacity, sink: None }
    }

    /// With somebody who takes events where they arrive.
    pub fn with_sink(mut self, sink: impl Sink) -> Self {
        self.sink = Some(SinkHandle::new(sink));
        self
    }

    /// Whether an event with this topic and address is wanted.
    pub fn wants(&self, topic: &crate::Topic, to: Option<&Name>) -> bool {
        self.filter.matches(topic) && to.is_none_or(|to| self.endpoints.contains(to))
    }
}

/// The events of one plain interest, in order. Dropping it withdraws the interest; it ends, after
/// what was accepted, when the transport leaves.
///
/// The lower bound of its `size_hint` is how many can be had now without waiting: the bus takes that
/// many together. 0, as streams say unless they know better, is always right.
pub type Deliveries = BoxStream<'static, Arrival>;

/// One step of a plain interest.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Arrival {
    /// An event.
    Event(Envelope),
    /// Events were lost here.
    Gap(Gap),
}

/// Events that a subscription did not get, told in the place where they were lost (law 4): how many
/// are `missed`, and for what `reason`. As the error of a stream's items it makes `?` stop at a
/// loss.
///
/// ```
/// use busway_transport::{Gap, GapReason};
/// let gap = Gap::new(Some(3), GapReason::Overflow);
/// assert_eq!(gap.missed, Some(3));
/// assert_eq!(gap.reason, GapReason::Overflow);
/// ```
// Behind a pointer: every item of a stream is as large as the largest that it could be, and gaps
// are rare.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct Gap(Box<Missing>);

/// What a [`Gap`] tells; read it as the gap's own fields.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} lost: {reason}", match missed { Some(1) => "1 event".into(), Some(n) => format!("{n} events"), None => "an unknown number of events".to_owned() })]
#[non_exhaustive]
pub struct Missing {
    /// How many events are missing; `None` when that cannot be known.
    pub missed: Option<u64>,
    /// Why.
    pub reason: GapReason,
}

impl Gap {
    /// A gap.
    pub fn new(missed: Option<u64>, reason: GapReason) -> Self {
        Self(Box::new(Missing { missed, reason }))
    }
}

impl std::ops::Deref for Gap {
    type Target = Missing;
    fn deref(&self) -> &Missing {
        &self.0
    }
}

impl std::ops::DerefMut for Gap {
    fn deref_mut(&mut self) -> &mut Missing {
        &mut self.0
    }
}

/// Why events were lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GapReason {
    /// A bounded queue was full: here, or at a broker.
    #[error("a queue was full (raise its capacity, or make the handler faster)")]
    Overflow,
    /// A payload could not be decoded.
    #[error("the payload of {topic} could not be decoded: {error}")]
    Undecodable {
        /// Which event.
        topic: String,
        /// What the codec said.
        error: String,
    },
    /// The event has another version of the contract than the subscriber.
    #[error("{topic} came in version {found}, this subscriber reads version {expected}")]
    Version {
        /// Which event.
        topic: String,
        /// The version that arrived.
        found: u32,
        /// The version of the subscriber's type.
        expected: u32,
    },
    /// The connection to a peer or broker was lost and what was under way with it.
    #[error("the connection was lost")]
    Disconnected,
}
