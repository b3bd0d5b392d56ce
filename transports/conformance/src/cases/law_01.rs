//! Law 1, live on return.

use busway::Capability;

use crate::events::{Counted, Double};
use crate::inbox::Tray;
use crate::verdict::{Done, Verdict};
use crate::world::World;

/// How often each case asks for the race.
const ROUNDS: u64 = 50;

pub(crate) async fn stream_sees_what_is_published_after_it(world: World) -> Done {
    let [a, b, c] = world.meet(["a", "b", "c"]).await?;
    for n in 0..ROUNDS {
        // Fresh endpoints on two buses, in turn the first with that filter and one more.
        let here = b.also(&format!("b{n}"))?;
        let there = c.also(&format!("c{n}"))?;
        let mut first = b.open(here.stream::<Counted>()).await?;
        world.publish(a.publish(Counted { n })).await?;
        let mut second = c.open(there.stream::<Counted>()).await?;
        world.publish(a.publish(Counted { n: n + 1000 })).await?;
        assert_eq!(first.next().await?.n, n);
        assert_eq!(first.next().await?.n, n + 1000);
        assert_eq!(second.next().await?.n, n + 1000);
    }
    Ok(Verdict::Passed)
}

pub(crate) async fn handler_sees_what_is_published_after_it(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    for n in 0..ROUNDS {
        let tray = Tray::new();
        let subscription = b.subscribe::<Counted>().for_each(tray.handler(world.books())).await?;
        world.publish(a.publish(Counted { n })).await?;
        assert_eq!(tray.take().await.n, n);
        subscription.unsubscribe().await;
    }
    Ok(Verdict::Passed)
}

pub(crate) async fn addressee_sees_what_is_published_after_it(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    // The interest is there already: each round adds an endpoint to it.
    let mut all = b.inbox::<Counted>().await?;
    for n in 0..ROUNDS {
        let name = format!("b{n}");
        let endpoint = b.also(&name)?;
        let mut mine = b.open(endpoint.stream::<Counted>()).await?;
        world.publish(a.publish(Counted { n }).to(&name)).await?;
        assert_eq!(mine.next().await?.n, n);
        world.publish(a.publish(Counted { n: n + 1000 })).await?;
        assert_eq!(all.next().await?.n, n + 1000, "what is addressed to another is not for `b`");
    }
    Ok(Verdict::Passed)
}

pub(crate) async fn responder_answers_what_is_asked_after_it(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    for n in 0..ROUNDS {
        let name = format!("b{n}");
        let endpoint = b.also(&name)?;
        let responder =
            endpoint.respond::<Double>().with(|ask| async move { Ok(ask.n * 2) }).await?;
        assert_eq!(a.request(Double { n }).to(&name).await?, n * 2);
        responder.unregister().await;
    }
    Ok(Verdict::Passed)
}

pub(crate) async fn member_gets_what_is_published_after_it(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    for n in 0..ROUNDS / 2 {
        let name = format!("b{n}");
        let endpoint = b.also(&name)?;
        let tray = Tray::new();
        let group = endpoint.subscribe::<Counted>().group("workers");
        let member = group.for_each(tray.handler(world.books())).await?;
        world.publish(a.publish(Counted { n }).to(&name).require_subscriber()).await?;
        assert_eq!(tray.take().await.n, n);
        member.unsubscribe().await;
    }
    Ok(Verdict::Passed)
}

pub(crate) async fn late_bus_hears_and_is_heard(world: World) -> Done {
    let a = world.join("a").await?;
    let mut at_a = a.inbox::<Counted>().await?;
    for n in 0..5 {
        // No barrier: to be open is to be connected.
        let late = world.join(&format!("late{n}")).await?;
        let mut at_late = late.inbox::<Counted>().await?;
        let receipt = world.publish(late.publish(Counted { n }).require_subscriber()).await?;
        if world.can(Capability::CountedReceipts) {
            assert_eq!(receipt.reached(), 2, "{:?}", receipt.parties());
        }
        assert_eq!(at_a.next().await?.n, n);
        assert_eq!(at_late.next().await?.n, n);
        world.publish(a.publish(Counted { n: n + 100 })).await?;
        assert_eq!(at_a.next().await?.n, n + 100);
        assert_eq!(at_late.next().await?.n, n + 100);
        drop(at_late);
        late.bus().close().await?;
    }
    Ok(Verdict::Passed)
}
