//! A publisher that waits for room.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::sync::{Ordering, announce, lock};
use super::{Content, Head, Ring};

/// Resolves when it is worth trying to claim again: there is room, nobody reads any more, or the
/// gate was opened for other reasons. Dropping it leaves nothing behind.
pub(crate) struct Room<'a, T: Content, K: Clone> {
    ring: &'a Ring<T, K>,
    number: Option<u64>,
}

impl<T: Content, K: Clone> Ring<T, K> {
    pub(crate) fn room(&self) -> Room<'_, T, K> {
        Room { ring: self, number: None }
    }

    /// How many positions could be claimed now.
    pub(crate) fn free(&self) -> u64 {
        let state = lock(&self.state);
        let head = Head::unpack(self.head.load(Ordering::Acquire));
        state.limit(self.slots.length()).position.saturating_sub(head.position)
    }
}

impl<T: Content, K: Clone> Future for Room<'_, T, K> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let ring = self.ring;
        // Cloned before the lock is taken, and dropped after: a waker may do anything.
        let mut waker = context.waker().clone();
        let mut state = lock(&ring.state);
        if let Some(number) = self.number {
            let known = state.waiting.iter_mut().find(|(other, _)| *other == number);
            if let Some((_, known)) = known {
                std::mem::swap(known, &mut waker);
                drop(state);
                return Poll::Pending;
            }
            // Woken, which took it off the list.
            drop(state);
            self.number = None;
            return Poll::Ready(());
        }
        if ring.has_room(&state) {
            drop(state);
            return Poll::Ready(());
        }
        // Nobody moves the head while there is no room and we hold the lock.
        let head = Head::unpack(ring.head.load(Ordering::Acquire));
        announce(&ring.signs.gate, head.position + 1);
        // A reader that passed before it could see the gate is seen here.
        if ring.has_room(&state) {
            drop(state);
            return Poll::Ready(());
        }
        let number = state.next_number();
        state.waiting.push((number, waker));
        drop(state);
        self.number = Some(number);
        Poll::Pending
    }
}

impl<T: Content, K: Clone> Drop for Room<'_, T, K> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let mut state = lock(&self.ring.state);
        let at = state.waiting.iter().position(|(other, _)| *other == number);
        let removed = at.map(|at| state.waiting.swap_remove(at));
        if state.waiting.is_empty() {
            self.ring.signs.gate.store(u64::MAX, Ordering::SeqCst);
        }
        drop(state);
        // A waker may do anything when it is dropped.
        drop(removed);
    }
}
