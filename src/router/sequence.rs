//! Repeats and holes in what comes from outside (law 4).

use std::collections::{HashMap, VecDeque};

use busway_transport::{Envelope, Name, PeerId, Topic};

/// How many publishers' counts are remembered per filter. Beyond that the one met first is
/// forgotten: its next event counts as its first.
const REMEMBERED: usize = 16_384;

type Line = (PeerId, Topic, Option<Name>);

/// What an envelope's number says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is the next, or the first of its line, or the first after a hole that was told.
    Next,
    /// So many are missing before it.
    After(u64),
    /// It was here before.
    Repeat,
}

/// The last number of each publisher, topic and address.
#[derive(Default)]
pub(crate) struct Sequences {
    /// The line of the envelope before, which is likely to be that of the next too.
    latest: Option<(Line, Last)>,
    /// The others; what is in `latest` may be behind here.
    last: HashMap<Line, Last>,
    met: VecDeque<Line>,
    /// How often the transport told of a lost link.
    cuts: u64,
}

#[derive(Clone, Copy)]
pub(crate) struct Last {
    pub(crate) number: u64,
    /// The count of cuts by then.
    cuts: u64,
}

impl Sequences {
    /// The transport told of a lost link, in this place: the hole that a line has there, if any,
    /// is told already.
    pub(crate) fn cut(&mut self) {
        self.cuts += 1;
    }

    /// Where the envelope stands in its line; it is then the last one.
    pub(crate) fn place(&mut self, envelope: &Envelope) -> Place {
        let Some(number) = envelope.sequence else { return Place::Next };
        let Envelope { topic, to, source, .. } = envelope;
        let cuts = self.cuts;
        if let Some(last) = self.last_of(source.peer, topic, to.as_ref()) {
            return last.step(number, cuts);
        }
        // What is forgotten next may be the latest.
        if let Some((line, last)) = self.latest.take() {
            self.last.insert(line, last);
        }
        let line = (source.peer, topic.clone(), to.clone());
        if self.met.len() == REMEMBERED
            && let Some(first) = self.met.pop_front()
        {
            self.last.remove(&first);
        }
        self.met.push_back(line.clone());
        self.last.insert(line, Last { number, cuts });
        Place::Next
    }

    /// The last event of a line without an address.
    pub(crate) fn last(&mut self, peer: PeerId, topic: &Topic) -> Option<Last> {
        self.last_of(peer, topic, None).copied()
    }

    /// Such a line goes on behind that event by so many, without a hole. Not if it has gone on
    /// meanwhile. (If it was forgotten meanwhile, its next event counts as its first.)
    pub(crate) fn go_on(&mut self, peer: PeerId, topic: &Topic, after: Last, by: u64) -> bool {
        match self.last_of(peer, topic, None) {
            Some(last) if last.number != after.number => return false,
            // The cuts are those of then: what was cut since stands behind these events.
            Some(last) => *last = Last { number: after.number + by, ..after },
            None => {}
        }
        true
    }

    /// A line's last event, if it is known. It is then the latest line.
    fn last_of(&mut self, peer: PeerId, topic: &Topic, to: Option<&Name>) -> Option<&mut Last> {
        let is_that =
            |(line, _): &(Line, Last)| (line.0, &line.1, line.2.as_ref()) == (peer, topic, to);
        if !self.latest.as_ref().is_some_and(is_that) {
            let line = (peer, topic.clone(), to.cloned());
            let last = *self.last.get(&line)?;
            if let Some((line, last)) = self.latest.replace((line, last)) {
                self.last.insert(line, last);
            }
        }
        self.latest.as_mut().map(|(_, last)| last)
    }
}

impl Last {
    fn step(&mut self, number: u64, cuts: u64) -> Place {
        if number <= self.number {
            return Place::Repeat;
        }
        let missing = number - self.number - 1;
        let told = self.cuts != cuts;
        *self = Self { number, cuts };
        if missing == 0 || told { Place::Next } else { Place::After(missing) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use busway_transport::{ContentType, MessageId, Payload, Source};

    fn envelope(peer: u64, sequence: u64) -> Envelope {
        let source = Source { endpoint: "a".parse().unwrap(), peer: PeerId::from_u64(peer) };
        let payload = Payload::encoded(ContentType::JSON, "1");
        let mut envelope = Envelope::new(MessageId::new(), "t".parse().unwrap(), source, payload);
        envelope.sequence = Some(sequence);
        envelope
    }

    #[test]
    fn repeats_and_holes_are_seen_per_publisher() {
        let mut sequences = Sequences::default();
        assert_eq!(sequences.place(&envelope(1, 5)), Place::Next);
        assert_eq!(sequences.place(&envelope(1, 6)), Place::Next);
        assert_eq!(sequences.place(&envelope(2, 1)), Place::Next);
        assert_eq!(sequences.place(&envelope(1, 6)), Place::Repeat);
        assert_eq!(sequences.place(&envelope(1, 9)), Place::After(2));
        assert_eq!(sequences.place(&envelope(1, 7)), Place::Repeat);
        assert_eq!(sequences.place(&envelope(2, 2)), Place::Next);
    }

    #[test]
    fn a_hole_that_the_transport_told_is_told_once() {
        let mut sequences = Sequences::default();
        assert_eq!(sequences.place(&envelope(1, 1)), Place::Next);
        assert_eq!(sequences.place(&envelope(2, 1)), Place::Next);
        sequences.cut();
        assert_eq!(sequences.place(&envelope(1, 4)), Place::Next);
        assert_eq!(sequences.place(&envelope(1, 4)), Place::Repeat);
        assert_eq!(sequences.place(&envelope(1, 6)), Place::After(1));
        assert_eq!(sequences.place(&envelope(2, 2)), Place::Next);
        assert_eq!(sequences.place(&envelope(2, 4)), Place::After(1));
    }

    #[test]
    fn a_line_goes_on_once_and_a_forgotten_one_loses_nothing() {
        let mut sequences = Sequences::default();
        let first = envelope(1, 5);
        let (peer, topic) = (first.source.peer, &first.topic);
        assert!(sequences.last(peer, topic).is_none());
        sequences.place(&first);
        let last = sequences.last(peer, topic).unwrap();
        assert!(sequences.go_on(peer, topic, last, 2));
        assert!(!sequences.go_on(peer, topic, last, 2));
        assert_eq!(sequences.place(&envelope(1, 7)), Place::Repeat);
        assert_eq!(sequences.place(&envelope(1, 8)), Place::Next);

        let last = sequences.last(peer, topic).unwrap();
        for peer in 2..2 + REMEMBERED as u64 {
            sequences.place(&envelope(peer, 1));
        }
        assert!(sequences.last(peer, topic).is_none());
        assert!(sequences.go_on(peer, topic, last, 2));
        assert_eq!(sequences.place(&envelope(1, 11)), Place::Next);
    }

    #[test]
    fn memory_is_bounded() {
        let mut sequences = Sequences::default();
        for peer in 0..2 * REMEMBERED as u64 {
            sequences.place(&envelope(peer, 1));
        }
        assert_eq!(sequences.last.len(), REMEMBERED);
        assert_eq!(sequences.met.len(), REMEMBERED);
        // Also when the latest is the one that is forgotten.
        for peer in 0..64 {
            let (first, ..) = *sequences.met.front().unwrap();
            for peer in [first.as_u64(), 1 << 32 | peer, 2 * REMEMBERED as u64 - 1] {
                sequences.place(&envelope(peer, 1));
            }
        }
        assert!(sequences.last.len() <= REMEMBERED);
    }
}
