//! Where blocks are placed: nearly as well as by a best-fit buddy allocator that knows everything.

mod race;
mod reference;
mod trace;

use self::{
    race::race,
    reference::Reference,
    trace::{Allocator, Event, Load, MIN_BLOCK_BYTES, Outcome, Replay, Step, Trace},
};
use crate::support::{buddy, nz};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// All caches together keep one in so many units from large requests, at most.
const CACHED_PART: usize = 16;

/// With it, the reference with fewer units does all that is asked of the arena, under each load.
const SEED: u64 = 7;

/// What an arena's answers are compared with.
struct Standard {
    /// How a reference has answered that has as many units as the arena.
    full: Outcome,
    /// How a reference has answered that has fewer, by those that caches may keep.
    smaller: Outcome,
}

impl Standard {
    fn of(trace: &Trace, total_bytes: usize) -> Self {
        let answers = |reference| Replay::new(trace, reference).run().outcome;
        Self { full: answers(full(total_bytes)), smaller: answers(smaller(total_bytes)) }
    }

    /// Returns what falls short, a line each.
    fn shortcomings(&self, outcome: &Outcome) -> Vec<String> {
        let mut found = Vec::new();
        let (refused, allowed) = (outcome.requests_refused, self.smaller.requests_refused);
        if refused > allowed {
            found.push(format!("{refused} requests refused, not {allowed}"));
        }
        for (bytes, &refused) in &outcome.probes_refused {
            let allowed = self.smaller.probes_refused[bytes];
            if refused > allowed {
                found.push(format!("{refused} probes of {bytes} refused, not {allowed}"));
            }
        }
        let samples = outcome.largest_free.len();
        assert_eq!(samples, self.full.largest_free.len());
        let below = |part: usize| {
            let pairs = outcome.largest_free.iter().zip(&self.full.largest_free);
            pairs.filter(|&(own, reference)| own * part < *reference).count()
        };
        let (below_half, below_quarter) = (below(2), below(4));
        if below_half * 100 > samples * 2 {
            found.push(format!("largest block below half at {below_half} of {samples} samples"));
        }
        if below_quarter > 0 {
            found.push(format!("largest block below a quarter at {below_quarter} of {samples}"));
        }
        found
    }
}

fn full(total_bytes: usize) -> Reference {
    Reference::of_units(total_bytes / MIN_BLOCK_BYTES)
}

fn smaller(total_bytes: usize) -> Reference {
    let units = total_bytes / MIN_BLOCK_BYTES;
    Reference::of_units(units - units / CACHED_PART)
}

/// Loads that turn an arena over several times.
fn loads(threads: usize) -> impl Iterator<Item = Load> {
    let arenas = [(64 * MIB, 60_000), (4 * MIB, 30_000)].into_iter();
    arenas.flat_map(move |(total_bytes, requests)| {
        let probes = &[64 * KIB, 256 * KIB];
        [50, 70, 80].map(|percent| Load { total_bytes, percent, requests, threads, probes })
    })
}

/// Lets threads use an arena in turns, the same each time.
#[track_caller]
fn assert_threads_in_turns_place_well(threads: usize) {
    let mut found = Vec::new();
    for load in loads(threads) {
        let trace = load.trace(SEED);
        let arena = buddy(load.total_bytes, MIN_BLOCK_BYTES);
        let replay = Replay::new(&trace, arena).run_in_threads(threads);
        let standard = Standard::of(&trace, load.total_bytes);
        let mut shortcomings = standard.shortcomings(&replay.outcome);

        // What the figures promise, an allocation gets.
        let largest = replay.allocator.largest_free_block();
        if replay.allocator.allocate(nz(largest)).is_err() {
            shortcomings.push(format!("{largest} bytes are said to be free and are refused"));
        }
        found.extend(shortcomings.into_iter().map(|line| format!("\n{load:?}: {line}")));
    }
    assert!(found.is_empty(), "seed {SEED}:{}", found.concat());
}

#[test]
#[cfg_attr(miri, ignore = "too long")]
fn one_thread_is_served_as_well_as_by_the_reference() {
    assert_threads_in_turns_place_well(1);
}

#[test]
#[cfg_attr(miri, ignore = "too long")]
fn two_threads_are_served_as_well_as_by_the_reference() {
    assert_threads_in_turns_place_well(2);
}

#[test]
#[cfg_attr(miri, ignore = "too long")]
fn eight_threads_are_served_as_well_as_by_the_reference() {
    assert_threads_in_turns_place_well(8);
}

#[test]
#[cfg_attr(miri, ignore = "too long")]
fn threads_that_race_are_served_as_well_as_by_the_reference() {
    let mut found = Vec::new();
    for load in [2, 8].into_iter().flat_map(loads).filter(|load| load.percent == 70) {
        // The block of a probe would wait among the others to be freed.
        let load = Load { probes: &[], ..load };
        let arena = buddy(load.total_bytes, MIN_BLOCK_BYTES);
        let (trace, outcome) = race(&load, SEED, arena);
        let shortcomings = Standard::of(&trace, load.total_bytes).shortcomings(&outcome);
        found.extend(shortcomings.into_iter().map(|line| format!("\n{load:?}: {line}")));
    }
    assert!(found.is_empty(), "seed {SEED}:{}", found.concat());
}

#[test]
#[cfg_attr(miri, ignore = "too long")]
fn large_blocks_can_be_had_as_soon_as_from_the_reference() {
    const SIZES: [usize; 3] = [64 * KIB, 256 * KIB, MIB];

    for load in loads(1).filter(|load| load.total_bytes == 64 * MIB) {
        let trace = load.trace(SEED);
        let arena = buddy(load.total_bytes, MIN_BLOCK_BYTES);
        let live = Replay::new(&trace, arena).run().drain_for(&SIZES);
        let reference = Replay::new(&trace, smaller(load.total_bytes)).run().drain_for(&SIZES);
        let is_as_soon = live.iter().zip(&reference).all(|(own, reference)| own >= reference);
        assert!(
            is_as_soon,
            "{load:?}: {SIZES:?} can be had when {live:?} bytes are in use, and from the \
             reference when {reference:?} are"
        );
    }
}

/// Each thread takes the smallest block and frees it; then each takes one and keeps it; then blocks
/// of `large` bytes are taken, as many as the arena has. All threads live on to the end. Samples
/// are taken before each thread has a block, and after.
fn small_holders(threads: usize, total_bytes: usize, large: usize) -> Trace {
    let bytes = MIN_BLOCK_BYTES;
    let mut events = Vec::new();
    for thread in 0..threads {
        let steps = [Step::Allocate { request: thread, bytes }, Step::Free { request: thread }];
        events.extend(steps.map(|step| Event { thread, step }));
    }
    events.push(Event { thread: 0, step: Step::Sample });
    for thread in 0..threads {
        events.push(Event { thread, step: Step::Allocate { request: threads + thread, bytes } });
    }
    events.push(Event { thread: 0, step: Step::Sample });
    let requests = 2 * threads + total_bytes / large;
    let last = (2 * threads..requests).map(|request| Step::Allocate { request, bytes: large });
    events.extend(last.map(|step| Event { thread: 0, step }));
    Trace { events, requests }
}

#[test]
fn caches_keep_little_from_large_requests_whatever_the_number_of_threads() {
    let mut found = Vec::new();
    for (total_bytes, threads_max) in
        [(64 * KIB, 62), (256 * KIB, 200), (MIB, 200), (64 * MIB, 200)]
    {
        let cached_bytes = total_bytes / CACHED_PART;
        let threads_max = if cfg!(miri) { 8 } else { threads_max };
        for threads in [1, 2, 8, 62, 200].into_iter().filter(|&threads| threads <= threads_max) {
            for large in [cached_bytes / 4, cached_bytes] {
                let trace = small_holders(threads, total_bytes, large);
                let arena = buddy(total_bytes, MIN_BLOCK_BYTES);
                let own = Replay::new(&trace, arena).run_in_threads(threads).outcome;
                let Standard { full, smaller } = Standard::of(&trace, total_bytes);
                let case = format!("{total_bytes} bytes, {threads} threads, large: {large}");
                assert_eq!(full.largest_free, [total_bytes, total_bytes / 2]);
                if own.largest_free != full.largest_free {
                    found.push(format!("\n{case}: largest free blocks {:?}", own.largest_free));
                }
                let (refused, allowed) = (own.requests_refused, smaller.requests_refused);
                if refused > allowed {
                    found.push(format!("\n{case}: {refused} large blocks refused, not {allowed}"));
                }
            }
        }
    }
    assert!(found.is_empty(), "{}", found.concat());
}
