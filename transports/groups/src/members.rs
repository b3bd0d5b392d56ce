//! The members of one group, and which of them is next.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::hash::Hash;

/// What names a member: any small value that the owner of the engine finds it by. Best never used
/// for two memberships, see [`Engine::join`](crate::Engine::join).
pub trait MemberKey: Copy + Eq + Hash + Ord + Debug {}
impl<M: Copy + Eq + Hash + Ord + Debug> MemberKey for M {}

#[derive(Debug)]
struct Member {
    concurrency: usize,
    held: usize,
    /// When it was last chosen, in the group's count of choices.
    turn: u64,
    leaving: bool,
}

/// All members of a group, leaving ones included. The caller sees to it that none is added twice.
#[derive(Debug)]
pub(crate) struct Members<M> {
    all: BTreeMap<M, Member>,
    /// How many of them are not leaving.
    active: usize,
    /// Exactly those that may get another event: not leaving, and below their concurrency.
    free: BTreeSet<Rank<M>>,
    turns: u64,
}

impl<M: MemberKey> Members<M> {
    pub(crate) fn new() -> Self {
        Self { all: BTreeMap::new(), active: 0, free: BTreeSet::new(), turns: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether any member takes new events (if perhaps not just now).
    pub(crate) fn any_active(&self) -> bool {
        self.active > 0
    }

    /// Whether any member takes an event now.
    pub(crate) fn any_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// The member itself if it is known, else another one, rather one that stays.
    pub(crate) fn this_or_any(&self, member: M) -> Option<M> {
        if self.all.contains_key(&member) {
            return Some(member);
        }
        let stays = self.all.iter().find(|(_, it)| !it.leaving).map(|(key, _)| *key);
        stays.or_else(|| self.all.keys().next().copied())
    }

    pub(crate) fn add(&mut self, member: M, concurrency: usize) {
        self.turns += 1;
        let new =
            Member { concurrency: concurrency.max(1), held: 0, turn: self.turns, leaving: false };
        self.free.insert(Rank::of(member, &new));
        self.all.insert(member, new);
        self.active += 1;
    }

    /// No new events for it; forgotten at once if it holds none. Gives whether it is still known.
    pub(crate) fn retire(&mut self, member: M) -> bool {
        let Some(it) = self.all.get_mut(&member) else { return false };
        if !it.leaving {
            self.free.remove(&Rank::of(member, it));
            it.leaving = true;
            self.active -= 1;
        }
        if it.held == 0 {
            self.all.remove(&member);
            return false;
        }
        true
    }

    /// Forgets it, whatever it holds.
    pub(crate) fn remove(&mut self, member: M) {
        let Some(it) = self.all.remove(&member) else { return };
        self.free.remove(&Rank::of(member, &it));
        if !it.leaving {
            self.active -= 1;
        }
    }

    /// Chooses who gets the next event and counts it as held: the least loaded, of those equally
    /// loaded the one that waited longest for its turn. `avoid` gets it only if nobody else is
    /// free.
    pub(crate) fn choose(&mut self, avoid: Option<M>) -> Option<M> {
        let wanted = self.free.iter().find(|rank| Some(rank.member) != avoid);
        let rank = *wanted.or_else(|| self.free.first())?;
        self.free.remove(&rank);
        self.turns += 1;
        if let Some(it) = self.all.get_mut(&rank.member) {
            it.held += 1;
            it.turn = self.turns;
            if it.held < it.concurrency {
                self.free.insert(Rank::of(rank.member, it));
            }
        }
        Some(rank.member)
    }

    /// Takes one event off what the member holds, and forgets one that was leaving and holds no
    /// more. Gives whether it is still known.
    pub(crate) fn unload(&mut self, member: M) -> bool {
        let Some(it) = self.all.get_mut(&member) else { return false };
        self.free.remove(&Rank::of(member, it));
        it.held -= 1;
        if !it.leaving {
            self.free.insert(Rank::of(member, it));
        } else if it.held == 0 {
            self.all.remove(&member);
            return false;
        }
        true
    }
}

/// The order in which members are chosen.
#[derive(Debug, Clone, Copy)]
struct Rank<M> {
    held: usize,
    concurrency: usize,
    turn: u64,
    member: M,
}

impl<M: Copy> Rank<M> {
    fn of(member: M, it: &Member) -> Self {
        Self { held: it.held, concurrency: it.concurrency, turn: it.turn, member }
    }
}

impl<M: Ord> Ord for Rank<M> {
    fn cmp(&self, other: &Self) -> Ordering {
        // held / concurrency, compared exactly.
        let load = |a: &Self, b: &Self| a.held as u128 * b.concurrency as u128;
        load(self, other)
            .cmp(&load(other, self))
            .then_with(|| self.turn.cmp(&other.turn))
            .then_with(|| self.member.cmp(&other.member))
    }
}

impl<M: Ord> PartialOrd for Rank<M> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<M: Ord> PartialEq for Rank<M> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<M: Ord> Eq for Rank<M> {}
