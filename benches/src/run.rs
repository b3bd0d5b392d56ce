//! Measuring: runtimes, how long a run is, and who goes when.

use std::future::Future;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use crate::options::Options;
use crate::{Case, Contender, Outcome, Row};

/// How many threads the runtime of a run has.
pub const WORKERS: usize = 2;

/// A run that takes longer than this hangs: channels are known to.
const STUCK: Duration = Duration::from_secs(60);

/// Runs `work` on a fresh runtime of [`WORKERS`] threads, in a task. Whoever calls sleeps
/// meanwhile, on no thread of the runtime, so that a hang is seen even if it spins.
///
/// # Panics
/// When `work` panics, or takes longer than a minute.
pub fn on_runtime<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .expect("a runtime");
    let (done, outcome) = mpsc::channel();
    runtime.spawn(async move {
        // Fails only when the other side gave up.
        let _ = done.send(work.await);
    });
    match outcome.recv_timeout(STUCK) {
        Ok(value) => value,
        Err(error) => {
            // Its threads may never come back.
            runtime.shutdown_background();
            match error {
                RecvTimeoutError::Timeout => panic!("stuck: not ready after {STUCK:?}"),
                RecvTimeoutError::Disconnected => panic!("a run panicked"),
            }
        }
    }
}

/// Runs all contenders of a case in turns.
pub(crate) fn measure(case: &Case, options: &Options) -> Outcome {
    let lengths: Vec<u64> = case
        .contenders
        .iter()
        .map(|contender| length(contender, &case.name, options.target()))
        .collect();
    let mut figures = vec![Vec::new(); case.contenders.len()];
    for round in 0..options.rounds() {
        for index in turn(round, case.contenders.len()) {
            let sample = run(&case.contenders[index], &case.name, lengths[index]);
            figures[index].push(sample.figure);
        }
    }
    let rows = case.contenders.iter().zip(figures);
    let rows = rows.map(|(contender, figures)| row(contender.name, figures)).collect();
    Outcome { case: case.name.clone(), about: case.about.clone(), rows }
}

fn run(contender: &Contender, case: &str, length: u64) -> crate::Sample {
    let name = contender.name;
    let running = Running { case, name };
    let sample = (contender.run)(length);
    std::mem::forget(running);
    sample
}

/// Says who it was when a run panics.
struct Running<'a> {
    case: &'a str,
    name: &'a str,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        eprintln!("{}: {} failed", self.case, self.name);
    }
}

/// How long a run must be to take about `target`; finding out warms up.
fn length(contender: &Contender, case: &str, target: Duration) -> u64 {
    let mut length = 256;
    loop {
        let took = run(contender, case, length).took;
        if took * 8 >= target {
            let factor = target.as_secs_f64() / took.as_secs_f64();
            return (length as f64 * factor).max(1.0) as u64;
        }
        length *= 4;
    }
}

/// Who goes when: everyone is first once, and nobody always follows the same one.
fn turn(round: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |place| {
        let place = if round.is_multiple_of(2) { place } else { count - 1 - place };
        (round + place) % count
    })
}

fn row(name: &'static str, mut figures: Vec<f64>) -> Row {
    figures.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| {
        let position = share * (figures.len() - 1) as f64;
        let (low, high) = (figures[position.floor() as usize], figures[position.ceil() as usize]);
        low + (high - low) * position.fract()
    };
    let median = at(0.5);
    Row { name, median, spread: (at(0.75) - at(0.25)) / 2.0 / median }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sample;

    #[test]
    fn everyone_runs_once_a_round() {
        for count in 1..8 {
            for round in 0..10 {
                let mut order: Vec<_> = turn(round, count).collect();
                order.sort_unstable();
                assert_eq!(order, (0..count).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn medians_and_quartiles() {
        let of = |figures: &[f64]| {
            let row = row("x", figures.to_vec());
            (row.median, row.spread)
        };
        assert_eq!(of(&[3.0, 1.0, 2.0]), (2.0, 0.25));
        assert_eq!(of(&[4.0, 2.0]), (3.0, 0.5 / 3.0));
        assert_eq!(of(&[5.0]), (5.0, 0.0));
    }

    #[test]
    fn a_run_is_made_as_long_as_wanted() {
        let per_step = Duration::from_micros(1);
        let run = move |steps: u64| Sample::rate(steps, per_step * steps as u32);
        let contender = Contender { name: "x", run: Box::new(run) };
        let length = length(&contender, "x", Duration::from_millis(80));
        assert!((79_990..=80_010).contains(&length), "{length}");
    }
}
