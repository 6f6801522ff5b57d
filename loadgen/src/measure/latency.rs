//! How long requests took: distributions of times in nanoseconds, kept per thread and merged by
//! addition.
//!
//! A [`Recorder`] is what a thread fills: as large as all its buckets, and never larger. A
//! [`Latency`] is what is kept of it: as large as what was recorded. A long run keeps one per
//! interval on a [`Shelf`], so that it does not grow.
//!
//! Percentiles are never averaged. Values are exact to three significant digits, up to [`LONGEST`].

use std::{fmt, io, time::Duration};

use hdrhistogram::{
    Histogram,
    serialization::{Deserializer, Serializer, V2DeflateSerializer},
};
use serde::{Deserialize, Serialize};

use crate::shelf::{Shelf, Shelved};

/// What takes longer is recorded as this long.
pub(crate) const LONGEST: Duration = Duration::from_secs(3600);
const LONGEST_NANOS: u64 = LONGEST.as_secs() * 1_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;
/// So many digits need buckets that are a `2^10`th of what they hold, or narrower.
const PRECISION_BITS: u32 = 10;

/// A distribution that grows: a count for each bucket of an HdrHistogram.
///
/// Every request is recorded up to three times, so this is part of what a request costs. Minimum,
/// maximum and mean are left to the histogram that is made of it.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    counts: Box<[u64]>,
    /// The buckets that may not be empty are before this one.
    end: usize,
}

impl Recorder {
    /// Makes an empty distribution. Allocates once: recording never does.
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; bucket(LONGEST_NANOS) + 1].into_boxed_slice(), end: 0 }
    }

    /// Records `count` requests that took the same time.
    #[inline]
    pub(crate) fn record(&mut self, nanos: u64, count: u64) {
        let bucket = bucket(nanos.min(LONGEST_NANOS));
        self.counts[bucket] += count;
        self.end = self.end.max(bucket + 1);
    }

    /// Adds all that `other` has recorded.
    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, count) in self.counts.iter_mut().zip(&other.counts[..other.end]) {
            *sum += count;
        }
        self.end = self.end.max(other.end);
    }

    /// The longest time that was recorded, as far as its bucket tells.
    pub(crate) fn longest(&self) -> Option<Duration> {
        self.end.checked_sub(1).map(|last| Duration::from_nanos(lowest_of(last)))
    }

    pub(crate) fn clear(&mut self) {
        self.counts[..self.end].fill(0);
        self.end = 0;
    }

    /// Keeps what is recorded.
    pub(crate) fn latency(&self) -> Latency {
        Latency::from(&self.histogram())
    }

    fn histogram(&self) -> Histogram<u64> {
        let mut histogram = empty();
        for (bucket, &count) in self.counts[..self.end].iter().enumerate() {
            if count > 0 {
                histogram.record_n(lowest_of(bucket), count).expect("within the bounds");
            }
        }
        histogram
    }
}

/// The number of the bucket of a time. Buckets are a nanosecond wide below `2^11`, and twice as
/// wide from each further power of two on.
#[inline]
fn bucket(nanos: u64) -> usize {
    let doublings = (u64::BITS - PRECISION_BITS - 1).saturating_sub(nanos.leading_zeros());
    #[expect(clippy::cast_possible_truncation, reason = "below twice the precision")]
    let place = (nanos >> doublings) as usize;
    ((doublings as usize) << PRECISION_BITS) + place
}

/// The shortest time of a bucket.
fn lowest_of(bucket: usize) -> u64 {
    let doublings = (bucket >> PRECISION_BITS).saturating_sub(1);
    ((bucket - (doublings << PRECISION_BITS)) as u64) << doublings
}

/// The distribution of many times, in nanoseconds.
#[derive(Clone)]
pub struct Latency {
    /// The histogram in the compressed V2 format of HdrHistogram.
    packed: Shelved,
    count: u64,
    mean: f64,
    percentiles: Percentiles,
}

impl Latency {
    /// How many times are recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The usual percentiles. All are zero if nothing is recorded.
    #[must_use]
    pub fn percentiles(&self) -> Percentiles {
        self.percentiles
    }

    /// The mean in nanoseconds, or zero if nothing is recorded.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// The whole distribution, unpacked. This allocates all its buckets: keep one at a time.
    ///
    /// All have the same bounds, so that they can be added.
    ///
    /// # Panics
    ///
    /// Panics if it lies in a temporary file, as that of an interval may, which cannot be read.
    #[must_use]
    pub fn histogram(&self) -> Histogram<u64> {
        if self.count == 0 {
            return empty();
        }
        let packed = self.packed.get().expect("the temporary file can be read");
        Deserializer::new().deserialize(&mut &packed[..]).expect("what is packed can be unpacked")
    }

    /// The same in memory, wherever it lies.
    ///
    /// # Errors
    ///
    /// That of the system, if it cannot be read.
    pub(crate) fn recalled(&self) -> io::Result<Self> {
        Ok(Self { packed: Shelved::Here(self.packed.get()?), ..self.clone() })
    }

    /// The sum of both.
    ///
    /// # Errors
    ///
    /// That of the system, if one of them cannot be read.
    pub(crate) fn plus(&self, other: &Self) -> io::Result<Self> {
        let mut sum = self.recalled()?.histogram();
        sum.add(other.recalled()?.histogram()).expect("all have the same bounds");
        Ok(Self::from(&sum))
    }

    /// Keeps the distribution there from now on, and only what is said of it here.
    pub(crate) fn shelve(&mut self, shelf: &mut Shelf) {
        shelf.put(&mut self.packed);
    }
}

impl From<&Histogram<u64>> for Latency {
    fn from(histogram: &Histogram<u64>) -> Self {
        let mut packed = Vec::new();
        if !histogram.is_empty() {
            V2DeflateSerializer::new()
                .serialize(histogram, &mut packed)
                .expect("memory takes what is written");
        }
        let at = |quantile| histogram.value_at_quantile(quantile);
        let percentiles = Percentiles {
            p50: at(0.50),
            p90: at(0.90),
            p99: at(0.99),
            p99_9: at(0.999),
            max: histogram.max(),
        };
        let (count, mean) = (histogram.len(), histogram.mean());
        Self { packed: Shelved::Here(packed.into_boxed_slice()), count, mean, percentiles }
    }
}

impl Default for Latency {
    fn default() -> Self {
        let (count, mean, percentiles) = (0, 0.0, Percentiles::default());
        Self { packed: Shelved::default(), count, mean, percentiles }
    }
}

impl fmt::Debug for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Latency")
            .field("count", &self.count)
            .field("mean", &self.mean)
            .field("percentiles", &self.percentiles)
            .finish_non_exhaustive()
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

fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_NANOS, SIGNIFICANT_DIGITS)
        .expect("the bounds are constants")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_recorded_is_all_zeros() {
        let nothing = Recorder::new().latency();
        assert_eq!(nothing.percentiles(), Percentiles::default());
        assert_eq!((nothing.count(), nothing.mean()), (0, 0.0));
        assert!(nothing.histogram().is_empty());
    }

    #[test]
    fn what_is_packed_is_unpacked_the_same() {
        let mut recorder = Recorder::new();
        for micros in 1..=2_000 {
            recorder.record(micros * micros * 100, micros);
        }
        let latency = recorder.latency();
        assert_eq!(latency.histogram(), recorder.histogram());
        assert_eq!(Latency::from(&latency.histogram()).percentiles(), latency.percentiles());
    }

    #[test]
    fn a_distribution_on_a_shelf_is_the_same() {
        let mut recorder = Recorder::new();
        (1..=2_000).for_each(|micros| recorder.record(micros * 1_000, micros));
        let mut latency = recorder.latency();
        latency.shelve(&mut Shelf::new());
        assert_eq!(latency.histogram(), recorder.histogram());
        assert_eq!(latency.count(), recorder.latency().count());
    }

    #[test]
    fn a_distribution_over_nine_octaves_takes_a_few_kibibytes() {
        let mut recorder = Recorder::new();
        for number in 0..100_000_u64 {
            recorder.record(20_000 + number * number / 1_000, 1);
        }
        assert!(recorder.latency().packed.get().unwrap().len() < 6 * 1024);
    }

    #[test]
    fn percentiles_are_exact_to_three_digits() {
        let mut recorder = Recorder::new();
        for micros in 1..=1_000 {
            recorder.record(micros * 1_000, 1);
        }
        let Percentiles { p50, p90, p99, p99_9, max } = recorder.latency().percentiles();
        for (found, exact) in
            [(p50, 500_000), (p90, 900_000), (p99, 990_000), (p99_9, 999_000), (max, 1_000_000)]
        {
            assert!(found.abs_diff(exact) <= exact / 1_000, "{found} is not near {exact}");
        }
    }

    #[test]
    fn merging_is_recording_in_one() {
        let (mut one, mut other, mut both) = (Recorder::new(), Recorder::new(), Recorder::new());
        for nanos in [100, 20_000, 3_000_000] {
            one.record(nanos, 64);
            other.record(nanos * 7, 3);
            both.record(nanos, 64);
            both.record(nanos * 7, 3);
        }
        one.add(&other);
        let (one, both) = (one.latency(), both.latency());
        assert_eq!(one.percentiles(), both.percentiles());
        assert_eq!(one.count(), 3 * 67);
    }

    #[test]
    fn what_is_too_long_counts_as_the_longest() {
        let mut recorder = Recorder::new();
        recorder.record(u64::MAX, 1);
        let max = recorder.latency().percentiles().max;
        assert!(max.abs_diff(LONGEST_NANOS) <= LONGEST_NANOS / 1_000);
    }

    #[test]
    fn buckets_are_those_of_the_standard_histogram() {
        let mut around_powers: Vec<u64> = (0..42)
            .flat_map(|power| {
                [-1_i64, 0, 1, 513].map(|step| (1_u64 << power).saturating_add_signed(step))
            })
            .filter(|&nanos| nanos < LONGEST_NANOS)
            .collect();
        around_powers.extend((0..3_000).chain((0..1_000).map(|step| step * step * step * 3_599)));
        for nanos in around_powers {
            let histogram = empty();
            let lowest = lowest_of(bucket(nanos));
            assert_eq!(lowest, histogram.lowest_equivalent(nanos), "{nanos}");
            assert_eq!(bucket(lowest), bucket(nanos), "{nanos}");
        }
    }

    #[test]
    fn a_recorder_says_what_the_standard_histogram_says() {
        let (mut recorder, mut histogram) = (Recorder::new(), empty());
        for number in 0..20_000_u64 {
            let nanos = number * number * 17 % 5_000_000_000;
            recorder.record(nanos, number % 3);
            histogram.record_n(nanos, number % 3).unwrap();
        }
        let (latency, expected) = (recorder.latency(), Latency::from(&histogram));
        assert_eq!(latency.percentiles(), expected.percentiles());
        assert_eq!((latency.count(), latency.mean()), (expected.count(), expected.mean()));
        recorder.clear();
        assert_eq!(recorder.latency().count(), 0);
    }
}
