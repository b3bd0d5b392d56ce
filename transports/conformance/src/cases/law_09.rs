//! Law 9, publish is answered, and atomic.

use std::time::Duration;

use busway::{Capability, MessageId, Party, PublishError, Receipt};

use crate::events::Counted;
use crate::inbox::{Tray, start};
use crate::verdict::{Done, Failed, Verdict};
use crate::world::World;

const SHORT: Duration = Duration::from_millis(100);

pub(crate) async fn receipt_counts_whom_it_reached(world: World) -> Done {
    let [a, b, c] = world.meet(["a", "b", "c"]).await?;
    let nobody = world.publish(a.publish(Counted { n: 0 })).await?;
    assert_eq!(nobody.reached(), 0, "nobody was there to be reached");
    let mut here = a.inbox::<Counted>().await?;
    let alone = world.publish(a.publish(Counted { n: 1 })).await?;
    assert!(alone.reached() >= 1);
    let mut at_b = b.inbox::<Counted>().await?;
    let other = b.also("other")?;
    let mut also_at_b = b.open(other.stream::<Counted>()).await?;
    let mut at_c = c.inbox::<Counted>().await?;
    here.next().await?;
    let mut plain = Vec::new();
    // The second asks for something, which may take another way.
    for (n, asks) in [(2, false), (3, true)] {
        let publish = a.publish(Counted { n });
        let publish = if asks { publish.header("tenant", "1") } else { publish };
        let receipt = world.publish(publish).await?;
        for inbox in [&mut here, &mut at_b, &mut also_at_b, &mut at_c] {
            let message = inbox.next().await?;
            assert_eq!((message.n, Some(message.id())), (n, receipt.id()));
        }
        plain.push(receipt);
    }
    let tray = Tray::new();
    c.keep(c.subscribe::<Counted>().group("workers").for_each(tray.handler(world.books())).await?);
    let all = world.publish(a.publish(Counted { n: 4 })).await?;
    for inbox in [&mut here, &mut at_b, &mut also_at_b, &mut at_c] {
        let message = inbox.next().await?;
        assert_eq!((message.n, Some(message.id())), (4, all.id()));
    }
    assert_eq!(tray.take().await.n, 4);
    if !world.can(Capability::CountedReceipts) {
        assert!(all.reached() >= 1 && !all.is_exact(), "{all:?}");
        let seen = format!("a receipt says that it reached at least {}", all.reached());
        return Ok(Verdict::refused(Capability::CountedReceipts, seen));
    }
    assert!(nobody.is_exact() && all.is_exact());
    for receipt in plain {
        assert!(receipt.is_exact());
        assert_eq!(receipt.reached(), 4, "{:?}", receipt.parties());
        assert_eq!(sorted(&receipt), ["a", "b", "c", "other"]);
    }
    assert_eq!(all.reached(), 5, "{:?}", all.parties());
    assert_eq!(sorted(&all), ["a", "b", "c", "c of workers", "other"]);
    Ok(Verdict::Passed)
}

/// Whom it reached, by name.
fn sorted(receipt: &Receipt) -> Vec<String> {
    let name = |party: &Party| match &party.group {
        Some(group) => format!("{} of {group}", party.endpoint),
        None => party.endpoint.to_string(),
    };
    let mut names: Vec<_> = receipt.parties().iter().map(name).collect();
    names.sort();
    names
}

pub(crate) async fn required_subscriber_that_is_not_there_is_an_error(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let mut at_b = b.inbox::<crate::events::Other>().await?;
    for to in [None, Some("b"), Some("nobody")] {
        let publish = a.publish(Counted { n: 1 }).require_subscriber();
        let publish = if let Some(to) = to { publish.to(to) } else { publish };
        match world.publish(publish).await {
            Err(PublishError::NoSubscriber { topic }) => assert_eq!(topic, "kit.counted"),
            other => return Err(Failed::new(format!("expected NoSubscriber: {other:?}"))),
        }
    }
    // Nor did it get to somebody who came later.
    let mut later = b.inbox::<Counted>().await?;
    world.publish(a.publish(Counted { n: 2 }).require_subscriber()).await?;
    assert_eq!(later.next().await?.n, 2);
    match world.publish(a.publish(Counted { n: 3 }).to("a").require_subscriber()).await {
        Err(PublishError::NoSubscriber { .. }) => {}
        other => return Err(Failed::new(format!("expected NoSubscriber at `a`: {other:?}"))),
    }
    world.publish(a.publish(Counted { n: 4 })).await?;
    assert_eq!(later.next().await?.n, 4);
    world.publish(a.publish(crate::events::Other { n: 1 })).await?;
    at_b.next().await?;
    Ok(Verdict::Passed)
}

pub(crate) async fn failed_publish_reached_nobody(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let mut full = a.open(a.stream::<Counted>().capacity(1)).await?;
    let mut roomy = b.inbox::<Counted>().await?;
    world.publish(a.publish(Counted { n: 0 })).await?;
    match world.publish(a.publish(Counted { n: 1 }).timeout(SHORT)).await {
        Err(PublishError::TimedOut { by: Some(by), .. }) if by.endpoint == "a" => {}
        other => return Err(Failed::new(format!("expected a time-out by `a`: {other:?}"))),
    }
    if let Ok(receipt) = a.try_publish(Counted { n: 2 }) {
        return Err(Failed::new(format!("a full queue took an event: {receipt:?}")));
    }
    let mut dropped = Box::pin(world.publish(a.publish(Counted { n: 3 })));
    start(&mut dropped)?;
    drop(dropped);
    assert_eq!(full.next().await?.n, 0);
    world.publish(a.publish(Counted { n: 4 })).await?;
    assert_eq!(full.next().await?.n, 4);
    for n in [0, 4] {
        assert_eq!(roomy.next().await?.n, n, "no trace of what failed, and no gap for it");
    }
    Ok(Verdict::Passed)
}

pub(crate) async fn failed_publish_to_a_full_peer_reached_nobody(world: World) -> Done {
    let [a, b, c] = world.meet(["a", "b", "c"]).await?;
    let mut full = b.open(b.stream::<Counted>().capacity(1)).await?;
    let mut here = a.inbox::<Counted>().await?;
    let mut there = c.inbox::<Counted>().await?;
    if !world.can(Capability::NamedBackPressure) {
        // Nobody is in the way, and so nothing can fail half-way.
        for n in 0..20 {
            world.publish(a.publish(Counted { n })).await?;
            assert_eq!((here.next().await?.n, there.next().await?.n), (n, n));
        }
        crate::cases::law_04::holes_are_told(&mut full, 19).await?;
        let seen = "a full peer is not in the way of a publisher";
        return Ok(Verdict::refused(Capability::NamedBackPressure, seen));
    }
    let mut accepted = 0;
    while world.publish(a.publish(Counted { n: accepted }).timeout(SHORT)).await.is_ok() {
        accepted += 1;
        assert!(accepted < 2000, "a queue of 1 took 2000 events");
    }
    let mut dropped = Box::pin(world.publish(a.publish(Counted { n: 9999 })));
    start(&mut dropped)?;
    drop(dropped);
    for n in 0..accepted {
        assert_eq!(full.next().await?.n, n);
    }
    world.publish(a.publish(Counted { n: accepted })).await?;
    assert_eq!(full.next().await?.n, accepted);
    for n in 0..=accepted {
        assert_eq!((here.next().await?.n, there.next().await?.n), (n, n));
    }
    Ok(Verdict::Passed)
}

pub(crate) async fn failed_publish_takes_no_room(world: World) -> Done {
    const ROOM: u64 = 8;
    let [a, b] = world.meet(["a", "b"]).await?;
    let mut full = b.open(b.stream::<Counted>().capacity(1)).await?;
    let mut here = a.open(a.stream::<Counted>().capacity(ROOM as usize)).await?;
    if !world.can(Capability::NamedBackPressure) {
        for n in 0..ROOM {
            world.publish(a.publish(Counted { n })).await?;
        }
        crate::cases::law_04::holes_are_told(&mut full, ROOM - 1).await?;
        let seen = "a full peer is not in the way of a publisher";
        return Ok(Verdict::refused(Capability::NamedBackPressure, seen));
    }
    let mut accepted = 0;
    while world.publish(a.publish(Counted { n: accepted }).timeout(SHORT)).await.is_ok() {
        assert_eq!(here.next().await?.n, accepted);
        accepted += 1;
        assert!(accepted < 2000, "a queue of 1 took 2000 events");
    }
    for _ in 0..2 * ROOM {
        if let Ok(receipt) = a.try_publish(Counted { n: 9999 }) {
            return Err(Failed::new(format!("a full peer took an event: {receipt:?}")));
        }
    }
    for n in 0..accepted {
        assert_eq!(full.next().await?.n, n);
    }
    // As much as there is room for here, and nobody here reads meanwhile.
    for n in accepted..accepted + ROOM {
        world.publish(a.publish(Counted { n })).await?;
        assert_eq!(full.next().await?.n, n);
    }
    for n in accepted..accepted + ROOM {
        assert_eq!(here.next().await?.n, n);
    }
    Ok(Verdict::Passed)
}

pub(crate) async fn retry_keeps_its_id(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let mut inbox = b.inbox::<Counted>().await?;
    let id = MessageId::new();
    let receipt = world.publish(a.publish(Counted { n: 1 }).id(id)).await?;
    assert_eq!(receipt.id(), Some(id));
    assert_eq!(inbox.next().await?.id(), id);
    Ok(Verdict::Passed)
}
