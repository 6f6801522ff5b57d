//! Which units are free, and who may have them. Atomics over indices: this module knows no address.
//!
//! # The map
//!
//! ```text
//! level 2                      [1]                 one bit: 4096 units   (never closed)
//! level 1            [11101111 ...]                one bit: 64 units
//! level 0   [ closed ][ 0110.. ][ closed ] ...     one bit: one unit
//! ```
//!
//! A bit says that its units are free *and* that they are to be claimed at this level. A word of
//! level 0 is *open* if some of its own bits are set. Its bit in the level above is set if it is
//! *closed*: wholly free, to be claimed as a whole or to be opened. If neither, all its units are
//! in use. So nothing has to be known of a block but its units:
//!
//! - **claim** a block of `2^k` units: one exchange in a word of level `k / 6`;
//! - **open** a word: claim its bit above, publish the units that were not asked for;
//! - **release** a run of units: set its bits, those of whole words one level up;
//! - **close** a word: whoever's release made it wholly free (one thread sees that) takes all its
//!   bits and releases its bit above.
//!
//! Two free buddies are one free block because their bits are neighbours. No merge can be missed
//! inside a word, and between words the close is somebody's duty.
//!
//! A fixed arena has level 0 alone, and orders above zero are not asked for.
//!
//! Beside the map, each thread keeps the free units of its home word in a cache, to claim and
//! release them without a read-modify-write. They are free for everybody all the same: see `cache`.
//!
//! # Rules
//!
//! 1. **A refusal is true.** A search that found nothing counts only if no publication happened
//!    meanwhile: otherwise Y looks at word A, X frees in A and claims the last of B, and Y finds B
//!    full too. X's release is counted before X's claim, and Y, who sees the claim, sees the count.
//!    Moves (opening, closing, clearing a summary bit, filling and recalling a cache) hide free
//!    units for a moment: a refuser waits for those under way. So a refusal is not lock-free, and
//!    neither is a claim that has to recall a cache; all else is. Where others publish without a
//!    pause, a refuser would search for ever: after [`SEARCHES_MAX`] searches it has the *last
//!    look*, during which no release can end (see `life`).
//! 2. **Nothing is lost.** A word that is wholly free and open is some thread's home, or its close
//!    is under way.
//! 3. **No read-modify-write** claims or releases in a thread's cache; one does in a word of the
//!    map, if no word is opened or closed.
//!
//! Orderings are in `word`, `level` and `stripe`, next to the accesses.

#![forbid(unsafe_code)]

mod cache;
mod level;
mod word;

pub(crate) use self::cache::Cache;

use crate::{
    barrier,
    claim::{
        level::{Level, Which},
        word::{ALL_FREE, WORD_ORDER, WORD_UNITS},
    },
    error::BuildError,
    geometry::{Order, Span},
    stripe::{LEVELS_MAX, Publications, Stripes, Tally},
    sync::{Ordering::Acquire, wait_a_moment},
    thread::SEATS,
};

const _: () = assert!(SEATS <= u64::BITS as usize, "one bit for each cache that is recalled");

/// Searches that find nothing, each disturbed by a publication, before a refuser has the last look.
const SEARCHES_MAX: u32 = if cfg!(all(test, arena_loom)) { 2 } else { 32 };

/// How hard a claim tries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Effort {
    /// One search, for somebody who will be told if it has missed something.
    #[cfg(feature = "async-alloc")]
    Once,
    /// Until something is found or it is certain that there is nothing, but not for ever.
    Certain,
    /// Until it is certain, while releases are held up.
    LastLook,
}

/// Why a claim found nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Miss {
    /// At some moment there was nothing.
    Nothing,
    /// Every search was disturbed.
    Undecided,
}

impl Effort {
    fn searches(self) -> u32 {
        match self {
            #[cfg(feature = "async-alloc")]
            Self::Once => 1,
            Self::Certain => SEARCHES_MAX,
            Self::LastLook => u32::MAX,
        }
    }

    fn disturbed_by(self) -> Publications {
        match self {
            #[cfg(feature = "async-alloc")]
            Self::Once => Publications::All,
            Self::Certain => Publications::All,
            Self::LastLook => Publications::Moves,
        }
    }
}

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
    pub(crate) fn of_slots(units: u32) -> Result<Self, BuildError> {
        let words = units.div_ceil(WORD_UNITS);
        let map = Self { ground: Level::new(words)?, upper: Box::default() };
        for index in 0..words {
            let here = (units - index * WORD_UNITS).min(WORD_UNITS);
            map.ground.release(index, word::run(0, here));
        }
        Ok(map)
    }

    /// A map of `units` units, a power of two, of which the first `free` are free: all of them, or
    /// all but a block at the end that is in use for ever.
    pub(crate) fn of_blocks(units: u32, free: u32) -> Result<Self, BuildError> {
        debug_assert!(units.is_power_of_two());
        debug_assert!(free == units || (units - free).is_power_of_two() && units - free < units);
        let mut units_above = units;
        let mut levels = Vec::with_capacity(LEVELS_MAX);
        let map = loop {
            let words = units_above.div_ceil(WORD_UNITS);
            levels.push(Level::new(words)?);
            if words == 1 {
                let ground = levels.remove(0);
                break Self { ground, upper: levels.into() };
            }
            units_above = words;
        };
        // Each set bit of `free` is one block, the largest first.
        let mut first = 0;
        for order in (0..u32::BITS).rev().filter(|order| free >> order & 1 == 1) {
            map.publish_block(first, order);
            first += 1 << order;
        }
        Ok(map)
    }

    /// Sets the bits of a free block while the map is made.
    fn publish_block(&self, first: u32, order: u32) {
        let level = (order / WORD_ORDER).min(level_u32(self.last_level()));
        let scale = WORD_ORDER * level;
        let (index, bit) = ((first >> scale) / WORD_UNITS, (first >> scale) % WORD_UNITS);
        self.level(level as usize).release(index, word::run(bit, 1 << (order - scale)));
    }

    /// The number of words in the lowest level.
    pub(crate) fn words_of_ground(&self) -> u32 {
        self.ground.words()
    }

    /// Claims a block of `order` from the thread's cache and returns its first unit.
    #[inline]
    pub(crate) fn claim_cached(&self, order: Order, tally: Tally<'_>) -> Option<u32> {
        if order.get() < WORD_ORDER && tally.is_owned() { tally.cache().claim(order) } else { None }
    }

    /// Claims a block of `order` from wherever there is one, and returns its first unit.
    ///
    /// Lock-free if there is one in the map. A recall waits for the owner of the cache, a refusal
    /// for moves that are under way.
    #[inline(never)]
    pub(crate) fn claim_beyond_cache(
        &self,
        order: Order,
        effort: Effort,
        stripes: &Stripes,
        tally: Tally<'_>,
    ) -> Result<u32, Miss> {
        let level = (order.get() / WORD_ORDER).min(level_u32(self.last_level()));
        let in_word = Order::new(order.get() - level * WORD_ORDER);
        let scale = WORD_ORDER * level;
        let level = level as usize;

        let at_home = if level == 0 && tally.is_owned() && tally.cache().rest() {
            self.refill(tally).then(|| tally.cache().claim(in_word)).flatten()
        } else {
            self.home(level, tally).and_then(|home| self.level(level).claim_in(home, in_word))
        };
        let found = match at_home {
            Some(first) => Ok(first),
            None => self.search(level, in_word, effort, stripes, tally),
        };
        found.map(|first| first << scale)
    }

    /// Releases a run of units. The release is under way: the owner's cache is busy.
    #[inline]
    pub(crate) fn release(&self, span: Span, tally: Tally<'_>) {
        if tally.is_owned() && tally.cache().release(span) {
            return;
        }
        let bit = span.first() % WORD_UNITS;
        if span.units() < WORD_UNITS && bit + span.units() <= WORD_UNITS {
            self.put(0, span.first() / WORD_UNITS, word::run(bit, span.units()), tally);
        } else {
            self.release_run(0, span, tally);
        }
    }

    /// Forms an edge with every release into the map: those that came before are seen by us with
    /// all that preceded them, and those that come later see all that preceded us.
    pub(crate) fn touch_every_word(&self) {
        for level in self.levels() {
            for index in 0..level.words() {
                word::touch(level.word(index));
            }
        }
    }

    /// The order of the largest block that a claim could get now, with what was left open and what
    /// lies in caches.
    pub(crate) fn largest_free_order(&self, stripes: &Stripes) -> Option<Order> {
        let cached = cached_units(stripes);
        let last = self.last_level();
        let mut largest = None;
        for index in 0..self.level(last).words() {
            self.view(last, index, &cached, &mut |level, free| {
                let here = word::largest_free_order(free)
                    .map(|order| Order::new(order.get() + WORD_ORDER * level_u32(level)));
                largest = largest.max(here);
            });
        }
        largest
    }

    /// The free units, one bit each, in words of 64.
    pub(crate) fn free_units(&self, stripes: &Stripes) -> Vec<u64> {
        let mut free = vec![0; self.ground.words() as usize];
        for level in (1..=self.last_level()).rev() {
            let words_each = 1usize << (WORD_ORDER * (level_u32(level) - 1));
            for index in 0..self.level(level).words() {
                let bits = self.level(level).word(index).load(Acquire);
                for bit in (0..WORD_UNITS).filter(|bit| bits >> bit & 1 == 1) {
                    let first = (index * WORD_UNITS + bit) as usize * words_each;
                    free[first..first + words_each].fill(ALL_FREE);
                }
            }
        }
        for index in 0..self.ground.words() {
            free[index as usize] |= self.ground.word(index).load(Acquire);
        }
        for (home, units) in cached_units(stripes) {
            free[home as usize] |= units;
        }
        free
    }

    /// Searches everywhere, until something is found or it is certain that there is nothing, or as
    /// long as `effort` allows.
    fn search(
        &self,
        level: usize,
        order: Order,
        effort: Effort,
        stripes: &Stripes,
        tally: Tally<'_>,
    ) -> Result<u32, Miss> {
        let mut round = 0;
        loop {
            // Rule 1: a refusal needs a search during which nothing was published. Before, then
            // after.
            let over = stripes.publications_over(effort.disturbed_by());
            let found = self
                .search_map(level, order, tally)
                .or_else(|| self.search_map_with_caches(level, order, stripes, tally));
            if let Some(first) = found {
                self.move_home(level, first / WORD_UNITS, tally);
                return Ok(first);
            }
            if stripes.publications_begun(effort.disturbed_by()) == over {
                return Err(Miss::Nothing);
            }
            round += 1;
            if round == effort.searches() {
                return Err(Miss::Undecided);
            }
            wait_a_moment(round);
        }
    }

    /// Searches the map once. What it finds counts in units of `level`.
    fn search_map(&self, level: usize, order: Order, tally: Tally<'_>) -> Option<u32> {
        let home = self.home(level, tally);
        let row = self.level(level);
        let search = |which| row.search(home, order, which, tally);
        let is_roomy = row.may_be_roomy();
        let at_home = || home.and_then(|home| row.claim_in(home, order));
        let in_reach = || at_home().or_else(|| search(Which::FewForeign));
        is_roomy
            .then(in_reach)
            .flatten()
            .or_else(|| self.open(level, order, tally))
            .or_else(|| is_roomy.then(|| search(Which::All)).flatten())
            .or_else(|| {
                // What was left open may be what is missing.
                self.close_what_was_left_open(level, tally).then_some(())?;
                search(Which::All).or_else(|| self.open(level, order, tally))
            })
    }

    /// Recalls every cache and, if there was anything in them, searches the map again.
    fn search_map_with_caches(
        &self,
        level: usize,
        order: Order,
        stripes: &Stripes,
        tally: Tally<'_>,
    ) -> Option<u32> {
        let mut recalled_any = self.flush(tally);
        let holders = || stripes.caches().filter(|cache| cache.may_hold_units());
        if holders().next().is_some() {
            tally.begin_move();
            recalled_any |= self.recall_all(stripes, tally);
            tally.end_move();
        }
        if recalled_any { self.search_map(level, order, tally) } else { None }
    }

    /// Puts what is in the caches of others back into the map. False if nobody could be recalled.
    fn recall_all(&self, stripes: &Stripes, tally: Tally<'_>) -> bool {
        let mut shut: u64 = 0;
        for (seat, cache) in stripes.caches().enumerate() {
            if cache.may_hold_units() && cache.shut() {
                shut |= 1 << seat;
            }
        }
        if shut == 0 {
            return false;
        }
        barrier::heavy();
        for (seat, cache) in stripes.caches().enumerate() {
            if shut >> seat & 1 == 1 {
                cache.drain(|home, units| self.put_if_any(home, units, tally));
            }
        }
        true
    }

    /// Fetches the free units of the home word into the cache. False if the cache cannot be used or
    /// there are none.
    fn refill(&self, tally: Tally<'_>) -> bool {
        if self.ground.is_full(tally.cache().home()) {
            return false;
        }
        let mut fetched = 0;
        tally.begin_move();
        tally.cache().change(|kept| {
            fetched = self.ground.take_free(tally.cache().home());
            kept | fetched
        });
        tally.end_move();
        fetched != 0
    }

    /// Puts what is in the own cache back into the map. False if there was nothing.
    fn flush(&self, tally: Tally<'_>) -> bool {
        if !tally.cache().may_hold_units() {
            return false;
        }
        let mut flushed_any = false;
        // A move although the units are never out of sight: a search that has passed the word may
        // come to the cache when it is empty already.
        tally.begin_move();
        tally.cache().change(|units| {
            self.put_if_any(tally.cache().home(), units, tally);
            flushed_any = units != 0;
            0
        });
        tally.end_move();
        flushed_any
    }

    fn put_if_any(&self, index: u32, units: u64, tally: Tally<'_>) {
        if units != 0 {
            self.put(0, index, units, tally);
        }
    }

    /// Opens a closed word of `level`, keeps a block of it and publishes the rest.
    fn open(&self, level: usize, order: Order, tally: Tally<'_>) -> Option<u32> {
        // Looked up first, because a refuser does not count a search in which it has moved
        // something itself.
        if !self.may_open(level) {
            return None;
        }
        let above = self.level(level + 1);
        let home_above = tally.upper_home(level + 1);
        tally.begin_move();
        let opened = home_above
            .and_then(|home| above.claim_in(home, Order::UNIT))
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

    /// Closes the wholly free words below `level`, from the lowest level up, so that one close can
    /// complete another.
    fn close_what_was_left_open(&self, level: usize, tally: Tally<'_>) -> bool {
        let mut closed_any = false;
        for below in 0..level {
            for index in self.level(below).left_open() {
                closed_any |= self.close(below, index, tally);
            }
        }
        closed_any
    }

    /// The word of `level` at which this seat claims first.
    fn home(&self, level: usize, tally: Tally<'_>) -> Option<u32> {
        if level == 0 { Some(tally.cache().home()) } else { tally.upper_home(level) }
    }

    /// From now on this seat claims first in the word in which it has just found something.
    fn move_home(&self, level: usize, index: u32, tally: Tally<'_>) {
        let row = self.level(level);
        if self.home(level, tally) == Some(index) {
            return row.enter_home(index);
        }
        if level == 0 && row.is_home(index) {
            // Two caches at one word would take its units from each other.
            return;
        }
        row.enter_home(index);
        let left = if level > 0 {
            tally.swap_upper_home(level, index)
        } else {
            // If the cache cannot move, the word is left as soon as it is entered.
            Some(self.move_cache(index, tally).unwrap_or(index))
        };
        if let Some(left) = left
            && row.leave_home(left)
            && level < self.last_level()
        {
            self.close(level, left, tally);
        }
    }

    /// Brings the cache to another word of level 0, and returns the word that it leaves. Does
    /// nothing while it is being recalled.
    fn move_cache(&self, index: u32, tally: Tally<'_>) -> Option<u32> {
        let cache = tally.cache();
        let mut left = None;
        tally.begin_move();
        cache.change(|units| {
            self.put_if_any(cache.home(), units, tally);
            left = Some(cache.move_home(index));
            self.ground.take_free(index)
        });
        tally.end_move();
        if left.is_none() && cache.is_out_of_use() {
            left = Some(cache.move_home(index));
        }
        left
    }

    /// Sets bits of one word, and closes it if that makes it wholly free.
    #[inline]
    fn put(&self, level: usize, index: u32, units: u64, tally: Tally<'_>) {
        if self.level(level).release(index, units) && level < self.last_level() {
            self.close(level, index, tally);
        }
    }

    /// Releases a run that does not lie in one word: whole words one level up, what sticks out at
    /// this one.
    #[cold]
    fn release_run(&self, level: usize, span: Span, tally: Tally<'_>) {
        let (mut first, mut units) = (span.first(), span.units());
        let is_last = level == self.last_level();
        while units > 0 {
            let bit = first % WORD_UNITS;
            let here = units.min(WORD_UNITS - bit);
            if here == WORD_UNITS && !is_last {
                let words = units / WORD_UNITS;
                let above = Span::new(first / WORD_UNITS, words);
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

    /// Visits the open words of the tree below one word, children first. Wholly free children count
    /// as closed.
    ///
    /// Returns the free bits of the word.
    fn view(
        &self,
        level: usize,
        index: u32,
        cached: &[(u32, u64)],
        visit: &mut impl FnMut(usize, u64),
    ) -> u64 {
        let mut free = self.level(level).word(index).load(Acquire);
        if level == 0 {
            let here = cached.iter().filter(|(home, _)| *home == index);
            free |= here.fold(0, |sum, (_, units)| sum | units);
        } else {
            let children = self.level(level - 1).words();
            let first = index * WORD_UNITS;
            for bit in 0..WORD_UNITS.min(children - first) {
                let is_open = free >> bit & 1 == 0;
                if is_open && self.view(level - 1, first + bit, cached, visit) == ALL_FREE {
                    free |= 1 << bit;
                }
            }
        }
        visit(level, free);
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

/// The home words of all caches that are not empty, with the units that lie there.
fn cached_units(stripes: &Stripes) -> Vec<(u32, u64)> {
    stripes.caches().map(Cache::view).filter(|&(_, units)| units != 0).collect()
}

/// Levels are few.
fn level_u32(level: usize) -> u32 {
    u32::try_from(level).expect("fewer than LEVELS_MAX")
}
