//! What all handles, buffers and frozen bytes of one arena share.

use std::{fmt, ptr::NonNull};
#[cfg(feature = "async-alloc")]
use std::{
    panic::resume_unwind,
    pin::Pin,
    task::{Context, Poll},
};

#[cfg(feature = "async-alloc")]
use crate::wait::{Node, Queue, Standing, Wakers};
use crate::{
    claim::{Effort, Map},
    error::{AllocError, BuildError},
    geometry::{Geometry, Order, Span},
    lease::Lease,
    life::{Core, Fate},
    region::Region,
    share::Counts,
    stripe::{Stripes, Tally, Totals},
    sync::{AtomicU64, Ordering::Relaxed},
    thread,
};

/// One arena.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) core: Core,
    pub(crate) geometry: Geometry,
    pub(crate) region: Region,
    pub(crate) counts: Counts,
    pub(crate) auto_spill: bool,
    /// What is set aside at the end of the region: an arena of its own, with its own queue.
    pub(crate) reserve: Option<Handle>,
    #[cfg(feature = "async-alloc")]
    pub(crate) queue: Queue,
    /// The most units in use that a snapshot or a refusal has seen.
    live_units_max: AtomicU64,
}

/// How the units of an arena are searched.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// Single units, any number of them.
    Slots,
    /// Power-of-two blocks of a power of two units.
    Blocks,
}

/// What a builder collects.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) alignment: usize,
    pub(crate) auto_spill: bool,
    /// What to set aside, and what of that in turn, and so on.
    pub(crate) reserves: Vec<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self { alignment: 1, auto_spill: false, reserves: Vec::new() }
    }
}

impl Shared {
    /// Tells the thread's counters from those of others.
    #[inline]
    pub(crate) fn tally(&self) -> Tally<'_> {
        self.core.stripes.at(thread::seat())
    }

    /// Sums the figures, those of the reserve included, and notes how much is in use.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = self.core.stripes.totals();
        if let Some(reserve) = &self.reserve {
            totals += reserve.shared().totals();
        }
        self.note_live(totals.live_units);
        totals
    }

    /// The order of the largest block that is free now, in the reserve or outside of it.
    pub(crate) fn largest_free_order(&self) -> Option<Order> {
        let of_reserve =
            self.reserve.as_ref().and_then(|reserve| reserve.shared().largest_free_order());
        self.core.map.largest_free_order(&self.core.stripes).max(of_reserve)
    }

    /// What a sum of units comes to in bytes. A sum taken while others claim and release can be
    /// off, but there is never more than the whole.
    pub(crate) fn bytes_of_sum(&self, units: u64) -> usize {
        let units = u32::try_from(units).unwrap_or(u32::MAX).min(self.geometry.units());
        self.geometry.bytes_of(units)
    }

    /// The highest value noted so far, in units.
    pub(crate) fn live_units_max(&self) -> u64 {
        self.live_units_max.load(Relaxed)
    }

    fn note_live(&self, units: u64) {
        // Read first, so that a line that everybody reads is written only when the value changes.
        if units > self.live_units_max.load(Relaxed) {
            self.live_units_max.fetch_max(units, Relaxed);
        }
    }

    /// Gives back a run of units.
    ///
    /// # Safety
    ///
    /// As for [`Core::release`]; and if the arena's life is over, `shared` must be where
    /// [`Handle::new`] put it.
    #[inline]
    pub(crate) unsafe fn release(shared: NonNull<Self>, span: Span) {
        // SAFETY: the caller has the units, so the arena is alive (A2).
        let core = unsafe { Self::core(shared) };
        // SAFETY: the caller's promise.
        let fate = unsafe { Core::release(core, span, thread::seat()) };
        match fate {
            Fate::Lives => {}
            // SAFETY: `Over` says that nobody else has a part in it (A2).
            Fate::Over => unsafe { Self::free(shared) },
            Fate::MustAttend => Self::attend(Handle(shared)),
        }
    }

    /// Turns to those who wait for memory or have the last look, with a handle that was got for it.
    #[cold]
    fn attend(handle: Handle) {
        handle.shared().core.await_last_look();
        #[cfg(feature = "async-alloc")]
        handle.shared().serve_if_waited_for();
        drop(handle);
    }

    /// Gives back a part of a lease that goes on.
    pub(crate) fn release_tail(&self, tail: Span) {
        self.core.release_tail(tail, thread::seat());
        self.core.await_last_look();
        #[cfg(feature = "async-alloc")]
        self.serve_if_waited_for();
    }

    /// The core inside, without a reference to the rest, which may end sooner than a reference
    /// would.
    ///
    /// # Safety
    ///
    /// The arena is alive.
    #[inline]
    unsafe fn core(shared: NonNull<Self>) -> NonNull<Core> {
        // SAFETY: `shared` points to a live arena (the caller's promise), so its field has an
        // address.
        let core = unsafe { &raw mut (*shared.as_ptr()).core };
        // SAFETY: the address of a field of a live value is not null.
        unsafe { NonNull::new_unchecked(core) }
    }

    /// Ends the arena.
    ///
    /// # Safety
    ///
    /// The caller is the last to touch it, and it was made by [`Handle::new`].
    #[cold]
    unsafe fn free(shared: NonNull<Self>) {
        // SAFETY: `Handle::new` made it a box, and it becomes one again once.
        drop(unsafe { Box::from_raw(shared.as_ptr()) });
    }
}

/// A handle to an arena: the right to claim.
pub(crate) struct Handle(NonNull<Shared>);

// SAFETY: a handle gives `&Shared`, whose parts are all `Send` and `Sync`; the count of handles is
// atomic.
unsafe impl Send for Handle {}

// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    /// Makes an arena.
    pub(crate) fn new(
        kind: Kind,
        geometry: Geometry,
        options: &Options,
    ) -> Result<Self, BuildError> {
        Self::with_region(kind, geometry, options, &options.reserves, Region::new(&geometry)?)
    }

    /// Makes an arena of a region, and arenas of what is set aside of it.
    fn with_region(
        kind: Kind,
        geometry: Geometry,
        options: &Options,
        reserves: &[usize],
        region: Region,
    ) -> Result<Self, BuildError> {
        let (&reserve_bytes, further) = reserves.split_first().unwrap_or((&0, &[]));
        let geometry = match kind {
            Kind::Slots => geometry.reserve_slots(reserve_bytes)?,
            Kind::Blocks => geometry.reserve_block(reserve_bytes)?,
        };
        let reserve = geometry.of_reserve().map(|of_reserve| {
            Self::with_region(kind, of_reserve, options, further, region.of_reserve(&geometry))
        });
        let reserve = reserve.transpose()?;
        let free = geometry.ordinary_units();
        let map = match kind {
            Kind::Slots => Map::of_slots(free)?,
            Kind::Blocks => Map::of_blocks(geometry.units(), free)?,
        };
        let stripes = Stripes::new(map.words_of_ground());
        let shared = Box::new(Shared {
            core: Core::new(map, stripes),
            region,
            counts: Counts::new(free)?,
            auto_spill: options.auto_spill,
            reserve,
            live_units_max: AtomicU64::new(0),
            #[cfg(feature = "async-alloc")]
            queue: Queue::new(),
            geometry,
        });
        // SAFETY: a box is never null.
        Ok(Self(unsafe { NonNull::new_unchecked(Box::into_raw(shared)) }))
    }

    #[inline]
    pub(crate) fn shared(&self) -> &Shared {
        // SAFETY: a handle keeps the arena alive (A2), and nobody has it mutably while there are
        // handles.
        unsafe { self.0.as_ref() }
    }

    /// Claims a block and leases it to the caller.
    #[inline(always)]
    pub(crate) fn claim(&self, order: Order) -> Result<Lease, AllocError> {
        match self.shared().core.claim_cached(order, thread::seat()) {
            Some(span) => Ok(self.lease(span)),
            None => self.claim_beyond_cache(order, Effort::Certain).ok_or_else(|| self.refuse()),
        }
    }

    fn claim_beyond_cache(&self, order: Order, effort: Effort) -> Option<Lease> {
        let shared = self.shared();
        let span = shared.core.claim_beyond_cache(order, thread::seat(), effort);
        // A lease before anything else: what comes next can run foreign code, which can panic.
        let lease = span.map(|span| self.lease(span));
        // The search may have moved what a waiter just looked for.
        #[cfg(feature = "async-alloc")]
        shared.serve_if_waited_for();
        lease
    }

    /// Leases a span that was just claimed.
    #[inline]
    fn lease(&self, span: Span) -> Lease {
        // SAFETY: the span was claimed for this lease alone (A1).
        unsafe { Lease::new(self.0, span) }
    }

    #[cold]
    fn refuse(&self) -> AllocError {
        let shared = self.shared();
        shared.tally().count_refusal();
        shared.note_live(shared.core.stripes.live_units());
        AllocError::ArenaFull
    }
}

/// Waiting.
#[cfg(feature = "async-alloc")]
impl Handle {
    /// Claims a block if there is one and nobody waits.
    #[inline]
    pub(crate) fn claim_unless_waited_for(&self, order: Order) -> Option<Lease> {
        let core = &self.shared().core;
        if core.is_waited_for() {
            return None;
        }
        match core.claim_cached(order, thread::seat()) {
            Some(span) => Some(self.lease(span)),
            None => self.claim_beyond_cache(order, Effort::Once),
        }
    }

    /// Joins the queue, if the node is not in it, or asks what has become of it.
    pub(crate) fn poll_queue(
        &self,
        node: Pin<&Node>,
        order: Order,
        context: &mut Context<'_>,
    ) -> Poll<Lease> {
        let shared = self.shared();
        // Cloned here and dropped at the end, outside the lock, since both may run foreign code. In
        // between it is exchanged for the waker of the last poll, if there is one.
        let mut waker = context.waker().clone();
        let mut list = shared.queue.lock();
        let mut standing = list.check(node, Some(&mut waker));
        if standing == Standing::Idle {
            list.join(node, order, waker.clone());
            shared.core.set_waited_for();
            drop(list);
            shared.note_live(shared.core.stripes.live_units());
            shared.serve();
            standing = shared.queue.lock().check(node, None);
        } else {
            drop(list);
        }
        match standing {
            Standing::Served(span) => Poll::Ready(self.lease(span)),
            Standing::Idle | Standing::Waiting => Poll::Pending,
        }
    }

    /// Takes the node out of the queue. What it was served meanwhile goes to the next.
    pub(crate) fn leave_queue(&self, node: Pin<&Node>) {
        let shared = self.shared();
        let (served, waker) = shared.queue.lock().leave(node);
        drop(waker);
        match served {
            // The drop of the lease serves the next.
            Some(span) => drop(self.lease(span)),
            // He may have stood before others whom less would serve.
            None => shared.serve_if_waited_for(),
        }
    }
}

/// Serving those who wait.
#[cfg(feature = "async-alloc")]
impl Shared {
    /// Serves the queue if somebody stands in it. The caller keeps the arena alive.
    #[inline]
    pub(crate) fn serve_if_waited_for(&self) {
        if self.core.is_waited_for() {
            self.serve();
        }
    }

    /// Claims for the first waiter and hands over, as long as there is memory.
    ///
    /// Should a waker panic, everybody else is served and woken first.
    #[cold]
    fn serve(&self) {
        let mut panic = None;
        loop {
            let mut wakers = Wakers::default();
            let mut list = self.queue.lock();
            while !wakers.is_full()
                && let Some(order) = list.first_order()
                && let Some(span) = self.claim_once(order)
            {
                wakers.push(list.serve_first(span));
            }
            if list.is_empty() {
                self.core.set_not_waited_for();
            }
            drop(list);
            let may_be_more = wakers.is_full();
            let panicked = wakers.wake();
            panic = panic.or(panicked);
            if !may_be_more {
                break;
            }
        }
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    fn claim_once(&self, order: Order) -> Option<Span> {
        let seat = thread::seat();
        let core = &self.core;
        core.claim_cached(order, seat)
            .or_else(|| core.claim_beyond_cache(order, seat, Effort::Once))
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        self.shared().core.add_handle();
        Self(self.0)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: our handle keeps the arena alive (A2).
        let core = unsafe { Shared::core(self.0) };
        // SAFETY: the handle is dropped, and not used after this.
        let fate = unsafe { Core::drop_handle(core) };
        if fate == Fate::Over {
            // SAFETY: `Over` says that nobody else has a part in it (A2).
            unsafe { Shared::free(self.0) };
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared().geometry.fmt(f)
    }
}
