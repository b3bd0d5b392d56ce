//! Envelopes as AMQP messages and back. `docs/wire-amqp.md` is the description for others.
//!
//! Headers are text, booleans and integers below 2^53 only: other clients cannot read more. A
//! program in another language need not set any of ours.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use busway_transport::{
    ContentType, Envelope, Headers, MessageId, Name, Payload, PeerId, Source, Topic, TransportError,
};
use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};

use crate::error::short;
use crate::topology::Topology;

pub(crate) const PEER: &str = "busway-peer";
pub(crate) const SEQUENCE: &str = "busway-seq";
pub(crate) const VERSION: &str = "busway-version";
pub(crate) const TO: &str = "busway-to";
pub(crate) const TIME_MS: &str = "busway-time-ms";
pub(crate) const ATTEMPT: &str = "busway-attempt";
pub(crate) const TIMEOUT_MS: &str = "busway-timeout-ms";
pub(crate) const STATUS: &str = "busway-status";
pub(crate) const FAILURE: &str = "busway-failure";
pub(crate) const TEXT: &str = "busway-text";
pub(crate) const DEAD_REASON: &str = "busway-dead-reason";
pub(crate) const DEAD_AT_MS: &str = "busway-dead-at-ms";
/// When the first attempt began.
pub(crate) const FIRST_MS: &str = "busway-first-ms";
/// When the last attempt began.
pub(crate) const LAST_MS: &str = "busway-last-ms";
/// The queue to which the dead letter's group's events come.
pub(crate) const QUEUE: &str = "busway-queue";
/// The number of the key by which its group is ordered.
pub(crate) const KEY: &str = "busway-key";
/// A user's header whose key begins like ours travels under this prefix.
const USER: &str = "busway-user-";
const OURS: &str = "busway-";
/// What the broker adds: of the delivery, not of the event.
const BROKERS: [&str; 5] =
    ["x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count"];

/// Payloads over this are refused: RabbitMQ 4 takes no more.
pub(crate) const MAX_PAYLOAD: usize = 16 * 1024 * 1024;
/// All properties travel in one frame of 128 KiB; a longer one costs the whole connection.
const MAX_HEADERS: usize = 96 * 1024;

/// Headers under construction.
#[derive(Debug, Default)]
pub(crate) struct Table(FieldTable);

impl Table {
    pub(crate) fn text(&mut self, key: &'static str, value: &str) {
        self.0.insert(key.into(), AMQPValue::LongString(value.into()));
    }

    pub(crate) fn number(&mut self, key: &'static str, value: u64) {
        // Below 2^53; a count that gets there is of no more use.
        let value = i64::try_from(value.min((1 << 53) - 1)).unwrap_or(0);
        self.0.insert(key.into(), AMQPValue::LongLongInt(value));
    }

    /// The headers of a message that arrived, without what the broker added.
    pub(crate) fn of(properties: &BasicProperties) -> Self {
        let mut table = FieldTable::default();
        for (key, value) in properties.headers().iter().flat_map(FieldTable::inner) {
            if !BROKERS.iter().any(|broker| key.as_str().starts_with(broker)) {
                table.insert(key.clone(), value.clone());
            }
        }
        Self(table)
    }

    /// Leaves out what a group's attempts have added: it begins anew.
    pub(crate) fn forget_attempts(&mut self) {
        let added = [ATTEMPT, DEAD_REASON, TEXT, DEAD_AT_MS, FIRST_MS, LAST_MS, QUEUE, KEY];
        let kept = std::mem::take(&mut self.0);
        for (key, value) in kept.inner() {
            if !added.contains(&key.as_str()) {
                self.0.insert(key.clone(), value.clone());
            }
        }
    }

    pub(crate) fn done(self) -> FieldTable {
        self.0
    }
}

/// The bytes of a payload and what they are.
pub(crate) fn payload(
    payload: Payload,
    topic: &str,
) -> Result<(ContentType, Bytes), TransportError> {
    let (content_type, bytes) = match payload {
        Payload::Encoded { content_type, bytes } => (content_type, bytes),
        Payload::Local(local) => local.encode().map_err(|error| TransportError::Rejected {
            what: topic.to_owned(),
            reason: error.to_string(),
        })?,
        _ => {
            return Err(TransportError::Rejected {
                what: topic.to_owned(),
                reason: "this kind of payload cannot leave the process".into(),
            });
        }
    };
    if bytes.len() > MAX_PAYLOAD {
        let (topic, size) = (topic.to_owned(), bytes.len());
        return Err(TransportError::TooLarge { topic, size, limit: MAX_PAYLOAD });
    }
    Ok((content_type, bytes))
}

/// An envelope as properties, headers and bytes. The headers are apart, for more to be added.
pub(crate) fn encode(
    envelope: Envelope,
) -> Result<(BasicProperties, Table, Bytes), TransportError> {
    let mut table = Table::default();
    let mut size = 0;
    for (key, value) in envelope.headers.iter() {
        size += key.len() + value.len() + 16;
        let key = match key.starts_with(OURS) {
            true => short(format!("{USER}{key}"))?,
            false => short(key)?,
        };
        table.0.insert(key, AMQPValue::LongString(value.into()));
    }
    if size > MAX_HEADERS {
        return Err(TransportError::Rejected {
            what: envelope.topic.to_string(),
            reason: format!("{size} bytes of headers; the limit is {MAX_HEADERS}"),
        });
    }
    ours(&mut table, &envelope.source.peer.to_string(), envelope.version, envelope.sequence);
    if let Some(to) = &envelope.to {
        table.text(TO, to.as_str());
    }
    let (content_type, bytes) = payload(envelope.payload, envelope.topic.as_str())?;
    let mut properties = BasicProperties::default()
        .with_message_id(message_id(envelope.id))
        .with_type(short(envelope.topic.as_str())?)
        .with_app_id(short(envelope.source.endpoint.as_str())?)
        .with_content_type(short(content_type.as_str())?)
        .with_delivery_mode(2);
    if let Some(time) = envelope.time {
        properties = timed(properties, &mut table, time);
    }
    Ok((properties, table, bytes))
}

/// The headers that events have besides their users'.
pub(crate) fn ours(table: &mut Table, peer: &str, version: u32, sequence: Option<u64>) {
    table.text(PEER, peer);
    if version != 1 {
        table.number(VERSION, u64::from(version));
    }
    if let Some(sequence) = sequence {
        table.number(SEQUENCE, sequence);
    }
}

/// With the time, in seconds as AMQP has it and in milliseconds.
pub(crate) fn timed(
    properties: BasicProperties,
    table: &mut Table,
    time: SystemTime,
) -> BasicProperties {
    let Ok(since) = time.duration_since(UNIX_EPOCH) else { return properties };
    table.number(TIME_MS, millis(since));
    properties.with_timestamp(since.as_secs())
}

pub(crate) fn message_id(id: MessageId) -> ShortString {
    ShortString::from(id.to_string()) // 36 bytes
}

/// The properties of a message that is sent on: the same but for the headers, and without an
/// expiration.
pub(crate) fn resend(from: &BasicProperties, table: Table) -> BasicProperties {
    let mut to = BasicProperties::default().with_headers(table.done()).with_delivery_mode(2);
    let copy = |value: &Option<ShortString>| value.clone();
    if let Some(value) = copy(from.content_type()) {
        to = to.with_content_type(value);
    }
    if let Some(value) = copy(from.content_encoding()) {
        to = to.with_content_encoding(value);
    }
    if let Some(value) = copy(from.message_id()) {
        to = to.with_message_id(value);
    }
    if let Some(value) = copy(from.correlation_id()) {
        to = to.with_correlation_id(value);
    }
    if let Some(value) = copy(from.reply_to()) {
        to = to.with_reply_to(value);
    }
    if let Some(value) = copy(from.kind()) {
        to = to.with_type(value);
    }
    if let Some(value) = copy(from.app_id()) {
        to = to.with_app_id(value);
    }
    if let Some(value) = *from.timestamp() {
        to = to.with_timestamp(value);
    }
    to
}

/// A header as text.
pub(crate) fn text(properties: &BasicProperties, key: &str) -> Option<String> {
    as_text(properties.headers().as_ref()?.inner().get(key)?)
}

/// A header as a number.
pub(crate) fn number(properties: &BasicProperties, key: &str) -> Option<u64> {
    as_text(properties.headers().as_ref()?.inner().get(key)?)?.parse().ok()
}

fn as_text(value: &AMQPValue) -> Option<String> {
    Some(match value {
        AMQPValue::LongString(text) => long_text(text),
        AMQPValue::ShortString(text) => text.to_string(),
        AMQPValue::Boolean(value) => value.to_string(),
        AMQPValue::ShortShortInt(value) => value.to_string(),
        AMQPValue::ShortShortUInt(value) => value.to_string(),
        AMQPValue::ShortInt(value) => value.to_string(),
        AMQPValue::ShortUInt(value) => value.to_string(),
        AMQPValue::LongInt(value) => value.to_string(),
        AMQPValue::LongUInt(value) => value.to_string(),
        AMQPValue::LongLongInt(value) => value.to_string(),
        AMQPValue::Timestamp(value) => value.to_string(),
        AMQPValue::Float(value) => value.to_string(),
        AMQPValue::Double(value) => value.to_string(),
        _ => return None,
    })
}

fn long_text(text: &LongString) -> String {
    String::from_utf8_lossy(text.as_bytes()).into_owned()
}

/// The id of a message. An id that is no UUID gives the same id each time; a message without one
/// gets a new one.
pub(crate) fn id_of(properties: &BasicProperties) -> MessageId {
    match properties.message_id() {
        Some(text) if !text.as_str().is_empty() => {
            text.as_str().parse().unwrap_or_else(|_| MessageId::from_bytes(hash(text.as_str())))
        }
        _ => MessageId::new(),
    }
}

/// FNV-1a of 128 bits.
fn hash(text: &str) -> [u8; 16] {
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for byte in text.bytes() {
        hash = (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
    hash.to_be_bytes()
}

/// Which peer published a message.
pub(crate) fn peer_of(properties: &BasicProperties) -> PeerId {
    text(properties, PEER).and_then(|text| text.parse().ok()).unwrap_or_else(|| PeerId::from_u64(0))
}

/// The event in a message. Its routing key says topic and addressee; after a retry it has come
/// through the default exchange and says its topic itself. `None`: it is no event.
pub(crate) fn decode_event(
    routing_key: &str,
    properties: &BasicProperties,
    payload: Bytes,
) -> Option<Envelope> {
    let of_type = || Topic::new(properties.kind().as_ref()?.as_str()).ok();
    let (topic, to) =
        Topology::read_key(routing_key).or_else(|| of_type().map(|topic| (topic, None)))?;
    let mut envelope = decode(topic, properties, payload);
    envelope.to = envelope.to.or(to);
    Some(envelope)
}

/// The envelope of a message that arrived.
pub(crate) fn decode(topic: Topic, properties: &BasicProperties, payload: Bytes) -> Envelope {
    let endpoint = properties.app_id().as_ref().and_then(|name| Name::new(name.as_str()).ok());
    let source = Source { endpoint: endpoint.unwrap_or_else(unknown), peer: peer_of(properties) };
    let content_type = match properties.content_type() {
        Some(text) if !text.as_str().is_empty() => ContentType::new(text.as_str()),
        _ => ContentType::JSON,
    };
    let payload = Payload::encoded(content_type, payload);
    let mut envelope = Envelope::new(id_of(properties), topic, source, payload);
    envelope.version =
        number(properties, VERSION).and_then(|version| u32::try_from(version).ok()).unwrap_or(1);
    envelope.sequence = number(properties, SEQUENCE);
    envelope.to = text(properties, TO).and_then(|name| Name::new(&name).ok());
    envelope.time = match (number(properties, TIME_MS), *properties.timestamp()) {
        (Some(ms), _) => UNIX_EPOCH.checked_add(Duration::from_millis(ms)),
        (None, Some(seconds)) => UNIX_EPOCH.checked_add(Duration::from_secs(seconds)),
        (None, None) => None,
    };
    envelope.headers = user_headers(properties);
    envelope
}

fn unknown() -> Name {
    Name::new("unknown").unwrap_or_else(|_| unreachable!("a constant that is a name"))
}

fn user_headers(properties: &BasicProperties) -> Headers {
    let all = properties.headers().iter().flat_map(FieldTable::inner);
    all.filter_map(|(key, value)| {
        let key = match key.as_str().strip_prefix(USER) {
            Some(key) => key,
            None if key.as_str().starts_with(OURS) => return None,
            None if BROKERS.iter().any(|broker| key.as_str().starts_with(broker)) => return None,
            None => key.as_str(),
        };
        Some((key.to_owned(), as_text(value)?))
    })
    .collect()
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Since 1970; what was before that counts as 1970.
pub(crate) fn time_ms(time: SystemTime) -> u64 {
    millis(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

pub(crate) fn now_ms() -> u64 {
    time_ms(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> Envelope {
        let source = Source { endpoint: Name::new("sales").unwrap(), peer: PeerId::from_u64(7) };
        let payload = Payload::encoded(ContentType::JSON, "{}");
        let mut envelope =
            Envelope::new(MessageId::new(), Topic::new("shop.order").unwrap(), source, payload);
        envelope.version = 3;
        envelope.sequence = Some(41);
        envelope.to = Some(Name::new("billing").unwrap());
        envelope.time = UNIX_EPOCH.checked_add(Duration::from_millis(1_700_000_000_123));
        envelope.headers.insert("tenant", "a");
        envelope.headers.insert("busway-peer", "mine");
        envelope
    }

    #[test]
    fn an_envelope_survives_the_wire() {
        let sent = envelope();
        let (properties, table, bytes) = encode(sent.clone()).unwrap();
        let properties = properties.with_headers(table.done());
        let came = decode_event("to.billing.shop.order", &properties, bytes).unwrap();
        assert_eq!(
            (came.id, came.topic, came.version, came.source, came.sequence, came.to, came.time),
            (sent.id, sent.topic, sent.version, sent.source, sent.sequence, sent.to, sent.time)
        );
        assert_eq!(came.headers, sent.headers);
    }

    #[test]
    fn a_stranger_needs_none_of_our_headers() {
        let properties = BasicProperties::default()
            .with_message_id("order-17".into())
            .with_app_id("Some App".into());
        let bytes = Bytes::from_static(b"{}");
        let came = decode_event("to.mail.shop.order", &properties, bytes).unwrap();
        assert_eq!(came.topic, "shop.order");
        assert_eq!(came.to, Name::new("mail").ok());
        assert_eq!(came.source.endpoint, "unknown");
        assert_eq!(came.source.peer, PeerId::from_u64(0));
        assert_eq!(came.id, id_of(&properties), "the same id on a redelivery");
        assert_eq!((came.version, came.sequence, came.time), (1, None, None));
        let Payload::Encoded { content_type, .. } = came.payload else { panic!() };
        assert_eq!(content_type, ContentType::JSON);
    }

    #[test]
    fn what_the_broker_adds_is_not_sent_on() {
        let mut table = Table::default();
        table.0.insert("x-first-death-queue".into(), AMQPValue::LongString("q".into()));
        table.0.insert("x-death".into(), AMQPValue::FieldArray(Vec::new().into()));
        table.0.insert("x-mine".into(), AMQPValue::LongString("m".into()));
        let properties = BasicProperties::default().with_headers(table.done());
        let kept = Table::of(&properties).done();
        assert_eq!(kept.inner().len(), 1);
        assert_eq!(user_headers(&properties).get("x-mine"), Some("m"));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut large = envelope();
        large.payload = Payload::encoded(ContentType::JSON, vec![0; MAX_PAYLOAD + 1]);
        assert!(matches!(encode(large), Err(TransportError::TooLarge { .. })));
        let mut headers = envelope();
        headers.headers.insert("k", "v".repeat(MAX_HEADERS));
        assert!(matches!(encode(headers), Err(TransportError::Rejected { .. })));
        let mut key = envelope();
        key.headers.insert("k".repeat(256), "v");
        assert!(matches!(encode(key), Err(TransportError::Rejected { .. })));
    }
}
