//! What is counted: publishes with their reads, and requests, through the public API.
//!
//! Everything is on one thread and in an order that never changes: a burst is published, then
//! every stream reads all of it, item by item.

use busway::{Ask, Bus, Endpoint, Event, EventStream, Refused, Request};
use serde::{Deserialize, Serialize};

/// How many operations a burst has. Streams have room for more, so that nobody ever waits.
pub(crate) const BURST: u64 = 256;
const CAPACITY: usize = 4 * BURST as usize;

/// One thing to count, which is told how many bursts to run.
pub(crate) struct Case {
    pub(crate) name: String,
    run: Box<dyn Fn(u64)>,
}

impl Case {
    fn new<F: Future<Output = ()>>(
        name: impl Into<String>,
        work: impl Fn(u64) -> F + 'static,
    ) -> Self {
        let run = move |bursts| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            runtime.expect("a runtime").block_on(work(bursts));
        };
        Self { name: name.into(), run: Box::new(run) }
    }

    pub(crate) fn run(&self, bursts: u64) {
        (self.run)(bursts);
    }
}

/// All of them. The number in a name says how many streams read.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = events::<Local>("local");
    cases.extend(events::<Ordinary>("ordinary"));
    cases.push(Case::new("request", request));
    cases
}

fn events<E: Numbered>(kind: &str) -> Vec<Case> {
    let by_publisher = [0, 1, 4].map(|streams| {
        Case::new(format!("{kind}/publisher/{streams}"), move |bursts| async move {
            let (bus, streams) = open::<E>(streams).await;
            let publisher = endpoint(&bus, "from").publisher();
            let publish = async |event| {
                publisher.publish(event).await.expect("published");
            };
            count(bursts, streams, publish).await;
        })
    });
    let by_endpoint = [0, 1].map(|streams| {
        Case::new(format!("{kind}/endpoint/{streams}"), move |bursts| async move {
            let (bus, streams) = open::<E>(streams).await;
            let from = endpoint(&bus, "from");
            let publish = async |event| {
                from.publish(event).await.expect("published");
            };
            count(bursts, streams, publish).await;
        })
    });
    let without_waiting = Case::new(format!("{kind}/try_publish/1"), |bursts| async move {
        let (bus, streams) = open::<E>(1).await;
        let publisher = endpoint(&bus, "from").publisher();
        let publish = async |event| {
            publisher.try_publish(event).expect("published");
        };
        count(bursts, streams, publish).await;
    });
    by_publisher.into_iter().chain(by_endpoint).chain([without_waiting]).collect()
}

/// An event of 32 bytes.
trait Numbered: Event {
    fn new(number: u64) -> Self;
    fn number(&self) -> u64;
}

/// One that never leaves the process.
#[derive(Event)]
#[event("count.local", local)]
struct Local([u64; 4]);

/// One that could leave it, on a bus without anybody else.
#[derive(Event, Serialize, Deserialize)]
#[event("count.ordinary")]
struct Ordinary([u64; 4]);

impl Numbered for Local {
    fn new(number: u64) -> Self {
        Self([number; 4])
    }

    fn number(&self) -> u64 {
        self.0[0]
    }
}

impl Numbered for Ordinary {
    fn new(number: u64) -> Self {
        Self([number; 4])
    }

    fn number(&self) -> u64 {
        self.0[0]
    }
}

async fn private() -> Bus {
    let bus = Bus::builder().transport("memory:").without_configuration().capacity(CAPACITY);
    bus.open().await.expect("a private bus")
}

fn endpoint(bus: &Bus, name: &str) -> Endpoint {
    bus.endpoint(name).expect("a right name")
}

async fn open<E: Numbered>(count: usize) -> (Bus, Vec<EventStream<E>>) {
    let bus = private().await;
    let to = endpoint(&bus, "to");
    let mut streams = Vec::new();
    for _ in 0..count {
        streams.push(to.stream::<E>().await.expect("subscribed"));
    }
    (bus, streams)
}

async fn count<E: Numbered>(
    bursts: u64,
    mut streams: Vec<EventStream<E>>,
    publish: impl AsyncFn(E),
) {
    for _ in 0..bursts {
        for number in 0..BURST {
            publish(E::new(number)).await;
        }
        for stream in &mut streams {
            for number in 0..BURST {
                let event = stream.next().await.expect("open").expect("no gap");
                assert_eq!(event.number(), number);
            }
        }
    }
}

#[derive(Request, Serialize, Deserialize)]
#[request("count.question", response = u64)]
struct Question([u64; 4]);

/// Answered in place: the responder is on the same bus, and does not suspend.
async fn request(bursts: u64) {
    let bus = private().await;
    let answer = |ask: Ask<Question>| async move { Ok::<_, Refused>(ask.0[0]) };
    // What it gives is dropped: the responder stays registered.
    endpoint(&bus, "responder").respond::<Question>().with(answer).await.expect("registered");
    let caller = endpoint(&bus, "caller");
    for number in 0..bursts * BURST {
        let answer = caller.request(Question([number; 4])).await.expect("answered");
        assert_eq!(answer, number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_gets_through() {
        for case in all() {
            case.run(2);
        }
    }
}
