//! Publishing: room is reserved everywhere, then the event is committed (law 9).
//!
//! A permit holds one credit of every interest of every peer that the event is for, and the group
//! engine's promise for the groups. It gets all of it at once or nothing, so that one who waits
//! takes no room from others. Those who wait for room on one route wait in line, and only the
//! first of them tries again when there may be some.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use busway_groups::Reservation;
use busway_transport::{
    Commit, Envelope, Name, Notice, Party, PayloadError, Permit, Receipt, Route, Topic,
    TransportError,
};
use tokio::sync::Notify;

use crate::credit::Credit;
use crate::mesh::{Mesh, State};
use crate::table::Plan;
use crate::wire::envelope::Encoded;
use crate::wire::{Out, charge};

/// Room for one event at every peer and group that takes it. See [`Permit`].
pub struct IpcPermit {
    mesh: Arc<Mesh>,
    plan: Arc<Plan>,
    /// Of the plan: what came or went since the permit was made is looked at again.
    generation: u64,
    /// Taken by commit and drop.
    reservation: Option<Reservation>,
    route: Route,
}

impl fmt::Debug for IpcPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IpcPermit").field("route", &self.route).finish_non_exhaustive()
    }
}

impl Permit for IpcPermit {
    fn commit(mut self, envelope: Envelope) -> Commit {
        let Some(reservation) = self.reservation.take() else {
            return Commit::Done(Receipt::exact(Vec::new()));
        };
        let encoded = self.encode(&envelope);
        let receipt = self.mesh.with(|state, after| {
            let Some(encoded) = encoded else {
                after.drop_later(envelope);
                self.give_back(state);
                state.engine.release(reservation);
                return Receipt::exact(Vec::new());
            };
            let mut parties = Vec::new();
            let taken = charge(encoded.len());
            self.plan.each_credit(|credit| credit.charge(taken));
            if state.plans.generation == self.generation {
                let interests = self.plan.targets.iter().map(|target| &target.interests);
                let (postman, bytes) = (&self.mesh.postman, encoded.payload.len());
                postman.put_to_each(&self.plan, bytes, interests, |interests, data| {
                    data.push(&Out::event(interests, &encoded));
                });
                parties.extend_from_slice(&self.plan.parties);
            } else {
                self.commit_to_those_left(state, &encoded, &mut parties);
            }
            parties.extend(state.engine.commit(reservation, envelope, Instant::now()));
            Receipt::exact(parties)
        });
        Commit::Done(receipt)
    }
}

impl IpcPermit {
    /// Encodes the event, once for all links. (Also when only groups take it: what cannot be
    /// encoded or is too long must be told now, not when the engine delivers it.)
    fn encode(&self, envelope: &Envelope) -> Option<Encoded> {
        let encoded = Encoded::new(envelope).and_then(|encoded| {
            let limit = self.mesh.limit;
            if Out::event(&[], &encoded).is_too_long(limit) {
                let size = encoded.len();
                return Err(PayloadError {
                    topic: envelope.topic.to_string(),
                    reason: format!("with its {size} bytes it is over the limit of {limit}"),
                });
            }
            Ok(encoded)
        });
        match encoded {
            Ok(encoded) => Some(encoded),
            Err(error) => {
                self.mesh.notices.push(Notice::PublishFailed {
                    topic: envelope.topic.clone(),
                    reason: error.to_string(),
                });
                None
            }
        }
    }

    /// The slow way, after peers or interests came or went: those that are still there get it.
    fn commit_to_those_left(&self, state: &State, encoded: &Encoded, parties: &mut Vec<Party>) {
        for target in &self.plan.targets {
            let Some(remote) = state.peers.get(&target.link.peer) else { continue };
            if !Arc::ptr_eq(&remote.link, &target.link) {
                continue;
            }
            let mut left = Vec::with_capacity(target.interests.len());
            for id in &target.interests {
                let Some(interest) = remote.interests.get(id) else { continue };
                left.push(*id);
                let to = self.route.to.as_ref();
                let endpoints = interest.wants.endpoints.iter();
                parties.extend(
                    endpoints
                        .filter(|endpoint| to.is_none_or(|to| to == *endpoint))
                        .map(|it| Party::remote(it.clone(), target.link.peer)),
                );
            }
            if !left.is_empty() {
                target.link.data(Out::event(&left, encoded));
            }
        }
    }

    fn give_back(&self, state: &mut State) {
        self.plan.each_credit(Credit::give_back);
        state.wake_waiting();
    }
}

impl Drop for IpcPermit {
    fn drop(&mut self) {
        if let Some(reservation) = self.reservation.take() {
            self.mesh.with(|state, _| {
                self.give_back(state);
                state.engine.release(reservation);
            });
        }
    }
}

/// A place in the line of those who wait for room on one route.
pub(crate) struct Turn {
    mesh: Arc<Mesh>,
    key: (Topic, Option<Name>),
    wake: Arc<Notify>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.mesh.look(|state| {
            let Some(queue) = state.waiting.get_mut(&self.key) else { return };
            queue.retain(|other| !Arc::ptr_eq(other, &self.wake));
            match queue.front() {
                // Whatever woke us, if it did, is for the next one now.
                Some(next) => next.notify_one(),
                None => {
                    state.waiting.remove(&self.key);
                }
            }
        });
    }
}

impl Mesh {
    pub(crate) fn try_reserve(
        self: &Arc<Self>,
        route: &Route,
        turn: Option<&Turn>,
    ) -> Result<IpcPermit, TransportError> {
        self.with(|state, _| {
            state.check_open()?;
            let key = (route.topic.clone(), route.to.clone());
            let first = state.waiting.get(&key).and_then(VecDeque::front);
            let ours = turn.map(|turn| &turn.wake);
            if first.is_some_and(|first| !ours.is_some_and(|ours| Arc::ptr_eq(first, ours))) {
                let by = state.in_the_way(route);
                return Err(TransportError::Full { by });
            }
            let plan = state.plans.plan(route, &state.peers);
            if let Some(by) = state.full(&plan, route) {
                return Err(TransportError::Full { by });
            }
            let reservation = state
                .engine
                .try_reserve(route)
                .map_err(|by| TransportError::Full { by: Some(by) })?;
            plan.each_credit(Credit::take);
            Ok(IpcPermit {
                mesh: self.clone(),
                plan,
                generation: state.plans.generation,
                reservation: Some(reservation),
                route: route.clone(),
            })
        })
    }

    pub(crate) async fn reserve(
        self: &Arc<Self>,
        route: &Route,
    ) -> Result<IpcPermit, TransportError> {
        match self.try_reserve(route, None) {
            Err(TransportError::Full { .. }) => {}
            other => return other,
        }
        let turn = self.queue(route);
        loop {
            match self.try_reserve(route, Some(&turn)) {
                // Only the first in line is woken; a wake between the attempt and this wait is
                // kept.
                Err(TransportError::Full { .. }) => turn.wake.notified().await,
                other => return other,
            }
        }
    }

    fn queue(self: &Arc<Self>, route: &Route) -> Turn {
        let key = (route.topic.clone(), route.to.clone());
        let wake = Arc::new(Notify::new());
        self.look(|state| {
            state.waiting.entry(key.clone()).or_default().push_back(wake.clone());
        });
        Turn { mesh: self.clone(), key, wake }
    }
}

impl State {
    /// Whether any plain interest of a peer wants it.
    pub(crate) fn wanted(&mut self, route: &Route) -> bool {
        !self.plans.plan(route, &self.peers).targets.is_empty()
    }

    /// Who has no room for such an event, if it is a peer.
    fn in_the_way(&mut self, route: &Route) -> Option<Party> {
        let plan = self.plans.plan(route, &self.peers);
        self.full(&plan, route).flatten()
    }

    /// Whether one of those that an event is for has no room, and which.
    fn full(&self, plan: &Plan, route: &Route) -> Option<Option<Party>> {
        plan.targets.iter().find_map(|target| {
            let mut credits = target.credits.iter();
            let at = match target.link.is_congested() {
                true => 0,
                false => credits.position(|credit| !credit.has_room())?,
            };
            let party = || {
                let remote = self.peers.get(&target.link.peer)?;
                let interest = remote.interests.get(target.interests.get(at)?)?;
                remote.party(&interest.wants, route.to.as_ref())
            };
            Some(party())
        })
    }
}
