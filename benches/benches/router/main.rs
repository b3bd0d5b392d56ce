//! The router against channels: events to many in one process, and requests.

mod busway;
mod each;
mod fanout;
mod request;
mod shared;

use busway_benches::{Case, Options, Sample, US};

use crate::busway::{Busway, Lossy};
use crate::each::{Crossfire, Each, Flume, Kanal, TokioMpsc};
use crate::fanout::{By, CHUNK, Fanout, Shape};
use crate::request::{MpscOneshot, Service};
use crate::shared::{AsyncBroadcast, TokioBroadcast};

fn main() {
    // Its README asks for this; it matters where there are few cores.
    crossfire::detect_backoff_cfg();
    let items = [(1, 1), (1, 4), (1, 16), (1, 64), (4, 4)];
    let mut cases: Vec<Case> = items.map(|(from, to)| item(Shape { from, to })).into();
    cases.extend([(1, 1), (1, 64)].map(|(from, to)| chunk(Shape { from, to })));
    cases.push(parked());
    cases.extend([1, 32].map(request));
    cases.push(lossy::<1>());
    cases.push(lossy::<4>());
    busway_benches::bench("router", &Options::from_arguments(), cases);
}

/// Everyone who takes events to many, busway first.
macro_rules! everyone {
    ($case:expr, $run:ident $(, $argument:expr)*) => {
        $case
            .add(US, $run::<Busway>($($argument),*))
            .add("async-broadcast", $run::<AsyncBroadcast>($($argument),*))
            .add("tokio-broadcast", $run::<TokioBroadcast>($($argument),*))
            .add("tokio-mpsc", $run::<Each<TokioMpsc>>($($argument),*))
            .add("kanal", $run::<Each<Kanal>>($($argument),*))
            .add("crossfire", $run::<Each<Crossfire>>($($argument),*))
            .add("flume", $run::<Each<Flume>>($($argument),*))
    };
}

fn item(shape: Shape) -> Case {
    let Shape { from, to } = shape;
    let case = Case::new(format!("item/{from}x{to}")).about(format!("{shape}, item by item"));
    everyone!(case, stream, shape, By::Item)
}

/// Events in chunks, in the way that each has for them.
fn chunk(shape: Shape) -> Case {
    let Shape { from, to } = shape;
    let about = format!("{shape}, chunks of {CHUNK}");
    everyone!(Case::new(format!("chunk/{from}x{to}")).about(about), stream, shape, By::Chunk)
}

fn stream<F: Fanout>(shape: Shape, by: By) -> impl Fn(u64) -> Sample {
    move |length| busway_benches::on_runtime(fanout::stream::<F>(shape, by, length))
}

/// What it costs a stream that others lose events beside it; busway against itself.
fn lossy<const COUNT: usize>() -> Case {
    let shape = Shape { from: 1, to: 1 };
    Case::new(format!("lossy/1x1+{COUNT}"))
        .about(format!("deliveries/s to one stream, lossy ones beside it: {COUNT}"))
        .add(US, stream::<Lossy<COUNT>>(shape, By::Item))
        .add("busway-alone", stream::<Busway>(shape, By::Item))
}

fn parked() -> Case {
    let about = "deliveries/s, there and back: each finds its subscriber parked";
    everyone!(Case::new("parked/1x1").about(about), lock_step)
}

fn lock_step<F: Fanout>() -> impl Fn(u64) -> Sample {
    |length| busway_benches::on_runtime(fanout::lock_step::<F>(length))
}

fn request(callers: u64) -> Case {
    Case::new(format!("request/{callers}"))
        .about(format!("answers/s, callers: {callers}"))
        .add(US, ask::<Busway>(callers))
        .add("mpsc-oneshot", ask::<MpscOneshot>(callers))
}

fn ask<S: Service>(callers: u64) -> impl Fn(u64) -> Sample {
    move |length| busway_benches::on_runtime(request::ask::<S>(callers, length))
}
