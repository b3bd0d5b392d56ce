//! The long way of a publish: room everywhere, then commit (law 9).

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use busway_transport::{
    BoxFuture, Capability, Commit, ContentType, Headers, Interest, MessageId, Name, Payload,
    PermitHandle, Route, TransportError,
};

use crate::bus::{Core, IN_HANDLER};
use crate::codec::Codec;
use crate::error::PublishError;
use crate::event::Event;
use crate::parcel::{self, Meta, Parcel, Shared, Typed};
use crate::publish::Receipt;
use crate::publish::outlet::Outlet;
use crate::router::multicast::{Blocked, Reserved};
use crate::router::queue::{Item, Queue};
use crate::router::ring::Refused;
use crate::router::topic::{Busy, InTheWay, Sequences};

/// What a publisher may ask for beyond the event.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wishes {
    pub(crate) to: Option<Name>,
    pub(crate) local: bool,
    pub(crate) require_subscriber: bool,
    pub(crate) timestamped: bool,
    pub(crate) headers: Headers,
    pub(crate) id: Option<MessageId>,
}

/// One event on its way out, and what has been done for it so far.
pub(crate) struct Job<E> {
    pub(crate) event: Option<E>,
    encoded: Option<(ContentType, Bytes)>,
    permit: Option<PermitHandle>,
}

/// What a publisher has to wait for.
pub(crate) enum Wait {
    /// Room in this queue.
    Queue(Arc<Queue>),
    /// Room in the topic's ring, for this subscription.
    Ring(InTheWay),
    /// Another publisher, in the middle of its write.
    Writer,
    /// Room in the transport.
    Transport(TransportError),
}

/// A failed attempt.
pub(crate) enum Stop {
    Wait(Wait),
    /// Somebody out there became interested: encode the event first.
    Encode,
    Fail(PublishError),
}

impl From<PublishError> for Stop {
    fn from(error: PublishError) -> Self {
        Self::Fail(error)
    }
}

/// What the transport still has to say of a committed event.
pub(crate) type Confirmation =
    BoxFuture<'static, Result<busway_transport::Receipt, TransportError>>;

/// A committed event.
pub(crate) struct Sent {
    pub(crate) receipt: Receipt,
    /// What had to go for it; dropped after the locks.
    pub(crate) _gone: (Vec<Item>, Option<Arc<dyn Parcel>>),
    /// What the transport still has to confirm. Until then the receipt is not exact.
    pub(crate) pending: Option<Confirmation>,
}

/// Where an event comes from and goes to.
pub(crate) struct Path<'a> {
    pub(crate) bus: &'a Core,
    pub(crate) outlet: &'a Outlet,
    pub(crate) wishes: &'a Wishes,
}

impl Path<'_> {
    pub(crate) fn route(&self) -> Route {
        let mut route = Route::new(self.outlet.node.topic.clone(), self.wishes.to.clone());
        route.mandatory = self.wishes.require_subscriber;
        route
    }

    pub(crate) fn topic(&self) -> String {
        self.outlet.node.topic.to_string()
    }
}

impl<E: Event> Job<E> {
    /// An event; and its bytes, if it was encoded for an attempt to take the short way.
    pub(crate) fn new(event: E, encoded: Option<(ContentType, Bytes)>) -> Self {
        Self { event: Some(event), encoded, permit: None }
    }

    pub(crate) fn set_permit(&mut self, permit: PermitHandle) {
        self.permit = Some(permit);
    }

    /// Whether the event leaves the bus.
    fn leaves(&self, path: &Path<'_>) -> bool {
        let stays = path.wishes.local || E::SCHEMA.local;
        !stays && (self.permit.is_some() || is_wanted(path))
    }

    /// Encodes the event if the transport needs bytes; once, and under no lock.
    pub(crate) fn encode(&mut self, path: &Path<'_>) -> Result<(), PublishError> {
        let bus = path.bus;
        if self.encoded.is_some() || bus.in_process() || !self.leaves(path) {
            return Ok(());
        }
        let codec = bus.codec_of::<E>();
        let Some(event) = &self.event else { return Ok(()) };
        let mut buffer = Vec::new();
        event
            .encode(codec, &mut buffer)
            .map_err(|error| PublishError::Codec { topic: path.topic(), error })?;
        let headers = path.wishes.headers.iter().map(|(key, value)| key.len() + value.len());
        let size = buffer.len() + headers.sum::<usize>();
        let limit = bus.capabilities.max_payload;
        if size > limit {
            let topic = path.topic();
            let error = TransportError::TooLarge { topic: topic.clone(), size, limit };
            return Err(PublishError::Transport { topic, error });
        }
        self.encoded = Some((codec.content_type(), buffer.into()));
        Ok(())
    }

    /// Publishes if there is room everywhere now. What was done towards it (the encoding, the
    /// transport's permit) is kept for the next attempt. The right to it is the caller's.
    pub(crate) fn attempt(
        &mut self,
        path: &Path<'_>,
        sequences: &mut Sequences,
    ) -> Result<Sent, Stop> {
        let bus = path.bus;
        bus.check_open(|| PublishError::Closed { topic: path.topic() })?;
        let leaves = self.leaves(path);
        if leaves {
            if self.encoded.is_none() && !bus.in_process() {
                return Err(Stop::Encode);
            }
            self.reserve(path)?;
        }

        let node = &path.outlet.node;
        let queues = node.queues();
        let to = path.wishes.to.as_ref();
        // What is for everyone goes by the ring to those who ride it; but past all bounds only
        // queues can take it.
        let by_ring = to.is_none() && !node.is(Busy::Draining);
        let reserved = Reserved::reserve(&queues, |queue| {
            queue.is_addressed(to) && !(by_ring && queue.lane().is_some())
        })
        .map_err(|blocked| self.blocked(path, blocked))?;
        let ring = node.ring().filter(|_| by_ring);
        // Counted before the claim: who leaves in between was there.
        let readers = ring.map_or(0, |ring| ring.readers());
        let claim = match ring.map(|ring| ring.try_claim(1)) {
            Some(Ok(claim)) => Some(claim),
            None | Some(Err(Refused::Nobody)) => None,
            Some(Err(Refused::Full(by))) if is_own(by.queue) => {
                let by = Some(by.party());
                return Err(PublishError::Full { topic: path.topic(), by }.into());
            }
            Some(Err(Refused::Full(by))) => return Err(self.wait(Wait::Ring(by))),
            Some(Err(Refused::Busy)) => return Err(self.wait(Wait::Writer)),
        };
        let here = reserved.count() + if claim.is_some() { readers } else { 0 };
        if here == 0 && !leaves {
            if path.wishes.require_subscriber {
                return Err(PublishError::NoSubscriber { topic: path.topic() }.into());
            }
            let receipt = Receipt::default();
            return Ok(Sent { receipt, _gone: (Vec::new(), None), pending: None });
        }

        // From here on nothing can fail: this is the commit.
        let encoded = self.encoded.take();
        let parcel = self.parcel(path, leaves, encoded.clone());
        let mut before = None;
        if let Some(mut claim) = claim {
            claim.write(|old| {
                before = old;
                parcel.clone()
            });
        }
        let (elsewhere, pending) = match self.permit.take() {
            None => (None, None),
            Some(permit) => {
                let payload = match encoded {
                    Some((content_type, bytes)) => Payload::Encoded { content_type, bytes },
                    None => Payload::Local(Arc::new(Shared(parcel.clone()))),
                };
                let mut envelope = parcel::to_envelope(parcel.meta(), payload);
                envelope.sequence = Some(sequences.next(to));
                match permit.commit(envelope) {
                    Commit::Done(receipt) => (Some(receipt), None),
                    Commit::Pending(pending) => {
                        (Some(busway_transport::Receipt::unknown()), Some(pending))
                    }
                }
            }
        };
        let gone = reserved.commit(&parcel);
        let queues = Some((queues, path.wishes.to.clone()));
        let receipt = Receipt { here, queues, parcel: Some(parcel), id: None, elsewhere };
        Ok(Sent { receipt, _gone: (gone, before), pending })
    }

    fn blocked(&mut self, path: &Path<'_>, blocked: Blocked) -> Stop {
        match blocked {
            Blocked::Full(queue) if !is_gated_here(&queue) => self.wait(Wait::Queue(queue)),
            Blocked::Full(queue) | Blocked::Refused(queue) => {
                PublishError::Full { topic: path.topic(), by: Some(queue.party()) }.into()
            }
        }
    }

    /// To wait for room here. The transport's is not kept meanwhile: it would hold up others out
    /// there, and know nothing of those who subscribe in between.
    fn wait(&mut self, wait: Wait) -> Stop {
        self.permit = None;
        Stop::Wait(wait)
    }

    /// Reserves the transport's room.
    fn reserve(&mut self, path: &Path<'_>) -> Result<(), Stop> {
        if self.permit.is_some() {
            return Ok(());
        }
        match path.bus.transport.try_reserve(&path.route()) {
            Ok(permit) => {
                self.permit = Some(permit);
                Ok(())
            }
            Err(error @ TransportError::Full { .. }) => Err(Stop::Wait(Wait::Transport(error))),
            Err(error) => Err(refused(path.topic(), error).into()),
        }
    }

    fn parcel(
        &mut self,
        path: &Path<'_>,
        leaves: bool,
        encoded: Option<(ContentType, Bytes)>,
    ) -> Arc<dyn Parcel> {
        let wishes = path.wishes;
        let timed = leaves || wishes.timestamped || !wishes.headers.is_empty();
        let time = timed.then(SystemTime::now);
        let mut meta = Meta::new(path.outlet.origin.clone()).with_extra(
            wishes.to.clone(),
            time,
            wishes.headers.clone(),
        );
        if let Some(id) = wishes.id {
            meta = meta.with_id(id);
        }
        let event = self.event.take().expect("a job is attempted no more after its commit");
        let typed = Typed::new(event, meta);
        Arc::new(match encoded {
            Some((content_type, bytes)) => typed.with_bytes(content_type, bytes),
            None => typed,
        })
    }
}

/// Whether somebody outside takes such an event. That nobody does is remembered, as long as the
/// transport says that nothing has changed.
fn is_wanted(path: &Path<'_>) -> bool {
    let (bus, node) = (path.bus, &path.outlet.node);
    let changes = bus.interest_changes.count();
    let wanted = bus.transport.interest(&path.route()) != Interest::No;
    if !wanted && path.wishes.to.is_none() {
        node.nobody_outside(changes);
    }
    wanted
}

/// The transport has no room, and will have none.
pub(crate) fn refused(topic: String, error: TransportError) -> PublishError {
    match error {
        TransportError::Closed => PublishError::Closed { topic },
        error => PublishError::Transport { topic, error },
    }
}

/// Whether a queue is emptied by nobody but the handler that publishes into it now: to wait for
/// its room would be to wait for oneself.
pub(crate) fn is_gated_here(queue: &Arc<Queue>) -> bool {
    is_own(Arc::as_ptr(queue).addr())
}

/// As [`is_gated_here`], by the queue's address.
fn is_own(queue: usize) -> bool {
    IN_HANDLER.try_with(|running| running.gates == queue).unwrap_or(false)
}

/// The codec for events that name none, from the transport's preference.
pub(crate) fn default_codec(capabilities: &busway_transport::Capabilities) -> Codec {
    Codec::for_content_type(&capabilities.content_type).unwrap_or(Codec::Json)
}

pub(crate) fn in_process(capabilities: &busway_transport::Capabilities) -> bool {
    capabilities.has(Capability::InProcess)
}
