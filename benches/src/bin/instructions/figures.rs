//! The file of figures, and what a count is worth beside its figure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

pub(crate) const FILE: &str = "benches/instructions.txt";

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.txt");

/// How far a count may be above its figure.
const MARGIN: f64 = 0.05;

const HEAD: &str = "\
# Instructions per operation: `.ci/instructions` allows 5 % more, and writes this with --write.";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Same,
    Grew,
    Fell,
    /// It has no figure.
    New,
}

impl Verdict {
    pub(crate) fn of(figure: Option<f64>, count: f64) -> Self {
        match figure {
            None => Self::New,
            Some(figure) if count > figure * (1.0 + MARGIN) => Self::Grew,
            Some(figure) if count < figure * (1.0 - MARGIN) => Self::Fell,
            Some(_) => Self::Same,
        }
    }
}

#[derive(Default)]
pub(crate) struct Figures {
    /// Where they were counted.
    pub(crate) circumstances: String,
    of: BTreeMap<String, f64>,
}

impl Figures {
    /// None where there is no file yet.
    pub(crate) fn read() -> Result<Self, String> {
        match std::fs::read_to_string(PATH) {
            Ok(text) => Self::parse(&text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(format!("{FILE}: {error}")),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut figures = Self::default();
        for line in text.lines() {
            if let Some(comment) = line.strip_prefix('#') {
                // The last one counts.
                comment.trim().clone_into(&mut figures.circumstances);
                continue;
            }
            let words = line.rsplit_once(' ');
            let figure = words.and_then(|(case, count)| Some((case, count.parse().ok()?)));
            let (case, count) = figure.ok_or_else(|| format!("{FILE}: what is `{line}`?"))?;
            figures.set(case.trim_end(), count);
        }
        Ok(figures)
    }

    pub(crate) fn of(&self, case: &str) -> Option<f64> {
        self.of.get(case).copied()
    }

    pub(crate) fn set(&mut self, case: &str, count: f64) {
        self.of.insert(case.to_owned(), count);
    }

    /// Writes those of the given cases: figures of cases that are gone go, too.
    pub(crate) fn written<'a>(
        &self,
        here: &str,
        cases: impl Iterator<Item = &'a str>,
    ) -> Result<(), String> {
        std::fs::write(PATH, self.text(here, cases)).map_err(|error| format!("{FILE}: {error}"))
    }

    fn text<'a>(&self, here: &str, cases: impl Iterator<Item = &'a str>) -> String {
        let mut text = format!("{HEAD}\n# {here}\n");
        for case in cases {
            if let Some(count) = self.of(case) {
                let _ = writeln!(text, "{case:<24} {count:>9.1}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_percent_is_allowed() {
        let of = |count| Verdict::of(Some(100.0), count);
        assert_eq!((of(100.0), of(104.9), of(95.1)), (Verdict::Same, Verdict::Same, Verdict::Same));
        assert_eq!((of(105.1), of(94.9)), (Verdict::Grew, Verdict::Fell));
        assert_eq!(Verdict::of(None, 1.0), Verdict::New);
    }

    #[test]
    fn what_is_written_is_read() {
        let mut figures = Figures::default();
        figures.set("request", 12.34);
        figures.set("gone", 1.0);
        let text = figures.text("here", ["new", "request"].into_iter());
        let figures = Figures::parse(&text).expect("right");
        assert_eq!(figures.circumstances, "here");
        assert_eq!((figures.of("request"), figures.of("gone")), (Some(12.3), None));
        assert!(Figures::parse("request many").is_err());
    }
}
