//! A claim that waits.

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll},
};

use crate::{
    buffer::Buffer, error::AllocError, geometry::Order, lease::Lease, shared::Handle, wait::Node,
};

/// A claim of one block, which waits in the queue if it must: the future of `allocate_async`, of
/// which `T` is the output.
///
/// Dropping it at any time is safe: it leaves the queue, and what it was served meanwhile goes to
/// the next.
///
/// An `async` function would cost ten nanoseconds more where nobody waits: it carries what it makes
/// through its states.
pub(crate) struct Claim<'a, T> {
    handle: &'a Handle,
    /// None for what can never fit.
    order: Option<Order>,
    /// Made when it joins the queue, and gone when it was seen served.
    node: Option<Node>,
    output: PhantomData<fn() -> T>,
}

impl<'a, T> Claim<'a, T> {
    #[inline(always)]
    pub(crate) fn new(handle: &'a Handle, order: Option<Order>) -> Self {
        Self { handle, order, node: None, output: PhantomData }
    }

    #[inline(always)]
    fn poll_claim(self: Pin<&mut Self>, order: Order, context: &mut Context<'_>) -> Poll<Lease> {
        let lease = match self.node {
            None => self.handle.claim_unless_waited_for(order),
            Some(_) => None,
        };
        match lease {
            Some(lease) => Poll::Ready(lease),
            None => self.wait(order, context),
        }
    }

    /// Joins the queue, or asks what has become of it.
    #[cold]
    fn wait(self: Pin<&mut Self>, order: Order, context: &mut Context<'_>) -> Poll<Lease> {
        // SAFETY: nothing is moved out of it; the node, which alone must stay where it is, is
        // pinned again below.
        let claim = unsafe { self.get_unchecked_mut() };
        let node = &*claim.node.get_or_insert_with(Node::new);
        // SAFETY: the claim is pinned, and `drop` takes the node off the list.
        let node = unsafe { Pin::new_unchecked(node) };
        let served = claim.handle.poll_queue(node, order, context);
        if served.is_ready() {
            claim.node = None;
        }
        served
    }
}

impl Future for Claim<'_, Buffer> {
    type Output = Buffer;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Buffer> {
        // A constant, where the compiler could not know that of the field.
        debug_assert_eq!(self.order, Some(Order::UNIT), "a slot");
        self.poll_claim(Order::UNIT, context).map(Buffer::new)
    }
}

impl Future for Claim<'_, Result<Buffer, AllocError>> {
    type Output = Result<Buffer, AllocError>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.order {
            Some(order) => self.poll_claim(order, context).map(|lease| Ok(Buffer::new(lease))),
            None => Poll::Ready(Err(AllocError::RequestTooLarge)),
        }
    }
}

#[cfg(all(test, arena_loom))]
impl Future for Claim<'_, Lease> {
    type Output = Lease;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Lease> {
        let order = self.order.expect("a block that fits");
        self.poll_claim(order, context)
    }
}

impl<T> Drop for Claim<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(node) = &self.node {
            // SAFETY: it was pinned when it joined, and a value that is being dropped does not move
            // any more.
            self.handle.leave_queue(unsafe { Pin::new_unchecked(node) });
        }
    }
}

impl<T> fmt::Debug for Claim<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("is_queued", &self.node.is_some()).finish_non_exhaustive()
    }
}

/// A claim without a borrow, made again and again by one owner. Its node lies on the heap, once for
/// all claims.
pub(crate) struct Waiter {
    handle: Handle,
    /// What the node waits for in the queue, or was served and not seen yet.
    queued: Option<Order>,
    node: Pin<Box<Node>>,
}

impl Waiter {
    pub(crate) fn new(handle: Handle) -> Self {
        Self { handle, queued: None, node: Box::pin(Node::new()) }
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Goes on with the claim under way if it is for the same order, else begins one.
    pub(crate) fn poll_claim(&mut self, order: Order, context: &mut Context<'_>) -> Poll<Lease> {
        if self.queued != Some(order) {
            self.cancel();
            if let Some(lease) = self.handle.claim_unless_waited_for(order) {
                return Poll::Ready(lease);
            }
        }
        self.queued = Some(order);
        let served = self.handle.poll_queue(self.node.as_ref(), order, context);
        if served.is_ready() {
            self.queued = None;
        }
        served
    }

    /// Gives up the claim under way, if there is one.
    pub(crate) fn cancel(&mut self) {
        if self.queued.take().is_some() {
            self.handle.leave_queue(self.node.as_ref());
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter").field("queued", &self.queued).finish_non_exhaustive()
    }
}
