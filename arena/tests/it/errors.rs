//! Bad input: a typed error whose message states the rule, never a panic.

use arena::{AllocError, BuddyArena, BufferFullError, BuildError, FixedArena};

use crate::support::{buddy, fixed, nz};

fn fixed_error(slot_count: usize, slot_capacity: usize, alignment: usize) -> BuildError {
    FixedArena::builder(nz(slot_count), nz(slot_capacity))
        .alignment(alignment)
        .build()
        .expect_err("these sizes make no arena")
}

fn buddy_error(total_size: usize, min_block_size: usize, alignment: usize) -> BuildError {
    BuddyArena::builder(nz(total_size), nz(min_block_size))
        .alignment(alignment)
        .build()
        .expect_err("these sizes make no arena")
}

#[test]
fn slots_that_overflow_the_address_space_are_refused() {
    for (count, bytes) in [
        (usize::MAX, 1),
        (2, usize::MAX),
        (usize::MAX, usize::MAX),
        (1 << 32, 1 << 32),
        (1, isize::MAX.unsigned_abs() + 1),
        (2, 1 << (usize::BITS - 2)),
    ] {
        assert_eq!(fixed_error(count, bytes, 1), BuildError::SizeOverflow, "{count} * {bytes}");
    }
}

#[test]
fn a_slot_that_overflows_when_it_is_rounded_up_is_refused() {
    assert_eq!(fixed_error(1, usize::MAX, 2), BuildError::SizeOverflow);
    assert_eq!(fixed_error(1, 1, 1 << (usize::BITS - 1)), BuildError::SizeOverflow);
    assert_eq!(fixed_error(3, 1, 1 << (usize::BITS - 2)), BuildError::SizeOverflow);
}

#[test]
fn more_slots_than_an_index_counts_are_refused() {
    assert_eq!(fixed_error((1 << 31) + 1, 1, 1), BuildError::SizeOverflow);
    assert_eq!(fixed_error(1 << 40, 1, 1), BuildError::SizeOverflow);
}

#[test]
fn more_minimum_blocks_than_an_index_counts_are_refused() {
    assert_eq!(buddy_error(1 << 32, 1, 1), BuildError::SizeOverflow);
    assert_eq!(buddy_error(1 << 62, 1 << 20, 1), BuildError::SizeOverflow);
}

#[test]
fn blocks_that_overflow_the_address_space_are_refused() {
    let half = 1 << (usize::BITS - 1);
    assert_eq!(buddy_error(half, half, 1), BuildError::SizeOverflow);
    assert_eq!(buddy_error(half, half >> 1, 1), BuildError::SizeOverflow);
}

#[test]
fn a_total_size_that_is_no_power_of_two_is_refused() {
    for (total, min) in [(5000, 256), (768, 256), (usize::MAX, 1), (3, 1)] {
        assert_eq!(buddy_error(total, min, 1), BuildError::InvalidGeometry, "{total} of {min}");
    }
}

#[test]
fn a_minimum_block_that_is_no_power_of_two_is_refused() {
    for (total, min) in [(4096, 300), (600, 300), (usize::MAX, usize::MAX), (4096, 255)] {
        assert_eq!(buddy_error(total, min, 1), BuildError::InvalidGeometry, "{total} of {min}");
    }
}

#[test]
fn a_minimum_block_larger_than_the_total_size_is_refused() {
    assert_eq!(buddy_error(256, 4096, 1), BuildError::InvalidGeometry);
    assert_eq!(buddy_error(1, 2, 1), BuildError::InvalidGeometry);
}

#[test]
fn an_alignment_that_is_no_power_of_two_is_refused() {
    for alignment in [0, 3, 24, 4095, usize::MAX] {
        let fixed = fixed_error(2, 16, alignment);
        assert_eq!(fixed, BuildError::InvalidAlignment, "alignment {alignment}");
        let buddy = buddy_error(4096, 256, alignment);
        assert_eq!(buddy, BuildError::InvalidAlignment, "alignment {alignment}");
    }
}

#[test]
fn an_alignment_above_the_minimum_block_is_refused() {
    for alignment in [512, 4096, 8192, 1 << (usize::BITS - 1)] {
        let error = buddy_error(4096, 256, alignment);
        assert_eq!(error, BuildError::InvalidGeometry, "alignment {alignment}");
    }
}

/// No processor of today has addresses for this many bytes in one process.
#[cfg(target_pointer_width = "64")]
const MORE_THAN_ANY_MEMORY: usize = 1 << 50;

#[test]
#[cfg(target_pointer_width = "64")]
#[cfg_attr(miri, ignore = "Miri ends when memory does")]
fn slots_that_no_memory_holds_are_refused() {
    let error = fixed_error(64, MORE_THAN_ANY_MEMORY / 64, 1);
    assert_eq!(error, BuildError::OutOfMemory);
}

#[test]
#[cfg(target_pointer_width = "64")]
#[cfg_attr(miri, ignore = "Miri ends when memory does")]
fn blocks_that_no_memory_holds_are_refused() {
    let error = buddy_error(MORE_THAN_ANY_MEMORY, MORE_THAN_ANY_MEMORY / 64, 1);
    assert_eq!(error, BuildError::OutOfMemory);
}

#[test]
fn a_request_above_the_total_size_is_too_large_for_ever() {
    let arena = buddy(4096, 256);
    assert_eq!(arena.allocate(nz(4097)).unwrap_err(), AllocError::RequestTooLarge);
    assert_eq!(arena.allocate(nz(usize::MAX)).unwrap_err(), AllocError::RequestTooLarge);
    assert!(arena.allocate(nz(4096)).is_ok());
}

#[test]
fn a_request_that_is_too_large_is_so_while_the_arena_is_full() {
    let arena = buddy(4096, 256);
    let _all = arena.allocate(nz(4096)).unwrap();
    assert_eq!(arena.allocate(nz(4097)).unwrap_err(), AllocError::RequestTooLarge);
    assert_eq!(arena.allocate(nz(1)).unwrap_err(), AllocError::ArenaFull);
}

#[test]
fn a_full_arena_of_slots_says_that_it_is_full() {
    let arena = fixed(1, 16);
    let _only = arena.allocate().unwrap();
    assert_eq!(arena.allocate().unwrap_err(), AllocError::ArenaFull);
}

#[test]
fn the_message_on_geometry_states_its_rule() {
    let message = BuildError::InvalidGeometry.to_string();
    assert!(message.contains("total size"), "{message}");
    assert!(message.contains("power-of-two multiple of the minimum block"), "{message}");
}

#[test]
fn the_message_on_alignment_states_its_rule() {
    let message = BuildError::InvalidAlignment.to_string();
    assert!(message.contains("alignment must be a power of two"), "{message}");
}

#[test]
fn the_message_on_overflow_states_its_limits() {
    let message = BuildError::SizeOverflow.to_string();
    assert!(message.contains("isize::MAX"), "{message}");
    assert!(message.contains("2^31"), "{message}");
}

#[test]
fn the_message_on_missing_memory_says_what_is_missing() {
    let message = BuildError::OutOfMemory.to_string();
    assert!(message.contains("not enough memory"), "{message}");
}

#[test]
fn the_messages_on_requests_say_whether_to_try_again() {
    let full = AllocError::ArenaFull.to_string();
    assert!(full.contains("full") && full.contains("try again"), "{full}");
    let too_large = AllocError::RequestTooLarge.to_string();
    assert!(too_large.contains("larger than the largest block"), "{too_large}");
    assert!(too_large.contains("never"), "{too_large}");
}

#[test]
fn the_message_on_a_full_buffer_names_both_sizes() {
    let message = BufferFullError { remaining: 13, requested: 37 }.to_string();
    assert!(message.contains("13") && message.contains("37"), "{message}");
}

#[test]
fn no_message_ends_in_a_full_stop() {
    let messages = [
        AllocError::ArenaFull.to_string(),
        AllocError::RequestTooLarge.to_string(),
        AllocError::TimedOut.to_string(),
        BuildError::SizeOverflow.to_string(),
        BuildError::InvalidAlignment.to_string(),
        BuildError::InvalidGeometry.to_string(),
        BuildError::OutOfMemory.to_string(),
        BufferFullError { remaining: 1, requested: 2 }.to_string(),
    ];
    for message in messages {
        assert!(!message.ends_with('.') && !message.is_empty(), "{message:?}");
        assert!(message.starts_with(char::is_lowercase), "{message:?}");
    }
}
