//! `shrink_to_fit`: the unused tail of a block goes back at once, and merges with the rest later.

use arena::{AllocError, BuddyArena};
use bytes::BufMut;

use crate::support::{Numbers, buddy, fixed, nz, panic_message_of};

const MIN: usize = 16;

/// Allocates `block` bytes, writes `len`, shrinks, and checks everything that can be seen of it.
fn check(arena: &BuddyArena, block: usize, len: usize) {
    let kept = len.max(1).next_multiple_of(MIN);
    let what = format!("{len} bytes in a block of {block} of {arena:?}");

    let mut buffer = arena.allocate(nz(block)).unwrap();
    for index in 0..len {
        buffer.put_u8(index.to_le_bytes()[0] ^ 0x5A);
    }
    buffer.shrink_to_fit();

    assert_eq!((buffer.len(), buffer.capacity()), (len, kept), "{what}");
    assert_eq!(arena.metrics().bytes_live, kept, "{what}");
    assert_eq!(arena.occupancy().free_bytes(), arena.total_size() - kept, "{what}");
    let mut indices = 0..len;
    let intact = indices.all(|index| buffer[index] == index.to_le_bytes()[0] ^ 0x5A);
    assert!(intact, "{what}");

    drop(buffer);
    assert_eq!(arena.metrics().bytes_live, 0, "{what}");
    assert_eq!(arena.metrics().largest_free_block, arena.total_size(), "{what}");
    let whole = arena.allocate(nz(arena.total_size()));
    assert!(whole.is_ok(), "{what}");
}

#[test]
fn every_length_in_a_block_of_one_word_keeps_what_it_needs() {
    let arena = buddy(32 * MIN, MIN);
    let step = if cfg!(miri) { 37 } else { 1 };
    for len in (0..=32 * MIN).step_by(step) {
        check(&arena, 32 * MIN, len);
    }
}

#[test]
fn blocks_of_many_words_keep_what_they_need() {
    const BLOCK: usize = 1024 * MIN;

    let arena = buddy(4 * BLOCK, MIN);
    let word = 64 * MIN;
    let edges = [0, 1, MIN, MIN + 1, word - 1, word, word + 1, word + MIN, 3 * word + 5 * MIN];
    let late = [BLOCK / 2, BLOCK / 2 + 1, BLOCK - word - 1, BLOCK - MIN, BLOCK - 1, BLOCK];
    for len in edges.into_iter().chain(late) {
        check(&arena, BLOCK, len);
    }
}

#[test]
fn a_block_of_many_groups_of_words_keeps_what_it_needs() {
    const TOTAL: usize = (1 << 14) * MIN;

    let arena = buddy(TOTAL, MIN);
    let group = 4096 * MIN;
    for len in [0, 1, group - 1, group, group + 1, group + 65 * MIN + 3, TOTAL - 1, TOTAL] {
        if cfg!(miri) && len > 1 {
            continue;
        }
        check(&arena, TOTAL, len);
    }
}

#[test]
fn the_tail_can_be_had_while_the_front_is_held() {
    let arena = buddy(1024, 64);
    let mut front = arena.allocate(nz(1024)).unwrap();
    front.put_bytes(1, 100);
    assert_eq!(arena.allocate(nz(64)).unwrap_err(), AllocError::ArenaFull);

    front.shrink_to_fit();
    let sizes = [512, 256, 128];
    let blocks = sizes.map(|size| arena.allocate(nz(size)).unwrap());
    assert_eq!(blocks.map(|block| block.capacity()), sizes);
    assert_eq!(&front[..], [1; 100]);
}

#[test]
fn the_tail_is_given_back_once() {
    let arena = buddy(1024, 64);
    let mut buffer = arena.allocate(nz(1024)).unwrap();
    buffer.put_bytes(1, 300);
    buffer.shrink_to_fit();
    buffer.shrink_to_fit();
    assert_eq!(buffer.capacity(), 320);
    buffer.truncate(10);
    buffer.shrink_to_fit();
    assert_eq!(buffer.capacity(), 64);
    assert_eq!(arena.metrics().bytes_live, 64);
    drop(buffer);
    assert_eq!(arena.occupancy().free_bytes(), 1024);
}

#[test]
fn a_tail_is_not_counted_as_a_free() {
    let arena = buddy(1024, 64);
    let mut buffer = arena.allocate(nz(1024)).unwrap();
    buffer.shrink_to_fit();
    assert_eq!(arena.metrics().frees, 0);
    drop(buffer);
    assert_eq!((arena.metrics().allocations_ok, arena.metrics().frees), (1, 1));
}

#[test]
fn an_empty_buffer_keeps_one_minimum_block() {
    let arena = buddy(1024, 64);
    let mut buffer = arena.allocate(nz(1024)).unwrap();
    buffer.shrink_to_fit();
    assert_eq!(buffer.capacity(), 64);
    buffer.put_bytes(1, 64);
    assert_eq!(buffer.remaining_mut(), 0);
}

#[test]
fn writing_past_what_was_kept_panics() {
    let arena = buddy(1024, 64);
    let mut buffer = arena.allocate(nz(1024)).unwrap();
    buffer.put_bytes(1, 120);
    buffer.shrink_to_fit();
    let message = panic_message_of(|| buffer.put_bytes(2, 9));
    assert!(message.contains('9') && message.contains('8'), "{message}");
}

#[test]
fn writing_past_what_was_kept_spills_where_it_may() {
    let arena = BuddyArena::builder(nz(1024), nz(64)).auto_spill().build().unwrap();
    let mut buffer = arena.allocate(nz(1024)).unwrap();
    buffer.put_bytes(1, 120);
    buffer.shrink_to_fit();
    buffer.put_bytes(2, 9);
    assert!(buffer.is_spilled());
    assert_eq!((&buffer[..120], &buffer[120..]), (&[1; 120][..], &[2; 9][..]));
    assert_eq!(arena.metrics().largest_free_block, 1024);
}

#[test]
fn what_is_frozen_after_shrinking_holds_what_was_kept() {
    let arena = buddy(1024, 64);
    let mut buffer = arena.allocate(nz(1024)).unwrap();
    buffer.put_bytes(1, 70);
    buffer.shrink_to_fit();
    let bytes = buffer.freeze();
    assert_eq!(arena.metrics().bytes_live, 128);
    drop(bytes);
    assert_eq!(arena.metrics().bytes_live, 0);
}

#[test]
fn a_slot_stays_whole() {
    let arena = fixed(1, 64);
    let mut buffer = arena.allocate().unwrap();
    buffer.put_u8(1);
    buffer.shrink_to_fit();
    assert_eq!(buffer.capacity(), 64);
    assert!(arena.allocate().is_err());
}

#[test]
fn a_buffer_on_the_heap_stays_as_it_is() {
    let arena = BuddyArena::builder(nz(64), nz(64)).auto_spill().build().unwrap();
    let mut buffer = arena.allocate(nz(1)).unwrap();
    buffer.put_bytes(1, 100);
    buffer.shrink_to_fit();
    assert!(buffer.is_spilled());
    assert_eq!(&buffer[..], [1; 100]);
}

#[test]
fn shrunk_buffers_freed_in_any_order_merge_into_one_block() {
    const ROUNDS: u64 = if cfg!(miri) { 2 } else { 100 };

    let arena = buddy(1 << 16, MIN);
    for seed in 0..ROUNDS {
        let mut numbers = Numbers::from_seed(seed);
        let mut held = Vec::new();
        while let Ok(mut buffer) = arena.allocate(nz(1 + numbers.below(1 << 14))) {
            let len = numbers.below(buffer.capacity() + 1);
            buffer.put_bytes(1, len);
            buffer.shrink_to_fit();
            held.push(buffer);
        }
        while !held.is_empty() {
            held.swap_remove(numbers.below(held.len()));
        }
        assert_eq!(arena.metrics().largest_free_block, 1 << 16, "seed {seed}");
        assert!(arena.allocate(nz(1 << 16)).is_ok(), "seed {seed}");
    }
}
