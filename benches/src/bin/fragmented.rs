//! What does a drop cost while somebody waits, and what a refusal, where free memory is in pieces?
//!
//! Every second unit of the arena is free. Somebody waits for a block that no drop here makes
//! possible. Each figure is the median over the rounds of nanoseconds of CPU time of one operation.
//!
//! ```sh
//! taskset -c 0 cargo run --release -p benches --bin fragmented
//! ```
//!
//! An argument is the number of rounds, 9 if there is none.

use std::{
    process::ExitCode,
    task::{Context, Poll, Waker},
    time::Duration,
};

use arena::{AsyncBuddyArena, BuddyArena, Buffer};
use benches::*;
use bytes::BufMut;
use rustix::time::{ClockId, clock_gettime};

const ROUNDS: usize = 9;

const UNIT_BYTES: usize = 256;

/// What is waited for, and refused: four units, of which two are in use.
const WANTED_BYTES: usize = 4 * UNIT_BYTES;

/// How many blocks are dropped for a figure: one of sixteen, so that no four units become free.
const DROPS: usize = 2048;
const DROP_EVERY: usize = 16;

/// How many requests are refused for a figure.
const REFUSALS: usize = 1000;

fn main() -> ExitCode {
    let rounds = match rounds_asked_for(ROUNDS) {
        Ok(rounds) => rounds,
        Err(error) => {
            eprintln!("fragmented: {error}");
            return ExitCode::from(2);
        }
    };
    println!("{rounds} rounds; medians of ns per operation; every second unit of 256 B is free");
    println!();
    println!("| arena | drop | drop while somebody waits (wanted: 300) | refusal (wanted: 1000) |");
    println!("|---|---|---|---|");
    for mib in [64, 256] {
        let mut figures = [const { Vec::new() }; 3];
        for _ in 0..rounds {
            for (figures, ns) in figures.iter_mut().zip(measure(mib << 20)) {
                figures.push(ns);
            }
        }
        let [drop, waited_for, refusal] = figures.map(|figures| median(figures.into_iter()));
        println!("| {mib} MiB | {drop:.0} | {waited_for:.0} | {refusal:.0} |");
    }
    ExitCode::SUCCESS
}

/// The nanoseconds of a drop, of a drop while somebody waits, and of a refusal.
fn measure(total_bytes: usize) -> [f64; 3] {
    let arena = BuddyArena::builder(nz(total_bytes), nz(UNIT_BYTES)).build_async();
    let arena = arena.expect("a valid arena");
    let mut held = every_second_unit(&arena);
    let refusal = time(REFUSALS, || {
        for _ in 0..REFUSALS {
            assert!(arena.allocate(nz(WANTED_BYTES)).is_err(), "no four units are free");
        }
    });

    let mut one_of_sixteen = (0..held.len()).rev().step_by(DROP_EVERY);
    let mut take = || -> Vec<_> {
        one_of_sixteen.by_ref().take(DROPS).map(|index| held.swap_remove(index)).collect()
    };
    let (unobserved, observed) = (take(), take());
    let unobserved = time(unobserved.len(), || drop(unobserved));

    let mut waiter = arena.waiter();
    let mut context = Context::from_waker(Waker::noop());
    assert!(waiter.poll_allocate(&mut context, nz(WANTED_BYTES)).is_pending());
    let waited_for = time(observed.len(), || drop(observed));
    let is_served = matches!(waiter.poll_allocate(&mut context, nz(WANTED_BYTES)), Poll::Ready(_));
    assert!(!is_served, "no four units are free");
    [unobserved, waited_for, refusal]
}

/// Fills the arena and frees the units at even places. Returns the others, by address.
fn every_second_unit(arena: &AsyncBuddyArena) -> Vec<Buffer> {
    let units = arena.total_size() / UNIT_BYTES;
    let mut all: Vec<_> = (0..units)
        .map(|_| {
            let mut buffer = arena.allocate(nz(UNIT_BYTES)).expect("not full yet");
            (buffer.chunk_mut().as_mut_ptr().addr(), buffer)
        })
        .collect();
    all.sort_by_key(|&(address, _)| address);
    all.into_iter().skip(1).step_by(2).map(|(_, buffer)| buffer).collect()
}

/// The nanoseconds of this thread's CPU time that each of `count` operations takes.
#[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn time(count: usize, work: impl FnOnce()) -> f64 {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::try_from(time).expect("a time since the start")
    };
    let start = now();
    work();
    (now() - start).as_secs_f64() * 1e9 / count as f64
}
