//! What all parts of one bus's transport share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use busway_transport::{Host, Notice, PeerId, Status, TransportError};

use crate::address::Settings;
use crate::connection::Link;
use crate::presence::Presence;
use crate::publish::Publisher;
use crate::rebind::Rebind;
use crate::request::Requests;
use crate::status::Board;
use crate::tasks::{Gauge, Phase, PhaseWatch, Tasks};
use crate::topology::Topology;

/// A lock without poison: what is behind ours is consistent whenever somebody else may panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct Shared {
    pub(crate) settings: Arc<Settings>,
    pub(crate) topology: Topology,
    pub(crate) peer: PeerId,
    pub(crate) host: Arc<dyn Host>,
    pub(crate) board: Arc<Board>,
    /// The link that consumes: never blocked by the broker.
    pub(crate) consume: Link,
    /// Events.
    pub(crate) events: Publisher,
    /// Retries, dead letters, replies and presence: a full window of events holds none of them up.
    pub(crate) back: Publisher,
    pub(crate) requests: Requests,
    pub(crate) presence: Arc<Presence>,
    pub(crate) rebind: Rebind,
    pub(crate) phase: PhaseWatch,
    pub(crate) tasks: Tasks,
    /// Whoever reads dead letters.
    pub(crate) reading: tokio::sync::Mutex<()>,
    /// Open consumers: what `leave` withdraws.
    pub(crate) consumers: Gauge,
    /// Deliveries and requests that were taken and are not settled.
    pub(crate) work: Gauge,
}

impl Shared {
    pub(crate) fn notice(&self, notice: Notice) {
        self.host.notice(notice);
    }

    /// Tells the peers what this bus is now, and waits until the broker has it; but not while the
    /// broker takes nothing: what was declared works all the same.
    pub(crate) async fn told(&self) -> Result<(), TransportError> {
        if matches!(self.board.status(), Status::Blocked { .. }) {
            self.presence.touch();
            return Ok(());
        }
        self.presence.published().await
    }

    /// An error when nothing new is taken any more.
    pub(crate) fn ensure_open(&self) -> Result<(), TransportError> {
        if self.phase.is(Phase::Leaving) { Err(TransportError::Closed) } else { Ok(()) }
    }
}
