//! Identities: of a message and of a bus; and the time, which the first is made of.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use uuid::Uuid;

/// The id of one published event or request: a UUID of version 7, the same on every redelivery
/// and every republish.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(Uuid);

impl MessageId {
    /// Makes a new id, later in order than those made before it in this process.
    #[expect(clippy::new_without_default, reason = "a new id is never a default")]
    pub fn new() -> Self {
        Self::at(since_1970())
    }

    /// As [`new`](Self::new), where the time is known, as the time since 1970: a reading of the clock
    /// costs as much as all the rest.
    ///
    /// The random part is drawn once per process, and a count that goes on makes the difference:
    /// a drawing for each id asks the system, which costs more than publishing an event.
    #[inline]
    pub fn at(since_1970: Duration) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        static RANDOM: OnceLock<u64> = OnceLock::new();
        let random = *RANDOM.get_or_init(|| PeerId::random().as_u64());
        // 48 bits of milliseconds and 16 of the count: an id of a busy millisecond, or of a clock
        // that was set back, borrows from the next.
        let millis = since_1970.as_millis() as u64;
        let after = |last: u64| Some((last + 1).max(millis << 16));
        let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, after);
        let number = last.ok().and_then(after).unwrap_or_default();
        // RFC 9562: the milliseconds, the version and the first 12 bits of the count; the variant and
        // the last 4 bits of the count before what is random.
        let (millis, count) = (number >> 16, number & 0xFFFF);
        let high = millis << 16 | 7 << 12 | count >> 4;
        let low = 0b10 << 62 | (count & 0xF) << 58 | random >> 6;
        Self(Uuid::from_u64_pair(high, low))
    }

    /// The id from its sixteen bytes.
    #[inline]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The sixteen bytes of the id.
    #[inline]
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

/// The time since 1970, by the system's clock; a clock that is set to before that counts as 1970.
#[cfg(unix)]
#[inline]
pub fn since_1970() -> Duration {
    // As the standard library does it, but for what that adds: a third of the time it takes.
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let nanos = u32::try_from(now.tv_nsec).unwrap_or_default();
    u64::try_from(now.tv_sec).map_or(Duration::ZERO, |seconds| Duration::new(seconds, nanos))
}

/// The time since 1970, by the system's clock; a clock that is set to before that counts as 1970.
#[cfg(not(unix))]
pub fn since_1970() -> Duration {
    use std::time::{SystemTime, UNIX_EPOCH};
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn ids_are_in_order_and_of_version_7_whatever_the_clock_does() {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let times = [now(), Duration::from_secs(1), now()];
        let ids: Vec<_> = (0..200_000).map(|n| MessageId::at(times[n % 3])).collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
        assert!(ids.iter().all(|id| id.0.get_version_num() == 7));
        assert!(ids.iter().all(|id| id.0.get_variant() == uuid::Variant::RFC4122));
    }

    #[test]
    fn the_time_is_the_systems() {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let (before, time, after) = (now(), since_1970(), now());
        assert!(before <= time && time <= after, "{before:?} {time:?} {after:?}");
    }

    #[test]
    fn an_id_says_when_it_was_made() {
        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let (seconds, _) = MessageId::new().0.get_timestamp().unwrap().to_unix();
        assert!(seconds >= before.as_secs());
    }
}
