//! Foreign code that an arena runs for those who wait, and futures that nobody polls.

use std::{
    sync::{Arc, Mutex},
    task::{Context, Poll, RawWaker, RawWakerVTable, Waker},
};

use arena::{AsyncFixedArena, Buffer, FixedArena, FixedWaiter};

use crate::{
    process::isolated,
    support::nz,
    tasks::{Request, poll_once},
};

fn slots(count: usize) -> AsyncFixedArena {
    FixedArena::builder(nz(count), nz(64)).build_async().unwrap()
}

fn request(arena: &AsyncFixedArena) -> Request<'_> {
    Box::pin(arena.allocate_async())
}

fn waiting(arena: &AsyncFixedArena) -> Request<'_> {
    let mut request = request(arena);
    assert!(poll_once(&mut request).is_pending(), "there is no memory for it");
    request
}

#[track_caller]
fn served(mut request: Request<'_>) -> Buffer {
    match poll_once(&mut request) {
        Poll::Ready(buffer) => buffer,
        Poll::Pending => panic!("it was not served"),
    }
}

/// A function of a waker.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Call {
    Clone,
    Wake,
    Drop,
}

/// Frees a buffer each time that one of its wakers' functions is called.
struct Hoard {
    frees_on: Call,
    buffers: Mutex<Vec<Buffer>>,
}

impl Hoard {
    fn waker(frees_on: Call, buffers: Vec<Buffer>) -> (Arc<Self>, Waker) {
        let hoard = Arc::new(Self { frees_on, buffers: Mutex::new(buffers) });
        let data = Arc::into_raw(Arc::clone(&hoard)).cast();
        // SAFETY: the functions of the table expect what `Arc::into_raw` returns, own one count of
        // it for each waker, and may be called on any thread.
        (hoard, unsafe { Waker::new(data, &TABLE) })
    }

    fn is_called(&self, call: Call) {
        if call == self.frees_on {
            // Outside of the lock: to free memory may call another function.
            let buffer = self.buffers.lock().unwrap().pop();
            drop(buffer);
        }
    }

    fn left(&self) -> usize {
        self.buffers.lock().unwrap().len()
    }
}

const TABLE: RawWakerVTable = RawWakerVTable::new(
    |data| {
        // SAFETY: the waker that is cloned owns a count.
        unsafe { Arc::increment_strong_count(data.cast::<Hoard>()) };
        // SAFETY: as above.
        unsafe { &*data.cast::<Hoard>() }.is_called(Call::Clone);
        RawWaker::new(data, &TABLE)
    },
    |data| {
        // SAFETY: the waker's own count ends here.
        let hoard = unsafe { Arc::from_raw(data.cast::<Hoard>()) };
        hoard.is_called(Call::Wake);
    },
    |data| {
        // SAFETY: the waker owns a count.
        unsafe { &*data.cast::<Hoard>() }.is_called(Call::Wake);
    },
    |data| {
        // SAFETY: the waker's own count ends here.
        let hoard = unsafe { Arc::from_raw(data.cast::<Hoard>()) };
        hoard.is_called(Call::Drop);
    },
);

/// Waits with a waker that frees buffers, is served, and sees all slots free in the end.
fn assert_may_free_memory(frees_on: Call) {
    let arena = slots(9);
    let mut held: Vec<_> = (0..9).map(|_| arena.allocate().unwrap()).collect();
    let last = held.pop().expect("there are nine");
    let (hoard, waker) = Hoard::waker(frees_on, held);
    // Others wait before and behind it, so that whatever is freed is to be handed over.
    let before = [(); 3].map(|()| waiting(&arena));
    let mut request = request(&arena);
    let mut polled = request.as_mut().poll(&mut Context::from_waker(&waker));
    let behind = waiting(&arena);
    // Another poll, with another waker that takes the place of the first.
    if polled.is_pending() {
        polled = request.as_mut().poll(&mut Context::from_waker(&waker.clone()));
    }
    drop(last);
    before.into_iter().for_each(|request| drop(served(request)));
    if polled.is_pending() {
        polled = poll_once(&mut request);
    }
    let Poll::Ready(buffer) = polled else { panic!("it was not served") };
    drop((request, waker));
    assert!(hoard.left() < 8, "no buffer was freed on {frees_on:?}");
    drop((hoard, buffer));
    drop(served(behind));
    let all = [(); 9].map(|()| arena.allocate());
    assert!(all.iter().all(Result::is_ok), "{}", arena.occupancy());
}

#[test]
fn a_waker_may_free_memory_when_it_is_cloned() {
    isolated(|| assert_may_free_memory(Call::Clone));
}

#[test]
fn a_waker_may_free_memory_when_it_wakes() {
    isolated(|| assert_may_free_memory(Call::Wake));
}

#[test]
fn a_waker_may_free_memory_when_it_drops() {
    isolated(|| assert_may_free_memory(Call::Drop));
}

#[test]
fn a_request_that_was_served_keeps_its_slot_until_it_is_polled() {
    isolated(|| {
        let arena = slots(1);
        let held = arena.allocate().unwrap();
        let first = waiting(&arena);
        drop(held);
        // As in a `select!` that goes on with another branch, and polls this one later.
        assert!(arena.allocate().is_err(), "the slot is the request's");
        assert_eq!(arena.wait_metrics().waiters, 0);
        drop(served(first));
        assert!(arena.allocate().is_ok());
    });
}

#[test]
fn a_request_that_was_served_gives_its_slot_back_when_it_drops() {
    isolated(|| {
        let arena = slots(1);
        let held = arena.allocate().unwrap();
        let (first, second) = (waiting(&arena), waiting(&arena));
        drop(held);
        drop(first);
        drop(served(second));
        assert!(arena.allocate().is_ok());
    });
}

#[test]
fn an_owned_waiter_that_was_served_gives_its_slot_back_when_it_cancels() {
    isolated(|| {
        let arena = slots(1);
        let held = arena.allocate().unwrap();
        let mut waiter = arena.waiter();
        assert!(waiter.poll_allocate(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(held);
        assert!(arena.allocate().is_err(), "the slot is the waiter's");
        waiter.cancel();
        assert!(arena.allocate().is_ok());
    });
}

#[test]
fn a_forgotten_request_costs_one_slot_and_nothing_else() {
    /// What nobody polls or drops any more. Not leaked, so that nobody looks for the leak.
    static FORGOTTEN: Mutex<Vec<Request<'static>>> = Mutex::new(Vec::new());

    isolated(|| {
        let arena: &'static _ = Box::leak(Box::new(slots(3)));
        let held = [(); 3].map(|()| arena.allocate().unwrap());
        FORGOTTEN.lock().unwrap().push(waiting(arena));
        let behind_it = waiting(arena);
        drop(held);
        drop(served(behind_it));
        let others = [arena.allocate(), arena.allocate()];
        assert!(others.iter().all(Result::is_ok), "two slots are left");
        assert!(arena.allocate().is_err(), "one is the forgotten request's");
        assert_eq!(arena.wait_metrics().waiters, 0);
        drop(others);
        assert_eq!(arena.metrics().bytes_live, 64);
    });
}

#[test]
fn the_end_of_an_arena_does_not_wait_for_a_forgotten_waiter() {
    /// See above.
    static FORGOTTEN: Mutex<Vec<FixedWaiter>> = Mutex::new(Vec::new());

    isolated(|| {
        let arena = slots(1);
        let held = arena.allocate().unwrap();
        let mut waiter = arena.waiter();
        assert!(waiter.poll_allocate(&mut Context::from_waker(Waker::noop())).is_pending());
        FORGOTTEN.lock().unwrap().push(waiter);
        drop(arena);
        drop(held);
    });
}
