//! What the benchmarks do: one operation each, for this arena and for its peers.
//!
//! The same operations are timed by criterion (`benches/*.rs`, one question a file) and by the
//! program `figures`, which alternates both sides of a ratio in one run.

use std::{
    env,
    future::Future,
    hint::black_box,
    num::NonZeroUsize,
    pin::pin,
    sync::Barrier,
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use arena::{AsyncFixedArena, BuddyArena, FixedArena};
use bytes::{BufMut, Bytes, BytesMut};

/// A number that is not zero.
///
/// # Panics
///
/// If it is.
pub fn nz(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).expect("sizes and counts here are above zero")
}

/// The size of the buddy arenas, and of the smallest block in them.
pub const BUDDY_TOTAL_BYTES: usize = 64 << 20;
/// See [`BUDDY_TOTAL_BYTES`].
pub const BUDDY_MIN_BLOCK_BYTES: usize = 256;

/// Slots in the fixed arenas.
pub const FIXED_SLOTS: usize = 1024;

/// An arena of [`FIXED_SLOTS`] slots.
pub fn fixed(slot_bytes: usize) -> FixedArena {
    FixedArena::builder(nz(FIXED_SLOTS), nz(slot_bytes)).build().expect("a valid arena")
}

/// The peer's arena of [`FIXED_SLOTS`] slots.
pub fn fixed_alligator(slot_bytes: usize) -> arena_alligator::FixedArena {
    arena_alligator::FixedArena::with_slot_capacity(nz(FIXED_SLOTS), nz(slot_bytes))
        .build()
        .expect("a valid arena")
}

/// A buddy arena of [`BUDDY_TOTAL_BYTES`].
pub fn buddy() -> BuddyArena {
    BuddyArena::builder(nz(BUDDY_TOTAL_BYTES), nz(BUDDY_MIN_BLOCK_BYTES))
        .build()
        .expect("a valid arena")
}

/// The peer's buddy arena of [`BUDDY_TOTAL_BYTES`].
pub fn buddy_alligator() -> arena_alligator::BuddyArena {
    let geometry =
        arena_alligator::BuddyGeometry::exact(nz(BUDDY_TOTAL_BYTES), nz(BUDDY_MIN_BLOCK_BYTES))
            .expect("a valid geometry");
    arena_alligator::BuddyArena::builder(geometry).build().expect("a valid arena")
}

/// Allocate, write, freeze to `Bytes`, drop: the heap.
#[inline]
pub fn heap_roundtrip(data: &[u8]) {
    let mut buffer = BytesMut::with_capacity(data.len());
    buffer.put_slice(black_box(data));
    drop(black_box(buffer.freeze()));
}

/// Allocate, write, freeze to `Bytes`, drop: a slot.
#[inline]
pub fn fixed_roundtrip(arena: &FixedArena, data: &[u8]) {
    let mut buffer = arena.allocate().expect("there are free slots");
    buffer.put_slice(black_box(data));
    drop(black_box(buffer.freeze()));
}

/// Allocate and drop: a slot, without waiting.
#[inline]
pub fn sync_allocation(arena: &AsyncFixedArena) {
    drop(black_box(arena.allocate().expect("there are free slots")));
}

/// Allocate and drop: a slot that would be waited for, if there were none.
#[inline]
pub fn async_allocation(arena: &AsyncFixedArena) {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(arena.allocate_async()).poll(&mut context) {
        Poll::Ready(buffer) => drop(black_box(buffer)),
        Poll::Pending => unreachable!("there are free slots"),
    }
}

/// What making and dropping `Bytes` of somebody else's memory costs alone, in the `bytes` crate.
#[inline]
pub fn from_owner_alone(data: &'static [u8]) {
    drop(black_box(Bytes::from_owner(black_box(data))));
}

/// Allocate, write, freeze to `Frozen`, drop: a slot.
#[inline]
pub fn fixed_frozen_roundtrip(arena: &FixedArena, data: &[u8]) {
    let mut buffer = arena.allocate().expect("there are free slots");
    buffer.put_slice(black_box(data));
    drop(black_box(buffer.into_frozen()));
}

/// Allocate, write, freeze to `Bytes`, drop: a slot of the peer.
#[inline]
pub fn fixed_alligator_roundtrip(arena: &arena_alligator::FixedArena, data: &[u8]) {
    let mut buffer = arena.allocate().expect("there are free slots");
    buffer.put_slice(black_box(data));
    drop(black_box(buffer.freeze()));
}

/// Allocate, write, freeze to `Bytes`, drop: a block.
#[inline]
pub fn buddy_roundtrip(arena: &BuddyArena, data: &[u8]) {
    let mut buffer = arena.allocate(nz(data.len())).expect("there is free memory");
    buffer.put_slice(black_box(data));
    drop(black_box(buffer.freeze()));
}

/// Allocate, write, freeze to `Frozen`, drop: a block.
#[inline]
pub fn buddy_frozen_roundtrip(arena: &BuddyArena, data: &[u8]) {
    let mut buffer = arena.allocate(nz(data.len())).expect("there is free memory");
    buffer.put_slice(black_box(data));
    drop(black_box(buffer.into_frozen()));
}

/// Allocate, write, freeze to `Bytes`, drop: a block of the peer. Repeats a request that the peer
/// refuses, which it does now and then with several threads although memory is free.
#[inline]
pub fn buddy_alligator_roundtrip(arena: &arena_alligator::BuddyArena, data: &[u8]) {
    let mut buffer = loop {
        if let Ok(buffer) = arena.allocate(nz(data.len())) {
            break buffer;
        }
    };
    buffer.put_slice(black_box(data));
    drop(black_box(buffer.freeze()));
}

/// Payloads of 192 B to 16 KiB, evenly spread over the orders of magnitude, in an order that no
/// predictor learns.
#[derive(Debug)]
pub struct MixedPayloads {
    sizes: Vec<usize>,
    longest: Vec<u8>,
}

impl MixedPayloads {
    const COUNT: usize = 1024;
    const SMALLEST_BYTES: f64 = 192.0;
    const LARGEST_BYTES: f64 = 16_384.0;

    /// Makes them.
    pub fn new() -> Self {
        // A Weyl sequence: every part of the range is met equally often.
        let golden = 0.618_033_988_749_895_f64;
        let place = |index: usize| (index as f64 * golden).fract();
        let size = |place: f64| {
            Self::SMALLEST_BYTES * (Self::LARGEST_BYTES / Self::SMALLEST_BYTES).powf(place)
        };
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between the smallest and the largest"
        )]
        let sizes: Vec<_> = (0..Self::COUNT).map(|index| size(place(index)) as usize).collect();
        let longest = vec![7; sizes.iter().copied().max().unwrap_or(0)];
        Self { sizes, longest }
    }

    /// Returns the payload of a thread at its `turn`. Threads begin at different places.
    #[inline]
    pub fn of(&self, thread: usize, turn: u64) -> &[u8] {
        let turn = usize::try_from(turn).expect("64 bits") + thread * self.sizes.len() / 2;
        &self.longest[..self.sizes[turn % self.sizes.len()]]
    }
}

impl Default for MixedPayloads {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs `operation` `iterations` times in each of `threads` threads at once, and returns the wall
/// time of all.
///
/// `operation` gets the thread's number and the iteration's. So the throughput is `threads *
/// iterations` over that time.
pub fn time_in_threads(
    threads: usize,
    iterations: u64,
    operation: impl Fn(usize, u64) + Sync,
) -> Duration {
    let start_line = Barrier::new(threads + 1);
    thread::scope(|scope| {
        for thread in 0..threads {
            let (start_line, operation) = (&start_line, &operation);
            scope.spawn(move || {
                start_line.wait();
                for iteration in 0..iterations {
                    operation(thread, iteration);
                }
            });
        }
        start_line.wait();
        Instant::now()
    })
    .elapsed()
}

/// The middle one of figures, or the higher one of the two in the middle.
///
/// # Panics
///
/// If there are none.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The only argument of a program that prints figures: the number of rounds.
///
/// # Errors
///
/// What is wrong with it.
pub fn rounds_asked_for(default: usize) -> Result<usize, &'static str> {
    match env::args().nth(1).map(|rounds| rounds.parse()) {
        None => Ok(default),
        Some(Ok(rounds)) if rounds > 0 => Ok(rounds),
        Some(_) => Err("the only argument is the number of rounds, 1 or more"),
    }
}
