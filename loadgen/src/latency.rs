//! How long requests take: one HDR histogram in nanoseconds, kept per thread and merged by
//! addition.
//!
//! Percentiles are never averaged. Values are exact to three significant digits, up to [`LONGEST`].

use std::{fmt, time::Duration};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// What takes longer is recorded as this long.
pub(crate) const LONGEST: Duration = Duration::from_secs(3600);
const SIGNIFICANT_DIGITS: u8 = 3;

/// The distribution of many times.
#[derive(Clone)]
pub struct Latency {
    histogram: Histogram<u64>,
}

impl Latency {
    /// Makes an empty distribution. Allocates once: recording never does.
    pub(crate) fn new() -> Self {
        let longest = u64::try_from(LONGEST.as_nanos()).expect("an hour fits");
        let histogram = Histogram::new_with_bounds(1, longest, SIGNIFICANT_DIGITS)
            .expect("the bounds are constants");
        Self { histogram }
    }

    /// Records `count` requests that took the same time.
    #[inline]
    pub(crate) fn record(&mut self, nanos: u64, count: u64) {
        self.histogram.saturating_record_n(nanos, count);
    }

    /// Adds all that `other` has recorded.
    pub(crate) fn add(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("both have the same bounds");
    }

    pub(crate) fn clear(&mut self) {
        self.histogram.reset();
    }

    /// How many times are recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// Takes the usual percentiles. All are zero if nothing is recorded.
    #[must_use]
    pub fn percentiles(&self) -> Percentiles {
        let at = |quantile| self.histogram.value_at_quantile(quantile);
        Percentiles {
            p50: at(0.50),
            p90: at(0.90),
            p99: at(0.99),
            p99_9: at(0.999),
            max: self.histogram.max(),
        }
    }
}

impl fmt::Debug for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Latency")
            .field("count", &self.count())
            .field("percentiles", &self.percentiles())
            .finish()
    }
}

/// Percentiles in nanoseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half of the requests took at most this long.
    pub p50: u64,
    /// Nine of ten.
    pub p90: u64,
    /// 99 of 100.
    pub p99: u64,
    /// 999 of 1,000.
    pub p99_9: u64,
    /// The longest.
    pub max: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_recorded_is_all_zeros() {
        assert_eq!(Latency::new().percentiles(), Percentiles::default());
    }

    #[test]
    fn percentiles_are_exact_to_three_digits() {
        let mut latency = Latency::new();
        for micros in 1..=1_000 {
            latency.record(micros * 1_000, 1);
        }
        let Percentiles { p50, p90, p99, p99_9, max } = latency.percentiles();
        for (found, exact) in
            [(p50, 500_000), (p90, 900_000), (p99, 990_000), (p99_9, 999_000), (max, 1_000_000)]
        {
            assert!(found.abs_diff(exact) <= exact / 1_000, "{found} is not near {exact}");
        }
    }

    #[test]
    fn merging_is_recording_in_one() {
        let (mut one, mut other, mut both) = (Latency::new(), Latency::new(), Latency::new());
        for nanos in [100, 20_000, 3_000_000] {
            one.record(nanos, 64);
            other.record(nanos * 7, 3);
            both.record(nanos, 64);
            both.record(nanos * 7, 3);
        }
        one.add(&other);
        assert_eq!(one.percentiles(), both.percentiles());
        assert_eq!(one.count(), 3 * 67);
    }

    #[test]
    fn what_is_too_long_counts_as_the_longest() {
        let mut latency = Latency::new();
        latency.record(u64::MAX, 1);
        let longest = u64::try_from(LONGEST.as_nanos()).unwrap();
        assert!(latency.percentiles().max.abs_diff(longest) <= longest / 1_000);
    }
}
