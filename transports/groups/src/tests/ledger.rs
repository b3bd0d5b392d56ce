//! Random histories against a ledger: a plain reading of the rules that looks at everything each
//! time. It says which effects may come; every event must end exactly once in every group.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use busway_transport::{DeadReason, Outcome, Party, Retry, Route};
use proptest::prelude::*;

use super::steps::{How, SOLO, Step, step};
use super::{MS, event, failed, key, name, number, refused, spec};
use crate::{Effect, Engine, Reservation, Tag};

const GROUPS: [&str; 3] = ["a/g@t", "b/h@t", "a/k@u"];
const CAPACITY: usize = 5;
const ATTEMPTS: u32 = 3;
const DELAY: Duration = Duration::from_millis(10);
const HOLD: Duration = Duration::from_millis(50);

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn every_event_ends_once_in_every_group(steps in prop::collection::vec(step(), 1..150)) {
        let mut ledger = Ledger::new();
        for step in steps {
            ledger.step(step);
            ledger.check();
        }
        ledger.finish();
    }
}

/// What a group owes.
#[derive(Debug, Clone, Copy)]
enum State {
    Waiting { from: Option<Instant>, avoid: Option<u32> },
    Delivered { member: u32, tag: Tag },
}

#[derive(Debug)]
struct Owed {
    state: State,
    attempt: u32,
    handed_out: bool,
}

#[derive(Debug, Default)]
struct Group {
    known: bool,
    expires: Option<Instant>,
    /// Reservations that were open when it appeared, and may therefore overfill it.
    late: usize,
    /// By number, which rises from commit to commit.
    owed: BTreeMap<u64, Owed>,
    /// The attempts and reason of letters that must come.
    dying: BTreeMap<u64, (u32, DeadReason)>,
    /// Counts its lives.
    life: u32,
    last_first_attempt: u64,
    turned_away: bool,
}

#[derive(Debug)]
struct Member {
    group: usize,
    concurrency: usize,
    leaving: bool,
}

struct Ledger {
    engine: Engine<u32>,
    now: Instant,
    groups: [Group; 3],
    members: BTreeMap<u32, Member>,
    /// With the groups, and their lives, in which there is room.
    open: Vec<(Reservation, Vec<(usize, u32)>)>,
    published: u64,
    committed: usize,
    /// Ends of each event in each group.
    ended: BTreeSet<(usize, u64)>,
}

fn matches(group: usize, route: &Route) -> bool {
    let key = key(GROUPS[group]);
    key.topic == route.topic && route.to.as_ref().is_none_or(|to| *to == key.endpoint)
}

impl Ledger {
    fn new() -> Self {
        Self {
            engine: Engine::new(),
            now: Instant::now(),
            groups: Default::default(),
            members: BTreeMap::new(),
            open: Vec::new(),
            published: 0,
            committed: 0,
            ended: BTreeSet::new(),
        }
    }

    fn load(&self, member: u32) -> usize {
        let group = &self.groups[self.members[&member].group];
        let mine =
            |owed: &&Owed| matches!(owed.state, State::Delivered { member: m, .. } if m == member);
        group.owed.values().filter(mine).count()
    }

    /// Members that may get another event of the group.
    fn free(&self, group: usize) -> Vec<u32> {
        let free = |(key, it): &(&u32, &Member)| {
            it.group == group && !it.leaving && self.load(**key) < it.concurrency
        };
        self.members.iter().filter(free).map(|(key, _)| *key).collect()
    }

    /// Known groups that take such an event.
    fn takers(&self, route: &Route) -> Vec<usize> {
        (0..GROUPS.len()).filter(|it| self.groups[*it].known && matches(*it, route)).collect()
    }

    fn used(&self, group: usize) -> usize {
        let life = (group, self.groups[group].life);
        let promised = self.open.iter().filter(|(_, groups)| groups.contains(&life)).count();
        self.groups[group].owed.len() + promised
    }

    fn end(&mut self, group: usize, number: u64) {
        assert!(self.ended.insert((group, number)), "{number} ended twice in {}", GROUPS[group]);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Join { member, group, concurrency } => self.join(member, group, concurrency),
            Step::Leave(member) => {
                self.engine.leave(member, self.now);
                if let Some(it) = self.members.get_mut(&member) {
                    it.leaving = true;
                    self.forget_if_idle(member);
                }
            }
            Step::Lost(member) => {
                self.engine.lost(member, self.now);
                self.lost(member);
            }
            Step::Reserve { topic, to } => self.reserve(topic, to),
            Step::Commit(which) if !self.open.is_empty() => {
                let open = self.open.remove(which.index(self.open.len()));
                self.commit(open.0);
            }
            Step::Release(which) if !self.open.is_empty() => {
                let open = self.open.remove(which.index(self.open.len()));
                self.engine.release(open.0);
            }
            Step::Settle { which, how } => {
                let delivered = self.delivered();
                if !delivered.is_empty() {
                    let (group, number) = delivered[which.index(delivered.len())];
                    self.settle(group, number, how);
                }
            }
            Step::Stray { member, tag } => {
                let holds = self.groups.iter().flat_map(|group| group.owed.values()).any(|owed| {
                    matches!(owed.state, State::Delivered { member: m, tag: t }
                        if m == member && t.0 == tag)
                });
                if !holds {
                    self.engine.settle(member, Tag(tag), Outcome::Done, self.now);
                }
            }
            Step::Pass(ms) => {
                self.poll();
                self.now += u32::try_from(ms).unwrap() * MS;
                self.engine.handle_timeout(self.now);
                self.poll();
            }
            Step::Poll => self.poll(),
            Step::Commit(_) | Step::Release(_) => {}
        }
    }

    fn join(&mut self, member: u32, group: usize, concurrency: usize) {
        let mut spec = spec(GROUPS[group], concurrency);
        (spec.capacity, spec.hold) = (CAPACITY, HOLD);
        spec.retry = Retry::fixed(DELAY).attempts(ATTEMPTS);
        self.engine.join(member, &spec, self.now);
        self.lost(member);
        let late = self.open.iter().filter(|(open, _)| matches(group, open.route())).count();
        let it = &mut self.groups[group];
        if !it.known {
            let life = it.life + 1;
            let dying = std::mem::take(&mut it.dying);
            *it = Group { known: true, late, life, dying, ..Group::default() };
        }
        it.expires = None;
        self.members.insert(member, Member { group, concurrency, leaving: false });
    }

    fn lost(&mut self, member: u32) {
        let Some(it) = self.members.remove(&member) else { return };
        let mut ends = Vec::new();
        for (number, owed) in &mut self.groups[it.group].owed {
            if !matches!(owed.state, State::Delivered { member: m, .. } if m == member) {
                continue;
            }
            owed.state = State::Waiting { from: None, avoid: None };
            if owed.attempt == ATTEMPTS {
                ends.push(*number);
            } else {
                owed.attempt += 1;
            }
        }
        for number in ends {
            self.bury(it.group, number, DeadReason::Lost);
        }
        self.member_gone(it.group, false);
    }

    fn bury(&mut self, group: usize, number: u64, reason: DeadReason) {
        let owed = self.groups[group].owed.remove(&number).unwrap();
        self.groups[group].dying.insert(number, (owed.attempt, reason));
    }

    fn forget_if_idle(&mut self, member: u32) {
        if self.members[&member].leaving && self.load(member) == 0 {
            let group = self.members.remove(&member).unwrap().group;
            self.member_gone(group, true);
        }
    }

    fn member_gone(&mut self, group: usize, orderly: bool) {
        if self.members.values().any(|it| it.group == group) {
            return;
        }
        let it = &mut self.groups[group];
        if orderly && it.owed.is_empty() {
            it.known = false;
        } else {
            it.expires = Some(self.now + HOLD);
        }
    }

    fn reserve(&mut self, topic: &str, to: Option<&str>) {
        let route = Route::new(topic.parse().unwrap(), to.map(name));
        let matching = self.takers(&route);
        assert_eq!(self.engine.interested(&route), !matching.is_empty());
        match self.engine.try_reserve(&route) {
            Ok(reservation) => {
                assert!(matching.iter().all(|group| self.used(*group) < CAPACITY));
                assert_eq!(reservation.len(), matching.len());
                let lives = matching.iter().map(|it| (*it, self.groups[*it].life)).collect();
                self.open.push((reservation, lives));
            }
            Err(party) => {
                let full = |it: &&usize| Party::group(&key(GROUPS[**it])) == party;
                let group = *matching.iter().find(full).expect("a group of the route");
                assert!(self.used(group) >= CAPACITY);
                self.groups[group].turned_away = true;
            }
        }
    }

    fn commit(&mut self, reservation: Reservation) {
        self.published += 1;
        let route = reservation.route().clone();
        let envelope = event(self.published, &route.topic);
        let parties = self.engine.commit(reservation, envelope, self.now);
        let takers = self.takers(&route);
        assert_eq!(parties.len(), takers.len());
        self.committed += takers.len();
        for group in takers {
            assert!(parties.contains(&Party::group(&key(GROUPS[group]))));
            let state = State::Waiting { from: None, avoid: None };
            let owed = Owed { state, attempt: 1, handed_out: false };
            self.groups[group].owed.insert(self.published, owed);
        }
    }

    fn delivered(&self) -> Vec<(usize, u64)> {
        let mut delivered = Vec::new();
        for (n, group) in self.groups.iter().enumerate() {
            let out =
                group.owed.iter().filter(|(_, owed)| matches!(owed.state, State::Delivered { .. }));
            delivered.extend(out.map(|(number, _)| (n, *number)));
        }
        delivered
    }

    fn settle(&mut self, group: usize, number: u64, how: How) {
        let owed = self.groups[group].owed.get_mut(&number).unwrap();
        let State::Delivered { member, tag } = owed.state else { unreachable!() };
        let outcome = match how {
            How::Done => Outcome::Done,
            How::Failed => failed(),
            How::Refused => refused(),
            How::HandBack => Outcome::HandBack,
        };
        self.engine.settle(member, tag, outcome.clone(), self.now);
        self.engine.settle(member, tag, outcome, self.now); // a repeat
        match how {
            How::Done => {
                self.groups[group].owed.remove(&number);
                self.end(group, number);
            }
            How::Failed if owed.attempt < ATTEMPTS => {
                owed.attempt += 1;
                owed.state = State::Waiting { from: Some(self.now + DELAY), avoid: None };
            }
            How::Failed => self.bury(group, number, DeadReason::Error),
            How::Refused => self.bury(group, number, DeadReason::Version),
            How::HandBack => {
                owed.state = State::Waiting { from: None, avoid: Some(member) };
            }
        }
        self.forget_if_idle(member);
    }

    fn poll(&mut self) {
        let mut room = false;
        while let Some(effect) = self.engine.poll_effect() {
            match effect {
                Effect::Deliver { member, tag, envelope, attempt, .. } => {
                    self.deliver(member, tag, number(envelope.id), attempt);
                }
                Effect::DeadLetter { letter, member } => {
                    let number = number(letter.envelope.id);
                    let group = (0..3).find(|it| key(GROUPS[*it]) == letter.group).unwrap();
                    let expected = self.groups[group].dying.remove(&number);
                    assert_eq!(expected, Some((letter.attempts, letter.failure.reason)));
                    let mut living = self.members.iter().filter(|(_, it)| it.group == group);
                    match member {
                        Some(member) => assert_eq!(self.members[&member].group, group),
                        None => assert!(living.next().is_none()),
                    }
                    self.end(group, number);
                }
                Effect::Lost { group, missed } => {
                    let group = (0..3).find(|it| key(GROUPS[*it]) == group).unwrap();
                    let it = &mut self.groups[group];
                    assert!(it.expires.is_some_and(|at| at <= self.now));
                    it.known = false;
                    let lost = std::mem::take(&mut it.owed);
                    assert_eq!(lost.len() as u64, missed);
                    for (number, owed) in lost {
                        assert!(matches!(owed.state, State::Waiting { .. }));
                        self.end(group, number);
                    }
                }
                Effect::Room => room = true,
            }
        }
        for group in 0..3 {
            // Those that expired without events went without a word.
            let it = &mut self.groups[group];
            if it.expires.is_some_and(|at| at <= self.now) {
                assert!(it.owed.is_empty(), "its events were not told as lost");
                it.known = false;
            }
            if !it.known {
                it.expires = None;
            }
            assert!(it.dying.is_empty(), "letters that did not come");
            let has_room = !it.known || self.used(group) < CAPACITY;
            assert!(room || !has_room || !self.groups[group].turned_away, "room was not told");
            self.groups[group].turned_away &= !room;
            let ready = self.groups[group].owed.values().any(|owed| self.is_ready(owed));
            assert!(!ready || self.free(group).is_empty(), "work and hands, but nothing happens");
        }
    }

    fn is_ready(&self, owed: &Owed) -> bool {
        match owed.state {
            State::Waiting { from, .. } => from.is_none_or(|at| at <= self.now),
            State::Delivered { .. } => false,
        }
    }

    fn deliver(&mut self, member: u32, tag: Tag, number: u64, attempt: u32) {
        let group = self.members[&member].group;
        let owed = &self.groups[group].owed[&number];
        assert!(self.is_ready(owed), "delivered to two, or before its time");
        assert_eq!(owed.attempt, attempt);
        assert!(attempt <= ATTEMPTS);
        let State::Waiting { avoid, .. } = owed.state else { unreachable!() };

        let mut free = self.free(group);
        assert!(free.contains(&member), "left, or has enough");
        assert!(avoid != Some(member) || free.len() == 1, "another one should have it");
        free.retain(|other| Some(*other) != avoid);
        let busier = |a: u32, b: u32| {
            self.load(a) * self.members[&b].concurrency
                > self.load(b) * self.members[&a].concurrency
        };
        assert!(!free.iter().any(|other| busier(member, *other)), "not the least loaded");

        for (other, it) in &self.groups[group].owed {
            let ready = *other != number && self.is_ready(it);
            // Failed ones first, in each kind the older first.
            let before = (it.attempt == 1, *other) < (attempt == 1, number);
            assert!(!(ready && before), "{other} should go before {number}");
        }
        let it = &mut self.groups[group];
        if group == SOLO && attempt == 1 {
            assert!(it.last_first_attempt <= number, "first attempts out of order");
            it.last_first_attempt = number;
        }
        let owed = it.owed.get_mut(&number).unwrap();
        owed.state = State::Delivered { member, tag };
        owed.handed_out = true;
    }

    /// What must hold at any time.
    fn check(&self) {
        let mut unsettled = 0;
        let mut held = 0;
        let mut timers = BTreeSet::new();
        for (n, group) in self.groups.iter().enumerate() {
            assert!(self.used(n) <= CAPACITY + group.late);
            assert!(group.known || group.owed.is_empty());
            timers.extend(group.expires.filter(|_| group.known));
            let active = self.members.values().any(|it| it.group == n && !it.leaving);
            for owed in group.owed.values() {
                let out = matches!(owed.state, State::Delivered { .. });
                *(if active || out { &mut unsettled } else { &mut held }) += 1;
                assert!(owed.attempt == 1 || owed.handed_out);
                if let State::Waiting { from: Some(at), .. } = owed.state {
                    timers.extend(Some(at).filter(|at| *at > self.now));
                }
            }
        }
        assert_eq!((self.engine.unsettled(), self.engine.held()), (unsettled, held));
        assert_eq!(self.engine.poll_timeout(), timers.first().copied());
        let owed: usize = self.groups.iter().map(|it| it.owed.len() + it.dying.len()).sum();
        assert_eq!(self.committed, self.ended.len() + owed, "an event is nowhere, or twice");
    }

    /// Lets everything come to its end, and looks that nothing stays behind.
    fn finish(&mut self) {
        while let Some((reservation, _)) = self.open.pop() {
            self.engine.release(reservation);
        }
        while self.engine.unsettled() > 0 || !self.delivered().is_empty() {
            self.poll();
            for (group, number) in self.delivered() {
                self.settle(group, number, How::Failed);
            }
            self.check();
            self.step(Step::Pass(10));
        }
        for member in self.members.keys().copied().collect::<Vec<_>>() {
            self.step(Step::Leave(member));
        }
        self.step(Step::Pass(50));
        self.check();
        assert_eq!(self.engine.poll_timeout(), None);
        assert_eq!(self.committed, self.ended.len());
        for topic in ["t", "u"] {
            assert!(!self.engine.interested(&Route::new(topic.parse().unwrap(), None)));
        }
    }
}
