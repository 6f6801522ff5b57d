//! Those who wait beside many threads that call `allocate` in a loop: how often others overtake
//! them is bounded, and nobody is refused for their sake.
//!
//! What counts is how many allocations of others succeed while somebody waits, and not for how long
//! he does: the threads that have the memory wait for processors, beside so many.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread,
};

use arena::{BuddyArena, FixedArena};

use crate::{
    process::{alone, duration},
    support::nz,
    tasks::{block_on, events_during},
};

/// Threads that do not wait, and tasks that do.
const IMPATIENT: usize = 90;
const WAITERS: usize = 4;

/// The most allocations that others may make while somebody waits. Each thread may have made one
/// before and count it now. Far fewer than a waiter sees that others can overtake.
const OVERTAKEN_MAX: u64 = 2 * (IMPATIENT + WAITERS) as u64;

/// One wait of so many may exceed that: whoever serves a waiter may be preempted before it wakes
/// him, and others go on.
const EXCEPTIONS: usize = 8;

/// What the waiters and the others have got, and how often the waiters were overtaken.
#[derive(Debug, Default)]
struct Outcome {
    served: usize,
    /// For each that had to wait.
    overtaken: Vec<u64>,
    allocations: u64,
    refusals: u64,
}

/// Repeats `allocate` on many threads and `wait` on some. `allocate` says whether it got something;
/// `wait`, how often it was overtaken, if it had to wait: it is given the count of allocations.
fn compete(
    impatient: usize,
    waiters: usize,
    allocate: impl Fn() -> bool + Sync,
    wait: impl Fn(&Arc<AtomicU64>) -> Option<u64> + Sync,
) -> Outcome {
    let is_over = AtomicBool::new(false);
    let (allocations, refusals) = (Arc::new(AtomicU64::new(0)), AtomicU64::new(0));
    let waits = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..impatient {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    let counter = if allocate() { &*allocations } else { &refusals };
                    counter.fetch_add(1, SeqCst);
                }
            });
        }
        for _ in 0..waiters {
            scope.spawn(|| {
                loop {
                    let overtaken = wait(&allocations);
                    waits.lock().unwrap().push(overtaken);
                    if is_over.load(Relaxed) {
                        break;
                    }
                }
            });
        }
        thread::sleep(duration());
        is_over.store(true, Relaxed);
    });
    let waits = waits.into_inner().unwrap();
    let served = waits.len();
    let mut overtaken: Vec<_> = waits.into_iter().flatten().collect();
    overtaken.sort_unstable();
    let (allocations, refusals) = (allocations.load(SeqCst), refusals.into_inner());
    let most = overtaken.last().copied().unwrap_or_default();
    let usual = overtaken.get(overtaken.len() / 2).copied().unwrap_or_default();
    eprintln!(
        "{served} served, {} of them waited and were overtaken {usual} times, {most} at most; \
         {allocations} allocations, {refusals} refusals",
        overtaken.len(),
    );
    Outcome { served, overtaken, allocations, refusals }
}

#[track_caller]
fn assert_overtaking_is_bounded(outcome: &Outcome) {
    let beyond = outcome.overtaken.iter().filter(|&&overtaken| overtaken > OVERTAKEN_MAX).count();
    let waits = outcome.overtaken.len();
    assert!(beyond <= waits.div_ceil(EXCEPTIONS), "{beyond} of {waits} were overtaken too often");
}

#[test]
fn a_waiter_is_served_beside_many_threads_that_allocate_in_a_loop() {
    alone(|| {
        let arena = FixedArena::builder(nz(8), nz(64)).build_async().unwrap();
        let outcome = compete(
            IMPATIENT,
            WAITERS,
            || arena.allocate().is_ok(),
            |allocations| events_during(arena.allocate_async(), allocations).1,
        );
        assert_overtaking_is_bounded(&outcome);
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
            |allocations| events_during(arena.allocate_async(), allocations).1,
        );
        assert_overtaking_is_bounded(&outcome);
    });
}

#[test]
fn nobody_is_refused_or_overtaken_often_where_there_is_a_slot_for_each() {
    alone(|| {
        let slots = nz(IMPATIENT + WAITERS);
        let arena = FixedArena::builder(slots, nz(64)).build_async().unwrap();
        let outcome = compete(
            IMPATIENT,
            WAITERS,
            || arena.allocate().is_ok(),
            |allocations| events_during(arena.allocate_async(), allocations).1,
        );
        assert_eq!(outcome.refusals, 0, "of {}", outcome.allocations);
        assert_overtaking_is_bounded(&outcome);
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
            |allocations| {
                let large = async { arena.allocate_async(nz(32 * 256)).await.unwrap() };
                events_during(large, allocations).1
            },
        );
        assert_eq!(outcome.refusals, 0, "of {}", outcome.allocations);
        assert!(outcome.allocations > 0);
    });
}

#[test]
fn all_are_served_where_everybody_waits() {
    alone(|| {
        let arena = FixedArena::builder(nz(2), nz(64)).build_async().unwrap();
        let outcome = compete(
            1,
            IMPATIENT,
            || {
                drop(block_on(arena.allocate_async()));
                true
            },
            |allocations| events_during(arena.allocate_async(), allocations).1,
        );
        // Each of them was: none waits for ever.
        assert!(outcome.served >= IMPATIENT, "{} were served", outcome.served);
    });
}
