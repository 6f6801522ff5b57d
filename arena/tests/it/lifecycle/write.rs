//! Writing: what a buffer holds, and what happens at its end.

use std::fmt::Write as _;

use arena::{Buffer, BufferFullError};
use bytes::{Buf, BufMut};

use crate::support::{
    Arena, ONE_BYTES, buddy, buffer_with, fixed, in_both_arenas, nz, panic_message_of,
};

in_both_arenas!(
    a_fresh_buffer_is_empty,
    every_way_to_write_appends,
    written_bytes_can_be_changed,
    clearing_forgets_what_was_written,
    truncating_keeps_the_front,
    truncating_beyond_the_end_does_nothing,
    will_fit_counts_what_remains,
    a_slice_that_does_not_fit_is_an_error_and_not_written,
    a_slice_that_just_fits_is_written,
    an_empty_slice_fits_a_full_buffer,
    putting_a_slice_past_the_end_panics_with_both_sizes,
    putting_bytes_past_the_end_panics_with_both_sizes,
    putting_a_buf_past_the_end_panics_with_both_sizes,
    putting_a_number_past_the_end_panics_with_both_sizes,
    advancing_past_the_end_panics_with_both_sizes,
    formatting_past_the_end_is_an_error,
    a_panic_leaves_the_buffer_usable,
    the_free_part_ends_with_the_buffer,
    debug_tells_length_and_capacity,
);

fn a_fresh_buffer_is_empty<A: Arena>() {
    let buffer = A::with_room_for_one().take().unwrap();
    assert!(buffer.is_empty() && !buffer.is_spilled());
    assert_eq!((buffer.len(), buffer.capacity()), (0, ONE_BYTES));
    assert_eq!(buffer.remaining_mut(), ONE_BYTES);
}

fn every_way_to_write_appends<A: Arena>() {
    let mut buffer = A::with_room_for_one().take().unwrap();
    buffer.put_slice(b"sl");
    buffer.put_u16(0x4142);
    buffer.put_bytes(b'z', 3);
    buffer.put(b"two ".chain(&b"parts"[..]));
    buffer.try_put_slice(b"!").unwrap();
    write!(buffer, "{}", 42).unwrap();
    assert_eq!(&buffer[..], b"slABzzztwo parts!42");
    assert_eq!(buffer.len(), 19);
    assert_eq!(buffer.remaining_mut(), ONE_BYTES - 19);
}

fn written_bytes_can_be_changed<A: Arena>() {
    let mut buffer = buffer_with(&A::with_room_for_one(), b"abc");
    buffer[1] = b'-';
    buffer.as_mut()[2] = b'!';
    buffer.reverse();
    assert_eq!(buffer.as_ref(), b"!-a");
}

fn clearing_forgets_what_was_written<A: Arena>() {
    let mut buffer = buffer_with(&A::with_room_for_one(), b"abc");
    buffer.clear();
    assert!(buffer.is_empty());
    assert_eq!(buffer.remaining_mut(), ONE_BYTES);
    buffer.put_slice(b"new");
    assert_eq!(&buffer[..], b"new");
}

fn truncating_keeps_the_front<A: Arena>() {
    let mut buffer = buffer_with(&A::with_room_for_one(), b"abcdef");
    buffer.truncate(2);
    assert_eq!((&buffer[..], buffer.capacity()), (&b"ab"[..], ONE_BYTES));
    buffer.put_u8(b'!');
    assert_eq!(&buffer[..], b"ab!");
}

fn truncating_beyond_the_end_does_nothing<A: Arena>() {
    let mut buffer = buffer_with(&A::with_room_for_one(), b"abc");
    buffer.truncate(4);
    buffer.truncate(usize::MAX);
    assert_eq!(&buffer[..], b"abc");
}

fn will_fit_counts_what_remains<A: Arena>() {
    let buffer = buffer_with(&A::with_room_for_one(), &[1; 10]);
    assert!(buffer.will_fit(0) && buffer.will_fit(ONE_BYTES - 10));
    assert!(!buffer.will_fit(ONE_BYTES - 9) && !buffer.will_fit(usize::MAX));
}

fn a_slice_that_does_not_fit_is_an_error_and_not_written<A: Arena>() {
    let mut buffer = buffer_with(&A::with_room_for_one(), &[1; 51]);
    let full = buffer.try_put_slice(&[2; 37]).unwrap_err();
    assert_eq!(full, BufferFullError { remaining: 13, requested: 37 });
    assert_eq!(&buffer[..], [1; 51]);
}

fn a_slice_that_just_fits_is_written<A: Arena>() {
    let mut buffer = buffer_with(&A::with_room_for_one(), &[1; 51]);
    assert_eq!(buffer.try_put_slice(&[2; 13]), Ok(()));
    assert_eq!((buffer.len(), buffer.remaining_mut()), (ONE_BYTES, 0));
    assert_eq!(&buffer[51..], [2; 13]);
}

fn an_empty_slice_fits_a_full_buffer<A: Arena>() {
    let mut buffer = buffer_with(&A::with_room_for_one(), &[1; ONE_BYTES]);
    assert_eq!(buffer.try_put_slice(&[]), Ok(()));
    buffer.put_slice(&[]);
    buffer.put_bytes(0, 0);
    assert_eq!(buffer.len(), ONE_BYTES);
}

/// Writes `requested` bytes where 5 remain, and expects a panic that says so.
#[track_caller]
fn assert_panics_with_both_sizes<A: Arena>(requested: usize, write: impl FnOnce(&mut Buffer)) {
    let mut buffer = buffer_with(&A::with_room_for_one(), &[1; ONE_BYTES - 5]);
    let message = panic_message_of(|| write(&mut buffer));
    let numbers: Vec<usize> = message
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect();
    assert!(numbers.contains(&5) && numbers.contains(&requested), "{message}");
}

fn putting_a_slice_past_the_end_panics_with_both_sizes<A: Arena>() {
    assert_panics_with_both_sizes::<A>(37, |buffer| buffer.put_slice(&[2; 37]));
}

fn putting_bytes_past_the_end_panics_with_both_sizes<A: Arena>() {
    assert_panics_with_both_sizes::<A>(6, |buffer| buffer.put_bytes(2, 6));
}

fn putting_a_buf_past_the_end_panics_with_both_sizes<A: Arena>() {
    assert_panics_with_both_sizes::<A>(8, |buffer| buffer.put(b"four".chain(&b"more"[..])));
}

fn putting_a_number_past_the_end_panics_with_both_sizes<A: Arena>() {
    assert_panics_with_both_sizes::<A>(8, |buffer| buffer.put_u64(2));
}

fn advancing_past_the_end_panics_with_both_sizes<A: Arena>() {
    assert_panics_with_both_sizes::<A>(37, |buffer| {
        // SAFETY: never gets as far as to count bytes that nobody wrote: the buffer refuses.
        unsafe { buffer.advance_mut(37) };
    });
}

fn formatting_past_the_end_is_an_error<A: Arena>() {
    let mut buffer = buffer_with(&A::with_room_for_one(), &[1; ONE_BYTES - 5]);
    assert!(write!(buffer, "sixsix").is_err());
    assert!(write!(buffer, "fives").is_ok());
}

fn a_panic_leaves_the_buffer_usable<A: Arena>() {
    let arena = A::with_room_for_one();
    let mut buffer = buffer_with(&arena, b"before");
    panic_message_of(|| buffer.put_slice(&[2; ONE_BYTES]));
    assert_eq!(&buffer[..], b"before");
    buffer.put_slice(b" and after");
    assert_eq!(&buffer.freeze()[..], b"before and after");
    assert!(arena.has_room());
}

fn the_free_part_ends_with_the_buffer<A: Arena>() {
    let mut buffer = buffer_with(&A::with_room_for_one(), &[1; 20]);
    assert_eq!(buffer.chunk_mut().len(), ONE_BYTES - 20);
    buffer.put_bytes(1, ONE_BYTES - 20);
    assert_eq!(buffer.chunk_mut().len(), 0);
    assert!(!buffer.has_remaining_mut());
}

fn debug_tells_length_and_capacity<A: Arena>() {
    let buffer = buffer_with(&A::with_room_for_one(), &[1; 20]);
    let shown = format!("{buffer:?}");
    assert!(shown.starts_with("Buffer"), "{shown}");
    assert!(shown.contains("len: 20") && shown.contains("capacity: 64"), "{shown}");
}

#[test]
fn debug_of_an_arena_tells_its_sizes() {
    let shown = format!("{:?} {:?}", fixed(3, 48), buddy(4096, 256));
    for part in ["FixedArena", "slot_count: 3", "slot_capacity: 48"] {
        assert!(shown.contains(part), "{shown}");
    }
    for part in ["BuddyArena", "total_size: 4096", "min_block_size: 256"] {
        assert!(shown.contains(part), "{shown}");
    }
}

#[test]
fn the_capacity_of_a_slot_is_the_slot() {
    assert_eq!(fixed(3, 100).allocate().unwrap().capacity(), 100);
}

#[test]
fn the_capacity_of_a_block_is_the_whole_block() {
    let arena = buddy(1 << 16, 256);
    for (len, capacity) in [
        (1, 256),
        (255, 256),
        (256, 256),
        (257, 512),
        (512, 512),
        (513, 1024),
        (16 << 10, 16 << 10),
        ((16 << 10) + 1, 32 << 10),
        (40_000, 1 << 16),
        (1 << 16, 1 << 16),
    ] {
        let mut buffer = arena.allocate(nz(len)).unwrap();
        assert_eq!(buffer.capacity(), capacity, "for {len} bytes");
        assert_eq!(buffer.remaining_mut(), capacity, "for {len} bytes");
        buffer.put_bytes(1, capacity);
        assert_eq!(buffer.remaining_mut(), 0, "for {len} bytes");
    }
}

#[test]
fn an_arena_may_have_slots_of_one_byte() {
    let arena = fixed(3, 1);
    let mut buffers = [(); 3].map(|()| arena.allocate().unwrap());
    for (buffer, value) in buffers.iter_mut().zip(1..) {
        buffer.put_u8(value);
    }
    assert_eq!(buffers.map(|buffer| buffer[0]), [1, 2, 3]);
}
