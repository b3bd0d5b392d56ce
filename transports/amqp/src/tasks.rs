//! The tasks of one bus, its phases, and counts that can be waited for.

use std::future::Future;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::{Mutex, mpsc, watch};

/// How far a bus is in its life. Later ones include earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Open,
    /// Nothing more is taken; what was taken is settled.
    Leaving,
    /// Tasks end.
    Closed,
}

/// Sees the phases. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct PhaseWatch(watch::Receiver<Phase>);

impl PhaseWatch {
    pub(crate) fn new() -> (watch::Sender<Phase>, Self) {
        let (sender, receiver) = watch::channel(Phase::Open);
        (sender, Self(receiver))
    }

    /// Resolves in the given phase or a later one.
    pub(crate) async fn reached(&self, phase: Phase) {
        // Without a sender the bus was dropped: that is the last phase.
        let _ = self.0.clone().wait_for(|now| *now >= phase).await;
    }

    pub(crate) fn is(&self, phase: Phase) -> bool {
        *self.0.borrow() >= phase || self.0.has_changed().is_err()
    }
}

/// Spawns tasks and waits for their end.
#[derive(Debug, Clone)]
pub(crate) struct Tasks {
    alive: mpsc::WeakSender<()>,
}

/// Resolves when all tasks have ended. As long as it is there more can be spawned.
#[derive(Debug)]
pub(crate) struct TasksEnd {
    keep: Mutex<Option<mpsc::Sender<()>>>,
    all: Mutex<mpsc::Receiver<()>>,
}

impl Tasks {
    pub(crate) fn new() -> (Self, TasksEnd) {
        let (sender, receiver) = mpsc::channel(1);
        let tasks = Self { alive: sender.downgrade() };
        (tasks, TasksEnd { keep: Mutex::new(Some(sender)), all: Mutex::new(receiver) })
    }

    /// Spawns, or drops the future when the bus has closed.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let Some(alive) = self.alive.upgrade() else { return };
        // Boxed: the futures of workers are large.
        let task: BoxFuture<'static, ()> = Box::pin(task);
        tokio::spawn(async move {
            task.await;
            drop(alive);
        });
    }
}

impl TasksEnd {
    pub(crate) async fn wait(&self) {
        self.keep.lock().await.take();
        let _ = self.all.lock().await.recv().await;
    }
}

/// A count that can be waited for.
#[derive(Debug, Clone)]
pub(crate) struct Gauge(Arc<watch::Sender<usize>>);

/// One in a [`Gauge`], until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted(Gauge);

impl Gauge {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }

    pub(crate) fn count(&self) -> Counted {
        self.0.send_modify(|count| *count += 1);
        Counted(self.clone())
    }

    pub(crate) async fn zero(&self) {
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}
