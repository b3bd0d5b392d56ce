//! Event frames that lie one behind another in a link's buffer and differ in nothing but id, number,
//! time and payload: what they share is read once, and they are read where they lie.

use std::sync::Arc;

use busway_transport::{Common, Lying, Run};
use bytes::{Buf as _, Bytes};

use super::envelope::{Flags, Unread};
use super::event::{BEGINNING, DIFFERS, Event, GOES_ON};
use super::frame::{EVENT, FIRST, Interests, LENGTH, NEXT, length_of};
use super::origins::Origins;
use super::read::Read;
use super::{FREE, WireError, charge};

/// How many kinds of frames are remembered for one link.
const REMEMBERED: usize = 16;

/// What the events of a series share.
#[derive(Debug)]
pub(crate) struct Alike {
    /// The receiver's interest that they are for.
    pub(crate) interest: u64,
    pub(crate) common: Common,
    /// How a whole frame of it begins, from behind the kind to what differs.
    beginning: Vec<u8>,
    /// How much of that is its envelope's.
    envelope: usize,
}

impl Alike {
    /// Of a whole frame, from behind its kind.
    fn of(frame: Bytes) -> Result<Self, WireError> {
        let mut rest = Read(frame.clone());
        let interests = Interests::read(&mut rest)?;
        let before = rest.0.len();
        let flags = Flags(rest.u8("flags")?);
        let (&[interest], true) = (&interests[..], flags.are_plain()) else {
            return Err(WireError::Bad("first event of a series"));
        };
        let (topic, source) = Origins::default().read(&mut rest)?;
        let (content_type, version) = flags.read_kind(&mut rest)?;
        let beginning = &frame[..frame.len() - rest.0.len()];
        if beginning.len() > BEGINNING {
            return Err(WireError::Bad("length of what a series shares"));
        }
        let (common, envelope) =
            (Common::new(topic, version, source, content_type), before - rest.0.len());
        Ok(Self { interest, common, beginning: beginning.to_vec(), envelope })
    }

    /// Whether a whole frame, from behind its kind, is of such a series.
    fn is_of(&self, frame: &[u8]) -> bool {
        frame.starts_with(&self.beginning)
    }

    /// How long a whole envelope is with a payload of such a length.
    pub(super) fn envelope(&self, payload: usize) -> usize {
        self.envelope + DIFFERS + payload
    }

    /// Whether an event with such a payload takes nothing of the window.
    #[inline]
    fn is_free(&self, payload: usize) -> bool {
        charge(self.envelope(payload)) == 0
    }
}

/// The first frame, length and all, if all of it is there and it is a small one. (One that goes on stands
/// for more than it has.)
#[inline]
fn first_of(bytes: &[u8]) -> Option<&[u8]> {
    let length = length_of(bytes)?;
    if length > FREE {
        return None;
    }
    bytes.get(..LENGTH + length)
}

/// The kinds of series that one link brought lately, and the one that goes on.
#[derive(Debug, Default)]
pub(crate) struct Kinds {
    known: Vec<Arc<Alike>>,
    /// The one that is forgotten next.
    oldest: usize,
    /// How many came that are not known, since all of them are.
    others: usize,
    series: Option<Series>,
}

#[derive(Debug)]
struct Series {
    alike: Arc<Alike>,
    /// The number of its next event.
    next: Option<u64>,
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
        match first_of(bytes)?[LENGTH..].split_first()? {
            (&NEXT, rest) => {
                let Series { alike, .. } = self.series.as_ref()?;
                let payload = rest.len().checked_sub(GOES_ON)?;
                let is_that = |known: &Arc<Alike>| Arc::ptr_eq(known, alike);
                self.known.iter().position(is_that).filter(|_| alike.is_free(payload)).map(Kind)
            }
            (&(FIRST | EVENT), frame) => self.kind_of(frame, || Bytes::copy_from_slice(frame)),
            _ => None,
        }
    }

    /// The kind of a whole frame, from behind the byte that says that it is one.
    fn kind_of(&mut self, frame: &[u8], shared: impl FnOnce() -> Bytes) -> Option<Kind> {
        // For one interest: others are not of any.
        if !frame.starts_with(&1u32.to_le_bytes()) {
            return None;
        }
        let known = self.known.iter().position(|known| known.is_of(frame));
        known.map(Kind).or_else(|| self.learn(shared))
    }

    fn learn(&mut self, frame: impl FnOnce() -> Bytes) -> Option<Kind> {
        let is_full = self.known.len() >= REMEMBERED;
        // To learn a kind takes longer than to read an event: of many in turn few are worth it.
        self.others += usize::from(is_full);
        if is_full && !self.others.is_multiple_of(REMEMBERED) {
            return None;
        }
        let alike = Arc::new(Alike::of(frame()).ok()?);
        let at = if is_full { self.oldest } else { self.known.len() };
        match self.known.get_mut(at) {
            Some(place) => *place = alike,
            None => self.known.push(alike),
        }
        self.oldest = (at + 1) % REMEMBERED;
        Some(Kind(at))
    }

    /// The run of that kind that such bytes begin with; they may lie in what is lent. How far it
    /// [went](Self::went) has to be said.
    pub(crate) fn run<'a>(
        &'a self,
        kind: Kind,
        bytes: &'a [u8],
        lent: Option<&'a Bytes>,
    ) -> Frames<'a> {
        let alike = &self.known[kind.0];
        let series = self.series.as_ref().filter(|series| Arc::ptr_eq(&series.alike, alike));
        let next = series.and_then(|series| series.next);
        Frames { alike, bytes, lent, next, taken: 0, most: usize::MAX }
    }

    /// What a run of that kind said is [next](Frames::next), when all was taken of it that is.
    pub(crate) fn went(&mut self, kind: Kind, next: Option<u64>) {
        if next.is_none() {
            return;
        }
        let alike = &self.known[kind.0];
        match &mut self.series {
            Some(series) if Arc::ptr_eq(&series.alike, alike) => series.next = next,
            series => *series = Some(Series { alike: alike.clone(), next }),
        }
    }

    /// Reads the first event of a series by itself, from behind its frame's kind.
    pub(super) fn first(&mut self, frame: Bytes) -> Result<(u64, Unread), WireError> {
        let alike = match self.kind_of(&frame, || frame.clone()) {
            Some(kind) => self.known[kind.0].clone(),
            None => Arc::new(Alike::of(frame.clone())?),
        };
        let mut differs = Read(frame.slice(alike.beginning.len()..));
        differs.array::<16>("id")?;
        let number = differs.u64("sequence")?;
        let interest = alike.interest;
        let envelope = frame.slice(alike.beginning.len() - alike.envelope..);
        self.series = Some(Series { alike, next: number.checked_add(1) });
        Ok((interest, Unread::Whole(envelope)))
    }

    /// Reads an event by itself that goes on with a series, from behind its frame's kind.
    pub(super) fn next(&mut self, rest: Bytes) -> Result<(u64, Unread), WireError> {
        let Some(Series { alike, next }) = &mut self.series else {
            return Err(WireError::Unexpected("an event that goes on where nothing went before"));
        };
        if rest.remaining() < GOES_ON {
            return Err(WireError::Truncated("event"));
        }
        let number = next.take().ok_or(WireError::Bad("sequence"))?;
        *next = number.checked_add(1);
        let event = Unread::Next { alike: alike.clone(), number, rest };
        Ok((alike.interest, event))
    }
}

/// A run of frames.
pub(crate) struct Frames<'a> {
    pub(crate) alike: &'a Alike,
    /// The frames that are left, and whatever is behind them.
    bytes: &'a [u8],
    /// What they lie in, if parts of it may be kept.
    lent: Option<&'a Bytes>,
    /// The number of the event that goes on with the series, if it is of this kind.
    pub(crate) next: Option<u64>,
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
        let after = sequence.checked_add(1)?;
        let (kind, rest) = frame.get(LENGTH..)?.split_first()?;
        let ((id, time), payload) = match *kind {
            NEXT if self.next == Some(sequence) => {
                let (differs, payload) = rest.split_first_chunk()?;
                if !self.alike.is_free(payload.len()) {
                    return None;
                }
                (Event::read_next(differs)?, payload)
            }
            FIRST | EVENT => {
                let rest = rest.strip_prefix(&self.alike.beginning[..])?;
                let (differs, payload) = rest.split_first_chunk()?;
                (Event::read_if(sequence, differs)?, payload)
            }
            _ => return None,
        };
        // What goes the long way is no part of a series.
        if *kind != EVENT {
            self.next = Some(after);
        }
        self.bytes = &self.bytes[frame.len()..];
        self.taken += 1;
        Some(Lying::new(id, time, payload))
    }

    fn memory(&self) -> Option<Bytes> {
        self.lent.cloned()
    }
}
