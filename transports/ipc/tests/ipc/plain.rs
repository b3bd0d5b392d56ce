use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use busway_transport::{
    Arrival, BoxFuture, Common, Envelope, GapReason, Interest, Notice, Permit, PlainInterest,
    Route, Run, Sink, SubscriptionId, Transport,
};
use futures::{FutureExt as _, StreamExt as _};

use crate::support::{connect, folder, later, name, next, receipt, route, topic, within};

#[tokio::test]
async fn what_is_published_after_subscribe_returned_is_seen() {
    within(async {
        let dir = folder();
        let (one, two) = (connect(&dir).await, connect(&dir).await);
        assert_eq!(one.transport.interest(&route("a.b")), Interest::No);
        let mut events = two.subscribe(1, "a.*", "mail").await;
        // At once, with nothing waited for in between.
        assert_eq!(one.transport.interest(&route("a.b")), Interest::Yes);
        let receipt = one.try_publish("a.b", "hello").unwrap();
        assert_eq!(receipt.reached, 1);
        assert!(receipt.exact);
        assert_eq!(receipt.parties[0].endpoint, name("mail"));
        assert_eq!(receipt.parties[0].peer, Some(two.peer));
        assert_eq!(next(&mut events).await, "hello");
        // Nobody wants these.
        assert_eq!(one.try_publish("b.a", "no").unwrap().reached, 0);
        assert_eq!(two.try_publish("a.b", "own events are not echoed").unwrap().reached, 0);
        one.try_publish("a.c", "again").unwrap();
        assert_eq!(next(&mut events).await, "again");
    })
    .await;
}

#[tokio::test]
async fn everything_of_an_envelope_arrives() {
    within(async {
        let dir = folder();
        let (one, two) = (connect(&dir).await, connect(&dir).await);
        let mut events = two.subscribe(1, "#", "mail").await;
        let mut envelope = one.envelope("a.b", "x".repeat(3 << 20));
        envelope.sequence = Some(7);
        envelope.version = 3;
        envelope.to = Some(name("mail"));
        envelope.time = Some(std::time::SystemTime::now());
        envelope.headers.insert("tenant", "a");
        let permit = one.transport.reserve(&route("a.b")).await.unwrap();
        permit.commit(envelope.clone());
        let Some(Arrival::Event(back)) = events.next().await else { panic!() };
        assert_eq!(format!("{back:?}"), format!("{envelope:?}"));
    })
    .await;
}

#[tokio::test]
async fn ten_thousand_events_arrive_in_order() {
    within(async {
        let dir = folder();
        let (one, two) = (connect(&dir).await, connect(&dir).await);
        let mut events = two.subscribe(1, "a", "mail").await;
        let publish = async {
            for n in 0..10_000 {
                assert_eq!(one.publish("a", n).await.reached, 1);
            }
        };
        let read = async {
            for n in 0..10_000 {
                assert_eq!(next(&mut events).await, n.to_string());
            }
        };
        tokio::join!(publish, read);
        one.transport.flush(later()).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_addressed_event_goes_to_its_endpoint_and_updates_move_it() {
    within(async {
        let dir = folder();
        let (one, two) = (connect(&dir).await, connect(&dir).await);
        let mut events = two.subscribe(1, "a", "mail").await;
        let to = |text| Route::new(topic("a"), Some(name(text)));
        assert_eq!(one.transport.interest(&to("mail")), Interest::Yes);
        assert_eq!(one.transport.interest(&to("billing")), Interest::No);
        let permit = one.transport.try_reserve(&to("billing")).unwrap();
        assert_eq!(receipt(permit.commit(one.envelope("a", "nobody"))).reached, 0);

        let both = BTreeSet::from([name("mail"), name("billing")]);
        two.transport.update(SubscriptionId(1), both).await.unwrap();
        assert_eq!(one.transport.interest(&to("billing")), Interest::Yes);
        let permit = one.transport.try_reserve(&to("billing")).unwrap();
        let reached = receipt(permit.commit(one.envelope("a", "there")));
        assert_eq!(reached.parties.len(), 1);
        assert_eq!(reached.parties[0].endpoint, name("billing"));
        assert_eq!(next(&mut events).await, "there");
        assert!(two.transport.update(SubscriptionId(9), BTreeSet::new()).await.is_err());
    })
    .await;
}

#[tokio::test]
async fn one_frame_serves_all_interests_of_a_peer() {
    within(async {
        let dir = folder();
        let (one, two) = (connect(&dir).await, connect(&dir).await);
        let mut exact = two.subscribe(1, "a.b", "mail").await;
        let mut wild = two.subscribe(2, "a.#", "audit").await;
        assert_eq!(one.publish("a.b", 1).await.reached, 2);
        assert_eq!(next(&mut exact).await, "1");
        assert_eq!(next(&mut wild).await, "1");
        drop(exact);
        let changed = |notice: &Notice| matches!(notice, Notice::PeerChanged(_));
        let gone = || one.try_publish("a.b", 2).unwrap().reached == 1;
        one.notes.until(|notices| notices.iter().any(changed) && gone()).await;
        assert_eq!(next(&mut wild).await, "2");
    })
    .await;
}

#[tokio::test]
async fn leaving_and_closing_lose_nothing() {
    within(async {
        let dir = folder();
        let (one, two, three) = (connect(&dir).await, connect(&dir).await, connect(&dir).await);
        let mut leaves = two.subscribe_with(1, "a", "mail", 1000).await;
        let mut stays = three.subscribe_with(1, "a", "mail", 1000).await;
        for n in 0..500 {
            assert_eq!(one.publish("a", n).await.reached, 2);
        }
        two.transport.leave().await.unwrap();
        for n in 0..500 {
            assert_eq!(next(&mut leaves).await, n.to_string());
        }
        assert!(leaves.next().await.is_none());
        assert_eq!(one.publish("a", 500).await.reached, 1);
        one.transport.close(later()).await.unwrap();
        for n in 0..501 {
            assert_eq!(next(&mut stays).await, n.to_string());
        }
        three.until_down(one.peer).await;
        assert!(one.transport.try_reserve(&route("a")).is_err());
        assert!(!three.notes.any(|notice| matches!(notice, Notice::Protocol { .. })));
        two.transport.close(later()).await.unwrap();
        three.transport.close(later()).await.unwrap();
        assert!(stays.next().await.is_none());
        let left = std::fs::read_dir(dir.path().join("shop")).unwrap();
        let left: Vec<_> = left.map(|it| it.unwrap().file_name()).collect();
        assert_eq!(left, ["lock"]);
    })
    .await;
}

#[tokio::test]
async fn a_link_that_breaks_is_a_gap_where_it_had_brought_events() {
    within(async {
        let dir = folder();
        let (one, two, three) = (connect(&dir).await, connect(&dir).await, connect(&dir).await);
        let four = connect(&dir).await;
        let mut fed = one.subscribe(1, "a", "mail").await;
        let mut idle = one.subscribe(2, "b", "mail").await;
        two.publish("a", 1).await;
        three.publish("a", 2).await;
        four.publish("a", 3).await;
        one.publish("b", "not echoed").await;
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.push(next(&mut fed).await);
        }
        seen.sort_unstable();
        assert_eq!(seen, ["1", "2", "3"]);
        // What a crash looks like; two of them tell in one.
        drop((two, three));
        one.until_peers(1).await;
        four.publish("a", "after").await;
        let Some(Arrival::Gap(gap)) = fed.next().await else { panic!("no gap") };
        assert_eq!((gap.missed, &gap.reason), (None, &GapReason::Disconnected));
        assert_eq!(next(&mut fed).await, "after");
        // Whoever leaves in order has lost nothing.
        four.transport.close(later()).await.unwrap();
        one.until_peers(0).await;
        let five = connect(&dir).await;
        for event in ["a", "b"] {
            five.publish(event, "from five").await;
        }
        assert_eq!(next(&mut fed).await, "from five");
        assert_eq!(next(&mut idle).await, "from five");
    })
    .await;
}

/// Panics when it gets its first event, and takes none after that: they go to the stream.
#[derive(Default)]
struct Fragile(AtomicBool);

impl Sink for Fragile {
    fn take(&self, _: usize, _: &mut dyn Iterator<Item = Envelope>) {
        if !self.0.swap(true, Ordering::Relaxed) {
            // Without a message: it would look like a failure.
            std::panic::resume_unwind(Box::new("it breaks"));
        }
    }

    fn take_run(&self, _: &Common, _: &mut dyn Run) -> bool {
        false
    }

    fn room(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

#[tokio::test]
async fn a_panic_costs_the_link_that_it_came_by_and_that_is_told() {
    within(async {
        let dir = folder();
        let (one, two) = (connect(&dir).await, connect(&dir).await);
        let endpoints = BTreeSet::from([name("mail")]);
        let interest = PlainInterest::new(SubscriptionId(1), "a".parse().unwrap(), endpoints, 8);
        let interest = interest.with_sink(Fragile::default());
        let mut events = two.transport.subscribe(interest).await.unwrap();
        // While its stream is waited for, it is the sink that events go to.
        assert!(events.next().now_or_never().is_none());
        one.publish("a", "1").await;
        let Some(Arrival::Gap(gap)) = events.next().await else { panic!("no gap") };
        assert_eq!(gap.reason, GapReason::Disconnected);

        let is_up = |notice: &&Notice| matches!(notice, Notice::PeerUp(_));
        one.notes.until(|notices| notices.iter().filter(is_up).count() == 2).await;
        one.publish("a", "2").await;
        assert_eq!(next(&mut events).await, "2");
        // It did not take until the link was found silent.
        assert!(!one.notes.any(|notice| matches!(notice, Notice::Protocol { .. })));
        assert!(!two.notes.any(|notice| matches!(notice, Notice::Protocol { .. })));
    })
    .await;
}
