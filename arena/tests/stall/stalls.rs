//! Threads that are stopped by signals at random moments of what they do, for 30 to 200 ms,
//! hundreds of times: nobody else's drop takes longer than 20 ms, nor an allocation for which
//! enough is free outside of the stopped threads' hands.
//!
//! How times are taken so that other programs on the machine do not make the tests fail: see
//! `time`. A thread that is stopped has in its hands what it holds, and what it was moving: up to a
//! word of 64 units (and 64 words, where a block of many words was being opened). Where an
//! allocation must be served, the arena has more than that for every victim, so none may be
//! refused.

use std::{
    iter,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use arena::{AllocError, AsyncFixedArena, Buffer, FixedArena};

use crate::{
    process::{alone, duration},
    stop::{be_stopped, stop_at_random},
    support::{Numbers, buddy, fixed, nz},
    tasks::block_on,
    time::{Gaps, Meter, Times},
};

/// The longest that a drop, or an allocation that can be served, may take.
const LIMIT: Duration = Duration::from_millis(20);

/// The longest that a refusal may take, and an allocation that had nothing when it began: the bound
/// that the crate states, 100 ms, and as much time again for the scheduler.
const REFUSAL_LIMIT: Duration = Duration::from_millis(200);

const STOPS: [Duration; 2] = [Duration::from_millis(30), Duration::from_millis(200)];

/// When a victim that goes on is stopped again.
const WITHIN: Duration = Duration::from_millis(2);

const VICTIMS: usize = 8;

const BYSTANDERS: usize = 3;

/// Between two rounds of a bystander, which leaves the processors to others meanwhile.
const PAUSE: Duration = Duration::from_micros(50);

const DROP: &str = "drop";
const ALLOCATION: &str = "allocation";
const REFUSAL: &str = "refusal";

type Outcome = Result<Buffer, AllocError>;

/// What may be asked of the bystanders' allocations.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Memory {
    /// Enough is free outside of the victims' hands, all the time.
    Plenty,
    /// There may be nothing.
    Short,
}

/// Takes the times of bystanders beside victims. Each of the two gets a number for each of its
/// threads and returns what that thread repeats.
fn assert_nobody_stalls<V: FnMut(), B: FnMut(&mut Meter)>(
    memory: Memory,
    victim: impl Fn(u64) -> V + Sync,
    bystander: impl Fn(u64) -> B + Sync,
) {
    let is_over = AtomicBool::new(false);
    let gaps = Gaps::default();
    let meters = Mutex::new(Vec::new());
    let mut stops = 0;
    thread::scope(|scope| {
        for seed in (0..).take(VICTIMS) {
            let (victim, is_over) = (&victim, &is_over);
            scope.spawn(move || be_stopped(is_over, victim(seed)));
        }
        for seed in (100..).take(BYSTANDERS) {
            let (bystander, is_over, meters) = (&bystander, &is_over, &meters);
            scope.spawn(move || {
                let mut meter = Meter::new();
                let mut round = bystander(seed);
                while !is_over.load(Relaxed) {
                    round(&mut meter);
                    thread::sleep(PAUSE);
                }
                meters.lock().unwrap().push(meter);
            });
        }
        scope.spawn(|| gaps.watch(&is_over));
        stops = stop_at_random(VICTIMS, 2 * duration(), STOPS, WITHIN, &is_over);
    });
    let times = Times::of(&meters.into_inner().unwrap(), &gaps, LIMIT);
    eprint!("{stops} stops\n{times}");
    assert!(stops > 20, "only {stops} stops: nothing was tested");
    assert!(times.count_of(DROP) > 100, "the bystanders did not get to do anything");
    assert!(times.slowest(DROP) <= LIMIT, "a drop waited for a stopped thread");
    let refused = times.count_of(REFUSAL);
    let allocation_limit = match memory {
        Memory::Plenty => LIMIT,
        Memory::Short => REFUSAL_LIMIT,
    };
    let slowest = times.slowest(ALLOCATION);
    assert!(slowest <= allocation_limit, "an allocation waited for a stopped thread");
    assert!(times.slowest(REFUSAL) <= REFUSAL_LIMIT, "a refusal waited for a stopped thread");
    assert!(memory == Memory::Short || refused == 0, "{refused} were refused beside free memory");
}

/// Two buffers at a time, with times.
fn two_at_a_time(meter: &mut Meter, mut allocate: impl FnMut() -> Outcome) {
    let kind_of = |outcome: &Outcome| if outcome.is_ok() { ALLOCATION } else { REFUSAL };
    let held = [(); 2].map(|()| meter.time(&mut allocate, kind_of));
    for buffer in held.into_iter().flatten() {
        meter.time(|| drop(buffer), |()| DROP);
    }
}

/// As [`two_at_a_time`], with no times.
fn two_at_once(mut allocate: impl FnMut() -> Outcome) {
    let held = [(); 2].map(|()| allocate());
    drop(held);
}

/// All that there is, and then nothing.
fn all_at_once(allocate: impl FnMut() -> Outcome) {
    drop(iter::repeat_with(allocate).map_while(Result::ok).collect::<Vec<_>>());
}

/// A size of some minimum blocks.
fn size(numbers: &mut Numbers, min: usize, max: usize) -> std::num::NonZeroUsize {
    nz(min + numbers.below(max - min + 1))
}

#[test]
fn nobody_waits_for_threads_that_stopped_with_slots() {
    alone(|| {
        let arena = fixed(64, 64);
        assert_nobody_stalls(
            Memory::Plenty,
            |_| || two_at_once(|| arena.allocate()),
            |_| |meter: &mut Meter| two_at_a_time(meter, || arena.allocate()),
        );
    });
}

#[test]
fn nobody_waits_for_threads_that_stopped_with_small_blocks() {
    alone(|| {
        let arena = buddy(4 << 20, 256);
        let round = |seed| {
            let mut numbers = Numbers::from_seed(seed);
            let arena = &arena;
            move || arena.allocate(size(&mut numbers, 1, 2048))
        };
        assert_nobody_stalls(
            Memory::Plenty,
            |seed| {
                let mut allocate = round(seed);
                move || two_at_once(&mut allocate)
            },
            |seed| {
                let mut allocate = round(seed);
                move |meter: &mut Meter| two_at_a_time(meter, &mut allocate)
            },
        );
    });
}

#[test]
fn nobody_waits_for_threads_that_stopped_with_large_blocks() {
    alone(|| {
        let arena = buddy(64 << 20, 256);
        let round = |seed| {
            let mut numbers = Numbers::from_seed(seed);
            let arena = &arena;
            move || arena.allocate(size(&mut numbers, 8 << 10, 256 << 10))
        };
        assert_nobody_stalls(
            Memory::Plenty,
            |seed| {
                let mut allocate = round(seed);
                move || two_at_once(&mut allocate)
            },
            |seed| {
                let mut allocate = round(seed);
                move |meter: &mut Meter| two_at_a_time(meter, &mut allocate)
            },
        );
    });
}

#[test]
fn nobody_waits_for_threads_that_stopped_while_they_are_refused() {
    alone(|| {
        // A block at the end of each half, so that none is ever free as a whole.
        let arena = buddy(1 << 20, 256);
        let all: Vec<_> = (0..4096).map(|_| arena.allocate(nz(256)).unwrap()).collect();
        let is_kept = |index: usize| index % 2048 == 2047;
        let kept = all.into_iter().enumerate().filter(|(index, _)| is_kept(*index));
        let _kept: Vec<_> = kept.collect();
        assert_nobody_stalls(
            Memory::Plenty,
            |seed| {
                let arena = &arena;
                // The others disturb the refused, who look all the longer.
                move || match seed % 2 {
                    0 => assert!(arena.allocate(nz(1 << 19)).is_err()),
                    _ => two_at_once(|| arena.allocate(nz(256))),
                }
            },
            |_| |meter: &mut Meter| two_at_a_time(meter, || arena.allocate(nz(256))),
        );
    });
}

#[test]
fn nobody_waits_for_threads_that_stopped_with_the_last_slots() {
    alone(|| {
        let arena = fixed(64, 64);
        let _kept: Vec<_> = (0..56).map(|_| arena.allocate()).collect();
        assert_nobody_stalls(
            Memory::Short,
            |_| || all_at_once(|| arena.allocate()),
            |_| |meter: &mut Meter| two_at_a_time(meter, || arena.allocate()),
        );
    });
}

#[test]
fn nobody_waits_for_threads_that_stopped_with_the_last_blocks() {
    alone(|| {
        let arena = buddy(64 << 10, 256);
        assert_nobody_stalls(
            Memory::Short,
            |_| || all_at_once(|| arena.allocate(nz(2048))),
            |_| |meter: &mut Meter| two_at_a_time(meter, || arena.allocate(nz(256))),
        );
    });
}

#[test]
fn nobody_waits_for_threads_that_stopped_with_the_only_slot() {
    alone(|| {
        let arena = fixed(1, 64);
        assert_nobody_stalls(
            Memory::Short,
            |_| || two_at_once(|| arena.allocate()),
            |_| |meter: &mut Meter| two_at_a_time(meter, || arena.allocate()),
        );
    });
}

/// Victims with an odd number wait for memory, the others free it and so serve them.
fn wait_or_serve(arena: &AsyncFixedArena, seed: u64) {
    if seed.is_multiple_of(2) {
        two_at_once(|| arena.allocate());
    } else {
        drop(block_on(arena.allocate_async()));
    }
}

#[test]
fn no_drop_waits_for_threads_that_stopped_while_they_serve_waiters() {
    alone(|| {
        let arena = FixedArena::builder(nz(6), nz(64)).build_async().unwrap();
        assert_nobody_stalls(
            Memory::Short,
            |seed| {
                let arena = &arena;
                move || wait_or_serve(arena, seed)
            },
            |_| |meter: &mut Meter| two_at_a_time(meter, || arena.allocate()),
        );
    });
}
