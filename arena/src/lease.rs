//! The exclusive right to one span, and the shared right to read it. The only `Drop`s that give
//! memory back.

use std::{
    mem::{ManuallyDrop, MaybeUninit},
    ptr::NonNull,
};

use crate::{geometry::Span, share, shared::Shared};

/// The exclusive right to the bytes of one span.
///
/// It keeps the arena alive: the units are outstanding until it drops (A2).
#[derive(Debug)]
pub(crate) struct Lease {
    shared: NonNull<Shared>,
    span: Span,
}

// SAFETY: a lease is the only way to its bytes (A1). Moving it to another thread moves that access
// along.
unsafe impl Send for Lease {}

// SAFETY: a shared lease gives addresses and `&Shared`, which is `Sync`; bytes are written through
// `&mut` alone.
unsafe impl Sync for Lease {}

impl Lease {
    /// Takes the right to a span.
    ///
    /// # Safety
    ///
    /// The span is claimed in this arena, and no other lease covers any of it.
    #[inline]
    pub(crate) unsafe fn new(shared: NonNull<Shared>, span: Span) -> Self {
        Self { shared, span }
    }

    #[inline]
    pub(crate) fn shared(&self) -> &Shared {
        // SAFETY: our units are outstanding, so the arena is alive (A2), and nobody has it mutably.
        unsafe { self.shared.as_ref() }
    }

    /// Where the bytes are, and how many.
    #[inline]
    pub(crate) fn bytes(&self) -> (NonNull<MaybeUninit<u8>>, usize) {
        let shared = self.shared();
        shared.region.bytes_of(&shared.geometry, self.span)
    }

    /// Takes the units behind the first `len` bytes off the span, if there are any. One unit stays
    /// in any case. The tail is to be given back.
    pub(crate) fn split_behind(&mut self, len: usize) -> Option<Span> {
        let keep = self.shared().geometry.units_for(len);
        let (kept, tail) = self.span.split_at(keep);
        self.span = kept;
        tail
    }

    /// Gives back a tail that was split off.
    pub(crate) fn give_back(&self, tail: Span) {
        self.shared().release_tail(tail);
    }

    /// Shares the right, from now on for reading only.
    #[inline(always)]
    pub(crate) fn into_shared(self) -> SharedLease {
        SharedLease(ManuallyDrop::new(self))
    }
}

impl Drop for Lease {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the span is ours (A1), and this is the end of our right.
        unsafe { Shared::release(self.shared, self.span) };
    }
}

/// One of several references to a lease. The last to drop gives the span back.
#[derive(Debug)]
pub(crate) struct SharedLease(ManuallyDrop<Lease>);

impl SharedLease {
    /// The exclusive right, if this is the only reference.
    pub(crate) fn try_unshare(self) -> Result<Lease, Self> {
        if self.is_alone() {
            let mut reference = ManuallyDrop::new(self);
            // SAFETY: `reference` is not used again and does not drop.
            Ok(unsafe { ManuallyDrop::take(&mut reference.0) })
        } else {
            Err(self)
        }
    }

    fn is_alone(&self) -> bool {
        share::is_alone(self.0.shared().counts.of(self.0.span.first()))
    }
}

impl Clone for SharedLease {
    fn clone(&self) -> Self {
        self.0.shared().counts.add(self.0.span.first());
        // SAFETY: the copy is counted just above, and of all counted copies one alone drops the
        // lease (`share::leave`).
        let copy = unsafe { Lease::new(self.0.shared, self.0.span) };
        Self(ManuallyDrop::new(copy))
    }
}

impl Drop for SharedLease {
    #[inline]
    fn drop(&mut self) {
        // Nothing of the arena is touched after this unless the reference was the last: others may
        // end it.
        if share::leave(self.0.shared().counts.of(self.0.span.first())) {
            // SAFETY: this was the last reference, so the lease is ours alone, and it is not used
            // again.
            unsafe { ManuallyDrop::drop(&mut self.0) };
        }
    }
}
