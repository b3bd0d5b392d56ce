//! One there and one back, one at a time.

use std::future::Future;
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;

use busway_benches::Sample;

use crate::oneway::{Pool, number_of};
use crate::process::{Other, Place};

const SIZE: usize = 64;
/// Not counted: what is made on first use.
const WARM_UP: u64 = 16;

pub(crate) trait Asker: Sized + Send + 'static {
    /// The part of the one who sends back what it gets.
    const ANSWERER: &'static str;

    fn open(folder: &Path) -> impl Future<Output = Self> + Send;

    /// Called when the other side has said that it is ready.
    fn meet(&mut self) -> impl Future<Output = ()> + Send;

    /// Sends something, and gives the number of what comes back.
    fn ask(&mut self, payload: Bytes) -> impl Future<Output = u64> + Send;
}

/// The time of a round trip that half of `length` do not exceed.
pub(crate) async fn ask<A: Asker>(length: u64) -> Sample {
    let place = Place::new();
    let mut asker = A::open(place.folder()).await;
    let other = Other::start(A::ANSWERER, &place, length);
    asker.meet().await;
    let pool = Pool::new(SIZE);
    for event in 0..WARM_UP {
        asker.ask(pool.of(event)).await;
    }
    let mut times = Vec::with_capacity(length as usize);
    let began = Instant::now();
    for event in 0..length {
        let payload = pool.of(event);
        let number = number_of(&payload);
        let asked = Instant::now();
        let answer = asker.ask(payload).await;
        times.push(asked.elapsed());
        assert_eq!(answer, number, "another's answer");
    }
    let took = began.elapsed();
    drop(other);
    Sample::percentile(times, 50, took)
}
