//! Readers that sleep.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
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

    /// Wakes all who are on the list now. (Not those who come meanwhile: they have seen what the
    /// caller claimed, and could keep it here for ever.)
    #[cold]
    pub(super) fn wake(&self) {
        let mut asleep = lock(&self.0);
        let mut left = asleep.len();
        if left <= 1 {
            let one = asleep.pop();
            drop(asleep);
            // Wakers may do anything: no lock is held.
            if let Some(one) = one {
                one.waker.wake();
            }
            return;
        }
        drop(asleep);
        let mut batch = self.take(&mut left);
        wake_all(std::iter::from_fn(|| {
            batch.next().or_else(|| {
                batch = self.take(&mut left);
                batch.next()
            })
        }));
    }

    /// Takes some from the front of the list, where those are who have been there the longest:
    /// whoever is removed meanwhile moves others only forward.
    fn take(&self, left: &mut usize) -> impl Iterator<Item = Waker> + use<> {
        let mut wakers = [const { None }; BATCH];
        let mut asleep = lock(&self.0);
        let count = BATCH.min(*left).min(asleep.len());
        for (place, one) in wakers.iter_mut().zip(asleep.drain(..count)) {
            *place = Some(one.waker);
        }
        *left -= count;
        wakers.into_iter().flatten()
    }
}

/// Wakes all, under no lock. A waker that panics keeps no other from being woken: they are on no
/// list any more. The panic goes on afterwards.
pub(super) fn wake_all(wakers: impl Iterator<Item = Waker>) {
    let mut panic = None;
    for waker in wakers {
        // Nothing of ours is changed halfway in there.
        panic = catch_unwind(AssertUnwindSafe(|| waker.wake())).err().or(panic);
    }
    if let Some(panic) = panic {
        resume_unwind(panic);
    }
}
