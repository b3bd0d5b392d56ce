//! The contract's verbs.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use busway_transport::{
    Asks, Capabilities, Capability, Changes, Commit, Common, ContentType, DeadLetter, Deliveries,
    Envelope, Express, GroupDeliveries, GroupKey, GroupSpec, Interest, Letters, Name,
    OutgoingRequest, Peer, Permit, PlainInterest, Reply, ResponderSpec, Route, Status,
    SubscriptionId, Transport, TransportError,
};
use lapin::types::ShortString;
use tokio::sync::watch;

use crate::error::{OPERATION, timed_out};
use crate::express::AmqpExpress;
use crate::plain::{self, Open};
use crate::properties::{self, MAX_PAYLOAD};
use crate::publish::{Outgoing, Slot};
use crate::shared::Shared;
use crate::tasks::{Phase, TasksEnd};
use crate::{dead, group, remove, respond};

/// How long the tasks may take to end: the connections say goodbye.
const ENDING: Duration = Duration::from_secs(3);

/// A bus's place on a RabbitMQ broker. Made by [`AmqpConnector`](crate::AmqpConnector).
///
/// Dropped without [`close`](Transport::close) it ends at once, without a goodbye: the peers
/// notice after ten seconds.
pub struct AmqpTransport {
    shared: Arc<Shared>,
    open: Open,
    phase: watch::Sender<Phase>,
    tasks_end: TasksEnd,
}

impl fmt::Debug for AmqpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpTransport")
            .field("settings", &self.shared.settings)
            .field("peer", &self.shared.peer)
            .field("status", &self.shared.board.status())
            .finish_non_exhaustive()
    }
}

impl Drop for AmqpTransport {
    fn drop(&mut self) {
        self.phase.send_replace(Phase::Closed);
    }
}

/// Room for one event in the publish window.
pub struct AmqpPermit {
    slot: Slot,
    exchange: ShortString,
    key: ShortString,
    mandatory: bool,
}

impl fmt::Debug for AmqpPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpPermit").field("key", &self.key.as_str()).finish_non_exhaustive()
    }
}

impl Permit for AmqpPermit {
    fn commit(self, envelope: Envelope) -> Commit {
        let (id, what) = (envelope.id, envelope.topic.to_string());
        match properties::encode(envelope) {
            Ok((properties, table, payload)) => self.slot.commit_event(Outgoing {
                id,
                what,
                exchange: self.exchange,
                key: self.key,
                mandatory: self.mandatory,
                properties: properties.with_headers(table.done()),
                payload,
                needs: None,
                replaces: None,
            }),
            Err(error) => Commit::Pending(Box::pin(std::future::ready(Err(error)))),
        }
    }
}

impl AmqpTransport {
    pub(crate) fn new(
        shared: Arc<Shared>,
        phase: watch::Sender<Phase>,
        tasks_end: TasksEnd,
    ) -> Self {
        Self { shared, open: Open::default(), phase, tasks_end }
    }

    fn permit(&self, route: &Route, slot: Slot) -> Result<AmqpPermit, TransportError> {
        Ok(AmqpPermit {
            slot,
            exchange: self.shared.topology.events.clone(),
            key: self.shared.topology.key(&route.topic, route.to.as_ref())?,
            mandatory: route.mandatory,
        })
    }

    /// After `leave` a bus may still publish: handlers that drain do.
    fn ensure_not_closed(&self) -> Result<(), TransportError> {
        if self.shared.phase.is(Phase::Closed) { Err(TransportError::Closed) } else { Ok(()) }
    }

    /// A cold call, which may have to wait for a lost connection, or for others at that group.
    async fn at_group<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<T, TransportError>>,
    ) -> Result<T, TransportError> {
        self.ensure_not_closed()?;
        tokio::time::timeout(6 * OPERATION, Box::pin(call))
            .await
            .unwrap_or_else(|_| Err(timed_out(what, 6 * OPERATION)))
    }

    async fn drained(&self, deadline: Instant) -> Result<(), TransportError> {
        let start = Instant::now();
        tokio::time::timeout_at(deadline.into(), self.shared.work.zero())
            .await
            .map_err(|_| timed_out("settling what was taken", deadline.duration_since(start)))?;
        self.shared.events.flush(deadline).await?;
        self.shared.back.flush(deadline).await
    }

    async fn say_goodbye(&self) {
        // Without it the peers notice by our silence.
        let goodbye = self.shared.presence.goodbye();
        let _ = tokio::time::timeout(Duration::from_secs(1), goodbye).await;
    }
}

impl Transport for AmqpTransport {
    type Permit = AmqpPermit;

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("amqp", &[Capability::DurableGroups], ContentType::JSON, MAX_PAYLOAD)
    }

    fn status(&self) -> Status {
        self.shared.board.status()
    }

    fn peers(&self) -> Vec<Peer> {
        self.shared.presence.others.list()
    }

    fn announce(&self, endpoint: Name) {
        self.shared.presence.announce(endpoint);
    }

    fn set_ready(&self) {
        self.shared.presence.set_ready();
    }

    fn interest(&self, route: &Route) -> Interest {
        let (presence, to) = (&self.shared.presence, route.to.as_ref());
        let known =
            presence.others.is_interested(&route.topic, to) || presence.has_group(&route.topic, to);
        // Never `No`: a durable group without members, and programs in other languages, say
        // nothing of themselves.
        if known { Interest::Yes } else { Interest::Unknown }
    }

    fn interest_changes(&self) -> Changes {
        // It never says `No`.
        Changes::new()
    }

    fn responders(&self, route: &Route) -> Interest {
        let (presence, to) = (&self.shared.presence, route.to.as_ref());
        if presence.knows_responder(&route.topic, to) { Interest::Yes } else { Interest::Unknown }
    }

    fn express(&self, common: Common) -> Option<Arc<dyn Express>> {
        let Shared { events, topology, .. } = &*self.shared;
        Some(Arc::new(AmqpExpress::new(events, topology, common)?))
    }

    fn try_reserve(&self, route: &Route) -> Result<AmqpPermit, TransportError> {
        self.ensure_not_closed()?;
        match self.shared.events.try_reserve()? {
            Some(slot) => self.permit(route, slot),
            None => Err(TransportError::Full { by: None }),
        }
    }

    async fn reserve(&self, route: &Route) -> Result<AmqpPermit, TransportError> {
        self.ensure_not_closed()?;
        let slot = self.shared.events.reserve().await?;
        self.permit(route, slot)
    }

    async fn subscribe(&self, interest: PlainInterest) -> Result<Deliveries, TransportError> {
        plain::subscribe(&self.shared, &self.open, interest).await
    }

    async fn update(
        &self,
        id: SubscriptionId,
        endpoints: BTreeSet<Name>,
    ) -> Result<(), TransportError> {
        plain::update(&self.shared, &self.open, id, endpoints).await
    }

    async fn join(&self, spec: GroupSpec) -> Result<GroupDeliveries, TransportError> {
        group::join(&self.shared, spec).await
    }

    async fn dead_letters(&self, group: &GroupKey) -> Result<Vec<DeadLetter>, TransportError> {
        self.at_group("reading dead letters", dead::list(&self.shared, group)).await
    }

    async fn replay(&self, group: &GroupKey, which: Letters) -> Result<usize, TransportError> {
        self.at_group("replaying dead letters", dead::replay(&self.shared, group, which)).await
    }

    async fn purge(&self, group: &GroupKey, which: Letters) -> Result<usize, TransportError> {
        self.at_group("purging dead letters", dead::purge(&self.shared, group, which)).await
    }

    async fn remove_group(&self, group: &GroupKey, force: bool) -> Result<(), TransportError> {
        self.at_group("removing a group", remove::remove(&self.shared, group, force)).await
    }

    async fn respond(&self, spec: ResponderSpec) -> Result<Asks, TransportError> {
        respond::respond(&self.shared, spec).await
    }

    async fn request(&self, request: OutgoingRequest) -> Result<Reply, TransportError> {
        self.ensure_not_closed()?;
        let Envelope { topic, to, .. } = &request.envelope;
        let known = self.shared.presence.knows_responder(topic, to.as_ref());
        self.shared.requests.ask(&self.shared.topology, request, known).await
    }

    async fn flush(&self, deadline: Instant) -> Result<(), TransportError> {
        self.ensure_not_closed()?;
        self.shared.events.flush(deadline).await?;
        self.shared.back.flush(deadline).await
    }

    async fn leave(&self) -> Result<(), TransportError> {
        self.ensure_not_closed()?;
        self.phase.send_if_modified(|phase| {
            let open = *phase == Phase::Open;
            if open {
                *phase = Phase::Leaving;
            }
            open
        });
        tokio::time::timeout(OPERATION, self.shared.consumers.zero())
            .await
            .map_err(|_| timed_out("leaving", OPERATION))?;
        // The peers hear it from each registration's drop; this waits until they were told.
        // While the connection is lost they are told by the next state, which goes out first.
        match self.shared.board.status() {
            Status::Reconnecting { .. } | Status::Closed => Ok(()),
            _ => self.shared.told().await,
        }
    }

    async fn close(&self, deadline: Instant) -> Result<(), TransportError> {
        self.ensure_not_closed()?;
        let leaving = tokio::time::timeout_at(deadline.into(), self.leave()).await;
        let drained = self.drained(deadline).await;
        self.say_goodbye().await;
        self.phase.send_replace(Phase::Closed);
        self.shared.board.close();
        // Bounded by the supervisors' own goodbyes.
        let _ = tokio::time::timeout(ENDING, self.tasks_end.wait()).await;
        if leaving.is_err() {
            return Err(timed_out("leaving", OPERATION));
        }
        drained
    }
}
