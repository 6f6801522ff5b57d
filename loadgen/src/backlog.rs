//! Whether the server keeps up with a rate: what it owes in the end, against what it owes on
//! average.
//!
//! ```text
//! requests due and not answered
//!    |            .  grows: in the end twice the average, or more
//!    |        . '
//!    |    . '
//!    | . ' _ _ _ _ _ steady: in the end as many as on average
//!    +---------------> time
//! ```
//!
//! A pipeline may be deep enough to hold all of that, so that every request is sent in time and
//! answered some time after the load has ended.

use std::time::Duration;

/// What share of the requests that were due a backlog may exceed its average by. One that grows
/// evenly exceeds it by half of its growth, so this is a rate one percent too high.
const GROWTH_SHARE_MAX: f64 = 0.005;
/// A machine that is not quiet may stop for so long, also just before the end.
const PAUSE: Duration = Duration::from_millis(20);
/// Loads that are shorter say nothing of it.
const TELLING_TIME: Duration = Duration::from_millis(200);
/// Random arrivals of a certain number take as long as they should, give or take so many standard
/// deviations.
const DEVIATIONS: f64 = 3.0;

/// Requests that were due and not answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backlog {
    /// When the load ended.
    pub(crate) at_end: f64,
    /// On average while it lasted.
    pub(crate) mean: f64,
    /// How many were due, answered or not.
    pub(crate) due: u64,
    /// How long the load lasted.
    pub(crate) load: Duration,
    /// Whether it is a matter of chance when the load should have ended.
    pub(crate) is_end_random: bool,
}

impl Backlog {
    /// Whether the load was too short to tell.
    pub(crate) fn is_untold(&self) -> bool {
        self.load < TELLING_TIME
    }

    /// Whether more is left in the end than the average latency and chance explain.
    pub(crate) fn has_grown(&self) -> bool {
        let due = self.due as f64;
        let paused = due * (PAUSE.as_secs_f64() / self.load.as_secs_f64());
        let random = if self.is_end_random { DEVIATIONS * due.sqrt() } else { 0.0 };
        // What is in flight at one moment is a whole number, and scatters.
        let slack = 1.0 + self.mean.sqrt() + due * GROWTH_SHARE_MAX + paused + random;
        !self.is_untold() && self.at_end - self.mean > slack
    }

    /// What share of the requests that were due was not answered in the end.
    pub(crate) fn share(&self) -> f64 {
        self.at_end / self.due.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers so many requests per second, after a steady time if it can.
    fn backlog(rate: f64, capacity: f64, latency_s: f64, warm_up_s: f64, load_s: f64) -> Backlog {
        let steady = rate * latency_s;
        let growth = (rate - capacity).max(0.0);
        Backlog {
            at_end: steady + growth * (warm_up_s + load_s),
            mean: steady + growth * (warm_up_s + load_s / 2.0),
            due: crate::units::whole(rate * load_s),
            load: Duration::from_secs_f64(load_s),
            is_end_random: false,
        }
    }

    #[test]
    fn a_rate_beyond_what_the_server_can_do_shows_however_far_beyond_it_is() {
        for rate in [115.0, 200.0, 10_000.0] {
            for warm_up_s in [0.0, 2.0] {
                let backlog = backlog(rate, 99.0, 0.001, warm_up_s, 3.0);
                assert!(backlog.has_grown(), "{backlog:?}");
            }
        }
        assert!(backlog(102_000.0, 100_000.0, 0.001, 2.0, 10.0).has_grown());
    }

    #[test]
    fn a_steady_latency_is_no_overload_however_long_it_is() {
        for latency_s in [0.0001, 0.1, 1.0] {
            let backlog = backlog(20_000.0, 20_000.0, latency_s, 2.0, 3.0);
            assert!(!backlog.has_grown(), "{backlog:?}");
        }
    }

    #[test]
    fn a_pause_just_before_the_end_is_no_overload() {
        let mut backlog = backlog(20_000.0, 20_000.0, 0.0001, 2.0, 1.0);
        backlog.at_end += 0.015 * 20_000.0;
        assert!(!backlog.has_grown(), "{backlog:?}");
        backlog.at_end += 0.100 * 20_000.0;
        assert!(backlog.has_grown(), "{backlog:?}");
    }

    #[test]
    fn a_few_requests_more_than_on_average_are_chance() {
        let mut backlog = backlog(5.0, 5.0, 0.1, 0.0, 3.0);
        backlog.at_end = 2.0;
        assert!(!backlog.has_grown(), "{backlog:?}");
    }

    #[test]
    fn a_load_of_a_moment_says_nothing() {
        let backlog = backlog(78_000.0, 60_000.0, 0.0001, 0.0, 0.003);
        assert!(backlog.is_untold() && !backlog.has_grown(), "{backlog:?}");
    }
}
