//! What the server costs: its CPU time and memory, as the kernel counts them for its process.
//!
//! The CPU time has the resolution of the kernel's tick (10 ms): over a second or more that is
//! exact enough. Peak memory is the largest resident set since the process started. Elsewhere than
//! on Linux nothing is known.

use std::time::Duration;

/// A process that is watched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerProbe {
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pid: u32,
}

/// What a process has used up to now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Usage {
    /// User and system time of all its threads, also of those that have ended.
    pub(crate) cpu: Duration,
    /// The largest resident set so far.
    pub(crate) rss_peak_bytes: Option<u64>,
    /// How many CPUs it could keep busy: the smaller of its threads and of the CPUs it may use.
    pub(crate) cpus: u32,
}

impl ServerProbe {
    pub(crate) fn new(pid: u32) -> Self {
        Self { pid }
    }

    /// Reads the process. `None` if it has ended, or may not be read.
    #[cfg(target_os = "linux")]
    pub(crate) fn usage(&self) -> Option<Usage> {
        let process = procfs::process::Process::new(i32::try_from(self.pid).ok()?).ok()?;
        let stat = process.stat().ok()?;
        let status = process.status().ok()?;
        let ticks = stat.utime + stat.stime;
        let allowed = status.cpus_allowed_list.unwrap_or_default();
        let allowed: u32 = allowed.iter().map(|(first, last)| last - first + 1).sum();
        let threads = u32::try_from(stat.num_threads).unwrap_or(1);
        Some(Usage {
            cpu: Duration::from_secs_f64(ticks as f64 / procfs::ticks_per_second() as f64),
            rss_peak_bytes: status.vmhwm.map(|kibibytes| kibibytes * 1024),
            cpus: threads.min(allowed.min(available_cpus())).max(1),
        })
    }

    /// Nothing is known on this system.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn usage(&self) -> Option<Usage> {
        None
    }
}

/// The mask of a process may name CPUs that the machine does not have.
#[cfg(target_os = "linux")]
fn available_cpus() -> u32 {
    use procfs::Current;

    let configured = procfs::CpuInfo::current().map(|info| info.num_cores()).unwrap_or(1);
    u32::try_from(configured).unwrap_or(u32::MAX)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_own_process_has_used_memory_and_at_least_one_cpu() {
        let usage = ServerProbe::new(std::process::id()).usage().unwrap();
        assert!(usage.rss_peak_bytes.unwrap() > 64 * 1024);
        assert!(usage.cpus >= 1);
    }

    #[test]
    fn work_shows_as_cpu_time() {
        let probe = ServerProbe::new(std::process::id());
        let before = probe.usage().unwrap().cpu;
        while probe.usage().unwrap().cpu == before {}
        assert!(probe.usage().unwrap().cpu > before);
    }

    #[test]
    fn a_process_that_does_not_exist_is_unknown() {
        assert_eq!(ServerProbe::new(u32::MAX).usage(), None);
        assert_eq!(ServerProbe::new(i32::MAX.cast_unsigned()).usage(), None);
    }
}
