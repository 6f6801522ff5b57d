//! How much more do more threads get done together, up to one for each processor?
//!
//! All sides of a row take turns in this one process. A figure is the median over the rounds of
//! millions of operations a second by all threads, and in brackets how many times the side's own
//! figure with one thread that is. Every thread allocates, writes, freezes and drops; nothing is
//! handed from one to another.
//!
//! ```sh
//! cargo run --release -p benches --bin scaling
//! ```
//!
//! An argument is the number of rounds, 5 if there is none.

use std::{process::ExitCode, thread};

use benches::*;

const ROUNDS: usize = 5;

/// How many operations each thread does for a figure of a fast side, and of a slow one.
const OPERATIONS: u64 = 2_000_000;
const SLOW_OPERATIONS: u64 = 50_000;

type Operation<'a> = Box<dyn Fn(usize, u64) + Sync + 'a>;

struct Side<'a> {
    name: &'static str,
    operations: u64,
    operation: Operation<'a>,
}

fn main() -> ExitCode {
    let rounds = match rounds_asked_for(ROUNDS) {
        Ok(rounds) => rounds,
        Err(error) => {
            eprintln!("scaling: {error}");
            return ExitCode::from(2);
        }
    };
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let threads: Vec<_> =
        (0..).map(|power| 1 << power).take_while(|&threads| threads <= processors).collect();
    println!(
        "{rounds} rounds on {processors} processors; millions of operations a second by all \
         threads (times one thread); medians"
    );
    println!();
    let columns: Vec<_> = threads.iter().map(|threads| format!("{threads} threads")).collect();
    println!("| what | side | {} |", columns.join(" | "));
    println!("|---|---|{}", "---|".repeat(threads.len()));
    fixed_slots(rounds, &threads);
    buddy_blocks(rounds, &threads);
    ExitCode::SUCCESS
}

fn fixed_slots(rounds: usize, threads: &[usize]) {
    let data = vec![7; 1024];
    let (arena, alligator) = (fixed(1024), fixed_alligator(1024));
    let sides = [
        side("arena, Frozen", OPERATIONS, |_, _| fixed_frozen_roundtrip(&arena, &data)),
        side("arena, Bytes", OPERATIONS, |_, _| fixed_roundtrip(&arena, &data)),
        side("heap", OPERATIONS, |_, _| heap_roundtrip(&data)),
        side("alligator", SLOW_OPERATIONS, |_, _| fixed_alligator_roundtrip(&alligator, &data)),
    ];
    print("fixed 1 KiB", rounds, threads, &sides);
}

fn buddy_blocks(rounds: usize, threads: &[usize]) {
    let payloads = MixedPayloads::new();
    let (arena, alligator) = (buddy(), buddy_alligator());
    let sides = [
        side("arena, Frozen", OPERATIONS, |thread, turn| {
            buddy_frozen_roundtrip(&arena, payloads.of(thread, turn));
        }),
        side("arena, Bytes", OPERATIONS, |thread, turn| {
            buddy_roundtrip(&arena, payloads.of(thread, turn));
        }),
        side("heap", OPERATIONS, |thread, turn| heap_roundtrip(payloads.of(thread, turn))),
        side("alligator", SLOW_OPERATIONS, |thread, turn| {
            buddy_alligator_roundtrip(&alligator, payloads.of(thread, turn));
        }),
    ];
    print("buddy 192 B to 16 KiB", rounds, threads, &sides);
}

fn side<'a>(
    name: &'static str,
    operations: u64,
    operation: impl Fn(usize, u64) + Sync + 'a,
) -> Side<'a> {
    Side { name, operations, operation: Box::new(operation) }
}

/// Runs all sides of a row in turn, and prints them.
#[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn print(what: &str, rounds: usize, threads: &[usize], sides: &[Side<'_>]) {
    let mut rates = vec![vec![Vec::with_capacity(rounds); threads.len()]; sides.len()];
    for round in 0..rounds {
        eprintln!("  .. {what}: round {} of {rounds}", round + 1);
        for (place, &threads) in threads.iter().enumerate() {
            for (rates, side) in rates.iter_mut().zip(sides) {
                let time = time_in_threads(threads, side.operations, &side.operation);
                let done = side.operations as f64 * threads as f64;
                rates[place].push(done / time.as_secs_f64() / 1e6);
            }
        }
    }
    for (rates, side) in rates.iter().zip(sides) {
        let rates: Vec<_> = rates.iter().map(|rates| median(rates.iter().copied())).collect();
        let figures: Vec<_> =
            rates.iter().map(|rate| format!("{rate:.1} ({:.1})", rate / rates[0])).collect();
        println!("| {what} | {} | {} |", side.name, figures.join(" | "));
    }
}
