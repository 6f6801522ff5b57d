//! The one block of memory from which an arena gives out spans.

use std::{
    alloc::{Layout, alloc, dealloc},
    mem::MaybeUninit,
    ptr::NonNull,
};

use crate::{
    error::BuildError,
    geometry::{Geometry, Span},
};

/// All memory of an arena. Allocated once, given back once.
#[derive(Debug)]
pub(crate) struct Region {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the region is plain memory; it hands out addresses and reads or writes nothing itself.
unsafe impl Send for Region {}

// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Takes memory for `geometry` from the system. Its pages come when they are first written.
    pub(crate) fn new(geometry: &Geometry) -> Result<Self, BuildError> {
        let layout = geometry.layout();
        debug_assert!(layout.size() > 0);
        // SAFETY: an arena has at least one unit of at least one byte, so the size is not zero.
        let start = unsafe { alloc(layout) };
        let start = NonNull::new(start).ok_or(BuildError::OutOfMemory)?;
        Ok(Self { start, layout })
    }

    /// Where a unit begins.
    #[inline]
    pub(crate) fn address_of(&self, geometry: &Geometry, unit: u32) -> NonNull<MaybeUninit<u8>> {
        let offset = geometry.offset_of(unit);
        // SAFETY: `offset_of` admits only units of the geometry that the region was made for (A3),
        // so the result lies inside the allocation.
        unsafe { self.start.add(offset) }.cast()
    }

    /// Where a span begins, and how many bytes it has.
    #[inline]
    pub(crate) fn bytes_of(
        &self,
        geometry: &Geometry,
        span: Span,
    ) -> (NonNull<MaybeUninit<u8>>, usize) {
        (self.address_of(geometry, span.first()), geometry.bytes_of(span.units()))
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `new` allocated it with this layout, and nobody has a span of it any more (A2).
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}
