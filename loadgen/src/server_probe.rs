//! What the server costs: its CPU time, memory and context switches, as the kernel counts them for
//! its process.
//!
//! CPU time comes from the scheduler's own books, in nanoseconds per thread. Threads that ended
//! meanwhile are missing there; then the process's total counts, which has the resolution of the
//! kernel's tick (10 ms). Peak memory is the largest resident set since the process started.
//! Elsewhere than on Linux nothing is known.

use std::{collections::BTreeMap, time::Duration};

/// A process that is watched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerProbe {
    pid: u32,
}

/// What a process has used up to now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Usage {
    /// User and system time of all its threads, also of those that have ended; in whole ticks.
    ticked_cpu: Duration,
    /// The same of each thread that lives, exactly.
    threads: BTreeMap<i32, ThreadUsage>,
    /// The largest resident set so far.
    pub(crate) rss_peak_bytes: Option<u64>,
    /// How many CPUs it could keep busy: the smaller of its threads and of the CPUs it may use.
    pub(crate) cpus: u32,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct ThreadUsage {
    cpu: Duration,
    voluntary_switches: u64,
    involuntary_switches: u64,
}

impl Usage {
    /// CPU time since `earlier`.
    pub(crate) fn cpu_since(&self, earlier: &Self) -> Duration {
        let all_live = earlier.threads.keys().all(|thread| self.threads.contains_key(thread));
        let cpu = |usage: &Self| usage.threads.values().map(|thread| thread.cpu).sum::<Duration>();
        match all_live && !self.threads.is_empty() {
            true => cpu(self).saturating_sub(cpu(earlier)),
            false => self.ticked_cpu.saturating_sub(earlier.ticked_cpu),
        }
    }

    /// Voluntary and involuntary context switches since `earlier`, of the threads that live.
    pub(crate) fn switches_since(&self, earlier: &Self) -> (u64, u64) {
        let mut switches = (0, 0);
        for (thread, now) in &self.threads {
            let before = earlier.threads.get(thread).copied().unwrap_or_default();
            switches.0 += now.voluntary_switches.saturating_sub(before.voluntary_switches);
            switches.1 += now.involuntary_switches.saturating_sub(before.involuntary_switches);
        }
        switches
    }
}

impl ServerProbe {
    pub(crate) fn new(pid: u32) -> Self {
        Self { pid }
    }

    pub(crate) fn pid(self) -> u32 {
        self.pid
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
            ticked_cpu: Duration::from_secs_f64(ticks as f64 / procfs::ticks_per_second() as f64),
            threads: threads_of(&process),
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

/// Time of the whole machine, in ticks: what the hypervisor gave to others, and all of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct MachineTime {
    stolen: u64,
    all: u64,
}

impl MachineTime {
    /// Reads it. `None` where the system does not tell.
    #[cfg(target_os = "linux")]
    pub(crate) fn now() -> Option<Self> {
        use procfs::CurrentSI;

        let cpu = procfs::KernelStats::current().ok()?.total;
        let stolen = cpu.steal?;
        let waiting = cpu.idle + cpu.iowait.unwrap_or_default();
        let interrupts = cpu.irq.unwrap_or_default() + cpu.softirq.unwrap_or_default();
        let all = cpu.user + cpu.nice + cpu.system + waiting + interrupts + stolen;
        Some(Self { stolen, all })
    }

    /// Nothing is known on this system.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn now() -> Option<Self> {
        None
    }

    /// The share that was stolen since `earlier`.
    pub(crate) fn stolen_share_since(&self, earlier: &Self) -> Option<f64> {
        let all = self.all.checked_sub(earlier.all).filter(|all| *all > 0)?;
        Some(self.stolen.saturating_sub(earlier.stolen) as f64 / all as f64)
    }
}

/// What each thread has used. Those that end while they are read are left out.
#[cfg(target_os = "linux")]
fn threads_of(process: &procfs::process::Process) -> BTreeMap<i32, ThreadUsage> {
    let tasks = process.tasks().into_iter().flatten().flatten();
    let read = |task: procfs::process::Task| {
        let (cpu, status) = (task.schedstat().ok()?.sum_exec_runtime, task.status().ok()?);
        let usage = ThreadUsage {
            cpu: Duration::from_nanos(cpu),
            voluntary_switches: status.voluntary_ctxt_switches.unwrap_or_default(),
            involuntary_switches: status.nonvoluntary_ctxt_switches.unwrap_or_default(),
        };
        Some((task.tid, usage))
    };
    tasks.filter_map(read).collect()
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
        let before = probe.usage().unwrap();
        while probe.usage().unwrap().cpu_since(&before).is_zero() {}
        assert!(probe.usage().unwrap().cpu_since(&before) > Duration::ZERO);
    }

    #[test]
    fn without_a_thread_that_has_ended_the_ticks_count() {
        let usage = |ticked: u64, threads: &[(i32, u64)]| Usage {
            ticked_cpu: Duration::from_millis(ticked),
            threads: threads
                .iter()
                .map(|&(thread, cpu)| {
                    let cpu = Duration::from_millis(cpu);
                    (thread, ThreadUsage { cpu, ..ThreadUsage::default() })
                })
                .collect(),
            rss_peak_bytes: None,
            cpus: 1,
        };
        let before = usage(10, &[(1, 5), (2, 6)]);
        let both_live = usage(40, &[(1, 15), (2, 18), (3, 2)]);
        assert_eq!(both_live.cpu_since(&before), Duration::from_millis(24));
        let one_ended = usage(40, &[(1, 15)]);
        assert_eq!(one_ended.cpu_since(&before), Duration::from_millis(30));
    }

    #[test]
    fn a_process_that_does_not_exist_is_unknown() {
        assert_eq!(ServerProbe::new(u32::MAX).usage(), None);
        assert_eq!(ServerProbe::new(i32::MAX.cast_unsigned()).usage(), None);
    }
}
