//! From a plain interest's consumer to the bus.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use busway_transport::{Arrival, Deliveries, SinkHandle};
use futures::stream;
use tokio::sync::mpsc;

/// How arrivals get to the bus: in the hands of whoever has them, while the bus's stream holds
/// nothing and waits for more, or else by a queue.
pub(crate) struct WayIn {
    pub(crate) queue: mpsc::Sender<Arrival>,
    sink: Option<SinkHandle>,
    /// How many went by the queue.
    queued: u64,
    /// How many of them the bus was done with when it last waited for more.
    done: Arc<AtomicU64>,
}

pub(crate) fn way_in(capacity: usize, sink: Option<SinkHandle>) -> (WayIn, Deliveries) {
    let (queue, mut arrivals) = mpsc::channel(capacity);
    // No such number: it does not wait yet.
    let done = Arc::new(AtomicU64::new(u64::MAX));
    let (mut taken, told) = (0, done.clone());
    let stream = stream::poll_fn(move |context| {
        let next = arrivals.poll_recv(context);
        match next.is_ready() {
            true => taken += 1,
            // What was taken before is done with, or this would not be polled.
            false => told.store(taken, Ordering::Release),
        }
        next
    });
    (WayIn { queue, sink, queued: 0, done }, Box::pin(stream))
}

pub(crate) enum Given {
    Taken,
    Full(Arrival),
    Closed,
}

impl WayIn {
    /// Gives one on now, or gives it back.
    pub(crate) fn give(&mut self, mut arrival: Arrival) -> Given {
        if let (Some(sink), false) = (&self.sink, self.queue.is_closed())
            && self.done.load(Ordering::Acquire) == self.queued
            && let Arrival::Event(envelope) = arrival
        {
            let mut offered = std::iter::once(envelope);
            sink.take(1, &mut offered);
            let Some(envelope) = offered.next() else { return Given::Taken };
            arrival = Arrival::Event(envelope);
        }
        match self.queue.try_send(arrival) {
            Ok(()) => {
                self.queued += 1;
                Given::Taken
            }
            Err(mpsc::error::TrySendError::Full(arrival)) => Given::Full(arrival),
            Err(mpsc::error::TrySendError::Closed(_)) => Given::Closed,
        }
    }

    /// Gives one on when there is room, in its place. Says whether somebody is there.
    pub(crate) async fn send(&mut self, arrival: Arrival) -> bool {
        let sent = self.queue.send(arrival).await.is_ok();
        self.queued += u64::from(sent);
        sent
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use busway_transport::{
        BoxFuture, Common, ContentType, Envelope, Gap, GapReason, MessageId, Name, Payload, PeerId,
        Run, Sink, Source, Topic,
    };
    use futures::{FutureExt, StreamExt};

    use super::*;

    /// Takes as many as it has room for.
    struct Room(Arc<Mutex<(usize, Vec<MessageId>)>>);

    impl Sink for Room {
        fn take(&self, most: usize, events: &mut dyn Iterator<Item = Envelope>) {
            let (room, taken) = &mut *self.0.lock().unwrap();
            let fit = most.min(*room);
            taken.extend(events.take(fit).map(|envelope| envelope.id));
            *room -= fit;
        }

        fn take_run(&self, _: &Common, _: &mut dyn Run) -> bool {
            false
        }

        fn room(&self) -> BoxFuture<'static, ()> {
            Box::pin(std::future::ready(()))
        }
    }

    fn event() -> (MessageId, Arrival) {
        let source = Source { endpoint: Name::new("a").unwrap(), peer: PeerId::from_u64(7) };
        let payload = Payload::encoded(ContentType::JSON, "1");
        let id = MessageId::new();
        (id, Arrival::Event(Envelope::new(id, Topic::new("x.y").unwrap(), source, payload)))
    }

    #[test]
    fn nothing_overtakes_what_waits_in_the_queue() {
        let room = Arc::new(Mutex::new((10, Vec::new())));
        let (mut way, mut stream) = way_in(4, Some(SinkHandle::new(Room(room.clone()))));
        let give = |way: &mut WayIn| {
            let (id, arrival) = event();
            assert!(matches!(way.give(arrival), Given::Taken));
            id
        };
        let taken = || room.lock().unwrap().1.clone();

        // Not before the bus waits.
        let first = give(&mut way);
        assert!(taken().is_empty());
        assert!(
            matches!(stream.next().now_or_never(), Some(Some(Arrival::Event(e))) if e.id == first)
        );
        // It has that one in its hands.
        let second = give(&mut way);
        assert!(taken().is_empty());
        assert!(
            matches!(stream.next().now_or_never(), Some(Some(Arrival::Event(e))) if e.id == second)
        );
        assert!(stream.next().now_or_never().is_none());
        // Now it waits.
        let third = give(&mut way);
        assert_eq!(taken(), [third]);
        // Without room there it goes by the queue, and so does the next.
        room.lock().unwrap().0 = 0;
        let fourth = give(&mut way);
        room.lock().unwrap().0 = 10;
        let fifth = give(&mut way);
        assert_eq!(taken(), [third]);
        for id in [fourth, fifth] {
            let next = stream.next().now_or_never();
            assert!(matches!(next, Some(Some(Arrival::Event(e))) if e.id == id));
        }
        assert!(stream.next().now_or_never().is_none());
        // A gap keeps its place.
        let gap = Arrival::Gap(Gap::new(None, GapReason::Disconnected));
        assert_eq!(way.send(gap).now_or_never(), Some(true));
        give(&mut way);
        assert_eq!(taken(), [third]);
        assert!(matches!(stream.next().now_or_never(), Some(Some(Arrival::Gap(_)))));
    }

    #[test]
    fn a_full_queue_gives_back_and_a_stream_that_went_is_told() {
        let (mut way, stream) = way_in(1, None);
        assert!(matches!(way.give(event().1), Given::Taken));
        let (id, arrival) = event();
        assert!(matches!(way.give(arrival), Given::Full(Arrival::Event(e)) if e.id == id));
        drop(stream);
        assert!(matches!(way.give(event().1), Given::Closed));
    }
}
