//! The chart of a comparison: how far B is from A in each figure.
//!
//! ```text
//! rate          .  :[--|--]. .          each dot a round, in brackets the confidence interval
//! latency p50   .[-|-]: .
//!              -5 %     0     +5 %      on a log scale: twice as much is as far as half
//! ```
//!
//! It is markup without a script, and takes the width that there is.

use std::fmt::Write;

use crate::{
    measure::bootstrap::{Bounds, CONFIDENCE_PERCENT},
    report::compare::Finding,
};

/// The least that the axis reaches to either side, as a logarithm.
const REACH_MIN: f64 = 0.01;
/// What share of the axis the widest confidence interval may take.
const FILLED_SHARE: f64 = 0.6;
/// Steps of the axis, as shares, two of which fit on either side; or where more than that fits,
/// factors.
const STEPS: [f64; 7] = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2];
const FACTORS: [f64; 4] = [2.0, 5.0, 10.0, 100.0];

/// One figure. All ratios are logarithms of B / A.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) words: String,
    pub(super) finding: Finding,
    pub(super) ratio: f64,
    pub(super) bounds: Option<Bounds>,
    /// That of each round, if there were rounds.
    pub(super) rounds: Vec<f64>,
}

/// Writes the chart. Of no figures there is none.
pub(super) fn write(rows: &[Row]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let reach = reach(rows);
    let ticks = ticks(reach);
    let has_rounds = rows.iter().any(|row| !row.rounds.is_empty());
    let mut html = format!(
        "<figure class=\"ratios\">\n<figcaption>B against A</figcaption>\n<p class=\"hint\">{}The bar \
         is the {CONFIDENCE_PERCENT} % confidence interval; where it reaches across the line, \
         nothing is known to differ. What lies beyond the axis is drawn at its end.</p>\n",
        if has_rounds { "Each dot is a round. " } else { "" }
    );
    for row in rows {
        html += &drawn(row, reach, &ticks);
    }
    html.push_str("<div class=\"ratio\" aria-hidden=\"true\"><span></span>\n<svg class=\"axis\">");
    for (at, name) in &ticks {
        let x = place(*at, reach);
        write!(html, "<text x=\"{x:.2}%\" y=\"14\">{name}</text>")
            .expect("a string takes everything");
    }
    html + "</svg></div>\n</figure>\n"
}

fn drawn(row: &Row, reach: f64, ticks: &[(f64, String)]) -> String {
    let Row { name, words, finding, ratio, bounds, rounds } = row;
    let class = match finding {
        Finding::Better => "good",
        Finding::Worse => "bad",
        Finding::NoDifference | Finding::None | Finding::Unknown => "quiet",
    };
    let x = |ratio: f64| place(ratio, reach);
    let mut marks = String::new();
    let mut add = |mark: String| marks.push_str(&mark);
    for (at, _) in ticks {
        let class = if *at == 0.0 { "same" } else { "grid" };
        add(format!("<line class=\"{class}\" x1=\"{0:.2}%\" x2=\"{0:.2}%\" y2=\"36\"/>", x(*at)));
    }
    if let Some(Bounds { low, high }) = bounds {
        let (low, high) = (x(*low), x(*high));
        let width = (high - low).max(0.3);
        add(format!(
            "<rect x=\"{low:.2}%\" width=\"{width:.2}%\" y=\"10\" height=\"16\" rx=\"3\"/>"
        ));
    }
    for (number, ratio) in rounds.iter().enumerate() {
        // One below the other, so that equal ones do not hide each other.
        let y = 4.0 + 28.0 * (number as f64 + 0.5) / rounds.len() as f64;
        add(format!("<circle cx=\"{:.2}%\" cy=\"{y:.1}\" r=\"2.5\"/>", x(*ratio)));
    }
    let at = x(*ratio);
    add(format!("<line class=\"estimate\" x1=\"{at:.2}%\" x2=\"{at:.2}%\" y1=\"6\" y2=\"30\"/>"));
    let finding = finding.in_words();
    format!(
        "<div class=\"ratio\"><span>{name}</span>\n<svg class=\"{class}\" role=\"img\" \
         aria-label=\"{name}: B against A {words}, {finding}\">{marks}</svg></div>\n"
    )
}

/// How far the axis goes to either side: so that all intervals lie within it, or where there is
/// none, all ratios.
fn reach(rows: &[Row]) -> f64 {
    let bounds = rows.iter().filter_map(|row| row.bounds);
    let widest = bounds.map(|Bounds { low, high }| low.abs().max(high.abs())).filter(is_shown);
    let widest = widest.fold(0.0, f64::max) / FILLED_SHARE;
    let ratios = rows.iter().map(|row| row.ratio.abs()).filter(is_shown);
    widest.max(ratios.fold(0.0, f64::max) / FILLED_SHARE).max(REACH_MIN)
}

/// Whether a distance is one that a scale can show: what is zero or infinite on one side is not.
fn is_shown(distance: &f64) -> bool {
    *distance < 5.0
}

/// Where a ratio lies, in percent of the width.
fn place(ratio: f64, reach: f64) -> f64 {
    50.0 + 49.0 * (ratio / reach).clamp(-1.0, 1.0)
}

/// The marks of the axis, each with its name.
fn ticks(reach: f64) -> Vec<(f64, String)> {
    let percent = |share: f64| (share.ln_1p(), format!("{:+} %", (share * 1e4).round() / 100.0));
    // A name has room around it.
    let farthest = 0.85 * reach;
    let mut ticks = vec![(0.0, "same".to_owned())];
    if let Some(factor) = FACTORS.into_iter().rfind(|factor| factor.ln() <= farthest) {
        ticks.insert(0, (-factor.ln(), format!("1/{factor}")));
        ticks.push((factor.ln(), format!("{factor} times")));
    } else {
        let fits = |step: &f64| -(-2.0 * step).ln_1p() <= farthest;
        let step = STEPS.into_iter().rfind(fits).unwrap_or(STEPS[0]);
        ticks.splice(0..0, [-2.0, -1.0].map(|number| percent(number * step)));
        ticks.extend([1.0, 2.0].map(|number| percent(number * step)));
    }
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(bounds: Option<Bounds>, rounds: Vec<f64>) -> Row {
        let (words, finding) = ("+1.0 %".to_owned(), Finding::NoDifference);
        Row { name: "rate", words, finding, ratio: 0.01, bounds, rounds }
    }

    #[test]
    fn everything_lies_within_the_chart() {
        let bounds = Some(Bounds { low: -0.02, high: 0.05 });
        for rounds in [vec![], vec![-100.0, 0.0, 0.04, 100.0]] {
            let page = write(&[row(bounds, rounds.clone()), row(None, rounds.clone())]);
            let places = page.split("x=\"").chain(page.split("x1=\"")).skip(1);
            let places = places.filter_map(|rest| rest.split_once('%')?.0.parse::<f64>().ok());
            assert!(places.clone().count() > 6);
            assert!(places.into_iter().all(|at| (0.0..=100.0).contains(&at)), "{page}");
            assert_eq!(page.matches("<circle").count(), 2 * rounds.len());
        }
    }

    #[test]
    fn the_axis_has_marks_on_either_side_at_any_reach() {
        for reach in [REACH_MIN, 0.07, 0.3, 0.69, 0.9, 3.0, 8.0] {
            let ticks = ticks(reach);
            let count =
                |on_side: fn(f64) -> bool| ticks.iter().filter(|tick| on_side(tick.0)).count();
            assert_eq!(count(|at| at == 0.0), 1, "{ticks:?}");
            assert!(count(|at| at > 0.0) == count(|at| at < 0.0) && ticks.len() > 2, "{ticks:?}");
            assert!(ticks.iter().all(|(at, _)| at.abs() <= reach), "{reach}: {ticks:?}");
            assert!(ticks.is_sorted_by(|(one, _), (next, _)| one < next), "{ticks:?}");
        }
    }
}
