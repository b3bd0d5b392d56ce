//! Law 2, order.

use std::time::Duration;

use busway::{HandlerError, Retry};
use futures::future::join_all;

use crate::events::Counted;
use crate::inbox::{Inbox, Tray, start};
use crate::verdict::{Done, Failed, Verdict};
use crate::world::World;

async fn in_order(inbox: &mut Inbox<Counted>, count: u64) -> Result<(), Failed> {
    for expected in 0..count {
        let found = inbox.next().await?.n;
        assert_eq!(found, expected, "out of order, lost without a gap, or repeated");
    }
    Ok(())
}

pub(crate) async fn one_publishers_events_arrive_in_order(world: World) -> Done {
    const COUNT: u64 = 2000;
    let [a, b, c] = world.meet(["a", "b", "c"]).await?;
    let mut at_a = a.inbox::<Counted>().await?;
    let mut at_b = b.inbox::<Counted>().await?;
    let mut at_c = c.inbox::<Counted>().await?;
    let publishing = async {
        let publisher = a.publisher::<Counted>();
        for n in 0..COUNT {
            publisher.publish(Counted { n }).await?;
        }
        publisher.flush().await?;
        Ok::<_, Failed>(())
    };
    let (published, here, b, c) = tokio::join!(
        publishing,
        in_order(&mut at_a, COUNT),
        in_order(&mut at_b, COUNT),
        in_order(&mut at_c, COUNT)
    );
    published.and(here).and(b).and(c)?;
    Ok(Verdict::Passed)
}

pub(crate) async fn batches_and_single_events_keep_their_order(world: World) -> Done {
    const ROUNDS: u64 = 20;
    const BATCH: u64 = 99;
    let [a, b] = world.meet(["a", "b"]).await?;
    let mut here = a.inbox::<Counted>().await?;
    let mut there = b.inbox::<Counted>().await?;
    let publishing = async {
        let publisher = a.publisher::<Counted>();
        for round in 0..ROUNDS {
            let first = round * (BATCH + 1);
            publisher.publish(Counted { n: first }).await?;
            let batch = (first + 1..=first + BATCH).map(|n| Counted { n });
            assert_eq!(publisher.publish_all(batch).await?.events as u64, BATCH);
        }
        publisher.flush().await?;
        Ok::<_, Failed>(())
    };
    let count = ROUNDS * (BATCH + 1);
    let (published, here, there) =
        tokio::join!(publishing, in_order(&mut here, count), in_order(&mut there, count));
    published.and(here).and(there)?;
    Ok(Verdict::Passed)
}

pub(crate) async fn publishers_do_not_mix_up_each_others_order(world: World) -> Done {
    const COUNT: u64 = 300;
    let [a, b, c] = world.meet(["a", "b", "c"]).await?;
    let mut inbox = c.inbox::<Counted>().await?;
    let from = async |one: &crate::world::Participant, base: u64| {
        for n in 0..COUNT {
            world.publish(one.publish(Counted { n: base + n })).await?;
        }
        Ok::<_, Failed>(())
    };
    let reading = async {
        let mut next = [0, 0, 0];
        for _ in 0..3 * COUNT {
            let n = inbox.next().await?.n;
            let (who, n) = ((n / 10_000) as usize, n % 10_000);
            assert_eq!(n, next[who], "of publisher {who}");
            next[who] += 1;
        }
        Ok::<_, Failed>(())
    };
    let (from_a, from_b, from_c, read) =
        tokio::join!(from(&a, 0), from(&b, 10_000), from(&c, 20_000), reading);
    from_a.and(from_b).and(from_c).and(read)?;
    Ok(Verdict::Passed)
}

pub(crate) async fn futures_in_flight_keep_the_order_of_their_first_polls(world: World) -> Done {
    const COUNT: u64 = 200;
    let [a, b] = world.meet(["a", "b"]).await?;
    // A small local queue makes the publishers wait on every transport.
    let mut here = a.open(a.stream::<Counted>().capacity(4)).await?;
    let mut there = b.inbox::<Counted>().await?;
    // Made in the wrong order, polled in the right one.
    let mut waiting: Vec<_> = (0..COUNT)
        .rev()
        .map(|n| Box::pin(world.publish(a.publish(Counted { n }))))
        .collect::<Vec<_>>();
    waiting.reverse();
    let mut done = Vec::new();
    for (at, publish) in waiting.iter_mut().enumerate() {
        if at < 4 {
            use futures::FutureExt;
            done.extend(publish.now_or_never().map(|_| at));
        } else {
            start(publish)?;
        }
    }
    let mut at = 0;
    waiting.retain(|_| {
        at += 1;
        !done.contains(&(at - 1))
    });
    // Driven in the wrong order: what counts is the first poll.
    waiting.reverse();
    let (published, here, there) =
        tokio::join!(join_all(waiting), in_order(&mut here, COUNT), in_order(&mut there, COUNT));
    for one in published {
        one?;
    }
    here.and(there)?;
    Ok(Verdict::Passed)
}

pub(crate) async fn group_of_one_keeps_first_attempts_in_order(world: World) -> Done {
    const COUNT: u64 = 200;
    let [a, b] = world.meet(["a", "b"]).await?;
    let (first, later) = (Tray::new(), Tray::new());
    let (tray, again) = (first.clone(), later.clone());
    let books = world.books().clone();
    let member = b
        .subscribe::<Counted>()
        .group("workers")
        .retry(Retry::fixed(Duration::from_millis(1)).attempts(3))
        .try_for_each(move |event| {
            books.seen(event.id());
            if event.attempt() == 1 {
                tray.put(event.n);
            } else {
                again.put(event.n);
            }
            let fails = event.attempt() == 1 && event.n % 10 == 3;
            async move { if fails { Err(HandlerError::new("once")) } else { Ok(()) } }
        })
        .await?;
    let member = b.keep(member);
    for n in 0..COUNT {
        world.publish(a.publish(Counted { n })).await?;
    }
    assert_eq!(first.take_many(COUNT as usize).await, (0..COUNT).collect::<Vec<_>>());
    let mut repeated = later.take_many(COUNT as usize / 10).await;
    repeated.sort_unstable();
    assert_eq!(repeated, (0..COUNT).filter(|n| n % 10 == 3).collect::<Vec<_>>());
    a.bus().close().await?;
    b.bus().close().await?;
    let ledger = member.ledger();
    assert_eq!((ledger.handled, ledger.failed), (COUNT, COUNT / 10), "{ledger:?}");
    Ok(Verdict::Passed)
}
