//! When members go, and when the last of a group has gone.

use std::time::Duration;

use busway_transport::{Outcome, Retry};

use super::{MS, Rig, failed, rig, route, spec};

#[test]
fn a_dead_members_work_goes_to_another_at_once() {
    let mut rig = rig(2, 2);
    rig.publish(1..=4);
    rig.expect("1>1 2>2 3>1 4>2");
    rig.lost(1);
    assert_eq!(rig.timer(), None);
    rig.settle(2, 2, Outcome::Done);
    rig.settle(4, 2, Outcome::Done);
    rig.expect("1.2>2 3.2>2");
}

#[test]
fn dying_on_the_last_attempt_makes_a_dead_letter() {
    let mut rig = rig(4, 1);
    rig.publish([1]);
    rig.expect("1>1");
    rig.lost(1);
    rig.expect("1.2>2");
    rig.lost(2);
    rig.expect("1.3>3");
    rig.lost(3);
    rig.expect("1.3!lost>4");
    assert_eq!(rig.engine.unsettled(), 0);
}

#[test]
fn the_letters_of_one_death_come_in_the_order_of_delivery() {
    let mut rig = Rig::new("t");
    let mut spec = spec("a/g@t", 20);
    spec.retry = Retry::none();
    rig.join(1, &spec);
    rig.publish(1..=5);
    rig.expect("1>1 2>1 3>1 4>1 5>1");
    rig.lost(1);
    rig.expect("1.1!lost>- 2.1!lost>- 3.1!lost>- 4.1!lost>- 5.1!lost>-");
}

#[test]
fn a_letter_stays_here_when_no_member_lives() {
    let mut rig = Rig::new("t");
    let mut spec = spec("a/g@t", 1);
    spec.retry = Retry::none();
    rig.join(1, &spec);
    rig.publish([1]);
    rig.expect("1>1");
    rig.lost(1);
    rig.expect("1.1!lost>-");
}

#[test]
fn a_leaving_member_gets_nothing_new_and_settles_what_it_has() {
    let mut rig = rig(2, 1);
    rig.publish(1..=3);
    rig.expect("1>1 2>2");
    rig.leave(1);
    rig.leave(1);
    rig.settle(1, 1, failed()); // its last word: forgotten now
    rig.pass(10 * MS);
    rig.settle(2, 2, Outcome::Done);
    rig.expect("1.2>2");
    rig.settle(1, 2, Outcome::Done);
    rig.expect("3>2");
}

#[test]
fn what_a_leaving_member_hands_back_goes_to_the_others() {
    let mut rig = rig(2, 1);
    rig.publish(1..=3);
    rig.expect("1>1 2>2");
    rig.leave(1);
    rig.settle(1, 1, Outcome::HandBack);
    rig.settle(2, 2, Outcome::Done);
    rig.expect("1>2");
}

#[test]
fn a_leaving_member_that_dies_loses_what_it_had() {
    let mut rig = rig(2, 1);
    rig.publish([1]);
    rig.expect("1>1");
    rig.leave(1);
    rig.lost(1);
    rig.expect("1.2>2");
}

#[test]
fn a_delivery_that_was_not_polled_does_not_go_to_one_who_left() {
    let mut rig = rig(2, 1);
    rig.publish([1]);
    rig.leave(1);
    rig.expect("1>2");
}

#[test]
fn a_known_key_is_replaced() {
    let mut rig = rig(1, 1);
    rig.publish([1]);
    rig.expect("1>1");
    rig.join(1, &spec("a/g@t", 1));
    rig.engine.settle(1, crate::Tag(1), Outcome::Done, rig.now); // of the old membership
    rig.expect("1.2>1");
    rig.join(1, &spec("a/other@t", 1));
    rig.expect("");
    assert_eq!((rig.engine.unsettled(), rig.engine.held()), (0, 1));
}

// When the last has gone.

#[test]
fn a_group_whose_members_died_is_held_for_the_next() {
    let mut rig = rig(1, 1);
    rig.lost(1);
    assert!(rig.engine.interested(&route("t")));
    assert_eq!(rig.timer(), Some(1000));
    rig.publish(1..=2);
    assert_eq!((rig.engine.unsettled(), rig.engine.held()), (0, 2));
    rig.pass(999 * MS);
    rig.join(2, &spec("a/g@t", 2));
    rig.expect("1>2 2>2");
    assert_eq!((rig.engine.unsettled(), rig.engine.held(), rig.timer()), (2, 0, None));
}

#[test]
fn what_is_held_too_long_is_lost() {
    let mut rig = rig(1, 2);
    rig.publish(1..=3);
    rig.expect("1>1 2>1");
    rig.lost(1);
    rig.pass(1000 * MS);
    rig.expect("lost3");
    assert!(!rig.engine.interested(&route("t")));
    assert_eq!((rig.engine.held(), rig.timer()), (0, None));
}

#[test]
fn a_held_group_without_events_goes_without_a_word() {
    let mut rig = rig(1, 1);
    rig.lost(1);
    rig.pass(1000 * MS);
    rig.expect("");
    assert!(!rig.engine.interested(&route("t")));
}

#[test]
fn leaving_in_order_gives_up_a_group_that_owes_nothing() {
    let mut rig = rig(1, 1);
    rig.publish([1]);
    rig.expect("1>1");
    rig.leave(1);
    assert!(rig.engine.interested(&route("t")), "its last delivery may still fail");
    assert_eq!(rig.engine.unsettled(), 1);
    rig.settle(1, 1, Outcome::Done);
    assert!(!rig.engine.interested(&route("t")));
    assert_eq!(rig.timer(), None);
}

#[test]
fn leaving_in_order_keeps_what_is_owed() {
    let mut rig = rig(1, 1);
    rig.publish(1..=2);
    rig.expect("1>1");
    rig.leave(1);
    assert_eq!((rig.engine.unsettled(), rig.engine.held()), (1, 1));
    assert_eq!(rig.timer(), None, "the last member is still at work");
    rig.settle(1, 1, failed());
    assert_eq!((rig.engine.unsettled(), rig.engine.held()), (0, 2));
    rig.pass(10 * MS);
    rig.join(2, &spec("a/g@t", 2));
    rig.expect("1.2>2 2>2");
}

#[test]
fn a_hold_for_ever_is_a_hold() {
    let mut rig = Rig::new("t");
    let mut spec = spec("a/g@t", 1);
    spec.hold = Duration::MAX;
    rig.join(1, &spec);
    rig.lost(1);
    assert!(rig.engine.interested(&route("t")));
}
