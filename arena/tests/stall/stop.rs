//! Threads that are stopped by a signal, at random moments of what they do.
//!
//! The handler of `SIGUSR1` sleeps. It is the thread that sleeps, at the instruction where the
//! signal has met it, as if it had been preempted there by something that takes long.

use std::{
    mem, ptr,
    sync::atomic::{
        AtomicBool, AtomicU64, AtomicUsize,
        Ordering::{Relaxed, SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use crate::support::Numbers;

/// The most threads that can be stopped in one process.
const VICTIMS_MAX: usize = 16;

/// Nobody is a victim.
const NOBODY: usize = usize::MAX;

/// What a victim and the one who stops it know of each other.
struct Victim {
    /// Its `pthread_t`.
    thread: AtomicU64,
    /// Rounds that it has done.
    rounds: AtomicU64,
    /// How long it sleeps in the handler.
    stop_ns: AtomicU64,
    is_stopped: AtomicBool,
    stops: AtomicU64,
}

impl Victim {
    const fn new() -> Self {
        Self {
            thread: AtomicU64::new(0),
            rounds: AtomicU64::new(0),
            stop_ns: AtomicU64::new(0),
            is_stopped: AtomicBool::new(false),
            stops: AtomicU64::new(0),
        }
    }
}

static VICTIMS: [Victim; VICTIMS_MAX] = [const { Victim::new() }; VICTIMS_MAX];
static JOINED: AtomicUsize = AtomicUsize::new(0);

std::thread_local! {
    static INDEX: std::cell::Cell<usize> = const { std::cell::Cell::new(NOBODY) };
}

/// Sleeps, whatever else sends signals. Async-signal-safe.
pub(crate) fn sleep_in_handler(ns: u64) {
    let whole = |ns: u64| ns.try_into().expect("a number of seconds or less than one of them");
    let until_it_is_over =
        libc::timespec { tv_sec: whole(ns / 1_000_000_000), tv_nsec: whole(ns % 1_000_000_000) };
    // SAFETY: `errno` belongs to this thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: the address is valid as long as the thread is.
    let before = unsafe { errno.read() };
    // SAFETY: reads a time that is alive, and writes nothing.
    unsafe { libc::nanosleep(&raw const until_it_is_over, ptr::null_mut()) };
    // SAFETY: as above. What was interrupted may be about to read it.
    unsafe { errno.write(before) };
}

/// Installs a handler that is given the state of the thread it interrupts.
pub(crate) fn handle(
    signal: libc::c_int,
    handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void),
) {
    // SAFETY: all zeroes is a valid value of this plain C type.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: `action` is alive and complete, and the handler does what a handler may do.
    let outcome = unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    assert_eq!(outcome, 0, "the handler of signal {signal} cannot be set");
}

extern "C" fn stop(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let index = INDEX.get();
    if index == NOBODY {
        return;
    }
    let victim = &VICTIMS[index];
    victim.is_stopped.store(true, SeqCst);
    sleep_in_handler(victim.stop_ns.load(Relaxed));
    victim.stops.fetch_add(1, Relaxed);
    victim.is_stopped.store(false, SeqCst);
}

/// Lets this thread be stopped while it repeats `round`, until `is_over`.
pub(crate) fn be_stopped(is_over: &AtomicBool, mut round: impl FnMut()) {
    static NEXT: AtomicUsize = AtomicUsize::new(0);

    let index = NEXT.fetch_add(1, SeqCst);
    let victim = VICTIMS.get(index).expect("there are not so many victims");
    INDEX.set(index);
    // SAFETY: asks for the thread's own handle.
    victim.thread.store(unsafe { libc::pthread_self() }, SeqCst);
    JOINED.fetch_add(1, SeqCst);
    while !is_over.load(Relaxed) {
        round();
        victim.rounds.fetch_add(1, Relaxed);
    }
}

/// Stops all victims again and again for `duration`, each for a time between `shortest` and
/// `longest`, at moments that are drawn at random from `within` after it has gone on. Ends with
/// `is_over` set, and returns how often one was stopped.
pub(crate) fn stop_at_random(
    victims: usize,
    duration: Duration,
    [shortest, longest]: [Duration; 2],
    within: Duration,
    is_over: &AtomicBool,
) -> u64 {
    handle(libc::SIGUSR1, stop);
    while JOINED.load(SeqCst) < victims {
        thread::yield_now();
    }
    let whole = |duration: Duration| usize::try_from(duration.as_nanos()).expect("it is short");
    let mut numbers = Numbers::from_seed(9);
    let mut draw = |from: Duration, to: Duration| {
        let more = numbers.below(whole(to - from) + 1);
        from + Duration::from_nanos(more.try_into().expect("a 64-bit number"))
    };
    let end = Instant::now() + duration;
    // For each victim its rounds when it was last stopped, and when it is to be stopped next.
    let mut plans = [(0, None); VICTIMS_MAX];
    while Instant::now() < end {
        for (victim, (rounds, due)) in VICTIMS.iter().zip(&mut plans).take(victims) {
            let done = victim.rounds.load(Relaxed);
            let goes_on = !victim.is_stopped.load(SeqCst) && done > *rounds;
            if !goes_on {
                continue;
            }
            let now = Instant::now();
            match *due {
                None => *due = Some(now + draw(Duration::ZERO, within)),
                Some(moment) if now >= moment => {
                    let length = draw(shortest, longest);
                    victim.stop_ns.store(whole(length).try_into().expect("64 bits"), Relaxed);
                    (*rounds, *due) = (done, None);
                    let thread = victim.thread.load(SeqCst);
                    // SAFETY: the thread is alive: it ends when `is_over`.
                    unsafe { libc::pthread_kill(thread, libc::SIGUSR1) };
                }
                Some(_) => {}
            }
        }
        thread::sleep(Duration::from_micros(100));
    }
    // After the last signal: until then no victim ends.
    is_over.store(true, SeqCst);
    VICTIMS.iter().map(|victim| victim.stops.load(Relaxed)).sum()
}
