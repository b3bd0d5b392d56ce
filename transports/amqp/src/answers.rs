//! Answers on their way, and the task that sends those with a confirm that cannot go without one.

use busway_transport::TransportError;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot};

use crate::publish::{Outgoing, Publisher};
use crate::tasks::{Counted, Phase, PhaseWatch};

/// An answer, until the broker has it. What was taken of the bus's work is not settled before: it
/// does not depend on whoever waits for [`done`](Self::done), whose delivery may be gone.
pub(crate) struct Kept {
    pub(crate) out: Outgoing,
    done: oneshot::Sender<()>,
    _counted: Counted,
}

impl Kept {
    /// The receiver hears when the broker has it, or when nothing more can be done.
    pub(crate) fn new(out: Outgoing, counted: Counted) -> (Self, oneshot::Receiver<()>) {
        let (done, is_done) = oneshot::channel();
        (Self { out, done, _counted: counted }, is_done)
    }

    pub(crate) fn done(self) {
        // Nobody waits for it when its delivery went back to the broker.
        let _ = self.done.send(());
    }

    async fn confirm(self, back: Publisher) {
        let Self { out, done, _counted } = self;
        let topic = out.what.clone();
        if let Err(error) = back.send(out).await {
            lost(&topic, &error);
        }
        let _ = done.send(());
    }
}

/// An answer cannot be sent. Its request is done with all the same.
pub(crate) fn lost(topic: &str, error: &TransportError) {
    tracing::warn!(%error, topic, "an answer was lost");
}

/// Takes an answer from any thread. Unbounded, but each answer is of a delivery that was handed
/// out, and the prefetch bounds those.
pub(crate) type Confirm = mpsc::UnboundedSender<Kept>;

/// The task.
pub(crate) async fn confirm_all(
    back: Publisher,
    mut answers: mpsc::UnboundedReceiver<Kept>,
    phase: PhaseWatch,
) {
    let mut going = FuturesUnordered::new();
    let closed = phase.reached(Phase::Closed);
    tokio::pin!(closed);
    loop {
        tokio::select! {
            () = &mut closed => break,
            Some(kept) = answers.recv() => going.push(kept.confirm(back.clone())),
            Some(()) = going.next(), if !going.is_empty() => {}
        }
    }
    answers.close();
    let lost = going.len() + answers.len();
    if lost > 0 {
        tracing::warn!(lost, "the bus closed before its answers were out");
    }
}
