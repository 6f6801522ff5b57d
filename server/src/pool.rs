//! The arena behind the two modes: one enum, so that nothing else asks which one it is.

use std::num::NonZeroUsize;

use arena::{AllocError, BuddyArena, Buffer, BuildError, FixedArena};

use crate::config::{ArenaKind, Config};

/// All payload memory of a server.
#[derive(Clone, Debug)]
pub(crate) enum Pool {
    Fixed(FixedArena),
    Buddy(BuddyArena),
}

/// A snapshot of the memory of a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct MemoryMetrics {
    /// All bytes of the arena.
    pub bytes_reserved: usize,
    /// Bytes in use now. Zero when no connection has a frame at work.
    pub bytes_live: usize,
    /// Blocks that were taken.
    pub allocations_ok: u64,
    /// Blocks that were refused. The budget of the server keeps it zero.
    pub allocations_failed: u64,
}

impl Pool {
    /// Reserves the memory that `config` asks for. Sizes are positive: `Config::problems` has seen
    /// them.
    pub(crate) fn new(config: &Config) -> Result<Self, BuildError> {
        match config.arena {
            ArenaKind::Fixed { slot_bytes } => {
                let slots = positive(config.capacity_bytes / slot_bytes);
                FixedArena::builder(slots, positive(slot_bytes)).build().map(Self::Fixed)
            }
            ArenaKind::Buddy { min_block_bytes } => {
                let total = positive(config.capacity_bytes);
                BuddyArena::builder(total, positive(min_block_bytes)).build().map(Self::Buddy)
            }
        }
    }

    /// Takes a slot, or the smallest free block that holds `bytes`.
    pub(crate) fn allocate(&self, bytes: NonZeroUsize) -> Result<Buffer, AllocError> {
        match self {
            Self::Fixed(arena) if bytes.get() > arena.slot_capacity() => {
                Err(AllocError::RequestTooLarge)
            }
            Self::Fixed(arena) => arena.allocate(),
            Self::Buddy(arena) => arena.allocate(bytes),
        }
    }

    pub(crate) fn metrics(&self) -> MemoryMetrics {
        match self {
            Self::Fixed(arena) => {
                let metrics = arena.metrics();
                MemoryMetrics {
                    bytes_reserved: metrics.bytes_reserved,
                    bytes_live: metrics.bytes_live,
                    allocations_ok: metrics.allocations_ok,
                    allocations_failed: metrics.allocations_failed,
                }
            }
            Self::Buddy(arena) => {
                let metrics = arena.metrics();
                MemoryMetrics {
                    bytes_reserved: metrics.bytes_reserved,
                    bytes_live: metrics.bytes_live,
                    allocations_ok: metrics.allocations_ok,
                    allocations_failed: metrics.allocations_failed,
                }
            }
        }
    }
}

fn positive(bytes: usize) -> NonZeroUsize {
    NonZeroUsize::new(bytes).expect("a checked configuration has no size of zero")
}
