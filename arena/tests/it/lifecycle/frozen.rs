//! `Frozen`: slices, the way back to a buffer, and the traits.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
};

use arena::{Buffer, Frozen};
use bytes::{Buf, BufMut, Bytes};

use crate::support::{
    Arena, ONE_BYTES, address_of, buddy, buffer_with, fixed, in_both_arenas, nz, panic_message_of,
};

in_both_arenas!(
    the_only_reference_becomes_a_buffer,
    a_slice_that_is_left_becomes_a_buffer,
    a_front_that_is_left_becomes_a_buffer,
    overlapping_bytes_move_to_the_front,
    what_holds_no_memory_becomes_an_empty_buffer,
    one_of_two_references_becomes_no_buffer,
    one_of_two_slices_becomes_no_buffer,
    a_reference_in_bytes_prevents_a_buffer,
    a_buffer_made_again_keeps_the_memory,
    a_buffer_made_again_can_be_frozen_again,
    freezing_copies_nothing,
);

fn the_only_reference_becomes_a_buffer<A: Arena>() {
    let arena = A::with_room_for_one();
    let frozen = buffer_with(&arena, b"request").into_frozen();
    let mut buffer = frozen.try_into_buffer().expect("the only reference");
    assert_eq!(buffer.capacity(), ONE_BYTES);
    buffer[..2].copy_from_slice(b"RE");
    buffer.put_slice(b"ed");
    assert_eq!(&buffer[..], b"REquested");
}

fn a_slice_that_is_left_becomes_a_buffer<A: Arena>() {
    let arena = A::with_room_for_one();
    let mut buffer = arena.take().unwrap();
    let start = address_of(&mut buffer);
    buffer.put_slice(b"head:body:tail");
    let whole = buffer.into_frozen();
    let slice = whole.slice(5..9);
    drop(whole);

    let mut buffer = slice.try_into_buffer().expect("the only reference");
    assert_eq!(buffer.as_ptr().addr(), start, "the bytes stand at the front");
    assert_eq!(buffer.capacity(), ONE_BYTES);
    assert_eq!(&buffer[..], b"body");
    buffer.put_bytes(b'+', ONE_BYTES - 4);
    assert!(buffer.ends_with(b"+++"));
}

fn a_front_that_is_left_becomes_a_buffer<A: Arena>() {
    let arena = A::with_room_for_one();
    let mut rest = buffer_with(&arena, b"front and rest").into_frozen();
    let front = rest.split_to(5);
    drop(rest);
    let buffer = front.try_into_buffer().expect("the only reference");
    assert_eq!((&buffer[..], buffer.capacity()), (&b"front"[..], ONE_BYTES));
}

fn what_holds_no_memory_becomes_an_empty_buffer<A: Arena>() {
    let arena = A::with_room_for_one();
    let frozen = buffer_with(&arena, b"request").into_frozen();
    let mut buffer = frozen.slice(3..3).try_into_buffer().expect("it shares nothing");
    assert!(buffer.is_empty() && buffer.is_spilled());
    buffer.put_slice(b"on the heap");
    assert_eq!(&buffer[..], b"on the heap");
}

fn overlapping_bytes_move_to_the_front<A: Arena>() {
    let arena = A::with_room_for_one();
    let all: Vec<u8> = (0..64).collect();
    let mut frozen = buffer_with(&arena, &all).into_frozen();
    frozen.advance(1);
    let buffer = frozen.try_into_buffer().expect("the only reference");
    assert_eq!(&buffer[..], &all[1..]);
}

fn one_of_two_references_becomes_no_buffer<A: Arena>() {
    let arena = A::with_room_for_one();
    let frozen = buffer_with(&arena, b"shared").into_frozen();
    let clone = frozen.clone();
    let frozen = frozen.try_into_buffer().expect_err("there is a clone");
    assert_eq!((&frozen[..], &clone[..]), (&b"shared"[..], &b"shared"[..]));
    drop(clone);
    assert!(frozen.try_into_buffer().is_ok());
}

fn one_of_two_slices_becomes_no_buffer<A: Arena>() {
    let arena = A::with_room_for_one();
    let mut back = buffer_with(&arena, b"frontback").into_frozen();
    let front = back.split_to(5);
    let back = back.try_into_buffer().expect_err("there is the front");
    assert_eq!((&front[..], &back[..]), (&b"front"[..], &b"back"[..]));
}

fn a_reference_in_bytes_prevents_a_buffer<A: Arena>() {
    let arena = A::with_room_for_one();
    let frozen = buffer_with(&arena, b"shared").into_frozen();
    let bytes = frozen.clone().into_bytes();
    let frozen = frozen.try_into_buffer().expect_err("there are bytes");
    drop(bytes);
    assert!(frozen.try_into_buffer().is_ok());
}

fn a_buffer_made_again_keeps_the_memory<A: Arena>() {
    let arena = A::with_room_for_one();
    let frozen = buffer_with(&arena, b"again").into_frozen();
    let buffer = frozen.try_into_buffer().expect("the only reference");
    assert!(!arena.has_room());
    assert_eq!((arena.figures().allocations_ok, arena.figures().frees), (1, 0));
    drop(buffer);
    assert!(arena.has_room());
}

fn a_buffer_made_again_can_be_frozen_again<A: Arena>() {
    let arena = A::with_room_for_one();
    let mut buffer = arena.take().unwrap();
    for round in 1..=10 {
        buffer.put_u8(round);
        buffer = buffer.into_frozen().try_into_buffer().expect("the only reference");
    }
    assert_eq!(&buffer.freeze()[..], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    assert_eq!(arena.figures().frozen, 11);
}

fn freezing_copies_nothing<A: Arena>() {
    let arena = A::with_room_for_one();
    let buffer = buffer_with(&arena, b"in place");
    let start = buffer.as_ptr();
    let frozen = buffer.into_frozen();
    assert_eq!(frozen.as_ptr(), start);
    let bytes = frozen.slice(3..).into_bytes();
    assert_eq!(bytes.as_ptr().addr(), start.addr() + 3);
}

fn frozen(data: &[u8]) -> Frozen {
    let mut buffer = fixed(1, 64).allocate().unwrap();
    buffer.put_slice(data);
    buffer.into_frozen()
}

fn hash_of(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[test]
fn every_kind_of_range_makes_a_slice() {
    let whole = frozen(b"0123456789");
    assert_eq!(&whole.slice(..)[..], b"0123456789");
    assert_eq!(&whole.slice(3..)[..], b"3456789");
    assert_eq!(&whole.slice(..3)[..], b"012");
    assert_eq!(&whole.slice(..=3)[..], b"0123");
    assert_eq!(&whole.slice(2..=2)[..], b"2");
    assert_eq!(&whole.slice(10..)[..], b"");
}

#[test]
fn a_slice_of_a_slice_counts_from_the_slice() {
    let whole = frozen(b"0123456789");
    assert_eq!(&whole.slice(2..8).slice(1..4)[..], b"345");
}

#[test]
fn a_slice_beyond_the_bytes_panics() {
    let message = panic_message_of(|| drop(frozen(b"0123").slice(2..5)));
    assert!(message.contains("2..5") && message.contains("4 bytes"), "{message}");
}

#[test]
#[allow(clippy::reversed_empty_ranges, reason = "that is what must be refused")]
fn a_slice_that_ends_before_it_begins_panics() {
    let message = panic_message_of(|| drop(frozen(b"0123").slice(3..2)));
    assert!(message.contains("3..2"), "{message}");
}

#[test]
fn a_slice_up_to_the_last_number_panics() {
    panic_message_of(|| drop(frozen(b"0123").slice(..=usize::MAX)));
}

#[test]
fn a_slice_of_the_empty_end_of_a_slice_stays_within_it() {
    let slice = frozen(b"0123456789").slice(2..5);
    panic_message_of(|| drop(slice.slice(..4)));
    assert_eq!(&slice.slice(3..)[..], b"");
}

#[test]
fn splitting_keeps_the_order_of_the_bytes() {
    let mut rest = frozen(b"abcdef");
    let parts = [rest.split_to(1), rest.split_to(2), rest.split_to(3)];
    let parts: Vec<_> = parts.iter().map(|part| &part[..]).collect();
    assert_eq!(parts, [&b"a"[..], b"bc", b"def"]);
    assert!(rest.is_empty());
}

#[test]
fn splitting_off_more_than_there_is_panics() {
    let mut whole = frozen(b"0123");
    let message = panic_message_of(|| drop(whole.split_to(5)));
    assert!(message.contains("5 bytes") && message.contains("4 bytes"), "{message}");
    assert_eq!(&whole[..], b"0123");
}

#[test]
fn it_is_read_as_a_buf() {
    let mut frozen = frozen(b"\x01\x02\x03\x04rest");
    assert_eq!(frozen.remaining(), 8);
    assert_eq!(frozen.get_u32(), 0x0102_0304);
    assert_eq!(frozen.chunk(), b"rest");
    frozen.advance(4);
    assert!(!frozen.has_remaining());
}

#[test]
fn advancing_beyond_the_end_panics() {
    let mut whole = frozen(b"0123");
    let message = panic_message_of(|| whole.advance(5));
    assert!(message.contains('5') && message.contains('4'), "{message}");
}

#[test]
fn copying_to_bytes_leaves_the_rest() {
    let mut whole = frozen(b"frontback");
    let front: Bytes = whole.copy_to_bytes(5);
    assert_eq!((&front[..], &whole[..]), (&b"front"[..], &b"back"[..]));
}

#[test]
fn equal_bytes_are_equal_and_hash_alike() {
    let (one, other) = (frozen(b"same"), frozen(b"not same").slice(4..));
    assert_eq!(one, other);
    assert_eq!(one, b"same"[..]);
    assert_eq!(hash_of(&one), hash_of(&other));
    assert_eq!(hash_of(&one), hash_of(&b"same"[..]));
}

#[test]
fn other_bytes_are_not_equal() {
    assert_ne!(frozen(b"same"), frozen(b"some"));
    assert_ne!(frozen(b"same"), frozen(b"same and more"));
}

#[test]
fn debug_shows_the_bytes_as_a_byte_string() {
    let shown = format!("{:?}", frozen(b"a\"\n\xff"));
    assert_eq!(shown, r#"b"a\"\n\xff""#);
}

#[test]
fn conversions_by_from_do_the_same() {
    let mut buffer: Buffer = fixed(1, 16).allocate().unwrap();
    buffer.put_slice(b"from");
    let frozen = Frozen::from(buffer);
    assert_eq!(frozen.as_ref(), b"from");
    assert_eq!(&Bytes::from(frozen)[..], b"from");
}

#[test]
fn the_buffer_made_of_a_slice_has_the_whole_block() {
    let arena = buddy(1024, 64);
    let mut buffer = arena.allocate(nz(512)).unwrap();
    buffer.put_bytes(7, 400);
    let slice = buffer.into_frozen().slice(300..301);
    let buffer = slice.try_into_buffer().expect("the only reference");
    assert_eq!((buffer.len(), buffer.capacity()), (1, 512));
    assert_eq!(arena.metrics().bytes_live, 512);
}

#[test]
fn the_buffer_made_of_shrunk_bytes_has_what_was_kept() {
    let arena = buddy(1024, 64);
    let mut buffer = arena.allocate(nz(512)).unwrap();
    buffer.put_bytes(7, 100);
    buffer.shrink_to_fit();
    let slice = buffer.into_frozen().slice(90..);
    let buffer = slice.try_into_buffer().expect("the only reference");
    assert_eq!((buffer.len(), buffer.capacity()), (10, 128));
}
