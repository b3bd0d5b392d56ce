//! Byte strings that stay in the memory that they arrived in, for fields that are [`Bytes`]:
//! `#[serde(with = "busway::zero_copy")]`.
//!
//! ```
//! use busway::{Bytes, Event};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Event, Serialize, Deserialize)]
//! #[event("camera.frame")]
//! struct Frame {
//!     number: u64,
//!     #[serde(with = "busway::zero_copy")]
//!     pixels: Bytes,
//! }
//! ```
//!
//! serde's own way for `Bytes` copies what arrived into memory of its own: with large byte strings most of
//! what it takes to receive an event. (In one process nothing is copied either way: there an event is handed
//! over as it is.) What is written is the same with and without this, so that one side may have it alone.
//!
//! * **What it keeps.** Whoever keeps such a field keeps the memory around it. Over local sockets these are
//!   160 KiB, or ten times what its event takes if that is over 16 KiB; of each link smaller events keep no more
//!   than seven times 160 KiB, and what comes then is copied. On RabbitMQ it keeps its own message. To keep
//!   few bytes for long, copy them: `Bytes::copy_from_slice(&frame.pixels)`.
//! * **What it copies all the same**: byte strings under 256 bytes; and those that do not lie in what arrived
//!   as they are, which JSON's and bincode's do not.

use std::cell::RefCell;
use std::fmt;

use bytes::Bytes;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

/// To share shorter ones is no quicker than to copy them.
const SHORT: usize = 256;

thread_local! {
    /// What is being decoded here.
    static LENT: RefCell<Bytes> = const { RefCell::new(Bytes::new()) };
}

/// See [`lend`].
pub(crate) struct Lent {
    before: Bytes,
}

/// What is decoded on this thread may keep parts of this memory, as long as the guard lives.
pub(crate) fn lend(memory: Bytes) -> Lent {
    Lent { before: LENT.replace(memory) }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // (`set` would drop what was there while it is borrowed.)
        drop(LENT.replace(std::mem::take(&mut self.before)));
    }
}

/// Encodes it as serde's own way does.
///
/// # Errors
/// The serializer's.
pub fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    bytes.serialize(serializer)
}

/// Decodes a byte string, or whatever else is read as one: a text, a sequence of numbers.
///
/// # Errors
/// The deserializer's.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    deserializer.deserialize_byte_buf(AsBytes)
}

/// These bytes as a part of what is lent here; or a copy, if they lie elsewhere.
fn share(bytes: &[u8]) -> Bytes {
    let part = |lent: &Bytes| {
        let from = bytes.as_ptr().addr().checked_sub(lent.as_ptr().addr())?;
        let end = from.checked_add(bytes.len())?;
        (end <= lent.len()).then(|| lent.slice(from..end))
    };
    let shared = if bytes.len() < SHORT { None } else { LENT.with_borrow(part) };
    shared.unwrap_or_else(|| Bytes::copy_from_slice(bytes))
}

struct AsBytes;

impl<'de> Visitor<'de> for AsBytes {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a byte string")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
        Ok(share(bytes))
    }

    fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
        Ok(bytes.into())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Bytes, E> {
        Ok(share(text.as_bytes()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, bytes: A) -> Result<Bytes, A::Error> {
        Bytes::deserialize(SeqAccessDeserializer::new(bytes))
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::Codec;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Plain {
        bytes: Bytes,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Frame {
        #[serde(with = "crate::zero_copy")]
        bytes: Bytes,
    }

    fn frame(length: usize) -> Frame {
        Frame { bytes: (0..length).map(|at| at as u8).collect() }
    }

    fn lies_in(memory: &Bytes, part: &Bytes) -> bool {
        memory.as_ptr_range().contains(&part.as_ptr())
    }

    #[test]
    fn what_arrived_is_kept_where_it_lies() {
        let sent = frame(1000);
        let memory = Codec::MessagePack.to_bytes(&sent).unwrap();
        let lent = lend(memory.clone());
        let read: Frame = Codec::MessagePack.decode(&memory).unwrap();
        assert_eq!(read, sent);
        assert!(lies_in(&memory, &read.bytes));
        // The whole of it, to its last byte.
        assert_eq!(read.bytes.as_ptr_range().end, memory.as_ptr_range().end);
        drop(lent);
        let read: Frame = Codec::MessagePack.decode(&memory).unwrap();
        assert_eq!(read, sent);
        assert!(!lies_in(&memory, &read.bytes), "lent no more");
    }

    #[test]
    fn what_lies_elsewhere_or_is_short_is_copied() {
        let (memory, other) = (frame(1000), frame(1000));
        let encoded = Codec::MessagePack.to_bytes(&other).unwrap();
        let all = [&memory.bytes[..], &encoded].concat();
        // Just before it, just behind it, and over its edges.
        for (from, to) in [(0, 1000), (1001, 2003), (1, 2002), (1000, 2002), (1001, 2002)] {
            let all = Bytes::from(all.clone());
            let _lent = lend(all.slice(from..to));
            let read: Frame = Codec::MessagePack.decode(&all[1000..]).unwrap();
            assert_eq!(read, other);
            assert!(!lies_in(&all, &read.bytes), "{from}..{to}");
        }
        let short = frame(SHORT - 1);
        let memory = Codec::MessagePack.to_bytes(&short).unwrap();
        let _lent = lend(memory.clone());
        let read: Frame = Codec::MessagePack.decode(&memory).unwrap();
        assert_eq!(read, short);
        assert!(!lies_in(&memory, &read.bytes));
    }

    #[test]
    fn it_is_written_and_read_as_without_it() {
        for codec in [Codec::MessagePack, Codec::Json, Codec::Bincode] {
            for length in [0, 1, SHORT, 70_000] {
                let Frame { bytes } = frame(length);
                let plain = codec.to_bytes(&Plain { bytes: bytes.clone() }).unwrap();
                assert_eq!(codec.to_bytes(&Frame { bytes: bytes.clone() }).unwrap(), plain);
                let _lent = lend(plain.clone());
                assert_eq!(codec.decode::<Frame>(&plain).unwrap(), Frame { bytes });
            }
        }
        for text in ["\"abc\"", "[97,98,99]"] {
            let read: Frame =
                Codec::Json.decode(format!("{{\"bytes\":{text}}}").as_bytes()).unwrap();
            assert_eq!(read.bytes, "abc");
        }
        assert!(Codec::Json.decode::<Frame>(b"{\"bytes\":7}").is_err());
        assert!(Codec::Json.decode::<Frame>(b"{\"bytes\":[300]}").is_err());
    }
}
