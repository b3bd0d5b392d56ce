//! Law 16, refused, not faked.

use std::collections::HashSet;

use busway::{Bus, Capability, GroupError, OpenError, SubscribeError, TransportError};

use crate::events::{Counted, Letter};
use crate::inbox::Tray;
use crate::verdict::{Done, Failed, Verdict};
use crate::world::World;

pub(crate) async fn durable_group_survives_or_is_refused(world: World) -> Done {
    let a = world.join("a").await?;
    let tray = Tray::new();
    let group = a.subscribe::<Counted>().group("workers").durable();
    let joined = group.for_each(tray.handler(world.books())).await;
    if !world.can(Capability::DurableGroups) {
        let Err(SubscribeError::Transport { error, .. }) = joined else {
            return Err(Failed::new(format!("expected a refusal: {joined:?}")));
        };
        let TransportError::Unsupported { transport, capability, instead } = error else {
            return Err(Failed::new(format!("expected Unsupported: {error:?}")));
        };
        let named = world.capabilities().map(|capabilities| capabilities.transport);
        assert_eq!((Some(transport), capability), (named, Capability::DurableGroups));
        assert!(!instead.is_empty(), "a refusal says what to do instead");
        let seen = TransportError::Unsupported { transport, capability, instead };
        match a.remove_group::<Counted>("workers").force().await {
            Err(GroupError::Transport(TransportError::Unsupported { .. })) => {}
            other => return Err(Failed::new(format!("expected Unsupported: {other:?}"))),
        }
        // The bus is as it was.
        let group = a.subscribe::<Counted>().group("workers");
        a.keep(group.for_each(tray.handler(world.books())).await?);
        world.publish(a.publish(Counted { n: 1 })).await?;
        assert_eq!(tray.take().await.n, 1);
        return Ok(Verdict::refused(capability, seen));
    }
    a.keep(joined?);
    world.publish(a.publish(Counted { n: 1 })).await?;
    assert_eq!(tray.take().await.n, 1);
    // Its work outlives every member and the publisher.
    a.bus().close().await?;
    let b = world.join("b").await?;
    for n in 2..5 {
        world.publish(b.publish(Counted { n }).require_subscriber()).await?;
    }
    b.bus().close().await?;
    let c = world.join("c").await?;
    let again = c.also("a")?;
    let group = again.subscribe::<Counted>().group("workers").durable();
    let member = group.for_each(tray.handler(world.books())).await?;
    let found: Vec<_> = tray.take_many(3).await.iter().map(|event| event.n).collect();
    assert_eq!(found, [2, 3, 4]);

    // It ends only when nobody needs it, or somebody insists.
    let d = world.join("d").await?;
    let owner = d.also("a")?;
    match owner.remove_group::<Counted>("workers").await {
        Err(GroupError::InUse { members: 1, letters: 0, .. }) => {}
        other => return Err(Failed::new(format!("expected a member in the way: {other:?}"))),
    }
    member.unsubscribe().await;
    d.publish(Counted { n: 5 }).require_subscriber().await?;
    // That the member has left is known when its goodbye has come.
    loop {
        match owner.remove_group::<Counted>("workers").await {
            Err(GroupError::InUse { members: 0, events: 1, letters: 0, .. }) => break,
            Err(GroupError::InUse { members: 1, .. }) => tokio::task::yield_now().await,
            other => return Err(Failed::new(format!("expected an event in the way: {other:?}"))),
        }
    }
    owner.remove_group::<Counted>("workers").force().await?;
    match owner.remove_group::<Counted>("workers").await {
        Err(GroupError::NoGroup { .. }) => {}
        other => return Err(Failed::new(format!("expected NoGroup: {other:?}"))),
    }
    match d.publish(Counted { n: 6 }).require_subscriber().await {
        Err(busway::PublishError::NoSubscriber { .. }) => Ok(Verdict::Passed),
        other => Err(Failed::new(format!("expected NoSubscriber: {other:?}"))),
    }
}

pub(crate) async fn capabilities_are_consistent(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let capabilities = a.bus().capabilities();
    assert_eq!(capabilities, b.bus().capabilities());
    assert!(!capabilities.transport.is_empty());
    assert!(capabilities.max_payload >= 1024 * 1024, "{}", capabilities.max_payload);
    let distinct: HashSet<_> = capabilities.can.iter().collect();
    assert_eq!(distinct.len(), capabilities.can.len(), "claimed twice: {capabilities:?}");
    busway::Codec::for_content_type(&capabilities.content_type)?;
    Ok(Verdict::Passed)
}

pub(crate) async fn too_large_payload_is_refused(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let mut inbox = b.inbox::<Letter>().await?;
    let large = Letter { text: "x".repeat(1024 * 1024 - 1024) };
    world.publish(a.publish(large.clone())).await?;
    assert_eq!(*inbox.next().await?, large);
    let limit = a.bus().capabilities().max_payload;
    // Not for limits beyond what a test can hold.
    if limit < 256 * 1024 * 1024 {
        match world.publish(a.publish(Letter { text: "x".repeat(limit + 1) })).await {
            Err(busway::PublishError::Transport {
                error: TransportError::TooLarge { size, limit: named, .. },
                ..
            }) => assert!(size > limit && named == limit),
            other => return Err(Failed::new(format!("expected TooLarge: {:?}", other.err()))),
        }
    }
    world.publish(a.publish(Letter { text: "y".into() })).await?;
    assert_eq!(inbox.next().await?.text, "y", "and then it goes on");
    Ok(Verdict::Passed)
}

pub(crate) async fn unknown_scheme_names_those_that_are_there(world: World) -> Done {
    let a = world.join("a").await?;
    drop(a);
    let scheme = world.address().split(':').next().unwrap_or_default();
    let builder = Bus::builder().without_configuration().transport("pigeon:shop");
    match world.harness().connector(builder).open().await {
        Err(OpenError::Transport(TransportError::UnknownScheme { available, .. })) => {
            assert!(available.iter().any(|one| one == scheme), "{available:?} lacks {scheme}");
            Ok(Verdict::Passed)
        }
        other => Err(Failed::new(format!("expected UnknownScheme: {other:?}"))),
    }
}
