//! `Throttle`: at most one line of the log in a while, about what may happen very often.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How often the same trouble is logged.
pub(crate) const WARN_EVERY: Duration = Duration::from_secs(10);

/// Lets something happen at most once in `every`, and counts what it held back.
#[derive(Debug)]
pub(crate) struct Throttle {
    every: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    held_back: u64,
}

impl Throttle {
    pub(crate) const fn new(every: Duration) -> Self {
        Self { every, state: Mutex::new(State { last: None, held_back: 0 }) }
    }

    /// Returns how many were held back since the last that was let through, or `None` if this one
    /// is held back too.
    pub(crate) fn pass(&self) -> Option<u64> {
        self.pass_at(Instant::now())
    }

    /// Returns how many were held back, if some were and the time for which they were is over. They
    /// are not told again.
    pub(crate) fn overdue(&self) -> Option<u64> {
        self.overdue_at(Instant::now())
    }

    /// Returns how many were held back and not told, at the end.
    pub(crate) fn rest(&self) -> u64 {
        std::mem::take(&mut self.state().held_back)
    }

    fn overdue_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state();
        let is_over = state.last.is_none_or(|last| now.duration_since(last) >= self.every);
        if state.held_back == 0 || !is_over {
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.held_back))
    }

    fn pass_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state();
        if state.last.is_some_and(|last| now.duration_since(last) < self.every) {
            state.held_back += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.held_back))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_passes_in_a_while_and_tells_how_many_did_not() {
        let every = Duration::from_secs(10);
        let throttle = Throttle::new(every);
        let start = Instant::now();
        assert_eq!(throttle.pass_at(start), Some(0));
        assert_eq!(throttle.pass_at(start + every / 2), None);
        assert_eq!(throttle.pass_at(start + every / 2), None);
        assert_eq!(throttle.pass_at(start + every), Some(2));
        assert_eq!(throttle.pass_at(start + 2 * every), Some(0));
    }

    #[test]
    fn what_was_held_back_is_told_once_when_its_time_is_over() {
        let every = Duration::from_secs(10);
        let throttle = Throttle::new(every);
        let start = Instant::now();
        assert_eq!(throttle.overdue_at(start), None);
        throttle.pass_at(start);
        throttle.pass_at(start);
        assert_eq!(throttle.overdue_at(start + every / 2), None);
        assert_eq!(throttle.overdue_at(start + every), Some(1));
        assert_eq!(throttle.overdue_at(start + 2 * every), None);
    }
}
