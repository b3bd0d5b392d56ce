//! From the wire to parcels. What came from outside keeps its bytes until somebody wants it as a
//! type; where all want one type, it is decoded where it arrives.

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use busway_transport::{ContentType, Envelope, GapReason, Payload, Source, Topic};

use super::run::{self, Landed, Landing};
use super::{Meta, Origin, Parcel, Shared, Typed};
use crate::codec::{Codec, CodecError};
use crate::event::Event;
use crate::subscribe::panic_text;
use crate::zero_copy;

/// An event that came from outside, still in its bytes.
pub(crate) struct Inbound {
    pub(super) meta: Meta,
    pub(super) content_type: ContentType,
    pub(super) bytes: Bytes,
}

impl Parcel for Inbound {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn bytes(&self) -> Result<(ContentType, Bytes), CodecError> {
        Ok((self.content_type.clone(), self.bytes.clone()))
    }

    fn vacate(&mut self) -> bool {
        false
    }
}

/// The parcel of an envelope that a transport delivered.
pub(crate) fn from_envelope(envelope: Envelope) -> Result<Arc<dyn Parcel>, GapReason> {
    arrived(envelope, None)
}

/// As [`from_envelope`], opened early if that is wanted.
pub(crate) fn arrived(
    envelope: Envelope,
    early: Option<Early>,
) -> Result<Arc<dyn Parcel>, GapReason> {
    let Envelope { topic, version, source, to, time, headers, id, payload, .. } = envelope;
    let undecodable = |error: String| GapReason::Undecodable { topic: topic.to_string(), error };
    let (content_type, bytes) = match payload {
        Payload::Local(local) => match (local.clone() as Arc<dyn Any + Send + Sync>).downcast() {
            Ok(shared) => return Ok(Shared::clone_inner(&shared)),
            // Another program's own value: all that can be had of it are its bytes.
            Err(_) => local.encode().map_err(|error| undecodable(error.to_string()))?,
        },
        Payload::Encoded { content_type, bytes } => (content_type, bytes),
        _ => return Err(undecodable("a kind of payload this version does not know".into())),
    };
    let origin = known_origin(&topic, version, &source);
    let meta = Meta::from_outside(origin, id, to, time, headers);
    let inbound = Inbound { meta, content_type, bytes };
    Ok(match early {
        Some(early) => (early.one)(inbound),
        None => Arc::new(inbound),
    })
}

/// The origin as it was made for the event before, if that came from the same place.
pub(super) fn known_origin(topic: &Topic, version: u32, source: &Source) -> Arc<Origin> {
    thread_local! {
        static LAST: RefCell<Option<Arc<Origin>>> = const { RefCell::new(None) };
    }
    let is_that = |origin: &Origin| {
        (&origin.topic, origin.version, &origin.source) == (topic, version, source)
    };
    LAST.with_borrow_mut(|last| match last {
        Some(last) if is_that(last) => last.clone(),
        _ => {
            let (topic, source) = (topic.clone(), source.clone());
            let origin = Origin { topic, version, source, codec: Codec::MessagePack };
            last.insert(Arc::new(origin)).clone()
        }
    })
}

/// Decodes what came from outside where it arrives, for subscriptions that want one type.
#[derive(Clone, Copy)]
pub(crate) struct Early {
    event: TypeId,
    /// One that goes into a queue.
    pub(crate) one: fn(Inbound) -> Arc<dyn Parcel>,
    /// Several that go onto the topic's ring.
    pub(crate) run: fn(Landing<'_>) -> Landed,
}

/// Events up to this size are decoded where they arrive: whoever brings them must not be kept from
/// others for long.
const SOON: usize = 4 << 10;

impl Early {
    /// As events of that type. What cannot be decoded stays as it is: the subscription counts it
    /// and tells why.
    pub(crate) fn of<E: Event>() -> Self {
        let one = |inbound: Inbound| -> Arc<dyn Parcel> {
            let Inbound { meta, content_type, bytes } = &inbound;
            if bytes.len() <= SOON
                && meta.version() == E::SCHEMA.version
                && let Ok(event) = decode(content_type, bytes)
            {
                return Arc::new(Typed::<E>::new(event, inbound.meta));
            }
            Arc::new(inbound)
        };
        Self { event: TypeId::of::<E>(), one, run: run::land::<E> }
    }

    /// Whether it is for that type.
    pub(crate) fn is_of<E: Event>(self) -> bool {
        self.event == TypeId::of::<E>()
    }

    /// Whether both are for one type.
    pub(crate) fn is_as(self, other: Self) -> bool {
        self.event == other.event
    }

    #[cfg(test)]
    pub(crate) fn by(one: fn(Inbound) -> Arc<dyn Parcel>) -> Self {
        Self { event: TypeId::of::<()>(), one, run: |_| Landed::default() }
    }
}

impl fmt::Debug for Early {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Early").field(&self.event).finish()
    }
}

/// A subscription whose events take longer to decode than this, for those that come together, has them
/// decoded by its own reader: whoever brings them brings those of others as well (law 6).
pub(crate) const SLOW: Duration = Duration::from_millis(20);

/// Looks how long events that come together take.
pub(crate) struct Watch {
    began: Instant,
    events: u32,
}

impl Watch {
    pub(crate) fn start() -> Self {
        Self { began: Instant::now(), events: 0 }
    }

    /// Whether it has become too long, by another event. (Seldom: reading the clock takes as long as
    /// a small part of an event. But no more than a few go by when decoding becomes slow late.)
    #[inline]
    pub(crate) fn counts_and_is_slow(&mut self) -> bool {
        self.events += 1;
        let is_time = self.events.is_power_of_two() || self.events.is_multiple_of(8);
        is_time && self.elapsed() > SLOW
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// How many events there were so far.
    pub(crate) fn events(&self) -> u32 {
        self.events
    }
}

/// Decodes a payload.
pub(super) fn decode<E: Event>(content_type: &ContentType, bytes: &Bytes) -> Result<E, String> {
    let codec = Codec::for_receipt(content_type, &E::SCHEMA).map_err(|error| error.to_string())?;
    let _lent = zero_copy::lend(bytes.clone());
    decode_by(codec, bytes)
}

/// As [`decode`], with a codec that was found before. A decoder that panics is one that fails
/// (law 11).
#[inline]
pub(super) fn decode_by<E: Event>(codec: Codec, bytes: &[u8]) -> Result<E, String> {
    let decoding = std::panic::AssertUnwindSafe(|| E::decode(codec, bytes));
    match std::panic::catch_unwind(decoding) {
        Ok(decoded) => decoded.map_err(|error| error.to_string()),
        Err(panic) => Err(format!("the decoder panicked: {}", panic_text(&*panic))),
    }
}
