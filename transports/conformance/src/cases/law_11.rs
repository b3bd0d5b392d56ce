//! Law 11, handlers are isolated.

use busway::{GapReason, HandlerError, Message};

use crate::events::{Counted, Double, Plain, Superstitious};
use crate::inbox::{Tray, until};
use crate::verdict::{Done, Failed, Verdict};
use crate::world::{Participant, World};

pub(crate) async fn failing_handlers_stop_nothing(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    for at in [&a, &b] {
        around(&world, &a, at).await?;
    }
    Ok(Verdict::Passed)
}

async fn around(world: &World, a: &Participant, at: &Participant) -> Result<(), Failed> {
    let (failing, panicking, calm) = (Tray::new(), Tray::new(), Tray::new());
    let note = |tray: &Tray<u64>| {
        let (tray, books) = (tray.clone(), world.books().clone());
        move |event: &Message<Counted>| {
            books.seen(event.id());
            tray.put(event.n);
        }
    };
    let (fail, explode) = (note(&failing), note(&panicking));
    let fails = at.subscribe::<Counted>().try_for_each(move |event| {
        fail(&event);
        async move { if event.n == 3 { Err(HandlerError::new("on purpose")) } else { Ok(()) } }
    });
    let fails = at.keep(fails.await?);
    // The call itself panics, not only its future.
    let panics = at.subscribe::<Counted>().for_each(move |event| {
        explode(&event);
        assert_ne!(event.n, 3, "a panic in a handler, on purpose");
        async move { assert_ne!(event.n, 5, "a panic in a handler's future, on purpose") }
    });
    let panics = at.keep(panics.await?);
    let picky = at.subscribe::<Counted>().filter(|event| {
        assert_ne!(event.n, 3, "a panic in a filter, on purpose");
        true
    });
    at.keep(picky.for_each(calm.handler(world.books())).await?);
    at.respond::<Double>()
        .with(|ask| async move {
            assert_ne!(ask.n, 3, "a panic in a responder, on purpose");
            Ok(ask.n * 2)
        })
        .await?;
    for n in 0..10 {
        world.publish(a.publish(Counted { n })).await?;
        assert_eq!(a.request(Double { n }).await.ok(), (n != 3).then_some(n * 2));
    }
    assert_eq!(failing.take_many(10).await, (0..10).collect::<Vec<_>>());
    assert_eq!(panicking.take_many(10).await, (0..10).collect::<Vec<_>>());
    let calm: Vec<_> = calm.take_many(9).await.iter().map(|event| event.n).collect();
    assert_eq!(calm, [0, 1, 2, 4, 5, 6, 7, 8, 9]);
    for (subscription, failed) in [(fails, 1), (panics, 2)] {
        until(|| subscription.ledger().in_flight == 0).await;
        let ledger = subscription.ledger();
        assert_eq!((ledger.failed, ledger.handled), (failed, 10 - failed), "{ledger:?}");
    }
    Ok(())
}

pub(crate) async fn panicking_decoder_is_a_gap_and_stops_nothing(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    // Alone on its topic: a bus may decode for it where the event arrives.
    let mut picky = b.inbox::<Superstitious>().await?;
    let mut beside = b.inbox::<Counted>().await?;
    for n in 12..16 {
        world.publish(a.publish(Plain(n))).await?;
        world.publish(a.publish(Counted { n })).await?;
    }
    assert_eq!(picky.next().await?.0, 12);
    let gap = picky.gap().await?;
    assert_eq!(gap.missed, Some(1));
    assert!(matches!(gap.reason, GapReason::Undecodable { .. }), "{gap:?}");
    assert_eq!(picky.next().await?.0, 14);
    assert_eq!(picky.next().await?.0, 15);
    for n in 12..16 {
        assert_eq!(beside.next().await?.n, n);
    }
    let ledger = picky.ledger();
    assert_eq!((ledger.dropped_undecodable, ledger.handled), (1, 3), "{ledger:?}");
    Ok(Verdict::Passed)
}
