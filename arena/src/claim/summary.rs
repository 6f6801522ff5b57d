//! For each order, the set of words that may have a free block of it, searched from the lowest on.
//!
//! Words come in groups of 64, and what is known of a group lies on one cache line: a bit for each
//! word, a set for each order. Where there are more groups, a second row of such lines says which
//! groups have a member. A clear bit there is a promise, kept by Dekker's pattern (see `sync`):
//!
//! ```text
//! insert                              remove
//! 1  sets the word's bit              a  clears the word's bit; the group is empty:
//! 2  is the group marked?             b  clears the group's mark
//!    no: marks it                     c  has the group a member? yes: marks it again
//! ```
//!
//! 2 sees b, or c sees 1. Between b and c the mark may be missing although there is a member: a
//! remover counts as a move (see `claim`).

use crate::{
    error::BuildError,
    sync::{AtomicU64, Ordering::SeqCst, between_write_and_read},
    zeroed::{self, CacheLine},
};

/// Words in a group, and groups under one line of marks.
const GROUP: u32 = u64::BITS;

/// The sets of one level. All accesses are `SeqCst`: see above and `level`.
#[derive(Debug)]
pub(crate) struct Summaries {
    groups: Box<[CacheLine]>,
    /// The groups that may have a member. Empty if there is one group.
    marks: Box<[CacheLine]>,
}

impl Summaries {
    /// Empty sets of up to `words` words.
    pub(crate) fn new(words: u32) -> Result<Self, BuildError> {
        let groups = words.div_ceil(GROUP);
        let marks = if groups == 1 { 0 } else { groups.div_ceil(GROUP) };
        Ok(Self { groups: zeroed::table(groups as usize)?, marks: zeroed::table(marks as usize)? })
    }

    #[inline]
    pub(crate) fn contains(&self, order: u32, word: u32) -> bool {
        self.members(order, word / GROUP).load(SeqCst) & bit(word) != 0
    }

    /// Adds a word to the set of `order`. Writes nothing if it is a member that a search finds.
    #[inline]
    pub(crate) fn insert(&self, order: u32, word: u32) {
        if !self.contains(order, word) {
            self.add(order, word);
        }
        // Also if it was a member: whoever has added it may not have come to this line yet.
        self.mark(order, word / GROUP);
    }

    /// Adds a word to the sets of all `orders`, a bit each.
    #[inline]
    pub(crate) fn insert_all(&self, mut orders: u32, word: u32) {
        while orders != 0 {
            self.insert(orders.trailing_zeros(), word);
            orders &= orders - 1;
        }
    }

    #[cold]
    fn add(&self, order: u32, word: u32) {
        self.members(order, word / GROUP).fetch_or(bit(word), SeqCst);
        between_write_and_read();
    }

    /// Takes a word out of the set of `order`. The caller has begun a move.
    pub(crate) fn remove(&self, order: u32, word: u32) {
        let group = word / GROUP;
        let members = self.members(order, group);
        let before = members.fetch_and(!bit(word), SeqCst);
        if before & !bit(word) != 0 || self.marks.is_empty() {
            return;
        }
        self.marks[(group / GROUP) as usize].word(order as usize).fetch_and(!bit(group), SeqCst);
        between_write_and_read();
        if members.load(SeqCst) != 0 {
            self.mark(order, group);
        }
    }

    /// The lowest member of the set of `order` that is not below `from`.
    #[inline]
    pub(crate) fn first_from(&self, order: u32, from: u32) -> Option<u32> {
        let mut group = from / GROUP;
        let sets = self.groups.get(group as usize)?;
        let mut members = sets.word(order as usize).load(SeqCst) & (!0 << (from % GROUP));
        while members == 0 {
            group = self.next_marked(order, group + 1)?;
            members = self.members(order, group).load(SeqCst);
        }
        Some(group * GROUP + members.trailing_zeros())
    }

    /// The lowest marked group that is not below `from`.
    fn next_marked(&self, order: u32, from: u32) -> Option<u32> {
        let mut row = from / GROUP;
        let of_row =
            |row: u32| Some(self.marks.get(row as usize)?.word(order as usize).load(SeqCst));
        let mut marked = of_row(row)? & (!0 << (from % GROUP));
        while marked == 0 {
            row += 1;
            marked = of_row(row)?;
        }
        Some(row * GROUP + marked.trailing_zeros())
    }

    #[inline]
    fn mark(&self, order: u32, group: u32) {
        if let Some(marks) = self.marks.get((group / GROUP) as usize)
            && marks.word(order as usize).load(SeqCst) & bit(group) == 0
        {
            marks.word(order as usize).fetch_or(bit(group), SeqCst);
        }
    }

    #[inline]
    fn members(&self, order: u32, group: u32) -> &AtomicU64 {
        self.groups[group as usize].word(order as usize)
    }
}

#[inline]
fn bit(index: u32) -> u64 {
    1 << (index % GROUP)
}

#[cfg(all(test, not(arena_loom)))]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::claim::word::WORD_ORDER;

    proptest! {
        #[test]
        fn it_is_searched_as_an_ordered_set(
            words in prop_oneof![1..200u32, 4000..10_000u32],
            order in 0..=WORD_ORDER,
            changes in prop::collection::vec((any::<u32>(), any::<bool>()), 0..200),
            from: u32,
        ) {
            let (summary, mut expected) = (Summaries::new(words).unwrap(), BTreeSet::new());
            for (word, is_in) in changes {
                // Close together, so that groups become empty again.
                let word = word % 300 * 37 % words;
                if is_in {
                    summary.insert(order, word);
                    expected.insert(word);
                } else {
                    summary.remove(order, word);
                    expected.remove(&word);
                }
                prop_assert_eq!(summary.contains(order, word), is_in);
            }
            // The sets of other orders are sets of their own.
            for other in (0..=WORD_ORDER).filter(|&other| other != order) {
                prop_assert_eq!(summary.first_from(other, 0), None);
            }
            for from in [0, from % words, words - 1] {
                let next = expected.range(from..).next().copied();
                prop_assert_eq!(summary.first_from(order, from), next);
            }
            prop_assert_eq!(summary.first_from(order, words), None);
        }
    }
}

#[cfg(all(test, arena_loom))]
mod models {
    use super::*;

    const ORDER: u32 = 0;

    /// A word is found by whoever has added it, also if another is in the middle of adding it.
    #[test]
    fn a_word_that_two_add_is_found_by_both() {
        loom::model(|| {
            let summary = loom::sync::Arc::new(Summaries::new(2 * GROUP + 1).unwrap());
            let add = |summary: &Summaries| {
                summary.insert(ORDER, GROUP);
                summary.first_from(ORDER, 0)
            };
            let rival = loom::thread::spawn({
                let summary = summary.clone();
                move || add(&summary)
            });
            assert_eq!(add(&summary), Some(GROUP));
            assert_eq!(rival.join().unwrap(), Some(GROUP));
        });
    }

    /// A group becomes empty and gets a member at once: the member is found.
    #[test]
    fn a_member_of_a_group_that_was_empty_is_found() {
        loom::model(|| {
            let summary = loom::sync::Arc::new(Summaries::new(2 * GROUP).unwrap());
            summary.insert(ORDER, GROUP);
            let remover = loom::thread::spawn({
                let summary = summary.clone();
                move || summary.remove(ORDER, GROUP)
            });
            summary.insert(ORDER, GROUP + 1);
            remover.join().unwrap();
            assert_eq!(summary.first_from(ORDER, 0), Some(GROUP + 1));
        });
    }
}
