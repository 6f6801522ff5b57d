//! Waiting for memory: who is served, when, and that nothing is lost whoever gives up.

use std::{
    collections::VecDeque,
    future::Future,
    num::NonZeroUsize,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use arena::{
    AllocError, AsyncBuddyArena, AsyncFixedArena, BuddyArena, BuddyWaiter, Buffer, FixedArena,
};
use bytes::BufMut;
use proptest::prelude::*;

fn nz(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).expect("sizes and counts here are above zero")
}

fn slots(count: usize) -> AsyncFixedArena {
    FixedArena::builder(nz(count), nz(64)).build_async().expect("a valid arena")
}

fn blocks(total: usize, min: usize) -> AsyncBuddyArena {
    BuddyArena::builder(nz(total), nz(min)).build_async().expect("a valid arena")
}

/// Counts how often it is woken.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// A request that waits, with its own bell.
struct Request<'a> {
    future: Pin<Box<dyn Future<Output = Result<Buffer, AllocError>> + Send + 'a>>,
    bell: Arc<Bell>,
}

impl<'a> Request<'a> {
    fn of_slot(arena: &'a AsyncFixedArena) -> Self {
        Self::new(async { Ok(arena.allocate_async().await) })
    }

    fn of_block(arena: &'a AsyncBuddyArena, len: usize) -> Self {
        Self::new(arena.allocate_async(nz(len)))
    }

    fn new(future: impl Future<Output = Result<Buffer, AllocError>> + Send + 'a) -> Self {
        Self { future: Box::pin(future), bell: Arc::default() }
    }

    fn poll(&mut self) -> Poll<Result<Buffer, AllocError>> {
        let waker = Waker::from(Arc::clone(&self.bell));
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }

    /// Polls, and expects to wait.
    fn waiting(mut self) -> Self {
        assert!(self.poll().is_pending(), "there is no memory for it");
        self
    }

    fn is_woken(&self) -> bool {
        self.bell.0.load(SeqCst) > 0
    }

    fn served(mut self) -> Buffer {
        match self.poll() {
            Poll::Ready(buffer) => buffer.expect("it fits the arena"),
            Poll::Pending => panic!("it was not served"),
        }
    }
}

#[test]
fn a_request_is_served_at_once_if_there_is_memory() {
    let arena = slots(1);
    let buffer = Request::of_slot(&arena).served();
    assert_eq!(buffer.capacity(), 64);
    assert_eq!(arena.wait_metrics().waits, 0);
}

#[test]
fn a_request_that_can_never_fit_fails_at_once() {
    let arena = blocks(1024, 256);
    let _all = arena.allocate(nz(1024)).expect("nothing is in use");
    let mut request = Request::of_block(&arena, 1025);
    assert!(matches!(request.poll(), Poll::Ready(Err(AllocError::RequestTooLarge))));
}

#[test]
fn waiters_are_served_in_the_order_in_which_they_came() {
    let arena = slots(2);
    let held = [arena.allocate(), arena.allocate()].map(|slot| slot.expect("two are free"));
    let requests = [(); 4].map(|()| Request::of_slot(&arena).waiting());
    assert_eq!(arena.wait_metrics().waiters, 4);

    drop(held);
    assert_eq!(requests.each_ref().map(Request::is_woken), [true, true, false, false]);
    let [first, second, third, fourth] = requests;
    drop((first.served(), second.served()));
    drop((third.served(), fourth.served()));
    assert_eq!(arena.wait_metrics().waits, 4);
    assert_eq!(arena.wait_metrics().waiters, 0);
}

#[test]
fn a_slot_is_handed_over_so_that_nobody_takes_it_in_between() {
    let arena = slots(1);
    let held = arena.allocate().expect("it is free");
    let waiting = Request::of_slot(&arena).waiting();
    drop(held);
    assert_eq!(arena.allocate().unwrap_err(), AllocError::ArenaFull);
    let late = Request::of_slot(&arena).waiting();
    drop(waiting.served());
    drop(late.served());
}

#[test]
fn a_request_that_comes_later_queues_behind_those_who_wait() {
    let arena = blocks(1024, 256);
    let _held = arena.allocate(nz(512)).expect("nothing is in use");
    let large = Request::of_block(&arena, 1024).waiting();
    let small = Request::of_block(&arena, 256).waiting();
    drop(_held);
    assert!(large.is_woken());
    assert!(!small.is_woken());
    drop(large.served());
    drop(small.served());
}

#[test]
fn a_large_request_at_the_head_is_not_overtaken_by_small_ones() {
    let arena = blocks(1024, 256);
    let mut held: Vec<_> =
        (0..4).map(|_| arena.allocate(nz(256)).expect("four blocks fit")).collect();
    let large = Request::of_block(&arena, 512).waiting();
    let small = Request::of_block(&arena, 256).waiting();
    // Not buddies: the head cannot use them, and keeps them for itself all the same.
    held.remove(2);
    held.remove(0);
    assert!(!large.is_woken() && !small.is_woken());
    held.clear();
    drop((large.served(), small.served()));
}

#[test]
fn a_sync_request_takes_what_is_free_also_beside_waiters() {
    let arena = blocks(1024, 256);
    let _held = arena.allocate(nz(512)).expect("nothing is in use");
    let large = Request::of_block(&arena, 1024).waiting();
    let taken = arena.allocate(nz(256)).expect("its refusal would not be true");
    drop((_held, taken));
    drop(large.served());
}

#[test]
fn a_served_waiter_that_is_dropped_passes_its_block_on() {
    let arena = slots(1);
    let held = arena.allocate().expect("it is free");
    let first = Request::of_slot(&arena).waiting();
    let second = Request::of_slot(&arena).waiting();
    drop(held);
    assert!(first.is_woken() && !second.is_woken());
    drop(first);
    assert!(second.is_woken());
    drop(second.served());
    assert!(arena.allocate().is_ok());
}

#[test]
fn a_waiter_that_is_cancelled_leaves_at_once() {
    let arena = slots(1);
    let held = arena.allocate().expect("it is free");
    let requests = [(); 3].map(|()| Request::of_slot(&arena).waiting());
    let [first, second, third] = requests;
    drop(second);
    assert_eq!(arena.wait_metrics().waiters, 2);
    drop(held);
    drop(first.served());
    drop(third.served());
}

#[test]
fn a_large_waiter_that_gives_up_lets_those_behind_it_through() {
    let arena = blocks(1024, 256);
    let _held = arena.allocate(nz(512)).expect("nothing is in use");
    let large = Request::of_block(&arena, 1024).waiting();
    let small = Request::of_block(&arena, 512).waiting();
    drop(large);
    assert!(small.is_woken());
    drop(small.served());
}

#[test]
fn a_tail_that_is_given_back_serves_who_waits() {
    let arena = blocks(1024, 256);
    let mut held = arena.allocate(nz(1024)).expect("nothing is in use");
    let waiting = Request::of_block(&arena, 512).waiting();
    held.put_slice(b"short");
    held.shrink_to_fit();
    assert!(waiting.is_woken());
    drop(waiting.served());
}

#[test]
fn a_spill_serves_who_waits() {
    let builder = FixedArena::builder(nz(1), nz(8)).auto_spill();
    let arena = builder.build_async().expect("a valid arena");
    let mut held = arena.allocate().expect("it is free");
    let waiting = Request::of_slot(&arena).waiting();
    held.put_slice(b"longer than the slot");
    assert!(waiting.is_woken());
    drop(waiting.served());
}

#[test]
fn the_last_slice_of_bytes_serves_who_waits() {
    let arena = slots(1);
    let mut held = arena.allocate().expect("it is free");
    held.put_slice(b"ab");
    let bytes = held.freeze();
    let waiting = Request::of_slot(&arena).waiting();
    let slice = bytes.slice(1..);
    drop(bytes);
    assert!(!waiting.is_woken());
    drop(slice);
    assert!(waiting.is_woken());
    drop(waiting.served());
}

#[test]
fn memory_in_another_threads_cache_serves_who_waits() {
    let arena = blocks(1 << 20, 256);
    std::thread::scope(|scope| {
        scope.spawn(|| drop(arena.allocate(nz(256)).expect("nothing is in use")));
    });
    drop(Request::of_block(&arena, 1 << 20).served());
}

#[test]
fn a_request_outlives_every_other_handle() {
    let arena = slots(1);
    let held = arena.allocate().expect("it is free");
    let mut waiter = arena.waiter();
    let mut context = Context::from_waker(Waker::noop());
    assert!(waiter.poll_allocate(&mut context).is_pending());
    drop(arena);
    drop(held);
    let Poll::Ready(buffer) = waiter.poll_allocate(&mut context) else { panic!("not served") };
    drop(waiter);
    drop(buffer);
}

#[test]
fn a_waiter_is_used_again_and_again() {
    let arena = slots(1);
    let mut waiter = arena.waiter();
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..3 {
        let held = arena.allocate().expect("it is free");
        assert!(waiter.poll_allocate(&mut context).is_pending());
        drop(held);
        assert!(waiter.poll_allocate(&mut context).is_ready());
    }
    let _held = arena.allocate().expect("it is free");
    assert!(waiter.poll_allocate(&mut context).is_pending());
    waiter.cancel();
    assert_eq!(arena.wait_metrics().waiters, 0);
}

#[test]
fn a_waiter_that_asks_for_another_size_joins_the_queue_again() {
    let arena = blocks(1024, 256);
    let held = arena.allocate(nz(1024)).expect("nothing is in use");
    let mut waiter = arena.waiter();
    let mut context = Context::from_waker(Waker::noop());
    assert!(waiter.poll_allocate(&mut context, nz(1024)).is_pending());
    assert!(waiter.poll_allocate(&mut context, nz(256)).is_pending());
    assert_eq!(arena.wait_metrics().waiters, 1);
    assert!(matches!(
        waiter.poll_allocate(&mut context, nz(1025)),
        Poll::Ready(Err(AllocError::RequestTooLarge))
    ));
    assert_eq!(arena.wait_metrics().waiters, 0);
    drop(held);
}

#[test]
fn a_request_that_moves_to_another_task_wakes_that_one() {
    let arena = slots(1);
    let held = arena.allocate().expect("it is free");
    let mut request = Request::of_slot(&arena).waiting();
    let old = std::mem::take(&mut request.bell);
    let request = request.waiting();
    drop(held);
    assert!(request.is_woken());
    assert_eq!(old.0.load(SeqCst), 0);
}

/// Panics when it is woken.
struct Alarm;

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        panic!("the waker panics");
    }
}

/// Queues a waiter whose waker panics.
fn queue_alarm(waiter: &mut BuddyWaiter, len: usize) {
    let waker = Waker::from(Arc::new(Alarm));
    assert!(waiter.poll_allocate(&mut Context::from_waker(&waker), nz(len)).is_pending());
}

fn panics(f: impl FnOnce()) -> bool {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err()
}

#[test]
fn a_waker_that_panics_leaves_a_shrunk_buffer_with_what_it_has() {
    let arena = blocks(1024, 256);
    let mut held = arena.allocate(nz(1024)).expect("nothing is in use");
    held.put_slice(b"short");
    let mut waiter = arena.waiter();
    queue_alarm(&mut waiter, 512);
    assert!(panics(|| held.shrink_to_fit()));
    assert_eq!(held.capacity(), 256, "the rest is another's");
}

#[test]
fn a_waker_that_panics_keeps_nobody_else_asleep() {
    let arena = blocks(1024, 256);
    let held = arena.allocate(nz(1024)).expect("nothing is in use");
    let mut waiter = arena.waiter();
    queue_alarm(&mut waiter, 256);
    let others = [(); 3].map(|()| Request::of_block(&arena, 256).waiting());
    assert!(panics(|| drop(held)));
    assert!(others.iter().all(Request::is_woken));
}

#[test]
fn a_waker_that_panics_loses_no_memory() {
    let arena = blocks(1024, 256);
    let held = arena.allocate(nz(1024)).expect("nothing is in use");
    let mut waiter = arena.waiter();
    queue_alarm(&mut waiter, 512);
    assert!(panics(|| drop(held)));
    drop(waiter);
    assert_eq!(arena.metrics().bytes_live, 0);
    assert!(arena.allocate(nz(1024)).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_timeout_is_a_typed_error_and_leaves_the_queue() {
    let arena = slots(1);
    let held = arena.allocate().expect("it is free");
    let outcome = arena.allocate_timeout(Duration::from_secs(5)).await;
    assert_eq!(outcome.unwrap_err(), AllocError::TimedOut);
    assert_eq!(arena.wait_metrics().waiters, 0);
    drop(held);
    assert!(arena.allocate_timeout(Duration::from_secs(5)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_timeout_counts_from_the_call_and_not_for_what_can_never_fit() {
    let arena = blocks(1024, 256);
    let _all = arena.allocate(nz(1024)).expect("nothing is in use");
    let too_large = arena.allocate_timeout(nz(2048), Duration::from_secs(5)).await;
    assert_eq!(too_large.unwrap_err(), AllocError::RequestTooLarge);
    let late = arena.allocate_timeout(nz(256), Duration::from_secs(5)).await;
    assert_eq!(late.unwrap_err(), AllocError::TimedOut);
}

#[test]
fn waiting_times_are_counted_once_for_each_who_was_served() {
    let arena = slots(1);
    for _ in 0..5 {
        let held = arena.allocate().expect("it is free");
        let request = Request::of_slot(&arena).waiting();
        drop(held);
        drop(request.served());
    }
    let metrics = arena.wait_metrics();
    assert_eq!(metrics.waits, 5);
    assert_eq!(metrics.wait_time_buckets.iter().sum::<u64>(), 5);
    assert!(metrics.exhausted_time >= metrics.wait_time, "one waited at a time");
}

/// Ten thousand tasks want one of four slots, on several threads, and many of them lose patience.
#[test]
fn ten_thousand_impatient_tasks_leave_everything_as_it_was() {
    const TASKS: u64 = if cfg!(miri) { 50 } else { 10_000 };
    const SLOTS: usize = 4;

    let arena = slots(SLOTS);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_time()
        .build()
        .expect("a runtime");
    let served = runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..TASKS {
            let arena = arena.clone();
            tasks.spawn(async move {
                // Between none and some milliseconds, differently for each task.
                let patience = Duration::from_micros(task.wrapping_mul(7919) % 8000);
                let Ok(mut buffer) = arena.allocate_timeout(patience).await else {
                    return 0;
                };
                buffer.put_u64(task);
                tokio::task::yield_now().await;
                assert_eq!(buffer[..], task.to_be_bytes(), "nobody else writes this slot");
                1
            });
        }
        tasks.join_all().await.into_iter().sum::<u64>()
    });
    assert!(served >= SLOTS as u64, "somebody was served");
    assert_eq!(arena.wait_metrics().waiters, 0);
    assert_eq!(arena.metrics().bytes_live, 0);
    let all: Vec<_> = (0..SLOTS).map(|_| arena.allocate().expect("every slot is free")).collect();
    drop(all);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Ask { order: u32 },
    Release { which: usize },
    Cancel { which: usize },
    Poll { which: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..=4_u32).prop_map(|order| Step::Ask { order }),
        3 => (0..64_usize).prop_map(|which| Step::Release { which }),
        1 => (0..64_usize).prop_map(|which| Step::Cancel { which }),
        2 => (0..64_usize).prop_map(|which| Step::Poll { which }),
    ]
}

proptest! {
    /// Requests come, give up and are served in any order. After every step nobody sleeps beside
    /// memory that could serve him, and nobody was served before one who came earlier.
    #[test]
    fn nobody_sleeps_beside_free_memory(steps in prop::collection::vec(step(), 1..200)) {
        const UNIT: usize = 256;
        const UNITS: usize = 16;

        let arena = blocks(UNITS * UNIT, UNIT);
        let mut held: Vec<Buffer> = Vec::new();
        let mut waiting: VecDeque<(u32, Request<'_>)> = VecDeque::new();
        for step in steps {
            match step {
                Step::Ask { order } => {
                    let mut request = Request::of_block(&arena, UNIT << order);
                    match request.poll() {
                        Poll::Ready(buffer) => held.push(buffer.expect("it fits the arena")),
                        Poll::Pending => waiting.push_back((order, request)),
                    }
                }
                Step::Release { which } if !held.is_empty() => {
                    drop(held.swap_remove(which % held.len()));
                }
                Step::Cancel { which } if !waiting.is_empty() => {
                    drop(waiting.remove(which % waiting.len()));
                }
                Step::Poll { which } if !waiting.is_empty() => {
                    let index = which % waiting.len();
                    let was_woken = waiting[index].1.is_woken();
                    if let Poll::Ready(buffer) = waiting[index].1.poll() {
                        prop_assert!(was_woken, "what is handed over is announced");
                        held.push(buffer.expect("it fits the arena"));
                        drop(waiting.remove(index));
                    }
                }
                _ => {}
            }
            let unserved = waiting.iter().position(|(_, request)| !request.is_woken());
            if let Some(head) = unserved {
                prop_assert!(
                    waiting.iter().skip(head).all(|(_, request)| !request.is_woken()),
                    "first come, first served"
                );
                let wanted = UNIT << waiting[head].0;
                prop_assert!(
                    arena.metrics().largest_free_block < wanted,
                    "{wanted} bytes are free, and the head of the queue sleeps"
                );
            }
        }
        drop((held, waiting));
        prop_assert_eq!(arena.metrics().largest_free_block, UNITS * UNIT);
        prop_assert_eq!(arena.wait_metrics().waiters, 0);
    }
}
