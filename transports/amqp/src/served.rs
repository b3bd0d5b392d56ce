//! Deliveries that are answered one by one: the work of groups and the requests of responders. Who
//! takes and settles them is [`Served`].

use std::sync::Arc;
use std::task::Poll;
use std::time::{Instant, SystemTime};

use busway_transport::{BoxStream, TransportError};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream;
use lapin::types::ShortString;
use lapin::{Acker, BasicProperties};
use tokio::sync::{mpsc, oneshot};

use crate::error::{OPERATION, timed_out};
use crate::member::Served;
use crate::presence::Registration;
use crate::shared::Shared;
use crate::tasks::Counted;
use crate::topology::Stand;

/// A delivery in our hands.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) acker: Acker,
    pub(crate) tag: u64,
    /// Which of the member's channels it came by.
    pub(crate) channel: u64,
    pub(crate) queue: ShortString,
    pub(crate) redelivered: bool,
    pub(crate) routing_key: ShortString,
    pub(crate) properties: BasicProperties,
    pub(crate) payload: Bytes,
    /// When it came here: the time it then waits counts.
    pub(crate) arrived: Instant,
}

impl Taken {
    /// When it came here, by the calendar.
    pub(crate) fn arrived(&self) -> SystemTime {
        let now = SystemTime::now();
        now.checked_sub(self.arrived.elapsed()).unwrap_or(now)
    }
}

/// One kind of deliveries that are answered.
pub(crate) trait Work: Send + 'static {
    /// What the stream gives.
    type Item: Send + 'static;
    /// How one is answered.
    type Verdict: Send + 'static;

    /// What has to be declared; each of the queues is consumed.
    fn stands(&self) -> Vec<Stand>;
    /// Lets the peers know of it.
    fn register(&self) -> Registration;
    /// How many are held at once, per queue.
    fn prefetch(&self) -> u16;
    /// Makes the stream's item, or answers at once.
    fn take(
        &self,
        taken: &Taken,
        answer: Answer<Self::Verdict>,
    ) -> Result<Self::Item, Self::Verdict>;
    /// Carries out an answer.
    fn settle(&self, taken: Arc<Taken>, verdict: Self::Verdict) -> Settle;
    /// Gives one back that nobody saw.
    fn give_back(&self, taken: Arc<Taken>) -> Settle;
}

/// What becomes of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// The broker may forget it.
    Ack,
    /// The broker hands it out again.
    HandBack,
}

/// How it is found out what becomes of a delivery.
pub(crate) enum Settle {
    Now(After),
    Later(BoxFuture<'static, After>),
}

/// Sends the verdict on one delivery to its worker.
pub(crate) struct Answer<V>(mpsc::UnboundedSender<Verdict<V>>, Arc<Taken>, Counted);

/// A verdict on its way; what counts the delivery goes with it.
pub(crate) type Verdict<V> = (Arc<Taken>, V, Counted);

impl<V> Answer<V> {
    pub(crate) fn new(
        to: mpsc::UnboundedSender<Verdict<V>>,
        taken: Arc<Taken>,
        counted: Counted,
    ) -> Self {
        Self(to, taken, counted)
    }

    /// What it answers.
    pub(crate) fn to(&self) -> &Taken {
        &self.1
    }

    pub(crate) fn give(self, verdict: V) {
        // Closed only with the bus; then the broker has the delivery back.
        let _ = self.0.send((self.1, verdict, self.2));
    }
}

/// Starts a member. Ready when its queues stand and are consumed.
pub(crate) async fn serve<W: Work>(
    shared: &Arc<Shared>,
    work: W,
) -> Result<BoxStream<'static, W::Item>, TransportError> {
    let capacity = usize::from(work.prefetch()) * work.stands().len();
    let (out, mut items) = mpsc::channel::<(Acker, W::Item)>(capacity);
    let (ready, is_ready) = oneshot::channel();
    let worker = Served::new(shared.clone(), work, out, ready);
    shared.tasks.spawn(worker.run());
    match tokio::time::timeout(OPERATION, is_ready).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => return Err(error),
        Ok(Err(_)) => return Err(TransportError::Closed),
        Err(_) => return Err(timed_out("declaring a queue", OPERATION)),
    }
    Ok(Box::pin(stream::poll_fn(move |context| {
        loop {
            match items.poll_recv(context) {
                // The broker has taken it back meanwhile and hands it out again.
                Poll::Ready(Some((acker, _))) if !acker.usable() => {}
                Poll::Ready(item) => return Poll::Ready(item.map(|(_, item)| item)),
                Poll::Pending => return Poll::Pending,
            }
        }
    })))
}
