//! Requests inside one bus: in place, and what happens when they suspend.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use busway::{Bus, RequestError};
use futures::FutureExt;
use tokio::sync::{Notify, Semaphore};

use crate::events::{Double, Halve, until, watched};

#[tokio::test]
async fn a_handler_that_does_not_suspend_answers_in_the_callers_first_poll() {
    let bus = Bus::private().await.unwrap();
    let a = bus.endpoint("a").unwrap();
    assert!(matches!(a.request(Double(1)).await, Err(RequestError::NoResponder { .. })));
    a.respond::<Double>().with(|ask| async move { Ok(ask.0 * 2) }).await.unwrap();
    assert_eq!(a.request(Double(4)).now_or_never().unwrap().unwrap(), 8);
    let elsewhere = a.request(Double(4)).to("b").await;
    assert!(matches!(elsewhere, Err(RequestError::NoResponder { .. })));
}

#[tokio::test]
async fn a_handler_that_suspends_goes_on_without_its_caller_being_polled() {
    watched(async {
        let bus = Bus::private().await.unwrap();
        let a = bus.endpoint("a").unwrap();
        let (go, done) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (gate, told) = (go.clone(), done.clone());
        a.respond::<Double>()
            .with(move |ask| {
                let (gate, told) = (gate.clone(), told.clone());
                async move {
                    gate.notified().await;
                    told.notify_one();
                    Ok(ask.0 * 2)
                }
            })
            .await
            .unwrap();
        let mut call = a.request(Double(4));
        assert!((&mut call).now_or_never().is_none());
        go.notify_one();
        done.notified().await; // the caller was not polled meanwhile
        assert_eq!(call.await.unwrap(), 8);
    })
    .await;
}

#[tokio::test]
async fn dropping_the_caller_tells_the_handler_and_cuts_nothing() {
    watched(async {
        let bus = Bus::private().await.unwrap();
        let a = bus.endpoint("a").unwrap();
        let done = Arc::new(Notify::new());
        let told = done.clone();
        a.respond::<Double>()
            .with(move |ask| {
                let told = told.clone();
                async move {
                    ask.cancelled().await;
                    told.notify_one();
                    Ok(0)
                }
            })
            .await
            .unwrap();
        let mut call = a.request(Double(4)).timeout(Duration::from_secs(3600));
        assert!((&mut call).now_or_never().is_none());
        drop(call);
        done.notified().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_request_ends_by_its_deadline_and_a_panic_is_an_outcome() {
    let bus = Bus::private().await.unwrap();
    let a = bus.endpoint("a").unwrap();
    let responder = a
        .respond::<Double>()
        .with(|ask| async move {
            assert_ne!(ask.0, 13, "unlucky");
            std::future::pending().await
        })
        .await
        .unwrap();
    let outcome = a.request(Double(13)).await;
    assert!(
        matches!(&outcome, Err(RequestError::Disconnected { reason, .. }) if reason.contains("unlucky")),
        "{outcome:?}"
    );
    let outcome = a.request(Double(1)).timeout(Duration::from_secs(5)).await;
    assert!(matches!(outcome, Err(RequestError::TimedOut { .. })), "{outcome:?}");
    drop(responder);
}

#[tokio::test]
async fn requests_that_nest_deeply_do_not_exhaust_the_stack() {
    watched(async {
        let bus = Bus::private().await.unwrap();
        let a = bus.endpoint("a").unwrap();
        let inner = a.clone();
        a.respond::<Double>()
            .concurrency(10_000)
            .with(move |ask| {
                let inner = inner.clone();
                async move {
                    match ask.0 {
                        0 => Ok(0),
                        n => Ok(inner.request(Double(n - 1)).await.unwrap() + 2),
                    }
                }
            })
            .await
            .unwrap();
        assert_eq!(a.request(Double(2_000)).await.unwrap(), 4_000);
        // The handler holds its own endpoint: only `close` ends that circle.
        bus.close().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_limit_on_concurrency_holds_for_calls_in_place() {
    watched(async {
        let bus = Bus::private().await.unwrap();
        let a = bus.endpoint("a").unwrap();
        let go = Arc::new(Notify::new());
        let gate = go.clone();
        a.respond::<Double>()
            .concurrency(1)
            .with(move |ask| {
                let gate = gate.clone();
                async move {
                    if ask.0 == 1 {
                        gate.notified().await;
                    }
                    Ok(ask.0 * 2)
                }
            })
            .await
            .unwrap();
        let mut first = a.request(Double(1));
        assert!((&mut first).now_or_never().is_none());
        let mut second = a.request(Double(2));
        assert!((&mut second).now_or_never().is_none(), "the first is still at it");
        go.notify_one();
        assert_eq!(first.await.unwrap(), 2);
        assert_eq!(second.await.unwrap(), 4);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_busy_responder_that_is_unregistered_is_asked_no_more() {
    watched(async {
        let here = Bus::connect("memory:unregistered").await.unwrap();
        let there = Bus::connect("memory:unregistered").await.unwrap();
        let (a, b) = (here.endpoint("a").unwrap(), there.endpoint("b").unwrap());
        let started = Arc::new(Notify::new());
        let told = started.clone();
        let responder = a
            .respond::<Double>()
            .concurrency(1)
            .with(move |_| {
                told.notify_one();
                std::future::pending()
            })
            .await
            .unwrap();
        let mut first = b.request(Double(1));
        let mut second = b.request(Double(2));
        assert!((&mut first).now_or_never().is_none());
        started.notified().await;
        assert!((&mut second).now_or_never().is_none());
        // Gives the responder the chance to take it, and to wait for its turn with it.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(responder.unregister().now_or_never().is_none(), "it waits for the first");
        // The one that waited for its turn is told; then nobody finds the responder any more.
        let outcome = second.await;
        assert!(matches!(outcome, Err(RequestError::Disconnected { .. })), "{outcome:?}");
        for asker in [&a, &b] {
            let outcome = asker.request(Double(3)).await;
            assert!(matches!(outcome, Err(RequestError::NoResponder { .. })), "{outcome:?}");
        }
        assert!((&mut first).now_or_never().is_none(), "it is still being answered");
    })
    .await;
}

#[tokio::test]
async fn a_request_whose_caller_has_gone_before_its_turn_is_not_run() {
    watched(async {
        let here = Bus::connect("memory:gone").await.unwrap();
        let there = Bus::connect("memory:gone").await.unwrap();
        let (a, b) = (here.endpoint("a").unwrap(), there.endpoint("b").unwrap());
        let (ran, go) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Semaphore::new(0)));
        let (log, gate) = (ran.clone(), go.clone());
        a.respond::<Double>()
            .concurrency(1)
            .with(move |ask| {
                log.lock().unwrap().push(ask.0);
                let gate = gate.clone();
                async move {
                    gate.acquire().await.unwrap().forget();
                    Ok(ask.0 * 2)
                }
            })
            .await
            .unwrap();
        for asker in [&b, &a] {
            let mut first = asker.request(Double(1));
            assert!((&mut first).now_or_never().is_none());
            until(|| *ran.lock().unwrap() == [1]).await;
            let mut second = asker.request(Double(2));
            assert!((&mut second).now_or_never().is_none());
            tokio::task::yield_now().await;
            drop(second);
            go.add_permits(2);
            assert_eq!(first.await.unwrap(), 2);
            assert_eq!(asker.request(Double(3)).await.unwrap(), 6);
            assert_eq!(std::mem::take(&mut *ran.lock().unwrap()), [1, 3]);
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_that_has_expired_is_not_run() {
    let bus = Bus::private().await.unwrap();
    let a = bus.endpoint("a").unwrap();
    a.respond::<Double>().with(|_| async { panic!("it was run") }).await.unwrap();
    let outcome = a.request(Double(1)).timeout(Duration::ZERO).await;
    assert!(matches!(outcome, Err(RequestError::TimedOut { .. })), "{outcome:?}");
}

#[tokio::test]
async fn a_request_and_its_responder_may_ask_for_more_than_there_can_be() {
    watched(async {
        let bus = Bus::private().await.unwrap();
        let a = bus.endpoint("a").unwrap();
        let outcome = a.request(Double(1)).timeout(Duration::MAX).await;
        assert!(matches!(outcome, Err(RequestError::NoResponder { .. })), "{outcome:?}");
        a.respond::<Double>()
            .concurrency(usize::MAX)
            .with(|ask| async move {
                tokio::task::yield_now().await;
                Ok(ask.0 * 2)
            })
            .await
            .unwrap();
        assert_eq!(a.request(Double(4)).timeout(Duration::MAX).await.unwrap(), 8);
    })
    .await;
}

#[tokio::test]
async fn responders_of_one_type_are_asked_in_turn() {
    let bus = Bus::private().await.unwrap();
    let (a, b) = (bus.endpoint("a").unwrap(), bus.endpoint("b").unwrap());
    let first = a.respond::<Double>().with(|_| async { Ok(1) }).await.unwrap();
    let second = b.respond::<Double>().with(|_| async { Ok(2) }).await.unwrap();
    let mut asked = [0; 3];
    for _ in 0..10 {
        asked[a.request(Double(0)).await.unwrap() as usize] += 1;
    }
    assert_eq!(asked, [0, 5, 5]);
    for _ in 0..3 {
        assert_eq!(a.request(Double(0)).to("b").await.unwrap(), 2);
    }
    second.unregister().await;
    for _ in 0..3 {
        assert_eq!(a.request(Double(0)).await.unwrap(), 1);
    }
    first.unregister().await;
    assert!(matches!(a.request(Double(0)).await, Err(RequestError::NoResponder { .. })));
}

#[tokio::test]
async fn a_handler_may_register_and_unregister_responders() {
    watched(async {
        let bus = Bus::private().await.unwrap();
        let a = bus.endpoint("a").unwrap();
        let inner = a.clone();
        a.respond::<Double>()
            .with(move |ask| {
                let inner = inner.clone();
                async move {
                    let other = inner.respond::<Halve>().with(|ask| async move { Ok(ask.0 / 2) });
                    let other = other.await.unwrap();
                    let half = inner.request(Halve(ask.0)).await.unwrap();
                    other.unregister().await;
                    let none = inner.request(Halve(ask.0)).await;
                    assert!(matches!(none, Err(RequestError::NoResponder { .. })));
                    Ok(half * 4)
                }
            })
            .await
            .unwrap();
        assert_eq!(a.request(Double(4)).await.unwrap(), 8);
        bus.close().await.unwrap();
    })
    .await;
}
