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
//! # The last look
//!
//! A refusal must be true: it needs a search during which no release ended (see `claim`). Where
//! that does not come about, the refuser holds releases up: it takes the turnstile, raises
//! LAST_LOOK, and has a barrier. From then on 3 finds the flag, and the release stops at the
//! turnstile before it returns, with its units in the map or a cache already. A release that did
//! not find the flag had set its bits before the barrier, and the search finds them. So during the
//! search nobody frees one unit and then claims another. Claims beyond a cache, which move units
//! about, stop there before they begin; those under way end soon, and the search is repeated until
//! none disturbs it.
//!
//! Nobody waits at the turnstile while his release is under way: he takes a handle, ends the
//! release, and then waits. So neither the last handle nor a recall waits for him.
//!
//! Models: `models::life`.

use std::{ptr::NonNull, sync::PoisonError};

use crate::{
    barrier,
    claim::{Effort, Map, Miss},
    geometry::{Order, Span},
    stripe::{Stripes, Tally},
    sync::{
        AtomicU64, AtomicUsize, Mutex,
        Ordering::{AcqRel, Relaxed, Release, SeqCst},
        between_write_and_read,
    },
    thread::Seat,
};

/// More units than an arena can have.
const BIAS: u64 = 1 << 62;

/// The last handle is gone.
const ORPHANED: u64 = 1;
/// Somebody waits for memory.
#[cfg(feature = "async-alloc")]
const WAITED_FOR: u64 = 2;
/// A refuser has the last look.
const LAST_LOOK: u64 = 4;

/// More handles than this mean a leak in a loop; going on could wrap the count.
const HANDLES_MAX: usize = usize::MAX / 2;

/// What an arena is without its memory: the map, the counters and the account of who still needs
/// them.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) map: Map,
    pub(crate) stripes: Stripes,
    life: Life,
    /// Held by a refuser during its last look.
    turnstile: Mutex<()>,
}

/// Whether the caller must free the arena.
#[must_use]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fate {
    /// Somebody else has a part in it, or had the last.
    Lives,
    /// The caller was the last to touch it.
    Over,
    /// Somebody waits for memory or has the last look. The caller has got a handle, and turns to
    /// them.
    MustAttend,
}

impl Core {
    /// A core with one handle.
    pub(crate) fn new(map: Map, stripes: Stripes) -> Self {
        Self { map, stripes, life: Life::new(), turnstile: Mutex::new(()) }
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
        self.await_last_look();
        let tally = self.stripes.at(seat);
        let claim = |effort| self.map.claim_beyond_cache(order, effort, &self.stripes, tally);
        let first = match claim(effort) {
            Err(Miss::Undecided) if effort == Effort::Certain => {
                self.have_last_look(|| claim(Effort::LastLook))
            }
            decided => decided,
        };
        Some(Self::count_claim(first.ok()?, order, tally))
    }

    /// Holds releases up while `look` searches.
    #[cold]
    fn have_last_look<R>(&self, look: impl FnOnce() -> R) -> R {
        let _turn = self.turnstile.lock().unwrap_or_else(PoisonError::into_inner);
        // One side of Dekker's pattern, as for the other flags.
        self.life.attention.fetch_or(LAST_LOOK, SeqCst);
        between_write_and_read();
        barrier::heavy();
        let outcome = look();
        // Relaxed: whoever still sees the flag waits for the lock, if it is still held.
        self.life.attention.fetch_and(!LAST_LOOK, Relaxed);
        outcome
    }

    /// Waits until nobody has the last look. Not while a release is under way.
    #[inline]
    pub(crate) fn await_last_look(&self) {
        if self.life.attention() & LAST_LOOK != 0 {
            drop(self.turnstile.lock().unwrap_or_else(PoisonError::into_inner));
        }
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
            if barrier::is_available() {
                barrier::heavy();
            } else {
                core.map.touch_every_word();
            }
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
        // Somebody waits or looks. To turn to him takes longer than a release may, so it takes a
        // handle; while the release is under way, one can be had if there is one. If there is none,
        // nobody waits or looks any more: whoever does has a handle.
        let has_handle = self.add_handle_if_any();
        tally.end_release(units);
        if has_handle { Fate::MustAttend } else { Fate::Lives }
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
