//! What happened: the counts of a run, and the piece of them that one thread reports per interval.
//!
//! Every measured request ends in exactly one of four ways:
//!
//! ```text
//! sent = requests + mismatches + timeouts + unanswered
//! ```
//!
//! In open loop a request may also be due and never sent, which is counted apart.
//!
//! Unsolicited bytes are a mismatch, but the end of no request.
//!
//! Every count has a phase: warm-up or measured. A request belongs to the phase in which it was
//! due, and so does whatever ends it, however late. What ends no request, such as a failed attempt
//! to connect, belongs to the phase in which it happens. What goes wrong while warming up has
//! counts of its own, so it spoils no measurement, but never goes unseen.

use std::{io, mem, ops::AddAssign, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    load::connection::Batch,
    measure::latency::Recorder,
    payload::mismatch::Mismatch,
    tls::{Handshake, TlsSession},
};

/// The counts of a run.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Measured requests whose echo came back right.
    pub requests: u64,
    /// Requests that were sent while warming up and came back right. Not among `requests`.
    pub warm_up_requests: u64,
    /// Requests that were sent while warming up and never came back right. Not among `unanswered`.
    pub warm_up_unanswered: u64,
    /// Errors of the warm-up. Not among `errors`.
    pub warm_up_errors: Errors,
    /// Wrong replies to requests of the warm-up. Not among `mismatches`.
    pub warm_up_mismatches: Mismatches,
    /// How often a connection that was lost in the warm-up was made again. Not among `reconnects`.
    pub warm_up_reconnects: u64,
    /// Measured requests whose echo never came.
    pub unanswered: u64,
    /// Requests that were due while measuring and were never sent, because the server left no room
    /// for them until the load ended. Open loop only.
    pub unsent: u64,
    /// What went wrong with measured requests, or while measuring.
    pub errors: Errors,
    /// Replies that were wrong, by class.
    pub mismatches: Mismatches,
    /// How often a connection was made again after it was lost.
    pub reconnects: u64,
    /// How often one was changed for another while measuring, because the plan says so.
    pub planned_reconnects: u64,
}

/// Errors by kind.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Errors {
    /// Requests that took longer than the timeout.
    pub timeouts: u64,
    /// Connections that the server closed, or that broke.
    pub lost: u64,
    /// How often a connection could not be made at any of the server's addresses.
    pub connect: u64,
    /// How many of those an address refused, because nobody listens there.
    #[serde(default)]
    pub refused: u64,
    /// How many of those failed in the TLS handshake, or because the server refused the client
    /// right after it.
    #[serde(default)]
    pub handshakes: u64,
}

/// Mismatches by class.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Mismatches([u64; Mismatch::ALL.len()]);

/// How long requests had to wait before they could be sent, because the server had left no room in
/// the pipeline, took no bytes, or was not connected. Open loop only.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Blocked {
    /// Requests that had to wait.
    pub requests: u64,
    /// All waiting times together.
    pub total: Duration,
    /// The longest.
    pub max: Duration,
}

/// Two figures that are equal for any load that is steady: how many requests were in flight, and
/// what rate and service time say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LittlesLaw {
    /// The mean over time while measuring. Looks at moments of the generator's own would find too
    /// many: it looks when it has just sent something.
    pub in_flight_mean: f64,
    /// Answered requests per second, times the mean service time in seconds.
    pub rate_times_service: f64,
}

impl LittlesLaw {
    /// Whether both are equal, but for what is in flight when measuring begins and ends.
    #[must_use]
    pub fn holds(&self) -> bool {
        let slack = 1.0 + self.rate_times_service.max(self.in_flight_mean) * 0.25;
        (self.in_flight_mean - self.rate_times_service).abs() <= slack
    }
}

/// What was seen at regular moments while measuring.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Samples {
    pub(crate) count: u64,
    /// Bytes that had arrived and not been read on one connection, summed over the samples.
    pub(crate) unread_bytes: u64,
}

/// How long requests took, in three parts that are kept apart.
#[derive(Clone, Debug)]
pub(crate) struct Times {
    /// From when they were due until their echo was read.
    pub(crate) latency: Recorder,
    /// From when they were sent. In closed loop that is when they are due.
    pub(crate) service: Recorder,
    /// How late they were sent, through the generator's fault. Empty in closed loop.
    pub(crate) send_lag: Recorder,
}

/// How long connections took to be made.
#[derive(Clone, Debug)]
pub(crate) struct Connects {
    /// Until the socket was connected.
    pub(crate) connect: Recorder,
    /// From then on, until a handshake was over: a full one, or one that resumed a session.
    pub(crate) handshake: Recorder,
    pub(crate) resumption: Recorder,
}

/// What one thread did since its last report.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    pub(crate) counts: Counts,
    /// The times of measured requests.
    pub(crate) times: Times,
    /// The times of requests that were answered while warming up. They are shown and forgotten.
    pub(crate) warm_up_times: Times,
    /// How long requests had been due that were never answered. Present once there is one.
    pub(crate) unanswered_ages: Option<Box<Recorder>>,
    /// How long the oldest request had been due that was never sent.
    pub(crate) unsent_age_max: u64,
    pub(crate) blocked: Blocked,
    /// Connections that were begun while measuring, and before.
    pub(crate) connects: Connects,
    pub(crate) earlier_connects: Connects,
    /// What the first handshake agreed on.
    pub(crate) session: Option<TlsSession>,
    pub(crate) samples: Samples,
    /// Requests in flight when the tally was taken.
    pub(crate) in_flight: u64,
    /// Requests in flight times nanoseconds, summed over the time of the tally.
    pub(crate) in_flight_ns: u64,
    /// The first error in words, so that a report can say more than a number.
    pub(crate) first_error: Option<String>,
    /// The same of the warm-up.
    pub(crate) first_warm_up_error: Option<String>,
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

    /// Takes what is measured and leaves what belongs to the warm-up.
    pub(crate) fn take_measured(&mut self) -> Self {
        let warm_up = Self {
            warm_up_requests: mem::take(&mut self.warm_up_requests),
            warm_up_unanswered: mem::take(&mut self.warm_up_unanswered),
            warm_up_errors: mem::take(&mut self.warm_up_errors),
            warm_up_mismatches: mem::take(&mut self.warm_up_mismatches),
            warm_up_reconnects: mem::take(&mut self.warm_up_reconnects),
            ..Self::default()
        };
        mem::replace(self, warm_up)
    }

    pub(crate) fn errors_mut(&mut self, phase: Counted) -> &mut Errors {
        match phase {
            Counted::WarmUp => &mut self.warm_up_errors,
            Counted::Measured => &mut self.errors,
        }
    }

    /// How many handshakes have failed, in all phases.
    pub(crate) fn failed_handshakes(&self) -> u64 {
        self.errors.handshakes + self.warm_up_errors.handshakes
    }

    pub(crate) fn mismatches_mut(&mut self, phase: Counted) -> &mut Mismatches {
        match phase {
            Counted::WarmUp => &mut self.warm_up_mismatches,
            Counted::Measured => &mut self.mismatches,
        }
    }

    pub(crate) fn reconnects_mut(&mut self, phase: Counted) -> &mut u64 {
        match phase {
            Counted::WarmUp => &mut self.warm_up_reconnects,
            Counted::Measured => &mut self.reconnects,
        }
    }
}

/// The phase to which something that went wrong belongs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Counted {
    WarmUp,
    Measured,
}

impl Counted {
    /// That of a request.
    pub(crate) fn of(batch: &Batch) -> Self {
        if batch.is_measured { Self::Measured } else { Self::WarmUp }
    }
}

impl Errors {
    /// All errors together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.timeouts + self.lost + self.connect
    }

    /// Each kind in words, with its count.
    pub(crate) fn kinds(&self) -> [(&'static str, u64); 5] {
        let told = self.refused + self.handshakes;
        [
            ("timed out", self.timeouts),
            ("lost", self.lost),
            ("refused", self.refused),
            ("handshake failed", self.handshakes),
            ("not connected", self.connect.saturating_sub(told)),
        ]
    }

    /// Counts a connection whose handshake failed.
    pub(crate) fn not_encrypted(&mut self) {
        self.connect += 1;
        self.handshakes += 1;
    }

    /// Counts a connection that could not be made.
    pub(crate) fn not_connected(&mut self, error: &io::Error) {
        self.connect += 1;
        self.refused += u64::from(error.kind() == io::ErrorKind::ConnectionRefused);
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
        self.warm_up_unanswered += other.warm_up_unanswered;
        self.warm_up_errors += other.warm_up_errors;
        self.warm_up_mismatches += other.warm_up_mismatches;
        self.warm_up_reconnects += other.warm_up_reconnects;
        self.unanswered += other.unanswered;
        self.unsent += other.unsent;
        self.errors += other.errors;
        self.mismatches += other.mismatches;
        self.reconnects += other.reconnects;
        self.planned_reconnects += other.planned_reconnects;
    }
}

impl AddAssign for Mismatches {
    fn add_assign(&mut self, other: Self) {
        for (sum, count) in self.0.iter_mut().zip(other.0) {
            *sum += count;
        }
    }
}

impl AddAssign for Errors {
    fn add_assign(&mut self, other: Self) {
        self.timeouts += other.timeouts;
        self.lost += other.lost;
        self.connect += other.connect;
        self.refused += other.refused;
        self.handshakes += other.handshakes;
    }
}

impl Blocked {
    #[inline]
    pub(crate) fn record(&mut self, nanos: u64) {
        let time = Duration::from_nanos(nanos);
        self.requests += 1;
        self.total += time;
        self.max = self.max.max(time);
    }
}

impl AddAssign for Blocked {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.total += other.total;
        self.max = self.max.max(other.max);
    }
}

impl AddAssign for Samples {
    fn add_assign(&mut self, other: Self) {
        self.count += other.count;
        self.unread_bytes += other.unread_bytes;
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

    pub(crate) fn are_empty(&self) -> bool {
        let all = [&self.latency, &self.service, &self.send_lag];
        all.into_iter().all(|times| times.latency().count() == 0)
    }

    fn clear(&mut self) {
        self.latency.clear();
        self.service.clear();
        self.send_lag.clear();
    }
}

impl Connects {
    fn new() -> Self {
        Self { connect: Recorder::new(), handshake: Recorder::new(), resumption: Recorder::new() }
    }

    pub(crate) fn note_handshake(&mut self, handshake: &Handshake, nanos: u64) {
        let times = if handshake.is_resumed { &mut self.resumption } else { &mut self.handshake };
        times.record(nanos, 1);
    }

    fn add(&mut self, other: &Self) {
        self.connect.add(&other.connect);
        self.handshake.add(&other.handshake);
        self.resumption.add(&other.resumption);
    }

    fn clear(&mut self) {
        self.connect.clear();
        self.handshake.clear();
        self.resumption.clear();
    }
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            counts: Counts::default(),
            times: Times::new(),
            warm_up_times: Times::new(),
            unanswered_ages: None,
            unsent_age_max: 0,
            blocked: Blocked::default(),
            connects: Connects::new(),
            earlier_connects: Connects::new(),
            session: None,
            samples: Samples::default(),
            in_flight: 0,
            in_flight_ns: 0,
            first_error: None,
            first_warm_up_error: None,
            last_echo_at: 0,
        }
    }

    pub(crate) fn note(&mut self, phase: Counted, error: impl FnOnce() -> String) {
        let first = match phase {
            Counted::WarmUp => &mut self.first_warm_up_error,
            Counted::Measured => &mut self.first_error,
        };
        first.get_or_insert_with(error);
    }

    /// The first error that counts, or if there is none, that of the warm-up.
    pub(crate) fn first_error_of_all(&self) -> Option<&String> {
        self.first_error.as_ref().or(self.first_warm_up_error.as_ref())
    }

    /// Counts requests that were answered, and records how long it took from when they were sent.
    #[inline]
    pub(crate) fn count_answered(&mut self, batch: &Batch, is_warming_up: bool, now: u64) {
        if batch.count == 0 {
            return;
        }
        if batch.is_measured {
            self.counts.requests += batch.count;
            self.last_echo_at = now;
        } else {
            self.counts.warm_up_requests += batch.count;
        }
        if let Some(times) = self.times_of(batch, is_warming_up) {
            times.service.record(now - batch.sent_at, batch.count);
        }
    }

    /// Where the times of such requests belong, if they are kept: those of the warm-up are as long
    /// as it lasts.
    #[inline]
    pub(crate) fn times_of(&mut self, batch: &Batch, is_warming_up: bool) -> Option<&mut Times> {
        match batch.is_measured {
            true => Some(&mut self.times),
            false => is_warming_up.then_some(&mut self.warm_up_times),
        }
    }

    /// Counts requests that will not be answered: of those of `batch` so many, as of `now`.
    pub(crate) fn give_up(&mut self, batch: &Batch, count: u64, now: u64) {
        if !batch.is_measured {
            self.counts.warm_up_unanswered += count;
        } else if count > 0 {
            self.counts.unanswered += count;
            let ages = self.unanswered_ages.get_or_insert_with(|| Box::new(Recorder::new()));
            ages.record(now.saturating_sub(batch.due_at), count);
        }
    }

    /// How long the slowest reply took from when its request was sent.
    pub(crate) fn slowest(&self) -> Option<Duration> {
        self.times.service.longest().max(self.warm_up_times.service.longest())
    }

    /// Adds all of `other`.
    pub(crate) fn add(&mut self, other: &Self) {
        self.counts += &other.counts;
        self.times.add(&other.times);
        self.warm_up_times.add(&other.warm_up_times);
        if let Some(ages) = &other.unanswered_ages {
            self.unanswered_ages.get_or_insert_with(|| Box::new(Recorder::new())).add(ages);
        }
        self.unsent_age_max = self.unsent_age_max.max(other.unsent_age_max);
        self.blocked += other.blocked;
        self.connects.add(&other.connects);
        self.earlier_connects.add(&other.earlier_connects);
        self.session = self.session.or(other.session);
        self.samples += other.samples;
        self.in_flight += other.in_flight;
        self.in_flight_ns = self.in_flight_ns.saturating_add(other.in_flight_ns);
        self.last_echo_at = self.last_echo_at.max(other.last_echo_at);
        for (phase, error) in
            [(Counted::WarmUp, &other.first_warm_up_error), (Counted::Measured, &other.first_error)]
        {
            if let Some(error) = error {
                self.note(phase, || error.clone());
            }
        }
    }

    /// Starts again from zero, in the same memory.
    pub(crate) fn clear(&mut self) {
        self.counts = Counts::default();
        self.times.clear();
        self.warm_up_times.clear();
        self.unanswered_ages = None;
        self.unsent_age_max = 0;
        self.blocked = Blocked::default();
        self.connects.clear();
        self.earlier_connects.clear();
        self.samples = Samples::default();
        self.in_flight = 0;
        self.in_flight_ns = 0;
        self.first_error = None;
        self.first_warm_up_error = None;
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
    fn only_who_is_refused_was_refused() {
        let mut errors = Errors::default();
        errors.not_connected(&io::ErrorKind::ConnectionRefused.into());
        errors
            .not_connected(&io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error()));
        errors.not_connected(&io::ErrorKind::TimedOut.into());
        assert_eq!((errors.connect, errors.total()), (3, 3));
        errors.not_encrypted();
        let kinds = [
            ("timed out", 0),
            ("lost", 0),
            ("refused", 1),
            ("handshake failed", 1),
            ("not connected", 2),
        ];
        assert_eq!(errors.kinds(), kinds);
    }

    #[test]
    fn adding_tallies_adds_every_count() {
        let mut one = Tally::new();
        one.counts.requests = 3;
        one.counts.warm_up_unanswered = 5;
        one.counts.errors = Errors { timeouts: 1, lost: 2, connect: 4, refused: 3, handshakes: 1 };
        one.counts.mismatches.count(Mismatch::Stale);
        one.times.latency.record(1_000, 3);
        one.note(Counted::Measured, || "first".to_owned());
        let mut sum = one.clone();
        one.note(Counted::Measured, || "second".to_owned());
        sum.add(&one);
        assert_eq!(sum.counts.requests, 6);
        assert_eq!(sum.counts.warm_up_unanswered, 10);
        assert_eq!(sum.counts.errors.total(), 14);
        assert_eq!(sum.counts.errors.refused, 6);
        assert_eq!(sum.counts.errors.handshakes, 2);
        assert_eq!(sum.counts.mismatches.of(Mismatch::Stale), 2);
        assert_eq!(sum.counts.mismatches.total(), 2);
        assert_eq!(sum.times.latency.latency().count(), 6);
        assert_eq!(sum.first_error.as_deref(), Some("first"));
    }
}
