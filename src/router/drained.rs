//! Waiting until a subscription has read all that is on its topic's ring.

use std::sync::atomic::{AtomicBool, Ordering, fence};

use tokio::sync::Notify;

/// Between a subscription's reader and those who bring it events from outside.
#[derive(Default)]
pub(crate) struct Drained {
    /// Events came from outside, since the reader last looked.
    fed: AtomicBool,
    /// Somebody waits, or did.
    awaited: AtomicBool,
    told: Notify,
}

impl Drained {
    /// Events came from outside.
    pub(crate) fn feed(&self) {
        self.fed.store(true, Ordering::Relaxed);
    }

    /// Whether any did since the last call.
    pub(crate) fn was_fed(&self) -> bool {
        self.fed.load(Ordering::Relaxed) && self.fed.swap(false, Ordering::Relaxed)
    }

    /// Waits until the reader [tells](Self::tell), unless it has read all.
    pub(crate) async fn wait(&self, has_read_all: impl Fn() -> bool) {
        let mut told = std::pin::pin!(self.told.notified());
        told.as_mut().enable();
        self.awaited.store(true, Ordering::Relaxed);
        // Each side takes its own step before it looks at the other's: of two that meet, at least one
        // sees the other.
        fence(Ordering::SeqCst);
        if !has_read_all() {
            told.await;
        }
    }

    /// The reader has read all, and says so.
    pub(crate) fn tell(&self) {
        fence(Ordering::SeqCst);
        if self.awaited.load(Ordering::Relaxed) && self.awaited.swap(false, Ordering::Relaxed) {
            self.told.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::pin;

    use futures::FutureExt;

    use super::*;

    #[test]
    fn who_waits_is_told_once_all_is_read() {
        let drained = Drained::default();
        let has_read = Cell::new(false);
        let mut waits = pin!(drained.wait(|| has_read.get()));
        assert!(waits.as_mut().now_or_never().is_none());
        // Another waits beside it.
        let mut other = pin!(drained.wait(|| has_read.get()));
        assert!(other.as_mut().now_or_never().is_none());
        has_read.set(true);
        drained.tell();
        assert!(waits.now_or_never().is_some() && other.now_or_never().is_some());
        // And now there is nothing to wait for.
        assert!(drained.wait(|| has_read.get()).now_or_never().is_some());
    }
}
