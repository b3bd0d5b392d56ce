//! An envelope on the wire: its metadata by hand, the payload as it is behind it. First comes what the
//! events of one publisher have in common, then what differs. What is absent costs one bit.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use busway_transport::{
    Common, ContentType, Envelope, Headers, MessageId, Name, Payload, PayloadError, Source, Topic,
};
use bytes::{BufMut, Bytes};

use super::WireError;
use super::event::GOES_ON;
use super::origins::Origins;
use super::read::Read;
use super::run::Alike;

pub(super) const SEQUENCE: u8 = 1;
const TO: u8 = 1 << 1;
pub(super) const TIME: u8 = 1 << 2;
const HEADERS: u8 = 1 << 3;
pub(super) const VERSION: u8 = 1 << 4;
const ALL: u8 = SEQUENCE | TO | TIME | HEADERS | VERSION;

/// Content types that have a number; others travel as text behind [`OTHER_TYPE`].
const TYPES: [ContentType; 3] =
    [ContentType::MESSAGE_PACK, ContentType::JSON, ContentType::BINCODE];
const OTHER_TYPE: u8 = 255;

/// An envelope, encoded once and shared between all links that it goes to.
#[derive(Debug, Clone)]
pub(crate) struct Encoded {
    /// The metadata.
    pub(crate) head: Bytes,
    /// The payload.
    pub(crate) payload: Bytes,
}

impl Encoded {
    /// Encodes an envelope; the payload is shared, not copied.
    pub(crate) fn new(envelope: &Envelope) -> Result<Self, PayloadError> {
        let (content_type, payload) = encoded_payload(&envelope.payload)?;
        let mut head = Vec::with_capacity(96);
        let when = |present: bool, flag: u8| if present { flag } else { 0 };
        head.put_u8(
            when(envelope.sequence.is_some(), SEQUENCE)
                | when(envelope.to.is_some(), TO)
                | when(envelope.time.is_some(), TIME)
                | when(!envelope.headers.is_empty(), HEADERS)
                | when(envelope.version != 1, VERSION),
        );
        put_origin(&mut head, &envelope.topic, &envelope.source);
        put_kind(&mut head, &content_type, envelope.version);
        head.put_slice(envelope.id.as_bytes());
        if let Some(sequence) = envelope.sequence {
            head.put_u64_le(sequence);
        }
        if let Some(time) = envelope.time {
            put_time(&mut head, time);
        }
        if let Some(to) = &envelope.to {
            put_short(&mut head, to.as_str());
        }
        if !envelope.headers.is_empty() {
            head.put_u32_le(envelope.headers.iter().count() as u32);
            for (key, value) in envelope.headers.iter() {
                put_long(&mut head, key);
                put_long(&mut head, value);
            }
        }
        Ok(Self { head: head.into(), payload })
    }

    /// How many bytes it takes in a frame.
    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.payload.len()
    }
}

/// An envelope as it came in.
#[derive(Debug, Clone)]
pub(crate) enum Unread {
    /// With all its parts.
    Whole(Bytes),
    /// With what differs from the events of its series before it: id, time and payload.
    Next { alike: Arc<Alike>, number: u64, rest: Bytes },
}

impl Unread {
    /// How long it is, or would be with all its parts.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Whole(bytes) => bytes.len(),
            Self::Next { alike, rest, .. } => alike.envelope(rest.len() - GOES_ON),
        }
    }

    pub(crate) fn read(self, origins: &mut Origins) -> Result<Envelope, WireError> {
        match self {
            Self::Whole(bytes) => read(Read(bytes), origins),
            Self::Next { alike, number, rest } => read_next(&alike.common, number, Read(rest)),
        }
    }
}

/// The payload as bytes. (This transport does not claim `InProcess`, so that it gets bytes; a
/// value is encoded all the same.)
pub(super) fn encoded_payload(payload: &Payload) -> Result<(ContentType, Bytes), PayloadError> {
    match payload {
        Payload::Encoded { content_type, bytes } => Ok((content_type.clone(), bytes.clone())),
        Payload::Local(value) => value.encode(),
        other => Err(PayloadError {
            topic: String::new(),
            reason: format!("a payload of an unknown kind: {other:?}"),
        }),
    }
}

/// Which parts an envelope has.
pub(super) struct Flags(pub(super) u8);

impl Flags {
    /// Whether it has a number and a time, is for everyone, and has no headers.
    pub(super) fn are_plain(&self) -> bool {
        self.0 & !VERSION == SEQUENCE | TIME
    }

    /// Content type and version.
    pub(super) fn read_kind(&self, from: &mut Read) -> Result<(ContentType, u32), WireError> {
        let content_type = read_content_type(from)?;
        let version = if self.0 & VERSION != 0 { from.u32("version")? } else { 1 };
        Ok((content_type, version))
    }
}

/// Reads an envelope that takes all that is left of a frame.
pub(super) fn read(mut from: Read, origins: &mut Origins) -> Result<Envelope, WireError> {
    let flags = from.u8("flags")?;
    if flags & !ALL != 0 {
        return Err(WireError::Bad("set of flags"));
    }
    let (topic, source) = origins.read(&mut from)?;
    let (content_type, version) = Flags(flags).read_kind(&mut from)?;
    let id = MessageId::from_bytes(from.array("id")?);
    let sequence = if flags & SEQUENCE != 0 { Some(from.u64("sequence")?) } else { None };
    let time = if flags & TIME != 0 { Some(read_time(&mut from)?) } else { None };
    let to = if flags & TO != 0 {
        Some(from.short("address", |text| Ok(Name::new(text)?))?)
    } else {
        None
    };
    let mut headers = Headers::new();
    if flags & HEADERS != 0 {
        for _ in 0..from.u32("headers")? {
            let key = from.long("header")?;
            headers.insert(key, from.long("header")?);
        }
    }
    let payload = Payload::encoded(content_type, from.rest());
    let mut envelope = Envelope::new(id, topic, source, payload);
    envelope.version = version;
    envelope.sequence = sequence;
    envelope.to = to;
    envelope.time = time;
    envelope.headers = headers;
    Ok(envelope)
}

/// Reads what differs, which is all that is left of a frame.
fn read_next(common: &Common, number: u64, mut from: Read) -> Result<Envelope, WireError> {
    let id = MessageId::from_bytes(from.array("id")?);
    let time = read_time(&mut from)?;
    let payload = Payload::encoded(common.content_type.clone(), from.rest());
    let mut envelope = Envelope::new(id, common.topic.clone(), common.source.clone(), payload);
    envelope.version = common.version;
    envelope.sequence = Some(number);
    envelope.time = Some(time);
    Ok(envelope)
}

/// Topic and source.
pub(super) fn put_origin(to: &mut impl BufMut, topic: &Topic, source: &Source) {
    put_short(to, topic.as_str());
    put_short(to, source.endpoint.as_str());
    to.put_u64_le(source.peer.as_u64());
}

/// Content type and version.
pub(super) fn put_kind(to: &mut impl BufMut, content_type: &ContentType, version: u32) {
    put_content_type(to, content_type);
    if version != 1 {
        to.put_u32_le(version);
    }
}

/// A text whose type keeps it below 256 bytes.
fn put_short(to: &mut impl BufMut, text: &str) {
    debug_assert!(text.len() <= usize::from(u8::MAX));
    to.put_u8(text.len() as u8);
    to.put_slice(text.as_bytes());
}

pub(super) fn put_long(to: &mut impl BufMut, text: &str) {
    to.put_u32_le(text.len() as u32);
    to.put_slice(text.as_bytes());
}

/// Seconds and nanoseconds.
#[inline]
pub(super) fn time_bytes(since: Duration) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&since.as_secs().to_le_bytes());
    bytes[8..].copy_from_slice(&since.subsec_nanos().to_le_bytes());
    bytes
}

/// The time since 1970; what was before that counts as 1970.
pub(super) fn put_time(to: &mut impl BufMut, time: SystemTime) {
    to.put_slice(&time_bytes(time.duration_since(UNIX_EPOCH).unwrap_or_default()));
}

pub(super) fn read_time(from: &mut Read) -> Result<SystemTime, WireError> {
    time_of(&from.array("time")?).ok_or(WireError::Bad("time"))
}

/// The reverse of [`time_bytes`], unless there is no such time.
#[inline]
pub(super) fn time_of(bytes: &[u8; 12]) -> Option<SystemTime> {
    let (seconds, nanos) = bytes.split_at(8);
    let seconds = u64::from_le_bytes(*seconds.first_chunk()?);
    let nanos = u32::from_le_bytes(*nanos.first_chunk()?);
    if nanos >= 1_000_000_000 {
        return None;
    }
    UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}

pub(super) fn put_content_type(to: &mut impl BufMut, content_type: &ContentType) {
    match TYPES.iter().position(|known| known == content_type) {
        Some(number) => to.put_u8(number as u8),
        None => {
            to.put_u8(OTHER_TYPE);
            put_long(to, content_type.as_str());
        }
    }
}

pub(super) fn read_content_type(from: &mut Read) -> Result<ContentType, WireError> {
    match from.u8("content type")? {
        OTHER_TYPE => Ok(ContentType::new(from.long("content type")?)),
        number => TYPES.get(usize::from(number)).cloned().ok_or(WireError::Bad("content type")),
    }
}
