//! Memory set aside: nobody else gets it, those who wait for it have a queue of their own, and the
//! figures of the whole include it.

use std::{
    collections::BTreeSet,
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use arena::{AllocError, BuddyArena, Buffer, BuildError, FixedArena};
use bytes::BufMut;
use proptest::prelude::*;

use crate::support::{address_of, nz};

/// Polls once.
fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Takes single units until there are none.
fn drain(mut allocate: impl FnMut() -> Result<Buffer, AllocError>) -> Vec<Buffer> {
    let mut taken = Vec::new();
    loop {
        match allocate() {
            Ok(buffer) => taken.push(buffer),
            Err(error) => {
                assert_eq!(error, AllocError::ArenaFull);
                return taken;
            }
        }
    }
}

fn addresses(buffers: &mut [Buffer]) -> BTreeSet<usize> {
    buffers.iter_mut().map(address_of).collect()
}

#[test]
fn ordinary_requests_leave_the_reserve_of_a_fixed_arena_alone() {
    let arena = FixedArena::builder(nz(70), nz(64)).reserve(129).build().unwrap();
    let reserve = arena.reserve().unwrap();
    assert_eq!((arena.slot_count(), reserve.slot_count()), (70, 3));
    let mut ordinary = drain(|| arena.allocate());
    assert_eq!(ordinary.len(), 67);
    let mut reserved = drain(|| reserve.allocate());
    assert_eq!(reserved.len(), 3);
    assert!(addresses(&mut ordinary).is_disjoint(&addresses(&mut reserved)));
}

#[test]
fn without_a_reserve_there_is_no_handle_to_one() {
    assert!(FixedArena::builder(nz(2), nz(64)).build().unwrap().reserve().is_none());
    assert!(BuddyArena::builder(nz(512), nz(256)).reserve(0).build().unwrap().reserve().is_none());
}

#[test]
fn a_reserve_that_leaves_too_little_is_refused() {
    let slots = FixedArena::builder(nz(2), nz(64));
    assert_eq!(slots.reserve(65).build().unwrap_err(), BuildError::ReserveTooLarge);
    let blocks = || BuddyArena::builder(nz(1024), nz(256));
    assert_eq!(blocks().reserve(513).build().unwrap_err(), BuildError::ReserveTooLarge);
    assert_eq!(blocks().reserve(usize::MAX).build().unwrap_err(), BuildError::ReserveTooLarge);
}

#[test]
fn a_request_larger_than_what_the_reserve_leaves_is_too_large() {
    let arena = BuddyArena::builder(nz(4096), nz(256)).reserve(256).build().unwrap();
    assert_eq!(arena.max_order(), 3);
    assert_eq!(arena.allocate(nz(2048)).unwrap().capacity(), 2048);
    assert_eq!(arena.allocate(nz(2049)).unwrap_err(), AllocError::RequestTooLarge);
    let reserve = arena.reserve().unwrap();
    assert_eq!(reserve.allocate(nz(257)).unwrap_err(), AllocError::RequestTooLarge);
}

#[test]
fn the_figures_and_the_snapshot_include_the_reserve() {
    let arena = BuddyArena::builder(nz(4096), nz(256)).reserve(1024).build().unwrap();
    let reserve = arena.reserve().unwrap();
    let block = reserve.allocate(nz(512)).unwrap();
    let metrics = arena.metrics();
    assert_eq!((metrics.bytes_reserved, metrics.bytes_live), (4096, 512));
    assert_eq!((metrics.allocations_ok, metrics.largest_free_block), (1, 2048));
    assert_eq!(arena.occupancy().free_bytes(), 4096 - 512);
    assert!(!arena.occupancy().is_free(12), "the reserve lies at the end");

    let _half = arena.allocate(nz(2048)).unwrap();
    let _quarter = arena.allocate(nz(1024)).unwrap();
    assert_eq!(arena.metrics().largest_free_block, 512, "the rest of the reserve");
    drop(block);
    assert_eq!(arena.metrics().largest_free_block, 1024);
    assert_eq!(reserve.metrics().bytes_reserved, 1024);
}

#[test]
fn what_the_reserve_gave_out_outlives_every_handle() {
    let arena = FixedArena::builder(nz(3), nz(64)).reserve(64).build().unwrap();
    let mut reserved = arena.reserve().unwrap().allocate().unwrap();
    let mut ordinary = arena.allocate().unwrap();
    drop(arena);
    reserved.put_slice(b"reserved");
    let reserved = reserved.into_frozen();
    ordinary.put_slice(b"ordinary");
    assert_eq!((&ordinary[..], &reserved[..]), (&b"ordinary"[..], &b"reserved"[..]));
    drop(ordinary);
    assert_eq!(&reserved[..], b"reserved");
}

#[test]
fn a_reserve_outlives_its_arena() {
    let reserve = {
        let arena = BuddyArena::builder(nz(4096), nz(256)).reserve(512).build().unwrap();
        arena.reserve().unwrap()
    };
    let mut block = reserve.allocate(nz(512)).unwrap();
    block.put_bytes(7, 512);
    assert_eq!(block[511], 7);
}

#[test]
fn a_reserve_can_have_a_reserve() {
    let arena = FixedArena::builder(nz(7), nz(64)).reserve(3 * 64).reserve(64).build().unwrap();
    let requests = arena.reserve().unwrap();
    let replies = requests.reserve().unwrap();
    assert!(replies.reserve().is_none());

    let (ordinary, requests, replies) =
        (drain(|| arena.allocate()), drain(|| requests.allocate()), drain(|| replies.allocate()));
    assert_eq!((ordinary.len(), requests.len(), replies.len()), (4, 2, 1));
    assert_eq!(arena.metrics().bytes_live, 7 * 64);
    assert_eq!(arena.occupancy().free_units(), 0);

    let blocks = BuddyArena::builder(nz(4096), nz(256)).reserve(2048).reserve(1025);
    assert_eq!(blocks.build().unwrap_err(), BuildError::ReserveTooLarge);
}

#[test]
fn who_waits_for_the_reserve_does_not_stand_behind_those_who_wait_for_the_rest() {
    let arena = FixedArena::builder(nz(2), nz(64)).reserve(64).build_async().unwrap();
    let reserve = arena.reserve().unwrap();
    let request = arena.allocate().unwrap();
    let reply = reserve.allocate().unwrap();

    let mut next_request = pin!(arena.allocate_async());
    let mut next_reply = pin!(reserve.allocate_async());
    assert!(poll(next_request.as_mut()).is_pending());
    assert!(poll(next_reply.as_mut()).is_pending());
    assert!(arena.has_waiters() && reserve.has_waiters());
    assert_eq!((arena.wait_metrics().waiters, reserve.wait_metrics().waiters), (1, 1));

    drop(reply);
    assert!(poll(next_reply.as_mut()).is_ready(), "the reply overtakes the request");
    assert!(poll(next_request.as_mut()).is_pending(), "what is set aside serves no request");
    drop(request);
    assert!(poll(next_request.as_mut()).is_ready());
}

proptest! {
    /// A1 and A7 with a reserve: every unit has one owner, and what has been dropped is whole
    /// again.
    #[test]
    fn ordinary_memory_and_reserve_make_up_the_whole(
        units_log2 in 1u32..15,
        reserve_log2 in 0u32..14,
        order in 0usize..14,
    ) {
        let unit = 16;
        let units = 1usize << units_log2;
        let reserved = 1usize << reserve_log2.min(units_log2 - 1);
        let arena = BuddyArena::builder(nz(units * unit), nz(unit))
            .reserve(reserved * unit)
            .build()
            .unwrap();
        let reserve = arena.reserve().unwrap();

        let mut all = drain(|| arena.allocate(nz(unit)));
        prop_assert_eq!(all.len(), units - reserved);
        all.extend(drain(|| reserve.allocate(nz(unit))));
        let addresses = addresses(&mut all);
        prop_assert_eq!(addresses.len(), units);
        prop_assert_eq!(addresses.last().unwrap() - addresses.first().unwrap(), (units - 1) * unit);
        drop(all);

        let order = order.min(arena.max_order());
        let blocks = drain(|| arena.allocate(nz(unit << order)));
        prop_assert_eq!(blocks.len(), (units - reserved) >> order);
        drop(blocks);
        prop_assert_eq!(arena.metrics().largest_free_block, unit << arena.max_order());
        prop_assert_eq!(arena.occupancy().free_units(), units);
    }
}
