//! The memory that a link reads into. Events may keep parts of it: until they have let go of them the
//! link reads into other memory, and then comes back to this. (To get memory from the system takes longer
//! than to read into it.)
//!
//! However much they keep, it is bounded: the last buffer that is free is not lent, and what is read there is
//! copied by whoever keeps it (but for frames that take much of it). So one who keeps a small event of each of
//! many buffers does not keep all that came between.

use bytes::BytesMut;

/// How large each is, but for a frame that is larger.
pub(super) const SIZE: usize = 160 << 10;

/// With less room than this it is not worth reading.
const ENOUGH: usize = 32 << 10;

/// How many there are at most, beside the one that is read into.
pub(super) const OTHERS: usize = 6;

#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// Those that were read into before, the last one at the end. Empty, but parts may be kept.
    others: Vec<BytesMut>,
    /// Whether the one that is read into is of the usual size.
    is_usual: bool,
    /// Whether events may keep parts of it.
    pub(super) lends: bool,
    /// One of the others was needed since the last beat.
    needed: bool,
}

impl Buffers {
    /// Makes room behind what is in the buffer, which is the beginning of a frame: for all that is missing
    /// of that, as far as it is known, and of a small one for much that comes behind it. Before the hello
    /// is done nothing needs more than its `limit`.
    pub(super) fn make_room(&mut self, buffer: &mut BytesMut, missing: usize, limit: usize) {
        let frame = buffer.len() + missing;
        // Behind a large one there is no room for others: they would be lent out of memory that nobody
        // counts. And it is not copied again for room that it does not need.
        let ahead = if frame <= ENOUGH { ENOUGH.min(limit / 4) } else { 1 };
        let enough = missing.max(ahead);
        if buffer.capacity() - buffer.len() >= enough {
            return;
        }
        let size = (buffer.len() + enough).max(SIZE.min(limit));
        let free = self.others.iter_mut().rposition(|other| other.try_reclaim(size));
        // One that is not lent stays as long as it is the last.
        let stays = self.lends || (free.is_none() && self.others.len() >= OTHERS);
        if stays && self.is_usual && buffer.try_reclaim(enough) {
            return;
        }
        let mut next = match free {
            Some(free) => self.others.remove(free),
            None => BytesMut::with_capacity(size),
        };
        next.extend_from_slice(buffer);
        let before = std::mem::replace(buffer, next);
        if std::mem::replace(&mut self.is_usual, size == SIZE) {
            self.keep(before);
        }
        let is_another_free = self.others.len() < OTHERS || self.others.iter_mut().any(is_free);
        self.lends = self.is_usual && is_another_free;
        self.needed = true;
    }

    /// Keeps one that was read into: in the place of a free one, if there are enough. (If there is none, it
    /// was not lent.)
    fn keep(&mut self, mut buffer: BytesMut) {
        buffer.clear();
        if self.others.len() >= OTHERS {
            let Some(free) = self.others.iter_mut().position(is_free) else { return };
            self.others.remove(free);
        }
        self.others.push(buffer);
    }

    /// Lets go of those that are free, if none was needed since the last call.
    pub(super) fn air(&mut self) {
        if !std::mem::take(&mut self.needed) {
            self.others.retain_mut(|other| !is_free(other));
        }
    }
}

/// Whether no part of it is kept.
fn is_free(other: &mut BytesMut) -> bool {
    other.try_reclaim(SIZE)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use bytes::{BufMut as _, Bytes};

    use super::*;
    use crate::wire::{Decoder, MAX_HELLO, MAX_PAYLOAD};

    fn decoder() -> Decoder {
        let mut decoder = Decoder::new();
        decoder.trust(MAX_PAYLOAD);
        decoder
    }

    /// Reads as much as there is room for, but no more than this; gives what is whole of it.
    fn read(decoder: &mut Decoder, bytes: &mut &[u8]) -> Bytes {
        let room = decoder.room();
        let (now, later) = bytes.split_at(bytes.len().min(room.capacity() - room.len()));
        room.put_slice(now);
        *bytes = later;
        let whole = decoder.whole().unwrap().clone();
        decoder.pass(0);
        assert!(decoder.whole().unwrap().is_empty());
        whole
    }

    /// A frame of this length, with this content.
    fn frame(length: usize, content: u8) -> Vec<u8> {
        let mut frame = (length as u32).to_le_bytes().to_vec();
        frame.resize(4 + length, content);
        frame
    }

    /// Reads frames of which one and a part of the next go into a buffer; gives where the first begin.
    fn read_frames(decoder: &mut Decoder, count: u8) -> Vec<Bytes> {
        let frames: Vec<u8> = (0..count).flat_map(|content| frame(SIZE / 2 + 1, content)).collect();
        let mut bytes = &frames[..];
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let whole = read(decoder, &mut bytes);
            all.extend((!whole.is_empty()).then_some(whole));
        }
        assert!(all.iter().flat_map(|whole| &whole[..]).eq(&frames));
        all
    }

    fn keep_all_that_is_lent(decoder: &mut Decoder, kept: &mut Vec<Bytes>) {
        for _ in 0..50 {
            let whole = read_frames(decoder, 1);
            if !decoder.lends() {
                return;
            }
            kept.extend(whole);
        }
        panic!("all of it is lent");
    }

    #[test]
    fn what_is_kept_is_not_written_over_and_what_is_not_is_read_into_again() {
        let mut decoder = decoder();
        // Here all of it is kept until all is read.
        let places = |all: &[Bytes]| all.iter().map(|whole| whole.as_ptr()).collect::<HashSet<_>>();
        assert!(places(&read_frames(&mut decoder, 50)).len() > 40);
        let used = (0..50).flat_map(|_| places(&read_frames(&mut decoder, 2)));
        let used = used.collect::<HashSet<_>>().len();
        assert!(used <= 4, "{used} places");
    }

    #[test]
    fn no_more_is_lent_than_a_few_and_they_come_back() {
        let let_go: [fn(&mut Decoder, &mut Vec<Bytes>); 2] = [
            |_, kept| drop(kept.pop()),
            |decoder, kept| {
                kept.clear();
                (0..2).for_each(|_| decoder.air());
            },
        ];
        for let_go in let_go {
            let mut decoder = decoder();
            let mut kept = Vec::new();
            keep_all_that_is_lent(&mut decoder, &mut kept);
            assert!(kept.len() > OTHERS / 2);
            (0..2).for_each(|_| decoder.air());
            // While all that was lent is kept, one buffer does for all that comes.
            let used = (0..50).flat_map(|_| read_frames(&mut decoder, 1));
            let used: HashSet<_> = used.map(|whole| whole.as_ptr()).collect();
            assert!(!decoder.lends());
            assert!(used.len() <= 3, "{} places", used.len());
            let_go(&mut decoder, &mut kept);
            (0..3).for_each(|_| drop(read_frames(&mut decoder, 1)));
            assert!(decoder.lends());
        }
    }

    #[test]
    fn a_large_frame_has_memory_of_its_own_that_is_not_kept() {
        let mut decoder = decoder();
        let large = frame(20 * SIZE, 7);
        let mut bytes = &large[..];
        let mut whole = Bytes::new();
        while !bytes.is_empty() {
            whole = read(&mut decoder, &mut bytes);
        }
        assert_eq!(whole, large);
        drop(whole);
        decoder.room();
        assert!(decoder.buffer.capacity() <= SIZE);
        assert!(decoder.buffers.others.iter().all(|other| other.capacity() <= SIZE));
    }

    #[test]
    fn a_large_frame_is_not_copied_for_each_piece_and_nothing_lies_behind_it() {
        let mut decoder = decoder();
        let frames = [frame(20 * SIZE, 7), frame(100, 8)].concat();
        let (mut first, rest) = frames.split_at(20 * SIZE - 20_000);
        while !first.is_empty() {
            read(&mut decoder, &mut first);
        }
        let place = decoder.buffer.as_ptr();
        let mut pieces = rest.chunks(100);
        let whole = loop {
            let whole = read(&mut decoder, &mut pieces.next().unwrap());
            if !whole.is_empty() {
                break whole;
            }
            assert_eq!(decoder.buffer.as_ptr(), place);
        };
        assert_eq!((whole.as_ptr(), whole.len()), (place, 4 + 20 * SIZE));
        decoder.room();
        assert!(!whole.as_ptr_range().contains(&decoder.buffer.as_ptr()));
        assert!(decoder.buffer.capacity() <= SIZE);
    }

    #[test]
    fn what_is_kept_counts_also_when_a_large_frame_came_behind_it() {
        let mut decoder = decoder();
        let large = frame(2 * SIZE, 7);
        let (mut kept, mut before_large) = (Vec::new(), Vec::new());
        for _ in 0..OTHERS / 2 {
            keep_all_that_is_lent(&mut decoder, &mut kept);
            let places = kept.iter().chain(&before_large).map(|whole| whole.as_ptr());
            let places = places.collect::<HashSet<_>>().len();
            assert!(places <= OTHERS + 1, "{places} are kept");
            // Two are let go, and of what is then lent something is kept.
            kept.drain(..2);
            while !decoder.lends() {
                read_frames(&mut decoder, 1);
            }
            before_large.extend(read_frames(&mut decoder, 1));
            assert!(decoder.lends());
            let mut bytes = &large[..];
            while !bytes.is_empty() {
                read(&mut decoder, &mut bytes);
            }
        }
    }

    #[test]
    fn what_was_needed_once_is_let_go() {
        let mut decoder = decoder();
        read_frames(&mut decoder, 50);
        assert!(!decoder.buffers.others.is_empty());
        decoder.air();
        assert!(!decoder.buffers.others.is_empty(), "needed since the last time");
        decoder.air();
        assert!(decoder.buffers.others.is_empty());
    }

    #[test]
    fn a_stranger_gets_little() {
        assert!(Decoder::new().room().capacity() <= MAX_HELLO);
    }
}
