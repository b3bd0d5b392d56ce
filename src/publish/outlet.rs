//! The short ways of a publish: straight into the topic's ring, where nothing else is concerned, and out by the
//! transport's express.

use std::any::TypeId;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::UNIX_EPOCH;

use arc_swap::ArcSwap;
use bytes::Bytes;

use busway_transport::{
    Common, Confirms, ContentType, Express, MessageId, Name, Plain, Receipt, Stamp,
};

use crate::bus::Core;
use crate::by_type::ByType;
use crate::event::Event;
use crate::parcel::{self, Given, Origin, Parcel, Rest};
use crate::publish::line::Line;
use crate::router::multicast::Reserved;
use crate::router::ring::Refused;
use crate::router::topic::{TopicClaim, TopicNode};

/// What one publisher needs for publishing on one topic.
pub(crate) struct Outlet {
    pub(crate) node: Arc<TopicNode>,
    pub(crate) origin: Arc<Origin>,
    pub(crate) line: Line,
    /// Who hears what becomes of events that go by the express.
    confirms: Option<Arc<dyn Confirms>>,
    /// Made when it is first needed.
    express: OnceLock<Option<Arc<dyn Express>>>,
    /// The transport's count of changes when the express was open; 0 for never.
    open_at: AtomicU64,
}

/// How far the short way out led.
pub(crate) enum Outside {
    Reached(Reached),
    /// Not published. What was encoded for it, if it was.
    No(Option<(ContentType, Bytes)>),
}

/// Whom an event reached that went the short way out.
pub(crate) struct Reached {
    pub(crate) id: MessageId,
    /// How many in this process.
    pub(crate) here: usize,
    /// How many there.
    pub(crate) there: usize,
}

/// There is no room on the ring now.
struct NoRoom;

thread_local! {
    /// Where events are encoded: under no lock, for that runs the event's own code.
    static ENCODED: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// No more than this is kept for the next event.
const KEPT: usize = 256 << 10;

impl Outlet {
    pub(crate) fn on(bus: &Core, node: Arc<TopicNode>, endpoint: &Name, version: u32) -> Arc<Self> {
        let (topic, source) = (node.topic.clone(), bus.source(endpoint));
        let origin = Origin { topic, version, source, codec: bus.codec };
        Self::of(node, Arc::new(origin), None)
    }

    fn of(
        node: Arc<TopicNode>,
        origin: Arc<Origin>,
        confirms: Option<Arc<dyn Confirms>>,
    ) -> Arc<Self> {
        let (line, express, open_at) = (Line::default(), OnceLock::new(), AtomicU64::new(0));
        Arc::new(Self { node, origin, line, confirms, express, open_at })
    }

    /// For another publisher of the same endpoint.
    pub(crate) fn another(&self, confirms: Arc<dyn Confirms>) -> Arc<Self> {
        Self::of(self.node.clone(), self.origin.clone(), Some(confirms))
    }

    /// Publishes an event that is for nobody but the readers of the topic's ring, if there is room:
    /// no clock, no id, no lock, and no allocation where an earlier event left its memory. Gives
    /// the number of those it reached, or nothing: then the event is still there, for the long way.
    #[inline]
    pub(crate) fn publish<E: Event>(&self, bus: &Core, event: &mut Option<E>) -> Option<usize> {
        self.publish_with(bus, event, |_| {})
    }

    /// As [`publish`](Self::publish); `keep` sees the parcel.
    #[inline]
    pub(crate) fn publish_with<E: Event>(
        &self,
        bus: &Core,
        event: &mut Option<E>,
        keep: impl FnOnce(&Arc<dyn Parcel>),
    ) -> Option<usize> {
        if !self.is_simple::<E>(bus) {
            return self.publish_beside(bus, event, keep);
        }
        // Counted before the claim: who leaves in between was there.
        let Some((ring, readers @ 1..)) = self.node.ring().map(|ring| (ring, ring.readers()))
        else {
            *event = None;
            return Some(0);
        };
        let claim = match ring.try_claim(1) {
            Ok(claim) => claim,
            Err(Refused::Nobody) => {
                *event = None;
                return Some(0);
            }
            Err(Refused::Full(_) | Refused::Busy) => return None,
        };
        self.write(claim, event, keep);
        Some(readers)
    }

    #[inline]
    fn write<E: Event>(
        &self,
        mut claim: TopicClaim<'_>,
        event: &mut Option<E>,
        keep: impl FnOnce(&Arc<dyn Parcel>),
    ) {
        let mut rest = Rest::default();
        claim.write(|old| {
            let parcel = parcel::fill(old, event, &self.origin, None, &mut rest);
            keep(&parcel);
            parcel
        });
        drop(claim);
        // Only now: what was there before may do anything when it is dropped.
        *event = None;
        drop(rest);
    }

    /// As [`publish`](Self::publish), where some subscriptions of this process have only a queue.
    #[inline(never)]
    fn publish_beside<E: Event>(
        &self,
        bus: &Core,
        event: &mut Option<E>,
        keep: impl FnOnce(&Arc<dyn Parcel>),
    ) -> Option<usize> {
        if !self.node.is_local() || !self.stays::<E>(bus) {
            return None;
        }
        let queues = self.node.queues_now();
        let reserved = Reserved::reserve(&queues, |queue| queue.lane().is_none()).ok()?;
        let claim = self.claim().ok()?;
        let reached = reserved.count() + claim.as_ref().map_or(0, |(_, readers)| *readers);
        let parcel = match claim {
            None => parcel::fill(None, event, &self.origin, None, &mut Rest::default()),
            Some((claim, _)) => {
                let mut parcel = None;
                self.write(claim, event, |written| parcel = Some(written.clone()));
                parcel?
            }
        };
        keep(&parcel);
        drop(reserved.commit(&parcel));
        Some(reached)
    }

    /// Room for one event on the ring, and how many read it; nothing if nobody does.
    fn claim(&self) -> Result<Option<(TopicClaim<'_>, usize)>, NoRoom> {
        // Counted before the claim: who leaves in between was there.
        let Some((ring, readers @ 1..)) = self.node.ring().map(|ring| (ring, ring.readers()))
        else {
            return Ok(None);
        };
        match ring.try_claim(1) {
            Ok(claim) => Ok(Some((claim, readers))),
            Err(Refused::Nobody) => Ok(None),
            Err(Refused::Full(_) | Refused::Busy) => Err(NoRoom),
        }
    }

    /// As [`publish`](Self::publish), for as many of some events as there is room for at once.
    /// Takes them from the front, and gives how many, and how many readers there are.
    pub(crate) fn publish_many<E: Event>(
        &self,
        bus: &Core,
        events: &mut std::vec::IntoIter<E>,
    ) -> Option<(usize, usize)> {
        let count = events.len();
        if !self.is_simple::<E>(bus) {
            return None;
        }
        let Some((ring, readers @ 1..)) = self.node.ring().map(|ring| (ring, ring.readers()))
        else {
            events.for_each(drop);
            return Some((count, 0));
        };
        let mut claim = match ring.try_claim(count as u64) {
            Ok(claim) => claim,
            Err(Refused::Nobody) => {
                events.for_each(drop);
                return Some((count, 0));
            }
            Err(Refused::Full(_) | Refused::Busy) => return None,
        };
        let claimed = claim.left();
        let mut before: Vec<(Option<E>, Rest)> = Vec::with_capacity(claimed);
        for event in events.by_ref().take(claimed) {
            before.push((Some(event), Rest::default()));
        }
        for (event, rest) in &mut before {
            claim.write(|old| parcel::fill(old, event, &self.origin, None, rest));
        }
        drop(claim);
        // Only now, as in `write`.
        drop(before);
        Some((claimed, readers))
    }

    /// Publishes an event that is for peers, and here for nobody but the readers of the topic's ring, if
    /// the transport has a short way and there is room for it everywhere. If not, the event is still
    /// there. `receipt` is for those who want to know more than the number of peers' subscriptions.
    #[inline(never)]
    pub(crate) fn publish_outside<E: Event>(
        &self,
        bus: &Core,
        event: &mut Option<E>,
        receipt: Option<&mut Option<Receipt>>,
    ) -> Outside {
        let Some(express) = self.open_express::<E>(bus) else { return Outside::No(None) };
        let Some(value) = event.as_ref() else { return Outside::No(None) };
        let codec = bus.codec_of::<E>();
        let mut buffer = ENCODED.take();
        buffer.clear();
        if value.encode(codec, &mut buffer).is_err() || buffer.len() > bus.capabilities.max_payload
        {
            return Outside::No(None);
        }
        let since_1970 = busway_transport::since_1970();
        let id = MessageId::at(since_1970);
        let plain = Plain::new(id, since_1970, &mut buffer).with_receipt(receipt);
        let reached = match self.has_readers() {
            false => self.hand_over(express, plain).map(|there| Reached { id, here: 0, there }),
            true => self.hand_over_here_too(express, plain, event),
        };
        let Some(reached) = reached else {
            return Outside::No(Some((codec.content_type(), buffer.into())));
        };
        if buffer.capacity() <= KEPT {
            // (`set` takes the long way to a thread's memory.)
            drop(ENCODED.replace(buffer));
        }
        *event = None;
        Outside::Reached(reached)
    }

    /// To peers alone: what is published here too from now on goes the long way.
    #[inline]
    fn hand_over(&self, express: &dyn Express, plain: Plain<'_>) -> Option<usize> {
        // Under the same lock as all that this process publishes on the topic: numbers go out in
        // their order.
        let mut sequences = self.node.attempt();
        if !self.node.is_simple() || !self.line.is_empty() || self.has_readers() {
            return None;
        }
        express.try_send(plain, &mut || Some(Stamp::new(sequences.next(None), 0)))
    }

    /// To peers, and to those who read the ring.
    #[inline(never)]
    fn hand_over_here_too<E: Event>(
        &self,
        express: &dyn Express,
        plain: Plain<'_>,
        event: &mut Option<E>,
    ) -> Option<Reached> {
        let given = Given { id: plain.id, time: Some(UNIX_EPOCH + plain.since_1970) };
        // Dropped after the lock, and the claim first: readers are woken by that, and what stood on the ring may
        // do anything.
        let mut rest = Rest::default();
        let (mut here, mut written) = (None, None);
        // As above.
        let mut sequences = self.node.attempt();
        if !self.node.is_simple() || !self.line.is_empty() {
            return None;
        }
        let mut stamp = || {
            if here.is_some() {
                return None;
            }
            // Last of all, for a claim that is given up takes room all the same; and written at once.
            if let Some((mut claim, readers)) = self.claim().ok()? {
                claim.write(|old| parcel::fill(old, event, &self.origin, Some(given), &mut rest));
                (written, here) = (Some(claim), Some(readers));
            }
            let here = *here.get_or_insert(0);
            Some(Stamp::new(sequences.next(None), here))
        };
        let there = express.try_send(plain, &mut stamp);
        drop(sequences);
        if there.is_none() && here.is_some() {
            let topic = &self.node.topic;
            tracing::error!(%topic, "a transport breaks its contract: it refused an event after its stamp");
        }
        let (here, there) = (here?, there.unwrap_or(0));
        Some(Reached { id: given.id, here, there })
    }

    /// The express, if a publish without options may go by it now.
    fn open_express<E: Event>(&self, bus: &Core) -> Option<&dyn Express> {
        if E::SCHEMA.local || !self.node.is_simple() || !self.line.is_empty() {
            return None;
        }
        // Those here who want bytes are given the ones that were made for the peers, by the long way.
        if self.has_readers() && !self.node.queues_now().iter().all(|queue| queue.takes::<E>()) {
            return None;
        }
        let make = || {
            let Origin { topic, version, source, .. } = &*self.origin;
            let content_type = bus.codec_of::<E>().content_type();
            let common = Common::new(topic.clone(), *version, source.clone(), content_type);
            bus.transport.express(match &self.confirms {
                Some(confirms) => common.with_confirms(confirms.clone()),
                None => common,
            })
        };
        let express = self.express.get_or_init(make).as_deref()?;
        // Looked at before it is asked: what changes meanwhile is asked for again.
        let changes = bus.interest_changes.count();
        if self.open_at.load(Ordering::Relaxed) != changes {
            if !express.is_open() {
                return None;
            }
            self.open_at.store(changes, Ordering::Relaxed);
        }
        Some(express)
    }

    /// Whether anybody here takes what goes onto the ring.
    #[inline]
    fn has_readers(&self) -> bool {
        self.node.ring().is_some_and(|ring| ring.readers() > 0)
    }

    /// Whether a publish without options concerns nothing but the ring.
    #[inline]
    fn is_simple<E: Event>(&self, bus: &Core) -> bool {
        self.node.is_simple() && self.stays::<E>(bus)
    }

    /// Whether a publish without options stays in the process, and need not wait for others.
    #[inline]
    fn stays<E: Event>(&self, bus: &Core) -> bool {
        let nobody_outside = || self.node.is_for_nobody_outside(bus.interest_changes.count());
        self.line.is_empty() && (E::SCHEMA.local || nobody_outside())
    }
}

/// The outlets of one endpoint, by event type.
#[derive(Default)]
pub(crate) struct Outlets {
    known: ArcSwap<ByType<Arc<Outlet>>>,
}

impl Outlets {
    /// Lets `act` use the outlet of an event type, made on first use.
    #[inline]
    pub(crate) fn with<E: Event, T>(
        &self,
        bus: &Core,
        endpoint: &Name,
        act: impl FnOnce(&Arc<Outlet>) -> T,
    ) -> T {
        let known = self.known.load();
        match known.get(&TypeId::of::<E>()) {
            Some(outlet) => act(outlet),
            None => {
                drop(known);
                act(&self.make::<E>(bus, endpoint))
            }
        }
    }

    #[cold]
    fn make<E: Event>(&self, bus: &Core, endpoint: &Name) -> Arc<Outlet> {
        let node = bus.node_of(E::SCHEMA.topic);
        let outlet = Outlet::on(bus, node, endpoint, E::SCHEMA.version);
        self.known.rcu(|known| {
            let mut known = ByType::clone(known);
            known.entry(TypeId::of::<E>()).or_insert_with(|| outlet.clone());
            known
        });
        outlet
    }
}
