//! The search for the largest rate that meets the conditions.
//!
//! ```text
//! rate   1k    2k    4k    8k    16k       up, twice as much each time, until one misses
//!                               x          then down again, halving the gap
//!                          12k             until it is as small as asked for
//! ```
//!
//! A condition with a lower bound, such as `rate>=10k`, may be missed because too little is asked
//! for. If nothing else is missed the search goes on upwards.
//!
//! A run counts only if the generator kept the schedule, and on a machine that was not quiet only
//! if it met the conditions all the same. One that does not count is repeated: a moment in which
//! the machine did something else must not end a search. If none counts at a rate, nothing is known
//! about the server there, and what is found is a lower bound.
//!
//! A rate that the server does not keep up with is missed, whatever the conditions are. So no run
//! may be too short to tell: one that a number of requests ends has as many as that takes.

use std::{fmt, time::Duration};

use crate::{
    plan::{Plan, PlanError, Problem, rate::Rate},
    report::{Report, verdict::Verdict},
    run::{self, RunError},
    stop::Stop,
    units,
};

/// No server is asked for more.
const RATE_MAX: f64 = 1e8;
/// The rate below which a server that misses is given up.
const RATE_MIN: f64 = 1.0;
/// The same where time ends a run: with fewer requests than this there is hardly a percentile.
const REQUESTS_MIN: f64 = 10.0;
/// How long a load must last to tell whether the server keeps up with the rate.
const LOAD_MIN: Duration = Duration::from_secs(1);
/// A run of a number of requests that would last longer is not made, unless it is the first.
const RUN_MAX: Duration = Duration::from_secs(60);
/// How often a run is made that does not count.
const TRIES: u32 = 3;

/// How to search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Search {
    /// The first rate, in requests per second.
    pub start: f64,
    /// How large the gap between the best rate that met the conditions and the lowest that did not
    /// may be in the end, as a share of the rate.
    pub precision: f64,
}

/// One run of a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// What was asked for, in requests per second.
    pub rate: f64,
    /// What came of it.
    pub outcome: StepOutcome,
    /// What the run is worth by itself.
    pub verdict: Verdict,
    /// Latency at p99, in nanoseconds. `None`: nothing was answered.
    pub p99: Option<u64>,
}

/// What came of one run of a search.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StepOutcome {
    /// The conditions were met.
    Met,
    /// Only conditions were missed that ask for more, such as `rate>=10k`.
    TooLow,
    /// They were not, or requests were not answered, or the server did not keep up with the rate.
    Missed,
    /// The generator did not keep the schedule, or the machine was not quiet and they were missed.
    Invalid,
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The largest rate that met the conditions. `None`: none did.
    pub rate: Option<f64>,
    /// Whether runs that do not count ended the search, or someone did: then the server may do
    /// more.
    pub is_lower_bound: bool,
    /// Whether someone ended the search before its time.
    pub was_stopped: bool,
    /// The run at that rate, or the last complete one if there is no such rate. Part of a run only
    /// if the search was stopped in the first.
    pub report: Report,
}

impl Search {
    /// Runs `plan` at one rate after the other. `observe` is told of each run.
    ///
    /// Where [`Plan::requests`] is less than a second has of them, a run has as many as that.
    ///
    /// # Errors
    ///
    /// Those of [`run()`](crate::run()), [`RunError::Plan`] if [`Plan::duration`] is less than a
    /// second, and [`RunError::NothingMeasured`].
    pub fn run(
        &self,
        plan: &Plan,
        stop: &Stop,
        observe: &mut dyn FnMut(&Step),
    ) -> Result<Found, RunError> {
        let problems = problems(plan);
        if !problems.is_empty() {
            return Err(PlanError { problems }.into());
        }
        let mut bracket = Bracket::new(self.start, rate_min(plan));
        // The run at the best rate, or the last one.
        let mut best: Option<Report> = None;
        loop {
            let rate = bracket.next_rate();
            let requests = plan.requests.map(|count| count.max(requests_min(rate)));
            let plan = Plan { rate: Rate::Constant(rate), requests, ..plan.clone() };
            let report = match run::run(&plan, stop, &mut |_| {}) {
                Ok(report) if !report.was_stopped => report,
                Err(error) if !stop.is_requested() => return Err(error),
                stopped => return bracket.found_when_stopped(best, stopped),
            };
            let is_met = report.slo.iter().all(|condition| condition.is_met);
            let is_too_low = plan.slo.as_ref().is_some_and(|slo| slo.asks_for_more(&report.slo));
            let outcome = StepOutcome::of(report.verdict, is_met, is_too_low);
            let latency = &report.latency;
            let p99 = (latency.count() > 0).then(|| latency.percentiles().p99);
            observe(&Step { rate, outcome, verdict: report.verdict, p99 });
            bracket.note(rate, outcome);
            let report = match best.take() {
                Some(best) if bracket.met.is_some() && outcome != StepOutcome::Met => best,
                _ => report,
            };
            if bracket.is_narrow(self.precision) {
                let is_lower_bound = bracket.is_invalid_above;
                let rate = bracket.met;
                return Ok(Found { rate, is_lower_bound, was_stopped: false, report });
            }
            best = Some(report);
        }
    }
}

impl Found {
    /// The exit code of a program that ends with this: that of a missed condition if no rate was
    /// found, but wrong bytes come first.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        self.report.verdict.exit_code_where(self.rate.is_none())
    }
}

/// Reads the rate to begin with. The error is a sentence without subject.
pub(crate) fn parse_start(text: &str) -> Result<f64, String> {
    let rate = units::parse_rate(text)?;
    match (RATE_MIN..=RATE_MAX).contains(&rate) {
        true => Ok(rate),
        false => Err(format!(
            "is `{text}`; it must be {} to {} requests per second",
            units::rate(RATE_MIN),
            units::rate(RATE_MAX)
        )),
    }
}

/// What keeps the runs of a search from telling anything.
pub(crate) fn problems(plan: &Plan) -> Vec<Problem> {
    let short = plan.duration.filter(|duration| !duration.is_zero() && *duration < LOAD_MIN);
    let reason = |duration| {
        format!(
            "is {}; a search needs at least {} for each run, or it cannot tell whether the server \
             keeps up with the rate",
            units::time_beside(duration, LOAD_MIN),
            units::time_of(LOAD_MIN)
        )
    };
    short
        .map(|duration| Problem { flag: "--duration", reason: reason(duration) })
        .into_iter()
        .collect()
}

/// The fewest requests with which a run at this rate says something.
fn requests_min(rate: f64) -> u64 {
    units::whole((rate * LOAD_MIN.as_secs_f64()).ceil())
}

/// The rate below which a run of `plan` says nothing, or takes too long.
fn rate_min(plan: &Plan) -> f64 {
    let rate = match (plan.duration, plan.requests) {
        (Some(duration), _) => REQUESTS_MIN / duration.as_secs_f64(),
        (None, Some(requests)) => requests as f64 / RUN_MAX.as_secs_f64(),
        (None, None) => RATE_MIN,
    };
    rate.max(RATE_MIN)
}

impl StepOutcome {
    fn of(verdict: Verdict, are_conditions_met: bool, is_too_low: bool) -> Self {
        match verdict {
            Verdict::ClientLimited => Self::Invalid,
            // Whatever took the CPUs away has not made the server faster.
            Verdict::Ok | Verdict::Disturbed if are_conditions_met => Self::Met,
            Verdict::Ok | Verdict::Disturbed if is_too_low => Self::TooLow,
            Verdict::Disturbed => Self::Invalid,
            _ => Self::Missed,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rate, p99) = (units::rate(self.rate), self.p99.map_or("-".to_owned(), units::time));
        write!(f, "{rate:>11} requests/s  p99 {p99:>8}  ")?;
        match self.outcome {
            StepOutcome::Met => f.write_str("met"),
            StepOutcome::TooLow => f.write_str("too low for a condition"),
            StepOutcome::Missed => f.write_str("missed"),
            StepOutcome::Invalid => write!(f, "does not count: {}", self.verdict.word()),
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.rate, self.is_lower_bound) {
            (Some(rate), _) if self.was_stopped => {
                write!(f, "found        {} requests/s, and maybe more: stopped", units::rate(rate))
            }
            (None, _) if self.was_stopped => {
                f.write_str("found        nothing: stopped before a rate met the conditions")
            }
            (Some(rate), false) => {
                write!(f, "found        {} requests/s meet the conditions", units::rate(rate))
            }
            (Some(rate), true) => {
                write!(f, "found        {} requests/s, and maybe more: ", units::rate(rate))?;
                f.write_str("beyond that no run counts")
            }
            (None, false) => f.write_str("found        no rate meets the conditions"),
            (None, true) => f.write_str("found        nothing: no run counts"),
        }
    }
}

/// What is known: the largest rates that were too low and that met, the smallest that missed.
#[derive(Clone, Copy, Debug)]
struct Bracket {
    start: f64,
    /// No lower rate is tried.
    rate_min: f64,
    too_low: Option<f64>,
    met: Option<f64>,
    missed: Option<f64>,
    /// How many runs at the next rate did not count.
    invalid_tries: u32,
    /// Whether the upper end is where no run counted.
    is_invalid_above: bool,
}

impl Bracket {
    fn new(start: f64, rate_min: f64) -> Self {
        Self {
            start,
            rate_min,
            too_low: None,
            met: None,
            missed: None,
            invalid_tries: 0,
            is_invalid_above: false,
        }
    }

    /// The rate above which to search.
    fn lower_end(&self) -> Option<f64> {
        self.met.or(self.too_low)
    }

    fn next_rate(&self) -> f64 {
        match (self.lower_end(), self.missed) {
            (None, None) => self.start,
            (Some(low), None) => low * 2.0,
            (None, Some(missed)) => missed / 2.0,
            (Some(low), Some(missed)) => f64::midpoint(low, missed),
        }
    }

    /// Takes note of what came of a run at the next rate.
    fn note(&mut self, rate: f64, outcome: StepOutcome) {
        self.invalid_tries += 1;
        if outcome == StepOutcome::Invalid && self.invalid_tries < TRIES {
            return;
        }
        self.invalid_tries = 0;
        match outcome {
            StepOutcome::Met => self.met = Some(rate),
            StepOutcome::TooLow if self.met.is_none() => self.too_low = Some(rate),
            StepOutcome::TooLow | StepOutcome::Missed | StepOutcome::Invalid => {
                self.missed = Some(rate);
                self.is_invalid_above = outcome == StepOutcome::Invalid;
            }
        }
    }

    /// What is known when someone stops the search in the middle of a run.
    fn found_when_stopped(
        &self,
        best: Option<Report>,
        partial: Result<Report, RunError>,
    ) -> Result<Found, RunError> {
        let report = match best {
            Some(report) => report,
            None => partial?,
        };
        if report.counts.requests == 0 && report.was_stopped {
            return Err(RunError::NothingMeasured);
        }
        Ok(Found { rate: self.met, is_lower_bound: true, was_stopped: true, report })
    }

    fn is_narrow(&self, precision: f64) -> bool {
        match (self.lower_end(), self.missed) {
            (Some(low), Some(missed)) => missed - low <= low * precision,
            (Some(low), None) => low >= RATE_MAX,
            (None, Some(missed)) => missed / 2.0 < self.rate_min,
            (None, None) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, time::Duration};

    use super::*;

    fn search(start: f64, mut outcome_at: impl FnMut(f64) -> StepOutcome) -> (Bracket, u32) {
        let mut bracket = Bracket::new(start, 8.0);
        let mut steps = 0;
        while !bracket.is_narrow(0.03) {
            let rate = bracket.next_rate();
            bracket.note(rate, outcome_at(rate));
            steps += 1;
        }
        (bracket, steps)
    }

    #[test]
    fn a_run_on_a_machine_that_was_not_quiet_proves_only_what_it_reached() {
        let of = |verdict, is_met| StepOutcome::of(verdict, is_met, false);
        assert_eq!(of(Verdict::Disturbed, true), StepOutcome::Met);
        assert_eq!(of(Verdict::Disturbed, false), StepOutcome::Invalid);
        assert_eq!(of(Verdict::ClientLimited, true), StepOutcome::Invalid);
        assert_eq!(of(Verdict::Ok, false), StepOutcome::Missed);
        assert_eq!(of(Verdict::Overloaded, true), StepOutcome::Missed);
        let too_low = |verdict| StepOutcome::of(verdict, false, true);
        assert_eq!(too_low(Verdict::Ok), StepOutcome::TooLow);
        assert_eq!(too_low(Verdict::Overloaded), StepOutcome::Missed);
    }

    /// A server that does 588 requests per second, under conditions that no rate below a limit
    /// meets.
    fn above(limit: f64) -> impl Fn(f64) -> StepOutcome {
        move |rate| match rate {
            588.0.. => StepOutcome::Missed,
            _ if rate < limit => StepOutcome::TooLow,
            _ => StepOutcome::Met,
        }
    }

    #[test]
    fn a_rate_that_is_too_low_for_a_condition_is_raised() {
        for start in [10.0, 100.0, 1_000.0] {
            for limit in [150.0, 400.0, 550.0] {
                let (bracket, steps) = search(start, above(limit));
                let met = bracket.met.unwrap_or_else(|| panic!("none from {start} to {limit}"));
                assert!((588.0 / 1.03..=588.0).contains(&met), "{met}");
                assert!(steps <= 20, "{steps} steps from {start}");
            }
            let (bracket, steps) = search(start, above(700.0));
            assert_eq!(bracket.met, None);
            assert!(steps <= 20, "{steps} steps from {start}");
        }
        let (bracket, _) = search(10.0, |_| StepOutcome::TooLow);
        assert_eq!(bracket.met, None);
    }

    #[test]
    fn the_limit_is_found_from_below_and_from_above() {
        for start in [10.0, 1_000.0, 1e6] {
            let (bracket, steps) = search(start, |rate| match rate <= 12_345.0 {
                true => StepOutcome::Met,
                false => StepOutcome::Missed,
            });
            let met = bracket.met.unwrap();
            assert!((12_345.0 / 1.03..=12_345.0).contains(&met), "{met}");
            assert!(!bracket.is_invalid_above);
            assert!(steps <= 20, "{steps} steps from {start}");
        }
    }

    #[test]
    fn where_the_generator_gives_up_the_answer_is_a_lower_bound() {
        let (bracket, _) = search(1_000.0, |rate| match rate <= 12_345.0 {
            true => StepOutcome::Met,
            false => StepOutcome::Invalid,
        });
        assert!(bracket.is_invalid_above);
    }

    #[test]
    fn a_generator_that_falls_behind_now_and_then_changes_nothing() {
        let mut runs = 0;
        let (bracket, _) = search(1_000.0, |rate| {
            runs += 1;
            match runs % TRIES {
                0 if rate <= 12_345.0 => StepOutcome::Met,
                0 => StepOutcome::Missed,
                _ => StepOutcome::Invalid,
            }
        });
        assert!((12_345.0 / 1.03..=12_345.0).contains(&bracket.met.unwrap()), "{bracket:?}");
        assert!(!bracket.is_invalid_above);
    }

    #[test]
    fn a_server_that_always_misses_is_given_up_before_runs_say_nothing() {
        let lowest = Cell::new(f64::INFINITY);
        let (bracket, _) = search(1_000.0, |rate| {
            lowest.set(rate);
            StepOutcome::Missed
        });
        assert_eq!(bracket.met, None);
        assert!((8.0..16.0).contains(&lowest.get()), "{lowest:?}");
    }

    #[test]
    fn a_run_that_time_ends_has_requests_enough_for_a_percentile() {
        let plan = |duration| Plan { duration, ..Plan::default() };
        assert_eq!(rate_min(&plan(Some(Duration::from_secs(2)))), 5.0);
        assert_eq!(rate_min(&plan(Some(Duration::from_secs(60)))), RATE_MIN);
        assert_eq!(rate_min(&plan(None)), RATE_MIN);
    }

    #[test]
    fn a_run_of_a_number_of_requests_lasts_no_longer_than_a_minute_unless_it_is_the_first() {
        let plan = |requests| Plan { duration: None, requests: Some(requests), ..Plan::default() };
        assert_eq!(rate_min(&plan(6_000)), 100.0);
        assert_eq!(rate_min(&plan(6)), RATE_MIN);
        let mut bracket = Bracket::new(50.0, rate_min(&plan(6_000)));
        assert_eq!(bracket.next_rate(), 50.0);
        bracket.note(50.0, StepOutcome::Missed);
        assert!(bracket.is_narrow(0.03));
    }

    #[test]
    fn no_run_is_too_short_to_tell_whether_the_server_keeps_up() {
        let of = |millis| {
            let duration = Some(Duration::from_millis(millis));
            problems(&Plan { duration, ..Plan::default() })
        };
        assert_eq!(of(1_000), []);
        assert!(
            of(999)[0].to_string().starts_with("--duration is 999 ms; a search needs at least")
        );
        assert_eq!(problems(&Plan { duration: None, ..Plan::default() }), []);
        assert_eq!((requests_min(78_000.0), requests_min(0.5)), (78_000, 1));
    }

    #[test]
    fn a_server_that_never_misses_is_given_up_too() {
        let (bracket, _) = search(1_000.0, |_| StepOutcome::Met);
        assert!(bracket.met.unwrap() >= RATE_MAX);
    }
}
