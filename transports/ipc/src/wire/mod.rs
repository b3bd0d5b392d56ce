//! The wire, sans-io: frames to bytes and back, described in `docs/wire-ipc.md`.
//!
//! A frame is a length (`u32`, little-endian, of what follows it), a kind byte and a body.
//! Reading order: [`read`] (checked reading of the parts), [`envelope`] (metadata and payload,
//! made by hand so that the payload is never copied through serde), [`control`] (everything that
//! is small and rare, in bincode), [`frame`] (the frames themselves), [`buffers`] (what they are read
//! into), [`event`] and [`run`] (the most frequent ones, written and read in a short way).

mod buffers;
pub(crate) mod control;
pub(crate) mod envelope;
pub(crate) mod event;
pub(crate) mod frame;
pub(crate) mod origins;
mod read;
pub(crate) mod run;

#[cfg(test)]
mod tests;

pub(crate) use control::{Change, Control, Table};
pub(crate) use frame::{Answer, Decoder, Frame, Out, Work};

/// What both sides must agree on. From the first release on raised with every change of anything in
/// this module.
pub(crate) const VERSION: u16 = 1;
/// The first bytes of every hello, before the version: they never change.
pub(crate) const MAGIC: [u8; 4] = *b"BWIP";
/// The largest payload of an event, request or response, unless set. The sender's limit counts: it
/// says it in its hello.
pub(crate) const MAX_PAYLOAD: usize = 16 << 20;
/// The largest frame at a sender's limit: a payload and its metadata.
pub(crate) const fn max_frame(payload: usize) -> usize {
    payload + (1 << 20)
}
/// How many bytes of events of one interest may be under way to one peer, beside the credit in
/// events: what each has over [`FREE`] counts, and one larger than this passes when nothing else is
/// under way.
pub(crate) const WINDOW: usize = 16 << 20;
/// An event of this size costs credit in events only: the many small ones are bounded by that.
const FREE: usize = 4 << 10;

/// What an encoded event takes of the [`WINDOW`].
#[inline]
pub(crate) fn charge(size: usize) -> usize {
    size.saturating_sub(FREE)
}

/// The largest frame before the hello is done: a stranger makes us reserve no more than this.
pub(crate) const MAX_HELLO: usize = 4 << 10;

/// What is wrong with bytes that came in. Ends the link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    #[error("a frame of {length} bytes is over the limit of {limit}")]
    TooLong { length: usize, limit: usize },
    #[error("an empty frame")]
    Empty,
    #[error("a frame of unknown kind {0}")]
    UnknownKind(u8),
    #[error("a frame ends in the middle of its {0}")]
    Truncated(&'static str),
    #[error("{0} bytes are left over at the end of a frame")]
    Trailing(usize),
    #[error("an impossible {0}")]
    Bad(&'static str),
    #[error(transparent)]
    Name(#[from] busway_transport::NameError),
    #[error("a control frame cannot be decoded: {0}")]
    Control(String),
    #[error("this is no busway peer")]
    Magic,
    #[error("it speaks version {found} of the protocol, this side version {VERSION}")]
    Version { found: u16 },
    #[error("it belongs to the bus {found:?}")]
    Bus { found: String },
    #[error("{0} is not allowed here")]
    Unexpected(&'static str),
}
