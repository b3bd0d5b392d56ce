//! What can go wrong in a transport.

use std::fmt;
use std::time::Duration;

use crate::{Capability, GroupKey, MessageId, Name, PeerId};

/// Who is in the way of a publisher.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Party {
    /// The subscribing endpoint.
    pub endpoint: Name,
    /// Its group, when it is a group's backlog.
    pub group: Option<Name>,
    /// The bus it lives on, when that is another one.
    pub peer: Option<PeerId>,
}

impl Party {
    /// A subscription of an endpoint of this bus.
    pub fn endpoint(endpoint: Name) -> Self {
        Self { endpoint, group: None, peer: None }
    }

    /// A subscription of an endpoint of another bus.
    pub fn remote(endpoint: Name, peer: PeerId) -> Self {
        Self { endpoint, group: None, peer: Some(peer) }
    }

    /// A group's backlog.
    pub fn group(key: &GroupKey) -> Self {
        Self { endpoint: key.endpoint.clone(), group: Some(key.group.clone()), peer: None }
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.endpoint)?;
        if let Some(group) = &self.group {
            write!(f, " (group {group})")?;
        }
        if let Some(peer) = &self.peer {
            write!(f, " (on bus {peer})")?;
        }
        Ok(())
    }
}

/// What can go wrong in a transport. Addresses in it carry no secrets.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// No transport has that scheme.
    #[error("no transport for the scheme {scheme:?}: there are {}{hint}", available.join(", "))]
    UnknownScheme {
        /// What was asked for.
        scheme: String,
        /// What is there.
        available: Vec<String>,
        /// What may help, such as a feature to turn on.
        hint: String,
    },
    /// The address is not of its scheme's form.
    #[error("the address {address} is not usable: {reason}")]
    BadAddress {
        /// The address, without secrets.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody answers there.
    #[error("{address} cannot be reached: {reason}")]
    Unreachable {
        /// The address, without secrets.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// The other side does not let us in: credentials, permissions or ownership. Trying again
    /// does not help.
    #[error("{address} refused us: {reason}")]
    Denied {
        /// The address, without secrets.
        address: String,
        /// What the other side, or the check, said.
        reason: String,
    },
    /// The transport lacks a capability.
    #[error("{transport} has no {capability}: {instead}")]
    Unsupported {
        /// The transport.
        transport: &'static str,
        /// What it cannot do.
        capability: Capability,
        /// What to do instead.
        instead: &'static str,
    },
    /// There is no room at present.
    #[error("no room{}", by_text(by))]
    Full {
        /// Who is in the way, where that can be known.
        by: Option<Party>,
    },
    /// It took too long.
    #[error("{what} took longer than {after:?}{}", by_text(by))]
    TimedOut {
        /// What did.
        what: String,
        /// The limit.
        after: Duration,
        /// Who is in the way, where that can be known.
        by: Option<Party>,
    },
    /// A group's queue at the broker is full (or failed). Which one the broker does not say;
    /// other groups and subscriptions may have got the event. A retry with its id is safe.
    #[error(
        "{id} on {topic} was refused: the queue of a group is full: let its members catch up, and publish it again with its id"
    )]
    GroupFull {
        /// Which event.
        topic: String,
        /// Its id.
        id: MessageId,
    },
    /// There is no such group, or none that could take anything.
    #[error("there is no group {group}: start a member of it first")]
    NoGroup {
        /// Which group.
        group: Box<GroupKey>,
    },
    /// The group is in use.
    #[error(
        "{group} is in use, with {members} members, {events} events and {letters} dead letters: end them, or force it"
    )]
    GroupInUse {
        /// Which group.
        group: Box<GroupKey>,
        /// How many members it has, on all hosts.
        members: u64,
        /// How many events wait for it.
        events: u64,
        /// How many dead letters it has.
        letters: u64,
    },
    /// The payload is larger than the transport takes.
    #[error("{topic}: a payload of {size} bytes is over the limit of {limit}")]
    TooLarge {
        /// Which event.
        topic: String,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// No responder is registered for the request.
    #[error("nobody responds to {topic}")]
    NoResponder {
        /// Which request.
        topic: String,
    },
    /// The other side went away.
    #[error("disconnected: {reason}")]
    Disconnected {
        /// How that was seen.
        reason: String,
    },
    /// The event was committed, but its arrival was not confirmed; a retry with its id is safe.
    #[error("{id} was sent, but not confirmed: {reason}")]
    Unconfirmed {
        /// The event's id.
        id: MessageId,
        /// How many it is known to have reached.
        reached: usize,
        /// Why there is no confirmation.
        reason: String,
    },
    /// The broker or peer refused the message for good.
    #[error("{what} was rejected: {reason}")]
    Rejected {
        /// Which message or declaration.
        what: String,
        /// What the other side said.
        reason: String,
    },
    /// The other side does not speak our protocol, or another version of it.
    #[error("{peer} does not speak our protocol: {reason}")]
    Protocol {
        /// Who, as far as known.
        peer: String,
        /// What was wrong.
        reason: String,
    },
    /// The operating system said no.
    #[error("{what}: {reason}")]
    Io {
        /// What was tried, and on which path.
        what: String,
        /// What the system said.
        reason: String,
    },
    /// The transport is closed.
    #[error("the bus is closed")]
    Closed,
}

fn by_text(by: &Option<Party>) -> String {
    by.as_ref().map_or_else(String::new, |by| format!(": {by} is in the way"))
}

impl TransportError {
    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Full { .. }
                | Self::GroupFull { .. }
                | Self::NoGroup { .. }
                | Self::TimedOut { .. }
                | Self::NoResponder { .. }
                | Self::Disconnected { .. }
                | Self::Unconfirmed { .. }
        )
    }
}
