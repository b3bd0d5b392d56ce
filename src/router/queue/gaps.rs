//! Gaps in a queue: in the place of what was lost, and one for those that stand side by side.

use std::task::Waker;

use busway_transport::{Gap, GapReason};

use super::{Item, Placed, State};

/// How many gaps of different reasons stand side by side at most.
const SIDE_BY_SIDE: usize = 8;

impl State {
    /// Puts a gap at the end, or adds to one that stands there.
    pub(super) fn put_gap(&mut self, at: u64, gap: Gap) -> Option<Waker> {
        self.items.push_back(Placed { at, item: Item::Gap(gap) });
        self.join_gaps(self.items.len() - 1);
        self.reader.take()
    }

    /// Takes the oldest event out.
    pub(super) fn take_oldest(&mut self) -> Option<Item> {
        let at = self.items.iter().position(|placed| matches!(placed.item, Item::Event(_)))?;
        self.events -= 1;
        let placed = self.items.remove(at)?;
        self.join_gaps(at);
        Some(placed.item)
    }

    /// Takes the oldest event out, and puts a gap in its place.
    pub(super) fn drop_oldest(&mut self) -> Option<Item> {
        let at = self.items.iter().position(|placed| matches!(placed.item, Item::Event(_)))?;
        self.events -= 1;
        let gap = Item::Gap(Gap::new(Some(1), GapReason::Overflow));
        let item = std::mem::replace(&mut self.items[at].item, gap);
        self.join_gaps(at);
        Some(item)
    }

    /// Makes one gap of those of one reason that stand side by side around a place, and of all of
    /// them when there are too many: between two events there are never more than a few.
    fn join_gaps(&mut self, at: usize) {
        // Side by side are those with no event of the ring between them either.
        let Some(place) = self.items.get(at.min(self.items.len().saturating_sub(1))) else {
            return;
        };
        let place = place.at;
        let is_gap = |placed: &Placed| matches!(placed.item, Item::Gap(_)) && placed.at == place;
        let mut first = at.min(self.items.len());
        while first > 0 && is_gap(&self.items[first - 1]) {
            first -= 1;
        }
        let count = self.items.iter().skip(first).take_while(|placed| is_gap(placed)).count();
        let mut joined: Vec<Gap> = Vec::new();
        for placed in self.items.drain(first..first + count) {
            let Item::Gap(gap) = placed.item else { continue };
            let same = joined.iter().position(|known| known.reason == gap.reason);
            match same.or((joined.len() == SIDE_BY_SIDE).then_some(SIDE_BY_SIDE - 1)) {
                Some(known) => merge(&mut joined[known], &gap),
                None => joined.push(gap),
            }
        }
        for gap in joined.into_iter().rev() {
            self.items.insert(first, Placed { at: place, item: Item::Gap(gap) });
        }
    }
}

fn merge(last: &mut Gap, gap: &Gap) {
    last.missed = last.missed.zip(gap.missed).map(|(a, b)| a + b);
}
