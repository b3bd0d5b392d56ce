//! Queue groups inside one bus: what fails is settled once, and counted.

use busway::{Bus, DeadLetter, DeadReason, Endpoint, Retry};

use crate::events::{Named, Numbered, Superstitious, watched};

/// The dead letters of the group `g`, as soon as there are some.
async fn dead_letters(endpoint: &Endpoint) -> Vec<DeadLetter<Numbered>> {
    loop {
        let letters = endpoint.dead_letters::<Numbered>("g").await.unwrap();
        if !letters.is_empty() {
            return letters;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_decoder_that_panics_makes_one_dead_letter_and_no_loop() {
    watched(async {
        let bus = Bus::private().await.unwrap();
        let a = bus.endpoint("a").unwrap();
        let member =
            a.subscribe::<Superstitious>().group("g").for_each(|_| async {}).await.unwrap();
        a.publish(Numbered(13)).await.unwrap();
        a.publish(Numbered(1)).await.unwrap();
        let letters = dead_letters(&a).await;
        assert_eq!((letters.len(), letters[0].attempts), (1, 1), "{letters:?}");
        bus.close().await.unwrap();
        let ledger = member.ledger();
        assert_eq!((ledger.arrived, ledger.dead_lettered, ledger.handled), (2, 1, 1), "{ledger:?}");
    })
    .await;
}

#[tokio::test]
async fn an_on_gap_that_panics_is_called_once_for_each_gap() {
    watched(async {
        let bus = Bus::private().await.unwrap();
        let a = bus.endpoint("a").unwrap();
        let (calls, mut called) = tokio::sync::mpsc::unbounded_channel();
        let member = a
            .subscribe::<Named>()
            .group("g")
            .on_gap(move |gap| {
                calls.send(gap).unwrap();
                panic!("on_gap panics");
            })
            .for_each(|_| async {})
            .await
            .unwrap();
        a.publish(Numbered(1)).await.unwrap();
        a.publish(Named { name: "x".into() }).await.unwrap();
        let letters = dead_letters(&a).await;
        assert_eq!((letters.len(), &letters[0].failure.reason), (1, &DeadReason::Undecodable));
        bus.close().await.unwrap();
        let ledger = member.ledger();
        assert_eq!((ledger.arrived, ledger.dead_lettered, ledger.handled), (2, 1, 1), "{ledger:?}");
        called.recv().await.unwrap();
        assert!(called.try_recv().is_err(), "told twice");
    })
    .await;
}

#[tokio::test]
async fn a_filter_that_panics_is_a_failure_and_acks_nothing() {
    watched(async {
        let bus = Bus::private().await.unwrap();
        let a = bus.endpoint("a").unwrap();
        let member = a.subscribe::<Numbered>().group("g").retry(Retry::none());
        let member = member
            .filter(|n| if n.0 == 13 { panic!("the filter panics") } else { true })
            .for_each(|_| async {})
            .await
            .unwrap();
        a.publish(Numbered(13)).await.unwrap();
        a.publish(Numbered(1)).await.unwrap();
        let letters = dead_letters(&a).await;
        assert_eq!((letters.len(), &letters[0].failure.reason), (1, &DeadReason::Panic));
        assert_eq!(letters[0].failure.text, "the filter panics");
        bus.close().await.unwrap();
        let ledger = member.ledger();
        assert_eq!((ledger.dead_lettered, ledger.handled), (1, 1), "{ledger:?}");
        assert!(ledger.is_balanced() && ledger.in_flight == 0, "{ledger:?}");
    })
    .await;
}

#[tokio::test]
async fn take_counts_what_passed_the_filter_as_it_does_without_a_group() {
    watched(async {
        let bus = Bus::private().await.unwrap();
        let a = bus.endpoint("a").unwrap();
        let plain = a.subscribe::<Numbered>().filter(|n| n.0 > 2).take(2);
        let plain = plain.for_each(|_| async {}).await.unwrap();
        let group = a.subscribe::<Numbered>().group("g").filter(|n| n.0 > 2).take(2);
        let group = group.for_each(|_| async {}).await.unwrap();
        for n in 0..6 {
            a.publish(Numbered(n)).await.unwrap();
        }
        plain.ended().await;
        group.ended().await;
        for ledger in [plain.ledger(), group.ledger()] {
            assert_eq!((ledger.filtered, ledger.handled), (3, 2), "{ledger:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_member_may_ask_for_more_than_there_can_be() {
    watched(async {
        let bus = Bus::private().await.unwrap();
        let a = bus.endpoint("a").unwrap();
        let member = a.subscribe::<Numbered>().capacity(usize::MAX).group("g");
        let member = member.concurrency(usize::MAX).for_each(|_| async {}).await.unwrap();
        a.publish(Numbered(1)).await.unwrap();
        bus.close().await.unwrap();
        assert_eq!(member.ledger().handled, 1);
    })
    .await;
}
