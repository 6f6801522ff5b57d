//! One word of the map: 64 units, one bit each. A set bit is a free unit.
//!
//! A block of order `k` is `2^k` neighbouring bits, aligned to `2^k`. Claiming clears them in one
//! exchange, so either the whole block is yours or nothing changed. There is nothing to roll back.
//!
//! A *free block* is a block of set bits that is not part of a larger one. A claim takes the
//! smallest free block that suffices, the lowest among equals, and leaves the rest of it free.
//!
//! | Operation                 | Ordering  | Pairs with       | Carries                                        |
//! |---------------------------|-----------|------------------|------------------------------------------------|
//! | `claim`, exchange wins    | `SeqCst`  | `release`, scans | the last owner is done; what we published      |
//! | `claim`, finds no block   | `Acquire` | `claim`          | what the winners published before they won     |
//! | `release`, `complete`     | `SeqCst`  | `claim`          | we are done with the bytes                     |
//! |                           |           | `touch`          | our release has begun; the arena is orphaned   |
//! |                           |           | summaries, line  | one side of Dekker's pattern, see `level`      |
//!
//! Every write here is a read-modify-write. So a claim or release of *other* bits in between keeps
//! the chain: it continues the release sequence.

use crate::sync::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, SeqCst},
};

/// Units in one word.
pub(crate) const WORD_UNITS: u32 = u64::BITS;

/// The order of a whole word.
pub(crate) const WORD_ORDER: u32 = WORD_UNITS.ilog2();

/// A word in which every unit is free.
pub(crate) const ALL_FREE: u64 = u64::MAX;

/// `ALIGNED[k]` has the bits at which a block of order `k` may start.
const ALIGNED: [u64; WORD_ORDER as usize + 1] = [
    u64::MAX,
    0x5555_5555_5555_5555,
    0x1111_1111_1111_1111,
    0x0101_0101_0101_0101,
    0x0001_0001_0001_0001,
    0x0000_0001_0000_0001,
    1,
];

/// A block inside a word.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Block {
    /// Its first bit.
    pub(crate) first: u32,
    pub(crate) order: u32,
}

impl Block {
    pub(crate) fn bits(self) -> u64 {
        run(self.first, 1 << self.order)
    }
}

/// How the units of an arena may be joined.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Join {
    /// Slots: each free unit is a block of its own.
    Never,
    /// Buddies: two free halves are one block.
    Buddies,
}

impl Join {
    /// The largest order of a block in one word.
    #[inline]
    pub(crate) fn max_order(self) -> u32 {
        match self {
            Self::Never => 0,
            Self::Buddies => WORD_ORDER,
        }
    }
}

/// What became of a try to claim.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Claimed {
    /// The claimed block starts at this bit. It was cut from a free block of the order given.
    At(u32, u32),
    /// The smallest free block that suffices has another order than expected, or there is none.
    Other(Option<Block>),
    /// Another thread changed the word first.
    Lost,
}

/// Claims a block of `order` if the best fit is a free block whose order `is_expected`.
#[inline]
pub(crate) fn claim_expected(
    word: &AtomicU64,
    order: u32,
    is_expected: impl Fn(u32) -> bool,
    join: Join,
) -> Claimed {
    // Acquire: if nothing fits, the caller may go on to refuse, and must then see what the threads
    // that took these bits had published before.
    let free = word.load(Acquire);
    match best_fit(free, order, join) {
        Some(block) if is_expected(block.order) => {
            match take(word, free, run(block.first, 1 << order)) {
                Ok(()) => Claimed::At(block.first, block.order),
                Err(_) => Claimed::Lost,
            }
        }
        other => Claimed::Other(other),
    }
}

/// Clears `units`, which are among `free`, if the word is still `free`.
fn take(word: &AtomicU64, free: u64, units: u64) -> Result<(), u64> {
    // Acquire: pairs with `release`; what the last owner did to these bytes happens before what we
    // do. Release: whoever sees these bits taken also sees what we published before. SeqCst: the
    // rest of the block is to be marked, one side of Dekker's pattern.
    word.compare_exchange(free, free & !units, SeqCst, Acquire).map(|_| ())
}

/// Sets the bits of `units` and returns those that were set before.
///
/// # Panics
///
/// If one of them is free already: going on would give two owners the same bytes.
#[inline]
pub(crate) fn release(word: &AtomicU64, units: u64) -> u64 {
    // SeqCst: the table above. A read-modify-write, so it also reads what `touch` wrote before it.
    // The bits are clear, so a sum sets them, and that is one instruction where the old value is
    // wanted.
    let before = word.fetch_add(units, SeqCst);
    assert_eq!(before & units, 0, "units released twice");
    before
}

/// What became of a block that [`release_or_complete`] was given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Given {
    /// Its bits are set; it is a part of this free block.
    Free(Block),
    /// With its neighbours it makes up this block, which is the caller's now.
    Completed(Block),
}

/// Releases a block, unless that would complete a free block of `wanted` or more: then the caller
/// gets the whole of that instead, and is told before.
pub(crate) fn release_or_complete(
    word: &AtomicU64,
    block: Block,
    wanted: u32,
    mut before_completing: impl FnMut(),
) -> Given {
    let ours = block.bits();
    let mut free = word.load(Acquire);
    loop {
        assert_eq!(free & ours, 0, "units released twice");
        let whole = containing(free | ours, block, Join::Buddies);
        let (given, rest) = if whole.order >= wanted {
            before_completing();
            (Given::Completed(whole), free & !whole.bits())
        } else {
            (Given::Free(whole), free | ours)
        };
        // SeqCst: as `release` and `take`.
        match word.compare_exchange(free, rest, SeqCst, Acquire) {
            Ok(_) => return given,
            Err(now) => free = now,
        }
    }
}

/// Claims the word as a whole if every unit in it is free.
pub(crate) fn take_all(word: &AtomicU64) -> bool {
    // Acquire and Release as in `take`. A miss needs nothing: the word is simply not closed now.
    word.compare_exchange(ALL_FREE, 0, AcqRel, Acquire).is_ok()
}

/// Claims every free unit among `part`.
pub(crate) fn take_free(word: &AtomicU64, part: u64) -> u64 {
    // Acquire and Release as in `take`.
    word.fetch_and(!part, AcqRel) & part
}

/// Changes nothing, and forms an edge with every release of this word: one that came before is seen
/// by us, with all that preceded it; one that comes later sees all that preceded us.
pub(crate) fn touch(word: &AtomicU64) {
    word.fetch_or(0, AcqRel);
}

/// The bits of `units` neighbours from `first` on.
#[inline]
pub(crate) const fn run(first: u32, units: u32) -> u64 {
    debug_assert!(units >= 1 && first + units <= WORD_UNITS);
    (ALL_FREE >> (WORD_UNITS - units)) << first
}

/// The smallest free block of at least `order`, the lowest among equals.
#[inline]
pub(crate) fn best_fit(free: u64, order: u32, join: Join) -> Option<Block> {
    debug_assert!(order <= WORD_ORDER);
    if join == Join::Never {
        return (free != 0).then(|| Block { first: free.trailing_zeros(), order: 0 });
    }
    if free == ALL_FREE {
        return Some(Block { first: 0, order: WORD_ORDER });
    }
    let mut starts = starts(free, order);
    let mut size = 1u32 << order;
    for aligned in &ALIGNED[order as usize + 1..] {
        // A pair is a larger block. What is in none is a block of this size.
        let pairs = starts & starts >> size & aligned;
        let singles = starts ^ (pairs | pairs << size);
        if singles != 0 {
            return Some(Block { first: singles.trailing_zeros(), order: size.trailing_zeros() });
        }
        starts = pairs;
        size *= 2;
    }
    None
}

/// The free block around `block`, whose bits are set.
#[inline]
pub(crate) fn containing(free: u64, block: Block, join: Join) -> Block {
    let Block { mut first, mut order } = block;
    if join == Join::Never {
        return block;
    }
    if free == ALL_FREE {
        return Block { first: 0, order: WORD_ORDER };
    }
    let mut bits = block.bits();
    loop {
        let size = 1 << order;
        let buddy = if first & size == 0 { bits << size } else { bits >> size };
        // A whole word has no buddy here, but then all would be free.
        if free & buddy != buddy {
            return Block { first, order };
        }
        bits |= buddy;
        first &= !size;
        order += 1;
    }
}

/// The orders of all free blocks, a bit each.
#[inline]
pub(crate) fn orders(free: u64, join: Join) -> u32 {
    if free == 0 {
        return 0;
    }
    if join == Join::Never {
        return 1;
    }
    let (mut starts, mut orders) = (free, 0);
    for order in 0..WORD_ORDER {
        let pairs = starts & starts >> (1 << order) & ALIGNED[order as usize + 1];
        let singles = starts ^ (pairs | pairs << (1 << order));
        orders |= u32::from(singles != 0) << order;
        starts = pairs;
    }
    orders | u32::from(starts != 0) << WORD_ORDER
}

/// The blocks that a set of units consists of.
pub(crate) fn blocks(mut units: u64, join: Join) -> impl Iterator<Item = Block> {
    std::iter::from_fn(move || {
        if units == 0 {
            return None;
        }
        let unit = Block { first: units.trailing_zeros(), order: 0 };
        let block = containing(units, unit, join);
        units &= !block.bits();
        Some(block)
    })
}

/// The first bits of all aligned runs of `2^order` set bits.
#[inline]
fn starts(free: u64, order: u32) -> u64 {
    let mut starts = free;
    // After each step a bit is set if it and as many bits above it as the step is long are free.
    let mut size = 1u32;
    while size < 1 << order {
        starts &= starts >> size;
        size *= 2;
    }
    starts & ALIGNED[order as usize]
}

#[cfg(all(test, not(arena_loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The free blocks by the definition, bit by bit.
    fn blocks_by_trial(free: u64) -> Vec<Block> {
        let is_free = |block: Block| free & block.bits() == block.bits();
        let mut blocks = Vec::new();
        for order in (0..=WORD_ORDER).rev() {
            for first in (0..WORD_UNITS).step_by(1 << order) {
                let block = Block { first, order };
                let parent = Block { first: first & !(1 << order), order: order + 1 };
                if is_free(block) && (order == WORD_ORDER || !is_free(parent)) {
                    blocks.push(block);
                }
            }
        }
        blocks
    }

    fn best_fit_by_trial(free: u64, order: u32) -> Option<Block> {
        let fits = blocks_by_trial(free).into_iter().filter(|block| block.order >= order);
        fits.min_by_key(|block| (block.order, block.first))
    }

    fn assert_all_right(free: u64) {
        for order in 0..=WORD_ORDER {
            let expected = best_fit_by_trial(free, order);
            assert_eq!(best_fit(free, order, Join::Buddies), expected, "{free:#x} {order}");
        }
        let mut expected = blocks_by_trial(free);
        let of_orders = expected.iter().fold(0, |orders, block| orders | 1 << block.order);
        assert_eq!(orders(free, Join::Buddies), of_orders, "{free:#x}");
        expected.sort_by_key(|block| block.first);
        let found: Vec<_> = blocks(free, Join::Buddies).collect();
        assert_eq!(found, expected, "{free:#x}");
    }

    #[test]
    fn every_pattern_of_sixteen_units_is_searched_right() {
        for pattern in 0..=u64::from(u16::MAX) {
            for free in [pattern, pattern << 48, pattern << 48 | 0x0000_7fff_ffff_0000] {
                assert_all_right(free);
            }
        }
    }

    proptest! {
        #[test]
        fn every_word_is_searched_right(free: u64, holes: u64) {
            for free in [free, free | holes, free & holes, !0, !(1 << (holes % 64))] {
                assert_all_right(free);
            }
        }

        #[test]
        fn a_block_is_completed_if_it_is_wanted(free: u64, pick: usize, wanted in 0..=6u32) {
            let used: Vec<_> = blocks(!free, Join::Buddies).collect();
            prop_assume!(!used.is_empty());
            let block = used[pick % used.len()];
            let word = AtomicU64::new(free);
            let whole = containing(free | block.bits(), block, Join::Buddies);
            let given = release_or_complete(&word, block, wanted, || {});
            let now = word.load(Acquire);
            if whole.order >= wanted {
                prop_assert_eq!(given, Given::Completed(whole));
                prop_assert_eq!(now, free & !whole.bits());
            } else {
                prop_assert_eq!(given, Given::Free(whole));
                prop_assert_eq!(now, free | block.bits());
            }
        }
    }

    #[test]
    #[should_panic(expected = "released twice")]
    fn releasing_a_free_unit_is_caught() {
        release(&AtomicU64::new(0b10), 0b11);
    }
}
