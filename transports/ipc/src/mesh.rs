//! What is known, behind one lock, and what has to be done whenever it changed.
//!
//! Every change goes through [`Mesh::with`]: it drives the group engine before the lock is
//! released, and tells notices and drops streams' items (which may call back) after it. The lock
//! is never held across an await. Under it, only the locks of lanes, mailboxes and the postman's round are
//! taken, which take no other.

use std::any::Any;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use busway_groups::{DeadLetters, Engine};
use busway_transport::{
    Changes, ConnectOptions, Name, Notice, PeerId, Status, Topic, TransportError,
};
use slab::Slab;
use tokio::sync::Notify;

use crate::announce::Acks;
use crate::express::Known;
use crate::groups::Member;
use crate::link::Link;
use crate::mailbox::lock;
use crate::notices::Notices;
use crate::postman::Postman;
use crate::requests::Calls;
use crate::table::{Own, Plans, Remote};
use crate::wire::control::Introduction;

/// One bus's part of the mesh.
pub(crate) struct Mesh {
    pub(crate) me: PeerId,
    pub(crate) name: Name,
    /// The largest payload that this bus sends.
    pub(crate) limit: usize,
    state: Mutex<State>,
    pub(crate) notices: Notices,
    pub(crate) postman: Postman,
    /// Something happened that somebody may wait for: all lanes written, a peer ready or gone,
    /// work settled. Those who wait look again.
    pub(crate) changed: Arc<Notify>,
    /// The engine's next time is another one.
    pub(crate) timer: Notify,
    /// Look round again.
    pub(crate) scout: Notify,
    /// How many links were cut off because they did not speak our protocol.
    violations: AtomicU64,
}

/// What the lock is for.
pub(crate) struct State {
    pub(crate) phase: Phase,
    pub(crate) own: Own,
    pub(crate) peers: BTreeMap<PeerId, Remote>,
    /// Whom we are dialling: decides which of two crossing links stays.
    pub(crate) dialling: HashSet<PeerId>,
    pub(crate) plans: Plans,
    /// What each express knows of where its events go.
    pub(crate) ways: Slab<Known>,
    pub(crate) acks: Acks,
    pub(crate) engine: Engine<Member>,
    pub(crate) timer_at: Option<Instant>,
    pub(crate) dead: DeadLetters,
    /// Deliveries of peers that our bus has not settled yet.
    pub(crate) unsettled: usize,
    pub(crate) calls: Calls,
    /// Publishers that wait for room, per route, in the order they came.
    pub(crate) waiting: HashMap<(Topic, Option<Name>), VecDeque<Arc<Notify>>>,
    pub(crate) last_link: u64,
    /// Counted before a change of what peers want is acknowledged.
    pub(crate) interest_changes: Changes,
}

/// How far the transport's life is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// Everything is withdrawn; publishing goes on.
    Left,
    Closed,
}

/// What is to be done when the lock is released.
#[derive(Default)]
pub(crate) struct After {
    /// Things whose drop may take the lock.
    garbage: Vec<Box<dyn Any + Send>>,
}

impl After {
    pub(crate) fn drop_later(&mut self, thing: impl Any + Send) {
        self.garbage.push(Box::new(thing));
    }
}

impl Mesh {
    pub(crate) fn new(name: Name, limit: usize, options: &ConnectOptions) -> Arc<Self> {
        Arc::new(Self {
            me: options.peer,
            name,
            limit,
            state: Mutex::new(State {
                phase: Phase::Open,
                own: Own::default(),
                peers: BTreeMap::new(),
                dialling: HashSet::new(),
                plans: Plans::default(),
                ways: Slab::new(),
                acks: Acks::default(),
                engine: Engine::new(),
                timer_at: None,
                dead: DeadLetters::new(DeadLetters::LIMIT),
                unsettled: 0,
                calls: Calls::default(),
                waiting: HashMap::new(),
                last_link: 0,
                interest_changes: Changes::new(),
            }),
            notices: Notices::new(options.host.clone()),
            postman: Postman::default(),
            changed: Arc::new(Notify::new()),
            timer: Notify::new(),
            scout: Notify::new(),
            violations: AtomicU64::new(0),
        })
    }

    /// Who we are, for hellos.
    pub(crate) fn introduction(&self) -> Introduction {
        Introduction {
            bus: self.name.to_string(),
            peer: self.me.as_u64(),
            pid: std::process::id(),
            payload: self.limit as u64,
        }
    }

    /// Changes something.
    pub(crate) fn with<R>(self: &Arc<Self>, change: impl FnOnce(&mut State, &mut After) -> R) -> R {
        let mut after = After::default();
        let result = {
            let mut state = lock(&self.state);
            let result = change(&mut state, &mut after);
            self.drive(&mut state, &mut after);
            result
        };
        drop(after);
        self.notices.tell();
        result
    }

    /// Looks at something, or changes what neither engine nor bus has to hear of.
    #[inline]
    pub(crate) fn look<R>(&self, look: impl FnOnce(&mut State) -> R) -> R {
        look(&mut lock(&self.state))
    }

    /// Waits until something holds; looks again whenever something changed.
    pub(crate) async fn until(&self, mut holds: impl FnMut(&mut State) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.look(&mut holds) {
                return;
            }
            changed.await;
        }
    }

    /// A link's socket ended without a goodbye, or could not be used any more.
    pub(crate) fn link_ended(self: &Arc<Self>, link: &Arc<Link>, reason: &str) {
        self.with(|state, after| self.lose(state, after, link, reason, false));
    }

    /// What comes or goes by a link made this side panic: it ends at once, and comes back by a new hello.
    pub(crate) fn link_panicked(self: &Arc<Self>, link: &Arc<Link>) {
        tracing::error!(peer = %link.peer, "what comes or goes by a link made this side panic: it ends");
        self.link_ended(link, "what comes or goes by it made this side panic");
    }

    /// A peer that we dialled did not come as far as it should have by its deadline.
    pub(crate) fn cut_if_not_ready(self: &Arc<Self>, peer: PeerId) {
        self.with(|state, after| {
            let link = state.peers.get(&peer).map(|remote| remote.link.clone());
            if let Some(link) = link.filter(|_| !state.is_ready(peer)) {
                self.lose(state, after, &link, "its hello took longer than 2 s", false);
            }
        });
    }

    /// The peer left in order.
    pub(crate) fn link_said_goodbye(self: &Arc<Self>, link: &Arc<Link>) {
        self.with(|state, after| self.lose(state, after, link, "it left", true));
    }

    /// The peer does not speak our protocol, or is silent.
    pub(crate) fn link_broke_protocol(self: &Arc<Self>, link: &Arc<Link>, reason: &str) {
        self.violation(&link.peer.to_string(), reason);
        self.link_ended(link, reason);
    }

    /// Counts and tells that somebody does not speak our protocol.
    pub(crate) fn violation(&self, peer: &str, reason: &str) {
        let count = self.violations.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::warn!(bus = %self.name, peer, reason, count, "cut off a link");
        self.notices.push(Notice::Protocol { peer: peer.to_owned(), reason: reason.to_owned() });
        self.notices.tell();
    }

    /// Removes everything of a peer at once. Nothing happens if another link took this one's
    /// place.
    pub(crate) fn lose(
        &self,
        state: &mut State,
        after: &mut After,
        link: &Arc<Link>,
        reason: &str,
        in_order: bool,
    ) {
        link.close();
        self.postman.forget(link);
        let current = state.peers.get(&link.peer).is_some_and(|it| Arc::ptr_eq(&it.link, link));
        if !current {
            return;
        }
        let Some(mut remote) = state.peers.remove(&link.peer) else { return };
        tracing::debug!(bus = %self.name, peer = %link.peer, reason, "a link ended");
        state.plans.changed();
        // Else these would keep its socket open.
        let ways = state.ways.iter_mut().filter_map(|(_, known)| known.forget());
        ways.for_each(|way| after.drop_later(way));
        // Perhaps nobody is interested any more: then nothing is encoded.
        state.interest_changes.add();
        state.acks.gone(link.peer);
        let now = Instant::now();
        for member in &remote.members {
            state.engine.lost(Member { peer: link.peer, number: *member }, now);
        }
        for interest in state.own.interests.values() {
            interest.inbox.forget(link.number, in_order);
        }
        for responder in remote.responders.values() {
            responder.room.close();
        }
        for (_, letter) in std::mem::take(&mut remote.letters) {
            // Perhaps it arrived, and only its ack did not: better twice than never.
            self.keep_letter(state, letter);
        }
        state.calls.gone(link.peer, reason, after, &state.own);
        state.wake_waiting();
        if remote.up {
            self.notices.push(Notice::PeerDown(remote.peer()));
        }
        self.changed.notify_waiters();
        if !in_order && state.phase != Phase::Closed {
            self.scout.notify_one();
        }
    }

    /// Ends everything. Streams end after what they hold.
    pub(crate) fn shut(self: &Arc<Self>) {
        self.with(|state, after| {
            if state.phase == Phase::Closed {
                return;
            }
            state.phase = Phase::Closed;
            let links: Vec<_> = state.peers.values().map(|remote| remote.link.clone()).collect();
            for link in links {
                self.lose(state, after, &link, "this bus closed", true);
            }
            let own = std::mem::take(&mut state.own);
            own.interests.values().for_each(|it| it.inbox.end());
            own.members.values().for_each(|it| it.mailbox.end());
            own.responders.values().for_each(|it| it.mailbox.end());
            own.responders.values().for_each(|it| it.room.close());
            state.calls.close(after);
            for (group, missed) in state.engine.clear() {
                self.notices.push(Notice::GroupLost { group, missed });
            }
            state.wake_waiting();
            self.notices.push(Notice::Status(Status::Closed));
            after.drop_later(own);
        });
        self.changed.notify_waiters();
        self.timer.notify_one();
    }
}

impl State {
    /// Refuses a call that needs a living transport.
    pub(crate) fn check_open(&self) -> Result<(), TransportError> {
        if self.phase == Phase::Closed { Err(TransportError::Closed) } else { Ok(()) }
    }

    /// Refuses a call that would register something after `leave`.
    pub(crate) fn check_here(&self) -> Result<(), TransportError> {
        if self.phase == Phase::Open { Ok(()) } else { Err(TransportError::Closed) }
    }

    /// There may be room: the first publisher of each route tries again. When it has gone, the
    /// next one's turn comes by its [`Turn`](crate::publish::Turn).
    pub(crate) fn wake_waiting(&self) {
        for queue in self.waiting.values() {
            if let Some(first) = queue.front() {
                first.notify_one();
            }
        }
    }
}

#[cfg(test)]
impl Mesh {
    /// That of a bus that has no peers and listens to nothing.
    pub(crate) fn alone() -> Arc<Self> {
        struct Deaf;

        impl busway_transport::Host for Deaf {
            fn notice(&self, _: Notice) {}
        }

        let options = ConnectOptions::new(PeerId::from_u64(1), Arc::new(Deaf), Default::default());
        Self::new("shop".parse().unwrap(), crate::wire::MAX_PAYLOAD, &options)
    }
}
