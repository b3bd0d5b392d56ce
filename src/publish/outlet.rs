//! The short way of a publish: straight into the topic's ring, where nothing else is concerned.

use std::any::TypeId;
use std::sync::Arc;

use arc_swap::ArcSwap;

use busway_transport::Name;

use crate::bus::Core;
use crate::by_type::ByType;
use crate::event::Event;
use crate::parcel::{self, Origin, Parcel, Rest};
use crate::publish::line::Line;
use crate::router::multicast::Reserved;
use crate::router::ring::Refused;
use crate::router::topic::{TopicClaim, TopicNode};

/// What one publisher needs for publishing on one topic.
pub(crate) struct Outlet {
    pub(crate) node: Arc<TopicNode>,
    pub(crate) origin: Arc<Origin>,
    pub(crate) line: Line,
}

impl Outlet {
    pub(crate) fn on(bus: &Core, node: Arc<TopicNode>, endpoint: &Name, version: u32) -> Arc<Self> {
        let (topic, source) = (node.topic.clone(), bus.source(endpoint));
        let origin = Arc::new(Origin { topic, version, source });
        Arc::new(Self { node, origin, line: Line::default() })
    }

    /// For another publisher of the same endpoint.
    pub(crate) fn another(&self) -> Arc<Self> {
        let (node, origin) = (self.node.clone(), self.origin.clone());
        Arc::new(Self { node, origin, line: Line::default() })
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
            let parcel = parcel::fill(old, event, &self.origin, &mut rest);
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
        let ring = self.node.ring().map(|ring| (ring, ring.readers()));
        let claim = match ring {
            None | Some((_, 0)) => None,
            Some((ring, readers)) => match ring.try_claim(1) {
                Ok(claim) => Some((claim, readers)),
                Err(Refused::Nobody) => None,
                Err(Refused::Full(_) | Refused::Busy) => return None,
            },
        };
        let reached = reserved.count() + claim.as_ref().map_or(0, |(_, readers)| *readers);
        let parcel = match claim {
            None => parcel::fill(None, event, &self.origin, &mut Rest::default()),
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
            claim.write(|old| parcel::fill(old, event, &self.origin, rest));
        }
        drop(claim);
        // Only now, as in `write`.
        drop(before);
        Some((claimed, readers))
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
