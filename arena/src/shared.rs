//! What all handles, buffers and frozen bytes of one arena share.

use std::{
    any::Any,
    fmt,
    panic::resume_unwind,
    ptr::NonNull,
    sync::{Mutex, PoisonError},
};
#[cfg(feature = "async-alloc")]
use std::{
    pin::Pin,
    task::{Context, Poll},
};

use crate::{
    barrier,
    claim::{Duty, Map, WORD_UNITS},
    error::{AllocError, BuildError},
    geometry::{Geometry, Order, Span},
    lease::Lease,
    life::{Core, Effort, Fate, Progress},
    region::Region,
    share::Counts,
    stripe::{Tally, Totals},
    sync::{AtomicU64, Ordering::Relaxed},
    thread,
};
#[cfg(feature = "async-alloc")]
use crate::{
    claim::FRONT,
    sync::{Ordering::SeqCst, fence},
    wait::{List, Node, Queue, Standing, WaitMetrics, Wakers},
};

/// The panic of a waker, which is passed on when everybody else was served.
type Panic = Option<Box<dyn Any + Send>>;

fn resume(panic: Panic) {
    // A second panic while the first unwinds would end the process.
    if let Some(panic) = panic
        && !std::thread::panicking()
    {
        resume_unwind(panic);
    }
}

/// One arena.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) core: Core,
    pub(crate) geometry: Geometry,
    pub(crate) region: Region,
    pub(crate) counts: Counts,
    pub(crate) auto_spill: bool,
    /// What is set aside at the end of the region: an arena of its own, with its own queue.
    /// Gone when the last handle is: to drop it may take longer than a release may.
    reserve: Mutex<Option<Handle>>,
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
    /// Whether free units may lie in caches.
    pub(crate) caches: bool,
    /// What to set aside, and what of that in turn, and so on.
    pub(crate) reserves: Vec<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self { alignment: 1, auto_spill: false, caches: true, reserves: Vec::new() }
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
        if let Some(reserve) = self.reserve() {
            totals += reserve.shared().totals();
        }
        self.note_live(totals.live_units);
        totals
    }

    /// A handle to what is set aside.
    pub(crate) fn reserve(&self) -> Option<Handle> {
        self.reserve.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn take_reserve(&self) -> Option<Handle> {
        self.reserve.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The order of the largest block that is free now, in the reserve or outside of it.
    pub(crate) fn largest_free_order(&self) -> Option<Order> {
        let of_reserve = self.reserve().and_then(|reserve| reserve.shared().largest_free_order());
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
        let progress = match thread::owned_seat() {
            // SAFETY: the caller's promise.
            Some(seat) if span.units() < WORD_UNITS => unsafe {
                Core::release_cached(core, span, seat)
            },
            _ => Progress::Nothing,
        };
        if progress != Progress::Ended {
            // SAFETY: the caller's promise.
            unsafe { Self::release_beyond_cache(shared, span, progress) };
        }
    }

    /// Goes on with a release. Not inlined: so the usual case saves no registers.
    ///
    /// # Safety
    ///
    /// As for [`release`](Self::release), which has come so far.
    #[inline(never)]
    unsafe fn release_beyond_cache(shared: NonNull<Self>, span: Span, progress: Progress) {
        // SAFETY: the caller has the units, so the arena is alive (A2).
        let core = unsafe { Self::core(shared) };
        // SAFETY: the caller's promise.
        let fate = unsafe { Core::release(core, span, thread::seat(), progress) };
        match fate {
            Fate::Lives => {}
            // SAFETY: `Over` says that nobody else has a part in it (A2).
            Fate::Over => unsafe { Self::free(shared) },
            // SAFETY: the units are still outstanding, so the arena is alive (A2).
            Fate::MustServe(duty) => unsafe { Self::serve_and_release(shared, span, duty) },
        }
    }

    /// Ends a release beside those who wait.
    ///
    /// # Safety
    ///
    /// As for [`release`](Self::release), which has returned this duty.
    #[cold]
    unsafe fn serve_and_release(shared: NonNull<Self>, span: Span, duty: Duty) {
        let panic = {
            // SAFETY: the caller's units are outstanding, so the arena is alive (A2).
            let shared = unsafe { shared.as_ref() };
            shared.fulfil(duty)
        };
        // SAFETY: as above.
        let core = unsafe { Self::core(shared) };
        // SAFETY: the caller's promise.
        if unsafe { Core::finish_release(core, span.units(), thread::seat()) } == Fate::Over {
            // SAFETY: `Over` says that nobody else has a part in it (A2).
            unsafe { Self::free(shared) };
        }
        resume(panic);
    }

    /// Gives back a part of a lease that goes on.
    pub(crate) fn release_tail(&self, tail: Span) {
        if let Some(duty) = self.core.release_alive(tail, thread::seat()) {
            resume(self.fulfil(duty));
        }
    }

    /// Does for those in the line what is left to do. Returns the panic of a waker, if there was
    /// one.
    #[cold]
    fn fulfil(&self, duty: Duty) -> Panic {
        if duty == Duty::Search {
            let tally = self.tally();
            self.core.map.leave_cache_if_shut(tally);
            self.core.map.serve_line(tally);
        }
        self.deliver()
    }

    /// Brings what lies in the thread's own cache to those in the line, who may have missed it.
    #[cold]
    fn leave_cache(&self) {
        resume(self.fulfil(Duty::Search));
    }

    #[cfg(not(feature = "async-alloc"))]
    fn deliver(&self) -> Panic {
        None
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
        let has_caches = options.caches && barrier::is_available();
        let map = match kind {
            Kind::Slots => Map::of_slots(free, has_caches)?,
            Kind::Blocks => Map::of_blocks(geometry.units(), free, has_caches)?,
        };
        let shared = Box::new(Shared {
            core: Core::new(map, has_caches)?,
            region,
            counts: Counts::new(free)?,
            auto_spill: options.auto_spill,
            reserve: Mutex::new(reserve),
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
        match self.claim_cached(order) {
            Some(lease) => Ok(lease),
            None => self.claim_beyond_cache(order, Effort::Certain).ok_or_else(|| self.refuse()),
        }
    }

    #[inline(always)]
    fn claim_cached(&self, order: Order) -> Option<Lease> {
        let shared = self.shared();
        let span = shared.core.claim_cached(order, thread::seat())?;
        // A lease before anything else: what comes next can run foreign code, which can panic.
        let lease = self.lease(span);
        if shared.core.must_leave_cache() {
            shared.leave_cache();
        }
        Some(lease)
    }

    fn claim_beyond_cache(&self, order: Order, effort: Effort) -> Option<Lease> {
        let shared = self.shared();
        let span = shared.core.claim_beyond_cache(order, thread::seat_to_claim(), effort);
        let lease = span.map(|span| self.lease(span));
        // The search may have served the front of the queue.
        resume(shared.deliver());
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
        if self.shared().is_waited_for() {
            return None;
        }
        self.claim_cached(order).or_else(|| self.claim_beyond_cache(order, Effort::Once))
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
        // between it joins the queue, or is exchanged for the waker of the last poll.
        let mut waker = Some(context.waker().clone());
        let mut list = shared.queue.lock();
        let mut standing = list.check(node, &mut waker);
        if standing == Standing::Idle {
            let is_first = list.is_empty();
            list.join(node, order, waker.take().expect("it was not exchanged"));
            if is_first {
                shared.begin_waiting(&mut list);
            }
            drop(list);
            shared.note_live(shared.core.stripes.live_units());
            resume(shared.deliver());
            standing = shared.queue.lock().check(node, &mut waker);
        } else {
            drop(list);
        }
        let served = match standing {
            Standing::Served(span) => Poll::Ready(self.lease(span)),
            Standing::Idle | Standing::Waiting => Poll::Pending,
        };
        resume(shared.deliver());
        served
    }

    /// Takes a snapshot of who waits.
    pub(crate) fn wait_metrics(&self) -> WaitMetrics {
        let metrics = self.shared().queue.lock().metrics();
        resume(self.shared().deliver());
        metrics
    }

    /// Takes the node out of the queue. What it was served meanwhile goes to the next.
    pub(crate) fn leave_queue(&self, node: Pin<&Node>) {
        let shared = self.shared();
        let mut list = shared.queue.lock();
        let was_first = list.is_first(node);
        let (served, waker) = list.leave(node);
        // It may have stood before others whom less would serve.
        let given = if was_first { shared.core.map.line.withdraw(FRONT) } else { None };
        let mut wakers = Wakers::default();
        if was_first {
            shared.serve_next(&mut list, &mut wakers);
        }
        drop(list);
        drop(waker);
        // The drops of the leases serve the next, whatever a waker does.
        let _given =
            given.map(|(first, order)| self.lease(shared.count_claim(first, Order::new(order))));
        let _served = served.map(|span| self.lease(span));
        let panic = wakers.wake();
        let delivered = shared.deliver();
        resume(panic.or(delivered));
    }
}

/// Serving those who wait.
#[cfg(feature = "async-alloc")]
impl Shared {
    /// Whether a request waits.
    #[inline]
    pub(crate) fn is_waited_for(&self) -> bool {
        self.core.map.line.has_front()
    }

    /// Lets the first in the queue be served by whoever frees memory, and looks for what is free
    /// already.
    fn begin_waiting(&self, list: &mut List) {
        let (map, tally) = (&self.core.map, self.tally());
        if let Some(order) = list.first_order() {
            map.line.set_front(order.get());
        }
        list.note_caches(map.shut_caches());
        map.recall(list.are_caches_safe(), &self.core.stripes, tally);
        map.serve_line(tally);
    }

    /// Hands what the front was served to the first in the queue, and lets the next take its place,
    /// as long as there is something. Costs one load if nobody waits.
    ///
    /// Only one thread does so at a time. Who finds another at it leaves the rest to that one: it
    /// looks again when it has let go of the lock. So a thread that was stopped here keeps waiters
    /// waiting, and nobody else.
    ///
    /// Returns the panic of a waker, if there was one: everybody else is served and woken first.
    #[inline]
    fn deliver(&self) -> Panic {
        if self.is_waited_for() { self.deliver_to_queue() } else { None }
    }

    #[cold]
    fn deliver_to_queue(&self) -> Panic {
        let mut panic = None;
        // Whoever has served the front, or has put somebody there, sees that there is one.
        while self.is_waited_for() {
            // One side of Dekker's pattern: the front was served and then the lock was tried, or
            // the lock was let go of and then the front is looked at.
            fence(SeqCst);
            if !self.core.map.line.is_served(FRONT) {
                break;
            }
            let Some(mut list) = self.queue.try_lock() else { break };
            let mut wakers = Wakers::default();
            self.serve_next(&mut list, &mut wakers);
            drop(list);
            let panicked = wakers.wake();
            panic = panic.or(panicked);
        }
        panic
    }

    /// The part of [`deliver`](Self::deliver) under the lock, until nothing is there or `wakers` is
    /// full.
    fn serve_next(&self, list: &mut List, wakers: &mut Wakers) {
        let line = &self.core.map.line;
        while !wakers.is_full() {
            if let Some((first, order)) = line.withdraw(FRONT) {
                let span = self.count_claim(first, Order::new(order));
                wakers.push(list.serve_first(span));
            }
            let Some(order) = list.first_order() else {
                line.end_front();
                if let Some(is_safe) = list.take_caches() {
                    self.core.map.open_caches_if(is_safe);
                }
                return;
            };
            line.set_front(order.get());
            // What was freed before may suffice for him.
            self.core.map.serve_line(self.tally());
            if !line.is_served(FRONT) {
                return;
            }
        }
    }

    fn count_claim(&self, first: u32, order: Order) -> Span {
        Core::count_claim(first, order, self.tally())
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
        let fate = unsafe { Core::drop_handle(core, || drop(self.shared().take_reserve())) };
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
