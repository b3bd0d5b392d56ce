//! Events from some publishers to each of some subscribers, without loss.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Barrier;
use tokio::task::JoinHandle;

use busway_benches::Sample;

/// How many events wait at most for one subscriber.
pub(crate) const CAPACITY: usize = 1024;

/// How many events go into a chunk, and how many a subscriber wants at once.
pub(crate) const CHUNK: usize = 64;

/// What everyone carries: 32 bytes behind an `Arc`.
pub(crate) type Payload = Arc<[u64; 4]>;

/// Payloads made beforehand, of which events take clones in turn. A new one for each event would
/// measure the allocator: 70 to 90 ns for everyone, as memory would go from core to core. There
/// are more than can be on their way, so that nobody still holds the one whose turn it is.
struct Pool(Vec<Payload>);

impl Pool {
    const COUNT: u64 = 4 * CAPACITY as u64;

    fn new() -> Self {
        Self((0..Self::COUNT).map(|number| Arc::new([number; 4])).collect())
    }

    fn of(&self, event: u64) -> Payload {
        self.0[(event % Self::COUNT) as usize].clone()
    }

    /// The sum of the first words of so many events.
    fn sum(events: u64) -> u64 {
        events / Self::COUNT * sum(Self::COUNT) + sum(events % Self::COUNT)
    }
}

/// A way to get events from some to many.
pub(crate) trait Fanout: 'static {
    type Publisher: Publisher;
    type Subscriber: Subscriber;

    /// Everything subscribed, and nothing published.
    fn open(shape: Shape) -> impl Future<Output = Ends<Self>> + Send;
}

/// All publishers and all subscribers.
pub(crate) type Ends<F> = (Vec<<F as Fanout>::Publisher>, Vec<<F as Fanout>::Subscriber>);

pub(crate) trait Publisher: Send + 'static {
    /// Waits for room.
    fn publish(&mut self, payload: Payload) -> impl Future<Output = ()> + Send;

    /// Publishes several: item by item, where there is no other way.
    fn publish_all(&mut self, payloads: impl Payloads) -> impl Future<Output = ()> + Send {
        async move {
            for payload in payloads {
                self.publish(payload).await;
            }
        }
    }
}

pub(crate) trait Subscriber: Send + 'static {
    /// Takes the next event, looks at it, and drops it.
    fn next(&mut self) -> impl Future<Output = u64> + Send;

    /// Takes what is there, if possible not more than [`CHUNK`], and waits only when that is
    /// nothing: item by item, where there is no other way.
    fn next_chunk(&mut self) -> impl Future<Output = Chunk> + Send {
        async { Chunk { count: 1, sum: self.next().await } }
    }
}

/// Several to publish.
pub(crate) trait Payloads: ExactSizeIterator<Item = Payload> + Send {}

impl<I: ExactSizeIterator<Item = Payload> + Send> Payloads for I {}

/// How many events somebody took at once, looked at and dropped, and the sum of their numbers.
#[derive(Default)]
pub(crate) struct Chunk {
    count: u64,
    sum: u64,
}

impl FromIterator<u64> for Chunk {
    fn from_iter<I: IntoIterator<Item = u64>>(numbers: I) -> Self {
        let add = |Self { count, sum }, number| Self { count: count + 1, sum: sum + number };
        numbers.into_iter().fold(Self::default(), add)
    }
}

/// How many publish, and how many subscribe.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) from: usize,
    pub(crate) to: usize,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "deliveries/s, publishers: {}, subscribers: {}", self.from, self.to)
    }
}

/// How events are published and taken.
#[derive(Clone, Copy)]
pub(crate) enum By {
    Item,
    Chunk,
}

/// Publishes `length` events in all, as fast as they go. The rate is that of deliveries.
pub(crate) async fn stream<F: Fanout>(shape: Shape, by: By, length: u64) -> Sample {
    let each = length.div_ceil(shape.from as u64);
    let events = each * shape.from as u64;
    let (publishers, subscribers) = F::open(shape).await;
    let start = Start::of(shape.from);
    let read = |subscriber| tokio::spawn(read(subscriber, by, events));
    let reading: Vec<_> = subscribers.into_iter().map(read).collect();
    let write = |publisher| tokio::spawn(write(publisher, by, each, start.clone()));
    let writing: Vec<_> = publishers.into_iter().map(write).collect();
    let read = join(reading).await;
    // Publishers live as long as there is something to read.
    drop(join(writing).await);
    let took = start.until_last(&read);
    check(&read, shape.from as u64 * Pool::sum(each));
    Sample::rate(events * shape.to as u64, took)
}

async fn write<P: Publisher>(mut publisher: P, by: By, events: u64, start: Arc<Start>) -> P {
    let pool = Pool::new();
    start.together().await;
    match by {
        By::Item => {
            for event in 0..events {
                publisher.publish(pool.of(event)).await;
            }
        }
        By::Chunk => {
            for first in (0..events).step_by(CHUNK) {
                let count = (events - first).min(CHUNK as u64) as usize;
                publisher.publish_all((0..count).map(|place| pool.of(first + place as u64))).await;
            }
        }
    }
    publisher
}

async fn read(mut subscriber: impl Subscriber, by: By, events: u64) -> Done {
    let mut all = Chunk::default();
    match by {
        By::Item => {
            for _ in 0..events {
                all.sum += subscriber.next().await;
            }
        }
        By::Chunk => {
            while all.count < events {
                let chunk = subscriber.next_chunk().await;
                all.count += chunk.count;
                all.sum += chunk.sum;
            }
        }
    }
    Done { sum: all.sum, at: Instant::now() }
}

/// Sends each event there and back, so that every one finds its subscriber parked. The rate is
/// that of deliveries: two each.
pub(crate) async fn lock_step<F: Fanout>(length: u64) -> Sample {
    let (mut there, mut here) = (open_one::<F>().await, open_one::<F>().await);
    let (pool, echoes) = (Pool::new(), Pool::new());
    let echo = tokio::spawn(async move {
        for _ in 0..length {
            let number = there.1.next().await;
            here.0.publish(echoes.of(number)).await;
        }
        (there.1, here.0)
    });
    let asking = tokio::spawn(async move {
        let (mut sum, began) = (0, Instant::now());
        for event in 0..length {
            there.0.publish(pool.of(event)).await;
            sum += here.1.next().await;
        }
        (Done { sum, at: Instant::now() }, began, (there.0, here.1))
    });
    let (done, began, _open) = asking.await.expect("no panic");
    drop(echo.await.expect("no panic"));
    check(std::slice::from_ref(&done), Pool::sum(length));
    Sample::rate(2 * length, done.at - began)
}

async fn open_one<F: Fanout>() -> (F::Publisher, F::Subscriber) {
    let (mut publishers, mut subscribers) = F::open(Shape { from: 1, to: 1 }).await;
    let one = "one was asked for";
    (publishers.pop().expect(one), subscribers.pop().expect(one))
}

/// Lets tasks start together, and knows when: the first to start looks at the clock. A task that
/// only watches would wait until one of the busy ones makes room for it.
pub(crate) struct Start {
    barrier: Barrier,
    began: OnceLock<Instant>,
}

impl Start {
    pub(crate) fn of(tasks: usize) -> Arc<Self> {
        Arc::new(Self { barrier: Barrier::new(tasks), began: OnceLock::new() })
    }

    pub(crate) async fn together(&self) {
        self.barrier.wait().await;
        self.began.get_or_init(Instant::now);
    }

    /// The time until the last was done.
    pub(crate) fn until_last(&self, done: &[Done]) -> Duration {
        let began = self.began.get().expect("started");
        done.iter().map(|done| done.at - *began).max().expect("somebody")
    }
}

/// The sum of the numbers that somebody got, and when it had the last.
pub(crate) struct Done {
    pub(crate) sum: u64,
    pub(crate) at: Instant,
}

pub(crate) async fn join<T>(tasks: Vec<JoinHandle<T>>) -> Vec<T> {
    let mut outcomes = Vec::with_capacity(tasks.len());
    for task in tasks {
        outcomes.push(task.await.expect("no panic"));
    }
    outcomes
}

/// The sum of the numbers below `count`.
pub(crate) fn sum(count: u64) -> u64 {
    count * count.saturating_sub(1) / 2
}

/// Nobody is compared who loses something.
pub(crate) fn check(done: &[Done], expected: u64) {
    for Done { sum, .. } in done {
        assert_eq!(*sum, expected, "something was lost");
    }
}
