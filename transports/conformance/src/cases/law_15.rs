//! Law 15, cancel safe: futures are dropped at their first `Pending`.

use busway::{PublishError, RequestError};
use futures::FutureExt;

use crate::events::{Counted, Double, Other};
use crate::inbox::{Gate, Tray, start};
use crate::verdict::{Done, Verdict};
use crate::world::World;

pub(crate) async fn dropped_reads_lose_nothing(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let mut inbox = b.inbox::<Counted>().await?;
    let mut next = 0;
    for n in 0..200 {
        world.publish(a.publish(Counted { n })).await?;
        // Polled once and dropped, whatever it was about to do.
        if let Some(item) = inbox.item().now_or_never() {
            let Some(Ok(event)) = item else { panic!("neither gap nor end: {item:?}") };
            assert_eq!(event.n, next);
            next += 1;
        }
    }
    while next < 200 {
        assert_eq!(inbox.next().await?.n, next);
        next += 1;
    }
    Ok(Verdict::Passed)
}

pub(crate) async fn dropped_waits_leave_nothing_behind(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    for n in 0..20 {
        let mut waiting = Box::pin(b.wait_for::<Counted>());
        start(&mut waiting)?;
        drop(waiting);
        let mut asked = Box::pin(a.wait_until_subscribed::<Other>());
        start(&mut asked)?;
        drop(asked);
        let mut ready = Box::pin(a.bus().ready(["nobody"]));
        start(&mut ready)?;
        drop(ready);
        // Dropped while they become live, or at once after.
        drop(b.stream::<Counted>().into_future().now_or_never());
        let handler = b.subscribe::<Counted>().for_each(|_| async {}).now_or_never();
        if let Some(subscription) = handler {
            subscription?.unsubscribe().await;
        }
        let mut inbox = b.inbox::<Counted>().await?;
        world.publish(a.publish(Counted { n }).require_subscriber()).await?;
        assert_eq!(inbox.next().await?.n, n);
    }
    // A waiter that was not dropped gets its event.
    let mut waiting = Box::pin(b.wait_for::<Other>());
    start(&mut waiting)?;
    let (waited, found) = tokio::join!(a.wait_until_subscribed::<Other>(), async {
        let publish = async {
            a.wait_until_subscribed::<Other>().await?;
            world.publish(a.publish(Other { n: 7 })).await?;
            Ok::<_, crate::verdict::Failed>(())
        };
        let (published, found) = tokio::join!(publish, waiting);
        published.map(|()| found)
    });
    waited?;
    let found = found??;
    world.books().seen(found.id());
    assert_eq!(found.n, 7);
    Ok(Verdict::Passed)
}

pub(crate) async fn what_is_given_up_is_withdrawn(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let stream = b.stream::<Counted>().await?;
    let handler = b.subscribe::<Counted>().for_each(|_| async {}).await?;
    let responder = b.respond::<Double>().with(|ask| async move { Ok(ask.n * 2) }).await?;
    a.publish(Counted { n: 0 }).require_subscriber().await?;
    assert_eq!(a.request(Double { n: 1 }).await?, 2);
    drop(stream);
    a.publish(Counted { n: 1 }).require_subscriber().await?;
    handler.unsubscribe().await;
    responder.unregister().await;
    // That it is withdrawn is not waited for by who gives it up; the watchdog sees to an end.
    loop {
        match a.publish(Counted { n: 2 }).require_subscriber().await {
            Ok(_) => tokio::task::yield_now().await,
            Err(PublishError::NoSubscriber { .. }) => break,
            Err(error) => return Err(error.into()),
        }
    }
    loop {
        match a.request(Double { n: 1 }).await {
            Ok(_) | Err(RequestError::Disconnected { .. }) => tokio::task::yield_now().await,
            Err(RequestError::NoResponder { .. }) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Verdict::Passed)
}

pub(crate) async fn dropped_publishes_reach_everybody_or_nobody(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let mut here = a.open(a.stream::<Counted>().capacity(2)).await?;
    let mut there = b.inbox::<Counted>().await?;
    let mut both = (Vec::new(), Vec::new());
    for n in 0..60 {
        // Ready at once, or dropped while it waits for room or for its confirmation.
        let publish = a.publish(Counted { n });
        if let Some(Ok(receipt)) = world.publish(publish).now_or_never() {
            assert!(receipt.reached() >= 1);
        }
        if n % 7 == 6 {
            both.0.push(here.next().await?.n);
        }
    }
    while let Some(Some(Ok(event))) = here.item().now_or_never() {
        both.0.push(event.n);
    }
    world.publish(a.publish(Counted { n: 1000 })).await?;
    both.0.push(here.next().await?.n);
    while both.1.last() != Some(&1000) {
        both.1.push(there.next().await?.n);
    }
    assert_eq!(both.0, both.1, "one got what the other did not");
    Ok(Verdict::Passed)
}

pub(crate) async fn dropped_requests_disturb_no_others(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let gate = Gate::new();
    let through = Tray::new();
    let handler = {
        let (gate, through) = (gate.clone(), through.clone());
        move |ask: busway::Ask<Double>| {
            let (open, through) = (gate.pass(), through.clone());
            async move {
                if ask.n < 100 {
                    open.await;
                }
                through.put(ask.n);
                Ok(ask.n * 2)
            }
        }
    };
    b.respond::<Double>().with(handler).await?;
    for n in 0..20 {
        let mut asking = Box::pin(a.request(Double { n }));
        start(&mut asking)?;
        drop(asking);
        assert_eq!(a.request(Double { n: 100 + n }).await?, 200 + 2 * n);
    }
    gate.open();
    b.bus().close().await?;
    Ok(Verdict::Passed)
}

pub(crate) async fn dropped_close_is_gone_on_with(world: World) -> Done {
    let a = world.join("a").await?;
    let (gate, tray) = (Gate::new(), Tray::new());
    let handler = {
        let (gate, tray, books) = (gate.clone(), tray.clone(), world.books().clone());
        move |event: busway::Message<Counted>| {
            books.seen(event.id());
            tray.put(event.n);
            gate.pass()
        }
    };
    let subscription = a.keep(a.subscribe::<Counted>().for_each(handler).await?);
    for n in 0..5 {
        world.publish(a.publish(Counted { n })).await?;
    }
    assert_eq!(tray.take().await, 0);
    for _ in 0..3 {
        let mut closing = Box::pin(a.bus().close());
        start(&mut closing)?;
        drop(closing);
    }
    gate.open();
    a.bus().close().await?;
    assert_eq!(subscription.ledger().handled, 5);
    Ok(Verdict::Passed)
}
