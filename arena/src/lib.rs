//! One fixed piece of memory, at heap speed.
//!
//! A server that allocates every frame from the heap is fast and unbounded: a burst takes the
//! process down. An arena is as fast, and has an end. Write into a [`Buffer`], freeze it without a
//! copy, get the memory back when the last reference drops, and get an error when it is exhausted.
//! `build` reserves address space; the system commits pages when they are first written. So the
//! arena bounds memory use, but does not guarantee that the system has that much.
//!
//! ```
//! use std::num::NonZeroUsize;
//! use bytes::BufMut;
//!
//! let nz = |n| NonZeroUsize::new(n).unwrap();
//! let arena = arena::BuddyArena::builder(nz(64 << 20), nz(256)).build()?;
//!
//! let mut buffer = arena.allocate(nz(300))?;          // a block of 512 bytes
//! buffer.put_slice(b"any BufMut method works");
//! buffer.shrink_to_fit();                             // gives back the second half
//!
//! let frozen = buffer.into_frozen();                  // shared without the heap
//! let bytes = frozen.slice(4..10).into_bytes();       // or as `bytes::Bytes`, for everybody else
//! assert_eq!(&bytes[..], b"BufMut");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Which arena
//!
//! | | [`FixedArena`] | [`BuddyArena`] |
//! |---|---|---|
//! | sizes | one | powers of two, from the minimum block to everything |
//! | waste | the rest of the slot | less than half a block, none after `shrink_to_fit` |
//! | largest request | a slot | the arena, if it is not in use |
//!
//! # What it costs
//!
//! Allocating and freeing take no lock and touch no heap: a few loads and stores in a cache of the
//! thread's own, and one atomic read-modify-write each where that does not suffice, on a cache line
//! that other threads mostly leave alone. [`Buffer::freeze`] allocates once, inside the `bytes`
//! crate; [`Buffer::into_frozen`] does not. Beside its memory an arena takes 256 bytes for each
//! thread that allocates, four bytes for each slot or minimum block in a table that is resident
//! only where buffers are shared, and a quarter of a byte for each in maps.
//!
//! Requests are placed by the best fit: the smallest free block that suffices, the lowest among
//! equals. Blocks that are cut for a thread's cache take at most a sixteenth of the arena.
//!
//! # Progress
//!
//! - Dropping a [`Buffer`], a [`Frozen`] or [`Bytes`](bytes::Bytes) never waits for another thread.
//! - An allocation waits for nobody as long as free memory suffices that is in no stopped thread's
//!   hands. A thread can be stopped anywhere: preempted, by a debugger, in a frozen control group.
//! - Only a refusal may wait, at most 100 ms, for threads that are moving free memory. What a
//!   thread moves while it is stopped counts as in use.
//! - Dropping the last handle waits for threads that are dropping a buffer at that moment.
//! - Waiters (feature `async-alloc`) are served by whoever frees memory, without a lock. Telling
//!   them so takes a short lock: a thread that is stopped while it holds that delays waiters, and
//!   those who join or leave the queue, but no drop and no `allocate`.
//!
//! A child made by `fork` may allocate from an arena that it has inherited, and drop buffers. What
//! other threads of the parent were moving stays in use there; if one of them was releasing a
//! buffer, the memory of the arena is not given back in the child. Waiting for memory in the child
//! is supported only for arenas that the child has built. A signal handler must not use an arena:
//! it may have interrupted the same thread inside its cache.
//!
//! # What it does not do
//!
//! It never grows, starts no thread and logs nothing. What is free in one thread's cache is free
//! for all: nobody is refused beside it. Old contents of memory cannot be read through it, but are
//! not erased either.

mod buddy;
mod fixed;
#[cfg(feature = "async-alloc")]
mod waiting;

mod buffer;
mod frozen;

mod error;
mod metrics;
mod occupancy;

mod lease;
mod share;
mod shared;

mod geometry;
mod region;

mod claim;
mod fork;
mod life;
mod stripe;
mod thread;

#[cfg(feature = "async-alloc")]
mod wait;

mod barrier;
mod sync;
mod zeroed;

#[cfg(all(test, arena_loom))]
mod models;

/// The examples of the README, which must compile and pass.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
mod readme {}

pub use crate::{
    buddy::{BuddyArena, BuddyArenaBuilder},
    buffer::Buffer,
    error::{AllocError, BufferFullError, BuildError},
    fixed::{FixedArena, FixedArenaBuilder},
    frozen::Frozen,
    metrics::{BuddyArenaMetrics, FixedArenaMetrics},
    occupancy::{Occupancy, Run},
};
#[cfg(feature = "async-alloc")]
pub use crate::{
    wait::WaitMetrics,
    waiting::{AsyncBuddyArena, AsyncFixedArena, BuddyWaiter, FixedWaiter},
};
