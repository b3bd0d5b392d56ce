//! Publishing: order, atomicity, refusals.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use busway::{Bus, Endpoint, Event, Headers, Notice, Overflow, PublishError};
use futures::FutureExt;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::Notify;

use crate::events::{Numbered, Other, watched};
use crate::fake::{Fate, fake_bus};

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

/// Counts how often it is serialised.
#[derive(Debug, Deserialize)]
struct Counting;

static SERIALISED: AtomicUsize = AtomicUsize::new(0);

impl Serialize for Counting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        SERIALISED.fetch_add(1, Ordering::SeqCst);
        serializer.serialize_unit()
    }
}

#[derive(Event, Serialize, Deserialize, Debug)]
#[event("test.counting")]
struct Counted(Counting);

#[tokio::test]
async fn what_stays_in_the_process_is_never_serialised() {
    watched(async {
        let here = Bus::connect("memory:serialised").await.unwrap();
        let there = Bus::connect("memory:serialised").await.unwrap();
        let (a, b) = (here.endpoint("a").unwrap(), there.endpoint("b").unwrap());
        let own = a.subscribe::<Counted>().for_each(|_| async {}).await.unwrap();
        let other = b.subscribe::<Counted>().for_each(|_| async {}).await.unwrap();
        let group = b.subscribe::<Counted>().group("g").for_each(|_| async {}).await.unwrap();
        for _ in 0..5 {
            a.publish(Counted(Counting)).await.unwrap();
        }
        here.close().await.unwrap();
        there.close().await.unwrap();
        for ledger in [own.ledger(), other.ledger(), group.ledger()] {
            assert_eq!(ledger.handled, 5, "{ledger:?}");
        }
        assert_eq!(SERIALISED.load(Ordering::SeqCst), 0);
    })
    .await;
}

/// Publishes another one of its kind while it is serialised.
#[derive(Debug)]
struct Publishing(Option<Endpoint>);

impl Serialize for Publishing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Some(endpoint) = &self.0 {
            endpoint.try_publish(Reentrant(Self(None))).unwrap();
        }
        serializer.serialize_unit()
    }
}

impl<'de> Deserialize<'de> for Publishing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <()>::deserialize(deserializer)?;
        Ok(Self(None))
    }
}

#[derive(Event, Serialize, Deserialize, Debug)]
#[event("test.reentrant")]
struct Reentrant(Publishing);

#[tokio::test]
async fn an_event_is_serialised_under_no_lock() {
    watched(async {
        let (fake, knobs) = fake_bus().await;
        knobs.interest();
        let private = Bus::private().await.unwrap();
        let a = private.endpoint("a").unwrap();
        a.subscribe::<Reentrant>().group("g").for_each(|_| async {}).await.unwrap();
        for a in [a, fake.endpoint("a").unwrap()] {
            let (done, ended) = tokio::sync::oneshot::channel();
            // In a thread of its own: locked up, it would take the watchdog with it.
            std::thread::spawn(move || {
                let event = Reentrant(Publishing(Some(a.clone())));
                done.send(a.try_publish(event).map(|_| ())).unwrap();
            });
            ended.await.unwrap().unwrap();
        }
        assert_eq!(knobs.committed.load(Ordering::SeqCst), 2);
    })
    .await;
}

#[tokio::test]
async fn a_subscriber_that_is_wanted_and_not_there_is_told_after_the_commit_too() {
    let (bus, knobs) = fake_bus().await;
    let a = bus.endpoint("a").unwrap();
    knobs.interest();
    let error = a.publish(Numbered(1)).require_subscriber().await.unwrap_err();
    assert!(matches!(error, PublishError::NoSubscriber { .. }), "{error:?}");
    assert_eq!(a.publish(Numbered(1)).await.unwrap().reached(), 0);
}

#[tokio::test]
async fn an_unconfirmed_event_is_named_with_its_id_once() {
    let (bus, knobs) = fake_bus().await;
    let a = bus.endpoint("a").unwrap();
    knobs.interest();
    *knobs.fate.lock().unwrap() = Fate::Lost;
    let _here = a.stream::<Numbered>().await.unwrap();
    let own = busway::MessageId::new();
    let error = a.publish(Numbered(1)).id(own).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("test.numbered ({own}) was sent, but not confirmed: lost")
    );
    assert!(
        matches!(error, PublishError::Unconfirmed { id, reached: 4, .. } if id == own),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_flush_ends_with_its_bus_and_says_what_is_unconfirmed() {
    watched(async {
        let (bus, knobs) = fake_bus().await;
        let a = bus.endpoint("a").unwrap();
        knobs.interest();
        *knobs.fate.lock().unwrap() = Fate::Silent;
        let publisher = a.publisher::<Numbered>();
        publisher.publish(Numbered(1)).await.unwrap();
        let closing = bus.clone();
        let closing = tokio::spawn(async move { closing.close().await });
        closing.await.unwrap().unwrap_err();
        let error = publisher.flush().await.unwrap_err();
        assert!(matches!(error.failures[..], [PublishError::Unconfirmed { .. }]), "{error:?}");
        publisher.flush().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_failure_that_no_flush_reported_is_told_on_the_bus() {
    watched(async {
        let (bus, knobs) = fake_bus().await;
        let a = bus.endpoint("a").unwrap();
        knobs.interest();
        *knobs.fate.lock().unwrap() = Fate::Lost;
        let mut notices = bus.notices();
        let publisher = a.publisher::<Numbered>();
        publisher.publish(Numbered(1)).await.unwrap();
        drop(publisher);
        // So is one of a `try_publish` without a publisher.
        a.try_publish(Other(1)).unwrap();
        let mut topics = Vec::new();
        while topics.len() < 2 {
            if let Notice::PublishFailed { topic, reason } = notices.next().await.unwrap() {
                assert!(reason.contains("lost"), "{reason}");
                topics.push(topic.to_string());
            }
        }
        topics.sort();
        assert_eq!(topics, ["test.numbered", "test.other"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_flush_waits_for_what_try_publish_sent_too() {
    watched(async {
        let (bus, knobs) = fake_bus().await;
        let a = bus.endpoint("a").unwrap();
        knobs.interest();
        *knobs.fate.lock().unwrap() = Fate::Silent;
        let publisher = a.publisher::<Numbered>();
        let receipt = publisher.try_publish(Numbered(1)).unwrap();
        assert!(!receipt.is_exact());
        let error = publisher.flush().await.unwrap_err();
        assert!(matches!(error.failures[..], [PublishError::TimedOut { .. }]), "{error:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_fills_its_own_queue_is_told_at_once_and_waits_for_nobody() {
    watched(async {
        let bus = Bus::private().await.unwrap();
        let a = bus.endpoint("a").unwrap();
        let (told, mut outcomes) = tokio::sync::mpsc::unbounded_channel();
        let go = Arc::new(Notify::new());
        let (again, gate) = (a.clone(), go.clone());
        a.subscribe::<Numbered>()
            .capacity(1)
            .for_each(move |n| {
                let (again, told, gate) = (again.clone(), told.clone(), gate.clone());
                async move {
                    if n.0 == 1 {
                        again.publish(Numbered(2)).await.unwrap();
                        told.send(again.publish(Numbered(3)).await).unwrap();
                        gate.notified().await;
                        told.send(again.publish(Numbered(4)).await).unwrap();
                    }
                }
            })
            .await
            .unwrap();
        let is_told = |outcome| match outcome {
            Err(PublishError::Full { by: Some(by), .. }) => by.endpoint == "a",
            _ => false,
        };
        a.publish(Numbered(1)).await.unwrap();
        assert!(is_told(outcomes.recv().await.unwrap()));
        // Also behind others in the line: they wait for this very handler.
        let mut other = a.publish(Numbered(5));
        assert!((&mut other).now_or_never().is_none());
        go.notify_one();
        assert!(is_told(outcomes.recv().await.unwrap()));
        other.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn headers_add_to_those_that_are_there() {
    let bus = Bus::private().await.unwrap();
    let a = bus.endpoint("a").unwrap();
    let mut stream = a.stream::<Numbered>().await.unwrap();
    let more: Headers = [("b", "2")].into_iter().collect();
    a.publish(Numbered(1)).header("a", "1").headers(more).await.unwrap();
    let message = stream.next().await.unwrap().unwrap();
    let headers: Vec<_> = message.headers().iter().collect();
    assert_eq!(headers, [("a", "1"), ("b", "2")]);
}

#[tokio::test(start_paused = true)]
async fn a_publish_may_wait_as_long_as_it_likes() {
    watched(async {
        let bus = Bus::private().await.unwrap();
        let a = bus.endpoint("a").unwrap();
        let mut stream = a.stream::<Numbered>().capacity(1).await.unwrap();
        a.publish(Numbered(1)).await.unwrap();
        let mut waiting = a.publish(Numbered(2)).timeout(Duration::MAX);
        assert!((&mut waiting).now_or_never().is_none());
        assert_eq!(stream.next().await.unwrap().unwrap().0, 1);
        waiting.await.unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_here_keeps_no_room_out_there_from_others() {
    watched(async {
        let here = Bus::connect("memory:room").await.unwrap();
        let there = Bus::connect("memory:room").await.unwrap();
        let (a, audit) = (here.endpoint("a").unwrap(), there.endpoint("audit").unwrap());
        let mut audit = audit.stream_any("#").capacity(1).await.unwrap();
        let _stuck = a.stream::<Numbered>().capacity(1).await.unwrap();
        a.publish(Numbered(1)).await.unwrap();
        assert_eq!(audit.next().await.unwrap().unwrap().topic(), &"test.numbered");
        let mut waiting = a.publish(Numbered(2));
        assert!((&mut waiting).now_or_never().is_none());
        for n in 0..5 {
            a.publish(Other(n)).await.unwrap();
            assert_eq!(audit.next().await.unwrap().unwrap().topic(), &"test.other");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_subscribes_while_a_publish_waits_gets_it() {
    watched(async {
        let here = Bus::connect("memory:late").await.unwrap();
        let there = Bus::connect("memory:late").await.unwrap();
        let (a, b) = (here.endpoint("a").unwrap(), there.endpoint("b").unwrap());
        let _first = b.stream_any("test.#").await.unwrap();
        let mut slow = a.stream::<Numbered>().capacity(1).await.unwrap();
        a.publish(Numbered(1)).await.unwrap();
        let mut waiting = a.publish(Numbered(2));
        assert!((&mut waiting).now_or_never().is_none());
        let mut late = b.stream::<Numbered>().await.unwrap();
        assert_eq!(slow.next().await.unwrap().unwrap().0, 1);
        waiting.await.unwrap();
        assert_eq!(late.next().await.unwrap().unwrap().0, 2);
    })
    .await;
}
