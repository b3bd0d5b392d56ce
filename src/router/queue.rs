//! The bounded queue of one subscription: many publishers, one reader.
//!
//! Room is reserved first and filled later, so that an event can be given to several queues or to
//! none. Gaps stand in the queue where the lost events would have stood.
//!
//! A subscription that rides its topic's ring ([`Lane`]) has a queue too, for what does not go to
//! everyone: what comes from outside, what is addressed to it, gaps. Each such item remembers the
//! ring's position at its time, and is read after what was published there before it.

mod gaps;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;

use busway_transport::{Gap, GapReason, Name, Party};

use crate::event::Event;
use crate::ledger::{Counters, Fate, Ledger};
use crate::parcel::{Early, Parcel};
use crate::router::topic::Lane;
use crate::sync::Locked;

/// How often events that come together are left to a reader whose events took long to decode. (Not for
/// ever: the machine may have been busy.)
const LATE: u32 = 256;

/// What a subscription's full queue does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Overflow {
    /// Publishers wait for room, up to their deadline, which names the one in the way.
    #[default]
    Wait,
    /// The oldest waiting event makes room, and a gap tells of it in its place.
    DropOldest,
    /// The new event is dropped, and a gap tells of it in its place.
    DropNewest,
    /// The publisher gets an error at once. (One in another process waits, as for `Wait`.)
    Fail,
    /// Only the newest event is kept; what it replaced is counted, and no gap is told.
    Latest,
}

/// One step of a subscription.
pub(crate) enum Item {
    Event(Arc<dyn Parcel>),
    Gap(Gap),
}

/// An item, and the position of the ring that it stands before.
struct Placed {
    at: u64,
    item: Item,
}

/// How a queue takes an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// There is room, now reserved; or the overflow policy makes it.
    Taken,
    /// The publisher has to wait.
    Full,
    /// The publisher has to fail.
    Refused,
    /// The subscription has ended: nothing to deliver, nobody in the way.
    Ended,
}

/// The queue of one subscription.
pub(crate) struct Queue {
    /// The subscribing endpoint.
    pub(crate) endpoint: Name,
    /// Whether a handler reads it, which a drain waits for; a stream is its owner's to read.
    pub(crate) handled: bool,
    pub(crate) capacity: usize,
    pub(crate) overflow: Overflow,
    /// Opens for its reader what comes from outside, if that is to be done before it waits here.
    early: Option<Early>,
    /// So often not, since that was seen to take long.
    opens_late: AtomicU32,
    /// Set when it rides a ring.
    lane: OnceLock<Lane>,
    state: Mutex<State>,
    /// The ring's position before which the first item stands; `u64::MAX` when it is empty. Changed
    /// under the lock.
    first_at: AtomicU64,
    /// Whether the reader waits for more. Cleared before what it takes counts as taken.
    rests: AtomicBool,
    /// Told when a slot of a full queue comes free, when its reader rests while it drains, and
    /// when it ends.
    pub(crate) room: Notify,
    counters: Counters,
}

/// The life of a queue; it only goes forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Phase {
    #[default]
    Open,
    /// Takes all that comes, so that what the transport had accepted finds its place: no more
    /// than the transport's own bounds.
    Draining,
    /// Takes nothing more; the reader gets what is there, and then the end.
    Closing,
    /// Over.
    Ended,
}

#[derive(Default)]
struct State {
    items: VecDeque<Placed>,
    /// How many of the items are events: gaps take no room.
    events: usize,
    reserved: usize,
    phase: Phase,
    reader: Option<Waker>,
}

impl Queue {
    pub(crate) fn new(
        endpoint: Name,
        handled: bool,
        capacity: usize,
        overflow: Overflow,
        early: Option<Early>,
    ) -> Arc<Self> {
        let capacity = if overflow == Overflow::Latest { 1 } else { capacity.max(1) };
        Arc::new(Self {
            endpoint,
            handled,
            capacity,
            overflow,
            early,
            opens_late: AtomicU32::new(0),
            lane: OnceLock::new(),
            state: Mutex::default(),
            first_at: AtomicU64::new(u64::MAX),
            rests: AtomicBool::new(false),
            room: Notify::new(),
            counters: Counters::default(),
        })
    }

    /// See [`Early`].
    pub(crate) fn early(&self) -> Option<Early> {
        let early = self.early?;
        match self.opens_late.load(Ordering::Relaxed) {
            0 => Some(early),
            // Not exact when several bring events at once, and need not be.
            late => {
                self.opens_late.store(late - 1, Ordering::Relaxed);
                None
            }
        }
    }

    /// Whether it takes events as that type, and never wants their bytes.
    pub(crate) fn takes<E: Event>(&self) -> bool {
        self.early.is_some_and(Early::is_of::<E>)
    }

    /// For a while its reader opens what comes.
    pub(crate) fn open_late(&self) {
        self.opens_late.store(LATE, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn open_early(&self) {
        self.opens_late.store(0, Ordering::Relaxed);
    }

    /// How much room is reserved and not filled yet.
    pub(crate) fn reserved(&self) -> usize {
        self.state.locked().reserved
    }

    pub(crate) fn party(&self) -> Party {
        Party::endpoint(self.endpoint.clone())
    }

    /// From now on what is published here for everyone comes by the ring.
    pub(crate) fn ride(&self, lane: Lane) {
        let _ = self.lane.set(lane);
    }

    #[inline]
    pub(crate) fn lane(&self) -> Option<&Lane> {
        self.lane.get()
    }

    pub(crate) fn ledger(&self) -> Ledger {
        self.counters.read(|| self.lane().map_or(0, Lane::arrived))
    }

    /// Counts what became of an event that had arrived. Only for its reader.
    #[inline]
    pub(crate) fn settled(&self, fate: Fate) {
        self.counters.settled_by_reader(fate, 1);
    }

    /// As [`settled`](Self::settled), for several.
    #[inline]
    pub(crate) fn settled_many(&self, fate: Fate, count: u64) {
        self.counters.settled_by_reader(fate, count);
    }

    /// Counts what its reader left on the ring.
    pub(crate) fn left(&self, count: u64) {
        self.counters.settled_many(Fate::dropped_unsubscribed, count);
    }

    /// Whether it is over at once, whatever is still there.
    pub(crate) fn has_ended(&self) -> bool {
        self.state.locked().phase == Phase::Ended
    }

    /// The ring's position before which the first item stands.
    #[inline]
    pub(crate) fn first_at(&self) -> u64 {
        self.first_at.load(Ordering::Acquire)
    }

    /// The place of what is put in now.
    fn place(&self) -> u64 {
        self.lane().map_or(0, |lane| lane.ring.position())
    }

    /// Whether an event with that address is for this subscription.
    pub(crate) fn is_addressed(&self, to: Option<&Name>) -> bool {
        to.is_none_or(|to| *to == self.endpoint)
    }

    /// Reserves room for one event.
    pub(crate) fn reserve(&self) -> Room {
        match self.reserve_many(1) {
            None => Room::Ended,
            Some(0) if self.overflow == Overflow::Fail => Room::Refused,
            Some(0) => Room::Full,
            Some(_) => Room::Taken,
        }
    }

    /// Reserves room for up to so many events that come together, and says for how many. `None`
    /// when it takes no more at all.
    pub(crate) fn reserve_many(&self, most: usize) -> Option<usize> {
        let mut state = self.state.locked();
        let room = match state.phase {
            Phase::Closing | Phase::Ended => return None,
            // Others wait while it is full.
            Phase::Open if matches!(self.overflow, Overflow::Wait | Overflow::Fail) => {
                most.min(self.capacity.saturating_sub(state.events + state.reserved))
            }
            Phase::Open | Phase::Draining => most,
        };
        state.reserved += room;
        Some(room)
    }

    /// Gives reserved room back.
    pub(crate) fn release(&self) {
        let reader = {
            let mut state = self.state.locked();
            state.reserved -= 1;
            state.reader_if_closing()
        };
        self.room.notify_waiters();
        wake(reader);
    }

    /// Fills reserved room. Gives back what had to go for it: to be dropped outside of all locks,
    /// for a value's own `Drop` may do anything.
    pub(crate) fn push(&self, parcel: Arc<dyn Parcel>) -> Option<Item> {
        let mut state = self.state.locked();
        state.reserved -= 1;
        if state.phase == Phase::Ended {
            return Some(Item::Event(parcel));
        }
        let (gone, reader) = self.arrive(&mut state, parcel);
        self.show_first(&state);
        drop(state);
        wake(reader);
        gone
    }

    /// Fills room that was reserved for events that come together: with no more of them, and with
    /// gaps between. What had to go is left in `items`, to be dropped outside of all locks.
    pub(crate) fn push_many(&self, reserved: usize, items: &mut Vec<Item>) {
        let mut state = self.state.locked();
        state.reserved -= reserved;
        let (mut events, mut gone, mut reader) = (0, Vec::new(), None);
        for item in items.drain(..) {
            events += usize::from(matches!(item, Item::Event(_)));
            reader = match item {
                Item::Event(parcel) if state.phase == Phase::Ended => {
                    gone.push(Item::Event(parcel));
                    None
                }
                Item::Event(parcel) => {
                    let (old, reader) = self.arrive(&mut state, parcel);
                    gone.extend(old);
                    reader
                }
                Item::Gap(gap) => self.tell(&mut state, gap),
            }
            .or(reader);
        }
        self.show_first(&state);
        let closing = if events < reserved { state.reader_if_closing() } else { None };
        drop(state);
        *items = gone;
        if events < reserved {
            self.room.notify_waiters();
        }
        wake(reader.or(closing));
    }

    /// Puts an event in, or whatever the policy says. Gives back what had to go for it.
    fn arrive(&self, state: &mut State, parcel: Arc<dyn Parcel>) -> (Option<Item>, Option<Waker>) {
        self.counters.arrived();
        let at = self.place();
        if state.events < self.capacity || state.phase > Phase::Open {
            return (None, state.put(at, Item::Event(parcel)));
        }
        self.counters.settled(Fate::dropped_overflow);
        match self.overflow {
            Overflow::DropNewest => {
                let reader = state.put_gap(at, Gap::new(Some(1), GapReason::Overflow));
                (Some(Item::Event(parcel)), reader)
            }
            Overflow::Latest => (state.take_oldest(), state.put(at, Item::Event(parcel))),
            _ => (state.drop_oldest(), state.put(at, Item::Event(parcel))),
        }
    }

    /// Lets the reader see where the first item stands, without the lock.
    fn show_first(&self, state: &State) {
        let first = state.items.front().map_or(u64::MAX, |placed| placed.at);
        self.first_at.store(first, Ordering::Release);
    }

    /// Tells the reader of a loss, in place, and counts it.
    pub(crate) fn push_gap(&self, gap: Gap) {
        let reader = {
            let mut state = self.state.locked();
            let reader = self.tell(&mut state, gap);
            self.show_first(&state);
            reader
        };
        wake(reader);
    }

    fn tell(&self, state: &mut State, gap: Gap) -> Option<Waker> {
        self.counters.missed(gap.missed.unwrap_or(1));
        if self.overflow == Overflow::Latest && gap.reason == GapReason::Overflow {
            return None;
        }
        state.put_gap(self.place(), gap)
    }

    /// The next step of those that stand before a position of the ring; `None` after the end.
    pub(crate) fn poll_next(&self, context: &mut Context<'_>, before: u64) -> Poll<Option<Item>> {
        let mut state = self.state.locked();
        if state.phase < Phase::Ended && state.items.front().is_some_and(|first| first.at <= before)
        {
            self.is_busy();
            let was_full = state.events + state.reserved >= self.capacity;
            let item = state.items.pop_front().map(|placed| placed.item);
            let is_event = matches!(item, Some(Item::Event(_)));
            state.events -= usize::from(is_event);
            self.show_first(&state);
            drop(state);
            if is_event && was_full {
                self.room.notify_waiters();
            }
            return Poll::Ready(item);
        }
        let is_empty = state.items.is_empty() && state.reserved == 0;
        if state.phase == Phase::Ended || (state.phase == Phase::Closing && is_empty) {
            return Poll::Ready(None);
        }
        if !state.reader.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            state.reader = Some(context.waker().clone());
        }
        self.rests.store(true, Ordering::Release);
        let draining = state.phase == Phase::Draining;
        drop(state);
        if draining {
            self.room.notify_waiters();
        }
        Poll::Pending
    }

    /// The reader is about to take something.
    #[inline]
    pub(crate) fn is_busy(&self) {
        if self.rests.load(Ordering::Relaxed) {
            self.rests.store(false, Ordering::Release);
        }
    }

    /// Whether it is empty and its reader waits for more: a handler's, then, is not running.
    pub(crate) fn is_at_rest(&self) -> bool {
        let state = self.state.locked();
        // In this order: what the ring says was read had cleared `rests` before.
        let empty = state.items.is_empty()
            && state.reserved == 0
            && self.lane().is_none_or(|lane| lane.waiting() == 0);
        (empty && self.rests.load(Ordering::Acquire)) || state.phase == Phase::Ended
    }

    /// How many more events it takes before it is full.
    pub(crate) fn free(&self) -> usize {
        let state = self.state.locked();
        self.capacity.saturating_sub(state.events + state.reserved)
    }

    /// Whether a publisher would have to wait for it.
    pub(crate) fn is_full(&self) -> bool {
        let state = self.state.locked();
        let queue_is_full = state.events + state.reserved >= self.capacity;
        state.phase == Phase::Open
            && self.overflow == Overflow::Wait
            && (queue_is_full || self.lane().is_some_and(Lane::is_full))
    }

    /// From now on takes all that comes.
    pub(crate) fn drain(&self) {
        let mut state = self.state.locked();
        state.phase = state.phase.max(Phase::Draining);
        drop(state);
        self.room.notify_waiters();
    }

    /// Takes no more; the reader still gets what is there, and then the end.
    pub(crate) fn close(&self) {
        let reader = {
            let mut state = self.state.locked();
            state.phase = state.phase.max(Phase::Closing);
            state.reader.take()
        };
        self.room.notify_waiters();
        wake(reader);
        if let Some(lane) = self.lane() {
            lane.close();
        }
    }

    /// Ends at once: what is still there is counted as dropped by its owner's wish.
    pub(crate) fn end(&self) {
        let (items, reader) = {
            let mut state = self.state.locked();
            state.phase = Phase::Ended;
            let events = std::mem::take(&mut state.events);
            self.counters.settled_many(Fate::dropped_unsubscribed, events as u64);
            let items = std::mem::take(&mut state.items);
            self.show_first(&state);
            (items, state.reader.take())
        };
        self.room.notify_waiters();
        wake(reader);
        if let Some(lane) = self.lane() {
            lane.close();
        }
        // Dropped outside of the lock: a value's own `Drop` may do anything.
        drop(items);
    }
}

impl State {
    fn reader_if_closing(&mut self) -> Option<Waker> {
        if self.phase >= Phase::Closing { self.reader.take() } else { None }
    }

    fn put(&mut self, at: u64, item: Item) -> Option<Waker> {
        self.events += usize::from(matches!(item, Item::Event(_)));
        self.items.push_back(Placed { at, item });
        self.reader.take()
    }
}

fn wake(reader: Option<Waker>) {
    if let Some(waker) = reader {
        waker.wake();
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue")
            .field("endpoint", &self.endpoint)
            .field("capacity", &self.capacity)
            .field("overflow", &self.overflow)
            .field("ledger", &self.ledger())
            .finish_non_exhaustive()
    }
}
