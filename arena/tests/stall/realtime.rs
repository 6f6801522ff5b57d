//! A thread of a real-time class and an ordinary one that it preempts, on one processor: it is not
//! delayed by what the other was doing, which does not go on before it sleeps. Nor is anybody else.
//!
//! Needs the right to use `SCHED_FIFO` (root, `CAP_SYS_NICE`, or a limit), and says so where it is
//! missing. How times are taken: see `time`.

use std::{
    io, mem,
    sync::{
        Barrier, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use arena::{AllocError, Buffer, FixedArena};

use crate::{
    process::{alone_as, duration, skip, test_of},
    support::{Numbers, fixed, nz},
    tasks::block_on,
    time::{Gaps, Meter, Times, pin_to, processors},
};

const LIMIT: Duration = Duration::from_millis(20);

/// Between two rounds of a thread that is measured, at most. The real-time thread preempts the
/// other wherever it is by then.
const PAUSE_NS_MAX: usize = 1_000_000;

const DROP: &str = "drop";
const ALLOCATION: &str = "allocation";

type Outcome = Result<Buffer, AllocError>;

/// Puts this thread above all that are not of a real-time class.
fn be_first() -> io::Result<()> {
    // SAFETY: all zeroes is a valid value of this plain C type.
    let mut wanted: libc::sched_param = unsafe { mem::zeroed() };
    wanted.sched_priority = 10;
    // SAFETY: reads parameters that are alive, for this thread.
    let outcome = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const wanted) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether a thread may be put first.
fn may_be_first() -> io::Result<()> {
    thread::spawn(be_first).join().expect("it only asks")
}

/// Repeats `ordinary` on one processor, and `measured` there by a real-time thread and elsewhere by
/// an ordinary one.
fn measure(ordinary: impl Fn() + Sync, measured: impl Fn(&mut Meter) + Sync) -> Times {
    let everywhere = processors();
    let (shared, other) = (everywhere[0], everywhere.get(1).copied());
    let is_over = AtomicBool::new(false);
    let gaps = Gaps::default();
    let meters = Mutex::new(Vec::new());
    let repeat = |seed| {
        let mut meter = Meter::new();
        let mut numbers = Numbers::from_seed(seed);
        while !is_over.load(Relaxed) {
            measured(&mut meter);
            let pause = numbers.below(PAUSE_NS_MAX).try_into().expect("a 64-bit number");
            thread::sleep(Duration::from_nanos(pause));
        }
        meters.lock().unwrap().push(meter);
    };
    let start = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            pin_to(shared);
            start.wait();
            while !is_over.load(Relaxed) {
                ordinary();
            }
        });
        scope.spawn(|| {
            pin_to(shared);
            be_first().expect("it was tried");
            start.wait();
            repeat(1);
        });
        if let Some(other) = other {
            let repeat = &repeat;
            scope.spawn(move || {
                pin_to(other);
                repeat(2);
            });
        }
        scope.spawn(|| gaps.watch(&is_over));
        thread::sleep(duration());
        is_over.store(true, Relaxed);
    });
    Times::of(&meters.into_inner().unwrap(), &gaps, LIMIT)
}

#[track_caller]
fn assert_not_delayed(times: &Times) {
    eprint!("{times}");
    assert!(times.count_of(ALLOCATION) > 50, "the real-time thread did not get to do anything");
    let slowest = times.slowest(DROP).max(times.slowest(ALLOCATION));
    assert!(slowest <= LIMIT, "somebody waited for a thread that was preempted");
}

fn if_permitted(body: impl FnOnce() + Copy) {
    let test = test_of(&body);
    match may_be_first() {
        Ok(()) => alone_as(test, body),
        Err(error) => skip(test, &format!("SCHED_FIFO is not permitted: {error}")),
    }
}

/// Takes many, so that some have to come from where the other has them, and drops them.
fn many_at_a_time(meter: &mut Meter, count: usize, allocate: impl Fn() -> Outcome) {
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        held.extend(meter.time(&allocate, |_| ALLOCATION));
    }
    for buffer in held {
        meter.time(|| drop(buffer), |()| DROP);
    }
}

fn two_at_once(allocate: impl Fn() -> Outcome) {
    drop([(); 2].map(|()| allocate()));
}

#[test]
fn a_real_time_thread_does_not_wait_for_one_that_it_preempts_with_slots() {
    if_permitted(|| {
        let arena = fixed(64, 64);
        assert_not_delayed(&measure(
            || two_at_once(|| arena.allocate()),
            |meter| many_at_a_time(meter, 20, || arena.allocate()),
        ));
    });
}

#[test]
fn a_real_time_thread_does_not_wait_for_one_that_it_preempts_with_the_last_slots() {
    if_permitted(|| {
        let arena = fixed(4, 64);
        assert_not_delayed(&measure(
            || two_at_once(|| arena.allocate()),
            |meter| many_at_a_time(meter, 4, || arena.allocate()),
        ));
    });
}

#[test]
fn a_real_time_thread_does_not_wait_for_one_that_it_preempts_while_it_serves_waiters() {
    if_permitted(|| {
        let arena = FixedArena::builder(nz(3), nz(64)).build_async().unwrap();
        let is_over = AtomicBool::new(false);
        let times = thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !is_over.load(Relaxed) {
                        drop(block_on(arena.allocate_async()));
                    }
                });
            }
            let times = measure(
                || two_at_once(|| arena.allocate()),
                |meter| many_at_a_time(meter, 3, || arena.allocate()),
            );
            is_over.store(true, Relaxed);
            times
        });
        assert_not_delayed(&times);
    });
}
