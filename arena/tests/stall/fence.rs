//! A heap that never uses an address twice, so that to touch freed memory is a fault of the
//! processor.
//!
//! Off until [`fence_the_heap`] is called. From then on, blocks of some size get pages of their own
//! out of a range of addresses that is reserved once, and lose them when they are freed.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    ptr,
    sync::atomic::{
        AtomicBool, AtomicUsize,
        Ordering::{Relaxed, SeqCst},
    },
};

/// Address space that is reserved, of which little is ever in use.
const RANGE_BYTES: usize = 32 << 30;

const PAGE_BYTES: usize = 4096;

/// Smaller blocks come from the system's heap.
const FENCED_BYTES_MIN: usize = 64;

#[global_allocator]
static HEAP: Fence =
    Fence { is_on: AtomicBool::new(false), start: AtomicUsize::new(0), next: AtomicUsize::new(0) };

struct Fence {
    is_on: AtomicBool,
    /// Where the range starts.
    start: AtomicUsize,
    /// What lies before it was given out.
    next: AtomicUsize,
}

/// From now on, freed memory is not there any more.
pub(crate) fn fence_the_heap() {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: reserves addresses that nobody uses.
    let start = unsafe { libc::mmap(ptr::null_mut(), RANGE_BYTES, libc::PROT_NONE, flags, -1, 0) };
    assert_ne!(start, libc::MAP_FAILED, "address space can be reserved");
    HEAP.start.store(start.expose_provenance(), SeqCst);
    HEAP.next.store(start.expose_provenance(), SeqCst);
    HEAP.is_on.store(true, SeqCst);
}

impl Fence {
    fn has(&self, block: *mut u8) -> bool {
        let start = self.start.load(Relaxed);
        start != 0 && (start..start + RANGE_BYTES).contains(&block.addr())
    }

    /// The whole pages of a block.
    fn pages(layout: Layout) -> usize {
        layout.size().next_multiple_of(PAGE_BYTES)
    }

    /// Pages that were never given out, all zeroes. Null if there are none left.
    fn take(&self, layout: Layout) -> *mut u8 {
        let align = layout.align().max(PAGE_BYTES);
        let bytes = Self::pages(layout) + align - PAGE_BYTES;
        let from = self.next.fetch_add(bytes, Relaxed).next_multiple_of(align);
        if from + Self::pages(layout) > self.start.load(Relaxed) + RANGE_BYTES {
            return ptr::null_mut();
        }
        let block = ptr::with_exposed_provenance_mut::<u8>(from);
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: pages of the range, which are nobody else's.
        let outcome = unsafe { libc::mprotect(block.cast(), Self::pages(layout), rights) };
        if outcome == 0 { block } else { ptr::null_mut() }
    }
}

// SAFETY: a block of the range is given out once, is as large and as aligned as was asked for, and
// stays until it is freed. Everything else is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Fence {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if self.is_on.load(Relaxed) && layout.size() >= FENCED_BYTES_MIN {
            return self.take(layout);
        }
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if self.is_on.load(Relaxed) && layout.size() >= FENCED_BYTES_MIN {
            return self.take(layout);
        }
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if !self.has(block) {
            // SAFETY: as above; it came from there.
            return unsafe { System.dealloc(block, layout) };
        }
        // SAFETY: the pages are the block's alone, which its owner gives up.
        unsafe { libc::madvise(block.cast(), Self::pages(layout), libc::MADV_DONTNEED) };
        // SAFETY: as above.
        unsafe { libc::mprotect(block.cast(), Self::pages(layout), libc::PROT_NONE) };
    }
}
