//! What this bus wants, what each peer wants, and where an event goes by it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use busway_transport::{
    DeadLetter, GroupSpec, Name, Party, Peer, PeerId, PlainInterest, ResponderSpec, Route, Topic,
};
use tokio::sync::Semaphore;

use crate::credit::Credit;
use crate::groups::MemberBox;
use crate::link::Link;
use crate::plain::Inbox;
use crate::pulse::{Beats, Owed};
use crate::requests::AskBox;
use crate::wire::{Change, Table};

/// How many requests of one caller a responder has open at once. The next ones wait.
pub(crate) const MAX_ASKS: usize = 1024;
/// How many routes are remembered. A bus with more topics looks some up again.
const MAX_PLANS: usize = 4096;

/// What this bus wants: what a new peer is told.
#[derive(Default)]
pub(crate) struct Own {
    pub(crate) endpoints: BTreeSet<Name>,
    pub(crate) ready: bool,
    pub(crate) interests: BTreeMap<u64, OwnInterest>,
    pub(crate) members: BTreeMap<u64, OwnMember>,
    pub(crate) responders: BTreeMap<u64, OwnResponder>,
    /// The number that a member or responder got last.
    pub(crate) last: u64,
}

pub(crate) struct OwnInterest {
    pub(crate) wants: PlainInterest,
    pub(crate) inbox: Arc<Inbox>,
    /// Being withdrawn: peers are no longer told of it, but what they sent before they knew
    /// still arrives.
    pub(crate) leaving: bool,
}

pub(crate) struct OwnMember {
    pub(crate) spec: GroupSpec,
    pub(crate) mailbox: Arc<MemberBox>,
}

pub(crate) struct OwnResponder {
    pub(crate) spec: ResponderSpec,
    pub(crate) mailbox: Arc<AskBox>,
    /// Room for this bus's own requests.
    pub(crate) room: Arc<Semaphore>,
}

impl Own {
    pub(crate) fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Everything, for a new peer.
    pub(crate) fn table(&self) -> Table {
        let endpoints = self.endpoints.iter().map(|name| Change::Endpoint(name.to_string()));
        let interests = self.interests.values().filter(|interest| !interest.leaving);
        let members = self.members.iter();
        let responders = self.responders.iter();
        Table {
            changes: endpoints
                .chain(interests.map(|interest| Change::interest(&interest.wants)))
                .chain(
                    members.map(|(member, it)| Change::Join {
                        member: *member,
                        spec: (&it.spec).into(),
                    }),
                )
                .chain(responders.map(|(number, it)| Change::respond(*number, &it.spec)))
                // Last: whoever is ready has everything else.
                .chain(self.ready.then_some(Change::Ready))
                .collect(),
        }
    }
}

/// A linked peer, and what it wants.
pub(crate) struct Remote {
    pub(crate) link: Arc<Link>,
    pub(crate) pid: u32,
    pub(crate) endpoints: BTreeSet<Name>,
    /// It has reached its start-up barrier.
    pub(crate) ready: bool,
    pub(crate) interests: BTreeMap<u64, RemoteInterest>,
    pub(crate) members: BTreeSet<u64>,
    pub(crate) responders: BTreeMap<u64, RemoteResponder>,
    /// Its table was applied: it counts as a peer.
    pub(crate) up: bool,
    /// It applied ours.
    pub(crate) knows_us: bool,
    /// What it has to acknowledge.
    pub(crate) outstanding: VecDeque<Owed>,
    /// See [`pulse`](crate::pulse).
    pub(crate) beats: Beats,
    /// Dead letters on their way to it, each until the ping behind it is acknowledged: what a dying
    /// link takes with it stays here instead.
    pub(crate) letters: VecDeque<(u64, DeadLetter)>,
}

pub(crate) struct RemoteInterest {
    pub(crate) wants: PlainInterest,
    pub(crate) credit: Arc<Credit>,
}

impl RemoteInterest {
    pub(crate) fn new(wants: PlainInterest) -> Self {
        Self { credit: Arc::new(Credit::new(wants.capacity)), wants }
    }
}

pub(crate) struct RemoteResponder {
    pub(crate) topic: Topic,
    pub(crate) endpoint: Name,
    pub(crate) room: Arc<Semaphore>,
}

impl Remote {
    pub(crate) fn new(link: Arc<Link>, pid: u32) -> Self {
        Self {
            link,
            pid,
            endpoints: BTreeSet::new(),
            ready: false,
            interests: BTreeMap::new(),
            members: BTreeSet::new(),
            responders: BTreeMap::new(),
            up: false,
            knows_us: false,
            outstanding: VecDeque::new(),
            beats: Beats::default(),
            letters: VecDeque::new(),
        }
    }

    /// The peer as the bus sees it.
    pub(crate) fn peer(&self) -> Peer {
        let mut peer = Peer::new(self.link.peer, self.endpoints.clone());
        peer.pid = Some(self.pid);
        peer.ready = self.ready;
        peer
    }

    /// Who stands for an interest when it is in the way.
    pub(crate) fn party(&self, interest: &PlainInterest, to: Option<&Name>) -> Option<Party> {
        let endpoint = to.or_else(|| interest.endpoints.first())?;
        Some(Party::remote(endpoint.clone(), self.link.peer))
    }
}

/// Where the plain copies of one route go, worked out once.
pub(crate) struct Plan {
    pub(crate) targets: Vec<Target>,
    pub(crate) parties: Arc<[Party]>,
}

pub(crate) struct Target {
    pub(crate) link: Arc<Link>,
    pub(crate) interests: Vec<u64>,
    /// Theirs, in the same order.
    pub(crate) credits: Vec<Arc<Credit>>,
}

/// The plans of recent routes. Every change of any peer's interests empties it.
#[derive(Default)]
pub(crate) struct Plans {
    /// Raised by every change: a permit tells by it whether its plan still holds.
    pub(crate) generation: u64,
    by_address: HashMap<Option<Name>, HashMap<Topic, Arc<Plan>>>,
    count: usize,
}

impl Plans {
    pub(crate) fn changed(&mut self) {
        self.generation += 1;
        self.by_address.clear();
        self.count = 0;
    }

    pub(crate) fn plan(&mut self, route: &Route, peers: &BTreeMap<PeerId, Remote>) -> Arc<Plan> {
        let known = self.by_address.get(&route.to).and_then(|plans| plans.get(&route.topic));
        if let Some(plan) = known {
            return plan.clone();
        }
        let plan = Arc::new(Plan::new(route, peers));
        if self.count >= MAX_PLANS {
            self.by_address.clear();
            self.count = 0;
        }
        self.count += 1;
        let plans = self.by_address.entry(route.to.clone()).or_default();
        plans.insert(route.topic.clone(), plan.clone());
        plan
    }
}

impl Plan {
    /// With each of the interests that an event is for. (By itself: all of them in one iterator take
    /// longer than the credit of the only one.)
    #[inline]
    pub(crate) fn each_credit(&self, act: impl Fn(&Credit)) {
        for target in &self.targets {
            target.credits.iter().for_each(|credit| act(credit));
        }
    }

    /// Whether all of them have room for an event.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.targets.iter().all(|target| target.credits.iter().all(|credit| credit.has_room()))
    }

    fn new(route: &Route, peers: &BTreeMap<PeerId, Remote>) -> Self {
        let (mut targets, mut parties) = (Vec::new(), Vec::new());
        let to = route.to.as_ref();
        for remote in peers.values() {
            let (mut interests, mut credits) = (Vec::new(), Vec::new());
            for (id, interest) in &remote.interests {
                if !interest.wants.wants(&route.topic, to) {
                    continue;
                }
                interests.push(*id);
                credits.push(interest.credit.clone());
                let endpoints = interest.wants.endpoints.iter();
                parties.extend(
                    endpoints
                        .filter(|endpoint| to.is_none_or(|to| to == *endpoint))
                        .map(|endpoint| Party::remote(endpoint.clone(), remote.link.peer)),
                );
            }
            if !interests.is_empty() {
                targets.push(Target { link: remote.link.clone(), interests, credits });
            }
        }
        Self { targets, parties: parties.into() }
    }
}
