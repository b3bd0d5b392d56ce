//! Law 10, self counts.

use crate::events::{Counted, Double};
use crate::inbox::Tray;
use crate::verdict::{Done, Verdict};
use crate::world::World;

pub(crate) async fn endpoint_alone_can_do_everything(world: World) -> Done {
    let a = world.join("alone").await?;
    a.bus().ready(["alone"]).await?;
    assert!(a.peers().is_empty() && a.bus().peers().is_empty());
    assert!(!a.is_subscribed::<Counted>());

    let mut inbox = a.inbox::<Counted>().await?;
    assert!(a.is_subscribed::<Counted>());
    a.wait_until_subscribed::<Counted>().await?;
    let tray = Tray::new();
    a.keep(a.subscribe::<Counted>().group("workers").for_each(tray.handler(world.books())).await?);
    let receipt = world.publish(a.publish(Counted { n: 1 }).require_subscriber()).await?;
    assert!(receipt.reached() >= 2 || !receipt.is_exact(), "{receipt:?}");
    let message = inbox.next().await?;
    assert_eq!((message.n, message.source().endpoint.as_str()), (1, "alone"));
    assert_eq!(message.source().peer, a.bus().id());
    assert_eq!(tray.take().await.n, 1);
    world.publish(a.publish(Counted { n: 2 }).to("alone").require_subscriber()).await?;
    assert_eq!((inbox.next().await?.n, tray.take().await.n), (2, 2));

    a.respond::<Double>().with(|ask| async move { Ok(ask.n * 2) }).await?;
    assert_eq!(a.request(Double { n: 4 }).await?, 8);
    assert_eq!(a.request(Double { n: 5 }).to("alone").await?, 10);
    Ok(Verdict::Passed)
}

pub(crate) async fn group_wakes_who_waits_for_a_subscriber(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let tray = Tray::new();
    let (waited, member) = tokio::join!(a.wait_until_subscribed::<Counted>(), async {
        tokio::task::yield_now().await;
        b.subscribe::<Counted>().group("workers").for_each(tray.handler(world.books())).await
    });
    waited?;
    b.keep(member?);
    world.publish(a.publish(Counted { n: 1 }).require_subscriber()).await?;
    assert_eq!(tray.take().await.n, 1);
    Ok(Verdict::Passed)
}

pub(crate) async fn not_own_passes_over_own_events_only(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let other = a.also("other")?;
    let replica = b.also("a")?;
    let mut foreign = a.open(a.stream::<Counted>().not_own()).await?;
    world.publish(a.publish(Counted { n: 1 })).await?;
    world.publish(other.publish(Counted { n: 2 })).await?;
    assert_eq!(foreign.next().await?.n, 2, "another endpoint of the same bus is another");
    world.publish(b.publish(Counted { n: 3 })).await?;
    assert_eq!(foreign.next().await?.n, 3);
    world.publish(replica.publish(Counted { n: 4 })).await?;
    assert_eq!(foreign.next().await?.n, 4, "a replica in another process is another");
    assert_eq!(foreign.ledger().filtered, 1);
    Ok(Verdict::Passed)
}

pub(crate) async fn own_events_are_not_echoed(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let mut here = a.inbox::<Counted>().await?;
    let mut there = b.inbox::<Counted>().await?;
    for n in 0..100 {
        world.publish(a.publish(Counted { n })).await?;
    }
    // When the peer has the last, an echo of the others would be here too.
    for n in 0..100 {
        assert_eq!(there.next().await?.n, n);
    }
    world.publish(b.publish(Counted { n: 100 })).await?;
    for n in 0..=100 {
        assert_eq!(here.next().await?.n, n);
    }
    assert_eq!(here.ledger().arrived, 101);
    Ok(Verdict::Passed)
}
