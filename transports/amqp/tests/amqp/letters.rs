//! Dead letters that are replayed, full groups, and groups that are ordered by key, at a real broker.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::time::Duration;

use busway_transport::{
    DeadReason, Delivery, Failure, GroupDeliveries, Letters, Outcome, Retry, Route, Transport,
    TransportError,
};
use futures::StreamExt;

use crate::bench::{
    Bus, blocking, body, connect, fresh, group, run, run_alone, shared, topic, try_connect,
};
use crate::proxy::{Mode, Proxy};

fn failed() -> Outcome {
    Outcome::Failed(Failure::new(DeadReason::Error, "no such order"))
}

async fn next(work: &mut GroupDeliveries) -> Delivery {
    work.next().await.expect("the stream goes on")
}

#[test]
fn a_letter_whose_group_is_gone_stays_listed() {
    run_alone(async |broker| {
        let bus = fresh();
        let one = connect(broker, &bus).await;
        let mut spec = group("x.y");
        spec.retry = Retry::none();
        let mut work = one.join(spec.clone()).await;
        let id = one.publish("x.y", "1").await;
        next(&mut work).await.settlement.settle(failed());
        let letters = async || one.transport.dead_letters(&spec.key).await.unwrap();
        while letters().await.is_empty() {}
        drop(work);
        let queue = format!("{bus}.group.billing.work.x.y");
        blocking(move || broker.ctl(&["delete_queue", &queue]).expect("rabbitmqctl")).await;
        let error = one.transport.replay(&spec.key, Letters::All).await.unwrap_err();
        assert!(matches!(error, TransportError::NoGroup { .. }), "{error:?}");
        assert_eq!(letters().await.len(), 1, "not lost");
        // When the group is there again, it takes it.
        let mut work = one.join(spec.clone()).await;
        assert_eq!(one.transport.replay(&spec.key, Letters::One(id)).await.unwrap(), 1);
        let delivery = next(&mut work).await;
        assert_eq!((delivery.envelope.id, delivery.attempt), (id, 1));
        delivery.settlement.settle(Outcome::Done);
        assert!(letters().await.is_empty());
        one.close().await;
    });
}

/// Publishes until the group is full; gives what it took.
async fn fill(bus: &Bus, name: &str) -> BTreeSet<String> {
    let mut taken = BTreeSet::new();
    for n in 0..1000 {
        let body = format!("{name}{n}");
        let envelope = bus.envelope("x.y", body.clone());
        match bus.commit(&Route::new(topic("x.y"), None), envelope).await.await {
            Ok(_) => taken.insert(body),
            Err(TransportError::GroupFull { .. }) => return taken,
            Err(other) => panic!("{other:?}"),
        };
    }
    panic!("a queue of 3 took 1000 events");
}

#[test]
fn retries_find_a_place_in_a_full_group() {
    for delay in [Duration::ZERO, Duration::from_millis(50)] {
        run_alone(async move |broker| {
            let name = fresh();
            let bus = connect(broker, &name).await;
            let mut spec = group("x.y");
            (spec.backlog, spec.concurrency) = (3, 2);
            spec.retry = Retry::fixed(delay).attempts(3);
            let mut work = bus.join(spec.clone()).await;
            let mut taken = fill(&bus, "a").await;
            assert!(taken.len() >= 3, "{taken:?}");
            // One in hand keeps the group full until the retry of the other has come out of its
            // tier.
            let (first, held) = (next(&mut work).await, next(&mut work).await);
            first.settlement.settle(failed());
            taken.extend(fill(&bus, "b").await);
            let tier = format!("{name}.retry.50\t0");
            let is_out = move || {
                let list = broker.ctl(&["list_queues", "-q", "name", "messages"]);
                list.expect("rabbitmqctl").lines().any(|line| line == tier)
            };
            blocking(move || while !is_out() {}).await;
            drop(held);
            let (mut attempts, mut done) = (BTreeMap::new(), BTreeSet::new());
            while done.len() < taken.len() {
                let delivery = next(&mut work).await;
                let which = body(&delivery.envelope);
                attempts.insert(which.clone(), delivery.attempt);
                if delivery.attempt < 3 {
                    delivery.settlement.settle(failed());
                } else {
                    done.insert(which);
                    delivery.settlement.settle(Outcome::Done);
                }
            }
            assert_eq!(done, taken);
            assert!(attempts.values().all(|attempt| *attempt == 3), "{attempts:?}");
            bus.close().await;
        });
    }
}

/// The next delivery of a keyed group whose key was told: the body's last digit.
pub(crate) async fn next_of_key(work: &mut GroupDeliveries) -> Delivery {
    loop {
        let delivery = next(work).await;
        if delivery.key.is_some() {
            return delivery;
        }
        let key = body(&delivery.envelope).bytes().last().map_or(0, u64::from);
        delivery.settlement.settle(Outcome::Keyed(key));
    }
}

#[test]
fn partitions_are_shared_among_members_as_they_come() {
    run(async {
        let (broker, bus) = (shared().await, fresh());
        let (one, two) = (connect(broker, &bus).await, connect(broker, &bus).await);
        let mut spec = group("x.y");
        spec.keyed = NonZeroU16::new(8);
        let mut first = one.join(spec.clone()).await;
        let mut second = two.join(spec).await;
        // The first one had them all, and gives its share away as soon as it hears of the second.
        let (mut here, mut there) = (0, 0);
        let mut n = 0;
        while here == 0 || there == 0 {
            one.publish("x.y", &n.to_string()).await;
            n += 1;
            tokio::select! {
                delivery = next_of_key(&mut first) => {
                    here += 1;
                    delivery.settlement.settle(Outcome::Done);
                }
                delivery = next_of_key(&mut second) => {
                    there += 1;
                    delivery.settlement.settle(Outcome::Done);
                }
            }
        }
        one.close().await;
        two.close().await;
    });
}

/// Were each sent to its partition before the next is told, the first would be back before.
#[test]
fn keys_are_told_while_others_are_on_their_way_to_their_partitions() {
    run(async {
        let (broker, bus) = (shared().await, fresh());
        let one = connect(broker, &bus).await;
        let mut spec = group("x.y");
        (spec.durable, spec.keyed) = (true, NonZeroU16::new(10));
        let early = connect(broker, &bus).await;
        drop(early.join(spec.clone()).await);
        early.close().await;
        for n in 0..10 {
            one.publish("x.y", &n.to_string()).await;
        }
        let proxy = Proxy::start(broker.port()).await;
        proxy.set(Mode::Delay(Duration::from_millis(100)));
        let url = proxy.url(&format!("bus={bus}"));
        let two = try_connect(&url, Duration::from_secs(30)).await.expect("connects");
        let mut work = two.join(spec.clone()).await;
        for n in 0..10 {
            let delivery = next(&mut work).await;
            assert_eq!((delivery.key, body(&delivery.envelope)), (None, n.to_string()));
            delivery.settlement.settle(Outcome::Keyed(n));
        }
        let mut done = BTreeSet::new();
        while done.len() < 10 {
            let delivery = next(&mut work).await;
            assert_eq!(delivery.key.map(|key| key.to_string()), Some(body(&delivery.envelope)));
            done.insert(body(&delivery.envelope));
            delivery.settlement.settle(Outcome::Done);
        }
        drop(work);
        proxy.set(Mode::Pass);
        one.transport.remove_group(&spec.key, true).await.expect("removed");
        one.close().await;
        two.close().await;
    });
}

#[test]
fn keys_keep_their_order_over_a_lost_connection() {
    run_alone(async |broker| {
        const COUNT: usize = 300;
        let bus = fresh();
        let (one, two) = (connect(broker, &bus).await, connect(broker, &bus).await);
        let mut spec = group("x.y");
        spec.keyed = NonZeroU16::new(4);
        let mut work = two.join(spec).await;
        let mut confirms = Vec::new();
        for n in 0..COUNT {
            let envelope = one.envelope("x.y", n.to_string());
            confirms.push(one.commit(&Route::new(topic("x.y"), None), envelope).await);
        }
        let cutting = tokio::spawn(blocking(|| {
            broker.ctl(&["close_all_connections", "test"]).expect("rabbitmqctl")
        }));
        // Repeats are allowed; among first arrivals each key is in order, and none is missing.
        let mut seen = BTreeSet::new();
        let mut last: BTreeMap<usize, usize> = BTreeMap::new();
        while seen.len() < COUNT {
            let delivery = next_of_key(&mut work).await;
            let n: usize = body(&delivery.envelope).parse().unwrap();
            if seen.insert(n) {
                let before = last.insert(n % 10, n);
                assert!(before.is_none_or(|before| before < n), "{n} after {before:?}");
            }
            delivery.settlement.settle(Outcome::Done);
        }
        for confirm in confirms {
            confirm.await.expect("confirmed in the end");
        }
        cutting.await.unwrap();
        one.close().await;
        two.close().await;
    });
}
