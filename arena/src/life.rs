//! When the memory of an arena goes back to the system.
//!
//! Buffers outlive handles. A shared count that each buffer holds would be a line that every thread
//! writes twice per buffer. Here buffers count nothing that is not a figure anyway, and the last
//! handle settles the account.
//!
//! ```text
//! release (any thread)                       last handle, when it drops
//! 1  busy = 1                              a  attention |= ORPHANED
//! 2  set the bits, barrier::light          b  barrier::heavy
//! 3  attention == 0?                       c  wait until no stripe is busy
//!    yes: released += units, busy = 0      d  outstanding = claimed - released
//!    no:  busy = 0, remaining -= units     e  remaining += outstanding - BIAS
//! ```
//!
//! At a seat that threads share, `busy` is two counters instead, begun and done, that c compares.
//!
//! # Why the memory is freed exactly once, and touched by nobody afterwards
//!
//! 1 to 3 and a to c are Dekker's pattern (see `barrier`): c sees 1, or 3 sees a.
//!
//! - **c sees 1.** Then it waits for the release, whose last access, `busy = 0`, happens before e.
//! - **3 sees a.** The units were never counted as released, so they are part of `outstanding`, and
//!   nothing is freed before the release has taken them off `remaining`: its last access.
//!
//! If both see each other, both hold: c waits, and the units are part of `outstanding`.
//!
//! Where the kernel has no barrier, b touches every word of the map by a read-modify-write, and 2
//! is one in any case, because caches are shut then. Take the word that 2 and b both change. If 2
//! is first, b reads from it and c sees 1; if b is first, 2 reads from it and 3 sees a. A release
//! of several runs has several words; if b is first at any of them, 3 sees a.
//!
//! `remaining` starts at BIAS and reaches zero once: when e has taken the bias off and every
//! outstanding unit has come back. Whoever brings it there frees the memory. All changes to it are
//! `AcqRel`, so that one sees all others done.
//!
//! # Serving those who wait
//!
//! A release that finds somebody in the line (see `claim::line`) serves, which may take long and
//! runs foreign wakers. It ends in two steps: its bits are set, `busy = 0`, but its units are not
//! counted yet. So they are part of `outstanding` and keep the arena alive while it serves, and
//! neither the last handle nor a recall waits for it. Then it ends as in the diagram, from 1 on,
//! without bits to set.
//!
//! # An end that cannot be decided
//!
//! If the kernel refuses a barrier that it has granted before, b forms no edge, and after a `fork`
//! nobody comes back who was in the middle of a release in another thread. Then the last handle
//! leaves the memory where it is: it leaks, and nothing else happens.
//!
//! Models: `models::life`.

use std::ptr::NonNull;

use crate::{
    barrier,
    claim::{Duty, Map, ORPHANED},
    error::BuildError,
    fork,
    geometry::{Order, Span},
    stripe::{Stripes, Tally},
    sync::{
        AtomicU64, AtomicUsize,
        Ordering::{AcqRel, Relaxed, SeqCst},
        fence,
    },
    thread::Seat,
};

/// More units than an arena can have.
const BIAS: u64 = 1 << 62;

/// More handles than this mean a leak in a loop; going on could wrap the count.
const HANDLES_MAX: usize = usize::MAX / 2;

/// How hard a claim tries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Effort {
    /// One search, for somebody who will be served if it has missed something.
    #[cfg(feature = "async-alloc")]
    Once,
    /// Until something is found or it is certain that there is nothing.
    Certain,
}

/// What an arena is without its memory: the map, the counters and the account of who still needs
/// them.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) map: Map,
    pub(crate) stripes: Stripes,
    life: Life,
    /// Whether caches were ever in use, so that the end needs the kernel's barrier.
    has_caches: bool,
    /// How many forks lie between the first process and that which made the arena.
    forks: u32,
}

/// How far a release has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Progress {
    /// The units are still the caller's.
    Nothing,
    /// The units are free, and the release is under way.
    Freed,
    /// It is over.
    Ended,
}

/// Whether the caller must free the arena.
#[must_use]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fate {
    /// Somebody else has a part in it, or had the last.
    Lives,
    /// The caller was the last to touch it.
    Over,
    /// Somebody stands in the line. The caller's units are still outstanding: it serves, and then
    /// [finishes](Core::finish_release) the release.
    MustServe(Duty),
}

impl Core {
    /// A core with one handle.
    pub(crate) fn new(map: Map, has_caches: bool) -> Result<Self, BuildError> {
        let stripes = Stripes::new(map.levels())?;
        Ok(Self { map, stripes, life: Life::new(), has_caches, forks: fork::count() })
    }

    /// Claims a block from the thread's cache. The caller has a handle, so the core stays, and
    /// looks at [`must_leave_cache`](Self::must_leave_cache) afterwards.
    #[inline]
    pub(crate) fn claim_cached(&self, order: Order, seat: Seat) -> Option<Span> {
        let tally = self.stripes.at(seat);
        let first = self.map.claim_cached(order, tally)?;
        Some(Self::count_claim(first, order, tally))
    }

    /// Whether the caches were shut while the owner was in its own.
    #[inline]
    pub(crate) fn must_leave_cache(&self) -> bool {
        self.map.line.is_shut()
    }

    /// Claims a block from wherever there is one. Those in the line may be served by this.
    pub(crate) fn claim_beyond_cache(
        &self,
        order: Order,
        seat: Seat,
        effort: Effort,
    ) -> Option<Span> {
        let tally = self.stripes.at(seat);
        let found = self.map.claim_beyond_cache(order, tally);
        let first = match (found, effort) {
            (None, Effort::Certain) => self.map.refuse_or_claim(order, &self.stripes, tally)?,
            (found, _) => found?,
        };
        Some(Self::count_claim(first, order, tally))
    }

    #[inline]
    pub(crate) fn count_claim(first: u32, order: Order, tally: Tally<'_>) -> Span {
        let units = order.units();
        tally.count_claim(units);
        Span::new(first, units)
    }

    /// Releases units into the cache of the thread, which has the seat to itself, if they belong
    /// there: the usual case.
    ///
    /// # Safety
    ///
    /// The units are claimed and the caller gives them up. `core` was alive when they were claimed.
    /// Unless this returns [`Progress::Ended`], the caller goes on with [`release`](Self::release);
    /// if it does, the caller does not touch the core again on the strength of having had them.
    #[inline(always)]
    pub(crate) unsafe fn release_cached(core: NonNull<Self>, span: Span, seat: Seat) -> Progress {
        // The references below end before the last access: `end_release`, which goes through
        // atomics alone. SAFETY: the units are outstanding until `end_release`, and so the core is
        // alive (A2).
        let stripes = unsafe { &core.as_ref().stripes };
        let tally = stripes.at(seat);
        tally.begin_cached_release();
        // SAFETY: as above.
        let map = unsafe { &core.as_ref().map };
        if !map.release_cached(span, tally) {
            Progress::Nothing
        } else if map.line.attention() == 0 {
            tally.end_release(span.units());
            Progress::Ended
        } else {
            Progress::Freed
        }
    }

    /// Releases units whose owner is done with them, as far as that is not done already.
    ///
    /// # Safety
    ///
    /// The units are claimed and the caller gives them up. `core` was alive when they were claimed.
    /// Unless this returns [`Fate::Over`] or [`Fate::MustServe`], the caller does not touch the
    /// core again on the strength of having had them.
    pub(crate) unsafe fn release(
        core: NonNull<Self>,
        span: Span,
        seat: Seat,
        progress: Progress,
    ) -> Fate {
        // The references below end before the last access: `end_release` or `settle`, which go
        // through atomics alone. SAFETY: the units are outstanding until `end_release` or `settle`,
        // and so the core is alive (A2).
        let stripes = unsafe { &core.as_ref().stripes };
        let tally = stripes.at(seat);
        // SAFETY: as above.
        let map = unsafe { &core.as_ref().map };
        let was_given = progress == Progress::Nothing && {
            tally.begin_release();
            map.release(span, tally)
        };
        let attention = map.line.attention();
        if let Some(duty) = map.line.duty(attention, was_given) {
            tally.leave();
            return Fate::MustServe(duty);
        }
        // SAFETY: as above.
        let life = unsafe { &core.as_ref().life };
        life.end_release(attention, span.units(), tally)
    }

    /// Ends a release that has set its bits and served.
    ///
    /// # Safety
    ///
    /// The release returned [`Fate::MustServe`]. Then as for [`release`](Self::release).
    pub(crate) unsafe fn finish_release(core: NonNull<Self>, units: u32, seat: Seat) -> Fate {
        // SAFETY: the units are outstanding until `end_release` or `settle`, and so the core is
        // alive (A2).
        let stripes = unsafe { &core.as_ref().stripes };
        let tally = stripes.at(seat);
        tally.begin_release();
        // No word of the map was changed since, on which the end could rely without a barrier.
        fence(SeqCst);
        // SAFETY: as above.
        let attention = unsafe { &core.as_ref().map.line }.attention();
        // SAFETY: as above.
        let life = unsafe { &core.as_ref().life };
        life.end_release(attention, units, tally)
    }

    /// Releases units of a lease that goes on, or a claim that nobody has got, and so in any case
    /// while the core is alive. Returns what is left to do.
    pub(crate) fn release_alive(&self, span: Span, seat: Seat) -> Option<Duty> {
        let tally = self.stripes.at(seat);
        let is_cached = tally.is_owned() && {
            tally.begin_cached_release();
            self.map.release_cached(span, tally)
        };
        let was_given = !is_cached && {
            tally.begin_release();
            self.map.release(span, tally)
        };
        let attention = self.map.line.attention();
        if attention & ORPHANED == 0 {
            tally.count_tail(span.units());
            tally.leave();
        } else {
            tally.leave();
            // Never the end: something else keeps the core alive.
            let _ = self.life.settle(u64::from(span.units()));
        }
        self.map.line.duty(attention, was_given)
    }

    /// Adds a handle. The caller has one.
    pub(crate) fn add_handle(&self) {
        // Relaxed: the new handle comes from one that exists, so the count cannot be zero, and it
        // carries nothing.
        let handles = self.life.handles.fetch_add(1, Relaxed);
        if handles > HANDLES_MAX {
            // The same answer as `Arc`: unwinding would leave the count where it is.
            std::process::abort();
        }
    }

    /// Drops a handle. The last one calls `at_last`, while the core lives, and settles the account:
    /// it visits every word of the map, and it may have to wait a few instructions for each thread
    /// that is in the middle of a release.
    ///
    /// # Safety
    ///
    /// The caller has a handle and gives it up. Unless this returns [`Fate::Over`], the caller does
    /// not touch the core again on the strength of having had it.
    pub(crate) unsafe fn drop_handle(core: NonNull<Self>, at_last: impl FnOnce()) -> Fate {
        // The references below end before the last access: the decrement or `settle`, which go
        // through atomics alone. SAFETY: our handle keeps the core alive, until the decrement if it
        // is not the last, else until `settle`.
        let life = unsafe { &core.as_ref().life };
        // Release, and Acquire for the last: the claims made through other handles are counted.
        if life.handles.fetch_sub(1, AcqRel) != 1 {
            return Fate::Lives;
        }
        at_last();
        let outstanding = {
            // SAFETY: as above.
            let core = unsafe { core.as_ref() };
            core.map.line.set_orphaned();
            let is_ordered = if core.has_caches {
                barrier::heavy()
            } else {
                core.map.touch_every_word();
                fence(SeqCst);
                true
            };
            if !is_ordered || !core.stripes.wait_until_idle(|| fork::count() == core.forks) {
                // It cannot be decided: the memory stays.
                return Fate::Lives;
            }
            core.stripes.live_units()
        };
        life.settle(BIAS - outstanding)
    }
}

/// The account that handles and releases share. Atomics alone, so that a reference to it may
/// outlive it harmlessly.
#[derive(Debug)]
struct Life {
    /// How many handles there are.
    handles: AtomicUsize,
    /// Units that must still come back, once the arena is orphaned. Before that, BIAS.
    remaining: AtomicU64,
}

impl Life {
    fn new() -> Self {
        Self { handles: AtomicUsize::new(1), remaining: AtomicU64::new(BIAS) }
    }

    /// Step 3 of the diagram. The units are back.
    #[inline]
    fn end_release(&self, attention: u64, units: u32, tally: Tally<'_>) -> Fate {
        if attention & ORPHANED == 0 {
            tally.end_release(units);
            return Fate::Lives;
        }
        tally.leave();
        self.settle(u64::from(units))
    }

    fn settle(&self, units: u64) -> Fate {
        // Release: what we did to the arena is done. Acquire: if we are the last, so is what the
        // others did.
        let before = self.remaining.fetch_sub(units, AcqRel);
        if before == units { Fate::Over } else { Fate::Lives }
    }
}
