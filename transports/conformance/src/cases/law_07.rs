//! Law 7, group work.

mod keys;
mod letters;

pub(crate) use keys::{
    each_key_keeps_its_order, failing_key_waits_in_place_and_blocks_no_other,
    keys_of_a_dead_member_go_to_another_in_order, keys_of_a_leaving_member_go_to_another_in_order,
};
pub(crate) use letters::{
    dead_letter_tells_how_it_died, letters_are_replayed_once_by_two_at_once,
    replayed_letter_comes_back_and_is_listed_no_longer,
};

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use busway::{DeadReason, HandlerError, Message, Notice, Retry};
use tokio::sync::Barrier;

use crate::cases::dead_letters;
use crate::events::{Counted, Other};
use crate::inbox::{Gate, Tray};
use crate::verdict::{Done, Verdict};
use crate::world::{World, notice};

pub(crate) async fn each_event_goes_to_one_member(world: World) -> Done {
    const COUNT: u64 = 300;
    let [a, b, c, d] = world.meet(["a", "b", "c", "d"]).await?;
    let tray = Tray::new();
    // Nobody gets a second event before each has one: all members take part.
    let barrier = Arc::new(Barrier::new(3));
    for member in [&b, &c, &d] {
        let workers = member.also("workers")?;
        let (tray, books) = (tray.clone(), world.books().clone());
        let (barrier, me) = (barrier.clone(), member.bus().id());
        let first = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let handler = move |event: Message<Counted>| {
            books.seen(event.id());
            tray.put((me, event.n, event.id(), event.attempt()));
            let (barrier, first) = (barrier.clone(), first.clone());
            async move {
                if first.swap(false, std::sync::atomic::Ordering::SeqCst) {
                    barrier.wait().await;
                }
            }
        };
        member.keep(workers.subscribe::<Counted>().group("work").for_each(handler).await?);
    }
    for n in 0..COUNT {
        world.publish(a.publish(Counted { n }).require_subscriber()).await?;
    }
    let mut handled = HashMap::new();
    let mut members = HashMap::new();
    for (member, n, id, attempt) in tray.take_many(COUNT as usize).await {
        assert_eq!(attempt, 1, "nothing failed");
        assert_eq!(handled.insert(n, id), None, "{n} was handled twice");
        *members.entry(member).or_insert(0) += 1;
    }
    assert_eq!(members.len(), 3, "{members:?}");
    // Waits until all is settled: then nothing can come any more.
    a.bus().close().await?;
    assert!(tray.rest().await.is_empty(), "an event was delivered twice");
    Ok(Verdict::Passed)
}

pub(crate) async fn failed_event_is_attempted_again_and_then_dead_lettered(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let mut notices = b.bus().notices();
    let tray = Tray::new();
    let handler = {
        let (tray, books) = (tray.clone(), world.books().clone());
        move |event: Message<Counted>| {
            books.seen(event.id());
            tray.put((event.n, event.attempt(), event.id()));
            let n = event.n;
            async move { if n == 1 { Err(HandlerError::new("no such part")) } else { Ok(()) } }
        }
    };
    let retry = Retry::fixed(Duration::from_millis(1)).attempts(3);
    let group = b.subscribe::<Counted>().group("workers").retry(retry);
    b.keep(group.try_for_each(handler).await?);
    let receipt = world.publish(a.publish(Counted { n: 1 }).header("tenant", "x")).await?;
    let attempts = tray.take_many(3).await;
    let counted: Vec<_> = attempts.iter().map(|(n, attempt, _)| (*n, *attempt)).collect();
    assert_eq!(counted, [(1, 1), (1, 2), (1, 3)]);
    assert!(attempts.iter().all(|(.., id)| Some(*id) == receipt.id()), "{attempts:?}");

    notice(&mut notices, |notice| matches!(notice, Notice::DeadLettered(_))).await?;
    let letters = dead_letters::<Counted>(&b, "workers", 1).await?;
    let letter = &letters[0];
    assert_eq!(Some(letter.envelope.id), receipt.id());
    assert_eq!(letter.attempts, 3);
    assert_eq!(letter.failure.reason, DeadReason::Error);
    assert!(letter.failure.text.contains("no such part"), "{:?}", letter.failure);
    let source = &letter.envelope.source;
    assert_eq!((source.endpoint.as_str(), source.peer), ("a", a.bus().id()));
    assert_eq!(letter.envelope.headers.get("tenant"), Some("x"));
    assert_eq!(letter.group.group.as_str(), "workers");

    // The group goes on, and the letter is listed once.
    world.publish(a.publish(Counted { n: 2 })).await?;
    assert_eq!(tray.take().await.0, 2);
    a.bus().close().await?;
    assert_eq!(dead_letters::<Counted>(&b, "workers", 1).await?.len(), 1);
    assert!(tray.rest().await.is_empty());
    Ok(Verdict::Passed)
}

pub(crate) async fn panic_and_time_out_count_as_failures(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let tray = Tray::new();
    let handler = {
        let (tray, books) = (tray.clone(), world.books().clone());
        move |event: Message<Counted>| {
            books.seen(event.id());
            let (n, attempt) = (event.n, event.attempt());
            tray.put((n, attempt));
            async move {
                match n {
                    1 => panic!("a panic in a handler, on purpose"),
                    2 => std::future::pending().await,
                    3 if attempt == 1 => panic!("once"),
                    _ => {}
                }
            }
        }
    };
    let group = b.subscribe::<Counted>().group("workers");
    let group = group.retry(Retry::fixed(Duration::from_millis(1)).attempts(2));
    b.keep(group.handler_timeout(Duration::from_millis(50)).for_each(handler).await?);
    for n in 1..=3 {
        world.publish(a.publish(Counted { n })).await?;
    }
    let mut attempts = tray.take_many(6).await;
    attempts.sort_unstable();
    assert_eq!(attempts, [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)]);
    let letters = dead_letters::<Counted>(&b, "workers", 2).await?;
    let mut reasons: Vec<_> = letters.iter().map(|letter| letter.failure.reason).collect();
    reasons.sort_unstable_by_key(|reason| reason.as_str());
    assert_eq!(reasons, [DeadReason::Panic, DeadReason::TimedOut]);
    Ok(Verdict::Passed)
}

pub(crate) async fn work_of_a_dead_member_goes_to_another(world: World) -> Done {
    let [a, b, c] = world.meet(["a", "b", "c"]).await?;
    let tray = Tray::new();
    let stuck = Gate::new();
    let held = {
        let (tray, stuck) = (tray.clone(), stuck.clone());
        let workers = b.also("workers")?;
        let group = workers.subscribe::<Counted>().group("work").concurrency(2);
        // Never settles: neither an ack nor a failure leaves this member.
        group
            .for_each(move |event| {
                tray.put(("b", event.n, event.id()));
                stuck.pass()
            })
            .await?
    };
    for n in 0..4 {
        world.publish(a.publish(Counted { n })).await?;
    }
    let at_b = tray.take_many(2).await;
    let other = {
        let (tray, books) = (tray.clone(), world.books().clone());
        let workers = c.also("workers")?;
        let group = workers.subscribe::<Counted>().group("work");
        c.keep(
            group
                .for_each(move |event| {
                    books.seen(event.id());
                    tray.put(("c", event.n, event.id()));
                    std::future::ready(())
                })
                .await?,
        )
    };
    // The other two are not held up by the stuck ones.
    let mut at_c = tray.take_many(2).await;
    drop(held);
    b.abandon();
    at_c.extend(tray.take_many(2).await);
    let mut handled: Vec<_> = at_c.iter().map(|(who, n, _)| (*who, *n)).collect();
    handled.sort_unstable();
    assert_eq!(handled, [("c", 0), ("c", 1), ("c", 2), ("c", 3)]);
    for (_, n, id) in at_b {
        assert!(at_c.contains(&("c", n, id)), "the same event under the same id");
    }
    a.bus().close().await?;
    assert!(tray.rest().await.is_empty());
    drop(other);
    Ok(Verdict::Passed)
}

pub(crate) async fn work_waits_for_the_next_member_when_the_last_died(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let first = Tray::new();
    let workers = b.also("workers")?;
    let group = workers.subscribe::<Counted>().group("work");
    let member = group.for_each(first.handler(world.books())).await?;
    world.publish(a.publish(Counted { n: 0 })).await?;
    first.take().await;
    let dead = b.bus().id();
    let mut notices = a.bus().notices();
    drop((member, workers));
    b.abandon();
    notice(&mut notices, |notice| matches!(notice, Notice::PeerDown(peer) if peer.id == dead))
        .await?;
    for n in 1..=5 {
        world.publish(a.publish(Counted { n })).await?;
    }
    let c = world.join("c").await?;
    let second = Tray::new();
    let workers = c.also("workers")?;
    let group = workers.subscribe::<Counted>().group("work");
    c.keep(group.for_each(second.handler(world.books())).await?);
    let mut handled: Vec<_> = second.take_many(5).await.iter().map(|event| event.n).collect();
    // The first one may come again: its ack died with its member.
    if handled.contains(&0) {
        handled.push(second.take().await.n);
        handled.retain(|n| *n != 0);
    }
    assert_eq!(handled, [1, 2, 3, 4, 5]);
    Ok(Verdict::Passed)
}

pub(crate) async fn work_goes_to_others_when_a_member_leaves(world: World) -> Done {
    let [a, b, c] = world.meet(["a", "b", "c"]).await?;
    let (gate, tray) = (Gate::new(), Tray::new());
    let workers = b.also("workers")?;
    let held = {
        let (gate, tray, books) = (gate.clone(), tray.clone(), world.books().clone());
        let group = workers.subscribe::<Counted>().group("work");
        group
            .for_each(move |event| {
                books.seen(event.id());
                tray.put(("b", event.n));
                gate.pass()
            })
            .await?
    };
    for n in 0..5 {
        world.publish(a.publish(Counted { n })).await?;
    }
    assert_eq!(tray.take().await, ("b", 0));
    let mut leaving = Box::pin(held.unsubscribe());
    crate::inbox::start(&mut leaving)?;
    let others = c.also("workers")?;
    let handler = {
        let (tray, books) = (tray.clone(), world.books().clone());
        move |event: Message<Counted>| {
            books.seen(event.id());
            tray.put(("c", event.n));
            std::future::ready(())
        }
    };
    c.keep(others.subscribe::<Counted>().group("work").for_each(handler).await?);
    let expected: Vec<_> = (1..5).map(|n| ("c", n)).collect();
    assert_eq!(tray.take_many(4).await, expected, "what was not in work goes to the other");
    // What is in work is finished and acked.
    gate.open();
    leaving.await;
    a.bus().close().await?;
    assert!(tray.rest().await.is_empty());
    Ok(Verdict::Passed)
}

pub(crate) async fn groups_and_plain_subscriptions_each_get_their_copy(world: World) -> Done {
    let [a, b, c] = world.meet(["a", "b", "c"]).await?;
    let mut plain = b.inbox::<Counted>().await?;
    let (one, two, three) = (Tray::new(), Tray::new(), Tray::new());
    for (member, group, tray) in [(&b, "one", &one), (&c, "two", &two), (&a, "three", &three)] {
        let group = member.subscribe::<Counted>().group(group);
        member.keep(group.for_each(tray.handler(world.books())).await?);
    }
    // A group of the same name for another topic shares nothing with it.
    let other = Tray::new();
    let group = b.subscribe::<Other>().group("one");
    b.keep(group.for_each(other.handler(world.books())).await?);
    for n in 0..20 {
        world.publish(a.publish(Counted { n })).await?;
    }
    for n in 0..20 {
        assert_eq!(plain.next().await?.n, n);
        for tray in [&one, &two, &three] {
            assert_eq!(tray.take().await.n, n);
        }
    }
    world.publish(a.publish(Other { n: 7 })).await?;
    assert_eq!(other.take().await.n, 7);
    Ok(Verdict::Passed)
}
