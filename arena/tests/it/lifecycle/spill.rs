//! `auto_spill`: a buffer that outgrows its memory moves to the heap and gives the memory back in
//! that moment.

use std::fmt::Write as _;

use arena::Buffer;
use bytes::{Buf, BufMut, Bytes};

use crate::support::{Arena, Figures, ONE_BYTES, buffer_with, in_both_arenas};

in_both_arenas!(
    a_full_buffer_is_not_spilled,
    putting_a_slice_spills,
    putting_bytes_spills,
    putting_a_buf_spills,
    putting_numbers_spills,
    trying_to_put_a_slice_spills,
    formatting_spills,
    asking_a_full_buffer_for_its_free_part_spills,
    reading_into_the_free_part_spills,
    advancing_past_the_free_part_panics,
    a_large_write_into_an_empty_buffer_spills,
    a_spilled_buffer_goes_on_growing,
    a_spilled_buffer_freezes_into_bytes,
    a_spilled_buffer_becomes_frozen_on_the_heap,
    what_is_frozen_on_the_heap_becomes_a_buffer,
    what_is_shared_on_the_heap_becomes_no_buffer,
    dropping_a_spilled_buffer_frees_nothing_more,
    a_spill_is_no_frozen_buffer,
    a_spilled_buffer_can_be_cleared_and_changed,
    anything_will_fit_where_a_buffer_may_spill,
    an_arena_that_spills_still_refuses,
    a_buffer_spills_after_the_arena_is_gone,
);

const FIRST: usize = ONE_BYTES - 4;

/// Fills a buffer up to four bytes, lets `write` append 8 of `*`, and expects that this spills it.
#[track_caller]
fn assert_spills<A: Arena>(write: impl FnOnce(&mut Buffer)) {
    let arena = A::with_room_for_one_that_spills();
    let mut buffer = buffer_with(&arena, &[b'-'; FIRST]);
    assert!(!arena.has_room());

    write(&mut buffer);

    assert!(buffer.is_spilled());
    assert!(arena.has_room(), "the memory is back while the buffer lives");
    assert_eq!(arena.figures().spills, 1);
    assert_eq!(buffer.len(), FIRST + 8);
    assert_eq!((&buffer[..FIRST], &buffer[FIRST..]), (&[b'-'; FIRST][..], &[b'*'; 8][..]));
}

fn a_full_buffer_is_not_spilled<A: Arena>() {
    let arena = A::with_room_for_one_that_spills();
    let mut buffer = buffer_with(&arena, &[1; ONE_BYTES]);
    buffer.put_slice(&[]);
    buffer.put_bytes(1, 0);
    buffer.put(&[][..]);
    assert!(!buffer.is_spilled() && !arena.has_room());
    assert_eq!((buffer.capacity(), arena.figures().spills), (ONE_BYTES, 0));
}

fn putting_a_slice_spills<A: Arena>() {
    assert_spills::<A>(|buffer| buffer.put_slice(b"********"));
}

fn putting_bytes_spills<A: Arena>() {
    assert_spills::<A>(|buffer| buffer.put_bytes(b'*', 8));
}

fn putting_a_buf_spills<A: Arena>() {
    assert_spills::<A>(|buffer| buffer.put(b"***".chain(&b"*****"[..])));
}

fn putting_numbers_spills<A: Arena>() {
    assert_spills::<A>(|buffer| {
        buffer.put_u16(0x2A2A);
        buffer.put_u32_le(0x2A2A_2A2A);
        buffer.put_i16_le(0x2A2A);
    });
}

fn trying_to_put_a_slice_spills<A: Arena>() {
    assert_spills::<A>(|buffer| buffer.try_put_slice(b"********").unwrap());
}

fn formatting_spills<A: Arena>() {
    assert_spills::<A>(|buffer| write!(buffer, "{:*>8}", "*").unwrap());
}

fn asking_a_full_buffer_for_its_free_part_spills<A: Arena>() {
    assert_spills::<A>(|buffer| {
        buffer.put_bytes(b'*', 4);
        assert!(!buffer.is_spilled());
        assert_ne!(buffer.chunk_mut().len(), 0);
        assert!(buffer.is_spilled());
        buffer.put_bytes(b'*', 4);
    });
}

fn reading_into_the_free_part_spills<A: Arena>() {
    assert_spills::<A>(|buffer| {
        let mut left = 8;
        while left > 0 {
            assert!(buffer.has_remaining_mut());
            let free = buffer.chunk_mut();
            let n = free.len().min(left).min(3);
            free[..n].copy_from_slice(&b"***"[..n]);
            // SAFETY: these `n` bytes were written just now.
            unsafe { buffer.advance_mut(n) };
            left -= n;
        }
    });
}

fn advancing_past_the_free_part_panics<A: Arena>() {
    let arena = A::with_room_for_one_that_spills();
    let mut buffer = buffer_with(&arena, &[b'-'; FIRST]);
    let message = crate::support::panic_message_of(|| {
        // SAFETY: never gets as far as to count bytes that nobody wrote: the buffer refuses.
        unsafe { buffer.advance_mut(5) };
    });
    assert!(message.contains('5') && message.contains('4'), "{message}");
    assert_eq!(buffer.len(), FIRST);
}

fn a_large_write_into_an_empty_buffer_spills<A: Arena>() {
    let arena = A::with_room_for_one_that_spills();
    let mut buffer = arena.take().unwrap();
    buffer.put_slice(&[7; 10_000]);
    assert!(buffer.is_spilled() && arena.has_room());
    assert_eq!(&buffer[..], [7; 10_000]);
}

fn spilled<A: Arena>(arena: &A) -> Buffer {
    let mut buffer = buffer_with(arena, &[b'-'; ONE_BYTES]);
    buffer.put_u8(b'*');
    assert!(buffer.is_spilled());
    buffer
}

fn a_spilled_buffer_goes_on_growing<A: Arena>() {
    let arena = A::with_room_for_one_that_spills();
    let mut buffer = spilled(&arena);
    for _ in 0..1000 {
        buffer.put_slice(b"0123456789");
    }
    assert_eq!(buffer.len(), ONE_BYTES + 1 + 10_000);
    assert!(buffer.ends_with(b"90123456789"));
    assert_eq!(arena.figures().spills, 1);
}

fn a_spilled_buffer_freezes_into_bytes<A: Arena>() {
    let arena = A::with_room_for_one_that_spills();
    let bytes: Bytes = spilled(&arena).freeze();
    assert_eq!(bytes.len(), ONE_BYTES + 1);
    assert!(bytes.ends_with(b"--*"));
}

fn a_spilled_buffer_becomes_frozen_on_the_heap<A: Arena>() {
    let arena = A::with_room_for_one_that_spills();
    let mut frozen = spilled(&arena).into_frozen();
    assert!(frozen.is_spilled() && arena.has_room());
    let front = frozen.split_to(ONE_BYTES - 1);
    assert_eq!((&front[..], &frozen[..]), (&[b'-'; ONE_BYTES - 1][..], &b"-*"[..]));
    assert_eq!(&frozen.slice(1..)[..], b"*");
}

fn what_is_frozen_on_the_heap_becomes_a_buffer<A: Arena>() {
    let arena = A::with_room_for_one_that_spills();
    let frozen = spilled(&arena).into_frozen();
    let mut buffer = frozen.try_into_buffer().expect("the only reference");
    assert!(buffer.is_spilled());
    buffer.put_slice(b"more");
    assert!(buffer.ends_with(b"-*more"));
}

fn what_is_shared_on_the_heap_becomes_no_buffer<A: Arena>() {
    let arena = A::with_room_for_one_that_spills();
    let frozen = spilled(&arena).into_frozen();
    let clone = frozen.clone();
    let frozen = frozen.try_into_buffer().expect_err("there is a clone");
    assert_eq!(frozen, clone);
}

fn dropping_a_spilled_buffer_frees_nothing_more<A: Arena>() {
    let arena = A::with_room_for_one_that_spills();
    drop(spilled(&arena));
    drop(spilled(&arena).freeze());
    spilled(&arena).abandon();
    assert_eq!(
        arena.figures(),
        Figures { allocations_ok: 3, frees: 3, spills: 3, ..Figures::default() }
    );
}

fn a_spill_is_no_frozen_buffer<A: Arena>() {
    let arena = A::with_room_for_one_that_spills();
    drop(spilled(&arena).freeze());
    assert_eq!(arena.figures().frozen, 0);
}

fn a_spilled_buffer_can_be_cleared_and_changed<A: Arena>() {
    let arena = A::with_room_for_one_that_spills();
    let mut buffer = spilled(&arena);
    buffer[0] = b'!';
    buffer.truncate(2);
    assert_eq!(&buffer[..], b"!-");
    buffer.clear();
    assert!(buffer.is_empty() && buffer.is_spilled());
}

fn anything_will_fit_where_a_buffer_may_spill<A: Arena>() {
    let arena = A::with_room_for_one_that_spills();
    let mut buffer = buffer_with(&arena, &[1; 10]);
    assert!(buffer.will_fit(ONE_BYTES - 9) && buffer.remaining_mut() > ONE_BYTES);
    buffer.put_slice(&[2; ONE_BYTES]);
    assert!(buffer.is_spilled() && buffer.will_fit(ONE_BYTES));
}

fn an_arena_that_spills_still_refuses<A: Arena>() {
    let arena = A::with_room_for_one_that_spills();
    let _held = arena.take().unwrap();
    assert!(!arena.has_room());
}

fn a_buffer_spills_after_the_arena_is_gone<A: Arena>() {
    let arena = A::with_room_for_one_that_spills();
    let mut buffer = buffer_with(&arena, &[b'-'; ONE_BYTES]);
    drop(arena);
    buffer.put_slice(b"after");
    assert!(buffer.is_spilled() && buffer.ends_with(b"--after"));
}
