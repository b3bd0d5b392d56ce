//! Frames: what a link carries.

use busway_transport::{
    ContentType, DeadLetter, Envelope, FailureKind, GroupKey, Payload, PayloadError, Reply,
};
use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::buffers::Buffers;
use super::control::{self, Control, Introduction, Welcome, WireKey, shorten};
use super::envelope::{self, Encoded, Unread};
use super::origins::Origins;
use super::read::Read;
use super::run::Kinds;
use super::{MAGIC, MAX_HELLO, MAX_PAYLOAD, VERSION, WireError, max_frame};

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const CONTROL: u8 = 3;
pub(super) const EVENT: u8 = 4;
const DELIVER: u8 = 5;
const ASK: u8 = 6;
const REPLY: u8 = 7;
const DEAD_LETTER: u8 = 8;
pub(super) const FIRST: u8 = 9;
pub(super) const NEXT: u8 = 10;

/// How long a frame's length is.
pub(super) const LENGTH: usize = 4;

/// Frames up to this size are copied out of memory that is not lent. (Of larger ones it does not hold so
/// many that it matters.)
const COPIED: usize = 16 << 10;

const RESPONSE: u8 = 0;
const REFUSED: u8 = 1;
const FAILED: u8 = 2;
const GONE: u8 = 3;

/// A frame that came in. Nearly all are events: these are handed on as they are, and what is larger
/// is behind a pointer.
#[derive(Debug)]
pub(crate) enum Frame {
    Hello(Box<Introduction>),
    Welcome(Box<Welcome>),
    Control(Box<Control>),
    /// An event, and which of the receiver's interests it is for.
    Event {
        interests: Interests,
        envelope: Unread,
    },
    /// Group work for one of the receiver's members.
    Deliver {
        work: Work,
        envelope: Box<Envelope>,
    },
    /// A request for one of the receiver's responders.
    Ask {
        request: u64,
        responder: u64,
        remaining_ms: u64,
        envelope: Box<Envelope>,
    },
    /// What became of a request.
    Reply {
        request: u64,
        answer: Box<Answer>,
    },
    /// An event whose last attempt was the receiver's.
    DeadLetter(Box<DeadLetter>),
}

/// Interests that an event is for: nearly always one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Interests {
    One([u64; 1]),
    Many(Vec<u64>),
}

impl Interests {
    pub(super) fn read(from: &mut Read) -> Result<Self, WireError> {
        match from.u32("interests")? {
            1 => Ok(Self::One([from.u64("interests")?])),
            // Not reserved ahead: the count is only what the other side says.
            count => {
                (0..count).map(|_| from.u64("interests")).collect::<Result<_, _>>().map(Self::Many)
            }
        }
    }
}

impl std::ops::Deref for Interests {
    type Target = [u64];
    fn deref(&self) -> &[u64] {
        match self {
            Self::One(one) => one,
            Self::Many(many) => many,
        }
    }
}

/// What a delivery of group work says beside the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) member: u64,
    pub(crate) tag: u64,
    pub(crate) attempt: u32,
    pub(crate) key: Option<u64>,
}

/// How a request ended on the responder's side.
#[derive(Debug)]
pub(crate) enum Answer {
    Reply(Reply),
    /// The responder had gone before the request arrived: it was not run.
    Gone,
}

/// A frame on its way out: its own part, and what it shares with other links.
#[derive(Debug, Clone)]
pub(crate) struct Out {
    pub(crate) head: Bytes,
    pub(crate) shared: Bytes,
    pub(crate) payload: Bytes,
}

impl Out {
    /// A frame with everything in one part.
    fn plain(kind: u8, body: &[u8]) -> Self {
        let mut head = BytesMut::with_capacity(5 + body.len());
        head.put_u32_le(1 + body.len() as u32);
        head.put_u8(kind);
        head.put_slice(body);
        Self { head: head.freeze(), shared: Bytes::new(), payload: Bytes::new() }
    }

    /// A frame that ends with an envelope.
    fn with_envelope(
        kind: u8,
        own: usize,
        put: impl FnOnce(&mut BytesMut),
        envelope: &Encoded,
    ) -> Self {
        let mut head = BytesMut::with_capacity(5 + own);
        head.put_u32_le((1 + own + envelope.len()) as u32);
        head.put_u8(kind);
        put(&mut head);
        debug_assert_eq!(head.len(), 5 + own);
        Self {
            head: head.freeze(),
            shared: envelope.head.clone(),
            payload: envelope.payload.clone(),
        }
    }

    /// How many bytes it takes on the wire.
    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.shared.len() + self.payload.len()
    }

    /// Whether the other side would take it for an attack, by the payload limit that it was told.
    pub(crate) fn is_too_long(&self, limit: usize) -> bool {
        self.len() - 4 > max_frame(limit)
    }

    pub(crate) fn hello(introduction: &Introduction) -> Self {
        let mut body = BytesMut::new();
        body.put_slice(&MAGIC);
        body.put_u16_le(VERSION);
        body.put_slice(&control::encode(introduction));
        Self::plain(HELLO, &body)
    }

    pub(crate) fn welcome(welcome: &Welcome) -> Self {
        let mut body = BytesMut::new();
        body.put_slice(&MAGIC);
        body.put_u16_le(VERSION);
        body.put_slice(&control::encode(welcome));
        Self::plain(WELCOME, &body)
    }

    pub(crate) fn control(control: &Control) -> Self {
        Self::plain(CONTROL, &control::encode(control))
    }

    pub(crate) fn event(interests: &[u64], envelope: &Encoded) -> Self {
        let put = |head: &mut BytesMut| {
            head.put_u32_le(interests.len() as u32);
            for interest in interests {
                head.put_u64_le(*interest);
            }
        };
        Self::with_envelope(EVENT, 4 + 8 * interests.len(), put, envelope)
    }

    pub(crate) fn deliver(work: &Work, envelope: &Encoded) -> Self {
        let put = |head: &mut BytesMut| {
            head.put_u64_le(work.member);
            head.put_u64_le(work.tag);
            head.put_u32_le(work.attempt);
            head.put_u8(u8::from(work.key.is_some()));
            head.put_u64_le(work.key.unwrap_or(0));
        };
        Self::with_envelope(DELIVER, 29, put, envelope)
    }

    pub(crate) fn ask(request: u64, responder: u64, remaining_ms: u64, envelope: &Encoded) -> Self {
        let put = |head: &mut BytesMut| {
            head.put_u64_le(request);
            head.put_u64_le(responder);
            head.put_u64_le(remaining_ms);
        };
        Self::with_envelope(ASK, 24, put, envelope)
    }

    pub(crate) fn reply(request: u64, answer: &Answer) -> Result<Self, PayloadError> {
        let mut own = BytesMut::new();
        own.put_u64_le(request);
        let mut payload = Bytes::new();
        let mut put_payload = |own: &mut BytesMut, kind, value: &Payload| {
            let (content_type, bytes) = envelope::encoded_payload(value)?;
            own.put_u8(kind);
            envelope::put_content_type(own, &content_type);
            payload = bytes;
            Ok(())
        };
        match answer {
            Answer::Reply(Reply::Response(value)) => put_payload(&mut own, RESPONSE, value)?,
            Answer::Reply(Reply::Refused(value)) => put_payload(&mut own, REFUSED, value)?,
            Answer::Reply(Reply::Failed { kind, text }) => {
                own.put_u8(FAILED);
                envelope::put_long(&mut own, kind.as_str());
                envelope::put_long(&mut own, &shorten(text));
            }
            Answer::Reply(_) => {
                own.put_u8(FAILED);
                envelope::put_long(&mut own, FailureKind::Abandoned.as_str());
                envelope::put_long(
                    &mut own,
                    "an answer of a kind that this transport does not know",
                );
            }
            Answer::Gone => own.put_u8(GONE),
        }
        let mut head = BytesMut::with_capacity(5 + own.len());
        head.put_u32_le((1 + own.len() + payload.len()) as u32);
        head.put_u8(REPLY);
        head.put_slice(&own);
        Ok(Self { head: head.freeze(), shared: Bytes::new(), payload })
    }

    pub(crate) fn dead_letter(letter: &DeadLetter) -> Result<Self, PayloadError> {
        let envelope = Encoded::new(&letter.envelope)?;
        let key = control::encode(&WireKey::from(&letter.group));
        let mut own = BytesMut::new();
        own.put_u32_le(key.len() as u32);
        own.put_slice(&key);
        own.put_u32_le(letter.attempts);
        envelope::put_time(&mut own, letter.at);
        for time in [letter.first_attempt, letter.last_attempt] {
            own.put_u8(u8::from(time.is_some()));
            envelope::put_time(&mut own, time.unwrap_or(letter.at));
        }
        envelope::put_long(&mut own, letter.failure.reason.as_str());
        envelope::put_long(&mut own, &shorten(&letter.failure.text));
        Ok(Self::with_envelope(DEAD_LETTER, own.len(), |head| head.put_slice(&own), &envelope))
    }
}

/// Cuts a stream of bytes into frames.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// What was read and is not known to be whole frames. Read into its [`room`](Self::room).
    pub(crate) buffer: BytesMut,
    pub(super) buffers: Buffers,
    /// Whole frames, one behind another. Nothing is written there any more.
    whole: Bytes,
    /// What the frame behind them lacks, as far as that is known.
    missing: usize,
    limit: usize,
    origins: Origins,
    pub(crate) kinds: Kinds,
}

impl Decoder {
    /// A decoder for a link whose hello is still to come.
    pub(crate) fn new() -> Self {
        Self {
            buffer: BytesMut::new(),
            buffers: Buffers::default(),
            whole: Bytes::new(),
            missing: 0,
            limit: MAX_HELLO,
            origins: Origins::default(),
            kinds: Kinds::default(),
        }
    }

    /// The hello is done: frames may have their full size, by the payload limit of the peer. (Its
    /// announcements have the usual limit in any case.)
    pub(crate) fn trust(&mut self, limit: usize) {
        self.limit = max_frame(limit.max(MAX_PAYLOAD));
    }

    /// The buffer, with room to read into.
    pub(crate) fn room(&mut self) -> &mut BytesMut {
        self.buffers.make_room(&mut self.buffer, self.missing, self.limit);
        &mut self.buffer
    }

    /// To be called at times when little comes in: lets go of memory that was needed for more.
    pub(crate) fn air(&mut self) {
        self.buffers.air();
    }

    /// The next whole frame, if it is there.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, WireError> {
        let Some(length) = length_of(self.whole()?) else { return Ok(None) };
        let mut frame = self.whole.split_to(LENGTH + length);
        frame.advance(LENGTH);
        if !self.buffers.lends && frame.len() <= COPIED {
            frame = Bytes::copy_from_slice(&frame);
        }
        decode(frame, &mut self.origins, &mut self.kinds).map(Some)
    }

    /// The whole frames that are there.
    ///
    /// # Errors
    /// The next one is too long. (What comes before that is good.)
    pub(crate) fn whole(&mut self) -> Result<&Bytes, WireError> {
        if !self.whole.is_empty() {
            return Ok(&self.whole);
        }
        let mut end = 0;
        self.missing = 0;
        while let Some(length) = length_of(&self.buffer[end..]) {
            if length > self.limit {
                if end > 0 {
                    break;
                }
                return Err(WireError::TooLong { length, limit: self.limit });
            }
            let next = end + LENGTH + length;
            if next > self.buffer.len() {
                self.missing = next - self.buffer.len();
                break;
            }
            end = next;
        }
        // An empty part would keep the memory as well.
        if end > 0 {
            self.whole = self.buffer.split_to(end).freeze();
        }
        Ok(&self.whole)
    }

    /// Whether events may keep parts of the whole frames.
    pub(crate) fn lends(&self) -> bool {
        self.buffers.lends
    }

    /// Passes over the whole frames, but for the last ones that take so many bytes.
    pub(crate) fn pass(&mut self, left: usize) {
        // `advance` would keep the memory, also when nothing is left.
        drop(self.whole.split_to(self.whole.len() - left));
    }
}

/// How long the frame is that such bytes begin with, as it says itself, if that much is there.
#[inline]
pub(super) fn length_of(bytes: &[u8]) -> Option<usize> {
    bytes.first_chunk().map(|length| u32::from_le_bytes(*length) as usize)
}

/// Decodes what follows a length.
pub(super) fn decode(
    bytes: Bytes,
    origins: &mut Origins,
    kinds: &mut Kinds,
) -> Result<Frame, WireError> {
    let mut from = Read(bytes);
    let kind = from.u8("kind").map_err(|_| WireError::Empty)?;
    Ok(match kind {
        HELLO => Frame::Hello(Box::new(introduction(from)?)),
        WELCOME => Frame::Welcome(Box::new(introduction(from)?)),
        CONTROL => Frame::Control(Box::new(control::decode(&from.rest())?)),
        EVENT => {
            let interests = Interests::read(&mut from)?;
            Frame::Event { interests, envelope: Unread::Whole(from.rest()) }
        }
        FIRST | NEXT => {
            let rest = from.rest();
            let (interest, envelope) =
                if kind == FIRST { kinds.first(rest)? } else { kinds.next(rest)? };
            Frame::Event { interests: Interests::One([interest]), envelope }
        }
        DELIVER => {
            let (member, tag) = (from.u64("member")?, from.u64("tag")?);
            let attempt = from.u32("attempt")?;
            let key = match (from.u8("key")?, from.u64("key")?) {
                (0, 0) => None,
                (1, key) => Some(key),
                _ => return Err(WireError::Bad("key")),
            };
            let work = Work { member, tag, attempt, key };
            Frame::Deliver { work, envelope: Box::new(envelope::read(from, origins)?) }
        }
        ASK => Frame::Ask {
            request: from.u64("request")?,
            responder: from.u64("responder")?,
            remaining_ms: from.u64("deadline")?,
            envelope: Box::new(envelope::read(from, origins)?),
        },
        REPLY => Frame::Reply { request: from.u64("request")?, answer: Box::new(answer(from)?) },
        DEAD_LETTER => Frame::DeadLetter(Box::new(dead_letter(from, origins)?)),
        other => return Err(WireError::UnknownKind(other)),
    })
}

/// Magic, version, and what only that version knows how to read.
fn introduction<T: for<'de> serde::Deserialize<'de>>(mut from: Read) -> Result<T, WireError> {
    if from.bytes(MAGIC.len(), "magic").map_err(|_| WireError::Magic)?[..] != MAGIC {
        return Err(WireError::Magic);
    }
    let found = from.u16("protocol version")?;
    if found != VERSION {
        return Err(WireError::Version { found });
    }
    control::decode(&from.rest())
}

fn answer(mut from: Read) -> Result<Answer, WireError> {
    let payload = |mut from: Read| -> Result<Payload, WireError> {
        let content_type: ContentType = envelope::read_content_type(&mut from)?;
        Ok(Payload::encoded(content_type, from.rest()))
    };
    Ok(match from.u8("answer")? {
        RESPONSE => Answer::Reply(Reply::Response(payload(from)?)),
        REFUSED => Answer::Reply(Reply::Refused(payload(from)?)),
        FAILED => {
            let word = from.long("kind of failure")?;
            let text = from.long("text")?;
            from.end()?;
            let kind = FailureKind::parse(&word).ok_or(WireError::Bad("kind of failure"))?;
            Answer::Reply(Reply::Failed { kind, text })
        }
        GONE => {
            from.end()?;
            Answer::Gone
        }
        _ => return Err(WireError::Bad("answer")),
    })
}

fn dead_letter(mut from: Read, origins: &mut Origins) -> Result<DeadLetter, WireError> {
    let length = from.u32("group")? as usize;
    let key: WireKey = control::decode(&from.bytes(length, "group")?)?;
    let group = GroupKey::try_from(&key)?;
    let attempts = from.u32("attempts")?;
    let at = envelope::read_time(&mut from)?;
    let mut attempted = || {
        let known = from.u8("whether a time is known")? == 1;
        Ok::<_, WireError>(Some(envelope::read_time(&mut from)?).filter(|_| known))
    };
    let (first_attempt, last_attempt) = (attempted()?, attempted()?);
    let reason = from.long("reason")?;
    let failure = control::failure(&reason, from.long("text")?)?;
    let mut letter = DeadLetter::new(group, envelope::read(from, origins)?, attempts, failure);
    letter.at = at;
    (letter.first_attempt, letter.last_attempt) = (first_attempt, last_attempt);
    Ok(letter)
}
