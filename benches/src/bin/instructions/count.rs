//! Counting with callgrind: a case at two lengths, so that start and end cancel out.
//!
//! What makes counts differ from machine to machine, and what is done about it:
//! - The C library picks its `memcpy` by what the processor can do. `GLIBC_TUNABLES` hides all
//!   that not every x86_64 has.
//! - What its allocator does with memory that comes back differs from version to version, once
//!   its cache per thread, of seven pieces per size, is full. It is made large enough for a burst.
//! - The environment is empty and the heap begins where it always does (valgrind randomises
//!   nothing), so that nothing is aligned in another way.
//! - Hash maps have a random seed per process: what is left of the spread, with the clock
//!   (`--repeat` shows it: counts are less than 0.1 % apart).
//! - The compiler and the C library remain: they stand at the head of the file of figures, and
//!   are named when a count is too high and they differ.
//!
//! What the compiler inlines is part of what is counted: it may decide otherwise after a change
//! elsewhere, even of the cases themselves, and then a count jumps.

use std::process::Command;

use crate::cases::BURST;

/// The argument with which this program runs a case.
pub(crate) const RUN: &str = "--run";

/// The two lengths, in bursts. After the first, everything that grows is as large as it gets.
const LENGTHS: [u64; 2] = [10, 42];

const TUNABLES: &str = "glibc.malloc.tcache_count=4096:glibc.cpu.hwcaps=\
-AVX512VL,-AVX2,-AVX2_Usable,-AVX,-AVX_Fast_Unaligned_Load,-SSSE3,-ERMS,-FSRM";

/// How many instructions one operation takes.
pub(crate) struct Count {
    pub(crate) median: f64,
    /// From the lowest to the highest as a share of the median, when counted several times.
    pub(crate) apart: Option<f64>,
}

impl Count {
    pub(crate) fn of(case: &str, times: usize) -> Result<Self, String> {
        let counts: Result<Vec<_>, _> = (0..times).map(|_| once(case)).collect();
        Ok(Self::among(counts?))
    }

    fn among(mut counts: Vec<f64>) -> Self {
        counts.sort_unstable_by(f64::total_cmp);
        let (median, last) = (counts[counts.len() / 2], counts.len() - 1);
        let apart = (last > 0).then(|| (counts[last] - counts[0]) / median);
        Self { median, apart }
    }
}

fn once(case: &str) -> Result<f64, String> {
    let [short, long] = LENGTHS;
    let more = total(case, long)?.saturating_sub(total(case, short)?);
    Ok(more as f64 / ((long - short) * BURST) as f64)
}

/// All instructions of a process that runs a case.
fn total(case: &str, bursts: u64) -> Result<u64, String> {
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(this)
        .args([RUN, case, &bursts.to_string()])
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .env("GLIBC_TUNABLES", TUNABLES)
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = collected(&said).filter(|_| output.status.success());
    collected.ok_or_else(|| format!("{case} failed under valgrind:\n{said}"))
}

/// From its last line but one: `==PID== Collected : 12345`.
fn collected(said: &str) -> Option<u64> {
    let line = said.lines().find_map(|line| line.split_once("Collected : "))?.1;
    line.trim().parse().ok()
}

/// What the figures depend on.
pub(crate) fn circumstances() -> String {
    let rust = said_by("rustc", &["--version"]);
    // With the commit and the date in brackets.
    let rust = rust.split(" (").next().unwrap_or_default();
    let (libc, valgrind) =
        (said_by("getconf", &["GNU_LIBC_VERSION"]), said_by("valgrind", &["--version"]));
    format!("{rust}, {libc}, {valgrind}")
}

fn said_by(command: &str, arguments: &[&str]) -> String {
    let output = Command::new(command).args(arguments).output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    said.unwrap_or_else(|_| format!("no {command}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_found() {
        let said = "==7== Events    : Ir\n==7== Collected : 41035430\n==7== \n";
        assert_eq!(collected(said), Some(41_035_430));
        assert_eq!(collected("==7== killed"), None);
    }

    #[test]
    fn the_median_counts() {
        let count = Count::among(vec![101.0, 99.0, 100.0]);
        assert_eq!((count.median, count.apart), (100.0, Some(0.02)));
        assert_eq!(Count::among(vec![5.0]).apart, None);
    }
}
