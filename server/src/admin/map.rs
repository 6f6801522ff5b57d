//! `Map`: which memory is in use, and by blocks of which order the rest is free, in as few cells as
//! a picture needs.

use arena::{Occupancy, Run};
use serde_json::{Value, json};

use crate::memory::Plan;

/// Cells of a picture: in buddy mode a square of 64 by 64.
const CELLS_MAX: usize = 4096;

/// How full a cell is, in steps: 0 is free, this is all in use.
const FULL: usize = 8;

/// A picture of the memory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Map {
    /// Bytes of a cell.
    cell_bytes: usize,
    /// A character for each cell. A digit above 0: how full it is. A letter: all of it is free, and
    /// lies in a free block of this order; `A` is order 0, a block of `unit_bytes`.
    cells: String,
    /// The smallest piece: a block of the lowest order, or a slot.
    unit_bytes: usize,
    /// How many free blocks there are of each size, or slots. Neighbours that a buddy arena would
    /// merge count as one.
    free_blocks: Vec<(usize, usize)>,
}

impl Map {
    pub(super) fn of(occupancy: &Occupancy, plan: &Plan) -> Self {
        let units_per_cell = occupancy.units().div_ceil(CELLS_MAX);
        let unit_bytes = occupancy.unit_bytes();
        let cell_bytes = units_per_cell * unit_bytes;
        let mut cells = vec![Cell::default(); occupancy.units().div_ceil(units_per_cell)];
        let mut free_blocks = FreeBlocks::new(plan);
        for run in occupancy.runs() {
            if run.is_free {
                free_blocks.add(run, |offset, bytes| {
                    let order = (bytes / unit_bytes).ilog2();
                    for cell in &mut cells[offset / cell_bytes..=(offset + bytes - 1) / cell_bytes]
                    {
                        cell.order = cell.order.max(order);
                    }
                });
                continue;
            }
            let first = run.offset_bytes / unit_bytes;
            let end = first + run.len_bytes / unit_bytes;
            let mut unit = first;
            while unit < end {
                let cell = unit / units_per_cell;
                let next = end.min((cell + 1) * units_per_cell);
                cells[cell].used_units += next - unit;
                unit = next;
            }
        }
        Self {
            cell_bytes,
            cells: cells.iter().map(|cell| cell.character(units_per_cell)).collect(),
            unit_bytes,
            free_blocks: free_blocks.sorted(),
        }
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "cell_bytes": self.cell_bytes,
            "cells": self.cells,
            "unit_bytes": self.unit_bytes,
            "free_blocks": self.free_blocks,
        })
    }
}

/// What is in the memory of a cell.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    used_units: usize,
    /// That of the largest free block which it is a part of, or has a part of.
    order: u32,
}

impl Cell {
    fn character(self, units_per_cell: usize) -> char {
        let (base, steps) = match self.used_units * FULL / units_per_cell {
            0 if self.used_units == 0 => ('A', self.order),
            // A little is not nothing, and the last cell may be a short one.
            eighths => ('0', u32::try_from(eighths).map_or(1, |eighths| eighths.max(1))),
        };
        char::from_u32(u32::from(base) + steps).unwrap_or('?')
    }
}

/// Free blocks by size, as they are found.
struct FreeBlocks {
    /// Where a part of the memory ends: blocks do not reach across.
    ends: Vec<usize>,
    /// For slots, their size. Blocks have many.
    slot_bytes: Option<usize>,
    /// How many there are of `2^i` bytes; of slots in all, at the front.
    counts: [usize; usize::BITS as usize],
}

impl FreeBlocks {
    fn new(plan: &Plan) -> Self {
        let mut end = 0;
        let ends = plan.parts().into_iter().map(|(_, bytes)| {
            end += bytes;
            end
        });
        let slot_bytes = plan.is_fixed().then(|| plan.unit_bytes());
        Self { ends: ends.collect(), slot_bytes, counts: [0; usize::BITS as usize] }
    }

    /// Counts the blocks of a free run, and tells where each of them begins and its size.
    fn add(&mut self, run: Run, mut tell: impl FnMut(usize, usize)) {
        if let Some(slot_bytes) = self.slot_bytes {
            self.counts[0] += run.len_bytes / slot_bytes;
            return;
        }
        let mut offset = run.offset_bytes;
        let run_end = run.offset_bytes + run.len_bytes;
        while offset < run_end {
            let part_end = self.ends.iter().find(|end| **end > offset).copied();
            let left = part_end.unwrap_or(run_end).min(run_end) - offset;
            // The largest block that begins here: it is aligned to its size.
            let order = left.ilog2().min(offset.trailing_zeros());
            self.counts[order as usize] += 1;
            tell(offset, 1 << order);
            offset += 1 << order;
        }
    }

    fn sorted(self) -> Vec<(usize, usize)> {
        let size = |order: usize| self.slot_bytes.unwrap_or(1 << order);
        let found = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        found.map(|(order, count)| (size(order), *count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use arena::{BuddyArena, FixedArena};

    use super::*;

    fn positive(n: usize) -> NonZeroUsize {
        NonZeroUsize::new(n).expect("a number above zero")
    }

    #[test]
    fn a_cell_shows_how_full_it_is() {
        let plan = Plan::buddy(8 << 20, 256, 1 << 20).expect("a plan");
        let arena = BuddyArena::builder(positive(8 << 20), positive(256)).build().expect("memory");
        let map = Map::of(&arena.occupancy(), &plan);
        assert_eq!((map.cell_bytes, map.cells.len()), (2048, 4096));
        assert!(map.cells.chars().all(|cell| cell.is_ascii_uppercase()));

        let held = [256, 1024, 4096].map(|bytes| arena.allocate(positive(bytes)).expect("memory"));
        let map = Map::of(&arena.occupancy(), &plan);
        let mut full: Vec<_> = map.cells.chars().filter(char::is_ascii_digit).collect();
        full.sort_unstable();
        // The first two may share a cell.
        assert!(full == ['1', '4', '8', '8'] || full == ['5', '8', '8'], "{full:?}");
        drop(held);
    }

    #[test]
    fn a_free_cell_shows_the_order_of_its_block() {
        let plan = Plan::buddy(1 << 20, 256, 1 << 18).expect("a plan");
        let arena = BuddyArena::builder(positive(1 << 20), positive(256)).build().expect("memory");
        let cells = || Map::of(&arena.occupancy(), &plan).cells;
        // 512 KiB of ordinary memory are order 11, growth and replies are order 10 each.
        assert_eq!(cells(), ["L".repeat(2048), "K".repeat(2048)].concat());

        let held = arena.allocate(positive(256)).expect("memory");
        let after: String =
            cells().chars().map(|cell| if cell == '8' { '-' } else { cell }).collect();
        // Beside a block of order 0 there is one free block of each order.
        let place = after.find('-').expect("a block in use");
        for (distance, order) in [(1, 'A'), (2, 'B'), (4, 'C'), (64, 'G')] {
            assert_eq!(after.as_bytes()[place ^ distance] as char, order);
        }
        drop(held);
        assert_eq!(cells(), ["L".repeat(2048), "K".repeat(2048)].concat());
    }

    #[test]
    fn free_blocks_do_not_reach_from_one_part_of_the_memory_into_the_next() {
        let plan = Plan::buddy(8 << 20, 256, 1 << 20).expect("a plan");
        let arena = BuddyArena::builder(positive(8 << 20), positive(256)).build().expect("memory");
        let map = Map::of(&arena.occupancy(), &plan);
        // 6 MiB of ordinary memory are a block of 4 and one of 2; growth and replies have 1 each.
        assert_eq!(map.free_blocks, [(1 << 20, 2), (2 << 20, 1), (4 << 20, 1)]);
    }

    #[test]
    fn slots_are_counted() {
        let plan = Plan::fixed(10_000, 100, 100, 0).expect("a plan");
        let arena = FixedArena::builder(positive(100), positive(100)).build().expect("memory");
        let _held = arena.allocate().expect("memory");
        let map = Map::of(&arena.occupancy(), &plan);
        assert_eq!((map.cell_bytes, map.cells.len()), (100, 100));
        assert_eq!(map.cells.chars().filter(|cell| *cell == '8').count(), 1);
        assert_eq!(map.free_blocks, [(100, 99)]);
    }
}
