//! Waiting: nobody sleeps beside memory that could serve him.

use std::{
    future::Future,
    num::NonZeroUsize,
    pin::{Pin, pin},
    task::{Context, Poll, Wake, Waker},
};

use loom::{sync::Notify, thread};

use super::*;
use crate::{
    barrier,
    geometry::Geometry,
    lease::Lease,
    shared::{Handle, Kind, Options},
    thread::sit,
    wait::Claim,
};

/// Wakes a thread of the model.
struct Bell(Notify);

impl Wake for Bell {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.notify();
    }
}

/// Claims as `allocate_async` does.
async fn claim_or_wait(handle: &Handle, order: Order) -> Lease {
    match handle.claim_unless_waited_for(order) {
        Some(lease) => lease,
        None => Claim::new(handle, order).await,
    }
}

/// Polls until the future is ready; loom reports a deadlock if it is never woken.
fn block_on<F: Future>(mut future: Pin<&mut F>) -> F::Output {
    let bell = std::sync::Arc::new(Bell(Notify::new()));
    let waker = Waker::from(bell.clone());
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => bell.0.wait(),
        }
    }
}

fn slots(count: usize) -> Handle {
    let (count, bytes) = (NonZeroUsize::new(count).unwrap(), NonZeroUsize::MIN);
    let geometry = Geometry::fixed(count, bytes, 1).unwrap();
    Handle::new(Kind::Slots, geometry, &Options::default()).unwrap()
}

fn blocks(units: usize) -> Handle {
    let (units, bytes) = (NonZeroUsize::new(units).unwrap(), NonZeroUsize::MIN);
    let geometry = Geometry::buddy(units, bytes, 1).unwrap();
    Handle::new(Kind::Blocks, geometry, &Options::default()).unwrap()
}

fn claim(handle: &Handle, order: Order) -> Lease {
    handle.claim(order).expect("there is a block")
}

/// Runs a model with the kernel's barrier and without.
fn model_both(f: impl Fn() + Sync + Send + Copy + 'static) {
    model(f);
    barrier::models::without(|| model(f));
}

/// A release while somebody joins the queue: he is served.
#[test]
fn release_during_registration_is_noticed() {
    model_both(|| {
        let handle = slots(1);
        let lease = claim(&handle, Order::UNIT);
        let rival = thread::spawn(move || {
            sit(owned_seat(0));
            drop(lease);
        });
        sit(owned_seat(1));
        drop(block_on(pin!(claim_or_wait(&handle, Order::UNIT))));
        rival.join().unwrap();
    });
}

/// The same, when the slot goes back into the cache of the thread that claimed it.
#[test]
fn release_into_a_cache_is_noticed() {
    model(|| {
        sit(owned_seat(0));
        let handle = slots(1);
        let lease = claim(&handle, Order::UNIT);
        let waiter = thread::spawn({
            let handle = handle.clone();
            move || {
                sit(owned_seat(1));
                drop(block_on(pin!(claim_or_wait(&handle, Order::UNIT))));
            }
        });
        drop(lease);
        waiter.join().unwrap();
    });
}

/// Two releases and one waiter, who needs both: the block is handed over by whoever is last.
#[test]
fn two_halves_released_at_once_serve_one_large_waiter() {
    model_bounded(2, || {
        let handle = blocks(64);
        let halves = [claim(&handle, HALF), claim(&handle, HALF)];
        let rivals = halves.map(|half| thread::spawn(move || drop(half)));
        sit(owned_seat(0));
        let whole = block_on(pin!(claim_or_wait(&handle, WORD)));
        drop(whole);
        for rival in rivals {
            rival.join().unwrap();
        }
    });
}

/// Two releases against one waiter: he gets one slot, and the other stays free.
#[test]
fn two_releases_serve_one_waiter_once() {
    model_bounded(2, || {
        let handle = slots(2);
        let leases = [claim(&handle, Order::UNIT), claim(&handle, Order::UNIT)];
        let rivals = leases.map(|lease| thread::spawn(move || drop(lease)));
        sit(owned_seat(0));
        let served = block_on(pin!(claim_or_wait(&handle, Order::UNIT)));
        for rival in rivals {
            rival.join().unwrap();
        }
        let other = claim(&handle, Order::UNIT);
        assert!(handle.claim(Order::UNIT).is_err(), "there are two slots");
        drop((served, other));
    });
}

/// A waiter gives up before, while or after he is served: the slot goes on.
#[test]
fn a_cancelled_waiter_passes_its_turn_on() {
    model_bounded(2, || {
        let handle = slots(1);
        let lease = claim(&handle, Order::UNIT);
        let releaser = thread::spawn(move || drop(lease));
        let next = thread::spawn({
            let handle = handle.clone();
            move || {
                sit(owned_seat(1));
                drop(block_on(pin!(claim_or_wait(&handle, Order::UNIT))));
            }
        });
        sit(owned_seat(0));
        {
            let mut given_up = pin!(claim_or_wait(&handle, Order::UNIT));
            let _ = given_up.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        }
        releaser.join().unwrap();
        next.join().unwrap();
        assert!(handle.claim(Order::UNIT).is_ok(), "nothing is lost");
    });
}

/// A large waiter gives up his place at the head: a smaller one behind him is served by what is
/// free already.
#[test]
fn a_small_waiter_behind_a_large_one_that_gives_up_is_served() {
    model(|| {
        let handle = blocks(64);
        let _held = claim(&handle, HALF);
        let mut large = Box::pin(claim_or_wait(&handle, WORD));
        assert!(large.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let small = thread::spawn({
            let handle = handle.clone();
            move || {
                sit(owned_seat(1));
                drop(block_on(pin!(claim_or_wait(&handle, HALF))));
            }
        });
        drop(large);
        small.join().unwrap();
    });
}

/// A claim that moves units about while somebody joins the queue: the waiter finds what is left.
#[test]
fn a_claim_that_opens_a_word_serves_whoever_missed_the_rest() {
    model(|| {
        let handle = blocks(128);
        let _held = claim(&handle, WORD);
        let opener = thread::spawn({
            let handle = handle.clone();
            move || {
                sit(owned_seat(0));
                handle.claim(HALF).map(drop).is_ok()
            }
        });
        sit(owned_seat(1));
        drop(block_on(pin!(claim_or_wait(&handle, HALF))));
        assert!(opener.join().unwrap(), "there is a half for each");
    });
}
