//! What a run must reach: conditions such as `p99<1ms`, several separated by commas.
//!
//! | Written                    | Means                                                            |
//! |----------------------------|------------------------------------------------------------------|
//! | `p50`, `p99.9`, `max`      | latency; a request that was not answered took longer than any    |
//! | `errors`, `mismatches`,    | how many there were                                              |
//! | `unanswered`, `unsent`     |                                                                  |
//! | `rate`                     | answered requests per second; that of the timetable, if the      |
//! |                            | server kept up with it and answered everything                   |
//! | `<` `<=` `==` `>=` `>`     | how it must compare with the value: `1ms`, `0`, `10k`            |

use std::{fmt, str::FromStr};

use crate::{
    measure::latency::Latency,
    plan::rate::Rate,
    report::{Report, verdict::Verdict},
    units,
};

/// Conditions that a run must meet, all of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Slo {
    /// At least one.
    conditions: Vec<Condition>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq)]
struct Condition {
    text: String,
    figure: Figure,
    comparison: Comparison,
    limit: f64,
}

/// What is compared. Times are nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Figure {
    Quantile(f64),
    Errors,
    Mismatches,
    Unanswered,
    Unsent,
    Rate,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Comparison {
    Less,
    AtMost,
    Equal,
    AtLeast,
    More,
}

/// Whether a run met one condition.
#[derive(Clone, Debug, PartialEq)]
pub struct SloOutcome {
    /// The condition, as it was written.
    pub condition: String,
    /// What the run reached; times in nanoseconds. Infinite if too many requests were not answered.
    pub reached: f64,
    /// What it reached, for people.
    pub reached_text: String,
    /// Whether that meets the condition.
    pub is_met: bool,
}

impl Slo {
    /// Compares a report with the conditions, one by one.
    #[must_use]
    pub fn judge(&self, report: &Report) -> Vec<SloOutcome> {
        self.judge_figures(&Reached::by(report))
    }

    /// Whether conditions are missed only because too little was asked for: all that are missed
    /// have a lower bound, as `rate>=10k` has.
    pub(crate) fn asks_for_more(&self, outcomes: &[SloOutcome]) -> bool {
        let mut missed =
            self.conditions.iter().zip(outcomes).filter(|(_, outcome)| !outcome.is_met).peekable();
        missed.peek().is_some()
            && missed.all(|(condition, outcome)| match condition.comparison {
                Comparison::AtLeast | Comparison::More => true,
                Comparison::Equal => outcome.reached < condition.limit,
                Comparison::Less | Comparison::AtMost => false,
            })
    }

    /// Compares what was reached with the conditions, one by one.
    pub(crate) fn judge_figures(&self, reached: &Reached<'_>) -> Vec<SloOutcome> {
        self.conditions.iter().map(|condition| condition.judge(reached)).collect()
    }
}

/// The figures that conditions are about.
#[derive(Debug)]
pub(crate) struct Reached<'a> {
    pub(crate) latency: &'a Latency,
    pub(crate) errors: u64,
    pub(crate) timeouts: u64,
    pub(crate) mismatches: u64,
    pub(crate) unanswered: u64,
    pub(crate) unsent: u64,
    pub(crate) throughput: Throughput,
}

/// What decides which rate the server has reached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Throughput {
    /// Answered requests per second of the measured time.
    pub(crate) measured: f64,
    /// The same, if the time counts in which the last replies were awaited.
    pub(crate) with_drain: f64,
    /// The rate of the timetable. Nothing in closed loop.
    pub(crate) asked: Option<f64>,
    /// Whether the server fell behind the timetable.
    pub(crate) is_overloaded: bool,
    /// Whether nobody ended the load before its time.
    pub(crate) is_whole: bool,
}

impl<'a> Reached<'a> {
    fn by(report: &'a Report) -> Self {
        let counts = &report.counts;
        Self {
            latency: &report.latency,
            errors: counts.errors.total(),
            timeouts: counts.errors.timeouts,
            mismatches: counts.mismatches.total(),
            unanswered: counts.unanswered,
            unsent: counts.unsent,
            throughput: Throughput::of(report),
        }
    }

    /// How many requests per second the server has answered.
    ///
    /// Where it has kept up with a timetable and answered everything, that is the rate of the
    /// timetable: neither chance, as with random arrivals, nor the time that the last reply took
    /// makes it less. Where it has not kept up, what came after the load counts with its time.
    fn rate(&self) -> f64 {
        let Throughput { measured, with_drain, asked, is_overloaded, is_whole } = self.throughput;
        let wrong = self.unsent + self.unanswered + self.timeouts + self.mismatches;
        match asked {
            Some(_) if is_overloaded => with_drain,
            Some(asked) if is_whole && wrong == 0 => measured.max(asked),
            _ => measured,
        }
    }
}

impl Throughput {
    fn of(report: &Report) -> Self {
        let time = report.duration + report.drain;
        Self {
            measured: report.rate(),
            with_drain: per_second(report.counts.requests, time.as_secs_f64()),
            asked: (report.plan.rate != Rate::Max).then(|| report.plan.rate.mean()),
            is_overloaded: report.verdict == Verdict::Overloaded,
            is_whole: !report.was_stopped,
        }
    }
}

impl FromStr for Slo {
    type Err = String;

    /// Reads what the table at the top says. The error is a sentence without subject.
    fn from_str(text: &str) -> Result<Self, String> {
        let conditions = text.split(',').map(|text| text.trim().parse());
        Ok(Self { conditions: conditions.collect::<Result<_, _>>()? })
    }
}

impl fmt::Display for Slo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<_> = self.conditions.iter().map(|condition| &*condition.text).collect();
        f.write_str(&texts.join(","))
    }
}

impl Condition {
    fn judge(&self, figures: &Reached<'_>) -> SloOutcome {
        let reached = match self.figure {
            Figure::Quantile(quantile) => {
                let lost = figures.unanswered + figures.unsent + figures.timeouts;
                quantile_with_lost(figures.latency, quantile, lost)
            }
            Figure::Errors => figures.errors as f64,
            Figure::Mismatches => figures.mismatches as f64,
            Figure::Unanswered => figures.unanswered as f64,
            Figure::Unsent => figures.unsent as f64,
            Figure::Rate => figures.rate(),
        };
        let is_met = match self.comparison {
            Comparison::Less => reached < self.limit,
            Comparison::AtMost => reached <= self.limit,
            Comparison::Equal => reached == self.limit,
            Comparison::AtLeast => reached >= self.limit,
            Comparison::More => reached > self.limit,
        };
        let reached_text = match self.figure {
            Figure::Quantile(_) if reached.is_infinite() => "never answered".to_owned(),
            Figure::Quantile(_) => units::time_of_nanos_beside(reached, self.limit),
            _ => units::rate_beside(reached, self.limit),
        };
        SloOutcome { condition: self.text.clone(), reached, reached_text, is_met }
    }
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("has `{text}` in it; write for example p99<1ms, errors==0, rate>=10k");
        let start = text.find(['<', '=', '>']).ok_or_else(wrong)?;
        let (name, rest) = text.split_at(start);
        let comparisons = [
            ("<=", Comparison::AtMost),
            (">=", Comparison::AtLeast),
            ("==", Comparison::Equal),
            ("<", Comparison::Less),
            (">", Comparison::More),
        ];
        let (limit, comparison) = comparisons
            .into_iter()
            .find_map(|(sign, comparison)| Some((rest.strip_prefix(sign)?.trim(), comparison)))
            .ok_or_else(wrong)?;
        let figure = match name.trim() {
            "max" => Figure::Quantile(1.0),
            "errors" => Figure::Errors,
            "mismatches" => Figure::Mismatches,
            "unanswered" => Figure::Unanswered,
            "unsent" => Figure::Unsent,
            "rate" => Figure::Rate,
            name => {
                let percent = name.strip_prefix('p').and_then(|percent| percent.parse().ok());
                let percent: f64 = percent.ok_or_else(wrong)?;
                if !(0.0..=100.0).contains(&percent) {
                    return Err(wrong());
                }
                Figure::Quantile(percent / 100.0)
            }
        };
        let limit = match figure {
            Figure::Quantile(_) => {
                units::parse_time(limit).map(|time| time.as_nanos() as f64).map_err(|_| wrong())?
            }
            _ => units::parse_rate(limit).map_err(|_| wrong())?,
        };
        Ok(Self { text: text.to_owned(), figure, comparison, limit })
    }
}

/// So many in so much time. Nothing at all has no rate.
pub(crate) fn per_second(requests: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { requests as f64 / seconds } else { 0.0 }
}

/// The latency at a quantile of all requests, where `lost` of them took longer than any other.
pub(crate) fn quantile_with_lost(latency: &Latency, quantile: f64, lost: u64) -> f64 {
    let answered = latency.count() as f64;
    let rank = quantile * (answered + lost as f64);
    // Of nothing at all it cannot be said either that it was fast.
    if answered == 0.0 || lost > 0 && rank > answered {
        return f64::INFINITY;
    }
    latency.histogram().value_at_quantile(rank / answered) as f64
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;

    use super::*;

    #[test]
    fn conditions_are_read_and_written_back() {
        for text in ["p99<1ms", "p99.9<=10ms,errors==0,rate>10k", "max<1s,unsent==0"] {
            assert_eq!(text.parse::<Slo>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_condition_says_what_would_be() {
        for text in ["", "p99", "p99<", "p99<5", "p101<1ms", "speed>1", "errors=0", "rate>fast"] {
            let error = text.parse::<Slo>().unwrap_err();
            assert!(error.contains("p99<1ms"), "{text}: {error}");
        }
    }

    fn judged(slo: &str, rate: f64) -> (Slo, Vec<SloOutcome>) {
        let mut histogram = Histogram::new(3).unwrap();
        histogram.record(1_000_000).unwrap();
        let latency = &Latency::from(&histogram);
        let (errors, timeouts, mismatches, unanswered, unsent) = (0, 0, 0, 0, 0);
        let throughput = Throughput {
            measured: rate,
            with_drain: rate,
            asked: None,
            is_overloaded: false,
            is_whole: true,
        };
        let reached =
            Reached { latency, errors, timeouts, mismatches, unanswered, unsent, throughput };
        let slo: Slo = slo.parse().unwrap();
        let outcomes = slo.judge_figures(&reached);
        (slo, outcomes)
    }

    #[test]
    fn what_was_reached_never_looks_like_a_limit_that_it_is_not() {
        for (slo, is_met, text) in [
            ("rate>=1000", false, "999.6"),
            ("rate<1000", true, "999.6"),
            ("rate>=999.59", true, "1,000"),
            ("rate>=900", true, "1,000"),
        ] {
            let (_, outcomes) = judged(slo, 999.59);
            assert_eq!((outcomes[0].is_met, &*outcomes[0].reached_text), (is_met, text), "{slo}");
        }
    }

    #[test]
    fn a_lower_bound_that_is_missed_asks_for_more() {
        for (slo, asks_for_more) in [
            ("rate>=150", true),
            ("rate>150,errors==0", true),
            ("rate==150", true),
            ("rate==50", false),
            ("rate>=150,p99<10us", false),
            ("p99<10us", false),
            ("p99>1s", true),
            ("rate>=50", false),
        ] {
            let (slo, outcomes) = judged(slo, 100.0);
            assert_eq!(slo.asks_for_more(&outcomes), asks_for_more, "{slo}");
        }
    }

    #[test]
    fn requests_without_an_answer_took_longer_than_any_other() {
        let mut histogram = Histogram::new(3).unwrap();
        (1..=90).for_each(|nanos| histogram.record(nanos).unwrap());
        let latency = Latency::from(&histogram);
        assert_eq!(quantile_with_lost(&latency, 0.5, 0), 45.0);
        assert_eq!(quantile_with_lost(&latency, 0.5, 10), 50.0);
        assert_eq!(quantile_with_lost(&latency, 0.9, 10), 90.0);
        assert_eq!(quantile_with_lost(&latency, 0.91, 10), f64::INFINITY);
        assert_eq!(quantile_with_lost(&Latency::default(), 0.5, 0), f64::INFINITY);
    }
}
