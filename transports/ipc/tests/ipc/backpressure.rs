use busway_transport::{Permit, Transport, TransportError};
use futures::FutureExt as _;

use crate::support::{connect, folder, name, next, route, within};

#[tokio::test]
async fn a_full_subscriber_is_named_and_holds_up_nobody_else() {
    within(async {
        let dir = folder();
        let (one, two, three) = (connect(&dir).await, connect(&dir).await, connect(&dir).await);
        let mut slow = two.subscribe_with(1, "a", "mail", 4).await;
        let mut fast = three.subscribe_with(1, "a", "audit", 64).await;
        let mut other = two.subscribe_with(2, "b", "mail", 4).await;
        for n in 0..4 {
            one.try_publish("a", n).unwrap();
        }
        let Err(TransportError::Full { by: Some(by) }) = one.try_publish("a", 4) else { panic!() };
        assert_eq!((by.endpoint, by.peer), (name("mail"), Some(two.peer)));
        // Nobody got any of it: the attempt took nothing.
        for n in 0..4 {
            assert_eq!(next(&mut fast).await, n.to_string());
        }
        assert!(futures::StreamExt::next(&mut fast).now_or_never().is_none());

        // Another event of the same subscriber's process goes on, and so does the other way.
        one.try_publish("b", "on").unwrap();
        assert_eq!(next(&mut other).await, "on");

        // Room goes to those who wait, in their order.
        let route = route("a");
        let mut first = std::pin::pin!(one.transport.reserve(&route));
        let mut second = std::pin::pin!(one.transport.reserve(&route));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        assert_eq!(next(&mut slow).await, "0");
        let permit = first.await.unwrap();
        assert!(second.as_mut().now_or_never().is_none());
        assert!(matches!(
            one.try_publish("a", "not past the line"),
            Err(TransportError::Full { .. })
        ));
        // What is not committed is given back, to the next in line.
        drop(permit);
        second.await.unwrap().commit(one.envelope("a", 4));
        for n in 1..5 {
            assert_eq!(next(&mut slow).await, n.to_string());
        }
        assert_eq!(next(&mut fast).await, "4");
    })
    .await;
}

#[tokio::test]
async fn whoever_waits_for_one_that_goes_waits_no_longer() {
    within(async {
        let dir = folder();
        let (one, two) = (connect(&dir).await, connect(&dir).await);
        let slow = two.subscribe_with(1, "a", "mail", 1).await;
        one.try_publish("a", 0).unwrap();
        let route = route("a");
        let mut waiting = std::pin::pin!(one.transport.reserve(&route));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(slow);
        waiting.await.unwrap();

        let _slow = two.subscribe_with(2, "a", "mail", 1).await;
        one.try_publish("a", 0).unwrap();
        let mut waiting = std::pin::pin!(one.transport.reserve(&route));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(two);
        waiting.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_permit_outlives_who_it_was_for() {
    within(async {
        let dir = folder();
        let (one, two, three) = (connect(&dir).await, connect(&dir).await, connect(&dir).await);
        let mut stays = three.subscribe_with(1, "a", "audit", 1).await;
        let gone = two.subscribe_with(1, "a", "mail", 1).await;
        let permit = one.transport.try_reserve(&route("a")).unwrap();
        drop((gone, two));
        one.until_peers(1).await;
        let reached = crate::support::receipt(permit.commit(one.envelope("a", 1)));
        assert_eq!(reached.parties.len(), 1);
        assert_eq!(next(&mut stays).await, "1");
        let permit = one.transport.reserve(&route("a")).await.unwrap();
        drop(permit);
        one.transport.reserve(&route("a")).await.unwrap().commit(one.envelope("a", 2));
        assert_eq!(next(&mut stays).await, "2");
    })
    .await;
}
