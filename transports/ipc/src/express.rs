//! The short way of a publish: credit is taken and the frame put into every link in one step, under
//! the lock, for events that have nothing special about them and concern no group.

use std::sync::{Arc, Mutex};

use busway_transport::{Common, Express, Plain, Route};
use bytes::Bytes;

use crate::credit::Credit;
use crate::mailbox::lock;
use crate::mesh::{Mesh, State};
use crate::outbox::{LARGE, Outbox};
use crate::table::Plan;
use crate::wire::charge;
use crate::wire::event::{Event, EventFrames, Head};

/// One publisher's short way on one topic.
pub(crate) struct IpcExpress {
    mesh: Arc<Mesh>,
    route: Route,
    frames: EventFrames,
    known: Mutex<Known>,
}

/// Where its events go. It holds as long as neither count has grown.
#[derive(Default)]
struct Known {
    /// Of the plans.
    generation: u64,
    /// Of the interests, those of groups included. 0 for never.
    changes: u64,
    /// Absent when this is not the way: nobody takes them, or a group does.
    way: Option<Way>,
}

struct Way {
    plan: Arc<Plan>,
    /// How frames begin, for each target.
    heads: Vec<Head>,
}

impl IpcExpress {
    pub(crate) fn new(mesh: Arc<Mesh>, common: &Common) -> Self {
        let route = Route::new(common.topic.clone(), None);
        Self { mesh, route, frames: EventFrames::of(common), known: Mutex::default() }
    }

    /// Where events go now.
    #[inline]
    fn with_way<T>(&self, state: &mut State, act: impl FnOnce(&State, &Way) -> T) -> Option<T> {
        let mut known = lock(&self.known);
        let (generation, changes) = (state.plans.generation, state.interest_changes.count());
        if (known.generation, known.changes) != (generation, changes) {
            *known = Known { generation, changes, way: self.find_way(state) };
        }
        Some(act(state, known.way.as_ref()?))
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

impl Express for IpcExpress {
    fn is_open(&self) -> bool {
        self.mesh.look(|state| self.with_way(state, |_, _| ())).is_some()
    }

    fn try_send(&self, event: Plain<'_>, sequence: &mut dyn FnMut() -> u64) -> Option<usize> {
        let Plain { id, since_1970, payload, .. } = event;
        let send = |state: &State, way: &Way| {
            let Way { plan, heads } = way;
            if state.somebody_waits(&self.route) || !plan.credits().all(Credit::has_room) {
                return None;
            }
            let charge = charge(self.frames.envelope(payload.len()));
            let mut take = || {
                plan.credits().for_each(|credit| {
                    credit.take();
                    credit.charge(charge);
                });
                Event { id, since_1970, sequence: sequence() }
            };
            if let ([target], [head], false) =
                (&plan.targets[..], &heads[..], payload.len() >= LARGE)
            {
                let is_put = target.link.put_if_free(|data| {
                    let event = take();
                    data.put(|joined| head.put(joined, event, payload));
                });
                return is_put.then_some(plan.parties.len());
            }
            if plan.targets.iter().any(|target| target.link.is_congested()) {
                return None;
            }
            let event = take();
            send_to_each(plan, heads, event, payload);
            Some(plan.parties.len())
        };
        self.mesh.look(|state| self.with_way(state, send)).flatten()
    }
}

/// Puts a frame into each link. What is large is shared by all; what is small is copied into each.
fn send_to_each(plan: &Plan, heads: &[Head], event: Event, payload: &mut Vec<u8>) {
    let put: &dyn Fn(&mut Outbox, &Head) = if payload.len() >= LARGE {
        let shared = Bytes::from(std::mem::take(payload));
        &move |data, head| {
            data.put(|joined| head.put_before(joined, event, shared.len()));
            data.share(&shared);
        }
    } else {
        &|data, head| data.put(|joined| head.put(joined, event, payload))
    };
    for (target, head) in plan.targets.iter().zip(heads) {
        target.link.put_data(|data| put(data, head));
    }
}

impl State {
    #[inline]
    fn somebody_waits(&self, route: &Route) -> bool {
        !self.waiting.is_empty()
            && self.waiting.contains_key(&(route.topic.clone(), route.to.clone()))
    }
}
