//! `Held`: how much memory somebody holds, and where that lies.

use std::ops::Add;

/// Where memory lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Home {
    /// In the arena.
    Arena,
    /// On the heap, charged to the budget of `--spill`.
    Heap,
}

/// Bytes by where they lie.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Held {
    pub(crate) arena_bytes: usize,
    /// What is charged, which is more than what is written.
    pub(crate) heap_bytes: usize,
}

impl Home {
    pub(crate) const ALL: [Self; 2] = [Self::Arena, Self::Heap];
}

impl Held {
    pub(crate) fn in_arena(arena_bytes: usize) -> Self {
        Self { arena_bytes, heap_bytes: 0 }
    }

    pub(crate) fn on_heap(heap_bytes: usize) -> Self {
        Self { arena_bytes: 0, heap_bytes }
    }

    pub(crate) fn bytes(self, home: Home) -> usize {
        match home {
            Home::Arena => self.arena_bytes,
            Home::Heap => self.heap_bytes,
        }
    }

    pub(crate) fn all_bytes(self) -> usize {
        self.arena_bytes + self.heap_bytes
    }
}

impl Add for Held {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            arena_bytes: self.arena_bytes + other.arena_bytes,
            heap_bytes: self.heap_bytes + other.heap_bytes,
        }
    }
}
