//! Which units are free, and who may have them. Atomics over indices: this module knows no address.
//!
//! # The map
//!
//! ```text
//! level 2                      [1]                 one bit: 4096 units       the last level is never closed
//! level 1            [11101111 ...]                one bit: 64 units
//! level 0   [ closed ][ 0110.. ][ closed ] ...     one bit: one unit
//! ```
//!
//! A bit says that its units are free *and* that they are to be claimed at this level. A word of level 0 is *open* if
//! some of its own bits are set. Its bit in the level above is set if it is *closed*: wholly free, to be claimed as a
//! whole or to be opened. If neither, all its units are in use. So nothing has to be known of a block but its units:
//!
//! - **claim** a block of `2^k` units: one exchange in a word of level `k / 6`;
//! - **open** a word: claim its bit above, publish the units that were not asked for;
//! - **release** a run of units: set its bits, those of whole words one level up;
//! - **close** a word: whoever's release made it wholly free (one thread sees that) takes all its bits and
//!   releases its bit above.
//!
//! Two free buddies are one free block because their bits are neighbours. No merge can be missed inside a word, and
//! between words the close is somebody's duty.
//!
//! A fixed arena has level 0 alone, and orders above zero are not asked for.
//!
//! # Rules
//!
//! 1. **A refusal is true.** A search that found nothing counts only if no publication happened meanwhile: otherwise Y
//!    looks at word A, X frees in A and claims the last of B, and Y finds B full too. X's release is counted before X's
//!    claim, and Y, who sees the claim, sees the count. Opening, closing and clearing a summary bit hide free units for a moment: a
//!    refuser waits for those under way. So a refusal is not lock-free; claims and releases are.
//! 2. **Nothing is lost.** A word that is wholly free and open is some thread's home, or its close is under way.
//! 3. **One read-modify-write** claims in the home word and one releases, if no word is opened or closed.
//!
//! Orderings are in `word`, `level` and `stripe`, next to the accesses.

#![forbid(unsafe_code)]

mod level;
mod word;

use crate::{
    claim::{
        level::{Level, Which},
        word::{ALL_FREE, WORD_ORDER, WORD_UNITS},
    },
    error::BuildError,
    geometry::{Order, Span},
    stripe::{LEVELS_MAX, Stripes, Tally},
    sync::{Ordering::Acquire, wait_a_moment},
};

/// The free units of one arena.
#[derive(Debug)]
pub(crate) struct Map {
    /// Level 0, which most claims and releases touch alone.
    ground: Level,
    /// The levels above.
    upper: Box<[Level]>,
}

impl Map {
    /// A map of single units, all free.
    pub(crate) fn of_slots(units: u32, stripes: &mut Stripes) -> Result<Self, BuildError> {
        let words = units.div_ceil(WORD_UNITS);
        let map = Self { ground: Level::new(words)?, upper: Box::default() };
        for index in 0..words {
            let here = (units - index * WORD_UNITS).min(WORD_UNITS);
            map.ground.release(index, word::run(0, here));
        }
        stripes.settle(0, words);
        Ok(map)
    }

    /// A map of `units` units, a power of two, that are one free block.
    pub(crate) fn of_blocks(units: u32, stripes: &mut Stripes) -> Result<Self, BuildError> {
        debug_assert!(units.is_power_of_two());
        let mut rows = Vec::with_capacity(LEVELS_MAX);
        let mut left = units;
        loop {
            let words = left.div_ceil(WORD_UNITS);
            stripes.settle(rows.len(), words);
            rows.push(Level::new(words)?);
            if words == 1 {
                break;
            }
            left = words;
        }
        let ground = rows.remove(0);
        let map = Self { ground, upper: rows.into() };
        map.level(map.last_level()).release(0, word::run(0, left));
        Ok(map)
    }

    /// Claims a block of `order` and returns its first unit.
    ///
    /// Lock-free if there is one. A refusal waits for moves that are under way.
    #[inline]
    pub(crate) fn claim(&self, order: Order, stripes: &Stripes, tally: Tally<'_>) -> Option<u32> {
        if order.get() < WORD_ORDER {
            if let Some(first) = self.ground.claim_in(tally.home(0), order) {
                return Some(first);
            }
        }
        self.claim_away_from_home(order, stripes, tally)
    }

    /// Releases a run of units.
    #[inline]
    pub(crate) fn release(&self, span: Span, tally: Tally<'_>) {
        let bit = span.first % WORD_UNITS;
        if span.units < WORD_UNITS && bit + span.units <= WORD_UNITS {
            self.put(0, span.first / WORD_UNITS, word::run(bit, span.units), tally);
        } else {
            self.release_run(0, span, tally);
        }
    }

    /// Forms an edge with every release: those that came before are seen by us with all that preceded them, and
    /// those that come later see all that preceded us.
    pub(crate) fn touch_every_word(&self) {
        for level in self.levels() {
            for index in 0..level.words() {
                word::touch(level.word(index));
            }
        }
    }

    /// The order of the largest block that a claim could get now, words that were left open included.
    pub(crate) fn largest_free_order(&self) -> Option<Order> {
        let last = self.last_level();
        let mut largest = None;
        for index in 0..self.level(last).words() {
            self.view(last, index, &mut |level, _, free| {
                let here = word::largest_free_order(free)
                    .map(|order| Order::new(order.get() + WORD_ORDER * level_u32(level)));
                largest = largest.max(here);
            });
        }
        largest
    }

    /// The free units, one bit each, in words of 64.
    pub(crate) fn free_units(&self) -> Vec<u64> {
        let mut free = vec![0; self.ground.words() as usize];
        for level in (0..=self.last_level()).rev() {
            let words_each = 1usize << (WORD_ORDER * level_u32(level)) >> WORD_ORDER;
            for index in 0..self.level(level).words() {
                let bits = self.level(level).word(index).load(Acquire);
                if level == 0 {
                    free[index as usize] |= bits;
                    continue;
                }
                for bit in (0..WORD_UNITS).filter(|bit| bits >> bit & 1 == 1) {
                    let first = (index * WORD_UNITS + bit) as usize * words_each;
                    free[first..first + words_each].fill(ALL_FREE);
                }
            }
        }
        free
    }

    #[inline(never)]
    fn claim_away_from_home(
        &self,
        order: Order,
        stripes: &Stripes,
        tally: Tally<'_>,
    ) -> Option<u32> {
        let level = (order.get() / WORD_ORDER).min(level_u32(self.last_level()));
        let in_word = Order::new(order.get() - level * WORD_ORDER);
        let scale = WORD_ORDER * level;
        let level = level as usize;
        if let Some(first) = self.level(level).claim_in(tally.home(level), in_word) {
            return Some(first << scale);
        }

        let mut round = 0;
        loop {
            // Rule 1: a refusal needs a search during which nothing was published. Before, then after.
            let over = stripes.publications_over();
            if let Some(first) = self.attempt(level, in_word, tally) {
                return Some(first << scale);
            }
            if stripes.publications_begun() == over {
                return None;
            }
            wait_a_moment(round);
            round += 1;
        }
    }

    /// Searches everywhere once. The result counts in units of `level`.
    fn attempt(&self, level: usize, order: Order, tally: Tally<'_>) -> Option<u32> {
        let home = tally.home(level);
        let row = self.level(level);
        let found = row
            .claim_in(home, order)
            .or_else(|| row.search(home, order, Which::FewForeign, tally))
            .or_else(|| self.open(level, order, tally))
            .or_else(|| row.search(home, order, Which::All, tally))
            .or_else(|| {
                // What was left open may be what is missing.
                self.close_what_was_left_open(level, tally).then_some(())?;
                row.search(home, order, Which::All, tally)
                    .or_else(|| self.open(level, order, tally))
            })?;
        self.move_home(level, found / WORD_UNITS, tally);
        Some(found)
    }

    /// Opens a closed word of `level`, keeps a block of it and publishes the rest.
    fn open(&self, level: usize, order: Order, tally: Tally<'_>) -> Option<u32> {
        // Looked up first, because a refuser does not count a search in which it has moved something itself.
        if !self.may_open(level) {
            return None;
        }
        let above = self.level(level + 1);
        let home_above = tally.home(level + 1);
        tally.begin_move();
        let opened = above
            .claim_in(home_above, Order::UNIT)
            .or_else(|| above.search(home_above, Order::UNIT, Which::All, tally))
            .or_else(|| self.open(level + 1, Order::UNIT, tally))
            .map(|index| {
                let rest = ALL_FREE & !word::run(0, order.units());
                let must_close = self.level(level).release(index, rest);
                debug_assert!(!must_close, "a part of the word is ours");
                tally.count_split();
                index * WORD_UNITS
            });
        tally.end_move();
        opened
    }

    /// Whether there may be a free unit above `level`.
    fn may_open(&self, level: usize) -> bool {
        (level + 1..=self.last_level()).any(|above| self.level(above).may_be_roomy())
    }

    /// Closes a word of `level` if it is wholly free.
    fn close(&self, level: usize, index: u32, tally: Tally<'_>) -> bool {
        tally.begin_move();
        let was_free = self.level(level).take_all(index);
        if was_free {
            tally.count_coalesce();
            self.put(level + 1, index / WORD_UNITS, word::run(index % WORD_UNITS, 1), tally);
        }
        tally.end_move();
        was_free
    }

    /// Closes the wholly free words below `level`, from the lowest level up, so that one close can complete another.
    fn close_what_was_left_open(&self, level: usize, tally: Tally<'_>) -> bool {
        let mut closed_any = false;
        for below in 0..level {
            for index in self.level(below).left_open() {
                closed_any |= self.close(below, index, tally);
            }
        }
        closed_any
    }

    /// From now on this seat claims in another word first.
    fn move_home(&self, level: usize, index: u32, tally: Tally<'_>) {
        let left = tally.home(level);
        let row = self.level(level);
        row.enter_home(index);
        if left == index {
            return;
        }
        tally.set_home(level, index);
        if row.leave_home(left) && level < self.last_level() {
            self.close(level, left, tally);
        }
    }

    /// Sets bits of one word, and closes it if that makes it wholly free.
    #[inline]
    fn put(&self, level: usize, index: u32, units: u64, tally: Tally<'_>) {
        if self.level(level).release(index, units) && level < self.last_level() {
            self.close(level, index, tally);
        }
    }

    /// Releases a run that does not lie in one word: whole words one level up, what sticks out at this one.
    #[cold]
    fn release_run(&self, level: usize, span: Span, tally: Tally<'_>) {
        let Span { mut first, mut units } = span;
        let is_last = level == self.last_level();
        while units > 0 {
            let bit = first % WORD_UNITS;
            let here = units.min(WORD_UNITS - bit);
            if here == WORD_UNITS && !is_last {
                let words = units / WORD_UNITS;
                let above = Span { first: first / WORD_UNITS, units: words };
                self.release_run(level + 1, above, tally);
                first += words * WORD_UNITS;
                units -= words * WORD_UNITS;
            } else {
                self.put(level, first / WORD_UNITS, word::run(bit, here), tally);
                first += here;
                units -= here;
            }
        }
    }

    /// Visits the open words of the tree below one word, children first. Wholly free children count as closed.
    ///
    /// Returns the free bits of the word.
    fn view(&self, level: usize, index: u32, visit: &mut impl FnMut(usize, u32, u64)) -> u64 {
        let mut free = self.level(level).word(index).load(Acquire);
        if level > 0 {
            let children = self.level(level - 1).words();
            let first = index * WORD_UNITS;
            for bit in 0..WORD_UNITS.min(children - first) {
                let is_open = free >> bit & 1 == 0;
                if is_open && self.view(level - 1, first + bit, visit) == ALL_FREE {
                    free |= 1 << bit;
                }
            }
        }
        visit(level, index, free);
        free
    }

    fn levels(&self) -> impl Iterator<Item = &Level> {
        std::iter::once(&self.ground).chain(&self.upper)
    }

    #[inline]
    fn level(&self, level: usize) -> &Level {
        if level == 0 { &self.ground } else { &self.upper[level - 1] }
    }

    #[inline]
    fn last_level(&self) -> usize {
        self.upper.len()
    }
}

/// Levels are few.
#[inline]
fn level_u32(level: usize) -> u32 {
    debug_assert!(level < LEVELS_MAX);
    level as u32
}
