//! `Warnings`: what the log says of trouble, and how often.
//!
//! A flood of bad peers must not become a flood of lines. Of each kind of trouble one line passes
//! in a while; the others are counted, and the count is told when the while is over. All of them
//! are in the log at the level of debugging.

use std::{fmt::Display, time::Duration};

use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, warn};

use crate::{
    memory::Memory,
    roster::Roster,
    stats::Reject,
    throttle::{Throttle, WARN_EVERY},
};

/// How often it is looked at whether there is something to tell.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Who has waited for so long has met more than a moment of scarcity.
const EXHAUSTED_MIN: Duration = Duration::from_secs(1);

/// The warnings of a server.
#[derive(Debug)]
pub(crate) struct Warnings {
    rejects: [Throttle; Reject::ALL.len()],
    exhausted: Throttle,
}

impl Warnings {
    pub(crate) fn new() -> Self {
        Self {
            rejects: Reject::ALL.map(|_| Throttle::new(WARN_EVERY)),
            exhausted: Throttle::new(WARN_EVERY),
        }
    }

    /// Logs that a connection is closed, and how it ends.
    pub(crate) fn rejected(&self, reason: Reject, end: &impl Display) {
        match self.rejects[reason as usize].pass() {
            Some(0) => warn!("closed: {end}"),
            Some(held_back) => {
                warn!("closed: {end}; {held_back} more for this reason since this was logged");
            }
            None => debug!("closed: {end}"),
        }
    }

    /// Logs what was held back, and that memory is exhausted, as long as it is polled.
    pub(crate) async fn report(&self, memory: &Memory, roster: &Roster) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.report_rejects();
            if memory.is_waited_for() {
                self.report_exhaustion(memory, roster);
            }
        }
    }

    /// Logs what was held back and not told yet: the server ends.
    pub(crate) fn report_rest(&self) {
        for (reason, throttle) in Reject::ALL.into_iter().zip(&self.rejects) {
            report_held_back(reason, throttle.rest());
        }
    }

    fn report_rejects(&self) {
        for (reason, throttle) in Reject::ALL.into_iter().zip(&self.rejects) {
            report_held_back(reason, throttle.overdue().unwrap_or(0));
        }
    }

    fn report_exhaustion(&self, memory: &Memory, roster: &Roster) {
        let Some(longest) = roster.longest_wait().filter(|longest| *longest >= EXHAUSTED_MIN)
        else {
            return;
        };
        if self.exhausted.pass().is_some() {
            let waiters: usize = memory.metrics().waits.iter().map(|queue| queue.waiters).sum();
            warn!("memory is exhausted: {waiters} wait for some, the first for {longest:.1?}");
        }
    }
}

fn report_held_back(reason: Reject, connections: u64) {
    if connections > 0 {
        let reason = reason.name();
        warn!(reason, "closed {connections} more connections for a reason that was logged");
    }
}
