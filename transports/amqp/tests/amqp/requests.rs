use std::time::{Duration, Instant};

use busway_transport::{
    Asks, ContentType, FailureKind, Interest, Notice, OutgoingRequest, Payload, PeerId, Reply,
    ResponderSpec, Route, Status, Transport, TransportError,
};
use futures::StreamExt;

use crate::bench::{Bus, body, connect, fresh, name, run, shared, text, topic, try_connect};
use crate::proxy::{Mode, Proxy};

const LONG: Duration = Duration::from_secs(30);

async fn respond(bus: &Bus, on: &str, endpoint: &str, concurrency: usize) -> Asks {
    let spec = ResponderSpec::new(topic(on), name(endpoint), concurrency);
    bus.transport.respond(spec).await.expect("responds")
}

fn json(text: &str) -> Payload {
    Payload::encoded(ContentType::JSON, text.to_owned())
}

#[test]
fn a_request_is_answered_refused_or_failed() {
    run(async {
        let (broker, bus) = (shared().await, fresh());
        let (a, b) = (connect(broker, &bus).await, connect(broker, &bus).await);
        let mut asks = respond(&b, "x.ask", "oracle", 1).await;
        let serving = async {
            let ask = asks.next().await.unwrap();
            assert_eq!(body(&ask.envelope), "\"question\"");
            assert_eq!(ask.envelope.source.peer, a.peer);
            let left = ask.deadline.duration_since(Instant::now());
            assert!(left <= LONG && left > LONG / 2, "{left:?}");
            ask.replier.reply(Reply::Response(json("42")));
            asks.next().await.unwrap().replier.reply(Reply::Refused(json("\"no\"")));
            drop(asks.next().await.unwrap());
        };
        let asking = async {
            match a.ask("x.ask", None, LONG).await.unwrap() {
                Reply::Response(payload) => assert_eq!(text(&payload), "42"),
                other => panic!("{other:?}"),
            }
            match a.ask("x.ask", Some("oracle"), LONG).await.unwrap() {
                Reply::Refused(payload) => assert_eq!(text(&payload), "\"no\""),
                other => panic!("{other:?}"),
            }
            match a.ask("x.ask", None, LONG).await.unwrap() {
                Reply::Failed { kind, .. } => assert_eq!(kind, FailureKind::Abandoned),
                other => panic!("{other:?}"),
            }
        };
        tokio::join!(serving, asking);
        a.close().await;
        b.close().await;
    });
}

#[test]
fn nobody_there_is_told_at_once() {
    run(async {
        let (broker, bus) = (shared().await, fresh());
        let (a, b) = (connect(broker, &bus).await, connect(broker, &bus).await);
        // A limit far over the watchdog: only an answer at once passes.
        let hour = Duration::from_secs(3600);
        let error = a.ask("x.ask", None, hour).await.unwrap_err();
        assert!(matches!(error, TransportError::NoResponder { .. }), "{error:?}");
        let asks = respond(&b, "x.ask", "oracle", 1).await;
        let error = a.ask("x.ask", Some("other"), hour).await.unwrap_err();
        assert!(matches!(error, TransportError::NoResponder { .. }), "{error:?}");
        // The last to leave takes the queue along.
        drop(asks);
        b.close().await;
        let error = a.ask("x.ask", None, hour).await.unwrap_err();
        assert!(matches!(error, TransportError::NoResponder { .. }), "{error:?}");
        a.close().await;
    });
}

#[test]
fn a_responder_that_all_believe_in_but_is_gone_is_told_too() {
    run(async {
        let (broker, bus) = (shared().await, fresh());
        let a = connect(broker, &bus).await;
        // What a responder leaves behind that was killed: its peers know it, its queue has gone.
        let raw = lapin::Connection::connect(broker.url(), Default::default()).await.unwrap();
        let channel = raw.create_channel().await.unwrap();
        let hello = format!(
            r#"{{"kind":"state","peer":"{}","responders":[{{"endpoint":"oracle","topic":"x.ask"}}]}}"#,
            PeerId::random()
        );
        let exchange = format!("{bus}.presence").into();
        let (options, properties) = Default::default();
        let sent =
            channel.basic_publish(exchange, "".into(), options, hello.as_bytes(), properties);
        sent.await.unwrap();
        let route = Route::new(topic("x.ask"), None);
        a.host.saw(|_| a.transport.responders(&route) == Interest::Yes).await;
        // A limit far over the watchdog.
        let error = a.ask("x.ask", None, Duration::from_secs(3600)).await.unwrap_err();
        assert!(matches!(error, TransportError::NoResponder { .. }), "{error:?}");
        raw.close(200, "done".into()).await.unwrap();
        a.close().await;
    });
}

#[test]
fn a_deadline_ends_a_request_and_a_late_answer_harms_nothing() {
    run(async {
        let bus = connect(shared().await, &fresh()).await;
        let mut asks = respond(&bus, "x.ask", "oracle", 2).await;
        let error = bus.ask("x.ask", None, Duration::from_millis(300)).await.unwrap_err();
        assert!(matches!(error, TransportError::TimedOut { .. }), "{error:?}");
        asks.next().await.unwrap().replier.reply(Reply::Response(json("late")));
        let (reply, ()) = tokio::join!(bus.ask("x.ask", None, LONG), async {
            asks.next().await.unwrap().replier.reply(Reply::Response(json("in time")));
        });
        match reply.unwrap() {
            Reply::Response(payload) => assert_eq!(text(&payload), "in time"),
            other => panic!("{other:?}"),
        }
        bus.close().await;
    });
}

#[test]
fn what_a_request_waits_at_the_broker_is_taken_off_its_time() {
    run(async {
        let (broker, bus) = (shared().await, fresh());
        let (a, b) = (connect(broker, &bus).await, connect(broker, &bus).await);
        // It has one place, and the first takes it.
        let mut asks = respond(&b, "x.ask", "oracle", 1).await;
        let limit = Duration::from_secs(30);
        let begin = Instant::now();
        let both = async { tokio::join!(a.ask("x.ask", None, limit), a.ask("x.ask", None, limit)) };
        let serving = async {
            let first = asks.next().await.unwrap();
            // What is measured is time that passes at the broker.
            tokio::time::sleep(Duration::from_secs(2)).await;
            first.replier.reply(Reply::Response(json("1")));
            let second = asks.next().await.unwrap();
            let left = second.deadline.duration_since(Instant::now());
            let passed = begin.elapsed();
            second.replier.reply(Reply::Response(json("2")));
            (left, passed)
        };
        let ((one, other), (left, passed)) = tokio::join!(both, serving);
        assert!(matches!((one, other), (Ok(Reply::Response(_)), Ok(Reply::Response(_)))));
        assert!(passed >= Duration::from_secs(2));
        // What the clocks are apart is known to the way of a message.
        let slack = Duration::from_secs(1);
        assert!(left + passed <= limit + slack && left > limit / 2, "{left:?} {passed:?}");
        a.close().await;
        b.close().await;
    });
}

#[test]
fn many_at_once_get_each_its_own_answer() {
    run(async {
        let (broker, bus) = (shared().await, fresh());
        let (a, b) = (connect(broker, &bus).await, connect(broker, &bus).await);
        let mut asks = respond(&b, "x.ask", "oracle", 16).await;
        let server = tokio::spawn(async move {
            while let Some(ask) = asks.next().await {
                let answer = body(&ask.envelope);
                ask.replier.reply(Reply::Response(json(&answer)));
            }
        });
        let all = (0..300).map(|n| {
            let envelope = a.envelope("x.ask", n.to_string());
            let request = OutgoingRequest::new(envelope, Instant::now() + LONG);
            let nobody = n % 3 == 0;
            let (a, lost) = (&a, a.envelope("x.nobody", "0"));
            async move {
                if nobody {
                    let request = OutgoingRequest::new(lost, Instant::now() + LONG);
                    let error = a.transport.request(request).await.unwrap_err();
                    assert!(matches!(error, TransportError::NoResponder { .. }), "{error:?}");
                }
                match a.transport.request(request).await.unwrap() {
                    Reply::Response(payload) => assert_eq!(text(&payload), n.to_string()),
                    other => panic!("{other:?}"),
                }
            }
        });
        futures::future::join_all(all).await;
        a.close().await;
        b.close().await;
        server.await.unwrap();
    });
}

fn response(answer: Result<Reply, TransportError>) -> String {
    match answer {
        Ok(Reply::Response(payload)) => text(&payload),
        other => panic!("{other:?}"),
    }
}

/// Cuts a bus off, and waits until it knows; it does not come back before the proxy passes.
async fn cut_off(bus: &Bus, proxy: &Proxy) {
    proxy.set(Mode::Reset);
    bus.host.saw(|notice| matches!(notice, Notice::Status(Status::Reconnecting { .. }))).await;
    let route = Route::new(topic("x.y"), None);
    while bus.transport.try_reserve(&route).is_ok() {
        tokio::task::yield_now().await;
    }
}

#[test]
fn answers_that_did_not_get_out_before_the_connection_was_lost_come_all_the_same() {
    run(async {
        let (broker, bus) = (shared().await, fresh());
        let proxy = Proxy::start(broker.port()).await;
        let a = connect(broker, &bus).await;
        let b = try_connect(&proxy.url(&format!("bus={bus}")), LONG).await.expect("connects");
        let mut asks = respond(&b, "x.ask", "oracle", 8).await;
        let asking = async {
            tokio::join!(a.ask("x.ask", None, LONG), a.ask("x.ask", Some("oracle"), LONG))
        };
        let answering = async {
            let (first, second) = (asks.next().await.unwrap(), asks.next().await.unwrap());
            let (first, second) = match first.envelope.to {
                None => (first, second),
                Some(_) => (second, first),
            };
            // Written, and never looked at.
            proxy.set(Mode::Silent);
            first.replier.reply(Reply::Response(json("1")));
            cut_off(&b, &proxy).await;
            // Its delivery and the channel to answer on have gone.
            second.replier.reply(Reply::Response(json("2")));
            proxy.set(Mode::Pass);
        };
        let ((first, second), ()) = tokio::join!(asking, answering);
        assert_eq!((response(first), response(second)), ("1".into(), "2".into()));
        b.close().await;
        assert!(asks.next().await.is_none(), "each was handed out once");
        a.close().await;
    });
}

#[test]
fn a_bus_closes_when_its_answers_are_out() {
    run(async {
        let (broker, bus) = (shared().await, fresh());
        let proxy = Proxy::start(broker.port()).await;
        let a = connect(broker, &bus).await;
        let b = connect(broker, &bus).await;
        let mut asks = respond(&b, "x.ask", "oracle", 8).await;
        let (answer, ()) = tokio::join!(a.ask("x.ask", None, LONG), async {
            asks.next().await.unwrap().replier.reply(Reply::Response(json("1")));
            b.close().await;
        });
        assert_eq!(response(answer), "1");

        // The same while the connection is lost.
        let b = try_connect(&proxy.url(&format!("bus={bus}")), LONG).await.expect("connects");
        let mut asks = respond(&b, "x.ask", "oracle", 8).await;
        let (answer, ()) = tokio::join!(a.ask("x.ask", None, LONG), async {
            let ask = asks.next().await.unwrap();
            cut_off(&b, &proxy).await;
            ask.replier.reply(Reply::Response(json("2")));
            let passing = async { proxy.set(Mode::Pass) };
            tokio::join!(b.close(), passing);
        });
        assert_eq!(response(answer), "2");
        a.close().await;
    });
}

#[test]
fn the_last_free_place_of_a_responder_serves_all_who_ask() {
    run(async {
        let (broker, bus) = (shared().await, fresh());
        let (a, b) = (connect(broker, &bus).await, connect(broker, &bus).await);
        let mut asks = respond(&b, "x.ask", "oracle", 8).await;
        let held = futures::future::join_all((0..7).map(|_| a.ask("x.ask", None, LONG)));
        let others = async {
            let mut held = Vec::new();
            for _ in 0..7 {
                held.push(asks.next().await.unwrap());
            }
            for n in 0..200 {
                let (answer, ()) = tokio::join!(a.ask("x.ask", None, LONG), async {
                    let ask = asks.next().await.unwrap();
                    ask.replier.reply(Reply::Response(json(&n.to_string())));
                });
                assert_eq!(response(answer), n.to_string());
            }
            for ask in held {
                ask.replier.reply(Reply::Response(json("\"held\"")));
            }
        };
        let (answers, ()) = tokio::join!(held, others);
        for answer in answers {
            assert_eq!(response(answer), "\"held\"");
        }
        a.close().await;
        b.close().await;
    });
}

#[test]
fn small_and_large_answers_come() {
    run(async {
        let (broker, bus) = (shared().await, fresh());
        let (a, b) = (connect(broker, &bus).await, connect(broker, &bus).await);
        let mut asks = respond(&b, "x.ask", "oracle", 8).await;
        for length in [0, 100_000, 128 * 1024 - 2, 128 * 1024, 3_000_000] {
            let (answer, ()) = tokio::join!(a.ask("x.ask", None, LONG), async {
                let ask = asks.next().await.unwrap();
                ask.replier.reply(Reply::Response(json(&format!("\"{}\"", "x".repeat(length)))));
            });
            assert_eq!(response(answer).len(), length + 2);
        }
        a.close().await;
        b.close().await;
    });
}
