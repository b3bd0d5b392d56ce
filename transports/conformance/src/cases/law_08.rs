//! Law 8, one outcome.

use std::time::Duration;

use busway::{Ask, Capability, Notice, RequestError};
use futures::future::join_all;

use crate::events::{Divide, DivideError, Double, twin};
use crate::inbox::{Gate, Tray, meanwhile};
use crate::verdict::{Done, Failed, Verdict};
use crate::world::{Participant, World, notice};

/// How long a caller waits that is meant to time out.
const SHORT: Duration = Duration::from_millis(200);

/// Runs a case with the responder on another bus, and then with both on one.
async fn both_ways(
    world: &World,
    case: impl AsyncFn(&Participant, &Participant) -> Result<(), Failed>,
) -> Done {
    let [a, b, alone] = world.meet(["a", "b", "alone"]).await?;
    case(&a, &b).await?;
    b.bus().close().await?;
    case(&alone, &alone).await?;
    Ok(Verdict::Passed)
}

/// A responder that waits at a gate, and says how far it came.
async fn stuck(at: &Participant, gate: &Gate) -> Result<Tray<&'static str>, Failed> {
    let tray = Tray::new();
    let (gate, told) = (gate.clone(), tray.clone());
    at.respond::<Double>()
        .with(move |ask| {
            let (open, told) = (gate.pass(), told.clone());
            async move {
                told.put("entered");
                open.await;
                told.put("left");
                Ok(ask.n * 2)
            }
        })
        .await?;
    Ok(tray)
}

pub(crate) async fn response_arrives(world: World) -> Done {
    both_ways(&world, async |a, b| {
        let asker = a.name().clone();
        let from = a.bus().id();
        let responder = b
            .respond::<Double>()
            .with(move |ask: Ask<Double>| {
                let fits = ask.source().endpoint == asker && ask.source().peer == from;
                let header = ask.headers().get("tenant") == Some("x");
                let answer = if fits && header { ask.n * 2 } else { 0 };
                async move {
                    tokio::task::yield_now().await;
                    Ok(answer)
                }
            })
            .await?;
        let asking = (1..=100).map(|n| a.request(Double { n }).header("tenant", "x"));
        for (n, answer) in (1..=100).zip(join_all(asking).await) {
            assert_eq!(answer?, 2 * n, "each gets the answer to its own question");
        }
        responder.unregister().await;
        Ok(())
    })
    .await
}

pub(crate) async fn typed_error_arrives(world: World) -> Done {
    both_ways(&world, async |a, b| {
        b.respond::<Divide>()
            .with(|ask| async move {
                100_u64.checked_div(ask.by).ok_or(DivideError::ByZero { dividend: 100 })
            })
            .await?;
        b.respond::<Double>()
            .with(|ask| async move {
                let refused = busway::Refused::new("too-large", "take a smaller one");
                ask.n.checked_mul(2).ok_or(refused)
            })
            .await?;
        assert_eq!(a.request(Divide { by: 5 }).await?, 20);
        match a.request(Divide { by: 0 }).await {
            Err(RequestError::Refused(DivideError::ByZero { dividend: 100 })) => {}
            other => return Err(Failed::new(format!("expected the own error: {other:?}"))),
        }
        match a.request(Double { n: u64::MAX }).await {
            Err(RequestError::Refused(refused)) if refused.code == "too-large" => Ok(()),
            other => Err(Failed::new(format!("expected a refusal: {other:?}"))),
        }
    })
    .await
}

pub(crate) async fn nobody_there_is_said_at_once(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    b.respond::<Divide>().with(|_| async { Ok(1) }).await?;
    // A caller that waited would end in the watchdog.
    let long = Duration::from_secs(3600);
    match a.request(Double { n: 1 }).timeout(long).await {
        Err(RequestError::NoResponder { topic }) => assert_eq!(topic, "kit.double"),
        other => return Err(Failed::new(format!("expected NoResponder: {other:?}"))),
    }
    for to in ["nobody", "a"] {
        match a.request(Divide { by: 1 }).to(to).timeout(long).await {
            Err(RequestError::NoResponder { .. }) => {}
            other => return Err(Failed::new(format!("expected NoResponder at {to}: {other:?}"))),
        }
    }
    assert_eq!(a.request(Divide { by: 1 }).to("b").await?, 1);
    Ok(Verdict::Passed)
}

pub(crate) async fn unanswered_request_times_out_and_a_late_answer_harms_nothing(
    world: World,
) -> Done {
    both_ways(&world, async |a, b| {
        let gate = Gate::new();
        let tray = stuck(b, &gate).await?;
        match a.request(Double { n: 1 }).timeout(SHORT).await {
            Err(RequestError::TimedOut { topic, .. }) => assert_eq!(topic, "kit.double"),
            other => return Err(Failed::new(format!("expected TimedOut: {other:?}"))),
        }
        assert_eq!(tray.take().await, "entered");
        gate.open();
        assert_eq!(tray.take().await, "left", "the handler is not cut off");
        for n in 0..10 {
            assert_eq!(a.request(Double { n }).await?, 2 * n, "not the late answer");
        }
        Ok(())
    })
    .await
}

pub(crate) async fn expired_request_is_not_run(world: World) -> Done {
    both_ways(&world, async |a, b| {
        let (gate, run) = (Gate::new(), Tray::new());
        let handler = {
            let (gate, run) = (gate.clone(), run.clone());
            move |ask: Ask<Double>| {
                run.put(ask.n);
                let open = gate.pass();
                async move {
                    open.await;
                    Ok(ask.n * 2)
                }
            }
        };
        b.respond::<Double>().concurrency(1).with(handler).await?;
        let mut first = Box::pin(a.request(Double { n: 1 }));
        assert_eq!(meanwhile(&mut first, run.take()).await?, 1);
        match a.request(Double { n: 2 }).timeout(SHORT).await {
            Err(RequestError::TimedOut { .. }) => {}
            other => return Err(Failed::new(format!("expected TimedOut: {other:?}"))),
        }
        gate.open();
        assert_eq!(first.await?, 2);
        assert_eq!(a.request(Double { n: 3 }).await?, 6);
        assert_eq!(run.take().await, 3, "an expired request was run");
        Ok(())
    })
    .await
}

pub(crate) async fn panicking_responder_disconnects_its_caller_only(world: World) -> Done {
    both_ways(&world, async |a, b| {
        b.respond::<Double>()
            .with(|ask| async move {
                assert_ne!(ask.n, 1, "a panic in a responder, on purpose");
                Ok(ask.n * 2)
            })
            .await?;
        match a.request(Double { n: 1 }).await {
            Err(RequestError::Disconnected { .. }) => {}
            other => return Err(Failed::new(format!("expected Disconnected: {other:?}"))),
        }
        assert_eq!(a.request(Double { n: 2 }).await?, 4);
        Ok(())
    })
    .await
}

pub(crate) async fn question_of_another_form_is_undecodable(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    b.respond::<twin::number::Asked>().with(|ask| async move { Ok(ask.value) }).await?;
    match a.request(twin::text::Asked { value: "x".into() }).await {
        Err(RequestError::Undecodable { .. }) => {}
        other => return Err(Failed::new(format!("expected Undecodable: {other:?}"))),
    }
    assert_eq!(a.request(twin::number::Asked { value: 3 }).await?, 3);
    Ok(Verdict::Passed)
}

pub(crate) async fn death_of_the_responder_is_seen(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let gate = Gate::new();
    let tray = stuck(&b, &gate).await?;
    let sees = world.can(Capability::SeesResponderDeath);
    let timeout = if sees { Duration::from_secs(3600) } else { Duration::from_secs(2) };
    let mut waiting = Box::pin(a.request(Double { n: 1 }).timeout(timeout));
    assert_eq!(meanwhile(&mut waiting, tray.take()).await?, "entered");
    b.abandon();
    match (waiting.await, sees) {
        (Err(RequestError::Disconnected { .. }), true) => {}
        (Err(error @ RequestError::TimedOut { .. }), false) => {
            return Ok(Verdict::refused(Capability::SeesResponderDeath, error));
        }
        (other, _) => return Err(Failed::new(format!("not the outcome declared: {other:?}"))),
    }
    match a.request(Double { n: 1 }).await {
        Err(RequestError::NoResponder { .. }) => Ok(Verdict::Passed),
        other => Err(Failed::new(format!("expected NoResponder after the death: {other:?}"))),
    }
}

pub(crate) async fn closing_the_callers_bus_cancels(world: World) -> Done {
    let [a, b] = world.meet(["a", "b"]).await?;
    let gate = Gate::new();
    let tray = stuck(&b, &gate).await?;
    let mut waiting = Box::pin(a.request(Double { n: 1 }));
    assert_eq!(meanwhile(&mut waiting, tray.take()).await?, "entered");
    let bus = a.bus().clone();
    let closing = tokio::spawn(async move { bus.close().await });
    match waiting.await {
        Err(RequestError::Cancelled { .. }) => {}
        other => return Err(Failed::new(format!("expected Cancelled: {other:?}"))),
    }
    closing.await??;
    gate.open();
    Ok(Verdict::Passed)
}

pub(crate) async fn dropped_request_tells_its_responder(world: World) -> Done {
    let [a, b, alone] = world.meet(["a", "b", "alone"]).await?;
    let claimed = world.can(Capability::RemoteCancellation);
    dropped(&alone, &alone, true).await?;
    let remaining = dropped(&a, &b, claimed).await?;
    if claimed {
        return Ok(Verdict::Passed);
    }
    let seen = format!("the responder saw the deadline, with {remaining:?} left");
    Ok(Verdict::refused(Capability::RemoteCancellation, seen))
}

/// Drops a request in the middle, and gives how long before the deadline its responder knew.
async fn dropped(a: &Participant, b: &Participant, told: bool) -> Result<Duration, Failed> {
    let tray = Tray::new();
    let told_here = tray.clone();
    let responder = b
        .respond::<Double>()
        .with(move |ask| {
            let told = told_here.clone();
            async move {
                told.put(None);
                ask.cancelled().await;
                // Not cut off: it goes on after it knows.
                tokio::task::yield_now().await;
                told.put(Some(ask.remaining()));
                Ok(0)
            }
        })
        .await?;
    let timeout = if told { Duration::from_secs(3600) } else { Duration::from_secs(1) };
    let mut waiting = Box::pin(a.request(Double { n: 1 }).timeout(timeout));
    assert_eq!(meanwhile(&mut waiting, tray.take()).await?, None);
    drop(waiting);
    let remaining = tray.take().await.unwrap_or_default();
    assert_eq!(remaining > Duration::ZERO, told, "{remaining:?} before the deadline");
    responder.unregister().await;
    Ok(remaining)
}

pub(crate) async fn leaving_responder_finishes_what_it_answers(world: World) -> Done {
    let [a, b, c] = world.meet(["a", "b", "c"]).await?;
    let gate = Gate::new();
    let tray = stuck(&b, &gate).await?;
    let mut notices = a.bus().notices();
    let mut waiting = Box::pin(a.request(Double { n: 4 }));
    assert_eq!(meanwhile(&mut waiting, tray.take()).await?, "entered");
    let leaving = async {
        let closing = b.bus().close();
        let opening = async {
            // The new one takes over while the old one still answers.
            c.respond::<Double>().with(|ask| async move { Ok(ask.n * 3) }).await?;
            gate.open();
            Ok::<_, Failed>(())
        };
        let (closed, opened) = tokio::join!(closing, opening);
        closed?;
        opened
    };
    let (answer, left) = tokio::join!(waiting, leaving);
    left?;
    assert_eq!(answer?, 8);
    let gone = b.bus().id();
    notice(&mut notices, |notice| matches!(notice, Notice::PeerDown(peer) if peer.id == gone))
        .await?;
    assert_eq!(a.request(Double { n: 4 }).await?, 12);
    Ok(Verdict::Passed)
}
