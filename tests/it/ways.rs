//! Handlers of requests do the same in the task of their caller, spawned, and for another bus.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use busway::{Ask, Bus, CloseError, Endpoint, Refused, RequestError, Respond};
use futures::FutureExt;
use tokio::sync::{Notify, mpsc};

use crate::events::{Double, Halve, watched};
use crate::spans::{Recorded, Spans};

/// How a handler is run.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    InPlace,
    Spawned,
    Remote,
}

const WAYS: [Way; 3] = [Way::InPlace, Way::Spawned, Way::Remote];

/// A responder's endpoint and one that asks it.
struct Ends {
    way: Way,
    bus: Bus,
    other: Bus,
    responder: Endpoint,
    asker: Endpoint,
}

impl Ends {
    async fn open(way: Way, test: &str) -> Self {
        let address = format!("memory:{test}-{}", way as u8);
        let bus = Bus::connect(&address).await.unwrap();
        let other = Bus::connect(&address).await.unwrap();
        let asks = if way == Way::Remote { &other } else { &bus };
        let (responder, asker) =
            (bus.endpoint("responder").unwrap(), asks.endpoint("asker").unwrap());
        Self { way, bus, other, responder, asker }
    }

    fn respond(&self) -> Respond<'_, Double> {
        let respond = self.responder.respond();
        if self.way == Way::Spawned { respond.spawned() } else { respond }
    }
}

/// A handler that answers with nothing but a number.
fn answer(number: u32) -> Result<u32, Refused> {
    Ok(number)
}

#[tokio::test]
async fn a_handler_begins_in_the_task_of_its_caller_or_always_in_its_own() {
    watched(async {
        for way in WAYS {
            let ends = Ends::open(way, "tasks").await;
            let (send, mut tasks) = mpsc::unbounded_channel();
            let handler = move |ask: Ask<Double>| {
                send.send(tokio::task::id()).unwrap();
                let send = send.clone();
                async move {
                    if ask.0 == 1 {
                        tokio::task::yield_now().await;
                    }
                    send.send(tokio::task::id()).unwrap();
                    answer(ask.0)
                }
            };
            ends.respond().with(handler).await.unwrap();
            let asker = ends.asker.clone();
            let caller = tokio::spawn(async move {
                for number in 0..2 {
                    assert_eq!(asker.request(Double(number)).await.unwrap(), number);
                }
                tokio::task::id()
            });
            let caller = caller.await.unwrap();
            let mut next = async || tasks.recv().await.unwrap() == caller;
            let in_callers = [next().await, next().await, next().await, next().await];
            let expected = match way {
                Way::InPlace => [true, true, true, false],
                Way::Spawned | Way::Remote => [false; 4],
            };
            assert_eq!(in_callers, expected, "{way:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_panic_ends_its_request_and_nothing_else() {
    watched(async {
        for way in WAYS {
            let ends = Ends::open(way, "panics").await;
            let handler = |ask: Ask<Double>| {
                assert_ne!(ask.0, 1, "unlucky");
                async move {
                    assert_ne!(ask.0, 2, "unlucky");
                    tokio::task::yield_now().await;
                    assert_ne!(ask.0, 3, "unlucky");
                    answer(ask.0)
                }
            };
            // With room for one: a panic gives its room back.
            ends.respond().concurrency(1).with(handler).await.unwrap();
            for number in 1..=3 {
                let outcome = ends.asker.request(Double(number)).await;
                assert!(
                    matches!(&outcome, Err(RequestError::Disconnected { reason, .. }) if reason.contains("unlucky")),
                    "{way:?}, {number}: {outcome:?}"
                );
            }
            assert_eq!(ends.asker.request(Double(4)).await.unwrap(), 4);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_counts_from_the_call_whenever_it_is_asked_for() {
    watched(async {
        let second = Duration::from_secs(1);
        for way in WAYS {
            for early in [true, false] {
                let ends = Ends::open(way, &format!("deadline-{early}")).await;
                let (send, mut told) = mpsc::unbounded_channel();
                let go = Arc::new(Notify::new());
                let gate = go.clone();
                let handler = move |ask: Ask<Double>| {
                    let (send, gate) = (send.clone(), gate.clone());
                    async move {
                        if early {
                            send.send(ask.remaining()).unwrap();
                        }
                        gate.notified().await;
                        send.send(ask.remaining()).unwrap();
                        ask.cancelled().await;
                        send.send(ask.remaining()).unwrap();
                        answer(0)
                    }
                };
                ends.respond().with(handler).await.unwrap();
                let mut call = ends.asker.request(Double(1)).timeout(second * 5);
                assert!((&mut call).now_or_never().is_none());
                if early {
                    assert_eq!(told.recv().await.unwrap(), second * 5, "{way:?}");
                }
                tokio::time::advance(second * 2).await;
                go.notify_one();
                assert_eq!(told.recv().await.unwrap(), second * 3, "{way:?}");
                let outcome = call.await;
                assert!(
                    matches!(outcome, Err(RequestError::TimedOut { .. })),
                    "{way:?}: {outcome:?}"
                );
                assert_eq!(told.recv().await.unwrap(), Duration::ZERO, "{way:?}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_without_any_time_is_not_run() {
    for way in WAYS {
        let ends = Ends::open(way, "no-time").await;
        let handler = |_| async { panic!("it was run") };
        ends.respond().with(handler).await.unwrap();
        let outcome = ends.asker.request(Double(1)).timeout(Duration::ZERO).await;
        assert!(matches!(outcome, Err(RequestError::TimedOut { .. })), "{way:?}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_handler_that_asks_late_is_told_that_its_caller_has_gone() {
    watched(async {
        for way in WAYS {
            let ends = Ends::open(way, "gone-late").await;
            let (send, mut told) = mpsc::unbounded_channel();
            let go = Arc::new(Notify::new());
            let gate = go.clone();
            let handler = move |ask: Ask<Double>| {
                let (send, gate) = (send.clone(), gate.clone());
                async move {
                    send.send(false).unwrap();
                    gate.notified().await;
                    ask.cancelled().await;
                    send.send(ask.is_cancelled()).unwrap();
                    answer(0)
                }
            };
            ends.respond().with(handler).await.unwrap();
            let mut call = ends.asker.request(Double(1)).timeout(Duration::from_secs(3600));
            assert!((&mut call).now_or_never().is_none());
            assert!(!told.recv().await.unwrap());
            drop(call);
            go.notify_one();
            assert!(told.recv().await.unwrap(), "{way:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_that_was_given_away_knows_when_its_caller_was_answered() {
    watched(async {
        for way in WAYS {
            let ends = Ends::open(way, "given-away").await;
            let (send, mut given) = mpsc::unbounded_channel();
            let handler = move |ask: Ask<Double>| {
                assert!(!ask.is_cancelled());
                send.send(ask).unwrap();
                async { answer(7) }
            };
            ends.respond().with(handler).await.unwrap();
            let mut asks = Vec::new();
            for _ in 0..3 {
                let call = ends.asker.request(Double(1)).timeout(Duration::from_secs(3600));
                assert_eq!(call.await.unwrap(), 7);
                asks.push(given.recv().await.unwrap());
            }
            for ask in &asks {
                ask.cancelled().await;
                assert!(ask.is_cancelled(), "{way:?}");
                assert_eq!(ask.source().endpoint, "asker");
            }
            // Each was a request of its own.
            assert!(asks[0].id() != asks[1].id() && asks[1].id() != asks[2].id(), "{way:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn requests_in_one_another_are_kept_apart() {
    watched(async {
        let bus = Bus::private().await.unwrap();
        let a = bus.endpoint("a").unwrap();
        let (send, mut given) = mpsc::unbounded_channel();
        let inner = move |ask: Ask<Halve>| {
            assert!(!ask.is_cancelled());
            let half = ask.0 / 2;
            send.send(ask).unwrap();
            async move { answer(half) }
        };
        a.respond().with(inner).await.unwrap();
        let asks = a.clone();
        let outer = move |ask: Ask<Double>| {
            let asks = asks.clone();
            async move {
                let number = ask.0;
                if number != 4 {
                    drop(ask);
                }
                answer(asks.request(Halve(number)).await.unwrap() * 4)
            }
        };
        a.respond().with(outer).await.unwrap();
        let mut ids = Vec::new();
        for number in [2, 4, 6, 8] {
            assert_eq!(a.request(Double(number)).await.unwrap(), number * 2);
            let ask = given.recv().await.unwrap();
            assert_eq!(ask.0, number);
            assert!(ask.is_cancelled(), "its caller has its answer");
            ids.push(ask.id());
        }
        ids.dedup();
        assert_eq!(ids.len(), 4);
        bus.close().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_handler_is_known_as_one_before_and_after_it_suspends() {
    watched(async {
        for way in WAYS {
            let ends = Ends::open(way, "inside").await;
            let bus = ends.bus.clone();
            let handler = move |_| {
                let at_once = bus.close().now_or_never();
                assert!(matches!(at_once, Some(Err(CloseError::InsideHandler))));
                let bus = bus.clone();
                async move {
                    assert!(matches!(bus.close().await, Err(CloseError::InsideHandler)));
                    tokio::task::yield_now().await;
                    assert!(matches!(bus.close().await, Err(CloseError::InsideHandler)));
                    answer(1)
                }
            };
            ends.respond().with(handler).await.unwrap();
            assert_eq!(ends.asker.request(Double(1)).await.unwrap(), 1, "{way:?}");
            // Whoever asks is no handler afterwards.
            ends.bus.close().await.unwrap();
            ends.other.close().await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_more_handlers_run_at_once_than_were_asked_for() {
    const LIMIT: usize = 3;
    watched(async {
        let ends = Ends::open(Way::Remote, "limit").await;
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (now, seen) = (running.clone(), most.clone());
        let handler = move |ask: Ask<Double>| {
            let (now, seen) = (now.clone(), seen.clone());
            async move {
                seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                match ask.0 % 3 {
                    0 => tokio::task::yield_now().await,
                    _ => std::thread::yield_now(),
                }
                now.fetch_sub(1, Ordering::SeqCst);
                answer(ask.0)
            }
        };
        ends.respond().concurrency(LIMIT).with(handler).await.unwrap();
        // From the same bus and from another.
        let asking = (0..12).map(|caller: u32| {
            let from = if caller.is_multiple_of(4) { &ends.asker } else { &ends.responder };
            let from = from.clone();
            tokio::spawn(async move {
                for number in 0..100 {
                    let number = caller + number;
                    assert_eq!(from.request(Double(number)).await.unwrap(), number);
                }
            })
        });
        for caller in asking.collect::<Vec<_>>() {
            caller.await.unwrap();
        }
        assert_eq!(running.load(Ordering::SeqCst), 0);
        assert!((1..=LIMIT).contains(&most.load(Ordering::SeqCst)), "{most:?}");
    })
    .await;
}

#[tokio::test]
async fn a_handler_runs_in_a_span_whose_parent_is_its_callers() {
    watched(async {
        for way in WAYS {
            let ends = Ends::open(way, "spans").await;
            let handler = |_| async {
                tracing::info!("at first");
                tokio::task::yield_now().await;
                tracing::info!("then");
                answer(1)
            };
            ends.respond().with(handler).await.unwrap();
            let spans = Spans::default();
            let recording = tracing::subscriber::set_default(spans.clone());
            let caller = tracing::info_span!("caller");
            let call = tracing::Instrument::instrument(
                async { ends.asker.request(Double(1)).await },
                caller,
            );
            assert_eq!(call.await.unwrap(), 1);
            drop(recording);
            let path = match way {
                Way::InPlace | Way::Spawned => "caller/respond",
                Way::Remote => "respond",
            };
            let expected = ["at first", "then"].map(|what| Recorded::new(path, what));
            assert_eq!(spans.events(), expected, "{way:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn calls_nest_in_one_task_only_so_deep() {
    watched(async {
        let bus = Bus::private().await.unwrap();
        let a = bus.endpoint("a").unwrap();
        let (inner, tasks) = (a.clone(), Arc::new(Mutex::new(Vec::new())));
        let log = tasks.clone();
        let handler = move |ask: Ask<Double>| {
            log.lock().unwrap().push(tokio::task::id());
            let inner = inner.clone();
            async move {
                match ask.0 {
                    0 => answer(0),
                    n => answer(inner.request(Double(n - 1)).await.unwrap() + 1),
                }
            }
        };
        a.respond().with(handler).await.unwrap();
        let asker = a.clone();
        let caller = tokio::spawn(async move {
            assert_eq!(asker.request(Double(40)).await.unwrap(), 40);
            tokio::task::id()
        });
        let caller = caller.await.unwrap();
        let tasks = std::mem::take(&mut *tasks.lock().unwrap());
        assert_eq!(tasks.len(), 41);
        let in_callers = tasks.iter().take_while(|task| **task == caller).count();
        assert!((1..40).contains(&in_callers), "{in_callers}");
        assert!(!tasks[in_callers..].contains(&caller));
        bus.close().await.unwrap();
    })
    .await;
}
