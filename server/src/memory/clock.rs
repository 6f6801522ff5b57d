//! `Clock`: the time in which the process runs.
//!
//! A process may be paused: by SIGSTOP, by a freezer of containers, by a machine that moves. For
//! that time its peers are not to blame. So every deadline for a peer is measured by this clock,
//! which stands still meanwhile.
//!
//! It beats every [`BEAT_EVERY`]. If the last beat is older than [`GAP_MAX`], the process has
//! paused since then, and that gap does not count. It is noticed by the first who asks for the
//! time. Right after a pause the event loop may fire timers before it tells what has arrived; by
//! this clock it is as early then as at the last beat, so nobody is judged by that.
//!
//! A pause counts as one beat in the end, so that a process that is never on time ends its waits
//! nevertheless. Without beats it is the clock of the system.

use std::{
    mem,
    ops::Add,
    sync::{
        Mutex, PoisonError,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval};

const BEAT_EVERY: Duration = Duration::from_millis(100);

/// Beats are late on a busy machine, too.
const GAP_MAX: Duration = Duration::from_millis(200);

/// A point in the time that counts, in nanoseconds since the clock was made.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Moment(u64);

#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
    /// The last beat, in nanoseconds since the start: never, while nobody beats.
    last_beat: AtomicU64,
    /// Nanoseconds that do not count.
    paused: AtomicU64,
    /// Nanoseconds that count from the next beat on. Whoever has the lock may write the others.
    owed: Mutex<u64>,
}

const NEVER: u64 = u64::MAX;

impl Clock {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            last_beat: AtomicU64::new(NEVER),
            paused: AtomicU64::new(0),
            owed: Mutex::new(0),
        }
    }

    /// Returns how much time has counted. It is earlier after a pause than it was before, by less
    /// than a gap.
    #[inline]
    pub(crate) fn now(&self) -> Moment {
        loop {
            // Acquire: the reading of the clock comes behind it.
            let paused = self.paused.load(Acquire);
            let now = self.elapsed();
            // Acquire: pairs with `beat`; the pauses before a beat come with it.
            if now.saturating_sub(self.last_beat.load(Acquire)) > nanoseconds(GAP_MAX) {
                self.beat();
            } else if self.paused.load(Relaxed) == paused {
                return Moment(now.saturating_sub(paused));
            }
            // A pause was noted meanwhile, and the reading may be of before.
        }
    }

    /// Returns when it will be `moment` unless there is another pause.
    pub(crate) fn instant(&self, moment: Moment) -> Instant {
        let paused = self.paused.load(Relaxed);
        self.start + Duration::from_nanos(moment.0.saturating_add(paused))
    }

    /// Beats, as long as it is polled.
    pub(crate) async fn run(&self) {
        let _stops_when_dropped = Stops(self);
        let mut beats = interval(BEAT_EVERY);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beats.tick().await;
            self.beat();
        }
    }

    #[cold]
    fn beat(&self) {
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        // Relaxed: they are written with the lock held.
        let (last, paused) = (self.last_beat.load(Relaxed), self.paused.load(Relaxed));
        let now = self.elapsed();
        let gap = if last == NEVER { nanoseconds(BEAT_EVERY) } else { now.saturating_sub(last) };
        if gap < nanoseconds(BEAT_EVERY) / 2 {
            // Somebody has noticed a pause just now.
            return;
        }
        let mut paused = paused - mem::take(&mut *owed);
        if gap > nanoseconds(GAP_MAX) {
            paused += gap;
            *owed = nanoseconds(BEAT_EVERY);
        }
        self.paused.store(paused, Relaxed);
        // Release: pairs with `now`.
        self.last_beat.store(now, Release);
    }

    fn elapsed(&self) -> u64 {
        nanoseconds(self.start.elapsed())
    }
}

/// Stops the beats when it drops.
struct Stops<'c>(&'c Clock);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.last_beat.store(NEVER, Relaxed);
    }
}

impl Moment {
    /// When its clock was made.
    pub(crate) const FIRST: Self = Self(0);
    /// Later than any other.
    pub(crate) const NEVER: Self = Self(NEVER);

    /// Returns how much later it is than `other`, if it is.
    pub(crate) fn since(self, other: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(other.0))
    }

    /// Returns the moment that was `duration` before, or the first.
    pub(crate) fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(nanoseconds(duration)))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    #[inline]
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanoseconds(duration)))
    }
}

/// Rounds what no clock will see down to half a millennium.
#[inline]
const fn nanoseconds(duration: Duration) -> u64 {
    let seconds = duration.as_secs().saturating_mul(1_000_000_000);
    seconds.saturating_add(duration.subsec_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use tokio::{
        task::yield_now,
        time::{advance, pause},
    };

    use super::*;

    /// Lets `duration` pass as a process sees it that runs.
    async fn run(duration: Duration) {
        for _ in 0..duration.as_millis() / 10 {
            advance(Duration::from_millis(10)).await;
            yield_now().await;
        }
    }

    /// What a test does while the clock beats.
    async fn beating(clock: &Clock, test: impl Future<Output = ()>) {
        tokio::select! {
            () = clock.run() => unreachable!("it beats as long as it is polled"),
            () = test => {}
        }
    }

    #[tokio::test]
    async fn time_counts_while_the_process_runs_and_stands_still_in_pauses() {
        pause();
        let clock = Clock::new();
        beating(&clock, async {
            run(Duration::from_secs(1)).await;
            let before = clock.now();
            assert!(before.since(Moment::FIRST) >= Duration::from_millis(900));
            advance(Duration::from_secs(3600)).await;
            assert!(clock.now().since(before) == Duration::ZERO, "right after the pause");
            assert!(before.since(clock.now()) <= BEAT_EVERY, "it goes back by a beat at most");

            run(Duration::from_secs(1)).await;
            let counted = clock.now().since(before);
            let expected = Duration::from_secs(1);
            assert!(counted.abs_diff(expected) <= 2 * BEAT_EVERY, "{counted:?}");
        })
        .await;
    }

    #[tokio::test]
    async fn a_process_that_is_always_late_ends_its_waits_nevertheless() {
        pause();
        let clock = Clock::new();
        beating(&clock, async {
            yield_now().await;
            let before = clock.now();
            for _ in 0..100 {
                advance(2 * GAP_MAX).await;
                yield_now().await;
            }
            let counted = clock.now().since(before);
            assert!(counted >= 98 * BEAT_EVERY, "{counted:?}");
            assert!(counted <= 102 * BEAT_EVERY, "{counted:?}");
        })
        .await;
    }

    #[tokio::test]
    async fn without_beats_all_time_counts() {
        pause();
        let clock = Clock::new();
        beating(&clock, yield_now()).await;
        let before = clock.now();
        advance(Duration::from_secs(3600)).await;
        assert_eq!(clock.now().since(before), Duration::from_secs(3600));
        let due = clock.now() + Duration::MAX;
        assert!(clock.instant(due) > Instant::now());
    }
}
