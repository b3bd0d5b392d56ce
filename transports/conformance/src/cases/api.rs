//! What the API promises beyond the laws: addressing, options, metadata, untyped subscriptions.

use std::sync::Arc;
use std::time::SystemTime;

use busway::{Capability, Notice};

use crate::events::{Contract, Counted, Double, Here, NewContract, Other};
use crate::inbox::Tray;
use crate::verdict::{Done, Failed, Verdict};
use crate::world::{World, notice};

pub(crate) async fn metadata_crosses(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let mut here = a.inbox::<Counted>().await?;
    let mut there = b.inbox::<Counted>().await?;
    let before = SystemTime::now();
    let publish = a.publish(Counted { n: 1 }).header("tenant", "ä").header("empty", "");
    let receipt = world.publish(publish).await?;
    for inbox in [&mut here, &mut there] {
        let message = inbox.next().await?;
        assert_eq!(Some(message.id()), receipt.id(), "one id for all who receive it");
        assert_eq!(message.topic().as_str(), "kit.counted");
        assert_eq!(message.source().endpoint.as_str(), "a");
        assert_eq!(message.source().peer, a.bus().id());
        assert_eq!((message.to(), message.attempt()), (None, 1));
        let headers: Vec<_> = message.headers().iter().collect();
        assert_eq!(headers, [("empty", ""), ("tenant", "ä")]);
        let Some(time) = message.time() else { return Err(Failed::new("no time")) };
        // A transport may carry whole milliseconds.
        let slack = std::time::Duration::from_millis(1);
        assert!(time + slack >= before && time <= SystemTime::now() + slack, "{time:?}");
    }
    // Without options it may take another way.
    let receipt = world.publish(a.publish(Counted { n: 2 })).await?;
    let (here, beside) = (here.next().await?, there.next().await?);
    assert_eq!((Some(here.id()), Some(beside.id())), (receipt.id(), receipt.id()));
    assert_eq!(here.time().map(millis), beside.time().map(millis), "one time for all");
    world.publish(a.publish(Counted { n: 3 }).to("b")).await?;
    let message = there.next().await?;
    assert_eq!(message.to().map(busway::Name::as_str), Some("b"));
    assert!(message.headers().is_empty());
    Ok(Verdict::Passed)
}

fn millis(time: SystemTime) -> u128 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis()
}

pub(crate) async fn addressed_event_reaches_that_endpoint_only(world: World) -> Done {
    let [a, b, c] = world.meet(["a", "b", "c"]).await?;
    let neighbour = b.also("neighbour")?;
    let replica = c.also("b")?;
    let mut at_a = a.inbox::<Counted>().await?;
    let mut at_b = b.inbox::<Counted>().await?;
    let mut beside_b = b.open(neighbour.stream::<Counted>()).await?;
    let mut at_replica = c.open(replica.stream::<Counted>()).await?;
    let mut at_c = c.inbox::<Counted>().await?;
    let (grouped, other) = (Tray::new(), Tray::new());
    let group = b.subscribe::<Counted>().group("g");
    b.keep(group.for_each(grouped.handler(world.books())).await?);
    let group = c.subscribe::<Counted>().group("g");
    c.keep(group.for_each(other.handler(world.books())).await?);
    for n in 0..10 {
        world.publish(a.publish(Counted { n }).to("b").require_subscriber()).await?;
    }
    world.publish(a.publish(Counted { n: 10 })).await?;
    for inbox in [&mut at_b, &mut at_replica] {
        for n in 0..=10 {
            assert_eq!(inbox.next().await?.n, n, "on every bus where the endpoint lives");
        }
    }
    for inbox in [&mut at_a, &mut beside_b, &mut at_c] {
        assert_eq!(inbox.next().await?.n, 10, "not for another endpoint");
    }
    let found: Vec<_> = grouped.take_many(11).await.iter().map(|event| event.n).collect();
    assert_eq!(found, (0..=10).collect::<Vec<_>>());
    assert_eq!(other.take().await.n, 10);
    Ok(Verdict::Passed)
}

pub(crate) async fn options_choose_what_arrives(world: World) -> Done {
    let [a, b, c] = world.meet(["a", "b", "c"]).await?;
    for at in [&a, &c] {
        let mut from_b = at.open(at.stream::<Counted>().from("b")).await?;
        let mut odd = at.open(at.stream::<Counted>().filter(|event| event.n % 2 == 1)).await?;
        let mut two = at.open(at.stream::<Counted>().take(2)).await?;
        let mut both =
            at.open(at.stream::<Counted>().from("a").filter(|event| event.n > 2).take(1)).await?;
        // One after the other, so that their order is known everywhere; with the same options as
        // those above, so that it is served with them and after them.
        let mut order = at.open(at.stream::<Counted>()).await?;
        for n in 0..5 {
            let who = if n % 2 == 0 { &a } else { &b };
            world.publish(who.publish(Counted { n })).await?;
            assert_eq!(order.next().await?.n, n);
        }
        assert_eq!((from_b.next().await?.n, from_b.next().await?.n), (1, 3));
        assert_eq!((odd.next().await?.n, odd.next().await?.n), (1, 3));
        assert_eq!((two.next().await?.n, two.next().await?.n), (0, 1));
        assert!(two.item().await.is_none(), "`take` ends the stream");
        assert_eq!(both.next().await?.n, 4);
        assert!(both.item().await.is_none());
    }
    Ok(Verdict::Passed)
}

pub(crate) async fn untyped_subscription_gets_what_its_filter_matches(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    for at in [&a, &b] {
        let mut all = at.stream_any("kit.#").await?;
        let mut two_words = at.stream_any("kit.*").await?;
        let mut exact = at.stream_any("kit.other.counted").await?;
        let tray = Tray::new();
        let told = tray.clone();
        let any = at.subscribe_any("*.other.*");
        let any = any.for_each(move |message| {
            told.put(message);
            std::future::ready(())
        });
        at.keep(any.await?);
        world.publish(a.publish(Counted { n: 1 }).header("k", "v")).await?;
        world.publish(a.publish(Other { n: 2 })).await?;
        world.publish(a.publish(NewContract { n: 3, more: "x".into() })).await?;
        world.publish(a.publish(Contract { n: 4 })).await?;

        let mut topics = Vec::new();
        for _ in 0..4 {
            let Some(Ok(message)) = all.next().await else {
                return Err(Failed::new("the untyped stream has a gap or ended"));
            };
            world.books().seen(message.id());
            if message.topic().as_str() == "kit.counted" {
                assert_eq!(message.version(), 1);
                assert_eq!(message.headers().get("k"), Some("v"));
                assert_eq!(message.source().endpoint.as_str(), "a");
                let (content_type, bytes) = message.payload()?;
                let codec = busway::Codec::for_content_type(&content_type)?;
                assert_eq!(codec.decode::<Counted>(&bytes)?.n, 1);
                assert_eq!(message.decode::<Counted>()?.n, 1);
            }
            topics.push(message.topic().to_string());
        }
        // Different topics have no order between them.
        topics.sort_unstable();
        let expected = ["kit.contract", "kit.contract.v2", "kit.counted", "kit.other.counted"];
        assert_eq!(topics, expected);
        let mut found = Vec::new();
        for _ in 0..2 {
            let Some(Ok(message)) = two_words.next().await else {
                return Err(Failed::new("the untyped stream has a gap or ended"));
            };
            found.push(message.topic().to_string());
        }
        found.sort_unstable();
        assert_eq!(found, ["kit.contract", "kit.counted"]);
        let Some(Ok(message)) = exact.next().await else {
            return Err(Failed::new("the untyped stream has a gap or ended"));
        };
        assert_eq!(message.decode::<Other>()?.n, 2);
        assert_eq!(tray.take().await.decode::<Other>()?.n, 2);
    }
    Ok(Verdict::Passed)
}

pub(crate) async fn local_events_never_leave(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let mut here = a.inbox::<Here>().await?;
    let mut counted_here = a.inbox::<Counted>().await?;
    let mut counted_there = b.inbox::<Counted>().await?;
    let mut spy = b.stream_any("#").await?;
    let _deaf = b.inbox::<Here>().await?;
    let value = Arc::new(7);
    let receipt = world.publish(a.publish(Here { n: value.clone() }).require_subscriber()).await?;
    assert_eq!((receipt.reached(), receipt.is_exact()), (1, true));
    assert!(Arc::ptr_eq(&here.next().await?.n, &value), "the value itself, not a copy");
    world.publish(a.publish(Counted { n: 1 }).local()).await?;
    world.publish(a.publish(Counted { n: 2 })).await?;
    assert_eq!((counted_here.next().await?.n, counted_here.next().await?.n), (1, 2));
    assert_eq!(counted_there.next().await?.n, 2);
    let Some(Ok(message)) = spy.next().await else {
        return Err(Failed::new("the untyped stream has a gap or ended"));
    };
    assert_eq!(message.decode::<Counted>()?.n, 2, "something local has left its process");
    Ok(Verdict::Passed)
}

pub(crate) async fn requests_go_to_the_named_endpoint(world: World) -> Done {
    let [a, b, c] = world.meet(["a", "b", "c"]).await?;
    b.respond::<Double>().with(|ask| async move { Ok(ask.n + 1000) }).await?;
    c.respond::<Double>().with(|ask| async move { Ok(ask.n + 2000) }).await?;
    for n in 0..10 {
        assert_eq!(a.request(Double { n }).to("b").await?, n + 1000);
        assert_eq!(a.request(Double { n }).to("c").await?, n + 2000);
        let any = a.request(Double { n }).await?;
        assert!(any == n + 1000 || any == n + 2000);
        assert_eq!(b.request(Double { n }).await?, n + 1000, "one's own bus is preferred");
    }
    Ok(Verdict::Passed)
}

pub(crate) async fn peers_and_barrier_know_who_is_there(world: World) -> Done {
    let a = world.join("a").await?;
    let mut notices = a.bus().notices();
    // Nobody passes before all have called it, in whatever order.
    let late = async {
        let b = world.join("b").await?;
        b.also("b2")?;
        b.bus().ready(["a", "b2"]).await?;
        Ok::<_, Failed>(b)
    };
    let (ready, b) = tokio::join!(a.bus().ready(["a", "b", "b2"]), late);
    ready?;
    let b = b?;
    let peers = a.peers();
    assert_eq!(peers.len(), 1, "{peers:?}");
    assert_eq!(peers[0].id, b.bus().id());
    assert!(peers[0].ready && peers[0].endpoints.contains("b2"), "{peers:?}");
    let id = b.bus().id();
    b.bus().close().await?;
    notice(&mut notices, |notice| matches!(notice, Notice::PeerDown(peer) if peer.id == id))
        .await?;
    assert_eq!(a.peers(), []);
    Ok(Verdict::Passed)
}

pub(crate) async fn values_cross_as_they_are_or_through_the_codec(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let mut at_b = b.inbox::<Counted>().await?;
    let mut also_at_b = b.inbox::<Counted>().await?;
    world.publish(a.publish(Counted { n: 1 })).await?;
    let (one, two) = (at_b.next().await?, also_at_b.next().await?);
    assert!(std::ptr::eq::<Counted>(&*one, &*two), "decoded at most once per process");
    let mut at_a = a.inbox::<Counted>().await?;
    world.publish(a.publish(Counted { n: 2 })).await?;
    let (here, there) = (at_a.next().await?, at_b.next().await?);
    let same = std::ptr::eq::<Counted>(&*here, &*there);
    if world.can(Capability::InProcess) {
        assert!(same, "nothing is serialised");
        return Ok(Verdict::Passed);
    }
    assert!(!same);
    let content_type = a.bus().capabilities().content_type.clone();
    let seen = format!("events cross as {content_type}");
    Ok(Verdict::refused(Capability::InProcess, seen))
}
