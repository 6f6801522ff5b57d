//! The figures: exact when nothing is under way, and defined by what can be observed.

use arena::{AllocError, BuddyArena, Buffer, FixedArena};
use bytes::BufMut;

use crate::support::{
    Arena, Figures, Numbers, address_of, buddy, buffer_with, fixed, in_both_arenas, nz,
};

in_both_arenas!(
    a_new_arena_counts_nothing,
    each_allocation_is_counted,
    each_refusal_is_counted,
    each_kind_of_freezing_is_counted_once,
    what_is_counted_on_many_threads_adds_up,
);

fn a_new_arena_counts_nothing<A: Arena>() {
    assert_eq!(A::with_room_for_one().figures(), Figures::default());
}

fn each_allocation_is_counted<A: Arena>() {
    let arena = A::with_room_for_one();
    for count in 1..=10 {
        let buffer = arena.take().unwrap();
        let figures = arena.figures();
        assert_eq!((figures.allocations_ok, figures.frees), (count, count - 1));
        assert_eq!(figures.bytes_live, buffer.capacity());
    }
    assert_eq!((arena.figures().frees, arena.figures().bytes_live), (10, 0));
}

fn each_refusal_is_counted<A: Arena>() {
    let arena = A::with_room_for_one();
    let _held = arena.take().unwrap();
    for count in 1..=10 {
        assert!(!arena.has_room());
        assert_eq!(arena.figures().allocations_failed, count);
    }
    assert_eq!(arena.figures().allocations_ok, 1);
}

fn each_kind_of_freezing_is_counted_once<A: Arena>() {
    let arena = A::with_room_for_one();
    let frozen = buffer_with(&arena, b"a").into_frozen();
    assert_eq!(arena.figures().frozen, 1);
    drop((frozen.clone(), frozen.slice(..), frozen.into_bytes()));
    assert_eq!(arena.figures().frozen, 1);
    drop(buffer_with(&arena, b"b").freeze());
    assert_eq!(arena.figures().frozen, 2);
}

fn what_is_counted_on_many_threads_adds_up<A: Arena>() {
    const THREADS: u64 = 8;
    const ROUNDS: u64 = if cfg!(miri) { 10 } else { 2000 };

    let arena = A::with_room_for_one();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    drop(arena.take().map(Buffer::into_frozen));
                }
            });
        }
    });
    let figures = arena.figures();
    assert_eq!(figures.allocations_ok + figures.allocations_failed, THREADS * ROUNDS);
    assert_eq!(figures.frees, figures.allocations_ok);
    assert_eq!(figures.frozen, figures.allocations_ok);
    assert_eq!((figures.spills, figures.bytes_live), (0, 0));
}

#[test]
fn a_known_sequence_on_slots_gives_known_figures() {
    let arena = FixedArena::builder(nz(3), nz(32)).auto_spill().build().unwrap();
    let mut held: Vec<_> = (0..3).map(|_| arena.allocate().unwrap()).collect();
    assert_eq!(arena.allocate().unwrap_err(), AllocError::ArenaFull);
    held[0].put_bytes(1, 33);
    let bytes = held.pop().unwrap().freeze();
    drop(held);

    let metrics = arena.metrics();
    assert_eq!(metrics.allocations_ok, 3);
    assert_eq!(metrics.allocations_failed, 1);
    assert_eq!(metrics.frees, 2);
    assert_eq!(metrics.frozen, 1);
    assert_eq!(metrics.spills, 1);
    assert_eq!(metrics.bytes_reserved, 96);
    assert_eq!(metrics.bytes_live, 32);
    assert_eq!(metrics.bytes_live_max, 96);
    drop(bytes);
    assert_eq!((arena.metrics().frees, arena.metrics().bytes_live), (3, 0));
}

#[test]
fn a_known_sequence_on_blocks_gives_known_figures() {
    let arena = BuddyArena::builder(nz(4096), nz(256)).auto_spill().build().unwrap();
    let mut shrunk = arena.allocate(nz(2048)).unwrap();
    shrunk.put_bytes(1, 300);
    shrunk.shrink_to_fit();
    let mut spilled = arena.allocate(nz(512)).unwrap();
    spilled.put_bytes(1, 513);
    let bytes = arena.allocate(nz(1)).unwrap().freeze();
    assert_eq!(arena.allocate(nz(4096)).unwrap_err(), AllocError::ArenaFull);

    let metrics = arena.metrics();
    assert_eq!(metrics.allocations_ok, 3);
    assert_eq!(metrics.allocations_failed, 1);
    assert_eq!(metrics.frees, 1);
    assert_eq!(metrics.frozen, 1);
    assert_eq!(metrics.spills, 1);
    assert_eq!(metrics.bytes_reserved, 4096);
    assert_eq!(metrics.bytes_live, 512 + 256);
    assert_eq!(metrics.bytes_live_max, 512 + 256);
    drop((shrunk, spilled, bytes));
    assert_eq!((arena.metrics().frees, arena.metrics().bytes_live), (3, 0));
}

#[test]
fn a_request_that_is_too_large_is_not_counted() {
    let arena = buddy(4096, 256);
    assert_eq!(arena.allocate(nz(5000)).unwrap_err(), AllocError::RequestTooLarge);
    let metrics = arena.metrics();
    assert_eq!((metrics.allocations_ok, metrics.allocations_failed), (0, 0));
}

#[test]
fn a_snapshot_notes_the_highest_use() {
    let arena = fixed(4, 32);
    let held = [(); 3].map(|()| arena.allocate().unwrap());
    assert_eq!(arena.metrics().bytes_live_max, 96);
    drop(held);
    let metrics = arena.metrics();
    assert_eq!((metrics.bytes_live, metrics.bytes_live_max), (0, 96));
}

#[test]
fn a_refusal_notes_the_highest_use() {
    let arena = fixed(3, 32);
    let held = [(); 3].map(|()| arena.allocate().unwrap());
    assert!(arena.allocate().is_err());
    drop(held);
    let metrics = arena.metrics();
    assert_eq!((metrics.bytes_live, metrics.bytes_live_max), (0, 96));
}

#[test]
fn the_highest_use_between_snapshots_is_not_noted() {
    let arena = fixed(4, 32);
    let mut held: Vec<_> = (0..3).map(|_| arena.allocate().unwrap()).collect();
    held.truncate(1);
    assert_eq!(arena.metrics().bytes_live_max, 32);
}

#[test]
fn the_highest_use_never_falls() {
    let arena = buddy(4096, 256);
    let large = arena.allocate(nz(2048)).unwrap();
    assert_eq!(arena.metrics().bytes_live_max, 2048);
    drop(large);
    let _small = arena.allocate(nz(256)).unwrap();
    assert_eq!(arena.metrics().bytes_live_max, 2048);
}

/// Allocates and frees at random, and calls `check` after each step.
fn at_random(arena: &BuddyArena, seed: u64, mut check: impl FnMut(&mut Vec<Buffer>)) {
    const STEPS: usize = if cfg!(miri) { 20 } else { 200 };

    let mut numbers = Numbers::from_seed(seed);
    let mut held: Vec<Buffer> = Vec::new();
    for _ in 0..STEPS {
        let free_one = !held.is_empty() && numbers.below(5) < 2;
        if free_one {
            held.swap_remove(numbers.below(held.len()));
        } else {
            let size = arena.total_size() >> numbers.below(arena.max_order() + 1);
            held.extend(arena.allocate(nz(size)));
        }
        check(&mut held);
    }
}

/// What can be had now, by trying.
fn largest_that_can_be_had(arena: &BuddyArena) -> usize {
    let sizes = (0..=arena.max_order()).map(|order| arena.total_size() >> order);
    let mut possible = sizes.filter(|&size| arena.allocate(nz(size)).is_ok());
    possible.next().unwrap_or(0)
}

#[test]
fn the_largest_free_block_is_what_an_allocation_can_get() {
    const SEEDS: u64 = if cfg!(miri) { 1 } else { 20 };

    for max_order in [0, 1, 4, 6, 7, 10, 13] {
        for seed in 0..SEEDS {
            let arena = buddy(16 << max_order, 16);
            at_random(&arena, seed, |_| {
                let largest = arena.metrics().largest_free_block;
                let tried = largest_that_can_be_had(&arena);
                assert_eq!(largest, tried, "seed {seed}\n{}", arena.occupancy());
            });
        }
    }
}

#[test]
fn looking_at_the_largest_free_block_does_not_change_it() {
    let arena = buddy(16 << 13, 16);
    at_random(&arena, 7, |_| {
        let before = arena.metrics();
        assert_eq!(before, arena.metrics());
        assert_eq!(arena.occupancy(), arena.occupancy());
        assert_eq!(before, arena.metrics());
    });
}

#[test]
fn an_arena_of_one_word_neither_splits_nor_coalesces() {
    let arena = buddy(64 * 16, 16);
    at_random(&arena, 3, |_| ());
    assert!(arena.allocate(nz(64 * 16)).is_ok());
    let metrics = arena.metrics();
    assert_eq!((metrics.splits, metrics.coalesces), (0, 0));
}

#[test]
fn the_first_small_block_splits_once_at_each_level() {
    for (max_order, splits) in [(6, 0), (7, 1), (12, 1), (13, 2), (18, 2), (19, 3)] {
        let arena = buddy(16 << max_order, 16);
        let _small = arena.allocate(nz(16)).unwrap();
        assert_eq!(arena.metrics().splits, splits, "2^{max_order} minimum blocks");
    }
}

#[test]
fn blocks_of_64_minimum_blocks_split_nothing_below_4096() {
    let arena = buddy(16 << 12, 16);
    let held: Vec<_> = (0..64).map(|_| arena.allocate(nz(64 * 16)).unwrap()).collect();
    drop(held);
    assert_eq!(arena.metrics().splits, 0);
}

#[test]
fn what_was_never_split_is_not_coalesced() {
    let arena = buddy(16 << 12, 16);
    // All of them, because the thread prefers one to the others.
    let held: Vec<_> = (0..64).map(|_| arena.allocate(nz(64 * 16)).unwrap()).collect();
    drop(held);
    assert!(arena.allocate(nz(16 << 12)).is_ok());
    let metrics = arena.metrics();
    assert_eq!((metrics.splits, metrics.coalesces), (0, 0));
}

#[test]
fn what_was_split_is_coalesced_when_all_of_it_is_one_block() {
    for max_order in [7, 12, 13, 19] {
        let arena = buddy(16 << max_order, 16);
        at_random(&arena, 5, |_| ());
        let whole = arena.allocate(nz(16 << max_order));
        assert!(whole.is_ok(), "2^{max_order} minimum blocks");
        let metrics = arena.metrics();
        assert!(metrics.splits > 0);
        assert_eq!(metrics.splits, metrics.coalesces, "2^{max_order} minimum blocks");
    }
}

#[test]
fn occupancy_of_blocks_is_what_is_held() {
    for max_order in [0, 1, 6, 7, 9, 13] {
        let arena = buddy(16 << max_order, 16);
        let start = address_of(&mut arena.allocate(nz(16 << max_order)).unwrap());
        at_random(&arena, 11, |held| {
            let mut expected = vec![true; 1 << max_order];
            for buffer in held {
                let first = (address_of(buffer) - start) / 16;
                expected[first..first + buffer.capacity() / 16].fill(false);
            }
            let occupancy = arena.occupancy();
            let seen: Vec<_> = (0..occupancy.units()).map(|unit| occupancy.is_free(unit)).collect();
            assert_eq!(seen, expected, "2^{max_order} minimum blocks");
        });
    }
}

#[test]
fn occupancy_of_slots_is_what_is_held() {
    for count in [1, 63, 64, 65, 200] {
        let arena = fixed(count, 48);
        let mut held: Vec<_> = (0..count).map(|_| arena.allocate().unwrap()).collect();
        assert_eq!(arena.occupancy().free_units(), 0);
        held.sort_by_key(|buffer| buffer.as_ptr());
        let mut slot = 0;
        held.retain(|_| {
            slot += 1;
            slot % 3 != 1
        });
        let occupancy = arena.occupancy();
        assert_eq!((occupancy.units(), occupancy.unit_bytes()), (count, 48));
        for slot in 0..count {
            assert_eq!(occupancy.is_free(slot), slot % 3 == 0, "slot {slot} of {count}");
        }
        assert_eq!(occupancy.free_units(), count.div_ceil(3));
        assert_eq!(occupancy.free_bytes(), 48 * count.div_ceil(3));
    }
}

#[test]
fn occupancy_has_as_many_bytes_in_use_as_are_live() {
    let arena = buddy(16 << 13, 16);
    at_random(&arena, 13, |_| {
        let in_use = arena.total_size() - arena.occupancy().free_bytes();
        assert_eq!(in_use, arena.metrics().bytes_live);
    });
}

#[test]
fn runs_cover_the_arena_and_alternate() {
    let arena = buddy(16 << 9, 16);
    at_random(&arena, 17, |_| {
        let occupancy = arena.occupancy();
        let runs: Vec<_> = occupancy.runs().collect();
        let mut end = 0;
        for run in &runs {
            assert_eq!(run.offset_bytes, end);
            assert!(run.len_bytes > 0);
            let units = run.offset_bytes / 16..(run.offset_bytes + run.len_bytes) / 16;
            assert!(units.into_iter().all(|unit| occupancy.is_free(unit) == run.is_free));
            end += run.len_bytes;
        }
        assert_eq!(end, arena.total_size());
        assert!(runs.windows(2).all(|pair| pair[0].is_free != pair[1].is_free));
    });
}

#[test]
fn occupancy_is_drawn_with_a_character_for_each_unit() {
    let arena = buddy(16 * 64, 64);
    assert_eq!(arena.occupancy().to_string(), "................");
    let mut whole = arena.allocate(nz(16 * 64)).unwrap();
    whole.put_bytes(1, 3 * 64);
    whole.shrink_to_fit();
    assert_eq!(arena.occupancy().to_string(), "###.............");
}

#[test]
fn a_large_arena_is_drawn_in_groups() {
    let arena = buddy(16 << 14, 16);
    let mut whole = arena.allocate(nz(16 << 14)).unwrap();
    whole.put_bytes(1, 16 * 5);
    whole.shrink_to_fit();
    let drawn = arena.occupancy().to_string();
    assert_eq!(drawn.len(), 4096);
    assert!(drawn.starts_with("#+.."), "{}", &drawn[..8]);
    assert!(drawn[2..].bytes().all(|character| character == b'.'));
}

#[test]
#[should_panic(expected = "there are 3 units, and no unit 3")]
fn there_is_no_unit_beyond_the_last() {
    fixed(3, 16).occupancy().is_free(3);
}
