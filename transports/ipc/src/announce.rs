//! Telling the peers what this bus wants, and waiting until all of them know (law 1).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use busway_transport::{Notice, PeerId};
use tokio::sync::oneshot;

use crate::link::Link;
use crate::mesh::{After, Mesh, Phase, State};
use crate::pulse::Owed;
use crate::table::Remote;
use crate::wire::{Change, Control, Out};

/// What is announced and not yet acknowledged by all. Each entry ends with the acks, or the links,
/// of those that were linked when it was made.
#[derive(Default)]
pub(crate) struct Acks {
    last: u64,
    open: HashMap<u64, Open>,
}

struct Open {
    missing: BTreeSet<PeerId>,
    all: oneshot::Sender<()>,
}

impl Acks {
    pub(crate) fn serial(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// A peer acknowledged.
    fn acked(&mut self, peer: PeerId, serial: u64) {
        if let Some(open) = self.open.get_mut(&serial) {
            open.missing.remove(&peer);
            if open.missing.is_empty()
                && let Some(open) = self.open.remove(&serial)
            {
                let _ = open.all.send(());
            }
        }
    }

    /// A peer needs no longer acknowledge anything.
    pub(crate) fn gone(&mut self, peer: PeerId) {
        let waited: Vec<u64> = self.open.keys().copied().collect();
        for serial in waited {
            self.acked(peer, serial);
        }
    }
}

/// Resolves when every peer that was linked at the announcement has acknowledged it, or is gone.
/// It needs no timer: the pulse cuts off a peer that owes an ack and is silent.
#[must_use]
pub(crate) struct Announced(Option<oneshot::Receiver<()>>);

impl Announced {
    pub(crate) async fn all(self) {
        if let Some(all) = self.0 {
            // An error means that the bus was closed meanwhile: nobody is left to tell.
            let _ = all.await;
        }
    }
}

impl State {
    /// Tells all linked peers. New ones learn it from the table in their handshake.
    pub(crate) fn announce(&mut self, change: Change) -> Announced {
        if self.peers.is_empty() {
            return Announced(None);
        }
        let serial = self.acks.serial();
        let owed = Owed { serial, behind_data: change.withdraws() };
        let out = Out::control(&Control::Change { serial, change });
        for remote in self.peers.values_mut() {
            remote.outstanding.push_back(owed);
            remote.link.control(out.clone());
        }
        let (all, receiver) = oneshot::channel();
        let missing = self.peers.keys().copied().collect();
        self.acks.open.insert(serial, Open { missing, all });
        Announced(Some(receiver))
    }

    /// Takes a new link's peer in and sends it our table: what is announced from now on follows
    /// it on the same lane.
    pub(crate) fn attach(&mut self, link: Arc<Link>, pid: u32) {
        let serial = self.acks.serial();
        let mut remote = Remote::new(link, pid);
        remote.outstanding.push_back(Owed { serial, behind_data: false });
        remote.link.control(Out::control(&Control::Table { serial, table: self.own.table() }));
        for interest in self.own.interests.values() {
            interest.inbox.expect(&remote.link);
        }
        self.peers.insert(remote.link.peer, remote);
    }

    /// Whether a peer is linked, and each side has applied the other's table.
    pub(crate) fn is_ready(&self, peer: PeerId) -> bool {
        self.peers.get(&peer).is_some_and(|remote| remote.up && remote.knows_us)
    }
}

impl Remote {
    /// Asks for a sign of life; gives the number by which it comes.
    pub(crate) fn ping(&mut self, acks: &mut Acks) -> u64 {
        let serial = acks.serial();
        self.outstanding.push_back(Owed { serial, behind_data: false });
        self.link.control(Out::control(&Control::Ping { serial }));
        serial
    }
}

impl Mesh {
    /// A peer acknowledged something.
    pub(crate) fn acked(self: &Arc<Self>, link: &Link, serial: u64) {
        self.look(|state| {
            let Some(remote) = state.peers.get_mut(&link.peer) else { return };
            if remote.link.number != link.number {
                return;
            }
            remote.outstanding.retain(|owed| owed.serial != serial);
            remote.letters.retain(|(behind, _)| *behind != serial);
            // The first thing that it acknowledges is the table.
            remote.knows_us = true;
            state.acks.acked(link.peer, serial);
        });
        self.changed.notify_waiters();
    }

    /// Withdraws something of ours, with nobody waiting for it: its stream was dropped. `forget`
    /// takes it out of the table, if it is still there.
    pub(crate) fn withdraw(
        self: &Arc<Self>,
        forget: impl FnOnce(&mut State, &mut After) -> Option<Change>,
    ) {
        self.with(|state, after| {
            if let Some(change) = forget(state, after)
                && state.phase != Phase::Closed
            {
                // Nobody waits: the acks are only for the pulse.
                let _ = state.announce(change);
            }
        });
    }

    /// Makes an endpoint known.
    pub(crate) fn announce_endpoint(self: &Arc<Self>, endpoint: busway_transport::Name) {
        self.with(|state, _| {
            let text = endpoint.to_string();
            if state.own.endpoints.insert(endpoint) {
                let _ = state.announce(Change::Endpoint(text));
            }
        });
    }

    /// Makes it known that this bus has reached its start-up barrier.
    pub(crate) fn announce_ready(self: &Arc<Self>) {
        self.with(|state, _| {
            if !std::mem::replace(&mut state.own.ready, true) {
                let _ = state.announce(Change::Ready);
            }
        });
    }

    /// Tells the bus that what a peer wants is different now: after the table is.
    pub(crate) fn peer_changed(&self, state: &mut State, peer: PeerId) {
        state.plans.changed();
        // A withdrawn interest is in nobody's way any more.
        state.wake_waiting();
        self.notices.push(Notice::PeerChanged(peer));
    }
}
