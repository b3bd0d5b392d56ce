//! The outcome as text, for people and for machines.

use std::fmt::Write as _;

use crate::{Outcome, US, figure, is_time};

/// The lines of one case in the table.
pub(crate) fn table(outcome: &Outcome) -> String {
    let Outcome { case, about, .. } = outcome;
    let better = if is_time(case) { "; lower is better" } else { "" };
    let head = format!("{case:<18} {:>10}  {:>6}  {US}/peer  {about}{better}", "median", "spread");
    let mut text = format!("{}\n", head.trim_end());
    let ratios = outcome.ratios().map(|(_, ratio)| Some(ratio));
    for (row, ratio) in outcome.rows.iter().zip([None].into_iter().chain(ratios)) {
        let (median, spread) = (figure(case, row.median), row.spread * 100.0);
        let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}x"));
        let line = format!("  {:<16} {median:>10}  {spread:>4.0} %  {ratio:>10}", row.name);
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// `ratio<TAB>CASE<TAB>PEER<TAB>VALUE` for each peer.
pub(crate) fn machine_lines(outcome: &Outcome) -> String {
    outcome.ratios().fold(String::new(), |mut text, (row, ratio)| {
        let _ = writeln!(text, "ratio\t{}\t{}\t{ratio:.3}", outcome.case, row.name);
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Row;

    #[test]
    fn ratios_are_ours_by_theirs() {
        let row = |name, median| Row { name, median, spread: 0.0 };
        let rows = vec![row(US, 3.0e6), row("a", 2.0e6), row("b", 6.0e6)];
        let outcome = Outcome { case: "item/1x1".into(), about: "deliveries/s".into(), rows };
        let lines = "ratio\titem/1x1\ta\t1.500\nratio\titem/1x1\tb\t0.500\n";
        assert_eq!(machine_lines(&outcome), lines);
        assert!(table(&outcome).contains("3.00 M/s"));
        assert!(table(&outcome).lines().next().expect("a head").ends_with("deliveries/s"));
        assert!(table(&outcome).ends_with("0.50x\n"));
    }
}
