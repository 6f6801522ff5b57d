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
fn claim_or_wait(handle: &Handle, order: Order) -> Claim<'_, Lease> {
    Claim::new(handle, Some(order))
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

/// Notes that it was called. Read when the threads of the model have ended.
#[derive(Default)]
struct Note(std::sync::atomic::AtomicBool);

impl Wake for Note {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Somebody in the queue who is looked at in the end.
struct Waiting<'a> {
    claim: Pin<Box<dyn Future<Output = Lease> + 'a>>,
    note: std::sync::Arc<Note>,
}

impl<'a> Waiting<'a> {
    fn join(handle: &'a Handle, order: Order) -> Self {
        let claim = Box::pin(claim_or_wait(handle, order));
        let mut waiting = Self { claim, note: std::sync::Arc::default() };
        assert!(waiting.poll().is_pending(), "there is no memory for it");
        waiting
    }

    fn poll(&mut self) -> Poll<Lease> {
        let waker = Waker::from(self.note.clone());
        self.claim.as_mut().poll(&mut Context::from_waker(&waker))
    }

    fn is_woken(&self) -> bool {
        self.note.0.load(std::sync::atomic::Ordering::Relaxed)
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

/// The owner is inside its cache when a waiter recalls it, and then releases past it: on its way it
/// empties the cache.
#[test]
fn an_owner_that_releases_past_its_cache_leaves_nothing_in_it() {
    model_bounded(2, || {
        sit(owned_seat(0));
        let handle = blocks(64);
        let low = claim(&handle, HALF);
        let high = claim(&handle, HALF);
        drop(low);
        let waiter = thread::spawn({
            let handle = handle.clone();
            move || {
                sit(owned_seat(1));
                drop(block_on(pin!(claim_or_wait(&handle, WORD))));
            }
        });
        drop(high);
        waiter.join().unwrap();
    });
}

/// The owner claims from a cache that it has just filled when a waiter recalls it: it empties what
/// is left.
#[test]
fn an_owner_that_has_filled_its_cache_leaves_nothing_in_it() {
    model_bounded(2, || {
        sit(owned_seat(0));
        let handle = slots(4);
        let mine = [claim(&handle, Order::UNIT), claim(&handle, Order::UNIT)];
        sit(shared_seat());
        let _others = [claim(&handle, Order::UNIT), claim(&handle, Order::UNIT)];
        drop(mine);
        sit(owned_seat(0));
        let waiter = thread::spawn({
            let handle = handle.clone();
            move || {
                sit(owned_seat(1));
                drop(block_on(pin!(claim_or_wait(&handle, Order::UNIT))));
            }
        });
        let _again = claim(&handle, Order::UNIT);
        waiter.join().unwrap();
    });
}

/// Another request recalls the cache at the moment at which the waiter joins: what it brings back
/// serves the waiter.
#[test]
fn what_somebody_else_recalls_serves_the_queue() {
    model_bounded(2, || {
        sit(owned_seat(0));
        let handle = slots(4);
        let mine = [claim(&handle, Order::UNIT), claim(&handle, Order::UNIT)];
        sit(shared_seat());
        let _others = [claim(&handle, Order::UNIT), claim(&handle, Order::UNIT)];
        sit(owned_seat(0));
        drop(mine);
        sit(owned_seat(1));
        let waiter = thread::spawn({
            let handle = handle.clone();
            move || {
                sit(owned_seat(2));
                drop(block_on(pin!(claim_or_wait(&handle, Order::UNIT))));
            }
        });
        let _again = claim(&handle, Order::UNIT);
        waiter.join().unwrap();
    });
}

/// A release while somebody has the lock of the queue: the front is served without it, and whoever
/// has the lock tells the waiter.
#[test]
fn a_release_beside_a_locked_queue_is_delivered() {
    model_bounded(2, || {
        let handle = slots(1);
        let lease = claim(&handle, Order::UNIT);
        let waiter = thread::spawn({
            let handle = handle.clone();
            move || {
                sit(owned_seat(1));
                drop(block_on(pin!(claim_or_wait(&handle, Order::UNIT))));
            }
        });
        let releaser = thread::spawn(move || drop(lease));
        let _ = handle.wait_metrics();
        waiter.join().unwrap();
        releaser.join().unwrap();
    });
}

/// Two waiters and one slot: the second is served by what the first gives back.
#[test]
fn a_served_waiter_passes_its_slot_on() {
    model_bounded(2, || {
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
        drop(block_on(pin!(claim_or_wait(&handle, Order::UNIT))));
        waiter.join().unwrap();
    });
}

/// A block of two words is handed over by whoever completes it.
#[test]
fn two_words_released_at_once_serve_who_waits_for_both() {
    model_bounded(2, || {
        let handle = blocks(128);
        let words = [claim(&handle, WORD), claim(&handle, WORD)];
        let rivals = words.map(|word| thread::spawn(move || drop(word)));
        sit(owned_seat(0));
        drop(block_on(pin!(claim_or_wait(&handle, Order::new(7)))));
        for rival in rivals {
            rival.join().unwrap();
        }
    });
}

/// The first in the queue was served: what is free besides serves the next at once, and nobody else
/// has to free anything.
#[test]
fn a_release_serves_as_many_as_it_suffices_for() {
    model_bounded(2, || {
        let handle = blocks(64);
        let whole = claim(&handle, WORD);
        let waiters = [owned_seat(0), owned_seat(1)].map(|seat| {
            let handle = handle.clone();
            thread::spawn(move || {
                sit(seat);
                // Kept, so that it serves nobody.
                std::mem::forget(block_on(pin!(claim_or_wait(&handle, HALF))));
            })
        });
        drop(whole);
        for waiter in waiters {
            waiter.join().unwrap();
        }
    });
}

/// When nobody waits any more, caches open again and a request need not queue.
#[test]
fn an_empty_queue_leaves_nothing_behind() {
    model(|| {
        sit(owned_seat(0));
        let handle = slots(1);
        let lease = claim(&handle, Order::UNIT);
        let mut waiter = Box::pin(claim_or_wait(&handle, Order::UNIT));
        let mut context = Context::from_waker(Waker::noop());
        assert!(waiter.as_mut().poll(&mut context).is_pending());
        drop(lease);
        let served = waiter.as_mut().poll(&mut context);
        assert!(served.is_ready());
        drop((waiter, served));
        let shared = handle.shared();
        assert!(!shared.is_waited_for());
        assert!(!shared.core.must_leave_cache());
        // A cancelled one, too.
        let lease = claim(&handle, Order::UNIT);
        let mut waiter = Box::pin(claim_or_wait(&handle, Order::UNIT));
        assert!(waiter.as_mut().poll(&mut context).is_pending());
        drop(waiter);
        assert!(!shared.is_waited_for());
        assert!(!shared.core.must_leave_cache());
        drop(lease);
    });
}

/// A tail that is given back while somebody waits serves him.
#[test]
fn a_tail_given_back_serves_who_waits() {
    model(|| {
        let handle = blocks(64);
        let mut lease = claim(&handle, WORD);
        let waiter = thread::spawn({
            let handle = handle.clone();
            move || {
                sit(owned_seat(1));
                drop(block_on(pin!(claim_or_wait(&handle, HALF))));
            }
        });
        let tail = lease.split_behind(32).expect("half of it is not needed");
        lease.give_back(tail);
        waiter.join().unwrap();
    });
}

/// A release serves the line, in which somebody stands already, while somebody else comes to wait:
/// he is served.
#[test]
fn a_release_beside_a_refuser_serves_who_comes_to_wait() {
    model(|| {
        let handle = blocks(64);
        let [_held, half] = [HALF; 2].map(|half| claim(&handle, half));
        handle.shared().core.map.line.join(WORD.get()).unwrap();
        let waiter = thread::spawn({
            let handle = handle.clone();
            move || {
                sit(owned_seat(1));
                drop(block_on(pin!(claim_or_wait(&handle, HALF))));
            }
        });
        drop(half);
        waiter.join().unwrap();
    });
}

/// Two releases serve two waiters: one of the two threads may find the other at the queue.
#[test]
fn two_releases_wake_two_waiters() {
    model(|| {
        let handle = slots(2);
        let [left, right] = [0, 1].map(|_| claim(&handle, Order::UNIT));
        let waiters = [0, 1].map(|_| Waiting::join(&handle, Order::UNIT));
        let rival = thread::spawn(move || drop(left));
        drop(right);
        rival.join().unwrap();
        assert!(waiters.iter().all(Waiting::is_woken), "there is a slot for each");
    });
}

/// The first in the queue gives up while he is served: his slot is not lost.
#[test]
fn what_serves_a_waiter_that_gives_up_is_not_lost() {
    model(|| {
        let handle = slots(1);
        let lease = claim(&handle, Order::UNIT);
        let waiting = Waiting::join(&handle, Order::UNIT);
        let rival = thread::spawn(move || drop(lease));
        drop(waiting);
        rival.join().unwrap();
        assert!(handle.claim(Order::UNIT).is_ok());
    });
}

/// Whoever has the lock of the queue while a release serves its front tells the first: somebody
/// who gives up, who asks again, or who takes a snapshot.
#[test]
fn whoever_lets_go_of_the_queue_delivers() {
    let give_up: fn(&Handle, Waiting<'_>) = |_, second| drop(second);
    let ask_again: fn(&Handle, Waiting<'_>) = |_, mut second| {
        assert!(second.poll().is_pending());
        std::mem::forget(second);
    };
    let take_a_snapshot: fn(&Handle, Waiting<'_>) = |handle, second| {
        let _ = handle.wait_metrics();
        std::mem::forget(second);
    };
    for touch in [give_up, ask_again, take_a_snapshot] {
        model(move || {
            let handle = slots(1);
            let lease = claim(&handle, Order::UNIT);
            let [first, second] = [0, 1].map(|_| Waiting::join(&handle, Order::UNIT));
            let rival = thread::spawn(move || drop(lease));
            touch(&handle, second);
            rival.join().unwrap();
            assert!(first.is_woken(), "a slot became free");
            std::mem::forget(first);
        });
    }
}

/// The owner claims from its cache when a waiter recalls it: it empties what is left.
#[test]
fn an_owner_that_claims_from_its_cache_leaves_nothing_in_it() {
    model_bounded(2, || {
        sit(owned_seat(0));
        let handle = slots(4);
        let mine = [0, 1].map(|_| claim(&handle, Order::UNIT));
        sit(shared_seat());
        std::mem::forget([0, 1].map(|_| claim(&handle, Order::UNIT)));
        sit(owned_seat(0));
        drop(mine);
        let waiter = thread::spawn({
            let handle = handle.clone();
            move || {
                sit(owned_seat(1));
                std::mem::forget(block_on(pin!(claim_or_wait(&handle, Order::UNIT))));
            }
        });
        std::mem::forget(claim(&handle, Order::UNIT));
        waiter.join().unwrap();
    });
}
