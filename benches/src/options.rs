//! What the command line asks for.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// The arguments behind `cargo bench … --`.
#[derive(Debug, Default)]
pub struct Options {
    quick: bool,
    chart: Option<PathBuf>,
    /// Beginnings of the names of cases; none for all.
    cases: Vec<String>,
}

const USAGE: &str = "usage: [--quick] [--chart FILE.svg] [CASE]…";

impl Options {
    /// Those of this process. Ends it when they make no sense.
    pub fn from_arguments() -> Self {
        Self::parse(std::env::args().skip(1)).unwrap_or_else(|wrong| {
            eprintln!("{wrong}\n{USAGE}");
            std::process::exit(2)
        })
    }

    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self::default();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                // Cargo says so by itself.
                "--bench" => {}
                "--quick" => options.quick = true,
                "--chart" => {
                    let file = arguments.next().ok_or("--chart: which file?")?;
                    options.chart = Some(where_called(Path::new(&file)));
                }
                option if option.starts_with('-') => return Err(format!("{option}: unknown")),
                case => options.cases.push(case.to_owned()),
            }
        }
        Ok(options)
    }

    /// Whether a case of that name is to be measured.
    pub fn wants(&self, case: &str) -> bool {
        self.cases.is_empty() || self.cases.iter().any(|wanted| case.starts_with(wanted))
    }

    /// Whether all is to end within a minute.
    pub fn is_quick(&self) -> bool {
        self.quick
    }

    pub(crate) fn chart(&self) -> Option<&Path> {
        self.chart.as_deref()
    }

    pub(crate) fn rounds(&self) -> usize {
        if self.quick { 5 } else { 15 }
    }

    /// How long one run is to take.
    pub(crate) fn target(&self) -> Duration {
        Duration::from_millis(if self.quick { 80 } else { 300 })
    }

    /// How the figures come about.
    pub(crate) fn circumstances(&self) -> String {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let (rounds, target) = (self.rounds(), self.target());
        format!("medians of {rounds} alternating runs of {target:?}, {cores} cores")
    }
}

/// Cargo runs a bench in the folder of its package; a file is meant from where cargo was called.
fn where_called(file: &Path) -> PathBuf {
    std::env::var_os("PWD").map_or_else(|| file.to_owned(), |folder| Path::new(&folder).join(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, String> {
        Options::parse(arguments.iter().map(|&argument| argument.to_owned()))
    }

    #[test]
    fn arguments_are_understood() {
        let options = parse(&["--bench", "--quick", "--chart", "/x.svg", "item/"]).expect("right");
        assert!(options.quick);
        assert_eq!(options.chart(), Some(Path::new("/x.svg")));
        assert!(options.wants("item/1x1") && !options.wants("request/1"));
        assert!(parse(&[]).expect("right").wants("request/1"));
        assert!(parse(&["--chart"]).is_err());
        assert!(parse(&["--fast"]).is_err());
    }
}
