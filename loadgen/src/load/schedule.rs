//! When a request may be sent: the phases of a run, as one thread sees them.
//!
//! ```text
//! warm-up ----> measuring ----> draining
//!          time            time, number, or stop
//! ```
//!
//! In closed loop a request is due as soon as there is room in a pipeline; in open loop when the
//! timetable says so. Requests count as measured if they are *due* while measuring, so what is in
//! flight at either end of the window is counted once and whole.

use std::time::Duration;

/// Hands out permissions to send.
#[derive(Debug)]
pub(crate) struct Schedule {
    phase: Phase,
    bounds: Bounds,
    /// How many measured requests this thread may still send, if their number is limited.
    remaining: Option<u64>,
    /// When measuring began.
    measured_from: u64,
    /// When draining began.
    loaded_until: u64,
}

/// What ends each phase. Times are nanoseconds of the run's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) warm_up_ends_at: u64,
    /// When the load ends, unless the number of requests ends it.
    pub(crate) load_ends_at: Option<u64>,
}

/// What a thread is doing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    WarmUp,
    Measuring,
    Draining,
}

/// How many requests may be sent now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Admission {
    pub(crate) count: u64,
    pub(crate) is_measured: bool,
}

impl Schedule {
    pub(crate) fn new(bounds: Bounds, remaining: Option<u64>) -> Self {
        Self {
            phase: Phase::WarmUp,
            bounds,
            remaining,
            measured_from: bounds.warm_up_ends_at,
            loaded_until: 0,
        }
    }

    /// Admits nothing: for the time before the load, which belongs to the warm-up if there is one.
    pub(crate) fn closed(warm_up: Duration) -> Self {
        let warm_up_ends_at = if warm_up.is_zero() { 0 } else { u64::MAX };
        let bounds = Bounds { warm_up_ends_at, load_ends_at: None };
        Self { phase: Phase::Draining, ..Self::new(bounds, None) }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// From when until when requests were sent that count.
    pub(crate) fn measured_window(&self) -> (u64, u64) {
        (self.measured_from, self.loaded_until.max(self.measured_from))
    }

    /// When the phase changes by itself.
    pub(crate) fn next_change_at(&self) -> Option<u64> {
        match self.phase {
            Phase::WarmUp => Some(self.bounds.warm_up_ends_at),
            Phase::Measuring => self.bounds.load_ends_at,
            Phase::Draining => None,
        }
    }

    /// Moves to the phase of this moment.
    #[inline]
    pub(crate) fn advance(&mut self, now: u64) {
        if self.phase == Phase::WarmUp && now >= self.bounds.warm_up_ends_at {
            self.phase = Phase::Measuring;
        }
        let is_over = self.bounds.load_ends_at.is_some_and(|end| now >= end);
        if self.phase == Phase::Measuring && (is_over || self.remaining == Some(0)) {
            self.end(now);
        }
    }

    /// Sends no more.
    pub(crate) fn end(&mut self, now: u64) {
        if self.phase != Phase::Draining {
            self.phase = Phase::Draining;
            self.loaded_until = now;
        }
    }

    /// Whether a request that is due then will be admitted, unless something changes.
    #[inline]
    pub(crate) fn is_open_for(&self, due_at: u64) -> bool {
        let is_measured = !self.is_warm_up(due_at);
        self.phase != Phase::Draining
            && self.is_due_in_time(due_at)
            && !(is_measured && self.remaining == Some(0))
    }

    /// Admits a request that was due then, and says whether it is measured. For open loop: the
    /// phase need not be that of this moment.
    #[inline]
    pub(crate) fn admit_due(&mut self, due_at: u64) -> Option<Admission> {
        if !self.is_open_for(due_at) {
            return None;
        }
        let is_measured = !self.is_warm_up(due_at);
        if let (true, Some(remaining)) = (is_measured, &mut self.remaining) {
            *remaining -= 1;
        }
        Some(Admission { count: 1, is_measured })
    }

    /// Whether each request that is due in this time is admitted and measured, however many they
    /// are.
    #[inline]
    pub(crate) fn admits_all(&self, from: u64, until: u64) -> bool {
        self.phase == Phase::Measuring
            && self.remaining.is_none()
            && !self.is_warm_up(from)
            && self.is_due_in_time(until)
    }

    /// Whether a request that is due then belongs to the load.
    fn is_due_in_time(&self, due_at: u64) -> bool {
        self.bounds.load_ends_at.is_none_or(|end| due_at < end)
    }

    /// Whether what is due or happens then does not count because it is too early.
    pub(crate) fn is_warm_up(&self, due_at: u64) -> bool {
        due_at < self.bounds.warm_up_ends_at
    }

    /// Whether a request that was due then would have counted, but the load ended before it was
    /// sent.
    pub(crate) fn is_missing(&self, due_at: u64) -> bool {
        let is_measured = !self.is_warm_up(due_at);
        let is_due = self.is_due_in_time(due_at) && due_at < self.loaded_until;
        is_measured && is_due && self.remaining != Some(0)
    }

    /// Whether the load ended because its time was over, rather than its number.
    pub(crate) fn is_bounded_by_time(&self) -> bool {
        self.bounds.load_ends_at.is_some()
    }

    /// Admits as many of `wanted` requests as may be sent now.
    #[inline]
    pub(crate) fn admit(&mut self, wanted: u64, now: u64) -> Admission {
        self.advance(now);
        match self.phase {
            Phase::WarmUp => Admission { count: wanted, is_measured: false },
            Phase::Draining => Admission { count: 0, is_measured: false },
            Phase::Measuring => {
                let count = match &mut self.remaining {
                    None => wanted,
                    Some(remaining) => {
                        let count = wanted.min(*remaining);
                        *remaining -= count;
                        count
                    }
                };
                Admission { count, is_measured: true }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(load_ends_at: Option<u64>, remaining: Option<u64>) -> Schedule {
        Schedule::new(Bounds { warm_up_ends_at: 100, load_ends_at }, remaining)
    }

    #[test]
    fn what_is_sent_while_warming_up_is_not_measured() {
        let mut schedule = schedule(Some(200), None);
        assert_eq!(schedule.admit(5, 99), Admission { count: 5, is_measured: false });
        assert_eq!(schedule.admit(5, 100), Admission { count: 5, is_measured: true });
        assert_eq!(schedule.admit(5, 200).count, 0);
        assert_eq!(schedule.measured_window(), (100, 200));
    }

    #[test]
    fn a_number_of_requests_is_never_exceeded_and_not_spent_by_warming_up() {
        let mut schedule = schedule(None, Some(7));
        assert_eq!(schedule.admit(100, 0).count, 100);
        assert_eq!(schedule.admit(5, 100).count, 5);
        assert_eq!(schedule.admit(5, 101).count, 2);
        assert_eq!(schedule.admit(5, 102).count, 0);
        assert_eq!(schedule.phase(), Phase::Draining);
    }

    #[test]
    fn in_open_loop_what_counts_is_when_a_request_was_due() {
        let mut schedule = schedule(Some(200), Some(2));
        let is_measured = |admission: Option<Admission>| admission.map(|a| a.is_measured);
        assert_eq!(is_measured(schedule.admit_due(99)), Some(false));
        assert_eq!(is_measured(schedule.admit_due(100)), Some(true));
        assert_eq!(is_measured(schedule.admit_due(200)), None);
        assert_eq!(is_measured(schedule.admit_due(199)), Some(true));
        assert_eq!(is_measured(schedule.admit_due(199)), None);
    }

    #[test]
    fn all_are_admitted_between_warm_up_and_end_unless_their_number_is_limited() {
        let mut unlimited = schedule(Some(200), None);
        assert!(!unlimited.admits_all(100, 150), "it has not begun");
        unlimited.advance(100);
        let times = [(99, 150), (100, 199), (150, 200)];
        assert_eq!(
            times.map(|(from, until)| unlimited.admits_all(from, until)),
            [false, true, false]
        );
        let mut limited = schedule(Some(200), Some(7));
        limited.advance(100);
        assert!(!limited.admits_all(100, 199));
    }

    #[test]
    fn what_was_due_and_not_sent_is_missing() {
        let mut schedule = schedule(Some(200), None);
        schedule.end(150);
        assert_eq!(
            [99, 100, 149, 150, 200].map(|due_at| schedule.is_missing(due_at)),
            [false, true, true, false, false]
        );
    }

    #[test]
    fn a_stop_ends_the_window_early() {
        let mut schedule = schedule(Some(1_000), None);
        schedule.admit(1, 150);
        schedule.end(160);
        schedule.end(500);
        assert_eq!(schedule.measured_window(), (100, 160));
    }

    #[test]
    fn a_stop_before_measuring_leaves_an_empty_window() {
        let mut schedule = schedule(Some(1_000), None);
        schedule.end(50);
        assert_eq!(schedule.measured_window(), (100, 100));
    }
}
