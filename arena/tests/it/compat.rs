//! Programs written for `arena-alligator` 0.5, with the crate renamed in their manifest.
//!
//! The differences are few and wanted: the error enums are `#[non_exhaustive]`, and a request that
//! can never fit has an error of its own.

use std::num::NonZeroUsize;

use arena as arena_alligator;
use arena_alligator::{
    AllocError, BuddyArena, BuddyArenaBuilder, BuddyArenaMetrics, Buffer, BufferFullError,
    BuildError, FixedArena, FixedArenaBuilder, FixedArenaMetrics,
};
use bytes::{BufMut, Bytes};

/// Takes every function as the signature that programs rely on.
#[allow(clippy::type_complexity, reason = "the types are what is checked")]
#[test]
fn the_signatures_are_those_of_the_original() {
    let _: fn(NonZeroUsize, NonZeroUsize) -> FixedArenaBuilder = FixedArena::builder;
    let _: fn(FixedArenaBuilder, usize) -> FixedArenaBuilder = FixedArenaBuilder::alignment;
    let _: fn(FixedArenaBuilder) -> FixedArenaBuilder = FixedArenaBuilder::auto_spill;
    let _: fn(FixedArenaBuilder) -> Result<FixedArena, BuildError> = FixedArenaBuilder::build;
    let _: fn(&FixedArena) -> Result<Buffer, AllocError> = FixedArena::allocate;
    let _: fn(&FixedArena) -> usize = FixedArena::slot_count;
    let _: fn(&FixedArena) -> usize = FixedArena::slot_capacity;
    let _: fn(&FixedArena) -> FixedArenaMetrics = FixedArena::metrics;

    let _: fn(NonZeroUsize, NonZeroUsize) -> BuddyArenaBuilder = BuddyArena::builder;
    let _: fn(BuddyArenaBuilder, usize) -> BuddyArenaBuilder = BuddyArenaBuilder::alignment;
    let _: fn(BuddyArenaBuilder) -> BuddyArenaBuilder = BuddyArenaBuilder::auto_spill;
    let _: fn(BuddyArenaBuilder) -> Result<BuddyArena, BuildError> = BuddyArenaBuilder::build;
    let _: fn(&BuddyArena, NonZeroUsize) -> Result<Buffer, AllocError> = BuddyArena::allocate;
    let _: fn(&BuddyArena) -> usize = BuddyArena::total_size;
    let _: fn(&BuddyArena) -> usize = BuddyArena::min_block_size;
    let _: fn(&BuddyArena) -> usize = BuddyArena::max_order;
    let _: fn(&BuddyArena) -> BuddyArenaMetrics = BuddyArena::metrics;

    let _: fn(&Buffer) -> usize = Buffer::capacity;
    let _: fn(&Buffer) -> usize = Buffer::len;
    let _: fn(&Buffer) -> bool = Buffer::is_empty;
    let _: fn(&Buffer) -> bool = Buffer::is_spilled;
    let _: fn(&Buffer, usize) -> bool = Buffer::will_fit;
    let _: fn(&mut Buffer, &[u8]) -> Result<(), BufferFullError> = Buffer::try_put_slice;
    let _: fn(Buffer) -> Bytes = Buffer::freeze;
    let _: fn(Buffer) = Buffer::abandon;
}

/// A pool of frames as a server has it: errors are matched, a refusal is an answer.
mod frames {
    use super::*;

    pub(super) struct Pool {
        arena: FixedArena,
    }

    #[derive(Debug, Eq, PartialEq)]
    pub(super) enum Answer {
        Frame(Bytes),
        TryLater,
        TooLong { by: usize },
    }

    impl Pool {
        pub(super) fn new(frames: usize, bytes_each: usize) -> Result<Self, BuildError> {
            let frames = NonZeroUsize::new(frames).ok_or(BuildError::SizeOverflow)?;
            let bytes_each = NonZeroUsize::new(bytes_each).ok_or(BuildError::SizeOverflow)?;
            let arena = FixedArena::builder(frames, bytes_each).alignment(64).build()?;
            Ok(Self { arena })
        }

        pub(super) fn frame(&self, payload: &[u8]) -> Answer {
            let mut buffer: Buffer = match self.arena.allocate() {
                Ok(buffer) => buffer,
                Err(AllocError::ArenaFull) => return Answer::TryLater,
                Err(other) => panic!("unexpected: {other}"),
            };
            buffer.put_u32(payload.len().try_into().expect("payloads are small"));
            match buffer.try_put_slice(payload) {
                Ok(()) => Answer::Frame(buffer.freeze()),
                Err(BufferFullError { remaining, requested }) => {
                    buffer.abandon();
                    Answer::TooLong { by: requested - remaining }
                }
            }
        }

        pub(super) fn in_use(&self) -> usize {
            let metrics: FixedArenaMetrics = self.arena.metrics();
            assert_eq!(
                metrics.bytes_reserved,
                self.arena.slot_count() * self.arena.slot_capacity()
            );
            metrics.bytes_live / self.arena.slot_capacity()
        }
    }
}

#[test]
fn a_pool_of_frames_runs_unchanged() {
    use frames::{Answer, Pool};

    let pool = Pool::new(2, 50).unwrap();
    let hello = pool.frame(b"hello");
    assert_eq!(hello, Answer::Frame(Bytes::from_static(b"\0\0\0\x05hello")));
    assert_eq!(pool.frame(&[0; 100]), Answer::TooLong { by: 40 });
    let other = pool.frame(b"");
    assert_eq!(pool.frame(b"more"), Answer::TryLater);
    assert_eq!(pool.in_use(), 2);
    drop((hello, other));
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn a_program_on_blocks_runs_unchanged() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let total = NonZeroUsize::new(1 << 16).unwrap();
    let min = NonZeroUsize::new(512).unwrap();
    let arena = BuddyArena::builder(total, min).alignment(512).auto_spill().build()?;
    assert_eq!((arena.total_size(), arena.min_block_size(), arena.max_order()), (1 << 16, 512, 7));

    let mut buffer = arena.allocate(NonZeroUsize::new(700).unwrap())?;
    assert_eq!(buffer.capacity(), 1024);
    assert!(buffer.will_fit(1024) && buffer.is_empty());
    buffer.put_slice(&[1; 1024]);
    assert!(!buffer.is_spilled());
    buffer.put_u8(2);
    assert!(buffer.is_spilled());
    let bytes: Bytes = buffer.freeze();
    assert_eq!(bytes.len(), 1025);

    let metrics: BuddyArenaMetrics = arena.metrics();
    let counts: [u64; 7] = [
        metrics.allocations_ok,
        metrics.allocations_failed,
        metrics.frees,
        metrics.frozen,
        metrics.spills,
        metrics.splits,
        metrics.coalesces,
    ];
    let sizes: [usize; 4] = [
        metrics.bytes_reserved,
        metrics.bytes_live,
        metrics.bytes_live_max,
        metrics.largest_free_block,
    ];
    assert_eq!(counts[..5], [1, 0, 1, 0, 1]);
    assert_eq!((sizes[0], sizes[1], sizes[3]), (1 << 16, 0, 1 << 16));
    Ok(())
}

#[test]
fn handles_are_shared_with_threads() {
    let slots = NonZeroUsize::new(4).unwrap();
    let arena = FixedArena::builder(slots, slots).build().unwrap();
    let threads: Vec<_> = (0..4)
        .map(|value| {
            let arena = arena.clone();
            std::thread::spawn(move || {
                let mut buffer = arena.allocate().unwrap();
                buffer.put_u8(value);
                buffer.freeze()
            })
        })
        .collect();
    let sum: u8 = threads.into_iter().map(|thread| thread.join().unwrap()[0]).sum();
    assert_eq!(sum, 6);
}

#[test]
fn every_error_variant_is_a_unit() {
    let alloc = [AllocError::ArenaFull, AllocError::RequestTooLarge, AllocError::TimedOut];
    let build =
        [BuildError::SizeOverflow, BuildError::InvalidAlignment, BuildError::InvalidGeometry];
    for error in alloc {
        let boxed: Box<dyn std::error::Error> = Box::new(error);
        assert_eq!(boxed.downcast_ref(), Some(&error));
    }
    for error in build {
        let boxed: Box<dyn std::error::Error> = Box::new(error);
        assert_eq!(boxed.downcast_ref(), Some(&error));
    }
}

#[test]
fn a_buffer_is_passed_as_any_buf_mut() {
    fn encode(target: &mut impl BufMut) {
        target.put_f64(1.5);
    }
    fn encode_dyn(target: &mut dyn BufMut) {
        target.put_i8(-1);
    }

    let one = NonZeroUsize::MIN;
    let arena = FixedArena::builder(one, NonZeroUsize::new(16).unwrap()).build().unwrap();
    let mut buffer = arena.allocate().unwrap();
    encode(&mut buffer);
    encode_dyn(&mut buffer);
    assert_eq!(&buffer.freeze()[..], b"\x3f\xf8\0\0\0\0\0\0\xff");
}
