//! What each thread counts for itself: no line is written by all threads.
//!
//! A stripe belongs to a seat. At an owned seat a counter is bumped by a load and a store, since
//! nobody else writes it; at a shared seat by a read-modify-write. Sums over all stripes are exact
//! when nothing is under way.
//!
//! Some of it is more than figures:
//!
//! - A *release* is under way from before it touches the map until it touches the arena no more.
//!   The last handle waits until none is (see `life`). At an owned seat the state of the cache says
//!   so, at a shared one two counters do.
//! - A *move* (a block opened or closed, a summary corrected, units fetched into a cache or brought
//!   back from one) hides free units for a moment. It counts as begun before and as done after, at
//!   the highest level at which requests may miss them: opening a word of level 0 hides nothing
//!   that a request for a whole word could have had. A refusal waits until the two are equal (see
//!   `claim`).
//! - Releases and moves that are done are *publications*: what was free when they ended is visible
//!   to whoever sees them counted.
//!
//! | Access                           | Ordering  | Pairs with      | Carries                                          |
//! |----------------------------------|-----------|-----------------|--------------------------------------------------|
//! | `..._begun`, bump                | `Relaxed` | -               | carried by the word that is changed next         |
//! | `releases`, `..._done`, bump     | `Release` | sums, `is_idle` | everything that the release or move did          |
//! | sums, `is_idle`, load            | `Acquire` | the bumps       |                                                  |
//! | figures                          | `Relaxed` | -               | nothing: exact when a join or a lock orders them |

use std::ops::AddAssign;

use crate::{
    claim::Cache,
    error::BuildError,
    sync::{
        AtomicU32, AtomicU64,
        Ordering::{self, Acquire, Relaxed, Release},
        wait_a_moment,
    },
    thread::{self, SEATS, Seat},
    zeroed::{self, Zeroed},
};

/// The most levels that a map can have: six orders each, 2^31 units at most.
pub(crate) const LEVELS_MAX: usize = 6;

/// What one seat writes, on cache lines of its own. The hot path stays in the first.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(crate) struct Stripe {
    cache: Cache,
    claims: AtomicU64,
    /// Units claimed beyond the first of each claim. So a claim of one unit has one counter to
    /// bump.
    claimed_further: AtomicU64,
    releases: AtomicU64,
    /// Units released beyond the first of each release.
    released_further: AtomicU64,
    frozen: AtomicU64,

    /// At a shared seat: releases that have begun, and those that are done.
    releases_begun: AtomicU64,
    releases_done: AtomicU64,
    /// For each level, the moves of units of that level.
    moves_begun: [AtomicU64; LEVELS_MAX],
    moves_done: [AtomicU64; LEVELS_MAX],
    /// For each level a [`Home`]; zero if there is none yet.
    homes: [AtomicU32; LEVELS_MAX],
    refusals: AtomicU64,
    spills: AtomicU64,
    splits: AtomicU64,
    coalesces: AtomicU64,
    /// What is under way here was waited for in vain if this is [`progress`](Stripe::progress).
    excused: AtomicU64,
    /// Releases of a part of a lease. With this the stripe is atomics alone, without padding: a
    /// reference to it may then outlive it, as it does for an instant when a release ends.
    tails: AtomicU64,
}

#[cfg(not(all(test, arena_loom)))]
const _: () = assert!(size_of::<Stripe>() == 256, "no padding of the compiler's");

// SAFETY: nothing but atomic integers, for which zero is a value.
unsafe impl Zeroed for Stripe {}

/// Where a block was found. A hint: any is right.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Home {
    pub(crate) word: u32,
    /// What was asked for, in the word.
    pub(crate) order: u32,
    /// The order of the free block that it was cut from.
    pub(crate) cut: u32,
}

/// Sums over all stripes of what may have made a search miss something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Publications {
    releases: u64,
    moves: Moves,
}

/// Sums over all stripes of moves.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Moves {
    counted: u64,
    /// Those that are over. Whoever was excused and goes on changes this.
    over: u64,
}

/// Sums over all stripes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Totals {
    pub(crate) live_units: u64,
    pub(crate) claims: u64,
    pub(crate) releases: u64,
    pub(crate) frozen: u64,
    pub(crate) refusals: u64,
    pub(crate) spills: u64,
    pub(crate) splits: u64,
    pub(crate) coalesces: u64,
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.live_units += other.live_units;
        self.claims += other.claims;
        self.releases += other.releases;
        self.frozen += other.frozen;
        self.refusals += other.refusals;
        self.spills += other.spills;
        self.splits += other.splits;
        self.coalesces += other.coalesces;
    }
}

/// All stripes of one arena.
#[derive(Debug)]
pub(crate) struct Stripes {
    stripes: Box<[Stripe; SEATS]>,
    levels: usize,
}

impl Stripes {
    /// Stripes for all seats, for a map of so many levels. They take memory as they are used.
    pub(crate) fn new(levels: usize) -> Result<Self, BuildError> {
        let stripes = zeroed::table(SEATS)?.try_into().expect("one for each seat");
        Ok(Self { stripes, levels })
    }

    /// The counters of one seat. Only a thread that has the seat may ask for them.
    #[inline]
    pub(crate) fn at(&self, seat: Seat) -> Tally<'_> {
        Tally { stripe: &self.stripes[seat.index()], seat, levels: self.levels }
    }

    /// The caches that may have been used.
    pub(crate) fn caches(&self) -> impl Iterator<Item = &Cache> {
        self.used().iter().map(|stripe| &stripe.cache)
    }

    /// The cache of one seat.
    pub(crate) fn cache(&self, seat: usize) -> &Cache {
        &self.stripes[seat].cache
    }

    /// The stripes that may have been written.
    fn used(&self) -> &[Stripe] {
        &self.stripes[..thread::seats_in_use()]
    }

    /// Releases and moves that are over. Compare with
    /// [`publications_begun`](Self::publications_begun), taken later.
    pub(crate) fn publications_over(&self, level: usize) -> Publications {
        Publications { releases: self.releases(), moves: self.moves_over(level) }
    }

    /// Releases that are over, and moves that have begun.
    ///
    /// If this is what [`publications_over`](Self::publications_over) was, then no move was under
    /// way at any time in between, and no release ended: each counter only grows, and none of these
    /// can be below what it was compared with.
    pub(crate) fn publications_begun(&self, level: usize) -> Publications {
        Publications { releases: self.releases(), moves: self.moves_begun(level) }
    }

    fn releases(&self) -> u64 {
        let over = |stripe: &Stripe| {
            let tails = stripe.tails.load(Acquire);
            stripe.releases.load(Acquire).wrapping_add(tails)
        };
        self.used().iter().fold(0, |sum, stripe| sum.wrapping_add(over(stripe)))
    }

    /// Moves that requests of `level` may miss something by: those that are over or excused.
    pub(crate) fn moves_over(&self, level: usize) -> Moves {
        self.moves(
            level,
            |stripe, begun, over| {
                if begun != over && stripe.is_excused() { begun } else { over }
            },
        )
    }

    /// Such moves that have begun.
    pub(crate) fn moves_begun(&self, level: usize) -> Moves {
        self.moves(level, |_, begun, _| begun)
    }

    fn moves(&self, level: usize, counted: impl Fn(&Stripe, u64, u64) -> u64) -> Moves {
        self.used().iter().fold(Moves::default(), |sum, stripe| {
            let over = total(&stripe.moves_done[level..self.levels]);
            let begun = total(&stripe.moves_begun[level..self.levels]);
            Moves {
                counted: sum.counted.wrapping_add(counted(stripe, begun, over)),
                over: sum.over.wrapping_add(over),
            }
        })
    }

    /// Lets refusers wait no longer for what is under way now. It was waited for long enough:
    /// whoever is in the middle of it was stopped.
    pub(crate) fn excuse_all(&self) {
        for stripe in self.used() {
            if stripe.is_under_way() {
                stripe.excused.store(stripe.progress(), Relaxed);
            }
        }
    }

    /// Whether what is under way at this seat is not waited for.
    pub(crate) fn is_excused(&self, seat: usize) -> bool {
        self.stripes[seat].is_excused()
    }

    /// Waits until every release that we are bound to see begun is done, as long as `may_end`.
    /// False if they did not end.
    pub(crate) fn wait_until_idle(&self, may_end: impl Fn() -> bool) -> bool {
        self.used().iter().all(|stripe| {
            let mut round = 0;
            while !stripe.is_idle() {
                if !may_end() {
                    return false;
                }
                wait_a_moment(round);
                round += 1;
            }
            true
        })
    }

    /// Sums every figure.
    pub(crate) fn totals(&self) -> Totals {
        let live_units = self.live_units();
        let sum = self.used().iter().fold(Totals::default(), |sum, stripe| Totals {
            claims: sum.claims + stripe.claims.load(Relaxed),
            releases: sum.releases + stripe.releases.load(Relaxed),
            frozen: sum.frozen + stripe.frozen.load(Relaxed),
            refusals: sum.refusals + stripe.refusals.load(Relaxed),
            spills: sum.spills + stripe.spills.load(Relaxed),
            splits: sum.splits + stripe.splits.load(Relaxed),
            coalesces: sum.coalesces + stripe.coalesces.load(Relaxed),
            ..sum
        });
        Totals { live_units, ..sum }
    }

    /// The units that are in use. Exact when nothing is under way, else rather too few.
    pub(crate) fn live_units(&self) -> u64 {
        // Acquire, and all claims before all releases: what is claimed meanwhile is not counted,
        // and what is released is. So the highest value that anybody notes is never more than what
        // was in use.
        let claimed = self.used().iter().fold(0, |sum, stripe| {
            sum + stripe.claims.load(Acquire) + stripe.claimed_further.load(Acquire)
        });
        let released = self.used().iter().fold(0, |sum, stripe| {
            sum + stripe.releases.load(Relaxed) + stripe.released_further.load(Relaxed)
        });
        claimed.saturating_sub(released)
    }
}

impl Stripe {
    /// Whether units are out of sight: in a move, or because the owner is in its cache.
    fn is_under_way(&self) -> bool {
        self.cache.has_owner_inside() || total(&self.moves_begun) != total(&self.moves_done)
    }

    /// A number that changes with whatever is done at this seat, and is never zero.
    fn progress(&self) -> u64 {
        let counts = [&self.claims, &self.releases, &self.refusals];
        let counted = counts.into_iter().map(|count| count.load(Relaxed)).sum::<u64>();
        counted.wrapping_add(total(&self.moves_begun)).wrapping_add(total(&self.moves_done))
            | 1 << 63
    }

    fn is_excused(&self) -> bool {
        self.excused.load(Relaxed) == self.progress()
    }

    /// Whether no release is under way among those that we are bound to see begun.
    ///
    /// `done` is read first, so every release that it counts is also counted in `begun`. If both
    /// are equal then nothing else has begun that we can see.
    fn is_idle(&self) -> bool {
        // Acquire: pairs with `end_release`.
        let done = self.releases_done.load(Acquire);
        self.releases_begun.load(Relaxed) == done && !self.cache.is_busy()
    }
}

/// The counters that the current thread writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tally<'a> {
    stripe: &'a Stripe,
    seat: Seat,
    levels: usize,
}

impl<'a> Tally<'a> {
    #[inline]
    pub(crate) fn cache(self) -> &'a Cache {
        &self.stripe.cache
    }

    /// Whether the thread has the seat to itself, and so may use the cache if that is open.
    #[inline]
    pub(crate) fn is_owned(self) -> bool {
        self.seat.is_owned()
    }

    pub(crate) fn seat(self) -> usize {
        self.seat.index()
    }

    /// A block was claimed.
    #[inline]
    pub(crate) fn count_claim(self, units: u32) {
        self.bump(&self.stripe.claims, 1, Relaxed);
        if units > 1 {
            self.bump(&self.stripe.claimed_further, u64::from(units - 1), Relaxed);
        }
    }

    /// A release into the cache begins, at an owned seat.
    #[inline]
    pub(crate) fn begin_cached_release(self) {
        self.stripe.cache.enter();
    }

    /// A release into the map begins, or goes on after its bits were set.
    #[inline]
    pub(crate) fn begin_release(self) {
        if self.is_owned() {
            self.stripe.cache.step_out();
        } else {
            self.stripe.releases_begun.fetch_add(1, Relaxed);
        }
    }

    /// A release ends, and with it the lease: this is its last access to the arena.
    #[inline]
    pub(crate) fn end_release(self, units: u32) {
        if units > 1 {
            self.bump(&self.stripe.released_further, u64::from(units - 1), Relaxed);
        }
        // Release: whoever sees this publication counted sees its units.
        self.bump(&self.stripe.releases, 1, Release);
        self.leave();
    }

    /// A release ends, and what it brings is counted elsewhere.
    #[inline]
    pub(crate) fn leave(self) {
        // Release: what we did to the arena is done.
        if self.is_owned() {
            self.stripe.cache.leave();
        } else {
            self.stripe.releases_done.fetch_add(1, Release);
        }
    }

    /// Free units of `level` are about to be out of sight for a moment.
    pub(crate) fn begin_move(self, level: usize) {
        self.bump(&self.stripe.moves_begun[level], 1, Relaxed);
        let moves = &self.cache().moves;
        if self.is_owned() {
            moves.store(moves.load(Relaxed).wrapping_add(1), Relaxed);
        } else {
            moves.fetch_add(1, Relaxed);
        }
    }

    /// They are visible again.
    pub(crate) fn end_move(self, level: usize) {
        self.bump(&self.stripe.moves_done[level], 1, Release);
    }

    /// The level of moves that any request may miss something by.
    pub(crate) fn top_level(self) -> usize {
        self.levels - 1
    }

    /// How many moves have begun at this seat, at any level.
    #[inline]
    pub(crate) fn moves(self) -> u32 {
        self.cache().moves.load(Relaxed)
    }

    #[inline]
    pub(crate) fn count_frozen(self) {
        self.bump(&self.stripe.frozen, 1, Relaxed);
    }

    pub(crate) fn count_refusal(self) {
        self.bump(&self.stripe.refusals, 1, Relaxed);
    }

    pub(crate) fn count_spill(self) {
        self.bump(&self.stripe.spills, 1, Relaxed);
    }

    pub(crate) fn count_split(self) {
        self.bump(&self.stripe.splits, 1, Relaxed);
    }

    pub(crate) fn count_coalesce(self) {
        self.bump(&self.stripe.coalesces, 1, Relaxed);
    }

    /// The units of a tail were given back, while the lease goes on.
    pub(crate) fn count_tail(self, units: u32) {
        self.bump(&self.stripe.released_further, u64::from(units), Relaxed);
        // Release: whoever sees this publication counted sees its units.
        self.bump(&self.stripe.tails, 1, Release);
    }

    /// Where this seat has found its last block of a level.
    pub(crate) fn home(self, level: usize) -> Option<Home> {
        let home = self.stripe.homes[level].load(Relaxed);
        (home != 0).then(|| Home { word: (home >> 6) - 1, order: home >> 3 & 7, cut: home & 7 })
    }

    pub(crate) fn set_home(self, level: usize, home: Home) {
        let Home { word, order, cut } = home;
        self.stripe.homes[level].store((word + 1) << 6 | order << 3 | cut, Relaxed);
    }

    #[inline]
    fn bump(self, counter: &AtomicU64, by: u64, order: Ordering) {
        if self.is_owned() {
            counter.store(counter.load(Relaxed).wrapping_add(by), order);
        } else {
            counter.fetch_add(by, order);
        }
    }
}

fn total(counters: &[AtomicU64]) -> u64 {
    counters.iter().fold(0, |sum, counter| sum.wrapping_add(counter.load(Acquire)))
}
