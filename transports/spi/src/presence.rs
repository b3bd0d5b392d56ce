//! Who is there, and what they are interested in.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Name, PeerId};

/// Another bus on the same transport.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// Its identity.
    pub id: PeerId,
    /// The endpoints that live on it.
    pub endpoints: BTreeSet<Name>,
    /// Whether it has reached its start-up barrier (`Bus::ready`): all that it subscribes to at
    /// its start is live.
    pub ready: bool,
    /// Its process id, where known.
    pub pid: Option<u32>,
    /// Its host's name, where that can be another one.
    pub host: Option<String>,
}

impl Peer {
    /// A peer with nothing known but its identity and endpoints.
    pub fn new(id: PeerId, endpoints: BTreeSet<Name>) -> Self {
        Self { id, endpoints, ready: false, pid: None, host: None }
    }
}

/// Whether anybody out there is interested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Interest {
    /// Somebody is.
    Yes,
    /// Nobody is: nothing has to be encoded.
    No,
    /// The transport cannot know without asking.
    Unknown,
}

/// How often the answers to [`Transport::interest`](crate::Transport::interest) may have changed.
/// Clones count together.
///
/// A bus remembers that nobody is interested in a topic, with the count at that time, and asks
/// again when the count has grown. So a transport counts a new interest *before* it acknowledges
/// it: an event that is published after that must find it (law 1).
#[derive(Debug, Clone)]
pub struct Changes(Arc<AtomicU64>);

impl Changes {
    /// None so far, which counts as 1: 0 stands for "never asked".
    pub fn new() -> Self {
        Self(Arc::new(AtomicU64::new(1)))
    }

    /// Counts a change.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    /// The count.
    #[inline]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

impl Default for Changes {
    fn default() -> Self {
        Self::new()
    }
}

/// The state of a transport's connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// Usable.
    Connected,
    /// Connected, but the other side takes nothing at present (RabbitMQ: a resource alarm).
    Blocked {
        /// What the other side said.
        reason: String,
    },
    /// Lost, and being made again.
    Reconnecting {
        /// How many attempts were made so far.
        attempt: u32,
        /// Why the last one failed.
        last_error: String,
    },
    /// Closed for good.
    Closed,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected => f.write_str("connected"),
            Self::Blocked { reason } => write!(f, "blocked: {reason}"),
            Self::Reconnecting { attempt, last_error } => {
                write!(f, "reconnecting (attempt {attempt}): {last_error}")
            }
            Self::Closed => f.write_str("closed"),
        }
    }
}
