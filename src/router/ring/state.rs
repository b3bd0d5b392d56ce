//! What the ring knows of its readers and of waiting publishers, under its lock.

use std::task::Waker;

use super::reader::Desk;
use super::sync::{Arc, look};

pub(super) struct State<K> {
    pub(super) seats: Vec<Seat<K>>,
    /// How many of them take what is published now.
    pub(super) open: usize,
    /// Publishers may claim below this position without asking.
    pub(super) granted: u64,
    /// Below this position everything is vacated, or in publishers' hands.
    pub(super) vacated: u64,
    /// Slots from this position on are being vacated.
    pub(super) vacating: Option<u64>,
    /// There may be more to vacate.
    pub(super) again: bool,
    /// Publishers that wait, each under a number of its own.
    pub(super) waiting: Vec<(u64, Waker)>,
    next_number: u64,
}

/// A reader in its ring.
pub(super) struct Seat<K> {
    pub(super) desk: Arc<Desk<K>>,
    /// Takes nothing new, and reads on to its end.
    pub(super) closed: bool,
}

/// How far claims can go, and who is in the way beyond that: a reader, or for `None` whoever
/// vacates slots now.
pub(super) struct Limit<'a, K> {
    pub(super) position: u64,
    pub(super) by: Option<&'a K>,
}

impl<K> State<K> {
    pub(super) fn new() -> Self {
        Self {
            seats: Vec::new(),
            open: 0,
            granted: 0,
            vacated: 0,
            vacating: None,
            again: false,
            waiting: Vec::new(),
            next_number: 0,
        }
    }

    pub(super) fn limit(&self, length: u64) -> Limit<'_, K> {
        let vacating = self.vacating.map_or(u64::MAX, |from| from + length);
        let mut limit = Limit { position: vacating, by: None };
        for desk in self.seats.iter().map(|seat| &seat.desk) {
            let cursor = look(&desk.cursor);
            if cursor + desk.capacity < limit.position && cursor < desk.end() {
                limit = Limit { position: cursor + desk.capacity, by: Some(&desk.key) };
            }
        }
        limit
    }

    /// The lowest cursor of those who still read; `None` without any.
    pub(super) fn slowest(&self) -> Option<u64> {
        self.seats.iter().filter_map(|seat| seat.desk.reads_at()).min()
    }

    /// A number that nobody had before.
    pub(super) fn next_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    pub(super) fn seat(&mut self, desk: &Arc<Desk<K>>) -> Option<&mut Seat<K>> {
        self.seats.iter_mut().find(|seat| Arc::ptr_eq(&seat.desk, desk))
    }
}
