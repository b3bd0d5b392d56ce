//! A handle for hot loops.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use crate::endpoint::Endpoint;
use crate::error::{FlushError, PublishError, TryPublishError};
use crate::event::Event;
use crate::publish::future::confirm_error;
use crate::publish::job::Sent;
use crate::publish::{Publish, Receipt};
use crate::router::topic::TopicNode;
use crate::sync::Locked;

/// How many failures are kept for the next flush; more are only counted.
const KEPT: usize = 1024;

/// Publishes events of one type without looking up their topic each time, and without waiting for
/// confirmations: [`flush`](Self::flush) does, and reports what failed.
///
/// Clones share their pipeline.
pub struct Publisher<E> {
    endpoint: Endpoint,
    node: Arc<TopicNode>,
    pipeline: Arc<Pipeline>,
    event: PhantomData<fn(E)>,
}

/// What was accepted and is not confirmed yet.
struct Pipeline {
    open: watch::Sender<usize>,
    failed: Mutex<Failed>,
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
        let node = endpoint.bus.node_of(E::SCHEMA.topic);
        let pipeline =
            Pipeline { open: watch::Sender::new(0), failed: Mutex::new(Failed::default()) };
        Self { endpoint, node, pipeline: Arc::new(pipeline), event: PhantomData }
    }

    /// Publishes, waiting for room but not for confirmations.
    ///
    /// # Errors
    /// [`PublishError`], as for [`Endpoint::publish`].
    ///
    /// # Cancel safety
    /// Dropped before it is ready, nobody got the event.
    pub async fn publish(&self, event: E) -> Result<Accepted, PublishError> {
        let publish = Publish::new(&self.endpoint, event).through(self.node.clone());
        let Sent { receipt, pending, .. } = publish.send().await?;
        let accepted = Accepted { reached: receipt.reached() };
        if let Some(pending) = pending {
            self.pipeline.open.send_modify(|open| *open += 1);
            let (pipeline, topic) = (self.pipeline.clone(), self.node.topic.to_string());
            self.endpoint.bus.spawn(async move {
                let outcome = pending.await;
                if let Err(error) = outcome {
                    pipeline.failed.locked().add(confirm_error(&topic, &receipt, error));
                }
                pipeline.open.send_modify(|open| *open -= 1);
            });
        }
        Ok(accepted)
    }

    /// Publishes now or not at all; see [`Publish::try_now`].
    ///
    /// # Errors
    /// [`TryPublishError`], with the event.
    pub fn try_publish(&self, event: E) -> Result<Receipt, TryPublishError<E>> {
        Publish::new(&self.endpoint, event).through(self.node.clone()).try_now()
    }

    /// Waits until all that this publisher (and its clones) published so far is confirmed.
    ///
    /// # Errors
    /// [`FlushError`] lists every failure since the last flush.
    ///
    /// # Cancel safety
    /// Safe: failures stay for the next flush.
    pub async fn flush(&self) -> Result<(), FlushError> {
        let mut open = self.pipeline.open.subscribe();
        // Fails only when the sender is gone, which `self` holds.
        let _ = open.wait_for(|open| *open == 0).await;
        let Failed { failures, count } = std::mem::take(&mut *self.pipeline.failed.locked());
        if count == 0 { Ok(()) } else { Err(FlushError { failures, count }) }
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
            node: self.node.clone(),
            pipeline: self.pipeline.clone(),
            event: PhantomData,
        }
    }
}

impl<E: Event> std::fmt::Debug for Publisher<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher")
            .field("endpoint", &self.endpoint.name)
            .field("topic", &self.node.topic)
            .finish_non_exhaustive()
    }
}
