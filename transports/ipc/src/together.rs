//! Futures that run together in one task.
//!
//! An event for several peers wakes the writers of all their links at once, and their credit comes back
//! at about the same time. As tasks of their own they would not be done sooner, for each takes less time
//! than waking one more of the runtime's threads; but the runtime would wake one.

use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;

use futures::future::{BoxFuture, FutureExt as _, pending};
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::mpsc;

/// A task that is started with its first future. It ends after the last, once this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Together {
    to: OnceLock<mpsc::UnboundedSender<BoxFuture<'static, ()>>>,
}

impl Together {
    /// Has the future run with the others. One that panics ends alone.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        let to = self.to.get_or_init(|| {
            // Not bounded: there are a few for each link.
            let (to, futures) = mpsc::unbounded_channel();
            tokio::spawn(run(futures));
            to
        });
        let alone = AssertUnwindSafe(future).catch_unwind().map(drop);
        // It fails when the runtime has ended, and with it all that it runs.
        let _ = to.send(alone.boxed());
    }
}

async fn run(mut futures: mpsc::UnboundedReceiver<BoxFuture<'static, ()>>) {
    let mut together = FuturesUnordered::new();
    // One that never comes: a set that has polled all of its futures gives way, and the runtime then
    // wakes another thread.
    together.push(pending().boxed());
    let mut is_open = true;
    while is_open || together.len() > 1 {
        tokio::select! {
            biased;
            Some(()) = together.next() => {}
            future = futures.recv(), if is_open => match future {
                Some(future) => together.push(future),
                None => is_open = false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Barrier;

    use super::*;

    #[tokio::test]
    async fn they_run_side_by_side_and_end_alone() {
        let together = Together::default();
        let all = Arc::new(Barrier::new(3));
        let (done, mut ended) = mpsc::channel(3);
        for _ in 0..3 {
            let (all, done) = (all.clone(), done.clone());
            together.spawn(async move {
                all.wait().await;
                done.send(()).await.unwrap();
            });
        }
        // Without a message: it would look like a failure.
        together.spawn(async { std::panic::resume_unwind(Box::new("one of them")) });
        drop((together, done));
        let mut count = 0;
        while ended.recv().await.is_some() {
            count += 1;
        }
        assert_eq!(count, 3);
    }
}
