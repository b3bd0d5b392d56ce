//! What waits in a link's data lane: bytes, joined as they come, so that one write takes all that
//! waits. Large payloads stand between them as they are.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::wire::Out;
use crate::wire::event::Last;

/// How much is joined; more begins anew, so that a control frame never waits for longer than one
/// such piece takes.
const JOINED: usize = 128 << 10;
/// A payload from this size on is shared by the links that it goes to, and written as it is.
pub(crate) const LARGE: usize = 256 << 10;
/// From so many bytes on publishers wait: more in line makes nothing faster, and leaves the
/// processor's caches.
const CONGESTED: usize = 1 << 20;
/// How much memory is kept for what comes.
const SPARE: usize = CONGESTED / JOINED;

/// The frames of a data lane.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Complete pieces, first in line.
    pieces: VecDeque<Piece>,
    /// What comes behind them, and still grows.
    joined: Vec<u8>,
    /// How many bytes all of it has.
    length: usize,
    /// Memory of pieces that were written.
    spare: Vec<Vec<u8>>,
    /// Something was put in since it was last [aired](Self::air).
    used: bool,
    /// What was put in last of those that go on where it ends.
    last: Last,
}

#[derive(Debug)]
enum Piece {
    Joined(Vec<u8>),
    Shared(Bytes),
}

impl Outbox {
    /// Puts a frame behind what is there.
    pub(crate) fn push(&mut self, out: &Out) {
        self.put(|joined, _| {
            joined.extend_from_slice(&out.head);
            joined.extend_from_slice(&out.shared);
            if out.payload.len() < LARGE {
                joined.extend_from_slice(&out.payload);
            }
        });
        if out.payload.len() >= LARGE {
            self.share(&out.payload);
        }
    }

    /// Puts a frame, or its beginning, behind what is there.
    #[inline]
    pub(crate) fn put(&mut self, put: impl FnOnce(&mut Vec<u8>, &mut Last)) {
        let before = self.joined.len();
        put(&mut self.joined, &mut self.last);
        self.used = true;
        self.length += self.joined.len() - before;
        if self.joined.len() >= JOINED {
            self.cut();
        }
    }

    /// Puts the end of a frame, which is not copied.
    pub(crate) fn share(&mut self, payload: &Bytes) {
        self.cut();
        self.length += payload.len();
        self.pieces.push_back(Piece::Shared(payload.clone()));
    }

    fn cut(&mut self) {
        if !self.joined.is_empty() {
            let next = self.spare.pop().unwrap_or_default();
            let joined = std::mem::replace(&mut self.joined, next);
            self.pieces.push_back(Piece::Joined(joined));
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Whether the next piece is the payload of a frame whose beginning was taken, or the rest of
    /// what was: nothing may come between the two.
    pub(crate) fn is_within_a_frame(&self) -> bool {
        matches!(self.pieces.front(), Some(Piece::Shared(_)))
    }

    /// Puts the rest back of what was taken last.
    pub(crate) fn put_back(&mut self, rest: Bytes) {
        self.length += rest.len();
        self.pieces.push_front(Piece::Shared(rest));
    }

    #[inline]
    pub(crate) fn is_congested(&self) -> bool {
        self.length >= CONGESTED
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes what is to be written next: what was joined into `joined`, which is empty and whose
    /// memory is used for what comes; what is shared as it is.
    pub(crate) fn take(&mut self, joined: &mut Vec<u8>) -> Option<Bytes> {
        let piece = match self.pieces.pop_front() {
            Some(Piece::Shared(shared)) => Some(shared),
            Some(Piece::Joined(piece)) => {
                self.keep(std::mem::replace(joined, piece));
                None
            }
            None => {
                std::mem::swap(&mut self.joined, joined);
                None
            }
        };
        self.length -= piece.as_ref().map_or(joined.len(), Bytes::len);
        piece
    }

    /// Lets go of what a burst has left it, when nothing was put in since the last call. (Not as soon
    /// as it is empty: between two handfuls it is empty, and getting memory from the system anew
    /// takes longer than sending it does.)
    pub(crate) fn air(&mut self) {
        if !std::mem::take(&mut self.used) && self.is_empty() {
            self.spare = Vec::new();
            self.joined = Vec::new();
        }
    }

    fn keep(&mut self, memory: Vec<u8>) {
        if self.spare.len() < SPARE && memory.capacity() <= JOINED + LARGE {
            self.spare.push(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn out(payload: Bytes) -> Out {
        Out { head: Bytes::from_static(b"h"), shared: Bytes::from_static(b"s"), payload }
    }

    fn drain(outbox: &mut Outbox) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while !outbox.is_empty() {
            let mut joined = Vec::new();
            let piece = outbox.take(&mut joined);
            all.push(piece.map_or_else(|| joined.to_vec(), |piece| piece.to_vec()));
        }
        all
    }

    #[test]
    fn small_frames_are_joined_and_large_payloads_stand_between_them() {
        let mut outbox = Outbox::default();
        let large = Bytes::from(vec![7; LARGE]);
        assert!(outbox.is_empty());
        for payload in [Bytes::from_static(b"1"), large.clone(), Bytes::from_static(b"2")] {
            outbox.push(&out(payload));
        }
        let expected = [b"hs1hs".to_vec(), large.to_vec(), b"hs2".to_vec()];
        assert_eq!(drain(&mut outbox), expected);
    }

    #[test]
    fn memory_is_kept_while_it_is_used() {
        let mut outbox = Outbox::default();
        let payload = Bytes::from(vec![7; JOINED]);
        (0..3).for_each(|_| outbox.push(&out(payload.clone())));
        let mut joined = Vec::new();
        while !outbox.is_empty() {
            joined.clear();
            outbox.take(&mut joined);
        }
        let kept = |outbox: &Outbox| outbox.spare.iter().map(Vec::capacity).sum::<usize>();
        outbox.air();
        assert!(kept(&outbox) >= 2 * JOINED, "used since the last time");
        outbox.air();
        assert_eq!(kept(&outbox), 0);
    }

    #[test]
    fn pieces_are_bounded() {
        let mut outbox = Outbox::default();
        let payload = Bytes::from(vec![7; LARGE - 1]);
        (0..20).for_each(|_| outbox.push(&out(payload.clone())));
        assert!(outbox.is_congested());
        let all = drain(&mut outbox);
        assert!(all.iter().all(|piece| piece.len() < JOINED + LARGE + 2));
        assert_eq!(all.iter().map(Vec::len).sum::<usize>(), 20 * (LARGE + 1));
    }
}
