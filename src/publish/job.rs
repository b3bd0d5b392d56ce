//! The one path of a publish: room everywhere, then commit (law 9).

use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};

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
use crate::router::multicast::{Blocked, Reserved};
use crate::router::queue::{Item, Queue};
use crate::router::topic::{Line, TopicNode};

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
    /// What had to go from full queues for it; dropped after the locks.
    pub(crate) _gone: Vec<Item>,
    /// What the transport still has to confirm. Until then the receipt is not exact.
    pub(crate) pending: Option<Confirmation>,
}

/// Where an event comes from and goes to.
pub(crate) struct Path<'a> {
    pub(crate) bus: &'a Core,
    pub(crate) endpoint: &'a Name,
    pub(crate) node: &'a TopicNode,
    pub(crate) wishes: &'a Wishes,
}

impl Path<'_> {
    pub(crate) fn route(&self) -> Route {
        let mut route = Route::new(self.node.topic.clone(), self.wishes.to.clone());
        route.mandatory = self.wishes.require_subscriber;
        route
    }

    pub(crate) fn topic(&self) -> String {
        self.node.topic.to_string()
    }
}

impl<E: Event> Job<E> {
    pub(crate) fn new(event: E) -> Self {
        Self { event: Some(event), encoded: None, permit: None }
    }

    pub(crate) fn set_permit(&mut self, permit: PermitHandle) {
        self.permit = Some(permit);
    }

    /// Whether the event leaves the bus.
    fn leaves(&self, path: &Path<'_>) -> bool {
        let stays = path.wishes.local || E::SCHEMA.local;
        let wanted = || path.bus.transport.interest(&path.route()) != Interest::No;
        !stays && (self.permit.is_some() || wanted())
    }

    /// Encodes the event if the transport needs bytes; once, and under no lock.
    pub(crate) fn encode(&mut self, path: &Path<'_>) -> Result<(), PublishError> {
        let bus = path.bus;
        if self.encoded.is_some() || bus.in_process() || !self.leaves(path) {
            return Ok(());
        }
        let codec = E::SCHEMA.codec.unwrap_or(bus.codec);
        let Some(event) = &self.event else { return Ok(()) };
        let mut buffer = BytesMut::new();
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
        self.encoded = Some((codec.content_type(), buffer.freeze()));
        Ok(())
    }

    /// Publishes if there is room everywhere now. What was done towards it (the encoding, the
    /// transport's permit) is kept for the next attempt. The topic's line is the caller's.
    pub(crate) fn attempt(&mut self, path: &Path<'_>, line: &mut Line) -> Result<Sent, Stop> {
        let bus = path.bus;
        bus.check_open(|| PublishError::Closed { topic: path.topic() })?;
        let leaves = self.leaves(path);
        if leaves {
            if self.encoded.is_none() && !bus.in_process() {
                return Err(Stop::Encode);
            }
            self.reserve(path)?;
        }

        let queues = path.node.queues();
        let to = path.wishes.to.as_ref();
        let reserved = Reserved::reserve(&queues, to).map_err(|blocked| match blocked {
            Blocked::Full(queue) if is_gated_here(&queue) => {
                Stop::Fail(PublishError::Full { topic: path.topic(), by: Some(queue.party()) })
            }
            Blocked::Full(queue) => {
                // Not kept while waiting here: it would hold up others out there, and know
                // nothing of those who subscribe meanwhile.
                self.permit = None;
                Stop::Wait(Wait::Queue(queue))
            }
            Blocked::Refused(queue) => {
                Stop::Fail(PublishError::Full { topic: path.topic(), by: Some(queue.party()) })
            }
        })?;
        let here = reserved.count();
        if here == 0 && !leaves {
            if path.wishes.require_subscriber {
                return Err(PublishError::NoSubscriber { topic: path.topic() }.into());
            }
            return Ok(Sent { receipt: Receipt::default(), _gone: Vec::new(), pending: None });
        }

        // From here on nothing can fail: this is the commit.
        let encoded = self.encoded.take();
        let parcel = self.parcel(path, leaves, encoded.clone());
        let (elsewhere, pending) = match self.permit.take() {
            None => (None, None),
            Some(permit) => {
                let payload = match encoded {
                    Some((content_type, bytes)) => Payload::Encoded { content_type, bytes },
                    None => Payload::Local(Arc::new(Shared(parcel.clone()))),
                };
                let mut envelope = parcel::to_envelope(parcel.meta(), payload);
                envelope.sequence = Some(line.next_sequence(to));
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
        let receipt = Receipt { here, queues, parcel: Some(parcel), elsewhere };
        Ok(Sent { receipt, _gone: gone, pending })
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
        let mut meta =
            Meta::new(path.node.topic.clone(), E::SCHEMA.version, path.bus.source(path.endpoint));
        meta.to = wishes.to.clone();
        if leaves || wishes.timestamped || !wishes.headers.is_empty() {
            meta.time = Some(SystemTime::now());
            meta.headers = wishes.headers.clone();
        }
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
    let own = Arc::as_ptr(queue).addr();
    IN_HANDLER.try_with(|running| running.gates == own).unwrap_or(false)
}

/// The codec for events that name none, from the transport's preference.
pub(crate) fn default_codec(capabilities: &busway_transport::Capabilities) -> Codec {
    Codec::for_content_type(&capabilities.content_type).unwrap_or(Codec::Json)
}

pub(crate) fn in_process(capabilities: &busway_transport::Capabilities) -> bool {
    capabilities.has(Capability::InProcess)
}
