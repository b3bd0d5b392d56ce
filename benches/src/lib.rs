//! busway's benches, with its peers beside it, and what those benches share.
//!
//! ```sh
//! cargo bench -p busway-benches --bench router
//! cargo bench -p busway-benches --bench router -- --quick            # within a minute
//! cargo bench -p busway-benches --bench router -- --chart router.svg # and a picture
//! cargo bench -p busway-benches --bench router -- item/1x4 request   # only these cases
//! cargo bench -p busway-benches --bench ipc    # processes; builds libzmq, with a C++ compiler
//! ```
//!
//! A bench is a list of [cases](Case), each with busway and its peers. They go through busway's
//! public API, and everyone gets the same payload, the same capacity and a runtime of the same
//! kind. The runs of busway and its peers alternate, so that what else the machine does meets all
//! of them; of each the median counts. At the end stands one line per figure for machines:
//!
//! ```text
//! ratio<TAB>CASE<TAB>PEER<TAB>VALUE
//! ```
//!
//! where VALUE is busway's median divided by the peer's. The figures of a case whose name ends in
//! `/p50` or `/p99` are times, and lower is better; all others are rates.
//!
//! Figures count on a quiet machine only: who is ahead changes when others take a core, and the
//! output says how much they took.

#![forbid(unsafe_code)]

mod chart;
mod options;
mod others;
mod run;
mod table;

use std::time::Duration;

pub use options::Options;
pub use run::{WORKERS, on_runtime};

/// The name that busway has among its peers.
pub const US: &str = "busway";

/// What one run measured.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// A rate per second or a time in nanoseconds, as the case's name says.
    figure: f64,
    took: Duration,
}

impl Sample {
    /// So many deliveries, calls or the like, all of them in `took`.
    pub fn rate(count: u64, took: Duration) -> Self {
        Self { figure: count as f64 / took.as_secs_f64(), took }
    }

    /// Of single times the one that `percent` of them do not exceed, in a run of `took`.
    ///
    /// # Panics
    /// Without any times.
    pub fn percentile(mut times: Vec<Duration>, percent: usize, took: Duration) -> Self {
        times.sort_unstable();
        let rank = (times.len() * percent).div_ceil(100).max(1);
        Self { figure: times[rank - 1].as_nanos() as f64, took }
    }
}

/// One thing to measure, with all who do it. The first is [busway](US).
pub struct Case {
    name: String,
    about: String,
    contenders: Vec<Contender>,
}

struct Contender {
    name: &'static str,
    run: Box<dyn Fn(u64) -> Sample>,
}

impl Case {
    /// A case without anybody in it.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), about: String::new(), contenders: Vec::new() }
    }

    /// Says in a line what the figures are: for the table and the chart.
    pub fn about(mut self, about: impl Into<String>) -> Self {
        self.about = about.into();
        self
    }

    /// Adds one who does it. `run` is told how often, and sets up and tears down outside of what
    /// it measures.
    pub fn add(mut self, name: &'static str, run: impl Fn(u64) -> Sample + 'static) -> Self {
        self.contenders.push(Contender { name, run: Box::new(run) });
        self
    }
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.contenders.iter().map(|contender| contender.name).collect();
        f.debug_struct("Case").field("name", &self.name).field("contenders", &names).finish()
    }
}

fn is_time(case: &str) -> bool {
    case.ends_with("/p50") || case.ends_with("/p99")
}

/// The figures of one case.
struct Outcome {
    case: String,
    /// What the figures are.
    about: String,
    rows: Vec<Row>,
}

/// What one contender reached in a case.
struct Row {
    name: &'static str,
    median: f64,
    /// Half of the distance between the quartiles, as a share of the median.
    spread: f64,
}

impl Outcome {
    /// The peers, each with busway's figure divided by its own.
    fn ratios(&self) -> impl Iterator<Item = (&Row, f64)> {
        let ours = self.rows.first().map_or(f64::NAN, |row| row.median);
        self.rows.iter().skip(1).map(move |row| (row, ours / row.median))
    }
}

/// Measures the cases that were asked for, and prints what came out.
///
/// # Panics
/// When the chart cannot be written.
pub fn bench(name: &str, options: &Options, cases: Vec<Case>) {
    let chosen = cases.into_iter().filter(|case| options.wants(&case.name));
    let mut circumstances = options.circumstances();
    println!("{name}: {circumstances}\n");
    let began = others::Clock::now();
    let mut outcomes = Vec::new();
    for case in chosen {
        let outcome = run::measure(&case, options);
        print!("{}", table::table(&outcome));
        outcomes.push(outcome);
    }
    if let (Some(began), Some(now)) = (began, others::Clock::now()) {
        let share = began.others_until(&now) * 100.0;
        circumstances += &format!("; others had {share:.0} % of the machine");
    }
    println!("\n{circumstances}\n");
    for outcome in &outcomes {
        print!("{}", table::machine_lines(outcome));
    }
    if let Some(file) = options.chart() {
        let picture = chart::draw(name, &circumstances, &outcomes);
        std::fs::write(file, picture).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        println!("\nchart: {}", file.display());
    }
}

/// A rate or a time with its unit.
fn figure(case: &str, value: f64) -> String {
    let units = match is_time(case) {
        true => [(1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")],
        false => [(1e9, "G/s"), (1e6, "M/s"), (1e3, "k/s"), (1.0, "/s")],
    };
    let (scale, unit) =
        units.into_iter().find(|(scale, _)| value >= *scale).unwrap_or(units[units.len() - 1]);
    let scaled = value / scale;
    let digits = if scaled < 10.0 { 2 } else { usize::from(scaled < 100.0) };
    format!("{scaled:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_and_a_unit() {
        assert_eq!(figure("item/1x1", 12_345_678.0), "12.3 M/s");
        assert_eq!(figure("item/1x1", 999.0), "999 /s");
        assert_eq!(figure("request/p50", 1_234.0), "1.23 µs");
        assert_eq!(figure("request/p99", 0.5), "0.50 ns");
    }

    #[test]
    fn a_percentile_is_one_of_the_times() {
        let times = || (1..=10).rev().map(Duration::from_nanos).collect::<Vec<_>>();
        let of = |percent| Sample::percentile(times(), percent, Duration::ZERO).figure;
        assert_eq!((of(50), of(99), of(1)), (5.0, 10.0, 1.0));
    }
}
