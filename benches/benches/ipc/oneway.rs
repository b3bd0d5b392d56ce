//! Events from this process to each of some others, as fast as they go, without loss.

use std::future::Future;
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;

use busway_benches::{Sample, on_runtime};

use crate::process::{Other, Part, Place};

/// How many events wait at most for one subscriber, where that can be said.
pub(crate) const CAPACITY: usize = 1024;

#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// How many processes subscribe.
    pub(crate) to: usize,
    pub(crate) size: usize,
}

pub(crate) trait Publisher: Sized + Send + 'static {
    /// The part of those who subscribe.
    const SUBSCRIBER: &'static str;

    fn open(folder: &Path, shape: Shape) -> impl Future<Output = Self> + Send;

    /// Called when all subscribers have said that they are ready.
    fn meet(&mut self, subscribers: usize) -> impl Future<Output = ()> + Send;

    fn publish(&mut self, payload: Bytes) -> impl Future<Output = ()> + Send;
}

pub(crate) trait Subscriber: Sized + Send + 'static {
    fn open(folder: &Path) -> impl Future<Output = Self> + Send;

    /// The [number](number_of) of the next event.
    fn next(&mut self) -> impl Future<Output = u64> + Send;
}

/// Publishes `length` events.
pub(crate) async fn publish<P: Publisher>(shape: Shape, length: u64) -> Sample {
    let Shape { to, size } = shape;
    let place = Place::new();
    let mut publisher = P::open(place.folder(), shape).await;
    let start = |_| Other::start(P::SUBSCRIBER, &place, length);
    let mut others: Vec<_> = (0..to).map(start).collect();
    publisher.meet(to).await;
    let pool = Pool::new(size);
    let began = Instant::now();
    for event in 0..length {
        publisher.publish(pool.of(event)).await;
    }
    // The others tell on a pipe; this thread would not wake for the publisher's own work.
    let reading = tokio::task::spawn_blocking(move || {
        let sums: Vec<_> = others.iter_mut().map(Other::sum).collect();
        (sums, Instant::now(), others)
    });
    let (sums, done, others) = reading.await.expect("no panic");
    assert_eq!(sums, vec![pool.sum(length); to], "something was lost");
    drop(others);
    Sample::rate(length * to as u64, done - began)
}

/// Takes as many events as are published.
pub(crate) fn subscribe<S: Subscriber>(part: Part) {
    on_runtime(async move {
        let mut subscriber = S::open(&part.folder).await;
        part.is_ready();
        let mut sum = 0;
        for _ in 0..part.length {
            sum += subscriber.next().await;
        }
        part.is_done(sum);
        // The process ends with its standard input.
        std::future::pending::<()>().await;
        drop(subscriber);
    });
}

/// Payloads made beforehand, which events share in turn: to make one each time would measure the
/// allocator.
pub(crate) struct Pool(Vec<Bytes>);

impl Pool {
    pub(crate) fn new(size: usize) -> Self {
        let payload = |number: u64| {
            let mut payload = vec![0x5A; size];
            payload[..8].copy_from_slice(&number.to_le_bytes());
            Bytes::from(payload)
        };
        // Few enough for the machine's caches, as far as that goes.
        let count = (1 << 20) / size as u64;
        Self((0..count.clamp(16, 1024)).map(payload).collect())
    }

    pub(crate) fn of(&self, event: u64) -> Bytes {
        self.0[(event % self.0.len() as u64) as usize].clone()
    }

    /// The sum of the numbers of so many events.
    fn sum(&self, events: u64) -> u64 {
        let (laps, rest) = (events / self.0.len() as u64, events % self.0.len() as u64);
        let sum = |count: u64| count * count.saturating_sub(1) / 2;
        laps * sum(self.0.len() as u64) + sum(rest)
    }
}

/// The number that a payload begins with.
pub(crate) fn number_of(payload: &[u8]) -> u64 {
    let number = payload.first_chunk().expect("a payload has its number");
    u64::from_le_bytes(*number)
}
