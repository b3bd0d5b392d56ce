//! The contract: what every transport does for its bus.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use futures_core::future::BoxFuture;

use crate::{
    Asks, Capabilities, Changes, Common, DeadLetter, Deliveries, Envelope, Express,
    GroupDeliveries, GroupKey, GroupSpec, Interest, Letters, Name, OutgoingRequest, Party, Peer,
    PlainInterest, Reply, ResponderSpec, Status, SubscriptionId, Topic, TransportError,
};

/// Where an event goes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Route {
    /// Its topic.
    pub topic: Topic,
    /// The endpoint it is addressed to; `None` for everyone interested.
    pub to: Option<Name>,
    /// Whether the publisher must learn that it reached nobody.
    pub mandatory: bool,
}

impl Route {
    /// The route of an event.
    pub fn new(topic: Topic, to: Option<Name>) -> Self {
        Self { topic, to, mandatory: false }
    }
}

/// What a publish reached, as far as the transport can know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// How many subscriptions and groups took it, at least.
    pub reached: usize,
    /// Whether that is the exact number.
    pub exact: bool,
    /// Who they are, as far as known. (Shared: it is the same for all events that go the same way.)
    pub parties: Arc<[Party]>,
}

impl Receipt {
    /// The receipt of a transport that knows exactly whom it reached.
    pub fn exact(parties: impl Into<Arc<[Party]>>) -> Self {
        let parties = parties.into();
        Self { reached: parties.len(), exact: true, parties }
    }

    /// The receipt of a transport that cannot know whether anybody was reached.
    pub fn unknown() -> Self {
        Self { reached: 0, exact: false, parties: Arc::default() }
    }

    /// The receipt of a transport that knows only whether somebody was reached.
    pub fn somebody(reached: bool) -> Self {
        Self { reached: usize::from(reached), exact: !reached, parties: Arc::default() }
    }
}

/// What became of a committed event.
pub enum Commit {
    /// It was handed over, and this is all there is to know.
    Done(Receipt),
    /// The other side still has to confirm it. Dropping the future does not take the event back.
    Pending(BoxFuture<'static, Result<Receipt, TransportError>>),
}

impl std::fmt::Debug for Commit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done(receipt) => f.debug_tuple("Done").field(receipt).finish(),
            Self::Pending(_) => f.write_str("Pending"),
        }
    }
}

/// Room for one event everywhere it has to go. Dropping it gives the room back and leaves no
/// trace.
pub trait Permit: Send + 'static {
    /// Hands the event over. Does not wait and cannot fail: the room is there. Commits of one bus
    /// reach each receiver in the order of these calls.
    fn commit(self, envelope: Envelope) -> Commit;
}

/// What every transport does for its bus. The bus itself delivers its own plain events to its own
/// plain subscriptions, in the process; everything else comes through here.
///
/// # Rules
/// * A transport never echoes a bus's own *plain* events back to it. *Group* work and requests
///   are the transport's in full: a bus's own members and responders take part through it.
/// * When `subscribe`, `update`, `join` or `respond` returns `Ok`, every event that any connected
///   peer publishes from then on is seen (law 1).
/// * Every queue is bounded. A receiver that does not take its [`Deliveries`] holds up only
///   publishers of that topic.
/// * Dropping any future leaves nothing behind, except that what was committed stays committed.
/// * Every call ends: by its deadline where it has one, else by the transport's own.
/// * After a lost connection the transport comes back by itself with all interests, groups,
///   responders and announcements.
pub trait Transport: Send + Sync + 'static {
    /// Room for one event.
    type Permit: Permit;

    /// What it can do. Constant over the life of the transport.
    fn capabilities(&self) -> Capabilities;

    /// The state of its connection.
    fn status(&self) -> Status;

    /// The other buses that are connected now, without this one.
    fn peers(&self) -> Vec<Peer>;

    /// Makes an endpoint's name known to the peers.
    fn announce(&self, endpoint: Name);

    /// Makes it known to the peers that this bus has reached its start-up barrier
    /// ([`Peer::ready`]). It comes after every announcement made before, and stays so for peers
    /// that connect later.
    fn set_ready(&self);

    /// Whether anybody takes such an event: another bus's plain subscription, or a group's member
    /// on any bus, this one included. A group that outlives its members counts.
    fn interest(&self, route: &Route) -> Interest;

    /// The count of changes to the answers of [`interest`](Self::interest): always the same one.
    fn interest_changes(&self) -> Changes;

    /// Whether anybody answers such a request, on any bus.
    fn responders(&self, route: &Route) -> Interest;

    /// The short way out for one publisher's events on one topic, where there is one. The bus
    /// keeps it as long as the publisher lives; for what endpoints publish themselves, as long as it lives itself.
    fn express(&self, common: Common) -> Option<Arc<dyn Express>>;

    /// Reserves room for an event without waiting.
    ///
    /// # Errors
    /// [`TransportError::Full`] when [`reserve`](Self::reserve) would wait; others as there.
    fn try_reserve(&self, route: &Route) -> Result<Self::Permit, TransportError>;

    /// Reserves room for an event wherever it has to go, waiting for it. The caller sets the
    /// deadline by dropping the future. Waiting calls get their room in the order of their first
    /// poll.
    ///
    /// # Errors
    /// [`TransportError`] when there can be no room however long one waits.
    fn reserve(
        &self,
        route: &Route,
    ) -> impl Future<Output = Result<Self::Permit, TransportError>> + Send;

    /// Opens a plain interest.
    ///
    /// # Errors
    /// [`TransportError`] when it could not be made known to the peers or the broker.
    fn subscribe(
        &self,
        interest: PlainInterest,
    ) -> impl Future<Output = Result<Deliveries, TransportError>> + Send;

    /// Replaces the endpoints of an open plain interest.
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe).
    fn update(
        &self,
        id: SubscriptionId,
        endpoints: BTreeSet<Name>,
    ) -> impl Future<Output = Result<(), TransportError>> + Send;

    /// Joins a queue group.
    ///
    /// # Errors
    /// [`TransportError::Unsupported`] when the group asks for what the transport cannot do;
    /// others as for [`subscribe`](Self::subscribe).
    fn join(
        &self,
        spec: GroupSpec,
    ) -> impl Future<Output = Result<GroupDeliveries, TransportError>> + Send;

    /// The dead letters of a group that this bus can see, oldest first.
    ///
    /// # Errors
    /// [`TransportError`] when they cannot be read.
    fn dead_letters(
        &self,
        group: &GroupKey,
    ) -> impl Future<Output = Result<Vec<DeadLetter>, TransportError>> + Send;

    /// Gives dead letters back to their group: under the same id, their attempts counted from 1.
    /// A letter is listed no longer when the group has taken it, and never neither listed nor
    /// taken. Waits for room where publishers would wait. Gives how many there were.
    ///
    /// # Errors
    /// [`TransportError::NoGroup`] when there is no group to take them, [`TransportError::Full`]
    /// where publishers would be refused. What was given back before is not taken back.
    fn replay(
        &self,
        group: &GroupKey,
        which: Letters,
    ) -> impl Future<Output = Result<usize, TransportError>> + Send;

    /// Throws dead letters away. Gives how many there were.
    ///
    /// # Errors
    /// [`TransportError`] when that could not be done.
    fn purge(
        &self,
        group: &GroupKey,
        which: Letters,
    ) -> impl Future<Output = Result<usize, TransportError>> + Send;

    /// Removes a durable group with all that stands for it, its dead letters included.
    ///
    /// # Errors
    /// [`TransportError::GroupInUse`] while it has members, events or dead letters, unless it is
    /// forced; [`TransportError::NoGroup`] when it does not exist; [`TransportError::Unsupported`]
    /// where there are no durable groups.
    fn remove_group(
        &self,
        group: &GroupKey,
        force: bool,
    ) -> impl Future<Output = Result<(), TransportError>> + Send;

    /// Registers a responder.
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe).
    fn respond(
        &self,
        spec: ResponderSpec,
    ) -> impl Future<Output = Result<Asks, TransportError>> + Send;

    /// Asks one responder and waits for its reply. Dropping the future tells the responder, where
    /// the transport can.
    ///
    /// # Errors
    /// [`TransportError::NoResponder`] at once when none is registered,
    /// [`TransportError::TimedOut`] at the deadline, [`TransportError::Disconnected`] where the
    /// responder's death is seen.
    fn request(
        &self,
        request: OutgoingRequest,
    ) -> impl Future<Output = Result<Reply, TransportError>> + Send;

    /// Waits until everything that this bus committed has been confirmed; and, where no broker
    /// holds it, until its group work has been settled by whoever is there to do it.
    ///
    /// # Errors
    /// [`TransportError::TimedOut`] when the deadline passed first.
    fn flush(&self, deadline: Instant) -> impl Future<Output = Result<(), TransportError>> + Send;

    /// Withdraws every interest, group membership and responder: all delivery streams end after
    /// what they hold. Settlements and replies still go out.
    ///
    /// # Errors
    /// [`TransportError`] when the peers or the broker could not be told.
    fn leave(&self) -> impl Future<Output = Result<(), TransportError>> + Send;

    /// Says goodbye and frees everything. Calls after it fail with [`TransportError::Closed`].
    ///
    /// # Errors
    /// [`TransportError::TimedOut`] when the deadline passed before the last settlement, reply or
    /// confirm was through.
    fn close(&self, deadline: Instant) -> impl Future<Output = Result<(), TransportError>> + Send;
}
