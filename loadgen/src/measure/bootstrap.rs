//! How sure a difference is: confidence intervals by resampling what was measured.
//!
//! A resample draws as many samples as there are, with repetition, and computes the statistic
//! again. What nearly all resamples agree on is the interval. Nothing is assumed about how
//! latencies are distributed.
//!
//! Resampling few samples gives intervals that are too narrow, because a sample scatters less
//! around its own mean than around the truth. So the tails are cut where Student's t would cut them
//! for as many samples (the expanded percentile interval of Hesterberg, 2015), and with fewer than
//! [`SAMPLES_MIN`] samples there is no interval: all of them may lie on one side by chance too
//! easily.

use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng, SeedableRng},
};

use crate::units;

/// How often an interval covers the truth. Four figures are judged together, so that one of them
/// misleads in at most four of 100 comparisons.
pub(crate) const CONFIDENCE_PERCENT: u32 = 99;
/// With fewer samples nothing is sure. Eight differences have the same sign by chance in 2 of 256
/// cases, which is the first number below one in 100.
pub(crate) const SAMPLES_MIN: usize = 8;

/// Where a normal distribution leaves half a percent on one side.
pub(crate) const NORMAL_QUANTILE: f64 = 2.575_829_3;

const RESAMPLES: usize = 20_000;
/// Fixed, so that the same files always give the same answer.
const SEED: u64 = 0x0b00_7577_a900_d5ee;

/// What a value lies between, as sure as [`CONFIDENCE_PERCENT`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bounds {
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// Estimates how far `statistic` may be off, given the indices of resampled samples of each of the
/// groups, which have these sizes. `None` with too few samples in any group.
pub(crate) fn bounds<const GROUPS: usize>(
    sizes: [usize; GROUPS],
    mut statistic: impl FnMut([&[usize]; GROUPS]) -> f64,
) -> Option<Bounds> {
    let smallest = sizes.into_iter().min().filter(|&size| size >= SAMPLES_MIN)?;
    let mut random = Xoshiro256PlusPlus::seed_from_u64(SEED);
    let mut indices = sizes.map(|size| vec![0; size]);
    let mut values: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            for drawn in &mut indices {
                let size = drawn.len();
                drawn.iter_mut().for_each(|index| *index = below(size, &mut random));
            }
            statistic(indices.each_ref().map(Vec::as_slice))
        })
        .collect();
    values.sort_by(f64::total_cmp);
    let cut = units::whole(tail(smallest) * RESAMPLES as f64);
    let cut = usize::try_from(cut).expect("it is less than there are resamples");
    Some(Bounds { low: values[cut], high: values[RESAMPLES - 1 - cut] })
}

/// A number below `limit`, each as likely as the other but for less than one part in 2^32.
fn below(limit: usize, random: &mut impl Rng) -> usize {
    let scaled = u64::from(random.next_u32()) * limit as u64;
    usize::try_from(scaled >> 32).expect("it is less than the limit")
}

/// What share of the resamples to cut off at either end.
fn tail(samples: usize) -> f64 {
    let samples = samples as f64;
    normal_tail((samples / (samples - 1.0)).sqrt() * student(samples - 1.0))
}

/// Where Student's t leaves half a percent on one side: the expansion of Cornish and Fisher, good
/// to one in 100 from seven degrees of freedom on.
fn student(freedom: f64) -> f64 {
    let z = NORMAL_QUANTILE;
    let (z3, z5, z7) = (z.powi(3), z.powi(5), z.powi(7));
    let first = (z3 + z) / 4.0;
    let second = (5.0 * z5 + 16.0 * z3 + 3.0 * z) / 96.0;
    let third = (3.0 * z7 + 19.0 * z5 + 17.0 * z3 - 15.0 * z) / 384.0;
    z + first / freedom + second / freedom.powi(2) + third / freedom.powi(3)
}

/// How much of a normal distribution lies above `z`, for positive `z`: Abramowitz and Stegun,
/// 26.2.17.
fn normal_tail(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let terms = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    let sum = terms.into_iter().rev().fold(0.0, |sum, term| (sum + term) * t);
    (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt() * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(values: &[f64], drawn: &[usize]) -> f64 {
        drawn.iter().map(|&index| values[index]).sum::<f64>() / drawn.len() as f64
    }

    /// Twelve uniform numbers make one that is normal enough.
    fn normal(random: &mut impl Rng) -> f64 {
        (0..12).map(|_| f64::from(random.next_u32()) / f64::from(u32::MAX)).sum::<f64>() - 6.0
    }

    #[test]
    fn the_tails_agree_with_the_tables() {
        for (freedom, table) in [(7.0, 3.499), (9.0, 3.250), (19.0, 2.861), (29.0, 2.756)] {
            assert!((student(freedom) / table - 1.0).abs() < 0.01, "{freedom}: {table}");
        }
        for (z, table) in [(1.0, 0.158_655), (1.96, 0.024_998), (3.5, 0.000_232_6)] {
            assert!((normal_tail(z) - table).abs() < 1e-6, "{z}: {table}");
        }
    }

    #[test]
    fn too_few_samples_have_no_bounds() {
        assert_eq!(bounds([SAMPLES_MIN - 1], |_| 1.0), None);
        assert_eq!(bounds([100, SAMPLES_MIN - 1], |_| 1.0), None);
    }

    #[test]
    fn samples_that_are_all_the_same_leave_no_doubt() {
        assert_eq!(bounds([SAMPLES_MIN], |_| 0.5), Some(Bounds { low: 0.5, high: 0.5 }));
    }

    #[test]
    fn chance_alone_is_seldom_taken_for_a_difference() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
        let experiments = 200;
        let misled = (0..experiments)
            .filter(|_| {
                let samples: [f64; 10] = std::array::from_fn(|_| normal(&mut random));
                let bounds = bounds([10], |[drawn]| mean(&samples, drawn)).unwrap();
                bounds.low > 0.0 || bounds.high < 0.0
            })
            .count();
        assert!(misled <= experiments * 3 / 100, "misled {misled} times in {experiments}");
    }

    #[test]
    fn a_difference_beyond_the_noise_is_found() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(2);
        for _ in 0..20 {
            let samples: [f64; 10] = std::array::from_fn(|_| 3.0 + normal(&mut random));
            let bounds = bounds([10], |[drawn]| mean(&samples, drawn)).unwrap();
            assert!(bounds.low > 0.0, "{bounds:?} of {samples:?}");
        }
    }
}
