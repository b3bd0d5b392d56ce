//! A reader's side of the ring.

use std::task::Waker;

use super::parking::wake_all;
use super::state::Seat;
use super::sync::{Arc, AtomicU64, Ordering, Padded, announce, lock, look, spin};
use super::{Content, Head, Ring, Vacating};

/// How often a reader looks again for what is being written. (Nothing but time depends on it: its
/// caller looks again. Loom would try every number of looks.)
const SPINS: usize = if cfg!(all(test, busway_loom)) { 0 } else { 64 };

/// This part of its capacity is a step of a reader that goes [by steps](Reader::go_by_steps).
const STEPS: u64 = 64;

/// What everyone may know of a reader.
pub(crate) struct Desk<K> {
    /// Everything before it has been read.
    pub(super) cursor: Padded<AtomicU64>,
    /// Where it began.
    start: u64,
    /// Where it ends; `u64::MAX` while it is open.
    end: AtomicU64,
    /// Positions that it passed over: their publishers gave up.
    empty: AtomicU64,
    /// How many events it lets wait.
    pub(super) capacity: u64,
    pub(super) number: u64,
    pub(super) key: K,
}

impl<K> Desk<K> {
    #[inline]
    pub(super) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Whether what is published now is for it.
    pub(crate) fn is_open(&self) -> bool {
        self.end() == u64::MAX
    }

    /// Its cursor, unless it has come to its end.
    pub(super) fn reads_at(&self) -> Option<u64> {
        let cursor = self.cursor.load(Ordering::Acquire);
        (cursor < self.end()).then_some(cursor)
    }
}

/// Reads everything that is published from its making on. Dropping it leaves the ring.
pub(crate) struct Reader<T: Content, K: Clone> {
    ring: Arc<Ring<T, K>>,
    desk: Arc<Desk<K>>,
    /// The desk's, which nobody else changes.
    cursor: u64,
    /// Everything before it is known to be written, and for this reader.
    ready: u64,
    /// The cursor, when publishers that wait were last looked for.
    looked: u64,
    /// So far the cursor may move before they are looked for again.
    step: u64,
    left: bool,
}

impl<T: Content, K: Clone> Ring<T, K> {
    /// A reader of everything that is claimed from now on, that lets up to `capacity` values wait.
    pub(crate) fn subscribe(self: &Arc<Self>, capacity: usize, key: K) -> Reader<T, K> {
        let mut state = self.state();
        let cursor = self.revoke(&mut state);
        let number = state.next_number();
        let desk = Arc::new(Desk {
            cursor: Padded(AtomicU64::new(cursor)),
            start: cursor,
            end: AtomicU64::new(u64::MAX),
            empty: AtomicU64::new(0),
            capacity: (capacity as u64).clamp(1, self.slots.length()),
            number,
            key,
        });
        state.seats.push(Seat { desk: desk.clone(), closed: false });
        state.open += 1;
        self.signs.readers.store(state.open, Ordering::Release);
        drop(state);
        Reader {
            ring: self.clone(),
            desk,
            cursor,
            ready: cursor,
            looked: cursor,
            step: 1,
            left: false,
        }
    }

    /// Lets a reader end after what is claimed by now: it counts no more as one, and nothing new
    /// is for it.
    pub(crate) fn close(&self, desk: &Arc<Desk<K>>) {
        let mut state = self.state();
        let end = self.revoke(&mut state);
        let Some(seat) = state.seat(desk) else { return };
        if std::mem::replace(&mut seat.closed, true) {
            return;
        }
        desk.end.store(end, Ordering::Release);
        state.open -= 1;
        self.signs.readers.store(state.open, Ordering::Release);
        drop(state);
        wake_all(self.take_waiting().chain(self.parking.remove(desk.number)));
    }

    /// How many values have been published for a reader.
    pub(crate) fn arrived(&self, desk: &Desk<K>) -> u64 {
        // In this order the difference is never negative.
        let empty = desk.empty.load(Ordering::Acquire);
        desk.end().min(self.position()) - desk.start - empty
    }

    /// How many values wait for a reader.
    pub(crate) fn waiting_for(&self, desk: &Desk<K>) -> u64 {
        let cursor = desk.cursor.load(Ordering::Acquire);
        desk.end().min(self.position()).saturating_sub(cursor)
    }

    /// Whether a reader has no room for another value.
    pub(crate) fn is_full_for(&self, desk: &Desk<K>) -> bool {
        self.waiting_for(desk) >= desk.capacity
    }
}

impl<T: Content, K: Clone> Reader<T, K> {
    pub(crate) fn desk(&self) -> &Arc<Desk<K>> {
        &self.desk
    }

    /// From now on publishers that wait for its room are not looked for with each value, which is
    /// the dearest part of reading it, but with each sixty-fourth of its capacity. (Nobody waits for
    /// the room of who has read everything.)
    pub(crate) fn go_by_steps(&mut self) {
        self.step = (self.desk.capacity / STEPS).max(1);
    }

    /// The position it reads next.
    #[inline]
    pub(crate) fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Whether it has read all that was for it.
    pub(crate) fn is_over(&self) -> bool {
        self.left || self.cursor >= self.desk.end()
    }

    /// How many positions can be read, of `most`. (They may be empty.)
    #[inline]
    pub(crate) fn ready(&mut self, most: u64) -> u64 {
        let mut ready = self.ready;
        while ready - self.cursor < most && self.ring.slots.is_written(ready) {
            ready += 1;
        }
        if ready > self.ready && !self.left {
            // In this order, as in `can_read`.
            self.ready = ready.min(self.desk.end()).max(self.ready);
        }
        // It may know of more, from an earlier look.
        most.min(self.ready - self.cursor)
    }

    /// Whether a position is written, and for this reader. (In this order: what is written after
    /// the end was set shows the end.)
    #[inline]
    fn can_read(&self, position: u64) -> bool {
        self.ring.slots.is_written(position) && position < self.desk.end() && !self.left
    }

    /// What stands so many positions after the next, of those that are [`ready`](Self::ready);
    /// nothing where a publisher gave up.
    #[inline]
    pub(crate) fn get(&self, ahead: u64) -> Option<&T> {
        let position = self.cursor + ahead;
        assert!(position < self.ready, "not known to be there");
        // SAFETY: it is written, and no slot from our cursor on is written again or vacated: as
        // long as the reference lives we are borrowed, and the cursor stays.
        unsafe { self.ring.slots.get(position) }
    }

    /// As [`ready`](Self::ready) and [`get`](Self::get) for the next position.
    #[inline]
    pub(crate) fn peek(&mut self) -> Option<Option<&T>> {
        let position = self.cursor;
        // SAFETY: as in `get`.
        let value = unsafe { self.ring.slots.look(position) }?;
        // In this order, as in `can_read`.
        if position >= self.desk.end() || self.left {
            return None;
        }
        self.ready = self.ready.max(position + 1);
        Some(value)
    }

    /// Passes over positions that are [`ready`](Self::ready). Publishers that wait for their room
    /// wake up, at the latest when a step is full.
    #[inline]
    pub(crate) fn advance(&mut self, count: u64) {
        assert!(count <= self.ready - self.cursor, "not read yet");
        self.cursor += count;
        if self.cursor - self.looked < self.step {
            self.desk.cursor.store(self.cursor, Ordering::Release);
        } else {
            self.look_for_waiting();
        }
    }

    #[inline(never)]
    fn look_for_waiting(&mut self) {
        let room = self.cursor + self.desk.capacity;
        let before = std::mem::replace(&mut self.looked, self.cursor) + self.desk.capacity;
        announce(&self.desk.cursor, self.cursor);
        let gate = look(&self.ring.signs.gate);
        // Only who crosses the gate opens it: the others would do so for nothing.
        if before < gate && gate <= room {
            self.ring.open_gate();
        }
    }

    /// Counts positions that were empty, before they are passed over.
    pub(crate) fn count_empty(&self, count: u64) {
        if count > 0 {
            self.desk.empty.fetch_add(count, Ordering::Release);
        }
    }

    /// Goes to sleep, to be woken when the next position is written or the end is set. `false`
    /// when that has happened already, or is about to.
    pub(crate) fn park(&mut self, waker: &Waker) -> bool {
        if self.is_over() {
            return false;
        }
        let asleep = self.ring.parking.add(self.desk.number, waker);
        if asleep >= self.ring.readers() {
            // The last one puts out the light.
            let passed = self.ring.passed(&mut lock(&self.ring.state));
            Vacating::run(passed);
        }
        let head = Head::unpack(self.ring.head.fetch_or(Head::ASLEEP, Ordering::AcqRel));
        if head.position == self.cursor {
            return !self.is_over();
        }
        // Somebody is writing it: a few instructions, unless its thread was stopped.
        for () in std::iter::repeat_n((), SPINS) {
            if self.can_read(self.cursor) || self.is_over() {
                break;
            }
            spin();
        }
        false
    }

    /// Leaves the ring; gives how many values it had not read. What was lent must be given back.
    pub(crate) fn leave(&mut self) -> u64 {
        if std::mem::replace(&mut self.left, true) {
            return 0;
        }
        self.ready = self.cursor;
        let seat = {
            let mut state = lock(&self.ring.state);
            let position = self.ring.revoke(&mut state);
            let at = state.seats.iter().position(|seat| Arc::ptr_eq(&seat.desk, &self.desk));
            let seat = at.map(|at| state.seats.remove(at));
            if seat.as_ref().is_some_and(|seat| !seat.closed) {
                self.desk.end.store(position, Ordering::Release);
                state.open -= 1;
                self.ring.signs.readers.store(state.open, Ordering::Release);
            }
            seat
        };
        // Between the change of the readers' number and the look at their cursors: a reader goes on
        // the list between its step and its look at the number. So the later of the two on this
        // list's lock sees the other, and vacates.
        let waker = self.ring.parking.remove(self.desk.number);
        let passed = self.ring.passed(&mut self.ring.state());
        self.ring.open_gate();
        Vacating::run(passed);
        // These may do anything when they are dropped.
        drop((seat, waker));
        self.desk.end() - self.cursor
    }
}

impl<T: Content, K: Clone> Drop for Reader<T, K> {
    fn drop(&mut self) {
        self.leave();
    }
}
