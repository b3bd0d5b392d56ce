//! What a run of the kit found.

use std::fmt;

use busway::{Capabilities, Capability};

use crate::run::Case;
use crate::verdict::Verdict;

/// What became of one case.
#[derive(Debug, Clone)]
pub struct CaseReport {
    /// The case.
    pub case: &'static Case,
    /// How it ended; an error says what was wrong.
    pub outcome: Result<Verdict, String>,
}

impl fmt::Display for CaseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format!("{:?}", self.case);
        match &self.outcome {
            Ok(Verdict::Passed) => write!(f, "{name:<78} passed"),
            Ok(Verdict::Refused { capability, seen }) => {
                write!(f, "{name:<78} refused as declared (no {capability}): {seen}")
            }
            Err(reason) => write!(f, "{name:<78} FAILED: {reason}"),
        }
    }
}

/// What a run of all cases found. Its `Display` is a table with a line for each case of the kit.
#[derive(Debug, Clone)]
pub struct Report {
    /// What the transport claims; `None` when no bus could be opened.
    pub capabilities: Option<Capabilities>,
    /// Every case of the kit, in its order.
    pub cases: Vec<CaseReport>,
}

impl Report {
    /// The transport's name.
    pub fn transport(&self) -> &'static str {
        self.capabilities.as_ref().map_or("?", |capabilities| capabilities.transport)
    }

    /// The cases that failed.
    pub fn failed(&self) -> impl Iterator<Item = &CaseReport> {
        self.cases.iter().filter(|case| case.outcome.is_err())
    }

    /// Whether the transport claims a capability, and every case about it passed.
    pub fn proves(&self, capability: Capability) -> bool {
        let mut about = self.cases.iter().filter(|one| one.case.needs == Some(capability));
        self.capabilities.as_ref().is_some_and(|claimed| claimed.has(capability))
            && about.all(|one| matches!(one.outcome, Ok(Verdict::Passed)))
    }

    /// Fails, as a test, unless every case passed or was refused as declared.
    ///
    /// # Panics
    /// With a line for each case that failed.
    pub fn assert_all(&self) {
        let failed: Vec<_> = self.failed().map(ToString::to_string).collect();
        assert!(failed.is_empty(), "{}:\n{}", self.transport(), failed.join("\n"));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count =
            |wanted: fn(&CaseReport) -> bool| self.cases.iter().filter(|c| wanted(c)).count();
        for case in &self.cases {
            writeln!(f, "{} {case}", self.transport())?;
        }
        write!(
            f,
            "{}: {} cases: {} passed, {} refused as declared, {} failed",
            self.transport(),
            self.cases.len(),
            count(|one| matches!(one.outcome, Ok(Verdict::Passed))),
            count(|one| matches!(one.outcome, Ok(Verdict::Refused { .. }))),
            count(|one| one.outcome.is_err()),
        )
    }
}

/// The documentation's capability table in Markdown: what each transport claimed and proved.
pub fn capability_table(reports: &[Report]) -> String {
    let row = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let names = reports.iter().map(|report| report.transport().to_owned());
    let mut table = row(std::iter::once("capability".to_owned()).chain(names).collect());
    table += &row(vec!["---".into(); reports.len() + 1]);
    for capability in Capability::ALL {
        let cells = reports.iter().map(|report| {
            let claimed =
                report.capabilities.as_ref().is_some_and(|claimed| claimed.has(*capability));
            match (claimed, report.proves(*capability)) {
                (_, true) => "yes".to_owned(),
                (true, false) => "claimed, not proved".to_owned(),
                (false, false) => "no".to_owned(),
            }
        });
        table += &row(std::iter::once(capability.to_string()).chain(cells).collect());
    }
    table
}
