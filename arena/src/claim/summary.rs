//! A set of words, one bit each, that is searched from the lowest on.
//!
//! Where the set is large, a second row of bits says which groups of 64 words have a member. A
//! clear bit there is a promise, kept by Dekker's pattern (see `sync`):
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
    zeroed,
};

/// Words in a group, and groups under one word of marks.
const GROUP: u32 = u64::BITS;

/// The set. All accesses are `SeqCst`: see above and `level`.
#[derive(Debug)]
pub(crate) struct Summary {
    groups: Box<[AtomicU64]>,
    /// A bit for each group that may have a member. Empty if there is one group.
    marks: Box<[AtomicU64]>,
}

impl Summary {
    /// An empty set of up to `words` words.
    pub(crate) fn new(words: u32) -> Result<Self, BuildError> {
        let groups = words.div_ceil(GROUP);
        let marks = if groups == 1 { 0 } else { groups.div_ceil(GROUP) };
        Ok(Self { groups: zeroed::table(groups as usize)?, marks: zeroed::table(marks as usize)? })
    }

    #[inline]
    pub(crate) fn contains(&self, word: u32) -> bool {
        self.group(word / GROUP).load(SeqCst) & bit(word) != 0
    }

    /// Adds a word. Writes nothing if it is a member that a search finds.
    #[inline]
    pub(crate) fn insert(&self, word: u32) {
        if !self.contains(word) {
            self.add(word);
        }
        // Also if it was a member: whoever has added it may not have come to this line yet.
        self.mark(word / GROUP);
    }

    #[cold]
    fn add(&self, word: u32) {
        self.group(word / GROUP).fetch_or(bit(word), SeqCst);
        between_write_and_read();
    }

    /// Takes a word out. The caller has begun a move.
    pub(crate) fn remove(&self, word: u32) {
        let group = word / GROUP;
        let before = self.group(group).fetch_and(!bit(word), SeqCst);
        if before & !bit(word) != 0 || self.marks.is_empty() {
            return;
        }
        self.marks[(group / GROUP) as usize].fetch_and(!bit(group), SeqCst);
        between_write_and_read();
        if self.group(group).load(SeqCst) != 0 {
            self.mark(group);
        }
    }

    /// The lowest member that is not below `from`.
    #[inline]
    pub(crate) fn first_from(&self, from: u32) -> Option<u32> {
        let mut group = from / GROUP;
        if group as usize >= self.groups.len() {
            return None;
        }
        let mut members = self.group(group).load(SeqCst) & (!0 << (from % GROUP));
        while members == 0 {
            group = self.next_marked(group + 1)?;
            members = self.group(group).load(SeqCst);
        }
        Some(group * GROUP + members.trailing_zeros())
    }

    /// The lowest marked group that is not below `from`.
    fn next_marked(&self, from: u32) -> Option<u32> {
        let mut row = from / GROUP;
        let mut marked = self.marks.get(row as usize)?.load(SeqCst) & (!0 << (from % GROUP));
        while marked == 0 {
            row += 1;
            marked = self.marks.get(row as usize)?.load(SeqCst);
        }
        Some(row * GROUP + marked.trailing_zeros())
    }

    #[inline]
    fn mark(&self, group: u32) {
        if let Some(marks) = self.marks.get((group / GROUP) as usize)
            && marks.load(SeqCst) & bit(group) == 0
        {
            marks.fetch_or(bit(group), SeqCst);
        }
    }

    #[inline]
    fn group(&self, group: u32) -> &AtomicU64 {
        &self.groups[group as usize]
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

    proptest! {
        #[test]
        fn it_is_searched_as_an_ordered_set(
            words in prop_oneof![1..200u32, 4000..10_000u32],
            changes in prop::collection::vec((any::<u32>(), any::<bool>()), 0..200),
            from: u32,
        ) {
            let (summary, mut expected) = (Summary::new(words).unwrap(), BTreeSet::new());
            for (word, is_in) in changes {
                // Close together, so that groups become empty again.
                let word = word % 300 * 37 % words;
                if is_in {
                    summary.insert(word);
                    expected.insert(word);
                } else {
                    summary.remove(word);
                    expected.remove(&word);
                }
                prop_assert_eq!(summary.contains(word), is_in);
            }
            for from in [0, from % words, words - 1] {
                prop_assert_eq!(summary.first_from(from), expected.range(from..).next().copied());
            }
            prop_assert_eq!(summary.first_from(words), None);
        }
    }
}

#[cfg(all(test, arena_loom))]
mod models {
    use super::*;

    /// A word is found by whoever has added it, also if another is in the middle of adding it.
    #[test]
    fn a_word_that_two_add_is_found_by_both() {
        loom::model(|| {
            let summary = loom::sync::Arc::new(Summary::new(2 * GROUP + 1).unwrap());
            let add = |summary: &Summary| {
                summary.insert(GROUP);
                summary.first_from(0)
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
            let summary = loom::sync::Arc::new(Summary::new(2 * GROUP).unwrap());
            summary.insert(GROUP);
            let remover = loom::thread::spawn({
                let summary = summary.clone();
                move || summary.remove(GROUP)
            });
            summary.insert(GROUP + 1);
            remover.join().unwrap();
            assert_eq!(summary.first_from(0), Some(GROUP + 1));
        });
    }
}
