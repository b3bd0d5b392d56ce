//! Confirmed publishing, in order, with many in flight.
//!
//! Who publishes takes room in the window first, and then puts the message into the
//! [`Outbox`], from where it goes out at once: in the publisher's own task, while nothing is
//! before it. Room comes back with the confirm.

use std::sync::Arc;
use std::time::Instant;

use busway_transport::{Commit, Host, MessageId, Receipt, TransportError};
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use lapin::types::ShortString;
use lapin::{Acker, BasicProperties};
use tokio::sync::{OwnedSemaphorePermit, TryAcquireError, oneshot};

use crate::address::Settings;
use crate::connection::Link;
use crate::error::timed_out;
use crate::express::Short;
use crate::flight::Cargo;
use crate::outbox::{Job, Outbox};
use crate::rebind::Rebind;
use crate::sender::Sender;
use crate::tasks::{PhaseWatch, Tasks};
use crate::topology::{Declare, Stand};

/// A message on its way out.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) id: MessageId,
    /// What it is called in errors.
    pub(crate) what: String,
    pub(crate) exchange: ShortString,
    pub(crate) key: ShortString,
    /// Whether the receipt must tell that it reached no queue.
    pub(crate) mandatory: bool,
    pub(crate) properties: BasicProperties,
    pub(crate) payload: Bytes,
    /// What it needs to be there; declared once per connection.
    pub(crate) needs: Option<Stand>,
    /// The delivery that it replaces: pointless once that has gone back to the broker.
    pub(crate) replaces: Option<Acker>,
}

impl Outgoing {
    pub(crate) fn cargo(&self) -> Cargo {
        Cargo {
            exchange: self.exchange.clone(),
            key: self.key.clone(),
            mandatory: self.mandatory,
            properties: self.properties.clone(),
            payload: self.payload.clone(),
        }
    }

    #[cfg(test)]
    pub(crate) fn empty(what: &str) -> Self {
        Self {
            id: MessageId::new(),
            what: what.into(),
            exchange: "".into(),
            key: "".into(),
            mandatory: false,
            properties: BasicProperties::default(),
            payload: Bytes::new(),
            needs: None,
            replaces: None,
        }
    }
}

pub(crate) type Answer = Result<Receipt, TransportError>;

/// Publishes on a channel of its own. Clones share it.
#[derive(Clone)]
pub(crate) struct Publisher {
    outbox: Arc<Outbox>,
    link: Link,
}

/// Room for one message.
pub(crate) struct Slot {
    room: OwnedSemaphorePermit,
    outbox: Arc<Outbox>,
}

impl Publisher {
    pub(crate) fn start(
        settings: Arc<Settings>,
        link: Link,
        exchanges: Vec<Declare>,
        told: Option<Arc<dyn Host>>,
        rebind: Rebind,
        tasks: &Tasks,
        phase: PhaseWatch,
    ) -> Self {
        let outbox = Arc::new(Outbox::new(settings.clone(), told, rebind));
        let (to, from) = (outbox.clone(), link.clone());
        tasks.spawn(Sender { outbox: to, settings, link: from, exchanges, phase }.run());
        Self { outbox, link }
    }

    /// Room now, or `None`. While the connection is lost nothing new is taken.
    pub(crate) fn try_reserve(&self) -> Result<Option<Slot>, TransportError> {
        if !self.link.is_up()? {
            return Ok(None);
        }
        match self.outbox.window.clone().try_acquire_owned() {
            Ok(room) => Ok(Some(self.slot(room))),
            Err(TryAcquireError::NoPermits) => Ok(None),
            Err(TryAcquireError::Closed) => Err(TransportError::Closed),
        }
    }

    /// Waits for room, in order, and for the connection.
    pub(crate) async fn reserve(&self) -> Result<Slot, TransportError> {
        let window = self.outbox.window.clone();
        let room = window.acquire_owned().await.map_err(|_| TransportError::Closed)?;
        self.link.up().await?;
        Ok(self.slot(room))
    }

    fn slot(&self, room: OwnedSemaphorePermit) -> Slot {
        Slot { room, outbox: self.outbox.clone() }
    }

    /// Publishes and waits for the confirm.
    pub(crate) async fn send(&self, out: Outgoing) -> Answer {
        self.reserve().await?.commit(out).await
    }

    /// Waits until everything committed before this call has ended.
    pub(crate) async fn flush(&self, deadline: Instant) -> Result<(), TransportError> {
        let start = Instant::now();
        tokio::time::timeout_at(deadline.into(), self.outbox.all_ended())
            .await
            .map_err(|_| timed_out("waiting for confirms", deadline - start))
    }
}

impl Slot {
    /// Hands a message over, in the order of these calls.
    pub(crate) fn commit(self, out: Outgoing) -> BoxFuture<'static, Answer> {
        let id = out.id;
        let (done, answer) = oneshot::channel();
        // It comes back when the message has ended.
        self.room.forget();
        self.outbox.put(Job::Whole(Box::new(out), done));
        let lost = move || {
            let reason = "the bus closed".to_owned();
            Err(TransportError::Unconfirmed { id, reached: 0, reason })
        };
        answer.map(move |answer| answer.unwrap_or_else(|_| lost())).boxed()
    }

    /// As [`commit`](Self::commit), for an event that went the short way.
    pub(crate) fn commit_short(self, short: Short) {
        self.room.forget();
        self.outbox.put(Job::Short(short));
    }

    /// As [`commit`](Self::commit), as the contract has it.
    pub(crate) fn commit_event(self, out: Outgoing) -> Commit {
        Commit::Pending(self.commit(out))
    }
}
