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
//! A fixed arena has level 0 alone, and its units are never joined.
//!
//! # Placement
//!
//! A claim takes the smallest free block that suffices, the lowest among equals; a fresh word is
//! opened only if no open word has a block. Two things depart from that, for speed: a thread claims
//! first in its *cache* (see `cache`), which holds a part of one word, and without a cache in its
//! *home*, the word where it has found the last block. Both are chosen by the best fit.
//!
//! # Rules
//!
//! 1. **A refusal is true.** See [`Map::refuse_or_claim`].
//! 2. **Nothing is lost.** A word that is wholly free and open is some thread's home and in the
//!    summary of such words, or its close is under way.
//! 3. **No read-modify-write** claims or releases in a thread's cache; one does in a word of the
//!    map, if no word is opened or closed.
//! 4. **Nobody waits** for another thread but a refuser, and that not longer than
//!    [`PATIENCE`].
//!
//! Orderings are in `word`, `level`, `line` and `stripe`, next to the accesses.

#![forbid(unsafe_code)]

mod cache;
mod level;
mod line;
mod summary;
mod word;

use std::time::{Duration, Instant};

#[cfg(feature = "async-alloc")]
pub(crate) use self::line::FRONT;
pub(crate) use self::{
    cache::Cache,
    line::{Duty, Line, ORPHANED},
    word::{Join, WORD_UNITS},
};

use crate::{
    barrier,
    claim::{
        level::Level,
        word::{ALL_FREE, Block, Given, WORD_ORDER},
    },
    error::BuildError,
    geometry::{Order, Span},
    stripe::{Home, LEVELS_MAX, Stripes, Tally},
    sync::{
        AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, SeqCst},
        fence, wait_a_moment,
    },
    thread::SEATS,
    zeroed,
};

/// How long a refuser waits for threads that are in the middle of moving units. Moves take
/// nanoseconds; whoever takes longer was stopped, and what it moves counts as in use.
pub(crate) const PATIENCE: Duration = Duration::from_millis(100);

/// Rounds of a refuser in the line before it looks at the clock.
const ROUNDS_UNTIMED: u32 = if cfg!(all(test, arena_loom)) { u32::MAX } else { 64 };

/// Searches outside of the line. One may bring back what lay in caches, and one may be disturbed by
/// its own corrections.
const UNDISTURBED_TRIES: u32 = if cfg!(all(test, arena_loom)) { 1 } else { 3 };

/// The share of an arena that may lie in caches: one unit in so many.
const CACHED_SHARE: u32 = if cfg!(all(test, arena_loom)) { 1 } else { 16 };

/// The free units of one arena.
#[derive(Debug)]
pub(crate) struct Map {
    /// Level 0, which most claims and releases touch alone.
    ground: Level,
    join: Join,
    /// The levels above.
    upper: Box<[Level]>,
    pub(crate) line: Line,
    /// Units that may still be taken into caches.
    spare_units: AtomicU32,
    /// The seats whose caches are open, a bit each.
    open_caches: Box<[AtomicU64]>,
    has_caches: bool,
}

impl Map {
    /// A map of single units, all free.
    pub(crate) fn of_slots(units: u32, has_caches: bool) -> Result<Self, BuildError> {
        let words = units.div_ceil(WORD_UNITS);
        let map = Self::new(units, vec![Level::new(0, words, Join::Never)?], has_caches)?;
        for index in 0..words {
            let here = (units - index * WORD_UNITS).min(WORD_UNITS);
            map.ground.release_units(index, word::run(0, here));
        }
        Ok(map)
    }

    /// A map of `units` units, a power of two, of which the first `free` are free: all of them, or
    /// all but a block at the end that is in use for ever.
    pub(crate) fn of_blocks(units: u32, free: u32, has_caches: bool) -> Result<Self, BuildError> {
        debug_assert!(units.is_power_of_two());
        debug_assert!(free == units || (units - free).is_power_of_two() && units - free < units);
        let mut units_above = units;
        let mut levels = Vec::with_capacity(LEVELS_MAX);
        while levels.is_empty() || units_above > 1 {
            let words = units_above.div_ceil(WORD_UNITS);
            levels.push(Level::new(levels.len(), words, Join::Buddies)?);
            units_above = words;
        }
        let map = Self::new(free, levels, has_caches)?;
        // Each set bit of `free` is one block, the largest first.
        let mut first = 0;
        for order in (0..u32::BITS).rev().filter(|order| free >> order & 1 == 1) {
            let (level, index, block) = map.place(first, order);
            map.level(level).release(index, block);
            first += 1 << order;
        }
        Ok(map)
    }

    fn new(units: u32, mut levels: Vec<Level>, has_caches: bool) -> Result<Self, BuildError> {
        let ground = levels.remove(0);
        let join = ground.join();
        Ok(Self {
            ground,
            join,
            upper: levels.into(),
            line: Line::new(has_caches),
            spare_units: AtomicU32::new(units / CACHED_SHARE),
            open_caches: zeroed::table(SEATS.div_ceil(64))?,
            has_caches,
        })
    }

    /// Claims a block of `order` from the thread's cache and returns its first unit.
    #[inline]
    pub(crate) fn claim_cached(&self, order: Order, tally: Tally<'_>) -> Option<u32> {
        if order.get() < WORD_ORDER && tally.is_owned() {
            tally.cache().claim(order, self.join, &self.line)
        } else {
            None
        }
    }

    /// Claims a block of `order` from the map, and returns its first unit. Lock-free. It may miss
    /// what is published meanwhile, what is out of sight during a move, and what lies in caches of
    /// others.
    #[inline(never)]
    pub(crate) fn claim_beyond_cache(&self, order: Order, tally: Tally<'_>) -> Option<u32> {
        let (level, in_word) = self.level_of(order);
        let moves = tally.moves();
        let first = if level == 0 && tally.is_owned() {
            self.leave_cache_if_shut(tally);
            let refilled = self.refill(tally);
            refilled.then(|| self.claim_cached(order, tally)).flatten().or_else(|| {
                let first = self.claim_at(0, in_word, tally)?;
                self.move_cache(first, in_word, tally);
                Some(first)
            })
        } else {
            let first = self.claim_at(level, in_word, tally);
            first.map(|first| first << (WORD_ORDER * level_u32(level)))
        };
        // Those in the line may have missed what was moved, and met the owner inside its cache.
        if tally.moves() != moves && self.line.is_in_use() {
            self.leave_cache_if_shut(tally);
            self.serve_line(tally);
        }
        first
    }

    /// Releases a run of units into the thread's cache, if they belong there. The caller has an
    /// owned seat and has entered its cache.
    #[inline(always)]
    pub(crate) fn release_cached(&self, span: Span, tally: Tally<'_>) -> bool {
        tally.cache().release(span, &self.line)
    }

    /// Releases a run of units into the map. The release is under way. True if it was given to
    /// those who stand in the line, as far as it serves them.
    #[inline(always)]
    pub(crate) fn release(&self, span: Span, tally: Tally<'_>) -> bool {
        if self.line.is_in_use() {
            // Whoever shut the caches may have met the owner inside.
            self.leave_cache_if_shut(tally);
            self.give(span, tally);
            return true;
        }
        match span.as_block() {
            Some(order) => {
                let (level, index, block) = self.place(span.first(), order);
                self.put(level, index, block, tally);
            }
            None => self.put_run(0, span, tally),
        }
        false
    }

    /// Forms an edge with every release into the map: those that came before are seen by us with
    /// all that preceded them, and those that come later see all that preceded us.
    pub(crate) fn touch_every_word(&self) {
        for level in (0..self.levels()).map(|level| self.level(level)) {
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
                let here = word::orders(free, Join::Buddies)
                    .checked_ilog2()
                    .map(|order| Order::new(order + WORD_ORDER * level_u32(level)));
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
}

/// Refusals.
impl Map {
    /// Claims a block of `order`, or finds out that there was none.
    ///
    /// # Why a refusal is true
    ///
    /// A search that found nothing says little if others freed memory meanwhile: it looks at word
    /// A, another thread frees in A and claims the last of B, and then B is full too. So there are
    /// two tries:
    ///
    /// - *Undisturbed.* No release ended and no move was under way during the search: then what was
    ///   missing at its end was missing at one moment. This is the usual case, and costs a look at
    ///   the summaries.
    /// - *In the line.* From when the refuser stands in the line, no release ends whose block would
    ///   serve it, but by serving it (see `line`): a block that is released, or completed by a
    ///   release, is handed over before anybody else can see it. A release that has not returned
    ///   may still be said to have its block in use. So during the search the free blocks become
    ///   fewer, and what is missed was missing at its end. Only moves can hide a block: the search
    ///   is repeated until none was under way. Every move ends with a release of what was moved,
    ///   and that serves the line.
    ///
    /// Whoever is stopped during a move or inside its cache has its units in its hands, and they
    /// count as in use once [`PATIENCE`] is over. As long as nothing changes, the next refuser does
    /// not wait for them again.
    #[cold]
    pub(crate) fn refuse_or_claim(
        &self,
        order: Order,
        stripes: &Stripes,
        tally: Tally<'_>,
    ) -> Option<u32> {
        let (level, _) = self.level_of(order);
        for _ in 0..UNDISTURBED_TRIES {
            let over = stripes.publications_over(level);
            if let Some(first) = self.claim_beyond_cache(order, tally) {
                return Some(first);
            }
            if self.has_open_caches() && barrier::is_available() {
                let is_safe = self.shut_caches();
                self.recall(is_safe, stripes, tally);
                self.open_caches_if(is_safe);
            } else if stripes.publications_begun(level) == over {
                return None;
            }
        }
        self.claim_in_line(order, stripes, tally)
    }

    /// The second try.
    fn claim_in_line(&self, order: Order, stripes: &Stripes, tally: Tally<'_>) -> Option<u32> {
        let (level, _) = self.level_of(order);
        let (mut round, mut entry, mut since) = (0, self.line.join(order.get()), None);
        let is_safe = self.shut_caches();
        let found = loop {
            let over = stripes.moves_over(level);
            let is_complete = self.recall(is_safe, stripes, tally);
            if self.may_have(order) {
                // Out of the line, so that nobody serves whoever has found something: it would have
                // a block too many.
                let served = entry.and_then(|entry| self.line.withdraw(entry));
                let served = served.map(|(first, _)| first);
                let found = served.or_else(|| self.claim_beyond_cache(order, tally));
                if found.is_some() {
                    break found;
                }
                if let Some(entry) = entry {
                    self.line.want(entry, order.get());
                }
            } else if let Some(entry) = entry {
                let is_disturbed = !is_complete || stripes.moves_begun(level) != over;
                if self.line.is_served(entry) || !is_disturbed {
                    break None;
                }
            }
            if round >= ROUNDS_UNTIMED
                && since.get_or_insert_with(Instant::now).elapsed() > PATIENCE
            {
                stripes.excuse_all();
                break None;
            }
            wait_a_moment(round);
            round += 1;
            if entry.is_none() {
                entry = self.line.join(order.get());
                self.order_all();
            }
        };
        let served = entry.and_then(|entry| self.line.leave(entry));
        self.open_caches_if(is_safe);
        found.or(served.map(|(first, _)| first))
    }

    /// Shuts the caches. Returns whether their owners keep out from now on: if not, the kernel has
    /// refused a barrier, and each owner brings back its own units when it comes by.
    pub(crate) fn shut_caches(&self) -> bool {
        self.line.shut();
        self.order_all()
    }

    /// Orders what the caller has written before what it reads next, for those who free memory as
    /// well.
    fn order_all(&self) -> bool {
        if self.has_caches {
            return barrier::heavy();
        }
        // Whatever frees memory changes a word of the map, which is a barrier as well.
        fence(SeqCst);
        true
    }

    /// Takes a [`shut_caches`](Self::shut_caches) back, unless the caches cannot be recalled any
    /// more.
    pub(crate) fn open_caches_if(&self, is_safe: bool) {
        if !is_safe {
            self.line.shut_for_good();
        }
        self.line.open();
    }

    /// Puts what is in all caches back into the map. The caller has shut them, and had a barrier.
    /// False if an owner is inside of one. If they cannot be shut, their units count as in use.
    pub(crate) fn recall(&self, is_safe: bool, stripes: &Stripes, tally: Tally<'_>) -> bool {
        let mut is_complete = true;
        for (row, open) in self.open_caches.iter().enumerate() {
            let mut seats = open.load(SeqCst);
            while seats != 0 && is_safe {
                let seat = row * 64 + seats.trailing_zeros() as usize;
                seats &= seats - 1;
                let cache = stripes.cache(seat);
                if cache.has_owner_inside() {
                    is_complete &= stripes.is_excused(seat);
                } else {
                    self.empty(cache, seat, tally);
                }
            }
        }
        is_complete
    }

    fn has_open_caches(&self) -> bool {
        self.open_caches.iter().any(|open| open.load(SeqCst) != 0)
    }
}

/// Caches.
impl Map {
    /// Empties and closes the own cache if the caches are shut. The caller is the owner.
    pub(crate) fn leave_cache_if_shut(&self, tally: Tally<'_>) {
        if tally.is_owned() && tally.cache().home().is_some() && self.line.is_shut() {
            self.empty(tally.cache(), tally.seat(), tally);
        }
    }

    /// Brings what is in a cache back to the map and closes it. The caller is the owner, or keeps
    /// the owner out.
    #[cold]
    fn empty(&self, cache: &Cache, seat: usize, tally: Tally<'_>) {
        tally.begin_move(tally.top_level());
        if let Some((home, units)) = cache.take_all() {
            let part = cache.part();
            // Of all who empty it at once, one closes it.
            let open = 1 << (seat % 64);
            if self.open_caches[seat / 64].fetch_and(!open, SeqCst) & open != 0 {
                cache.close();
                self.spare_units.fetch_add(part.count_ones(), Relaxed);
            }
            self.give_units(home, units, tally);
        }
        tally.end_move(tally.top_level());
    }

    /// Fetches what others have freed of the cache's part. False if there is nothing.
    fn refill(&self, tally: Tally<'_>) -> bool {
        let cache = tally.cache();
        let is_there_any = |home| self.ground.word(home).load(Acquire) & cache.part() != 0;
        if !cache.home().is_some_and(is_there_any) {
            return false;
        }
        tally.begin_move(0);
        let fetched = cache.inside(&self.line, |cache| {
            // Looked at again: it may have been closed before the owner was inside.
            let units = cache.home().map_or(0, |home| self.ground.take_free(home, cache.part()));
            cache.add(units);
            units != 0
        });
        tally.end_move(0);
        self.leave_cache_if_shut(tally);
        fetched == Some(true)
    }

    /// Brings the cache to the word in which a block was just claimed.
    fn move_cache(&self, first: u32, order: u32, tally: Tally<'_>) {
        let cache = tally.cache();
        let (word, bit) = (first / WORD_UNITS, first % WORD_UNITS);
        if !cache.has_rested() || self.line.is_shut() || cache.home() == Some(word) {
            return;
        }
        // The part of so many units around the block.
        let part_of = |size: u32| word::run(bit & !(size - 1), size);
        // An open cache stays where it has more than it would find there.
        if cache.home().is_some() {
            let part = part_of(cache.part().count_ones());
            let free = self.ground.word(word).load(Relaxed) & part;
            if free.count_ones() <= cache.units().count_ones() {
                return;
            }
        }
        // An open cache keeps its size.
        let spare = if cache.home().is_none() { self.take_spare_units() } else { 0 };
        let (mut is_spare_used, mut left) = (false, None);
        tally.begin_move(tally.top_level());
        cache.inside(&self.line, |cache| {
            // Looked at again: it may have been closed before the owner was inside.
            let is_closed = cache.home().is_none();
            let size = if is_closed { spare } else { cache.part().count_ones() };
            if size < 1 << order {
                return;
            }
            if is_closed {
                is_spare_used = true;
                let seat = tally.seat();
                self.open_caches[seat / 64].fetch_or(1 << (seat % 64), SeqCst);
            }
            let part = part_of(size);
            left = cache.enter_home(word, part, self.ground.take_free(word, part));
        });
        if spare > 0 && !is_spare_used {
            self.spare_units.fetch_add(spare, Relaxed);
        }
        if let Some((old, units)) = left {
            self.give_units(old, units, tally);
        }
        tally.end_move(tally.top_level());
        self.leave_cache_if_shut(tally);
    }

    /// Sets aside half of the units that may still lie in caches, a power of two, a word at most.
    fn take_spare_units(&self) -> u32 {
        let mut spare = self.spare_units.load(Relaxed);
        loop {
            let size = match spare {
                0 => return 0,
                1 => 1,
                _ => (1 << (spare / 2).ilog2()).min(WORD_UNITS),
            };
            match self.spare_units.compare_exchange_weak(spare, spare - size, Relaxed, Relaxed) {
                Ok(_) => return size,
                Err(now) => spare = now,
            }
        }
    }
}

/// Claims and releases in the map.
impl Map {
    /// Claims a block of a word of `level`: at home, from the best fit, or by opening a word.
    fn claim_at(&self, level: usize, order: u32, tally: Tally<'_>) -> Option<u32> {
        let row = self.level(level);
        let home = tally.home(level);
        if let Some(first) = home.and_then(|home| row.claim_at_home(home, order)) {
            return Some(first);
        }
        let found = row.claim(order, tally).or_else(|| self.open(level, order, tally));
        let (first, home) = found.or_else(|| {
            // What was left open may be what is missing.
            self.close_what_was_left_open(level, tally).then_some(())?;
            row.claim(order, tally).or_else(|| self.open(level, order, tally))
        })?;
        tally.set_home(level, home);
        Some(first)
    }

    /// Opens a closed word of `level`, keeps a block of it and publishes the rest.
    fn open(&self, level: usize, order: u32, tally: Tally<'_>) -> Option<(u32, Home)> {
        let above = level + 1;
        // Looked up first, because a refuser does not count a search in which it has moved
        // something itself.
        if self.has_none(above, 0) {
            return None;
        }
        tally.begin_move(level);
        let row = self.level(above);
        let opened =
            row.claim(0, tally).or_else(|| self.open(above, 0, tally)).map(|(index, _)| {
                let rest = ALL_FREE & !word::run(0, 1 << order);
                if rest != 0 {
                    let is_whole = self.level(level).release_units(index, rest);
                    debug_assert!(!is_whole, "a part of the word is ours");
                }
                tally.count_split();
                (index * WORD_UNITS, Home { word: index, order, cut: WORD_ORDER })
            });
        tally.end_move(level);
        opened
    }

    /// Whether no word of `level` can have a free block of `order` or more, and none above any.
    fn has_none(&self, level: usize, order: u32) -> bool {
        let orders = std::iter::once(order).chain(std::iter::repeat(0));
        (level..=self.last_level())
            .zip(orders)
            .all(|(level, order)| self.level(level).has_none(order))
    }

    /// Closes a word of `level` if it is wholly free.
    #[inline(never)]
    fn close(&self, level: usize, index: u32, tally: Tally<'_>) -> bool {
        tally.begin_move(level);
        let was_free = self.level(level).take_all(index);
        if was_free {
            tally.count_coalesce();
            let unit = Block { first: index % WORD_UNITS, order: 0 };
            self.put(level + 1, index / WORD_UNITS, unit, tally);
        }
        tally.end_move(level);
        was_free
    }

    /// Closes the wholly free words below `level`, from the lowest level up, so that one close can
    /// complete another.
    fn close_what_was_left_open(&self, level: usize, tally: Tally<'_>) -> bool {
        let mut closed_any = false;
        for below in 0..level {
            let mut from = 0;
            while let Some(index) = self.level(below).first_left_open(from) {
                // It is out of sight for all who look for a block of its size or more.
                tally.begin_move(tally.top_level());
                closed_any |= self.close(below, index, tally);
                tally.end_move(tally.top_level());
                self.level(below).correct(WORD_ORDER, index, tally);
                from = index + 1;
            }
        }
        closed_any
    }

    /// Whether there may be a free block of `order` in the map.
    fn may_have(&self, order: Order) -> bool {
        let (level, in_word) = self.level_of(order);
        !self.has_none(level, in_word) || !self.has_none_left_open(level)
    }

    fn has_none_left_open(&self, level: usize) -> bool {
        (0..level).all(|below| self.level(below).first_left_open(0).is_none())
    }

    /// Gives a block back, and closes its word if that is wholly free now.
    #[inline]
    fn put(&self, level: usize, index: u32, block: Block, tally: Tally<'_>) {
        if self.level(level).release(index, block) && !self.may_stay_open(level, index, tally) {
            self.close(level, index, tally);
        }
    }

    /// As [`put`](Self::put), for units that may be several blocks.
    fn put_units(&self, level: usize, index: u32, units: u64, tally: Tally<'_>) {
        if self.level(level).release_units(index, units) && !self.may_stay_open(level, index, tally)
        {
            self.close(level, index, tally);
        }
    }

    /// Whether a word that is wholly free is left open: one that its thread will claim in next, or
    /// one of the last level.
    #[inline]
    fn may_stay_open(&self, level: usize, index: u32, tally: Tally<'_>) -> bool {
        level == self.last_level() || tally.home(level).is_some_and(|home| home.word == index)
    }

    /// Releases a run that does not lie in one word: whole words one level up, what sticks out at
    /// this one.
    #[cold]
    fn put_run(&self, level: usize, span: Span, tally: Tally<'_>) {
        let (mut first, mut units) = (span.first(), span.units());
        let is_last = level == self.last_level();
        while units > 0 {
            let bit = first % WORD_UNITS;
            let here = units.min(WORD_UNITS - bit);
            if here == WORD_UNITS && !is_last {
                let words = units / WORD_UNITS;
                let above = Span::new(first / WORD_UNITS, words);
                self.put_run(level + 1, above, tally);
                first += words * WORD_UNITS;
                units -= words * WORD_UNITS;
            } else {
                self.put_units(level, first / WORD_UNITS, word::run(bit, here), tally);
                first += here;
                units -= here;
            }
        }
    }
}

/// Releases while somebody stands in the line.
impl Map {
    /// Gives units of one word of level 0 to those in the line, or to the map.
    fn give_units(&self, index: u32, units: u64, tally: Tally<'_>) {
        if units == 0 {
            return;
        }
        if !self.line.is_in_use() {
            self.put_units(0, index, units, tally);
            if self.line.is_in_use() {
                self.serve_line(tally);
            }
            return;
        }
        for block in word::blocks(units, self.join) {
            self.give_block(index * WORD_UNITS + block.first, block.order, tally);
        }
    }

    /// Gives a run of units to those in the line, or to the map.
    #[cold]
    fn give(&self, span: Span, tally: Tally<'_>) {
        let (mut first, mut units) = (span.first(), span.units());
        while units > 0 {
            let order = first.trailing_zeros().min(units.ilog2());
            let order = if self.join == Join::Never { 0 } else { order };
            self.give_block(first, order, tally);
            first += 1 << order;
            units -= 1 << order;
        }
    }

    /// Gives a block to the first in the line whom it suffices for, or to the map: as a part of a
    /// larger block, if it completes one that somebody waits for.
    fn give_block(&self, mut first: u32, mut order: u32, tally: Tally<'_>) {
        // The levels at which something was taken that was free, a bit each.
        let mut moved: u32 = 0;
        loop {
            if let Some(taken) = self.line.offer(first, order) {
                for order in taken..order {
                    self.give_block(first + (1 << order), order, tally);
                }
                break;
            }
            let (level, index, block) = self.place(first, order);
            let row = self.level(level);
            let scale = WORD_ORDER * level_u32(level);
            let given = if self.join == Join::Never {
                row.release(index, block);
                Given::Free(block)
            } else {
                // A whole word is always completed: it belongs one level up.
                let whole = if level < self.last_level() { WORD_ORDER } else { WORD_ORDER + 1 };
                let wanted = self.line.smallest_wanted();
                let wanted = wanted.map_or(whole, |order| order.saturating_sub(scale).min(whole));
                row.release_or_complete(index, block, wanted.max(block.order + 1), || {
                    // What it completes is out of sight until it is in the map again.
                    if moved >> level & 1 == 0 {
                        tally.begin_move(level);
                        moved |= 1 << level;
                    }
                })
            };
            match given {
                Given::Free(whole) => {
                    let order = whole.order + scale;
                    if self.line.wanted().any(|(_, wanted)| wanted <= order) {
                        self.serve_line(tally);
                    }
                    break;
                }
                Given::Completed(whole) => {
                    first = (index * WORD_UNITS + whole.first) << scale;
                    order = whole.order + scale;
                    tally.count_coalesce();
                }
            }
        }
        for level in (0..=self.last_level()).filter(|level| moved >> level & 1 == 1) {
            tally.end_move(level);
        }
    }

    /// Searches for those in the line. Called after something was made free, or was moved, by
    /// whoever did not see them before.
    #[cold]
    pub(crate) fn serve_line(&self, tally: Tally<'_>) {
        loop {
            let mut moves = tally.moves();
            for (entry, order) in self.line.wanted() {
                let (level, in_word) = self.level_of(Order::new(order));
                if !self.may_have(Order::new(order)) {
                    continue;
                }
                // What is claimed is out of sight until somebody has it.
                tally.begin_move(tally.top_level());
                moves = moves.wrapping_add(1);
                if let Some(first) = self.claim_at(level, in_word, tally) {
                    let first = first << (WORD_ORDER * level_u32(level));
                    if !self.line.serve(entry, first, order) {
                        self.give_block(first, order, tally);
                    }
                }
                tally.end_move(tally.top_level());
            }
            // What was moved meanwhile, another search may have missed.
            if tally.moves() == moves {
                break;
            }
        }
    }
}

/// Where units are.
impl Map {
    /// The level at which a block is claimed, and its order there.
    fn level_of(&self, order: Order) -> (usize, u32) {
        let level = (order.get() / WORD_ORDER).min(level_u32(self.last_level()));
        (level as usize, order.get() - WORD_ORDER * level)
    }

    /// The level, the word and the bits of a block.
    fn place(&self, first: u32, order: u32) -> (usize, u32, Block) {
        let (level, order) = self.level_of(Order::new(order));
        let first = first >> (WORD_ORDER * level_u32(level));
        (level, first / WORD_UNITS, Block { first: first % WORD_UNITS, order })
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

    /// The number of levels.
    pub(crate) fn levels(&self) -> usize {
        self.upper.len() + 1
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

/// The home words of all caches that are open, with the units that lie there.
fn cached_units(stripes: &Stripes) -> Vec<(u32, u64)> {
    stripes.caches().filter_map(Cache::view).collect()
}

/// Levels are few.
fn level_u32(level: usize) -> u32 {
    u32::try_from(level).expect("fewer than LEVELS_MAX")
}

#[cfg(all(test, arena_loom))]
impl Map {
    /// A refusal whose first try was disturbed.
    pub(crate) fn claim_in_line_at_once(
        &self,
        order: Order,
        stripes: &Stripes,
        tally: Tally<'_>,
    ) -> Option<u32> {
        self.claim_in_line(order, stripes, tally)
    }

    /// The units that may still lie in caches, and those that do or may.
    pub(crate) fn shares(&self, stripes: &Stripes) -> (u32, u32) {
        let open = stripes.caches().filter(|cache| cache.home().is_some());
        (self.spare_units.load(Relaxed), open.map(|cache| cache.part().count_ones()).sum())
    }
}
