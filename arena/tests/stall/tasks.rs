//! Running futures without a runtime.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use arena::Buffer;

/// A future that ends with a buffer, wherever it comes from.
pub(crate) type Request<'a> = Pin<Box<dyn Future<Output = Buffer> + Send + 'a>>;

/// Wakes a thread, and notes what a counter showed then.
struct Alarm {
    sleeper: Thread,
    rings: AtomicBool,
    events: Arc<AtomicU64>,
    events_at_first: OnceLock<u64>,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.events_at_first.get_or_init(|| self.events.load(SeqCst));
        self.rings.store(true, SeqCst);
        self.sleeper.unpark();
    }
}

/// Polls a future to its end on this thread.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    events_during(future, &Arc::default()).0
}

/// As [`block_on`]. Returns as well how many events there were while it waited: from when it had
/// joined until it was first woken. None if it did not wait.
pub(crate) fn events_during<T>(
    future: impl Future<Output = T>,
    events: &Arc<AtomicU64>,
) -> (T, Option<u64>) {
    let mut future = pin!(future);
    let alarm = Arc::new(Alarm {
        sleeper: thread::current(),
        rings: AtomicBool::new(false),
        events: Arc::clone(events),
        events_at_first: OnceLock::new(),
    });
    let waker = Waker::from(Arc::clone(&alarm));
    let mut events_at_start = None;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            let events_at_first = alarm.events_at_first.get();
            let during = events_at_start
                .zip(events_at_first)
                .map(|(start, first): (u64, &u64)| first.saturating_sub(start));
            return (output, during);
        }
        events_at_start.get_or_insert_with(|| events.load(SeqCst));
        while !alarm.rings.swap(false, SeqCst) {
            thread::park();
        }
    }
}

/// Polls once with a waker that does nothing.
pub(crate) fn poll_once(request: &mut Request<'_>) -> Poll<Buffer> {
    request.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}
