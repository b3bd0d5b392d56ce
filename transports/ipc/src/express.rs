//! The short way of a publish: credit is taken and the frame put into every link in one step, under
//! the lock, for events that have nothing special about them and concern no group.

use std::sync::{Arc, Mutex};

use busway_transport::{Common, Express, PeerId, Plain, Route};

use crate::mailbox::lock;
use crate::mesh::{Mesh, State};
use crate::outbox::LARGE;
use crate::table::{Plan, RemoteInterest};
use crate::wire::charge;
use crate::wire::event::{Event, EventFrames};

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
    plan: Option<Arc<Plan>>,
}

impl IpcExpress {
    pub(crate) fn new(mesh: Arc<Mesh>, common: &Common) -> Self {
        let route = Route::new(common.topic.clone(), None);
        Self { mesh, route, frames: EventFrames::of(common), known: Mutex::default() }
    }

    /// Where events go now.
    fn with_plan<T>(
        &self,
        state: &mut State,
        act: impl FnOnce(&mut State, &Plan) -> T,
    ) -> Option<T> {
        let mut known = lock(&self.known);
        let (generation, changes) = (state.plans.generation, state.interest_changes.count());
        if (known.generation, known.changes) != (generation, changes) {
            let alone = state.check_open().is_ok() && !state.engine.interested(&self.route);
            let plan = alone.then(|| state.plans.plan(&self.route, &state.peers));
            let plan = plan.filter(|plan| !plan.targets.is_empty());
            *known = Known { generation, changes, plan };
        }
        let plan = known.plan.as_ref()?;
        Some(act(state, plan))
    }
}

impl Express for IpcExpress {
    fn is_open(&self) -> bool {
        self.mesh.look(|state| self.with_plan(state, |_, _| ())).is_some()
    }

    fn try_send(&self, event: Plain<'_>, sequence: &mut dyn FnMut() -> u64) -> Option<usize> {
        let Plain { id, time, payload, .. } = event;
        let send = |state: &mut State, plan: &Plan| {
            let is_congested = || plan.targets.iter().any(|target| target.link.is_congested());
            let charge = charge(self.frames.envelope(payload.len()));
            if state.somebody_waits(&self.route)
                || is_congested()
                || !state.take_credit(plan, charge)
            {
                return None;
            }
            let event = Event { id, time, sequence: sequence(), length: payload.len() };
            // Shared by all links; what is small is copied into each.
            let shared = (payload.len() >= LARGE).then(|| payload.split().freeze());
            for target in &plan.targets {
                target.link.put_data(|data| {
                    data.put(|joined| {
                        self.frames.put(joined, &target.interests, event);
                        joined.extend_from_slice(payload);
                    });
                    if let Some(shared) = &shared {
                        data.share(shared);
                    }
                });
            }
            Some(plan.parties.len())
        };
        self.mesh.look(|state| self.with_plan(state, send)).flatten()
    }
}

impl State {
    fn somebody_waits(&self, route: &Route) -> bool {
        !self.waiting.is_empty()
            && self.waiting.contains_key(&(route.topic.clone(), route.to.clone()))
    }

    /// Takes one credit of each interest of a plan, and so much of its window, or nothing.
    fn take_credit(&mut self, plan: &Plan, charge: usize) -> bool {
        let ids = || plan.targets.iter().flat_map(|it| it.interests.iter().map(move |id| (it, id)));
        let mut taken = 0;
        for (target, id) in ids() {
            match self.interest_of(target.link.peer, *id) {
                Some(interest) if interest.has_room() => {
                    interest.credit -= 1;
                    interest.bytes -= charge as i64;
                }
                // A plan is forgotten with the link and the interests it was made of.
                _ => break,
            }
            taken += 1;
        }
        if taken == ids().count() {
            return true;
        }
        for (target, id) in ids().take(taken) {
            if let Some(interest) = self.interest_of(target.link.peer, *id) {
                interest.credit += 1;
                interest.bytes += charge as i64;
            }
        }
        false
    }

    fn interest_of(&mut self, peer: PeerId, interest: u64) -> Option<&mut RemoteInterest> {
        self.peers.get_mut(&peer)?.interests.get_mut(&interest)
    }
}
