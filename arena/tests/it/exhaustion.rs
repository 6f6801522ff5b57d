//! How much can be had at once, and that all of it can be had again.

use std::{sync::Barrier, thread};

use arena::{AllocError, BuddyArena, Buffer, FixedArena};
use bytes::BufMut;

use crate::support::{Numbers, address_of, buddy, fixed, nz};

/// Takes slots until there are no more.
fn all_slots(arena: &FixedArena) -> Vec<Buffer> {
    let mut held = Vec::new();
    loop {
        match arena.allocate() {
            Ok(buffer) => held.push(buffer),
            Err(error) => {
                assert_eq!(error, AllocError::ArenaFull);
                return held;
            }
        }
    }
}

/// Takes blocks for `len` bytes until there are no more.
fn all_blocks(arena: &BuddyArena, len: usize) -> Vec<Buffer> {
    let mut held = Vec::new();
    loop {
        match arena.allocate(nz(len)) {
            Ok(buffer) => held.push(buffer),
            Err(error) => {
                assert_eq!(error, AllocError::ArenaFull);
                return held;
            }
        }
    }
}

/// Checks that the buffers, all of one capacity, lie next to each other without a gap or an
/// overlap.
#[track_caller]
fn assert_side_by_side(held: &mut [Buffer]) {
    let capacity = held[0].capacity();
    let mut addresses: Vec<_> = held.iter_mut().map(address_of).collect();
    addresses.sort_unstable();
    for pair in addresses.windows(2) {
        assert_eq!(pair[1] - pair[0], capacity, "from {:#x} to {:#x}", pair[0], pair[1]);
    }
}

const SLOT_COUNTS: &[usize] = if cfg!(miri) {
    &[1, 2, 63, 64, 65]
} else {
    &[1, 2, 63, 64, 65, 127, 128, 1000, 4096, 4097, 70_001]
};

/// Log2 of the block counts that are tried: to beyond three levels of the map.
const MAX_ORDERS: std::ops::RangeInclusive<u32> = if cfg!(miri) { 0..=7 } else { 0..=20 };

const MIN: usize = 16;

#[test]
fn exactly_as_many_slots_as_asked_for_can_be_held() {
    for &count in SLOT_COUNTS {
        let arena = fixed(count, 24);
        let mut held = all_slots(&arena);
        assert_eq!(held.len(), count);
        assert_eq!(arena.slot_count(), count);
        assert_side_by_side(&mut held);
    }
}

#[test]
fn all_slots_can_be_held_again() {
    for &count in SLOT_COUNTS {
        let arena = fixed(count, 24);
        for round in 0..3 {
            assert_eq!(all_slots(&arena).len(), count, "round {round}");
        }
    }
}

#[test]
fn one_slot_of_a_full_arena_comes_back_whichever_it_is() {
    for &count in SLOT_COUNTS {
        let arena = fixed(count, 24);
        let mut held = all_slots(&arena);
        for index in [0, count / 2, count - 1] {
            let mut gone = held.swap_remove(index);
            let place = address_of(&mut gone);
            drop(gone);
            let mut again = arena.allocate().expect("one slot is free");
            assert_eq!(address_of(&mut again), place);
            assert_eq!(arena.allocate().unwrap_err(), AllocError::ArenaFull);
            held.push(again);
        }
    }
}

#[test]
fn what_is_written_in_one_slot_stays_out_of_the_others() {
    for &count in SLOT_COUNTS {
        let arena = fixed(count, 8);
        let mut held = all_slots(&arena);
        for (buffer, value) in held.iter_mut().zip(1u64..) {
            buffer.put_u64(value);
        }
        for (buffer, value) in held.iter().zip(1u64..) {
            assert_eq!(buffer[..], value.to_be_bytes());
        }
    }
}

#[test]
fn smallest_blocks_fill_the_arena_and_merge_into_one() {
    for max_order in MAX_ORDERS {
        let total = MIN << max_order;
        let arena = buddy(total, MIN);
        assert_eq!(arena.max_order(), usize::try_from(max_order).unwrap());

        let mut held = all_blocks(&arena, 1);
        assert_eq!(held.len(), 1 << max_order);
        assert_side_by_side(&mut held);
        assert_eq!(arena.metrics().largest_free_block, 0);

        drop(held);
        assert_eq!(arena.metrics().largest_free_block, total);
        let whole = arena.allocate(nz(total)).expect("all blocks are free");
        assert_eq!(whole.capacity(), total);
    }
}

#[test]
fn smallest_blocks_freed_from_the_end_merge_into_one() {
    for max_order in MAX_ORDERS.filter(|order| order % 3 == 1) {
        let arena = buddy(MIN << max_order, MIN);
        let mut held = all_blocks(&arena, 1);
        while held.pop().is_some() {}
        assert!(arena.allocate(nz(MIN << max_order)).is_ok());
    }
}

#[test]
fn smallest_blocks_freed_in_disorder_merge_into_one() {
    for max_order in MAX_ORDERS.filter(|order| order % 6 == 1) {
        let arena = buddy(MIN << max_order, MIN);
        let mut held = all_blocks(&arena, 1);
        let mut numbers = Numbers::from_seed(u64::from(max_order));
        while !held.is_empty() {
            held.swap_remove(numbers.below(held.len()));
        }
        assert!(arena.allocate(nz(MIN << max_order)).is_ok());
    }
}

#[test]
fn blocks_of_each_order_fill_the_arena_in_turn() {
    const MAX_ORDER: u32 = if cfg!(miri) { 7 } else { 14 };

    let total = MIN << MAX_ORDER;
    let arena = buddy(total, MIN);
    for order in (0..=MAX_ORDER).chain((0..MAX_ORDER).rev()) {
        let size = MIN << order;
        let mut held = all_blocks(&arena, size);
        assert_eq!(held.len(), total / size, "blocks of {size}");
        assert_eq!(held[0].capacity(), size);
        assert_side_by_side(&mut held);
        // Every second one first, so that no two neighbours are free until the rest goes.
        let mut index = 0;
        held.retain(|_| {
            index += 1;
            index % 2 == 0
        });
        drop(held);
        assert_eq!(arena.metrics().largest_free_block, total, "after blocks of {size}");
    }
}

#[test]
fn the_largest_order_of_a_map_of_four_levels_serves_halves() {
    if cfg!(miri) {
        return;
    }
    let total = MIN << 20;
    let arena = buddy(total, MIN);
    let small = arena.allocate(nz(1)).unwrap();
    let half = arena.allocate(nz(total / 2)).expect("one small block leaves the other half");
    assert_eq!(arena.allocate(nz(total / 2)).unwrap_err(), AllocError::ArenaFull);
    assert_eq!(arena.allocate(nz(total / 4)).unwrap().capacity(), total / 4);
    drop(half);
    drop(small);
    assert_eq!(arena.allocate(nz(total)).unwrap().capacity(), total);
}

#[test]
fn sixteen_small_holders_leave_half_of_the_arena_whole() {
    const HOLDERS: usize = 16;

    let arena = buddy(64 << 20, 256);
    let (held, done) = (Barrier::new(HOLDERS + 1), Barrier::new(HOLDERS + 1));
    thread::scope(|scope| {
        for _ in 0..HOLDERS {
            scope.spawn(|| {
                let buffer = arena.allocate(nz(256));
                held.wait();
                done.wait();
                buffer.expect("there is room for all");
            });
        }
        held.wait();
        let large = arena.allocate(nz(32 << 20));
        let live = arena.metrics().bytes_live;
        done.wait();
        assert_eq!(large.map(|buffer| buffer.capacity()), Ok(32 << 20));
        assert_eq!(live, HOLDERS * 256 + (32 << 20));
    });
}

#[test]
fn sixteen_busy_threads_leave_half_of_the_arena_whole() {
    const BUSY: usize = 16;
    const ROUNDS: usize = if cfg!(miri) { 4 } else { 500 };

    let arena = buddy(64 << 20, 256);
    let (ready, done) = (Barrier::new(BUSY + 1), Barrier::new(BUSY + 1));
    thread::scope(|scope| {
        for _ in 0..BUSY {
            scope.spawn(|| {
                let mut kept = arena.allocate(nz(256));
                for _ in 0..ROUNDS {
                    let next = arena.allocate(nz(256));
                    kept = next;
                }
                ready.wait();
                done.wait();
                kept.expect("there is room for all");
            });
        }
        ready.wait();
        let large = arena.allocate(nz(32 << 20)).map(|buffer| buffer.capacity());
        done.wait();
        assert_eq!(large, Ok(32 << 20));
    });
}

/// Lets a first thread use the arena, and calls `then` while that thread is alive and idle.
fn while_another_thread_idles(work: impl FnOnce() + Send, then: impl FnOnce()) {
    let (ready, done) = (Barrier::new(2), Barrier::new(2));
    thread::scope(|scope| {
        scope.spawn(|| {
            work();
            ready.wait();
            done.wait();
        });
        ready.wait();
        // The other thread is let go before a failure is reported, so that the test ends.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(then));
        done.wait();
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn slots_that_an_idle_thread_has_freed_are_there_for_others() {
    for &count in SLOT_COUNTS {
        let arena = fixed(count, 24);
        while_another_thread_idles(
            || drop(all_slots(&arena)),
            || assert_eq!(all_slots(&arena).len(), count),
        );
    }
}

#[test]
fn one_slot_that_an_idle_thread_has_freed_leaves_all_to_others() {
    for &count in SLOT_COUNTS {
        let arena = fixed(count, 24);
        while_another_thread_idles(
            || drop(arena.allocate()),
            || assert_eq!(all_slots(&arena).len(), count),
        );
    }
}

#[test]
fn slots_that_an_idle_thread_holds_are_all_that_others_miss() {
    const HELD: usize = 10;

    let arena = fixed(200, 24);
    let mut held = Vec::new();
    while_another_thread_idles(
        || held.extend((0..HELD).map(|_| arena.allocate())),
        || assert_eq!(all_slots(&arena).len(), 200 - HELD),
    );
}

#[test]
fn blocks_that_an_idle_thread_has_freed_are_one_for_others() {
    for max_order in [0, 1, 6, 7, 12, 13] {
        if cfg!(miri) && max_order > 7 {
            continue;
        }
        let arena = buddy(MIN << max_order, MIN);
        while_another_thread_idles(
            || drop(all_blocks(&arena, 1)),
            || assert!(arena.allocate(nz(MIN << max_order)).is_ok(), "order {max_order}"),
        );
    }
}

#[test]
fn one_block_that_an_idle_thread_has_freed_leaves_all_to_others() {
    for max_order in [0, 1, 6, 7, 12, 13, 19] {
        let arena = buddy(MIN << max_order, MIN);
        while_another_thread_idles(
            || drop(arena.allocate(nz(1))),
            || {
                assert_eq!(arena.metrics().largest_free_block, MIN << max_order);
                assert!(arena.allocate(nz(MIN << max_order)).is_ok(), "order {max_order}");
            },
        );
    }
}

#[test]
fn smallest_blocks_next_to_an_idle_thread_can_all_be_had() {
    let arena = buddy(MIN << 9, MIN);
    while_another_thread_idles(
        || drop(arena.allocate(nz(1))),
        || assert_eq!(all_blocks(&arena, 1).len(), 1 << 9),
    );
}

#[test]
fn what_a_thread_that_ended_has_freed_is_there_for_others() {
    let (slots, blocks) = (fixed(130, 24), buddy(MIN << 12, MIN));
    for _ in 0..3 {
        thread::scope(|scope| {
            scope.spawn(|| drop((all_slots(&slots), all_blocks(&blocks, 1))));
        });
        assert_eq!(all_slots(&slots).len(), 130);
        assert!(blocks.allocate(nz(MIN << 12)).is_ok());
    }
}
