//! The way into the queues of one intake: repeats are dropped, holes are told, and while there is no
//! room nothing more is taken.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::{FutureExt, StreamExt};

use busway_transport::{
    Arrival, BoxFuture, Common, Deliveries, Envelope, Gap, GapReason, Name, Run, Sink,
};

use super::multicast::{Batch, Reserved};
use super::queue::{Item, Queue};
use super::sequence::{Place, Sequences};
use crate::parcel::{self, Early, Parcel, SLOW, Watch};
use crate::sync::Locked;

/// The queues behind one filter. The inlet holds this and not the intake, so that the intake ends
/// with its last subscription.
pub(super) type Queues = Arc<ArcSwap<Vec<Arc<Queue>>>>;

/// How many events are taken from the deliveries at once at most.
const TOGETHER: usize = 64;

/// What comes from outside, on its way into the queues of one intake. Clones are the same one.
#[derive(Clone)]
pub(super) struct Inlet {
    pub(super) queues: Queues,
    pub(super) sequences: Arc<Mutex<Sequences>>,
    hole: GapReason,
    /// How long an event takes to decode, lately: in nanoseconds.
    pace: Arc<AtomicU64>,
}

/// As [`SLOW`], for each event, also when it comes alone.
const SLOW_EACH: Duration = Duration::from_micros(100);

/// Moves what the transport delivers into the queues. While a waiting subscription is full it
/// stops taking, and the transport holds back the publishers of this filter only (law 6).
pub(super) async fn pump(mut deliveries: Deliveries, inlet: Inlet) {
    while let Some(arrival) = deliveries.next().await {
        // What never runs empty must not keep its thread from those who read the queues, nor from
        // the transport's own tasks.
        tokio::task::coop::consume_budget().await;
        if let Some(envelope) = inlet.take_at_once(arrival, &mut deliveries) {
            inlet.wait_and_take(envelope).await;
        }
    }
}

/// An event, and those that its deliveries hold behind it. Nothing more is asked of them: they would
/// wait for more, and the transport give it to the [`Sink`], while these are still under way.
struct Held<'a> {
    first: Option<Envelope>,
    deliveries: &'a mut Deliveries,
    left: usize,
    /// What came between the events, and ends them.
    other: Option<Arrival>,
}

impl<'a> Held<'a> {
    fn new(first: Envelope, deliveries: &'a mut Deliveries) -> Self {
        let left = deliveries.size_hint().0.min(TOGETHER - 1);
        Self { first: Some(first), deliveries, left, other: None }
    }
}

impl Iterator for Held<'_> {
    type Item = Envelope;

    fn next(&mut self) -> Option<Envelope> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        self.left = self.left.checked_sub(1)?;
        match self.deliveries.next().now_or_never()?? {
            Arrival::Event(envelope) => Some(envelope),
            other => {
                self.left = 0;
                self.other = Some(other);
                None
            }
        }
    }
}

impl Sink for Inlet {
    fn take(&self, most: usize, events: &mut dyn Iterator<Item = Envelope>) {
        let queues = self.queues.load();
        let mut batch = Batch::reserve(&queues, most);
        // What is opened here fits one reader.
        let mut early = if let [queue] = &queues[..] { queue.early() } else { None };
        let mut watch = early.map(|_| Watch::start());
        // A number counts only where there is room: it would be a repeat when it comes again.
        for envelope in events.take(batch.room) {
            let to = envelope.to.clone();
            let tell = |gap: Gap| batch.add(to.as_ref(), || Item::Gap(gap.clone()));
            if let Some(parcel) = self.accept(envelope, early, tell) {
                batch.add(to.as_ref(), || Item::Event(parcel.clone()));
            }
            if let Some(watching) = &mut watch
                && watching.counts_and_is_slow()
            {
                self.mind(&queues, watching.elapsed(), watching.events().into());
                (early, watch) = (None, None);
            }
        }
        if let Some(watch) = watch {
            self.mind(&queues, watch.elapsed(), watch.events().into());
        }
    }

    fn take_run(&self, common: &Common, run: &mut dyn Run) -> bool {
        self.land(common, run)
    }

    fn room(&self) -> BoxFuture<'static, ()> {
        self.room_to_land()
    }
}

impl Inlet {
    pub(super) fn new(queues: Queues, hole: GapReason) -> Self {
        Self { queues, sequences: Arc::default(), hole, pace: Arc::default() }
    }

    /// Minds how long events took that were decoded here: all at once, and each.
    pub(super) fn mind(&self, queues: &[Arc<Queue>], took: Duration, events: u64) {
        let each = took.as_nanos() as u64 / events.max(1);
        let pace = (7 * self.pace.load(Ordering::Relaxed) + each) / 8;
        let is_slow = took > SLOW || pace > SLOW_EACH.as_nanos() as u64;
        self.pace.store(if is_slow { 0 } else { pace }, Ordering::Relaxed);
        if is_slow {
            queues.iter().for_each(|queue| queue.open_late());
        }
    }

    /// The event, unless it was here before; tells of the hole before it, or of its own loss.
    fn accept(
        &self,
        envelope: Envelope,
        early: Option<Early>,
        mut tell: impl FnMut(Gap),
    ) -> Option<Arc<dyn Parcel>> {
        let place = self.sequences.locked().place(&envelope);
        match place {
            Place::Next => {}
            Place::After(missing) => tell(Gap::new(Some(missing), self.hole.clone())),
            Place::Repeat => {
                tracing::debug!(id = %envelope.id, topic = %envelope.topic, "dropped a repeat");
                return None;
            }
        }
        match parcel::arrived(envelope, early) {
            Ok(parcel) => Some(parcel),
            Err(reason) => {
                tell(Gap::new(Some(1), reason));
                None
            }
        }
    }

    /// Takes what comes, and what the deliveries hold behind it. Gives an event back for which there
    /// is no room. (Apart from the pump, of which there is one for each filter: what it keeps while
    /// it waits takes memory.)
    fn take_at_once(&self, arrival: Arrival, deliveries: &mut Deliveries) -> Option<Envelope> {
        let Arrival::Event(envelope) = arrival else {
            self.hear(&arrival);
            return None;
        };
        let mut held = Held::new(envelope, deliveries);
        self.take(1 + held.left, &mut held);
        if let Some(other) = &held.other {
            self.hear(other);
        }
        held.first
    }

    /// What is no event.
    fn hear(&self, arrival: &Arrival) {
        let Arrival::Gap(gap) = arrival else { return };
        // With a broker between, a later hole may be another loss.
        if gap.reason == self.hole && self.hole == GapReason::Disconnected {
            self.sequences.locked().cut();
        }
        tell(&self.queues, None, gap);
    }

    async fn wait_and_take(&self, envelope: Envelope) {
        let to = envelope.to.clone();
        let tell = |gap: Gap| tell(&self.queues, to.as_ref(), &gap);
        let Some(parcel) = self.accept(envelope, None, tell) else { return };
        // First all that have room: a full queue must not let the others wait.
        let full: Vec<_> = {
            let queues = self.queues.load();
            let addressed = queues.iter().filter(|queue| queue.is_addressed(to.as_ref()));
            addressed.filter(|queue| !put(queue, &parcel)).cloned().collect()
        };
        for queue in &full {
            loop {
                let mut room = std::pin::pin!(queue.room.notified());
                room.as_mut().enable();
                if put(queue, &parcel) {
                    break;
                }
                room.await;
                catch_breath(queue).await;
            }
        }
    }
}

/// Lets the reader go on, as long as it does and there is little room: a wake-up for each place
/// that comes free would cost more than everything else.
async fn catch_breath(queue: &Queue) {
    let mut room = queue.free();
    while room < queue.capacity / 4 {
        tokio::task::yield_now().await;
        let before = std::mem::replace(&mut room, queue.free());
        if room <= before {
            return;
        }
    }
}

/// Gives an event to one queue, if it has room.
fn put(queue: &Arc<Queue>, parcel: &Arc<dyn Parcel>) -> bool {
    Reserved::reserve(std::slice::from_ref(queue), |_| true)
        .map(|reserved| drop(reserved.commit(parcel)))
        .is_ok()
}

fn tell(queues: &Queues, to: Option<&Name>, gap: &Gap) {
    for queue in queues.load().iter().filter(|queue| queue.is_addressed(to)) {
        queue.push_gap(gap.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};
    use std::time::Instant;

    use busway_transport::{ContentType, MessageId, Payload, PeerId, Source};

    use super::*;
    use crate::router::queue::Overflow;

    fn inlet(queues: Vec<Arc<Queue>>) -> Inlet {
        Inlet::new(Arc::new(ArcSwap::from_pointee(queues)), GapReason::Disconnected)
    }

    fn queue(name: &str, capacity: usize) -> Arc<Queue> {
        Queue::new(name.parse().unwrap(), false, capacity, Overflow::Wait, None)
    }

    fn event(sequence: u64, to: Option<&str>) -> Envelope {
        let source = Source { endpoint: "a".parse().unwrap(), peer: PeerId::from_u64(1) };
        let payload = Payload::encoded(ContentType::JSON, sequence.to_string());
        let mut envelope = Envelope::new(MessageId::new(), "t".parse().unwrap(), source, payload);
        envelope.sequence = Some(sequence);
        envelope.to = to.map(|to| to.parse().unwrap());
        envelope
    }

    /// What stands in a queue: events by their payload, gaps by their size.
    fn read(queue: &Queue) -> Vec<String> {
        let mut context = Context::from_waker(Waker::noop());
        let mut all = Vec::new();
        while let Poll::Ready(Some(item)) = queue.poll_next(&mut context, u64::MAX) {
            all.push(match item {
                Item::Event(parcel) => {
                    String::from_utf8(parcel.bytes().unwrap().1.to_vec()).unwrap()
                }
                Item::Gap(gap) => format!("{:?} lost", gap.missed),
            });
        }
        all
    }

    #[test]
    fn events_that_come_together_keep_their_order_and_their_gaps() {
        let queue = queue("a", 8);
        let inlet = inlet(vec![queue.clone()]);
        let mut events = [1, 2, 2, 5, 6].map(|number| event(number, None)).into_iter();
        inlet.take(5, &mut events);
        assert_eq!(events.len(), 0);
        // The repeat gave its room back.
        assert_eq!(queue.free(), 8 - 4);
        assert_eq!(read(&queue), ["1", "2", "Some(2) lost", "5", "6"]);
        assert_eq!(queue.ledger().arrived, 4);
        assert_eq!(queue.ledger().missed, 2);
    }

    #[test]
    fn what_takes_long_to_decode_is_left_to_its_reader() {
        static OPENED: AtomicU64 = AtomicU64::new(0);
        let slowly = Early::by(|inbound| {
            OPENED.fetch_add(1, Ordering::Relaxed);
            let began = Instant::now();
            while began.elapsed() <= SLOW {
                std::hint::spin_loop();
            }
            Arc::new(inbound)
        });
        let name = "a".parse().unwrap();
        let queue = Queue::new(name, false, 8, Overflow::Wait, Some(slowly));
        let inlet = inlet(vec![queue.clone()]);
        inlet.take(4, &mut [1, 2, 3, 4].map(|number| event(number, None)).into_iter());
        inlet.take(1, &mut [event(5, None)].into_iter());
        assert_eq!(read(&queue), ["1", "2", "3", "4", "5"]);
        assert_eq!(OPENED.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn decoding_that_becomes_slow_late_is_left_to_its_reader_as_well() {
        static OPENED: AtomicU64 = AtomicU64::new(0);
        let slowly_from_34_on = Early::by(|inbound| {
            let began = Instant::now();
            while OPENED.load(Ordering::Relaxed) >= 33 && began.elapsed() <= SLOW {
                std::hint::spin_loop();
            }
            OPENED.fetch_add(1, Ordering::Relaxed);
            Arc::new(inbound)
        });
        let name = "a".parse().unwrap();
        let queue = Queue::new(name, false, 64, Overflow::Wait, Some(slowly_from_34_on));
        let inlet = inlet(vec![queue.clone()]);
        inlet.take(63, &mut (1..=63).map(|number| event(number, None)));
        assert_eq!(queue.free(), 1);
        let opened = OPENED.load(Ordering::Relaxed);
        assert!(opened <= 40, "{opened} were opened");
    }

    #[test]
    fn no_more_are_taken_than_there_is_room_for_everywhere() {
        let (narrow, wide) = (queue("a", 2), queue("b", 8));
        let inlet = inlet(vec![narrow.clone(), wide.clone()]);
        let mut events = [1, 2, 3, 4, 5].map(|number| event(number, None)).into_iter();
        inlet.take(5, &mut events);
        assert_eq!(events.len(), 3);
        assert_eq!((narrow.free(), wide.free()), (0, 6));
        inlet.take(3, &mut events);
        assert_eq!(events.len(), 3, "one is full");
        assert_eq!(wide.free(), 6);
        assert_eq!(read(&narrow), ["1", "2"]);
        inlet.take(3, &mut events);
        assert_eq!(
            (read(&narrow).join(" "), read(&wide).join(" ")),
            ("3 4".into(), "1 2 3 4".into())
        );
    }

    #[test]
    fn who_is_not_addressed_gets_nothing_and_who_has_ended_is_in_nobodys_way() {
        let (one, other, ended) = (queue("a", 4), queue("b", 4), queue("c", 1));
        let inlet = inlet(vec![one.clone(), other.clone(), ended.clone()]);
        ended.end();
        let mut events = [event(1, None), event(1, Some("b")), event(2, None)].into_iter();
        inlet.take(3, &mut events);
        assert_eq!(events.len(), 0);
        assert_eq!((one.free(), other.free()), (2, 1));
        assert_eq!((read(&one).join(" "), read(&other).join(" ")), ("1 2".into(), "1 1 2".into()));
    }
}
