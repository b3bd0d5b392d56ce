//! busway, through its public API.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use busway::{Ask, Bus, Endpoint, Refused};
use tokio::sync::mpsc;

use busway_benches::Sample;

use crate::broker::{self, Kind, Work};
use crate::typed::{Blob, Order, Question, bytes};
use crate::{Span, WINDOW, one_by_one};

async fn open(bus: &str) -> Bus {
    let bus = Bus::builder().transport(&broker::url(bus)).without_configuration();
    bus.open().await.expect("connects")
}

fn endpoint(bus: &Bus, name: &str) -> Endpoint {
    bus.endpoint(name).expect("a right name")
}

async fn close<const N: usize>(buses: [Bus; N]) {
    for bus in buses {
        bus.close().await.expect("closed");
    }
}

pub(crate) async fn publish(length: u64) -> Sample {
    let name = broker::fresh();
    let work = Work::of(&name, Kind::Plain).await;
    let bus = open(&name).await;
    let sample = publish_all(&bus, length).await;
    close([bus]).await;
    work.remove().await;
    sample
}

async fn publish_all(bus: &Bus, length: u64) -> Sample {
    let publisher = endpoint(bus, "from").publisher::<Blob>();
    let bytes = bytes();
    let start = Instant::now();
    for _ in 0..length {
        publisher.publish(Blob { bytes: bytes.clone() }).await.expect("accepted");
    }
    publisher.flush().await.expect("confirmed");
    Sample::rate(length, start.elapsed())
}

pub(crate) async fn consume(length: u64) -> Sample {
    let name = broker::fresh();
    let bus = open(&name).await;
    let to = endpoint(&bus, "to");
    let group = || to.subscribe::<Blob>().group("work").durable().concurrency(WINDOW);
    // The queue outlives its first member, and is filled before the second comes.
    group().for_each(|_| async {}).await.expect("joined").unsubscribe().await;
    publish_all(&bus, length + 1).await;

    let (seen, span) = (AtomicU64::new(0), Mutex::new(Span::of(length)));
    let (done, mut ended) = mpsc::unbounded_channel();
    let shared = Arc::new((seen, span, done));
    let handler = move |blob: busway::Message<Blob>| {
        assert_eq!(blob.bytes.len(), crate::SIZE);
        let shared = shared.clone();
        async move {
            let (seen, span, done) = &*shared;
            let seen = seen.fetch_add(1, Ordering::Relaxed) + 1;
            if seen == 1 || seen > length {
                let sample = span.lock().expect("not poisoned").one(seen);
                let _ = sample.map(|sample| done.send(sample));
            }
        }
    };
    group().for_each(handler).await.expect("joined");
    let sample = ended.recv().await.expect("an end");
    close([bus]).await;
    let work = Work::of(&name, Kind::Group).await;
    for kind in ["dgroup", "dead"] {
        work.delete(format!("{name}.{kind}.to.work.bench.blob").into()).await;
    }
    work.remove().await;
    sample
}

/// A bus that answers, one that asks, and somebody to ask it.
async fn service() -> ([Bus; 2], Endpoint) {
    let name = broker::fresh();
    let (here, there) = (open(&name).await, open(&name).await);
    let answer = |ask: Ask<Question>| async move { Ok::<_, Refused>(ask.number) };
    let responder = endpoint(&there, "responder");
    responder.respond::<Question>().with(answer).await.expect("registered");
    let caller = endpoint(&here, "caller");
    ([here, there], caller)
}

pub(crate) async fn request(length: u64) -> Sample {
    let (buses, caller) = service().await;
    let ask = |number| ask(caller.clone(), number);
    let sample = one_by_one(length, ask).await;
    close(buses).await;
    sample
}

async fn ask(caller: Endpoint, number: u64) -> Duration {
    let start = Instant::now();
    let answer = caller.request(Question { number }).await.expect("answered");
    assert_eq!(answer, number);
    start.elapsed()
}

pub(crate) async fn requests(length: u64) -> Sample {
    let (buses, caller) = service().await;
    let sample = in_parallel(length, |number| ask(caller.clone(), number)).await;
    close(buses).await;
    sample
}

/// 32 callers that share `length` calls.
pub(crate) async fn in_parallel<F, Fut>(length: u64, call: F) -> Sample
where
    F: Fn(u64) -> Fut,
    Fut: Future<Output = Duration> + Send + 'static,
{
    const CALLERS: u64 = 32;
    let each = length.div_ceil(CALLERS);
    let start = Instant::now();
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let calls: Vec<Fut> = (0..each).map(|number| call(caller * each + number)).collect();
        callers.spawn(async move {
            for call in calls {
                call.await;
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended.expect("a caller");
    }
    Sample::rate(each * CALLERS, start.elapsed())
}

pub(crate) async fn one_way(length: u64) -> Sample {
    let name = broker::fresh();
    let (here, there) = (open(&name).await, open(&name).await);
    let (arrived, arrivals) = mpsc::unbounded_channel();
    let handler = move |order: busway::Message<Order>| {
        let _ = arrived.send((order.number, Instant::now()));
        async {}
    };
    endpoint(&there, "to").subscribe::<Order>().for_each(handler).await.expect("subscribed");
    let (from, arrivals) = (endpoint(&here, "from"), Arc::new(tokio::sync::Mutex::new(arrivals)));
    let once = |number| {
        let (from, arrivals) = (from.clone(), arrivals.clone());
        async move {
            let mut arrivals = arrivals.lock().await;
            let start = Instant::now();
            let published = async { from.publish(Order::new(number)).await.expect("published") };
            let (_, arrived) = tokio::join!(published, arrivals.recv());
            let (came, at) = arrived.expect("arrived");
            assert_eq!(came, number);
            at - start
        }
    };
    let sample = one_by_one(length, once).await;
    close([here, there]).await;
    sample
}
