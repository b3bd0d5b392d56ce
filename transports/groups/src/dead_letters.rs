//! A bounded store of dead letters.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant;

use busway_transport::{DeadLetter, GroupKey, Letters, MessageId, Party, TransportError};

use crate::engine::Engine;
use crate::group::MOST_BYTES;
use crate::members::MemberKey;
use crate::queue::bytes;

/// The dead letters that a process keeps: per group at most a given number, and not more than 64 MiB
/// of encoded events (but always the newest letter), so that a group that fails a lot does not push
/// out another group's letters. An id is there at most once per group.
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
    /// Of all payloads together.
    bytes: usize,
}

impl DeadLetters {
    /// How many letters of a group a process keeps, unless it has a reason for another number.
    pub const LIMIT: usize = 1024;

    /// A store that keeps the newest `limit` letters of each group.
    pub fn new(limit: usize) -> Self {
        Self { limit, groups: HashMap::new(), dropped: 0 }
    }

    /// Adds a letter as the newest of its group. One of the same id is replaced. Gives the oldest
    /// letters of the group, as far as they had to make room.
    pub fn push(&mut self, letter: DeadLetter) -> Vec<DeadLetter> {
        if self.limit == 0 {
            self.dropped += 1;
            return vec![letter];
        }
        let shelf = self.groups.entry(letter.group.clone()).or_default();
        shelf.remove(letter.envelope.id);
        shelf.add(letter);
        let mut dropped = Vec::new();
        while shelf.letters.len() > self.limit
            || shelf.bytes > MOST_BYTES && shelf.letters.len() > 1
        {
            dropped.extend(shelf.remove_oldest());
        }
        self.dropped += dropped.len() as u64;
        dropped
    }

    /// The letters of a group, oldest first.
    pub fn list(&self, group: &GroupKey) -> impl Iterator<Item = &DeadLetter> {
        self.groups.get(group).into_iter().flat_map(|shelf| shelf.letters.values())
    }

    /// One letter.
    pub fn get(&self, group: &GroupKey, id: MessageId) -> Option<&DeadLetter> {
        let shelf = self.groups.get(group)?;
        shelf.letters.get(shelf.by_id.get(&id)?)
    }

    /// The ids of the letters that are meant and there, oldest first.
    pub fn ids(&self, group: &GroupKey, which: Letters) -> VecDeque<MessageId> {
        let ids = self.list(group).map(|letter| letter.envelope.id);
        ids.filter(|id| which == Letters::All || which == Letters::One(*id)).collect()
    }

    /// Throws letters away. Gives how many there were.
    pub fn purge(&mut self, group: &GroupKey, which: Letters) -> usize {
        let ids = self.ids(group, which);
        ids.iter().filter(|id| self.remove(group, **id).is_some()).count()
    }

    /// Takes one letter out.
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
    fn add(&mut self, letter: DeadLetter) {
        self.last += 1;
        self.bytes += bytes(&letter.envelope);
        self.by_id.insert(letter.envelope.id, self.last);
        self.letters.insert(self.last, letter);
    }

    fn remove(&mut self, id: MessageId) -> Option<DeadLetter> {
        let place = self.by_id.remove(&id)?;
        let letter = self.letters.remove(&place)?;
        self.bytes -= bytes(&letter.envelope);
        Some(letter)
    }

    fn remove_oldest(&mut self) -> Option<DeadLetter> {
        let (_, oldest) = self.letters.first_key_value()?;
        self.remove(oldest.envelope.id)
    }
}

/// Why a letter could not be replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unplaced {
    /// Its group is not known: it has no member, and is not held.
    NoGroup,
    /// Its group has no room.
    Full(Party),
}

/// A replay of some letters, which goes on where it stood when there is room again. Letters that
/// die anew meanwhile are not replayed twice.
#[derive(Debug)]
pub struct Replay {
    group: GroupKey,
    ids: VecDeque<MessageId>,
    replayed: usize,
}

impl Replay {
    /// A replay of the letters that are there now.
    pub fn new(letters: &DeadLetters, group: &GroupKey, which: Letters) -> Self {
        Self { group: group.clone(), ids: letters.ids(group, which), replayed: 0 }
    }

    /// Replays as many as there is room for. Gives how many there were in all when it is over,
    /// and `None` when it is to be called again after [`Effect::Room`](crate::Effect::Room).
    ///
    /// # Errors
    /// [`TransportError::NoGroup`]: what is left stays listed.
    pub fn go_on<M: MemberKey>(
        &mut self,
        engine: &mut Engine<M>,
        letters: &mut DeadLetters,
        now: Instant,
    ) -> Result<Option<usize>, TransportError> {
        while let Some(id) = self.ids.front() {
            match engine.replay(letters, &self.group, *id, now) {
                Ok(was_there) => self.replayed += usize::from(was_there),
                Err(Unplaced::Full(_)) => return Ok(None),
                Err(Unplaced::NoGroup) => {
                    return Err(TransportError::NoGroup { group: Box::new(self.group.clone()) });
                }
            }
            self.ids.pop_front();
        }
        Ok(Some(self.replayed))
    }
}
