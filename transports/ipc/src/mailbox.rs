//! A queue between what comes in and the stream that the bus polls. Bounded by those who fill it:
//! the group engine by a member's concurrency, callers by the requests they have open.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// A lock without poison: what is behind ours is consistent whenever somebody else may panic.
#[inline]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The queue.
#[derive(Debug)]
pub(crate) struct Mailbox<T>(Mutex<Inner<T>>);

#[derive(Debug)]
struct Inner<T> {
    items: VecDeque<T>,
    ended: bool,
    waker: Option<Waker>,
}

impl<T> Mailbox<T> {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Inner { items: VecDeque::new(), ended: false, waker: None }))
    }

    /// Adds an item, or gives it back when the mailbox has ended.
    pub(crate) fn push(&self, item: T) -> Result<(), T> {
        let mut inner = lock(&self.0);
        if inner.ended {
            return Err(item);
        }
        inner.items.push_back(item);
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// The stream ends after what is there.
    pub(crate) fn end(&self) {
        let mut inner = lock(&self.0);
        inner.ended = true;
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes everything out, for dropping it where no lock is held.
    pub(crate) fn drain(&self) -> VecDeque<T> {
        std::mem::take(&mut lock(&self.0).items)
    }

    /// Takes out the first item that fits.
    pub(crate) fn take(&self, fits: impl Fn(&T) -> bool) -> Option<T> {
        let mut inner = lock(&self.0);
        let at = inner.items.iter().position(fits)?;
        inner.items.remove(at)
    }

    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut inner = lock(&self.0);
        match inner.items.pop_front() {
            Some(item) => Poll::Ready(Some(item)),
            None if inner.ended => Poll::Ready(None),
            None => {
                inner.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
