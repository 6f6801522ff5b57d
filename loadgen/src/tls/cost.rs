//! What encryption costs the generator: CPU time, taken from some of the calls.

use std::{ops::Sub, time::Duration};

use crate::clock;

/// One in so many calls for records is timed. Closed loops alternate reads and writes: an odd
/// number takes both.
const SAMPLED: u64 = 17;

/// CPU time that encryption took.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Cost {
    /// Encrypting and decrypting requests and replies.
    pub(crate) records: Duration,
    /// Handshakes, each of which is timed.
    pub(crate) handshakes: Duration,
    pub(crate) handshake_count: u64,
}

/// Times what is done in it.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    calls: u64,
    sampled: Duration,
    handshakes: Duration,
    handshake_count: u64,
}

impl Cost {
    pub(crate) fn total(&self) -> Duration {
        self.records + self.handshakes
    }
}

impl Sub for Cost {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            records: self.records.saturating_sub(earlier.records),
            handshakes: self.handshakes.saturating_sub(earlier.handshakes),
            handshake_count: self.handshake_count - earlier.handshake_count,
        }
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, cost| Self {
            records: sum.records + cost.records,
            handshakes: sum.handshakes + cost.handshakes,
            handshake_count: sum.handshake_count + cost.handshake_count,
        })
    }
}

impl Meter {
    pub(super) fn of_records<T>(&mut self, work: impl FnOnce() -> T) -> T {
        self.calls += 1;
        if !self.calls.is_multiple_of(SAMPLED) {
            return work();
        }
        let (done, spent) = timed(work);
        self.sampled += spent;
        done
    }

    pub(super) fn of_handshake<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let (done, spent) = timed(work);
        self.handshakes += spent;
        done
    }

    pub(super) fn count_handshake(&mut self) {
        self.handshake_count += 1;
    }

    pub(super) fn cost(&self) -> Cost {
        Cost {
            records: self.sampled * u32::try_from(SAMPLED).expect("a small number"),
            handshakes: self.handshakes,
            handshake_count: self.handshake_count,
        }
    }
}

/// Does it, and returns how much CPU time that took.
pub(super) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let before = clock::thread_cpu();
    let done = work();
    (done, clock::thread_cpu().saturating_sub(before))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work() {
        let before = clock::thread_cpu();
        while clock::thread_cpu() < before + Duration::from_micros(50) {}
    }

    #[test]
    fn some_calls_stand_for_all() {
        let mut meter = Meter::default();
        (0..SAMPLED * 4).for_each(|_| meter.of_records(work));
        let cost = meter.cost();
        let least = Duration::from_micros(50) * 17 * 4;
        assert!(cost.records >= least, "{cost:?}");
        assert_eq!(cost.handshakes, Duration::ZERO);
    }

    #[test]
    fn reads_and_writes_that_alternate_are_both_sampled() {
        let mut meter = Meter::default();
        let mut sampled = [0; 2];
        for side in [0, 1].repeat(2 * 17) {
            let before = meter.sampled;
            meter.of_records(work);
            sampled[side] += u32::from(meter.sampled > before);
        }
        assert_eq!(sampled, [2, 2]);
    }

    #[test]
    fn handshakes_are_apart_from_records() {
        let mut meter = Meter::default();
        meter.of_handshake(work);
        meter.count_handshake();
        let cost = meter.cost();
        assert!(cost.handshakes >= Duration::from_micros(50));
        assert_eq!((cost.records, cost.handshake_count), (Duration::ZERO, 1));
        assert_eq!(cost - cost, Cost::default());
    }
}
