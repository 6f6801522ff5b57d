//! The free units that a thread keeps to itself: claimed and released without a read-modify-write.
//!
//! An open cache has a *home*, a word of level 0, and a *part* of it; of the units in its part some
//! lie in the map and some in the cache, and no unit is in both. The owner takes units out and puts
//! units back with plain loads and stores.
//!
//! What is in a cache is free memory, so nobody may be refused or kept waiting beside it. Whoever
//! finds nothing in the map *recalls* the caches of all others: their units go back to the map, and
//! their owners use the map for a while. While somebody stands in the line, caches stay shut.
//!
//! # How a recall keeps the owner out
//!
//! ```text
//! owner                              recaller
//! 1  state = INSIDE                  a  shut += 1
//! 2  barrier::light                  b  barrier::heavy
//! 3  if shut == 0,                   c  if state != INSIDE:
//!      take units or put units       d    take all units, by an exchange; close the cache
//! 4  state = OUTSIDE                 e  shut -= 1
//! 5  if shut > 0, d for itself
//! ```
//!
//! This is Dekker's pattern: 3 sees a and stays out, or c sees 1 and keeps off. So 3 and d exclude
//! each other. Several recallers may be at d at once, and the owner itself at 5: the exchange gives
//! the units to one of them. 4 and 5 and a and c are Dekker's pattern again: c sees 4, or 5 sees a
//! and the owner empties the cache on its way out. So nobody waits for an owner that was stopped
//! inside: its units are in its hands, and it brings them when it goes on. A recaller that was
//! stopped holds no more than the units of one cache; the caches stay shut meanwhile.
//!
//! | Access            | Ordering  | Pairs with | Carries                                                        |
//! |-------------------|-----------|------------|----------------------------------------------------------------|
//! | 4, `state`        | `Release` | c          | what the owner did with the units                              |
//! | d, `units`        | `AcqRel`  | d, 3       | the last owners are done with the bytes                        |
//! | e, `shut`         | `SeqCst`  | 3          | what the recaller did with the units                           |
//! | `units`, store    | `Release` | refusals   | what we published before, as for a claim or release in `word`  |
//! | `units`, load     | `Acquire` | the same   |                                                                |
//!
//! `state` serves the last handle as well: a release at an owned seat is under way while it is not
//! OUTSIDE (see `life`).
//!
//! Models: `models::cache`.

use crate::{
    claim::{
        line::Line,
        word::{self, Block, Join, WORD_UNITS},
    },
    geometry::{Order, Span},
    sync::{
        AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
};

/// The owner is in no operation that others must know of.
const OUTSIDE: u32 = 0;
/// The owner may touch what is in the cache.
const INSIDE: u32 = 1;
/// A release is under way, but not in the cache.
const RELEASING: u32 = 2;

/// Claims that an owner serves from the map after its cache was recalled. A recall costs as much as
/// some hundred of them.
const REST_CLAIMS: u32 = if cfg!(all(test, arena_loom)) { 1 } else { 256 };

/// The free units that one thread keeps to itself. All zero: closed.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Cache {
    /// Where the owner is. Written by the owner alone.
    state: AtomicU32,
    /// The number of the home word, plus one; zero while the cache is closed. Written by the owner,
    /// or by whoever closes the cache.
    home: AtomicU32,
    /// The units, as bits of the home word. Stored by the owner while it is inside, exchanged by
    /// whoever closes the cache.
    units: AtomicU64,
    /// The bits of the home word that may lie here. Written by the owner while it is inside.
    part: AtomicU64,
    /// Claims until a cache that was recalled opens again. A hint.
    rest: AtomicU32,
    /// How many moves have begun at this seat (see `stripe`). It lies where there is room for it.
    pub(crate) moves: AtomicU32,
}

impl Cache {
    /// The home, if the cache is open.
    #[inline]
    pub(crate) fn home(&self) -> Option<u32> {
        self.home.load(Acquire).checked_sub(1)
    }

    /// The home, and the units that lie here as its bits. For snapshots.
    pub(crate) fn view(&self) -> Option<(u32, u64)> {
        loop {
            // Acquire: pairs with `enter`. The same home before and after: the units are its.
            let home = self.home()?;
            let units = self.units.load(Acquire);
            if self.home() == Some(home) {
                return Some((home, units));
            }
        }
    }

    /// Whether the owner is inside. False means that the owner is out and stays out while the
    /// caches are shut, if that was followed by [`barrier::heavy`](crate::barrier::heavy).
    pub(crate) fn has_owner_inside(&self) -> bool {
        // Acquire: pairs with `leave`.
        self.state.load(Acquire) == INSIDE
    }

    /// Whether a release is under way.
    #[inline]
    pub(crate) fn is_busy(&self) -> bool {
        self.state.load(Acquire) != OUTSIDE
    }

    /// The owner begins a release or steps in.
    #[inline]
    pub(crate) fn enter(&self) {
        self.state.store(INSIDE, Relaxed);
    }

    /// The owner goes on with a release outside of the cache. Then it looks at `attention`: one
    /// side of Dekker's pattern, as 4 and 5 of the diagram.
    #[inline]
    pub(crate) fn step_out(&self) {
        self.state.store(RELEASING, Release);
    }

    /// The owner is done.
    #[inline]
    pub(crate) fn leave(&self) {
        self.state.store(OUTSIDE, Release);
    }

    /// Claims a block of `order` and returns its first unit. Only the owner may ask.
    #[inline]
    pub(crate) fn claim(&self, order: Order, join: Join, line: &Line) -> Option<u32> {
        self.enter();
        let claimed = if line.is_shut() { None } else { self.take(order, join) };
        self.leave();
        claimed
    }

    /// Puts back a run of units if the cache is open and they are of its part. The owner has
    /// [entered](Self::enter), and goes on with the release outside of the cache.
    ///
    /// A whole word goes back to where it was claimed, one level up.
    #[inline]
    pub(crate) fn release(&self, span: Span, line: &Line) -> bool {
        let is_released = self.put(span, line);
        self.step_out();
        is_released
    }

    #[inline]
    fn put(&self, span: Span, line: &Line) -> bool {
        // First of all: what is read after it is what the last recaller left.
        if !line.is_shut() {
            let bit = span.first() % WORD_UNITS;
            if span.first() / WORD_UNITS + 1 == self.home.load(Relaxed)
                && span.units() < WORD_UNITS
                && span.units() <= WORD_UNITS - bit
            {
                let run = word::run(bit, span.units());
                if run & !self.part.load(Relaxed) == 0 {
                    let units = self.units.load(Relaxed);
                    // Kept in release builds: going on would give two owners the same bytes.
                    assert_eq!(units & run, 0, "units released twice");
                    self.units.store(units | run, Release);
                    return true;
                }
            }
        }
        false
    }

    /// Lets the owner work inside. Not called if the caches are shut.
    pub(crate) fn inside<R>(&self, line: &Line, work: impl FnOnce(&Self) -> R) -> Option<R> {
        self.enter();
        let done = if line.is_shut() { None } else { Some(work(self)) };
        self.leave();
        done
    }

    /// Adds units of the part. The owner is inside.
    pub(crate) fn add(&self, units: u64) {
        self.units.store(self.units.load(Relaxed) | units, Release);
    }

    /// Moves to a part of another word, of which `units` are to lie here. Returns the old home and
    /// what lay there. The owner is inside.
    pub(crate) fn enter_home(&self, home: u32, part: u64, units: u64) -> Option<(u32, u64)> {
        let old = self.home().map(|old| (old, self.units.load(Relaxed)));
        // Release, all: a snapshot that sees the new home sees none of the old one's units.
        self.units.store(0, Release);
        self.part.store(part, Release);
        self.home.store(home + 1, Release);
        self.units.store(units, Release);
        old
    }

    /// The units that lie here. The caller is the owner.
    pub(crate) fn units(&self) -> u64 {
        self.units.load(Relaxed)
    }

    /// The units of the home word that may lie here.
    pub(crate) fn part(&self) -> u64 {
        self.part.load(Relaxed)
    }

    /// Takes all units out. Returns the home and its units. The caller is the owner, or a recaller
    /// that keeps the owner out. What follows is [`close`](Self::close).
    pub(crate) fn take_all(&self) -> Option<(u32, u64)> {
        let home = self.home()?;
        Some((home, self.units.swap(0, AcqRel)))
    }

    /// Closes the cache, which is empty. It stays closed for the owner's next claims.
    pub(crate) fn close(&self) {
        // Relaxed: a hint.
        self.rest.store(REST_CLAIMS, Relaxed);
        self.home.store(0, Release);
    }

    /// Counts a claim that the map served. True if the cache may be opened, or is open.
    pub(crate) fn has_rested(&self) -> bool {
        let left = self.rest.load(Relaxed);
        if left > 0 {
            self.rest.store(left - 1, Relaxed);
        }
        left == 0
    }

    #[inline]
    fn take(&self, order: Order, join: Join) -> Option<u32> {
        let units = self.units.load(Relaxed);
        let Block { first, .. } = word::best_fit(units, order.get(), join)?;
        self.units.store(units & !word::run(first, order.units()), Release);
        // The home of a cache with units in it, which stays while the owner is inside.
        Some((self.home.load(Relaxed) - 1) * WORD_UNITS + first)
    }
}
