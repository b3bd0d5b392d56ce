//! One subscription, several ways in: the topic's ring, its own queue, gaps; and what they promise
//! together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use busway::{Bus, Event, EventStream, Overflow, PublishError};
use futures::FutureExt;

use crate::events::Numbered;

/// An event that counts its copies while it lives: local events may carry anything.
#[derive(Event)]
#[event("test.alive", local)]
struct Alive(#[expect(dead_code, reason = "held")] Arc<()>);

async fn next(stream: &mut EventStream<Numbered>) -> u32 {
    stream.next().await.expect("open").expect("no gap").0
}

#[tokio::test]
async fn addressed_and_common_events_of_one_publisher_keep_their_order() {
    let bus = Bus::private().await.unwrap();
    let (a, b) = (bus.endpoint("a").unwrap(), bus.endpoint("b").unwrap());
    let (mut to_a, mut to_b) =
        (a.stream::<Numbered>().await.unwrap(), b.stream::<Numbered>().await.unwrap());
    for n in 0..100 {
        match n % 3 {
            0 => a.publish(Numbered(n)).await.unwrap(),
            1 => a.publish(Numbered(n)).to("a").await.unwrap(),
            _ => a.publish(Numbered(n)).to("b").await.unwrap(),
        };
    }
    for n in (0..100).filter(|n| n % 3 != 2) {
        assert_eq!(next(&mut to_a).await, n);
    }
    for n in (0..100).filter(|n| n % 3 != 1) {
        assert_eq!(next(&mut to_b).await, n);
    }
    assert!(to_a.ledger().is_balanced() && to_a.ledger().arrived == 67);
}

#[tokio::test]
async fn an_event_is_dropped_when_all_have_read_it() {
    let bus = Bus::private().await.unwrap();
    let a = bus.endpoint("a").unwrap();
    let publisher = a.publisher::<Alive>();
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(a.stream::<Alive>().await.unwrap());
    }
    let value = Arc::new(());
    for _ in 0..3_000 {
        publisher.publish(Alive(value.clone())).await.unwrap();
        for stream in &mut streams {
            stream.next().await.unwrap().unwrap();
        }
    }
    // They find nothing more, and go to sleep (after they let others run once): with that nothing
    // is kept.
    for _ in 0..2 {
        for stream in &mut streams {
            assert!(stream.next_chunk(1).now_or_never().is_none());
        }
    }
    assert_eq!(Arc::strong_count(&value), 1);
}

#[tokio::test]
async fn an_event_that_a_subscriber_keeps_stays_whole() {
    let bus = Bus::private().await.unwrap();
    let a = bus.endpoint("a").unwrap();
    let mut stream = a.stream::<Numbered>().capacity(2).await.unwrap();
    let publisher = a.publisher::<Numbered>();
    let mut kept = Vec::new();
    // Many laps of the ring.
    for n in 0..100 {
        publisher.publish(Numbered(n)).await.unwrap();
        kept.push(stream.next().await.unwrap().unwrap());
    }
    assert!(kept.iter().map(|message| message.0).eq(0..100));
}

#[tokio::test]
async fn a_chunk_lends_what_is_there_and_leaves_what_was_not_taken() {
    let bus = Bus::private().await.unwrap();
    let a = bus.endpoint("a").unwrap();
    let mut stream = a.stream::<Numbered>().await.unwrap();
    let publisher = a.publisher::<Numbered>();
    publisher.publish_all((0..10).map(Numbered)).await.unwrap();
    {
        let mut chunk = stream.next_chunk(4).await.unwrap().unwrap();
        assert_eq!(chunk.left(), 4);
        assert_eq!(chunk.next().unwrap().0, 0);
        let kept = chunk.next().unwrap().to_message();
        assert_eq!((kept.0, kept.source().endpoint.as_str()), (1, "a"));
    }
    assert_eq!(stream.ledger().handled, 2);
    assert_eq!(next(&mut stream).await, 2);
    let mut seen = Vec::new();
    while seen.len() < 7 {
        let mut chunk = stream.next_chunk(64).await.unwrap().unwrap();
        while let Some(event) = chunk.next() {
            seen.push(event.0);
        }
    }
    assert_eq!(seen, [3, 4, 5, 6, 7, 8, 9]);
    assert_eq!((stream.ledger().handled, stream.ledger().in_flight), (10, 0));
    bus.close().await.unwrap();
    assert!(stream.next_chunk(1).await.is_none());
}

#[tokio::test]
async fn chunks_stop_at_addressed_events_and_go_on_behind_them() {
    let bus = Bus::private().await.unwrap();
    let a = bus.endpoint("a").unwrap();
    let mut stream = a.stream::<Numbered>().await.unwrap();
    for n in 0..9 {
        match n {
            3 | 7 => a.publish(Numbered(n)).to("a").await.unwrap(),
            _ => a.publish(Numbered(n)).await.unwrap(),
        };
    }
    let mut sizes = Vec::new();
    let mut seen = Vec::new();
    while seen.len() < 9 {
        let mut chunk = stream.next_chunk(64).await.unwrap().unwrap();
        sizes.push(chunk.left());
        while let Some(event) = chunk.next() {
            seen.push(event.0);
        }
    }
    assert!(seen.into_iter().eq(0..9));
    assert_eq!(sizes, [3, 1, 3, 1, 1]);
}

#[tokio::test]
async fn a_batch_waits_for_room_and_stops_where_one_fails() {
    let bus = Bus::private().await.unwrap();
    let a = bus.endpoint("a").unwrap();
    let publisher = a.publisher::<Numbered>();
    assert_eq!(publisher.publish_all((0..200).map(Numbered)).await.unwrap().reached, 0);
    let mut stream = a.stream::<Numbered>().capacity(3).await.unwrap();
    let publishing = tokio::spawn({
        let publisher = publisher.clone();
        async move { publisher.publish_all((0..500).map(Numbered)).await }
    });
    for n in 0..500 {
        assert_eq!(next(&mut stream).await, n);
    }
    let all = publishing.await.unwrap().unwrap();
    assert_eq!((all.events, all.reached), (500, 1));
    drop(stream);

    let fails = a.stream::<Numbered>().capacity(5).overflow(Overflow::Fail).await.unwrap();
    let error = publisher.publish_all((0..500).map(Numbered)).await.unwrap_err();
    assert_eq!(error.published, 5);
    assert!(
        matches!(&error.error, PublishError::Full { by: Some(by), .. } if by.to_string() == "a")
    );
    drop(fails);
}

#[tokio::test]
async fn whoever_drops_a_full_stream_frees_its_publishers() {
    let bus = Bus::private().await.unwrap();
    let a = bus.endpoint("a").unwrap();
    let mut reads = a.stream::<Numbered>().await.unwrap();
    let stuck = a.stream::<Numbered>().capacity(1).await.unwrap();
    let publisher = a.publisher::<Numbered>();
    publisher.publish(Numbered(0)).await.unwrap();
    let mut second = std::pin::pin!(publisher.publish(Numbered(1)));
    assert!(futures::poll!(second.as_mut()).is_pending());
    drop(stuck);
    assert_eq!(second.await.unwrap().reached, 1);
    assert_eq!((next(&mut reads).await, next(&mut reads).await), (0, 1));
}

#[tokio::test]
async fn a_publish_that_is_dropped_while_it_waits_leaves_nothing() {
    let bus = Bus::private().await.unwrap();
    let a = bus.endpoint("a").unwrap();
    let mut stream = a.stream::<Numbered>().capacity(1).await.unwrap();
    let publisher = a.publisher::<Numbered>();
    publisher.publish(Numbered(0)).await.unwrap();
    {
        let mut waits = std::pin::pin!(publisher.publish(Numbered(1)));
        assert!(futures::poll!(waits.as_mut()).is_pending());
    }
    assert_eq!(next(&mut stream).await, 0);
    publisher.publish(Numbered(2)).await.unwrap();
    assert_eq!(next(&mut stream).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_others_outrun_gets_its_turn() {
    let bus = Bus::private().await.unwrap();
    let (a, b) = (bus.endpoint("a").unwrap(), bus.endpoint("b").unwrap());
    let mut stream = b.stream::<Numbered>().capacity(1).await.unwrap();
    b.publish(Numbered(0)).await.unwrap();
    let slow = tokio::spawn(async move { a.publish(Numbered(1)).await.map(drop) });
    tokio::task::yield_now().await;
    // One that never sleeps, and takes every room that there is.
    let outruns = b.publisher::<Numbered>();
    for _ in 0..10_000 {
        if slow.is_finished() {
            break;
        }
        let _ = stream.next().await;
        let _ = outruns.try_publish(Numbered(2));
        tokio::task::yield_now().await;
    }
    slow.await.unwrap().unwrap();
}

/// What a lossy stream does not slow down: it is full, and nobody reads it.
#[tokio::test]
async fn a_lossy_stream_holds_nobody_up() {
    let bus = Bus::private().await.unwrap();
    let a = bus.endpoint("a").unwrap();
    let mut reads = a.stream::<Numbered>().await.unwrap();
    let mut lossy = Vec::new();
    for overflow in [Overflow::DropOldest, Overflow::DropNewest, Overflow::Latest] {
        lossy.push(a.stream::<Numbered>().capacity(4).overflow(overflow).await.unwrap());
    }
    for n in 0..500 {
        assert_eq!(a.try_publish(Numbered(n)).unwrap().reached(), 4);
        assert_eq!(next(&mut reads).await, n);
    }
    for stream in &lossy {
        let ledger = stream.ledger();
        assert!(ledger.is_balanced() && ledger.arrived == 500, "{ledger:?}");
        assert_eq!(ledger.dropped_overflow + ledger.in_flight, 500);
    }
}

/// Publishers, subscribers that come and go, of all kinds, on several threads; at the end every
/// account is right, and every waiting stream has seen everything in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn accounts_are_right_under_load() {
    const EACH: u32 = 5_000;
    let bus = Bus::private().await.unwrap();
    let to = bus.endpoint("to").unwrap();
    let mut waiting = Vec::new();
    for capacity in [1, 7, 64, 1024, 100_000] {
        waiting.push(to.stream::<Numbered>().capacity(capacity).await.unwrap());
    }
    let handled = Arc::new(AtomicUsize::new(0));
    let count = handled.clone();
    let subscription = to
        .subscribe::<Numbered>()
        .for_each(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            async {}
        })
        .await
        .unwrap();
    let any = to.stream_any("test.#").capacity(16).await.unwrap();
    let dropping =
        to.stream::<Numbered>().overflow(Overflow::DropOldest).capacity(8).await.unwrap();

    let readers: Vec<_> = waiting
        .into_iter()
        .map(|mut stream| {
            tokio::spawn(async move {
                let mut last = [None; 3];
                for _ in 0..3 * EACH {
                    let n = next(&mut stream).await;
                    let publisher = (n % 3) as usize;
                    assert!(last[publisher].is_none_or(|last| last < n), "order");
                    last[publisher] = Some(n);
                }
                stream
            })
        })
        .collect();
    let counting = tokio::spawn(async move {
        let mut any = any;
        for _ in 0..3 * EACH {
            any.next().await.unwrap().unwrap();
        }
        any.ledger()
    });
    let comes_and_goes = tokio::spawn({
        let to = to.clone();
        async move {
            for round in 0..200 {
                let mut stream = to.stream::<Numbered>().capacity(1 + round % 5).await.unwrap();
                if let Ok(Some(message)) =
                    tokio::time::timeout(Duration::from_millis(1), stream.next()).await
                {
                    message.unwrap();
                }
            }
        }
    });
    let publishers: Vec<_> = (0..3)
        .map(|publisher| {
            let endpoint = bus.endpoint(&format!("from-{publisher}")).unwrap();
            tokio::spawn(async move {
                let fast = endpoint.publisher::<Numbered>();
                for n in 0..EACH {
                    let event = Numbered(n * 3 + publisher);
                    match n % 7 {
                        0 => drop(endpoint.publish(event).await.unwrap()),
                        1 => drop(endpoint.publish(event).header("k", "v").await.unwrap()),
                        2 => drop(endpoint.publish(event).to("to").await.unwrap()),
                        3 => drop(fast.publish_all([event]).await.unwrap()),
                        _ => drop(fast.publish(event).await.unwrap()),
                    }
                }
            })
        })
        .collect();
    for task in publishers {
        task.await.unwrap();
    }
    comes_and_goes.await.unwrap();
    let total = u64::from(3 * EACH);
    for reader in readers {
        let ledger = reader.await.unwrap().ledger();
        assert!(ledger.is_balanced() && ledger.handled == total, "{ledger:?}");
    }
    assert_eq!(counting.await.unwrap().handled, total);
    bus.close().await.unwrap();
    assert_eq!(handled.load(Ordering::Relaxed) as u64, total);
    let ledger = subscription.ledger();
    assert!(ledger.is_balanced() && ledger.handled == total, "{ledger:?}");
    let ledger = dropping.ledger();
    assert!(ledger.is_balanced() && ledger.arrived == total, "{ledger:?}");
}
