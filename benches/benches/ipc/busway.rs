//! busway itself, through its public API.

use std::path::Path;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use busway::{Ask, Bus, Endpoint, Event, EventStream, Refused, Request};
use busway_benches::on_runtime;

use crate::ask::Asker;
use crate::oneway::{self, CAPACITY, Shape, number_of, subscribe};
use crate::process::{self, Part};

pub(crate) const STREAM: &str = "busway-stream";
pub(crate) const COPIES: &str = "busway-copies";
pub(crate) const ECHO: &str = "busway-echo";
pub(crate) const ANSWER: &str = "busway-answer";

/// What travels, as everybody else's payload does: it is read where it arrived.
#[derive(Event, Serialize, Deserialize)]
#[event("bench.item")]
pub(crate) struct Item {
    #[serde(with = "busway::zero_copy")]
    payload: Bytes,
}

/// The same, but that it is read as serde does it, which copies.
#[derive(Event, Serialize, Deserialize)]
#[event("bench.copied")]
pub(crate) struct Copied {
    payload: Bytes,
}

/// An event that carries a payload.
pub(crate) trait Carrier: Event {
    /// The part of those who subscribe.
    const SUBSCRIBER: &'static str;

    fn with(payload: Bytes) -> Self;
    fn payload(&self) -> &Bytes;
}

macro_rules! carrier {
    ($event:ty, $subscriber:expr) => {
        impl Carrier for $event {
            const SUBSCRIBER: &'static str = $subscriber;

            fn with(payload: Bytes) -> Self {
                Self { payload }
            }

            fn payload(&self) -> &Bytes {
                &self.payload
            }
        }
    };
}

carrier!(Item, STREAM);
carrier!(Copied, COPIES);

/// The same, on its way back.
#[derive(Event, Serialize, Deserialize)]
#[event("bench.echo")]
struct Echo {
    payload: Bytes,
}

#[derive(Request, Serialize, Deserialize)]
#[request("bench.question", response = Bytes)]
struct Question {
    payload: Bytes,
}

/// A bus, and an endpoint on it.
pub(crate) async fn open(folder: &Path) -> (Bus, Endpoint) {
    let address = process::address(folder);
    let bus = Bus::builder().transport(&address).without_configuration().capacity(CAPACITY);
    let bus = bus.open().await.expect("a bus");
    let endpoint = bus.endpoint("bench").expect("a right name");
    (bus, endpoint)
}

/// A subscription that gets nothing.
pub(crate) async fn subscribe_idly(endpoint: &Endpoint) -> impl Sized + use<> {
    endpoint.stream::<Item>().await.expect("subscribed")
}

pub(crate) struct Publisher<E> {
    publisher: busway::Publisher<E>,
    bus: Bus,
}

impl<E: Carrier> oneway::Publisher for Publisher<E> {
    const SUBSCRIBER: &'static str = E::SUBSCRIBER;

    async fn open(folder: &Path, _: Shape) -> Self {
        let (bus, endpoint) = open(folder).await;
        Self { publisher: endpoint.publisher(), bus }
    }

    async fn meet(&mut self, subscribers: usize) {
        assert_eq!(self.bus.peers().len(), subscribers);
    }

    async fn publish(&mut self, payload: Bytes) {
        self.publisher.publish(E::with(payload)).await.expect("published");
    }
}

/// Without a handle of its own for the events.
pub(crate) struct ByEndpoint {
    endpoint: Endpoint,
    bus: Bus,
}

impl oneway::Publisher for ByEndpoint {
    const SUBSCRIBER: &'static str = STREAM;

    async fn open(folder: &Path, _: Shape) -> Self {
        let (bus, endpoint) = open(folder).await;
        Self { endpoint, bus }
    }

    async fn meet(&mut self, subscribers: usize) {
        assert_eq!(self.bus.peers().len(), subscribers);
    }

    async fn publish(&mut self, payload: Bytes) {
        self.endpoint.publish(Item { payload }).await.expect("published");
    }
}

/// With one in its own process that takes them too.
pub(crate) struct HereToo {
    publisher: Publisher<Item>,
    reader: JoinHandle<()>,
}

impl oneway::Publisher for HereToo {
    const SUBSCRIBER: &'static str = STREAM;

    async fn open(folder: &Path, shape: Shape) -> Self {
        let publisher = <Publisher<Item> as oneway::Publisher>::open(folder, shape).await;
        let endpoint = publisher.bus.endpoint("here").expect("a right name");
        let mut events = endpoint.stream::<Item>().await.expect("subscribed");
        let reader = tokio::spawn(async move {
            while let Some(item) = events.next().await {
                number_of(item.expect("no gap").payload());
            }
        });
        Self { publisher, reader }
    }

    async fn meet(&mut self, subscribers: usize) {
        self.publisher.meet(subscribers).await;
    }

    async fn publish(&mut self, payload: Bytes) {
        oneway::Publisher::publish(&mut self.publisher, payload).await;
    }
}

impl Drop for HereToo {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

struct Stream<E: Event> {
    events: EventStream<E>,
    _bus: Bus,
}

impl<E: Carrier> oneway::Subscriber for Stream<E> {
    async fn open(folder: &Path) -> Self {
        let (bus, endpoint) = open(folder).await;
        Self { events: endpoint.stream::<E>().await.expect("subscribed"), _bus: bus }
    }

    async fn next(&mut self) -> u64 {
        number_of(self.events.next().await.expect("open").expect("no gap").payload())
    }
}

pub(crate) fn stream<E: Carrier>(part: Part) {
    subscribe::<Stream<E>>(part);
}

/// One event there, and one back.
pub(crate) struct Events {
    there: busway::Publisher<Item>,
    back: EventStream<Echo>,
    _bus: Bus,
}

impl Asker for Events {
    const ANSWERER: &'static str = ECHO;

    async fn open(folder: &Path) -> Self {
        let (bus, endpoint) = open(folder).await;
        let back = endpoint.stream::<Echo>().await.expect("subscribed");
        Self { there: endpoint.publisher(), back, _bus: bus }
    }

    async fn meet(&mut self) {}

    async fn ask(&mut self, payload: Bytes) -> u64 {
        self.there.publish(Item { payload }).await.expect("published");
        number_of(&self.back.next().await.expect("open").expect("no gap").payload)
    }
}

pub(crate) fn echo(part: Part) {
    on_runtime(async move {
        let (_bus, endpoint) = open(&part.folder).await;
        let mut there = endpoint.stream::<Item>().await.expect("subscribed");
        let back = endpoint.publisher::<Echo>();
        part.is_ready();
        while let Some(item) = there.next().await {
            let payload = item.expect("no gap").payload.clone();
            back.publish(Echo { payload }).await.expect("published");
        }
    });
}

pub(crate) struct Requests {
    endpoint: Endpoint,
    _bus: Bus,
}

impl Asker for Requests {
    const ANSWERER: &'static str = ANSWER;

    async fn open(folder: &Path) -> Self {
        let (bus, endpoint) = open(folder).await;
        Self { endpoint, _bus: bus }
    }

    async fn meet(&mut self) {}

    async fn ask(&mut self, payload: Bytes) -> u64 {
        number_of(&self.endpoint.request(Question { payload }).await.expect("answered"))
    }
}

pub(crate) fn answer(part: Part) {
    on_runtime(async move {
        let (_bus, endpoint) = open(&part.folder).await;
        let answer = |ask: Ask<Question>| async move { Ok::<_, Refused>(ask.payload.clone()) };
        // What it gives is dropped: the responder stays registered.
        endpoint.respond::<Question>().with(answer).await.expect("registered");
        part.is_ready();
        std::future::pending::<()>().await;
    });
}
