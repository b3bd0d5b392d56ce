//! What can go wrong, by verb. Every error says what happened, to what, and what to do.

use std::fmt;
use std::time::Duration;

use busway_transport::{Gap, GroupKey, MessageId, NameError, Party, TransportError};

use crate::codec::CodecError;
use crate::config::ConfigError;

fn by_text(by: &Option<Party>) -> String {
    by.as_ref().map_or_else(String::new, |by| format!(": {by} is in the way"))
}

/// Why a bus could not be opened.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The transport could not be had.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

/// Why an event was not published. Unless it is [`Unconfirmed`](Self::Unconfirmed) or
/// [`GroupFull`](Self::GroupFull), nobody got the event.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// A subscription that fails its publishers is full, or `try_publish` found no room.
    #[error("{topic}: no room{}", by_text(by))]
    Full {
        /// Which event.
        topic: String,
        /// Who is in the way.
        by: Option<Party>,
    },
    /// There was no room in time.
    #[error("{topic}: no room within {after:?}{}", by_text(by))]
    TimedOut {
        /// Which event.
        topic: String,
        /// The deadline.
        after: Duration,
        /// Who is in the way.
        by: Option<Party>,
    },
    /// A subscriber was required, and there is none.
    #[error("{topic}: nobody is subscribed")]
    NoSubscriber {
        /// Which event.
        topic: String,
    },
    /// The event cannot be encoded.
    #[error("{topic}: {error}")]
    Codec {
        /// Which event.
        topic: String,
        /// What the codec said.
        error: CodecError,
    },
    /// The addressee's name is none.
    #[error("the addressee of {topic}: {error}")]
    Addressee {
        /// Which event.
        topic: String,
        /// What is wrong with the name.
        error: NameError,
    },
    /// It was sent, but its arrival is not confirmed. It may be published again
    /// [with its id](crate::Publish::id): whoever got it already then sees it twice, under one id.
    #[error("{topic} ({id}) was sent, but not confirmed: {reason}")]
    Unconfirmed {
        /// Which event.
        topic: String,
        /// Its id.
        id: MessageId,
        /// How many subscriptions it is known to have reached.
        reached: usize,
        /// Why there is no confirmation.
        reason: String,
    },
    /// A group's queue at the broker is full: the event is not in it. Which group the broker does
    /// not say; other groups and subscriptions may have got the event. Publish it again
    /// [with its id](crate::Publish::id) when the group's members have caught up.
    #[error("{topic} ({id}) was refused: the queue of a group is full")]
    GroupFull {
        /// Which event.
        topic: String,
        /// Its id.
        id: MessageId,
    },
    /// The bus is closed, or closing.
    #[error("{topic}: the bus is closed")]
    Closed {
        /// Which event.
        topic: String,
    },
    /// The transport refused.
    #[error("{topic}: {error}")]
    Transport {
        /// Which event.
        topic: String,
        /// What it said.
        error: TransportError,
    },
}

/// Why `try_publish` did not publish; gives the event back.
#[derive(Clone)]
pub struct TryPublishError<E> {
    /// The event.
    pub event: E,
    /// What was wrong.
    pub error: PublishError,
}

// By hand, so that the event needs no `Debug`.
impl<E> fmt::Debug for TryPublishError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TryPublishError").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<E> fmt::Display for TryPublishError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<E> std::error::Error for TryPublishError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

/// Why pipelined publishes failed, as [`Publisher::flush`](crate::Publisher::flush) reports it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{count} of the published events failed, first: {}", failures.first().map_or_else(String::new, ToString::to_string))]
#[non_exhaustive]
pub struct FlushError {
    /// The failures since the last flush, oldest first, at most 1024 of them.
    pub failures: Vec<PublishError>,
    /// How many there were.
    pub count: usize,
}

/// Why [`Publisher::publish_all`](crate::Publisher::publish_all) stopped.
#[derive(Debug, Clone, thiserror::Error)]
#[error("after {published} published events: {error}")]
#[non_exhaustive]
pub struct PublishAllError {
    /// How many events were published before.
    pub published: usize,
    /// Why the next one was not.
    #[source]
    pub error: PublishError,
}

/// Why a subscription, stream or responder is not live.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// A name in it is none.
    #[error("subscribing to {topic}: {error}")]
    Name {
        /// Which event.
        topic: String,
        /// What is wrong with the name.
        error: NameError,
    },
    /// The peers or the broker did not confirm it in time.
    #[error("subscribing to {topic} took longer than {after:?}")]
    TimedOut {
        /// Which event.
        topic: String,
        /// The deadline.
        after: Duration,
    },
    /// The transport refused.
    #[error("subscribing to {topic}: {error}")]
    Transport {
        /// Which event.
        topic: String,
        /// What it said.
        error: TransportError,
    },
    /// The bus is closed, or closing.
    #[error("subscribing to {topic}: the bus is closed")]
    Closed {
        /// Which event.
        topic: String,
    },
}

/// Why a group's dead letters could not be read, replayed or purged, or the group not be removed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// A name in it is none.
    #[error(transparent)]
    Name(NameError),
    /// There is no dead letter of that id, or none that this bus can see.
    #[error("{group} has no dead letter {id} that can be seen from here")]
    NotListed {
        /// Which letter.
        id: MessageId,
        /// Of which group.
        group: Box<GroupKey>,
    },
    /// There is no such group, or nobody who could take anything.
    #[error("there is no group {group}: start a member of it first")]
    NoGroup {
        /// Which group.
        group: Box<GroupKey>,
    },
    /// The group is in use.
    #[error(
        "{group} is in use, with {members} members, {events} events and {letters} dead letters: end them, or force it"
    )]
    InUse {
        /// Which group.
        group: Box<GroupKey>,
        /// How many members it has, on all hosts.
        members: u64,
        /// How many events wait for it.
        events: u64,
        /// How many dead letters it has.
        letters: u64,
    },
    /// It took too long; part of it may have been done.
    #[error("{group}: not done within {after:?}")]
    TimedOut {
        /// Which group.
        group: Box<GroupKey>,
        /// The deadline.
        after: Duration,
    },
    /// The bus is closed.
    #[error("the bus is closed")]
    Closed,
    /// The transport refused.
    #[error(transparent)]
    Transport(TransportError),
}

impl From<TransportError> for GroupError {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::NoGroup { group } => Self::NoGroup { group },
            TransportError::GroupInUse { group, members, events, letters } => {
                Self::InUse { group, members, events, letters }
            }
            TransportError::Closed => Self::Closed,
            other => Self::Transport(other),
        }
    }
}

/// Why `wait_for` has no event.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The subscription did not become live.
    #[error(transparent)]
    Subscribe(#[from] SubscribeError),
    /// Something was lost in front of the first event.
    #[error(transparent)]
    Gap(#[from] Gap),
    /// The bus was closed meanwhile.
    #[error("waiting for {topic}: the bus was closed")]
    Closed {
        /// Which event.
        topic: String,
    },
}

/// How a request ended without a response. `E` is the responder's own error.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError<E> {
    /// The responder refused, in its own words.
    #[error("{0}")]
    Refused(E),
    /// No responder is registered.
    #[error("nobody responds to {topic}: start a responder, or wait for it with `bus.ready`")]
    NoResponder {
        /// Which request.
        topic: String,
    },
    /// The deadline passed.
    #[error("{topic}: no answer within {after:?}")]
    TimedOut {
        /// Which request.
        topic: String,
        /// The deadline.
        after: Duration,
    },
    /// The responder died, panicked or left before it answered.
    #[error("{topic}: the responder is gone: {reason}")]
    Disconnected {
        /// Which request.
        topic: String,
        /// How that was seen.
        reason: String,
    },
    /// The bus was closed while the request was under way.
    #[error("{topic}: the bus was closed before the answer")]
    Cancelled {
        /// Which request.
        topic: String,
    },
    /// The request, or the answer to it, could not be encoded or decoded.
    #[error("{topic}: {reason}")]
    Undecodable {
        /// Which request.
        topic: String,
        /// What the codec said, and on which side.
        reason: String,
    },
    /// The addressee's name is none.
    #[error("the addressee of {topic}: {error}")]
    Addressee {
        /// Which request.
        topic: String,
        /// What is wrong with the name.
        error: NameError,
    },
    /// The transport refused.
    #[error("{topic}: {error}")]
    Transport {
        /// Which request.
        topic: String,
        /// What it said.
        error: TransportError,
    },
}

/// Why not everybody is ready, or subscribed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ReadyError {
    /// A name is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// They were not there in time.
    #[error("not ready within {after:?}: missing {missing:?}{}", not_ready_text(not_ready))]
    TimedOut {
        /// The deadline.
        after: Duration,
        /// Endpoints (or topics) that nobody has.
        missing: Vec<String>,
        /// Endpoints that are there, but whose process has not called `ready` itself.
        not_ready: Vec<String>,
    },
    /// The bus is closed.
    #[error("the bus is closed")]
    Closed,
}

fn not_ready_text(not_ready: &[String]) -> String {
    if not_ready.is_empty() {
        return String::new();
    }
    format!("; there, but their processes have not called `bus.ready`: {not_ready:?}")
}

/// Why a bus did not close in order.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// A handler waited for its own end.
    #[error(
        "`close` was called from inside a handler, which it would wait for: spawn a task for it"
    )]
    InsideHandler,
    /// The drain took too long; what was still open was cut off.
    #[error("closing took longer than {after:?}: {handlers} tasks were still running")]
    TimedOut {
        /// The deadline.
        after: Duration,
        /// How many handlers, streams of work and confirmations were cut off.
        handlers: usize,
    },
    /// The transport could not be closed in order.
    #[error(transparent)]
    Transport(TransportError),
}
