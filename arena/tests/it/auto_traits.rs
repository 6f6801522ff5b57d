//! What the compiler may assume of the public types, and how large they are.

use std::{
    error::Error,
    fmt::{Debug, Display},
    mem::size_of,
    panic::{RefUnwindSafe, UnwindSafe},
};

use arena::{
    AllocError, BuddyArena, BuddyArenaBuilder, BuddyArenaMetrics, Buffer, BufferFullError,
    BuildError, FixedArena, FixedArenaBuilder, FixedArenaMetrics, Frozen, Occupancy, Run,
};
use bytes::{Buf, BufMut};

const fn moves_between_threads<T: Send + Sync + Unpin + Debug + 'static>() {}
const fn survives_a_panic<T: UnwindSafe + RefUnwindSafe>() {}
const fn is_a_handle<T: Clone>() {}
const fn is_a_value<T: Copy + Eq>() {}
const fn is_an_error<T: Error + Display + Copy + Eq>() {}
const fn is_written<T: BufMut + AsRef<[u8]> + AsMut<[u8]>>() {}
const fn is_read<T: Buf + Clone + AsRef<[u8]> + From<Buffer>>() {}

const _: () = {
    moves_between_threads::<FixedArena>();
    moves_between_threads::<FixedArenaBuilder>();
    moves_between_threads::<FixedArenaMetrics>();
    moves_between_threads::<BuddyArena>();
    moves_between_threads::<BuddyArenaBuilder>();
    moves_between_threads::<BuddyArenaMetrics>();
    moves_between_threads::<Buffer>();
    moves_between_threads::<Frozen>();
    moves_between_threads::<Occupancy>();
    moves_between_threads::<Run>();
    moves_between_threads::<AllocError>();
    moves_between_threads::<BuildError>();
    moves_between_threads::<BufferFullError>();

    survives_a_panic::<FixedArena>();
    survives_a_panic::<BuddyArena>();
    survives_a_panic::<Buffer>();
    survives_a_panic::<Frozen>();

    is_a_handle::<FixedArena>();
    is_a_handle::<BuddyArena>();
    is_a_handle::<FixedArenaBuilder>();
    is_a_handle::<BuddyArenaBuilder>();

    is_a_value::<FixedArenaMetrics>();
    is_a_value::<BuddyArenaMetrics>();
    is_a_value::<Run>();

    is_an_error::<AllocError>();
    is_an_error::<BuildError>();
    is_an_error::<BufferFullError>();

    is_written::<Buffer>();
    is_read::<Frozen>();
};

#[test]
fn a_buffer_is_at_most_six_words() {
    assert!(size_of::<Buffer>() <= 48, "{} bytes", size_of::<Buffer>());
}

#[test]
fn frozen_bytes_are_at_most_five_words() {
    assert!(size_of::<Frozen>() <= 40, "{} bytes", size_of::<Frozen>());
}

#[test]
fn a_handle_is_one_word() {
    assert_eq!(size_of::<FixedArena>(), size_of::<usize>());
    assert_eq!(size_of::<BuddyArena>(), size_of::<usize>());
}
