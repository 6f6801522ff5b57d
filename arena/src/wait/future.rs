//! A claim that waits.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use crate::{geometry::Order, lease::Lease, shared::Handle, wait::Node};

/// A claim of one block that waits in the queue. To be made when a try has failed: then those who
/// need not wait do not pay for the node.
///
/// Dropping it at any time is safe: it leaves the queue, and what it was served meanwhile goes to
/// the next.
pub(crate) struct Claim<'a> {
    handle: &'a Handle,
    order: Order,
    /// Whether the node has joined the queue and was not seen served yet.
    is_queued: bool,
    node: Node,
}

impl<'a> Claim<'a> {
    #[inline]
    pub(crate) fn new(handle: &'a Handle, order: Order) -> Self {
        Self { handle, order, is_queued: false, node: Node::new() }
    }
}

impl Future for Claim<'_> {
    type Output = Lease;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Lease> {
        // SAFETY: nothing is moved out of it; the node, which alone must stay where it is, is
        // pinned again below.
        let claim = unsafe { self.get_unchecked_mut() };
        claim.is_queued = true;
        // SAFETY: the claim is pinned, and `drop` takes the node off the list.
        let node = unsafe { Pin::new_unchecked(&claim.node) };
        let served = claim.handle.poll_queue(node, claim.order, context);
        claim.is_queued = served.is_pending();
        served
    }
}

impl Drop for Claim<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.is_queued {
            // SAFETY: it was pinned when it joined, and a value that is being dropped does not move
            // any more.
            let node = unsafe { Pin::new_unchecked(&self.node) };
            self.handle.leave_queue(node);
        }
    }
}

impl fmt::Debug for Claim<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("is_queued", &self.is_queued).finish_non_exhaustive()
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
