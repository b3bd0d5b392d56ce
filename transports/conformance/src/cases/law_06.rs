//! Law 6, isolation.

use std::time::Duration;

use busway::Capability;

use crate::events::{Counted, Double, Letter, Other};
use crate::inbox::{Gate, Tray};
use crate::verdict::{Done, Failed, Verdict};
use crate::world::{Participant, World};

pub(crate) async fn stuck_subscriber_holds_up_nothing_else(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    around(&world, &a, &b).await
}

pub(crate) async fn stuck_subscriber_on_the_same_bus_holds_up_nothing_else(world: World) -> Done {
    let [a, _other] = world.meet(["a", "other"]).await?;
    around(&world, &a, &a).await
}

/// A handler at `b` is stuck with one event of `a`, and its queue is full: everything else between
/// the two goes on.
async fn around(world: &World, a: &Participant, b: &Participant) -> Done {
    let gate = Gate::new();
    let entered = Tray::new();
    let handler = {
        let (gate, entered, books) = (gate.clone(), entered.clone(), world.books().clone());
        move |event: busway::Message<Counted>| {
            books.seen(event.id());
            entered.put(());
            gate.pass()
        }
    };
    b.keep(b.subscribe::<Counted>().capacity(2).for_each(handler).await?);
    b.respond::<Double>().with(|ask| async move { Ok(ask.n * 2) }).await?;
    let work = Tray::new();
    let group = b.subscribe::<Other>().group("workers");
    b.keep(group.for_each(work.handler(world.books())).await?);
    let mut others = b.inbox::<Other>().await?;

    let short = Duration::from_millis(100);
    let held = async {
        for n in 0..200 {
            if world.publish(a.publish(Counted { n }).timeout(short)).await.is_err() {
                return true;
            }
        }
        false
    };
    let held = held.await;
    entered.take().await;
    if std::ptr::eq(a, b) || world.can(Capability::NamedBackPressure) {
        assert!(held, "200 events went into a queue of 2");
    }

    for n in 0..50 {
        world.publish(a.publish(Other { n })).await?;
        assert_eq!(others.next().await?.n, n);
        // Group work arrives, is acked and followed by the next.
        assert_eq!(work.take().await.n, n);
        assert_eq!(a.request(Double { n }).await?, 2 * n);
    }
    // Control traffic: a new subscription, both ways.
    let mut letters = b.inbox::<Letter>().await?;
    world.publish(a.publish(Letter { text: "x".into() })).await?;
    letters.next().await?;
    let mut back = a.inbox::<Letter>().await?;
    world.publish(b.publish(Letter { text: "y".into() })).await?;
    assert_eq!(back.next().await?.text, "y");
    gate.open();
    if held {
        return Ok(Verdict::Passed);
    }
    // A broker's queue dropped some of them; its subscriber is a handler that nobody asks.
    world.books().losses_are_meant();
    Ok(Verdict::Passed)
}

pub(crate) async fn slow_responder_holds_up_nothing_else(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let gate = Gate::new();
    let entered = Tray::new();
    let handler = {
        let (gate, entered) = (gate.clone(), entered.clone());
        move |ask: busway::Ask<Double>| {
            entered.put(());
            let open = gate.pass();
            async move {
                open.await;
                Ok(ask.n * 2)
            }
        }
    };
    b.respond::<Double>().concurrency(1).with(handler).await?;
    let mut inbox = b.inbox::<Counted>().await?;
    let asking = futures::future::join_all((0..5).map(|n| a.request(Double { n })));
    let meanwhile = async {
        entered.take().await;
        for n in 0..50 {
            world.publish(a.publish(Counted { n })).await?;
            assert_eq!(inbox.next().await?.n, n);
        }
        gate.open();
        Ok::<_, Failed>(())
    };
    let (answers, meanwhile) = tokio::join!(asking, meanwhile);
    meanwhile?;
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer?, 2 * n as u64);
    }
    Ok(Verdict::Passed)
}
