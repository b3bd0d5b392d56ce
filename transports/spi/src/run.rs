//! The short way in: events of one publisher on one topic that lie one behind another in a
//! transport's memory. What they have in common is said once, and they are read where they lie.

use std::time::SystemTime;

use bytes::Bytes;

use crate::MessageId;

/// One event of a [`Run`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Lying<'a> {
    /// Its id.
    pub id: MessageId,
    /// When it was published.
    pub time: SystemTime,
    /// The event's bytes.
    pub payload: &'a [u8],
}

impl<'a> Lying<'a> {
    /// An event.
    #[inline]
    pub fn new(id: MessageId, time: SystemTime, payload: &'a [u8]) -> Self {
        Self { id, time, payload }
    }
}

/// Events one behind another, small enough to be decoded where they arrive: a few KiB each. They are
/// for everyone, have no headers, and have all that a [`Common`](crate::Common) says in common.
pub trait Run {
    /// Takes the next one, if that has this sequence number. Else, or with none left, there is
    /// nothing, and it stays.
    fn next_if(&mut self, sequence: u64) -> Option<Lying<'_>>;

    /// The memory that the payloads lie in, for events that keep parts of it instead of copies. Nothing
    /// is written there any more.
    fn memory(&self) -> Option<Bytes> {
        None
    }
}
