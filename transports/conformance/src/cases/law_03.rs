//! Law 3, every copy is accounted for. (The books of every other case are checked too.)

use std::sync::Arc;
use std::time::Duration;

use busway::{HandlerError, Ledger, Overflow, Retry, Subscription};

use crate::events::{Contract, Counted, ForeignContract, twin};
use crate::inbox::{Gate, Tray, until};
use crate::verdict::{Done, Failed, Verdict};
use crate::world::{Participant, World};

fn assert_ledger(subscription: &Arc<Subscription>, expected: impl FnOnce(&mut Ledger)) {
    let mut ledger = Ledger::default();
    expected(&mut ledger);
    assert_eq!(subscription.ledger(), ledger, "{}", subscription.topic());
}

pub(crate) async fn every_fate_is_counted(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    for at in [&a, &b] {
        plain(&world, &a, at).await?;
    }
    Ok(Verdict::Passed)
}

async fn plain(world: &World, a: &Participant, at: &Participant) -> Result<(), Failed> {
    let tray = Tray::new();
    let handler = |tray: Tray<u64>| {
        let books = world.books().clone();
        move |event: busway::Message<Counted>| {
            books.seen(event.id());
            tray.put(event.n);
            let n = event.n;
            async move {
                assert_ne!(n, 4, "a panic in a handler, on purpose");
                if n == 6 { Err(HandlerError::new("a failure on purpose")) } else { Ok(()) }
            }
        }
    };
    let even = at.subscribe::<Counted>().filter(|event| event.n % 2 == 0);
    let even = at.keep(even.try_for_each(handler(tray.clone())).await?);
    let from = at.subscribe::<Counted>().from("nobody");
    let from = at.keep(from.try_for_each(handler(tray.clone())).await?);
    let three = at.subscribe::<Counted>().take(3);
    let three = at.keep(three.try_for_each(handler(tray.clone())).await?);
    for n in 0..10 {
        world.publish(a.publish(Counted { n })).await?;
    }
    three.ended().await;
    tray.take_many(8).await;
    let over = |ledger: Ledger| ledger.arrived == 10 && ledger.in_flight == 0;
    until(|| over(even.ledger()) && over(from.ledger())).await;
    assert_ledger(&even, |ledger| {
        (ledger.arrived, ledger.filtered, ledger.failed, ledger.handled) = (10, 5, 2, 3);
    });
    assert_ledger(&from, |ledger| (ledger.arrived, ledger.filtered) = (10, 10));
    let ledger = three.ledger();
    assert_eq!(ledger.handled, 3);
    assert!(ledger.is_balanced() && ledger.in_flight == 0, "{ledger:?}");
    Ok(())
}

pub(crate) async fn losses_are_counted_by_reason(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let twins = b.keep(b.subscribe::<twin::text::Twin>().for_each(|_| async {}).await?);
    let contracts = b.keep(b.subscribe::<Contract>().for_each(|_| async {}).await?);
    world.publish(a.publish(twin::number::Twin { value: 1 })).await?;
    world.publish(a.publish(ForeignContract)).await?;
    until(|| twins.ledger().arrived == 1 && contracts.ledger().arrived == 1).await;

    let gate = Gate::new();
    let entered = Tray::new();
    let pass = {
        let (gate, entered) = (gate.clone(), entered.clone());
        move |_| {
            entered.put(());
            gate.pass()
        }
    };
    let newest = a.subscribe::<Counted>().capacity(2).overflow(Overflow::DropOldest);
    let newest = a.keep(newest.for_each(pass).await?);
    world.publish(a.publish(Counted { n: 0 })).await?;
    entered.take().await;
    for n in 1..=5 {
        world.publish(a.publish(Counted { n })).await?;
    }
    gate.open();
    entered.take_many(2).await;
    b.bus().close().await?;
    a.bus().close().await?;
    assert_ledger(&twins, |ledger| (ledger.arrived, ledger.dropped_undecodable) = (1, 1));
    assert_ledger(&contracts, |ledger| (ledger.arrived, ledger.dropped_version) = (1, 1));
    assert_ledger(&newest, |ledger| {
        (ledger.arrived, ledger.handled, ledger.dropped_overflow) = (6, 3, 3);
    });
    // The handler keeps no books.
    world.books().losses_are_meant();
    Ok(Verdict::Passed)
}

pub(crate) async fn group_work_is_counted_by_fate(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let books = world.books().clone();
    let tray = Tray::new();
    let calls = tray.clone();
    let member = b
        .subscribe::<Counted>()
        .group("workers")
        .filter(|event| event.n != 3)
        .retry(Retry::fixed(Duration::from_millis(1)).attempts(2))
        .try_for_each(move |event| {
            books.seen(event.id());
            calls.put(());
            let fails = event.n == 1 || (event.n == 2 && event.attempt() == 1);
            async move { if fails { Err(HandlerError::new("on purpose")) } else { Ok(()) } }
        })
        .await?;
    let member = b.keep(member);
    for n in 0..5 {
        world.publish(a.publish(Counted { n })).await?;
    }
    // 0 and 4 once, 1 and 2 twice; then it is settled.
    tray.take_many(6).await;
    a.bus().close().await?;
    b.bus().close().await?;
    assert_ledger(&member, |ledger| {
        // 0 and 4 at once, 2 on its second attempt; 1 fails twice, 2 once, 3 is passed over.
        (ledger.arrived, ledger.handled, ledger.failed) = (7, 3, 2);
        (ledger.dead_lettered, ledger.filtered) = (1, 1);
    });
    Ok(Verdict::Passed)
}

pub(crate) async fn duplicates_are_counted(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let tray = Tray::new();
    let handler = {
        let (tray, books) = (tray.clone(), world.books().clone());
        move |event: busway::Message<Counted>| {
            books.seen(event.id());
            tray.put((event.n, event.attempt()));
            let fails = event.n == 2 && event.attempt() == 1;
            async move { if fails { Err(HandlerError::new("on purpose")) } else { Ok(()) } }
        }
    };
    let group = b.subscribe::<Counted>().group("workers").deduplicate(2, Duration::from_secs(60));
    let group = group.retry(Retry::fixed(Duration::from_millis(1)));
    let member = b.keep(group.try_for_each(handler).await?);
    let ids: Vec<_> = (0..4).map(|_| busway::MessageId::new()).collect();
    let publish = async |n: usize| {
        let event = Counted { n: n as u64 };
        world.publish(a.publish(event).id(ids[n])).await
    };
    publish(1).await?;
    assert_eq!(tray.take().await, (1, 1));
    // What failed is not known as handled: its second attempt is no duplicate.
    publish(2).await?;
    assert_eq!(tray.take_many(2).await, [(2, 1), (2, 2)]);
    until(|| member.ledger().handled == 2).await;
    publish(1).await?;
    publish(2).await?;
    until(|| member.ledger().dropped_duplicate == 2).await;
    // Of two ids that are remembered the older one makes room.
    publish(3).await?;
    assert_eq!(tray.take().await, (3, 1));
    until(|| member.ledger().handled == 3).await;
    publish(1).await?;
    assert_eq!(tray.take().await, (1, 1));
    a.bus().close().await?;
    b.bus().close().await?;
    assert_ledger(&member, |ledger| {
        (ledger.arrived, ledger.handled, ledger.failed) = (7, 4, 1);
        ledger.dropped_duplicate = 2;
    });
    assert!(tray.rest().await.is_empty());
    Ok(Verdict::Passed)
}
