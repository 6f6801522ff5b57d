//! `Throttle`: at most one line of the log in a while, about what may happen very often.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

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

    fn pass_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.is_some_and(|last| now.duration_since(last) < self.every) {
            state.held_back += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.held_back))
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
}
