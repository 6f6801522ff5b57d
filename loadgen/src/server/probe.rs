//! What the server costs: its CPU time, memory and context switches, as the kernel counts them for
//! its processes.
//!
//! CPU time comes from the scheduler's own books, in nanoseconds per thread. Threads and processes
//! that ended meanwhile are missing there; then the totals of the processes count, which have the
//! resolution of the kernel's tick (10 ms) and take over what children used that were waited for.
//! Where nobody waited for one, its part is nowhere and the sum is unknown. Peak memory is the
//! largest resident set since a process started; that of several processes is added up, and pages
//! that they share count in each. Elsewhere than on Linux nothing is known.

use std::{collections::BTreeMap, time::Duration};

/// A server that is watched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerProbe {
    pid: u32,
    /// Whether all processes of its group count, and whatever descends from them. A server may
    /// stand behind a shell that started it.
    is_group: bool,
}

/// What a server has used up to now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Usage {
    processes: BTreeMap<Id, ProcessUsage>,
    /// How many CPUs it could keep busy: the smaller of its threads and of the CPUs it may use.
    pub(crate) cpus: u32,
}

/// The threads of a process by their numbers.
type Threads = BTreeMap<i32, ThreadUsage>;

/// A process: its number, and when it started, since numbers are used again.
type Id = (i32, u64);

#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct ProcessUsage {
    /// User and system time of all its threads, also of those that have ended; in ticks.
    ticks: u64,
    /// The same of children that have ended and for which it has waited.
    reaped_ticks: u64,
    /// What each thread has used that lives, exactly. `None`: nobody has looked.
    threads: Option<Threads>,
    /// The largest resident set so far.
    rss_peak_bytes: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct ThreadUsage {
    cpu: Duration,
    voluntary_switches: u64,
    involuntary_switches: u64,
}

impl Usage {
    /// CPU time since `earlier`. `None`: a part of it is nowhere to be found.
    pub(crate) fn cpu_since(&self, earlier: &Self) -> Option<Duration> {
        let ended = || earlier.processes.iter().filter(|(id, _)| !self.processes.contains_key(id));
        let ended_ticks: u64 = ended().map(|(_, usage)| usage.ticks + usage.reaped_ticks).sum();
        let reaped = |usage: &Self| {
            let live = usage.processes.iter().filter(|(id, _)| self.processes.contains_key(id));
            live.map(|(_, usage)| usage.reaped_ticks).sum::<u64>()
        };
        let reaped_ticks = reaped(self).saturating_sub(reaped(earlier));
        if let (0, 0, Some(cpu)) = (ended_ticks, reaped_ticks, self.exact_cpu_since(earlier)) {
            return Some(cpu);
        }
        // Each process may lose a part of a tick.
        if reaped_ticks + (ended().count() as u64) < ended_ticks {
            return None;
        }
        let total = |usage: &Self| {
            usage.processes.values().map(|usage| usage.ticks + usage.reaped_ticks).sum::<u64>()
        };
        Some(time_of(total(self).saturating_sub(total(earlier))))
    }

    /// CPU time of the processes that live, if all of their threads do that were there.
    fn exact_cpu_since(&self, earlier: &Self) -> Option<Duration> {
        let mut cpu = Duration::ZERO;
        for (now, before) in self.since(earlier) {
            let sum =
                |threads: &Threads| threads.values().map(|thread| thread.cpu).sum::<Duration>();
            let (now, before) = all_live(now, before)?;
            cpu += sum(now).saturating_sub(sum(before));
        }
        Some(cpu)
    }

    /// Voluntary and involuntary context switches since `earlier`. `None` if a thread has ended
    /// that was there, and took its count along.
    pub(crate) fn switches_since(&self, earlier: &Self) -> Option<(u64, u64)> {
        if !earlier.processes.keys().all(|id| self.processes.contains_key(id)) {
            return None;
        }
        let mut switches = (0, 0);
        for (now, before) in self.since(earlier) {
            let (now, before) = all_live(now, before)?;
            for (thread, now) in now {
                let before = before.get(thread).copied().unwrap_or_default();
                switches.0 += now.voluntary_switches.saturating_sub(before.voluntary_switches);
                switches.1 += now.involuntary_switches.saturating_sub(before.involuntary_switches);
            }
        }
        Some(switches)
    }

    /// The largest resident sets of all processes, added up.
    pub(crate) fn rss_peak_bytes(&self) -> Option<u64> {
        self.processes.values().filter_map(|usage| usage.rss_peak_bytes).reduce(|a, b| a + b)
    }

    /// Each process that lives, with what it had used before.
    fn since<'a>(
        &'a self,
        earlier: &'a Self,
    ) -> impl Iterator<Item = (&'a ProcessUsage, Option<&'a ProcessUsage>)> {
        self.processes.iter().map(|(id, now)| (now, earlier.processes.get(id)))
    }
}

/// The threads of a process now and before, if nobody is missing.
fn all_live<'a>(
    now: &'a ProcessUsage,
    before: Option<&'a ProcessUsage>,
) -> Option<(&'a Threads, &'a Threads)> {
    static NONE: Threads = BTreeMap::new();

    let now = now.threads.as_ref()?;
    // A process that was not there has used nothing before.
    let before = before.map_or(Some(&NONE), |before| before.threads.as_ref())?;
    let are_live = !now.is_empty() && before.keys().all(|thread| now.contains_key(thread));
    are_live.then_some((now, before))
}

impl ServerProbe {
    /// Watches one process.
    pub(crate) fn new(pid: u32) -> Self {
        Self { pid, is_group: false }
    }

    /// Watches a process that leads a group, and the whole group with it.
    pub(crate) fn of_group(pid: u32) -> Self {
        Self { pid, is_group: true }
    }

    pub(crate) fn pid(self) -> u32 {
        self.pid
    }

    /// Finds all its processes and reads them. `None` if they have ended, or may not be read.
    ///
    /// In a group that means to look at every process of the machine, which takes milliseconds.
    #[cfg(target_os = "linux")]
    pub(crate) fn usage(self) -> Option<Usage> {
        Usage::of(self.members().into_iter(), |process| Some(threads_of(process)))
    }

    /// Reads the processes that were there at `earlier`, and what has descended from them.
    #[cfg(target_os = "linux")]
    pub(crate) fn usage_after(self, earlier: &Usage) -> Option<Usage> {
        let mut pids: Vec<i32> = earlier.processes.keys().map(|(pid, _)| *pid).collect();
        let mut next = 0;
        while let (true, Some(&pid)) = (self.is_group, pids.get(next)) {
            next += 1;
            let is_new = |child: &i32| !pids.contains(child);
            let children: Vec<i32> = children_of(pid).filter(is_new).collect();
            pids.extend(children);
        }
        Usage::of(pids.into_iter(), |process| Some(threads_of(process)))
    }

    /// Reads in passing what is known of the processes that were there at `earlier`: nothing of
    /// their threads.
    #[cfg(target_os = "linux")]
    pub(crate) fn glance(self, earlier: &Usage) -> Option<Usage> {
        Usage::of(earlier.processes.keys().map(|(pid, _)| *pid), |_| None)
    }

    /// Whether the processes that were there at `earlier` have ended, if only as zombies.
    #[cfg(target_os = "linux")]
    pub(crate) fn has_ended(earlier: &Usage) -> bool {
        let runs = |&(pid, started): &Id| {
            let stat = procfs::process::Process::new(pid).and_then(|process| process.stat());
            stat.is_ok_and(|stat| stat.starttime == started && !matches!(stat.state, 'Z' | 'X'))
        };
        !earlier.processes.keys().any(runs)
    }

    /// Nothing is known on this system.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn has_ended(_: &Usage) -> bool {
        false
    }

    /// The processes that count.
    #[cfg(target_os = "linux")]
    fn members(self) -> Vec<i32> {
        let Ok(pid) = i32::try_from(self.pid) else { return Vec::new() };
        if !self.is_group {
            return vec![pid];
        }
        let all = procfs::process::all_processes().into_iter().flatten().flatten();
        let stats = all.filter_map(|process| process.stat().ok());
        let (mut members, mut others): (Vec<_>, Vec<_>) = stats
            .map(|stat| (stat.pid, stat.ppid, stat.pgrp))
            .partition(|&(id, _, group)| id == pid || group == pid);
        loop {
            let is_child = |&(_, parent, _): &(i32, i32, i32)| {
                members.iter().any(|&(member, _, _)| member == parent)
            };
            let (children, rest): (Vec<_>, Vec<_>) = others.into_iter().partition(is_child);
            if children.is_empty() {
                return members.into_iter().map(|(id, _, _)| id).collect();
            }
            members.extend(children);
            others = rest;
        }
    }

    /// Nothing is known on this system.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn usage(self) -> Option<Usage> {
        None
    }

    /// Nothing is known on this system.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn usage_after(self, _: &Usage) -> Option<Usage> {
        None
    }

    /// Nothing is known on this system.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn glance(self, _: &Usage) -> Option<Usage> {
        None
    }
}

#[cfg(target_os = "linux")]
impl Usage {
    /// Reads these processes, those that there are.
    fn of(
        pids: impl Iterator<Item = i32>,
        threads_of: impl Fn(&procfs::process::Process) -> Option<Threads>,
    ) -> Option<Self> {
        let mut usage = Self { processes: BTreeMap::new(), cpus: 0 };
        let (mut threads, mut cpus_max) = (0, 1);
        for pid in pids {
            let Ok(process) = procfs::process::Process::new(pid) else { continue };
            let (Ok(stat), Ok(status)) = (process.stat(), process.status()) else { continue };
            let allowed = status.cpus_allowed_list.unwrap_or_default();
            let allowed: u32 = allowed.iter().map(|(first, last)| last - first + 1).sum();
            threads += u32::try_from(stat.num_threads).unwrap_or(1);
            cpus_max = cpus_max.max(allowed.min(available_cpus()));
            let reaped = [stat.cutime, stat.cstime].map(|ticks| u64::try_from(ticks).unwrap_or(0));
            let of_process = ProcessUsage {
                ticks: stat.utime + stat.stime,
                reaped_ticks: reaped.iter().sum(),
                threads: threads_of(&process),
                rss_peak_bytes: status.vmhwm.map(|kibibytes| kibibytes * 1024),
            };
            usage.processes.insert((pid, stat.starttime), of_process);
        }
        usage.cpus = threads.min(cpus_max).max(1);
        (!usage.processes.is_empty()).then_some(usage)
    }
}

#[cfg(target_os = "linux")]
fn time_of(ticks: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / procfs::ticks_per_second() as f64)
}

#[cfg(not(target_os = "linux"))]
fn time_of(_: u64) -> Duration {
    Duration::ZERO
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

/// The children of a process, as far as the system tells.
#[cfg(target_os = "linux")]
fn children_of(pid: i32) -> impl Iterator<Item = i32> {
    let process = procfs::process::Process::new(pid);
    let tasks = process.and_then(|process| process.tasks()).into_iter().flatten().flatten();
    let children = tasks.filter_map(|task| task.children().ok()).flatten();
    children.filter_map(|child| i32::try_from(child).ok())
}

/// What each thread has used. Those that end while they are read are left out.
#[cfg(target_os = "linux")]
fn threads_of(process: &procfs::process::Process) -> Threads {
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
        assert!(usage.rss_peak_bytes().unwrap() > 64 * 1024);
        assert!(usage.cpus >= 1);
    }

    #[test]
    fn work_shows_as_cpu_time() {
        let probe = ServerProbe::new(std::process::id());
        let before = probe.usage().unwrap();
        // A test beside this one may end its thread meanwhile; then ticks count.
        while probe.usage().unwrap().cpu_since(&before).unwrap().is_zero() {}
    }

    /// Each process with its ticks, those of its children, and the milliseconds of its threads.
    type Process<'a> = (i32, u64, u64, &'a [(i32, u64)]);

    fn usage(processes: &[Process<'_>]) -> Usage {
        let of = |&(pid, ticks, reaped_ticks, threads): &Process<'_>| {
            let threads = threads.iter().map(|&(thread, millis)| {
                let cpu = Duration::from_millis(millis);
                (thread, ThreadUsage { cpu, voluntary_switches: millis, involuntary_switches: 1 })
            });
            let threads = Some(threads.collect());
            ((pid, 0), ProcessUsage { ticks, reaped_ticks, threads, rss_peak_bytes: Some(100) })
        };
        Usage { processes: processes.iter().map(of).collect(), cpus: 1 }
    }

    #[test]
    fn without_a_thread_that_has_ended_the_ticks_count_and_switches_are_unknown() {
        let before = usage(&[(7, 10, 0, &[(1, 5), (2, 6)])]);
        let both_live = usage(&[(7, 40, 0, &[(1, 15), (2, 18), (3, 2)])]);
        assert_eq!(both_live.cpu_since(&before), Some(Duration::from_millis(24)));
        assert_eq!(both_live.switches_since(&before), Some((24, 1)));
        let one_ended = usage(&[(7, 40, 0, &[(1, 15)])]);
        assert_eq!(one_ended.cpu_since(&before), Some(time_of(30)));
        assert_eq!(one_ended.switches_since(&before), None);
    }

    #[test]
    fn all_processes_count_and_those_that_began_meanwhile_too() {
        let before = usage(&[(7, 1, 0, &[(7, 5)]), (8, 9, 0, &[(8, 80)])]);
        let now = usage(&[(7, 1, 0, &[(7, 6)]), (8, 20, 0, &[(8, 90)]), (9, 1, 0, &[(9, 3)])]);
        assert_eq!(now.cpu_since(&before), Some(Duration::from_millis(14)));
        assert_eq!(now.rss_peak_bytes(), Some(300));
    }

    #[test]
    fn what_an_ended_process_used_is_its_parents_or_unknown() {
        let before = usage(&[(7, 1, 0, &[(7, 5)]), (8, 9, 0, &[(8, 80)])]);
        let waited_for = usage(&[(7, 1, 12, &[(7, 5)])]);
        assert_eq!(waited_for.cpu_since(&before), Some(time_of(3)));
        assert_eq!(waited_for.switches_since(&before), None);
        let lost = usage(&[(7, 1, 0, &[(7, 5)])]);
        assert_eq!(lost.cpu_since(&before), None);
    }

    #[test]
    fn a_child_that_began_meanwhile_is_found_by_its_parent() {
        let probe = ServerProbe::of_group(std::process::id());
        let before = ServerProbe::new(probe.pid).usage().unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let is_there =
            |usage: Usage| usage.processes.keys().any(|id| id.0 == child.id().cast_signed());
        // Its parent is the thread that started it; a kernel without that list tells nothing.
        let is_listed = children_of(probe.pid.cast_signed()).next().is_some();
        assert_eq!(is_there(probe.usage_after(&before).unwrap()), is_listed);
        assert!(is_there(probe.usage().unwrap()));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_glance_knows_ticks_and_memory() {
        let probe = ServerProbe::new(std::process::id());
        let all = probe.usage().unwrap();
        let glance = probe.glance(&all).unwrap();
        assert!(glance.rss_peak_bytes() >= all.rss_peak_bytes());
        assert_eq!(glance.switches_since(&all), None);
        assert!(glance.cpu_since(&all).is_some());
    }

    #[test]
    fn a_process_that_nobody_has_waited_for_has_ended_too() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let usage = ServerProbe::new(child.id()).usage().unwrap();
        assert!(!ServerProbe::has_ended(&usage));
        child.kill().unwrap();
        while !ServerProbe::has_ended(&usage) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(ServerProbe::has_ended(&usage));
    }

    #[test]
    fn a_process_that_does_not_exist_is_unknown() {
        assert_eq!(ServerProbe::new(u32::MAX).usage(), None);
        assert_eq!(ServerProbe::new(i32::MAX.cast_unsigned()).usage(), None);
        assert_eq!(ServerProbe::of_group(i32::MAX.cast_unsigned()).usage(), None);
    }
}
