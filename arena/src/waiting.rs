//! The arenas that wait: `AsyncFixedArena`, `AsyncBuddyArena`, and the waiters that a transport can
//! hold.

use std::{
    num::NonZeroUsize,
    ops::Deref,
    task::{Context, Poll},
};

use crate::{
    buddy::{BuddyArena, BuddyArenaBuilder},
    buffer::Buffer,
    error::{AllocError, BuildError},
    fixed::{FixedArena, FixedArenaBuilder},
    geometry::Order,
    wait::{Claim, WaitMetrics, Waiter},
};

/// A [`FixedArena`] in which requests can wait for a slot.
///
/// It is the same arena, and derefs to it; clones are handles to it.
///
/// # Who is next
///
/// Those who wait are served in the order in which they came, by whoever frees a slot: the slot is
/// handed over with the wake-up, so that nothing has to be tried again. Whoever frees it takes a
/// short lock for that, and runs the waker.
///
/// [`allocate`](FixedArena::allocate) does not wait, and does not stand in the queue either: its
/// refusal is true, so it takes a slot that it finds free, also in the instant before that slot is
/// handed over. Where fairness matters, let everybody wait.
#[derive(Clone, Debug)]
pub struct AsyncFixedArena {
    arena: FixedArena,
}

/// A [`BuddyArena`] in which requests can wait for a block.
///
/// It is the same arena, and derefs to it; clones are handles to it.
///
/// # Who is next
///
/// Those who wait are served in the order in which they came, by whoever makes memory free: the
/// block is handed over with the wake-up, so that nothing has to be tried again. Whoever frees
/// memory takes a short lock for that, and runs the waker. A large request at the head of the queue
/// is not overtaken by smaller ones behind it: what is freed is kept until it suffices.
///
/// [`allocate`](BuddyArena::allocate) does not wait, and does not stand in the queue either: its
/// refusal is true, so it takes what it finds free, also what is too small for the head of the
/// queue and kept for it. Where fairness matters, let everybody wait.
#[derive(Clone, Debug)]
pub struct AsyncBuddyArena {
    arena: BuddyArena,
}

/// A place in the queue for a slot, owned and used again and again: for transports that poll.
///
/// Dropping it, or [`cancel`](Self::cancel), leaves the queue; a slot that was handed over
/// meanwhile goes to the next.
#[derive(Debug)]
pub struct FixedWaiter {
    waiter: Waiter,
}

/// A place in the queue for a block, owned and used again and again: for transports that poll.
///
/// Dropping it, or [`cancel`](Self::cancel), leaves the queue; a block that was handed over
/// meanwhile goes to the next.
#[derive(Debug)]
pub struct BuddyWaiter {
    waiter: Waiter,
}

impl AsyncFixedArena {
    /// Takes a slot, and waits for one if there is none.
    ///
    /// Without waiters it costs what [`allocate`](FixedArena::allocate) costs. Waiting allocates
    /// nothing from the heap, and needs no particular runtime; joining and leaving the queue take a
    /// short lock.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time. It loses its place in the queue, and no slot is lost.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::{future::Future, num::NonZeroUsize, pin::pin, task::{Context, Poll, Waker}};
    /// # let (one, size) = (NonZeroUsize::MIN, NonZeroUsize::new(64).unwrap());
    /// let arena = arena::FixedArena::builder(one, size).build_async()?;
    /// let only = arena.allocate()?;
    ///
    /// let mut next = pin!(arena.allocate_async());
    /// let mut context = Context::from_waker(Waker::noop());
    /// assert!(next.as_mut().poll(&mut context).is_pending());
    ///
    /// drop(only);
    /// assert!(next.as_mut().poll(&mut context).is_ready());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline(always)]
    pub fn allocate_async(&self) -> impl Future<Output = Buffer> {
        Claim::<Buffer>::new(&self.arena.handle, Some(Order::UNIT))
    }

    /// Takes a slot, and waits at most `patience` for one.
    ///
    /// Waits by tokio's clock, so it must be called within a tokio runtime that has its timer
    /// enabled.
    ///
    /// # Errors
    ///
    /// [`AllocError::TimedOut`] if no slot was handed over in time.
    ///
    /// # Cancel safety
    ///
    /// As for [`allocate_async`](Self::allocate_async).
    #[cfg(feature = "tokio")]
    pub async fn allocate_timeout(
        &self,
        patience: std::time::Duration,
    ) -> Result<Buffer, AllocError> {
        let served = tokio::time::timeout(patience, self.allocate_async()).await;
        served.map_err(|_| AllocError::TimedOut)
    }

    /// Returns the handle to the memory that [`FixedArenaBuilder::reserve`] set aside, if there is
    /// any: see [`FixedArena::reserve`]. Who waits there has a queue of its own.
    pub fn reserve(&self) -> Option<Self> {
        self.arena.reserve().map(|arena| Self { arena })
    }

    /// Makes a waiter of this arena. Allocates from the heap, once.
    pub fn waiter(&self) -> FixedWaiter {
        FixedWaiter { waiter: Waiter::new(self.arena.handle.clone()) }
    }

    /// Returns whether a request waits now. Costs one load.
    #[inline]
    pub fn has_waiters(&self) -> bool {
        self.arena.handle.shared().is_waited_for()
    }

    /// Takes a snapshot of who waits, and how long it took. Takes the lock of the queue.
    pub fn wait_metrics(&self) -> WaitMetrics {
        self.arena.handle.wait_metrics()
    }
}

impl AsyncBuddyArena {
    /// Takes a block of at least `len` bytes, and waits for one if there is none.
    ///
    /// Without waiters it costs what [`allocate`](BuddyArena::allocate) costs. Waiting allocates
    /// nothing from the heap, and needs no particular runtime; joining and leaving the queue take a
    /// short lock.
    ///
    /// # Errors
    ///
    /// [`AllocError::RequestTooLarge`] if `len` exceeds the whole arena: it would wait for ever.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time. It loses its place in the queue, and no block is
    /// lost.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::{future::Future, num::NonZeroUsize, pin::pin, task::{Context, Poll, Waker}};
    /// # let nz = |n| NonZeroUsize::new(n).unwrap();
    /// let arena = arena::BuddyArena::builder(nz(1024), nz(256)).build_async()?;
    /// let half = arena.allocate(nz(512))?;
    ///
    /// let mut all = pin!(arena.allocate_async(nz(1024)));
    /// let mut context = Context::from_waker(Waker::noop());
    /// assert!(all.as_mut().poll(&mut context).is_pending());
    ///
    /// drop(half);
    /// assert!(matches!(all.as_mut().poll(&mut context), Poll::Ready(Ok(_))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline(always)]
    pub fn allocate_async(
        &self,
        len: NonZeroUsize,
    ) -> impl Future<Output = Result<Buffer, AllocError>> {
        Claim::<Result<_, _>>::new(&self.arena.handle, self.arena.order_for(len).ok())
    }

    /// Takes a block of at least `len` bytes, and waits at most `patience` for one.
    ///
    /// Waits by tokio's clock, so it must be called within a tokio runtime that has its timer
    /// enabled.
    ///
    /// # Errors
    ///
    /// [`AllocError::RequestTooLarge`] at once, if `len` exceeds the whole arena;
    /// [`AllocError::TimedOut`] if no block was handed over in time.
    ///
    /// # Cancel safety
    ///
    /// As for [`allocate_async`](Self::allocate_async).
    #[cfg(feature = "tokio")]
    pub async fn allocate_timeout(
        &self,
        len: NonZeroUsize,
        patience: std::time::Duration,
    ) -> Result<Buffer, AllocError> {
        let served = tokio::time::timeout(patience, self.allocate_async(len)).await;
        served.map_err(|_| AllocError::TimedOut)?
    }

    /// Returns the handle to the memory that [`BuddyArenaBuilder::reserve`] set aside, if there is
    /// any: see [`BuddyArena::reserve`]. Who waits there has a queue of its own.
    pub fn reserve(&self) -> Option<Self> {
        self.arena.reserve().map(|arena| Self { arena })
    }

    /// Makes a waiter of this arena. Allocates from the heap, once.
    pub fn waiter(&self) -> BuddyWaiter {
        BuddyWaiter { waiter: Waiter::new(self.arena.handle.clone()) }
    }

    /// Returns whether a request waits now. Costs one load.
    #[inline]
    pub fn has_waiters(&self) -> bool {
        self.arena.handle.shared().is_waited_for()
    }

    /// Takes a snapshot of who waits, and how long it took. Takes the lock of the queue.
    pub fn wait_metrics(&self) -> WaitMetrics {
        self.arena.handle.wait_metrics()
    }
}

impl FixedWaiter {
    /// Takes a slot, or arranges for `context` to be woken when one is handed over.
    ///
    /// While it is pending the waiter keeps its place in the queue, also between polls.
    pub fn poll_allocate(&mut self, context: &mut Context<'_>) -> Poll<Buffer> {
        self.waiter.poll_claim(Order::UNIT, context).map(Buffer::new)
    }

    /// Leaves the queue, if it is in it.
    pub fn cancel(&mut self) {
        self.waiter.cancel();
    }
}

impl BuddyWaiter {
    /// Takes a block of at least `len` bytes, or arranges for `context` to be woken when one is
    /// handed over.
    ///
    /// While it is pending the waiter keeps its place in the queue, also between polls. To ask for
    /// a block of another size is to leave the queue and join it again at its end.
    ///
    /// # Errors
    ///
    /// [`AllocError::RequestTooLarge`] if `len` exceeds the whole arena. The waiter has left the
    /// queue then.
    pub fn poll_allocate(
        &mut self,
        context: &mut Context<'_>,
        len: NonZeroUsize,
    ) -> Poll<Result<Buffer, AllocError>> {
        let Some(order) = self.waiter.handle().shared().geometry.order_for(len) else {
            self.cancel();
            return Poll::Ready(Err(AllocError::RequestTooLarge));
        };
        self.waiter.poll_claim(order, context).map(|lease| Ok(Buffer::new(lease)))
    }

    /// Leaves the queue, if it is in it.
    pub fn cancel(&mut self) {
        self.waiter.cancel();
    }
}

impl Deref for AsyncFixedArena {
    type Target = FixedArena;

    fn deref(&self) -> &FixedArena {
        &self.arena
    }
}

impl Deref for AsyncBuddyArena {
    type Target = BuddyArena;

    fn deref(&self) -> &BuddyArena {
        &self.arena
    }
}

impl FixedArenaBuilder {
    /// Takes the memory and makes an arena in which requests can wait.
    ///
    /// # Errors
    ///
    /// As for [`build`](Self::build).
    pub fn build_async(self) -> Result<AsyncFixedArena, BuildError> {
        self.build().map(|arena| AsyncFixedArena { arena })
    }
}

impl BuddyArenaBuilder {
    /// Takes the memory and makes an arena in which requests can wait.
    ///
    /// # Errors
    ///
    /// As for [`build`](Self::build).
    pub fn build_async(self) -> Result<AsyncBuddyArena, BuildError> {
        self.build().map(|arena| AsyncBuddyArena { arena })
    }
}
