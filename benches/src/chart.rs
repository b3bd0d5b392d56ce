//! The outcome as a picture: horizontal bars, one group per case, each group to its own scale, in
//! two columns.

use std::fmt::Write as _;

use crate::{Outcome, US, figure, is_time};

const WIDTH: usize = 880;
const MARGIN: usize = 16;
/// One of the two.
const COLUMN: usize = 412;
/// Where bars start in their column, and how long the longest is: beside it a figure and a ratio
/// have room.
const LEFT: usize = 120;
const LONGEST: f64 = 180.0;
const BAR: usize = 18;
const HEAD: usize = 76;
/// A group's two lines of text and the gap above them.
const TITLE: usize = 54;

/// Colours for light and dark pages. The picture has a background of its own, since a page need
/// not be as dark as the system it is shown on.
const STYLE: &str = "\
text { font: 12px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600; font-size: 16px }
.case { font-weight: 600 }
.small { fill: #656d76 }
.end { text-anchor: end }
.us { fill: #0969da }
.peer { fill: #afb8c1 }
.back { fill: #ffffff }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.small { fill: #8d96a0 }
.us { fill: #4493f8 }
.peer { fill: #545d68 }
.back { fill: #0d1117 }
}";

/// An SVG of all cases.
pub(crate) fn draw(title: &str, circumstances: &str, outcomes: &[Outcome]) -> String {
    let (left, right) = outcomes.split_at(half(outcomes));
    let height = HEAD + tall(left).max(tall(right)) + MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n<title>{US}: {title}</title>\n\
         <style>\n{STYLE}\n</style>\n"
    );
    bar(&mut svg, "back", 0, 0, WIDTH as f64, height);
    text(&mut svg, "title", MARGIN, 26, &format!("{US}: {title}"));
    text(&mut svg, "small", MARGIN, 46, circumstances);
    legend(&mut svg);
    for (x, outcomes) in [(MARGIN, left), (WIDTH - MARGIN - COLUMN, right)] {
        let mut y = HEAD;
        for outcome in outcomes {
            group(&mut svg, x, y, outcome);
            y += tall(std::slice::from_ref(outcome));
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// How many outcomes the left column has: so many that it is the higher one, and only just.
fn half(outcomes: &[Outcome]) -> usize {
    let fits = |&count: &usize| 2 * tall(&outcomes[..count]) >= tall(outcomes);
    (0..outcomes.len()).find(fits).unwrap_or(outcomes.len())
}

fn tall(outcomes: &[Outcome]) -> usize {
    outcomes.iter().map(|outcome| TITLE + outcome.rows.len() * BAR).sum()
}

fn legend(svg: &mut String) {
    let y = 66;
    let entries = [(MARGIN, "us", US), (MARGIN + 76, "peer", "a peer")];
    for (x, class, words) in entries {
        bar(svg, class, x, y - 10, 12.0, 12);
        text(svg, "small", x + 18, y, words);
    }
    let rest = format!(
        "0.50x: {US}'s figure divided by the peer's. Bars begin at zero; each case has a scale of its own."
    );
    text(svg, "small", MARGIN + 152, y, &rest);
}

fn group(svg: &mut String, x: usize, y: usize, outcome: &Outcome) {
    let better = if is_time(&outcome.case) { "shorter is better" } else { "longer is better" };
    let y = y + TITLE;
    text(svg, "case", x, y - 24, &outcome.case);
    text(svg, "small end", x + COLUMN, y - 24, better);
    text(svg, "small", x, y - 8, &outcome.about);
    let longest = outcome.rows.iter().map(|row| row.median).fold(f64::MIN_POSITIVE, f64::max);
    let ratios = outcome.ratios().map(|(_, ratio)| Some(ratio));
    for (place, (row, ratio)) in
        outcome.rows.iter().zip([None].into_iter().chain(ratios)).enumerate()
    {
        let class = if row.name == US { "us" } else { "peer" };
        let (y, length) = (y + place * BAR, row.median / longest * LONGEST);
        text(svg, "end", x + LEFT - 8, y + 12, row.name);
        bar(svg, class, x + LEFT, y, length, BAR - 4);
        text(svg, "", x + LEFT + length as usize + 8, y + 12, &figure(&outcome.case, row.median));
        if let Some(ratio) = ratio {
            text(svg, "small end", x + COLUMN, y + 12, &format!("{ratio:.2}x"));
        }
    }
}

fn bar(svg: &mut String, class: &str, x: usize, y: usize, length: f64, thick: usize) {
    let _ = writeln!(
        svg,
        "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{length:.1}\" height=\"{thick}\" \
         rx=\"2\"/>"
    );
}

fn text(svg: &mut String, class: &str, x: usize, y: usize, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{words}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Row;

    fn outcome(case: &str, rows: &[(&'static str, f64)]) -> Outcome {
        let row = |&(name, median)| Row { name, median, spread: 0.0 };
        let rows = rows.iter().map(row).collect();
        Outcome { case: case.into(), about: "a & b".into(), rows }
    }

    #[test]
    fn the_longest_bar_is_the_best_rate() {
        let svg = draw("x", "y", &[outcome("item/1x1", &[("busway", 4.0), ("a < b", 2.0)])]);
        assert!(svg.contains("<rect class=\"us\" x=\"136\" y=\"130\" width=\"180.0\""), "{svg}");
        assert!(svg.contains("<rect class=\"peer\" x=\"136\" y=\"148\" width=\"90.0\""), "{svg}");
        assert!(svg.contains(">2.00x<") && svg.contains("a &lt; b") && svg.contains("a &amp; b"));
    }

    #[test]
    fn columns_are_of_about_one_height() {
        let many = |count| (0..count).map(|_| outcome("x", &[("busway", 1.0)])).collect::<Vec<_>>();
        let halves = [0, 1, 2, 5].map(|count| half(&many(count)));
        assert_eq!(halves, [0, 1, 1, 3]);
    }
}
