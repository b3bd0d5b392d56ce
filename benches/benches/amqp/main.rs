//! RabbitMQ through busway against what people write with lapin, on a private broker of its own.
//!
//! Everyone has the same broker, the same queue type and arguments, persistent messages where the
//! work is durable, the same prefetch and the same kind of acks.

mod broker;
mod busway;
mod lapin;
mod typed;

use std::future::Future;
use std::time::{Duration, Instant};

use busway_benches::{Case, Options, Sample, US};

/// How many publishes may be unconfirmed, and how many deliveries unacked.
const WINDOW: usize = 256;
const WINDOW_16: u16 = 256;
/// The bytes of an event of `publish` and `consume`.
const SIZE: usize = 1024;

fn main() {
    let cases = vec![
        Case::new("publish")
            .about("confirmed events/s of 1 KiB into a queue in memory, in order")
            .add(US, run(busway::publish))
            .add("lapin-loop", run(lapin::publish_loop))
            .add("lapin-256", run(lapin::publish_in_flight))
            .add("lapin-256-told", run(lapin::publish_in_flight_told)),
        Case::new("consume")
            .about("events/s of 1 KiB out of a quorum queue, acked after their handler")
            .add(US, run(busway::consume))
            .add("lapin-loop", run(lapin::consume_loop)),
        Case::new("request/p50")
            .about("there and back, one at a time")
            .add(US, run(busway::request))
            .add("lapin", run(lapin::request)),
        Case::new("oneway/p50")
            .about("a typed event in JSON, from publish to handler, one at a time")
            .add(US, run(busway::one_way))
            .add("lapin", run(lapin::one_way))
            .add("lapin-told", run(lapin::one_way_told)),
        Case::new("request/32")
            .about("answers/s, callers: 32")
            .add(US, run(busway::requests))
            .add("lapin-loop", run(lapin::requests_loop)),
    ];
    let options = Options::from_arguments();
    println!("RabbitMQ {}", broker::version());
    busway_benches::bench("amqp", &options, cases);
}

fn run<F, Fut>(measure: F) -> impl Fn(u64) -> Sample
where
    F: Fn(u64) -> Fut + 'static,
    Fut: Future<Output = Sample> + Send + 'static,
{
    move |length| busway_benches::on_runtime(measure(length))
}

/// Measures `length` things one after the other, each by itself.
async fn one_by_one<F, Fut>(length: u64, mut once: F) -> Sample
where
    F: FnMut(u64) -> Fut,
    Fut: Future<Output = Duration>,
{
    let start = Instant::now();
    let mut times = Vec::with_capacity(length as usize);
    for number in 0..length {
        times.push(once(number).await);
    }
    Sample::percentile(times, 50, start.elapsed())
}

/// From the first of many deliveries to the last.
struct Span {
    count: u64,
    first: Option<Instant>,
}

impl Span {
    fn of(count: u64) -> Self {
        Self { count, first: None }
    }

    /// Counts one; the sample when it was the last.
    fn one(&mut self, seen: u64) -> Option<Sample> {
        let first = *self.first.get_or_insert_with(Instant::now);
        // The first only starts the clock.
        (seen > self.count).then(|| Sample::rate(self.count, first.elapsed()))
    }
}
