use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use busway_test_broker::Broker;
use busway_transport::{
    Arrival, ContentType, GapReason, Notice, Outcome, Payload, Reply, ResponderSpec, Route, Status,
    Transport, TransportError,
};
use futures::StreamExt;

use crate::bench::{
    blocking, body, connect, connect_with, fresh, group, name, run, run_alone, shared, text, topic,
};
use crate::letters::next_of_key;

async fn cut(broker: &'static Broker) {
    blocking(|| broker.ctl(&["close_all_connections", "test"]).expect("rabbitmqctl")).await;
}

fn lost(notice: &Notice) -> bool {
    matches!(notice, Notice::Status(Status::Reconnecting { .. }))
}

fn back(notice: &Notice) -> bool {
    matches!(notice, Notice::Status(Status::Connected))
}

#[test]
fn a_lost_connection_loses_no_group_work_and_tells_a_gap_once() {
    run_alone(async |broker| {
        let bus = fresh();
        let (a, b) = (connect(broker, &bus).await, connect(broker, &bus).await);
        let mut spec = group("x.y");
        spec.concurrency = 64;
        let mut work = b.join(spec).await;
        let mut plain = b.subscribe(1, "x.y", &["mail"]).await;
        let a = Arc::new(a);
        let publisher = a.clone();
        let publishing = tokio::spawn(async move {
            let route = Route::new(topic("x.y"), None);
            let mut confirms = Vec::new();
            for n in 0..2000 {
                let envelope = publisher.envelope("x.y", n.to_string());
                confirms.push((envelope.id, publisher.commit(&route, envelope).await));
            }
            let mut ids = BTreeSet::new();
            for (id, confirm) in confirms {
                confirm.await.expect("confirmed in the end");
                ids.insert(id);
            }
            ids
        });
        let cutting = tokio::spawn(cut(broker));
        let mut seen = BTreeSet::new();
        while seen.len() < 2000 {
            let delivery = work.next().await.expect("the group goes on");
            seen.insert(delivery.envelope.id);
            delivery.settlement.settle(Outcome::Done);
        }
        assert_eq!(publishing.await.unwrap(), seen);
        cutting.await.unwrap();
        b.host.saw(lost).await;
        b.host.saw(back).await;

        // One gap, in its place; what comes after it is seen again.
        let mut gaps = 0;
        while gaps == 0 {
            if let Arrival::Gap(gap) = plain.next().await.expect("goes on") {
                assert_eq!((gap.missed, &gap.reason), (None, &GapReason::Disconnected));
                gaps += 1;
            }
        }
        // Published until it is heard: the queue is bound again some time after the gap.
        let ended = loop {
            a.publish("x.y", "after").await;
            let next = tokio::time::timeout(Duration::from_millis(200), plain.next());
            match next.await {
                Ok(Some(Arrival::Event(envelope))) if body(&envelope) == "after" => break true,
                Ok(Some(Arrival::Event(_))) | Err(_) => {}
                Ok(other) => panic!("{other:?}"),
            }
        };
        assert!(ended);
        drop(work);
        a.close().await;
        b.close().await;
    });
}

#[test]
fn unsettled_work_of_a_lost_member_comes_back() {
    run_alone(async |broker| {
        let bus = connect(broker, &fresh()).await;
        let mut work = bus.join(group("x.y")).await;
        let id = bus.publish("x.y", "1").await;
        let held = work.next().await.unwrap();
        bus.host.forget();
        cut(broker).await;
        let again = work.next().await.unwrap();
        assert_eq!(again.envelope.id, id);
        // The old delivery's verdict must not touch the new one's tag.
        held.settlement.settle(Outcome::Done);
        let second = bus.publish("x.y", "2").await;
        again.settlement.settle(Outcome::Done);
        let next = work.next().await.unwrap();
        assert_eq!(next.envelope.id, second);
        next.settlement.settle(Outcome::Done);
        bus.close().await;
    });
}

#[test]
fn a_request_whose_responder_died_is_not_run_twice() {
    run_alone(async |broker| {
        let bus = fresh();
        let (a, b) = (connect(broker, &bus).await, connect(broker, &bus).await);
        let spec = ResponderSpec::new(topic("x.ask"), name("oracle"), 1);
        let mut asks = b.transport.respond(spec).await.unwrap();
        let asking = a.ask("x.ask", None, Duration::from_secs(60));
        let dying = async {
            let ask = asks.next().await.unwrap();
            cut(broker).await;
            ask
        };
        let (outcome, held) = tokio::join!(asking, dying);
        // The caller's own connection was cut as well: that is what it is told.
        assert!(matches!(outcome, Err(TransportError::Disconnected { .. })), "{outcome:?}");
        held.replier.reply(Reply::Response(Payload::encoded(ContentType::JSON, "late")));
        b.host.saw(back).await;
        // Asked until the responder's queue stands again.
        let answered = async {
            loop {
                match a.ask("x.ask", None, Duration::from_secs(60)).await {
                    Ok(Reply::Response(payload)) => break text(&payload),
                    Ok(other) => panic!("{other:?}"),
                    Err(
                        TransportError::NoResponder { .. } | TransportError::Disconnected { .. },
                    ) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error:?}"),
                }
            }
        };
        let answering = async {
            let ask = asks.next().await.unwrap();
            ask.replier.reply(Reply::Response(Payload::encoded(ContentType::JSON, "anew")));
        };
        let (answer, ()) = tokio::join!(answered, answering);
        assert_eq!(answer, "anew");
        a.close().await;
        b.close().await;
    });
}

#[test]
fn a_broker_that_was_killed_and_started_finds_everything_again() {
    run_alone(async |broker| {
        // Classic queues: a quorum queue of RabbitMQ 3.10 that is killed within its first seconds
        // finds no leader when the broker is back, and every call on it hangs.
        let query = format!("bus={}&queue_type=classic", fresh());
        let (a, b) = (connect_with(broker, &query).await, connect_with(broker, &query).await);
        let mut plain = b.subscribe(1, "x.*", &["mail"]).await;
        let mut spec = group("x.y");
        spec.durable = true;
        let mut work = b.join(spec).await;
        let kept = a.publish("x.y", "kept").await;
        assert_eq!(body(&crate::bench::event(&mut plain).await), "kept");
        let held = work.next().await.unwrap();
        a.host.forget();
        b.host.forget();
        blocking(|| broker.kill().expect("kills")).await;
        b.host.saw(lost).await;
        match plain.next().await.unwrap() {
            Arrival::Gap(gap) => assert_eq!(gap.reason, GapReason::Disconnected),
            other => panic!("{other:?}"),
        }
        // Nothing new is taken meanwhile, from when the link that publishes is seen to be lost.
        a.host.saw(lost).await;
        let route = Route::new(topic("x.y"), None);
        while a.transport.try_reserve(&route).is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(matches!(a.transport.status(), Status::Reconnecting { .. }));
        blocking(|| broker.start_again().expect("starts")).await;
        a.host.saw(back).await;
        b.host.saw(back).await;
        let again = work.next().await.unwrap();
        assert_eq!(again.envelope.id, kept);
        drop(held);
        again.settlement.settle(Outcome::Done);
        loop {
            a.publish("x.z", "after").await;
            let next = tokio::time::timeout(Duration::from_millis(200), plain.next());
            match next.await {
                Ok(Some(Arrival::Event(_))) => break,
                Ok(other) => panic!("{other:?}"),
                Err(_) => {}
            }
        }
        a.close().await;
        b.close().await;
    });
}

#[test]
fn a_queue_that_is_deleted_under_its_consumer_comes_back() {
    run(async {
        let (broker, bus) = (shared().await, fresh());
        let (a, b) = (connect(broker, &bus).await, connect(broker, &bus).await);
        let mut plain = b.subscribe(1, "x.y", &["mail"]).await;
        let mut work = b.join(group("x.y")).await;
        let raw = lapin::Connection::connect(broker.url(), Default::default()).await.unwrap();
        let channel = raw.create_channel().await.unwrap();
        let queue = format!("{bus}.group.billing.work.x.y");
        channel.queue_delete(queue.into(), Default::default()).await.unwrap();
        // Published until the group has it: until its queue stands again nobody takes it.
        let again = async {
            loop {
                a.publish("x.y", "1").await;
                let next = tokio::time::timeout(Duration::from_millis(100), work.next());
                if let Ok(delivery) = next.await {
                    break delivery.expect("the group goes on");
                }
            }
        };
        again.await.settlement.settle(Outcome::Done);
        // The plain one has a queue of its own, that nobody touched.
        assert_eq!(body(&crate::bench::event(&mut plain).await), "1");
        raw.close(200, "done".into()).await.unwrap();
        drop(work);
        a.close().await;
        b.close().await;
    });
}

#[test]
fn an_exchange_that_is_deleted_comes_back_with_its_bindings() {
    run(async {
        let (broker, bus) = (shared().await, fresh());
        let (a, b) = (connect(broker, &bus).await, connect(broker, &bus).await);
        let mut plain = b.subscribe(1, "x.y", &["mail"]).await;
        let mut work = b.join(group("x.y")).await;
        let mut spec = group("x.y");
        (spec.key.group, spec.keyed) = (name("by-key"), NonZeroU16::new(2));
        let mut keyed = b.join(spec).await;
        a.host.saw(|notice| matches!(notice, Notice::PeerUp(_))).await;
        let raw = lapin::Connection::connect(broker.url(), Default::default()).await.unwrap();
        let channel = raw.create_channel().await.unwrap();
        channel.exchange_delete(format!("{bus}.events").into(), Default::default()).await.unwrap();
        // Whoever publishes finds out and tells the others; until they have bound again nobody is
        // reached, and the publisher can know.
        let mut route = Route::new(topic("x.y"), None);
        route.mandatory = true;
        let publishing = async {
            loop {
                let envelope = a.envelope("x.y", "again");
                match a.commit(&route, envelope).await.await {
                    Ok(_) | Err(TransportError::Rejected { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        };
        let again = async {
            let delivery = work.next().await.expect("the group goes on");
            delivery.settlement.settle(Outcome::Done);
            next_of_key(&mut keyed).await.settlement.settle(Outcome::Done);
            while !matches!(plain.next().await.expect("goes on"), Arrival::Event(_)) {}
        };
        tokio::select! {
            () = publishing => {}
            () = again => {}
        }
        raw.close(200, "done".into()).await.unwrap();
        drop((work, keyed));
        a.close().await;
        b.close().await;
    });
}
