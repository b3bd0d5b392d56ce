//! The transport `ipc:` against sockets by hand and ZeroMQ: events and requests from process to
//! process. This program starts itself as the other processes.

mod ask;
mod busway;
mod idle;
mod oneway;
mod process;
mod socket;
mod zeromq;

use busway_benches::{Case, Options, US};

use crate::ask::Asker;
use crate::oneway::{Publisher, Shape};
use crate::process::Part;

fn main() {
    if let Some(part) = Part::of_this_process() {
        return process::play(part);
    }
    let options = Options::from_arguments();
    let mut cases = vec![roundtrip(), request()];
    cases.extend([64, 1024, 65536].map(|size| oneway(Shape { to: 1, size })));
    cases.push(oneway(Shape { to: 4, size: 64 }));
    busway_benches::bench("ipc", &options, cases);
    if options.wants("idle") {
        idle::report(&options);
    }
}

fn roundtrip() -> Case {
    Case::new("roundtrip/64/p50")
        .about("an event there and one back")
        .add(US, ask::<busway::Events>())
        .add("raw-tokio", ask::<socket::Caller>())
        .add("zeromq", ask::<zeromq::Pair>())
}

fn request() -> Case {
    Case::new("request/64/p50")
        .about("a request to another process")
        .add(US, ask::<busway::Requests>())
        .add("raw-tokio", ask::<socket::Caller>())
        .add("zeromq", ask::<zeromq::Requests>())
}

fn oneway(shape: Shape) -> Case {
    let Shape { to, size } = shape;
    let name = match to {
        1 => format!("oneway/{size}"),
        _ => format!("oneway-1x{to}/{size}"),
    };
    let case = Case::new(name)
        .about(format!("deliveries/s of {size} bytes, subscribing processes: {to}"))
        .add(US, publish::<busway::Publisher<busway::Item>>(shape))
        .add("unbatched-tokio", publish::<socket::Publisher>(shape));
    let case = match to {
        1 => case.add("zeromq", publish::<zeromq::Push>(shape)),
        _ => case.add("zeromq", publish::<zeromq::Publisher>(shape)),
    };
    match (to, size) {
        (1, 64) => case
            .add("busway-endpoint", publish::<busway::ByEndpoint>(shape))
            .add("busway-here-too", publish::<busway::HereToo>(shape)),
        // So short ones are copied in any case.
        (_, 64) => case,
        _ => case.add("busway-copying", publish::<busway::Publisher<busway::Copied>>(shape)),
    }
}

fn publish<P: Publisher>(shape: Shape) -> impl Fn(u64) -> busway_benches::Sample {
    move |length| busway_benches::on_runtime(oneway::publish::<P>(shape, length))
}

fn ask<A: Asker>() -> impl Fn(u64) -> busway_benches::Sample {
    move |length| busway_benches::on_runtime(ask::ask::<A>(length))
}
