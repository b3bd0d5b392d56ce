use std::collections::BTreeSet;
use std::time::SystemTime;

use busway_transport::{Route, SubscriptionId, Transport};
use futures::StreamExt;
use futures::future::join_all;

use crate::bench::{body, connect, event, fresh, name, run, shared, topic};

#[test]
fn what_is_published_after_subscribe_returned_is_seen_whole() {
    run(async {
        let (broker, bus) = (shared().await, fresh());
        let (a, b) = (connect(broker, &bus).await, connect(broker, &bus).await);
        let mut seen = b.subscribe(1, "shop.*", &["mail"]).await;
        let mut sent = a.envelope("shop.order", "{\"n\":1}");
        sent.version = 2;
        sent.sequence = Some(7);
        sent.time = Some(SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_234_567));
        sent.headers.insert("tenant", "x");
        a.commit(&Route::new(topic("shop.order"), None), sent.clone()).await.await.unwrap();
        let came = event(&mut seen).await;
        assert_eq!(
            (came.id, &came.topic, came.version, &came.source, came.sequence, came.time),
            (sent.id, &sent.topic, 2, &sent.source, Some(7), sent.time)
        );
        assert_eq!(came.headers, sent.headers);
        assert_eq!(body(&came), "{\"n\":1}");
        a.close().await;
        b.close().await;
        assert!(seen.next().await.is_none(), "the stream ends with the bus");
    });
}

#[test]
fn five_thousand_pipelined_keep_their_order() {
    run(async {
        let (broker, bus) = (shared().await, fresh());
        let (a, b) = (connect(broker, &bus).await, connect(broker, &bus).await);
        let mut seen = b.subscribe(1, "count.up", &["mail"]).await;
        let publishing = async {
            let route = Route::new(topic("count.up"), None);
            let mut confirms = Vec::new();
            for n in 0..5000 {
                confirms.push(a.commit(&route, a.envelope("count.up", n.to_string())).await);
            }
            for confirm in join_all(confirms).await {
                confirm.unwrap();
            }
        };
        let reading = async {
            for n in 0..5000 {
                assert_eq!(body(&event(&mut seen).await), n.to_string());
            }
        };
        tokio::join!(publishing, reading);
        a.close().await;
        b.close().await;
    });
}

#[test]
fn a_bus_does_not_hear_its_own_plain_events() {
    run(async {
        let (broker, bus) = (shared().await, fresh());
        let (a, b) = (connect(broker, &bus).await, connect(broker, &bus).await);
        let mut seen = a.subscribe(1, "#", &["mail"]).await;
        a.publish("x.own", "1").await;
        b.publish("x.other", "2").await;
        assert_eq!(event(&mut seen).await.topic, topic("x.other"));
        a.close().await;
        b.close().await;
    });
}

#[test]
fn an_addressed_event_reaches_only_its_endpoint() {
    run(async {
        let (broker, bus) = (shared().await, fresh());
        let (a, b) = (connect(broker, &bus).await, connect(broker, &bus).await);
        let mut mail = b.subscribe(1, "x.*", &["mail"]).await;
        let mut audit = b.subscribe(2, "x.y", &["audit"]).await;
        a.publish_to("x.y", "mail", "1").await;
        a.publish_to("x.y", "audit", "2").await;
        a.publish("x.y", "3").await;
        assert_eq!(body(&event(&mut mail).await), "1");
        assert_eq!(body(&event(&mut mail).await), "3");
        let addressed = event(&mut audit).await;
        assert_eq!((body(&addressed), addressed.to), ("2".into(), Some(name("audit"))));
        assert_eq!(body(&event(&mut audit).await), "3");

        let both: BTreeSet<_> = [name("audit"), name("mail")].into();
        b.transport.update(SubscriptionId(1), both).await.unwrap();
        a.publish_to("x.y", "audit", "4").await;
        assert_eq!(body(&event(&mut mail).await), "4");
        b.transport.update(SubscriptionId(1), [name("audit")].into()).await.unwrap();
        a.publish_to("x.y", "mail", "5").await;
        a.publish("x.y", "6").await;
        assert_eq!(body(&event(&mut mail).await), "6");
        a.close().await;
        b.close().await;
    });
}

#[test]
fn leaving_ends_streams_after_what_they_hold() {
    run(async {
        let (broker, bus) = (shared().await, fresh());
        let (a, b) = (connect(broker, &bus).await, connect(broker, &bus).await);
        let mut seen = b.subscribe(1, "x.y", &["mail"]).await;
        let mut probe = b.subscribe(2, "x.y", &["mail"]).await;
        a.publish("x.y", "1").await;
        assert_eq!(body(&event(&mut probe).await), "1");
        assert_eq!(body(&event(&mut seen).await), "1");
        b.transport.leave().await.unwrap();
        assert!(seen.next().await.is_none());
        assert!(probe.next().await.is_none());
        a.close().await;
        b.close().await;
    });
}
