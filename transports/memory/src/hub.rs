//! Where the buses of one name meet: who is there, and what each wants.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc};

use busway_groups::{DeadLetters, Engine};
use busway_transport::{
    Ask, Changes, Delivery, Envelope, GroupSpec, Host, Interest, Name, Notice, Peer, PeerId,
    PlainInterest, ResponderSpec, Route, SubscriptionId,
};

/// The number of one group membership, unique in its hub.
pub(crate) type MemberId = u64;

/// Where the buses of one name meet.
#[derive(Default)]
pub(crate) struct Hub {
    state: Mutex<State>,
    numbers: AtomicU64,
    /// Told when a group's backlog has room again.
    pub(crate) room: Notify,
    /// Told when an engine's next timeout, or what it owes, may have changed.
    pub(crate) turned: Notify,
}

/// Who is there.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) buses: BTreeMap<PeerId, BusState>,
    pub(crate) members: BTreeMap<MemberId, Member>,
    pub(crate) responders: BTreeMap<u64, Responder>,
    /// Counted before any bus is answered.
    pub(crate) interest_changes: Changes,
    /// Deliveries whose member had gone. They settle themselves when they are dropped, which must
    /// happen outside of the lock: [`Hub::with`] does.
    pub(crate) stranded: Vec<Delivery>,
    pub(crate) notices: Vec<(Arc<dyn Host>, Notice)>,
}

/// One bus.
pub(crate) struct BusState {
    pub(crate) host: Arc<dyn Host>,
    pub(crate) endpoints: BTreeSet<Name>,
    pub(crate) ready: bool,
    pub(crate) interests: BTreeMap<SubscriptionId, (PlainInterest, mpsc::Sender<Arc<Envelope>>)>,
    /// The groups' work that this bus published.
    pub(crate) engine: Engine<MemberId>,
    /// The dead letters of members of this bus.
    pub(crate) dead_letters: DeadLetters,
}

/// One member of a group.
pub(crate) struct Member {
    pub(crate) peer: PeerId,
    pub(crate) spec: GroupSpec,
    /// Never holds more than the member's concurrency for each bus that publishes: the engines see
    /// to that.
    pub(crate) deliveries: mpsc::UnboundedSender<Delivery>,
}

/// One responder.
pub(crate) struct Responder {
    pub(crate) peer: PeerId,
    pub(crate) spec: ResponderSpec,
    pub(crate) asks: mpsc::Sender<Ask>,
}

impl Hub {
    /// Works on the state, and then, unlocked, tells what happened and drops what settles itself.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let value = work(&mut state);
        let notices = std::mem::take(&mut state.notices);
        let stranded = std::mem::take(&mut state.stranded);
        drop(state);
        for (host, notice) in notices {
            host.notice(notice);
        }
        drop(stranded);
        value
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every step leaves the state whole; a panic elsewhere must stop nothing here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }
}

impl State {
    /// Lets a bus in, which learns of all groups there are.
    pub(crate) fn enter(&mut self, peer: PeerId, host: Arc<dyn Host>) {
        let mut engine = Engine::new();
        for (id, member) in &self.members {
            engine.join(*id, &member.spec, crate::groups::now());
        }
        let bus = BusState {
            host,
            endpoints: BTreeSet::new(),
            ready: false,
            interests: BTreeMap::new(),
            engine,
            dead_letters: DeadLetters::new(DeadLetters::LIMIT),
        };
        self.buses.insert(peer, bus);
        if let Some(bus) = self.peer(peer) {
            self.tell_others(peer, &Notice::PeerUp(bus));
        }
    }

    /// Withdraws all that a bus takes part in.
    pub(crate) fn withdraw(&mut self, peer: PeerId) {
        if let Some(bus) = self.buses.get_mut(&peer) {
            bus.interests.clear();
        }
        self.responders.retain(|_, responder| responder.peer != peer);
        for member in self.members_of(peer) {
            self.leave_group(member);
        }
        self.changed(peer);
    }

    fn members_of(&self, peer: PeerId) -> Vec<MemberId> {
        let own = self.members.iter().filter(|(_, member)| member.peer == peer);
        own.map(|(id, _)| *id).collect()
    }

    /// The members of a bus that goes without having left: they died, and their groups are held.
    fn lose_members(&mut self, peer: PeerId) {
        for id in self.members_of(peer) {
            self.members.remove(&id);
            for bus in self.buses.values_mut() {
                bus.engine.lost(id, crate::groups::now());
            }
        }
    }

    /// Lets a bus go, with the work it still held.
    pub(crate) fn exit(&mut self, peer: PeerId) {
        let Some(was) = self.peer(peer) else { return };
        self.lose_members(peer);
        self.withdraw(peer);
        if let Some(mut bus) = self.buses.remove(&peer) {
            for (group, missed) in bus.engine.clear() {
                self.notices.push((bus.host.clone(), Notice::GroupLost { group, missed }));
            }
        }
        self.tell_others(peer, &Notice::PeerDown(was));
    }

    /// A bus as its peers see it.
    pub(crate) fn peer(&self, id: PeerId) -> Option<Peer> {
        let bus = self.buses.get(&id)?;
        let mut peer = Peer::new(id, bus.endpoints.clone());
        peer.ready = bus.ready;
        peer.pid = Some(std::process::id());
        Some(peer)
    }

    /// Tells the others that something about a bus has changed.
    pub(crate) fn changed(&mut self, peer: PeerId) {
        self.interest_changes.add();
        self.tell_others(peer, &Notice::PeerChanged(peer));
    }

    fn tell_others(&mut self, peer: PeerId, notice: &Notice) {
        let others = self.buses.iter().filter(|(id, _)| **id != peer);
        self.notices.extend(others.map(|(_, bus)| (bus.host.clone(), notice.clone())));
    }

    /// The plain interests of the other buses that take such an event.
    pub(crate) fn interested(
        &self,
        peer: PeerId,
        route: &Route,
    ) -> impl Iterator<Item = (PeerId, &PlainInterest, &mpsc::Sender<Arc<Envelope>>)> {
        let others = self.buses.iter().filter(move |(id, _)| **id != peer);
        others
            .flat_map(|(id, bus)| bus.interests.values().map(|(interest, to)| (*id, interest, to)))
            .filter(|(_, interest, _)| interest.wants(&route.topic, route.to.as_ref()))
    }

    /// Whether anybody takes such an event of a bus.
    pub(crate) fn interest(&self, peer: PeerId, route: &Route) -> Interest {
        let group = self.buses.get(&peer).is_some_and(|bus| bus.engine.interested(route));
        if group || self.interested(peer, route).next().is_some() {
            Interest::Yes
        } else {
            Interest::No
        }
    }
}
