//! Two runs side by side: how far B is from A, and how sure that is.
//!
//! Within a run the spread is known from its intervals. Neighbouring intervals resemble each other,
//! so they are first joined to at most [`BATCHES_MAX`] batches, and batches are resampled. A
//! percentile of a resample is that of all its requests together: percentiles are never averaged.
//!
//! What such intervals cannot know is how much one run differs from the next, because of where
//! memory lies or what else the machine does. The text says so; `loadgen ab` is the answer.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use clap::Args;

use crate::{
    bootstrap::{self, Bounds, CONFIDENCE_PERCENT, SAMPLES_MIN},
    plan::Plan,
    report::{
        comparison::{self, Comparison},
        facts,
        json::{Config, Document, SavedInterval},
        output::Output,
        text,
    },
    units,
};

const COULD_NOT_TELL: u8 = 1;
const REGRESSION: u8 = 3;

/// More batches would be shorter than what neighbouring intervals have in common.
const BATCHES_MAX: usize = 30;

/// What of the configuration makes runs differ for reasons of their own. The rest may differ from
/// run to run.
const INCIDENTAL: [&str; 9] = [
    "seed",
    "duration_s",
    "requests",
    "warm_up_s",
    "interval_s",
    "slo",
    "metrics",
    "server_pid",
    "command",
];

/// Compares two saved runs
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The run to compare with, saved with -o FILE.json
    #[arg(value_name = "A.json")]
    a: PathBuf,
    /// The run that may be better or worse
    #[arg(value_name = "B.json")]
    b: PathBuf,
    /// Write the comparison to FILE: .json .md .html; repeatable
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Vec<PathBuf>,
}

/// A saved run that a new one is held against.
#[derive(Debug)]
pub(crate) struct Baseline {
    run: Document,
    /// By which share a figure may be worse. `None`: by any.
    tolerance: Option<f64>,
}

/// What is compared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Figure {
    Rate,
    P50,
    P99,
    ServerCpu,
}

/// One figure of both sides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compared {
    pub(crate) figure: Figure,
    pub(crate) a: f64,
    pub(crate) b: f64,
    /// Between what the logarithm of B / A lies. `None`: nobody knows.
    pub(crate) bounds: Option<Bounds>,
}

/// What one can say about a difference.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Finding {
    Better,
    Worse,
    /// It may as well be chance.
    NoDifference,
    /// There is too little to tell.
    Unknown,
}

impl Arguments {
    /// Returns the comparison in words, and the exit code.
    pub(crate) fn carry_out(&self) -> Result<(String, u8), String> {
        let (a, b) = (Document::read(&self.a)?, Document::read(&self.b)?);
        let outputs = Output::open_all(&self.output)?;
        let comparison = compare_runs(&a, &b);
        let exit_code = Output::write_all(outputs, &comparison);
        Ok((comparison.to_text(), exit_code))
    }
}

impl Baseline {
    /// Reads a baseline for a run of this plan.
    ///
    /// # Errors
    ///
    /// Why it can be no baseline: a sentence whose subject is the flag. Where a regression is to be
    /// found, the loads must be alike and the baseline must know its own spread.
    pub(crate) fn read(path: &Path, tolerance: Option<f64>, plan: &Plan) -> Result<Self, String> {
        let run = Document::read(path).map_err(|error| format!("cannot be used: {error}"))?;
        if tolerance.is_some() {
            let differences = differences(&run.config, &Config::of(plan));
            if !differences.is_empty() {
                let differences = differences.join(", ");
                return Err(format!("(A) has another load than this run (B): {differences}"));
            }
            if !has_spread(&run) {
                return Err(format!(
                    "has {} measured intervals; {SAMPLES_MIN} are needed to find a regression: save \
                     one that is longer, or has a shorter --interval",
                    run.measured().count()
                ));
            }
        }
        Ok(Self { run, tolerance })
    }

    /// Compares a run with this one: the text, and the exit code.
    pub(crate) fn judge(&self, run: &Document) -> (String, u8) {
        let figures = compare(&self.run, run);
        let mut text = format!(
            "\nA: the baseline, {}\nB: this run\n\n{}\n",
            facts::started_at(&self.run),
            comparison::table(&figures)
        );
        for note in notes(&self.run, run, &figures) {
            text += &text::paragraph(&note);
        }
        let Some(tolerance) = self.tolerance else {
            return (text, 0);
        };
        let percent = tolerance * 100.0;
        let is_regression = |compared: &&Compared| compared.is_regression(tolerance);
        let worse: Vec<&str> =
            figures.iter().filter(is_regression).map(|compared| compared.figure.name()).collect();
        let (verdict, exit_code) = match worse.as_slice() {
            _ if !has_spread(run) => {
                ("cannot tell: this run has too few intervals".to_owned(), COULD_NOT_TELL)
            }
            [] => (format!("nothing is clearly worse by more than {percent} %"), 0),
            worse => {
                let worse = worse.join(", ");
                (format!("clearly worse by more than {percent} %: {worse}"), REGRESSION)
            }
        };
        text += &format!("Regression: {verdict}.\n");
        (text, exit_code)
    }
}

/// Reads a tolerance such as `5` or `2.5%` as a share.
///
/// # Errors
///
/// A sentence whose subject is the flag.
pub(crate) fn parse_tolerance(text: &str) -> Result<f64, String> {
    let number = text.trim().trim_end_matches('%').trim_end().parse::<f64>();
    number
        .ok()
        .filter(|percent| (0.0..100.0).contains(percent))
        .map(|percent| percent / 100.0)
        .ok_or_else(|| format!("is `{text}`; write a share in percent, such as 5%"))
}

impl Figure {
    pub(crate) const ALL: [Self; 4] = [Self::Rate, Self::P50, Self::P99, Self::ServerCpu];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::P50 => "latency p50",
            Self::P99 => "latency p99",
            Self::ServerCpu => "server CPU",
        }
    }

    /// This figure of a run. `None`: nobody has measured it.
    pub(crate) fn of(self, run: &Document) -> Option<f64> {
        let value = match self {
            Self::Rate => run.rate,
            Self::P50 => run.latency_ns.p50 as f64,
            Self::P99 => run.latency_ns.p99 as f64,
            Self::ServerCpu => run.server.cpu_us_per_request?,
        };
        Some(value).filter(|&value| value > 0.0)
    }

    pub(crate) fn in_words(self, value: f64) -> String {
        match self {
            Self::Rate => format!("{}/s", units::rate(value)),
            Self::P50 | Self::P99 => units::time(units::whole(value)),
            Self::ServerCpu => units::micros(value),
        }
    }

    fn is_better_when_higher(self) -> bool {
        self == Self::Rate
    }
}

impl Compared {
    pub(crate) fn finding(&self) -> Finding {
        let Some(Bounds { low, high }) = self.bounds else {
            return Finding::Unknown;
        };
        match self.figure.is_better_when_higher() {
            _ if low <= 0.0 && high >= 0.0 => Finding::NoDifference,
            is_better_when_higher if is_better_when_higher == (low > 0.0) => Finding::Better,
            _ => Finding::Worse,
        }
    }

    /// Whether all that this figure may be is worse by more than `tolerance`, which is a share.
    pub(crate) fn is_regression(&self, tolerance: f64) -> bool {
        self.bounds.is_some_and(|Bounds { low, high }| match self.figure.is_better_when_higher() {
            true => high.exp() < 1.0 - tolerance,
            false => low.exp() > 1.0 + tolerance,
        })
    }

    /// Its name, both values, and how far B is from A.
    pub(crate) fn in_words(&self) -> [String; 4] {
        let bounds = match self.bounds {
            Some(Bounds { low, high }) => format!(
                "{} ({:+.1} to {:+.1})",
                percent((self.b / self.a).ln()),
                low.exp_m1() * 100.0,
                high.exp_m1() * 100.0
            ),
            None => percent((self.b / self.a).ln()),
        };
        [
            self.figure.name().to_owned(),
            self.figure.in_words(self.a),
            self.figure.in_words(self.b),
            bounds,
        ]
    }
}

impl Finding {
    pub(crate) fn in_words(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::NoDifference => "no difference detected",
            Self::Unknown => "cannot tell",
        }
    }
}

/// Compares the figures of two runs that both have them.
fn compare(a: &Document, b: &Document) -> Vec<Compared> {
    let (a_batches, b_batches) = (Batches::of(a), Batches::of(b));
    let both = |figure: Figure| Some((figure, figure.of(a)?, figure.of(b)?));
    let figures = Figure::ALL.into_iter().filter_map(both);
    figures
        .map(|(figure, a, b)| {
            let bounds = statistic(figure).and_then(|of| {
                bootstrap::bounds([a_batches.len(), b_batches.len()], |[a, b]| {
                    (of(&b_batches, b) / of(&a_batches, a)).ln()
                })
            });
            Compared { figure, a, b, bounds }
        })
        .collect()
}

/// What of the load differs between two configurations, in words. What only one of them tells was
/// saved by another version.
fn differences(a: &Config, b: &Config) -> Vec<String> {
    let names: BTreeSet<&str> = a.names().filter(|name| b.get(name).is_some()).collect();
    let names = names.into_iter().filter(|name| !INCIDENTAL.contains(name));
    names
        .filter(|name| a.text(name) != b.text(name))
        .map(|name| format!("{name} is {} in A and {} in B", a.text(name), b.text(name)))
        .collect()
}

/// Whether a run has enough intervals to know its own spread.
fn has_spread(run: &Document) -> bool {
    run.measured().count() >= SAMPLES_MIN
}

fn compare_runs(a: &Document, b: &Document) -> Comparison {
    let sides = [a, b].map(|run| {
        format!(
            "{}, {}, {} requests, {}",
            run.target,
            facts::started_at(run),
            units::grouped(run.requests),
            run.verdict.word(),
        )
    });
    let compared = compare(a, b);
    let notes = notes(a, b, &compared);
    Comparison::new(sides, compared, notes)
}

/// Where the loads differ, what the bounds mean, and what they do not.
fn notes(a: &Document, b: &Document, compared: &[Compared]) -> Vec<String> {
    let differences = differences(&a.config, &b.config);
    let mut notes: Vec<String> =
        differences.into_iter().map(|one| format!("The loads differ: {one}.")).collect();
    notes.push(match has_spread(a) && has_spread(b) {
        true => format!(
            "In brackets: {CONFIDENCE_PERCENT} % confidence, from the spread between the intervals \
             of each run."
        ),
        false => format!(
            "There are too few intervals to know the spread within a run: {} measured in A, {} in \
             B, and {SAMPLES_MIN} are needed. Run longer, or with a shorter --interval.",
            a.measured().count(),
            b.measured().count(),
        ),
    });
    if compared.iter().any(|one| one.figure == Figure::ServerCpu) {
        notes.push(
            "The server's CPU time per request is known of each run as a whole only, so nobody can \
             say how much of that difference is chance: loadgen ab can, from its rounds."
                .to_owned(),
        );
    }
    notes.push(
        "One run each says little: runs of one and the same server differ by more than the \
         intervals of one run do. To decide something, alternate both: loadgen ab --a 'COMMAND' \
         --b 'COMMAND'"
            .to_owned(),
    );
    notes
}

fn percent(logarithm: f64) -> String {
    format!("{:+.1} %", logarithm.exp_m1() * 100.0)
}

/// How to take a figure of some batches together. `None`: nothing tells it of a part of a run.
fn statistic(figure: Figure) -> Option<fn(&Batches, &[usize]) -> f64> {
    match figure {
        Figure::Rate => Some(Batches::rate),
        Figure::P50 => Some(|batches, drawn| batches.quantile(drawn, 0.50)),
        Figure::P99 => Some(|batches, drawn| batches.quantile(drawn, 0.99)),
        Figure::ServerCpu => None,
    }
}

/// The measured part of a run in a few pieces of similar length.
#[derive(Debug)]
struct Batches {
    /// Every value that was recorded, in nanoseconds and ascending.
    values: Vec<u64>,
    batches: Vec<Batch>,
}

#[derive(Debug)]
struct Batch {
    requests: u64,
    seconds: f64,
    /// How many requests took at most as long as the value at the same index.
    cumulated: Vec<u64>,
}

impl Batches {
    fn of(run: &Document) -> Self {
        let intervals: Vec<&SavedInterval> = run.measured().collect();
        let count = intervals.len().min(BATCHES_MAX);
        let histograms: Vec<_> = (0..count)
            .map(|batch| {
                let part = intervals.len() * batch / count..intervals.len() * (batch + 1) / count;
                let mut sum = intervals[part.start].histograms.latency.decode();
                for interval in &intervals[part.start + 1..part.end] {
                    sum.add(interval.histograms.latency.decode())
                        .expect("histograms grow with what they are given");
                }
                (&intervals[part], sum)
            })
            .collect();
        let values: BTreeSet<u64> = histograms
            .iter()
            .flat_map(|(_, sum)| sum.iter_recorded().map(|value| value.value_iterated_to()))
            .collect();
        let values: Vec<u64> = values.into_iter().collect();
        let batches = histograms
            .iter()
            .map(|(intervals, sum)| {
                let mut recorded = sum.iter_recorded().peekable();
                let cumulated = values.iter().scan(0, |cumulated, &value| {
                    if let Some(found) =
                        recorded.next_if(|found| found.value_iterated_to() == value)
                    {
                        *cumulated += found.count_at_value();
                    }
                    Some(*cumulated)
                });
                Batch {
                    requests: intervals.iter().map(|interval| interval.requests).sum(),
                    seconds: intervals.iter().map(|interval| interval.length_s).sum(),
                    cumulated: cumulated.collect(),
                }
            })
            .collect();
        Self { values, batches }
    }

    fn len(&self) -> usize {
        self.batches.len()
    }

    fn rate(&self, drawn: &[usize]) -> f64 {
        let batches = || drawn.iter().map(|&batch| &self.batches[batch]);
        let requests: u64 = batches().map(|batch| batch.requests).sum();
        requests as f64 / batches().map(|batch| batch.seconds).sum::<f64>()
    }

    fn quantile(&self, drawn: &[usize], quantile: f64) -> f64 {
        let at_most = |index: usize| -> u64 {
            drawn.iter().map(|&batch| self.batches[batch].cumulated[index]).sum()
        };
        let Some(last) = self.values.len().checked_sub(1) else {
            return f64::NAN;
        };
        let wanted = units::whole((at_most(last) as f64 * quantile).ceil()).max(1);
        let (mut low, mut high) = (0, last);
        while low < high {
            let middle = low.midpoint(high);
            match at_most(middle) >= wanted {
                true => high = middle,
                false => low = middle + 1,
            }
        }
        self.values[low] as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{latency::Latency, report::json::samples};

    /// Requests per interval that scatter around `rate`.
    fn around(rate: u64) -> Vec<u64> {
        (0..20).map(|index| rate + index * 7 % 20).collect()
    }

    #[track_caller]
    fn finding(figures: &[Compared], figure: Figure) -> Finding {
        figures.iter().find(|compared| compared.figure == figure).unwrap().finding()
    }

    #[test]
    fn a_run_does_not_differ_from_itself() {
        let run = samples::run(&around(1_000), 50_000);
        for compared in compare(&run, &run) {
            assert_eq!(compared.finding(), Finding::NoDifference, "{compared:?}");
            assert!(!compared.is_regression(0.0));
        }
    }

    #[test]
    fn more_requests_are_better_and_longer_ones_are_worse() {
        let (slow, fast) =
            (samples::run(&around(1_000), 60_000), samples::run(&around(1_200), 50_000));
        let figures = compare(&slow, &fast);
        for figure in [Figure::Rate, Figure::P50, Figure::P99] {
            assert_eq!(finding(&figures, figure), Finding::Better);
        }
        let figures = compare(&fast, &slow);
        for figure in [Figure::Rate, Figure::P50, Figure::P99] {
            assert_eq!(finding(&figures, figure), Finding::Worse);
        }
        assert!(figures.iter().all(|compared| compared.is_regression(0.05)));
        assert!(!figures.iter().any(|compared| compared.is_regression(0.50)));
    }

    #[test]
    fn too_few_intervals_cannot_tell() {
        let run = samples::run(&around(1_000)[..SAMPLES_MIN - 1], 50_000);
        assert!(compare(&run, &run).iter().all(|compared| compared.finding() == Finding::Unknown));
        assert!(notes(&run, &run, &[])[0].contains("too few intervals"));
    }

    #[test]
    fn what_only_one_run_knows_is_not_compared() {
        let (a, mut b) =
            (samples::run(&around(1_000), 50_000), samples::run(&around(1_000), 50_000));
        b.server.cpu_us_per_request = Some(1.0);
        assert!(compare(&a, &b).iter().all(|compared| compared.figure != Figure::ServerCpu));
    }

    #[test]
    fn the_servers_cpu_of_one_run_each_is_shown_without_a_finding_and_that_is_said() {
        let mut run = samples::run(&around(1_000), 50_000);
        run.server.cpu_us_per_request = Some(1.0);
        assert_eq!(finding(&compare(&run, &run), Figure::ServerCpu), Finding::Unknown);
        let text = compare_runs(&run, &run).to_text();
        assert!(text.contains("known of each run as a whole only"), "{text}");
    }

    #[test]
    fn a_percentile_of_all_batches_is_that_of_the_whole_run() {
        let run = samples::run(&around(1_000), 50_000);
        let batches = Batches::of(&run);
        let all: Vec<usize> = (0..batches.len()).collect();
        let mut whole = Latency::default().histogram();
        for interval in run.measured() {
            whole.add(interval.histograms.latency.decode()).unwrap();
        }
        for quantile in [0.5, 0.99] {
            let expected = whole.value_at_quantile(quantile) as f64;
            assert_eq!(batches.quantile(&all, quantile), expected);
        }
    }

    #[test]
    fn loads_that_differ_are_named() {
        let run = samples::run(&around(1_000), 50_000);
        let mut other = run.config.clone();
        other.set("pipeline", 7.into());
        other.set("seed", 7.into());
        assert_eq!(differences(&run.config, &other), ["pipeline is 1 in A and 7 in B"]);
    }

    #[test]
    fn a_setting_that_an_older_file_lacks_is_no_difference() {
        let run = samples::run(&around(1_000), 50_000);
        let mut newer = run.config.clone();
        newer.set("a_new_setting", 7.into());
        assert!(differences(&run.config, &newer).is_empty());
        assert!(differences(&newer, &run.config).is_empty());
    }

    #[test]
    fn tolerances_are_percent() {
        assert_eq!(parse_tolerance("5"), Ok(0.05));
        assert_eq!(parse_tolerance("2.5 %"), Ok(0.025));
        for text in ["", "much", "-1", "100", "NaN"] {
            assert!(parse_tolerance(text).is_err(), "{text}");
        }
    }
}
