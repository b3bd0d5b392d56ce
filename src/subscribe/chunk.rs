//! Pulled in chunks: events that stay where they are while they are looked at.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use busway_transport::Gap;

use crate::event::Event;
use crate::ledger::Fate;
use crate::message::Message;
use crate::parcel::{self, Parcel};
use crate::subscribe::reader::{Reader, Registration};
use crate::subscribe::stream::EventStream;

impl<E: Event> EventStream<E> {
    /// Waits until there is something, and lends what is there, up to `most` events. Faster than
    /// [`next`](Self::next): nothing is counted or copied for each event.
    ///
    /// A stream with a filter, `from`, `not_own` or `take` gives chunks of one event.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, nothing is lost.
    pub async fn next_chunk(&mut self, most: usize) -> Option<Result<Chunk<'_, E>, Gap>> {
        let ahead = std::future::poll_fn(|context| self.poll_chunk(context, most.max(1))).await;
        Some(ahead?.map(|ahead| Chunk { reader: self.reader(), ahead, taken: 0, handled: 0 }))
    }

    fn poll_chunk(
        &mut self,
        context: &mut Context<'_>,
        most: usize,
    ) -> Poll<Option<Result<Ahead<E>, Gap>>> {
        ready!(tokio::task::coop::poll_proceed(context)).made_progress();
        match self.reader().look_ahead(most as u64) {
            0 => self.poll(context).map(|next| next.map(|item| item.map(Ahead::One))),
            count => Poll::Ready(Some(Ok(Ahead::Ring(count)))),
        }
    }
}

/// What a chunk has.
enum Ahead<E> {
    /// So many places of the ring.
    Ring(u64),
    /// One event that came another way.
    One(Message<E>),
}

impl<E: Event> Reader<E> {
    /// How many places of the ring can be lent, of `most`; 0 when the next item has to be taken
    /// the usual way.
    fn look_ahead(&mut self, most: u64) -> u64 {
        let Registration { queue, ring: Some(ring), .. } = &mut self.registration else { return 0 };
        if !self.simple {
            return 0;
        }
        // In this order: what was put into the queue before an event of the ring was published is
        // seen once that event is.
        let ready = ring.ready(most);
        let count = ready.min(queue.first_at().saturating_sub(ring.cursor()));
        let is_ours =
            count > 0 && ring.get(0).is_none_or(|parcel| parcel::peek::<E>(parcel).is_some());
        if is_ours { count } else { 0 }
    }

    /// What stands so many places ahead; nothing where a publisher gave up.
    #[inline]
    fn at(&self, ahead: u64) -> Option<&Arc<dyn Parcel>> {
        self.registration.ring.as_ref()?.get(ahead)
    }
}

/// Some events of a stream, lent one after the other by [`next`](Self::next). They count as handled
/// once they were lent; what was not is still there for the next chunk. Publishers that wait for
/// room get it when the chunk is dropped.
#[must_use = "dropping a chunk leaves its events in the stream"]
pub struct Chunk<'a, E: Event> {
    reader: &'a mut Reader<E>,
    ahead: Ahead<E>,
    /// How many places of the ring have been passed.
    taken: u64,
    handled: u64,
}

impl<E: Event> Chunk<'_, E> {
    /// The next event; `None` after the last of this chunk.
    #[expect(clippy::should_implement_trait, reason = "an iterator's items may outlive the call")]
    #[inline]
    pub fn next(&mut self) -> Option<Lent<'_, E>> {
        let count = match &self.ahead {
            Ahead::Ring(count) => *count,
            Ahead::One(_) if self.taken > 0 => return None,
            Ahead::One(message) => {
                self.taken = 1;
                return Some(Lent(Source::Message(message)));
            }
        };
        while self.taken < count {
            // Places whose publisher gave up are passed over.
            if let Some(parcel) = self.reader.at(self.taken) {
                let event = parcel::peek(parcel)?;
                self.taken += 1;
                self.handled += 1;
                return Some(Lent(Source::Ring(parcel, event)));
            }
            self.taken += 1;
        }
        None
    }

    /// How many events it has left, at most.
    pub fn left(&self) -> usize {
        match &self.ahead {
            Ahead::One(_) => usize::from(self.taken == 0),
            Ahead::Ring(count) => (count - self.taken) as usize,
        }
    }
}

impl<E: Event> Drop for Chunk<'_, E> {
    fn drop(&mut self) {
        // One that came another way was counted when it was taken.
        let Ahead::Ring(_) = self.ahead else { return };
        if let Some(ring) = &mut self.reader.registration.ring {
            ring.count_empty(self.taken - self.handled);
            ring.advance(self.taken);
        }
        self.reader.registration.queue.settled_many(Fate::handled, self.handled);
    }
}

/// An event that is lent by a [`Chunk`]: derefs to `E`.
pub struct Lent<'a, E>(Source<'a, E>);

enum Source<'a, E> {
    Ring(&'a Arc<dyn Parcel>, &'a E),
    Message(&'a Message<E>),
}

impl<E: Event> Lent<'_, E> {
    /// The event with its metadata, to keep. Clones of a message share it.
    pub fn to_message(&self) -> Message<E> {
        match self.0 {
            Source::Message(message) => message.clone(),
            Source::Ring(parcel, _) => {
                Message::take(parcel).expect("what a chunk lends is of its type")
            }
        }
    }
}

impl<E> Deref for Lent<'_, E> {
    type Target = E;
    #[inline]
    fn deref(&self) -> &E {
        match self.0 {
            Source::Ring(_, event) => event,
            Source::Message(message) => message,
        }
    }
}

impl<E: fmt::Debug> fmt::Debug for Lent<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<E: Event> fmt::Debug for Chunk<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk").field("left", &self.left()).finish_non_exhaustive()
    }
}
