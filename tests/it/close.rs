//! Closing: what was accepted is finished, what is dropped ends.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use busway::{Bus, CloseError, PublishError, RequestError, SubscribeError, TransportError};
use futures::FutureExt;
use tokio::sync::{Notify, Semaphore};

use crate::events::{Double, Numbered, Other, Redrawn, until, watched};
use crate::fake::fake_bus;

#[tokio::test]
async fn a_drain_finishes_what_was_accepted_and_what_that_publishes() {
    watched(async {
        let bus = Bus::private().await.unwrap();
        let a = bus.endpoint("a").unwrap();
        let count = Arc::new(AtomicUsize::new(0));
        let (again, counter) = (a.clone(), count.clone());
        a.subscribe::<Numbered>()
            .for_each(move |n| {
                let (again, counter) = (again.clone(), counter.clone());
                async move {
                    tokio::task::yield_now().await;
                    counter.fetch_add(1, Ordering::SeqCst);
                    // A handler that is being drained may still ask and publish.
                    let answer = again.request(Double(n.0)).await;
                    assert!(matches!(answer, Err(RequestError::NoResponder { .. })), "{answer:?}");
                }
            })
            .await
            .unwrap();
        let mut stream = a.stream::<Numbered>().await.unwrap();
        for n in 0..100 {
            a.publish(Numbered(n)).await.unwrap();
        }
        bus.close().await.unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 100);
        for n in 0..100 {
            assert_eq!(stream.next().await.unwrap().unwrap().0, n, "streams keep what they hold");
        }
        assert!(stream.next().await.is_none());

        assert!(matches!(a.publish(Numbered(1)).await, Err(PublishError::Closed { .. })));
        assert!(matches!(a.stream::<Numbered>().await, Err(SubscribeError::Closed { .. })));
        assert!(matches!(a.request(Double(1)).await, Err(RequestError::Cancelled { .. })));
        bus.close().await.unwrap(); // closing twice is no error
    })
    .await;
}

#[tokio::test]
async fn closing_from_inside_a_handler_is_an_error_at_once() {
    watched(async {
        let bus = Bus::private().await.unwrap();
        let a = bus.endpoint("a").unwrap();
        let outcome = Arc::new(Mutex::new(None));
        let (inside, told) = (bus.clone(), outcome.clone());
        a.subscribe::<Numbered>()
            .for_each(move |_| {
                let (inside, told) = (inside.clone(), told.clone());
                async move { *told.lock().unwrap() = Some(inside.close().await) }
            })
            .await
            .unwrap();
        a.publish(Numbered(1)).await.unwrap();
        bus.close().await.unwrap();
        let outcome = outcome.lock().unwrap().take();
        assert!(matches!(outcome, Some(Err(CloseError::InsideHandler))), "{outcome:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_takes_too_long_cuts_off_and_says_so() {
    let bus = Bus::builder()
        .transport("memory:")
        .without_configuration()
        .drain_timeout(Duration::from_secs(2))
        .open()
        .await
        .unwrap();
    let a = bus.endpoint("a").unwrap();
    let dropped = Arc::new(AtomicUsize::new(0));
    let witness = dropped.clone();
    a.subscribe::<Numbered>()
        .for_each(move |_| {
            let witness = Witness(witness.clone());
            async move {
                let _witness = witness;
                std::future::pending::<()>().await;
            }
        })
        .await
        .unwrap();
    a.publish(Numbered(1)).await.unwrap();
    let error = bus.close().await.unwrap_err();
    assert!(matches!(error, CloseError::TimedOut { handlers: 1, .. }), "{error:?}");
    // The stuck handler's future is dropped by its task, which runs on its own.
    while dropped.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
}

struct Witness(Arc<AtomicUsize>);

impl Drop for Witness {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn dropping_the_last_handle_ends_streams_subscriptions_and_the_bus_itself() {
    watched(async {
        let here = Bus::builder().transport("memory:dropped").open().await.unwrap();
        let there = Bus::builder().transport("memory:dropped").open().await.unwrap();
        let a = here.endpoint("a").unwrap();
        let mut stream = a.stream::<Numbered>().await.unwrap();
        let subscription = a.subscribe::<Numbered>().for_each(|_| async {}).await.unwrap();
        assert_eq!(there.peers().len(), 1);
        drop((here, a));
        assert!(stream.next().await.is_none());
        subscription.ended().await;
        assert_eq!(there.peers().len(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_request_under_way_is_cancelled_by_the_close() {
    watched(async {
        let here = Bus::builder().transport("memory:cancelled").open().await.unwrap();
        let there = Bus::builder().transport("memory:cancelled").open().await.unwrap();
        let (a, b) = (here.endpoint("a").unwrap(), there.endpoint("b").unwrap());
        b.respond::<Double>().with(|_| std::future::pending()).await.unwrap();
        let mut call = a.request(Double(1));
        assert!((&mut call).now_or_never().is_none());
        here.close().await.unwrap();
        assert!(matches!(call.await, Err(RequestError::Cancelled { .. })));
    })
    .await;
}

#[tokio::test]
async fn what_handlers_publish_while_they_drain_is_handled_too() {
    watched(async {
        let bus = Bus::private().await.unwrap();
        let a = bus.endpoint("a").unwrap();
        let second = a.subscribe::<Other>().for_each(|_| async {}).await.unwrap();
        let go = Arc::new(Semaphore::new(0));
        let (next, gate) = (a.clone(), go.clone());
        let first = a
            .subscribe::<Numbered>()
            .try_for_each(move |n| {
                let (next, gate) = (next.clone(), gate.clone());
                async move {
                    gate.acquire().await?.forget();
                    // Gives the drain its time to go on.
                    tokio::task::yield_now().await;
                    next.publish(Other(n.0)).await?;
                    Ok(())
                }
            })
            .await
            .unwrap();
        for n in 0..10 {
            a.publish(Numbered(n)).await.unwrap();
        }
        let mut closing = Box::pin(bus.close());
        assert!((&mut closing).now_or_never().is_none());
        go.add_permits(10);
        closing.await.unwrap();
        assert_eq!((first.ledger().handled, second.ledger().handled), (10, 10));
    })
    .await;
}

#[tokio::test]
async fn what_handlers_ask_while_they_drain_is_answered() {
    watched(async {
        let bus = Bus::private().await.unwrap();
        let a = bus.endpoint("a").unwrap();
        a.respond::<Double>()
            .with(|ask| async move {
                tokio::task::yield_now().await;
                Ok(ask.0 * 2)
            })
            .await
            .unwrap();
        let go = Arc::new(Semaphore::new(0));
        let (next, gate) = (a.clone(), go.clone());
        let subscription = a
            .subscribe::<Numbered>()
            .try_for_each(move |n| {
                let (next, gate) = (next.clone(), gate.clone());
                async move {
                    gate.acquire().await?.forget();
                    tokio::task::yield_now().await;
                    assert_eq!(next.request(Double(n.0)).await.unwrap(), n.0 * 2);
                    Ok(())
                }
            })
            .await
            .unwrap();
        for n in 0..10 {
            a.publish(Numbered(n)).await.unwrap();
        }
        let mut closing = Box::pin(bus.close());
        assert!((&mut closing).now_or_never().is_none());
        go.add_permits(10);
        closing.await.unwrap();
        assert_eq!(subscription.ledger().handled, 10, "{:?}", subscription.ledger());
    })
    .await;
}

#[tokio::test]
async fn a_stream_keeps_what_it_holds_when_its_closed_bus_is_dropped() {
    watched(async {
        let bus = Bus::private().await.unwrap();
        let a = bus.endpoint("a").unwrap();
        let mut stream = a.stream::<Numbered>().await.unwrap();
        for n in 0..3 {
            a.publish(Numbered(n)).await.unwrap();
        }
        bus.close().await.unwrap();
        drop((bus, a));
        for n in 0..3 {
            assert_eq!(stream.next().await.unwrap().unwrap().0, n);
        }
        assert!(stream.next().await.is_none());
    })
    .await;
}

#[tokio::test]
async fn a_transport_that_cannot_flush_cuts_no_handler_off() {
    watched(async {
        let (bus, knobs) = fake_bus().await;
        let a = bus.endpoint("a").unwrap();
        let subscription =
            a.subscribe::<Numbered>().for_each(|_| tokio::task::yield_now()).await.unwrap();
        for n in 0..10 {
            a.publish(Numbered(n)).await.unwrap();
        }
        knobs.flush_fails.store(true, Ordering::SeqCst);
        let error = bus.close().await.unwrap_err();
        assert!(
            matches!(error, CloseError::Transport(TransportError::Disconnected { .. })),
            "{error:?}"
        );
        assert_eq!(subscription.ledger().handled, 10, "{:?}", subscription.ledger());
    })
    .await;
}

#[tokio::test]
async fn registering_in_a_handler_that_drains_is_refused_and_holds_nothing_up() {
    watched(async {
        let bus = Bus::private().await.unwrap();
        let a = bus.endpoint("a").unwrap();
        let (started, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (inside, told, gate) = (a.clone(), started.clone(), go.clone());
        let subscription = a
            .subscribe::<Numbered>()
            .for_each(move |_| {
                let (inside, told, gate) = (inside.clone(), told.clone(), gate.clone());
                async move {
                    told.notify_one();
                    gate.notified().await;
                    let local = inside.subscribe::<Redrawn>().for_each(|_| async {}).await;
                    let stream = inside.stream::<Other>().await;
                    let group = inside.subscribe::<Other>().group("g").for_each(|_| async {}).await;
                    let responder = inside.respond::<Double>().with(|_| async { Ok(0) }).await;
                    assert!(matches!(local, Err(SubscribeError::Closed { .. })), "{local:?}");
                    assert!(matches!(stream, Err(SubscribeError::Closed { .. })), "{stream:?}");
                    assert!(matches!(group, Err(SubscribeError::Closed { .. })), "{group:?}");
                    assert!(matches!(responder, Err(SubscribeError::Closed { .. })));
                }
            })
            .await
            .unwrap();
        a.publish(Numbered(1)).await.unwrap();
        started.notified().await;
        let mut closing = Box::pin(bus.close());
        assert!((&mut closing).now_or_never().is_none());
        go.notify_one();
        closing.await.unwrap();
        assert_eq!(subscription.ledger().handled, 1, "{:?}", subscription.ledger());
    })
    .await;
}

#[tokio::test]
async fn who_joins_while_the_bus_closes_is_refused_and_not_left_undrained() {
    watched(async {
        let (bus, knobs) = fake_bus().await;
        let a = bus.endpoint("a").unwrap();
        knobs.join_waits.store(true, Ordering::SeqCst);
        let joins = a.clone();
        let joining = tokio::spawn(async move {
            joins.subscribe::<Numbered>().group("g").for_each(|_| async {}).await
        });
        knobs.joining.notified().await;
        // Keeps the bus in its drain.
        let go = Arc::new(Notify::new());
        let gate = go.clone();
        a.subscribe::<Other>()
            .for_each(move |_| {
                let gate = gate.clone();
                async move { gate.notified().await }
            })
            .await
            .unwrap();
        a.publish(Other(1)).await.unwrap();
        let closes = bus.clone();
        let closing = tokio::spawn(async move { closes.close().await });
        until(|| knobs.left.load(Ordering::SeqCst)).await;
        knobs.join_goes_on.notify_one();
        let joined = joining.await.unwrap();
        assert!(matches!(joined, Err(SubscribeError::Closed { .. })), "{joined:?}");
        go.notify_one();
        closing.await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_group_member_that_is_stuck_makes_the_drain_time_out() {
    watched(async {
        let bus = Bus::builder().transport("memory:").without_configuration();
        let bus = bus.drain_timeout(Duration::from_secs(2)).open().await.unwrap();
        let a = bus.endpoint("a").unwrap();
        let member = a.subscribe::<Numbered>().group("g");
        let member = member.for_each(|_| std::future::pending()).await.unwrap();
        a.publish(Numbered(1)).await.unwrap();
        until(|| member.ledger().in_flight == 1).await;
        let error = bus.close().await.unwrap_err();
        assert!(matches!(error, CloseError::TimedOut { .. }), "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn a_drain_may_take_as_long_as_it_likes() {
    watched(async {
        let bus = Bus::builder().transport("memory:").without_configuration();
        let bus = bus.drain_timeout(Duration::MAX).open().await.unwrap();
        bus.close().await.unwrap();
    })
    .await;
}
