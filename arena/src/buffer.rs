//! `Buffer`: arena memory that one owner may write.

use std::{
    fmt,
    mem::MaybeUninit,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    slice,
};

use bytes::{Buf, BufMut, Bytes, BytesMut, buf::UninitSlice};

use crate::{error::BufferFullError, frozen::Frozen, lease::Lease};

/// Memory from an arena that can be written, and then frozen.
///
/// A buffer is a [`BufMut`]: bytes are appended, up to [`capacity`](Self::capacity). What is
/// written can be read and changed as a slice. Dropping the buffer returns its memory to the arena
/// at once; so does dropping the last reference to what was frozen from it.
///
/// Writing past the capacity panics, unless the arena was built with `auto_spill`: then the buffer
/// moves to the heap, gives its arena memory back at once and grows there.
///
/// # Examples
///
/// ```
/// use std::num::NonZeroUsize;
/// use bytes::BufMut;
///
/// # let (count, size) = (NonZeroUsize::new(16).unwrap(), NonZeroUsize::new(64).unwrap());
/// let arena = arena::FixedArena::builder(count, size).build()?;
/// let mut buffer = arena.allocate()?;
/// buffer.put_u16(7);
/// buffer.put_slice(b"seven");
/// buffer[1] = 8;
/// assert_eq!(&buffer[..], b"\x00\x08seven");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Buffer {
    storage: Storage,
}

enum Storage {
    Leased(Leased),
    Spilled(BytesMut),
}

/// A lease and how much of it is written.
struct Leased {
    /// The first byte of the lease. Valid for `capacity` bytes while `lease` lives (A2, A3).
    start: NonNull<MaybeUninit<u8>>,
    capacity: usize,
    /// The first `len` bytes were written since the lease began; no other byte is ever read (A4).
    /// At most `capacity`.
    len: usize,
    lease: Lease,
}

// SAFETY: `start` points into the bytes of `lease`, which is `Send`.
unsafe impl Send for Leased {}

// SAFETY: through a shared reference the bytes are only read, and `lease` is `Sync`.
unsafe impl Sync for Leased {}

impl Buffer {
    #[inline]
    pub(crate) fn new(lease: Lease) -> Self {
        Self::with_written(lease, 0)
    }

    /// A buffer in which the first `len` bytes are written.
    #[inline]
    fn with_written(lease: Lease, len: usize) -> Self {
        let (start, capacity) = lease.bytes();
        debug_assert!(len <= capacity);
        Self { storage: Storage::Leased(Leased { start, capacity, len, lease }) }
    }

    pub(crate) fn from_spilled(spilled: BytesMut) -> Self {
        Self { storage: Storage::Spilled(spilled) }
    }

    /// Makes a buffer of a lease, with `len` written bytes that begin at `from` and are moved to
    /// the front.
    ///
    /// # Safety
    ///
    /// The `len` bytes at `from` lie inside the lease and were written by its owner.
    pub(crate) unsafe fn with_moved(lease: Lease, from: NonNull<u8>, len: usize) -> Self {
        let (start, _) = lease.bytes();
        let to = start.cast::<u8>();
        if from != to {
            // SAFETY: the source lies inside the lease (the caller's promise), so the target, its
            // front, does as well. The lease is exclusive (A1). `copy` allows the two to overlap.
            unsafe { from.copy_to(to, len) };
        }
        Self::with_written(lease, len)
    }

    /// Returns how many bytes the buffer can hold, written ones included: the slot or the whole
    /// block.
    #[inline]
    pub fn capacity(&self) -> usize {
        match &self.storage {
            Storage::Leased(leased) => leased.capacity,
            Storage::Spilled(spilled) => spilled.capacity(),
        }
    }

    /// Returns how many bytes are written.
    #[inline]
    pub fn len(&self) -> usize {
        match &self.storage {
            Storage::Leased(leased) => leased.len,
            Storage::Spilled(spilled) => spilled.len(),
        }
    }

    /// Returns whether nothing is written.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whether the buffer has moved to the heap.
    pub fn is_spilled(&self) -> bool {
        matches!(self.storage, Storage::Spilled(_))
    }

    /// Returns whether `n` more bytes can be written without a panic.
    ///
    /// In an arena with `auto_spill` that is always so, and so it is once the buffer has spilled.
    #[inline]
    pub fn will_fit(&self, n: usize) -> bool {
        match &self.storage {
            Storage::Leased(leased) => n <= leased.remaining() || leased.auto_spill(),
            Storage::Spilled(_) => true,
        }
    }

    /// Appends `data` if it fits.
    ///
    /// In an arena with `auto_spill` it always does: the buffer moves to the heap when it must.
    ///
    /// # Errors
    ///
    /// [`BufferFullError`] if fewer bytes remain. Nothing is written then.
    pub fn try_put_slice(&mut self, data: &[u8]) -> Result<(), BufferFullError> {
        self.try_make_room(data.len())?;
        self.append(data);
        Ok(())
    }

    /// Makes the written bytes immutable and shareable, as [`Bytes`].
    ///
    /// Copies nothing. Makes one small heap allocation: the reference count that
    /// [`Bytes::from_owner`] needs. [`into_frozen`](Self::into_frozen) does without. A spilled
    /// buffer makes none.
    ///
    /// The whole slot or block stays in use until the last clone or slice is dropped, even if that
    /// slice is one byte long. To keep a small part for long, copy it out; to give back an unused
    /// tail, call [`shrink_to_fit`](Self::shrink_to_fit) first.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::num::NonZeroUsize;
    /// # use bytes::BufMut;
    /// # let (count, size) = (NonZeroUsize::MIN, NonZeroUsize::new(64).unwrap());
    /// let arena = arena::FixedArena::builder(count, size).build()?;
    /// let mut buffer = arena.allocate()?;
    /// buffer.put_slice(b"hello");
    ///
    /// let bytes = buffer.freeze();
    /// let slice = bytes.slice(1..3);
    /// drop(bytes);
    /// assert!(arena.allocate().is_err(), "the slice still holds the only slot");
    ///
    /// drop(slice);
    /// assert!(arena.allocate().is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline(always)]
    pub fn freeze(self) -> Bytes {
        self.into_frozen().into_bytes()
    }

    /// Makes the written bytes immutable and shareable, as [`Frozen`].
    ///
    /// Copies nothing and allocates nothing.
    // Always inline, here and on the way to it: a call would pass the parts through memory and load
    // them in other pieces than it stored them, which costs as much as all the rest.
    #[inline(always)]
    pub fn into_frozen(self) -> Frozen {
        match self.storage {
            Storage::Leased(Leased { start, len, lease, .. }) => {
                lease.shared().tally().count_frozen();
                // SAFETY: the first `len` bytes of the lease were written (A4), and `start` is
                // where it begins.
                unsafe { Frozen::from_lease(lease.into_shared(), start.cast(), len) }
            }
            Storage::Spilled(spilled) => freeze_spilled(spilled),
        }
    }

    /// Gives the memory back without freezing. The same as dropping the buffer, and easier to see.
    pub fn abandon(self) {}

    /// Forgets what is written. The capacity stays as it is.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Keeps the first `n` written bytes. Does nothing if there are no more than that.
    pub fn truncate(&mut self, n: usize) {
        match &mut self.storage {
            Storage::Leased(leased) => leased.len = leased.len.min(n),
            Storage::Spilled(spilled) => spilled.truncate(n),
        }
    }

    /// Gives the memory behind the written bytes back to the arena now.
    ///
    /// A buddy arena takes back whole minimum blocks, usually with one atomic operation, and the
    /// capacity shrinks accordingly; at least one minimum block stays. A slot of a fixed arena, and
    /// a buffer on the heap, stay as they are.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::num::NonZeroUsize;
    /// # use bytes::BufMut;
    /// # let nz = |n| NonZeroUsize::new(n).unwrap();
    /// let arena = arena::BuddyArena::builder(nz(4096), nz(256)).build()?;
    /// let mut buffer = arena.allocate(nz(4096))?;
    /// buffer.put_slice(&[7; 300]);
    ///
    /// buffer.shrink_to_fit();
    /// assert_eq!(buffer.capacity(), 512);
    /// assert_eq!(arena.allocate(nz(2048))?.capacity(), 2048);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn shrink_to_fit(&mut self) {
        self.shrink_to(0);
    }

    /// Gives the memory behind the written bytes back, but keeps a capacity of at least
    /// `min_capacity` bytes if there is that much.
    ///
    /// As [`shrink_to_fit`](Self::shrink_to_fit) else: for whoever knows how much is still to come.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::num::NonZeroUsize;
    /// # use bytes::BufMut;
    /// # let nz = |n| NonZeroUsize::new(n).unwrap();
    /// let arena = arena::BuddyArena::builder(nz(4096), nz(256)).build()?;
    /// let mut buffer = arena.allocate(nz(4096))?;
    /// buffer.put_slice(&[7; 300]);
    ///
    /// buffer.shrink_to(700);
    /// assert_eq!(buffer.capacity(), 768);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn shrink_to(&mut self, min_capacity: usize) {
        if let Storage::Leased(leased) = &mut self.storage {
            let kept = min_capacity.min(leased.capacity).max(leased.len);
            let tail = leased.lease.split_behind(kept);
            // First of all: from the moment the tail is given back, its bytes are another's,
            // whatever happens then. To give it back can run foreign code.
            (_, leased.capacity) = leased.lease.bytes();
            if let Some(tail) = tail {
                leased.lease.give_back(tail);
            }
        }
    }

    /// Makes sure that `n` more bytes fit, by a spill if the arena allows it.
    #[inline]
    fn try_make_room(&mut self, n: usize) -> Result<(), BufferFullError> {
        match &mut self.storage {
            Storage::Leased(leased) if n <= leased.remaining() => Ok(()),
            Storage::Leased(leased) if leased.auto_spill() => {
                let spilled = leased.spill(n);
                // The lease drops here, and its memory goes back.
                self.storage = Storage::Spilled(spilled);
                Ok(())
            }
            Storage::Leased(leased) => {
                Err(BufferFullError { remaining: leased.remaining(), requested: n })
            }
            Storage::Spilled(spilled) => {
                spilled.reserve(n);
                Ok(())
            }
        }
    }

    /// As above.
    ///
    /// # Panics
    ///
    /// If there is no room and the arena does not spill.
    #[inline]
    fn make_room(&mut self, n: usize) {
        if let Err(full) = self.try_make_room(n) {
            panic_full(full);
        }
    }

    /// Spills, grows or panics.
    #[cold]
    fn put_slice_without_room(&mut self, data: &[u8]) {
        self.make_room(data.len());
        self.append(data);
    }

    /// Appends bytes for which there is room.
    #[inline]
    fn append(&mut self, data: &[u8]) {
        match &mut self.storage {
            Storage::Leased(leased) => leased.append(data),
            Storage::Spilled(spilled) => spilled.extend_from_slice(data),
        }
    }
}

impl Leased {
    #[inline]
    fn remaining(&self) -> usize {
        self.capacity - self.len
    }

    fn auto_spill(&self) -> bool {
        self.lease.shared().auto_spill
    }

    /// Copies what is written to the heap, with room for `n` more bytes.
    #[cold]
    fn spill(&mut self, n: usize) -> BytesMut {
        // Twice the capacity, because what has outgrown a slot tends to go on growing.
        let wanted = self.len.saturating_add(n).max(self.capacity.saturating_mul(2));
        let mut spilled = BytesMut::with_capacity(wanted);
        spilled.extend_from_slice(self.written());
        self.lease.shared().tally().count_spill();
        spilled
    }

    #[inline]
    fn written(&self) -> &[u8] {
        // SAFETY:
        // - in bounds: `len` is at most `capacity`, and `start` is valid for that many bytes (A3);
        // - initialised: the first `len` bytes were written (A4);
        // - not written meanwhile: writing needs `&mut self`, and no other lease covers these bytes
        //   (A1);
        // - alive: `lease` keeps the region (A2) and the slice borrows `self`.
        unsafe { slice::from_raw_parts(self.start.cast::<u8>().as_ptr(), self.len) }
    }

    #[inline]
    fn written_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `written`, and `&mut self` forbids a second slice from this lease.
        unsafe { slice::from_raw_parts_mut(self.start.cast::<u8>().as_ptr(), self.len) }
    }

    #[inline]
    fn unwritten_mut(&mut self) -> &mut [MaybeUninit<u8>] {
        // SAFETY: `len` is at most `capacity`, so the result is in bounds or one past the end (A3).
        let start = unsafe { self.start.add(self.len) };
        // SAFETY: as in `written_mut`; the rest of the capacity follows, and every bit pattern is a
        // valid `MaybeUninit<u8>`.
        unsafe { slice::from_raw_parts_mut(start.as_ptr(), self.capacity - self.len) }
    }

    #[inline]
    fn append(&mut self, data: &[u8]) {
        self.unwritten_mut()[..data.len()].write_copy_of_slice(data);
        self.len += data.len();
    }

    #[inline]
    fn append_filled(&mut self, value: u8, n: usize) {
        let target = &mut self.unwritten_mut()[..n];
        // SAFETY: `target` is `n` bytes that are ours to write.
        unsafe { target.as_mut_ptr().write_bytes(value, n) };
        self.len += n;
    }
}

#[cold]
fn freeze_spilled(spilled: BytesMut) -> Frozen {
    Frozen::from_heap(spilled.freeze())
}

#[cold]
#[track_caller]
fn panic_full(full: BufferFullError) -> ! {
    panic!("{full}")
}

// SAFETY: `chunk_mut` returns memory that this buffer alone may write, and `advance_mut` checks
// that no more than that is taken over.
unsafe impl BufMut for Buffer {
    /// Without `auto_spill`, the bytes that still fit. With it there is no limit short of the
    /// address space.
    #[inline]
    fn remaining_mut(&self) -> usize {
        match &self.storage {
            Storage::Leased(leased) if leased.auto_spill() => usize::MAX - leased.len,
            Storage::Leased(leased) => leased.remaining(),
            Storage::Spilled(spilled) => spilled.remaining_mut(),
        }
    }

    #[inline]
    unsafe fn advance_mut(&mut self, n: usize) {
        match &mut self.storage {
            Storage::Leased(leased) => {
                let remaining = leased.remaining();
                if n > remaining {
                    panic_full(BufferFullError { remaining, requested: n });
                }
                // What the caller promises to have written is readable from now on (A4).
                leased.len += n;
            }
            // SAFETY: the caller's promise, which is the same.
            Storage::Spilled(spilled) => unsafe { spilled.advance_mut(n) },
        }
    }

    #[inline]
    fn chunk_mut(&mut self) -> &mut UninitSlice {
        if let Storage::Leased(leased) = &self.storage
            && leased.len == leased.capacity
            && leased.auto_spill()
        {
            // There is always a next byte, and it lies on the heap.
            self.make_room(1);
        }
        match &mut self.storage {
            Storage::Leased(leased) => UninitSlice::uninit(leased.unwritten_mut()),
            Storage::Spilled(spilled) => spilled.chunk_mut(),
        }
    }

    #[inline]
    fn put<T: Buf>(&mut self, mut src: T) {
        self.make_room(src.remaining());
        while src.has_remaining() {
            let chunk = src.chunk();
            let n = chunk.len();
            self.append(chunk);
            src.advance(n);
        }
    }

    #[inline]
    fn put_slice(&mut self, data: &[u8]) {
        match &mut self.storage {
            Storage::Leased(leased) if data.len() <= leased.remaining() => leased.append(data),
            _ => self.put_slice_without_room(data),
        }
    }

    #[inline]
    fn put_bytes(&mut self, value: u8, n: usize) {
        self.make_room(n);
        match &mut self.storage {
            Storage::Leased(leased) => leased.append_filled(value, n),
            Storage::Spilled(spilled) => spilled.put_bytes(value, n),
        }
    }
}

/// The written bytes.
impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.storage {
            Storage::Leased(leased) => leased.written(),
            Storage::Spilled(spilled) => spilled,
        }
    }
}

/// The written bytes.
impl DerefMut for Buffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.storage {
            Storage::Leased(leased) => leased.written_mut(),
            Storage::Spilled(spilled) => spilled,
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl fmt::Write for Buffer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.try_put_slice(text.as_bytes()).map_err(|_| fmt::Error)
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .field("is_spilled", &self.is_spilled())
            .finish()
    }
}
