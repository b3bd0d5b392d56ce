//! Tests: the rules by example (`deliveries`, `memberships`, `room`, `store`), and by random
//! histories (`ledger`).

mod deliveries;
mod keys;
mod ledger;
mod memberships;
mod room;
mod steps;
mod store;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use busway_transport::{
    ContentType, DeadLetter, DeadReason, Envelope, Failure, GroupKey, GroupSpec, MessageId, Name,
    Outcome, Party, Payload, PeerId, Retry, Route, Source, Topic,
};

use crate::{Effect, Engine, Reservation, Tag};

pub(crate) const MS: Duration = Duration::from_millis(1);

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// `endpoint/group@topic`.
pub(crate) fn key(text: &str) -> GroupKey {
    let (names, topic) = text.split_once('@').unwrap();
    let (endpoint, group) = names.split_once('/').unwrap();
    GroupKey { endpoint: name(endpoint), group: name(group), topic: Topic::new(topic).unwrap() }
}

/// A group with 10 ms and 20 ms between its three attempts, held for 1 s.
pub(crate) fn spec(group: &str, concurrency: usize) -> GroupSpec {
    let mut spec = GroupSpec::new(key(group));
    spec.concurrency = concurrency;
    spec.retry = Retry::exponential(10 * MS, 1000 * MS).attempts(3);
    spec.hold = 1000 * MS;
    spec
}

pub(crate) fn route(topic: &str) -> Route {
    Route::new(Topic::new(topic).unwrap(), None)
}

pub(crate) fn event(number: u64, topic: &Topic) -> Envelope {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    let source = Source { endpoint: name("shop"), peer: PeerId::from_u64(1) };
    let payload = Payload::encoded(ContentType::JSON, "{}");
    Envelope::new(MessageId::from_bytes(id), topic.clone(), source, payload)
}

pub(crate) fn number(id: MessageId) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&id.as_bytes()[8..]);
    u64::from_be_bytes(bytes)
}

pub(crate) fn failed() -> Outcome {
    Outcome::Failed(Failure::new(DeadReason::Error, "no"))
}

pub(crate) fn refused() -> Outcome {
    Outcome::Refused(Failure::new(DeadReason::Version, "no"))
}

pub(crate) fn letter(group: &str, number: u64) -> DeadLetter {
    let key = key(group);
    let envelope = event(number, &key.topic);
    DeadLetter::new(key, envelope, 1, Failure::new(DeadReason::Error, "no"))
}

/// An engine with a clock that the test moves, and effects as text:
///
/// * `3>1` event 3 is delivered to member 1, for the first time; `3.2>1` for the second attempt
/// * `3.2!error>1` event 3 is a dead letter after two attempts, to be kept by member 1 (`-`: here)
/// * `3@7>1` event 3 is delivered in the turn of its key 7
/// * `lost2`, `room`
pub(crate) struct Rig {
    pub(crate) engine: Engine<u32>,
    pub(crate) now: Instant,
    start: Instant,
    topic: &'static str,
    tags: HashMap<(u64, u32), Tag>,
}

impl Rig {
    /// Everything is published to `topic`.
    pub(crate) fn new(topic: &'static str) -> Self {
        let now = Instant::now();
        Self { engine: Engine::new(), now, start: now, topic, tags: HashMap::new() }
    }

    pub(crate) fn join(&mut self, member: u32, spec: &GroupSpec) {
        self.engine.join(member, spec, self.now);
    }

    pub(crate) fn leave(&mut self, member: u32) {
        self.engine.leave(member, self.now);
    }

    pub(crate) fn lost(&mut self, member: u32) {
        self.engine.lost(member, self.now);
    }

    pub(crate) fn reserve(&mut self) -> Result<Reservation, Party> {
        self.engine.try_reserve(&route(self.topic))
    }

    pub(crate) fn commit(&mut self, reservation: Reservation, number: u64) -> Vec<String> {
        let envelope = event(number, &Topic::new(self.topic).unwrap());
        let parties = self.engine.commit(reservation, envelope, self.now);
        parties.iter().map(|party| party.group.as_ref().unwrap().to_string()).collect()
    }

    pub(crate) fn publish(&mut self, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            let reservation = self.reserve().unwrap();
            self.commit(reservation, number);
        }
    }

    pub(crate) fn settle(&mut self, number: u64, member: u32, outcome: Outcome) {
        let tag = self.tags[&(number, member)];
        self.engine.settle(member, tag, outcome, self.now);
    }

    /// Lets time pass, from timer to timer.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.engine.poll_timeout().filter(|at| *at <= end) {
            assert!(at >= self.now, "a timer in the past");
            self.now = at;
            self.engine.handle_timeout(at);
        }
        self.now = end;
    }

    /// The next timer, in milliseconds from the start.
    pub(crate) fn timer(&self) -> Option<u128> {
        self.engine.poll_timeout().map(|at| (at - self.start).as_millis())
    }

    /// All effects up to now.
    #[track_caller]
    pub(crate) fn expect(&mut self, expected: &str) {
        let mut seen = Vec::new();
        while let Some(effect) = self.engine.poll_effect() {
            seen.push(match effect {
                Effect::Deliver { member, tag, envelope, attempt, key } => {
                    let number = number(envelope.id);
                    self.tags.insert((number, member), tag);
                    let key = key.map_or_else(String::new, |key| format!("@{key}"));
                    match attempt {
                        1 => format!("{number}{key}>{member}"),
                        _ => format!("{number}{key}.{attempt}>{member}"),
                    }
                }
                Effect::DeadLetter { letter, member } => format!(
                    "{}.{}!{}>{}",
                    number(letter.envelope.id),
                    letter.attempts,
                    letter.failure.reason,
                    member.map_or("-".to_owned(), |member| member.to_string()),
                ),
                Effect::Lost { missed, .. } => format!("lost{missed}"),
                Effect::Room => "room".to_owned(),
            });
        }
        assert_eq!(seen.join(" "), expected);
    }
}

/// A rig with members 1 to `members` of one group, each of the given concurrency.
pub(crate) fn rig(members: u32, concurrency: usize) -> Rig {
    let mut rig = Rig::new("t");
    for member in 1..=members {
        rig.join(member, &spec("a/g@t", concurrency));
    }
    rig
}
