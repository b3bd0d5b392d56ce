//! Law 5, bounded.

use std::time::Duration;

use busway::{Capability, Overflow, PublishError};

use crate::cases::law_04::holes_are_told;
use crate::events::Counted;
use crate::inbox::{Gate, Tray, start};
use crate::verdict::{Done, Failed, Verdict};
use crate::world::World;

/// Far more than any bound of the cases: who takes so many has no bound.
const TOO_MANY: u64 = 20_000;
/// How long a publisher waits that is meant to time out.
const SHORT: Duration = Duration::from_millis(100);

pub(crate) async fn full_remote_subscriber_holds_its_publisher_and_is_named(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let mut slow = b.open(b.stream::<Counted>().capacity(2)).await?;
    if !world.can(Capability::NamedBackPressure) {
        for n in 0..200 {
            world.publish(a.publish(Counted { n })).await?;
        }
        let (received, missed) = holes_are_told(&mut slow, 199).await?;
        let seen = format!(
            "the publisher was not held: of 200 events into a queue of 2, {received} arrived and \
             {missed} were told as gaps"
        );
        return Ok(Verdict::refused(Capability::NamedBackPressure, seen));
    }
    let mut accepted = 0;
    let error = loop {
        match world.publish(a.publish(Counted { n: accepted }).timeout(SHORT)).await {
            Ok(_) if accepted < TOO_MANY => accepted += 1,
            Ok(_) => return Err(Failed::new("a queue of 2 took 20,000 events")),
            Err(error) => break error,
        }
    };
    let PublishError::TimedOut { by: Some(by), .. } = &error else {
        return Err(Failed::new(format!("expected a time-out that names `b`: {error:?}")));
    };
    assert_eq!((by.endpoint.as_str(), by.peer), ("b", Some(b.bus().id())));
    // What was accepted is there, what was not is not, and then it goes on.
    for n in 0..accepted {
        assert_eq!(slow.next().await?.n, n);
    }
    world.publish(a.publish(Counted { n: TOO_MANY })).await?;
    assert_eq!(slow.next().await?.n, TOO_MANY);
    Ok(Verdict::Passed)
}

pub(crate) async fn full_group_holds_its_publisher_and_is_named(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let gate = Gate::new();
    let tray = Tray::new();
    let handler = {
        let (gate, tray, books) = (gate.clone(), tray.clone(), world.books().clone());
        move |event: busway::Message<Counted>| {
            books.seen(event.id());
            tray.put(event.n);
            gate.pass()
        }
    };
    let member = b.subscribe::<Counted>().capacity(3).group("workers").for_each(handler).await?;
    b.keep(member);
    if !world.can(Capability::NamedBackPressure) {
        // A broker's queue stands between: it refuses what is over its bound.
        let mut accepted = 0;
        let refused = loop {
            match world.publish(a.publish(Counted { n: accepted })).await {
                Ok(_) if accepted < TOO_MANY => accepted += 1,
                Ok(_) => return Err(Failed::new("a queue of 3 took 20,000 events")),
                Err(error) => break error,
            }
        };
        let PublishError::GroupFull { id, .. } = refused else {
            return Err(Failed::new(format!("expected GroupFull: {refused:?}")));
        };
        gate.open();
        // Not before there is room again.
        while let Err(error) = world.publish(a.publish(Counted { n: accepted }).id(id)).await {
            let PublishError::GroupFull { .. } = error else { return Err(error.into()) };
            tokio::task::yield_now().await;
        }
        let expected: Vec<_> = (0..=accepted).collect();
        assert_eq!(tray.take_many(accepted as usize + 1).await, expected);
        let seen = "the broker refused what was over the bound of a full group, by a typed error";
        return Ok(Verdict::refused(Capability::NamedBackPressure, seen));
    }
    let mut accepted = 0;
    let error = loop {
        match world.publish(a.publish(Counted { n: accepted }).timeout(SHORT)).await {
            Ok(_) if accepted < TOO_MANY => accepted += 1,
            Ok(_) => return Err(Failed::new("a backlog of 3 took 20,000 events")),
            Err(error) => break error,
        }
    };
    let PublishError::TimedOut { by: Some(by), .. } = &error else {
        return Err(Failed::new(format!("expected a time-out that names the group: {error:?}")));
    };
    let group = by.group.as_ref().map(busway::Name::as_str);
    assert_eq!((by.endpoint.as_str(), group), ("b", Some("workers")));
    gate.open();
    world.publish(a.publish(Counted { n: accepted })).await?;
    assert_eq!(tray.take_many(accepted as usize + 1).await, (0..=accepted).collect::<Vec<_>>());
    Ok(Verdict::Passed)
}

pub(crate) async fn full_local_subscriber_is_waited_for_and_named(world: World) -> Done {
    let a = world.join("a").await?;
    let slow = a.also("slow")?;
    let mut inbox = a.open(slow.stream::<Counted>().capacity(2)).await?;
    for n in 0..2 {
        world.publish(a.publish(Counted { n })).await?;
    }
    let error = world.publish(a.publish(Counted { n: 9 }).timeout(SHORT)).await;
    match error {
        Err(PublishError::TimedOut { by: Some(by), .. }) if by.endpoint == "slow" => {}
        other => return Err(Failed::new(format!("expected a time-out by `slow`: {other:?}"))),
    }
    let mut waiting = Box::pin(world.publish(a.publish(Counted { n: 2 })));
    start(&mut waiting)?;
    assert_eq!(inbox.next().await?.n, 0);
    waiting.await?;
    for n in 1..3 {
        assert_eq!(inbox.next().await?.n, n);
    }
    Ok(Verdict::Passed)
}

pub(crate) async fn try_publish_gives_the_event_back(world: World) -> Done {
    let a = world.join("a").await?;
    let slow = a.also("slow")?;
    let mut inbox = a.open(slow.stream::<Counted>().capacity(1)).await?;
    // From a thread without a runtime.
    let endpoint = a.also("a")?;
    let tried = std::thread::spawn(move || {
        let first = endpoint.try_publish(Counted { n: 0 });
        (first, endpoint.try_publish(Counted { n: 1 }))
    });
    let (first, second) =
        tried.join().map_err(|_| Failed::new("try_publish panicked outside of a runtime"))?;
    assert_eq!(first?.reached(), 1);
    let Err(back) = second else { return Err(Failed::new("a queue of 1 took two events")) };
    assert_eq!(back.event, Counted { n: 1 });
    match back.error {
        PublishError::Full { by: Some(by), .. } if by.endpoint == "slow" => {}
        other => return Err(Failed::new(format!("expected `Full` by `slow`: {other:?}"))),
    }
    assert_eq!(inbox.next().await?.n, 0);
    a.try_publish(back.event)?;
    assert_eq!(inbox.next().await?.n, 1);
    Ok(Verdict::Passed)
}

pub(crate) async fn overflow_fail_fails_the_publisher(world: World) -> Done {
    let a = world.join("a").await?;
    let mut strict = a.open(a.stream::<Counted>().capacity(1).overflow(Overflow::Fail)).await?;
    world.publish(a.publish(Counted { n: 0 })).await?;
    match world.publish(a.publish(Counted { n: 1 })).await {
        Err(PublishError::Full { by: Some(by), .. }) if by.endpoint == "a" => {}
        other => return Err(Failed::new(format!("expected `Full` by `a`: {other:?}"))),
    }
    assert_eq!(strict.next().await?.n, 0);
    world.publish(a.publish(Counted { n: 2 })).await?;
    assert_eq!(strict.next().await?.n, 2);
    Ok(Verdict::Passed)
}
