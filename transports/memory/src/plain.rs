//! Plain events, and the room for them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio::sync::mpsc;

use busway_groups::Reservation;
use busway_transport::{
    Arrival, Commit, Envelope, Name, Party, PeerId, Permit, Receipt, Route, SubscriptionId,
    TransportError,
};

use crate::groups;
use crate::hub::{Hub, State};

/// Room for one event in every interest and group that takes it.
#[derive(Debug)]
pub struct MemoryPermit {
    rooms: Vec<mpsc::OwnedPermit<Arc<Envelope>>>,
    /// Who has that room: every endpoint of an interest.
    parties: Vec<Party>,
    backlog: Backlog,
}

/// Room in the groups' backlogs, given back when it is not used.
struct Backlog {
    hub: Arc<Hub>,
    peer: PeerId,
    reservation: Option<Reservation>,
}

/// What is in the way of a publisher.
pub(crate) enum Blocked {
    /// An interest's queue, to wait for.
    Interest(Party, mpsc::Sender<Arc<Envelope>>),
    /// A group's backlog.
    Group(Party),
    /// The bus has left.
    Closed,
}

impl Blocked {
    pub(crate) fn error(self) -> TransportError {
        match self {
            Self::Interest(by, _) | Self::Group(by) => TransportError::Full { by: Some(by) },
            Self::Closed => TransportError::Closed,
        }
    }
}

/// Reserves room everywhere, or nowhere.
pub(crate) fn reserve(
    hub: &Arc<Hub>,
    peer: PeerId,
    route: &Route,
) -> Result<MemoryPermit, Blocked> {
    hub.with(|state| {
        let (mut rooms, mut parties) = (Vec::new(), Vec::new());
        for (at, interest, queue) in state.interested(peer, route) {
            let addressed = |endpoint: &&Name| route.to.as_ref().is_none_or(|to| to == *endpoint);
            let endpoints = interest.endpoints.iter().filter(addressed);
            let mut takers =
                endpoints.map(|endpoint| Party::remote(endpoint.clone(), at)).peekable();
            let Some(first) = takers.peek().cloned() else { continue };
            match queue.clone().try_reserve_owned() {
                Ok(room) => {
                    rooms.push(room);
                    parties.extend(takers);
                }
                Err(mpsc::error::TrySendError::Full(queue)) => {
                    return Err(Blocked::Interest(first, queue));
                }
                // Its reader has gone; the interest goes any moment.
                Err(mpsc::error::TrySendError::Closed(_)) => {}
            }
        }
        let bus = state.buses.get_mut(&peer).ok_or(Blocked::Closed)?;
        let reservation = bus.engine.try_reserve(route).map_err(Blocked::Group)?;
        let backlog = Backlog { hub: hub.clone(), peer, reservation: Some(reservation) };
        Ok(MemoryPermit { rooms, parties, backlog })
    })
}

impl Permit for MemoryPermit {
    fn commit(mut self, envelope: Envelope) -> Commit {
        let reservation = self.backlog.reservation.take();
        let Backlog { hub, peer, .. } = &self.backlog;
        let mut parties = hub.with(|state| {
            let committed = state.buses.get_mut(peer).zip(reservation).map(|(bus, reservation)| {
                bus.engine.commit(reservation, envelope.clone(), groups::now())
            });
            groups::drive(hub, state, *peer);
            committed.unwrap_or_default()
        });
        let envelope = Arc::new(envelope);
        for room in self.rooms {
            room.send(envelope.clone());
        }
        parties.append(&mut self.parties);
        Commit::Done(Receipt::exact(parties))
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        if let Some(reservation) = self.reservation.take() {
            self.hub.with(|state: &mut State| {
                if let Some(bus) = state.buses.get_mut(&self.peer) {
                    bus.engine.release(reservation);
                    groups::drive(&self.hub, state, self.peer);
                }
            });
        }
    }
}

impl std::fmt::Debug for Backlog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Backlog").field(&self.reservation).finish()
    }
}

/// The arrivals of one interest; dropping it withdraws the interest.
pub(crate) struct Arrivals {
    pub(crate) hub: Arc<Hub>,
    pub(crate) peer: PeerId,
    pub(crate) id: SubscriptionId,
    /// Pointers, as a channel makes places for 32 at once, whatever their size.
    pub(crate) queue: mpsc::Receiver<Arc<Envelope>>,
}

impl Stream for Arrivals {
    type Item = Arrival;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Arrival>> {
        let next = self.queue.poll_recv(context);
        next.map(|next| next.map(|envelope| Arrival::Event(Arc::unwrap_or_clone(envelope))))
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        self.hub.with(|state| {
            let bus = state.buses.get_mut(&self.peer);
            if bus.is_some_and(|bus| bus.interests.remove(&self.id).is_some()) {
                state.changed(self.peer);
            }
        });
    }
}
