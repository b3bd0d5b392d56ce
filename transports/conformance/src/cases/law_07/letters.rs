//! Dead letters: looked at, replayed, purged.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use busway::{GroupError, HandlerError, Message, MessageId, Retry};

use crate::cases::dead_letters;
use crate::events::Counted;
use crate::inbox::Tray;
use crate::verdict::{Done, Failed, Verdict};
use crate::world::{Participant, World};

type Call = (u64, u32, MessageId);

/// A member of the group `workers` that fails everything until it is told to be well.
async fn sick_member(
    world: &World,
    at: &Participant,
    retry: Retry,
) -> Result<(Tray<Call>, Arc<AtomicBool>), Failed> {
    let (tray, well) = (Tray::new(), Arc::new(AtomicBool::new(false)));
    let handler = {
        let (tray, well, books) = (tray.clone(), well.clone(), world.books().clone());
        move |event: Message<Counted>| {
            books.seen(event.id());
            tray.put((event.n, event.attempt(), event.id()));
            let well = well.load(Ordering::SeqCst);
            async move { if well { Ok(()) } else { Err(HandlerError::new("not well")) } }
        }
    };
    let group = at.subscribe::<Counted>().group("workers").retry(retry);
    at.keep(group.try_for_each(handler).await?);
    Ok((tray, well))
}

pub(crate) async fn dead_letter_tells_how_it_died(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let before = SystemTime::now();
    let retry = Retry::fixed(Duration::from_millis(20)).attempts(2);
    let (tray, _) = sick_member(&world, &b, retry).await?;
    let receipt = world.publish(a.publish(Counted { n: 7 })).await?;
    tray.take_many(2).await;
    let listed = dead_letters::<Counted>(&b, "workers", 1).await?;
    let Some(id) = receipt.id() else { return Err(Failed::new("an event that arrived has an id")) };
    let letter = b.dead_letters::<Counted>("workers").get(id).await?;
    assert_eq!((letter.id(), letter.attempts), (id, listed[0].attempts));
    let message = letter.decode()?;
    assert_eq!((message.n, message.attempt(), message.id()), (7, 2, id));
    let raw = letter.raw()?;
    assert_eq!(raw.decode::<Counted>()?.n, 7);
    assert!(!raw.payload()?.1.is_empty());
    // A transport's clock may be no finer than a millisecond.
    let grain = Duration::from_millis(1);
    let (Some(first), Some(last)) = (letter.first_attempt, letter.last_attempt) else {
        return Err(Failed::new(format!("the times of its attempts are missing: {letter:?}")));
    };
    assert!(before <= first + grain, "{letter:?}");
    assert!(first + Duration::from_millis(20) <= last + grain, "{letter:?}");
    assert!(last <= letter.at + grain, "{letter:?}");
    match b.dead_letters::<Counted>("workers").get(MessageId::new()).await {
        Err(GroupError::NotListed { .. }) => Ok(Verdict::Passed),
        other => Err(Failed::new(format!("expected NotListed: {other:?}"))),
    }
}

pub(crate) async fn replayed_letter_comes_back_and_is_listed_no_longer(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let retry = Retry::fixed(Duration::from_millis(1)).attempts(2);
    let (tray, well) = sick_member(&world, &b, retry).await?;
    for n in 0..5 {
        world.publish(a.publish(Counted { n })).await?;
    }
    tray.take_many(10).await;
    let letters = dead_letters::<Counted>(&b, "workers", 5).await?;
    let verbs = b.dead_letters::<Counted>("workers");

    // One that fails again is listed once more, after as many attempts as before.
    let id = letters[0].id();
    verbs.replay(id).await?;
    let calls: Vec<_> = tray.take_many(2).await;
    assert_eq!(calls.iter().map(|call| (call.1, call.2)).collect::<Vec<_>>(), [(1, id), (2, id)]);
    let again = dead_letters::<Counted>(&b, "workers", 5).await?;
    let ids = |letters: &[busway::DeadLetter<Counted>]| -> BTreeSet<_> {
        letters.iter().map(busway::DeadLetter::id).collect()
    };
    assert_eq!(ids(&again), ids(&letters));

    // One by id, one thrown away, then all the others.
    well.store(true, Ordering::SeqCst);
    verbs.replay(id).await?;
    let (_, attempt, came) = tray.take().await;
    assert_eq!((attempt, came), (1, id));
    let purged = letters[1].id();
    verbs.purge(purged).await?;
    for gone in [id, purged] {
        match (verbs.replay(gone).await, verbs.purge(gone).await) {
            (Err(GroupError::NotListed { .. }), Err(GroupError::NotListed { .. })) => {}
            other => return Err(Failed::new(format!("expected NotListed twice: {other:?}"))),
        }
    }
    assert_eq!(verbs.replay_all().await?, 3);
    let came: BTreeSet<_> = tray.take_many(3).await.into_iter().map(|call| call.2).collect();
    let mut expected = ids(&letters);
    expected.retain(|other| *other != id && *other != purged);
    assert_eq!(came, expected);
    assert!(verbs.list().await?.is_empty());
    assert_eq!((verbs.replay_all().await?, verbs.purge_all().await?), (0, 0));

    // Nothing of all that comes twice.
    a.bus().close().await?;
    b.bus().close().await?;
    assert!(tray.rest().await.is_empty());
    Ok(Verdict::Passed)
}

pub(crate) async fn letters_are_replayed_once_by_two_at_once(world: World) -> Done {
    const COUNT: u64 = 20;
    let [a, b] = world.meet(["a", "b"]).await?;
    let (tray, well) = sick_member(&world, &b, Retry::none()).await?;
    for n in 0..COUNT {
        world.publish(a.publish(Counted { n })).await?;
    }
    tray.take_many(COUNT as usize).await;
    dead_letters::<Counted>(&b, "workers", COUNT as usize).await?;
    well.store(true, Ordering::SeqCst);
    // One beside the member, and one elsewhere, who without a broker sees none.
    let elsewhere = a.also("b")?;
    let (here, there) = (b.dead_letters("workers"), elsewhere.dead_letters("workers"));
    let (here, there): (busway::DeadLetters<'_, Counted>, busway::DeadLetters<'_, Counted>) =
        (here, there);
    let counts =
        futures::future::try_join3(here.replay_all(), there.replay_all(), here.replay_all())
            .await?;
    assert_eq!(counts.0 + counts.1 + counts.2, COUNT as usize, "{counts:?}");
    let came: BTreeSet<_> =
        tray.take_many(COUNT as usize).await.into_iter().map(|call| call.0).collect();
    assert_eq!(came.len(), COUNT as usize);
    assert!(here.list().await?.is_empty());
    // The group is through with them.
    world.publish(a.publish(Counted { n: COUNT })).await?;
    assert_eq!(tray.take().await.0, COUNT);
    b.bus().close().await?;
    assert!(tray.rest().await.is_empty(), "a letter was replayed twice");
    Ok(Verdict::Passed)
}
