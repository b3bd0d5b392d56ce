//! Law 13, peers die cleanly. (What a real `kill -9` does, each transport tests with processes.)

use busway::{Notice, PublishError, RequestError};

use crate::events::{Counted, Double};
use crate::inbox::Tray;
use crate::verdict::{Done, Failed, Verdict};
use crate::world::{World, notice};

pub(crate) async fn dead_peer_vanishes_with_its_registrations(world: World) -> Done {
    let [a, b, c] = world.meet(["a", "b", "c"]).await?;
    assert_eq!(a.peers().len(), 2);
    let inbox = b.inbox::<Counted>().await?;
    b.respond::<Double>().with(|ask| async move { Ok(ask.n * 2) }).await?;
    let mut at_c = c.inbox::<crate::events::Other>().await?;
    assert_eq!(a.request(Double { n: 1 }).await?, 2);
    let mut notices = a.bus().notices();
    let dead = b.bus().id();
    drop(inbox);
    b.abandon();
    let down = |notice: &Notice| matches!(notice, Notice::PeerDown(peer) if peer.id == dead);
    let Notice::PeerDown(peer) = notice(&mut notices, down).await? else {
        unreachable!("it was looked for");
    };
    assert!(peer.endpoints.contains("b"));
    assert!(a.peers().iter().all(|peer| peer.id != dead), "{:?}", a.peers());
    match a.request(Double { n: 1 }).await {
        Err(RequestError::NoResponder { .. }) => {}
        other => return Err(Failed::new(format!("expected NoResponder: {other:?}"))),
    }
    match world.publish(a.publish(Counted { n: 1 }).require_subscriber()).await {
        Err(PublishError::NoSubscriber { .. }) => {}
        other => return Err(Failed::new(format!("expected NoSubscriber: {other:?}"))),
    }
    // The others go on.
    world.publish(a.publish(crate::events::Other { n: 1 })).await?;
    assert_eq!(at_c.next().await?.n, 1);
    Ok(Verdict::Passed)
}

pub(crate) async fn dead_subscriber_lets_go_of_its_publisher(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    // Nobody reads: where there is back-pressure the publisher will wait for the dead.
    let full = b.stream::<Counted>().capacity(1).await?;
    let published = async {
        for n in 0..300 {
            a.publish(Counted { n }).await?;
        }
        Ok::<_, Failed>(())
    };
    let dying = async {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        drop(full);
        b.abandon();
    };
    let (published, ()) = tokio::join!(published, dying);
    published?;
    world.books().losses_are_meant();
    Ok(Verdict::Passed)
}

pub(crate) async fn restart_on_the_same_names_works_at_once(world: World) -> Done {
    let [a, mut b] = world.meet(["a", "b"]).await?;
    for n in 0..2 {
        let tray = Tray::new();
        let mut inbox = b.inbox::<Counted>().await?;
        let group = b.subscribe::<Counted>().group("workers");
        group.for_each(tray.handler(world.books())).await?;
        b.respond::<Double>().with(move |ask| async move { Ok(ask.n + n) }).await?;
        world.publish(a.publish(Counted { n })).await?;
        assert_eq!(inbox.next().await?.n, n);
        // At least once: the last one comes again when its ack died with its member.
        let mut work = tray.take().await.n;
        while work + 1 == n {
            work = tray.take().await.n;
        }
        assert_eq!(work, n);
        let dead = b.bus().id();
        assert_eq!(a.request(Double { n: 100 }).await?, 100 + n);
        drop(inbox);
        let mut notices = a.bus().notices();
        b.abandon();
        b = world.join("b").await?;
        // Both at once may be there for a moment; then the dead one goes.
        let mut gone = a.peers().iter().all(|peer| peer.id != dead);
        while !gone {
            let found =
                notice(&mut notices, |notice| matches!(notice, Notice::PeerDown(_))).await?;
            gone = matches!(found, Notice::PeerDown(peer) if peer.id == dead);
        }
        b.bus().ready(["a", "b"]).await?;
        a.bus().ready(["b"]).await?;
    }
    Ok(Verdict::Passed)
}
