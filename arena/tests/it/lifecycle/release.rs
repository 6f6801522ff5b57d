//! The memory returns exactly when the last reference goes.

use std::thread;

use bytes::{Buf, BufMut, Bytes};

use crate::support::{Arena, Figures, buffer_with, in_both_arenas};

in_both_arenas!(
    dropping_the_buffer_returns_the_memory,
    abandoning_the_buffer_returns_the_memory,
    freezing_keeps_the_memory,
    freezing_an_empty_buffer_keeps_the_memory,
    dropping_the_bytes_returns_the_memory,
    the_last_clone_of_bytes_returns_the_memory,
    a_slice_of_bytes_keeps_the_memory,
    dropping_what_is_frozen_returns_the_memory,
    the_last_clone_of_what_is_frozen_returns_the_memory,
    a_slice_of_what_is_frozen_keeps_the_memory,
    the_last_half_of_what_was_split_returns_the_memory,
    an_empty_slice_holds_no_memory,
    splitting_off_nothing_takes_no_memory_along,
    splitting_off_everything_takes_the_memory_along,
    bytes_made_of_frozen_share_its_memory,
    bytes_copied_out_of_frozen_keep_the_memory,
    a_buffer_dropped_on_another_thread_returns_its_memory,
    bytes_dropped_on_another_thread_return_their_memory,
    the_last_of_many_threads_returns_the_memory,
    each_return_is_counted_once,
    a_clone_of_the_handle_is_the_same_arena,
    a_buffer_outlives_the_arena,
    bytes_outlive_the_arena,
    frozen_outlives_the_arena,
    what_outlives_the_arena_may_end_on_another_thread,
    old_contents_cannot_be_read,
);

fn dropping_the_buffer_returns_the_memory<A: Arena>() {
    let arena = A::with_room_for_one();
    let buffer = buffer_with(&arena, b"held");
    assert!(!arena.has_room());
    drop(buffer);
    assert!(arena.has_room());
}

fn abandoning_the_buffer_returns_the_memory<A: Arena>() {
    let arena = A::with_room_for_one();
    let buffer = buffer_with(&arena, b"held");
    assert!(!arena.has_room());
    buffer.abandon();
    assert!(arena.has_room());
}

fn freezing_keeps_the_memory<A: Arena>() {
    let arena = A::with_room_for_one();
    let bytes = buffer_with(&arena, b"held").freeze();
    assert!(!arena.has_room());
    assert_eq!(&bytes[..], b"held");
}

fn freezing_an_empty_buffer_keeps_the_memory<A: Arena>() {
    let arena = A::with_room_for_one();
    let bytes = arena.take().unwrap().freeze();
    assert!(bytes.is_empty());
    assert!(!arena.has_room());
    drop(bytes);
    assert!(arena.has_room());
}

fn dropping_the_bytes_returns_the_memory<A: Arena>() {
    let arena = A::with_room_for_one();
    drop(buffer_with(&arena, b"held").freeze());
    assert!(arena.has_room());
}

fn the_last_clone_of_bytes_returns_the_memory<A: Arena>() {
    let arena = A::with_room_for_one();
    let first = buffer_with(&arena, b"held").freeze();
    let second = first.clone();
    drop(first);
    assert!(!arena.has_room());
    assert_eq!(&second[..], b"held");
    drop(second);
    assert!(arena.has_room());
}

fn a_slice_of_bytes_keeps_the_memory<A: Arena>() {
    let arena = A::with_room_for_one();
    let whole = buffer_with(&arena, b"held").freeze();
    let slice = whole.slice(1..2);
    drop(whole);
    assert!(!arena.has_room());
    assert_eq!(&slice[..], b"e");
    drop(slice);
    assert!(arena.has_room());
}

fn dropping_what_is_frozen_returns_the_memory<A: Arena>() {
    let arena = A::with_room_for_one();
    let frozen = buffer_with(&arena, b"held").into_frozen();
    assert!(!arena.has_room());
    drop(frozen);
    assert!(arena.has_room());
}

fn the_last_clone_of_what_is_frozen_returns_the_memory<A: Arena>() {
    let arena = A::with_room_for_one();
    let first = buffer_with(&arena, b"held").into_frozen();
    let (second, third) = (first.clone(), first.clone());
    drop(second);
    drop(first);
    assert!(!arena.has_room());
    assert_eq!(&third[..], b"held");
    drop(third);
    assert!(arena.has_room());
}

fn a_slice_of_what_is_frozen_keeps_the_memory<A: Arena>() {
    let arena = A::with_room_for_one();
    let whole = buffer_with(&arena, b"held").into_frozen();
    let slice = whole.slice(1..2);
    drop(whole);
    assert!(!arena.has_room());
    assert_eq!(&slice[..], b"e");
    drop(slice);
    assert!(arena.has_room());
}

fn the_last_half_of_what_was_split_returns_the_memory<A: Arena>() {
    let arena = A::with_room_for_one();
    let mut back = buffer_with(&arena, b"held").into_frozen();
    let front = back.split_to(2);
    drop(back);
    assert!(!arena.has_room());
    assert_eq!(&front[..], b"he");
    drop(front);
    assert!(arena.has_room());
}

fn an_empty_slice_holds_no_memory<A: Arena>() {
    let arena = A::with_room_for_one();
    let whole = buffer_with(&arena, b"held").into_frozen();
    let slice = whole.slice(2..2);
    drop(whole);
    assert!(arena.has_room());
    assert!(slice.is_empty());
}

fn splitting_off_nothing_takes_no_memory_along<A: Arena>() {
    let arena = A::with_room_for_one();
    let mut all = buffer_with(&arena, b"held").into_frozen();
    let nothing = all.split_to(0);
    assert_eq!(&all[..], b"held");
    drop(all);
    assert!(arena.has_room());
    assert!(nothing.is_empty());
}

fn splitting_off_everything_takes_the_memory_along<A: Arena>() {
    let arena = A::with_room_for_one();
    let mut rest = buffer_with(&arena, b"held").into_frozen();
    let all = rest.split_to(4);
    assert!(!arena.has_room());
    drop(all);
    assert!(arena.has_room());
    assert!(rest.is_empty());
}

fn bytes_made_of_frozen_share_its_memory<A: Arena>() {
    let arena = A::with_room_for_one();
    let frozen = buffer_with(&arena, b"held").into_frozen();
    let bytes = frozen.slice(1..).into_bytes();
    drop(frozen);
    assert!(!arena.has_room());
    assert_eq!(&bytes[..], b"eld");
    drop(bytes);
    assert!(arena.has_room());
}

fn bytes_copied_out_of_frozen_keep_the_memory<A: Arena>() {
    let arena = A::with_room_for_one();
    let mut frozen = buffer_with(&arena, b"held").into_frozen();
    let start = frozen.as_ptr();
    let front: Bytes = frozen.copy_to_bytes(3);
    assert_eq!(front.as_ptr(), start, "nothing is copied");
    drop(frozen);
    assert!(!arena.has_room());
    drop(front);
    assert!(arena.has_room());
}

fn a_buffer_dropped_on_another_thread_returns_its_memory<A: Arena>() {
    let arena = A::with_room_for_one();
    let buffer = buffer_with(&arena, b"held");
    thread::spawn(move || drop(buffer)).join().unwrap();
    assert!(arena.has_room());
}

fn bytes_dropped_on_another_thread_return_their_memory<A: Arena>() {
    let arena = A::with_room_for_one();
    let bytes = buffer_with(&arena, b"held").freeze();
    let clone = bytes.clone();
    thread::spawn(move || drop(clone)).join().unwrap();
    assert!(!arena.has_room());
    thread::spawn(move || drop(bytes)).join().unwrap();
    assert!(arena.has_room());
}

fn the_last_of_many_threads_returns_the_memory<A: Arena>() {
    const ROUNDS: usize = if cfg!(miri) { 4 } else { 300 };

    let arena = A::with_room_for_one();
    for _ in 0..ROUNDS {
        let frozen = buffer_with(&arena, b"held").into_frozen();
        thread::scope(|scope| {
            for clone in [frozen.clone(), frozen.slice(1..3), frozen] {
                scope.spawn(move || drop(clone));
            }
        });
        assert!(arena.has_room());
    }
}

fn each_return_is_counted_once<A: Arena>() {
    let arena = A::with_room_for_one();
    drop(buffer_with(&arena, b"1"));
    buffer_with(&arena, b"2").abandon();
    let bytes = buffer_with(&arena, b"3").freeze();
    let frozen = [bytes.clone(), bytes.slice(..1), bytes];
    drop(frozen);
    let mut back = buffer_with(&arena, b"45").into_frozen();
    let front = back.split_to(1);
    drop((front, back));
    assert_eq!(
        arena.figures(),
        Figures { allocations_ok: 4, frees: 4, frozen: 2, ..Figures::default() }
    );
}

fn a_clone_of_the_handle_is_the_same_arena<A: Arena>() {
    let arena = A::with_room_for_one();
    let clone = arena.clone();
    let buffer = arena.take().unwrap();
    assert!(!clone.has_room());
    drop(arena);
    assert!(!clone.has_room());
    drop(buffer);
    assert!(clone.has_room());
}

fn a_buffer_outlives_the_arena<A: Arena>() {
    let arena = A::with_room_for_one();
    let clone = arena.clone();
    let mut buffer = buffer_with(&arena, b"still ");
    drop((arena, clone));
    buffer.put_slice(b"here");
    let bytes = buffer.freeze();
    assert_eq!(&bytes[..], b"still here");
}

fn bytes_outlive_the_arena<A: Arena>() {
    let arena = A::with_room_for_one();
    let clone = arena.clone();
    let bytes = buffer_with(&arena, b"still here").freeze();
    drop((arena, clone));
    let slice = bytes.slice(6..);
    drop(bytes);
    assert_eq!(&slice[..], b"here");
}

fn frozen_outlives_the_arena<A: Arena>() {
    let arena = A::with_room_for_one();
    let frozen = buffer_with(&arena, b"still here").into_frozen();
    drop(arena);
    let slice = frozen.slice(6..);
    drop(frozen);
    let mut buffer = slice.try_into_buffer().expect("the only reference");
    buffer.put_slice(b"!");
    assert_eq!(&buffer[..], b"here!");
}

fn what_outlives_the_arena_may_end_on_another_thread<A: Arena>() {
    let arena = A::with_room_for_one();
    let bytes = buffer_with(&arena, b"still here").freeze();
    drop(arena);
    let seen = thread::spawn(move || bytes.to_vec()).join().unwrap();
    assert_eq!(seen, b"still here");
}

fn old_contents_cannot_be_read<A: Arena>() {
    let arena = A::with_room_for_one();
    drop(buffer_with(&arena, b"secret"));
    let mut buffer = arena.take().unwrap();
    assert!(buffer.is_empty() && buffer[..].is_empty());
    buffer.put_u8(b'x');
    assert_eq!(&buffer.freeze()[..], b"x");
}
