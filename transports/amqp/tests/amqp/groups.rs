use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use busway_test_broker::Broker;
use busway_transport::{
    DeadReason, Failure, GroupDeliveries, Notice, Outcome, Retry, Transport, TransportError,
};
use futures::StreamExt;

use crate::bench::{body, connect, connect_with, fresh, group, run, shared};

fn failed() -> Outcome {
    Outcome::Failed(Failure::new(DeadReason::Error, "no such order"))
}

async fn next(work: &mut GroupDeliveries) -> busway_transport::Delivery {
    work.next().await.expect("the stream goes on")
}

/// Runs a test with each type of queue.
fn run_on_both(test: impl AsyncFn(&'static Broker, String)) {
    run(async {
        for queue_type in ["quorum", "classic"] {
            let query = format!("bus={}&queue_type={queue_type}", fresh());
            test(shared().await, query).await;
        }
    });
}

#[test]
fn each_event_goes_to_one_member_and_to_each_group() {
    run_on_both(async |broker, bus| {
        let (a, b) = (connect_with(broker, &bus).await, connect_with(broker, &bus).await);
        let mut one = a.join(group("x.y")).await;
        let mut two = b.join(group("x.y")).await;
        let mut other_spec = group("x.y");
        other_spec.key.group = crate::bench::name("other");
        let mut other = b.join(other_spec).await;
        // A bus's own members take part.
        for n in 0..20 {
            a.publish("x.y", &n.to_string()).await;
        }
        let mut seen = BTreeSet::new();
        while seen.len() < 20 {
            let delivery = tokio::select! {
                delivery = next(&mut one) => delivery,
                delivery = next(&mut two) => delivery,
            };
            assert!(seen.insert(body(&delivery.envelope)), "handed out twice");
            delivery.settlement.settle(Outcome::Done);
        }
        for n in 0..20 {
            let delivery = next(&mut other).await;
            assert_eq!((body(&delivery.envelope), delivery.attempt), (n.to_string(), 1));
            delivery.settlement.settle(Outcome::Done);
        }
        a.close().await;
        b.close().await;
    });
}

#[test]
fn a_failure_is_another_attempt_and_the_last_is_a_dead_letter() {
    run_on_both(async |broker, bus| {
        let bus = connect_with(broker, &bus).await;
        let mut spec = group("x.y");
        spec.retry = Retry::fixed(Duration::from_millis(40)).attempts(3);
        assert!(bus.transport.dead_letters(&spec.key).await.unwrap().is_empty(), "never joined");
        let key = spec.key.clone();
        let mut work = bus.join(spec).await;
        assert!(bus.transport.dead_letters(&key).await.unwrap().is_empty());
        let id = bus.publish("x.y", "1").await;
        for attempt in 1..=3 {
            let delivery = next(&mut work).await;
            assert_eq!((delivery.envelope.id, delivery.attempt), (id, attempt));
            delivery.settlement.settle(failed());
        }
        bus.host.saw(|notice| matches!(notice, Notice::DeadLettered(_))).await;
        // Refused is dead at once.
        let second = bus.publish("x.y", "2").await;
        let failure = Failure::new(DeadReason::Version, "v9");
        next(&mut work).await.settlement.settle(Outcome::Refused(failure));
        let closed = bus.publish("x.y", "3").await;
        let last = next(&mut work).await;
        assert_eq!(last.envelope.id, closed);
        last.settlement.settle(Outcome::Done);
        bus.transport.flush(Instant::now() + Duration::from_secs(10)).await.unwrap();
        // Listing does not take them.
        for _ in 0..3 {
            let letters = loop {
                let letters = bus.transport.dead_letters(&key).await.unwrap();
                if letters.len() >= 2 {
                    break letters;
                }
            };
            let found: Vec<_> = letters
                .iter()
                .map(|letter| (letter.envelope.id, letter.attempts, letter.failure.reason))
                .collect();
            assert_eq!(found, [(id, 3, DeadReason::Error), (second, 1, DeadReason::Version)]);
            assert_eq!(letters[0].failure.text, "no such order");
            assert_eq!(letters[0].envelope.source.peer, bus.peer, "its origin");
            assert_eq!(body(&letters[0].envelope), "1");
        }
        bus.close().await;
    });
}

#[test]
fn handing_back_is_no_attempt() {
    run_on_both(async |broker, bus| {
        let bus = connect_with(broker, &bus).await;
        let mut work = bus.join(group("x.y")).await;
        let id = bus.publish("x.y", "1").await;
        let first = next(&mut work).await;
        first.settlement.settle(Outcome::HandBack);
        let again = next(&mut work).await;
        assert_eq!((again.envelope.id, again.attempt), (id, 1));
        drop(again); // without a word: handed back as well
        let last = next(&mut work).await;
        assert_eq!((last.envelope.id, last.attempt), (id, 1));
        last.settlement.settle(Outcome::Done);
        bus.close().await;
    });
}

#[test]
fn a_durable_group_keeps_work_without_members() {
    run_on_both(async |broker, bus| {
        let (a, b) = (connect_with(broker, &bus).await, connect_with(broker, &bus).await);
        let mut spec = group("x.y");
        spec.durable = true;
        drop(b.join(spec.clone()).await);
        b.close().await;
        let id = a.publish("x.y", "1").await;
        let mut work = a.join(spec).await;
        let delivery = next(&mut work).await;
        assert_eq!(delivery.envelope.id, id);
        delivery.settlement.settle(Outcome::Done);
        a.close().await;
    });
}

#[test]
fn leaving_hands_back_what_was_not_seen_and_settles_what_was() {
    run_on_both(async |broker, bus| {
        let (a, b) = (connect_with(broker, &bus).await, connect_with(broker, &bus).await);
        let mut spec = group("x.y");
        spec.concurrency = 3;
        let mut work = a.join(spec.clone()).await;
        for n in 0..5 {
            b.publish("x.y", &n.to_string()).await;
        }
        let held = next(&mut work).await;
        a.transport.leave().await.unwrap();
        drop(work);
        // After leaving: what was delivered is still the member's to settle.
        held.settlement.settle(Outcome::Done);
        a.close().await;
        let mut rest = b.join(spec).await;
        let mut seen = BTreeSet::new();
        while seen.len() < 4 {
            let delivery = next(&mut rest).await;
            assert_eq!(delivery.attempt, 1);
            seen.insert(body(&delivery.envelope));
            delivery.settlement.settle(Outcome::Done);
        }
        assert!(!seen.contains("0"), "that one was done");
        b.close().await;
    });
}

#[test]
fn a_queue_that_stands_with_other_arguments_is_an_error() {
    run(async {
        let bus = connect(shared().await, &fresh()).await;
        let mut spec = group("x.y");
        let _work = bus.join(spec.clone()).await;
        spec.hold = Duration::from_secs(61);
        let error = bus.transport.join(spec).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, TransportError::Rejected { .. }), "{error:?}");
        bus.close().await;
    });
}
