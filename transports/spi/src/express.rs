//! The short way out: events that one publisher publishes on one topic, for everyone, and that have
//! nothing else about them. What they have in common is said once, and no room is reserved
//! beforehand: each is handed over whole, at once, or not at all.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::{ContentType, MessageId, Receipt, Source, Topic, TransportError};

/// What all events of one [`Express`], or of one [`Run`](crate::Run), have in common.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Common {
    /// Their topic.
    pub topic: Topic,
    /// The version of their contract.
    pub version: u32,
    /// Who publishes them.
    pub source: Source,
    /// What their bytes are.
    pub content_type: ContentType,
    /// Who hears of their ends. Without it a transport that knows those only later has no short
    /// way.
    pub confirms: Option<Arc<dyn Confirms>>,
}

impl Common {
    /// What events have in common.
    pub fn new(topic: Topic, version: u32, source: Source, content_type: ContentType) -> Self {
        Self { topic, version, source, content_type, confirms: None }
    }

    /// With somebody who hears of their ends.
    pub fn with_confirms(mut self, confirms: Arc<dyn Confirms>) -> Self {
        self.confirms = Some(confirms);
        self
    }
}

/// Hears what becomes of events that an [`Express`] took over, where that is known only later: what
/// a permit's [`Commit::Pending`](crate::Commit::Pending) would give. Each event that it was told
/// to be taken over ends once.
pub trait Confirms: fmt::Debug + Send + Sync + 'static {
    /// An event was taken over, and its end will be told.
    fn taken(&self);

    /// An event has ended: confirmed, or not. `here` is that of its [`Stamp`].
    fn ended(&self, id: MessageId, here: usize, outcome: Result<Receipt, TransportError>);
}

/// One event of those that go the short way.
#[derive(Debug)]
#[non_exhaustive]
pub struct Plain<'a> {
    /// Its id.
    pub id: MessageId,
    /// When it was published: so long after 1970.
    pub since_1970: Duration,
    /// The event. Whoever takes it over may take the bytes out; else they stay.
    pub payload: &'a mut Vec<u8>,
    /// Where all has to be put that is known of whom it reached, if somebody wants more of that than the
    /// number. (What is not put there counts as that number, and not exact.)
    pub receipt: Option<&'a mut Option<Receipt>>,
}

impl<'a> Plain<'a> {
    /// An event.
    #[inline]
    pub fn new(id: MessageId, since_1970: Duration, payload: &'a mut Vec<u8>) -> Self {
        Self { id, since_1970, payload, receipt: None }
    }

    /// With a place for its receipt.
    #[inline]
    pub fn with_receipt(mut self, receipt: Option<&'a mut Option<Receipt>>) -> Self {
        self.receipt = receipt;
        self
    }
}

/// What an event gets when it is sure to go.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Stamp {
    /// Its number: [`Envelope::sequence`](crate::Envelope::sequence).
    pub sequence: u64,
    /// How many subscriptions of the bus itself have got it, beside those that the transport knows.
    pub here: usize,
}

impl Stamp {
    /// That of an event with such a number, of which so many have got it here.
    pub fn new(sequence: u64, here: usize) -> Self {
        Self { sequence, here }
    }
}

/// The short way of one publisher on one topic; see [`Transport::express`].
///
/// [`Transport::express`]: crate::Transport::express
pub trait Express: Send + Sync + 'static {
    /// Whether it is worth encoding an event: somebody takes it, and it can go this way.
    fn is_open(&self) -> bool;

    /// Hands an event over to all who take it, as a permit's [`commit`](crate::Permit::commit)
    /// would, and gives how many subscriptions and groups that are, as far as it is known by now.
    /// `stamp` is called once, last of all, when only the bus itself can still have no room: then it gives
    /// nothing, and nobody gets the event. If it gives something, some have the event already, and it
    /// has to be sent: what can fail from then on is told to the [`Confirms`], beginning before this returns.
    ///
    /// `None` when it cannot be done at once, or not this way: then nobody got it, and it goes by
    /// [`reserve`](crate::Transport::reserve).
    fn try_send(&self, event: Plain<'_>, stamp: &mut dyn FnMut() -> Option<Stamp>)
    -> Option<usize>;
}
