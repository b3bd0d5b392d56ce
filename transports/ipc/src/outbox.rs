//! What waits in a link's data lane: bytes, joined as they come, so that one write takes all that
//! waits. Large payloads stand between them as they are.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::wire::Out;

/// How much is joined; more begins anew, so that a control frame never waits for longer than one
/// such piece takes.
const JOINED: usize = 128 << 10;
/// A payload from this size on is written as it is: another copy costs more than another write.
pub(crate) const LARGE: usize = 32 << 10;

/// The frames of a data lane.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Complete pieces, first in line.
    pieces: VecDeque<Bytes>,
    /// What comes behind them, and still grows.
    joined: BytesMut,
}

impl Outbox {
    /// Puts a frame behind what is there.
    pub(crate) fn push(&mut self, out: &Out) {
        self.joined.extend_from_slice(&out.head);
        self.joined.extend_from_slice(&out.shared);
        self.put_payload(&out.payload);
    }

    /// Room for a frame whose payload is small. End it with [`put_payload`](Self::put_payload), or
    /// with [`is_complete`](Self::is_complete).
    pub(crate) fn joined(&mut self) -> &mut BytesMut {
        &mut self.joined
    }

    /// Puts the end of a frame.
    pub(crate) fn put_payload(&mut self, payload: &Bytes) {
        if payload.len() >= LARGE {
            self.cut();
            self.pieces.push_back(payload.clone());
        } else {
            self.joined.extend_from_slice(payload);
            self.is_complete();
        }
    }

    /// A frame was put into [`joined`](Self::joined).
    pub(crate) fn is_complete(&mut self) {
        if self.joined.len() >= JOINED {
            self.cut();
        }
    }

    fn cut(&mut self) {
        if !self.joined.is_empty() {
            self.pieces.push_back(self.joined.split().freeze());
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.joined.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes what is to be written next; what was joined goes into `joined`, which is empty, and
    /// whose memory is used for what comes.
    pub(crate) fn take(&mut self, joined: &mut BytesMut) -> Option<Bytes> {
        let piece = self.pieces.pop_front();
        if piece.is_none() {
            std::mem::swap(&mut self.joined, joined);
        }
        piece
    }
}

/// What a writer may keep of its memory after a burst.
pub(crate) const KEPT: usize = 2 * JOINED;

#[cfg(test)]
mod tests {
    use super::*;

    fn out(payload: Bytes) -> Out {
        Out { head: Bytes::from_static(b"h"), shared: Bytes::from_static(b"s"), payload }
    }

    fn drain(outbox: &mut Outbox) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while !outbox.is_empty() {
            let mut joined = BytesMut::new();
            let piece = outbox.take(&mut joined);
            all.push(piece.map_or_else(|| joined.to_vec(), |piece| piece.to_vec()));
        }
        all
    }

    #[test]
    fn small_frames_are_joined_and_large_payloads_stand_between_them() {
        let mut outbox = Outbox::default();
        let large = Bytes::from(vec![7; LARGE]);
        for payload in [Bytes::from_static(b"1"), large.clone(), Bytes::from_static(b"2")] {
            outbox.push(&out(payload));
        }
        let expected = [b"hs1hs".to_vec(), large.to_vec(), b"hs2".to_vec()];
        assert_eq!(drain(&mut outbox), expected);
    }

    #[test]
    fn pieces_are_bounded() {
        let mut outbox = Outbox::default();
        let payload = Bytes::from(vec![7; LARGE - 1]);
        (0..20).for_each(|_| outbox.push(&out(payload.clone())));
        let all = drain(&mut outbox);
        assert!(all.iter().all(|piece| piece.len() < JOINED + LARGE + 2));
        assert_eq!(all.iter().map(Vec::len).sum::<usize>(), 20 * (LARGE + 1));
    }
}
