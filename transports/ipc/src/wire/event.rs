//! Event frames of one publisher on one topic: what they have in common is put together once.

use std::time::Duration;

use busway_transport::{Common, MessageId};
use bytes::BufMut;

use super::envelope::{self, SEQUENCE, TIME, VERSION};
use super::frame::EVENT;

/// What such frames have in common.
#[derive(Debug)]
pub(crate) struct EventFrames {
    /// All of an envelope but its payload, with room for what differs.
    envelope: Vec<u8>,
    /// Where the sequence number stands in it, and the time behind that.
    sequence: usize,
}

/// How such frames to one peer begin.
#[derive(Debug)]
pub(crate) struct Head {
    /// All of a frame but its payload, with room for what differs.
    frame: Vec<u8>,
    /// Where the id stands in it.
    id: usize,
    /// Where the sequence number stands in it, and the time behind that.
    sequence: usize,
}

/// What differs from event to event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    pub(crate) id: MessageId,
    pub(crate) sequence: u64,
    pub(crate) since_1970: Duration,
}

/// Where the id stands in an envelope.
const ID: usize = 1;

impl EventFrames {
    pub(crate) fn of(common: &Common) -> Self {
        let mut envelope = Vec::new();
        envelope.put_u8(SEQUENCE | TIME | if common.version != 1 { VERSION } else { 0 });
        envelope.put_bytes(0, 16);
        envelope::put_origin(&mut envelope, &common.topic, &common.source);
        let sequence = envelope.len();
        envelope.put_bytes(0, 8 + 12);
        if common.version != 1 {
            envelope.put_u32_le(common.version);
        }
        envelope::put_content_type(&mut envelope, &common.content_type);
        Self { envelope, sequence }
    }

    /// How long an envelope with such a payload is.
    #[inline]
    pub(crate) fn envelope(&self, payload: usize) -> usize {
        self.envelope.len() + payload
    }

    /// For a peer with those interests.
    pub(crate) fn head(&self, interests: &[u64]) -> Head {
        let mut frame = Vec::new();
        frame.put_u32_le(0);
        frame.put_u8(EVENT);
        frame.put_u32_le(interests.len() as u32);
        interests.iter().for_each(|interest| frame.put_u64_le(*interest));
        let own = frame.len();
        frame.put_slice(&self.envelope);
        Head { frame, id: own + ID, sequence: own + self.sequence }
    }
}

impl Head {
    /// Puts a frame.
    #[inline]
    pub(crate) fn put(&self, to: &mut Vec<u8>, event: Event, payload: &[u8]) {
        to.reserve(self.frame.len() + payload.len());
        self.put_before(to, event, payload.len());
        to.extend_from_slice(payload);
    }

    /// Puts all of a frame but the payload, which has to follow.
    #[inline]
    pub(crate) fn put_before(&self, to: &mut Vec<u8>, event: Event, payload: usize) {
        let length = (self.frame.len() - 4 + payload) as u32;
        // Put whole, and what differs then set in its place: each part put by itself takes longer.
        let begin = to.len();
        to.extend_from_slice(&self.frame);
        let put = &mut to[begin..];
        put[..4].copy_from_slice(&length.to_le_bytes());
        put[self.id..][..16].copy_from_slice(event.id.as_bytes());
        put[self.sequence..][..8].copy_from_slice(&event.sequence.to_le_bytes());
        put[self.sequence + 8..][..12].copy_from_slice(&envelope::time_bytes(event.since_1970));
    }
}
