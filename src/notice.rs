//! What happens on a bus, for whoever watches: peers up and down, connection lost and back, gaps.

use std::pin::Pin;
use std::task::{Context, Poll};

use async_broadcast::{InactiveReceiver, Receiver, Sender, broadcast};
use futures::Stream;
use pin_project::pin_project;
use tokio::sync::watch;

use busway_transport::{Host, Notice};

/// How many notices a slow watcher may be behind; then it misses the oldest.
const KEPT: usize = 256;

/// Where the bus and its transport tell what happened.
pub(crate) struct Board {
    sender: Sender<Notice>,
    // Keeps the channel open while nobody watches.
    _kept: InactiveReceiver<Notice>,
    /// Changes whenever who is there, or subscribed, may have changed.
    changed: watch::Sender<()>,
}

impl Board {
    pub(crate) fn new() -> Self {
        let (mut sender, receiver) = broadcast(KEPT);
        // A watcher that does not read must block nobody.
        sender.set_overflow(true);
        sender.set_await_active(false);
        Self { sender, _kept: receiver.deactivate(), changed: watch::Sender::new(()) }
    }

    pub(crate) fn tell(&self, notice: Notice) {
        // Fails only while nobody watches.
        let _ = self.sender.try_broadcast(notice);
        self.touch();
    }

    /// Lets those who wait for somebody look again.
    pub(crate) fn touch(&self) {
        self.changed.send_replace(());
    }

    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(crate) fn notices(&self) -> Notices {
        Notices { receiver: self.sender.new_receiver() }
    }
}

impl Host for Board {
    fn notice(&self, notice: Notice) {
        tracing::debug!(?notice, "notice");
        self.tell(notice);
    }
}

/// The notices of a bus as a stream, from the call on. A watcher that is 256 behind misses the
/// oldest.
#[must_use = "notices are told to who watches"]
#[pin_project]
#[derive(Debug)]
pub struct Notices {
    #[pin]
    receiver: Receiver<Notice>,
}

impl Notices {
    /// The next notice; `None` when the bus is gone.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn next(&mut self) -> Option<Notice> {
        loop {
            match self.receiver.recv_direct().await {
                Ok(notice) => return Some(notice),
                Err(async_broadcast::RecvError::Overflowed(_)) => {}
                Err(async_broadcast::RecvError::Closed) => return None,
            }
        }
    }
}

impl Stream for Notices {
    type Item = Notice;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Notice>> {
        self.project().receiver.poll_next(context)
    }
}
