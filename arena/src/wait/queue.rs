//! The queue of waiters: a list whose nodes lie in the futures that wait.

use std::{
    marker::PhantomPinned,
    pin::Pin,
    ptr::NonNull,
    sync::TryLockError,
    task::Waker,
    time::{Duration, Instant},
};

use crate::{
    geometry::{Order, Span},
    sync::{Mutex, MutexGuard, UnsafeCell},
};

/// Buckets of the histogram of waiting times: one for each power of two of nanoseconds, up to 18
/// minutes.
const WAIT_BUCKETS: usize = 40;

/// Everybody who waits for memory of one arena.
#[derive(Debug)]
pub(crate) struct Queue(Mutex<List>);

/// The list, and its figures. Reached only with the lock held.
#[derive(Debug, Default)]
pub(crate) struct List {
    head: Option<NonNull<Node>>,
    tail: Option<NonNull<Node>>,
    figures: Figures,
    /// While somebody waits, the caches are shut. Whether that keeps their owners out.
    caches_shut: Option<bool>,
}

// SAFETY: the nodes are `Sync`, and are reached through the lock; a node is taken off the list
// before it goes.
unsafe impl Send for List {}

#[derive(Debug)]
struct Figures {
    waiters: usize,
    waits: u64,
    uncollected: usize,
    buckets: [u64; WAIT_BUCKETS],
    wait_time: Duration,
    exhausted_time: Duration,
    /// Since when there has been somebody who waits.
    exhausted_since: Option<Instant>,
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            waiters: 0,
            waits: 0,
            uncollected: 0,
            buckets: [0; WAIT_BUCKETS],
            wait_time: Duration::ZERO,
            exhausted_time: Duration::ZERO,
            exhausted_since: None,
        }
    }
}

/// How much, and how long, was waited for memory of one arena.
#[non_exhaustive]
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WaitMetrics {
    /// Requests that wait now.
    pub waiters: usize,
    /// Requests that had to wait and were served. Cancelled ones are not counted.
    pub waits: u64,
    /// Blocks that were handed over to futures that nobody has polled since. They are in use: a
    /// future that was served keeps its block until it is polled or dropped.
    pub uncollected: usize,
    /// How long those waited, all together.
    pub wait_time: Duration,
    /// How long there was somebody who waited: the time for which the arena was exhausted.
    pub exhausted_time: Duration,
    /// For bucket `i`, how many of [`waits`](Self::waits) took less than `2^(i + 1)` ns, and not
    /// less than `2^i` unless `i` is zero. The last bucket has all that took longer.
    pub wait_time_buckets: Vec<u64>,
}

/// A place in the queue. It lies in a future, pinned, and is taken off the list before it is
/// dropped.
#[derive(Debug)]
pub(crate) struct Node {
    /// Touched only with the lock of the queue held.
    seat: UnsafeCell<Seat>,
    _pinned: PhantomPinned,
}

// SAFETY: the cell is touched only with the lock of the queue held, and what is in it is `Send`: a
// waker, an order, a span, and pointers that only the list follows.
unsafe impl Send for Node {}

// SAFETY: as above.
unsafe impl Sync for Node {}

#[derive(Debug)]
struct Seat {
    state: State,
    previous: Option<NonNull<Node>>,
    next: Option<NonNull<Node>>,
}

#[derive(Debug)]
enum State {
    /// Not on the list.
    Idle,
    /// On the list.
    Waiting { order: Order, waker: Waker, since: Instant },
    /// Off the list, with a claim that was made for it.
    Served(Span),
}

/// What became of a node that somebody looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Standing {
    /// It is not in the queue.
    Idle,
    /// It waits.
    Waiting,
    /// It has this, and is idle now.
    Served(Span),
}

impl Node {
    pub(crate) fn new() -> Self {
        let seat = Seat { state: State::Idle, previous: None, next: None };
        Self { seat: UnsafeCell::new(seat), _pinned: PhantomPinned }
    }
}

impl Queue {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(List::default()))
    }

    /// The list, unless another thread has it.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, List>> {
        match self.0.try_lock() {
            Ok(list) => Some(list),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, List> {
        // A panic under the lock is a bug in this module; the list is whole after every statement
        // that can panic.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl List {
    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// Whether a node is the first.
    pub(crate) fn is_first(&self, node: Pin<&Node>) -> bool {
        self.head == Some(NonNull::from(node.get_ref()))
    }

    /// Notes that the caches were shut for those who wait, and whether that keeps owners out.
    pub(crate) fn note_caches(&mut self, is_safe: bool) {
        self.caches_shut = Some(is_safe);
    }

    pub(crate) fn are_caches_safe(&self) -> bool {
        self.caches_shut == Some(true)
    }

    /// Ends what [`note_caches`](Self::note_caches) has begun.
    pub(crate) fn take_caches(&mut self) -> Option<bool> {
        self.caches_shut.take()
    }

    /// What the first waiter asks for.
    pub(crate) fn first_order(&mut self) -> Option<Order> {
        let head = self.head?;
        self.with(head, |seat| match seat.state {
            State::Waiting { order, .. } => Some(order),
            State::Idle | State::Served(_) => None,
        })
    }

    /// Puts an idle node at the end.
    pub(crate) fn join(&mut self, node: Pin<&Node>, order: Order, waker: Waker) {
        let node = NonNull::from(node.get_ref());
        let since = Instant::now();
        let tail = self.tail;
        self.with(node, |seat| {
            debug_assert!(matches!(seat.state, State::Idle), "a node joins once");
            seat.state = State::Waiting { order, waker, since };
            seat.previous = tail;
        });
        match tail {
            Some(tail) => self.with(tail, |seat| seat.next = Some(node)),
            None => self.head = Some(node),
        }
        self.tail = Some(node);
        self.figures.waiters += 1;
        self.figures.exhausted_since.get_or_insert(since);
    }

    /// Looks at a node and takes what it was served. If it waits, exchanges its waker for `waker`.
    pub(crate) fn check(&mut self, node: Pin<&Node>, waker: &mut Option<Waker>) -> Standing {
        let node = NonNull::from(node.get_ref());
        let standing = self.with(node, |seat| match &mut seat.state {
            State::Idle => Standing::Idle,
            State::Waiting { waker: current, .. } => {
                if let Some(waker) = waker {
                    std::mem::swap(current, waker);
                }
                Standing::Waiting
            }
            &mut State::Served(span) => {
                seat.state = State::Idle;
                Standing::Served(span)
            }
        });
        if matches!(standing, Standing::Served(_)) {
            self.figures.uncollected -= 1;
        }
        standing
    }

    /// Hands a claim to the first waiter and takes him off the list. Returns his waker.
    pub(crate) fn serve_first(&mut self, span: Span) -> Option<Waker> {
        let head = self.head.expect("somebody waits");
        let now = Instant::now();
        let (waker, since) = self.unlink(head, State::Served(span), now)?;
        self.figures.count_wait(now - since);
        self.figures.uncollected += 1;
        Some(waker)
    }

    /// Takes a node off the list, wherever it is. What it was served, if it was; else its waker.
    pub(crate) fn leave(&mut self, node: Pin<&Node>) -> (Option<Span>, Option<Waker>) {
        match self.check(node, &mut None) {
            Standing::Idle => (None, None),
            Standing::Served(span) => (Some(span), None),
            Standing::Waiting => {
                let node = NonNull::from(node.get_ref());
                let left = self.unlink(node, State::Idle, Instant::now());
                (None, left.map(|(waker, _)| waker))
            }
        }
    }

    pub(crate) fn metrics(&self) -> WaitMetrics {
        let figures = &self.figures;
        let running = figures.exhausted_since.map_or(Duration::ZERO, |since| since.elapsed());
        WaitMetrics {
            waiters: figures.waiters,
            waits: figures.waits,
            uncollected: figures.uncollected,
            wait_time: figures.wait_time,
            exhausted_time: figures.exhausted_time + running,
            wait_time_buckets: figures.buckets.to_vec(),
        }
    }

    /// Takes a waiting node off the list and puts it into another state. Returns its waker and
    /// since when it waited.
    fn unlink(
        &mut self,
        node: NonNull<Node>,
        state: State,
        now: Instant,
    ) -> Option<(Waker, Instant)> {
        let (previous, next, old) = self.with(node, |seat| {
            let old = std::mem::replace(&mut seat.state, state);
            (seat.previous.take(), seat.next.take(), old)
        });
        match previous {
            Some(previous) => self.with(previous, |seat| seat.next = next),
            None => self.head = next,
        }
        match next {
            Some(next) => self.with(next, |seat| seat.previous = previous),
            None => self.tail = previous,
        }
        self.figures.waiters -= 1;
        if self.is_empty()
            && let Some(since) = self.figures.exhausted_since.take()
        {
            self.figures.exhausted_time += now - since;
        }
        match old {
            State::Waiting { waker, since, .. } => Some((waker, since)),
            State::Idle | State::Served(_) => None,
        }
    }

    /// Reaches into a node.
    ///
    /// `&mut self` says that the lock is held. The node is the caller's own, which it borrows, or
    /// one of the list.
    fn with<R>(&mut self, node: NonNull<Node>, touch: impl FnOnce(&mut Seat) -> R) -> R {
        // SAFETY: a node on the list is alive, because it is pinned and its future takes it off
        // before it goes (`Claim::drop`, `Waiter::drop`); a node that is passed in is borrowed by
        // the caller.
        let node = unsafe { node.as_ref() };
        // SAFETY: the cell is touched only with the lock held, and `touch` cannot come here again.
        node.seat.with_mut(|seat| touch(unsafe { &mut *seat }))
    }
}

impl Figures {
    fn count_wait(&mut self, waited: Duration) {
        let ns = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.waits += 1;
        self.wait_time += waited;
        self.buckets[(ns.ilog2() as usize).min(WAIT_BUCKETS - 1)] += 1;
    }
}
