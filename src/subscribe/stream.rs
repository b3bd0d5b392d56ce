//! Pulled: an async stream of messages and gaps.

use std::future::IntoFuture;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use futures::stream::FusedStream;

use busway_transport::Gap;

use crate::error::SubscribeError;
use crate::event::Event;
use crate::ledger::{Fate, Ledger};
use crate::subscribe::builder::{Starting, Subscribe};
use crate::subscribe::kind::{Any, Kind};
use crate::subscribe::reader::Reader;

/// A stream is being built; awaiting it opens the stream.
#[derive(Debug, Default)]
pub struct Pull(());

/// Events as an async stream of `Result<Message<E>, Gap>`: a loss stands where it happened, and
/// `?` makes it an error.
///
/// Dropping it unsubscribes. After the bus closed it still gives what it holds, and then ends.
///
/// # Cancel safety
/// `next` may be dropped at any time: nothing is lost.
#[must_use = "dropping a stream unsubscribes"]
pub struct EventStream<K: Kind> {
    reader: Reader<K>,
    ended: bool,
}

// The reader is never pinned in place.
impl<K: Kind> Unpin for EventStream<K> {}

impl<K: Kind> EventStream<K> {
    /// The next message or gap; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<K::Message, Gap>> {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    /// What became of the events so far. An event counts as handled when it was taken.
    pub fn ledger(&self) -> Ledger {
        self.reader.registration.queue.ledger()
    }

    pub(super) fn reader(&mut self) -> &mut Reader<K> {
        &mut self.reader
    }

    #[inline]
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<K::Message, Gap>>> {
        if let Some(message) = self.reader.take_simply() {
            self.reader.settle(Fate::handled);
            return Poll::Ready(Some(Ok(message)));
        }
        self.poll_slowly(context)
    }

    #[inline(never)]
    fn poll_slowly(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<K::Message, Gap>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let next = self.reader.poll_next(context);
        match &next {
            Poll::Ready(Some(Ok(_))) => self.reader.settle(Fate::handled),
            Poll::Ready(Some(Err(gap))) => {
                if let Some(on_gap) = &self.reader.options.on_gap {
                    on_gap(gap.clone());
                }
            }
            Poll::Ready(None) => self.ended = true,
            Poll::Pending => {}
        }
        next
    }
}

impl<K: Kind> Stream for EventStream<K> {
    type Item = Result<K::Message, Gap>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll(context)
    }
}

impl<K: Kind> FusedStream for EventStream<K> {
    fn is_terminated(&self) -> bool {
        self.ended
    }
}

impl<K: Kind> std::fmt::Debug for EventStream<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventStream")
            .field("filter", &self.reader.registration.filter)
            .field("ledger", &self.ledger())
            .finish_non_exhaustive()
    }
}

async fn open<K: Kind>(
    builder: Subscribe<'_, K, Pull>,
    shared: bool,
) -> Result<EventStream<K>, SubscribeError> {
    Ok(EventStream { reader: Reader::start(builder, false, shared).await?, ended: false })
}

impl<'a, E: Event> IntoFuture for Subscribe<'a, E, Pull> {
    type Output = Result<EventStream<E>, SubscribeError>;
    type IntoFuture = Starting<'a, EventStream<E>>;

    fn into_future(self) -> Self::IntoFuture {
        Starting::new(open(self, !E::SCHEMA.local))
    }
}

impl<'a> IntoFuture for Subscribe<'a, Any, Pull> {
    type Output = Result<EventStream<Any>, SubscribeError>;
    type IntoFuture = Starting<'a, EventStream<Any>>;

    fn into_future(self) -> Self::IntoFuture {
        Starting::new(open(self, true))
    }
}
