//! A best-fit buddy allocator that knows everything: what placement is measured against.

use std::{collections::BTreeSet, iter};

use super::trace::{Allocator, MIN_BLOCK_BYTES};

/// The free blocks of each order, by address.
///
/// A request takes the smallest block that is large enough, and of those the one with the lowest
/// address. A block that comes back merges with its buddy at once.
pub(crate) struct Reference {
    free: Vec<BTreeSet<usize>>,
}

/// A block in use.
pub(crate) struct Block {
    first: usize,
    order: usize,
}

impl Reference {
    /// A reference of `units` units, covered by as few blocks as possible.
    pub(crate) fn of_units(units: usize) -> Self {
        let orders = units.ilog2() as usize + 1;
        let mut reference = Self { free: iter::repeat_with(BTreeSet::new).take(orders).collect() };
        let mut first = 0;
        for order in (0..orders).rev().filter(|order| units >> order & 1 == 1) {
            reference.free(Block { first, order });
            first += 1 << order;
        }
        reference
    }
}

impl Allocator for Reference {
    type Block = Block;

    fn allocate(&mut self, bytes: usize) -> Option<Block> {
        let order = bytes.div_ceil(MIN_BLOCK_BYTES).next_power_of_two().ilog2() as usize;
        let found = (order..self.free.len()).find(|&order| !self.free[order].is_empty())?;
        let first = self.free[found].pop_first()?;
        for half in order..found {
            self.free[half].insert(first + (1 << half));
        }
        Some(Block { first, order })
    }

    fn free(&mut self, Block { mut first, mut order }: Block) {
        while self.free[order].remove(&(first ^ 1 << order)) {
            first &= !(1 << order);
            order += 1;
        }
        self.free[order].insert(first);
    }

    fn largest_free_block(&self) -> usize {
        let largest = self.free.iter().rposition(|blocks| !blocks.is_empty());
        largest.map_or(0, |order| MIN_BLOCK_BYTES << order)
    }
}
