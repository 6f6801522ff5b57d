//! Two sides compared, in every form: for `compare`, `ab` and those who read what these saved.
//!
//! Figures that no interval bounds are compared all the same, and say that nothing follows from it.

use serde::Serialize;

use super::{
    html, markdown,
    output::{Form, Forms},
    ratios,
};
use crate::{
    measure::bootstrap::CONFIDENCE_PERCENT,
    report::{
        compare::{Compared, Figure, Finding, log_ratio},
        json::Config,
    },
};

/// Grows when a name changes its meaning or goes away, not when one is added.
const SCHEMA: u32 = 1;

const HEADING: [&str; 5] = ["", "A", "B", "B against A", ""];

/// Two sides and what they differ in.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    schema: u32,
    version: &'static str,
    /// What A and B are, in words.
    a: String,
    b: String,
    figures: Vec<SavedFigure>,
    /// How sure the bounds of the ratios are.
    confidence_percent: u32,
    /// Why the findings may be wrong, each half a sentence.
    doubts: Vec<String>,
    /// What else a reader must know, each a sentence or two.
    notes: Vec<String>,
    /// The figures of both sides in each round. Empty if there was one run of each.
    rounds: Vec<[Round; 2]>,
    /// The load, where both had the same.
    config: Option<Config>,
    #[serde(skip)]
    compared: Vec<Compared>,
}

/// A figure of both sides. Times are in nanoseconds but for CPU time, which is in microseconds, as
/// in saved runs.
#[derive(Debug, Serialize)]
struct SavedFigure {
    name: &'static str,
    /// Nothing if it is infinite, for which JSON has no word: the time of what was never answered.
    a: Option<f64>,
    b: Option<f64>,
    /// The same for people.
    a_text: String,
    b_text: String,
    /// B / A, and between what it lies; nothing if nobody knows or it is no number.
    ratio: Option<f64>,
    ratio_low: Option<f64>,
    ratio_high: Option<f64>,
    /// Of what is counted: how many requests were due, how far the shares of that are apart, and
    /// between what that lies.
    #[serde(flatten)]
    share: Option<Share>,
    finding: &'static str,
}

#[derive(Debug, Serialize)]
struct Share {
    a_due: u64,
    b_due: u64,
    difference: f64,
    difference_low: Option<f64>,
    difference_high: Option<f64>,
}

/// One run of a round.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Round {
    pub(crate) rate: Option<f64>,
    pub(crate) latency_p50_ns: Option<f64>,
    pub(crate) latency_p99_ns: Option<f64>,
    pub(crate) server_cpu_us_per_request: Option<f64>,
    pub(crate) unanswered: u64,
    pub(crate) unsent: u64,
    pub(crate) errors: u64,
    pub(crate) mismatches: u64,
}

impl Comparison {
    pub(crate) fn new(
        [a, b]: [String; 2],
        compared: Vec<Compared>,
        notes: Vec<String>,
        doubts: Vec<String>,
    ) -> Self {
        Self {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            a,
            b,
            figures: compared.iter().map(SavedFigure::of).collect(),
            confidence_percent: CONFIDENCE_PERCENT,
            doubts,
            notes,
            rounds: Vec::new(),
            config: None,
            compared,
        }
    }

    /// The same over many rounds of one load.
    pub(crate) fn of_rounds(self, rounds: Vec<[Round; 2]>, config: Option<Config>) -> Self {
        Self { rounds, config, ..self }
    }

    /// For people at a terminal.
    pub(crate) fn to_text(&self) -> String {
        let mut text = format!("A: {}\nB: {}\n", self.a, self.b);
        if !self.compared.is_empty() {
            text += &format!("\n{}", table(&self.compared));
        }
        text.push('\n');
        for note in &self.notes {
            text += &super::text::paragraph(note);
        }
        text
    }

    fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("plain data can be written");
        text.push('\n');
        text
    }

    fn to_markdown(&self) -> String {
        let escape = markdown::escape;
        let mut text = format!(
            "**loadgen: {}**{}\n\n* A: {}\n* B: {}\n\n",
            self.summary(),
            self.reservation(),
            escape(&self.a),
            escape(&self.b)
        );
        let heading = HEADING.map(str::to_owned).into();
        markdown::table(&mut text, heading, self.compared.iter().map(|one| row(one).into()));
        self.notes.iter().for_each(|note| text += &format!("* {}\n", escape(note)));
        text
    }

    fn to_html(&self) -> String {
        let heading = HEADING;
        let rows = self.compared.iter().map(|one| row(one).into());
        let mut body = self.chart();
        body += &html::table("numbers compared", "Figures of both sides", &heading, rows);
        body += &html::list("reasons", &self.notes);
        let names: Vec<&str> = self.compared.iter().map(|one| one.figure.name()).collect();
        body += &html::terms(&names);
        if !self.rounds.is_empty() {
            // What no side has a failure of takes no columns.
            let shown = self.compared.iter().filter(|one| one.finding() != Finding::None);
            let figures = || shown.clone().map(|one| one.figure);
            let rows = self.rounds.iter().enumerate().map(|(index, round)| {
                let mut row = vec![(index + 1).to_string()];
                for figure in figures() {
                    row.extend(round.map(|run| {
                        run.of(figure).map_or("-".to_owned(), |value| figure.in_words(value))
                    }));
                }
                row
            });
            let names: Vec<_> = figures()
                .map(|figure| [" A", " B"].map(|side| figure.name().to_owned() + side))
                .collect();
            let mut heading = vec!["round"];
            heading.extend(names.as_flattened().iter().map(String::as_str));
            body += &format!(
                "<h2>Every round</h2>\n{}",
                html::table("numbers", "Rounds", &heading, rows)
            );
        }
        if let Some(config) = &self.config {
            body += &format!("<h2>Configuration</h2>\n{}", html::pairs(config.texts()));
        }
        let sides = [("A", &self.a), ("B", &self.b)].map(|(name, side)| format!("{name}: {side}"));
        let summary = html::Summary {
            class: self.class(),
            finding: self.summary(),
            reservation: self.reservation(),
        };
        html::plain_page("loadgen: A and B", &summary, &sides, &body)
    }

    /// How far B is from A in each figure, with the rounds that say so.
    fn chart(&self) -> String {
        let rows: Vec<ratios::Row> = self
            .compared
            .iter()
            .filter(|one| !one.figure.is_count())
            .map(|one| ratios::Row {
                name: one.figure.name(),
                words: row(one)[3].clone(),
                finding: one.finding(),
                ratio: log_ratio(one.a, one.b),
                bounds: one.bounds,
                rounds: self
                    .rounds
                    .iter()
                    .filter_map(|round| {
                        let [a, b] = round.map(|run| run.of(one.figure));
                        Some(log_ratio(a?, b?))
                    })
                    .collect(),
            })
            .collect();
        ratios::write(&rows)
    }

    /// Everything in half a sentence.
    fn summary(&self) -> String {
        let named = |finding| {
            let names = self.compared.iter().filter(|one| one.finding() == finding);
            names.map(|one| one.figure.name()).collect::<Vec<_>>().join(", ")
        };
        let findings = [Finding::Worse, Finding::Better].map(|finding| (finding, named(finding)));
        let parts: Vec<String> = findings
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(finding, names)| format!("B is {} in {names}", finding.in_words()))
            .collect();
        match parts.as_slice() {
            [] if self.compared.iter().any(|one| one.finding() == Finding::NoDifference) => {
                Finding::NoDifference.in_words().to_owned()
            }
            [] => "cannot tell a difference".to_owned(),
            parts => parts.join("; "),
        }
    }

    /// The colour of the summary. What is in doubt is not shown as good.
    fn class(&self) -> &'static str {
        let has = |finding| self.compared.iter().any(|one| one.finding() == finding);
        match self.doubts.is_empty() {
            _ if has(Finding::Worse) => "bad",
            false => "doubt",
            true if has(Finding::Better) => "good",
            true => "",
        }
    }

    /// What belongs behind the summary, wherever it stands.
    fn reservation(&self) -> String {
        match self.doubts.as_slice() {
            [] => String::new(),
            doubts => format!(", but {}", doubts.join(" and ")),
        }
    }
}

impl Forms for Comparison {
    const FORMS: &'static [(&'static str, Form<Self>)] =
        &[("json", Self::to_json), ("md", Self::to_markdown), ("html", Self::to_html)];
}

impl SavedFigure {
    fn of(compared: &Compared) -> Self {
        let Compared { figure, a, b, due, bounds } = *compared;
        let finite = |number: f64| Some(number).filter(|number| number.is_finite());
        let [low, high] = [bounds.map(|bounds| bounds.low), bounds.map(|bounds| bounds.high)];
        let ratio = match compared.shares() {
            Some([a, b]) => finite(b / a),
            None => finite(b / a),
        };
        let of_ratio = |bound: Option<f64>| bound.filter(|_| due.is_none() && ratio.is_some());
        Self {
            name: figure.name(),
            a: finite(a),
            b: finite(b),
            a_text: figure.in_words(a),
            b_text: figure.in_words(b),
            ratio,
            ratio_low: of_ratio(low).map(f64::exp),
            ratio_high: of_ratio(high).map(f64::exp),
            share: due.zip(compared.shares()).map(|([a_due, b_due], [a, b])| Share {
                a_due,
                b_due,
                difference: b - a,
                difference_low: low,
                difference_high: high,
            }),
            finding: compared.finding().in_words(),
        }
    }
}

impl Round {
    fn of(self, figure: Figure) -> Option<f64> {
        match figure {
            Figure::Rate => self.rate,
            Figure::P50 => self.latency_p50_ns,
            Figure::P99 => self.latency_p99_ns,
            Figure::ServerCpu => self.server_cpu_us_per_request,
            Figure::Unanswered => Some(self.unanswered as f64),
            Figure::Unsent => Some(self.unsent as f64),
            Figure::Errors => Some(self.errors as f64),
            Figure::Mismatches => Some(self.mismatches as f64),
        }
    }
}

/// The figures as a table, with findings.
pub(crate) fn table(figures: &[Compared]) -> String {
    let mut rows = vec![HEADING.map(str::to_owned)];
    rows.extend(figures.iter().map(row));
    let widths: Vec<usize> = (0..HEADING.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default())
        .collect();
    let mut text = String::new();
    for [name, a, b, bounds, finding] in &rows {
        let line = format!(
            "{name:<0$}  {a:>1$}  {b:>2$}  {bounds:<3$}  {finding}",
            widths[0], widths[1], widths[2], widths[3]
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn row(compared: &Compared) -> [String; 5] {
    let [name, a, b, bounds] = compared.in_words();
    [name, a, b, bounds, compared.finding().in_words().to_owned()]
}
