//! One event into several queues, or into none (law 9); and events that arrive together.

use std::sync::Arc;

use busway_transport::Name;

use super::queue::{Item, Queue, Room};
use crate::parcel::Parcel;

/// Why an event was not taken.
#[derive(Debug)]
pub(crate) enum Blocked {
    /// This queue is full: wait for its room.
    Full(Arc<Queue>),
    /// This queue is full, and asked for publishers to fail.
    Refused(Arc<Queue>),
}

/// Room reserved in every queue that an event is for.
pub(crate) struct Reserved<'a> {
    queues: &'a [Arc<Queue>],
    /// Which of the queues were taken, as a bit each where that fits.
    taken: Taken,
}

/// Which queues took part: an ended queue holds no reservation, and the address may differ.
#[derive(Default)]
struct Taken {
    first: u64,
    more: Vec<bool>,
}

impl Taken {
    fn set(&mut self, at: usize) {
        if at < 64 {
            self.first |= 1 << at;
        } else {
            self.more.resize(at - 63, false);
            self.more[at - 64] = true;
        }
    }

    fn has(&self, at: usize) -> bool {
        if at < 64 {
            self.first & (1 << at) != 0
        } else {
            self.more.get(at - 64).copied().unwrap_or(false)
        }
    }
}

impl<'a> Reserved<'a> {
    /// Reserves room in all of the queues that `takes` is true for, or in none.
    pub(crate) fn reserve(
        queues: &'a [Arc<Queue>],
        takes: impl Fn(&Queue) -> bool,
    ) -> Result<Self, Blocked> {
        let mut room = Self { queues, taken: Taken::default() };
        for (at, queue) in queues.iter().enumerate().filter(|(_, queue)| takes(queue)) {
            match queue.reserve() {
                Room::Taken => room.taken.set(at),
                Room::Ended => {}
                Room::Full => return Err(Blocked::Full(queue.clone())),
                Room::Refused => return Err(Blocked::Refused(queue.clone())),
            }
        }
        Ok(room)
    }

    /// How many subscriptions the event will reach.
    pub(crate) fn count(&self) -> usize {
        self.taken.first.count_ones() as usize + self.taken.more.iter().filter(|t| **t).count()
    }

    /// Delivers the event. Gives back what had to go for it: to be dropped outside of all locks.
    pub(crate) fn commit(mut self, parcel: &Arc<dyn Parcel>) -> Vec<Item> {
        let mut gone = Vec::new();
        let taken = std::mem::take(&mut self.taken);
        for (at, queue) in self.queues.iter().enumerate() {
            if taken.has(at) {
                gone.extend(queue.push(parcel.clone()));
            }
        }
        gone
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        for (at, queue) in self.queues.iter().enumerate() {
            if self.taken.has(at) {
                queue.release();
            }
        }
    }
}

/// Events that arrive together, and their room in every queue that has not ended. They are
/// delivered when this is dropped, and what room they did not take is given back.
pub(crate) struct Batch<'a> {
    /// Each with the room that was reserved there, and what it gets.
    queues: Vec<(&'a Queue, usize, Vec<Item>)>,
    /// For how many events there is room everywhere.
    pub(crate) room: usize,
}

impl<'a> Batch<'a> {
    /// Reserves room for up to so many events.
    pub(crate) fn reserve(queues: &'a [Arc<Queue>], most: usize) -> Self {
        let mut batch = Self { queues: Vec::with_capacity(queues.len()), room: most };
        for queue in queues {
            if let Some(room) = queue.reserve_many(batch.room) {
                batch.room = room;
                batch.queues.push((queue, room, Vec::new()));
            }
        }
        batch
    }

    /// The queues, and for how many events there is room in each.
    pub(crate) fn reserved(&self) -> impl Iterator<Item = (&'a Queue, usize)> {
        self.queues.iter().map(|(queue, reserved, _)| (*queue, *reserved))
    }

    /// Adds an item for those that an event with that address is for.
    pub(crate) fn add(&mut self, to: Option<&Name>, item: impl Fn() -> Item) {
        for (queue, reserved, items) in &mut self.queues {
            if queue.is_addressed(to) {
                if items.is_empty() {
                    items.reserve(*reserved);
                }
                items.push(item());
            }
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        for (queue, reserved, items) in &mut self.queues {
            queue.push_many(*reserved, items);
        }
    }
}
