//! A bounded store of dead letters.

use std::collections::{BTreeMap, HashMap};

use busway_transport::{DeadLetter, GroupKey, MessageId};

/// The dead letters that a process keeps: per group at most a given number, so that a group that
/// fails a lot does not push out another group's letters. An id is there at most once per group.
#[derive(Debug)]
pub struct DeadLetters {
    limit: usize,
    groups: HashMap<GroupKey, Shelf>,
    dropped: u64,
}

/// The letters of one group. Every letter is in both maps.
#[derive(Debug, Default)]
struct Shelf {
    /// By arrival.
    letters: BTreeMap<u64, DeadLetter>,
    by_id: HashMap<MessageId, u64>,
    last: u64,
}

impl DeadLetters {
    /// A store that keeps the newest `limit` letters of each group.
    pub fn new(limit: usize) -> Self {
        Self { limit, groups: HashMap::new(), dropped: 0 }
    }

    /// Adds a letter as the newest of its group. One of the same id is replaced. Gives the oldest
    /// letter of the group if it had to make room.
    pub fn push(&mut self, letter: DeadLetter) -> Option<DeadLetter> {
        if self.limit == 0 {
            self.dropped += 1;
            return Some(letter);
        }
        let shelf = self.groups.entry(letter.group.clone()).or_default();
        shelf.remove(letter.envelope.id);
        shelf.last += 1;
        shelf.by_id.insert(letter.envelope.id, shelf.last);
        shelf.letters.insert(shelf.last, letter);
        if shelf.letters.len() <= self.limit {
            return None;
        }
        let (_, oldest) = shelf.letters.pop_first()?;
        shelf.by_id.remove(&oldest.envelope.id);
        self.dropped += 1;
        Some(oldest)
    }

    /// The letters of a group, oldest first.
    pub fn list(&self, group: &GroupKey) -> impl Iterator<Item = &DeadLetter> {
        self.groups.get(group).into_iter().flat_map(|shelf| shelf.letters.values())
    }

    /// Takes one letter out, to replay or to discard it.
    pub fn remove(&mut self, group: &GroupKey, id: MessageId) -> Option<DeadLetter> {
        let shelf = self.groups.get_mut(group)?;
        let letter = shelf.remove(id);
        if shelf.letters.is_empty() {
            self.groups.remove(group);
        }
        letter
    }

    /// The groups that have letters, in no order.
    pub fn groups(&self) -> impl Iterator<Item = &GroupKey> {
        self.groups.keys()
    }

    /// How many letters there are, in all groups.
    pub fn len(&self) -> usize {
        self.groups.values().map(|shelf| shelf.letters.len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// How many letters had to make room for newer ones so far.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl Shelf {
    fn remove(&mut self, id: MessageId) -> Option<DeadLetter> {
        let place = self.by_id.remove(&id)?;
        self.letters.remove(&place)
    }
}
