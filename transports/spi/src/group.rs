//! How shared work arrives at a member of a queue group, and how it is settled.

use std::fmt;
use std::num::NonZeroU16;
use std::time::{Duration, SystemTime};

use futures_core::stream::BoxStream;

use crate::{Envelope, MessageId, Name, Topic};

/// Which group: an endpoint's group for one topic. Groups of one name for two topics share
/// nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupKey {
    /// The endpoint whose replicas share the work.
    pub endpoint: Name,
    /// The group's name.
    pub group: Name,
    /// The topic whose events are the work.
    pub topic: Topic,
}

impl fmt::Display for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} on {}", self.endpoint, self.group, self.topic)
    }
}

/// What a new member of a group asks for.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct GroupSpec {
    /// Which group.
    pub key: GroupKey,
    /// How many deliveries the member holds unsettled at once.
    pub concurrency: usize,
    /// When a failed delivery is attempted again.
    pub retry: Retry,
    /// How many events wait for the group, at most, before publishers have to.
    pub capacity: usize,
    /// How long a brokerless publisher keeps the group's events when its last member is gone.
    pub hold: Duration,
    /// Whether the group's work must survive all of its members and publishers.
    pub durable: bool,
    /// How many events a broker's queue keeps for the group, where one stands between: more are
    /// refused, and their publishers told.
    pub backlog: usize,
    /// Whether the group's events are ordered by key, see [`Delivery::key`], and if so over how
    /// many partitions, where the transport needs any.
    pub keyed: Option<NonZeroU16>,
}

impl GroupSpec {
    /// A group with the defaults: one delivery at a time, [`Retry::default`], 1024 waiting
    /// events (100,000 at a broker), held for 60 s, not durable, without keys.
    pub fn new(key: GroupKey) -> Self {
        Self {
            key,
            concurrency: 1,
            retry: Retry::default(),
            capacity: 1024,
            hold: Duration::from_secs(60),
            durable: false,
            backlog: 100_000,
            keyed: None,
        }
    }
}

/// When a failed delivery is attempted again, and how often. The delays are lower bounds: a
/// transport may round one up to the next step it has (RabbitMQ: a queue per delay).
///
/// ```
/// use std::time::Duration;
/// use busway_transport::Retry;
/// let retry = Retry::exponential(Duration::from_millis(100), Duration::from_secs(10)).attempts(5);
/// assert_eq!(retry.after(1), Some(Duration::from_millis(100)));
/// assert_eq!(retry.after(2), Some(Duration::from_millis(200)));
/// assert_eq!(retry.after(5), None); // the fifth attempt was the last
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    attempts: u32,
    first: Duration,
    factor: u32,
    max: Duration,
}

impl Default for Retry {
    /// Five attempts in all, 100 ms, 200 ms, 400 ms and 800 ms apart.
    fn default() -> Self {
        Self::exponential(Duration::from_millis(100), Duration::from_secs(30))
    }
}

impl Retry {
    /// Delays that double from `first` up to `max`.
    pub const fn exponential(first: Duration, max: Duration) -> Self {
        Self { attempts: 5, first, factor: 2, max }
    }

    /// The same delay each time.
    pub const fn fixed(delay: Duration) -> Self {
        Self { attempts: 5, first: delay, factor: 1, max: delay }
    }

    /// No second attempt: a failure is a dead letter.
    pub const fn none() -> Self {
        Self { attempts: 1, first: Duration::ZERO, factor: 1, max: Duration::ZERO }
    }

    /// How many attempts in all (at least 1; 5 unless set).
    pub const fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = if attempts == 0 { 1 } else { attempts };
        self
    }

    /// How many attempts in all.
    pub const fn max_attempts(&self) -> u32 {
        self.attempts
    }

    /// The delay after the failure of the given attempt (counted from 1); `None` when that was
    /// the last.
    pub fn after(&self, attempt: u32) -> Option<Duration> {
        if attempt >= self.attempts {
            return None;
        }
        let factor = self.factor.checked_pow(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        Some(self.first.checked_mul(factor).unwrap_or(self.max).min(self.max))
    }
}

/// The work of one member. Dropping it leaves the group: what is undelivered goes to the other
/// members, what is delivered stays the member's to settle.
pub type GroupDeliveries = BoxStream<'static, Delivery>;

/// One arrival that must be settled.
#[derive(Debug)]
#[non_exhaustive]
pub struct Delivery {
    /// The event.
    pub envelope: Envelope,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// In a group that is ordered by key: the event's key. `None` asks for it: the transport does
    /// not know the member's type, so it lets a member read the key first ([`Outcome::Keyed`]) and
    /// then delivers the event in its key's turn.
    pub key: Option<u64>,
    /// Where to settle it.
    pub settlement: Settlement,
}

impl Delivery {
    /// A delivery.
    pub fn new(envelope: Envelope, attempt: u32, settlement: Settlement) -> Self {
        Self { envelope, attempt, key: None, settlement }
    }

    /// With the key by which it is ordered.
    pub fn with_key(mut self, key: Option<u64>) -> Self {
        self.key = key;
        self
    }
}

/// The right to settle one delivery, once. Dropped without a word it hands the delivery back.
pub struct Settlement(Option<Box<dyn FnOnce(Outcome) + Send>>);

impl Settlement {
    /// A settlement that calls `settle` exactly once. The call must not block: adapters queue it.
    pub fn new(settle: impl FnOnce(Outcome) + Send + 'static) -> Self {
        Self(Some(Box::new(settle)))
    }

    /// Settles the delivery.
    pub fn settle(mut self, outcome: Outcome) {
        if let Some(settle) = self.0.take() {
            settle(outcome);
        }
    }
}

impl Drop for Settlement {
    fn drop(&mut self) {
        if let Some(settle) = self.0.take() {
            settle(Outcome::HandBack);
        }
    }
}

impl fmt::Debug for Settlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settlement").field("open", &self.0.is_some()).finish()
    }
}

/// How a delivery ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The handler returned `Ok` (ack).
    Done,
    /// The handler failed (nack): attempt again by the group's [`Retry`], or dead-letter.
    Failed(Failure),
    /// No attempt can succeed (undecodable, wrong version): dead-letter at once.
    Refused(Failure),
    /// It was not attempted: give it to another member; does not count as an attempt.
    HandBack,
    /// It was not attempted, and this is its key: deliver it when all earlier events of that key
    /// are done with. Only as the answer to a delivery without a key in a group that has them.
    Keyed(u64),
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The kind of failure.
    pub reason: DeadReason,
    /// The error's or panic's text.
    pub text: String,
}

impl Failure {
    /// A failure.
    pub fn new(reason: DeadReason, text: impl Into<String>) -> Self {
        Self { reason, text: text.into() }
    }
}

/// Why an event became a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeadReason {
    /// The handler returned an error on the last attempt.
    Error,
    /// The handler panicked on the last attempt.
    Panic,
    /// The handler took longer than its limit on the last attempt.
    TimedOut,
    /// Its member died or disconnected during the last attempt.
    Lost,
    /// The payload could not be decoded.
    Undecodable,
    /// The event has another version of the contract.
    Version,
}

impl DeadReason {
    /// The reason as one word, as it stands in headers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Panic => "panic",
            Self::TimedOut => "timed-out",
            Self::Lost => "lost",
            Self::Undecodable => "undecodable",
            Self::Version => "version",
        }
    }

    /// The reason from its word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Error, Self::Panic, Self::TimedOut, Self::Lost, Self::Undecodable, Self::Version]
            .into_iter()
            .find(|reason| reason.as_str() == word)
    }
}

impl fmt::Display for DeadReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An event after its last attempt.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The group that could not handle it.
    pub group: GroupKey,
    /// The event, with the id it always had and its origin as source.
    pub envelope: Envelope,
    /// How many attempts there were.
    pub attempts: u32,
    /// Why the last one failed.
    pub failure: Failure,
    /// When the first attempt began, where that is known.
    pub first_attempt: Option<SystemTime>,
    /// When the last attempt began, where that is known.
    pub last_attempt: Option<SystemTime>,
    /// When it was dead-lettered.
    pub at: SystemTime,
}

/// Which dead letters of a group are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Letters {
    /// Those that are listed when the call begins.
    All,
    /// The one of that id.
    One(MessageId),
}

impl DeadLetter {
    /// A dead letter, as of now.
    pub fn new(group: GroupKey, envelope: Envelope, attempts: u32, failure: Failure) -> Self {
        let (first_attempt, last_attempt) = (None, None);
        let at = SystemTime::now();
        Self { group, envelope, attempts, failure, first_attempt, last_attempt, at }
    }
}
