//! Readers that sleep.

use std::task::Waker;

use super::sync::{Mutex, lock};

/// How many readers are woken at a time.
const BATCH: usize = 16;

/// The readers that sleep. Its lock is held for moments only: readers on their way to bed and
/// publishers that wake them meet here all the time.
pub(super) struct Parking(Mutex<Vec<Asleep>>);

struct Asleep {
    reader: u64,
    waker: Waker,
}

impl Parking {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// Puts a reader on the list, and gives how many are on it.
    pub(super) fn add(&self, reader: u64, waker: &Waker) -> usize {
        // Cloned before the lock is taken, and an old one dropped after: a waker may do anything.
        let waker = waker.clone();
        let mut asleep = lock(&self.0);
        let mut _old = None;
        match asleep.iter_mut().find(|other| other.reader == reader) {
            Some(known) => _old = Some(std::mem::replace(&mut known.waker, waker)),
            None => asleep.push(Asleep { reader, waker }),
        }
        let count = asleep.len();
        drop(asleep);
        count
    }

    /// Takes a reader off the list.
    pub(super) fn remove(&self, reader: u64) -> Option<Waker> {
        let mut asleep = lock(&self.0);
        let at = asleep.iter().position(|other| other.reader == reader)?;
        Some(asleep.swap_remove(at).waker)
    }

    /// Wakes all.
    #[cold]
    pub(super) fn wake(&self) {
        let mut asleep = lock(&self.0);
        let Some(last) = asleep.pop() else { return };
        if asleep.is_empty() {
            drop(asleep);
            // Wakers may do anything: no lock is held.
            last.waker.wake();
            return;
        }
        let mut one = Some(last);
        loop {
            let mut wakers = [const { None }; BATCH];
            for place in &mut wakers {
                *place = one.take().or_else(|| asleep.pop()).map(|one| one.waker);
            }
            let done = asleep.is_empty();
            drop(asleep);
            wakers.into_iter().flatten().for_each(Waker::wake);
            if done {
                return;
            }
            asleep = lock(&self.0);
        }
    }
}
