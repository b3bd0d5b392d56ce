//! Law 4, loss is never silent.

use busway::{DeadReason, GapReason, Ledger, Notice, Overflow};

use crate::events::{Contract, Counted, ForeignContract, NewContract, twin};
use crate::inbox::{Inbox, until};
use crate::verdict::{Done, Failed, Verdict};
use crate::world::{World, notice};

/// Reads up to the event `last`, and checks that every hole is told, exactly where it is.
pub(crate) async fn holes_are_told(
    inbox: &mut Inbox<Counted>,
    last: u64,
) -> Result<(u64, u64), Failed> {
    let (mut next, mut received, mut missed) = (0, 0, 0);
    while next <= last {
        match inbox.item().await {
            Some(Ok(event)) => {
                assert_eq!(event.n, next, "a hole that nobody told of, or a repeat");
                received += 1;
                next += 1;
            }
            Some(Err(gap)) => {
                assert_eq!(gap.reason, GapReason::Overflow);
                let Some(lost) = gap.missed else {
                    return Err(Failed::new("a gap of a known publisher without a number"));
                };
                missed += lost;
                next += lost;
            }
            None => return Err(Failed::new("the stream ended too early")),
        }
    }
    Ok((received, missed))
}

pub(crate) async fn overflow_is_told_in_its_place(world: World) -> Done {
    let a = world.join("a").await?;
    let open = |overflow| a.stream::<Counted>().capacity(4).overflow(overflow);
    let mut oldest = a.open(open(Overflow::DropOldest)).await?;
    let mut newest = a.open(open(Overflow::DropNewest)).await?;
    let mut latest = a.open(open(Overflow::Latest)).await?;
    for n in 0..10 {
        world.publish(a.publish(Counted { n })).await?;
    }

    let gap = oldest.gap().await?;
    assert_eq!((gap.missed, &gap.reason), (Some(6), &GapReason::Overflow));
    for n in 6..10 {
        assert_eq!(oldest.next().await?.n, n);
    }
    for n in 0..4 {
        assert_eq!(newest.next().await?.n, n);
    }
    let gap = newest.gap().await?;
    assert_eq!((gap.missed, &gap.reason), (Some(6), &GapReason::Overflow));
    assert_eq!(latest.next().await?.n, 9, "only the latest, and no gap");

    for inbox in [&oldest, &newest] {
        assert_eq!(inbox.ledger().dropped_overflow, 6, "{:?}", inbox.ledger());
    }
    assert_eq!(latest.ledger().dropped_overflow, 9, "{:?}", latest.ledger());
    world.publish(a.publish(Counted { n: 10 })).await?;
    for inbox in [&mut oldest, &mut newest, &mut latest] {
        assert_eq!(inbox.next().await?.n, 10);
    }
    Ok(Verdict::Passed)
}

pub(crate) async fn overflow_of_remote_events_is_told_in_its_place(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let mut roomy = b.inbox::<Counted>().await?;
    let open = |overflow| b.stream::<Counted>().capacity(4).overflow(overflow);
    let mut oldest = b.open(open(Overflow::DropOldest)).await?;
    let mut newest = b.open(open(Overflow::DropNewest)).await?;
    for n in 0..50 {
        world.publish(a.publish(Counted { n })).await?;
    }
    assert_eq!(holes_are_told(&mut roomy, 49).await?, (50, 0));
    // Not read before all has come, or was dropped on its way: else less would be lost.
    let come = |ledger: Ledger| ledger.arrived + ledger.missed;
    until(|| come(oldest.ledger()) + come(newest.ledger()) == 100).await;
    assert_eq!(holes_are_told(&mut oldest, 49).await?, (4, 46));
    assert_eq!(holes_are_told(&mut newest, 49).await?, (4, 46));
    Ok(Verdict::Passed)
}

pub(crate) async fn undecodable_payload_is_a_gap_in_its_place(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    for at in [&a, &b] {
        let mut numbers = at.inbox::<twin::number::Twin>().await?;
        let mut texts = at.inbox::<twin::text::Twin>().await?;
        let mut grown = at.inbox::<twin::grown::Twin>().await?;
        let text = || twin::text::Twin { value: "x".into() };
        world.publish(a.publish(twin::number::Twin { value: 1 })).await?;
        world.publish(a.publish(text())).await?;
        let note = Some("more".to_owned());
        world.publish(a.publish(twin::grown::Twin { value: 3, note })).await?;

        assert_eq!(numbers.next().await?.value, 1);
        let gap = numbers.gap().await?;
        assert_eq!(gap.missed, Some(1));
        assert!(matches!(gap.reason, GapReason::Undecodable { .. }), "{gap:?}");
        assert_eq!(numbers.next().await?.value, 3, "what came later in a type is passed over");
        assert_eq!(grown.next().await?.note, None);
        grown.gap().await?;
        assert_eq!(grown.next().await?.note.as_deref(), Some("more"));
        texts.gap().await?;
        assert_eq!(*texts.next().await?, text());
        texts.gap().await?;
        assert_eq!(texts.ledger().dropped_undecodable, 2);
    }
    Ok(Verdict::Passed)
}

pub(crate) async fn foreign_version_is_a_gap_in_its_place(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    for at in [&a, &b] {
        let mut old = at.inbox::<Contract>().await?;
        let mut new = at.inbox::<NewContract>().await?;
        world.publish(a.publish(Contract { n: 1 })).await?;
        world.publish(a.publish(NewContract { n: 2, more: "x".into() })).await?;
        world.publish(a.publish(ForeignContract)).await?;
        world.publish(a.publish(Contract { n: 4 })).await?;
        assert_eq!(old.next().await?.n, 1);
        let gap = old.gap().await?;
        let expected = GapReason::Version { topic: "kit.contract".into(), found: 7, expected: 1 };
        assert_eq!((gap.missed, &gap.reason), (Some(1), &expected));
        assert_eq!(old.next().await?.n, 4, "version 2 is a topic of its own");
        assert_eq!(new.next().await?.n, 2);
        assert_eq!(old.ledger().dropped_version, 1);
    }
    Ok(Verdict::Passed)
}

pub(crate) async fn handler_without_on_gap_tells_the_bus(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let mut notices = b.bus().notices();
    let told = crate::inbox::Tray::new();
    let told_here = told.clone();
    let deaf = b.subscribe::<twin::text::Twin>().for_each(|_| async {});
    b.keep(deaf.await?);
    let careful = b.subscribe::<twin::text::Twin>().on_gap(move |gap| told_here.put(gap));
    b.keep(careful.for_each(|_| async {}).await?);
    world.publish(a.publish(twin::number::Twin { value: 1 })).await?;
    let found = notice(&mut notices, |notice| matches!(notice, Notice::Gap { .. })).await?;
    let Notice::Gap { gap, .. } = found else { unreachable!("it was looked for") };
    assert!(matches!(gap.reason, GapReason::Undecodable { .. }), "{gap:?}");
    assert!(matches!(told.take().await.reason, GapReason::Undecodable { .. }));
    Ok(Verdict::Passed)
}

pub(crate) async fn wrong_version_in_a_group_is_dead_lettered_at_once(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let member = b.subscribe::<Contract>().group("workers").for_each(|_| async {}).await?;
    b.keep(member);
    let receipt = world.publish(a.publish(ForeignContract).require_subscriber()).await?;
    let letters = super::dead_letters::<Contract>(&b, "workers", 1).await?;
    assert_eq!(Some(letters[0].envelope.id), receipt.id());
    assert_eq!((letters[0].attempts, letters[0].failure.reason), (1, DeadReason::Version));
    Ok(Verdict::Passed)
}
