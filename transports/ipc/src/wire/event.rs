//! Event frames of one publisher on one topic: what they have in common is put together once, and sent
//! once for as many as follow each other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use busway_transport::{Common, MessageId};
use bytes::BufMut;

use super::FREE;
use super::envelope::{self, SEQUENCE, TIME, VERSION};
use super::frame::{EVENT, FIRST, LENGTH, NEXT};

/// What such frames have in common.
#[derive(Debug)]
pub(crate) struct EventFrames {
    /// How an envelope begins, to what differs.
    envelope: Vec<u8>,
}

/// How such frames to one peer begin.
#[derive(Debug)]
pub(crate) struct Head {
    /// No other has it. Absent where no event goes on with another.
    number: Option<u64>,
    /// All of a whole frame but its payload, with room for what differs: that is at its end.
    frame: Vec<u8>,
}

/// The last event of those that one link was given in this way: which head it had, and its number.
#[derive(Debug, Default)]
pub(crate) struct Last(Option<(u64, u64)>);

impl Last {
    /// Whether an event with that head and number goes on with the last one, whose place it takes.
    #[inline]
    fn goes_on(&mut self, head: u64, number: u64) -> bool {
        let before = self.0.replace((head, number));
        number.checked_sub(1).is_some_and(|it| before == Some((head, it)))
    }
}

/// What differs from event to event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    pub(crate) id: MessageId,
    pub(crate) sequence: u64,
    pub(crate) since_1970: Duration,
}

/// How long what differs is, which comes at once before the payload: the id, the number, the time.
pub(super) const DIFFERS: usize = 16 + 8 + 12;
/// How long it is where the number goes on: the id, the time.
pub(super) const GOES_ON: usize = 16 + 12;
/// How long a frame's length and kind are.
const LEAD: usize = LENGTH + 1;
/// How long at most what the events of a series share is, from behind the kind to what differs: the other
/// side keeps it.
pub(super) const BEGINNING: usize = FREE;

impl EventFrames {
    pub(crate) fn of(common: &Common) -> Self {
        let mut envelope = Vec::new();
        envelope.put_u8(SEQUENCE | TIME | if common.version != 1 { VERSION } else { 0 });
        envelope::put_origin(&mut envelope, &common.topic, &common.source);
        envelope::put_kind(&mut envelope, &common.content_type, common.version);
        Self { envelope }
    }

    /// How long an envelope with such a payload is.
    #[inline]
    pub(crate) fn envelope(&self, payload: usize) -> usize {
        self.envelope.len() + DIFFERS + payload
    }

    /// For a peer with those interests.
    pub(crate) fn head(&self, interests: &[u64]) -> Head {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let beginning = 4 + 8 * interests.len() + self.envelope.len();
        let goes_on = interests.len() == 1 && beginning <= BEGINNING;
        let number = goes_on.then(|| NUMBERS.fetch_add(1, Ordering::Relaxed));
        let mut frame = Vec::new();
        frame.put_u32_le(0);
        frame.put_u8(if goes_on { FIRST } else { EVENT });
        frame.put_u32_le(interests.len() as u32);
        interests.iter().for_each(|interest| frame.put_u64_le(*interest));
        frame.put_slice(&self.envelope);
        frame.put_bytes(0, DIFFERS);
        Head { number, frame }
    }
}

impl Head {
    /// Puts a frame behind what such a link was given last.
    #[inline]
    pub(crate) fn put(&self, to: &mut Vec<u8>, last: &mut Last, event: Event, payload: &[u8]) {
        to.reserve(self.frame.len() + payload.len());
        self.put_before(to, last, event, payload.len());
        to.extend_from_slice(payload);
    }

    /// Puts all of a frame but the payload, which has to follow.
    #[inline]
    pub(crate) fn put_before(
        &self,
        to: &mut Vec<u8>,
        last: &mut Last,
        event: Event,
        payload: usize,
    ) {
        if self.number.is_some_and(|number| last.goes_on(number, event.sequence)) {
            let length = (1 + GOES_ON + payload) as u32;
            let mut frame = [0; LEAD + GOES_ON];
            frame[..4].copy_from_slice(&length.to_le_bytes());
            frame[4] = NEXT;
            if let Some(differs) = frame.last_chunk_mut::<GOES_ON>() {
                event.put_next(differs);
            }
            to.extend_from_slice(&frame);
            return;
        }
        let length = (self.frame.len() - 4 + payload) as u32;
        // Put whole, and what differs then set in its place: each part put by itself takes longer.
        let begin = to.len();
        to.extend_from_slice(&self.frame);
        to[begin..begin + 4].copy_from_slice(&length.to_le_bytes());
        if let Some(differs) = to.last_chunk_mut::<DIFFERS>() {
            event.put(differs);
        }
    }
}

impl Event {
    #[inline]
    fn put(self, to: &mut [u8; DIFFERS]) {
        to[..16].copy_from_slice(self.id.as_bytes());
        to[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        to[24..].copy_from_slice(&envelope::time_bytes(self.since_1970));
    }

    /// Where its number goes on.
    #[inline]
    fn put_next(self, to: &mut [u8; GOES_ON]) {
        to[..16].copy_from_slice(self.id.as_bytes());
        to[16..].copy_from_slice(&envelope::time_bytes(self.since_1970));
    }

    /// Its id and time, if that is its number.
    #[inline]
    pub(super) fn read_if(sequence: u64, from: &[u8; DIFFERS]) -> Option<(MessageId, SystemTime)> {
        let (id, rest) = from.split_first_chunk()?;
        let (number, time) = rest.split_first_chunk()?;
        if u64::from_le_bytes(*number) != sequence {
            return None;
        }
        Some((MessageId::from_bytes(*id), envelope::time_of(time.first_chunk()?)?))
    }
    /// Its id and time, where its number goes on.
    #[inline]
    pub(super) fn read_next(from: &[u8; GOES_ON]) -> Option<(MessageId, SystemTime)> {
        let (id, time) = from.split_first_chunk()?;
        Some((MessageId::from_bytes(*id), envelope::time_of(time.first_chunk()?)?))
    }
}
