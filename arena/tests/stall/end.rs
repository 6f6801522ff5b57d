//! The end of an arena whose handles are gone: the last two that hold something of it let go at the
//! same moment. One of them frees the memory, and the other must not touch it any more.
//!
//! The heap takes freed memory away (see `fence`), so that to touch it is a fault of the processor.
//! A reference that outlives its memory and is not used any more is seen by Miri alone
//! (`ci/miri.sh`).

use std::{
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use arena::{Buffer, FixedArena, Frozen};
use bytes::BufMut;

use crate::{
    fence::fence_the_heap,
    process::isolated,
    support::{buddy, fixed, nz},
};

const ARENAS: usize = 4_000;

fn one_of(arena: &FixedArena) -> Frozen {
    let mut buffer = arena.allocate().unwrap();
    buffer.put_u64(7);
    buffer.into_frozen()
}

/// A lease that is shared by two, of an arena without handles.
fn two_clones() -> (Frozen, Frozen) {
    let frozen = one_of(&fixed(70, 64));
    (frozen.clone(), frozen)
}

/// Two leases of an arena without handles.
fn two_buffers() -> (Buffer, Buffer) {
    let arena = buddy(1 << 14, 64);
    (arena.allocate(nz(64)).unwrap(), arena.allocate(nz(8000)).unwrap())
}

/// The last handle of an arena, and its last lease.
fn handle_and_lease() -> (FixedArena, Frozen) {
    let arena = fixed(70, 64);
    let lease = one_of(&arena);
    (arena, lease)
}

/// Drops the two of each pair on two threads that let go as close to each other as they can.
fn drop_at_once<A: Send + 'static, B: Send + 'static>(pair: impl Fn() -> (A, B)) {
    fence_the_heap();
    let turn = AtomicUsize::new(0);
    // Each comes to the meeting, and goes on when both are there.
    let meet = |round: usize| {
        turn.fetch_add(1, SeqCst);
        let mut looks = 0_u32;
        while turn.load(SeqCst) < 2 * round {
            looks += 1;
            if looks.is_multiple_of(1000) {
                thread::yield_now();
            }
        }
    };
    let (firsts, seconds): (Vec<_>, Vec<_>) = (0..ARENAS).map(|_| pair()).unzip();
    thread::scope(|scope| {
        scope.spawn(|| {
            for (first, round) in firsts.into_iter().zip(1..) {
                meet(round);
                drop(first);
            }
        });
        scope.spawn(|| {
            for (second, round) in seconds.into_iter().zip(1..) {
                meet(round);
                drop(second);
            }
        });
    });
}

#[test]
fn the_last_two_clones_may_drop_at_the_same_moment() {
    isolated(|| drop_at_once(two_clones));
}

#[test]
fn the_last_two_buffers_may_drop_at_the_same_moment() {
    isolated(|| drop_at_once(two_buffers));
}

#[test]
fn the_last_handle_and_the_last_buffer_may_drop_at_the_same_moment() {
    isolated(|| drop_at_once(handle_and_lease));
}

/// Each instruction of one drop, held while the other drops.
#[cfg(target_arch = "x86_64")]
mod everywhere {
    use super::*;
    use crate::everywhere::{Held, Others, hold_everywhere};

    fn drop_everywhere<A: Send + 'static, B: Send + 'static>(pair: impl Fn() -> (A, B)) {
        fence_the_heap();
        hold_everywhere(|| {
            let (first, second) = pair();
            let held: Held = Box::new(move || {
                let mut first = Some(first);
                Box::new(move || drop(first.take()))
            });
            let others: Others = Box::new(move |diary| {
                diary.will("drop the other");
                drop(second);
            });
            (held, others)
        });
    }

    #[test]
    fn a_clone_may_be_the_last_while_another_is_about_to_let_go() {
        isolated(|| drop_everywhere(two_clones));
    }

    #[test]
    fn a_buffer_may_be_the_last_while_another_is_about_to_let_go() {
        isolated(|| drop_everywhere(two_buffers));
    }

    #[test]
    fn a_handle_may_be_the_last_while_a_buffer_is_about_to_let_go() {
        isolated(|| {
            drop_everywhere(|| {
                let (handle, lease) = handle_and_lease();
                (lease, Patient(Some(handle)))
            });
        });
    }

    /// A handle whose drop goes on elsewhere if it takes long: the last one may wait for a buffer
    /// that is being dropped.
    struct Patient(Option<FixedArena>);

    impl Drop for Patient {
        fn drop(&mut self) {
            let handle = self.0.take();
            let end = Instant::now() + Duration::from_millis(2);
            let elsewhere = thread::spawn(move || drop(handle));
            while !elsewhere.is_finished() && Instant::now() < end {
                thread::sleep(Duration::from_micros(20));
            }
        }
    }

    #[test]
    fn a_buffer_may_be_the_last_while_a_handle_is_about_to_let_go() {
        isolated(|| drop_everywhere(handle_and_lease));
    }
}
