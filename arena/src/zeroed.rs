//! Tables whose entries start as zero bytes.
//!
//! The memory comes zeroed from the system, so a large table that is never touched costs address
//! space and no pages: the words below a block that was never opened, the counts of buffers that
//! were never shared.

use crate::{
    error::BuildError,
    sync::{AtomicU32, AtomicU64},
};

/// Words in one [`Row`].
pub(crate) const ROW_WORDS: usize = if cfg!(all(test, arena_loom)) { 1 } else { 16 };

/// Words that share a pair of cache lines with each other and with nothing else.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Row([AtomicU64; ROW_WORDS]);

impl Row {
    #[inline]
    pub(crate) fn word(&self, index: usize) -> &AtomicU64 {
        &self.0[index]
    }
}

/// Words of one cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct CacheLine([AtomicU64; 8]);

impl CacheLine {
    #[inline]
    pub(crate) fn word(&self, index: usize) -> &AtomicU64 {
        &self.0[index]
    }
}

/// A type for which zero bytes are the value that [`Default`] gives.
///
/// # Safety
///
/// The all-zero byte pattern must be a valid value of the type.
pub(crate) unsafe trait Zeroed: Default {}

// SAFETY: an atomic integer has the representation of its integer, and zero is one.
unsafe impl Zeroed for AtomicU32 {}

// SAFETY: as above.
unsafe impl Zeroed for AtomicU64 {}

// SAFETY: an array of atomic integers, as above. Padding may be anything.
unsafe impl Zeroed for Row {}

// SAFETY: as above.
unsafe impl Zeroed for CacheLine {}

/// Makes a table of `len` zero entries.
///
/// # Errors
///
/// [`BuildError::OutOfMemory`] if there is not enough memory for it.
#[cfg(not(all(test, arena_loom)))]
pub(crate) fn table<T: Zeroed>(len: usize) -> Result<Box<[T]>, BuildError> {
    use std::{alloc::Layout, ptr};

    let layout = Layout::array::<T>(len).map_err(|_| BuildError::SizeOverflow)?;
    if layout.size() == 0 {
        return Ok(Box::default());
    }
    // SAFETY: the layout has a size above zero.
    let start = unsafe { std::alloc::alloc_zeroed(layout) }.cast::<T>();
    if start.is_null() {
        return Err(BuildError::OutOfMemory);
    }
    let entries = ptr::slice_from_raw_parts_mut(start, len);
    // SAFETY: `start` is a fresh allocation of the global allocator with the layout of `[T; len]`,
    // and its zero bytes are `len` valid entries (`Zeroed`). Nobody else has the pointer.
    Ok(unsafe { Box::from_raw(entries) })
}

/// As above. A loom type has state of its own and must be made one by one.
#[cfg(all(test, arena_loom))]
pub(crate) fn table<T: Zeroed>(len: usize) -> Result<Box<[T]>, BuildError> {
    Ok((0..len).map(|_| T::default()).collect())
}
