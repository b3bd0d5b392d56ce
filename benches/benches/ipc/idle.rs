//! What a bus costs that does nothing: time on the processors, and memory for each link.

use std::fs;
use std::time::{Duration, Instant};

use busway_benches::{Options, on_runtime};

use crate::busway;
use crate::process::{Other, Part, Place};

pub(crate) const MEMBER: &str = "busway-member";

/// How many processes are on the bus.
const PROCESSES: u32 = 10;

/// One who subscribes, and then gets nothing.
pub(crate) fn member(part: Part) {
    on_runtime(async move {
        let (_bus, endpoint) = busway::open(&part.folder).await;
        let _events = busway::subscribe_idly(&endpoint).await;
        part.is_ready();
        std::future::pending::<()>().await;
    });
}

/// Measures and prints.
pub(crate) fn report(options: &Options) {
    let span = Duration::from_secs(if options.is_quick() { 3 } else { 10 });
    let (alone, together) = (Place::new(), Place::new());
    let lone = Other::start(MEMBER, &alone, 0);
    let members: Vec<_> = (0..PROCESSES).map(|_| Other::start(MEMBER, &together, 0)).collect();
    // What is freed after the start, is freed by then.
    std::thread::sleep(Duration::from_secs(1));
    let before: Duration = members.iter().map(processor_time).sum();
    let began = Instant::now();
    std::thread::sleep(span);
    let used = members.iter().map(processor_time).sum::<Duration>() - before;
    let share = used.as_secs_f64() / began.elapsed().as_secs_f64() / f64::from(PROCESSES);
    let mean = members.iter().map(memory).sum::<u64>() / u64::from(PROCESSES);
    let per_link = mean.saturating_sub(memory(&lone)) / u64::from(PROCESSES - 1);
    println!(
        "\nidle, {PROCESSES} processes, each linked with all others, for {span:?}:\n  \
         {:.3} % of one core per process, {per_link} KiB resident per link \
         ({mean} KiB per process, {} KiB without links)",
        share * 100.0,
        memory(&lone),
    );
}

/// What all threads of a process had of the processors.
fn processor_time(of: &Other) -> Duration {
    let threads = fs::read_dir(format!("/proc/{}/task", of.id())).expect("a process");
    let of_thread = |thread: std::io::Result<fs::DirEntry>| {
        let file = thread.ok()?.path().join("schedstat");
        let text = fs::read_to_string(file).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    Duration::from_nanos(threads.filter_map(of_thread).sum())
}

/// How much memory of its own a process has, in KiB.
fn memory(of: &Other) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", of.id())).expect("a process");
    let line = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("in the kernel");
        line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number")
    };
    line("Private_Dirty:") + line("Private_Clean:")
}
