//! Room: when publishers have to wait, reservations, and the end.

use busway_transport::{ContentType, Outcome, Payload, Retry, Topic};

use super::{MS, Rig, event, failed, key, refused, rig, spec};
use crate::group::MOST_BYTES;

#[test]
fn capacity_bounds_all_that_a_group_owes() {
    let mut rig = Rig::new("t");
    let mut spec = spec("a/g@t", 1);
    spec.capacity = 3;
    rig.join(1, &spec);
    rig.publish(1..=2);
    rig.expect("1>1");
    rig.settle(1, 1, failed()); // one retrying, one delivered, one promised
    let reservation = rig.reserve().unwrap();
    let party = rig.reserve().unwrap_err();
    assert_eq!(party.to_string(), "a (group g)");
    rig.expect("2>1");
    rig.engine.release(reservation);
    rig.expect("room");
    let reservation = rig.reserve().unwrap();
    assert!(rig.reserve().is_err());
    rig.commit(reservation, 3);
    rig.expect("");
    rig.settle(2, 1, Outcome::Done);
    rig.expect("room 3>1");
    rig.settle(3, 1, Outcome::Done);
    rig.expect(""); // nobody was turned away since
}

#[test]
fn large_events_are_bounded_by_their_bytes() {
    let mut rig = rig(1, 1);
    for number in 1..=2 {
        let mut large = event(number, &Topic::new("t").unwrap());
        large.payload = Payload::encoded(ContentType::JSON, vec![b' '; MOST_BYTES / 2 + 1]);
        let reservation = rig.reserve().unwrap();
        rig.engine.commit(reservation, large, rig.now);
    }
    assert!(rig.reserve().is_err());
    rig.expect("1>1");
    rig.settle(1, 1, failed()); // still owed
    rig.expect("2>1");
    assert!(rig.reserve().is_err());
    rig.settle(2, 1, refused());
    rig.expect("2.1!version>1 room");
    rig.publish([3]);
    rig.expect("3>1");
}

#[test]
fn each_way_of_making_room_is_told() {
    type Step = fn(&mut Rig);
    let ways: [(&str, Step, &str); 6] = [
        ("done", |rig| rig.settle(1, 1, Outcome::Done), "room"),
        ("refused", |rig| rig.settle(1, 1, refused()), "1.1!version>1 room"),
        ("replaced", |rig| rig.join(1, &spec("a/g@u", 1)), "1.1!lost>- room"),
        ("died", |rig| rig.lost(1), "1.1!lost>- room"),
        ("roomier", |rig| rig.join(2, &spec("a/g@t", 1)), "room"),
        ("cleared", |rig| assert!(rig.engine.clear().is_empty()), "room"),
    ];
    for (way, step, expected) in ways {
        let mut rig = Rig::new("t");
        let mut small = spec("a/g@t", 1);
        (small.capacity, small.retry) = (1, Retry::none());
        rig.join(1, &small);
        rig.publish([1]);
        rig.expect("1>1");
        assert!(rig.reserve().is_err());
        rig.expect("");
        step(&mut rig);
        rig.expect(expected);
        assert!(rig.reserve().is_ok(), "{way}");
    }
}

#[test]
fn a_group_that_expires_or_is_given_up_stands_in_nobodys_way() {
    let mut rig = Rig::new("t");
    let mut small = spec("a/g@t", 1);
    small.capacity = 1;
    rig.join(1, &small);
    rig.publish([1]);
    rig.expect("1>1");
    rig.lost(1);
    assert!(rig.reserve().is_err());
    rig.pass(1000 * MS);
    rig.expect("lost1 room");
    rig.join(2, &small);
    let _promised = rig.reserve().unwrap();
    assert!(rig.reserve().is_err());
    rig.leave(2);
    rig.expect("room");
}

#[test]
fn room_is_taken_in_all_groups_or_none() {
    let mut rig = Rig::new("t");
    rig.join(1, &spec("a/g@t", 1));
    let mut small = spec("b/h@t", 1);
    small.capacity = 1;
    rig.join(2, &small);
    let first = rig.reserve().unwrap();
    assert_eq!(rig.reserve().unwrap_err().to_string(), "b (group h)");
    rig.engine.release(first);
    rig.leave(2);
    // Of the refused one nothing stayed in the other group.
    for _ in 0..1024 {
        let _promised = rig.reserve().unwrap();
    }
    assert!(rig.reserve().is_err());
}

#[test]
fn the_newest_member_sets_the_groups_rules() {
    let mut rig = rig(1, 1);
    rig.publish(1..=2);
    rig.expect("1>1");
    let mut changed = spec("a/g@t", 1);
    (changed.capacity, changed.retry, changed.hold) = (0, Retry::none(), 5 * MS);
    rig.join(2, &changed);
    rig.expect("2>2");
    assert!(rig.reserve().is_err(), "nothing is thrown out, nothing comes in");
    rig.settle(1, 1, failed());
    rig.expect("1.1!error>1");
    rig.settle(2, 2, Outcome::Done);
    rig.expect("room");
    rig.publish([3]); // a capacity of 0 counts as 1
    rig.lost(1);
    rig.lost(2);
    assert_eq!(rig.timer(), Some(5));
}

// Between reservation and commit.

#[test]
fn a_group_that_appears_before_the_commit_is_served() {
    let mut rig = rig(1, 1);
    let reservation = rig.reserve().unwrap();
    let mut late = spec("b/late@t", 3);
    late.capacity = 1;
    rig.join(2, &late);
    rig.publish([1]);
    assert_eq!(rig.commit(reservation, 2), ["g", "late"]);
    rig.expect("1>1 1>2 2>2"); // over its capacity, by the one open reservation
    assert!(rig.reserve().is_err());
}

#[test]
fn a_group_that_vanishes_before_the_commit_is_not() {
    let mut rig = rig(1, 1);
    rig.join(2, &spec("b/h@t", 1));
    let (first, second) = (rig.reserve().unwrap(), rig.reserve().unwrap());
    rig.leave(1);
    assert_eq!(rig.commit(first, 1), ["h"]);
    let mut tiny = spec("a/g@t", 1);
    tiny.capacity = 1;
    rig.join(1, &tiny); // another group of the same name: it owes the old promise nothing
    rig.engine.release(second);
    let third = rig.reserve().unwrap();
    assert_eq!(rig.commit(third, 2), ["h", "g"]);
    assert!(rig.reserve().is_err());
}

// The end.

#[test]
fn clear_counts_what_no_member_has() {
    let mut rig = rig(1, 2);
    rig.join(2, &spec("a/h@t", 8));
    let open = rig.reserve().unwrap();
    rig.publish(1..=4);
    rig.expect("1>1 1>2 2>1 2>2 3>2 4>2");
    rig.settle(1, 1, failed());
    rig.settle(2, 1, refused());
    assert_eq!(rig.engine.clear(), [(key("a/g@t"), 3)]);
    rig.expect("2.1!version>-"); // and the third is not delivered any more
    rig.settle(1, 2, failed());
    rig.engine.release(open);
    assert_eq!((rig.engine.unsettled(), rig.engine.held(), rig.timer()), (0, 0, None));
    rig.join(1, &spec("a/g@t", 1));
    rig.publish([5]);
    rig.expect("5>1");
}
