//! The short way of a publish: credit is taken and the frame put into every link in one step, under
//! the lock, for events that have nothing special about them and concern no group.

use std::sync::Arc;

use busway_transport::{Common, Express, Plain, Receipt, Route, Stamp};
use bytes::Bytes;

use crate::mesh::{Mesh, State};
use crate::outbox::LARGE;
use crate::postman::Postman;
use crate::table::Plan;
use crate::wire::charge;
use crate::wire::event::{Event, EventFrames, Head};

/// One publisher's short way on one topic.
pub(crate) struct IpcExpress {
    mesh: Arc<Mesh>,
    route: Route,
    frames: EventFrames,
    /// Of what is known, in [`State::ways`]: that is under the lock anyway.
    number: usize,
}

/// Where one publisher's events go. It holds as long as neither count has grown.
#[derive(Default)]
pub(crate) struct Known {
    /// Of the plans.
    generation: u64,
    /// Of the interests, those of groups included. 0 for never.
    changes: u64,
    /// Absent when this is not the way: nobody takes them, or a group does.
    way: Option<Way>,
}

impl Known {
    /// What it keeps of links, of which one has gone: it is looked up again before it is next used.
    pub(crate) fn forget(&mut self) -> Option<Way> {
        self.way.take()
    }
}

pub(crate) struct Way {
    plan: Arc<Plan>,
    /// How frames begin, for each target.
    heads: Vec<Head>,
}

impl IpcExpress {
    pub(crate) fn new(mesh: Arc<Mesh>, common: &Common) -> Self {
        let route = Route::new(common.topic.clone(), None);
        let number = mesh.look(|state| state.ways.insert(Known::default()));
        Self { mesh, route, frames: EventFrames::of(common), number }
    }

    /// Where events go now.
    #[inline]
    fn with_way<T>(&self, state: &mut State, act: impl FnOnce(&State, &Way) -> T) -> Option<T> {
        let (generation, changes) = (state.plans.generation, state.interest_changes.count());
        let known = &state.ways[self.number];
        if (known.generation, known.changes) != (generation, changes) {
            let way = self.find_way(state);
            state.ways[self.number] = Known { generation, changes, way };
        }
        let state = &*state;
        Some(act(state, state.ways[self.number].way.as_ref()?))
    }

    #[cold]
    fn find_way(&self, state: &mut State) -> Option<Way> {
        let alone = state.check_open().is_ok() && !state.engine.interested(&self.route);
        let plan = alone.then(|| state.plans.plan(&self.route, &state.peers))?;
        let head = |interests: &Vec<u64>| self.frames.head(interests);
        let heads: Vec<_> = plan.targets.iter().map(|target| head(&target.interests)).collect();
        (!heads.is_empty()).then_some(Way { plan, heads })
    }
}

impl Drop for IpcExpress {
    /// Takes the mesh's lock, and drops what may be the last of a link without it.
    fn drop(&mut self) {
        let known = self.mesh.look(|state| state.ways.try_remove(self.number));
        drop(known);
    }
}

impl Express for IpcExpress {
    fn is_open(&self) -> bool {
        self.mesh.look(|state| self.with_way(state, |_, _| ())).is_some()
    }

    fn try_send(
        &self,
        event: Plain<'_>,
        stamp: &mut dyn FnMut() -> Option<Stamp>,
    ) -> Option<usize> {
        let Plain { id, since_1970, payload, receipt, .. } = event;
        let send = |state: &State, way: &Way| {
            let Way { plan, heads } = way;
            let is_congested = || plan.targets.iter().any(|target| target.link.is_congested());
            if state.somebody_waits(&self.route) || !plan.has_room() || is_congested() {
                return None;
            }
            let Stamp { sequence, .. } = stamp()?;
            let charge = charge(self.frames.envelope(payload.len()));
            plan.each_credit(|credit| {
                credit.take();
                credit.charge(charge);
            });
            let event = Event { id, since_1970, sequence };
            if let ([target], [head], false) =
                (&plan.targets[..], &heads[..], payload.len() >= LARGE)
            {
                target.link.put_data(|data| {
                    data.put(|joined, last| head.put(joined, last, event, payload));
                });
            } else {
                send_to_each(&self.mesh.postman, way, event, payload);
            }
            if let Some(receipt) = receipt {
                *receipt = Some(Receipt::exact(plan.parties.clone()));
            }
            Some(plan.parties.len())
        };
        self.mesh.look(|state| self.with_way(state, send)).flatten()
    }
}

/// Puts a frame into each link. What is large is shared by all; what is small is copied into each.
fn send_to_each(postman: &Postman, Way { plan, heads }: &Way, event: Event, payload: &mut Vec<u8>) {
    let bytes = payload.len();
    if bytes >= LARGE {
        let shared = Bytes::from(std::mem::take(payload));
        postman.put_to_each(plan, bytes, heads, |head, data| {
            data.put(|joined, last| head.put_before(joined, last, event, bytes));
            data.share(&shared);
        });
    } else {
        postman.put_to_each(plan, bytes, heads, |head, data| {
            data.put(|joined, last| head.put(joined, last, event, payload));
        });
    }
}

impl State {
    #[inline]
    fn somebody_waits(&self, route: &Route) -> bool {
        !self.waiting.is_empty()
            && self.waiting.contains_key(&(route.topic.clone(), route.to.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use busway_transport::{ContentType, PeerId, PlainInterest, Source, SubscriptionId};

    use super::*;
    use crate::link::Link;
    use crate::table::RemoteInterest;

    #[test]
    fn one_that_is_not_used_keeps_no_socket_of_a_peer_that_has_gone() {
        let mesh = Mesh::alone();
        let link = Arc::new(Link::new(PeerId::from_u64(2), 1, Arc::default()));
        let endpoints = BTreeSet::from(["a".parse().unwrap()]);
        let wants = PlainInterest::new(SubscriptionId(1), "t".parse().unwrap(), endpoints, 8);
        mesh.with(|state, _| {
            state.attach(link.clone(), 7);
            let remote = state.peers.get_mut(&link.peer).unwrap();
            remote.interests.insert(1, RemoteInterest::new(wants));
            state.plans.changed();
        });
        let source = Source { endpoint: "b".parse().unwrap(), peer: mesh.me };
        let common = Common::new("t".parse().unwrap(), 1, source, ContentType::JSON);
        let express = IpcExpress::new(mesh.clone(), &common);
        assert!(express.is_open());

        mesh.link_ended(&link, "it hung up");
        let gone = Arc::downgrade(&link);
        drop(link);
        assert!(gone.upgrade().is_none());
        assert!(!express.is_open());
    }
}
