//! Two runs side by side: how far B is from A, and how sure that is.
//!
//! Within a run the spread is known from its intervals. Neighbouring intervals resemble each other,
//! so they are first joined to at most [`BATCHES_MAX`] batches, and batches are resampled. A
//! percentile of a resample is that of all its requests together: percentiles are never averaged.
//!
//! A request that was not answered took longer than any other, as for `--slo`: a server that closes
//! the connections of its slow requests is not the faster one for it. Failures are figures, too,
//! and none is a value. They are compared as shares of what was due, as if each happened by itself.
//!
//! What such intervals cannot know is how much one run differs from the next, because of where
//! memory lies or what else the machine does. The text says so; `loadgen ab` is the answer.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use clap::Args;

use crate::{
    measure::{
        bootstrap::{self, Bounds, CONFIDENCE_PERCENT, SAMPLES_MIN},
        latency::Latency,
    },
    plan::{Plan, slo},
    report::{
        comparison::{self, Comparison},
        facts,
        json::{Config, Document, SEED_TEXT, SavedInterval},
        output::Output,
        text,
        verdict::Verdict,
    },
    units,
};

const COULD_NOT_TELL: u8 = 1;
const REGRESSION: u8 = 3;

/// More batches would be shorter than what neighbouring intervals have in common.
const BATCHES_MAX: usize = 30;
/// What one figure is at most to the other, as a logarithm: further apart are only those of which
/// one is zero, or infinite.
const LOG_RATIO_MAX: f64 = 100.0;

/// What of the configuration makes runs differ for reasons of their own. The rest may differ from
/// run to run.
const INCIDENTAL: [&str; 10] = [
    "seed",
    SEED_TEXT,
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
    /// Exit with 3 if any figure of B is clearly worse, by more than PERCENT [default: 5]
    #[arg(
        long,
        value_name = "PERCENT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "5",
        value_parser = parse_tolerance
    )]
    fail_on_regression: Option<f64>,
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
    Unanswered,
    Unsent,
    Errors,
    Mismatches,
}

/// One figure of both sides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compared {
    pub(crate) figure: Figure,
    /// Infinite: a time of requests that were never answered.
    pub(crate) a: f64,
    pub(crate) b: f64,
    /// How many requests were due on each side, for what is counted.
    pub(crate) due: Option<[u64; 2]>,
    /// Between what the logarithm of B / A lies; for what is counted, the difference of the shares
    /// of what was due. `None`: nobody knows.
    pub(crate) bounds: Option<Bounds>,
}

/// What one can say about a difference.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Finding {
    Better,
    Worse,
    /// It may as well be chance.
    NoDifference,
    /// It did not happen on either side.
    None,
    /// There is too little to tell.
    Unknown,
}

impl Arguments {
    /// Returns the comparison in words, and the exit code.
    pub(crate) fn carry_out(&self) -> Result<(String, u8), String> {
        let (a, b) = (Document::read(&self.a)?, Document::read(&self.b)?);
        let outputs = Output::open_all(&self.output)?;
        let comparison = compare_runs(&a, &b);
        let mut exit_code = Output::write_all(outputs, &comparison);
        let mut text = comparison.to_text();
        if let Some(tolerance) = self.fail_on_regression {
            let has_spread = has_spread(&a) && has_spread(&b);
            let (sentence, code) = regression(&compare(&a, &b), has_spread, tolerance);
            text += &sentence;
            exit_code = exit_code.max(code);
        }
        Ok((text, exit_code))
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
        let (sentence, exit_code) = regression(&figures, has_spread(run), tolerance);
        (text + &sentence, exit_code)
    }
}

/// Whether B is clearly worse by more than `tolerance`, as a sentence and an exit code.
fn regression(figures: &[Compared], has_spread: bool, tolerance: f64) -> (String, u8) {
    let percent = tolerance * 100.0;
    let is_regression = |compared: &&Compared| compared.is_regression(tolerance);
    let worse: Vec<&str> =
        figures.iter().filter(is_regression).map(|compared| compared.figure.name()).collect();
    let (verdict, exit_code) = match worse.as_slice() {
        [] if !has_spread => ("cannot tell: too few intervals".to_owned(), COULD_NOT_TELL),
        [] => (format!("nothing is clearly worse by more than {percent} %"), 0),
        worse => {
            let worse = worse.join(", ");
            (format!("clearly worse by more than {percent} %: {worse}"), REGRESSION)
        }
    };
    (format!("Regression: {verdict}.\n"), exit_code)
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
    pub(crate) const ALL: [Self; 8] = [
        Self::Rate,
        Self::P50,
        Self::P99,
        Self::ServerCpu,
        Self::Unanswered,
        Self::Unsent,
        Self::Errors,
        Self::Mismatches,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::P50 => "latency p50",
            Self::P99 => "latency p99",
            Self::ServerCpu => "server CPU",
            Self::Unanswered => "unanswered",
            Self::Unsent => "never sent",
            Self::Errors => "errors",
            Self::Mismatches => "mismatches",
        }
    }

    /// This figure of a run. `None`: nobody has measured it.
    pub(crate) fn of(self, run: &Document) -> Option<f64> {
        Some(match self {
            Self::Rate => run.rate,
            Self::P50 => latency_at(run, 0.50, run.latency_ns.p50)?,
            Self::P99 => latency_at(run, 0.99, run.latency_ns.p99)?,
            Self::ServerCpu => run.server.cpu_us_per_request?,
            Self::Unanswered => run.unanswered as f64,
            Self::Unsent => run.unsent as f64,
            Self::Errors => run.errors as f64,
            Self::Mismatches => run.mismatches as f64,
        })
    }

    /// Whether it counts failures, which are a share of what was due.
    pub(crate) fn is_count(self) -> bool {
        matches!(self, Self::Unanswered | Self::Unsent | Self::Errors | Self::Mismatches)
    }

    pub(crate) fn in_words(self, value: f64) -> String {
        match self {
            Self::Rate => format!("{}/s", units::rate(value)),
            Self::P50 | Self::P99 if value.is_infinite() => "never answered".to_owned(),
            Self::P50 | Self::P99 => units::time(units::whole(value)),
            Self::ServerCpu => units::micros(value),
            _ => units::grouped(units::whole(value)),
        }
    }

    fn is_better_when_higher(self) -> bool {
        self == Self::Rate
    }
}

/// The latency at a quantile of all requests, of which those took longest that were not answered.
/// `answered` is that of the others.
fn latency_at(run: &Document, quantile: f64, answered: u64) -> Option<f64> {
    match (run.lost(), run.latency_ns.max) {
        (0, 0) => None,
        (0, _) => Some(answered as f64),
        (lost, _) => {
            let latency = Latency::from(&run.histograms.latency.decode());
            Some(slo::quantile_with_lost(&latency, quantile, lost))
        }
    }
}

/// How far two values are apart that may be zero, or infinite.
pub(crate) fn log_ratio(a: f64, b: f64) -> f64 {
    if a == b { 0.0 } else { (b / a).ln().clamp(-LOG_RATIO_MAX, LOG_RATIO_MAX) }
}

impl Compared {
    pub(crate) fn finding(&self) -> Finding {
        if self.figure.is_count() && self.a + self.b == 0.0 {
            return Finding::None;
        }
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
        self.bounds.is_some_and(|Bounds { low, high }| match self.shares() {
            Some([a, _]) => low > a * tolerance,
            None if self.figure.is_better_when_higher() => high.exp() < 1.0 - tolerance,
            None => low.exp() > 1.0 + tolerance,
        })
    }

    /// What is counted, as a share of what was due.
    pub(crate) fn shares(&self) -> Option<[f64; 2]> {
        let [a, b] = self.due?;
        Some([self.a / a.max(1) as f64, self.b / b.max(1) as f64])
    }

    /// Its name, both values, and how far B is from A.
    pub(crate) fn in_words(&self) -> [String; 4] {
        let [a, b] = [self.a, self.b].map(|value| self.figure.in_words(value));
        let name = self.figure.name().to_owned();
        if let Some(shares) = self.shares() {
            if self.finding() == Finding::None {
                return [name, a, b, String::new()];
            }
            let [of_a, of_b] = shares.map(|share| match share {
                0.0 => String::new(),
                share => format!(" ({:.2} %)", share * 100.0),
            });
            let bounds = self.bounds.map(|Bounds { low, high }| {
                format!(" ({:+.1} to {:+.1})", low * 100.0, high * 100.0)
            });
            let difference = (shares[1] - shares[0]) * 100.0;
            let difference = format!("{difference:+.1} points{}", bounds.unwrap_or_default());
            return [name, a + &of_a, b + &of_b, difference];
        }
        let ratio = if self.a == self.b { 1.0 } else { self.b / self.a };
        let bounds = self.bounds.filter(|_| ratio.is_finite()).map(|Bounds { low, high }| {
            format!(" ({:+.1} to {:+.1})", low.exp_m1() * 100.0, high.exp_m1() * 100.0)
        });
        let bounds = format!("{:+.1} %{}", (ratio - 1.0) * 100.0, bounds.unwrap_or_default());
        [name, a, b, bounds]
    }
}

impl Finding {
    pub(crate) fn in_words(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::NoDifference => "no difference detected",
            Self::None => "none on either side",
            Self::Unknown => "cannot tell",
        }
    }
}

/// Compares the figures of two runs that both have them.
fn compare(a: &Document, b: &Document) -> Vec<Compared> {
    let (a_batches, b_batches) = (Batches::of(a), Batches::of(b));
    let both = |figure: Figure| Some((figure, figure.of(a)?, figure.of(b)?));
    let figures = Figure::ALL.into_iter().filter_map(both);
    let of_figure = |(figure, a_value, b_value): (Figure, f64, f64)| {
        let (due, bounds) = if figure.is_count() {
            let due = [a.due(), b.due()];
            (Some(due), share_bounds([a_value, b_value], due))
        } else {
            (
                None,
                statistic(figure).and_then(|of| {
                    let ratio_of =
                        |[a, b]: [&[usize]; 2]| log_ratio(of(&a_batches, a), of(&b_batches, b));
                    let bounds = bootstrap::bounds([a_batches.len(), b_batches.len()], ratio_of)?;
                    // The intervals know how much a run scatters. They need not agree with the
                    // whole on what it is: a drain lies in the last of them.
                    let [a_all, b_all] =
                        [&a_batches, &b_batches].map(|all| (0..all.len()).collect::<Vec<_>>());
                    let shift = log_ratio(a_value, b_value) - ratio_of([&a_all, &b_all]);
                    Some(Bounds { low: bounds.low + shift, high: bounds.high + shift })
                }),
            )
        };
        Compared { figure, a: a_value, b: b_value, due, bounds }
    };
    figures.map(of_figure).collect()
}

/// Between what the difference of two shares lies: Newcombe's interval, which holds for counts of
/// zero as well. Failures are taken to be independent of each other. `None` where nothing was due.
fn share_bounds(counts: [f64; 2], due: [u64; 2]) -> Option<Bounds> {
    let wilson = |count: f64, due: u64| {
        // A request may cost several errors.
        let due = Some(due as f64).filter(|&due| due > 0.0)?.max(count);
        let (share, z2) = (count / due, bootstrap::NORMAL_QUANTILE.powi(2));
        let middle = share + z2 / (2.0 * due);
        let spread = (z2 * (share * (1.0 - share) / due + z2 / (4.0 * due * due))).sqrt();
        let scale = 1.0 + z2 / due;
        Some((share, (middle - spread) / scale, (middle + spread) / scale))
    };
    let (a, a_low, a_high) = wilson(counts[0], due[0])?;
    let (b, b_low, b_high) = wilson(counts[1], due[1])?;
    Some(Bounds {
        low: b - a - (b - b_low).hypot(a_high - a),
        high: b - a + (b_high - b).hypot(a - a_low),
    })
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
    let doubts = [("A", a), ("B", b)].into_iter().filter(|(_, run)| {
        matches!(run.verdict, Verdict::ClientLimited | Verdict::Overloaded | Verdict::Disturbed)
    });
    let doubts = doubts.map(|(name, run)| format!("{name} was {}", run.verdict.word())).collect();
    Comparison::new(sides, compared, notes, doubts)
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
    notes.extend(note_on_failures(compared));
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

/// How failures are compared, if there are any.
pub(crate) fn note_on_failures(compared: &[Compared]) -> Option<String> {
    let mut counted = compared.iter().filter(|one| one.figure.is_count());
    counted.any(|one| one.finding() != Finding::None).then(|| {
        "In the percentiles, a request that was not answered took longer than any other. Failures are \
         compared as shares of the requests that were due, in percentage points, as if each \
         happened by itself."
            .to_owned()
    })
}

/// How to take a figure of some batches together. `None`: nothing tells it of a part of a run.
fn statistic(figure: Figure) -> Option<fn(&Batches, &[usize]) -> f64> {
    match figure {
        Figure::Rate => Some(Batches::rate),
        Figure::P50 => Some(|batches, drawn| batches.quantile(drawn, 0.50)),
        Figure::P99 => Some(|batches, drawn| batches.quantile(drawn, 0.99)),
        _ => None,
    }
}

/// The measured part of a run in a few pieces of similar length.
#[derive(Debug)]
struct Batches {
    /// Every value that was recorded, in nanoseconds and ascending.
    values: Vec<u64>,
    batches: Vec<Batch>,
    /// How many requests were due in the whole run for each that was answered.
    due_per_answer: f64,
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
                    requests: intervals.iter().map(|interval| interval.answered()).sum(),
                    seconds: intervals.iter().map(|interval| interval.length_s).sum(),
                    cumulated: cumulated.collect(),
                }
            })
            .collect();
        let answered: u64 = histograms.iter().map(|(_, sum)| sum.len()).sum();
        let due_per_answer = (answered + run.lost()) as f64 / answered as f64;
        Self { values, batches, due_per_answer }
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
        // Those that were not answered are spread evenly over the run.
        let quantile = quantile * self.due_per_answer;
        let last = self.values.len().checked_sub(1).filter(|_| quantile <= 1.0);
        let Some(last) = last.filter(|&last| at_most(last) > 0) else {
            return f64::INFINITY;
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
    use crate::report::{json::samples, output::Forms};

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
            let expected = match compared.figure.is_count() {
                true => Finding::None,
                false => Finding::NoDifference,
            };
            assert_eq!(compared.finding(), expected, "{compared:?}");
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
        let mut measured = figures.iter().filter(|compared| !compared.figure.is_count());
        assert!(measured.all(|compared| compared.is_regression(0.05)));
        assert!(!figures.iter().any(|compared| compared.is_regression(0.50)));
    }

    #[test]
    fn too_few_intervals_cannot_tell() {
        let run = samples::run(&around(1_000)[..SAMPLES_MIN - 1], 50_000);
        let figures = compare(&run, &run);
        let mut measured = figures.iter().filter(|compared| !compared.figure.is_count());
        assert!(measured.all(|compared| compared.finding() == Finding::Unknown));
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

    /// A run that lost a request of twenty, with its connection.
    fn lossy() -> Document {
        let mut run = samples::run(&around(1_000), 50_000);
        run.unanswered = run.requests / 19;
        (run.errors, run.errors_by_kind.lost) = (run.unanswered, run.unanswered);
        run.verdict = Verdict::Errors;
        run
    }

    /// One whose server never answered.
    fn silent() -> Document {
        let mut run = samples::run(&[0; 20], 50_000);
        run.unanswered = 10;
        run.verdict = Verdict::Failed;
        run
    }

    #[test]
    fn requests_that_were_lost_took_longer_than_those_that_were_late() {
        // Twice as long at any percentile of those that were answered.
        let (late, lossy) = (samples::run(&around(1_000), 100_000), lossy());
        let figures = compare(&late, &lossy);
        for figure in [Figure::P99, Figure::Unanswered, Figure::Errors] {
            assert_eq!(finding(&figures, figure), Finding::Worse, "{figures:?}");
        }
        assert_eq!(finding(&figures, Figure::P50), Finding::Better);
        let p99 = figures.iter().find(|one| one.figure == Figure::P99).unwrap();
        assert!(p99.b.is_infinite() && p99.is_regression(0.05), "{p99:?}");
        let back = compare(&lossy, &late);
        for figure in [Figure::P99, Figure::Unanswered, Figure::Errors] {
            assert_eq!(finding(&back, figure), Finding::Better, "{back:?}");
        }
    }

    #[test]
    fn a_server_that_never_answers_is_worse_in_everything() {
        let good = samples::run(&around(1_000), 50_000);
        let figures = compare(&good, &silent());
        for figure in [Figure::Rate, Figure::P50, Figure::P99, Figure::Unanswered] {
            assert_eq!(finding(&figures, figure), Finding::Worse, "{figures:?}");
        }
        assert_eq!(regression(&figures, false, 0.05).1, REGRESSION);
        let (silent, silent_too) = (silent(), silent());
        for one in compare(&silent, &silent_too) {
            assert!(matches!(one.finding(), Finding::NoDifference | Finding::None), "{one:?}");
        }
    }

    #[test]
    fn every_form_says_that_lost_requests_are_worse() {
        let comparison = compare_runs(&samples::run(&around(1_000), 100_000), &lossy());
        for (extension, form) in Comparison::FORMS {
            let text = form(&comparison);
            for words in ["never answered", "unanswered", "worse", "percentage points"] {
                assert!(text.contains(words), "{words} is not in .{extension}:\n{text}");
            }
        }
        let text = comparison.to_text();
        assert!(text.contains("+inf %") && text.contains("+5.0 points ("), "{text}");
    }

    #[test]
    fn an_estimate_lies_within_its_own_interval_whatever_the_drain() {
        let a = samples::run(&around(1_000), 50_000);
        // The answers of the last second came much later: the rate is that of the measured time.
        let mut late = a.clone();
        late.intervals.last_mut().unwrap().length_s += 15.0;
        // Little came during many more intervals.
        let mut slow = a.clone();
        let drain = SavedInterval { requests: 1, ..a.intervals[1].clone() };
        slow.intervals.extend(vec![drain; 40]);
        for b in [late, slow] {
            for one in compare(&a, &b).iter().filter(|one| !one.figure.is_count()) {
                let Bounds { low, high } = one.bounds.unwrap();
                let estimate = log_ratio(one.a, one.b);
                assert!(low <= estimate && estimate <= high, "{one:?}");
            }
        }
    }

    #[test]
    fn shares_are_told_apart_as_their_counts_allow() {
        // Newcombe (1998), method 10, with the normal quantile of 99 %: by hand.
        let bounds = share_bounds([0.0, 10.0], [200, 200]).unwrap();
        assert!((bounds.low - 0.0085).abs() < 2e-3 && bounds.high > 0.1, "{bounds:?}");
        let chance = share_bounds([0.0, 1.0], [200, 200]).unwrap();
        assert!(chance.low < 0.0 && chance.high > 0.0, "{chance:?}");
        assert_eq!(share_bounds([0.0, 0.0], [0, 200]), None);
    }

    #[test]
    fn a_doubtful_run_is_named_with_the_finding() {
        let run = samples::run(&around(1_000), 50_000);
        let mut disturbed = samples::run(&around(1_200), 40_000);
        disturbed.verdict = Verdict::Disturbed;
        let page = Comparison::FORMS[2].1(&compare_runs(&run, &disturbed));
        assert!(page.contains("latency p99</strong>, but B was disturbed"), "{page}");
    }

    #[test]
    fn a_percentile_of_all_batches_is_that_of_the_whole_run() {
        // Of all requests, also where some of them were lost.
        let lossy = lossy();
        let batches = Batches::of(&lossy);
        let all: Vec<usize> = (0..batches.len()).collect();
        for (quantile, figure) in [(0.5, Figure::P50), (0.99, Figure::P99)] {
            assert_eq!(Some(batches.quantile(&all, quantile)), figure.of(&lossy));
        }
        let run = samples::run(&around(1_000), 50_000);
        let batches = Batches::of(&run);
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
