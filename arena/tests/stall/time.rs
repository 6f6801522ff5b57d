//! How long operations take, on a machine that others use as well.
//!
//! What an operation is charged is the time by the clock, less
//!
//! - the time for which its own thread was ready to run and had no processor: the kernel counts it
//!   for each thread (`/proc/thread-self/schedstat`);
//! - the time for which a processor did not run at all, because the host had taken it away or
//!   interrupts took it. A *control* on each processor finds that: a thread that sleeps for a
//!   millisecond, again and again, uses no arena, and notes when it is woken too late although it
//!   did not wait for the processor either.
//!
//! What is left is what the thread ran or slept inside of the operation: waiting for another
//! thread, be it in a loop or in the kernel. A loop that gives the processor up in each turn is
//! charged less than the whole of its wait where the processors are busy, so the threads that are
//! measured pause between their operations and leave them idle.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    mem,
    os::unix::fs::FileExt,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

/// Gaps below this are not noted, and neither are operations.
const NOTED: Duration = Duration::from_millis(3);

const TICK: Duration = Duration::from_millis(1);

/// When one processor did not run.
#[derive(Debug)]
struct Gap {
    processor: usize,
    began: Instant,
    ended: Instant,
    /// For how long of it.
    lost: Duration,
}

/// What the controls have found.
#[derive(Debug, Default)]
pub(crate) struct Gaps(Mutex<Vec<Gap>>);

impl Gaps {
    /// Watches every processor that this process may use, until `is_over`.
    pub(crate) fn watch(&self, is_over: &AtomicBool) {
        thread::scope(|scope| {
            for processor in processors() {
                scope.spawn(move || {
                    pin_to(processor);
                    let clock = ReadyTime::new();
                    while !is_over.load(Relaxed) {
                        let (began, ready) = (Instant::now(), clock.read());
                        thread::sleep(TICK);
                        let ended = Instant::now();
                        let late = (ended - began).saturating_sub(TICK);
                        if late < NOTED {
                            continue;
                        }
                        let lost = late.saturating_sub(clock.read() - ready);
                        self.0.lock().unwrap().push(Gap { processor, began, ended, lost });
                    }
                });
            }
        });
    }

    /// The most that any processor has lost between two moments.
    fn lost_between(&self, began: Instant, ended: Instant) -> Duration {
        let mut lost = BTreeMap::<usize, Duration>::new();
        for gap in self.0.lock().unwrap().iter() {
            let overlap = gap.ended.min(ended).saturating_duration_since(gap.began.max(began));
            *lost.entry(gap.processor).or_default() += gap.lost.min(overlap);
        }
        lost.into_values().max().unwrap_or_default()
    }
}

/// How long a thread has been ready without a processor.
#[derive(Debug)]
struct ReadyTime(Option<File>);

impl ReadyTime {
    fn new() -> Self {
        Self(File::open("/proc/thread-self/schedstat").ok())
    }

    /// Zero, where the kernel does not count it: then too much is charged rather than too little.
    fn read(&self) -> Duration {
        let mut text = [0; 96];
        let read = self.0.as_ref().and_then(|file| file.read_at(&mut text, 0).ok());
        let text = str::from_utf8(&text[..read.unwrap_or(0)]).unwrap_or_default();
        let ready = text.split_whitespace().nth(1).and_then(|ns| ns.parse().ok());
        Duration::from_nanos(ready.unwrap_or(0))
    }
}

/// An operation that took long enough to be looked at.
#[derive(Clone, Copy, Debug)]
struct Slow {
    kind: &'static str,
    began: Instant,
    ended: Instant,
    /// For how long its thread had no processor meanwhile.
    ready: Duration,
}

/// Takes the times of one thread's operations.
#[derive(Debug)]
pub(crate) struct Meter {
    clock: ReadyTime,
    counts: BTreeMap<&'static str, u64>,
    slow: Vec<Slow>,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self { clock: ReadyTime::new(), counts: BTreeMap::new(), slow: Vec::new() }
    }

    /// Takes the time of `operation`. What kind it is may depend on what it returns.
    pub(crate) fn time<R>(
        &mut self,
        operation: impl FnOnce() -> R,
        kind: impl FnOnce(&R) -> &'static str,
    ) -> R {
        let ready = self.clock.read();
        let began = Instant::now();
        let outcome = operation();
        let ended = Instant::now();
        let kind = kind(&outcome);
        *self.counts.entry(kind).or_default() += 1;
        if ended - began >= NOTED {
            let ready = self.clock.read() - ready;
            self.slow.push(Slow { kind, began, ended, ready });
        }
        outcome
    }
}

/// What the slowest operations of a kind took.
#[derive(Debug, Default)]
pub(crate) struct Slowest {
    count: u64,
    over_limit: u64,
    pub(crate) charged: Duration,
    by_the_clock: Duration,
}

/// The times of many threads.
#[derive(Debug, Default)]
pub(crate) struct Times(BTreeMap<&'static str, Slowest>);

impl Times {
    /// Adds up what some threads have measured. Counts operations of more than `limit`.
    pub(crate) fn of(meters: &[Meter], gaps: &Gaps, limit: Duration) -> Self {
        let mut times = Self::default();
        for meter in meters {
            for (kind, count) in &meter.counts {
                times.0.entry(kind).or_default().count += count;
            }
            for slow in &meter.slow {
                let by_the_clock = slow.ended - slow.began;
                let lost = slow.ready + gaps.lost_between(slow.began, slow.ended);
                let charged = by_the_clock.saturating_sub(lost);
                let slowest = times.0.entry(slow.kind).or_default();
                slowest.over_limit += u64::from(charged > limit);
                slowest.by_the_clock = slowest.by_the_clock.max(by_the_clock);
                slowest.charged = slowest.charged.max(charged);
            }
        }
        times
    }

    pub(crate) fn count_of(&self, kind: &str) -> u64 {
        self.0.get(kind).map_or(0, |slowest| slowest.count)
    }

    pub(crate) fn slowest(&self, kind: &str) -> Duration {
        self.0.get(kind).map_or(Duration::ZERO, |slowest| slowest.charged)
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, slowest) in &self.0 {
            let Slowest { count, over_limit, charged, by_the_clock } = slowest;
            writeln!(
                f,
                "  {kind}: {count}, slowest {charged:.1?} ({by_the_clock:.1?} by the clock), \
                 {over_limit} over the limit",
            )?;
        }
        Ok(())
    }
}

/// The processors that this thread may use.
pub(crate) fn processors() -> Vec<usize> {
    // SAFETY: all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: writes a set of the size that is given.
    let outcome = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    assert_eq!(outcome, 0, "a thread may ask where it may run");
    let is_in = |&processor: &usize| {
        // SAFETY: reads a set that is alive, at an index within it.
        unsafe { libc::CPU_ISSET(processor, &set) }
    };
    (0..libc::CPU_SETSIZE.try_into().expect("a size")).filter(is_in).collect()
}

/// Keeps this thread on one processor.
pub(crate) fn pin_to(processor: usize) {
    // SAFETY: all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: writes into a set that is alive, at an index that came from one.
    unsafe { libc::CPU_SET(processor, &mut set) };
    // SAFETY: reads a set of the size that is given.
    let outcome = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    assert_eq!(outcome, 0, "processor {processor} was offered");
}
