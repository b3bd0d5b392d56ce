//! What a transport can do, as data.

use std::fmt;

use crate::ContentType;

/// Something that one transport can do and another cannot. What is missing is refused with
/// [`TransportError::Unsupported`] when asked for (law 16).
///
/// [`TransportError::Unsupported`]: crate::TransportError::Unsupported
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Capability {
    /// Values are handed over as they are: nothing is serialised.
    InProcess,
    /// Groups whose work survives all members and publishers.
    DurableGroups,
    /// A publisher that has to wait, or fails, learns who is in its way.
    NamedBackPressure,
    /// A receipt counts the subscriptions reached, not only that somebody was.
    CountedReceipts,
    /// A request ends in `Disconnected` at once when its responder's process dies.
    SeesResponderDeath,
    /// Dropping a request tells its responder.
    RemoteCancellation,
}

impl Capability {
    /// All capabilities, in the order of the documentation's table.
    pub const ALL: &'static [Self] = &[
        Self::InProcess,
        Self::DurableGroups,
        Self::NamedBackPressure,
        Self::CountedReceipts,
        Self::SeesResponderDeath,
        Self::RemoteCancellation,
    ];
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InProcess => "in-process values",
            Self::DurableGroups => "durable groups",
            Self::NamedBackPressure => "named back-pressure",
            Self::CountedReceipts => "counted receipts",
            Self::SeesResponderDeath => "seeing a responder's death",
            Self::RemoteCancellation => "cancellation across the transport",
        })
    }
}

/// The capabilities of one transport.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// The transport's name in errors and tables, usually its scheme.
    pub transport: &'static str,
    /// What it can do.
    pub can: &'static [Capability],
    /// How events that name no codec are encoded on it.
    pub content_type: ContentType,
    /// The most bytes that payload and headers may have together.
    pub max_payload: usize,
}

impl Capabilities {
    /// The capabilities of a transport.
    pub const fn new(
        transport: &'static str,
        can: &'static [Capability],
        content_type: ContentType,
        max_payload: usize,
    ) -> Self {
        Self { transport, can, content_type, max_payload }
    }

    /// Whether the transport can do it.
    pub fn has(&self, capability: Capability) -> bool {
        self.can.contains(&capability)
    }
}
