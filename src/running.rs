//! How what runs inside of a handler knows that it does.
//!
//! As `tokio::task_local!` would do it, but for values that are copied: it stands on the path of each
//! request that is answered in place, where guarding and swapping took a tenth of all instructions.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project::{pin_project, pinned_drop};

use busway_transport::PeerId;

/// A handler that runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Running {
    /// Its bus.
    pub(crate) bus: PeerId,
    /// The address of the queue that nobody empties while it runs; 0 when others do.
    pub(crate) gates: usize,
}

/// The handler that this task runs now.
pub(crate) static IN_HANDLER: InHandler = InHandler;

pub(crate) struct InHandler;

thread_local! {
    static RUNNING: Cell<Option<Running>> = const { Cell::new(None) };
}

impl InHandler {
    /// Looks at the handler, if there is one.
    #[inline]
    pub(crate) fn try_with<T>(&self, look: impl FnOnce(&Running) -> T) -> Option<T> {
        RUNNING.get().as_ref().map(look)
    }

    /// Runs a part of a handler.
    #[inline]
    pub(crate) fn sync_scope<T>(&self, running: Running, part: impl FnOnce() -> T) -> T {
        let _entered = Entered(RUNNING.replace(Some(running)));
        part()
    }

    /// Runs a future as a handler's, wherever it is polled or dropped.
    pub(crate) fn scope<F: Future>(&self, running: Running, future: F) -> Scoped<F> {
        Scoped { running, future: Some(future) }
    }
}

/// What ran before in this thread, and goes on afterwards.
struct Entered(Option<Running>);

impl Drop for Entered {
    #[inline]
    fn drop(&mut self) {
        RUNNING.set(self.0);
    }
}

#[pin_project(PinnedDrop)]
pub(crate) struct Scoped<F> {
    running: Running,
    /// None when it has ended.
    #[pin]
    future: Option<F>,
}

impl<F: Future> Future for Scoped<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        IN_HANDLER.sync_scope(*this.running, || {
            let future = this.future.as_mut().as_pin_mut();
            let ended = future.expect("it is polled no more when it has ended").poll(context);
            if ended.is_ready() {
                this.future.set(None);
            }
            ended
        })
    }
}

#[pinned_drop]
impl<F> PinnedDrop for Scoped<F> {
    fn drop(self: Pin<&mut Self>) {
        let mut this = self.project();
        if this.future.is_some() {
            IN_HANDLER.sync_scope(*this.running, || this.future.set(None));
        }
    }
}
