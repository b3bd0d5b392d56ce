//! A bell as a socket to ourselves. (A pipe would do it sooner, but who writes to one whose other end has
//! just gone gets a signal.)

use std::future::{Future, poll_fn};
use std::io::{self, Write as _};
use std::os::unix::net;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker, ready};

use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::UnixStream;

pub(super) struct Socket {
    end: UnixStream,
    rope: Arc<Rope>,
}

/// The end that is written to.
struct Rope(net::UnixStream);

impl Socket {
    pub(super) fn new() -> Option<Self> {
        let make = || -> io::Result<_> {
            let (end, rope) = net::UnixStream::pair()?;
            end.set_nonblocking(true)?;
            rope.set_nonblocking(true)?;
            Ok(Self { end: UnixStream::from_std(end)?, rope: Arc::new(Rope(rope)) })
        };
        match make() {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::debug!(%error, "no bell: a link's task may change threads more often");
                None
            }
        }
    }

    pub(super) async fn wait(&mut self, mut what: Pin<&mut (impl Future<Output = ()> + Send)>) {
        let waker = Waker::from(self.rope.clone());
        poll_fn(|context| {
            loop {
                if what.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                    return Poll::Ready(());
                }
                // It may have rung for an earlier wait.
                ready!(self.poll_rung(context));
            }
        })
        .await;
    }

    pub(super) async fn give_way(&mut self) {
        let mut has_pulled = false;
        poll_fn(|context| {
            if !has_pulled {
                while self.poll_rung(context).is_ready() {}
                self.rope.wake_by_ref();
                has_pulled = true;
            }
            self.poll_rung(context)
        })
        .await;
    }

    /// Ready when it rang since the last time.
    fn poll_rung(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut room = [0; 64];
        match ready!(Pin::new(&mut self.end).poll_read(context, &mut ReadBuf::new(&mut room))) {
            Ok(()) => Poll::Ready(()),
            // The runtime ends, and with it the task.
            Err(_) => Poll::Pending,
        }
    }
}

impl Wake for Rope {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // When it is full, it has rung.
        let _ = (&self.0).write(&[0]);
    }
}
