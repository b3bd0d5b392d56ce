//! The multicast ring of one topic: what is published is written once, and every reader finds it
//! there at a cursor of its own.
//!
//! * **Head.** One word holds the next position to claim and how many claims are allowed without a
//!   look at the readers. A publisher claims by one compare-and-swap, writes its slot, and marks it
//!   written. When the allowance is used up, the slowest reader says (under the lock) how much more
//!   there can be. Whoever holds the lock may take the allowance back; then the head stands still.
//! * **Cursors.** A reader owns all slots from its cursor on: nobody writes to a slot before every
//!   cursor has passed it. Nobody reading means no allowance: nothing is ever written for nobody.
//! * **Waiting.** A reader that finds nothing puts itself on the list of sleepers and marks the
//!   head. If a claim was made before that, it is about to be written, and the reader stays awake;
//!   whoever claims after that sees the mark, and wakes the sleepers when it has written. A
//!   publisher that finds no room leaves a gate; the reader whose cursor crosses it opens it: each
//!   side announces its own step before it looks at the other's, so that of two that meet at least
//!   one sees the other.
//! * **Vacating.** What every reader has passed is vacated when all of them sleep, or one leaves:
//!   the values go, their memory stays with the slot for the next lap. While readers are busy,
//!   publishers write over what is there.
//!
//! No code of a user runs under the lock, or between a claim and its completion.

mod parking;
mod reader;
mod room;
mod slots;
mod state;
mod sync;

#[cfg(test)]
mod bell;
#[cfg(all(test, busway_loom))]
mod loom;
#[cfg(all(test, not(busway_loom)))]
mod model;

use std::mem::ManuallyDrop;
use std::ops::Range;
use std::task::Waker;

pub(crate) use reader::{Desk, Reader};

use parking::{Parking, wake_all};
use slots::Slots;
use state::State;
use sync::{AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering, Padded, lock};

/// What can stand in a ring.
pub(crate) trait Content: Send + Sync {
    /// Drops the value that nobody reads any more; may keep its memory for the next one.
    fn vacate(this: &mut Option<Self>)
    where
        Self: Sized;
}

/// A ring of values `T`, whose readers are known to publishers by a key `K`.
pub(crate) struct Ring<T, K> {
    /// A [`Head`].
    head: Padded<AtomicU64>,
    parking: Padded<Parking>,
    /// Looked at by everyone, rarely written.
    signs: Padded<Signs>,
    slots: Slots<T>,
    state: Mutex<State<K>>,
}

struct Signs {
    /// How many readers take what is published now.
    readers: AtomicUsize,
    /// Publishers sleep until claims below this position are possible; `u64::MAX` when none does.
    gate: AtomicU64,
}

/// One word that all publishers change: the next position to claim, how many may be claimed without
/// asking, and whether a reader sleeps that wants to hear of the next claim.
#[derive(Clone, Copy)]
struct Head {
    position: u64,
    asleep: bool,
    room: u64,
}

impl Head {
    const ROOM_BITS: u32 = 12;
    const MOST_ROOM: u64 = (1 << Self::ROOM_BITS) - 1;
    const ASLEEP: u64 = 1 << Self::ROOM_BITS;
    /// What is left for positions is enough for a year at seventy million events per second.
    const POSITION: u32 = Self::ROOM_BITS + 1;

    #[inline]
    fn unpack(word: u64) -> Self {
        Self {
            position: word >> Self::POSITION,
            asleep: word & Self::ASLEEP != 0,
            room: word & Self::MOST_ROOM,
        }
    }

    /// Takes positions; whoever does also wakes those who sleep.
    #[inline]
    fn claim(word: u64, count: u64) -> u64 {
        (word & !Self::ASLEEP) + (count << Self::POSITION) - count
    }
}

/// Why nothing was claimed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused<K> {
    /// There is no reader.
    Nobody,
    /// This reader has no room.
    Full(K),
    /// Slots are being vacated, or a publisher of a lap ago was stopped in the middle of its write.
    Busy,
}

impl<T: Content, K: Clone> Ring<T, K> {
    /// A ring of at least `length` slots.
    pub(crate) fn new(length: usize) -> Self {
        Self {
            head: Padded(AtomicU64::new(0)),
            parking: Padded(Parking::new()),
            signs: Padded(Signs { readers: AtomicUsize::new(0), gate: AtomicU64::new(u64::MAX) }),
            slots: Slots::new(length.next_power_of_two()),
            state: Mutex::new(State::new()),
        }
    }

    /// How large a reader's capacity can be.
    pub(crate) fn length(&self) -> usize {
        self.slots.length() as usize
    }

    /// How many readers take what is published now.
    #[inline]
    pub(crate) fn readers(&self) -> usize {
        self.signs.readers.load(Ordering::Relaxed)
    }

    /// The next position to be claimed.
    pub(crate) fn position(&self) -> u64 {
        Head::unpack(self.head.load(Ordering::Acquire)).position
    }

    /// Claims up to `most` positions, and at least one. The caller writes them at once.
    #[inline]
    pub(crate) fn try_claim(&self, most: u64) -> Result<Claim<'_, T, K>, Refused<K>> {
        let mut word = self.head.load(Ordering::Relaxed);
        loop {
            let head = Head::unpack(word);
            if head.room == 0 {
                word = self.refill()?;
                continue;
            }
            let allowed = head.position..head.position + most.min(head.room);
            let count = allowed.take_while(|position| self.slots.is_free(*position)).count() as u64;
            if count == 0 {
                // Not free because others have claimed it meanwhile? Then what we saw of their
                // write shows us their head.
                match self.head.load(Ordering::Acquire) {
                    now if now == word => return Err(Refused::Busy),
                    now => word = now,
                }
                continue;
            }
            let claimed = head.position..head.position + count;
            // Acquire: with the release of whoever gave the room, who had seen the cursors.
            let next = Head::claim(word, count);
            match self.head.compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Ok(Claim { ring: self, left: claimed, wakes: head.asleep }),
                Err(now) => word = now,
            }
        }
    }

    /// Allows more claims, as far as the slowest reader has room. Gives the new head.
    #[cold]
    fn refill(&self) -> Result<u64, Refused<K>> {
        let mut state = lock(&self.state);
        // While there is no room, nobody but who holds the lock moves the head.
        let word = self.head.load(Ordering::Acquire);
        let Head { position, room, .. } = Head::unpack(word);
        if room > 0 {
            return Ok(word);
        }
        if state.open == 0 {
            return Err(Refused::Nobody);
        }
        let limit = state.limit(self.slots.length());
        if limit.position <= position {
            return limit.by.map_or(Err(Refused::Busy), |by| Err(Refused::Full(by.clone())));
        }
        // A part at a time, so that most of what was read can be vacated when readers rest.
        let part = (self.slots.length() / 4).clamp(1, Head::MOST_ROOM);
        let room = part.min(limit.position - position);
        state.granted = position + room;
        Ok(self.head.fetch_add(room, Ordering::AcqRel) + room)
    }

    /// Takes back what publishers have not used of their allowance. The head then stands still as
    /// long as the lock is held. Gives its position.
    fn revoke(&self, state: &mut State<K>) -> u64 {
        let mut word = self.head.load(Ordering::Relaxed);
        loop {
            let still = word & !Head::MOST_ROOM;
            match self.head.compare_exchange_weak(word, still, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => {
                    let position = Head::unpack(word).position;
                    state.granted = position;
                    return position;
                }
                Err(now) => word = now,
            }
        }
    }

    /// What all readers have passed and still stands there, to be vacated by the caller alone.
    fn passed(&self, state: &mut State<K>) -> Option<Vacating<'_, T, K>> {
        if state.vacating.is_some() {
            // Whoever is at it looks again afterwards.
            state.again = true;
            return None;
        }
        let end = state.slowest().unwrap_or_else(|| self.revoke(state));
        let length = self.slots.length();
        if state.vacated >= end {
            return None;
        }
        if state.granted > state.vacated + length {
            // Some of these slots may be in publishers' hands.
            let position = self.revoke(state);
            state.vacated = state.vacated.max(position.saturating_sub(length));
        }
        let passed = state.vacated..end;
        (!passed.is_empty()).then(|| {
            state.vacating = Some(passed.start);
            Vacating { ring: self, left: passed }
        })
    }

    /// Lets publishers that wait look again.
    pub(crate) fn open_gate(&self) {
        wake_all(self.take_waiting());
    }

    /// Takes the wakers of all publishers that wait, for the caller to wake.
    fn take_waiting(&self) -> impl Iterator<Item = Waker> + use<T, K> {
        let mut state = lock(&self.state);
        self.signs.gate.store(u64::MAX, Ordering::SeqCst);
        std::mem::take(&mut state.waiting).into_iter().map(|(_, waker)| waker)
    }

    fn has_room(&self, state: &State<K>) -> bool {
        let Head { position, room, .. } = Head::unpack(self.head.load(Ordering::Acquire));
        room > 0 || state.open == 0 || state.limit(self.slots.length()).position > position
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        lock(&self.state)
    }
}

/// Slots are being vacated, by whoever has this; nobody writes to them meanwhile.
struct Vacating<'a, T: Content, K: Clone> {
    ring: &'a Ring<T, K>,
    left: Range<u64>,
}

impl<T: Content, K: Clone> Vacating<'_, T, K> {
    /// Vacates what was [`passed`](Ring::passed), and by then more. Values are dropped here, under
    /// no lock.
    fn run(mut passed: Option<Self>) {
        while let Some(mut vacating) = passed {
            vacating.vacate();
            passed = ManuallyDrop::new(vacating).end();
        }
    }

    fn vacate(&mut self) {
        let slots = &self.ring.slots;
        while !self.left.is_empty() {
            let position = self.left.start;
            if !slots.is_written(position) {
                // From before there were readers, and still being written: its publisher, or who
                // comes next, goes on from here.
                return;
            }
            self.left.start += 1;
            // SAFETY: it is written, every reader has passed it, and as long as the state says that
            // it is being vacated nobody else vacates it or writes to its slot.
            unsafe { slots.change(position, T::vacate) };
        }
    }

    /// Lets publishers have the slots. Gives what else can be vacated by now.
    fn end(&self) -> Option<Self> {
        let (more, waits) = {
            let mut state = lock(&self.ring.state);
            state.vacated = self.left.start;
            state.vacating = None;
            // What is still being written is not waited for.
            let again = std::mem::take(&mut state.again) && self.left.is_empty();
            let more = if again { self.ring.passed(&mut state) } else { None };
            (more, !state.waiting.is_empty())
        };
        if waits {
            self.ring.open_gate();
        }
        more
    }
}

impl<T: Content, K: Clone> Drop for Vacating<'_, T, K> {
    /// A value's own `Drop` panicked: the rest is left to who comes next.
    fn drop(&mut self) {
        if let Some(more) = self.end() {
            drop(ManuallyDrop::new(more).end());
        }
    }
}

/// Positions that are to be written at once: readers cannot pass them before. What is not written
/// when it is dropped stays empty, and readers pass over it.
pub(crate) struct Claim<'a, T: Content, K: Clone> {
    ring: &'a Ring<T, K>,
    left: Range<u64>,
    /// Whether a reader slept when it was claimed.
    wakes: bool,
}

impl<T: Content, K: Clone> Claim<'_, T, K> {
    /// How many positions are still to be written.
    pub(crate) fn left(&self) -> usize {
        (self.left.end - self.left.start) as usize
    }

    /// Writes the next position: `make` turns what a lap ago left there into the new value. It
    /// must run no code of a user; if it panics, the position stays empty.
    #[inline]
    pub(crate) fn write(&mut self, make: impl FnOnce(Option<T>) -> T) {
        let position = self.left.start;
        assert!(!self.left.is_empty(), "no more was claimed");
        // SAFETY: claimed by `try_claim`, and written only here or by our `Drop`. The claim was
        // allowed only after every cursor had passed the slot's last lap.
        unsafe { self.ring.slots.write(position, |old| Some(make(old))) };
        self.left.start += 1;
    }
}

impl<T: Content, K: Clone> Drop for Claim<'_, T, K> {
    #[inline]
    fn drop(&mut self) {
        if !self.left.is_empty() || self.wakes || self.ring.readers() == 0 {
            self.end();
        }
    }
}

impl<T: Content, K: Clone> Claim<'_, T, K> {
    #[inline(never)]
    fn end(&mut self) {
        // Dropped at the very end: a value's own `Drop` may do anything, even panic.
        let _last = self.give_up();
        if self.wakes {
            self.ring.parking.wake();
        }
        if self.ring.readers() == 0 {
            self.ring.clear();
        }
    }

    /// Leaves the rest empty; gives what stood there a lap ago.
    fn give_up(&mut self) -> Vec<T> {
        let mut last = Vec::with_capacity(self.left());
        for position in self.left.clone() {
            // SAFETY: as in `write`.
            unsafe {
                self.ring.slots.write(position, |old| {
                    last.extend(old);
                    None
                });
            }
            self.left.start += 1;
        }
        last
    }
}

impl<T: Content, K: Clone> Ring<T, K> {
    /// Vacates what the last reader left behind while somebody still wrote.
    #[cold]
    fn clear(&self) {
        let passed = self.passed(&mut lock(&self.state));
        Vacating::run(passed);
    }
}
