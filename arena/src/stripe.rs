//! What each thread counts for itself: no line is written by all threads.
//!
//! A stripe belongs to a seat. At an owned seat a counter is bumped by a load and a store, since nobody else writes it;
//! at a shared seat by a read-modify-write. Sums over all stripes are exact when nothing is under way.
//!
//! Three pairs of counters are more than figures:
//!
//! - A *release* counts as begun before it touches the map and as done when it touches the arena no more. The last
//!   handle waits until the two are equal (see `life`).
//! - A *move* (a block opened or closed, a summary bit cleared, a tail given back) hides free units for a moment. It
//!   counts as begun before and as done after. A refusal waits until the two are equal (see `claim`).
//! - Releases and moves that are done are *publications*: what was free when they ended is visible to whoever sees them counted.
//!
//! | Access                 | Ordering  | Pairs with      | Carries                                           |
//! |------------------------|-----------|-----------------|---------------------------------------------------|
//! | `..._begun`, bump      | `Relaxed` | -               | carried by the word that is changed next          |
//! | `..._done`, bump       | `Release` | sums, `is_idle` | everything that the release or move did           |
//! | sums, `is_idle`, load  | `Acquire` | `..._done`      |                                                   |
//! | figures                | `Relaxed` | -               | nothing: exact when a join or a lock orders them  |

use crate::{
    sync::{
        AtomicU32, AtomicU64, AtomicUsize,
        Ordering::{self, AcqRel, Acquire, Relaxed, Release},
        wait_a_moment,
    },
    thread::{OWNED_SEATS, SEATS, SHARED_SEATS, Seat},
};

/// The most levels that a map can have: six orders each, 2^31 units at most.
pub(crate) const LEVELS_MAX: usize = 6;

/// The counters of one seat, on cache lines of their own. Those of the hot path share the first line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Stripe {
    claims: AtomicU64,
    claimed_units: AtomicU64,
    releases_begun: AtomicU64,
    releases_done: AtomicU64,
    released_units: AtomicU64,
    moves_begun: AtomicU64,
    moves_done: AtomicU64,
    frozen: AtomicU64,

    /// For each level the word at which this seat claims first. A hint: any word is right.
    homes: [AtomicU32; LEVELS_MAX],
    refusals: AtomicU64,
    spills: AtomicU64,
    shrinks: AtomicU64,
    splits: AtomicU64,
    coalesces: AtomicU64,
}

/// Sums over all stripes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Totals {
    pub(crate) claims: u64,
    pub(crate) claimed_units: u64,
    pub(crate) releases: u64,
    pub(crate) released_units: u64,
    pub(crate) frozen: u64,
    pub(crate) refusals: u64,
    pub(crate) spills: u64,
    pub(crate) splits: u64,
    pub(crate) coalesces: u64,
}

impl Totals {
    /// The units that are in use. Claims and releases under way may be counted or not.
    pub(crate) fn live_units(&self) -> u64 {
        self.claimed_units.saturating_sub(self.released_units)
    }
}

/// All stripes of one arena.
#[derive(Debug)]
pub(crate) struct Stripes {
    stripes: Box<[Stripe]>,
    /// Stripes from here on were never written. Sums stop here.
    ///
    /// Raised before the first write to a stripe, so whoever is bound to see that write sees this as well.
    in_use: AtomicUsize,
}

impl Stripes {
    pub(crate) fn new() -> Self {
        Self {
            stripes: (0..SEATS).map(|_| Stripe::default()).collect(),
            in_use: AtomicUsize::new(SHARED_SEATS),
        }
    }

    /// The counters of one seat. Only the thread that has the seat may ask for them.
    #[inline]
    pub(crate) fn at(&self, seat: Seat) -> Tally<'_> {
        Tally { stripe: &self.stripes[seat.index()], in_use: &self.in_use, seat }
    }

    /// The stripes that may have been written.
    fn used(&self) -> &[Stripe] {
        // Acquire: pairs with `Tally::enter`.
        &self.stripes[..self.in_use.load(Acquire)]
    }

    /// Publications that are over. Compare with [`publications_begun`](Self::publications_begun), taken later.
    pub(crate) fn publications_over(&self) -> u64 {
        self.used().iter().fold(0, |sum, stripe| {
            sum.wrapping_add(stripe.releases_done.load(Acquire))
                .wrapping_add(stripe.moves_done.load(Acquire))
        })
    }

    /// Publications that are over, and moves that are under way.
    ///
    /// If this is what [`publications_over`](Self::publications_over) was, then no move was under way at any time in
    /// between, and no release ended: each counter only grows, and none of these can be below what it was compared with.
    pub(crate) fn publications_begun(&self) -> u64 {
        self.used().iter().fold(0, |sum, stripe| {
            sum.wrapping_add(stripe.releases_done.load(Acquire))
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
        self.used().iter().fold(Totals::default(), |sum, stripe| {
            // Acquire, and releases before claims: what is seen released was claimed before. So an arena never seems
            // to have less than nothing in use.
            let released_units = stripe.released_units.load(Acquire);
            let releases = stripe.releases_done.load(Acquire);
            let shrinks = stripe.shrinks.load(Relaxed);
            Totals {
                claims: sum.claims + stripe.claims.load(Relaxed),
                claimed_units: sum.claimed_units + stripe.claimed_units.load(Relaxed),
                releases: sum.releases + releases.saturating_sub(shrinks),
                released_units: sum.released_units + released_units,
                frozen: sum.frozen + stripe.frozen.load(Relaxed),
                refusals: sum.refusals + stripe.refusals.load(Relaxed),
                spills: sum.spills + stripe.spills.load(Relaxed),
                splits: sum.splits + stripe.splits.load(Relaxed),
                coalesces: sum.coalesces + stripe.coalesces.load(Relaxed),
            }
        })
    }
}

impl Stripe {
    /// Whether no release is under way among those that we are bound to see begun.
    ///
    /// `done` is read first, so every release that it counts is also counted in `begun`. If both are equal then nothing
    /// else has begun that we can see.
    fn is_idle(&self) -> bool {
        // Acquire: pairs with `end_release` and `abandon_release`.
        let done = self.releases_done.load(Acquire);
        self.releases_begun.load(Relaxed) == done
    }
}

/// The counters that the current thread writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tally<'a> {
    stripe: &'a Stripe,
    in_use: &'a AtomicUsize,
    seat: Seat,
}

impl Tally<'_> {
    /// A block was claimed.
    #[inline]
    pub(crate) fn count_claim(self, units: u32) {
        self.bump(&self.stripe.claims, 1, Relaxed);
        self.bump(&self.stripe.claimed_units, u64::from(units), Relaxed);
    }

    /// A release begins. The map is not touched yet.
    #[inline]
    pub(crate) fn begin_release(self) {
        self.bump(&self.stripe.releases_begun, 1, Relaxed);
    }

    /// A release ends. This is its last access to the arena.
    #[inline]
    pub(crate) fn end_release(self, units: u32) {
        self.bump(&self.stripe.released_units, u64::from(units), Relaxed);
        self.bump(&self.stripe.releases_done, 1, Release);
    }

    /// A release ends that is accounted for elsewhere, because the last handle is gone.
    pub(crate) fn end_orphaned_release(self) {
        self.bump(&self.stripe.releases_done, 1, Release);
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

    pub(crate) fn count_shrink(self) {
        self.bump(&self.stripe.shrinks, 1, Relaxed);
    }

    pub(crate) fn count_split(self) {
        self.bump(&self.stripe.splits, 1, Relaxed);
    }

    pub(crate) fn count_coalesce(self) {
        self.bump(&self.stripe.coalesces, 1, Relaxed);
    }

    /// The word of `level` at which this seat claims first.
    #[inline]
    pub(crate) fn home(self, level: usize) -> u32 {
        self.stripe.homes[level].load(Relaxed)
    }

    pub(crate) fn set_home(self, level: usize, word: u32) {
        self.stripe.homes[level].store(word, Relaxed);
    }

    #[inline]
    fn bump(self, counter: &AtomicU64, by: u64, order: Ordering) {
        if self.seat.is_owned() {
            let count = counter.load(Relaxed);
            if count == 0 {
                self.enter();
            }
            counter.store(count.wrapping_add(by), order);
        } else {
            counter.fetch_add(by, order);
        }
    }

    /// Takes the stripe into the sums, before it is written for the first time.
    #[cold]
    fn enter(self) {
        // Release: pairs with `used`. Acquire is not needed, but there is no weaker one that also releases what others
        // put here before.
        self.in_use.fetch_max(self.seat.index() + 1, AcqRel);
    }
}

/// The place in the row of words at which a seat starts, so that the seats begin as neighbours.
pub(crate) fn first_home(seat_index: usize, words: u32) -> u32 {
    let place = (seat_index + OWNED_SEATS) % SEATS;
    u32::try_from(place).expect("below SEATS") % words
}

impl Stripes {
    /// Puts every seat at its first home on a level that has `words` words.
    pub(crate) fn settle(&mut self, level: usize, words: u32) {
        for (seat_index, stripe) in self.stripes.iter().enumerate() {
            stripe.homes[level].store(first_home(seat_index, words), Relaxed);
        }
    }
}
