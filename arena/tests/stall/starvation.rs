//! Those who wait beside many threads that call `allocate` in a loop: how long they wait is
//! bounded, and nobody is refused for their sake.
//!
//! The time that counts is that from the first poll to the wake-up, if there is one. When the
//! thread that was woken runs is the system's affair, and it takes its time beside so many.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use arena::{BuddyArena, FixedArena};

use crate::{
    process::{alone, duration},
    support::nz,
    tasks::{block_on, wait_of},
};

/// Far more than a waiter should wait, so that a busy machine does not exceed it.
const LIMIT: Duration = Duration::from_secs(1);

/// Threads that do not wait, and tasks that do.
const IMPATIENT: usize = 90;
const WAITERS: usize = 4;

/// What the waiters and the others have got, and how long the waiters had to wait.
#[derive(Debug, Default)]
struct Outcome {
    waits: Vec<Duration>,
    allocations: u64,
    refusals: u64,
}

/// Repeats `allocate` on many threads and `wait` on some. `allocate` says whether it got something;
/// `wait`, how long it took.
fn compete(
    impatient: usize,
    waiters: usize,
    allocate: impl Fn() -> bool + Sync,
    wait: impl Fn() -> Duration + Sync,
) -> Outcome {
    let is_over = AtomicBool::new(false);
    let (allocations, refusals) = (AtomicU64::new(0), AtomicU64::new(0));
    let waits = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..impatient {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    let counter = if allocate() { &allocations } else { &refusals };
                    counter.fetch_add(1, Relaxed);
                }
            });
        }
        for _ in 0..waiters {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    let waited = wait();
                    waits.lock().unwrap().push(waited);
                }
            });
        }
        thread::sleep(duration());
        is_over.store(true, Relaxed);
    });
    let waits = waits.into_inner().unwrap();
    let (allocations, refusals) = (allocations.into_inner(), refusals.into_inner());
    let slowest = waits.iter().max().copied().unwrap_or_default();
    eprintln!(
        "{} waits, slowest {slowest:.1?}; {allocations} allocations, {refusals} refusals",
        waits.len(),
    );
    Outcome { waits, allocations, refusals }
}

#[track_caller]
fn assert_waits_are_bounded(outcome: &Outcome) {
    let slowest = outcome.waits.iter().max().expect("somebody was served");
    assert!(*slowest <= LIMIT, "somebody waited for {slowest:?}");
}

#[test]
fn a_waiter_is_served_beside_many_threads_that_allocate_in_a_loop() {
    alone(|| {
        let arena = FixedArena::builder(nz(8), nz(64)).build_async().unwrap();
        let outcome = compete(
            IMPATIENT,
            WAITERS,
            || arena.allocate().is_ok(),
            || wait_of(arena.allocate_async()).1,
        );
        assert_waits_are_bounded(&outcome);
    });
}

#[test]
fn a_waiter_for_the_only_slot_is_served_beside_many_threads_that_allocate_in_a_loop() {
    alone(|| {
        let arena = FixedArena::builder(nz(1), nz(64)).build_async().unwrap();
        let outcome = compete(
            IMPATIENT,
            WAITERS,
            || arena.allocate().is_ok(),
            || wait_of(arena.allocate_async()).1,
        );
        assert_waits_are_bounded(&outcome);
    });
}

#[test]
fn nobody_is_refused_or_waits_long_where_there_is_a_slot_for_each() {
    alone(|| {
        let slots = nz(IMPATIENT + WAITERS);
        let arena = FixedArena::builder(slots, nz(64)).build_async().unwrap();
        let outcome = compete(
            IMPATIENT,
            WAITERS,
            || arena.allocate().is_ok(),
            || wait_of(arena.allocate_async()).1,
        );
        assert_eq!(outcome.refusals, 0, "of {}", outcome.allocations);
        assert_waits_are_bounded(&outcome);
    });
}

#[test]
fn nobody_is_refused_for_the_sake_of_a_waiter_that_needs_much() {
    alone(|| {
        // The waiter has half of the arena at most, the others a quarter.
        let arena = BuddyArena::builder(nz(64 * 256), nz(256)).build_async().unwrap();
        let outcome = compete(
            16,
            1,
            || arena.allocate(nz(256)).is_ok(),
            || wait_of(async { arena.allocate_async(nz(32 * 256)).await.unwrap() }).1,
        );
        assert_eq!(outcome.refusals, 0, "of {}", outcome.allocations);
        assert!(outcome.allocations > 0);
    });
}

#[test]
fn all_are_served_where_everybody_waits() {
    alone(|| {
        let arena = FixedArena::builder(nz(2), nz(64)).build_async().unwrap();
        let began = Instant::now();
        let outcome = compete(
            1,
            IMPATIENT,
            || {
                drop(block_on(arena.allocate_async()));
                true
            },
            || wait_of(arena.allocate_async()).1,
        );
        assert!(outcome.waits.len() >= IMPATIENT, "within {:?}", began.elapsed());
        assert_waits_are_bounded(&outcome);
    });
}
