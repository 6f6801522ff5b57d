//! The request to end a run early.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering::Relaxed},
};

/// A flag that ends a run. Clones are the same flag.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    requests: Arc<AtomicU8>,
}

/// How much patience whoever asked to stop has left.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Urgency {
    None,
    /// Send nothing more, wait for what is in flight, report.
    Soon,
    /// Report what there is.
    AtOnce,
}

impl Stop {
    /// Makes a flag that is not raised.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the run to end with a complete report. Asked again, it no longer waits for what is in
    /// flight.
    pub fn request(&self) {
        // Relaxed: nothing else is published with it. A third request and later ones change
        // nothing.
        let _ = self.requests.fetch_update(Relaxed, Relaxed, |requests| requests.checked_add(1));
    }

    /// Whether anyone has asked.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.urgency() != Urgency::None
    }

    pub(crate) fn urgency(&self) -> Urgency {
        match self.requests.load(Relaxed) {
            0 => Urgency::None,
            1 => Urgency::Soon,
            _ => Urgency::AtOnce,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_request_is_urgent_and_later_ones_change_nothing() {
        let stop = Stop::new();
        assert!(!stop.is_requested());
        stop.clone().request();
        assert_eq!(stop.urgency(), Urgency::Soon);
        for _ in 0..300 {
            stop.request();
        }
        assert_eq!(stop.urgency(), Urgency::AtOnce);
    }
}
