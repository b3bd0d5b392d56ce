//! Events after their last attempt: looking at them, giving them back, throwing them away.

use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::ops::Deref;

use busway_transport::{BoxFuture, GapReason, GroupKey, Letters, MessageId, NameError};

use crate::endpoint::Endpoint;
use crate::error::GroupError;
use crate::event::Event;
use crate::message::{Message, RawMessage};
use crate::parcel;

/// An event after its last attempt in a group. It derefs to what is known of its end: `group`,
/// `attempts`, `failure` (the reason and the error's text), `first_attempt`, `last_attempt`, `at`
/// (when it was given up), and `envelope`, with its id and origin.
pub struct DeadLetter<E> {
    letter: busway_transport::DeadLetter,
    event: PhantomData<fn() -> E>,
}

impl<E: Event> DeadLetter<E> {
    fn new(letter: busway_transport::DeadLetter) -> Self {
        Self { letter, event: PhantomData }
    }

    /// Its id: the one it was published with.
    pub fn id(&self) -> MessageId {
        self.letter.envelope.id
    }

    /// The event. Its [`attempt`](Message::attempt) is the last one.
    ///
    /// # Errors
    /// [`GapReason::Undecodable`] or [`GapReason::Version`]: perhaps the very reason why it died.
    pub fn decode(&self) -> Result<Message<E>, GapReason> {
        Message::open(&parcel::from_envelope(self.letter.envelope.clone())?, self.letter.attempts)
    }

    /// The event as bytes, whatever they are.
    ///
    /// # Errors
    /// [`GapReason::Undecodable`] when the payload is of a kind that this program does not know.
    pub fn raw(&self) -> Result<RawMessage, GapReason> {
        parcel::from_envelope(self.letter.envelope.clone()).map(RawMessage::new)
    }
}

impl<E> Deref for DeadLetter<E> {
    type Target = busway_transport::DeadLetter;
    fn deref(&self) -> &Self::Target {
        &self.letter
    }
}

impl<E> fmt::Debug for DeadLetter<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.letter.fmt(f)
    }
}

/// The dead letters of a group of an endpoint, from [`Endpoint::dead_letters`]; awaiting it lists
/// them.
///
/// # What can be seen
/// Without a broker a process keeps the letters whose last attempt was its own, at most 1024 of a
/// group; the oldest makes room for a newer one, which is told
/// ([`Notice::DeadLetterDropped`](crate::Notice::DeadLetterDropped)). They go with their process.
/// On RabbitMQ all processes see the same letters: those of a group's dead queue, which keeps the
/// newest 10,000. A listing reads the oldest 1,000 of them.
///
/// # Replays
/// A letter that is replayed goes back to its group under its old id, its attempts counted from 1.
/// It is listed no longer when the group has taken it. At least once: on RabbitMQ a crash in
/// between leaves it both in the group and listed, and replaying it then is a repeat, by the same
/// id (see [`deduplicate`](crate::Subscribe::deduplicate)). An error leaves those that the group
/// has not taken listed. Without a broker a replayed letter is its process's to keep, as if that
/// had published it.
///
/// # Cancel safety
/// What was replayed or purged before the drop stays so; the rest is listed.
#[must_use = "await it to list the letters, or call one of its verbs"]
pub struct DeadLetters<'a, E> {
    endpoint: &'a Endpoint,
    group: Result<GroupKey, NameError>,
    event: PhantomData<fn() -> E>,
}

impl<'a, E: Event> DeadLetters<'a, E> {
    pub(crate) fn new(endpoint: &'a Endpoint, group: &str) -> Self {
        Self { endpoint, group: endpoint.group_key::<E>(group), event: PhantomData }
    }

    /// The letters, oldest first.
    ///
    /// # Errors
    /// [`GroupError`].
    pub async fn list(&self) -> Result<Vec<DeadLetter<E>>, GroupError> {
        let (bus, key) = (&self.endpoint.bus, self.key()?);
        let letters = bus.on_group(key, bus.transport.dead_letters(key)).await?;
        Ok(letters.into_iter().map(DeadLetter::new).collect())
    }

    /// One letter.
    ///
    /// # Errors
    /// [`GroupError::NotListed`], and as [`list`](Self::list).
    pub async fn get(&self, id: MessageId) -> Result<DeadLetter<E>, GroupError> {
        let mut letters = self.list().await?.into_iter();
        letters.find(|letter| letter.id() == id).ok_or_else(|| self.not_listed(id))
    }

    /// Gives one letter back to its group. Waits for room there (on RabbitMQ a full group is an
    /// error).
    ///
    /// # Errors
    /// [`GroupError::NotListed`], [`GroupError::NoGroup`] when nobody is there to take it.
    pub async fn replay(&self, id: MessageId) -> Result<(), GroupError> {
        self.one(id, self.replay_these(Letters::One(id)).await?)
    }

    /// Gives all letters that are listed now back to their group. Gives how many there were.
    ///
    /// # Errors
    /// [`GroupError`]; what was replayed before stays replayed, the rest is still listed.
    pub async fn replay_all(&self) -> Result<usize, GroupError> {
        self.replay_these(Letters::All).await
    }

    /// Throws one letter away.
    ///
    /// # Errors
    /// [`GroupError::NotListed`], and as [`list`](Self::list).
    pub async fn purge(&self, id: MessageId) -> Result<(), GroupError> {
        self.one(id, self.purge_these(Letters::One(id)).await?)
    }

    /// Throws all letters away. Gives how many there were.
    ///
    /// # Errors
    /// [`GroupError`].
    pub async fn purge_all(&self) -> Result<usize, GroupError> {
        self.purge_these(Letters::All).await
    }

    async fn replay_these(&self, which: Letters) -> Result<usize, GroupError> {
        let (bus, key) = (&self.endpoint.bus, self.key()?);
        bus.on_group(key, bus.transport.replay(key, which)).await
    }

    async fn purge_these(&self, which: Letters) -> Result<usize, GroupError> {
        let (bus, key) = (&self.endpoint.bus, self.key()?);
        bus.on_group(key, bus.transport.purge(key, which)).await
    }

    fn key(&self) -> Result<&GroupKey, GroupError> {
        self.group.as_ref().map_err(|error| GroupError::Name(error.clone()))
    }

    fn one(&self, id: MessageId, count: usize) -> Result<(), GroupError> {
        if count > 0 { Ok(()) } else { Err(self.not_listed(id)) }
    }

    fn not_listed(&self, id: MessageId) -> GroupError {
        match &self.group {
            Ok(group) => GroupError::NotListed { id, group: Box::new(group.clone()) },
            Err(error) => GroupError::Name(error.clone()),
        }
    }
}

impl<'a, E: Event> IntoFuture for DeadLetters<'a, E> {
    type Output = Result<Vec<DeadLetter<E>>, GroupError>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.list().await })
    }
}

impl<E> fmt::Debug for DeadLetters<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DeadLetters").field(&self.group).finish()
    }
}

/// The end of a durable group, from [`Endpoint::remove_group`]; awaiting it does it.
#[must_use = "the group is removed only when this is awaited"]
pub struct RemoveGroup<'a> {
    endpoint: &'a Endpoint,
    group: Result<GroupKey, NameError>,
    force: bool,
}

impl<'a> RemoveGroup<'a> {
    pub(crate) fn new<E: Event>(endpoint: &'a Endpoint, group: &str) -> Self {
        Self { endpoint, group: endpoint.group_key::<E>(group), force: false }
    }

    /// Also when it has members, events or dead letters. Events and letters are lost; members that
    /// are there make the group anew.
    pub fn force(mut self) -> Self {
        self.force = true;
        self
    }
}

impl<'a> IntoFuture for RemoveGroup<'a> {
    type Output = Result<(), GroupError>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (bus, key) = (&self.endpoint.bus, self.group.map_err(GroupError::Name)?);
            bus.on_group(&key, bus.transport.remove_group(&key, self.force)).await
        })
    }
}

impl fmt::Debug for RemoveGroup<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RemoveGroup").field(&self.group).finish()
    }
}
