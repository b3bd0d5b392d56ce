use std::collections::BTreeSet;
use std::time::Duration;

use busway_transport::{
    DeadReason, Delivery, Failure, GroupDeliveries, Interest, Notice, Outcome, Retry, Transport,
    TransportError,
};
use futures::StreamExt as _;

use crate::support::{connect, folder, group, later, route, text, within};

async fn work(deliveries: &mut GroupDeliveries) -> Delivery {
    deliveries.next().await.expect("the group's stream ended")
}

fn failed() -> Outcome {
    Outcome::Failed(Failure::new(DeadReason::Error, "no paper"))
}

#[tokio::test]
async fn each_event_goes_to_one_member_wherever_it_lives() {
    within(async {
        let dir = folder();
        let (one, two, three) = (connect(&dir).await, connect(&dir).await, connect(&dir).await);
        let mut members = [
            one.transport.join(group("a")).await.unwrap(),
            two.transport.join(group("a")).await.unwrap(),
            three.transport.join(group("a")).await.unwrap(),
        ];
        assert_eq!(one.transport.interest(&route("a")), Interest::Yes);
        let mut seen = BTreeSet::new();
        for round in 0..10 {
            for n in 0..3 {
                let receipt = one.publish("a", round * 3 + n).await;
                assert_eq!(receipt.reached, 1);
            }
            // All are busy with one each: concurrency 1.
            for member in &mut members {
                let delivery = work(member).await;
                assert_eq!(delivery.attempt, 1);
                assert!(seen.insert(text(&delivery.envelope.payload)));
                delivery.settlement.settle(Outcome::Done);
            }
            one.transport.flush(later()).await.unwrap();
        }
        assert_eq!(seen.len(), 30);
    })
    .await;
}

#[tokio::test]
async fn the_work_of_a_dead_member_goes_to_another() {
    within(async {
        let dir = folder();
        let (one, two, three) = (connect(&dir).await, connect(&dir).await, connect(&dir).await);
        let mut dies = two.transport.join(group("a")).await.unwrap();
        one.publish("a", "job").await;
        let held = work(&mut dies).await;
        let mut lives = three.transport.join(group("a")).await.unwrap();
        drop(two);
        let again = work(&mut lives).await;
        assert_eq!(again.envelope.id, held.envelope.id);
        assert_eq!(again.attempt, 2);
        again.settlement.settle(Outcome::Done);
        // Too late: it counts for nothing.
        held.settlement.settle(failed());
        one.transport.flush(later()).await.unwrap();
        assert!(!one.notes.any(|notice| matches!(notice, Notice::DeadLettered(_))));
    })
    .await;
}

#[tokio::test]
async fn events_wait_for_the_next_member() {
    within(async {
        let dir = folder();
        let (one, two) = (connect(&dir).await, connect(&dir).await);
        let member = two.transport.join(group("a")).await.unwrap();
        drop(member);
        // It left in order, with nothing to do: the group is gone.
        one.notes.until(|_| one.transport.interest(&route("a")) == Interest::No).await;
        let mut member = two.transport.join(group("a")).await.unwrap();
        one.publish("a", "first").await;
        work(&mut member).await;
        drop(two);
        one.until_peers(0).await;
        assert_eq!(one.publish("a", "second").await.reached, 1);
        let three = connect(&dir).await;
        let mut member = three.transport.join(group("a")).await.unwrap();
        for expected in ["first", "second"] {
            let delivery = work(&mut member).await;
            assert_eq!(text(&delivery.envelope.payload), expected);
            delivery.settlement.settle(Outcome::Done);
        }
        one.transport.flush(later()).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn what_fails_is_tried_again_and_then_a_dead_letter_at_its_member() {
    within(async {
        let dir = folder();
        let (one, two) = (connect(&dir).await, connect(&dir).await);
        let mut spec = group("a");
        spec.retry = Retry::fixed(Duration::from_millis(1)).attempts(3);
        let key = spec.key.clone();
        let mut member = two.transport.join(spec).await.unwrap();
        one.publish("a", "job").await;
        let mut id = None;
        for attempt in 1..=3 {
            let delivery = work(&mut member).await;
            assert_eq!(delivery.attempt, attempt);
            assert_eq!(*id.get_or_insert(delivery.envelope.id), delivery.envelope.id);
            delivery.settlement.settle(failed());
        }
        two.notes
            .until_any(|notice| matches!(notice, Notice::DeadLettered(it) if *it == key))
            .await;
        let letters = two.transport.dead_letters(&key).await.unwrap();
        assert_eq!(letters.len(), 1);
        assert_eq!(letters[0].attempts, 3);
        assert_eq!(letters[0].failure, Failure::new(DeadReason::Error, "no paper"));
        assert_eq!(Some(letters[0].envelope.id), id);
        assert!(one.transport.dead_letters(&key).await.unwrap().is_empty());
        one.transport.flush(later()).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn unsettled_work_is_handed_back() {
    within(async {
        let dir = folder();
        let (one, two, three) = (connect(&dir).await, connect(&dir).await, connect(&dir).await);
        let mut first = two.transport.join(group("a")).await.unwrap();
        one.publish("a", "taken").await;
        let taken = work(&mut first).await;
        let mut second = three.transport.join(group("a")).await.unwrap();
        drop(taken);
        let again = work(&mut second).await;
        assert_eq!(again.attempt, 1, "it was not attempted");
        // Work that waits in the stream of a member that leaves goes to another as well.
        one.publish("a", "queued").await;
        drop(first);
        again.settlement.settle(Outcome::Done);
        let queued = work(&mut second).await;
        assert_eq!(text(&queued.envelope.payload), "queued");
        queued.settlement.settle(Outcome::Done);
        one.transport.flush(later()).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_full_group_is_named_and_a_durable_one_is_refused() {
    within(async {
        let dir = folder();
        let (one, two) = (connect(&dir).await, connect(&dir).await);
        let mut spec = group("a");
        spec.capacity = 2;
        let mut member = two.transport.join(spec.clone()).await.unwrap();
        one.try_publish("a", 0).unwrap();
        one.try_publish("a", 1).unwrap();
        let Err(TransportError::Full { by: Some(by) }) = one.try_publish("a", 2) else { panic!() };
        assert_eq!(by.group, Some(spec.key.group.clone()));
        let route = route("a");
        let (permit, ()) = tokio::join!(one.transport.reserve(&route), async {
            work(&mut member).await.settlement.settle(Outcome::Done);
        });
        drop(permit.unwrap());
        spec.durable = true;
        let Err(error) = two.transport.join(spec).await else { panic!() };
        assert!(error.to_string().contains("amqp://"), "{error}");
    })
    .await;
}
