//! The outcome as a picture: horizontal bars, one group per case, each group to its own scale.

use std::fmt::Write as _;

use crate::{Outcome, US, figure, is_time};

const WIDTH: usize = 760;
/// Where bars start, and how long the longest is.
const LEFT: usize = 150;
const LONGEST: f64 = 480.0;
const BAR: usize = 18;
const HEAD: usize = 56;
/// A group's title and the gap above it.
const TITLE: usize = 34;

/// Colours for light and dark pages.
const STYLE: &str = "\
text { font: 12px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600; font-size: 16px }
.case { font-weight: 600 }
.small { fill: #6e7781 }
.name { text-anchor: end }
.us { fill: #0969da }
.peer { fill: #afb8c1 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.small { fill: #8d96a0 }
.us { fill: #4493f8 }
.peer { fill: #484f58 }
}";

/// An SVG of all cases.
pub(crate) fn draw(title: &str, circumstances: &str, outcomes: &[Outcome]) -> String {
    let bars: usize = outcomes.iter().map(|outcome| TITLE + outcome.rows.len() * BAR).sum();
    let height = HEAD + bars + 16;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n<style>\n{STYLE}\n</style>\n"
    );
    text(&mut svg, "title", 16, 26, &format!("{US}: {title}"));
    text(&mut svg, "small", 16, 46, circumstances);
    let mut y = HEAD;
    for outcome in outcomes {
        y += TITLE;
        let better = if is_time(&outcome.case) { "shorter is better" } else { "longer is better" };
        text(&mut svg, "case", 16, y - 8, &outcome.case);
        text(&mut svg, "small", LEFT, y - 8, better);
        let longest = outcome.rows.iter().map(|row| row.median).fold(f64::MIN_POSITIVE, f64::max);
        for row in &outcome.rows {
            let class = if row.name == US { "us" } else { "peer" };
            let (length, thick) = (row.median / longest * LONGEST, BAR - 4);
            text(&mut svg, "name", LEFT - 8, y + 12, row.name);
            let _ = writeln!(
                svg,
                "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{y}\" width=\"{length:.1}\" \
                 height=\"{thick}\" rx=\"2\"/>"
            );
            let end = LEFT + length as usize + 8;
            text(&mut svg, "value", end, y + 12, &figure(&outcome.case, row.median));
            y += BAR;
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn text(svg: &mut String, class: &str, x: usize, y: usize, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{words}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Row;

    #[test]
    fn the_longest_bar_is_the_best_rate() {
        let rows = [("busway", 4.0), ("a < b", 2.0)];
        let rows = rows.map(|(name, median)| Row { name, median, spread: 0.0 }).into();
        let svg = draw("x", "y", &[Outcome { case: "item/1x1".into(), rows }]);
        assert!(svg.contains("<rect class=\"us\" x=\"150\" y=\"90\" width=\"480.0\""), "{svg}");
        assert!(svg.contains("<rect class=\"peer\" x=\"150\" y=\"108\" width=\"240.0\""), "{svg}");
        assert!(svg.contains("a &lt; b"));
    }
}
