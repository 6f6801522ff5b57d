//! Real threads that disturb each other: nothing is lent twice, nothing is refused without need,
//! nothing is lost.

use std::{
    collections::HashSet,
    sync::{
        Barrier, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
};

use arena::{AllocError, BuddyArena, Buffer, FixedArena, Frozen};
use bytes::{BufMut, Bytes};

use crate::support::{Arena, Numbers, address_of, buddy, fixed, in_both_arenas, nz};

in_both_arenas!(
    the_only_buffer_has_one_owner_at_a_time,
    the_last_handle_may_drop_while_others_free,
    the_last_handle_may_drop_while_others_allocate,
);

/// More threads than have a place of their own in an arena.
const MANY: usize = if cfg!(miri) { 6 } else { 100 };

const THREADS: usize = if cfg!(miri) { 3 } else { 8 };

/// Rounds of each thread, for tests of many cheap rounds.
const ROUNDS: usize = if cfg!(miri) { 20 } else { 10_000 };

const MIN: usize = 16;

/// A pattern that nobody else writes: it depends on the thread and the round.
fn fill(buffer: &mut Buffer, mark: u64) {
    let whole = buffer.capacity() / 8;
    for _ in 0..whole.min(64) {
        buffer.put_u64(mark);
    }
}

#[track_caller]
fn assert_filled(data: &[u8], mark: u64) {
    let intact = data.chunks_exact(8).all(|word| word == mark.to_be_bytes());
    assert!(intact && data.len() >= 8, "somebody else wrote into {mark:#x}: {data:?}");
}

fn mark_of(thread: usize, round: usize) -> u64 {
    u64::try_from(thread << 32 | round).expect("a 64-bit number")
}

/// Permits that bound how many buffers there are. One is taken before an allocation and given back
/// after the drop.
struct Permits(AtomicUsize);

impl Permits {
    fn new(count: usize) -> Self {
        Self(AtomicUsize::new(count))
    }

    fn try_take(&self) -> bool {
        let take = |count: usize| count.checked_sub(1);
        self.0.fetch_update(SeqCst, SeqCst, take).is_ok()
    }

    fn give(&self) {
        self.0.fetch_add(1, SeqCst);
    }

    fn count(&self) -> usize {
        self.0.load(SeqCst)
    }
}

#[track_caller]
fn assert_is_one_block(arena: &BuddyArena) {
    let metrics = arena.metrics();
    assert_eq!(metrics.bytes_live, 0);
    assert_eq!(metrics.allocations_ok, metrics.frees);
    assert_eq!(metrics.largest_free_block, arena.total_size());
    let whole = arena.allocate(nz(arena.total_size()));
    assert!(whole.is_ok(), "{}", arena.occupancy());
}

#[track_caller]
fn assert_has_all_slots(arena: &FixedArena) {
    let metrics = arena.metrics();
    assert_eq!((metrics.bytes_live, metrics.allocations_ok), (0, metrics.frees));
    let all: Vec<_> = (0..arena.slot_count()).map(|_| arena.allocate()).collect();
    assert!(all.iter().all(Result::is_ok), "{}", arena.occupancy());
    assert_eq!(arena.allocate().unwrap_err(), AllocError::ArenaFull);
}

#[test]
fn slots_that_others_free_are_lent_once() {
    let arena = fixed(150, 64);
    pass_around(|_| arena.allocate());
    assert_has_all_slots(&arena);
}

#[test]
fn blocks_that_others_free_are_lent_once() {
    let arena = buddy(1 << 16, MIN);
    pass_around(|numbers| arena.allocate(nz(1 + numbers.below(2000))));
    assert_is_one_block(&arena);
}

#[test]
fn shrunk_blocks_that_others_free_are_lent_once() {
    let arena = buddy(1 << 16, MIN);
    pass_around(|numbers| {
        let mut buffer = arena.allocate(nz(1 + numbers.below(8000)))?;
        buffer.put_bytes(0, numbers.below(buffer.capacity() + 1));
        buffer.shrink_to_fit();
        buffer.clear();
        Ok(buffer)
    });
    assert_is_one_block(&arena);
}

/// Each thread allocates, fills, and hands what it has to the next thread, which verifies and frees
/// it.
fn pass_around(allocate: impl Fn(&mut Numbers) -> Result<Buffer, AllocError> + Sync) {
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..THREADS).map(|_| mpsc::sync_channel::<(u64, Frozen)>(16)).unzip();
    thread::scope(|scope| {
        for (index, inbox) in receivers.into_iter().enumerate() {
            let next = senders[(index + 1) % THREADS].clone();
            let allocate = &allocate;
            scope.spawn(move || {
                let mut numbers = Numbers::from_seed(mark_of(index, 0));
                let mut kept = Vec::new();
                for round in 0..ROUNDS {
                    for (mark, frozen) in inbox.try_iter() {
                        assert_filled(&frozen, mark);
                    }
                    let Ok(mut buffer) = allocate(&mut numbers) else {
                        kept.clear();
                        continue;
                    };
                    let mark = mark_of(index, round);
                    fill(&mut buffer, mark);
                    match numbers.below(4) {
                        0 => kept.push((mark, buffer.into_frozen())),
                        1 => assert_filled(&buffer, mark),
                        // What the next thread has no room for is freed here.
                        _ => drop(next.try_send((mark, buffer.into_frozen()))),
                    }
                    if kept.len() > 8 {
                        let (mark, frozen) = kept.swap_remove(numbers.below(kept.len()));
                        assert_filled(&frozen, mark);
                    }
                }
                kept.iter().for_each(|(mark, frozen)| assert_filled(frozen, *mark));
                drop(next);
            });
        }
        drop(senders);
    });
}

#[test]
fn clones_on_many_threads_are_the_last_once() {
    let arena = fixed(4, 64);
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..THREADS).map(|_| mpsc::sync_channel::<Frozen>(64)).unzip();
    thread::scope(|scope| {
        for inbox in receivers {
            scope.spawn(move || {
                for frozen in inbox {
                    let second = frozen.clone();
                    assert_filled(&second.slice(8..), 0x0102_0304_0506_0708);
                }
            });
        }
        let mut sent = 0;
        while sent < ROUNDS {
            let Ok(mut buffer) = arena.allocate() else {
                thread::yield_now();
                continue;
            };
            fill(&mut buffer, 0x0102_0304_0506_0708);
            let frozen = buffer.into_frozen();
            for sender in &senders {
                sender.send(frozen.clone()).unwrap();
            }
            sent += 1;
        }
        drop(senders);
    });
    assert_eq!(arena.metrics().frozen, u64::try_from(ROUNDS).unwrap());
    assert_has_all_slots(&arena);
}

#[test]
fn bytes_become_writable_only_when_their_last_reader_is_gone() {
    let arena = fixed(1, 64);
    let (sender, receiver) = mpsc::channel::<(u64, Frozen)>();
    thread::scope(|scope| {
        scope.spawn(move || {
            for (mark, frozen) in receiver {
                let slice = frozen.slice(8..);
                drop(frozen);
                assert_filled(&slice, mark);
            }
        });
        let mut buffer = arena.allocate().unwrap();
        for round in 0..ROUNDS {
            buffer.clear();
            fill(&mut buffer, mark_of(1, round));
            let mut frozen = buffer.into_frozen();
            sender.send((mark_of(1, round), frozen.clone())).unwrap();
            buffer = loop {
                match frozen.try_into_buffer() {
                    Ok(buffer) => break buffer,
                    Err(shared) => frozen = shared,
                }
                thread::yield_now();
            };
        }
        drop(sender);
    });
    assert_has_all_slots(&arena);
}

#[test]
fn a_thousand_threads_come_and_go() {
    const GENERATIONS: usize = if cfg!(miri) { 2 } else { 50 };
    const AT_ONCE: usize = if cfg!(miri) { 4 } else { 20 };

    let (slots, blocks) = (fixed(AT_ONCE * 2, 64), buddy(1 << 20, 64));
    let mut from_before: Vec<(u64, Bytes)> = Vec::new();
    for generation in 0..GENERATIONS {
        let (sender, receiver) = mpsc::channel();
        thread::scope(|scope| {
            for index in 0..AT_ONCE {
                let (sender, slots, blocks) = (sender.clone(), &slots, &blocks);
                // What one thread leaves behind, another frees.
                let inherited = from_before.pop();
                scope.spawn(move || {
                    let mark = mark_of(generation, index);
                    let mut slot = slots.allocate().expect("half of the slots are free");
                    let mut block = blocks.allocate(nz(500)).expect("most blocks are free");
                    fill(&mut slot, mark);
                    fill(&mut block, mark);
                    if let Some((mark, bytes)) = inherited {
                        assert_filled(&bytes, mark);
                    }
                    assert_filled(&slot, mark);
                    sender.send((mark, block.freeze())).unwrap();
                });
            }
        });
        drop(sender);
        from_before = receiver.into_iter().collect();
        assert_eq!(from_before.len(), AT_ONCE);
    }
    drop(from_before);
    assert_has_all_slots(&slots);
    assert_is_one_block(&blocks);
    let threads = u64::try_from(GENERATIONS * AT_ONCE).unwrap();
    assert!(slots.metrics().allocations_ok >= threads);
}

#[test]
fn many_threads_at_once_hold_all_slots_between_them() {
    const EACH: usize = 3;

    let arena = fixed(MANY * EACH, 32);
    let (held, done) = (Barrier::new(MANY + 1), Barrier::new(MANY + 1));
    let places = Mutex::new(HashSet::new());
    thread::scope(|scope| {
        for _ in 0..MANY {
            scope.spawn(|| {
                let mine: Vec<_> = (0..EACH).map(|_| arena.allocate()).collect();
                held.wait();
                done.wait();
                // Nobody allocates any more, so an address that comes up twice was lent twice.
                for buffer in mine {
                    let mut buffer = buffer.expect("there are slots for all");
                    let is_new = places.lock().unwrap().insert(address_of(&mut buffer));
                    assert!(is_new, "a slot is lent twice");
                }
            });
        }
        held.wait();
        let one_more = arena.allocate().map(|_| ());
        let live = arena.metrics().bytes_live;
        done.wait();
        assert_eq!((one_more, live), (Err(AllocError::ArenaFull), MANY * EACH * 32));
    });
    assert_eq!(places.into_inner().unwrap().len(), MANY * EACH);
    assert_has_all_slots(&arena);
}

#[test]
fn many_threads_at_once_use_blocks_and_leave_one() {
    let arena = buddy(1 << 20, MIN);
    let alive = Barrier::new(MANY);
    thread::scope(|scope| {
        for index in 0..MANY {
            let (arena, alive) = (&arena, &alive);
            scope.spawn(move || {
                let mut numbers = Numbers::from_seed(mark_of(index, 1));
                // All of them have used the arena before one ends, so that places are shared.
                let first = arena.allocate(nz(MIN));
                alive.wait();
                assert!(first.is_ok());
                for round in 0..ROUNDS / 50 {
                    let mut buffer = arena.allocate(nz(8 + numbers.below(1000))).unwrap();
                    fill(&mut buffer, mark_of(index, round));
                    assert_filled(&buffer, mark_of(index, round));
                }
            });
        }
    });
    assert_is_one_block(&arena);
}

fn the_only_buffer_has_one_owner_at_a_time<A: Arena>() {
    let arena = A::with_room_for_one();
    let owners = AtomicUsize::new(0);
    thread::scope(|scope| {
        for index in 0..THREADS {
            let (arena, owners) = (&arena, &owners);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let Ok(mut buffer) = arena.take() else {
                        continue;
                    };
                    assert_eq!(owners.fetch_add(1, SeqCst), 0, "two owners");
                    fill(&mut buffer, mark_of(index, round));
                    assert_filled(&buffer, mark_of(index, round));
                    owners.fetch_sub(1, SeqCst);
                }
            });
        }
    });
    assert!(arena.has_room());
    let figures = arena.figures();
    assert_eq!((figures.allocations_ok, figures.bytes_live), (figures.frees, 0));
}

/// Threads that take a permit, allocate, hold something for a while and give it back, in every way
/// there is.
fn assert_never_refused(permits: usize, allocate: impl Fn() -> Result<Buffer, AllocError> + Sync) {
    let available = Permits::new(permits);
    let (sender, receiver) = mpsc::channel::<Frozen>();
    let receiver = Mutex::new(receiver);
    thread::scope(|scope| {
        for index in 0..THREADS {
            let (available, allocate) = (&available, &allocate);
            let (sender, receiver) = (sender.clone(), &receiver);
            scope.spawn(move || {
                let mut numbers = Numbers::from_seed(mark_of(index, 2));
                let mut held = Vec::new();
                for _ in 0..ROUNDS {
                    if available.try_take() {
                        held.push(allocate().expect("there is memory for everyone with a permit"));
                    }
                    match numbers.below(4) {
                        // To whoever looks next.
                        0 => held.pop().into_iter().for_each(|buffer: Buffer| {
                            sender.send(buffer.into_frozen()).unwrap();
                        }),
                        1 => {
                            let found = receiver.lock().unwrap().try_recv();
                            if let Ok(frozen) = found {
                                drop(frozen);
                                available.give();
                            }
                        }
                        2 if !held.is_empty() => {
                            drop(held.swap_remove(numbers.below(held.len())));
                            available.give();
                        }
                        _ => {}
                    }
                }
                for buffer in held {
                    drop(buffer);
                    available.give();
                }
            });
        }
    });
    drop(sender);
    for frozen in receiver.into_inner().unwrap() {
        drop(frozen);
        available.give();
    }
    assert_eq!(available.count(), permits);
}

#[test]
fn no_slot_is_refused_while_one_is_free() {
    for count in [2, 3, 4, 64, 65, 130] {
        let arena = fixed(count, 32);
        assert_never_refused(count - 1, || arena.allocate());
        assert_eq!(arena.metrics().allocations_failed, 0, "{count} slots");
        assert_has_all_slots(&arena);
    }
}

#[test]
fn no_slot_is_refused_when_there_are_exactly_enough() {
    for count in [1, 2, 5, 64, 65, 129] {
        let arena = fixed(count, 32);
        assert_never_refused(count, || arena.allocate());
        assert_eq!(arena.metrics().allocations_failed, 0, "{count} slots");
        assert_has_all_slots(&arena);
    }
}

#[test]
fn no_block_is_refused_where_blocks_of_one_size_suffice() {
    // Blocks of one size fit exactly as often as the arena is a multiple of it, below and above a
    // word.
    for (order, fit) in
        [(0, 2), (0, 64), (0, 256), (3, 16), (5, 4), (6, 2), (6, 8), (8, 4), (12, 2)]
    {
        let size = MIN << order;
        let arena = buddy(size * fit, MIN);
        for permits in [fit - 1, fit] {
            assert_never_refused(permits, || arena.allocate(nz(size)));
            assert_eq!(arena.metrics().allocations_failed, 0, "{fit} blocks of {size}");
        }
        assert_is_one_block(&arena);
    }
}

#[test]
fn no_block_is_refused_where_mixed_sizes_must_fit() {
    // No block is larger than a run, so each touches one. Whoever has a permit shares it with fewer
    // others than there are runs, and finds one that nobody touches.
    const RUNS: usize = 16;

    let large = 64 * MIN;
    let arena = buddy(RUNS * large, MIN);
    let turn = AtomicUsize::new(0);
    assert_never_refused(RUNS, || {
        let size = large >> (turn.fetch_add(1, SeqCst) % 7);
        arena.allocate(nz(size))
    });
    assert_eq!(arena.metrics().allocations_failed, 0);
    assert_is_one_block(&arena);
}

#[test]
fn two_halves_freed_at_once_always_merge() {
    for (total, half) in [(128 * MIN, 64 * MIN), (2 * MIN, MIN), (64 * MIN, 32 * MIN)] {
        let arena = buddy(total, MIN);
        let start = Barrier::new(2);
        let (sender, receiver) = mpsc::channel::<Buffer>();
        thread::scope(|scope| {
            scope.spawn(|| {
                for buffer in receiver {
                    start.wait();
                    drop(buffer);
                    start.wait();
                }
            });
            for _ in 0..ROUNDS {
                let mine = arena.allocate(nz(half)).unwrap();
                sender.send(arena.allocate(nz(half)).unwrap()).unwrap();
                start.wait();
                drop(mine);
                start.wait();
                assert!(arena.allocate(nz(total)).is_ok());
            }
            drop(sender);
        });
        assert_is_one_block(&arena);
    }
}

#[test]
fn all_units_freed_by_many_threads_at_once_merge() {
    const UNITS: usize = if cfg!(miri) { 70 } else { 4096 * 2 };

    let arena = buddy(UNITS.next_power_of_two() * MIN, MIN);
    for round in 0..if cfg!(miri) { 1 } else { 20 } {
        let mut shares: Vec<Vec<Buffer>> = (0..THREADS).map(|_| Vec::new()).collect();
        for unit in 0..UNITS {
            shares[(unit * 7 + round) % THREADS].push(arena.allocate(nz(MIN)).unwrap());
        }
        let start = Barrier::new(THREADS);
        thread::scope(|scope| {
            for share in shares {
                scope.spawn(|| {
                    start.wait();
                    drop(share);
                });
            }
        });
        assert_is_one_block(&arena);
    }
}

#[test]
fn large_requests_get_through_between_small_ones() {
    let total = 1 << 16;
    let arena = buddy(total, MIN);
    let served = AtomicUsize::new(0);
    thread::scope(|scope| {
        for index in 0..THREADS {
            let (arena, served) = (&arena, &served);
            scope.spawn(move || {
                let mut numbers = Numbers::from_seed(mark_of(index, 3));
                for round in 0..ROUNDS {
                    let large = round % 16 == 0;
                    let size = if large { total / 4 } else { 1 + numbers.below(4 * MIN) };
                    let Ok(mut buffer) = arena.allocate(nz(size)) else {
                        continue;
                    };
                    served.fetch_add(usize::from(large), SeqCst);
                    fill(&mut buffer, mark_of(index, round));
                    assert_filled(&buffer, mark_of(index, round));
                }
            });
        }
    });
    assert!(served.into_inner() > 0);
    assert_is_one_block(&arena);
}

fn the_last_handle_may_drop_while_others_free<A: Arena>() {
    const ARENAS: usize = if cfg!(miri) { 5 } else { 2000 };

    let (sender, receiver) = mpsc::sync_channel::<Frozen>(4);
    let (bytes_sender, bytes_receiver) = mpsc::sync_channel::<Bytes>(4);
    thread::scope(|scope| {
        scope.spawn(move || receiver.into_iter().for_each(|frozen| assert_filled(&frozen, 7)));
        scope.spawn(move || bytes_receiver.into_iter().for_each(|bytes| assert_filled(&bytes, 7)));
        for _ in 0..ARENAS {
            let arena = A::with_room_for_one();
            let clone = arena.clone();
            let mut buffer = arena.take().unwrap();
            fill(&mut buffer, 7);
            let frozen = buffer.into_frozen();
            sender.send(frozen.clone()).unwrap();
            bytes_sender.send(frozen.clone().into_bytes()).unwrap();
            drop(arena);
            assert_filled(&frozen, 7);
            drop(frozen);
            drop(clone);
        }
        drop((sender, bytes_sender));
    });
}

fn the_last_handle_may_drop_while_others_allocate<A: Arena>() {
    const ARENAS: usize = if cfg!(miri) { 3 } else { 300 };

    let (senders, receivers): (Vec<_>, Vec<_>) = (0..3).map(|_| mpsc::sync_channel::<A>(2)).unzip();
    thread::scope(|scope| {
        for inbox in receivers {
            scope.spawn(move || {
                for arena in inbox {
                    let mut kept = None;
                    for _ in 0..20 {
                        if let Ok(mut buffer) = arena.take() {
                            fill(&mut buffer, 9);
                            kept = Some(buffer.into_frozen());
                        }
                    }
                    // The handle first, the buffer after it.
                    drop(arena);
                    kept.iter().for_each(|frozen| assert_filled(frozen, 9));
                }
            });
        }
        for _ in 0..ARENAS {
            let arena = A::with_room_for_one();
            for sender in &senders {
                sender.send(arena.clone()).unwrap();
            }
        }
        drop(senders);
    });
}

#[test]
fn many_threads_free_the_buffers_of_an_arena_whose_handles_are_gone() {
    const ARENAS: usize = if cfg!(miri) { 2 } else { 200 };

    for round in 0..ARENAS {
        let (slots, blocks) = (fixed(100, 64), buddy(1 << 14, MIN));
        let start = Barrier::new(THREADS);
        thread::scope(|scope| {
            for index in 0..THREADS {
                let mut held: Vec<_> = (0..8).map(|_| slots.allocate().unwrap()).collect();
                held.extend((0..8).map(|_| blocks.allocate(nz(100)).unwrap()));
                let start = &start;
                let handles = (index % 2 == 0).then(|| (slots.clone(), blocks.clone()));
                scope.spawn(move || {
                    held.iter_mut().for_each(|buffer| fill(buffer, mark_of(index, round)));
                    start.wait();
                    drop(handles);
                    for buffer in held {
                        assert_filled(&buffer, mark_of(index, round));
                    }
                });
            }
            drop((slots, blocks));
        });
    }
}
