//! Prints the figures that the design asks of the arena, beside those of its peers.
//!
//! Both sides of a ratio run in turn, in this one process, and each figure is a median over the
//! rounds; a ratio is the median of the rounds' ratios. Pin it to the processors that it may use,
//! and leave them to it:
//!
//! ```sh
//! taskset -c 0,1 cargo run --release -p benches --bin figures
//! ```
//!
//! An argument is the number of rounds, 9 if there is none. Rows with threads use two of them.

use std::{process::ExitCode, time::Instant};

use arena::{BuddyArena, FixedArena};
use benches::*;

const ROUNDS: usize = 9;

/// How long one side of one round takes, about.
const ROUND_SECONDS: f64 = 0.15;

/// One contender of a row: runs that many operations and returns the seconds they took.
struct Side<'a> {
    name: &'static str,
    run: Box<dyn FnMut(u64) -> f64 + 'a>,
}

/// What is compared with what.
struct Row<'a> {
    what: &'static str,
    /// Operations that are done at once, by as many threads.
    threads: f64,
    /// The first is what the others are compared with.
    sides: Vec<Side<'a>>,
    /// The wanted ratios of the first side's time to that of another.
    wanted: Vec<(&'static str, f64)>,
}

fn main() -> ExitCode {
    let rounds = match rounds_asked_for(ROUNDS) {
        Ok(rounds) => rounds,
        Err(error) => {
            eprintln!("figures: {error}");
            return ExitCode::from(2);
        }
    };
    println!("{rounds} rounds; ns are medians per operation, over all threads; ratios are medians");
    println!();
    println!("| what | ns | ratio | wanted |");
    println!("|---|---|---|---|");
    roundtrips(rounds);
    threads(rounds);
    refusals(rounds);
    waiting(rounds);
    ExitCode::SUCCESS
}

fn roundtrips(rounds: usize) {
    for (what, bytes, wanted) in [
        ("fixed 256 B through Frozen", 256, 0.85),
        ("fixed 1 KiB through Frozen", 1024, 1.0),
        ("fixed 4 KiB through Frozen", 4096, 1.0),
    ] {
        let (data, arena) = (vec![7; bytes], fixed(bytes));
        print(
            rounds,
            Row {
                what,
                threads: 1.0,
                sides: vec![
                    side("arena", || fixed_frozen_roundtrip(&arena, &data)),
                    side("heap", || heap_roundtrip(&data)),
                ],
                wanted: vec![("heap", wanted)],
            },
        );
    }
    for (what, bytes, wanted) in [
        ("fixed 256 B through Bytes", 256, ("alligator", 0.20)),
        ("fixed 4 KiB through Bytes", 4096, ("heap", 1.1)),
    ] {
        let data = vec![7; bytes];
        let (arena, alligator) = (fixed(bytes), fixed_alligator(bytes));
        print(
            rounds,
            Row {
                what,
                threads: 1.0,
                sides: vec![
                    side("arena", || fixed_roundtrip(&arena, &data)),
                    side("heap", || heap_roundtrip(&data)),
                    side("alligator", || fixed_alligator_roundtrip(&alligator, &data)),
                    side("Bytes::from_owner alone", || from_owner_alone(&[7; 256])),
                ],
                wanted: vec![wanted],
            },
        );
    }
    for (what, bytes, wanted) in
        [("buddy 256 B through Bytes", 256, 0.007), ("buddy 16 KiB through Bytes", 16_384, 0.42)]
    {
        let data = vec![7; bytes];
        let (arena, alligator) = (buddy(), buddy_alligator());
        print(
            rounds,
            Row {
                what,
                threads: 1.0,
                sides: vec![
                    side("arena", || buddy_roundtrip(&arena, &data)),
                    side("heap", || heap_roundtrip(&data)),
                    side("alligator", || buddy_alligator_roundtrip(&alligator, &data)),
                ],
                wanted: vec![("alligator", wanted)],
            },
        );
    }
}

fn threads(rounds: usize) {
    let data = vec![7; 1024];
    let (arena, alligator) = (fixed(1024), fixed_alligator(1024));
    print(
        rounds,
        Row {
            what: "fixed 1 KiB through Bytes, 2 threads",
            threads: 2.0,
            sides: vec![
                threaded("arena", 2, |_, _| fixed_roundtrip(&arena, &data)),
                threaded("alligator", 2, |_, _| fixed_alligator_roundtrip(&alligator, &data)),
                threaded("arena with 1 thread", 1, |_, _| fixed_roundtrip(&arena, &data)),
            ],
            wanted: vec![("alligator", 1.0 / 8.0), ("arena with 1 thread", 1.0 / 0.9)],
        },
    );

    let payloads = MixedPayloads::new();
    let (arena, alligator) = (buddy(), buddy_alligator());
    print(
        rounds,
        Row {
            what: "buddy 192 B to 16 KiB through Bytes, 2 threads",
            threads: 2.0,
            sides: vec![
                threaded("arena", 2, |thread, turn| {
                    buddy_roundtrip(&arena, payloads.of(thread, turn))
                }),
                threaded("heap", 2, |thread, turn| heap_roundtrip(payloads.of(thread, turn))),
                threaded("alligator", 2, |thread, turn| {
                    buddy_alligator_roundtrip(&alligator, payloads.of(thread, turn));
                }),
            ],
            wanted: vec![("alligator", 1.0 / 15.0), ("heap", 1.0 / 0.8)],
        },
    );
}

fn refusals(rounds: usize) {
    let arena = FixedArena::builder(nz(65_536), nz(64)).build().expect("a valid arena");
    let alligator = arena_alligator::FixedArena::with_slot_capacity(nz(65_536), nz(64))
        .build()
        .expect("a valid arena");
    let _held: Vec<_> = (0..65_536).map(|_| arena.allocate().expect("not full yet")).collect();
    let _held_too: Vec<_> =
        (0..65_536).map(|_| alligator.allocate().expect("not full yet")).collect();
    print(
        rounds,
        Row {
            what: "ArenaFull on 65,536 slots (wanted: 50 ns)",
            threads: 1.0,
            sides: vec![
                side("arena", || assert!(arena.allocate().is_err())),
                side("alligator", || assert!(alligator.allocate().is_err())),
            ],
            wanted: vec![("alligator", 50.0 / 1040.0)],
        },
    );

    let arena = BuddyArena::builder(nz(64 << 20), nz(256)).build().expect("a valid arena");
    let _all = arena.allocate(nz(64 << 20)).expect("nothing is in use");
    print(
        rounds,
        Row {
            what: "ArenaFull on a buddy arena of 64 MiB",
            threads: 1.0,
            sides: vec![
                side("arena", || assert!(arena.allocate(nz(256)).is_err())),
                side("arena, 1 MiB", || assert!(arena.allocate(nz(1 << 20)).is_err())),
            ],
            wanted: vec![],
        },
    );
}

fn waiting(rounds: usize) {
    let arena = FixedArena::builder(nz(FIXED_SLOTS), nz(256)).build_async().expect("a valid arena");
    print(
        rounds,
        Row {
            what: "allocate_async and drop while memory is free (wanted: 5 ns more)",
            threads: 1.0,
            sides: vec![
                side("async", || async_allocation(&arena)),
                side("sync", || sync_allocation(&arena)),
            ],
            wanted: vec![],
        },
    );
}

fn side<'a>(name: &'static str, operation: impl Fn() + 'a) -> Side<'a> {
    let run = move |count| {
        let start = Instant::now();
        for _ in 0..count {
            operation();
        }
        start.elapsed().as_secs_f64()
    };
    Side { name, run: Box::new(run) }
}

fn threaded<'a>(
    name: &'static str,
    threads: usize,
    operation: impl Fn(usize, u64) + Sync + 'a,
) -> Side<'a> {
    let run = move |count| time_in_threads(threads, count, &operation).as_secs_f64();
    Side { name, run: Box::new(run) }
}

/// Runs all sides of a row in turn, and prints them.
#[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn print(rounds: usize, mut row: Row<'_>) {
    let counts: Vec<u64> = row.sides.iter_mut().map(|side| calibrate(&mut side.run)).collect();
    let mut ns = vec![Vec::with_capacity(rounds); row.sides.len()];
    for _ in 0..rounds {
        for (index, side) in row.sides.iter_mut().enumerate() {
            let seconds = (side.run)(counts[index]);
            let is_single = side.name.ends_with("1 thread");
            let threads = if is_single { 1.0 } else { row.threads };
            ns[index].push(seconds * 1e9 / (counts[index] as f64 * threads));
        }
    }
    let figures: Vec<_> = row
        .sides
        .iter()
        .zip(&ns)
        .map(|(side, ns)| format!("{} {:.1}", side.name, median(ns.iter().copied())))
        .collect();
    let ratios = |name: &str| {
        let other = row.sides.iter().position(|side| side.name == name).expect("a side");
        median(ns[0].iter().zip(&ns[other]).map(|(own, other)| own / other))
    };
    // Time over threads: a single thread takes twice as long for as many operations as two that
    // scale.
    let scaled = |name: &str, ratio: f64| {
        if name.ends_with("1 thread") { ratio * 2.0 } else { ratio }
    };
    let (measured, wanted): (Vec<_>, Vec<_>) = row
        .wanted
        .iter()
        .map(|&(name, wanted)| {
            let ratio = scaled(name, ratios(name));
            (format!("{ratio:.4} x {name}"), format!("{wanted:.4} x {name}"))
        })
        .unzip();
    println!(
        "| {} | {} | {} | {} |",
        row.what,
        figures.join(", "),
        measured.join(", "),
        wanted.join(", ")
    );
}

/// How many operations take a round's time.
fn calibrate(run: &mut dyn FnMut(u64) -> f64) -> u64 {
    let mut count = 100;
    loop {
        let seconds = run(count);
        if seconds > ROUND_SECONDS {
            return count;
        }
        count *= if seconds > ROUND_SECONDS / 8.0 { 2 } else { 8 };
    }
}
