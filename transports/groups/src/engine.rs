//! The engine: finds the groups of a route, keeps the timers, collects the effects.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Instant;

use busway_transport::{
    DeadLetter, Envelope, GroupKey, GroupSpec, MessageId, Outcome, Party, Route, Topic,
};

use crate::dead_letters::{DeadLetters, Unplaced};
use crate::effect::{Effect, Tag};
use crate::group::{Group, GroupId};
use crate::members::MemberKey;
use crate::reservation::Reservation;

/// The group engine of one hub, or of one publisher in a mesh. See the [crate] for how it is
/// driven.
///
/// # What holds
/// * Every committed event is, in each group it was committed to, at every moment exactly one of:
///   owed (waiting, delivered to one member, waiting for a retry), done, a dead letter, lost.
/// * A member has at most its concurrency unsettled.
/// * First attempts are handed out in commit order; a retry whose time has come goes before them.
/// * In a group with keys the events of one key are handed out in commit order and one at a time,
///   whoever has them: the next goes when the one before it is done or dead.
/// * A group owes at most its capacity, promised room included; see [`commit`](Self::commit) for
///   the one exception.
/// * Settling, delivering and committing cost the logarithm of what a group owes.
#[derive(Debug)]
pub struct Engine<M> {
    groups: HashMap<GroupId, Group<M>>,
    by_key: HashMap<GroupKey, GroupId>,
    /// In the order the groups appeared.
    by_topic: HashMap<Topic, Vec<GroupId>>,
    /// Every member that some group knows, leaving ones included.
    members: HashMap<M, GroupId>,
    /// One entry per group that waits for a time: its `timer`.
    timers: BTreeSet<(Instant, GroupId)>,
    /// Groups that may have something to hand out, each once: those that are `listed`. Deliveries
    /// are made when they are polled, so that none goes to a member that has gone meanwhile.
    ready: VecDeque<GroupId>,
    /// Effects to be polled: letters with the member whose attempt was the last, lost events, and
    /// whether there is news of room.
    dead: VecDeque<(DeadLetter, M)>,
    lost: VecDeque<(GroupKey, u64)>,
    room: bool,
    last_group: u64,
    last_tag: u64,
    /// The latest time that was told: that of deliveries, which are made when they are polled.
    now: Option<Instant>,
}

impl<M: MemberKey> Default for Engine<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M: MemberKey> Engine<M> {
    /// An engine without groups.
    pub fn new() -> Self {
        Self {
            groups: HashMap::new(),
            by_key: HashMap::new(),
            by_topic: HashMap::new(),
            members: HashMap::new(),
            timers: BTreeSet::new(),
            ready: VecDeque::new(),
            dead: VecDeque::new(),
            lost: VecDeque::new(),
            room: false,
            last_group: 0,
            last_tag: 0,
            now: None,
        }
    }

    /// Adds a member to the group of `spec`, which appears if it is not known. The newest member's
    /// retry, capacity and hold are the group's from now on (a retry that is under way keeps its
    /// time); concurrency is each member's own. Capacity and concurrency are at least 1.
    ///
    /// A key that is known, here or in another group, is replaced: the old membership is
    /// [`lost`](Self::lost).
    pub fn join(&mut self, member: M, spec: &GroupSpec, now: Instant) {
        self.lost(member, now);
        let id = match self.by_key.get(&spec.key) {
            Some(id) => *id,
            None => {
                self.last_group += 1;
                let id = GroupId(self.last_group);
                self.groups.insert(id, Group::new(spec));
                self.by_key.insert(spec.key.clone(), id);
                self.by_topic.entry(spec.key.topic.clone()).or_default().push(id);
                id
            }
        };
        if let Some(group) = self.groups.get_mut(&id) {
            group.join(member, spec);
        }
        self.members.insert(member, id);
        self.touch(id, now);
    }

    /// The member leaves in order: it gets nothing new, and what it holds stays its to settle. It
    /// is forgotten when it has settled all.
    ///
    /// With the last member to leave so, a group that owes nothing vanishes at once: that is how a
    /// group is given up, and promised room in it is void. If events are owed, it is held as after
    /// [`lost`](Self::lost).
    pub fn leave(&mut self, member: M, now: Instant) {
        let Some(&id) = self.members.get(&member) else { return };
        let Some(group) = self.groups.get_mut(&id) else { return };
        if !group.members.retire(member) {
            self.members.remove(&member);
            self.member_gone(id, true, now);
        }
    }

    /// The member died. What it held counts as a failed attempt: it goes to another member at
    /// once, without back-off, or, if that was the last attempt, becomes a dead letter.
    ///
    /// A group whose last member died is held for its `hold`, with or without events: what is
    /// committed meanwhile waits for a member. Then it vanishes, and what it owes is
    /// [lost](Effect::Lost).
    pub fn lost(&mut self, member: M, now: Instant) {
        let Some(id) = self.members.remove(&member) else { return };
        let Some(group) = self.groups.get_mut(&id) else { return };
        let letters = group.lose(member, now);
        self.dead.extend(letters.into_iter().map(|letter| (letter, member)));
        self.member_gone(id, false, now);
    }

    /// Whether any known group takes such an event, also one that has no member at present.
    pub fn interested(&self, route: &Route) -> bool {
        self.matching(route).next().is_some()
    }

    /// Promises room for one event in every group that takes it, in all or none.
    ///
    /// # Errors
    /// The first group that has no room. [`Effect::Room`] tells when it has.
    pub fn try_reserve(&mut self, route: &Route) -> Result<Reservation, Party> {
        let groups: Vec<_> = self.matching(route).collect();
        for id in &groups {
            if let Some(group) = self.groups.get_mut(id)
                && !group.has_room()
            {
                group.turned_away = true;
                return Err(group.party());
            }
        }
        for id in &groups {
            if let Some(group) = self.groups.get_mut(id) {
                group.reserved += 1;
            }
        }
        Ok(Reservation { route: route.clone(), groups })
    }

    /// Hands an event over, and gives the groups that took it: all that are known now.
    ///
    /// A group that vanished since the reservation is not among them. One that appeared since is
    /// (its member may rely on everything published after its `join` returned) and may so be
    /// filled beyond its capacity: by at most one event per reservation that was open when it
    /// appeared.
    pub fn commit(
        &mut self,
        reservation: Reservation,
        envelope: Envelope,
        now: Instant,
    ) -> Vec<Party> {
        let Reservation { route, groups: reserved } = reservation;
        let groups: Vec<_> = self.matching(&route).collect();
        let mut parties = Vec::with_capacity(groups.len());
        let mut envelope = Some(envelope);
        for (n, id) in groups.iter().enumerate() {
            let last = n + 1 == groups.len();
            let copy = if last { envelope.take() } else { envelope.clone() };
            if let Some(group) = self.groups.get_mut(id)
                && let Some(copy) = copy
            {
                if reserved.contains(id) {
                    group.reserved -= 1;
                }
                group.queue.push(copy);
                parties.push(group.party());
            }
            self.touch(*id, now);
        }
        parties
    }

    /// Gives a dead letter back to its group: a new event under its old id, its attempts counted
    /// from 1. The letter is taken out only if the group has room. Gives whether it was there.
    ///
    /// # Errors
    /// [`Unplaced`]: the letter stays where it is. When it was for lack of room,
    /// [`Effect::Room`] tells when there is some.
    pub fn replay(
        &mut self,
        letters: &mut DeadLetters,
        group: &GroupKey,
        id: MessageId,
        now: Instant,
    ) -> Result<bool, Unplaced> {
        if letters.get(group, id).is_none() {
            return Ok(false);
        }
        let number = *self.by_key.get(group).ok_or(Unplaced::NoGroup)?;
        let known = self.groups.get_mut(&number).ok_or(Unplaced::NoGroup)?;
        if !known.has_room() {
            known.turned_away = true;
            return Err(Unplaced::Full(known.party()));
        }
        if let Some(letter) = letters.remove(group, id) {
            known.queue.push(letter.envelope);
        }
        self.touch(number, now);
        Ok(true)
    }

    /// Gives promised room back.
    pub fn release(&mut self, reservation: Reservation) {
        for id in reservation.groups {
            if let Some(group) = self.groups.get_mut(&id) {
                group.reserved -= 1;
                self.room |= group.tell_room();
            }
        }
    }

    /// Ends a delivery. Unknown and repeated tags, and those of another member, are ignored: late
    /// settlements harm nothing.
    ///
    /// What was handed back keeps its attempt and its place, and goes rather to another member; if
    /// none is free, to the same one again and at once. A member that hands back because it wants
    /// no more must therefore [`leave`](Self::leave) first.
    pub fn settle(&mut self, member: M, tag: Tag, outcome: Outcome, now: Instant) {
        let Some(&id) = self.members.get(&member) else { return };
        let Some(group) = self.groups.get_mut(&id) else { return };
        let Some(settled) = group.settle(member, tag, outcome, now) else { return };
        self.dead.extend(settled.letter.map(|letter| (letter, member)));
        if settled.member_known {
            self.touch(id, now);
        } else {
            self.members.remove(&member);
            self.member_gone(id, true, now);
        }
    }

    /// The next thing to do. Poll until there is none, after every other call.
    pub fn poll_effect(&mut self) -> Option<Effect<M>> {
        if let Some((letter, last)) = self.dead.pop_front() {
            let group = self.by_key.get(&letter.group).and_then(|id| self.groups.get(id));
            let member = group.and_then(|group| group.members.this_or_any(last));
            return Some(Effect::DeadLetter { letter, member });
        }
        if let Some((group, missed)) = self.lost.pop_front() {
            return Some(Effect::Lost { group, missed });
        }
        if std::mem::take(&mut self.room) {
            return Some(Effect::Room);
        }
        while let Some(id) = self.ready.pop_front() {
            let Some(group) = self.groups.get_mut(&id) else { continue };
            let tag = Tag(self.last_tag + 1);
            let Some(deliver) = self.now.and_then(|now| group.deliver(tag, now)) else {
                group.listed = false;
                continue;
            };
            self.last_tag += 1;
            // To the back of the list: groups take turns.
            self.ready.push_back(id);
            return Some(deliver);
        }
        None
    }

    /// When [`handle_timeout`](Self::handle_timeout) has to be called, at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Does what is due: retries, and the end of groups that were held too long. Too early a call
    /// does nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, id)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            let Some(group) = self.groups.get_mut(&id) else { continue };
            group.timer = None;
            if !group.is_expired(now) {
                self.touch(id, now);
            } else if let Some(group) = self.remove(id)
                && group.len() > 0
            {
                self.lost.push_back((group.key.clone(), group.len() as u64));
            }
        }
    }

    /// How many events members are there for: waiting for one of them, delivered, or waiting for
    /// a retry. Flushing waits until there are none. An event counts once per group.
    pub fn unsettled(&self) -> usize {
        self.groups.values().map(Group::unsettled).sum()
    }

    /// How many events wait for a group's next member to come. An event counts once per group.
    pub fn held(&self) -> usize {
        self.groups.values().map(Group::held).sum()
    }

    /// Forgets all groups and members, for an owner that closes, and gives what is lost with it:
    /// per group the events that no member has at present. What is delivered is up to the members
    /// that have it; how they settle it is ignored. Effects that are not deliveries stay to be
    /// polled.
    pub fn clear(&mut self) -> Vec<(GroupKey, u64)> {
        let mut lost: Vec<_> = self
            .groups
            .drain()
            .map(|(_, group)| {
                self.room |= group.turned_away;
                let waiting = group.queue.len() as u64;
                (group.key, waiting)
            })
            .filter(|(_, missed)| *missed > 0)
            .collect();
        lost.sort_unstable();
        self.by_key.clear();
        self.by_topic.clear();
        self.members.clear();
        self.timers.clear();
        self.ready.clear();
        lost
    }

    /// The groups that take such an event.
    fn matching(&self, route: &Route) -> impl Iterator<Item = GroupId> {
        let ids = self.by_topic.get(&route.topic).map_or(&[][..], Vec::as_slice);
        ids.iter().copied().filter(|id| {
            let Some(to) = &route.to else { return true };
            self.groups.get(id).is_some_and(|group| group.key.endpoint == *to)
        })
    }

    /// After a member went: the group goes with it or is held.
    fn member_gone(&mut self, id: GroupId, orderly: bool, now: Instant) {
        if self.groups.get_mut(&id).is_some_and(|group| group.member_gone(orderly, now)) {
            self.remove(id);
        } else {
            self.touch(id, now);
        }
    }

    /// Brings everything that is derived from a group up to date. Called after every change to it.
    fn touch(&mut self, id: GroupId, now: Instant) {
        self.now = Some(now);
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.queue.wake(now);
        self.room |= group.tell_room();
        if group.can_deliver() && !group.listed {
            group.listed = true;
            self.ready.push_back(id);
        }
        let timer = group.next_timeout();
        if timer != group.timer {
            let old = std::mem::replace(&mut group.timer, timer);
            if let Some(at) = old {
                self.timers.remove(&(at, id));
            }
            if let Some(at) = timer {
                self.timers.insert((at, id));
            }
        }
    }

    /// Forgets a group that has no members and no timer: either that has just fired, or the group
    /// was never held and owes nothing.
    fn remove(&mut self, id: GroupId) -> Option<Group<M>> {
        let group = self.groups.remove(&id)?;
        debug_assert!(group.members.is_empty() && group.timer.is_none());
        self.room |= group.turned_away;
        self.by_key.remove(&group.key);
        if let Some(ids) = self.by_topic.get_mut(&group.key.topic) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_topic.remove(&group.key.topic);
            }
        }
        Some(group)
    }
}
