//! Event frames of one publisher on one topic: what they have in common is put together once.

use std::time::SystemTime;

use busway_transport::{Common, MessageId};
use bytes::{BufMut, Bytes, BytesMut};

use super::envelope::{self, SEQUENCE, TIME, VERSION};
use super::frame::EVENT;

/// What such frames have in common.
#[derive(Debug)]
pub(crate) struct EventFrames {
    flags: u8,
    /// From the topic to the peer.
    origin: Bytes,
    /// The version, if it is not 1, and the content type.
    behind: Bytes,
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

impl EventFrames {
    pub(crate) fn of(common: &Common) -> Self {
        let (mut origin, mut behind) = (BytesMut::new(), BytesMut::new());
        envelope::put_origin(&mut origin, &common.topic, &common.source);
        let mut flags = SEQUENCE | TIME;
        if common.version != 1 {
            flags |= VERSION;
            behind.put_u32_le(common.version);
        }
        envelope::put_content_type(&mut behind, &common.content_type);
        Self { flags, origin: origin.freeze(), behind: behind.freeze() }
    }

    /// How long an envelope with such a payload is.
    pub(crate) fn envelope(&self, payload: usize) -> usize {
        1 + 16 + self.origin.len() + 8 + 12 + self.behind.len() + payload
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
        to.put_u8(self.flags);
        to.put_slice(event.id.as_bytes());
        to.put_slice(&self.origin);
        to.put_u64_le(event.sequence);
        envelope::put_time(to, event.time);
        to.put_slice(&self.behind);
    }
}
