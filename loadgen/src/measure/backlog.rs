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
//!
//! If no request takes less than some time, those of the last such time are always in flight, and
//! fewer while the load has not lasted for so long. They are no backlog, however short the load.

use std::time::Duration;

/// What share of the requests that were due a backlog may exceed its average by. One that grows
/// evenly exceeds it by half of its growth, so this is a rate one percent too high.
const GROWTH_SHARE_MAX: f64 = 0.005;
/// A machine that is not quiet may stop for so long, also just before the end.
const PAUSE: Duration = Duration::from_millis(20);
/// Loads that are shorter say nothing of it.
const TELLING_TIME: Duration = Duration::from_millis(200);

/// Requests that were due and not answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backlog {
    /// When the load ended.
    pub(crate) at_end: f64,
    /// On average while it lasted.
    pub(crate) mean: f64,
    /// How many fewer that is because the load had just begun: see [`filling`].
    pub(crate) filling: f64,
    /// How many were due, answered or not.
    pub(crate) due: u64,
    /// How long the load lasted.
    pub(crate) load: Duration,
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
        // What is in flight at one moment is a whole number, and scatters.
        let slack = 1.0 + self.mean.sqrt() + due * GROWTH_SHARE_MAX + paused;
        !self.is_untold() && self.at_end - self.mean - self.filling > slack
    }

    /// What share of the requests that were due was not answered in the end.
    pub(crate) fn share(&self) -> f64 {
        self.at_end / self.due.max(1) as f64
    }
}

/// How many requests were not yet in flight on average over a load of this length, after such a
/// warm-up, because none had lasted for as long as every request takes at least. In seconds.
pub(crate) fn filling(rate: f64, latency_min_s: f64, warm_up_s: f64, load_s: f64) -> f64 {
    let [at_first, at_end] =
        [warm_up_s, warm_up_s + load_s].map(|time| (latency_min_s - time).max(0.0));
    rate * (at_first.powi(2) - at_end.powi(2)) / 2.0 / load_s
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
            filling: 0.0,
            due: crate::units::whole(rate * load_s),
            load: Duration::from_secs_f64(load_s),
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
    fn a_load_that_ends_before_its_replies_come_is_no_overload() {
        let rate = 50.0;
        for latency_s in [0.001, 0.5, 1.0, 2.0, 5.0_f64] {
            for warm_up_s in [0.0, 0.3, 2.0] {
                for load_s in [0.3, 2.0] {
                    let in_flight = |time_s: f64| rate * latency_s.min(warm_up_s + time_s);
                    let looks = (0..1_000).map(|look| in_flight(f64::from(look) * load_s / 1e3));
                    let backlog = Backlog {
                        at_end: in_flight(load_s),
                        mean: looks.sum::<f64>() / 1e3,
                        filling: filling(rate, latency_s, warm_up_s, load_s),
                        due: crate::units::whole(rate * load_s),
                        load: Duration::from_secs_f64(load_s),
                    };
                    assert!(backlog.at_end - backlog.mean - backlog.filling < 0.1, "{backlog:?}");
                }
            }
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
