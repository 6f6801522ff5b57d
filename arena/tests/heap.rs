//! How often the arena uses the heap: never on the common way, once in `freeze`. And when its
//! memory goes back.
//!
//! A binary of its own, because it counts what its global allocator is asked for, on each thread.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    future::Future,
    num::NonZeroUsize,
    pin::pin,
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Waker},
    thread,
};

use arena::{AllocError, BuddyArena, Buffer, FixedArena, Frozen};
use bytes::{Buf, BufMut};

/// What a thread has asked the heap for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Uses {
    allocations: u64,
    frees: u64,
    bytes_freed: usize,
}

impl Uses {
    const NONE: Self = Self { allocations: 0, frees: 0, bytes_freed: 0 };
}

thread_local! {
    static USES: Cell<Uses> = const { Cell::new(Uses::NONE) };
}

/// The region of one test has this size, and nothing else has.
const WATCHED_BYTES: usize = 1_234_560;

static WATCHED_ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static WATCHED_FREES: AtomicUsize = AtomicUsize::new(0);

fn count_allocation(bytes: usize) {
    if bytes == WATCHED_BYTES {
        WATCHED_ALLOCATIONS.fetch_add(1, SeqCst);
    }
    let uses = USES.get();
    USES.set(Uses { allocations: uses.allocations + 1, ..uses });
}

fn count_free(bytes: usize) {
    if bytes == WATCHED_BYTES {
        WATCHED_FREES.fetch_add(1, SeqCst);
    }
    let uses = USES.get();
    let (frees, bytes_freed) = (uses.frees + 1, uses.bytes_freed + bytes);
    USES.set(Uses { frees, bytes_freed, ..uses });
}

/// The system's heap, counted.
struct Counting;

#[global_allocator]
static HEAP: Counting = Counting;

// SAFETY: every call is passed on to the system's allocator as it is. Counting touches a `Cell`
// that needs neither initialisation nor a destructor, so it does not allocate and works until the
// thread is gone.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count_allocation(layout.size());
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count_allocation(layout.size());
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count_free(layout.size());
        count_allocation(new_size);
        // SAFETY: the caller's promise is the one that is asked for; `start` came from the system.
        unsafe { System.realloc(start, layout, new_size) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        count_free(layout.size());
        // SAFETY: the caller's promise is the one that is asked for; `start` came from the system.
        unsafe { System.dealloc(start, layout) }
    }
}

/// What `work` asks the heap for, on this thread.
fn uses_of<T>(work: impl FnOnce() -> T) -> (Uses, T) {
    let before = USES.get();
    let result = work();
    let after = USES.get();
    let uses = Uses {
        allocations: after.allocations - before.allocations,
        frees: after.frees - before.frees,
        bytes_freed: after.bytes_freed - before.bytes_freed,
    };
    (uses, result)
}

#[track_caller]
fn assert_no_heap(work: impl FnOnce()) {
    let (uses, ()) = uses_of(work);
    assert_eq!(uses, Uses::default());
}

const ROUNDS: usize = if cfg!(miri) { 20 } else { 5000 };

/// More than one word of the map has units, so that claims move between words.
const HELD: usize = 200;

const SIZES: [usize; 6] = [1, 256, 700, 5000, 16 << 10, 100_000];

fn nz(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).expect("tests ask for sizes above zero")
}

/// An arena of slots that this thread has used before.
fn warm_fixed(slots: usize) -> FixedArena {
    let arena = FixedArena::builder(nz(slots), nz(256)).build().unwrap();
    drop(arena.allocate().unwrap());
    arena
}

/// An arena of blocks that this thread has used before.
fn warm_buddy(total: usize) -> BuddyArena {
    let arena = BuddyArena::builder(nz(total), nz(256)).build().unwrap();
    drop(arena.allocate(nz(1)).unwrap());
    arena
}

/// Everything that a buffer can go through without the heap.
fn live_and_die(mut buffer: Buffer) {
    buffer.put_slice(b"head:");
    buffer.put_u64(7);
    buffer.shrink_to_fit();
    let mut body: Frozen = buffer.into_frozen();
    let clone = body.clone();
    let slice = clone.slice(1..4);
    let head = body.split_to(5);
    body.advance(1);
    assert_eq!((&head[..], &slice[..], body.len()), (&b"head:"[..], &b"ead"[..], 7));
    drop((clone, head, slice));
    let mut again = body.try_into_buffer().expect("the only reference");
    again.put_u8(1);
    drop(again.into_frozen());
}

#[test]
fn the_counter_counts() {
    let (uses, _kept) = uses_of(|| {
        let kept = Box::new(1u64);
        drop(Box::new([0u8; 100]));
        kept
    });
    assert_eq!(uses, Uses { allocations: 2, frees: 1, bytes_freed: 100 });
}

#[test]
fn a_slot_lives_and_dies_without_the_heap() {
    let arena = warm_fixed(1000);
    assert_no_heap(|| (0..ROUNDS).for_each(|_| live_and_die(arena.allocate().unwrap())));
}

#[test]
fn blocks_of_all_sizes_live_and_die_without_the_heap() {
    let arena = warm_buddy(4 << 20);
    assert_no_heap(|| {
        for round in 0..ROUNDS {
            live_and_die(arena.allocate(nz(SIZES[round % SIZES.len()])).unwrap());
        }
    });
}

#[test]
fn waiting_uses_no_heap() {
    let arena = FixedArena::builder(nz(1), nz(256)).build_async().unwrap();
    drop(arena.allocate().unwrap());
    let mut context = Context::from_waker(Waker::noop());
    assert_no_heap(|| {
        for _ in 0..ROUNDS {
            let held = arena.allocate().unwrap();
            let mut served = pin!(arena.allocate_async());
            let mut cancelled = pin!(arena.allocate_async());
            assert!(served.as_mut().poll(&mut context).is_pending());
            assert!(cancelled.as_mut().poll(&mut context).is_pending());
            drop(held);
            assert!(served.as_mut().poll(&mut context).is_ready());
        }
    });
}

#[test]
fn slots_live_and_die_without_the_heap_while_many_are_held() {
    let arena = warm_fixed(1000);
    let mut held: Vec<Frozen> = Vec::with_capacity(HELD);
    assert_no_heap(|| {
        while held.len() < HELD {
            held.push(arena.allocate().unwrap().into_frozen());
        }
        for round in 0..ROUNDS {
            live_and_die(arena.allocate().unwrap());
            held[round % HELD] = arena.allocate().unwrap().into_frozen();
        }
        held.clear();
    });
}

#[test]
fn blocks_live_and_die_without_the_heap_while_many_are_held() {
    let arena = warm_buddy(64 << 20);
    let mut held: Vec<Frozen> = Vec::with_capacity(HELD);
    assert_no_heap(|| {
        while held.len() < HELD {
            let size = SIZES[held.len() % SIZES.len()];
            held.push(arena.allocate(nz(size)).unwrap().into_frozen());
        }
        for round in 0..ROUNDS {
            let size = SIZES[round % SIZES.len()];
            live_and_die(arena.allocate(nz(size)).unwrap());
            held[round % HELD] = arena.allocate(nz(size)).unwrap().into_frozen();
        }
        held.clear();
    });
}

#[test]
fn what_another_thread_allocated_is_freed_without_the_heap() {
    let (slots, blocks) = (warm_fixed(100), warm_buddy(1 << 20));
    let mut held = Vec::with_capacity(200);
    held.extend((0..100).map(|_| slots.allocate().unwrap().into_frozen()));
    held.extend((0..100).map(|_| blocks.allocate(nz(1000)).unwrap().into_frozen()));
    let uses = thread::scope(|scope| {
        let freeing = scope.spawn(|| {
            drop((slots.allocate(), blocks.allocate(nz(1))));
            uses_of(|| held.clear()).0
        });
        freeing.join().unwrap()
    });
    assert_eq!(uses, Uses::default());
}

#[test]
fn a_refusal_does_without_the_heap() {
    let (slots, blocks) = (warm_fixed(100), warm_buddy(1 << 16));
    let held: Vec<_> = (0..100).map(|_| slots.allocate().unwrap()).collect();
    let block = blocks.allocate(nz(1)).unwrap();
    assert_no_heap(|| {
        for _ in 0..ROUNDS {
            assert_eq!(slots.allocate().unwrap_err(), AllocError::ArenaFull);
            assert_eq!(blocks.allocate(nz(1 << 16)).unwrap_err(), AllocError::ArenaFull);
            assert_eq!(blocks.allocate(nz(1 << 17)).unwrap_err(), AllocError::RequestTooLarge);
        }
    });
    drop((held, block));
}

#[test]
fn a_write_that_does_not_fit_does_without_the_heap() {
    let arena = warm_fixed(1);
    let mut buffer = arena.allocate().unwrap();
    assert_no_heap(|| {
        for _ in 0..ROUNDS {
            assert_eq!(buffer.try_put_slice(&[1; 257]).unwrap_err().requested, 257);
        }
    });
}

#[test]
fn freezing_a_slot_into_bytes_allocates_once() {
    let arena = warm_fixed(1000);
    for _ in 0..ROUNDS {
        let mut buffer = arena.allocate().unwrap();
        buffer.put_slice(b"bytes");
        let (freezing, bytes) = uses_of(|| buffer.freeze());
        assert_eq!((freezing.allocations, freezing.frees), (1, 0));
        let (sharing, ()) = uses_of(|| drop((bytes.clone(), bytes.slice(1..3))));
        assert_eq!(sharing, Uses::default());
        let (dropping, ()) = uses_of(|| drop(bytes));
        assert_eq!((dropping.allocations, dropping.frees), (0, 1));
    }
}

#[test]
fn freezing_a_block_into_bytes_allocates_once() {
    let arena = warm_buddy(4 << 20);
    for round in 0..ROUNDS {
        let mut buffer = arena.allocate(nz(SIZES[round % SIZES.len()])).unwrap();
        buffer.put_slice(b"bytes");
        let (freezing, bytes) = uses_of(|| buffer.freeze());
        assert_eq!((freezing.allocations, freezing.frees), (1, 0));
        let (dropping, ()) = uses_of(|| drop(bytes));
        assert_eq!((dropping.allocations, dropping.frees), (0, 1));
    }
}

#[test]
fn a_clone_of_the_handle_does_without_the_heap() {
    let arena = warm_fixed(1);
    assert_no_heap(|| drop(arena.clone()));
}

/// The tables of an arena alone are larger than this, and nothing else that these tests drop is.
const ARENA_BYTES_MIN: usize = 4096;

#[track_caller]
fn assert_frees_the_arena(work: impl FnOnce()) {
    let (uses, ()) = uses_of(work);
    assert!(uses.bytes_freed >= ARENA_BYTES_MIN, "{uses:?}");
}

#[track_caller]
fn assert_frees_no_arena(work: impl FnOnce()) {
    let (uses, ()) = uses_of(work);
    assert!(uses.bytes_freed < ARENA_BYTES_MIN, "{uses:?}");
}

#[test]
fn the_last_handle_frees_an_arena_that_nobody_uses() {
    let arena = warm_fixed(100);
    let clone = arena.clone();
    assert_frees_no_arena(|| drop(arena));
    assert_frees_the_arena(|| drop(clone));
}

#[test]
fn the_last_buffer_frees_an_arena_without_handles() {
    let arena = warm_buddy(1 << 20);
    let (first, second) = (arena.allocate(nz(1)).unwrap(), arena.allocate(nz(5000)).unwrap());
    assert_frees_no_arena(|| drop(arena));
    assert_frees_no_arena(|| drop(first));
    assert_frees_the_arena(|| drop(second));
}

#[test]
fn the_last_slice_frees_an_arena_without_handles() {
    let arena = warm_fixed(100);
    let mut buffer = arena.allocate().unwrap();
    buffer.put_slice(b"slices");
    let frozen = buffer.into_frozen();
    let slice = frozen.slice(2..3);
    let bytes = frozen.clone().into_bytes();
    let of_bytes = bytes.slice(1..2);
    assert_frees_no_arena(|| drop(arena));
    assert_frees_no_arena(|| drop((frozen, bytes)));
    assert_frees_no_arena(|| drop(of_bytes));
    assert_frees_the_arena(|| drop(slice));
}

#[test]
fn a_spill_frees_an_arena_without_handles() {
    let arena = FixedArena::builder(nz(100), nz(256)).auto_spill().build().unwrap();
    let mut buffer = arena.allocate().unwrap();
    drop(arena);
    assert_frees_the_arena(|| buffer.put_bytes(1, 257));
    assert_eq!(buffer.len(), 257);
}

#[test]
fn a_shrunk_block_frees_an_arena_without_handles() {
    let arena = warm_buddy(1 << 20);
    let mut buffer = arena.allocate(nz(1 << 20)).unwrap();
    buffer.put_bytes(1, 70_000);
    drop(arena);
    assert_frees_no_arena(|| buffer.shrink_to_fit());
    assert_frees_the_arena(|| drop(buffer));
}

#[test]
fn another_thread_frees_an_arena_without_handles() {
    let arena = warm_buddy(1 << 20);
    let bytes = arena.allocate(nz(1)).unwrap().freeze();
    assert_frees_no_arena(|| drop(arena));
    thread::spawn(move || assert_frees_the_arena(|| drop(bytes))).join().unwrap();
}

#[test]
fn whoever_is_last_frees_the_region_once() {
    const ARENAS: usize = if cfg!(miri) { 3 } else { 500 };
    const HOLDERS: usize = 3;

    for _ in 0..ARENAS {
        let arena = FixedArena::builder(nz(10), nz(WATCHED_BYTES / 10)).build().unwrap();
        let mut buffer = arena.allocate().unwrap();
        buffer.put_u8(1);
        let frozen = buffer.into_frozen();
        let start = Barrier::new(HOLDERS);
        thread::scope(|scope| {
            for _ in 0..HOLDERS {
                let (start, handle, clone) = (&start, arena.clone(), frozen.clone());
                let buffer = arena.allocate().unwrap();
                scope.spawn(move || {
                    start.wait();
                    drop(handle);
                    drop((clone, buffer));
                });
            }
            drop((arena, frozen));
        });
        assert_eq!(WATCHED_ALLOCATIONS.load(SeqCst), WATCHED_FREES.load(SeqCst));
    }
    assert_eq!(WATCHED_ALLOCATIONS.load(SeqCst), ARENAS);
}
