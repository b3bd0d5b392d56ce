//! Event frames that lie one behind another in a link's buffer and differ in nothing but id, number,
//! time and payload: they are recognized by the bytes that they share, and read where they lie.

use busway_transport::{Common, Lying, Run};
use bytes::Bytes;

use super::FREE;
use super::envelope::Flags;
use super::event::{DIFFERS, Event};
use super::frame::EVENT;
use super::origins::Origins;
use super::read::Read;

/// How many kinds of frames are remembered for one link.
const REMEMBERED: usize = 16;

/// How long a frame's length is.
const LENGTH: usize = 4;
/// How long the parts are that every such frame begins with: its kind, how many interests, one interest,
/// the flags.
const LEAD: usize = 1 + 4 + 8 + 1;

/// What frames of one kind share.
#[derive(Debug)]
pub(crate) struct Alike {
    /// The receiver's interest that they are for.
    pub(crate) interest: u64,
    pub(crate) common: Common,
    /// How they begin, from behind the length to what differs.
    beginning: Vec<u8>,
}

impl Alike {
    /// Of a whole frame, if it is an event for one interest with nothing special about it.
    fn of(frame: &[u8]) -> Option<Self> {
        let frame = frame.get(LENGTH..)?;
        let (lead, rest) = frame.split_first_chunk::<LEAD>()?;
        let &[EVENT, 1, 0, 0, 0, ref interest @ .., flags] = lead else { return None };
        let (interest, flags) = (u64::from_le_bytes(*interest), Flags(flags));
        if !flags.are_plain() {
            return None;
        }
        let mut rest = Read(Bytes::copy_from_slice(rest));
        let (topic, source) = Origins::default().read(&mut rest).ok()?;
        let (content_type, version) = flags.read_kind(&mut rest).ok()?;
        let beginning = frame[..frame.len() - rest.0.len()].to_vec();
        Some(Self {
            interest,
            common: Common::new(topic, version, source, content_type),
            beginning,
        })
    }

    /// What differs in a whole frame, and its payload, if it is of this kind.
    #[inline]
    fn rest_of<'a>(&self, frame: &'a [u8]) -> Option<(&'a [u8; DIFFERS], &'a [u8])> {
        frame.get(LENGTH..)?.strip_prefix(&self.beginning[..])?.split_first_chunk()
    }
}

/// The first frame, length and all, if all of it is there and it is a small one.
#[inline]
fn first_of(bytes: &[u8]) -> Option<&[u8]> {
    let length = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
    if length > FREE {
        return None;
    }
    bytes.get(..LENGTH + length)
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
        let first = first_of(bytes).filter(|frame| frame.get(LENGTH) == Some(&EVENT))?;
        let known = self.known.iter().position(|known| known.rest_of(first).is_some());
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
        let frame = first_of(self.bytes)?;
        let (differs, payload) = self.alike.rest_of(frame)?;
        let (id, time) = Event::read_if(sequence, differs)?;
        self.bytes = &self.bytes[frame.len()..];
        self.taken += 1;
        Some(Lying::new(id, time, payload))
    }
}
