//! An event on its way through the process: the value (or its bytes) with its metadata, shared by
//! all who receive it.
//!
//! A parcel is made once per publish or arrival and handed round as `Arc<dyn Parcel>`. Whoever
//! subscribed with the very type that was published takes the value as it is; another type of the
//! same name gets it through the codec; what came from outside is decoded once per type.

mod inbound;
mod run;

use std::any::{Any, TypeId};
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::SystemTime;

use bytes::Bytes;

use busway_transport::{
    ContentType, Envelope, GapReason, Headers, LocalPayload, MessageId, Name, Payload,
    PayloadError, Source, Topic,
};

pub(crate) use inbound::{Early, SLOW, Watch, arrived, from_envelope};
use inbound::{Inbound, decode};
pub(crate) use run::{Landing, contain};

use crate::codec::{Codec, CodecError};
use crate::event::Event;
use crate::router::ring::Content;
use crate::sync::Locked;

/// Where events come from: what all that one endpoint publishes on one topic have in common.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) topic: Topic,
    pub(crate) version: u32,
    pub(crate) source: Source,
    /// How they are encoded for those here who want bytes, unless they have a codec of their own.
    pub(crate) codec: Codec,
}

/// What is known of an event besides its value.
#[derive(Debug, Clone)]
pub(crate) struct Meta {
    origin: Arc<Origin>,
    /// Of an event that came from outside or went there: nearly all of those have it, so that it takes no
    /// memory of its own.
    given: Option<Given>,
    extra: Option<Arc<Extra>>,
    late: OnceLock<Box<Late>>,
}

/// What comes with an event from outside, or goes there with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Given {
    pub(crate) id: MessageId,
    pub(crate) time: Option<SystemTime>,
}

/// What few events have.
#[derive(Debug, Clone, Default)]
struct Extra {
    to: Option<Name>,
    time: Option<SystemTime>,
    headers: Headers,
}

/// What is made when somebody first asks for it, and then shared.
#[derive(Default)]
struct Late {
    id: OnceLock<MessageId>,
    encoded: OnceLock<Result<(ContentType, Bytes), CodecError>>,
    decoded: Decoded,
}

impl Meta {
    pub(crate) fn new(origin: Arc<Origin>) -> Self {
        Self { origin, given: None, extra: None, late: OnceLock::new() }
    }

    pub(crate) fn with_id(self, id: MessageId) -> Self {
        let _ = self.late().id.set(id);
        self
    }

    /// That of an event from outside.
    fn from_outside(
        origin: Arc<Origin>,
        id: MessageId,
        to: Option<Name>,
        time: Option<SystemTime>,
        headers: Headers,
    ) -> Self {
        let given = Some(Given { id, time });
        Self { given, ..Self::new(origin) }.with_extra(to, None, headers)
    }

    pub(crate) fn with_extra(
        mut self,
        to: Option<Name>,
        time: Option<SystemTime>,
        headers: Headers,
    ) -> Self {
        let has_any = to.is_some() || time.is_some() || !headers.is_empty();
        self.extra = has_any.then(|| Arc::new(Extra { to, time, headers }));
        self
    }

    /// The id, made when first asked for: an event nobody asks about has none.
    pub(crate) fn id(&self) -> MessageId {
        match self.given {
            Some(given) => given.id,
            None => *self.late().id.get_or_init(MessageId::new),
        }
    }

    pub(crate) fn topic(&self) -> &Topic {
        &self.origin.topic
    }

    pub(crate) fn version(&self) -> u32 {
        self.origin.version
    }

    #[inline]
    pub(crate) fn source(&self) -> &Source {
        &self.origin.source
    }

    pub(crate) fn to(&self) -> Option<&Name> {
        self.extra.as_ref()?.to.as_ref()
    }

    pub(crate) fn time(&self) -> Option<SystemTime> {
        match self.given {
            Some(given) => given.time,
            None => self.extra.as_ref()?.time,
        }
    }

    pub(crate) fn headers(&self) -> &Headers {
        static NONE: Headers = Headers::new();
        self.extra.as_ref().map_or(&NONE, |extra| &extra.headers)
    }

    fn late(&self) -> &Late {
        self.late.get_or_init(Box::default)
    }
}

impl Clone for Late {
    /// For the same event as another type: its id, and nothing that depends on the type.
    fn clone(&self) -> Self {
        Self { id: self.id.clone(), ..Self::default() }
    }
}

impl fmt::Debug for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Late").field("id", &self.id).finish_non_exhaustive()
    }
}

/// An event with its metadata, whatever its type.
pub(crate) trait Parcel: Any + Send + Sync {
    fn meta(&self) -> &Meta;
    /// The event's bytes, encoded on first demand.
    fn bytes(&self) -> Result<(ContentType, Bytes), CodecError>;
    /// Drops the event, which nobody will look at any more. Says whether the memory is worth
    /// keeping for the next one.
    fn vacate(&mut self) -> bool;
}

/// Larger parcels are not kept for the next event: a topic's ring may hold a thousand of them.
const KEPT: usize = 512;

impl Content for Arc<dyn Parcel> {
    fn vacate(this: &mut Option<Self>) {
        let keep = this.as_mut().and_then(Arc::get_mut).is_some_and(|parcel| parcel.vacate());
        if !keep {
            // Somebody still has it, or it is not worth keeping.
            *this = None;
        }
    }
}

/// The types decoded from one parcel so far, so that each is decoded once per process.
#[derive(Default)]
pub(crate) struct Decoded(Mutex<Vec<(TypeId, Arc<dyn Any + Send + Sync>)>>);

impl Decoded {
    fn is_empty(&self) -> bool {
        self.0.locked().is_empty()
    }
}

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
// The event comes first: beside the count of its readers, which all of them touch.
#[repr(C)]
pub(crate) struct Typed<E> {
    /// `None` only while nobody looks: between two events in one place.
    event: Option<E>,
    meta: Meta,
}

impl<E: Event> Typed<E> {
    pub(crate) fn new(event: E, meta: Meta) -> Self {
        Self { event: Some(event), meta }
    }

    /// With bytes that were made before (to send them), so that they are made once.
    pub(crate) fn with_bytes(self, content_type: ContentType, bytes: Bytes) -> Self {
        let _ = self.meta.late().encoded.set(Ok((content_type, bytes)));
        self
    }

    /// Exchanges the event for another. What else there was of the old one goes to `rest`, for it
    /// may do anything when it is dropped.
    #[inline]
    fn exchange(
        &mut self,
        event: &mut Option<E>,
        origin: &Arc<Origin>,
        given: Option<Given>,
        rest: &mut Rest,
    ) {
        std::mem::swap(&mut self.event, event);
        if !Arc::ptr_eq(&self.meta.origin, origin) {
            self.meta.origin = origin.clone();
        }
        self.meta.given = given;
        if self.meta.extra.is_some() {
            self.meta.extra = None;
        }
        if self.meta.late.get().is_some() {
            rest.late = self.meta.late.take();
        }
    }
}

impl<E> Typed<E> {
    #[inline]
    pub(crate) fn event(&self) -> &E {
        self.event.as_ref().expect("a parcel that somebody looks at has its event")
    }
}

/// What stood in an event's place before it, besides its event.
#[derive(Default)]
pub(crate) struct Rest {
    late: Option<Box<Late>>,
    /// A parcel that somebody still has, or of another type.
    parcel: Option<Arc<dyn Parcel>>,
}

/// The parcel of an event, in the memory of an old one where that can be had. The old event takes
/// the place of the new one, and the rest of it goes to `rest`.
#[inline]
pub(crate) fn fill<E: Event>(
    old: Option<Arc<dyn Parcel>>,
    event: &mut Option<E>,
    origin: &Arc<Origin>,
    given: Option<Given>,
    rest: &mut Rest,
) -> Arc<dyn Parcel> {
    if let Some(mut parcel) = old {
        let same = Arc::get_mut(&mut parcel).and_then(|old| (old as &mut dyn Any).downcast_mut());
        if let Some(typed) = same {
            Typed::<E>::exchange(typed, event, origin, given, rest);
            return parcel;
        }
        rest.parcel = Some(parcel);
    }
    let meta = Meta { given, ..Meta::new(origin.clone()) };
    Arc::new(Typed { event: event.take(), meta })
}

impl<E: Event> Parcel for Typed<E> {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn bytes(&self) -> Result<(ContentType, Bytes), CodecError> {
        let encode = || {
            let codec = E::SCHEMA.codec.unwrap_or(self.meta.origin.codec);
            let mut buffer = Vec::new();
            self.event().encode(codec, &mut buffer)?;
            Ok((codec.content_type(), buffer.into()))
        };
        self.meta.late().encoded.get_or_init(encode).clone()
    }

    fn vacate(&mut self) -> bool {
        self.event = None;
        self.meta.extra = None;
        self.meta.late = OnceLock::new();
        size_of::<Self>() <= KEPT
    }
}

/// A parcel as the payload of a transport that stays in the process.
pub(crate) struct Shared(pub(crate) Arc<dyn Parcel>);

impl LocalPayload for Shared {
    fn encode(&self) -> Result<(ContentType, Bytes), PayloadError> {
        self.0.bytes().map_err(|error| PayloadError {
            topic: self.0.meta().topic().to_string(),
            reason: error.to_string(),
        })
    }
}

impl Shared {
    fn clone_inner(shared: &Arc<Self>) -> Arc<dyn Parcel> {
        shared.0.clone()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shared").field(self.0.meta()).finish()
    }
}

/// The envelope of a parcel, with its payload as given.
pub(crate) fn to_envelope(meta: &Meta, payload: Payload) -> Envelope {
    let (topic, source) = (meta.topic().clone(), meta.source().clone());
    let mut envelope = Envelope::new(meta.id(), topic, source, payload);
    envelope.version = meta.version();
    envelope.to = meta.to().cloned();
    envelope.time = meta.time();
    envelope.headers = meta.headers().clone();
    envelope
}

/// The event of a parcel that holds this very type.
#[inline]
pub(crate) fn peek<E: Event>(parcel: &Arc<dyn Parcel>) -> Option<&E> {
    let any: &dyn Any = &**parcel;
    any.downcast_ref::<Typed<E>>().map(Typed::event)
}

/// The parcel as an event of type `E`, if it is one.
#[inline]
pub(crate) fn take<E: Event>(parcel: &Arc<dyn Parcel>) -> Option<Arc<Typed<E>>> {
    let any: Arc<dyn Any + Send + Sync> = parcel.clone();
    any.downcast().ok()
}

/// The parcel as an event of type `E`: as it is, or through the codec.
#[inline]
pub(crate) fn open<E: Event>(parcel: &Arc<dyn Parcel>) -> Result<Arc<Typed<E>>, GapReason> {
    if let Some(typed) = take(parcel) {
        return Ok(typed);
    }
    let meta = parcel.meta();
    if meta.version() != E::SCHEMA.version {
        return Err(GapReason::Version {
            topic: meta.topic().to_string(),
            found: meta.version(),
            expected: E::SCHEMA.version,
        });
    }
    let decode = || {
        let topic = || meta.topic().to_string();
        let undecodable = |error| GapReason::Undecodable { topic: topic(), error };
        let (content_type, bytes) =
            parcel.bytes().map_err(|error| undecodable(error.to_string()))?;
        let event = decode(&content_type, &bytes).map_err(undecodable)?;
        // Both are one event: they have one id.
        meta.id();
        Ok(Arc::new(Typed::new(event, meta.clone())))
    };
    // From outside, it came by a queue and was taken out of it: when nobody else has it, and nobody
    // had it before, nobody else can ask for it. (On the ring it has one owner and many readers.)
    let is_inbound = (&**parcel as &dyn Any).is::<Inbound>();
    let was_asked_for = || meta.late.get().is_some_and(|late| !late.decoded.is_empty());
    if is_inbound && Arc::strong_count(parcel) == 1 && !was_asked_for() {
        return decode();
    }
    meta.late().decoded.once(decode)
}
