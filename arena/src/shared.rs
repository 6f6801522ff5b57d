//! What all handles, buffers and frozen bytes of one arena share.

use std::{fmt, ptr::NonNull};

use crate::{
    claim::Map,
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
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) alignment: usize,
    pub(crate) auto_spill: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            alignment: 1,
            auto_spill: false,
        }
    }
}

impl Shared {
    /// Tells the thread's counters from those of others.
    #[inline]
    pub(crate) fn tally(&self) -> Tally<'_> {
        self.core.stripes.at(thread::seat())
    }

    /// Sums the figures, and notes how much is in use.
    pub(crate) fn totals(&self) -> Totals {
        let totals = self.core.stripes.totals();
        self.note_live(totals.live_units);
        totals
    }

    /// What a sum of units comes to in bytes. A sum taken while others claim and release can be off, but there is never
    /// more than the whole.
    pub(crate) fn bytes_of_sum(&self, units: u64) -> usize {
        let units = u32::try_from(units)
            .unwrap_or(u32::MAX)
            .min(self.geometry.units());
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

    #[cold]
    fn refuse(&self) -> AllocError {
        self.tally().count_refusal();
        self.note_live(self.core.stripes.live_units());
        AllocError::ArenaFull
    }

    /// Gives back a run of units.
    ///
    /// # Safety
    ///
    /// As for [`Core::release`]; and if the arena's life is over, `shared` must be where [`Handle::new`] put it.
    #[inline]
    pub(crate) unsafe fn release(shared: NonNull<Self>, span: Span) {
        // SAFETY: the caller has the units, so the arena is alive (A2).
        let core = unsafe { Self::core(shared) };
        // SAFETY: the caller's promise.
        let fate = unsafe { Core::release(core, span, thread::seat()) };
        if fate == Fate::Over {
            // SAFETY: `Over` says that nobody else has a part in it (A2).
            unsafe { Self::free(shared) };
        }
    }

    /// The core inside, without a reference to the rest, which may end sooner than a reference would.
    ///
    /// # Safety
    ///
    /// The arena is alive.
    #[inline]
    unsafe fn core(shared: NonNull<Self>) -> NonNull<Core> {
        // SAFETY: `shared` points to a live arena (the caller's promise), so its field has an address.
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

// SAFETY: a handle gives `&Shared`, whose parts are all `Send` and `Sync`; the count of handles is atomic.
unsafe impl Send for Handle {}

// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    /// Makes an arena.
    pub(crate) fn new(
        kind: Kind,
        geometry: Geometry,
        options: Options,
    ) -> Result<Self, BuildError> {
        let map = match kind {
            Kind::Slots => Map::of_slots(geometry.units())?,
            Kind::Blocks => Map::of_blocks(geometry.units())?,
        };
        let stripes = Stripes::new(&map.words_of_levels());
        let shared = Box::new(Shared {
            core: Core::new(map, stripes),
            region: Region::new(&geometry)?,
            counts: Counts::new(geometry.units())?,
            auto_spill: options.auto_spill,
            live_units_max: AtomicU64::new(0),
            geometry,
        });
        // SAFETY: a box is never null.
        Ok(Self(unsafe {
            NonNull::new_unchecked(Box::into_raw(shared))
        }))
    }

    #[inline]
    pub(crate) fn shared(&self) -> &Shared {
        // SAFETY: a handle keeps the arena alive (A2), and nobody has it mutably while there are handles.
        unsafe { self.0.as_ref() }
    }

    /// Claims a block and leases it to the caller.
    #[inline(always)]
    pub(crate) fn claim(&self, order: Order) -> Result<Lease, AllocError> {
        let shared = self.shared();
        match shared.core.claim(order, thread::seat()) {
            // SAFETY: the span was claimed just now, for this lease alone (A1).
            Some(span) => Ok(unsafe { Lease::new(self.0, span) }),
            None => Err(shared.refuse()),
        }
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
