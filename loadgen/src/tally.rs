//! What happened: the counts of a run, and the piece of them that one thread reports per interval.
//!
//! Every measured request ends in exactly one of four ways:
//!
//! ```text
//! sent = requests + mismatches + timeouts + unanswered
//! ```
//!
//! Unsolicited bytes are a mismatch, but the end of no request. Mismatches and errors are counted
//! whenever they happen; the rest only for measured requests. So while warming up the sum does not
//! hold, but nothing that is wrong goes unseen.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use crate::{latency::Recorder, mismatch::Mismatch};

/// The counts of a run.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Measured requests whose echo came back right.
    pub requests: u64,
    /// Requests that were sent while warming up and came back right. Not among `requests`.
    pub warm_up_requests: u64,
    /// Measured requests whose echo never came.
    pub unanswered: u64,
    /// What went wrong on the way.
    pub errors: Errors,
    /// Replies that were wrong, by class.
    pub mismatches: Mismatches,
    /// How often a connection was made again.
    pub reconnects: u64,
}

/// Errors by kind.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Errors {
    /// Requests that took longer than the timeout.
    pub timeouts: u64,
    /// Connections that the server closed, or that broke.
    pub lost: u64,
    /// Attempts to connect that failed.
    pub connect: u64,
}

/// Mismatches by class.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Mismatches([u64; Mismatch::ALL.len()]);

/// How long requests took, in three parts that are kept apart.
#[derive(Clone, Debug)]
pub(crate) struct Times {
    /// From when they were due until their echo was read.
    pub(crate) latency: Recorder,
    /// From when they were sent. Empty in closed loop, where a request is due when it is sent.
    pub(crate) service: Recorder,
    /// How late they were sent, through the generator's fault. Empty in closed loop.
    pub(crate) send_lag: Recorder,
}

/// What one thread did since its last report.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    pub(crate) counts: Counts,
    /// The times of measured requests.
    pub(crate) times: Times,
    /// The times of requests that were answered while warming up. They are shown and forgotten.
    pub(crate) warm_up_times: Times,
    /// Requests in flight when the tally was taken.
    pub(crate) in_flight: u64,
    /// The first error in words, so that a report can say more than a number.
    pub(crate) first_error: Option<String>,
    /// When the last measured request was answered.
    pub(crate) last_echo_at: u64,
}

impl Counts {
    /// How many measured requests these counts account for, if nothing went wrong before measuring.
    #[must_use]
    pub fn sent(&self) -> u64 {
        let wrong = self.mismatches.total() - self.mismatches.of(Mismatch::Unsolicited);
        self.requests + wrong + self.errors.timeouts + self.unanswered
    }
}

impl Errors {
    /// All errors together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.timeouts + self.lost + self.connect
    }
}

impl Mismatches {
    /// All mismatches together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// How many were of this class.
    #[must_use]
    pub fn of(&self, class: Mismatch) -> u64 {
        self.0[class as usize]
    }

    /// Each class with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Mismatch, u64)> + '_ {
        Mismatch::ALL.into_iter().map(|class| (class, self.of(class)))
    }

    pub(crate) fn count(&mut self, class: Mismatch) {
        self.0[class as usize] += 1;
    }
}

impl AddAssign<&Self> for Counts {
    fn add_assign(&mut self, other: &Self) {
        self.requests += other.requests;
        self.warm_up_requests += other.warm_up_requests;
        self.unanswered += other.unanswered;
        self.errors.timeouts += other.errors.timeouts;
        self.errors.lost += other.errors.lost;
        self.errors.connect += other.errors.connect;
        for (sum, count) in self.mismatches.0.iter_mut().zip(other.mismatches.0) {
            *sum += count;
        }
        self.reconnects += other.reconnects;
    }
}

impl Times {
    fn new() -> Self {
        Self { latency: Recorder::new(), service: Recorder::new(), send_lag: Recorder::new() }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.latency.add(&other.latency);
        self.service.add(&other.service);
        self.send_lag.add(&other.send_lag);
    }

    fn clear(&mut self) {
        self.latency.clear();
        self.service.clear();
        self.send_lag.clear();
    }
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            counts: Counts::default(),
            times: Times::new(),
            warm_up_times: Times::new(),
            in_flight: 0,
            first_error: None,
            last_echo_at: 0,
        }
    }

    pub(crate) fn note(&mut self, error: impl FnOnce() -> String) {
        self.first_error.get_or_insert_with(error);
    }

    /// Adds all of `other`.
    pub(crate) fn add(&mut self, other: &Self) {
        self.counts += &other.counts;
        self.times.add(&other.times);
        self.warm_up_times.add(&other.warm_up_times);
        self.in_flight += other.in_flight;
        self.last_echo_at = self.last_echo_at.max(other.last_echo_at);
        if let Some(error) = &other.first_error {
            self.note(|| error.clone());
        }
    }

    /// Starts again from zero, in the same memory.
    pub(crate) fn clear(&mut self) {
        self.counts = Counts::default();
        self.times.clear();
        self.warm_up_times.clear();
        self.in_flight = 0;
        self.first_error = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_indexed_in_the_order_of_all() {
        for (index, class) in Mismatch::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, index);
        }
    }

    #[test]
    fn adding_tallies_adds_every_count() {
        let mut one = Tally::new();
        one.counts.requests = 3;
        one.counts.errors = Errors { timeouts: 1, lost: 2, connect: 4 };
        one.counts.mismatches.count(Mismatch::Stale);
        one.times.latency.record(1_000, 3);
        one.note(|| "first".to_owned());
        let mut sum = one.clone();
        one.note(|| "second".to_owned());
        sum.add(&one);
        assert_eq!(sum.counts.requests, 6);
        assert_eq!(sum.counts.errors.total(), 14);
        assert_eq!(sum.counts.mismatches.of(Mismatch::Stale), 2);
        assert_eq!(sum.counts.mismatches.total(), 2);
        assert_eq!(sum.times.latency.latency().count(), 6);
        assert_eq!(sum.first_error.as_deref(), Some("first"));
    }
}
