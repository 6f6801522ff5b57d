//! `FixedArena`: slots of one size.

use std::{fmt, num::NonZeroUsize};

use crate::{
    buffer::Buffer,
    error::{AllocError, BuildError},
    geometry::{Geometry, Order},
    metrics::FixedArenaMetrics,
    occupancy::Occupancy,
    shared::{Handle, Kind, Options},
};

/// A fixed number of slots of one size, in one piece of memory.
///
/// The fastest arena: right where one size covers most requests. A clone is another handle to the
/// same arena. The memory lives until the last handle and everything allocated from it is gone, in
/// any order and from any thread.
///
/// # Examples
///
/// ```
/// use std::num::NonZeroUsize;
/// use bytes::BufMut;
///
/// let slots = NonZeroUsize::new(1024).unwrap();
/// let bytes_each = NonZeroUsize::new(4096).unwrap();
/// let arena = arena::FixedArena::builder(slots, bytes_each).build()?;
///
/// let mut buffer = arena.allocate()?;
/// buffer.put_slice(b"hello");
/// let bytes: bytes::Bytes = buffer.freeze();
/// assert_eq!(&bytes[..], b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct FixedArena {
    pub(crate) handle: Handle,
}

/// Configures a [`FixedArena`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct FixedArenaBuilder {
    slot_count: NonZeroUsize,
    slot_capacity: NonZeroUsize,
    options: Options,
}

impl FixedArena {
    /// Starts to configure an arena of `slot_count` slots of `slot_capacity` bytes.
    pub fn builder(slot_count: NonZeroUsize, slot_capacity: NonZeroUsize) -> FixedArenaBuilder {
        FixedArenaBuilder { slot_count, slot_capacity, options: Options::default() }
    }

    /// Returns the number of slots.
    pub fn slot_count(&self) -> usize {
        self.handle.shared().geometry.units() as usize
    }

    /// Returns the bytes that one slot holds: what was asked for, rounded up to the alignment.
    pub fn slot_capacity(&self) -> usize {
        self.handle.shared().geometry.unit_bytes()
    }

    /// Takes a free slot, without waiting.
    ///
    /// The buffer is empty and can hold [`slot_capacity`](Self::slot_capacity) bytes. Old contents
    /// are never readable, but they are not erased either.
    ///
    /// Takes no lock and does not allocate from the heap, except on a thread's first use of any
    /// arena. It waits for no other thread as long as free memory suffices that is in no stopped
    /// thread's hands. A refusal may wait up to 100 ms for threads that are moving free memory at
    /// that moment, which takes them nanoseconds unless they are stopped; after that, what they
    /// move counts as in use. See [Progress](crate#progress).
    ///
    /// # Errors
    ///
    /// [`AllocError::ArenaFull`] if every slot is in use. A slot returns when its buffer, or the
    /// last [`Bytes`](bytes::Bytes) made from it, drops.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::num::NonZeroUsize;
    /// # let (one, size) = (NonZeroUsize::MIN, NonZeroUsize::new(64).unwrap());
    /// let arena = arena::FixedArena::builder(one, size).build()?;
    ///
    /// let only = arena.allocate()?;
    /// assert!(arena.allocate().is_err());
    ///
    /// drop(only);
    /// assert!(arena.allocate().is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline(always)]
    pub fn allocate(&self) -> Result<Buffer, AllocError> {
        self.handle.claim(Order::UNIT).map(Buffer::new)
    }

    /// Returns the handle to the memory that [`FixedArenaBuilder::reserve`] set aside, if there is
    /// any.
    ///
    /// It is a fixed arena of its own within this one's memory: what it gives out, nobody else
    /// gets, and who waits for it stands in a queue of its own. The figures and the snapshot of
    /// this arena include it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::num::NonZeroUsize;
    /// # let nz = |n| NonZeroUsize::new(n).unwrap();
    /// let arena = arena::FixedArena::builder(nz(3), nz(64)).reserve(64).build()?;
    /// let replies = arena.reserve().expect("something is set aside");
    ///
    /// let (_one, _two) = (arena.allocate()?, arena.allocate()?);
    /// assert!(arena.allocate().is_err());
    /// assert!(replies.allocate().is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reserve(&self) -> Option<Self> {
        self.handle.shared().reserve().map(|handle| Self { handle })
    }

    /// Takes a snapshot of the figures.
    ///
    /// Costs a few reads for each thread that has used the arena, and writes nothing that other
    /// threads wait for.
    pub fn metrics(&self) -> FixedArenaMetrics {
        let shared = self.handle.shared();
        let totals = shared.totals();
        let bytes = |units: u64| shared.bytes_of_sum(units);
        FixedArenaMetrics {
            allocations_ok: totals.claims,
            allocations_failed: totals.refusals,
            frees: totals.releases,
            frozen: totals.frozen,
            spills: totals.spills,
            bytes_reserved: shared.geometry.total_bytes(),
            bytes_live: bytes(totals.live_units),
            bytes_live_max: bytes(shared.live_units_max()),
        }
    }

    /// Takes a snapshot of which slots are free.
    ///
    /// Reads the whole map, one bit a slot, and allocates a copy of it.
    pub fn occupancy(&self) -> Occupancy {
        Occupancy::of(self.handle.shared())
    }
}

impl fmt::Debug for FixedArena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FixedArena")
            .field("slot_count", &self.slot_count())
            .field("slot_capacity", &self.slot_capacity())
            .finish_non_exhaustive()
    }
}

impl FixedArenaBuilder {
    /// Aligns every slot to `n` bytes, a power of two, and rounds the slot capacity up to a
    /// multiple of it.
    ///
    /// The default is 1: no demand. Direct I/O wants 4096.
    pub fn alignment(mut self, n: usize) -> Self {
        self.options.alignment = n;
        self
    }

    /// Lets a buffer that outgrows its slot move to the heap, rather than panic.
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

    /// Sets `bytes` aside at the end, rounded up to whole slots, for those alone who use
    /// [`FixedArena::reserve`].
    ///
    /// What must never wait behind those who wait for it can be sure of this memory: the replies of
    /// a server, whose requests would else take the last of it. Nothing is set aside by default.
    /// A further call sets a part of that aside in turn, which the reserve's own handle leads to.
    ///
    /// [`build`](Self::build) fails if that leaves not one slot.
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
    /// [`BuildError::InvalidAlignment`], [`BuildError::SizeOverflow`] or
    /// [`BuildError::OutOfMemory`].
    pub fn build(self) -> Result<FixedArena, BuildError> {
        let Self { slot_count, slot_capacity, options } = self;
        let geometry = Geometry::fixed(slot_count, slot_capacity, options.alignment)?;
        Ok(FixedArena { handle: Handle::new(Kind::Slots, geometry, &options)? })
    }
}
