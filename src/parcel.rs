//! An event on its way through the process: the value (or its bytes) with its metadata, shared by
//! all who receive it.
//!
//! A parcel is made once per publish or arrival and handed round as `Arc<dyn Parcel>`. Whoever
//! subscribed with the very type that was published takes the value as it is; another type of the
//! same name gets it through the codec; what came from outside is decoded once per type.

use std::any::{Any, TypeId};
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};

use busway_transport::{
    ContentType, Envelope, GapReason, Headers, LocalPayload, MessageId, Name, Payload,
    PayloadError, Source, Topic,
};

use crate::codec::{Codec, CodecError};
use crate::event::Event;
use crate::subscribe::panic_text;
use crate::sync::Locked;

/// What is known of an event besides its value.
#[derive(Debug, Clone)]
pub(crate) struct Meta {
    pub(crate) topic: Topic,
    pub(crate) version: u32,
    pub(crate) source: Source,
    pub(crate) to: Option<Name>,
    pub(crate) time: Option<SystemTime>,
    pub(crate) headers: Headers,
    id: OnceLock<MessageId>,
}

impl Meta {
    pub(crate) fn new(topic: Topic, version: u32, source: Source) -> Self {
        Self {
            topic,
            version,
            source,
            to: None,
            time: None,
            headers: Headers::new(),
            id: OnceLock::new(),
        }
    }

    /// The id, made when first asked for: an event nobody asks about has none.
    pub(crate) fn id(&self) -> MessageId {
        *self.id.get_or_init(MessageId::new)
    }

    pub(crate) fn with_id(mut self, id: MessageId) -> Self {
        self.id = OnceLock::from(id);
        self
    }
}

/// An event with its metadata, whatever its type.
pub(crate) trait Parcel: Any + Send + Sync {
    fn meta(&self) -> &Meta;
    /// The event's bytes, encoded on first demand.
    fn bytes(&self) -> Result<(ContentType, Bytes), CodecError>;
    /// What other types have been decoded from it so far.
    fn decoded(&self) -> &Decoded;
}

/// The types decoded from one parcel so far, so that each is decoded once per process.
#[derive(Default)]
pub(crate) struct Decoded(Mutex<Vec<(TypeId, Arc<dyn Any + Send + Sync>)>>);

type Once<T> = OnceLock<Result<Arc<T>, GapReason>>;

impl Decoded {
    /// What was decoded as `T`, by the first who asks; others wait for it.
    fn once<T: Send + Sync + 'static>(
        &self,
        decode: impl FnOnce() -> Result<Arc<T>, GapReason>,
    ) -> Result<Arc<T>, GapReason> {
        let slot = {
            let mut known = self.0.locked();
            let id = TypeId::of::<T>();
            let at = known.iter().position(|(known, _)| *known == id).unwrap_or_else(|| {
                known.push((id, Arc::new(Once::<T>::new())));
                known.len() - 1
            });
            known[at].1.clone()
        };
        match slot.downcast::<Once<T>>() {
            Ok(slot) => slot.get_or_init(decode).clone(),
            Err(_) => decode(),
        }
    }
}

/// An event of this process, or one decoded from outside.
pub(crate) struct Typed<E> {
    pub(crate) event: E,
    meta: Meta,
    encoded: OnceLock<Result<(ContentType, Bytes), CodecError>>,
    decoded: Decoded,
}

impl<E: Event> Typed<E> {
    pub(crate) fn new(event: E, meta: Meta) -> Self {
        Self { event, meta, encoded: OnceLock::new(), decoded: Decoded::default() }
    }

    /// With bytes that were made before (to send them), so that they are made once.
    pub(crate) fn with_bytes(self, content_type: ContentType, bytes: Bytes) -> Self {
        Self { encoded: OnceLock::from(Ok((content_type, bytes))), ..self }
    }
}

impl<E: Event> Parcel for Typed<E> {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn bytes(&self) -> Result<(ContentType, Bytes), CodecError> {
        self.encoded
            .get_or_init(|| {
                let codec = E::SCHEMA.codec.unwrap_or(Codec::MessagePack);
                let mut buffer = BytesMut::new();
                self.event.encode(codec, &mut buffer)?;
                Ok((codec.content_type(), buffer.freeze()))
            })
            .clone()
    }

    fn decoded(&self) -> &Decoded {
        &self.decoded
    }
}

/// An event that came from outside, still in its bytes.
pub(crate) struct Inbound {
    meta: Meta,
    content_type: ContentType,
    bytes: Bytes,
    decoded: Decoded,
}

impl Parcel for Inbound {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn bytes(&self) -> Result<(ContentType, Bytes), CodecError> {
        Ok((self.content_type.clone(), self.bytes.clone()))
    }

    fn decoded(&self) -> &Decoded {
        &self.decoded
    }
}

/// A parcel as the payload of a transport that stays in the process.
pub(crate) struct Shared(pub(crate) Arc<dyn Parcel>);

impl LocalPayload for Shared {
    fn encode(&self) -> Result<(ContentType, Bytes), PayloadError> {
        self.0.bytes().map_err(|error| PayloadError {
            topic: self.0.meta().topic.to_string(),
            reason: error.to_string(),
        })
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shared").field(self.0.meta()).finish()
    }
}

/// The parcel of an envelope that a transport delivered.
pub(crate) fn from_envelope(envelope: Envelope) -> Result<Arc<dyn Parcel>, GapReason> {
    let topic = envelope.topic.to_string();
    let undecodable = |error: String| GapReason::Undecodable { topic, error };
    let (content_type, bytes) = match envelope.payload {
        Payload::Local(local) => match (local.clone() as Arc<dyn Any + Send + Sync>).downcast() {
            Ok(shared) => return Ok(Shared::clone_inner(&shared)),
            // Another program's own value: all that can be had of it are its bytes.
            Err(_) => local.encode().map_err(|error| undecodable(error.to_string()))?,
        },
        Payload::Encoded { content_type, bytes } => (content_type, bytes),
        _ => return Err(undecodable("a kind of payload this version does not know".into())),
    };
    let meta = Meta {
        topic: envelope.topic,
        version: envelope.version,
        source: envelope.source,
        to: envelope.to,
        time: envelope.time,
        headers: envelope.headers,
        id: OnceLock::from(envelope.id),
    };
    Ok(Arc::new(Inbound { meta, content_type, bytes, decoded: Decoded::default() }))
}

impl Shared {
    fn clone_inner(shared: &Arc<Self>) -> Arc<dyn Parcel> {
        shared.0.clone()
    }
}

/// The envelope of a parcel, with its payload as given.
pub(crate) fn to_envelope(meta: &Meta, payload: Payload) -> Envelope {
    let mut envelope = Envelope::new(meta.id(), meta.topic.clone(), meta.source.clone(), payload);
    envelope.version = meta.version;
    envelope.to = meta.to.clone();
    envelope.time = meta.time;
    envelope.headers = meta.headers.clone();
    envelope
}

/// The parcel as an event of type `E`: as it is, or through the codec.
pub(crate) fn open<E: Event>(parcel: &Arc<dyn Parcel>) -> Result<Arc<Typed<E>>, GapReason> {
    let any: Arc<dyn Any + Send + Sync> = parcel.clone();
    if let Ok(typed) = any.downcast::<Typed<E>>() {
        return Ok(typed);
    }
    let meta = parcel.meta();
    if meta.version != E::SCHEMA.version {
        return Err(GapReason::Version {
            topic: meta.topic.to_string(),
            found: meta.version,
            expected: E::SCHEMA.version,
        });
    }
    parcel.decoded().once(|| {
        let event = decode(parcel)
            .map_err(|error| GapReason::Undecodable { topic: meta.topic.to_string(), error })?;
        Ok(Arc::new(Typed::new(event, meta.clone().with_id(meta.id()))))
    })
}

/// Decodes a parcel. A decoder that panics is one that fails (law 11).
fn decode<E: Event>(parcel: &Arc<dyn Parcel>) -> Result<E, String> {
    let (content_type, bytes) = parcel.bytes().map_err(|error| error.to_string())?;
    let codec = Codec::for_receipt(&content_type, &E::SCHEMA).map_err(|error| error.to_string())?;
    let decoding = std::panic::AssertUnwindSafe(|| E::decode(codec, &bytes));
    match std::panic::catch_unwind(decoding) {
        Ok(decoded) => decoded.map_err(|error| error.to_string()),
        Err(panic) => Err(format!("the decoder panicked: {}", panic_text(&*panic))),
    }
}
