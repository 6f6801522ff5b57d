//! `Memory`: what all connections of a server share, and who may take which part of it when.
//!
//! # Lanes
//!
//! ```text
//! |  ordinary memory: requests, and whatever replies find there  |  growth  |  replies  |
//! ```
//!
//! The two at the end are set aside, each for one of the largest frame: *growth* for a request that
//! has outgrown the block in which it began, *replies* for answers. Ordinary searches skip them.
//! There is no growth lane where the first block holds every frame: in fixed mode, and where the
//! capacity is just two blocks.
//!
//! # Who waits for what
//!
//! ```text
//! holds nothing            --waits for-->  ordinary memory
//! holds ordinary memory    --waits for-->  growth, replies, its peer
//! holds growth             --waits for-->  replies, its peer
//! holds replies            --waits for-->  its peer
//! ```
//!
//! Every wait goes to the right in `nothing < ordinary < growth < replies < peer`, so no cycle can
//! form; and a wait for a peer ends, at its deadline at the latest. So every holder gives back what
//! it holds in bounded time, queues are first come, first served, and everybody is served.
//!
//! *Frames on the heap* (`--spill`) are charged to a budget that has the same shape: requests wait
//! for the first part of it, replies for what is set aside at its end. The whole order is
//! `nothing < ordinary < growth, heap for requests < replies, heap for replies < peer`.
//!
//! The table is kept by the functions of [`Claimant`]: each says what its caller may hold.
//!
//! # Who is closed
//!
//! Peers that stall can block memory until their deadlines. See `stall` for what is done while
//! others wait for it.

mod clock;
mod held;
mod plan;
mod spill;
mod stall;

use std::{
    mem,
    num::NonZeroUsize,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use arena::{
    AllocError, AsyncBuddyArena, AsyncFixedArena, BuddyArena, BuddyWaiter, Buffer, BuildError,
    FixedArena, FixedWaiter, Occupancy, WaitMetrics,
};
use tokio::{join, sync::Notify};

use crate::{
    roster::{Doing, Presence},
    transport::Half,
};

pub use self::plan::{Plan, PlanError};
pub(crate) use self::plan::{READ_BLOCK_BYTES_MIN, SPILL_PAGE_BYTES, spill_bytes, spill_bytes_min};
pub(crate) use self::{
    clock::{Clock, Moment},
    held::{Held, Home},
    spill::{Block, Spill, SpillWaiter},
    stall::{Stall, Stalls},
};

/// The memory that connections share, and the rules by which they wait for it.
///
/// A clone is another handle to the same memory. What it needs of a connection, and why nobody
/// waits for ever, is in the documentation of the crate.
///
/// # Examples
///
/// ```
/// use arena_echo::Memory;
///
/// // 4 MiB in blocks of 256 bytes and more, for frames of up to 1 MiB.
/// let memory = Memory::buddy(4 << 20, 256, 1 << 20)?;
/// assert_eq!(memory.metrics().bytes_live, 0);
/// # Ok::<(), arena_echo::MemoryError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Memory {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    plan: Plan,
    ordinary: Lane,
    growth: Option<Lane>,
    replies: Lane,
    spill: Option<Spill>,
    stalls: Stalls,
    /// Told when somebody begins to wait for memory.
    somebody_waits: Notify,
}

/// Why there is no memory to share.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The sizes do not let every connection progress.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The arena refuses them.
    #[error(transparent)]
    Build(#[from] BuildError),
}

/// A snapshot of the memory of a server.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct MemoryMetrics {
    /// All bytes of the arena.
    pub bytes_reserved: usize,
    /// Bytes in use now. Zero when no connection has a frame at work.
    pub bytes_live: usize,
    /// The most bytes in use that a snapshot or a refusal has seen.
    pub bytes_live_max: usize,
    /// The largest block that could be allocated now. In fixed mode a slot, or nothing.
    pub largest_free_block: usize,
    /// Blocks that were taken.
    pub allocations_ok: u64,
    /// Blocks that were refused. Whoever was refused waited, or did with less.
    pub allocations_failed: u64,
    /// Blocks that came back.
    pub frees: u64,
    /// Blocks that were split off larger ones. Zero in fixed mode.
    pub splits: u64,
    /// Blocks that were merged to larger ones. Zero in fixed mode.
    pub coalesces: u64,
    /// Frames that were put on the heap, because no slot holds them.
    pub spills: u64,
    /// Bytes on the heap that the spill limit allows.
    pub spill_bytes_reserved: usize,
    /// Bytes on the heap that frames have now.
    pub spill_bytes_live: usize,
    /// Bytes of the arena that stalled peers block now.
    pub stalled_bytes: usize,
    /// Bytes that the spill limit allows and stalled peers block now.
    pub spill_stalled_bytes: usize,
    /// How long, and by how many, was waited: for ordinary memory, for growth if there is any, for
    /// replies; and for requests and replies on the heap, if there may be some.
    pub waits: Vec<WaitMetrics>,
}

impl Memory {
    /// How long a peer may keep memory for which others wait, unless a server says otherwise.
    pub(crate) const STALL_TIMEOUT: Duration = Duration::from_secs(1);

    /// Reserves `slots` slots of `slot_bytes`, of which one is for replies alone.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] if there are fewer than two slots, if a slot has less than 64 bytes, or if
    /// the system has not so much memory.
    pub fn fixed(slots: usize, slot_bytes: usize) -> Result<Self, MemoryError> {
        let plan = Plan::fixed(slots.saturating_mul(slot_bytes), slot_bytes, slot_bytes, 0)?;
        Self::new(plan, Self::STALL_TIMEOUT)
    }

    /// Reserves `total_bytes` in blocks of `min_block_bytes` and more, for payloads of up to
    /// `max_frame_bytes`.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] if the first two are no powers of two, if there are not two blocks of the
    /// largest frame, or if the system has not so much memory.
    pub fn buddy(
        total_bytes: usize,
        min_block_bytes: usize,
        max_frame_bytes: usize,
    ) -> Result<Self, MemoryError> {
        let plan = Plan::buddy(total_bytes, min_block_bytes, max_frame_bytes)?;
        Self::new(plan, Self::STALL_TIMEOUT)
    }

    /// Reserves what was planned.
    pub(crate) fn new(plan: Plan, stall_timeout: Duration) -> Result<Self, MemoryError> {
        let (ordinary, replies, growth) = Lane::build(&plan)?;
        let spill = Spill::new(&plan)?;
        let share = Held {
            arena_bytes: plan.capacity_bytes() / STALLED_SHARE,
            heap_bytes: plan.spill_bytes() / STALLED_SHARE,
        };
        let stalls = Stalls::new(share, stall_timeout);
        let somebody_waits = Notify::new();
        let inner = Inner { plan, ordinary, growth, replies, spill, stalls, somebody_waits };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Returns what the memory is for, added up.
    pub fn plan(&self) -> &Plan {
        &self.inner.plan
    }

    /// Takes a snapshot of the figures.
    pub fn metrics(&self) -> MemoryMetrics {
        let Inner { ordinary, spill, stalls, .. } = &*self.inner;
        let lanes = Home::ALL.into_iter().flat_map(|home| self.inner.lanes(home));
        let mut metrics = MemoryMetrics {
            stalled_bytes: stalls.bytes(Home::Arena),
            spill_stalled_bytes: stalls.bytes(Home::Heap),
            waits: lanes.map(Lane::wait_metrics).collect(),
            ..ordinary.metrics()
        };
        if let Some(spill) = spill {
            spill.add_to(&mut metrics);
        }
        metrics
    }

    /// Takes a snapshot of which memory is free: ordinary memory first, then what is set aside.
    pub fn occupancy(&self) -> Occupancy {
        match &self.inner.ordinary {
            Lane::Fixed(arena) => arena.occupancy(),
            Lane::Buddy(arena) => arena.occupancy(),
        }
    }

    /// Closes connections that block memory for which others wait, and notices when the process was
    /// paused, which counts towards no deadline. For ever: the server runs it in a task of its own,
    /// and so does whoever uses transports without the server.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the watch, and can be made good by another call.
    pub async fn watch_stalls(&self) {
        join!(self.inner.stalls.clock().run(), self.inner.close_stalled());
    }

    /// Whether somebody waits for memory.
    pub(crate) fn is_waited_for(&self) -> bool {
        Home::ALL.into_iter().any(|home| self.inner.is_waited_for(home))
    }
}

impl Inner {
    async fn close_stalled(&self) {
        loop {
            self.somebody_waits.notified().await;
            let mut queues = Home::ALL.map(|home| Queues::of(self, home));
            while Home::ALL.into_iter().any(|home| self.is_waited_for(home)) {
                let mut is_urgent = false;
                for queues in &mut queues {
                    is_urgent |= queues.make_way(self);
                }
                self.stalls.pause(is_urgent).await;
            }
        }
    }

    /// The parts of the memory that lie there, in the order of their addresses.
    fn lanes(&self, home: Home) -> impl Iterator<Item = &Lane> {
        let lanes = match home {
            Home::Arena => [Some(&self.ordinary), self.growth.as_ref(), Some(&self.replies)],
            Home::Heap => match self.spill.as_ref().map(Spill::lanes) {
                Some([requests, replies]) => [Some(requests), None, Some(replies)],
                None => [None; 3],
            },
        };
        lanes.into_iter().flatten()
    }

    fn is_waited_for(&self, home: Home) -> bool {
        self.lanes(home).any(Lane::has_waiters)
    }
}

/// All queues for memory that lies in one place.
#[derive(Debug)]
struct Queues {
    home: Home,
    /// How many were served when somebody was served last.
    served: u64,
    since: Moment,
}

impl Queues {
    fn of(inner: &Inner, home: Home) -> Self {
        let served = inner.lanes(home).map(|lane| lane.wait_metrics().waits).sum();
        Self { home, served, since: inner.stalls.clock().now() }
    }

    /// Closes a stalled connection if it keeps those waiting who stand in them. Returns whether the
    /// next may have to follow at once.
    fn make_way(&mut self, inner: &Inner) -> bool {
        let before = mem::replace(self, Self::of(inner, self.home));
        if !inner.is_waited_for(self.home) {
            return false;
        }
        if before.served == self.served {
            self.since = before.since;
        }
        // Nobody has been served for longer than a stall may take.
        let stuck = inner.stalls.clock().now().since(self.since);
        let are_stuck = stuck > inner.stalls.timeout();
        inner.stalls.close_the_longest(self.home, are_stuck)
    }
}

/// Stalled peers may block one part in so many of the memory while others wait.
const STALLED_SHARE: usize = 4;

/// A part of the memory with a queue of its own.
#[derive(Clone, Debug)]
enum Lane {
    Fixed(AsyncFixedArena),
    Buddy(AsyncBuddyArena),
}

/// A place in the queue of a lane.
#[derive(Debug)]
enum LaneWaiter {
    Fixed(FixedWaiter),
    Buddy(BuddyWaiter),
}

impl Lane {
    /// Builds the arena and returns its lanes: ordinary memory, replies, growth.
    fn build(plan: &Plan) -> Result<(Self, Self, Option<Self>), BuildError> {
        // Where there is growth, replies are what is set aside of it in turn.
        match plan.lanes() {
            plan::Lanes::Fixed { slots, slot_bytes } => {
                let arena = FixedArena::builder(slots, slot_bytes)
                    .reserve(slot_bytes.get())
                    .build_async()?;
                let replies = arena.reserve().map(Self::Fixed);
                Ok((Self::Fixed(arena), replies.expect("a slot is set aside"), None))
            }
            plan::Lanes::Buddy { total_bytes, min_block_bytes, block_bytes, has_growth } => {
                let mut builder = BuddyArena::builder(total_bytes, min_block_bytes);
                if has_growth {
                    builder = builder.reserve(2 * block_bytes);
                }
                let arena = builder.reserve(block_bytes).build_async()?;
                let outer = arena.reserve().expect("a block is set aside");
                let inner = outer.reserve();
                let (growth, replies) = match inner {
                    Some(replies) => (Some(Self::Buddy(outer)), replies),
                    None => (None, outer),
                };
                Ok((Self::Buddy(arena), Self::Buddy(replies), growth))
            }
        }
    }

    fn has_waiters(&self) -> bool {
        match self {
            Self::Fixed(arena) => arena.has_waiters(),
            Self::Buddy(arena) => arena.has_waiters(),
        }
    }

    fn allocate(&self, bytes: NonZeroUsize) -> Result<Buffer, AllocError> {
        match self {
            Self::Fixed(arena) if bytes.get() > arena.slot_capacity() => {
                Err(AllocError::RequestTooLarge)
            }
            Self::Fixed(arena) => arena.allocate(),
            Self::Buddy(arena) => arena.allocate(bytes),
        }
    }

    fn waiter(&self) -> LaneWaiter {
        match self {
            Self::Fixed(arena) => LaneWaiter::Fixed(arena.waiter()),
            Self::Buddy(arena) => LaneWaiter::Buddy(arena.waiter()),
        }
    }

    fn wait_metrics(&self) -> WaitMetrics {
        match self {
            Self::Fixed(arena) => arena.wait_metrics(),
            Self::Buddy(arena) => arena.wait_metrics(),
        }
    }

    fn metrics(&self) -> MemoryMetrics {
        match self {
            Self::Fixed(arena) => {
                let metrics = arena.metrics();
                let has_free = metrics.bytes_live < metrics.bytes_reserved;
                MemoryMetrics {
                    bytes_reserved: metrics.bytes_reserved,
                    bytes_live: metrics.bytes_live,
                    bytes_live_max: metrics.bytes_live_max,
                    largest_free_block: if has_free { arena.slot_capacity() } else { 0 },
                    allocations_ok: metrics.allocations_ok,
                    allocations_failed: metrics.allocations_failed,
                    frees: metrics.frees,
                    ..MemoryMetrics::default()
                }
            }
            Self::Buddy(arena) => {
                let metrics = arena.metrics();
                MemoryMetrics {
                    bytes_reserved: metrics.bytes_reserved,
                    bytes_live: metrics.bytes_live,
                    bytes_live_max: metrics.bytes_live_max,
                    largest_free_block: metrics.largest_free_block,
                    allocations_ok: metrics.allocations_ok,
                    allocations_failed: metrics.allocations_failed,
                    frees: metrics.frees,
                    splits: metrics.splits,
                    coalesces: metrics.coalesces,
                    ..MemoryMetrics::default()
                }
            }
        }
    }
}

impl LaneWaiter {
    /// Waits for a block of at least `bytes`, which the lane can have.
    fn poll_allocate(&mut self, context: &mut Context<'_>, bytes: NonZeroUsize) -> Poll<Buffer> {
        match self {
            Self::Fixed(waiter) => waiter.poll_allocate(context),
            Self::Buddy(waiter) => waiter
                .poll_allocate(context, bytes)
                .map(|block| block.expect("the plan has lanes that hold every frame")),
        }
    }

    fn cancel(&mut self) {
        match self {
            Self::Fixed(waiter) => waiter.cancel(),
            Self::Buddy(waiter) => waiter.cancel(),
        }
    }
}

/// One connection's way to the memory.
#[derive(Debug)]
pub(crate) struct Claimant {
    memory: Memory,
    ordinary: Option<LaneWaiter>,
    growth: Option<LaneWaiter>,
    replies: Option<LaneWaiter>,
    spill: Option<SpillWaiter>,
    stall: Stall,
    /// Who it is, for people who look.
    presence: Option<Presence>,
}

impl Claimant {
    pub(crate) fn new(memory: &Memory) -> Self {
        Self {
            memory: memory.clone(),
            ordinary: None,
            growth: None,
            replies: None,
            spill: None,
            stall: Stall::new(),
            presence: None,
        }
    }

    /// Shows from now on, under this name, what it waits for.
    pub(crate) fn known_as(mut self, presence: Presence) -> Self {
        self.presence = Some(presence);
        self
    }

    /// The clock of deadlines.
    #[inline]
    pub(crate) fn clock(&self) -> &Clock {
        self.memory.inner.stalls.clock()
    }

    /// Bytes of the block into which a connection reads when it does not know what comes.
    pub(crate) fn read_block_bytes(&self) -> usize {
        self.memory.inner.plan.read_block_bytes()
    }

    /// Whether somebody waits for memory, or stalled peers block much of the arena.
    pub(crate) fn is_pressed(&self) -> bool {
        self.memory.is_waited_for() || self.memory.inner.stalls.are_too_many(Home::Arena)
    }

    /// What a payload of so many bytes keeps from others.
    pub(crate) fn held_by(&self, payload_bytes: usize) -> Held {
        match self.memory.inner.plan.must_spill(payload_bytes) {
            true => Held::on_heap(spill::charged_bytes(payload_bytes)),
            false => Held::in_arena(payload_bytes),
        }
    }

    /// Waits for memory for a request. The caller holds nothing.
    pub(crate) fn poll_request(&mut self, context: &mut Context<'_>, bytes: usize) -> Poll<Block> {
        let inner = &*self.memory.inner;
        if inner.plan.must_spill(bytes) {
            return self.poll_spilled_request(context, bytes);
        }
        let waiter = self.ordinary.get_or_insert_with(|| inner.ordinary.waiter());
        let block = waiter.poll_allocate(context, positive(bytes));
        if block.is_pending() {
            inner.somebody_waits.notify_one();
        }
        block.map(Block::Arena)
    }

    /// Waits for memory for a request that has outgrown its block. The caller holds ordinary memory
    /// at most.
    pub(crate) fn poll_growth(&mut self, context: &mut Context<'_>, bytes: usize) -> Poll<Block> {
        let inner = &*self.memory.inner;
        if inner.plan.must_spill(bytes) {
            return self.poll_spilled_request(context, bytes);
        }
        if let Ok(block) = inner.ordinary.allocate(positive(bytes)) {
            self.cancel_growth();
            return Poll::Ready(Block::Arena(block));
        }
        // Without growth a block holds every frame. Then its own replies, or whoever keeps frames
        // of it, share it: both give it back without more memory.
        let lane = inner.growth.as_ref().unwrap_or(&inner.ordinary);
        let waiter = self.growth.get_or_insert_with(|| lane.waiter());
        let block = waiter.poll_allocate(context, positive(bytes));
        if block.is_pending() {
            inner.somebody_waits.notify_one();
        }
        block.map(Block::Arena)
    }

    /// Leaves the queue for growth.
    pub(crate) fn cancel_growth(&mut self) {
        if let Some(waiter) = &mut self.growth {
            waiter.cancel();
        }
    }

    /// Takes memory for a reply if there is some. The caller may hold anything.
    pub(crate) fn try_reply(&self, bytes: usize) -> Option<Block> {
        let inner = &*self.memory.inner;
        if inner.plan.must_spill(bytes) {
            return inner.spill.as_ref()?.try_take(bytes);
        }
        inner.ordinary.allocate(positive(bytes)).ok().map(Block::Arena)
    }

    /// Waits for memory for a reply. The caller holds none that is set aside for replies.
    pub(crate) fn poll_reply(&mut self, context: &mut Context<'_>, bytes: usize) -> Poll<Block> {
        if let Some(block) = self.try_reply(bytes) {
            self.cancel_reply();
            return Poll::Ready(block);
        }
        let inner = &*self.memory.inner;
        let block = if inner.plan.must_spill(bytes) {
            let spill = inner.spill.as_ref().expect("only with a spill limit are frames so long");
            let waiter = self.spill.get_or_insert_with(|| spill.waiter());
            waiter.poll_reply(spill, context, bytes)
        } else {
            let waiter = self.replies.get_or_insert_with(|| inner.replies.waiter());
            waiter.poll_allocate(context, positive(bytes)).map(Block::Arena)
        };
        if block.is_pending() {
            inner.somebody_waits.notify_one();
        }
        block
    }

    /// Leaves the queue for replies.
    pub(crate) fn cancel_reply(&mut self) {
        if let Some(waiter) = &mut self.replies {
            waiter.cancel();
        }
        if let Some(waiter) = &mut self.spill {
            waiter.cancel();
        }
    }

    fn poll_spilled_request(&mut self, context: &mut Context<'_>, bytes: usize) -> Poll<Block> {
        let inner = &*self.memory.inner;
        let spill = inner.spill.as_ref().expect("only with a spill limit are frames so long");
        let waiter = self.spill.get_or_insert_with(|| spill.waiter());
        let block = waiter.poll_request(spill, context, bytes);
        if block.is_pending() {
            inner.somebody_waits.notify_one();
        }
        block
    }

    /// Notes that so many bytes came from the peer, or were taken by it.
    #[inline]
    pub(crate) fn moved(&mut self, bytes: u64) {
        self.stall.moved(bytes);
    }

    /// Returns how many bytes came from the peer, or were taken by it, since the beginning.
    #[inline]
    pub(crate) fn moved_bytes(&self) -> u64 {
        self.stall.moved_bytes()
    }

    /// Notes that the peer lets the connection wait while it holds so much.
    ///
    /// Ready if the connection must close, because others need its memory more.
    pub(crate) fn poll_stalled(
        &mut self,
        half: Half,
        context: &mut Context<'_>,
        held: Held,
    ) -> Poll<()> {
        let mut blocked = held;
        if held.arena_bytes > 0 {
            // What is left of a read block keeps a whole one from everybody else.
            blocked.arena_bytes = held.arena_bytes.max(self.read_block_bytes());
        }
        self.stall.poll_closed(&self.memory.inner.stalls, half, context, blocked)
    }

    /// Notes what the connection does while it waits, and how much memory it holds.
    #[inline]
    pub(crate) fn note(&mut self, doing: Doing, held: Held) {
        if let Some(presence) = &mut self.presence {
            presence.note(doing, held.all_bytes());
        }
    }

    /// Notes that whatever the connection holds, it does not wait for its peer to get rid of it.
    #[inline]
    pub(crate) fn suspend_stall(&mut self) {
        self.stall.suspend(&self.memory.inner.stalls);
    }

    /// Notes that the connection holds nothing any more.
    #[inline]
    pub(crate) fn end_turn(&mut self) {
        self.stall.end(&self.memory.inner.stalls);
        if let Some(presence) = &mut self.presence {
            presence.end_turn();
        }
    }

    /// Notes that the connection need not wait for memory any more.
    #[inline]
    pub(crate) fn end_wait(&mut self) {
        if let Some(presence) = &mut self.presence {
            presence.end_wait();
        }
    }
}

impl Drop for Claimant {
    fn drop(&mut self) {
        self.end_turn();
    }
}

/// Frames of no bytes take no memory, so nobody asks for none.
fn positive(bytes: usize) -> NonZeroUsize {
    NonZeroUsize::new(bytes).expect("memory is asked for by those who need some")
}
