//! Groups that are ordered by key.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use busway::{DeadReason, HandlerError, Message, Retry, Subscription};

use crate::cases::dead_letters;
use crate::events::Counted;
use crate::inbox::{Gate, Tray};
use crate::verdict::{Done, Failed, Verdict};
use crate::world::{Participant, World, locked};

/// Keys are the last digit.
const KEYS: u64 = 10;

fn key(event: &Counted) -> u64 {
    event.n % KEYS
}

/// Who handles what now, over all members: two of one key at a time are an error.
#[derive(Clone, Default)]
struct Busy(Arc<Mutex<HashSet<u64>>>);

impl Busy {
    fn enter(&self, key: u64) -> Leave {
        let mut busy = locked(&self.0);
        Leave { alone: busy.insert(key), busy: self.clone(), key }
    }
}

struct Leave {
    busy: Busy,
    key: u64,
    alone: bool,
}

impl Drop for Leave {
    fn drop(&mut self) {
        if self.alone {
            locked(&self.busy.0).remove(&self.key);
        }
    }
}

/// What a handler saw: the number, the attempt, and whether it was alone with its key.
type Call = (u64, u32, bool);

/// A member of the group `workers` that lets others run in between.
async fn member(
    world: &World,
    at: &Participant,
    busy: &Busy,
    tray: &Tray<Call>,
) -> Result<Subscription, Failed> {
    let (busy, tray, books) = (busy.clone(), tray.clone(), world.books().clone());
    let workers = at.also("workers")?;
    let group = workers.subscribe::<Counted>().group("work").concurrency(4).by_key(key);
    let handler = move |event: Message<Counted>| {
        books.seen(event.id());
        let here = busy.enter(key(&event));
        let tray = tray.clone();
        async move {
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            tray.put((event.n, event.attempt(), here.alone));
            drop(here);
        }
    };
    Ok(group.for_each(handler).await?)
}

/// All of `0..count`, each key in order and never two of it at a time.
fn assert_order(calls: &[Call], count: u64) {
    let mut next: HashMap<u64, u64> = (0..KEYS).map(|key| (key, key)).collect();
    for (n, _, alone) in calls {
        assert!(alone, "{n} was handled beside another event of its key");
        let expected = next.entry(n % KEYS).or_default();
        assert_eq!(n, expected, "out of order: {calls:?}");
        *expected += KEYS;
    }
    assert_eq!(calls.len() as u64, count);
}

pub(crate) async fn each_key_keeps_its_order(world: World) -> Done {
    const COUNT: u64 = 200;
    let [a, b, c] = world.meet(["a", "b", "c"]).await?;
    let (busy, tray) = (Busy::default(), Tray::new());
    for at in [&b, &c] {
        at.keep(member(&world, at, &busy, &tray).await?);
    }
    for n in 0..COUNT {
        world.publish(a.publish(Counted { n })).await?;
    }
    assert_order(&tray.take_many(COUNT as usize).await, COUNT);
    for at in [a, b, c] {
        at.bus().close().await?;
    }
    assert!(tray.rest().await.is_empty(), "an event was delivered twice");
    Ok(Verdict::Passed)
}

pub(crate) async fn failing_key_waits_in_place_and_blocks_no_other(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let (tray, gate) = (Tray::new(), Gate::new());
    let handler = {
        let (tray, books, gate) = (tray.clone(), world.books().clone(), gate.clone());
        move |event: Message<Counted>| {
            books.seen(event.id());
            tray.put((event.n, event.attempt()));
            let gate = gate.clone();
            async move {
                match (event.n, event.attempt()) {
                    // Fails for good, its last attempt only when the others are through.
                    (1, 3) => gate.pass().await,
                    (11, 2) => return Ok(()),
                    (1 | 11, _) => {}
                    _ => return Ok(()),
                }
                Err(HandlerError::new("on purpose"))
            }
        }
    };
    let retry = Retry::fixed(Duration::from_millis(20)).attempts(3);
    let group = b.subscribe::<Counted>().group("workers").retry(retry);
    b.keep(group.concurrency(2).by_key(key).try_for_each(handler).await?);
    for n in [1, 11, 21, 2, 12, 22, 3] {
        world.publish(a.publish(Counted { n })).await?;
    }
    // The third attempt at 1 does not end, and still all of the other keys are handled.
    let seen = tray.take_many(7).await;
    let of = |key| seen.iter().filter(|(n, _)| n % KEYS == key).copied().collect::<Vec<_>>();
    assert_eq!(of(1), [(1, 1), (1, 2), (1, 3)], "{seen:?}");
    assert_eq!(of(2), [(2, 1), (12, 1), (22, 1)], "{seen:?}");
    assert_eq!(of(3), [(3, 1)], "{seen:?}");
    // Then it is dead, and its key goes on.
    gate.open();
    assert_eq!(tray.take_many(3).await, [(11, 1), (11, 2), (21, 1)]);
    let letters = dead_letters::<Counted>(&b, "workers", 1).await?;
    assert_eq!((letters[0].decode()?.n, letters[0].attempts), (1, 3));
    assert_eq!(letters[0].failure.reason, DeadReason::Error);
    Ok(Verdict::Passed)
}

pub(crate) async fn keys_of_a_leaving_member_go_to_another_in_order(world: World) -> Done {
    const COUNT: u64 = 120;
    let [a, b, c] = world.meet(["a", "b", "c"]).await?;
    let (busy, tray) = (Busy::default(), Tray::new());
    let first = member(&world, &b, &busy, &tray).await?;
    c.keep(member(&world, &c, &busy, &tray).await?);
    for n in 0..COUNT / 2 {
        world.publish(a.publish(Counted { n })).await?;
    }
    let mut calls = tray.take_many(5).await;
    let leaving = tokio::spawn(first.unsubscribe());
    for n in COUNT / 2..COUNT {
        world.publish(a.publish(Counted { n })).await?;
    }
    calls.extend(tray.take_many(COUNT as usize - 5).await);
    assert_order(&calls, COUNT);
    leaving.await?;
    Ok(Verdict::Passed)
}

pub(crate) async fn keys_of_a_dead_member_go_to_another_in_order(world: World) -> Done {
    let [a, b, c] = world.meet(["a", "b", "c"]).await?;
    let (tray, stuck) = (Tray::new(), Gate::new());
    let held = {
        let (tray, stuck) = (tray.clone(), stuck.clone());
        let workers = b.also("workers")?;
        let group = workers.subscribe::<Counted>().group("work").concurrency(2).by_key(key);
        // Never settles.
        group
            .for_each(move |event| {
                tray.put(("b", event.n, event.attempt()));
                stuck.pass()
            })
            .await?
    };
    for n in [1, 11, 2, 12, 21] {
        world.publish(a.publish(Counted { n })).await?;
    }
    let mut at_b = tray.take_many(2).await;
    at_b.sort_unstable();
    assert_eq!(at_b, [("b", 1, 1), ("b", 2, 1)], "one of each key");
    let workers = c.also("workers")?;
    let handler = {
        let (tray, books) = (tray.clone(), world.books().clone());
        move |event: Message<Counted>| {
            books.seen(event.id());
            tray.put(("c", event.n, event.attempt()));
            std::future::ready(())
        }
    };
    let group = workers.subscribe::<Counted>().group("work").concurrency(4).by_key(key);
    c.keep(group.for_each(handler).await?);
    drop(held);
    b.abandon();
    let at_c = tray.take_many(5).await;
    for (key, expected) in [(1, vec![1, 11, 21]), (2, vec![2, 12])] {
        let of_key = at_c.iter().filter(|(_, n, _)| n % KEYS == key);
        let numbers: Vec<_> = of_key.map(|(who, n, _)| (*who, *n)).collect();
        let expected: Vec<_> = expected.into_iter().map(|n| ("c", n)).collect();
        assert_eq!(numbers, expected, "{at_c:?}");
    }
    a.bus().close().await?;
    assert!(tray.rest().await.is_empty());
    Ok(Verdict::Passed)
}
