//! Frames on the heap: those that no block holds, charged to a budget.
//!
//! The budget is an arena whose bytes stand for pages of the heap. So it is waited for as memory
//! is: first come, first served, large ones not overtaken, with a part set aside for replies.

use std::{
    num::NonZeroUsize,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    task::{Context, Poll},
};

use arena::{AsyncBuddyArena, BuddyArena, BuddyWaiter, Buffer, BuildError, Frozen};
use bytes::{BufMut, Bytes, BytesMut};

use super::{
    Held, Lane, MemoryMetrics,
    plan::{Plan, SPILL_PAGE_BYTES},
};

/// Memory for one frame, wherever it lies.
#[derive(Debug)]
pub(crate) enum Block {
    Arena(Buffer),
    Heap(HeapBlock),
}

/// Memory on the heap, and its charge.
#[derive(Debug)]
pub(crate) struct HeapBlock {
    pub(crate) bytes: BytesMut,
    /// Drops after the bytes.
    charge: Buffer,
}

/// Written memory on the heap that keeps its charge until the last reference drops.
#[derive(Debug)]
struct Charged {
    bytes: Bytes,
    _charge: Buffer,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Block {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Arena(buffer) => buffer.len(),
            Self::Heap(heap) => heap.bytes.len(),
        }
    }

    pub(crate) fn put_slice(&mut self, bytes: &[u8]) {
        match self {
            Self::Arena(buffer) => buffer.put_slice(bytes),
            Self::Heap(heap) => heap.bytes.put_slice(bytes),
        }
    }

    /// What it keeps from others.
    pub(crate) fn held(&self) -> Held {
        match self {
            Self::Arena(buffer) => Held::in_arena(buffer.capacity()),
            Self::Heap(heap) => Held::on_heap(heap.charge.capacity() * SPILL_PAGE_BYTES),
        }
    }

    pub(crate) fn into_frozen(self) -> Frozen {
        match self {
            Self::Arena(buffer) => buffer.into_frozen(),
            Self::Heap(HeapBlock { bytes, charge }) => {
                let charged = Charged { bytes: bytes.freeze(), _charge: charge };
                Frozen::from(Bytes::from_owner(charged))
            }
        }
    }
}

/// The budget.
#[derive(Debug)]
pub(crate) struct Spill {
    requests: AsyncBuddyArena,
    replies: AsyncBuddyArena,
    /// The same two, for whoever looks at all queues.
    lanes: [Lane; 2],
    spills: AtomicU64,
}

/// A place in the queues of the budget.
#[derive(Debug)]
pub(crate) struct SpillWaiter {
    requests: BuddyWaiter,
    replies: BuddyWaiter,
}

impl Spill {
    /// Makes the budget, if there is one.
    pub(super) fn new(plan: &Plan) -> Result<Option<Self>, BuildError> {
        let Some(pages) = NonZeroUsize::new(plan.spill_pages()) else { return Ok(None) };
        let set_aside = plan.spill_pages_of_largest().min(pages.get() / 2);
        let requests =
            BuddyArena::builder(pages, NonZeroUsize::MIN).reserve(set_aside).build_async()?;
        let replies = requests.reserve().unwrap_or_else(|| requests.clone());
        let lanes = [requests.clone(), replies.clone()].map(Lane::Buddy);
        Ok(Some(Self { requests, replies, lanes, spills: AtomicU64::new(0) }))
    }

    pub(super) fn lanes(&self) -> &[Lane; 2] {
        &self.lanes
    }

    pub(super) fn waiter(&self) -> SpillWaiter {
        SpillWaiter { requests: self.requests.waiter(), replies: self.replies.waiter() }
    }

    /// Takes memory if the budget has some left for anybody.
    pub(super) fn try_take(&self, bytes: usize) -> Option<Block> {
        let charge = self.requests.allocate(pages(bytes)).ok()?;
        Some(self.block(bytes, charge))
    }

    pub(super) fn block(&self, bytes: usize, charge: Buffer) -> Block {
        // Relaxed: a figure.
        self.spills.fetch_add(1, Relaxed);
        Block::Heap(HeapBlock { bytes: BytesMut::with_capacity(bytes), charge })
    }

    pub(super) fn add_to(&self, metrics: &mut MemoryMetrics) {
        let budget = self.requests.metrics();
        metrics.spills += self.spills.load(Relaxed);
        metrics.spill_bytes_reserved = budget.bytes_reserved * SPILL_PAGE_BYTES;
        metrics.spill_bytes_live = budget.bytes_live * SPILL_PAGE_BYTES;
    }
}

impl SpillWaiter {
    /// Waits for room for a request.
    pub(super) fn poll_request(
        &mut self,
        spill: &Spill,
        context: &mut Context<'_>,
        bytes: usize,
    ) -> Poll<Block> {
        let charge = self.requests.poll_allocate(context, pages(bytes));
        charge.map(|charge| spill.block(bytes, charge.expect("the plan has room for every frame")))
    }

    /// Waits for room for a reply, in what is set aside.
    pub(super) fn poll_reply(
        &mut self,
        spill: &Spill,
        context: &mut Context<'_>,
        bytes: usize,
    ) -> Poll<Block> {
        let charge = self.replies.poll_allocate(context, pages(bytes));
        charge.map(|charge| spill.block(bytes, charge.expect("the plan has room for every frame")))
    }

    pub(super) fn cancel(&mut self) {
        self.requests.cancel();
        self.replies.cancel();
    }
}

/// What a frame of so many bytes is charged.
pub(super) fn charged_bytes(bytes: usize) -> usize {
    pages(bytes).get().next_power_of_two() * SPILL_PAGE_BYTES
}

fn pages(bytes: usize) -> NonZeroUsize {
    NonZeroUsize::new(bytes.div_ceil(SPILL_PAGE_BYTES)).expect("a spilled frame has bytes")
}
