//! Closing: what was accepted is finished, what is dropped ends.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use busway::{Bus, CloseError, PublishError, RequestError, SubscribeError};
use futures::FutureExt;

use crate::events::{Double, Numbered, watched};

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
