//! Subscribing: options, types of one name, untyped filters, handlers that fail.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use busway::{Bus, GapReason, HandlerError, SubscribeError};
use futures::FutureExt;

use crate::events::{AlsoNumbered, Named, Numbered, Redrawn, Superstitious, until, watched};

#[tokio::test]
async fn options_choose_what_arrives() {
    watched(async {
        let bus = Bus::private().await.unwrap();
        let (a, b) = (bus.endpoint("a").unwrap(), bus.endpoint("b").unwrap());
        let mut from_b = a.stream::<Numbered>().from("b").await.unwrap();
        let mut not_own = a.stream::<Numbered>().not_own().await.unwrap();
        let mut even = a.stream::<Numbered>().filter(|n| n.0 % 2 == 0).take(1).await.unwrap();
        for n in 1..=4 {
            let from = if n == 2 { &b } else { &a };
            from.publish(Numbered(n)).await.unwrap();
        }
        assert_eq!(from_b.next().await.unwrap().unwrap().0, 2);
        assert_eq!(not_own.next().await.unwrap().unwrap().0, 2);
        assert_eq!(even.next().await.unwrap().unwrap().0, 2);
        assert!(even.next().await.is_none(), "`take` ends the stream");
        let error = a.stream::<Numbered>().from("B!").await.unwrap_err();
        assert!(matches!(error, SubscribeError::Name { .. }), "{error}");
    })
    .await;
}

#[tokio::test]
async fn two_types_of_one_name_reach_each_other() {
    let bus = Bus::private().await.unwrap();
    let a = bus.endpoint("a").unwrap();
    let mut other = a.stream::<AlsoNumbered>().await.unwrap();
    let mut wrong = a.stream::<Named>().await.unwrap();
    a.publish(Numbered(7)).await.unwrap();
    a.publish(Named { name: "x".into() }).await.unwrap();
    let message = other.next().await.unwrap().unwrap();
    assert_eq!(*message, AlsoNumbered(7));
    for gap in [wrong.next().await.unwrap().unwrap_err(), other.next().await.unwrap().unwrap_err()]
    {
        assert!(
            matches!(&gap.reason, GapReason::Undecodable { topic, .. } if topic == "test.numbered")
        );
        assert_eq!(gap.missed, Some(1));
    }
    assert_eq!(wrong.next().await.unwrap().unwrap().name, "x");
    assert_eq!(wrong.ledger().dropped_undecodable, 1);
}

#[tokio::test]
async fn an_untyped_filter_sees_all_topics_that_match() {
    let bus = Bus::private().await.unwrap();
    let a = bus.endpoint("a").unwrap();
    let mut all = a.stream_any("test.#").await.unwrap();
    let mut none = a.stream_any("other.*").await.unwrap();
    a.publish(Numbered(7)).await.unwrap();
    let (sender, _receiver) = mpsc::sync_channel(1);
    a.publish(Redrawn(sender)).await.unwrap();
    let message = all.next().await.unwrap().unwrap();
    assert_eq!(message.topic(), &"test.numbered");
    assert_eq!(*message.decode::<AlsoNumbered>().unwrap(), AlsoNumbered(7));
    let local = all.next().await.unwrap().unwrap();
    assert!(local.payload().is_err(), "a local event has no bytes");
    bus.close().await.unwrap();
    assert!(none.next().await.is_none());
}

#[tokio::test]
async fn a_local_event_needs_no_serde_and_crosses_as_it_is() {
    let bus = Bus::private().await.unwrap();
    let a = bus.endpoint("a").unwrap();
    let mut stream = a.stream::<Redrawn>().await.unwrap();
    let (sender, receiver) = mpsc::sync_channel(1);
    a.publish(Redrawn(sender)).await.unwrap();
    stream.next().await.unwrap().unwrap().0.send(5).unwrap();
    assert_eq!(receiver.recv().unwrap(), 5);
}

#[tokio::test]
async fn errors_and_panics_of_a_handler_stop_nothing() {
    watched(async {
        let bus = Bus::private().await.unwrap();
        let a = bus.endpoint("a").unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let subscription = a
            .subscribe::<Numbered>()
            .filter(|n| if n.0 == 4 { panic!("the filter panics") } else { true })
            .try_for_each(move |n| {
                assert_ne!(n.0, 1, "the call itself panics");
                let log = log.clone();
                async move {
                    log.lock().unwrap().push(n.0);
                    match n.0 {
                        2 => Err(HandlerError::new("no")),
                        3 => panic!("the future panics"),
                        _ => Ok(()),
                    }
                }
            })
            .await
            .unwrap();
        for n in 0..6 {
            a.publish(Numbered(n)).await.unwrap();
        }
        bus.close().await.unwrap();
        let ledger = subscription.ledger();
        assert_eq!((ledger.handled, ledger.failed, ledger.filtered), (2, 4, 0));
        assert!(ledger.is_balanced() && ledger.in_flight == 0, "{ledger:?}");
        assert_eq!(*seen.lock().unwrap(), [0, 2, 3, 5]);
    })
    .await;
}

#[tokio::test]
async fn unsubscribing_accounts_for_what_was_still_waiting() {
    watched(async {
        let bus = Bus::private().await.unwrap();
        let a = bus.endpoint("a").unwrap();
        let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
        let go = Arc::new(tokio::sync::Notify::new());
        let gate = go.clone();
        let subscription = a
            .subscribe::<Numbered>()
            .for_each(move |_| {
                started.send(()).unwrap();
                let gate = gate.clone();
                async move { gate.notified().await }
            })
            .await
            .unwrap();
        for n in 0..3 {
            a.publish(Numbered(n)).await.unwrap();
        }
        starts.recv().await.unwrap();
        assert_eq!(subscription.ledger().in_flight, 3);
        assert!(a.is_subscribed::<Numbered>());
        let stream = a.stream::<Numbered>().await.unwrap();
        let ending = subscription.unsubscribe();
        go.notify_one();
        ending.await;
        let receipt = a.publish(Numbered(9)).await.unwrap();
        assert_eq!(receipt.reached(), 1, "only the stream is left");
        drop(stream);
        assert!(!a.is_subscribed::<Numbered>());
    })
    .await;
}

#[tokio::test]
async fn a_decoder_that_panics_loses_one_event_and_ends_nothing() {
    watched(async {
        let bus = Bus::private().await.unwrap();
        let a = bus.endpoint("a").unwrap();
        let subscription = a.subscribe::<Superstitious>().for_each(|_| async {}).await.unwrap();
        let mut stream = a.stream::<Superstitious>().await.unwrap();
        for n in [13, 14] {
            a.publish(Numbered(n)).await.unwrap();
        }
        let gap = stream.next().await.unwrap().unwrap_err();
        assert!(matches!(gap.reason, GapReason::Undecodable { .. }), "{gap}");
        assert_eq!(stream.next().await.unwrap().unwrap().0, 14);
        bus.close().await.unwrap();
        let ledger = subscription.ledger();
        assert_eq!((ledger.dropped_undecodable, ledger.handled), (1, 1), "{ledger:?}");
    })
    .await;
}

#[tokio::test]
async fn an_on_gap_that_panics_ends_nothing() {
    watched(async {
        let bus = Bus::private().await.unwrap();
        let a = bus.endpoint("a").unwrap();
        let subscription = a
            .subscribe::<Named>()
            .on_gap(|gap| panic!("on_gap panics: {gap}"))
            .for_each(|_| async {})
            .await
            .unwrap();
        a.publish(Numbered(1)).await.unwrap();
        a.publish(Named { name: "x".into() }).await.unwrap();
        bus.close().await.unwrap();
        let ledger = subscription.ledger();
        assert_eq!((ledger.dropped_undecodable, ledger.handled), (1, 1), "{ledger:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_stuck_handler_is_in_nobodys_way_after_its_subscription_was_withdrawn() {
    watched(async {
        let bus = Bus::private().await.unwrap();
        let a = bus.endpoint("a").unwrap();
        let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
        let stuck = a
            .subscribe::<Numbered>()
            .capacity(1)
            .for_each(move |_| {
                started.send(()).unwrap();
                std::future::pending()
            })
            .await
            .unwrap();
        a.publish(Numbered(1)).await.unwrap();
        starts.recv().await.unwrap();
        a.publish(Numbered(2)).await.unwrap();
        let waiting = a.clone();
        let waiting = tokio::spawn(async move { waiting.publish(Numbered(3)).await.map(|_| ()) });
        assert!(stuck.unsubscribe().now_or_never().is_none(), "it waits for the handler");
        waiting.await.unwrap().unwrap();
        until(|| !a.is_subscribed::<Numbered>()).await;
        assert_eq!(a.publish(Numbered(4)).await.unwrap().reached(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_queue_may_be_as_large_as_it_likes() {
    let bus = Bus::private().await.unwrap();
    let a = bus.endpoint("a").unwrap();
    let mut stream = a.stream::<Numbered>().capacity(usize::MAX).await.unwrap();
    a.publish(Numbered(1)).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().0, 1);
}
