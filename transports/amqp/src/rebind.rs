//! When an exchange was deleted under us: whoever publishes finds out, nobody who consumes does.
//! So the finder tells the others, with its next sign of life, and all bind again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

/// Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Rebind(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// How often this bus found an exchange missing: what the others are told.
    found: AtomicU64,
    signal: watch::Sender<()>,
}

impl Rebind {
    /// This bus found an exchange missing.
    pub(crate) fn found(&self) {
        self.0.found.fetch_add(1, Ordering::Relaxed);
        self.heard();
    }

    /// Another bus did.
    pub(crate) fn heard(&self) {
        self.0.signal.send_replace(());
    }

    pub(crate) fn times(&self) -> u64 {
        self.0.found.load(Ordering::Relaxed)
    }

    /// Changes when everything has to be bound again.
    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.0.signal.subscribe()
    }
}
