//! A handle for hot loops.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::{mpsc, watch};

use busway_transport::{
    BoxFuture, Confirms, ContentType, MessageId, Notice, Topic, TransportError,
};

use crate::bus::Core;
use crate::endpoint::Endpoint;
use crate::error::{FlushError, PublishError, TryPublishError};
use crate::event::Event;
use crate::notice::Board;
use crate::publish::future::{confirm_error, unconfirmed};
use crate::publish::job::{Confirmation, Sent};
use crate::publish::outlet::{Outlet, Outside, Reached};
use crate::publish::{self, Publish, Receipt};
use crate::router::topic::TopicNode;
use crate::sync::Locked;

/// How many failures are kept for the next flush; more are only counted.
const KEPT: usize = 1024;

/// Publishes events of one type without looking up their topic each time, and without waiting for
/// confirmations: [`flush`](Self::flush) does, and reports what failed.
///
/// Clones share their pipeline and their order; two that were made by
/// [`Endpoint::publisher`](crate::Endpoint::publisher) are two publishers.
pub struct Publisher<E> {
    pub(super) endpoint: Endpoint,
    pub(super) outlet: Arc<Outlet>,
    pipeline: Arc<Pipeline>,
    event: PhantomData<fn(E)>,
}

/// What was accepted and is not confirmed yet.
struct Pipeline {
    topic: Topic,
    board: Arc<Board>,
    open: watch::Sender<usize>,
    failed: Mutex<Failed>,
    /// To the task that watches over what is open, while there is one.
    watcher: Mutex<Option<mpsc::UnboundedSender<One>>>,
}

#[derive(Default)]
struct Failed {
    failures: Vec<PublishError>,
    count: usize,
}

/// An event was accepted: everyone here has it, and the transport has taken it over. A failure
/// after that is reported by [`Publisher::flush`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Accepted {
    /// How many subscriptions and groups it is known to have reached by now.
    pub reached: usize,
}

impl<E: Event> Publisher<E> {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        let (outlet, pipeline) = endpoint.outlet::<E, _>(|outlet| {
            let pipeline = Arc::new(Pipeline {
                topic: outlet.node.topic.clone(),
                board: endpoint.bus.board.clone(),
                open: watch::Sender::new(0),
                failed: Mutex::default(),
                watcher: Mutex::default(),
            });
            (outlet.another(pipeline.clone()), pipeline)
        });
        Self { endpoint, outlet, pipeline, event: PhantomData }
    }

    /// Publishes, waiting for room but not for confirmations.
    ///
    /// # Errors
    /// [`PublishError`], as for [`Endpoint::publish`].
    ///
    /// # Cancel safety
    /// Dropped before it is ready, nobody got the event. While it waits it has its place before all
    /// that this publisher and its clones publish later: poll it or drop it.
    #[inline]
    pub fn publish(&self, event: E) -> Publishing<'_, E> {
        Publishing { publisher: self, event: Some(event), slow: None }
    }

    /// The long way, which waits for room where it must.
    pub(super) async fn send(
        &self,
        event: E,
        encoded: Option<(ContentType, Bytes)>,
        gives_way: bool,
    ) -> Result<Accepted, PublishError> {
        let publish = Publish::new(&self.endpoint, event).through(self.outlet.clone());
        let Sent { receipt, pending, .. } = publish.encoded(encoded).send(gives_way).await?;
        let accepted = Accepted { reached: receipt.reached() };
        self.pipeline.add(&self.endpoint.bus, &self.outlet.node, receipt, pending);
        Ok(accepted)
    }

    /// Publishes now or not at all; see [`Publish::try_now`].
    ///
    /// # Errors
    /// [`TryPublishError`], with the event.
    pub fn try_publish(&self, event: E) -> Result<Receipt, TryPublishError<E>> {
        let mut publish = Publish::new(&self.endpoint, event).through(self.outlet.clone());
        if let Some(receipt) = publish.publish_simply() {
            return Ok(receipt);
        }
        let Sent { receipt, pending, .. } = publish.try_send()?;
        self.pipeline.add(&self.endpoint.bus, &self.outlet.node, receipt.clone(), pending);
        Ok(receipt)
    }

    /// Waits until all that this publisher (and its clones) published so far is confirmed, up to
    /// the publish timeout. A failure that no flush reported is told as a
    /// [notice](crate::Notice::PublishFailed) when the last clone is dropped.
    ///
    /// # Errors
    /// [`FlushError`] lists every failure since the last flush.
    ///
    /// # Cancel safety
    /// Safe: failures stay for the next flush.
    pub async fn flush(&self) -> Result<(), FlushError> {
        let after = self.endpoint.bus.settings.publish_timeout;
        let mut open = self.pipeline.open.subscribe();
        let done = open.wait_for(|open| *open == 0);
        if tokio::time::timeout(after, done).await.is_err() {
            let topic = self.outlet.node.topic.to_string();
            self.pipeline.failed.locked().add(PublishError::TimedOut { topic, after, by: None });
        }
        let Failed { failures, count } = std::mem::take(&mut *self.pipeline.failed.locked());
        if count == 0 { Ok(()) } else { Err(FlushError { failures, count }) }
    }
}

/// An event on its way out of a [`Publisher`]; see [`Publisher::publish`].
#[must_use = "an event is published when this is awaited"]
pub struct Publishing<'a, E: Event> {
    publisher: &'a Publisher<E>,
    event: Option<E>,
    slow: Option<BoxFuture<'a, Result<Accepted, PublishError>>>,
}

// No field is ever pinned in place.
impl<E: Event> Unpin for Publishing<'_, E> {}

impl<E: Event> Future for Publishing<'_, E> {
    type Output = Result<Accepted, PublishError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if this.slow.is_some() {
            return this.go_on(context);
        }
        let may_go_on = publish::may_go_on(context);
        if may_go_on {
            let (outlet, bus) = (&this.publisher.outlet, &this.publisher.endpoint.bus);
            if let Some(reached) = outlet.publish(bus, &mut this.event) {
                return Poll::Ready(Ok(Accepted { reached }));
            }
        }
        this.go_farther(context, may_go_on)
    }
}

impl<E: Event> Publishing<'_, E> {
    /// Out of the process, by the short way if there is one.
    #[inline(never)]
    fn go_farther(
        &mut self,
        context: &mut Context<'_>,
        may_go_on: bool,
    ) -> Poll<Result<Accepted, PublishError>> {
        let mut encoded = None;
        if may_go_on {
            let (outlet, bus) = (&self.publisher.outlet, &self.publisher.endpoint.bus);
            match outlet.publish_outside(bus, &mut self.event, None) {
                Outside::Reached(Reached { here, there, .. }) => {
                    return Poll::Ready(Ok(Accepted { reached: here + there }));
                }
                Outside::No(was_encoded) => encoded = was_encoded,
            }
        }
        let event = self.event.take().expect("a publish is not polled after it was ready");
        self.slow = Some(Box::pin(self.publisher.send(event, encoded, !may_go_on)));
        self.go_on(context)
    }

    fn go_on(&mut self, context: &mut Context<'_>) -> Poll<Result<Accepted, PublishError>> {
        match &mut self.slow {
            Some(slow) => slow.as_mut().poll(context),
            None => Poll::Pending,
        }
    }
}

impl<E: Event> fmt::Debug for Publishing<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publishing").field("topic", &E::SCHEMA.topic).finish_non_exhaustive()
    }
}

impl Pipeline {
    /// Watches over what is not confirmed yet.
    fn add(
        self: &Arc<Self>,
        bus: &Core,
        node: &TopicNode,
        receipt: Receipt,
        pending: Option<Confirmation>,
    ) {
        let Some(pending) = pending else { return };
        self.taken();
        let topic = node.topic.to_string();
        let one = One { pipeline: self.clone(), topic, receipt, pending, ended: false };
        let mut watcher = self.watcher.locked();
        let one = match &*watcher {
            // An error: it was cut off with the bus.
            Some(watcher) => watcher.send(one).err().map(|error| error.0),
            None => Some(one),
        };
        if let Some(one) = one {
            // Unbounded, but the transport's window bounds what is open.
            let (to, queue) = mpsc::unbounded_channel();
            *watcher = Some(to);
            drop(watcher);
            bus.spawn_anywhere(watch(self.clone(), one, queue));
        }
    }
}

impl Pipeline {
    fn one_less(&self) {
        self.open.send_if_modified(|open| {
            *open -= 1;
            // Nobody waits for anything else.
            *open == 0
        });
    }
}

/// By the express, where nothing is kept for an event but its place among what is open.
impl Confirms for Pipeline {
    fn taken(&self) {
        self.open.send_if_modified(|open| {
            *open += 1;
            false
        });
    }

    fn ended(
        &self,
        id: MessageId,
        here: usize,
        outcome: Result<busway_transport::Receipt, TransportError>,
    ) {
        if let Err(error) = outcome {
            let error = unconfirmed(self.topic.as_str(), Some(id), here, error);
            self.failed.locked().add(error);
        }
        self.one_less();
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline").field("topic", &self.topic).finish_non_exhaustive()
    }
}

/// Waits for confirmations until none is open: one task for all of them, since waking a task for
/// each would cost more than the rest of it.
async fn watch(pipeline: Arc<Pipeline>, first: One, mut queue: mpsc::UnboundedReceiver<One>) {
    let mut open = FuturesUnordered::from_iter([first.watched()]);
    loop {
        while let Ok(one) = queue.try_recv() {
            open.push(one.watched());
        }
        if open.is_empty() {
            let mut watcher = pipeline.watcher.locked();
            if queue.is_empty() {
                *watcher = None;
                return;
            }
            continue;
        }
        tokio::select! {
            _ = open.next() => while open.next().now_or_never().flatten().is_some() {},
            Some(one) = queue.recv() => open.push(one.watched()),
        }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        for failure in std::mem::take(&mut self.failed.locked().failures) {
            let (topic, reason) = (self.topic.clone(), failure.to_string());
            self.board.tell(Notice::PublishFailed { topic, reason });
        }
    }
}

/// One event that is not confirmed yet. Cut off with its bus, it has failed.
struct One {
    pipeline: Arc<Pipeline>,
    topic: String,
    receipt: Receipt,
    pending: Confirmation,
    ended: bool,
}

impl One {
    async fn watched(mut self) {
        let outcome = (&mut self.pending).await;
        self.ended = true;
        if let Err(error) = outcome {
            let error = confirm_error(&self.topic, &self.receipt, error);
            self.pipeline.failed.locked().add(error);
        }
    }
}

impl Drop for One {
    fn drop(&mut self) {
        if !self.ended {
            let error = confirm_error(&self.topic, &self.receipt, TransportError::Closed);
            self.pipeline.failed.locked().add(error);
        }
        self.pipeline.one_less();
    }
}

impl Failed {
    fn add(&mut self, error: PublishError) {
        self.count += 1;
        if self.failures.len() < KEPT {
            self.failures.push(error);
        }
    }
}

impl<E> Clone for Publisher<E> {
    fn clone(&self) -> Self {
        Self {
            endpoint: self.endpoint.clone(),
            outlet: self.outlet.clone(),
            pipeline: self.pipeline.clone(),
            event: PhantomData,
        }
    }
}

impl<E: Event> fmt::Debug for Publisher<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("endpoint", &self.endpoint.name)
            .field("topic", &self.outlet.node.topic)
            .finish_non_exhaustive()
    }
}
