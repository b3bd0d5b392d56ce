//! The contract's verbs, each in a line or two: what they do is in the modules beside this one.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use busway_transport::{
    Asks, Capabilities, Capability, Changes, Common, ContentType, DeadLetter, Deliveries, Express,
    GroupDeliveries, GroupKey, GroupSpec, Interest, Letters, Name, OutgoingRequest, Peer,
    PlainInterest, Reply, ResponderSpec, Route, Status, SubscriptionId, Transport, TransportError,
};
use tokio::task::AbortHandle;
use tokio::time::timeout_at;

use crate::express::IpcExpress;
use crate::folder::{Folder, Socket};
use crate::groups::NO_DURABLE_GROUPS;
use crate::mesh::{Mesh, Phase};
use crate::publish::IpcPermit;
use crate::wire::Change;

/// How long a closing bus waits for its peers to hang up after the goodbye, at most.
const HANG_UP: Duration = Duration::from_secs(1);

/// A bus's place in the mesh of `ipc:NAME`. Dropping it without [`close`](Transport::close) is
/// what a crash looks like to its peers, except that its socket is removed.
pub struct IpcTransport {
    mesh: Arc<Mesh>,
    folder: Folder,
    socket: Socket,
    tasks: Vec<AbortHandle>,
}

impl IpcTransport {
    pub(crate) fn new(
        mesh: Arc<Mesh>,
        folder: Folder,
        socket: Socket,
        tasks: Vec<AbortHandle>,
    ) -> Self {
        Self { mesh, folder, socket, tasks }
    }

    /// Waits until everything is out of the lanes and `holds`.
    async fn drained(
        &self,
        what: &str,
        deadline: Instant,
        holds: impl Fn(&mut crate::mesh::State) -> bool,
    ) -> Result<(), TransportError> {
        let started = Instant::now();
        let drained = self.mesh.until(|state| {
            // All of them are asked: whoever is asked sees to it.
            let links = state.peers.values().map(|remote| &remote.link);
            links.filter(|link| !link.is_written()).count() == 0 && holds(state)
        });
        timeout_at(deadline.into(), drained).await.map_err(|_| TransportError::TimedOut {
            what: what.to_owned(),
            after: deadline.saturating_duration_since(started),
            by: None,
        })
    }
}

impl fmt::Debug for IpcTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IpcTransport")
            .field("bus", &self.mesh.name)
            .field("peer", &self.mesh.me)
            .finish_non_exhaustive()
    }
}

impl Drop for IpcTransport {
    fn drop(&mut self) {
        // While the listener still lives: nobody takes the socket for a dead one meanwhile.
        self.socket.remove();
        self.mesh.shut();
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Transport for IpcTransport {
    type Permit = IpcPermit;

    fn capabilities(&self) -> Capabilities {
        const CAN: &[Capability] = &[
            Capability::NamedBackPressure,
            Capability::CountedReceipts,
            Capability::SeesResponderDeath,
            Capability::RemoteCancellation,
        ];
        Capabilities::new("ipc", CAN, ContentType::MESSAGE_PACK, self.mesh.limit)
    }

    fn status(&self) -> Status {
        match self.mesh.look(|state| state.phase) {
            Phase::Open | Phase::Left => Status::Connected,
            Phase::Closed => Status::Closed,
        }
    }

    fn peers(&self) -> Vec<Peer> {
        self.mesh.look(|state| {
            state.peers.values().filter(|remote| remote.up).map(|remote| remote.peer()).collect()
        })
    }

    fn announce(&self, endpoint: Name) {
        self.mesh.announce_endpoint(endpoint);
    }

    fn set_ready(&self) {
        self.mesh.announce_ready();
    }

    fn interest(&self, route: &Route) -> Interest {
        let wanted = self.mesh.look(|state| state.wanted(route) || state.engine.interested(route));
        if wanted { Interest::Yes } else { Interest::No }
    }

    fn interest_changes(&self) -> Changes {
        self.mesh.look(|state| state.interest_changes.clone())
    }

    fn responders(&self, route: &Route) -> Interest {
        self.mesh.responders(route)
    }

    fn express(&self, common: Common) -> Option<Arc<dyn Express>> {
        Some(Arc::new(IpcExpress::new(self.mesh.clone(), &common)))
    }

    fn try_reserve(&self, route: &Route) -> Result<IpcPermit, TransportError> {
        self.mesh.try_reserve(route, None)
    }

    async fn reserve(&self, route: &Route) -> Result<IpcPermit, TransportError> {
        self.mesh.reserve(route).await
    }

    async fn subscribe(&self, interest: PlainInterest) -> Result<Deliveries, TransportError> {
        self.mesh.subscribe(interest).await
    }

    async fn update(
        &self,
        id: SubscriptionId,
        endpoints: BTreeSet<Name>,
    ) -> Result<(), TransportError> {
        self.mesh.update(id, endpoints).await
    }

    async fn join(&self, spec: GroupSpec) -> Result<GroupDeliveries, TransportError> {
        self.mesh.join(spec).await
    }

    async fn dead_letters(&self, group: &GroupKey) -> Result<Vec<DeadLetter>, TransportError> {
        Ok(self.mesh.dead_letters(group))
    }

    async fn replay(&self, group: &GroupKey, which: Letters) -> Result<usize, TransportError> {
        self.mesh.replay(group, which).await
    }

    async fn purge(&self, group: &GroupKey, which: Letters) -> Result<usize, TransportError> {
        self.mesh.purge(group, which)
    }

    async fn remove_group(&self, _: &GroupKey, _: bool) -> Result<(), TransportError> {
        Err(NO_DURABLE_GROUPS)
    }

    async fn respond(&self, spec: ResponderSpec) -> Result<Asks, TransportError> {
        self.mesh.respond(spec).await
    }

    async fn request(&self, request: OutgoingRequest) -> Result<Reply, TransportError> {
        self.mesh.request(request).await
    }

    async fn flush(&self, deadline: Instant) -> Result<(), TransportError> {
        self.drained("flushing", deadline, |state| state.engine.unsettled() == 0).await
    }

    async fn leave(&self) -> Result<(), TransportError> {
        let me = self.mesh.me;
        let announced = self.mesh.with(|state, _| {
            if state.phase != Phase::Open {
                return Vec::new();
            }
            state.phase = Phase::Left;
            let mut changes = Vec::new();
            for (id, interest) in &mut state.own.interests {
                interest.leaving = true;
                changes.push(Change::Withdraw { id: *id });
            }
            let members: Vec<_> =
                state.own.members.iter().map(|(id, it)| (*id, it.mailbox.clone())).collect();
            for (number, mailbox) in members {
                changes.extend(state.leave_group(me, number));
                mailbox.end();
            }
            let responders: Vec<u64> = state.own.responders.keys().copied().collect();
            for number in responders {
                changes.extend(state.stop_responding(number));
            }
            changes.into_iter().map(|change| state.announce(change)).collect()
        });
        for announced in announced {
            announced.all().await;
        }
        // The acks came behind the last events: nothing more will come.
        self.mesh.with(|state, after| {
            let gone: Vec<u64> = state
                .own
                .interests
                .iter()
                .filter(|(_, it)| it.leaving)
                .map(|(id, _)| *id)
                .collect();
            for id in gone {
                if let Some(interest) = state.own.interests.remove(&id) {
                    interest.inbox.end();
                    after.drop_later(interest.inbox);
                }
            }
        });
        Ok(())
    }

    async fn close(&self, deadline: Instant) -> Result<(), TransportError> {
        if self.mesh.look(|state| state.phase) == Phase::Closed {
            return Err(TransportError::Closed);
        }
        // If the deadline passes here, what follows says so.
        let _ = timeout_at(deadline.into(), self.leave()).await;
        let drained = self
            .drained("closing", deadline, |state| {
                state.unsettled == 0 && state.calls.all_answered()
            })
            .await;
        self.mesh.look(|state| state.peers.values().for_each(|remote| remote.link.goodbye()));
        // A peer hangs up when it has read the goodbye. Hanging up first would throw away what is
        // still on its way to it, if it is just sending us something.
        let hang_up = deadline.min(Instant::now() + HANG_UP);
        let _ = timeout_at(hang_up.into(), self.mesh.until(|state| state.peers.is_empty())).await;
        {
            let lock = timeout_at(hang_up.into(), self.folder.lock()).await;
            self.socket.remove();
            drop(lock);
        }
        self.mesh.shut();
        for task in &self.tasks {
            task.abort();
        }
        drained
    }
}
