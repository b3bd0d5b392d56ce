//! From the transport to the queues: what subscriptions share, and what holds up whom.

use busway::{ContentType, Event, Gap, GapReason, Notice, Overflow};
use busway_transport::{Arrival, Payload};
use serde::{Deserialize, Serialize};

use crate::events::{Numbered, until, watched};
use crate::fake::{event, fake_bus, json};

#[tokio::test]
async fn a_full_queue_does_not_let_the_others_of_its_filter_wait() {
    watched(async {
        let (bus, knobs) = fake_bus().await;
        let a = bus.endpoint("a").unwrap();
        let stuck = a.stream::<Numbered>().capacity(1).await.unwrap();
        let mut free = a.stream::<Numbered>().capacity(1).await.unwrap();
        assert_eq!(knobs.capacities(), [1], "they share one interest");
        knobs.arrive(event("test.numbered", 1, json("1")));
        assert_eq!(free.next().await.unwrap().unwrap().0, 1);
        knobs.arrive(event("test.numbered", 2, json("2")));
        assert_eq!(free.next().await.unwrap().unwrap().0, 2);
        assert_eq!(stuck.ledger().arrived, 1);
    })
    .await;
}

#[tokio::test]
async fn each_capacity_is_made_known_to_the_transport() {
    let (bus, knobs) = fake_bus().await;
    let a = bus.endpoint("a").unwrap();
    let _newest = a.stream::<Numbered>().overflow(Overflow::Latest).await.unwrap();
    let _deep = a.stream::<Numbered>().capacity(5_000).await.unwrap();
    assert_eq!(knobs.capacities(), [1, 5_000]);
}

#[tokio::test]
async fn who_wants_only_the_newest_holds_no_gaps_of_what_it_missed() {
    watched(async {
        let (bus, knobs) = fake_bus().await;
        let a = bus.endpoint("a").unwrap();
        let mut stream = a.stream::<Numbered>().overflow(Overflow::Latest).await.unwrap();
        for n in 0..1_000 {
            knobs.arrive(event("test.numbered", 1 + 2 * n, json("7")));
        }
        until(|| stream.ledger().arrived == 1_000).await;
        bus.close().await.unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap().0, 7);
        assert!(stream.next().await.is_none());
        let ledger = stream.ledger();
        assert_eq!((ledger.handled, ledger.dropped_overflow, ledger.missed), (1, 999, 999));
    })
    .await;
}

#[tokio::test]
async fn gaps_that_nobody_reads_become_few_and_lose_no_count() {
    watched(async {
        let (bus, knobs) = fake_bus().await;
        let a = bus.endpoint("a").unwrap();
        let mut stream = a.stream::<Numbered>().await.unwrap();
        for n in 0..1_000 {
            let (topic, error) = ("test.numbered".to_owned(), format!("no {n}"));
            let reason = GapReason::Undecodable { topic, error };
            knobs.arrive(Arrival::Gap(Gap::new(Some(1), reason)));
        }
        until(|| stream.ledger().missed == 1_000).await;
        bus.close().await.unwrap();
        let (mut gaps, mut missed) = (0, 0);
        while let Some(next) = stream.next().await {
            gaps += 1;
            missed += next.unwrap_err().missed.unwrap();
        }
        assert!(gaps < 20, "{gaps}");
        assert_eq!(missed, 1_000);
    })
    .await;
}

#[tokio::test]
async fn a_gap_that_no_handler_hears_is_counted_and_told_on_the_bus() {
    watched(async {
        let (bus, knobs) = fake_bus().await;
        let a = bus.endpoint("a").unwrap();
        let mut notices = bus.notices();
        let subscription = a.subscribe_any("test.#").for_each(|_| async {}).await.unwrap();
        knobs.arrive(Arrival::Gap(Gap::new(Some(7), GapReason::Disconnected)));
        loop {
            if let Notice::Gap { filter, gap } = notices.next().await.unwrap() {
                assert_eq!(filter.as_str(), "test.#");
                assert_eq!(gap, Gap::new(Some(7), GapReason::Disconnected));
                break;
            }
        }
        assert_eq!(subscription.ledger().missed, 7);
    })
    .await;
}

/// As deep as its sender likes.
#[derive(Event, Serialize, Deserialize, Debug)]
#[event("test.tree")]
enum Tree {
    Leaf,
    Node(Box<Tree>),
}

#[tokio::test]
async fn bincode_is_not_read_by_a_type_that_does_not_ask_for_it() {
    watched(async {
        let (bus, knobs) = fake_bus().await;
        let a = bus.endpoint("a").unwrap();
        let mut stream = a.stream::<Tree>().await.unwrap();
        // Each 1 is one more `Node`: read, it would exhaust the stack.
        let deep = Payload::encoded(ContentType::BINCODE, vec![1; 2_000_000]);
        knobs.arrive(event("test.tree", 1, deep));
        knobs.arrive(event("test.tree", 2, json(r#"{"Node":"Leaf"}"#)));
        let gap = stream.next().await.unwrap().unwrap_err();
        assert!(gap.to_string().contains("is not read from bincode"), "{gap}");
        let message = stream.next().await.unwrap().unwrap();
        assert!(matches!(&*message, Tree::Node(leaf) if matches!(**leaf, Tree::Leaf)));
    })
    .await;
}
