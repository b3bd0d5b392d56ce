//! The short way in: what comes from outside goes onto the topic's ring, where that is all that there is
//! to do with it. It is decoded once for all who read it, in memory that earlier events left there.

use std::sync::Arc;

use busway_transport::{BoxFuture, Common, Run};

use super::inlet::Inlet;
use super::multicast::Batch;
use super::queue::{Item, Queue};
use super::topic::{Lane, TopicRing};
use crate::parcel::{Early, Landing, contain};
use crate::sync::Locked;

/// How many are taken at once at most: half of a ring of the usual length. What takes long to decode ends
/// it early.
const TOGETHER: usize = 512;

impl Inlet {
    /// See [`Sink::take_run`](busway_transport::Sink::take_run).
    pub(super) fn land(&self, common: &Common, run: &mut dyn Run) -> bool {
        let queues = self.queues.load();
        let Some((ring, early)) = straight(&queues) else { return false };
        let (peer, topic) = (common.source.peer, &common.topic);
        let Some(last) = self.sequences.locked().last(peer, topic) else { return false };
        let share = queues.iter().map(|queue| queue.capacity / 2).min().unwrap_or(0);
        if share == 0 || last.number == u64::MAX {
            return false;
        }
        // In the queues there is room for those that others here are quicker than.
        let mut batch = Batch::reserve(&queues, share.min(TOGETHER));
        let numbers = usize::try_from(u64::MAX - last.number).unwrap_or(usize::MAX);
        let most = batch.room.min(room(&batch)).min(numbers);
        if most == 0 {
            return true;
        }
        queues.iter().filter_map(|queue| queue.lane()).for_each(|lane| lane.drained.feed());
        let landed = (early.run)(Landing {
            common,
            after: last.number,
            most,
            run,
            ring,
            readers: queues.len(),
            takes: &mut |by| {
                let is_next = self.sequences.locked().go_on(peer, topic, last, by);
                if !is_next {
                    tracing::debug!(%topic, events = by, "dropped repeats");
                }
                is_next
            },
        });
        for parcel in &landed.left {
            batch.add(None, || Item::Event(parcel.clone()));
        }
        contain(common, || drop((landed.left, batch)));
        self.mind(&queues, landed.took, landed.taken);
        false
    }

    /// See [`Sink::room`](busway_transport::Sink::room).
    pub(super) fn room_to_land(&self) -> BoxFuture<'static, ()> {
        let queues = self.queues.load();
        let in_the_way = queues.iter().min_by_key(|queue| room_of(queue, 0)).cloned();
        Box::pin(async move {
            if let Some(lane) = in_the_way.as_ref().and_then(|queue| queue.lane()) {
                lane.drained().await;
            }
        })
    }
}

/// The ring, when what comes for these queues may go onto it: all who read it are these, and all want
/// one type.
///
/// (Somebody may join them meanwhile, and get what was published a little before he did. Nobody gets
/// anything twice: what was sent when he was known to want it was not sent for these alone.)
fn straight(queues: &[Arc<Queue>]) -> Option<(&TopicRing, Early)> {
    let (lane, early) = queues.first().and_then(|queue| Some((queue.lane()?, queue.early()?)))?;
    let is_there = |queue: &Arc<Queue>| {
        queue.lane().is_some_and(|other| Arc::ptr_eq(&other.ring, &lane.ring) && other.is_open())
            && queue.early().is_some_and(|other| other.is_as(early))
    };
    let are_all = lane.ring.readers() == queues.len() && queues.iter().all(is_there);
    are_all.then_some((&*lane.ring, early))
}

/// How many events from outside may go onto the ring.
fn room(batch: &Batch<'_>) -> usize {
    batch.reserved().map(|(queue, ours)| room_of(queue, ours)).min().unwrap_or(0)
}

/// As [`room`], for one of the subscriptions, of which we have reserved so much. They leave half of it to
/// those who publish here: also to a subscription's own handler, which would wait for itself.
fn room_of(queue: &Queue, ours: usize) -> usize {
    let waiting = queue.lane().map_or(0, Lane::waiting);
    // What others have reserved may be on its way to the ring as well.
    let others = queue.reserved().saturating_sub(ours);
    let taken = usize::try_from(waiting).unwrap_or(usize::MAX).saturating_add(others);
    (queue.capacity / 2).saturating_sub(taken)
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};
    use std::time::{Duration, UNIX_EPOCH};

    use arc_swap::ArcSwap;
    use busway_transport::{
        ContentType, Envelope, GapReason, Lying, MessageId, Payload, PeerId, Sink, Source,
    };
    use futures::FutureExt;

    use super::*;
    use crate::parcel::{self, Parcel};
    use crate::router::queue::Overflow;
    use crate::router::topic::{RingReader, TopicNode};
    use crate::{Codec, CodecError, Event, Schema};

    /// Its payload is the letter that it is. One of them cannot be decoded, one not be dropped.
    struct Letter(u8);

    const UNREADABLE: u8 = b'?';
    const STICKY: u8 = b'!';

    impl Event for Letter {
        const SCHEMA: Schema = Schema::new("test.letter");

        fn encode(&self, _: Codec, buffer: &mut Vec<u8>) -> Result<(), CodecError> {
            buffer.push(self.0);
            Ok(())
        }

        fn decode(_: Codec, payload: &[u8]) -> Result<Self, CodecError> {
            match payload {
                [letter] if *letter != UNREADABLE => Ok(Self(*letter)),
                _ => Err(CodecError::local("an unreadable letter")),
            }
        }
    }

    impl Drop for Letter {
        fn drop(&mut self) {
            if self.0 == STICKY {
                // Without a message: printing one takes so long that it counts as slow.
                std::panic::resume_unwind(Box::new("it sticks"));
            }
        }
    }

    /// What lies in a transport's memory: letters with their numbers.
    struct Lies {
        letters: Vec<(u64, u8)>,
        taken: usize,
    }

    fn lie(first: u64, letters: &[u8]) -> Lies {
        Lies { letters: (first..).zip(letters.iter().copied()).collect(), taken: 0 }
    }

    impl Run for Lies {
        fn next_if(&mut self, sequence: u64) -> Option<Lying<'_>> {
            let (number, letter) = self.letters.get(self.taken)?;
            if *number != sequence {
                return None;
            }
            self.taken += 1;
            let (id, since) = of(*number);
            Some(Lying::new(id, UNIX_EPOCH + since, std::slice::from_ref(letter)))
        }
    }

    /// The id and the time of a letter.
    fn of(number: u64) -> (MessageId, Duration) {
        let mut id = [7; 16];
        id[0] = number as u8;
        (MessageId::from_bytes(id), Duration::from_secs(number % 1000))
    }

    fn common() -> Common {
        let source = Source { endpoint: "a".parse().unwrap(), peer: PeerId::from_u64(1) };
        Common::new(Letter::SCHEMA.topic.parse().unwrap(), 1, source, ContentType::JSON)
    }

    /// A topic with subscriptions, and what brings them their events.
    struct Place {
        node: TopicNode,
        readers: Vec<RingReader>,
        queues: Vec<Arc<Queue>>,
        inlet: Inlet,
    }

    impl Place {
        fn new(capacities: &[usize]) -> Self {
            let node = TopicNode::new(Letter::SCHEMA.topic.parse().unwrap(), 1, Vec::new());
            let (mut readers, mut queues) = (Vec::new(), Vec::new());
            for capacity in capacities {
                let early = Some(Early::of::<Letter>());
                let name = "b".parse().unwrap();
                let queue = Queue::new(name, false, *capacity, Overflow::Wait, early);
                readers.push(node.ride(&queue).unwrap());
                queues.push(queue);
            }
            let all = Arc::new(ArcSwap::from_pointee(queues.clone()));
            Self { node, readers, queues, inlet: Inlet::new(all, GapReason::Disconnected) }
        }

        /// As [`new`](Self::new), when the publisher's letter 1 has come and was read.
        fn begun(capacities: &[usize]) -> Self {
            let place = Self::new(capacities);
            let payload = Payload::encoded(ContentType::JSON, "x");
            let Common { topic, source, .. } = common();
            let mut first = Envelope::new(of(1).0, topic, source, payload);
            first.sequence = Some(1);
            place.inlet.take(1, &mut [first].into_iter());
            for queue in &place.queues {
                assert_eq!(in_queue(queue), ["x"]);
            }
            place
        }

        /// As far as it goes, however slow the machine is.
        fn land(&self, lies: &mut Lies) -> (usize, bool) {
            let before = lies.taken;
            loop {
                self.queues.iter().for_each(|queue| queue.open_early());
                let taken = lies.taken;
                let is_full = self.inlet.take_run(&common(), lies);
                if lies.taken == taken {
                    return (taken - before, is_full);
                }
            }
        }
    }

    fn text(parcel: &Arc<dyn Parcel>) -> String {
        match parcel::open::<Letter>(parcel) {
            Ok(letter) => char::from(letter.event().0).to_string(),
            Err(_) => char::from(UNREADABLE).to_string(),
        }
    }

    fn in_queue(queue: &Queue) -> Vec<String> {
        let mut context = Context::from_waker(Waker::noop());
        let mut all = Vec::new();
        while let Poll::Ready(Some(item)) = queue.poll_next(&mut context, u64::MAX) {
            all.push(match item {
                Item::Event(parcel) => text(&parcel),
                Item::Gap(gap) => panic!("{gap}"),
            });
        }
        all
    }

    fn on_ring(reader: &mut RingReader) -> String {
        let mut all = String::new();
        while let Some(Some(parcel)) = reader.peek() {
            all.push_str(&text(parcel));
            reader.advance(1);
        }
        all
    }

    #[test]
    fn a_run_goes_onto_the_ring_as_far_as_its_numbers_go_on() {
        let mut place = Place::begun(&[8, 8]);
        let mut lies = lie(2, b"bcdef");
        lies.letters[3].0 = 7;
        assert_eq!(place.land(&mut lies), (3, false));
        for reader in &mut place.readers {
            let parcel = reader.peek().unwrap().unwrap();
            let (id, since) = of(2);
            assert_eq!(parcel.meta().id(), id);
            assert_eq!(parcel.meta().time(), Some(UNIX_EPOCH + since));
            assert_eq!(*parcel.meta().source(), common().source);
            assert_eq!(on_ring(reader), "bcd");
        }
        for queue in &place.queues {
            assert!(in_queue(queue).is_empty());
            assert_eq!(queue.ledger().arrived, 1 + 3);
            assert_eq!(queue.free(), 8);
        }
    }

    #[test]
    fn what_is_not_for_the_ring_alone_is_left() {
        assert_eq!(Place::new(&[8]).land(&mut lie(2, b"b")), (0, false), "a line not met before");

        let place = Place::begun(&[8]);
        let other = Queue::new("c".parse().unwrap(), false, 8, Overflow::Wait, None);
        let reader = place.node.ride(&other).unwrap();
        assert_eq!(
            place.land(&mut lie(2, b"b")),
            (0, false),
            "a reader with an interest of its own"
        );
        drop(reader);
        assert_eq!(place.land(&mut lie(2, b"b")), (1, false));

        let mut place = Place::begun(&[8]);
        place.queues.push(Queue::new("c".parse().unwrap(), false, 8, Overflow::Latest, None));
        place.inlet.queues.store(Arc::new(place.queues.clone()));
        assert_eq!(place.land(&mut lie(2, b"b")), (0, false), "one that may lose events");
    }

    #[test]
    fn half_of_the_ring_is_left_to_those_here() {
        let mut place = Place::begun(&[16, 4]);
        let mut lies = lie(2, b"bcdef");
        assert_eq!(place.land(&mut lies), (2, true));
        assert_eq!(on_ring(&mut place.readers[1]), "bc");
        assert_eq!(place.land(&mut lies), (2, true));
        assert_eq!(on_ring(&mut place.readers[0]), "bcde");
    }

    #[test]
    fn what_cannot_be_decoded_is_its_readers_to_tell_in_its_place() {
        let mut place = Place::begun(&[8]);
        assert_eq!(place.land(&mut lie(2, b"bc??f")), (5, false));
        let (queue, reader) = (&place.queues[0], &mut place.readers[0]);
        assert_eq!(queue.first_at(), reader.cursor() + 2);
        assert_eq!(on_ring(reader), "bcf");
        assert_eq!(in_queue(queue), ["?", "?"]);
        assert_eq!(queue.ledger().arrived, 1 + 5);
    }

    #[test]
    fn numbers_end_where_they_end() {
        let place = Place::begun(&[8]);
        let Common { topic, source, .. } = common();
        let mut last =
            Envelope::new(of(2).0, topic, source, Payload::encoded(ContentType::JSON, "y"));
        last.sequence = Some(u64::MAX - 1);
        place.inlet.take(1, &mut [last].into_iter());
        let mut lies = lie(0, b"bc");
        (lies.letters[0].0, lies.letters[1].0) = (u64::MAX, 0);
        assert_eq!(place.land(&mut lies), (1, false));
    }

    #[test]
    fn who_is_overtaken_brings_repeats() {
        let mut place = Place::begun(&[8]);
        let (peer, topic) = (common().source.peer, common().topic);
        let mut sequences = place.inlet.sequences.locked();
        let last = sequences.last(peer, &topic).unwrap();
        assert!(sequences.go_on(peer, &topic, last, 2));
        assert!(!sequences.go_on(peer, &topic, last, 1));
        drop(sequences);
        assert_eq!(place.land(&mut lie(2, b"bc")), (0, false));
        assert_eq!(place.land(&mut lie(4, b"de")), (2, false));
        assert_eq!(on_ring(&mut place.readers[0]), "de");
    }

    #[test]
    fn what_panics_when_it_is_dropped_keeps_nothing_from_others() {
        let mut place = Place::begun(&[4]);
        let mut lies = lie(2, b"b!!cde!f");
        let mut read = String::new();
        while read.len() < lies.letters.len() {
            assert!(place.land(&mut lies).0 > 0);
            read.push_str(&on_ring(&mut place.readers[0]));
        }
        assert_eq!(read, "b!!cde!f");
        // The last lap, so that none is left for the end of the test.
        for number in 0..4 {
            place.land(&mut lie(10 + number, b"x"));
            on_ring(&mut place.readers[0]);
        }
    }

    #[test]
    fn who_waits_for_room_is_told_when_the_subscription_takes_no_more() {
        for stop in [Queue::end, Queue::close] {
            let place = Place::begun(&[16, 8]);
            assert_eq!(place.land(&mut lie(2, b"bcdefg")), (4, true));
            let mut room = std::pin::pin!(place.inlet.room_to_land());
            assert!(room.as_mut().now_or_never().is_none());
            // Not this one, where there is room.
            stop(&place.queues[0]);
            assert!(room.as_mut().now_or_never().is_none());
            stop(&place.queues[1]);
            assert!(room.now_or_never().is_some());
        }
    }
}
