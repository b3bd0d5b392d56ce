//! Any program of publishes, reads and subscriptions on one topic, against plain lists that say what
//! each stream should hold.

use busway::{Bus, EventStream, Overflow, PublishError};
use futures::FutureExt;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop};
use proptest::{prop_oneof, proptest};

use crate::events::Numbered;

/// One step of a program on one topic.
#[derive(Debug, Clone)]
enum Step {
    Publish,
    PublishTo(bool),
    Read(usize, u8),
    Drop(usize),
    Subscribe(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => Just(Step::Publish),
        2 => any::<bool>().prop_map(Step::PublishTo),
        4 => (0..6usize, 1..5u8).prop_map(|(who, count)| Step::Read(who, count)),
        1 => (0..6usize).prop_map(Step::Drop),
        2 => (1..5u8, 0..5u8).prop_map(|(capacity, overflow)| Step::Subscribe(capacity, overflow)),
    ]
}

const POLICIES: [Overflow; 5] =
    [Overflow::Wait, Overflow::DropOldest, Overflow::DropNewest, Overflow::Fail, Overflow::Latest];

/// What a stream should hold, as a plain list: events, and gaps as negative counts.
struct Model {
    stream: EventStream<Numbered>,
    at_a: bool,
    capacity: usize,
    overflow: Overflow,
    holds: Vec<i64>,
    arrived: u64,
}

impl Model {
    fn events(&self) -> usize {
        self.holds.iter().filter(|item| **item >= 0).count()
    }

    /// Whether it is in the way of an event, addressed or not. (Who waits for everything has room
    /// for both kinds each.)
    fn is_full(&self, addressed: &[bool], to_one: bool) -> bool {
        let kind = |item: &&i64| usize::try_from(**item).is_ok_and(|n| addressed[n] == to_one);
        match self.overflow {
            Overflow::Wait => self.holds.iter().filter(kind).count() >= self.capacity,
            Overflow::Fail => self.events() >= self.capacity,
            _ => false,
        }
    }

    fn gap(&mut self, at: usize) {
        if at > 0 && self.holds[at - 1] < 0 {
            self.holds[at - 1] -= 1;
            if self.holds.get(at).is_some_and(|next| *next < 0) {
                let next = self.holds.remove(at);
                self.holds[at - 1] += next;
            }
        } else if self.holds.get(at).is_some_and(|next| *next < 0) {
            self.holds[at] -= 1;
        } else {
            self.holds.insert(at, -1);
        }
    }

    fn put(&mut self, n: u32) {
        self.arrived += 1;
        if self.overflow != Overflow::Wait && self.events() >= self.capacity {
            let oldest = self.holds.iter().position(|item| *item >= 0);
            match (self.overflow, oldest) {
                (Overflow::DropNewest, _) => return self.gap(self.holds.len()),
                (Overflow::Latest, Some(at)) => drop(self.holds.remove(at)),
                (_, Some(at)) => {
                    self.holds.remove(at);
                    self.gap(at);
                }
                _ => {}
            }
        }
        self.holds.push(n.into());
    }

    fn read(&mut self) {
        let item = self.stream.next().now_or_never();
        let item = item.map(|item| match item.expect("open") {
            Ok(message) => i64::from(message.0),
            Err(gap) => -i64::try_from(gap.missed.expect("known")).expect("few"),
        });
        let expected = (!self.holds.is_empty()).then(|| self.holds.remove(0));
        assert_eq!(item, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is published to whom, and whoever reads, comes and goes: each stream holds what a
    /// plain list would, publishes fail exactly when one who waits is full, and name it, and no
    /// account is wrong.
    #[test]
    fn streams_hold_what_plain_lists_would(steps in prop::collection::vec(step(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let bus = Bus::builder().without_configuration().capacity(4).open().await.unwrap();
            let ends = [bus.endpoint("a").unwrap(), bus.endpoint("b").unwrap()];
            let mut models: Vec<Model> = Vec::new();
            let mut n = 0;
            let mut addressed = Vec::new();
            for step in steps {
                match step {
                    Step::Publish | Step::PublishTo(_) => {
                        let to = match step {
                            Step::PublishTo(a) => Some(a),
                            _ => None,
                        };
                        let takes = |model: &Model| to.is_none_or(|a| a == model.at_a);
                        let publish = ends[0].publish(Numbered(n));
                        let result = match to {
                            None => publish.try_now(),
                            Some(a) => publish.to(if a { "a" } else { "b" }).try_now(),
                        };
                        addressed.push(to.is_some());
                        let in_the_way = models
                            .iter()
                            .any(|model| takes(model) && model.is_full(&addressed, to.is_some()));
                        match result {
                            Ok(receipt) => {
                                assert!(!in_the_way, "there was no room");
                                let takers = models.iter().filter(|model| takes(model)).count();
                                assert_eq!(receipt.reached(), takers);
                                models.iter_mut().filter(|m| takes(m)).for_each(|m| m.put(n));
                            }
                            Err(error) => {
                                assert!(in_the_way, "there was room: {error}");
                                assert!(matches!(error.error, PublishError::Full { by: Some(_), .. }));
                                assert_eq!(error.event.0, n);
                            }
                        }
                        n += 1;
                    }
                    Step::Read(who, count) if !models.is_empty() => {
                        let who = who % models.len();
                        (0..count).for_each(|_| models[who].read());
                    }
                    Step::Drop(who) if !models.is_empty() => {
                        let who = who % models.len();
                        models.swap_remove(who);
                    }
                    Step::Subscribe(capacity, overflow) if models.len() < 6 => {
                        let overflow = POLICIES[overflow as usize];
                        let at_a = models.len().is_multiple_of(2);
                        let stream = ends[usize::from(!at_a)].stream::<Numbered>();
                        let stream = stream.capacity(capacity.into()).overflow(overflow);
                        let capacity = if overflow == Overflow::Latest { 1 } else { capacity.into() };
                        let stream = stream.await.unwrap();
                        let holds = Vec::new();
                        models.push(Model { stream, at_a, capacity, overflow, holds, arrived: 0 });
                    }
                    _ => {}
                }
                for model in &models {
                    let ledger = model.stream.ledger();
                    assert!(ledger.is_balanced(), "{ledger:?}");
                    assert_eq!(ledger.arrived, model.arrived);
                    assert_eq!(ledger.in_flight, model.events() as u64);
                }
            }
        });
    }
}
