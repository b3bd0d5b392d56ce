//! Groups that are ordered by key, and dead letters that are replayed.

use std::collections::HashMap;
use std::num::NonZeroU16;

use busway_transport::{GroupSpec, Letters, Outcome};
use proptest::prelude::*;

use super::{MS, Rig, event, failed, key, letter, number, refused, rig, spec};
use crate::{DeadLetters, Effect, Replay, Unplaced};

fn keyed(concurrency: usize) -> GroupSpec {
    let mut spec = spec("a/g@t", concurrency);
    spec.keyed = NonZeroU16::new(16);
    spec
}

fn keyed_rig(members: u32, concurrency: usize) -> Rig {
    let mut rig = Rig::new("t");
    for member in 1..=members {
        rig.join(member, &keyed(concurrency));
    }
    rig
}

#[test]
fn events_of_one_key_go_one_at_a_time_and_others_beside_them() {
    let mut rig = keyed_rig(2, 2);
    rig.publish(1..=4);
    rig.expect("1>1 2>2 3>1 4>2");
    // Told in any order; none goes before the older ones have their keys.
    rig.settle(2, 2, Outcome::Keyed(7));
    rig.settle(4, 2, Outcome::Keyed(8));
    rig.expect("");
    rig.settle(1, 1, Outcome::Keyed(7));
    rig.expect("1@7>2");
    rig.settle(3, 1, Outcome::Keyed(9));
    rig.expect("3@9>1 4@8>2");
    // 2 waits for 1, although there is room.
    rig.settle(3, 1, Outcome::Done);
    rig.expect("");
    rig.settle(1, 2, Outcome::Done);
    rig.expect("2@7>1");
}

#[test]
fn a_failing_key_waits_for_its_retry_in_place_and_blocks_no_other() {
    let mut rig = keyed_rig(1, 2);
    rig.publish(1..=3);
    rig.expect("1>1 2>1");
    rig.settle(1, 1, Outcome::Keyed(7));
    rig.settle(2, 1, Outcome::Keyed(7));
    rig.expect("1@7>1 3>1");
    rig.settle(3, 1, Outcome::Keyed(8));
    rig.settle(1, 1, failed());
    rig.expect("3@8>1");
    rig.pass(10 * MS);
    rig.expect("1@7.2>1");
    rig.settle(1, 1, failed());
    rig.pass(20 * MS);
    rig.expect("1@7.3>1");
    rig.settle(1, 1, failed());
    // Dead, and so its key goes on.
    rig.expect("1.3!error>1 2@7>1");
}

#[test]
fn a_dead_members_keys_go_to_others_in_order() {
    let mut rig = keyed_rig(2, 1);
    rig.publish([1]);
    rig.expect("1>1");
    rig.settle(1, 1, Outcome::Keyed(7));
    rig.expect("1@7>2");
    rig.publish([2]);
    rig.expect("2>1");
    rig.settle(2, 1, Outcome::Keyed(7));
    rig.lost(2);
    rig.expect("1@7.2>1");
    rig.settle(1, 1, Outcome::Done);
    rig.expect("2@7>1");
    // Handing back keeps the place as well.
    rig.publish([3]);
    rig.settle(2, 1, Outcome::HandBack);
    rig.expect("2@7>1");
}

#[test]
fn what_ends_without_a_key_holds_nothing_up() {
    let mut rig = keyed_rig(1, 3);
    rig.publish(1..=3);
    rig.expect("1>1 2>1 3>1");
    rig.settle(3, 1, Outcome::Keyed(7));
    rig.settle(1, 1, refused());
    rig.settle(2, 1, Outcome::Done);
    rig.expect("1.1!version>1 3@7>1");
    rig.settle(3, 1, Outcome::Done);
    assert_eq!(rig.engine.unsettled(), 0);
}

#[test]
fn a_letter_goes_back_under_its_id_and_is_listed_until_it_is_taken() {
    let group = key("a/g@t");
    let mut letters = DeadLetters::new(9);
    for number in [1, 2, 3] {
        letters.push(letter("a/g@t", number));
    }
    let mut rig = rig(0, 1);
    let id = event(2, &group.topic).id;
    let now = rig.now;
    assert_eq!(rig.engine.replay(&mut letters, &group, id, now), Err(Unplaced::NoGroup));
    let mut narrow = spec("a/g@t", 1);
    narrow.capacity = 2;
    rig.join(1, &narrow);
    assert_eq!(rig.engine.replay(&mut letters, &group, id, now), Ok(true));
    assert_eq!(rig.engine.replay(&mut letters, &group, id, now), Ok(false), "listed no longer");
    rig.expect("2>1");
    rig.settle(2, 1, refused());
    let Some(Effect::DeadLetter { letter, .. }) = rig.engine.poll_effect() else { panic!() };
    assert!(letter.first_attempt.is_some() && letter.last_attempt <= Some(letter.at));
    letters.push(letter);

    // All, as there is room; what dies anew meanwhile is not replayed twice.
    let mut replay = Replay::new(&letters, &group, Letters::All);
    assert_eq!(replay.go_on(&mut rig.engine, &mut letters, now).unwrap(), None);
    rig.expect("1>1");
    assert_eq!(letters.len(), 1);
    rig.settle(1, 1, refused());
    while let Some(effect) = rig.engine.poll_effect() {
        if let Effect::DeadLetter { letter, .. } = effect {
            letters.push(letter);
        }
    }
    assert_eq!(replay.go_on(&mut rig.engine, &mut letters, now).unwrap(), Some(3));
    let left: Vec<_> = letters.list(&group).map(|letter| number(letter.envelope.id)).collect();
    assert_eq!(left, [1]);
    assert_eq!(letters.purge(&group, Letters::One(event(9, &group.topic).id)), 0);
    assert_eq!(letters.purge(&group, Letters::All), 1);
}

proptest! {
    /// Whatever members do, events of one key are never out together, and end in commit order.
    #[test]
    fn keys_keep_their_order(steps in prop::collection::vec((0_u8..6, 0_u64..4, 0_usize..8), 1..300)) {
        let mut rig = keyed_rig(2, 3);
        let (mut published, mut next_member) = (0, 3);
        let mut keys: HashMap<u64, u64> = HashMap::new();
        let mut out: Vec<(u32, crate::Tag, u64, Option<u64>)> = Vec::new();
        let mut ended: HashMap<u64, Vec<u64>> = HashMap::new();
        let mut members = vec![1, 2];
        for (step, key, pick) in steps {
            match step {
                0 | 1 => {
                    published += 1;
                    keys.insert(published, key);
                    rig.publish([published]);
                }
                2 | 3 if !out.is_empty() => {
                    let (member, tag, number, known) = out.remove(pick % out.len());
                    let outcome = match known {
                        None => Outcome::Keyed(keys[&number]),
                        Some(key) => {
                            ended.entry(key).or_default().push(number);
                            Outcome::Done
                        }
                    };
                    rig.engine.settle(member, tag, outcome, rig.now);
                }
                4 if !out.is_empty() => {
                    let (member, tag, ..) = out.remove(pick % out.len());
                    rig.engine.settle(member, tag, Outcome::HandBack, rig.now);
                }
                5 => {
                    let gone = members.remove(pick % members.len());
                    rig.join(next_member, &keyed(3));
                    members.push(next_member);
                    next_member += 1;
                    rig.lost(gone);
                    out.retain(|(member, ..)| *member != gone);
                }
                _ => {}
            }
            while let Some(effect) = rig.engine.poll_effect() {
                match effect {
                    Effect::Deliver { member, tag, envelope, key, .. } => {
                        let number = number(envelope.id);
                        if let Some(key) = key {
                            prop_assert_eq!(key, keys[&number]);
                            let beside = out.iter().any(|(.., other)| *other == Some(key));
                            prop_assert!(!beside, "{} beside another of key {}", number, key);
                        }
                        out.push((member, tag, number, key));
                    }
                    Effect::DeadLetter { letter, .. } => {
                        // Died with too many members.
                        keys.remove(&number(letter.envelope.id));
                    }
                    Effect::Lost { .. } | Effect::Room => {}
                }
            }
        }
        for (key, numbers) in ended {
            prop_assert!(numbers.is_sorted(), "key {}: {:?}", key, numbers);
        }
    }
}
