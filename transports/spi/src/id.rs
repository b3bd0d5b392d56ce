//! Identities: of a message and of a bus.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// The id of one published event or request: a UUID of version 7, the same on every redelivery
/// and every republish.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(Uuid);

impl MessageId {
    /// Makes a new id, later in order than those made before it in this process.
    #[expect(clippy::new_without_default, reason = "a new id is never a default")]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// The id from its sixteen bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The sixteen bytes of the id.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for MessageId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::from_str(text).map(Self)
    }
}

/// The identity of one bus of one process, drawn at random when it connects: a restarted process
/// is another peer. (The publisher's *incarnation* of law 4.)
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(u64);

impl PeerId {
    /// Draws a new identity.
    pub fn random() -> Self {
        // 64 of a v7 UUID's 74 random bits.
        let (_, low) = Uuid::new_v7(uuid::Timestamp::now(uuid::NoContext)).as_u64_pair();
        Self(low ^ Uuid::now_v7().as_u64_pair().1.rotate_left(32))
    }

    /// The identity from its number, as an adapter read it.
    pub fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// The identity as a number.
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PeerId {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self)
    }
}
