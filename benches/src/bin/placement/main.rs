//! How well do arenas place blocks of many sizes, so that large ones can still be had?
//!
//! The same trace of requests goes to this arena, to its peer, and to a best-fit buddy allocator
//! that knows everything: with as many units, and with one in sixteen fewer. The traces are those
//! of the arena's tests. The figures are the same on every machine.
//!
//! ```sh
//! cargo run --release -p benches --bin placement docs/placement.svg
//! ```
//!
//! The argument is where a picture of the largest free block over time goes, if one is wanted.

mod picture;

#[path = "../../../../arena/tests/it/numbers.rs"]
mod numbers;
#[path = "../../../../arena/tests/it/placement/reference.rs"]
mod reference;
#[path = "../../../../arena/tests/it/placement/trace.rs"]
mod trace;

use std::{env, fs, process::ExitCode};

use arena::BuddyArena;
use benches::nz;

use crate::{
    picture::Panel,
    reference::Reference,
    trace::{Allocator, Load, MIN_BLOCK_BYTES, Outcome, Replay, Trace},
};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

const SEED: u64 = 7;
const REQUESTS: usize = 150_000;

/// Large blocks that are asked for now and then.
const PROBES: [usize; 2] = [64 * KIB, 256 * KIB];

/// Large blocks that are asked for while a full arena is drained.
const DRAINED_FOR: [usize; 3] = [64 * KIB, 256 * KIB, MIB];

/// Names, in the order in which columns and curves come.
const ALLOCATORS: [&str; 4] = ["arena", "reference", "reference, 15/16", "alligator"];

/// How one allocator has answered, and how much was in use when large blocks could be had.
struct Answers {
    outcome: Outcome,
    drained: Vec<usize>,
}

/// The peer, as the traces see it.
struct Alligator(arena_alligator::BuddyArena);

impl Allocator for Alligator {
    type Block = arena_alligator::Buffer;

    fn allocate(&mut self, bytes: usize) -> Option<Self::Block> {
        self.0.allocate(nz(bytes)).ok()
    }

    fn free(&mut self, block: Self::Block) {
        drop(block);
    }

    fn largest_free_block(&self) -> usize {
        self.0.metrics().largest_free_block
    }
}

fn main() -> ExitCode {
    let mut panels = Vec::new();
    println!("Each cell: {}. {REQUESTS} requests, seed {SEED}.", ALLOCATORS.join(" / "));
    println!();
    print_header();
    for (total_bytes, percent, threads) in [
        (64 * MIB, 50, 1),
        (64 * MIB, 70, 1),
        (64 * MIB, 80, 1),
        (4 * MIB, 50, 1),
        (4 * MIB, 70, 1),
        (4 * MIB, 80, 1),
        (64 * MIB, 70, 2),
        (4 * MIB, 70, 2),
        (64 * MIB, 70, 8),
        (4 * MIB, 70, 8),
    ] {
        let load = Load { total_bytes, percent, requests: REQUESTS, threads, probes: &PROBES };
        let title = format!("{}, {percent} % in use", size(total_bytes));
        let answers = answers(&load);
        let ending = if threads == 1 { "" } else { "s" };
        print_row(&format!("{title}, {threads} thread{ending}"), total_bytes, &answers);
        if threads == 1 {
            let curves = answers.into_iter().map(|answers| answers.outcome.largest_free).collect();
            panels.push(Panel { title, total_bytes, curves });
        }
    }
    let Some(path) = env::args_os().nth(1) else { return ExitCode::SUCCESS };
    match fs::write(&path, picture::draw(&panels, REQUESTS)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("placement: cannot write {}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}

fn answers(load: &Load) -> [Answers; 4] {
    let trace = load.trace(SEED);
    let units = load.total_bytes / MIN_BLOCK_BYTES;
    let arena = BuddyArena::builder(nz(load.total_bytes), nz(MIN_BLOCK_BYTES)).build();
    let geometry = arena_alligator::BuddyGeometry::exact(nz(load.total_bytes), nz(MIN_BLOCK_BYTES));
    let alligator =
        arena_alligator::BuddyArena::builder(geometry.expect("a valid geometry")).build();
    [
        of_threads(&trace, arena.expect("a valid arena"), load.threads),
        of_replay(Replay::new(&trace, Reference::of_units(units)).run()),
        of_replay(Replay::new(&trace, Reference::of_units(units - units / 16)).run()),
        of_threads(&trace, Alligator(alligator.expect("a valid arena")), load.threads),
    ]
}

fn of_threads<A: Allocator<Block: Send> + Send>(
    trace: &Trace,
    allocator: A,
    threads: usize,
) -> Answers {
    of_replay(Replay::new(trace, allocator).run_in_threads(threads))
}

fn of_replay<A: Allocator>(mut replay: Replay<'_, A>) -> Answers {
    let drained = replay.drain_for(&DRAINED_FOR);
    Answers { outcome: replay.outcome, drained }
}

fn print_header() {
    let mut columns = vec!["arena".to_owned(), "requests refused".to_owned()];
    columns.extend(PROBES.map(|bytes| format!("probes of {} refused, of 200", size(bytes))));
    columns.push("largest free block at the end".to_owned());
    columns.extend([2, 4].map(|part| format!("samples below 1/{part} of the reference, %")));
    columns.extend(DRAINED_FOR.map(|bytes| format!("in use when {} can be had, %", size(bytes))));
    println!("| {} |", columns.join(" | "));
    println!("{}|", "|---".repeat(columns.len()));
}

fn print_row(what: &str, total_bytes: usize, answers: &[Answers]) {
    let cell =
        |of: &dyn Fn(&Answers) -> String| answers.iter().map(of).collect::<Vec<_>>().join(" / ");
    let mut cells = vec![cell(&|answers| answers.outcome.requests_refused.to_string())];
    for bytes in PROBES {
        cells.push(cell(&|answers| answers.outcome.probes_refused[&bytes].to_string()));
    }
    let last = |answers: &Answers| answers.outcome.largest_free.last().copied().unwrap_or(0);
    cells.push(cell(&|answers| size(last(answers))));
    let reference = &answers[1].outcome.largest_free;
    for part in [2, 4] {
        cells.push(cell(&|answers| {
            let pairs = answers.outcome.largest_free.iter().zip(reference);
            let below = pairs.filter(|&(own, reference)| own * part < *reference).count();
            format!("{:.1}", 100.0 * ratio(below, reference.len()))
        }));
    }
    for index in 0..DRAINED_FOR.len() {
        cells.push(cell(&|answers| {
            format!("{:.0}", 100.0 * ratio(answers.drained[index], total_bytes))
        }));
    }
    println!("| {what} | {} |", cells.join(" | "));
}

#[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

/// A power of two of bytes, as people write it.
fn size(bytes: usize) -> String {
    match bytes {
        MIB.. => format!("{} MiB", bytes / MIB),
        KIB.. => format!("{} KiB", bytes / KIB),
        _ => format!("{bytes} B"),
    }
}
