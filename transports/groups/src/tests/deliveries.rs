//! Who gets what, and what becomes of it.

use std::time::Duration;

use busway_transport::{Outcome, Retry};

use super::{MS, Rig, failed, name, refused, rig, route, spec};

#[test]
fn each_matching_group_gets_each_event_once() {
    let mut rig = Rig::new("t");
    for (member, group) in [(1, "a/g@t"), (2, "a/g@t"), (3, "b/h@t"), (4, "b/h@u")] {
        rig.join(member, &spec(group, 4));
    }
    let reservation = rig.reserve().unwrap();
    assert_eq!(reservation.len(), 2);
    assert_eq!(rig.commit(reservation, 7), ["g", "h"]);
    rig.expect("7>1 7>3");
}

#[test]
fn an_address_chooses_the_groups_of_that_endpoint() {
    let mut rig = Rig::new("t");
    rig.join(1, &spec("a/g@t", 4));
    rig.join(2, &spec("b/g@t", 4));
    let mut to_b = route("t");
    to_b.to = Some(name("b"));
    let reservation = rig.engine.try_reserve(&to_b).unwrap();
    rig.commit(reservation, 1);
    rig.expect("1>2");
    for (to, topic, expected) in
        [(None, "t", true), (Some("a"), "t", true), (Some("c"), "t", false), (None, "u", false)]
    {
        let mut route = route(topic);
        route.to = to.map(name);
        assert_eq!(rig.engine.interested(&route), expected, "{route:?}");
    }
}

#[test]
fn nobody_is_reached_where_there_is_no_group() {
    let mut rig = Rig::new("t");
    let reservation = rig.reserve().unwrap();
    assert!(reservation.is_empty());
    assert!(rig.commit(reservation, 1).is_empty());
    rig.expect("");
}

#[test]
fn members_take_turns() {
    let mut rig = rig(3, 2);
    rig.publish(1..=7);
    rig.expect("1>1 2>2 3>3 4>1 5>2 6>3");
}

#[test]
fn the_least_loaded_for_its_concurrency_is_chosen() {
    let mut rig = rig(1, 6);
    rig.join(2, &spec("a/g@t", 2));
    rig.publish(1..=6);
    // After 1>1 2>2 the loads are 1/6 and 1/2; after 4>1 they are equal, and it is 2's turn.
    rig.expect("1>1 2>2 3>1 4>1 5>2 6>1");
}

#[test]
fn nobody_holds_more_than_its_concurrency() {
    let mut rig = rig(2, 1);
    rig.publish(1..=4);
    rig.expect("1>1 2>2");
    rig.settle(2, 2, Outcome::Done);
    rig.expect("3>2");
    rig.settle(1, 1, Outcome::Done);
    rig.expect("4>1");
    assert_eq!(rig.engine.unsettled(), 2);
}

#[test]
fn one_member_with_concurrency_one_keeps_the_order() {
    let mut rig = rig(1, 1);
    rig.publish(1..=3);
    for number in 1..=3 {
        rig.expect(&format!("{number}>1"));
        rig.settle(number, 1, Outcome::Done);
    }
    rig.expect("");
    assert_eq!(rig.engine.unsettled(), 0);
}

#[test]
fn groups_take_turns_in_the_effects() {
    let mut rig = rig(1, 2);
    rig.join(2, &spec("a/h@t", 2));
    rig.publish(1..=2);
    rig.expect("1>1 1>2 2>1 2>2");
}

// How it is settled.

#[test]
fn a_failure_is_tried_again_after_its_delay_and_then_dead() {
    let mut rig = rig(1, 1);
    rig.publish([1]);
    rig.expect("1>1");
    rig.settle(1, 1, failed());
    rig.expect("");
    assert_eq!((rig.timer(), rig.engine.unsettled()), (Some(10), 1));
    rig.pass(9 * MS);
    rig.expect("");
    rig.pass(MS);
    rig.expect("1.2>1");
    rig.settle(1, 1, failed());
    assert_eq!(rig.timer(), Some(30));
    rig.pass(20 * MS);
    rig.expect("1.3>1");
    rig.settle(1, 1, failed());
    rig.expect("1.3!error>1");
    assert_eq!((rig.timer(), rig.engine.unsettled()), (None, 0));
}

#[test]
fn a_due_retry_goes_before_waiting_first_attempts() {
    let mut rig = rig(1, 1);
    rig.publish(1..=4);
    rig.expect("1>1");
    rig.settle(1, 1, failed());
    rig.expect("2>1");
    rig.pass(10 * MS);
    rig.expect("");
    rig.settle(2, 1, Outcome::Done);
    rig.expect("1.2>1");
    rig.settle(1, 1, Outcome::Done);
    rig.expect("3>1");
}

#[test]
fn a_retry_without_delay_is_next() {
    let mut rig = Rig::new("t");
    let mut spec = spec("a/g@t", 1);
    spec.retry = Retry::fixed(Duration::ZERO).attempts(2);
    rig.join(1, &spec);
    rig.publish(1..=2);
    rig.expect("1>1");
    rig.settle(1, 1, failed());
    assert_eq!(rig.timer(), None);
    rig.expect("1.2>1");
}

#[test]
fn a_refusal_is_dead_at_once() {
    let mut rig = rig(2, 1);
    rig.publish([1]);
    rig.expect("1>1");
    rig.settle(1, 1, refused());
    rig.expect("1.1!version>1");
    assert_eq!(rig.engine.unsettled(), 0);
}

#[test]
fn a_hand_back_keeps_its_attempt_and_its_place_and_goes_to_another() {
    let mut rig = rig(2, 1);
    rig.publish(1..=4);
    rig.expect("1>1 2>2");
    rig.settle(1, 1, Outcome::HandBack);
    rig.expect("1>1"); // nobody else is free
    rig.settle(2, 2, Outcome::Done);
    rig.expect("3>2");
    rig.join(3, &spec("a/g@t", 1));
    rig.settle(1, 1, Outcome::HandBack);
    rig.expect("1>3 4>1");
}

#[test]
fn a_handed_back_retry_goes_before_a_handed_back_first_attempt() {
    let mut rig = rig(1, 2);
    rig.publish(1..=3);
    rig.expect("1>1 2>1");
    rig.settle(2, 1, failed());
    rig.expect("3>1");
    rig.pass(10 * MS);
    rig.settle(3, 1, Outcome::Done);
    rig.expect("2.2>1");
    rig.settle(2, 1, Outcome::HandBack);
    rig.settle(1, 1, Outcome::HandBack);
    rig.expect("2.2>1 1>1");
}

#[test]
fn late_repeated_and_foreign_settlements_harm_nothing() {
    let mut rig = rig(2, 1);
    rig.publish(1..=2);
    rig.expect("1>1 2>2");
    rig.settle(1, 1, failed());
    rig.settle(1, 1, Outcome::Done); // settled already
    assert_eq!(rig.engine.unsettled(), 2);
    rig.pass(10 * MS);
    rig.expect("1.2>1");
    rig.engine.settle(1, crate::Tag(2), Outcome::Done, rig.now); // it is member 2's
    rig.engine.settle(1, crate::Tag(99), Outcome::Done, rig.now);
    rig.engine.settle(9, crate::Tag(1), Outcome::Done, rig.now);
    rig.engine.settle(1, crate::Tag(1), Outcome::Done, rig.now); // the attempt before
    assert_eq!(rig.engine.unsettled(), 2);
    rig.lost(2);
    rig.settle(2, 2, Outcome::Done); // after its death
    rig.settle(1, 1, Outcome::Done);
    rig.expect("2.2>1");
}
