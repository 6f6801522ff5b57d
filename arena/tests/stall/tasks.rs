//! Running futures without a runtime.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use arena::Buffer;

/// A future that ends with a buffer, wherever it comes from.
pub(crate) type Request<'a> = Pin<Box<dyn Future<Output = Buffer> + Send + 'a>>;

/// Wakes a thread, and notes when that was.
struct Alarm {
    sleeper: Thread,
    rings: AtomicBool,
    first_rung: OnceLock<Instant>,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.first_rung.get_or_init(Instant::now);
        self.rings.store(true, SeqCst);
        self.sleeper.unpark();
    }
}

/// Polls a future to its end on this thread.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    wait_of(future).0
}

/// As [`block_on`]. Returns for how long it waited as well: from its first poll until it was first
/// woken, or had its output without that.
pub(crate) fn wait_of<T>(future: impl Future<Output = T>) -> (T, Duration) {
    let mut future = pin!(future);
    let alarm = Arc::new(Alarm {
        sleeper: thread::current(),
        rings: AtomicBool::new(false),
        first_rung: OnceLock::new(),
    });
    let waker = Waker::from(Arc::clone(&alarm));
    let began = Instant::now();
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return (output, *alarm.first_rung.get_or_init(Instant::now) - began);
        }
        while !alarm.rings.swap(false, SeqCst) {
            thread::park();
        }
    }
}

/// Polls once with a waker that does nothing.
pub(crate) fn poll_once(request: &mut Request<'_>) -> Poll<Buffer> {
    request.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}
