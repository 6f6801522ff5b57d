//! `BuddyArena`: blocks of any power-of-two size.

use std::{fmt, num::NonZeroUsize};

use crate::{
    buffer::Buffer,
    error::{AllocError, BuildError},
    geometry::{Geometry, Order},
    metrics::BuddyArenaMetrics,
    occupancy::Occupancy,
    shared::{Handle, Kind, Options},
};

/// Power-of-two blocks of many sizes, in one piece of memory.
///
/// Right where request sizes vary. A request gets the smallest block that holds it; a block that
/// comes back is one with its free neighbours at once. A clone is another handle to the same arena.
/// The memory lives until the last handle and everything allocated from it is gone, in any order
/// and from any thread.
///
/// # Examples
///
/// ```
/// use std::num::NonZeroUsize;
/// use bytes::BufMut;
///
/// let nz = |n| NonZeroUsize::new(n).unwrap();
/// let arena = arena::BuddyArena::builder(nz(64 << 20), nz(256)).build()?;
///
/// let mut buffer = arena.allocate(nz(1000))?;
/// assert_eq!(buffer.capacity(), 1024);
/// buffer.put_slice(b"hello");
/// let bytes: bytes::Bytes = buffer.freeze();
/// assert_eq!(&bytes[..], b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct BuddyArena {
    pub(crate) handle: Handle,
}

/// Configures a [`BuddyArena`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct BuddyArenaBuilder {
    total_size: NonZeroUsize,
    min_block_size: NonZeroUsize,
    options: Options,
}

impl BuddyArena {
    /// Starts to configure an arena of `total_size` bytes with blocks of `min_block_size` bytes and
    /// more.
    ///
    /// Both must be powers of two.
    pub fn builder(total_size: NonZeroUsize, min_block_size: NonZeroUsize) -> BuddyArenaBuilder {
        BuddyArenaBuilder { total_size, min_block_size, options: Options::default() }
    }

    /// Returns the bytes of the whole arena.
    pub fn total_size(&self) -> usize {
        self.handle.shared().geometry.total_bytes()
    }

    /// Returns the bytes of the smallest block.
    pub fn min_block_size(&self) -> usize {
        self.handle.shared().geometry.unit_bytes()
    }

    /// Returns the order of the largest block that can be allocated: it has `2^order` minimum
    /// blocks. That is the whole arena, or half of it if something is
    /// [set aside](BuddyArenaBuilder::reserve).
    pub fn max_order(&self) -> usize {
        self.handle.shared().geometry.max_order().get() as usize
    }

    /// Takes a free block of at least `len` bytes, without waiting.
    ///
    /// The buffer is empty and its capacity is the whole block: `len` rounded up to a power of two,
    /// or the minimum block. Old contents are never readable, but they are not erased either.
    ///
    /// Takes no lock and does not allocate from the heap, except on a thread's first use of any
    /// arena. It waits for no other thread as long as free memory suffices that is in no stopped
    /// thread's hands. A refusal may wait up to 100 ms for threads that are moving free memory at
    /// that moment, which takes them nanoseconds unless they are stopped; after that, what they
    /// move counts as in use. See [Progress](crate#progress).
    ///
    /// # Errors
    ///
    /// [`AllocError::ArenaFull`] if no block that is large enough is free now: try again when
    /// something was dropped. [`AllocError::RequestTooLarge`] if `len` exceeds the largest block,
    /// of [`max_order`](Self::max_order): it can never be served.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::num::NonZeroUsize;
    /// use arena::AllocError;
    ///
    /// # let nz = |n| NonZeroUsize::new(n).unwrap();
    /// let arena = arena::BuddyArena::builder(nz(4096), nz(256)).build()?;
    ///
    /// let half = arena.allocate(nz(2000))?;
    /// assert_eq!(arena.allocate(nz(4096)).unwrap_err(), AllocError::ArenaFull);
    /// assert_eq!(arena.allocate(nz(4097)).unwrap_err(), AllocError::RequestTooLarge);
    ///
    /// drop(half);
    /// assert!(arena.allocate(nz(4096)).is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline(always)]
    pub fn allocate(&self, len: NonZeroUsize) -> Result<Buffer, AllocError> {
        self.handle.claim(self.order_for(len)?).map(Buffer::new)
    }

    #[inline]
    pub(crate) fn order_for(&self, len: NonZeroUsize) -> Result<Order, AllocError> {
        self.handle.shared().geometry.order_for(len).ok_or(AllocError::RequestTooLarge)
    }

    /// Returns the handle to the memory that [`BuddyArenaBuilder::reserve`] set aside, if there is
    /// any.
    ///
    /// It is a buddy arena of its own within this one's memory: what it gives out, nobody else
    /// gets, and who waits for it stands in a queue of its own. The figures and the snapshot of
    /// this arena include it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::num::NonZeroUsize;
    /// # let nz = |n| NonZeroUsize::new(n).unwrap();
    /// let arena = arena::BuddyArena::builder(nz(4096), nz(256)).reserve(1024).build()?;
    /// let replies = arena.reserve().expect("something is set aside");
    ///
    /// let _half = arena.allocate(nz(2048))?;
    /// let _quarter = arena.allocate(nz(1024))?;
    /// assert!(arena.allocate(nz(256)).is_err());
    /// assert!(replies.allocate(nz(1024)).is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reserve(&self) -> Option<Self> {
        self.handle.shared().reserve().map(|handle| Self { handle })
    }

    /// Takes a snapshot of the figures.
    ///
    /// Costs a few reads for each thread that has used the arena and, for `largest_free_block`, one
    /// for each part of the map that is in use. Writes nothing that other threads wait for.
    pub fn metrics(&self) -> BuddyArenaMetrics {
        let shared = self.handle.shared();
        let totals = shared.totals();
        let bytes = |units: u64| shared.bytes_of_sum(units);
        let largest = shared.largest_free_order();
        BuddyArenaMetrics {
            allocations_ok: totals.claims,
            allocations_failed: totals.refusals,
            frees: totals.releases,
            frozen: totals.frozen,
            spills: totals.spills,
            bytes_reserved: shared.geometry.total_bytes(),
            bytes_live: bytes(totals.live_units),
            bytes_live_max: bytes(shared.live_units_max()),
            splits: totals.splits,
            coalesces: totals.coalesces,
            largest_free_block: largest.map_or(0, |order| shared.geometry.bytes_of(order.units())),
        }
    }

    /// Takes a snapshot of which minimum blocks are free.
    ///
    /// Reads the whole map, one bit a minimum block, and allocates a copy of it.
    pub fn occupancy(&self) -> Occupancy {
        Occupancy::of(self.handle.shared())
    }
}

impl fmt::Debug for BuddyArena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuddyArena")
            .field("total_size", &self.total_size())
            .field("min_block_size", &self.min_block_size())
            .finish_non_exhaustive()
    }
}

impl BuddyArenaBuilder {
    /// Aligns every block to `n` bytes, a power of two of which the minimum block size must be a
    /// multiple.
    ///
    /// The default is 1: no demand beyond that each block starts at a multiple of the minimum block
    /// size from the start of the region, which is a page or at least a cache line boundary.
    pub fn alignment(mut self, n: usize) -> Self {
        self.options.alignment = n;
        self
    }

    /// Lets a buffer that outgrows its block move to the heap, rather than panic.
    ///
    /// Off by default, because what is on the heap is not bounded by the arena.
    pub fn auto_spill(mut self) -> Self {
        self.options.auto_spill = true;
        self
    }

    /// Sets whether threads keep free memory in caches of their own. They do by default, where the
    /// system allows it.
    ///
    /// With caches, allocating and freeing in one thread takes no atomic read-modify-write.
    /// Without, it takes one each, on a cache line that other threads may share. Memory in caches
    /// is free for everybody in both cases; but while a thread is stopped in the few instructions
    /// in which it touches its cache, what lies there counts as in use, at most a sixteenth of the
    /// arena in all caches together.
    pub fn caches(mut self, caches: bool) -> Self {
        self.options.caches = caches;
        self
    }

    /// Sets `bytes` aside at the end, rounded up to a block, for those alone who use
    /// [`BuddyArena::reserve`].
    ///
    /// What must never wait behind those who wait for it can be sure of this memory: the replies of
    /// a server, whose requests would else take the last of it. Nothing is set aside by default.
    /// A further call sets a part of that aside in turn, which the reserve's own handle leads to.
    ///
    /// [`build`](Self::build) fails if that is more than half of the arena. The largest block that
    /// others can have is then half of it.
    pub fn reserve(mut self, bytes: usize) -> Self {
        self.options.reserves.push(bytes);
        self
    }

    /// Takes the memory and makes the arena.
    ///
    /// The address space is taken now; the system commits pages as they are first written, so the
    /// arena bounds what is used and does not guarantee that the system has it.
    ///
    /// # Errors
    ///
    /// [`BuildError::InvalidGeometry`], [`BuildError::InvalidAlignment`],
    /// [`BuildError::SizeOverflow`] or [`BuildError::OutOfMemory`].
    pub fn build(self) -> Result<BuddyArena, BuildError> {
        let Self { total_size, min_block_size, options } = self;
        let geometry = Geometry::buddy(total_size, min_block_size, options.alignment)?;
        Ok(BuddyArena { handle: Handle::new(Kind::Blocks, geometry, &options)? })
    }
}
