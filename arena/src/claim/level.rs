//! A row of words, and what is known about them at a glance.
//!
//! # Where a word lies
//!
//! Threads work in neighbouring words, so that what they hold stays together and large blocks stay
//! whole. But two threads must not write one cache line. So neighbours lie in different rows of the
//! table:
//!
//! ```text
//! row 0:  word 0, word  R, word 2R, ...     one row is 128 bytes: a pair of cache lines,
//! row 1:  word 1, word R+1, ...             which is what the processor fetches together
//! ...
//! row R-1
//! ```
//!
//! # Two summaries, a bit a word
//!
//! - *roomy*: the word may have a free unit. A clear bit is a promise that it has none, but for
//!   words that a move under way is about to mark. So a full arena is told by reading one word in
//!   64.
//! - *home*: some thread claims here first. A word that becomes wholly free is closed at once
//!   unless it is a home: a thread that allocates and frees one buffer would open and close a word
//!   each time. What is left open is closed when a larger block is missing.
//!
//! # Why neither summary goes wrong
//!
//! Both are Dekker's pattern (see `sync`). At least one side sees the other:
//!
//! ```text
//! releaser                          clearer of "roomy"            leaver of a home
//! 1  sets the units' bits           a  clears the summary bit     a  clears the home bit
//! 2  is the word marked roomy?      b  has the word free units?   b  is the word wholly free?
//!    no: marks it                      yes: marks it again           yes: closes it
//! 3  is the word wholly free
//!    and no home? closes it
//! ```
//!
//! Between a and b the bit may be clear although units are free; the clearer counts as a move, for
//! which refusals wait.
//!
//! Models: `models::claim::a_refusal_is_true_through_the_summary`,
//! `models::claim::a_home_that_is_left_is_closed`.

use crate::{
    claim::word::{self, ALL_FREE, Claimed, WORD_UNITS},
    error::BuildError,
    geometry::Order,
    stripe::Tally,
    sync::{
        AtomicU64,
        Ordering::{Acquire, SeqCst},
        between_write_and_read,
    },
    zeroed::{self, ROW_WORDS, Row},
};

/// A short table is spread over this many rows, if it has as many words, rather than fill its rows.
const ROWS_PREFERRED: usize = if cfg!(all(test, arena_loom)) { 1 } else { 64 };

/// One level of the map: a row of words with their summaries.
#[derive(Debug)]
pub(crate) struct Level {
    rows: Box<[Row]>,
    rows_log2: u32,
    words: u32,
    roomy: Summary,
    homes: Summary,
}

impl Level {
    /// A level of `words` words in which nothing is free.
    pub(crate) fn new(words: u32) -> Result<Self, BuildError> {
        let slots = (words as usize).next_power_of_two();
        let rows = slots.div_ceil(ROW_WORDS).max(slots.min(ROWS_PREFERRED));
        Ok(Self {
            rows: zeroed::table(rows)?,
            rows_log2: rows.ilog2(),
            words,
            roomy: Summary::new(words)?,
            homes: Summary::new(words)?,
        })
    }

    pub(crate) fn words(&self) -> u32 {
        self.words
    }

    #[inline]
    pub(crate) fn word(&self, index: u32) -> &AtomicU64 {
        debug_assert!(index < self.words);
        let row = index as usize & (self.rows.len() - 1);
        self.rows[row].word(index as usize >> self.rows_log2)
    }

    /// Claims the lowest free block of `order` in one word and returns its first unit, counted in
    /// units of this level.
    #[inline]
    pub(crate) fn claim_in(&self, index: u32, order: Order) -> Option<u32> {
        match word::claim(self.word(index), order) {
            Claimed::At(bit) => Some(index * WORD_UNITS + bit),
            Claimed::NoneAmong(_) => None,
        }
    }

    /// Claims a free block of `order` in some word that may have one.
    ///
    /// Those around `near` come first. Homes are passed over if `which` says so.
    pub(crate) fn search(
        &self,
        near: Option<u32>,
        order: Order,
        which: Which,
        tally: Tally<'_>,
    ) -> Option<u32> {
        let mut tries = which.tries();
        for group in self.roomy.groups_from(near.unwrap_or(0)) {
            let mut candidates = self.roomy.group(group);
            if which.passes_over_homes() {
                candidates &= !self.homes.group(group);
            }
            for index in Summary::members(group, candidates) {
                match word::claim(self.word(index), order) {
                    Claimed::At(bit) => return Some(index * WORD_UNITS + bit),
                    Claimed::NoneAmong(0) => self.clear_roomy(index, tally),
                    Claimed::NoneAmong(_) => {}
                }
                tries -= 1;
                if tries == 0 {
                    return None;
                }
            }
        }
        None
    }

    /// Whether some word may have a free unit.
    pub(crate) fn may_be_roomy(&self) -> bool {
        (0..self.roomy.groups()).any(|group| self.roomy.group(group) != 0)
    }

    /// Gives units of one word back. True if the word is now wholly free and should be closed.
    #[inline]
    pub(crate) fn release(&self, index: u32, units: u64) -> bool {
        let before = word::release(self.word(index), units);
        between_write_and_read();
        // Also if some units were free before: whoever freed those may not have come to this line
        // yet.
        self.mark_roomy(index);
        before | units == ALL_FREE && !self.homes.contains(index)
    }

    /// Whether a word has no free unit.
    pub(crate) fn is_full(&self, index: u32) -> bool {
        // Acquire: as for a claim that finds nothing.
        self.word(index).load(Acquire) == 0
    }

    /// Claims every free unit of one word.
    pub(crate) fn take_free(&self, index: u32) -> u64 {
        if self.is_full(index) { 0 } else { word::take_free(self.word(index)) }
    }

    /// Takes a wholly free word out of this level.
    pub(crate) fn take_all(&self, index: u32) -> bool {
        word::take_all(self.word(index))
    }

    /// Whether some thread claims here first.
    pub(crate) fn is_home(&self, index: u32) -> bool {
        self.homes.contains(index)
    }

    /// Says that a thread claims here first.
    pub(crate) fn enter_home(&self, index: u32) {
        if !self.homes.contains(index) {
            self.homes.insert(index);
        }
    }

    /// Says that it does not any more. True if the word is wholly free and should be closed.
    pub(crate) fn leave_home(&self, index: u32) -> bool {
        self.homes.remove(index);
        between_write_and_read();
        self.word(index).load(SeqCst) == ALL_FREE
    }

    /// The words that may have been left open although they are wholly free.
    pub(crate) fn left_open(&self) -> impl Iterator<Item = u32> {
        (0..self.homes.groups())
            .flat_map(|group| Summary::members(group, self.homes.group(group)))
            .filter(|&index| self.word(index).load(SeqCst) == ALL_FREE)
    }

    #[inline]
    fn mark_roomy(&self, index: u32) {
        if !self.roomy.contains(index) {
            self.roomy.insert(index);
        }
    }

    #[cold]
    fn clear_roomy(&self, index: u32, tally: Tally<'_>) {
        tally.begin_move();
        self.roomy.remove(index);
        between_write_and_read();
        if self.word(index).load(SeqCst) != 0 {
            self.roomy.insert(index);
        }
        tally.end_move();
    }
}

/// Which words a search looks at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Which {
    /// A few that are nobody's home. Beyond them, a fresh word is cheaper than going on.
    FewForeign,
    /// All of them: what is not found is not there.
    All,
}

impl Which {
    fn passes_over_homes(self) -> bool {
        self == Self::FewForeign
    }

    fn tries(self) -> u32 {
        match self {
            Self::FewForeign => 8,
            Self::All => u32::MAX,
        }
    }
}

/// A set of words, one bit each. All accesses are `SeqCst`: see the module's diagram.
#[derive(Debug)]
struct Summary(Box<[AtomicU64]>);

impl Summary {
    fn new(words: u32) -> Result<Self, BuildError> {
        zeroed::table(words.div_ceil(u64::BITS) as usize).map(Self)
    }

    fn groups(&self) -> u32 {
        u32::try_from(self.0.len()).expect("fewer than words")
    }

    /// All groups, the one of word `near` first.
    fn groups_from(&self, near: u32) -> impl Iterator<Item = u32> + use<> {
        let groups = self.groups();
        let first = near / u64::BITS;
        (first..groups).chain(0..first)
    }

    fn group(&self, group: u32) -> u64 {
        self.0[group as usize].load(SeqCst)
    }

    /// The words of one group that are set in `bits`, lowest first.
    fn members(group: u32, mut bits: u64) -> impl Iterator<Item = u32> {
        std::iter::from_fn(move || {
            if bits == 0 {
                return None;
            }
            let bit = bits.trailing_zeros();
            bits &= bits - 1;
            Some(group * u64::BITS + bit)
        })
    }

    #[inline]
    fn contains(&self, word: u32) -> bool {
        self.0[(word / u64::BITS) as usize].load(SeqCst) & Self::bit(word) != 0
    }

    fn insert(&self, word: u32) {
        self.0[(word / u64::BITS) as usize].fetch_or(Self::bit(word), SeqCst);
    }

    fn remove(&self, word: u32) {
        self.0[(word / u64::BITS) as usize].fetch_and(!Self::bit(word), SeqCst);
    }

    #[inline]
    fn bit(word: u32) -> u64 {
        1 << (word % u64::BITS)
    }
}
