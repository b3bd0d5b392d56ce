use std::time::{Duration, Instant};

use busway_transport::{ContentType, Payload, Permit, Route, Transport, TransportError};
use futures::future::join_all;

use crate::bench::{body, connect, connect_with, event, fresh, name, run, shared, topic};

#[test]
fn mandatory_tells_whether_somebody_was_reached() {
    run(async {
        let (broker, bus) = (shared().await, fresh());
        let (a, b) = (connect(broker, &bus).await, connect(broker, &bus).await);
        let nobody = a.publish_mandatory("x.y").await;
        assert_eq!((nobody.reached, nobody.exact), (0, true));
        let _seen = b.subscribe(1, "x.y", &["mail"]).await;
        let somebody = a.publish_mandatory("x.y").await;
        assert_eq!((somebody.reached, somebody.exact), (1, false));
        a.close().await;
        b.close().await;
    });
}

#[test]
fn pipelined_returns_are_told_to_the_right_publish() {
    run(async {
        let (broker, bus) = (shared().await, fresh());
        let (a, b) = (connect(broker, &bus).await, connect(broker, &bus).await);
        let mut seen = b.subscribe(1, "x.*", &["mail"]).await;
        let mut confirms = Vec::new();
        for n in 0..600 {
            let on = if n % 3 == 0 { "nobody.here" } else { "x.y" };
            let mut route = Route::new(topic(on), None);
            route.mandatory = n % 2 == 0;
            confirms.push(a.commit(&route, a.envelope(on, n.to_string())).await);
            if confirms.len() == 200 {
                for (k, confirm) in join_all(confirms.drain(..)).await.into_iter().enumerate() {
                    let number = n - 199 + k;
                    let (told, nobody) = (number % 2 == 0, number % 3 == 0);
                    let confirm = confirm.unwrap();
                    // Who did not ask is not told, either way.
                    assert_eq!(confirm.reached, usize::from(told && !nobody), "{number}");
                    assert_eq!(confirm.exact, told && nobody, "{number}");
                }
            }
        }
        for n in (0..600).filter(|n| n % 3 != 0) {
            assert_eq!(body(&event(&mut seen).await), n.to_string(), "order holds across kinds");
        }
        a.close().await;
        b.close().await;
    });
}

#[test]
fn a_full_window_is_told_and_room_comes_back() {
    run(async {
        let bus = connect_with(shared().await, &format!("bus={}&window=2", fresh())).await;
        let route = Route::new(topic("x.y"), None);
        let first = bus.transport.try_reserve(&route).unwrap();
        let second = bus.transport.try_reserve(&route).unwrap();
        let full = bus.transport.try_reserve(&route).unwrap_err();
        assert!(matches!(full, TransportError::Full { .. }), "{full:?}");
        drop(first);
        drop(bus.transport.try_reserve(&route).unwrap());
        let _ = second.commit(bus.envelope("x.y", "1"));
        bus.transport.flush(Instant::now() + Duration::from_secs(10)).await.unwrap();
        let _both = (bus.transport.reserve(&route).await, bus.transport.reserve(&route).await);
        drop(_both);
        bus.close().await;
    });
}

#[test]
fn what_cannot_travel_is_a_typed_error() {
    run(async {
        let bus = connect(shared().await, &fresh()).await;
        let long = topic(&["x"; 100].join("."));
        let route = Route::new(long, Some(name(&"e".repeat(64))));
        let error = bus.transport.reserve(&route).await.unwrap_err();
        assert!(matches!(error, TransportError::Rejected { .. }), "{error:?}");

        let route = Route::new(topic("x.y"), None);
        let mut large = bus.envelope("x.y", "");
        large.payload = Payload::encoded(ContentType::JSON, vec![b' '; 16 * 1024 * 1024 + 1]);
        let error = bus.commit(&route, large).await.await.unwrap_err();
        assert!(matches!(error, TransportError::TooLarge { .. }), "{error:?}");
        let mut largest = bus.envelope("x.y", "");
        largest.payload = Payload::encoded(ContentType::JSON, vec![b' '; 16 * 1024 * 1024]);
        bus.commit(&route, largest).await.await.unwrap();
        bus.close().await;
    });
}

#[test]
fn of_twenty_thousand_pipelined_exactly_the_unroutable_are_told() {
    run(async {
        let (broker, bus) = (shared().await, fresh());
        let (a, b) = (connect(broker, &bus).await, connect(broker, &bus).await);
        // Bounded, and nobody reads: what it drops is no matter here.
        let _seen = b.subscribe_with(1, "x.*", &["mail"], 100).await;
        let mut confirms = std::collections::VecDeque::new();
        let mut told = 0;
        for n in 0..20_000 {
            let nobody = n % 3 == 0;
            let on = if nobody { "nobody.here" } else { "x.y" };
            let mut route = Route::new(topic(on), None);
            route.mandatory = true;
            confirms.push_back((nobody, a.commit(&route, a.envelope(on, "{}")).await));
            if confirms.len() == 250 || n == 19_999 {
                let least = if n == 19_999 { 0 } else { 249 };
                while confirms.len() > least {
                    let (nobody, confirm) = confirms.pop_front().unwrap();
                    let receipt = confirm.await.unwrap();
                    assert_eq!(receipt.reached, usize::from(!nobody), "{n}");
                    told += usize::from(receipt.reached == 0);
                }
            }
        }
        assert_eq!(told, 20_000_usize.div_ceil(3));
        a.close().await;
        b.close().await;
    });
}
