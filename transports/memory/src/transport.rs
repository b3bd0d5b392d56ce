//! The contract, verb by verb.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use busway_groups::Replay;
use busway_transport::{
    Asks, Capabilities, Capability, Changes, Common, ConnectOptions, ContentType, DeadLetter,
    Deliveries, Express, GroupDeliveries, GroupKey, GroupSpec, Interest, Letters, Name,
    OutgoingRequest, Peer, PeerId, PlainInterest, Reply, ResponderSpec, Route, Status,
    SubscriptionId, Transport, TransportError,
};

use crate::groups::{Work, drive, keep_time, now};
use crate::hub::{BusState, Hub};
use crate::plain::{Arrivals, Blocked, MemoryPermit, reserve};
use crate::requests::{Questions, answers, ask};

const NAME: &str = "memory";

const CAPABILITIES: Capabilities = Capabilities::new(
    NAME,
    &[
        Capability::InProcess,
        Capability::NamedBackPressure,
        Capability::CountedReceipts,
        Capability::SeesResponderDeath,
        Capability::RemoteCancellation,
    ],
    // For what cannot cross as it is: two Rust types of one name.
    ContentType::MESSAGE_PACK,
    usize::MAX,
);

const NO_DURABLE_GROUPS: TransportError = TransportError::Unsupported {
    transport: NAME,
    capability: Capability::DurableGroups,
    instead: "leave `durable()` out, or use amqp://… for work that survives everyone",
};

/// One bus's place in a hub.
pub struct MemoryTransport {
    hub: Arc<Hub>,
    peer: PeerId,
}

impl MemoryTransport {
    pub(crate) fn join(hub: Arc<Hub>, options: ConnectOptions) -> Self {
        let peer = options.peer;
        hub.with(|state| state.enter(peer, options.host));
        tokio::spawn(keep_time(Arc::downgrade(&hub), peer));
        Self { hub, peer }
    }

    /// Works on this bus's own state, while it is there.
    fn here<T>(&self, work: impl FnOnce(&mut BusState) -> T) -> Result<T, TransportError> {
        self.hub
            .with(|state| state.buses.get_mut(&self.peer).map(work))
            .ok_or(TransportError::Closed)
    }

    fn exit(&self) {
        self.hub.with(|state| {
            state.exit(self.peer);
            crate::groups::drive_all(&self.hub, state);
        });
        self.hub.turned.notify_waiters();
        self.hub.room.notify_waiters();
    }
}

impl Drop for MemoryTransport {
    fn drop(&mut self) {
        self.exit();
    }
}

impl std::fmt::Debug for MemoryTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryTransport").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Transport for MemoryTransport {
    type Permit = MemoryPermit;

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn status(&self) -> Status {
        self.here(|_| Status::Connected).unwrap_or(Status::Closed)
    }

    fn peers(&self) -> Vec<Peer> {
        self.hub.with(|state| {
            let others = state.buses.keys().filter(|id| **id != self.peer);
            others.filter_map(|id| state.peer(*id)).collect()
        })
    }

    fn announce(&self, endpoint: Name) {
        self.hub.with(|state| {
            if let Some(bus) = state.buses.get_mut(&self.peer) {
                bus.endpoints.insert(endpoint);
                state.changed(self.peer);
            }
        });
    }

    fn set_ready(&self) {
        self.hub.with(|state| {
            if let Some(bus) = state.buses.get_mut(&self.peer) {
                bus.ready = true;
                state.changed(self.peer);
            }
        });
    }

    fn interest(&self, route: &Route) -> Interest {
        self.hub.with(|state| state.interest(self.peer, route))
    }

    fn interest_changes(&self) -> Changes {
        self.hub.with(|state| state.interest_changes.clone())
    }

    fn responders(&self, route: &Route) -> Interest {
        let found = self.hub.with(|state| state.responders.values().any(|r| answers(r, route)));
        if found { Interest::Yes } else { Interest::No }
    }

    /// What stays in the process is not encoded.
    fn express(&self, _: Common) -> Option<Arc<dyn Express>> {
        None
    }

    fn try_reserve(&self, route: &Route) -> Result<MemoryPermit, TransportError> {
        reserve(&self.hub, self.peer, route).map_err(Blocked::error)
    }

    async fn reserve(&self, route: &Route) -> Result<MemoryPermit, TransportError> {
        loop {
            let room = self.hub.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            match reserve(&self.hub, self.peer, route) {
                Ok(permit) => return Ok(permit),
                // One slot is taken and given back at once: whoever waits longest tries first.
                Err(Blocked::Interest(_, queue)) => drop(queue.reserve().await),
                Err(Blocked::Group(_)) => room.await,
                Err(Blocked::Closed) => return Err(TransportError::Closed),
            }
        }
    }

    async fn subscribe(&self, interest: PlainInterest) -> Result<Deliveries, TransportError> {
        let (sender, queue) = mpsc::channel(interest.capacity);
        let id = interest.id;
        self.here(|bus| bus.interests.insert(id, (interest, sender)))?;
        self.hub.with(|state| state.changed(self.peer));
        let (hub, peer) = (self.hub.clone(), self.peer);
        Ok(Box::pin(Arrivals { hub, peer, id, queue }))
    }

    async fn update(
        &self,
        id: SubscriptionId,
        endpoints: BTreeSet<Name>,
    ) -> Result<(), TransportError> {
        self.here(|bus| {
            if let Some((interest, _)) = bus.interests.get_mut(&id) {
                interest.endpoints = endpoints;
            }
        })?;
        self.hub.with(|state| state.changed(self.peer));
        Ok(())
    }

    async fn join(&self, spec: GroupSpec) -> Result<GroupDeliveries, TransportError> {
        if spec.durable {
            return Err(NO_DURABLE_GROUPS);
        }
        self.here(|_| ())?;
        Ok(Box::pin(Work::join(&self.hub, self.peer, spec)))
    }

    async fn dead_letters(&self, group: &GroupKey) -> Result<Vec<DeadLetter>, TransportError> {
        self.here(|bus| bus.dead_letters.list(group).cloned().collect())
    }

    async fn replay(&self, group: &GroupKey, which: Letters) -> Result<usize, TransportError> {
        let mut replay = self.here(|bus| Replay::new(&bus.dead_letters, group, which))?;
        loop {
            let room = self.hub.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            let step = self.hub.with(|state| {
                let bus = state.buses.get_mut(&self.peer).ok_or(TransportError::Closed)?;
                let step = replay.go_on(&mut bus.engine, &mut bus.dead_letters, now());
                drive(&self.hub, state, self.peer);
                step
            })?;
            match step {
                Some(replayed) => return Ok(replayed),
                None => room.await,
            }
        }
    }

    async fn purge(&self, group: &GroupKey, which: Letters) -> Result<usize, TransportError> {
        self.here(|bus| bus.dead_letters.purge(group, which))
    }

    async fn remove_group(&self, _: &GroupKey, _: bool) -> Result<(), TransportError> {
        Err(NO_DURABLE_GROUPS)
    }

    async fn respond(&self, spec: ResponderSpec) -> Result<Asks, TransportError> {
        self.here(|_| ())?;
        Ok(Box::pin(Questions::open(&self.hub, self.peer, spec)))
    }

    async fn request(&self, request: OutgoingRequest) -> Result<Reply, TransportError> {
        self.here(|_| ())?;
        ask(&self.hub, self.peer, request).await
    }

    async fn flush(&self, deadline: Instant) -> Result<(), TransportError> {
        let started = Instant::now();
        let settled = async {
            loop {
                let turned = self.hub.turned.notified();
                tokio::pin!(turned);
                turned.as_mut().enable();
                if self.here(|bus| bus.engine.unsettled()).unwrap_or(0) == 0 {
                    return;
                }
                turned.await;
            }
        };
        tokio::time::timeout_at(deadline.into(), settled).await.map_err(|_| {
            TransportError::TimedOut {
                what: "settling group work".into(),
                after: deadline.saturating_duration_since(started),
                by: None,
            }
        })
    }

    async fn leave(&self) -> Result<(), TransportError> {
        self.hub.with(|state| {
            state.withdraw(self.peer);
            crate::groups::drive_all(&self.hub, state);
        });
        Ok(())
    }

    async fn close(&self, _: Instant) -> Result<(), TransportError> {
        self.exit();
        Ok(())
    }
}
