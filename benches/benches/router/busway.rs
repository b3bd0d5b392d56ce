//! busway itself, through its public API.

use busway::{Ask, Bus, Endpoint, Event, EventStream, Overflow, Publisher, Refused, Request};
use serde::{Deserialize, Serialize};

use crate::fanout::{self, CAPACITY, CHUNK, Chunk, Ends, Fanout, Payload, Payloads, Shape};
use crate::request::{Caller, Service};

/// An event that stays in the process, as what goes through a channel does.
#[derive(Event)]
#[event("bench.item", local)]
pub(crate) struct Item(Payload);

#[derive(Request, Serialize, Deserialize)]
#[request("bench.question", response = u64)]
struct Question([u64; 4]);

pub(crate) struct Busway;

async fn open() -> Bus {
    let bus = Bus::builder().transport("memory:").without_configuration().capacity(CAPACITY);
    bus.open().await.expect("a private bus")
}

fn endpoint(bus: &Bus, name: &str) -> Endpoint {
    bus.endpoint(name).expect("a right name")
}

impl Fanout for Busway {
    type Publisher = Publisher<Item>;
    type Subscriber = EventStream<Item>;

    async fn open(shape: Shape) -> Ends<Self> {
        let bus = open().await;
        let (from, to) = (endpoint(&bus, "from"), endpoint(&bus, "to"));
        let mut subscribers = Vec::new();
        for _ in 0..shape.to {
            subscribers.push(to.stream::<Item>().await.expect("subscribed"));
        }
        ((0..shape.from).map(|_| from.publisher()).collect(), subscribers)
    }
}

impl fanout::Publisher for Publisher<Item> {
    async fn publish(&mut self, payload: Payload) {
        Publisher::publish(self, Item(payload)).await.expect("published");
    }

    async fn publish_all(&mut self, payloads: impl Payloads) {
        Publisher::publish_all(self, payloads.map(Item)).await.expect("published");
    }
}

impl fanout::Subscriber for EventStream<Item> {
    async fn next(&mut self) -> u64 {
        self.next().await.expect("open").expect("no gap").0[0]
    }

    async fn next_chunk(&mut self) -> Chunk {
        let mut lent = EventStream::next_chunk(self, CHUNK).await.expect("open").expect("no gap");
        std::iter::from_fn(|| lent.next().map(|item| item.0[0])).collect()
    }
}

/// One stream that publishers wait for, and beside it some that drop the oldest and that nobody
/// reads.
pub(crate) struct Lossy<const COUNT: usize>;

pub(crate) struct Beside {
    read: EventStream<Item>,
    _unread: Vec<EventStream<Item>>,
}

impl<const COUNT: usize> Fanout for Lossy<COUNT> {
    type Publisher = Publisher<Item>;
    type Subscriber = Beside;

    async fn open(_: Shape) -> Ends<Self> {
        let bus = open().await;
        let (from, to) = (endpoint(&bus, "from"), endpoint(&bus, "to"));
        let read = to.stream::<Item>().await.expect("subscribed");
        let mut unread = Vec::new();
        for _ in 0..COUNT {
            let stream = to.stream::<Item>().overflow(Overflow::DropOldest);
            unread.push(stream.await.expect("subscribed"));
        }
        (vec![from.publisher()], vec![Beside { read, _unread: unread }])
    }
}

impl fanout::Subscriber for Beside {
    async fn next(&mut self) -> u64 {
        fanout::Subscriber::next(&mut self.read).await
    }
}

impl Service for Busway {
    type Caller = Endpoint;

    async fn open(callers: u64) -> Vec<Endpoint> {
        let bus = open().await;
        let answer = |ask: Ask<Question>| async move { Ok::<_, Refused>(ask.0[0]) };
        let responder = endpoint(&bus, "responder");
        // What it gives is dropped: the responder stays registered.
        responder.respond::<Question>().with(answer).await.expect("registered");
        let caller = endpoint(&bus, "caller");
        (0..callers).map(|_| caller.clone()).collect()
    }
}

impl Caller for Endpoint {
    async fn ask(&mut self, question: [u64; 4]) -> u64 {
        self.request(Question(question)).await.expect("answered")
    }
}
