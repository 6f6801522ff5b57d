//! How long replies are awaited once the load has ended.
//!
//! | Known                   | Given up                                                        |
//! |-------------------------|-----------------------------------------------------------------|
//! | `--drain-timeout`       | so long after the load has ended                                |
//! | only `--timeout`        | the same: no request may take longer                            |
//! | how long replies took   | when none has come for three times as long as the slowest took  |
//! | nothing: none has come  | after ten seconds of silence                                    |
//!
//! Without a flag it is never less than a second, and at most half a minute where time or someone
//! has ended the load. A load that a number of requests has ended may have any amount in flight: a
//! flag counts from the last arrival there.

use std::time::Duration;

/// What is awaited at least.
const LEAST: Duration = Duration::from_secs(1);
/// How much longer than the slowest reply so far one may take.
const SLOWEST_FACTOR: u32 = 3;
/// How long the first reply of all may take.
pub(crate) const UNKNOWN: Duration = Duration::from_secs(10);
/// How long draining may take in all if replies keep coming.
const MOST: Duration = Duration::from_secs(30);

/// How patient a run is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// What the flags say.
    pub(crate) limit: Option<Duration>,
}

/// What is known of a drain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drain {
    /// Since the load ended.
    pub(crate) time: Duration,
    /// Since something arrived, or there was nothing to wait for.
    pub(crate) silence: Duration,
    /// How long the slowest reply has taken from when its request was sent.
    pub(crate) slowest: Option<Duration>,
    /// Whether its time or someone has ended the load, and not a number of requests.
    pub(crate) is_cut: bool,
    pub(crate) was_stopped: bool,
}

impl Patience {
    /// Whether no more replies are awaited.
    pub(crate) fn is_over(self, drain: &Drain) -> bool {
        if let Some(limit) = self.limit {
            let waited = if drain.is_cut { drain.time } else { drain.time.min(drain.silence) };
            return waited >= limit;
        }
        let silence_max = match drain.slowest {
            Some(slowest) => slowest.saturating_mul(SLOWEST_FACTOR).max(LEAST),
            None if drain.was_stopped => LEAST,
            None => UNKNOWN,
        };
        let is_silent = drain.time >= LEAST && drain.silence >= silence_max;
        is_silent || drain.is_cut && drain.time >= MOST.max(silence_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// A load that time has ended, whose slowest reply took so long; now it is silent.
    fn drain(slowest: Option<Duration>, time: Duration) -> Drain {
        Drain { time, silence: time, slowest, is_cut: true, was_stopped: false }
    }

    #[test]
    fn a_server_that_was_slow_may_be_slow_again() {
        let patience = Patience { limit: None };
        for slowest in [ms(400), ms(2_000), ms(20_000)] {
            let drain = |time| drain(Some(slowest), time);
            assert!(!patience.is_over(&drain(2 * slowest)), "{slowest:?}");
            assert!(patience.is_over(&drain(3 * slowest)), "{slowest:?}");
        }
        assert!(!patience.is_over(&drain(Some(ms(1)), ms(999))));
        assert!(patience.is_over(&drain(Some(ms(1)), ms(1_000))));
    }

    #[test]
    fn replies_that_keep_coming_are_awaited_but_not_without_end() {
        let patience = Patience { limit: None };
        let coming = |time| Drain { silence: ms(5), ..drain(Some(ms(100)), time) };
        assert!(!patience.is_over(&coming(ms(29_999))));
        assert!(patience.is_over(&coming(ms(30_000))));
        let of_a_number = Drain { is_cut: false, ..coming(ms(600_000)) };
        assert!(!patience.is_over(&of_a_number));
    }

    #[test]
    fn a_server_that_has_never_answered_is_given_up_after_ten_seconds_of_silence() {
        let patience = Patience { limit: None };
        assert!(!patience.is_over(&drain(None, ms(9_999))));
        assert!(patience.is_over(&drain(None, ms(10_000))));
        // The load counts, too.
        let long = Drain { silence: ms(60_000), ..drain(None, ms(999)) };
        assert!(!patience.is_over(&long));
        assert!(patience.is_over(&Drain { time: ms(1_000), ..long }));
        // Someone who stops it does not want to wait.
        let stopped = Drain { was_stopped: true, ..drain(None, ms(1_000)) };
        assert!(patience.is_over(&stopped));
    }

    #[test]
    fn a_flag_is_what_counts() {
        let patience = Patience { limit: Some(ms(300)) };
        for slowest in [None, Some(ms(1)), Some(ms(5_000))] {
            assert!(!patience.is_over(&drain(slowest, ms(299))));
            assert!(patience.is_over(&drain(slowest, ms(300))));
        }
        let coming = Drain { silence: ms(299), ..drain(None, ms(9_000)) };
        assert!(patience.is_over(&coming));
        assert!(!patience.is_over(&Drain { is_cut: false, ..coming }));
    }
}
