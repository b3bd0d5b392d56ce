//! What is bounded in bytes.

use busway_ipc::IpcConnector;
use busway_transport::{Notice, OutgoingRequest, PeerId, Reply, Status, Transport, TransportError};
use futures::FutureExt as _;
use serde::{Deserialize, Serialize};

use crate::requests::{answer, respond, take};
use crate::support::{Bus, connect, folder, later, name, next, route, try_connect_at, within};

const MIB: usize = 1 << 20;

/// Publishes until there is no room in the link; gives how many found some.
fn fill_link(bus: &Bus, event: &str, size: usize) -> usize {
    let payload = "x".repeat(size);
    for n in 0..10_000 {
        match bus.try_publish(event, &payload) {
            Ok(receipt) => assert_eq!(receipt.reached, 1),
            Err(TransportError::Full { by: Some(by) }) => {
                assert_eq!(by.endpoint, name("mail"));
                return n;
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("ten thousand events of {size} bytes found room");
}

/// Publishes until there is no room though everything was sent.
async fn fill(bus: &Bus, event: &str, size: usize) -> usize {
    let mut all = 0;
    loop {
        match fill_link(bus, event, size) {
            0 => return all,
            some => all += some,
        }
        bus.transport.flush(later()).await.unwrap();
    }
}

#[tokio::test]
async fn large_events_are_bounded_by_their_bytes() {
    within(async {
        let dir = folder();
        let (one, two) = (connect(&dir).await, connect(&dir).await);
        let mut large = two.subscribe_with(1, "large", "mail", 1000).await;
        let mut small = two.subscribe_with(2, "small", "mail", 1000).await;
        // 16 MiB and the one that goes over it, though there is credit for a thousand.
        assert_eq!(fill(&one, "large", MIB).await, 17);
        // Small ones of the same size all together have it for each of them, and for four times as many
        // but those of the first 64.
        assert_eq!(fill(&one, "small", 100).await, 4000 - 3 * 64);
        for _ in 0..17 {
            assert_eq!(next(&mut large).await.len(), MIB);
        }
        // A slow reader gives room by quarters of its own capacity.
        for _ in 0..1000 / 4 {
            next(&mut small).await;
        }
        one.publish("small", "x").await;
        for _ in 0..4000 - 3 * 64 - 1000 / 4 + 1 {
            next(&mut small).await;
        }
        // All of it comes back, not only events.
        for _ in 0..3 {
            for _ in 0..40 {
                one.publish("large", "x".repeat(MIB)).await;
                assert_eq!(next(&mut large).await.len(), MIB);
            }
        }
        one.transport.flush(later()).await.unwrap();
        assert!((13..=17).contains(&fill(&one, "large", MIB).await));
    })
    .await;
}

#[tokio::test]
async fn one_larger_than_all_room_passes_alone() {
    within(async {
        let dir = folder();
        let at = format!("ipc:shop?dir={}&frame=40MiB", dir.path().display());
        let one = try_connect_at(&at, PeerId::random()).await.unwrap();
        let two = connect(&dir).await;
        let mut events = two.subscribe(1, "a", "mail").await;
        for _ in 0..2 {
            one.publish("a", "x".repeat(33 * MIB)).await;
            let route = route("a");
            let mut second = std::pin::pin!(one.transport.reserve(&route));
            assert!(second.as_mut().now_or_never().is_none());
            assert_eq!(next(&mut events).await.len(), 33 * MIB);
            drop(second.await.unwrap());
        }
    })
    .await;
}

#[tokio::test]
async fn a_link_holds_only_so_much_of_all_events_together() {
    within(async {
        let dir = folder();
        let (one, two) = (connect(&dir).await, connect(&dir).await);
        let mut asks = respond(&two, "ask").await;
        let mut streams = Vec::new();
        for n in 0..8 {
            streams.push(two.subscribe(n, &format!("a.{n}"), "mail").await);
        }
        // Nothing is written meanwhile: this is the only thread, and it does not wait.
        let mut queued = Vec::new();
        for n in 0..8 {
            queued.push(fill_link(&one, &format!("a.{n}"), 100 << 10));
        }
        assert_eq!(queued.iter().sum::<usize>(), 11, "{queued:?}");
        assert!(matches!(one.try_publish("a.7", ""), Err(TransportError::Full { .. })));
        // Requests wait for room as well, and then everything goes on.
        let asked = OutgoingRequest::new(one.envelope("ask", "x"), later());
        let (reply, (), ()) = tokio::join!(
            one.transport.request(asked),
            async { take(&mut asks).await.replier.reply(answer("y")) },
            async {
                one.publish("a.7", "last").await;
            },
        );
        assert!(matches!(reply, Ok(Reply::Response(_))), "{reply:?}");
        for (stream, queued) in streams.iter_mut().zip(queued) {
            for _ in 0..queued {
                assert_eq!(next(stream).await.len(), 100 << 10);
            }
        }
        assert_eq!(next(&mut streams[7]).await, "last");
    })
    .await;
}

#[derive(Debug, busway::Event, Serialize, Deserialize)]
#[event("letters.written")]
struct Written {
    text: String,
}

#[derive(Debug, busway::Request, Serialize, Deserialize)]
#[request("letters.read", response = usize)]
struct Read {
    text: String,
}

/// What a program sees of a frame limit, and that it is the sender's.
#[tokio::test]
async fn whoever_is_over_the_limit_is_told_and_disturbs_nobody() {
    within(async {
        let dir = folder();
        let open = async |options: &str| {
            let at = format!("ipc:shop?dir={}{options}", dir.path().display());
            let builder = busway::Bus::builder().without_configuration().transport(&at);
            builder.connector(IpcConnector::new()).open().await.unwrap()
        };
        let (small, large) = (open("&frame=64KiB").await, open("").await);
        assert_eq!(small.capabilities().max_payload, 64 << 10);
        let (one, two) = (small.endpoint("one").unwrap(), large.endpoint("two").unwrap());
        let mut at_one = one.stream::<Written>().await.unwrap();
        let mut at_two = two.stream::<Written>().await.unwrap();
        two.respond::<Read>().with(|read| async move { Ok(read.text.len()) }).await.unwrap();
        let mut notices = large.notices();

        let long = "x".repeat(100_000);
        let error = one.publish(Written { text: long.clone() }).await.unwrap_err().to_string();
        for expected in ["letters.written", "1000", "65536"] {
            assert!(error.contains(expected), "{error}");
        }
        let error = one.request(Read { text: long.clone() }).await.unwrap_err().to_string();
        assert!(error.contains("letters.read") && error.contains("65536"), "{error}");
        // The other way it is nothing special.
        two.publish(Written { text: long.clone() }).await.unwrap();
        assert_eq!(at_one.next().await.unwrap().unwrap().text, long);
        assert_eq!(at_two.next().await.unwrap().unwrap().text, long);
        one.publish(Written { text: "short".into() }).await.unwrap();
        assert_eq!(at_two.next().await.unwrap().unwrap().text, "short");
        assert_eq!(one.request(Read { text: "four".into() }).await.unwrap(), 4);
        small.close().await.unwrap();
        large.close().await.unwrap();
        loop {
            match notices.next().await {
                Some(Notice::Status(Status::Closed)) => break,
                Some(Notice::Protocol { reason, .. }) => panic!("{reason}"),
                other => assert!(other.is_some()),
            }
        }
    })
    .await;
}
