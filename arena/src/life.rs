//! When the memory of an arena goes back to the system.
//!
//! Buffers outlive handles. A shared count that each buffer holds would be a line that every thread
//! writes twice per buffer. Here buffers count nothing that is not a figure anyway, and the last
//! handle settles the account.
//!
//! ```text
//! release (any thread)                       last handle, when it drops
//! 1  busy = 1            (own stripe)        a  attention |= ORPHANED
//! 2  set the bits                            b  touch every word of the map (RMW); barrier::heavy
//!    in the map:   one RMW                   c  wait until no stripe is busy
//!    in the cache: a store, barrier::light   d  outstanding = claimed - released
//! 3  attention == 0?                         e  remaining += outstanding - BIAS
//!    yes: released += units, busy = 0
//!    no:  busy = 0, remaining -= units
//! ```
//!
//! At a seat that threads share, `busy` is two counters instead, begun and done, that c compares.
//!
//! # Why the memory is freed exactly once, and touched by nobody afterwards
//!
//! Take a release into the map, and the word that 2 and b both change by a read-modify-write. One
//! of them comes first.
//!
//! - **2 is first.** Then b reads from it and the last handle sees 1. So c waits for the release,
//!   and its last access, `busy = 0`, happens before e.
//! - **b is first.** Then 2 reads from it and 3 sees ORPHANED. The units were never counted as
//!   released, so they are part of `outstanding`, and nothing is freed before the release has taken
//!   them off `remaining`: its last access.
//!
//! A release that finds ORPHANED although 2 came first is part of `outstanding` as well: it does
//! not count its units as released, and c waited for it. A release of several runs has several
//! words; if any of them is in the second case, it sees ORPHANED.
//!
//! For a release into the cache the two barriers make the same two cases: c sees 1, or 3 sees a.
//!
//! `remaining` starts at BIAS and reaches zero once: when e has taken the bias off and every
//! outstanding unit has come back. Whoever brings it there frees the memory. All changes to it are
//! `AcqRel`, so that one sees all others done.
//!
//! Models: `models::life`.

use std::ptr::NonNull;

use crate::{
    barrier,
    claim::{Effort, Map},
    geometry::{Order, Span},
    stripe::{Stripes, Tally},
    sync::{
        AtomicU64, AtomicUsize,
        Ordering::{AcqRel, Relaxed, Release, SeqCst},
    },
    thread::Seat,
};

#[cfg(feature = "async-alloc")]
use crate::sync::between_write_and_read;

/// More units than an arena can have.
const BIAS: u64 = 1 << 62;

/// The last handle is gone.
const ORPHANED: u64 = 1;
/// Somebody waits for memory.
#[cfg(feature = "async-alloc")]
const WAITED_FOR: u64 = 2;

/// More handles than this mean a leak in a loop; going on could wrap the count.
const HANDLES_MAX: usize = usize::MAX / 2;

/// What an arena is without its memory: the map, the counters and the account of who still needs
/// them.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) map: Map,
    pub(crate) stripes: Stripes,
    life: Life,
}

/// Whether the caller must free the arena.
#[must_use]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fate {
    /// Somebody else has a part in it, or had the last.
    Lives,
    /// The caller was the last to touch it.
    Over,
    /// Somebody waits for memory, and the caller has a handle with which to serve him.
    MustServe,
}

impl Core {
    /// A core with one handle.
    pub(crate) fn new(map: Map, stripes: Stripes) -> Self {
        Self { map, stripes, life: Life::new() }
    }

    /// Claims a block from the thread's cache. The caller has a handle, so the core stays.
    #[inline]
    pub(crate) fn claim_cached(&self, order: Order, seat: Seat) -> Option<Span> {
        let tally = self.stripes.at(seat);
        let first = self.map.claim_cached(order, tally)?;
        Some(Self::count_claim(first, order, tally))
    }

    /// Claims a block from wherever there is one. If waiters must be served afterwards,
    /// `is_waited_for` tells.
    pub(crate) fn claim_beyond_cache(
        &self,
        order: Order,
        seat: Seat,
        effort: Effort,
    ) -> Option<Span> {
        let tally = self.stripes.at(seat);
        let first = self.map.claim_beyond_cache(order, effort, &self.stripes, tally)?;
        Some(Self::count_claim(first, order, tally))
    }

    #[inline]
    fn count_claim(first: u32, order: Order, tally: Tally<'_>) -> Span {
        let units = order.units();
        tally.count_claim(units);
        Span::new(first, units)
    }

    /// Releases units whose owner is done with them.
    ///
    /// # Safety
    ///
    /// The units are claimed and the caller gives them up. `core` was alive when they were claimed.
    /// Unless this returns [`Fate::Over`], the caller does not touch the core again on the strength
    /// of having had them.
    #[inline]
    pub(crate) unsafe fn release(core: NonNull<Self>, span: Span, seat: Seat) -> Fate {
        // The references below end before the last access: `end_release` or `settle`, which go
        // through atomics alone. SAFETY: the units are outstanding until `end_release` or `settle`,
        // and so the core is alive (A2).
        let stripes = unsafe { &core.as_ref().stripes };
        let tally = stripes.at(seat);
        tally.begin_release();
        // SAFETY: as above.
        let map = unsafe { &core.as_ref().map };
        map.release(span, tally);
        // SAFETY: as above; and if the last handle goes now, it waits for `end_release`.
        let life = unsafe { &core.as_ref().life };
        life.end_release(span.units(), tally)
    }

    /// Releases a part of a lease that goes on, and so keeps the core alive. If waiters must be
    /// served afterwards, `is_waited_for` tells.
    pub(crate) fn release_tail(&self, tail: Span, seat: Seat) {
        let tally = self.stripes.at(seat);
        tally.begin_release();
        // A move as well, because it is no release that anybody counts.
        tally.begin_move();
        self.map.release(tail, tally);
        tally.end_move();
        if self.life.attention() & ORPHANED != 0 {
            tally.leave();
            // Never the end: the rest of the lease is outstanding.
            let _ = self.life.settle(u64::from(tail.units()));
        } else {
            tally.count_shrink(tail.units());
            tally.leave();
        }
    }

    /// Whether somebody waits for memory. Asked after memory was made free or was moved.
    #[cfg(feature = "async-alloc")]
    #[inline]
    pub(crate) fn is_waited_for(&self) -> bool {
        self.life.attention() & WAITED_FOR != 0
    }

    /// Notes that somebody waits for memory. What was made free by those who do not see it is
    /// visible from now on.
    ///
    /// Called under the lock of the queue, as is [`set_not_waited_for`](Self::set_not_waited_for).
    #[cfg(feature = "async-alloc")]
    pub(crate) fn set_waited_for(&self) {
        // One side of Dekker's pattern, see `wait`.
        let before = self.life.attention.fetch_or(WAITED_FOR, SeqCst);
        if before & WAITED_FOR == 0 {
            between_write_and_read();
            barrier::heavy();
        }
    }

    #[cfg(feature = "async-alloc")]
    pub(crate) fn set_not_waited_for(&self) {
        // Relaxed: it lets others do less, and carries nothing. Whoever still sees the flag finds
        // the queue empty.
        self.life.attention.fetch_and(!WAITED_FOR, Relaxed);
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

    /// Drops a handle. The last one settles the account: it visits every word of the map, and it
    /// may have to wait a few instructions for each thread that is in the middle of a release.
    ///
    /// # Safety
    ///
    /// The caller has a handle and gives it up. Unless this returns [`Fate::Over`], the caller does
    /// not touch the core again on the strength of having had it.
    pub(crate) unsafe fn drop_handle(core: NonNull<Self>) -> Fate {
        // The references below end before the last access: the decrement or `settle`, which go
        // through atomics alone. SAFETY: our handle keeps the core alive, until the decrement if it
        // is not the last, else until `settle`.
        let life = unsafe { &core.as_ref().life };
        // Release, and Acquire for the last: the claims made through other handles are counted.
        if life.handles.fetch_sub(1, AcqRel) != 1 {
            return Fate::Lives;
        }
        // Release: carried to later releases by `touch_every_word`.
        life.attention.fetch_or(ORPHANED, Release);
        let outstanding = {
            // SAFETY: as above.
            let core = unsafe { core.as_ref() };
            core.map.touch_every_word();
            barrier::heavy();
            core.stripes.wait_until_idle();
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
    /// What a release must look after beyond setting bits. Zero in normal operation, and rarely
    /// written.
    attention: AtomicU64,
    /// Units that must still come back, once the arena is orphaned. Before that, BIAS.
    remaining: AtomicU64,
}

impl Life {
    fn new() -> Self {
        Self {
            handles: AtomicUsize::new(1),
            attention: AtomicU64::new(0),
            remaining: AtomicU64::new(BIAS),
        }
    }

    /// Step 3 of the diagram. The units are back.
    #[inline]
    fn end_release(&self, units: u32, tally: Tally<'_>) -> Fate {
        let attention = self.attention();
        if attention != 0 {
            return self.end_release_attentively(attention, units, tally);
        }
        tally.end_release(units);
        Fate::Lives
    }

    #[cold]
    fn end_release_attentively(&self, attention: u64, units: u32, tally: Tally<'_>) -> Fate {
        if attention & ORPHANED != 0 {
            tally.leave();
            return self.settle(u64::from(units));
        }
        // Somebody waits. To serve him takes longer than the release, so it takes a handle; while
        // the release is under way, one can be had if there is one. If there is none, nobody waits
        // any more: waiters have handles.
        let has_handle = self.add_handle_if_any();
        tally.end_release(units);
        if has_handle { Fate::MustServe } else { Fate::Lives }
    }

    fn add_handle_if_any(&self) -> bool {
        // Relaxed: as for any handle that comes from one that exists.
        let more = |handles| (handles > 0).then_some(handles + 1);
        self.handles.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    #[inline]
    fn attention(&self) -> u64 {
        barrier::light();
        // A release in the map was `SeqCst`, and so at least Acquire: see the two cases above.
        // `SeqCst` for the waiters.
        self.attention.load(SeqCst)
    }

    fn settle(&self, units: u64) -> Fate {
        // Release: what we did to the arena is done. Acquire: if we are the last, so is what the
        // others did.
        let before = self.remaining.fetch_sub(units, AcqRel);
        if before == units { Fate::Over } else { Fate::Lives }
    }
}
