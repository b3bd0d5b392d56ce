//! Event frames of one publisher on one topic: what they have in common is put together once.

use std::time::SystemTime;

use busway_transport::{Common, MessageId};
use bytes::{BufMut, Bytes, BytesMut};

use super::envelope::{self, SEQUENCE, TIME, VERSION};
use super::frame::EVENT;

/// What such frames have in common.
#[derive(Debug)]
pub(crate) struct EventFrames {
    /// All of an envelope but its payload, with room for what differs.
    envelope: Bytes,
    /// Where the sequence number stands in it, and the time behind that.
    sequence: usize,
}

/// What differs from event to event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    pub(crate) id: MessageId,
    pub(crate) sequence: u64,
    pub(crate) time: SystemTime,
    /// The length of the payload.
    pub(crate) length: usize,
}

/// Where the id stands in an envelope.
const ID: usize = 1;

impl EventFrames {
    pub(crate) fn of(common: &Common) -> Self {
        let mut envelope = BytesMut::new();
        envelope.put_u8(SEQUENCE | TIME | if common.version != 1 { VERSION } else { 0 });
        envelope.put_bytes(0, 16);
        envelope::put_origin(&mut envelope, &common.topic, &common.source);
        let sequence = envelope.len();
        envelope.put_bytes(0, 8 + 12);
        if common.version != 1 {
            envelope.put_u32_le(common.version);
        }
        envelope::put_content_type(&mut envelope, &common.content_type);
        Self { envelope: envelope.freeze(), sequence }
    }

    /// How long an envelope with such a payload is.
    pub(crate) fn envelope(&self, payload: usize) -> usize {
        self.envelope.len() + payload
    }

    /// Puts all of a frame but the payload, which has to follow.
    pub(crate) fn put(&self, to: &mut BytesMut, interests: &[u64], event: Event) {
        let own = 1 + 4 + 8 * interests.len();
        let envelope = self.envelope(event.length);
        to.reserve(4 + own + envelope);
        to.put_u32_le((own + envelope) as u32);
        to.put_u8(EVENT);
        to.put_u32_le(interests.len() as u32);
        for interest in interests {
            to.put_u64_le(*interest);
        }
        // Put whole, and what differs then set in its place: each part put by itself takes longer.
        let begin = to.len();
        to.put_slice(&self.envelope);
        let put = &mut to[begin..];
        put[ID..][..16].copy_from_slice(event.id.as_bytes());
        put[self.sequence..][..8].copy_from_slice(&event.sequence.to_le_bytes());
        put[self.sequence + 8..][..12].copy_from_slice(&envelope::time_bytes(event.time));
    }
}
