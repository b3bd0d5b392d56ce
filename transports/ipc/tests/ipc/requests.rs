use std::time::{Duration, Instant};

use busway_transport::{
    Ask, Asks, ContentType, FailureKind, Interest, OutgoingRequest, Payload, Reply, ResponderSpec,
    Transport, TransportError,
};
use futures::{FutureExt as _, StreamExt as _};

use crate::support::{Bus, connect, folder, later, name, route, text, topic, within};

pub(crate) async fn respond(bus: &Bus, event: &str) -> Asks {
    bus.transport.respond(ResponderSpec::new(topic(event), name("warranty"), 8)).await.unwrap()
}

async fn request(bus: &Bus, event: &str, payload: &str) -> Result<Reply, TransportError> {
    let envelope = bus.envelope(event, payload);
    bus.transport.request(OutgoingRequest::new(envelope, later())).await
}

pub(crate) async fn take(asks: &mut Asks) -> Ask {
    asks.next().await.expect("the responder's stream ended")
}

pub(crate) fn answer(value: impl ToString) -> Reply {
    Reply::Response(Payload::encoded(ContentType::JSON, value.to_string()))
}

fn response(reply: Result<Reply, TransportError>) -> String {
    match reply {
        Ok(Reply::Response(payload)) => text(&payload),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_request_has_its_answer_from_there_and_from_here() {
    within(async {
        let dir = folder();
        let (one, two) = (connect(&dir).await, connect(&dir).await);
        let Err(error) = request(&one, "ask", "?").await else { panic!() };
        assert!(matches!(error, TransportError::NoResponder { .. }), "{error}");
        let mut asks = respond(&two, "ask").await;
        for bus in [&one, &two] {
            assert_eq!(bus.transport.responders(&route("ask")), Interest::Yes);
            let (reply, ()) = tokio::join!(request(bus, "ask", "x"), async {
                let ask = take(&mut asks).await;
                assert_eq!(ask.envelope.source.peer, bus.peer);
                assert!(ask.deadline > Instant::now());
                ask.replier.reply(answer(text(&ask.envelope.payload) + "!"));
                // An answered request is not cancelled.
                assert!(ask.cancelled.now_or_never().is_none());
            });
            assert_eq!(response(reply), "x!");
        }
        let (reply, ()) = tokio::join!(request(&one, "ask", "x"), async {
            drop(take(&mut asks).await);
        });
        let Ok(Reply::Failed { kind: FailureKind::Abandoned, .. }) = reply else { panic!() };
        drop(asks);
        one.notes.until(|_| one.transport.responders(&route("ask")) == Interest::No).await;
        assert!(matches!(request(&one, "ask", "?").await, Err(TransportError::NoResponder { .. })));
    })
    .await;
}

#[tokio::test]
async fn the_own_process_comes_first_and_replicas_take_turns() {
    within(async {
        let dir = folder();
        let (one, two, three) = (connect(&dir).await, connect(&dir).await, connect(&dir).await);
        let mut asks = [respond(&two, "ask").await, respond(&three, "ask").await];
        let mut answered = [0; 2];
        for _ in 0..6 {
            let (reply, ()) = tokio::join!(request(&one, "ask", ""), async {
                let [first, second] = &mut asks;
                let (n, ask) = tokio::select! {
                    ask = take(first) => (0, ask),
                    ask = take(second) => (1, ask),
                };
                answered[n] += 1;
                ask.replier.reply(answer(1));
            });
            assert_eq!(response(reply), "1");
        }
        assert_eq!(answered, [3, 3]);
        let (reply, ()) = tokio::join!(request(&two, "ask", ""), async {
            take(&mut asks[0]).await.replier.reply(answer(2));
        });
        assert_eq!(response(reply), "2");
    })
    .await;
}

#[tokio::test]
async fn the_death_of_the_responder_is_seen() {
    within(async {
        let dir = folder();
        let (one, two) = (connect(&dir).await, connect(&dir).await);
        let mut asks = respond(&two, "ask").await;
        let (reply, ()) = tokio::join!(request(&one, "ask", ""), async {
            let ask = take(&mut asks).await;
            drop(two);
            drop(ask);
        });
        assert!(matches!(reply, Err(TransportError::Disconnected { .. })), "{reply:?}");
    })
    .await;
}

#[tokio::test]
async fn who_asks_no_longer_is_told_to_the_responder() {
    within(async {
        let dir = folder();
        let (one, two, three) = (connect(&dir).await, connect(&dir).await, connect(&dir).await);
        let mut asks = respond(&two, "ask").await;
        // From another process, from the same one, and by death.
        for bus in [&one, &two] {
            let mut call = Box::pin(request(bus, "ask", "1"));
            assert!(call.as_mut().now_or_never().is_none());
            let ask = take(&mut asks).await;
            drop(call);
            ask.cancelled.await;
            // A late answer harms nothing.
            ask.replier.reply(answer(1));
        }
        {
            let mut call = Box::pin(request(&three, "ask", "2"));
            assert!(call.as_mut().now_or_never().is_none());
            let ask = take(&mut asks).await;
            drop(call);
            drop(three);
            ask.cancelled.await;
        }
        // What was not taken yet is not run.
        let mut call = Box::pin(request(&two, "ask", "3"));
        assert!(call.as_mut().now_or_never().is_none());
        drop(call);
        assert!(asks.next().now_or_never().is_none());
    })
    .await;
}

#[tokio::test]
async fn the_deadline_ends_it() {
    within(async {
        let dir = folder();
        let (one, two) = (connect(&dir).await, connect(&dir).await);
        let mut asks = respond(&two, "ask").await;
        let deadline = Instant::now() + Duration::from_millis(20);
        let asked = OutgoingRequest::new(one.envelope("ask", ""), deadline);
        let Err(error) = one.transport.request(asked).await else { panic!() };
        assert!(matches!(error, TransportError::TimedOut { .. }), "{error}");
        // The responder learns of it, if it had begun.
        if let Some(Some(ask)) = asks.next().now_or_never() {
            ask.cancelled.await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_bus_that_leaves_still_answers() {
    within(async {
        let dir = folder();
        let (one, two) = (connect(&dir).await, connect(&dir).await);
        let mut asks = respond(&two, "ask").await;
        let (reply, ()) = tokio::join!(request(&one, "ask", ""), async {
            let ask = take(&mut asks).await;
            two.transport.leave().await.unwrap();
            assert!(asks.next().await.is_none());
            ask.replier.reply(answer("bye"));
            two.transport.close(later()).await.unwrap();
        });
        assert_eq!(response(reply), "bye");
    })
    .await;
}
