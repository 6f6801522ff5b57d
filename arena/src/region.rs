//! The one block of memory from which an arena and its reserve give out spans.

use std::{
    alloc::{Layout, alloc, dealloc},
    mem::MaybeUninit,
    ptr::NonNull,
    sync::Arc,
};

use crate::{
    error::BuildError,
    geometry::{Geometry, Span},
};

/// The memory of an arena: all that was allocated, or what is set aside at its end.
#[derive(Debug)]
pub(crate) struct Region {
    start: NonNull<u8>,
    /// Keeps the memory.
    allocation: Arc<Allocation>,
}

/// Memory that is allocated once, and given back once.
#[derive(Debug)]
struct Allocation {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it is plain memory, and only its `Drop` touches it.
unsafe impl Send for Allocation {}

// SAFETY: as above.
unsafe impl Sync for Allocation {}

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
        Ok(Self { start, allocation: Arc::new(Allocation { start, layout }) })
    }

    /// The units behind the ordinary ones, as a region of their own.
    pub(crate) fn of_reserve(&self, geometry: &Geometry) -> Self {
        let start = self.address_of(geometry, geometry.ordinary_units()).cast();
        Self { start, allocation: Arc::clone(&self.allocation) }
    }

    /// Where a unit begins.
    #[inline]
    pub(crate) fn address_of(&self, geometry: &Geometry, unit: u32) -> NonNull<MaybeUninit<u8>> {
        let offset = geometry.offset_of(unit);
        // SAFETY: `offset_of` admits only units of the geometry that the region was made for (A3):
        // all of the allocation, or for a reserve as many as there are behind its start. So the
        // result lies inside the allocation.
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

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: `Region::new` allocated it with this layout, and nobody has a span of it any
        // more: a lease keeps its arena alive (A2), and that its region.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}
