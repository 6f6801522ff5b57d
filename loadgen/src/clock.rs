//! The run's clock: nanoseconds since it started, and the CPU time of this process.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// A monotonic clock whose readings fit 64 bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    epoch: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { epoch: Instant::now() }
    }

    /// Nanoseconds since the clock was started.
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        // 2^64 nanoseconds are 584 years.
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The reading that comes `pause` after the reading `now`.
    pub(crate) fn after(&self, now: u64, pause: Duration) -> u64 {
        now.saturating_add(u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// CPU time that the calling thread has used.
pub(crate) fn thread_cpu() -> Duration {
    cpu_time(ClockId::ThreadCPUTime)
}

/// CPU time that all threads of this process have used.
pub(crate) fn process_cpu() -> Duration {
    cpu_time(ClockId::ProcessCPUTime)
}

fn cpu_time(clock: ClockId) -> Duration {
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_never_go_back() {
        let clock = Clock::start();
        let first = clock.now();
        assert!(clock.now() >= first);
        assert_eq!(clock.after(5, Duration::from_micros(1)), 1_005);
    }

    #[test]
    fn work_shows_as_cpu_time_of_thread_and_process() {
        let (thread, process) = (thread_cpu(), process_cpu());
        while thread_cpu() == thread || process_cpu() == process {
            std::hint::spin_loop();
        }
        assert!(process_cpu() >= thread_cpu());
    }
}
