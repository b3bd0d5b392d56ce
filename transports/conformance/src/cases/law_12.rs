//! Law 12, drain.

use std::time::Duration;

use busway::{CloseError, Message, PublishError, ReadyError, RequestError, Status, SubscribeError};

use crate::events::{Counted, Double};
use crate::inbox::{Gate, Tray, start, until};
use crate::verdict::{Done, Failed, Verdict};
use crate::world::{Participant, World};

/// A handler that waits at a gate, and says when it is through.
fn gated(
    world: &World,
    gate: &Gate,
    tray: &Tray<u64>,
) -> impl Fn(Message<Counted>) -> futures::future::BoxFuture<'static, ()> + Send + Sync + 'static {
    let (gate, tray, books) = (gate.clone(), tray.clone(), world.books().clone());
    move |event| {
        books.seen(event.id());
        let (open, tray) = (gate.pass(), tray.clone());
        Box::pin(async move {
            open.await;
            tray.put(event.n);
        })
    }
}

pub(crate) async fn close_waits_for_what_was_accepted(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    around(&world, &a, &b).await?;
    let alone = world.join("alone").await?;
    around(&world, &alone, &alone).await
}

async fn around(world: &World, a: &Participant, b: &Participant) -> Done {
    let (gate, tray) = (Gate::new(), Tray::new());
    let handler = gated(world, &gate, &tray);
    let subscription = b.keep(b.subscribe::<Counted>().for_each(handler).await?);
    let mut held = b.inbox::<Counted>().await?;
    for n in 0..20 {
        world.publish(a.publish(Counted { n })).await?;
    }
    // It has arrived: it is accepted.
    until(|| subscription.ledger().arrived == 20 && held.ledger().arrived == 20).await;
    let mut closing = Box::pin(b.bus().close());
    start(&mut closing)?;
    assert!(tray.rest().await.is_empty());
    gate.open();
    closing.await?;
    assert_eq!(tray.rest().await, (0..20).collect::<Vec<_>>(), "handled before close returned");
    assert_eq!(subscription.ledger().handled, 20);
    for n in 0..20 {
        assert_eq!(held.next().await?.n, n, "a stream keeps what it holds");
    }
    assert!(held.item().await.is_none(), "and then ends");
    b.bus().close().await?;
    Ok(Verdict::Passed)
}

pub(crate) async fn closed_bus_takes_nothing(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let mut at_b = b.inbox::<Counted>().await?;
    b.respond::<Double>().with(|ask| async move { Ok(ask.n * 2) }).await?;
    assert_eq!(a.bus().status(), Status::Connected);
    a.bus().close().await?;
    assert_eq!(a.bus().status(), Status::Closed);
    match world.publish(a.publish(Counted { n: 1 })).await {
        Err(PublishError::Closed { .. }) => {}
        other => return Err(Failed::new(format!("publish on a closed bus: {other:?}"))),
    }
    match a.try_publish(Counted { n: 2 }) {
        Err(back) if matches!(back.error, PublishError::Closed { .. }) => {}
        other => return Err(Failed::new(format!("try_publish on a closed bus: {other:?}"))),
    }
    match a.subscribe::<Counted>().for_each(|_| async {}).await {
        Err(SubscribeError::Closed { .. }) => {}
        other => return Err(Failed::new(format!("subscribe on a closed bus: {other:?}"))),
    }
    match a.subscribe::<Counted>().group("g").for_each(|_| async {}).await {
        Err(SubscribeError::Closed { .. }) => {}
        other => return Err(Failed::new(format!("a group on a closed bus: {other:?}"))),
    }
    match a.respond::<Double>().with(|_| async { Ok(1) }).await {
        Err(SubscribeError::Closed { .. }) => {}
        other => return Err(Failed::new(format!("respond on a closed bus: {other:?}"))),
    }
    match a.request(Double { n: 1 }).await {
        Err(RequestError::Cancelled { .. }) => {}
        other => return Err(Failed::new(format!("request on a closed bus: {other:?}"))),
    }
    match a.bus().ready(["b"]).await {
        Err(ReadyError::Closed) => {}
        other => return Err(Failed::new(format!("ready on a closed bus: {other:?}"))),
    }
    // The others go on, and got none of it.
    world.publish(b.publish(Counted { n: 3 })).await?;
    assert_eq!(at_b.next().await?.n, 3);
    Ok(Verdict::Passed)
}

pub(crate) async fn close_inside_a_handler_is_an_error_at_once(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let tray = Tray::new();
    // Holds the bus: not for a case that abandons it.
    let close = |what: &'static str| {
        let (bus, tray) = (b.bus().clone(), tray.clone());
        move || {
            let (bus, tray) = (bus.clone(), tray.clone());
            async move {
                let inside = matches!(bus.close().await, Err(CloseError::InsideHandler));
                tray.put((what, inside));
            }
        }
    };
    let (plain, group, responder) = (close("plain"), close("group"), close("responder"));
    let saw = |event: &Message<Counted>| world.books().seen(event.id());
    let books = world.books().clone();
    b.keep(
        b.subscribe::<Counted>()
            .for_each(move |event| {
                books.seen(event.id());
                plain()
            })
            .await?,
    );
    b.keep(b.subscribe::<Counted>().group("g").for_each(move |_| group()).await?);
    b.respond::<Double>()
        .with(move |ask| {
            let close = responder();
            async move {
                close.await;
                Ok(ask.n * 2)
            }
        })
        .await?;
    let mut still = b.inbox::<Counted>().await?;
    world.publish(a.publish(Counted { n: 1 })).await?;
    assert_eq!(a.request(Double { n: 1 }).await?, 2);
    assert_eq!(b.request(Double { n: 2 }).await?, 4);
    let mut found = tray.take_many(4).await;
    found.sort_unstable();
    let expected = [("group", true), ("plain", true), ("responder", true), ("responder", true)];
    assert_eq!(found, expected);
    saw(&still.next().await?);
    world.publish(a.publish(Counted { n: 2 })).await?;
    assert_eq!(still.next().await?.n, 2, "the bus was not closed by it");
    Ok(Verdict::Passed)
}

pub(crate) async fn work_in_a_handler_is_finished_and_acked(world: World) -> Done {
    let [a, b, c] = world.meet(["a", "b", "c"]).await?;
    let (gate, tray, entered) = (Gate::new(), Tray::new(), Tray::new());
    let handler = gated(&world, &gate, &tray);
    let workers = b.also("workers")?;
    let told = entered.clone();
    let group = workers.subscribe::<Counted>().group("work");
    b.keep(
        group
            .for_each(move |event| {
                told.put(());
                handler(event)
            })
            .await?,
    );
    world.publish(a.publish(Counted { n: 1 })).await?;
    entered.take().await;
    let mut closing = Box::pin(b.bus().close());
    start(&mut closing)?;
    let others = c.also("workers")?;
    let other = Tray::new();
    let group = others.subscribe::<Counted>().group("work");
    c.keep(group.for_each(other.handler(world.books())).await?);
    gate.open();
    closing.await?;
    assert_eq!(tray.rest().await, [1]);
    world.publish(a.publish(Counted { n: 2 })).await?;
    assert_eq!(other.take().await.n, 2, "what was acked does not come again");
    a.bus().close().await?;
    assert!(other.rest().await.is_empty());
    Ok(Verdict::Passed)
}

pub(crate) async fn close_of_the_publisher_waits_for_its_group_work(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let (gate, tray) = (Gate::new(), Tray::new());
    let group = b.subscribe::<Counted>().group("workers");
    b.keep(group.for_each(gated(&world, &gate, &tray)).await?);
    for n in 0..5 {
        world.publish(a.publish(Counted { n })).await?;
    }
    let closing = async {
        a.bus().close().await?;
        Ok::<_, Failed>(())
    };
    let opening = async {
        tokio::task::yield_now().await;
        gate.open();
    };
    let (closed, ()) = tokio::join!(closing, opening);
    closed?;
    // A broker holds what is left; without one it is all done now.
    assert_eq!(tray.take_many(5).await, (0..5).collect::<Vec<_>>());
    Ok(Verdict::Passed)
}

pub(crate) async fn drain_deadline_is_an_error(world: World) -> Done {
    let short = Duration::from_millis(200);
    let a = world.join_with("a", |builder| builder.drain_timeout(short)).await?;
    let (gate, entered) = (Gate::new(), Tray::new());
    let told = entered.clone();
    let pass = gate.clone();
    let subscription = a.subscribe::<Counted>().for_each(move |_| {
        told.put(());
        pass.pass()
    });
    let subscription = subscription.await?;
    world.publish(a.publish(Counted { n: 1 })).await?;
    entered.take().await;
    match a.bus().close().await {
        Err(CloseError::TimedOut { after, handlers }) => {
            assert_eq!(after, short);
            assert!(handlers >= 1);
        }
        other => return Err(Failed::new(format!("expected a time-out: {other:?}"))),
    }
    gate.open();
    subscription.ended().await;
    world.books().losses_are_meant();
    Ok(Verdict::Passed)
}
