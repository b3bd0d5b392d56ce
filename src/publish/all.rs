//! `publisher.publish_all(events)`: many at once.

use crate::error::{PublishAllError, PublishError};
use crate::event::Event;
use crate::publish::Publisher;
use crate::publish::outlet::Outside;

/// How many events are taken from the caller's iterator at a time: its code never runs in the
/// middle of a publish.
const BATCH: usize = 64;

/// Events that were all accepted; see [`Publisher::publish_all`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct AcceptedAll {
    /// How many events.
    pub events: usize,
    /// How many subscriptions and groups each of them is known to have reached by now, at least.
    pub reached: usize,
}

impl<E: Event> Publisher<E> {
    /// Publishes events in their order, waiting for room but not for confirmations. Where they stay
    /// in the process it claims room for many at once, which is faster than one after the other.
    ///
    /// Each event is published by itself: what comes after one that failed is not published.
    ///
    /// ```
    /// # use busway::{Bus, Event};
    /// # #[derive(Event, serde::Serialize, serde::Deserialize)]
    /// # #[event("docs.measured")]
    /// # struct Measured(u32);
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let bus = Bus::private().await?;
    /// # let sensor = bus.endpoint("sensor")?;
    /// let mut measured = sensor.stream::<Measured>().await?;
    /// let publisher = sensor.publisher::<Measured>();
    /// assert_eq!(publisher.publish_all((0..100).map(Measured)).await?.events, 100);
    /// let (mut count, mut sum) = (0, 0);
    /// while count < 100 {
    ///     let mut chunk = measured.next_chunk(64).await.expect("open")?;
    ///     while let Some(event) = chunk.next() {
    ///         count += 1;
    ///         sum += event.0;
    ///     }
    /// }
    /// assert_eq!(sum, 99 * 100 / 2);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`PublishAllError`] says how many were published before the one that failed, and why that
    /// did.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the events are published up to some point, and none after it.
    pub async fn publish_all<I>(&self, events: I) -> Result<AcceptedAll, PublishAllError>
    where
        I: IntoIterator<Item = E>,
        I::IntoIter: Send,
    {
        let mut events = events.into_iter();
        let (mut published, mut least) = (0, usize::MAX);
        loop {
            let batch: Vec<E> = events.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                let reached = if published == 0 { 0 } else { least };
                return Ok(AcceptedAll { events: published, reached });
            }
            let mut batch = batch.into_iter();
            while batch.len() > 0 {
                tokio::task::coop::consume_budget().await;
                let (count, reached) =
                    match self.outlet.publish_many(&self.endpoint.bus, &mut batch) {
                        Some(done) => done,
                        None => {
                            let Some(event) = batch.next() else { break };
                            let failed = |error| PublishAllError { published, error };
                            (1, self.send_one(event).await.map_err(failed)?)
                        }
                    };
                published += count;
                least = least.min(reached);
            }
        }
    }

    /// One event of many.
    async fn send_one(&self, event: E) -> Result<usize, PublishError> {
        let mut event = Some(event);
        let encoded = match self.outlet.publish_outside(&self.endpoint.bus, &mut event, None) {
            Outside::Reached(reached) => return Ok(reached.here + reached.there),
            Outside::No(encoded) => encoded,
        };
        let event = event.expect("what was not published is still there");
        Ok(self.send(event, encoded, false).await?.reached)
    }
}
