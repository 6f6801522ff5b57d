//! What an arena has done, and how much of it is in use.

/// A snapshot of the figures of a [`FixedArena`](crate::FixedArena).
///
/// Every thread counts for itself and a snapshot adds up: exact when nothing is under way, else off
/// by what is.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FixedArenaMetrics {
    /// Slots given out.
    pub allocations_ok: u64,
    /// Requests refused with [`ArenaFull`](crate::AllocError::ArenaFull).
    pub allocations_failed: u64,
    /// Slots that came back.
    pub frees: u64,
    /// Buffers frozen while they were in the arena.
    pub frozen: u64,
    /// Buffers that moved to the heap.
    pub spills: u64,
    /// Bytes of the whole arena.
    pub bytes_reserved: usize,
    /// Bytes of the slots in use.
    pub bytes_live: usize,
    /// The highest `bytes_live` that a snapshot or a refusal has seen. An exact maximum would be a
    /// line of memory that every thread writes.
    pub bytes_live_max: usize,
}

/// A snapshot of the figures of a [`BuddyArena`](crate::BuddyArena).
///
/// Every thread counts for itself and a snapshot adds up: exact when nothing is under way, else off
/// by what is.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BuddyArenaMetrics {
    /// Blocks given out.
    pub allocations_ok: u64,
    /// Requests refused with [`ArenaFull`](crate::AllocError::ArenaFull). Requests that are too
    /// large for the arena are not counted.
    pub allocations_failed: u64,
    /// Blocks that came back. A tail given back by `shrink_to_fit` is not counted.
    pub frees: u64,
    /// Buffers frozen while they were in the arena.
    pub frozen: u64,
    /// Buffers that moved to the heap.
    pub spills: u64,
    /// Bytes of the whole arena.
    pub bytes_reserved: usize,
    /// Bytes of the blocks in use, less the tails given back.
    pub bytes_live: usize,
    /// The highest `bytes_live` that a snapshot or a refusal has seen. An exact maximum would be a
    /// line of memory that every thread writes.
    pub bytes_live_max: usize,
    /// How often a free block of 64 minimum blocks, or of a power of 64 of them, was opened to give
    /// out a part.
    ///
    /// Inside such a block nothing is split: smaller blocks are found among its free parts.
    pub splits: u64,
    /// How often such a block was closed again, because all of it was free.
    pub coalesces: u64,
    /// Bytes of the largest block that an allocation could get now. Zero if the arena is full.
    ///
    /// What is wholly free and still open counts as one block: an allocation that needs it closes
    /// it first.
    pub largest_free_block: usize,
}
