//! How much room a peer's interest has: the peer gives it, and each event takes of it.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed};

use crate::wire::{WINDOW, WireError};

/// Shared by the interest and the plans that it is part of. Changed under the mesh's lock only: that
/// orders it, and these are no more than places.
#[derive(Debug)]
pub(crate) struct Credit {
    /// How many more events it has room for.
    events: AtomicUsize,
    /// How many more bytes: the last event that found room may have been larger than what was left.
    bytes: AtomicI64,
    capacity: usize,
}

impl Credit {
    /// That of an interest to which nothing was sent yet.
    pub(crate) fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self { events: capacity.into(), bytes: (WINDOW as i64).into(), capacity }
    }

    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.events.load(Relaxed) > 0 && self.bytes.load(Relaxed) > 0
    }

    /// Takes the place of one event, which there has to be.
    #[inline]
    pub(crate) fn take(&self) {
        self.events.store(self.events.load(Relaxed) - 1, Relaxed);
    }

    /// Takes the bytes of one event, however many are left.
    #[inline]
    pub(crate) fn charge(&self, bytes: usize) {
        self.bytes.store(self.bytes.load(Relaxed) - bytes as i64, Relaxed);
    }

    /// Gives the place of an event back that was not sent.
    pub(crate) fn give_back(&self) {
        self.events.store(self.events.load(Relaxed) + 1, Relaxed);
    }

    /// The peer has room for so many more.
    pub(crate) fn grant(&self, events: u64, bytes: u64) -> Result<(), WireError> {
        let events = usize::try_from(events)
            .ok()
            .and_then(|events| self.events.load(Relaxed).checked_add(events))
            .filter(|events| *events <= self.capacity)
            .ok_or(WireError::Unexpected("more credit than capacity"))?;
        let bytes = i64::try_from(bytes)
            .ok()
            .and_then(|bytes| self.bytes.load(Relaxed).checked_add(bytes))
            .filter(|bytes| *bytes <= WINDOW as i64)
            .ok_or(WireError::Unexpected("more credit than the window"))?;
        self.events.store(events, Relaxed);
        self.bytes.store(bytes, Relaxed);
        Ok(())
    }
}
