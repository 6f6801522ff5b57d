//! More threads than an arena has places for: at one time, and one after the other.

use std::{
    sync::{Barrier, mpsc},
    thread,
};

use arena::{FixedArena, Frozen};
use bytes::BufMut;

use crate::{process::isolated, support::fixed};

const IDLE: usize = 200;
const COME_AND_GONE: usize = 500;
const ROUNDS: u64 = 2_000;

/// A new thread uses the arena: all of it, and many times.
fn assert_a_new_thread_can_work(arena: &FixedArena) {
    let worker = || {
        for _ in 0..ROUNDS {
            let mut buffer = arena.allocate().expect("nobody holds a slot");
            buffer.put_u64(7);
            assert_eq!(&buffer.into_frozen()[..], 7_u64.to_be_bytes());
        }
        let all = [(); 64].map(|()| arena.allocate());
        assert!(all.iter().all(Result::is_ok), "{}", arena.occupancy());
        assert!(arena.allocate().is_err(), "there are no more");
    };
    thread::scope(|scope| scope.spawn(worker).join().unwrap());
}

#[track_caller]
fn assert_balanced(arena: &FixedArena, allocations: u64) {
    let metrics = arena.metrics();
    assert_eq!((metrics.allocations_ok, metrics.frees), (allocations, allocations));
    assert_eq!(metrics.bytes_live, 0);
}

#[test]
fn a_new_thread_can_work_beside_many_that_are_idle() {
    isolated(|| {
        let arena = fixed(64, 64);
        let (used, done) = (Barrier::new(IDLE + 1), Barrier::new(IDLE + 1));
        thread::scope(|scope| {
            for _ in 0..IDLE {
                scope.spawn(|| {
                    while arena.allocate().is_err() {
                        thread::yield_now();
                    }
                    used.wait();
                    done.wait();
                });
            }
            used.wait();
            assert_a_new_thread_can_work(&arena);
            assert_balanced(&arena, IDLE as u64 + ROUNDS + 64);
            done.wait();
        });
        assert_a_new_thread_can_work(&arena);
        assert_balanced(&arena, IDLE as u64 + 2 * (ROUNDS + 64));
    });
}

#[test]
fn a_new_thread_can_work_after_many_have_come_and_gone() {
    isolated(|| {
        let arena = fixed(64, 64);
        for _ in 0..COME_AND_GONE / 50 {
            thread::scope(|scope| {
                for _ in 0..50 {
                    scope.spawn(|| arena.allocate().map(drop).expect("64 are free for 50"));
                }
            });
        }
        assert_balanced(&arena, COME_AND_GONE as u64);
        assert_a_new_thread_can_work(&arena);
        assert_balanced(&arena, COME_AND_GONE as u64 + ROUNDS + 64);
    });
}

#[test]
fn threads_that_only_drop_give_everything_back() {
    isolated(|| {
        let arena = fixed(64, 64);
        let threads = 100;
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..threads).map(|_| mpsc::sync_channel::<Frozen>(4)).unzip();
        let allocations = 20_000;
        thread::scope(|scope| {
            for inbox in receivers {
                scope.spawn(move || inbox.into_iter().for_each(drop));
            }
            for index in 0..allocations {
                let mut buffer = loop {
                    match arena.allocate() {
                        Ok(buffer) => break buffer,
                        Err(_) => thread::yield_now(),
                    }
                };
                buffer.put_u8(1);
                senders[index % threads].send(buffer.into_frozen()).expect("it reads to the end");
            }
            drop(senders);
        });
        assert_balanced(&arena, allocations as u64);
        assert_a_new_thread_can_work(&arena);
    });
}
