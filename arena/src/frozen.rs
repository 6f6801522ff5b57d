//! `Frozen`: written bytes that nobody changes any more and many may share, without the heap.

use std::{
    fmt,
    hash::{Hash, Hasher},
    mem,
    ops::{Bound, Deref, RangeBounds},
    ptr::NonNull,
    slice,
};

use bytes::{Buf, Bytes, BytesMut};

use crate::{buffer::Buffer, lease::SharedLease};

/// Bytes in arena memory that are shared for reading.
///
/// What [`Bytes`] is to the heap: clones and slices refer to the same memory, which returns to the
/// arena when the last of them drops. The count of references stands in the arena, so neither
/// freezing nor cloning allocates, and dropping one that is not shared reads the count without
/// writing it.
///
/// It is a [`Buf`], and becomes [`Bytes`] where an interface wants those.
///
/// # Examples
///
/// A request becomes its own response, in place:
///
/// ```
/// # use std::num::NonZeroUsize;
/// # use bytes::BufMut;
/// # let (count, size) = (NonZeroUsize::MIN, NonZeroUsize::new(64).unwrap());
/// let arena = arena::FixedArena::builder(count, size).build()?;
/// let mut buffer = arena.allocate()?;
/// buffer.put_slice(b"head:body");
///
/// let mut body = buffer.into_frozen();
/// let head = body.split_to(5);
/// assert_eq!((&head[..], &body[..]), (&b"head:"[..], &b"body"[..]));
///
/// drop(head);
/// let mut response = body.try_into_buffer().expect("nobody else has it");
/// response.put_slice(b" and more");
/// assert_eq!(&response[..], b"body and more");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Frozen {
    owner: Owner,
}

#[derive(Clone)]
enum Owner {
    Arena(View),
    /// What was spilled before it was frozen, what came as `Bytes`, or what has no bytes.
    Heap(Bytes),
}

/// Some of the written bytes of a lease.
#[derive(Clone)]
struct View {
    /// The first of `len` bytes that lie inside the lease and were written before it was shared
    /// (A4, A5).
    start: NonNull<u8>,
    len: usize,
    lease: SharedLease,
}

// SAFETY: `start` points into the bytes of the lease, which nobody writes while it is shared (A5).
unsafe impl Send for View {}

// SAFETY: as above.
unsafe impl Sync for View {}

impl Frozen {
    /// Takes over the `len` bytes at `start`.
    ///
    /// # Safety
    ///
    /// They lie inside the lease and were written by its owner.
    #[inline(always)]
    pub(crate) unsafe fn from_lease(lease: SharedLease, start: NonNull<u8>, len: usize) -> Self {
        Self { owner: Owner::Arena(View { start, len, lease }) }
    }

    pub(crate) fn from_heap(bytes: Bytes) -> Self {
        Self { owner: Owner::Heap(bytes) }
    }

    fn empty() -> Self {
        Self::from_heap(Bytes::new())
    }

    /// Returns whether the bytes lie outside of an arena: their buffer had spilled, or they came as
    /// [`Bytes`]. Also true of what has no bytes and holds no memory.
    pub fn is_spilled(&self) -> bool {
        matches!(self.owner, Owner::Heap(_))
    }

    /// Returns the bytes of `range` without copying.
    ///
    /// The slice keeps the whole slot or block in use. Costs one atomic operation; an empty slice
    /// costs none and holds nothing.
    ///
    /// # Panics
    ///
    /// If the range is not within the bytes.
    #[must_use]
    #[track_caller]
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Self {
        let first = match range.start_bound() {
            Bound::Included(&first) => first,
            Bound::Excluded(&before) => before.checked_add(1).expect("the range is too large"),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&last) => last.checked_add(1).expect("the range is too large"),
            Bound::Excluded(&end) => end,
            Bound::Unbounded => self.len(),
        };
        assert!(
            first <= end && end <= self.len(),
            "the range {first}..{end} is not within {} bytes",
            self.len()
        );
        if first == end {
            return Self::empty();
        }
        let mut slice = self.clone();
        slice.narrow(first, end);
        slice
    }

    /// Splits the first `n` bytes off and returns them. `self` keeps the rest.
    ///
    /// Costs one atomic operation, or none if one of the two is empty: an empty part holds no
    /// memory.
    ///
    /// # Panics
    ///
    /// If there are fewer than `n` bytes.
    #[must_use = "the bytes that were split off are lost otherwise; `advance` skips them for less"]
    #[track_caller]
    pub fn split_to(&mut self, n: usize) -> Self {
        let len = self.len();
        assert!(n <= len, "{n} bytes cannot be split off {len} bytes");
        if n == 0 {
            return Self::empty();
        }
        if n == len {
            return mem::replace(self, Self::empty());
        }
        let mut front = self.clone();
        front.narrow(0, n);
        self.narrow(n, len);
        front
    }

    /// Turns into [`Bytes`] without copying.
    ///
    /// Makes one small heap allocation: the reference count that [`Bytes::from_owner`] needs.
    #[inline(always)]
    pub fn into_bytes(self) -> Bytes {
        match self.owner {
            Owner::Arena(view) => Bytes::from_owner(view),
            Owner::Heap(bytes) => bytes,
        }
    }

    /// Makes the bytes writable again, if this is the only reference.
    ///
    /// The buffer holds these bytes, and its capacity is the whole lease: a part that does not
    /// stand at the front is moved there. What holds no memory, an empty slice for instance,
    /// becomes an empty buffer on the heap.
    ///
    /// # Errors
    ///
    /// Gives `self` back if there are other clones or slices.
    pub fn try_into_buffer(self) -> Result<Buffer, Self> {
        match self.owner {
            Owner::Arena(View { start, len, lease }) => match lease.try_unshare() {
                // SAFETY: the bytes of a view lie inside its lease and were written (A4).
                Ok(lease) => Ok(unsafe { Buffer::with_moved(lease, start, len) }),
                Err(lease) => Err(Self { owner: Owner::Arena(View { start, len, lease }) }),
            },
            // Nothing is held, and so nothing is shared.
            Owner::Heap(bytes) if bytes.is_empty() => Ok(Buffer::from_spilled(BytesMut::new())),
            Owner::Heap(bytes) => {
                bytes.try_into_mut().map(Buffer::from_spilled).map_err(Self::from_heap)
            }
        }
    }

    /// Keeps the bytes from `first` up to `end`, which must be within.
    fn narrow(&mut self, first: usize, end: usize) {
        match &mut self.owner {
            Owner::Arena(view) => view.narrow(first, end),
            Owner::Heap(bytes) => *bytes = bytes.slice(first..end),
        }
    }
}

impl View {
    fn narrow(&mut self, first: usize, end: usize) {
        assert!(first <= end && end <= self.len, "a view only becomes smaller");
        // SAFETY: `first` is at most `len`, so the result lies inside the lease or one past its end
        // (A3).
        self.start = unsafe { self.start.add(first) };
        self.len = end - first;
    }
}

impl AsRef<[u8]> for View {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        // SAFETY:
        // - in bounds and initialised: `start` and `len` say where written bytes of the lease are
        //   (A3, A4);
        // - not written: the lease is shared, and only a sole reference gives it up for writing
        //   (A5);
        // - alive: `lease` keeps the region (A2) and the slice borrows `self`.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Deref for Frozen {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.owner {
            Owner::Arena(view) => view.as_ref(),
            Owner::Heap(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Frozen {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Buf for Frozen {
    #[inline]
    fn remaining(&self) -> usize {
        self.len()
    }

    #[inline]
    fn chunk(&self) -> &[u8] {
        self
    }

    #[inline]
    fn advance(&mut self, n: usize) {
        let len = self.len();
        assert!(n <= len, "cannot advance by {n} within {len} bytes");
        self.narrow(n, len);
    }

    fn copy_to_bytes(&mut self, n: usize) -> Bytes {
        self.split_to(n).into_bytes()
    }
}

impl From<Buffer> for Frozen {
    fn from(buffer: Buffer) -> Self {
        buffer.into_frozen()
    }
}

/// Takes bytes over that lie outside of an arena, without copying: a constant reply among those
/// from an arena, for instance.
impl From<Bytes> for Frozen {
    fn from(bytes: Bytes) -> Self {
        Self::from_heap(bytes)
    }
}

impl From<Frozen> for Bytes {
    fn from(frozen: Frozen) -> Self {
        frozen.into_bytes()
    }
}

impl PartialEq for Frozen {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl Eq for Frozen {}

impl PartialEq<[u8]> for Frozen {
    fn eq(&self, other: &[u8]) -> bool {
        self[..] == *other
    }
}

impl Hash for Frozen {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self[..].hash(state);
    }
}

impl fmt::Debug for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.escape_ascii())
    }
}
