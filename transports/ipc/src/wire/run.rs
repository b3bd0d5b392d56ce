//! Event frames that lie one behind another in a link's buffer and differ in nothing but id, number,
//! time and payload: they are recognized by the bytes that they share, and read where they lie.

use std::ops::Range;
use std::time::SystemTime;

use busway_transport::{Common, Lying, MessageId, Run};
use bytes::Bytes;

use super::FREE;
use super::envelope::{self, Flags};
use super::frame::EVENT;
use super::origins::Origins;
use super::read::Read;

/// How many kinds of frames are remembered for one link.
const REMEMBERED: usize = 16;

/// Where the parts of a frame begin that come before those of variable length: the kind, how many
/// interests, one interest, the flags; the id; topic and source.
const LEAD: Range<usize> = 4..4 + 1 + 4 + 8 + 1;
const ID: usize = LEAD.end;
const ORIGIN: usize = ID + 16;
/// The number, and the time behind it.
const NUMBER: usize = 8;
const TIME: usize = 12;

/// What frames of one kind share.
#[derive(Debug)]
pub(crate) struct Alike {
    /// The receiver's interest that they are for.
    pub(crate) interest: u64,
    pub(crate) common: Common,
    lead: [u8; LEAD.end - LEAD.start],
    origin: Vec<u8>,
    /// Version and content type.
    rest: Vec<u8>,
}

impl Alike {
    /// Of a whole frame, if it is an event for one interest with nothing special about it.
    fn of(frame: &[u8]) -> Option<Self> {
        let lead: [u8; LEAD.end - LEAD.start] = *frame.get(LEAD)?.first_chunk()?;
        let [EVENT, 1, 0, 0, 0, interest @ .., flags] = lead else { return None };
        let (interest, flags) = (u64::from_le_bytes(interest), Flags(flags));
        if !flags.are_plain() {
            return None;
        }
        let mut from = Read(Bytes::copy_from_slice(frame.get(ORIGIN..)?));
        let all = from.0.len();
        let (topic, source) = Origins::default().read(&mut from).ok()?;
        let origin = all - from.0.len();
        from.bytes(NUMBER + TIME, "number").ok()?;
        let before = from.0.len();
        let version = flags.read_version(&mut from).ok()?;
        let content_type = envelope::read_content_type(&mut from).ok()?;
        let rest = before - from.0.len();
        let part = |at: usize, length: usize| frame[at..at + length].to_vec();
        Some(Self {
            interest,
            common: Common::new(topic, version, source, content_type),
            lead,
            origin: part(ORIGIN, origin),
            rest: part(ORIGIN + origin + NUMBER + TIME, rest),
        })
    }

    /// Where the payload begins.
    fn payload(&self) -> usize {
        self.after_origin() + NUMBER + TIME + self.rest.len()
    }

    fn after_origin(&self) -> usize {
        ORIGIN + self.origin.len()
    }

    /// Whether a whole frame is of this kind.
    #[inline]
    fn is(&self, frame: &[u8]) -> bool {
        let rest = self.after_origin() + NUMBER + TIME;
        frame.len() >= self.payload()
            && frame[LEAD] == self.lead
            && frame[ORIGIN..self.after_origin()] == self.origin[..]
            && frame[rest..self.payload()] == self.rest[..]
    }
}

/// The first frame, length and all, if all of it is there and it is a small one.
#[inline]
fn first_of(bytes: &[u8]) -> Option<&[u8]> {
    let length = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
    if length > FREE {
        return None;
    }
    bytes.get(..4 + length)
}

/// The kinds of frames that one link brought lately.
#[derive(Debug, Default)]
pub(crate) struct Kinds {
    known: Vec<Alike>,
    /// The one that is forgotten next.
    oldest: usize,
    /// How many came that are not known, since all of them are.
    others: usize,
}

/// Which of the known kinds it is.
#[derive(Clone, Copy)]
pub(crate) struct Kind(usize);

impl Kind {
    /// How many there can be.
    pub(crate) const MOST: usize = REMEMBERED;

    /// A number below that.
    pub(crate) fn number(self) -> usize {
        self.0
    }
}

impl Kinds {
    /// The kind of the first frame of such bytes, if they begin with a run.
    pub(crate) fn find(&mut self, bytes: &[u8]) -> Option<Kind> {
        let first = first_of(bytes).filter(|frame| frame.get(LEAD.start) == Some(&EVENT))?;
        let known = self.known.iter().position(|known| known.is(first));
        known.or_else(|| self.learn(first)).map(Kind)
    }

    /// The run of that kind that such bytes begin with.
    pub(crate) fn run<'a>(&'a self, kind: Kind, bytes: &'a [u8]) -> Frames<'a> {
        Frames { alike: &self.known[kind.0], bytes, taken: 0, most: usize::MAX }
    }

    fn learn(&mut self, frame: &[u8]) -> Option<usize> {
        if self.known.len() < REMEMBERED {
            self.known.push(Alike::of(frame)?);
            return Some(self.known.len() - 1);
        }
        // To learn a kind takes longer than to read an event: of many in turn few are worth it.
        self.others += 1;
        if !self.others.is_multiple_of(REMEMBERED) {
            return None;
        }
        let at = self.oldest;
        self.known[at] = Alike::of(frame)?;
        self.oldest = (at + 1) % REMEMBERED;
        Some(at)
    }
}

/// A run of frames.
pub(crate) struct Frames<'a> {
    pub(crate) alike: &'a Alike,
    /// The frames that are left, and whatever is behind them.
    bytes: &'a [u8],
    /// How many were taken.
    pub(crate) taken: usize,
    /// No more than so many are.
    pub(crate) most: usize,
}

impl Frames<'_> {
    /// How many bytes are left of what the run was made of.
    pub(crate) fn left(&self) -> usize {
        self.bytes.len()
    }
}

impl Run for Frames<'_> {
    #[inline]
    fn next_if(&mut self, sequence: u64) -> Option<Lying<'_>> {
        if self.taken == self.most {
            return None;
        }
        let frame = first_of(self.bytes).filter(|frame| self.alike.is(frame))?;
        let number = self.alike.after_origin();
        let id = MessageId::from_bytes(*frame[ID..].first_chunk()?);
        if u64::from_le_bytes(*frame[number..].first_chunk()?) != sequence {
            return None;
        }
        let time: SystemTime = envelope::time_of(frame[number + NUMBER..].first_chunk()?)?;
        self.bytes = &self.bytes[frame.len()..];
        self.taken += 1;
        Some(Lying::new(id, time, &frame[self.alike.payload()..]))
    }
}
