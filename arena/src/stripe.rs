//! What each thread counts for itself: no line is written by all threads.
//!
//! A stripe belongs to a seat. At an owned seat a counter is bumped by a load and a store, since
//! nobody else writes it; at a shared seat by a read-modify-write. Sums over all stripes are exact
//! when nothing is under way.
//!
//! Some of it is more than figures:
//!
//! - A *release* is under way from before it touches the map until it touches the arena no more.
//!   The last handle waits until none is (see `life`). At an owned seat `Cache::busy` says so, at a
//!   shared one two counters do.
//! - A *move* (a block opened or closed, a summary bit cleared, units fetched into a cache or
//!   recalled from one) hides free units for a moment. It counts as begun before and as done after.
//!   A refusal waits until the two are equal (see `claim`).
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
    sync::{
        AtomicU32, AtomicU64,
        Ordering::{self, Acquire, Relaxed, Release},
        wait_a_moment,
    },
    thread::{self, OWNED_SEATS, SEATS, SHARED_SEATS, Seat},
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
    moves_begun: AtomicU64,
    moves_done: AtomicU64,
    /// For each level above 0 the word at which this seat claims first, plus one; zero if it has
    /// none yet. A hint: any word is right.
    upper_homes: [AtomicU32; LEVELS_MAX],
    refusals: AtomicU64,
    spills: AtomicU64,
    splits: AtomicU64,
    coalesces: AtomicU64,

    /// Up to the next pair of cache lines. Atomics as well, so that the stripe is nothing else: a
    /// reference to it may then outlive it, as it does for an instant when a release ends.
    _padding: [AtomicU64; 13],
}

#[cfg(not(all(test, arena_loom)))]
const _: () = assert!(size_of::<Stripe>() == 256, "no padding of the compiler's");

/// What may have made a search miss something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Publications {
    /// Releases and moves.
    All,
    /// Moves alone, where releases cannot end.
    Moves,
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
pub(crate) struct Stripes(Box<[Stripe; SEATS]>);

impl Stripes {
    /// Stripes for a map whose lowest level has this number of words. Each seat starts at a word of
    /// its own there, next to those of the others.
    pub(crate) fn new(words_of_ground: u32) -> Self {
        let stripes: Vec<_> = (0..SEATS).map(|_| Stripe::default()).collect();
        for (seat, stripe) in stripes.iter().enumerate() {
            // The owned seats, which are numbered last, come first.
            let place = u32::try_from((seat + OWNED_SEATS) % SEATS).expect("below SEATS");
            stripe.cache.move_home(place % words_of_ground);
            if seat >= SHARED_SEATS {
                stripe.cache.allow();
            }
        }
        Self(stripes.try_into().expect("one for each seat"))
    }

    /// The counters of one seat. Only a thread that has the seat may ask for them.
    #[inline]
    pub(crate) fn at(&self, seat: Seat) -> Tally<'_> {
        Tally { stripe: &self.0[seat.index()], is_owned: seat.is_owned() }
    }

    /// The caches that may have been used.
    pub(crate) fn caches(&self) -> impl Iterator<Item = &Cache> {
        self.used().iter().map(|stripe| &stripe.cache)
    }

    /// The stripes that may have been written.
    fn used(&self) -> &[Stripe] {
        &self.0[..thread::seats_in_use()]
    }

    /// Publications that are over. Compare with [`publications_begun`](Self::publications_begun),
    /// taken later.
    pub(crate) fn publications_over(&self, which: Publications) -> u64 {
        self.used().iter().fold(0, |sum, stripe| {
            sum.wrapping_add(stripe.releases_among(which))
                .wrapping_add(stripe.moves_done.load(Acquire))
        })
    }

    /// Publications that are over, and moves that are under way.
    ///
    /// If this is what [`publications_over`](Self::publications_over) was, then no move was under
    /// way at any time in between, and no release ended, if those were asked for: each counter only
    /// grows, and none of these can be below what it was compared with.
    pub(crate) fn publications_begun(&self, which: Publications) -> u64 {
        self.used().iter().fold(0, |sum, stripe| {
            sum.wrapping_add(stripe.releases_among(which))
                .wrapping_add(stripe.moves_begun.load(Acquire))
        })
    }

    /// Waits until every release that we are bound to see begun is done.
    pub(crate) fn wait_until_idle(&self) {
        for stripe in self.used() {
            let mut round = 0;
            while !stripe.is_idle() {
                wait_a_moment(round);
                round += 1;
            }
        }
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
    fn releases_among(&self, which: Publications) -> u64 {
        match which {
            Publications::All => self.releases.load(Acquire),
            Publications::Moves => 0,
        }
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
    is_owned: bool,
}

impl<'a> Tally<'a> {
    #[inline]
    pub(crate) fn cache(self) -> &'a Cache {
        &self.stripe.cache
    }

    /// Whether the thread has the seat to itself, and so may use the cache if that is open.
    #[inline]
    pub(crate) fn is_owned(self) -> bool {
        self.is_owned
    }

    /// A block was claimed.
    #[inline]
    pub(crate) fn count_claim(self, units: u32) {
        self.bump(&self.stripe.claims, 1, Relaxed);
        if units > 1 {
            self.bump(&self.stripe.claimed_further, u64::from(units - 1), Relaxed);
        }
    }

    /// A release begins. The map is not touched yet.
    #[inline]
    pub(crate) fn begin_release(self) {
        if self.is_owned {
            self.stripe.cache.set_busy();
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
        if self.is_owned {
            self.stripe.cache.clear_busy();
        } else {
            self.stripe.releases_done.fetch_add(1, Release);
        }
    }

    /// Free units are about to be out of sight for a moment.
    pub(crate) fn begin_move(self) {
        self.bump(&self.stripe.moves_begun, 1, Relaxed);
    }

    /// They are visible again.
    pub(crate) fn end_move(self) {
        self.bump(&self.stripe.moves_done, 1, Release);
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
    pub(crate) fn count_shrink(self, units: u32) {
        self.bump(&self.stripe.released_further, u64::from(units), Relaxed);
    }

    /// The word of a level above 0 at which this seat claims first.
    pub(crate) fn upper_home(self, level: usize) -> Option<u32> {
        self.stripe.upper_homes[level - 1].load(Relaxed).checked_sub(1)
    }

    /// Moves to another word of a level above 0, and returns the word that is left.
    pub(crate) fn swap_upper_home(self, level: usize, word: u32) -> Option<u32> {
        // A read-modify-write, since threads that share a seat share its home.
        self.stripe.upper_homes[level - 1].swap(word + 1, Relaxed).checked_sub(1)
    }

    #[inline]
    fn bump(self, counter: &AtomicU64, by: u64, order: Ordering) {
        if self.is_owned {
            counter.store(counter.load(Relaxed).wrapping_add(by), order);
        } else {
            counter.fetch_add(by, order);
        }
    }
}
