//! Publishing: order, atomicity, refusals.

use std::time::Duration;

use busway::{Bus, Overflow, PublishError};
use futures::FutureExt;

use crate::events::{Numbered, watched};

#[tokio::test]
async fn publishing_into_the_void_is_told_when_asked() {
    let bus = Bus::private().await.unwrap();
    let a = bus.endpoint("a").unwrap();
    let receipt = a.publish(Numbered(1)).await.unwrap();
    assert_eq!((receipt.reached(), receipt.is_exact(), receipt.id()), (0, true, None));
    let error = a.publish(Numbered(1)).require_subscriber().await.unwrap_err();
    assert!(matches!(error, PublishError::NoSubscriber { topic } if topic == "test.numbered"));
    let error = a.publish(Numbered(1)).to("No Name").await.unwrap_err();
    assert!(matches!(error, PublishError::Addressee { .. }), "{error}");
}

#[tokio::test]
async fn a_receipt_names_whom_it_reached() {
    let bus = Bus::private().await.unwrap();
    let (a, b) = (bus.endpoint("a").unwrap(), bus.endpoint("b").unwrap());
    let _one = a.stream::<Numbered>().await.unwrap();
    let _two = b.stream::<Numbered>().await.unwrap();
    let receipt = a.publish(Numbered(1)).await.unwrap();
    let names: Vec<_> = receipt.parties().iter().map(ToString::to_string).collect();
    assert_eq!((receipt.reached(), names), (2, vec!["a".to_owned(), "b".to_owned()]));
    let receipt = a.publish(Numbered(1)).to("b").await.unwrap();
    let names: Vec<_> = receipt.parties().iter().map(ToString::to_string).collect();
    assert_eq!((receipt.reached(), names), (1, vec!["b".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_publish_that_finds_no_room_names_who_is_in_the_way_and_leaves_no_trace() {
    let bus = Bus::private().await.unwrap();
    let (a, slow, quick) =
        (bus.endpoint("a").unwrap(), bus.endpoint("slow").unwrap(), bus.endpoint("quick").unwrap());
    let mut quick = quick.stream::<Numbered>().await.unwrap();
    let mut slow = slow.stream::<Numbered>().capacity(1).await.unwrap();
    a.publish(Numbered(1)).await.unwrap();

    let error = a.publish(Numbered(2)).timeout(Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(error.to_string(), "test.numbered: no room within 1s: slow is in the way");
    let error = a.try_publish(Numbered(3)).unwrap_err();
    assert_eq!(error.event, Numbered(3));
    assert!(
        matches!(error.error, PublishError::Full { by: Some(by), .. } if by.endpoint == "slow")
    );

    // Dropped while it waits: as if it had never been.
    let mut dropped = a.publish(Numbered(4));
    assert!((&mut dropped).now_or_never().is_none());
    drop(dropped);

    assert_eq!(slow.next().await.unwrap().unwrap().0, 1);
    a.publish(Numbered(5)).await.unwrap();
    assert_eq!(slow.next().await.unwrap().unwrap().0, 5);
    assert_eq!(quick.next().await.unwrap().unwrap().0, 1);
    assert_eq!(quick.next().await.unwrap().unwrap().0, 5);
}

#[tokio::test]
async fn events_arrive_in_the_order_of_their_first_polls() {
    watched(async {
        let bus = Bus::private().await.unwrap();
        let a = bus.endpoint("a").unwrap();
        let mut stream = a.stream::<Numbered>().capacity(2).await.unwrap();
        let publisher = a.publisher::<Numbered>();
        let all = (0..500).map(|n| publisher.publish(Numbered(n)));
        let reading = async {
            for n in 0..500 {
                assert_eq!(stream.next().await.unwrap().unwrap().0, n);
            }
        };
        futures::future::join(futures::future::join_all(all), reading).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_publishers_lose_nothing_and_are_never_turned_away_without_reason() {
    watched(async {
        let bus = Bus::private().await.unwrap();
        let a = bus.endpoint("a").unwrap();
        let mut stream = a.stream::<Numbered>().capacity(8).await.unwrap();
        let mut roomy = a.stream::<Numbered>().capacity(1 << 16).await.unwrap();
        let publishers = (0..4).map(|_| {
            let a = a.clone();
            tokio::spawn(async move {
                for n in 0..2_000 {
                    a.publish(Numbered(n)).await.unwrap();
                }
            })
        });
        let publishers: Vec<_> = publishers.collect();
        let mut sum = 0;
        for _ in 0..8_000 {
            sum += u64::from(stream.next().await.unwrap().unwrap().0);
        }
        assert_eq!(sum, 4 * (0..2_000u64).sum::<u64>());
        for publisher in publishers {
            publisher.await.unwrap();
        }
        drop(stream);

        // With room for all, no `try_publish` fails because another is at it.
        for _ in 0..8_000 {
            roomy.next().await.unwrap().unwrap();
        }
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let a = a.clone();
                std::thread::spawn(move || {
                    for n in 0..2_000 {
                        a.try_publish(Numbered(n)).unwrap();
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(roomy.ledger().in_flight, 8_000);
    })
    .await;
}

#[tokio::test]
async fn a_subscription_can_make_its_publishers_fail() {
    let bus = Bus::private().await.unwrap();
    let a = bus.endpoint("a").unwrap();
    let _full = a.stream::<Numbered>().capacity(1).overflow(Overflow::Fail).await.unwrap();
    a.publish(Numbered(1)).await.unwrap();
    let error = a.publish(Numbered(2)).await.unwrap_err();
    assert!(matches!(error, PublishError::Full { by: Some(by), .. } if by.endpoint == "a"));
}

#[tokio::test]
async fn metadata_is_made_when_it_is_asked_for() {
    let bus = Bus::private().await.unwrap();
    let a = bus.endpoint("a").unwrap();
    let (mut one, mut two) =
        (a.stream::<Numbered>().await.unwrap(), a.stream::<Numbered>().await.unwrap());
    a.publish(Numbered(1)).await.unwrap();
    a.publish(Numbered(2)).header("tenant", "x").await.unwrap();
    a.publish(Numbered(3)).timestamped().await.unwrap();
    let id = busway::MessageId::new();
    a.publish(Numbered(4)).id(id).await.unwrap();
    for n in 1..=4 {
        let first = one.next().await.unwrap().unwrap();
        let second = two.next().await.unwrap().unwrap();
        assert_eq!((first.0, first.id()), (n, second.id()), "one id for all");
        assert_eq!(first.headers().get("tenant"), (n == 2).then_some("x"));
        assert_eq!(first.time().is_some(), n == 2 || n == 3);
        assert_eq!(first.source().endpoint, "a");
        assert_eq!(first.id() == id, n == 4);
    }
}
