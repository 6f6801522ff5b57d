//! One word of the map: 64 units, one bit each. A set bit is a free unit.
//!
//! A block of order `k` is `2^k` neighbouring bits, aligned to `2^k`. Claiming clears them in one
//! exchange, so either the whole block is yours or nothing changed. There is nothing to roll back.
//!
//! | Operation                 | Ordering  | Pairs with       | Carries                                        |
//! |---------------------------|-----------|------------------|------------------------------------------------|
//! | `claim`, exchange wins    | `AcqRel`  | `release`, scans | the last owner is done; what we published      |
//! | `claim`, finds no run     | `Acquire` | `claim`          | what the winners published before they won     |
//! | `release`                 | `SeqCst`  | `claim`          | we are done with the bytes                     |
//! |                           |           | `touch`          | our release has begun; the arena is orphaned   |
//! |                           |           | the summaries    | one side of Dekker's pattern, see `level`      |
//!
//! Every write here is a read-modify-write. So a claim or release of *other* bits in between keeps
//! the chain: it continues the release sequence.

use crate::{
    geometry::Order,
    sync::{
        AtomicU64,
        Ordering::{AcqRel, Acquire, SeqCst},
    },
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

/// What a search for a run in one word came to.
pub(crate) enum Claimed {
    /// The run that starts at this bit is ours.
    At(u32),
    /// No run is long enough; these bits are free.
    NoneAmong(u64),
}

/// Claims the lowest free block of `order`.
#[inline]
pub(crate) fn claim(word: &AtomicU64, order: Order) -> Claimed {
    // Acquire: if nothing fits, the caller may go on to refuse, and must then see what the threads
    // that took these bits had published before.
    let mut free = word.load(Acquire);
    loop {
        let Some(first) = lowest_free_run(free, order) else {
            return Claimed::NoneAmong(free);
        };
        let rest = free & !run(first, order.units());
        // Acquire: pairs with `release`; what the last owner did to these bytes happens before what
        // we do. Release: whoever sees these bits taken also sees what we published before.
        match word.compare_exchange_weak(free, rest, AcqRel, Acquire) {
            Ok(_) => return Claimed::At(first),
            Err(now) => free = now,
        }
    }
}

/// Gives back the units in `units` and returns the bits that were free before.
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

/// Claims the word as a whole if every unit in it is free.
pub(crate) fn take_all(word: &AtomicU64) -> bool {
    // Acquire and Release as in `claim`. A miss needs nothing: the word is simply not closed now.
    word.compare_exchange(ALL_FREE, 0, AcqRel, Acquire).is_ok()
}

/// Claims every unit that is free.
pub(crate) fn take_free(word: &AtomicU64) -> u64 {
    // Acquire and Release as in `claim`.
    word.swap(0, AcqRel)
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

/// The order of the largest aligned run of set bits.
pub(crate) fn largest_free_order(free: u64) -> Option<Order> {
    (0..=WORD_ORDER).rev().map(Order::new).find(|&order| lowest_free_run(free, order).is_some())
}

/// The first bit of the lowest aligned run of `2^order` set bits.
#[inline]
pub(crate) fn lowest_free_run(free: u64, order: Order) -> Option<u32> {
    debug_assert!(order.get() <= WORD_ORDER);
    let mut starts = free;
    // After step k a bit is set if it and the 2^(k+1) - 1 bits above it are free.
    for step in 0..order.get() {
        starts &= starts >> (1 << step);
    }
    starts &= ALIGNED[order.get() as usize];
    if starts == 0 { None } else { Some(starts.trailing_zeros()) }
}

#[cfg(all(test, not(arena_loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, bit by bit.
    fn lowest_free_run_by_trial(free: u64, order: Order) -> Option<u32> {
        (0..WORD_UNITS)
            .step_by(order.units() as usize)
            .find(|&first| (first..first + order.units()).all(|bit| free >> bit & 1 == 1))
    }

    #[test]
    fn every_pattern_of_sixteen_units_is_searched_right() {
        for pattern in 0..=u64::from(u16::MAX) {
            for order in (0..=WORD_ORDER).map(Order::new) {
                for free in [pattern, pattern << 48, pattern << 48 | 0x0000_7fff_ffff_0000] {
                    assert_eq!(
                        lowest_free_run(free, order),
                        lowest_free_run_by_trial(free, order),
                        "{free:#x} {order:?}"
                    );
                }
            }
        }
    }

    proptest! {
        #[test]
        fn every_word_is_searched_right(free: u64, holes: u64, order in 0..=WORD_ORDER) {
            let order = Order::new(order);
            for free in [free, free | holes, free & holes, !0, !(1 << (holes % 64))] {
                let expected = lowest_free_run_by_trial(free, order);
                prop_assert_eq!(lowest_free_run(free, order), expected);
            }
        }
    }

    #[test]
    #[should_panic(expected = "released twice")]
    fn releasing_a_free_unit_is_caught() {
        release(&AtomicU64::new(0b10), 0b11);
    }
}
