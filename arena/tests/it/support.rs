//! What the tests share: short names for arenas, and one view of both kinds.

use std::{
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
};

use arena::{AllocError, BuddyArena, Buffer, FixedArena};
use bytes::BufMut;

pub(crate) use crate::numbers::Numbers;

/// The bytes that the one buffer of [`Arena::with_room_for_one`] holds.
pub(crate) const ONE_BYTES: usize = 64;

pub(crate) fn nz(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).expect("tests ask for sizes above zero")
}

pub(crate) fn fixed(slot_count: usize, slot_capacity: usize) -> FixedArena {
    FixedArena::builder(nz(slot_count), nz(slot_capacity)).build().unwrap()
}

pub(crate) fn buddy(total_size: usize, min_block_size: usize) -> BuddyArena {
    BuddyArena::builder(nz(total_size), nz(min_block_size)).build().unwrap()
}

/// The figures that both kinds of arena have.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Figures {
    pub(crate) allocations_ok: u64,
    pub(crate) allocations_failed: u64,
    pub(crate) frees: u64,
    pub(crate) frozen: u64,
    pub(crate) spills: u64,
    pub(crate) bytes_live: usize,
}

/// Either arena, for facts that hold for both.
pub(crate) trait Arena: Clone + Send + Sync + 'static {
    /// An arena whose whole memory is one buffer of [`ONE_BYTES`].
    fn with_room_for_one() -> Self;

    /// The same, and the buffer may spill.
    fn with_room_for_one_that_spills() -> Self;

    /// A buffer of [`ONE_BYTES`].
    fn take(&self) -> Result<Buffer, AllocError>;

    fn figures(&self) -> Figures;

    /// Whether a buffer can be had now.
    fn has_room(&self) -> bool {
        self.take().is_ok()
    }
}

impl Arena for FixedArena {
    fn with_room_for_one() -> Self {
        fixed(1, ONE_BYTES)
    }

    fn with_room_for_one_that_spills() -> Self {
        Self::builder(nz(1), nz(ONE_BYTES)).auto_spill().build().unwrap()
    }

    fn take(&self) -> Result<Buffer, AllocError> {
        self.allocate()
    }

    fn figures(&self) -> Figures {
        let metrics = self.metrics();
        Figures {
            allocations_ok: metrics.allocations_ok,
            allocations_failed: metrics.allocations_failed,
            frees: metrics.frees,
            frozen: metrics.frozen,
            spills: metrics.spills,
            bytes_live: metrics.bytes_live,
        }
    }
}

impl Arena for BuddyArena {
    fn with_room_for_one() -> Self {
        buddy(ONE_BYTES, ONE_BYTES)
    }

    fn with_room_for_one_that_spills() -> Self {
        Self::builder(nz(ONE_BYTES), nz(ONE_BYTES)).auto_spill().build().unwrap()
    }

    fn take(&self) -> Result<Buffer, AllocError> {
        self.allocate(nz(ONE_BYTES))
    }

    fn figures(&self) -> Figures {
        let metrics = self.metrics();
        Figures {
            allocations_ok: metrics.allocations_ok,
            allocations_failed: metrics.allocations_failed,
            frees: metrics.frees,
            frozen: metrics.frozen,
            spills: metrics.spills,
            bytes_live: metrics.bytes_live,
        }
    }
}

/// Makes a test for each arena out of each function that is generic over [`Arena`].
macro_rules! in_both_arenas {
    ($($fact:ident),* $(,)?) => {
        mod fixed_arena {
            $(#[test] fn $fact() { super::$fact::<arena::FixedArena>(); })*
        }
        mod buddy_arena {
            $(#[test] fn $fact() { super::$fact::<arena::BuddyArena>(); })*
        }
    };
}
pub(crate) use in_both_arenas;

/// Where the next byte of a buffer goes: its start, while it is empty.
pub(crate) fn address_of(buffer: &mut Buffer) -> usize {
    buffer.chunk_mut().as_mut_ptr().addr()
}

/// A buffer of an arena of one, with `data` in it.
pub(crate) fn buffer_with<A: Arena>(arena: &A, data: &[u8]) -> Buffer {
    let mut buffer = arena.take().unwrap();
    buffer.put_slice(data);
    buffer
}

/// What the panic of `f` says.
pub(crate) fn panic_message_of(f: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(f)).expect_err("this must panic");
    match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(other) => (*other.downcast::<&str>().expect("panics carry text")).to_owned(),
    }
}
