//! A row of words, and for each order a summary of the words that may have a free block of it.
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
//! # The best fit
//!
//! A claim takes the smallest free block that suffices, wherever it is, the lowest among equals.
//! The summaries, one for each order, lead to it: the first member of the first summary that has
//! one. So a search that finds nothing has read the summaries and few words, however many units are
//! free in smaller pieces.
//!
//! A summary has every word with a free block of its order, and others besides: who sets bits, in a
//! release or as what is left of a block that was cut, adds the word; a claim removes nothing. Who
//! is led to a word that has no such block *corrects* that one summary.
//!
//! # Why no block is out of sight
//!
//! Dekker's pattern (see `sync`): at least one side sees the other.
//!
//! ```text
//! release or cut                      correction
//! 1  changes the word's bits          a  removes the word from one summary
//! 2  is it in the summary of          b  which free blocks has the word?
//!    each new block? no: adds it         adds it to the summaries of their orders
//! ```
//!
//! Between a and b the word may be missing although it has such a block; a correction counts as a
//! move, for which refusals wait. Between 1 and 2 of a release the block is still the releaser's,
//! who has not returned. Between 1 and 2 of a cut the word is in the summary of the block that was
//! cut, and a correction of that one sees 1.
//!
//! Models: `models::claim::a_refusal_is_true_through_the_summary`,
//! `models::claim::the_rest_of_a_cut_block_is_found`.

use crate::{
    claim::{
        summary::Summaries,
        word::{self, ALL_FREE, Block, Claimed, Given, Join, WORD_ORDER, WORD_UNITS},
    },
    error::BuildError,
    stripe::{Home, Tally},
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
    join: Join,
    /// Where it stands in the map.
    number: usize,
    /// For each order, the words that may have a free block of exactly that order.
    with: Summaries,
}

impl Level {
    /// A level of `words` words in which nothing is free.
    pub(crate) fn new(number: usize, words: u32, join: Join) -> Result<Self, BuildError> {
        let slots = (words as usize).next_power_of_two();
        let rows = slots.div_ceil(ROW_WORDS).max(slots.min(ROWS_PREFERRED));
        Ok(Self {
            rows: zeroed::table(rows)?,
            rows_log2: rows.ilog2(),
            words,
            join,
            number,
            with: Summaries::new(words)?,
        })
    }

    pub(crate) fn words(&self) -> u32 {
        self.words
    }

    pub(crate) fn join(&self) -> Join {
        self.join
    }

    #[inline]
    pub(crate) fn word(&self, index: u32) -> &AtomicU64 {
        debug_assert!(index < self.words);
        let row = index as usize & (self.rows.len() - 1);
        self.rows[row].word(index as usize >> self.rows_log2)
    }

    /// Claims a block of `order` at home, if that is as good as what a search would find: an exact
    /// fit, or such a block as the last search has found for the same order.
    #[inline]
    pub(crate) fn claim_at_home(&self, home: Home, order: u32) -> Option<u32> {
        let is_as_good = |fit| fit == order || fit == home.cut && home.order == order;
        let word = self.word(home.word);
        match word::claim_expected(word, order, is_as_good, self.join) {
            Claimed::At(bit, cut) => {
                self.mark_rest(home.word, order, cut);
                Some(home.word * WORD_UNITS + bit)
            }
            Claimed::Other(_) | Claimed::Lost => None,
        }
    }

    /// Claims a block of `order` from the best fit. Returns its first unit, counted in units of
    /// this level, and where that is.
    pub(crate) fn claim(&self, order: u32, tally: Tally<'_>) -> Option<(u32, Home)> {
        loop {
            let mut must_repeat = false;
            for fit in order..=self.join.max_order() {
                let mut from = 0;
                while let Some(index) = self.with.first_from(fit, from) {
                    match word::claim_expected(
                        self.word(index),
                        order,
                        |found| found == fit,
                        self.join,
                    ) {
                        Claimed::At(bit, cut) => {
                            self.mark_rest(index, order, cut);
                            let home = Home { word: index, order, cut };
                            return Some((index * WORD_UNITS + bit, home));
                        }
                        // Others work here: the next word keeps out of their way.
                        Claimed::Lost => must_repeat = true,
                        Claimed::Other(other) => {
                            self.correct(fit, index, tally);
                            // It may be in a summary that was passed already.
                            must_repeat |= other.is_some();
                        }
                    }
                    from = index + 1;
                }
            }
            if !must_repeat {
                return None;
            }
        }
    }

    /// Gives a block of one word back. Returns whether the word is wholly free now.
    #[inline(always)]
    pub(crate) fn release(&self, index: u32, block: Block) -> bool {
        let free = self.set(index, block.bits());
        // Also if the word had such a block before: whoever freed that may not have come to this
        // line yet.
        self.with.insert(word::containing(free, block, self.join).order, index);
        free == ALL_FREE
    }

    /// Gives units of one word back that may be several blocks. Returns whether the word is wholly
    /// free now.
    pub(crate) fn release_units(&self, index: u32, units: u64) -> bool {
        let free = self.set(index, units);
        self.with.insert_all(word::orders(free, self.join), index);
        free == ALL_FREE
    }

    /// Sets bits of one word and returns all that are set now.
    #[inline]
    fn set(&self, index: u32, units: u64) -> u64 {
        let before = word::release(self.word(index), units);
        between_write_and_read();
        before | units
    }

    /// Gives one block back, unless that would complete a block of `wanted` or more: then the
    /// caller gets the whole of that instead, and is told before.
    pub(crate) fn release_or_complete(
        &self,
        index: u32,
        block: Block,
        wanted: u32,
        before_completing: impl FnMut(),
    ) -> Given {
        let given = word::release_or_complete(self.word(index), block, wanted, before_completing);
        if let Given::Free(whole) = given {
            between_write_and_read();
            self.with.insert(whole.order, index);
        }
        given
    }

    /// Claims every free unit of one word that is among `part`.
    pub(crate) fn take_free(&self, index: u32, part: u64) -> u64 {
        // Acquire: as for a claim that finds nothing.
        if self.word(index).load(Acquire) & part == 0 {
            return 0;
        }
        word::take_free(self.word(index), part)
    }

    /// Takes a wholly free word out of this level.
    pub(crate) fn take_all(&self, index: u32) -> bool {
        word::take_all(self.word(index))
    }

    /// Whether no word can have a free block of `order` or more.
    pub(crate) fn has_none(&self, order: u32) -> bool {
        (order..=self.join.max_order()).all(|order| self.with.first_from(order, 0).is_none())
    }

    /// The lowest word from `from` on that may be wholly free, if such words are closed.
    pub(crate) fn first_left_open(&self, from: u32) -> Option<u32> {
        (self.join == Join::Buddies).then(|| self.with.first_from(WORD_ORDER, from)).flatten()
    }

    /// Brings the summaries of a word up to date: it is in that of `order`, and has no such block.
    #[cold]
    pub(crate) fn correct(&self, order: u32, index: u32, tally: Tally<'_>) {
        // A word left open serves larger requests as well.
        let hides = if order == WORD_ORDER { tally.top_level() } else { self.number };
        tally.begin_move(hides);
        self.with.remove(order, index);
        between_write_and_read();
        let free = self.word(index).load(SeqCst);
        self.with.insert_all(word::orders(free, self.join), index);
        tally.end_move(hides);
    }

    /// Adds the word to the summaries of what is left of a block of order `cut`.
    #[inline(always)]
    fn mark_rest(&self, index: u32, order: u32, cut: u32) {
        if cut > order {
            between_write_and_read();
            for order in order..cut {
                self.with.insert(order, index);
            }
        }
    }
}
