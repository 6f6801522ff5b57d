//! `Plan`: how the memory is shared out, added up from sizes alone, before anything is reserved.

use std::{fmt, num::NonZeroUsize};

use crate::{frame::HEADER_BYTES, size::Size};

/// Bytes into which a connection reads when it does not know what comes. One read of this size
/// brings many small frames.
const READ_BLOCK_BYTES: usize = 64 << 10;

/// The smallest read block. It must hold a header and a part of a payload.
pub(crate) const READ_BLOCK_BYTES_MIN: usize = 64;

/// As many connections at least can read at once, if there is so much memory.
const READERS_MIN: usize = 8;

/// The heap is charged in pages of this size.
pub(crate) const SPILL_PAGE_BYTES: usize = 4 << 10;

const _: () = assert!(READ_BLOCK_BYTES_MIN > HEADER_BYTES);
const _: () =
    assert!(READ_BLOCK_BYTES >= READ_BLOCK_BYTES_MIN && READ_BLOCK_BYTES.is_power_of_two());

/// How the memory of a server is shared out, and what its connections can need of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Plan {
    capacity_bytes: usize,
    /// Bytes of a slot, or of the smallest block.
    unit_bytes: usize,
    is_fixed: bool,
    /// The largest block that is ever asked for.
    block_bytes: usize,
    read_block_bytes: usize,
    has_growth: bool,
    max_frame_bytes: usize,
    spill_bytes: usize,
}

/// Why sizes do not let every connection progress.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A slot or a smallest block is out of range.
    #[error("a slot must have at least {min} bytes, to hold a header and some of a payload")]
    SlotTooSmall {
        /// The least that works.
        min: usize,
    },
    /// Requests and replies cannot have a block each.
    #[error(
        "requests need a block of {0} and replies another, so that neither waits for the other: \
         {1} in all", Size(*.block_bytes), Size(*.needed_bytes)
    )]
    CapacityTooSmall {
        /// Bytes that the largest frame takes.
        block_bytes: usize,
        /// The least that works.
        needed_bytes: usize,
    },
    /// The sizes of a buddy arena do not fit together.
    #[error("all memory and the smallest block must be powers of two, the latter the smaller")]
    NotPowersOfTwo,
    /// Frames do not fit into blocks, and must not go to the heap.
    #[error("a longer frame than a block of {0} needs the heap beside the arena", Size(*.block_bytes))]
    FrameNeedsSpill {
        /// Bytes of the largest block.
        block_bytes: usize,
        /// Bytes of the heap that would be enough.
        needed_bytes: usize,
    },
    /// The heap has no room for the largest request and its reply.
    #[error(
        "a frame of the largest size and its reply need {0} of the heap",
        Size(*.needed_bytes)
    )]
    SpillTooSmall {
        /// The least that works.
        needed_bytes: usize,
    },
    /// A header cannot announce such a frame.
    #[error("the largest frame must have 1 to {} bytes", u32::MAX)]
    FrameOutOfRange,
}

/// What is to be built.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lanes {
    Fixed {
        slots: NonZeroUsize,
        slot_bytes: NonZeroUsize,
    },
    Buddy {
        total_bytes: NonZeroUsize,
        min_block_bytes: NonZeroUsize,
        block_bytes: usize,
        has_growth: bool,
    },
}

impl Plan {
    /// Shares `capacity_bytes` out in slots.
    pub(crate) fn fixed(
        capacity_bytes: usize,
        slot_bytes: usize,
        max_frame_bytes: usize,
        spill_bytes: usize,
    ) -> Result<Self, PlanError> {
        if slot_bytes < READ_BLOCK_BYTES_MIN {
            return Err(PlanError::SlotTooSmall { min: READ_BLOCK_BYTES_MIN });
        }
        let plan = Self {
            capacity_bytes: capacity_bytes - capacity_bytes % slot_bytes,
            unit_bytes: slot_bytes,
            is_fixed: true,
            block_bytes: slot_bytes,
            read_block_bytes: slot_bytes,
            has_growth: false,
            max_frame_bytes,
            spill_bytes,
        };
        plan.checked()
    }

    /// Shares `capacity_bytes` out in blocks of powers of two.
    pub(crate) fn buddy(
        capacity_bytes: usize,
        min_block_bytes: usize,
        max_frame_bytes: usize,
    ) -> Result<Self, PlanError> {
        if !capacity_bytes.is_power_of_two()
            || !min_block_bytes.is_power_of_two()
            || min_block_bytes > capacity_bytes
        {
            return Err(PlanError::NotPowersOfTwo);
        }
        let smallest = min_block_bytes.max(READ_BLOCK_BYTES_MIN);
        let largest = max_frame_bytes.checked_next_power_of_two().unwrap_or(usize::MAX);
        let block_bytes = largest.max(smallest);
        let is_ample = capacity_bytes / 4 >= block_bytes;
        let read_block_bytes = if is_ample {
            let share = (capacity_bytes - 2 * block_bytes) / READERS_MIN;
            let share = share.checked_ilog2().map_or(1, |order| 1 << order);
            READ_BLOCK_BYTES.min(share).max(smallest)
        } else {
            block_bytes
        };
        // Where frames are short, what is read at once is the largest block: it holds every frame.
        let block_bytes = block_bytes.max(read_block_bytes);
        let plan = Self {
            capacity_bytes,
            unit_bytes: min_block_bytes,
            is_fixed: false,
            block_bytes,
            read_block_bytes,
            has_growth: read_block_bytes < block_bytes,
            max_frame_bytes,
            // Blocks hold every frame.
            spill_bytes: 0,
        };
        plan.checked()
    }

    fn checked(self) -> Result<Self, PlanError> {
        let Self { capacity_bytes, block_bytes, max_frame_bytes, spill_bytes, .. } = self;
        let needed_bytes = block_bytes.saturating_mul(2);
        if max_frame_bytes == 0 || u32::try_from(max_frame_bytes).is_err() {
            Err(PlanError::FrameOutOfRange)
        } else if capacity_bytes < needed_bytes {
            Err(PlanError::CapacityTooSmall { block_bytes, needed_bytes })
        } else if self.must_spill(max_frame_bytes) && spill_bytes == 0 {
            let needed_bytes = self.spill_bytes_min();
            Err(PlanError::FrameNeedsSpill { block_bytes, needed_bytes })
        } else if self.must_spill(max_frame_bytes) && self.spill_bytes() < self.spill_bytes_min() {
            let needed_bytes = self.spill_bytes_min();
            Err(PlanError::SpillTooSmall { needed_bytes })
        } else {
            Ok(self)
        }
    }

    /// Bytes of the arena: whole slots.
    pub fn capacity_bytes(&self) -> usize {
        self.capacity_bytes
    }

    /// The longest payload.
    pub fn max_frame_bytes(&self) -> usize {
        self.max_frame_bytes
    }

    /// Bytes of the block into which a connection reads when it does not know what comes.
    pub fn read_block_bytes(&self) -> usize {
        self.read_block_bytes
    }

    /// Bytes that are set aside for replies, and for requests that outgrow their read block.
    pub fn bytes_set_aside(&self) -> usize {
        if self.has_growth { 2 * self.block_bytes } else { self.block_bytes }
    }

    /// The most arena memory that one connection can hold at once: a read block, a block that its
    /// last frame has outgrown it for, a block of gathered replies and one of a reply.
    pub fn bytes_per_connection(&self) -> usize {
        let growth = if self.has_growth { self.block_bytes } else { 0 };
        self.read_block_bytes
            + growth
            + self.read_block_bytes.min(self.block_bytes)
            + self.block_bytes
    }

    /// Returns the parts of the memory by name, in the order of their addresses, and their bytes.
    pub(crate) fn parts(&self) -> Vec<(&'static str, usize)> {
        let ordinary = ("ordinary", self.capacity_bytes - self.bytes_set_aside());
        let growth = self.has_growth.then_some(("growth", self.block_bytes));
        [Some(ordinary), growth, Some(("replies", self.block_bytes))]
            .into_iter()
            .flatten()
            .collect()
    }

    /// Bytes of a slot, or of the smallest block.
    pub(crate) fn unit_bytes(&self) -> usize {
        self.unit_bytes
    }

    /// Whether the memory is cut into slots, which are never split or merged.
    pub(crate) fn is_fixed(&self) -> bool {
        self.is_fixed
    }

    /// Bytes of the largest block that can be free when nothing is in use.
    pub(crate) fn largest_block_bytes(&self) -> usize {
        if self.is_fixed {
            return self.unit_bytes;
        }
        let ordinary = self.capacity_bytes - self.bytes_set_aside();
        ordinary.checked_ilog2().map_or(0, |order| 1 << order)
    }

    /// Bytes of the block that the largest frame takes, or of a slot.
    pub(crate) fn frame_block_bytes(&self) -> usize {
        self.block_bytes
    }

    /// Whether so many bytes fit into no block.
    pub(super) fn must_spill(&self, bytes: usize) -> bool {
        bytes > self.block_bytes
    }

    /// Bytes of the heap that may be used beside it: a power of two of pages, or none.
    pub fn spill_bytes(&self) -> usize {
        spill_bytes(self.spill_bytes)
    }

    /// Pages of the heap that may be used: a power of two.
    pub(super) fn spill_pages(&self) -> usize {
        self.spill_bytes() / SPILL_PAGE_BYTES
    }

    /// Pages that the largest frame takes, rounded up as the budget does.
    pub(super) fn spill_pages_of_largest(&self) -> usize {
        self.max_frame_bytes.div_ceil(SPILL_PAGE_BYTES).next_power_of_two()
    }

    fn spill_bytes_min(&self) -> usize {
        spill_bytes_min(self.max_frame_bytes)
    }

    pub(super) fn lanes(&self) -> Lanes {
        let positive = |n| NonZeroUsize::new(n).expect("a plan has no size of zero");
        if self.is_fixed {
            let slots = positive(self.capacity_bytes / self.unit_bytes);
            Lanes::Fixed { slots, slot_bytes: positive(self.unit_bytes) }
        } else {
            Lanes::Buddy {
                total_bytes: positive(self.capacity_bytes),
                min_block_bytes: positive(self.unit_bytes),
                block_bytes: self.block_bytes,
                has_growth: self.has_growth,
            }
        }
    }
}

/// Bytes of the heap that may be used where so many are allowed: a power of two of pages.
pub(crate) fn spill_bytes(allowed_bytes: usize) -> usize {
    let pages = allowed_bytes / SPILL_PAGE_BYTES;
    pages.checked_ilog2().map_or(0, |order| SPILL_PAGE_BYTES << order)
}

/// Bytes of the heap that a frame of the largest size and its reply take.
pub(crate) fn spill_bytes_min(max_frame_bytes: usize) -> usize {
    let bytes = max_frame_bytes.max(SPILL_PAGE_BYTES).checked_next_power_of_two();
    bytes.map_or(usize::MAX, |bytes| bytes.saturating_mul(2))
}

/// What all holders can need, as one line.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ordinary = self.capacity_bytes - self.bytes_set_aside();
        let share = self.block_bytes;
        write!(f, "{} = {} for requests", Size(self.capacity_bytes), Size(ordinary))?;
        if self.has_growth {
            write!(f, " + {} for one that outgrows its read block", Size(share))?;
        }
        write!(
            f,
            " + {} for replies; an idle connection holds 0, one at work reads {} at a time and \
             holds at most {}; who finds none waits",
            Size(share),
            Size(self.read_block_bytes),
            Size(self.bytes_per_connection()),
        )?;
        if self.spill_pages() > 0 {
            let spill_bytes = self.spill_pages() * SPILL_PAGE_BYTES;
            write!(
                f,
                "; frames over {} go to the heap, up to {} of it in all",
                Size(self.block_bytes),
                Size(spill_bytes)
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Config;

    #[test]
    fn two_slots_are_enough_and_one_is_not() {
        assert!(Plan::fixed(128 << 10, 64 << 10, 64 << 10, 0).is_ok());
        let one = Plan::fixed(127 << 10, 64 << 10, 64 << 10, 0);
        let expected =
            PlanError::CapacityTooSmall { block_bytes: 64 << 10, needed_bytes: 128 << 10 };
        assert_eq!(one, Err(expected));
    }

    #[test]
    fn two_blocks_of_the_largest_frame_are_enough_and_have_no_growth() {
        let plan = Plan::buddy(2 << 20, 256, 1 << 20).unwrap();
        assert!(!plan.has_growth);
        assert_eq!((plan.read_block_bytes, plan.bytes_set_aside()), (1 << 20, 1 << 20));
        assert!(Plan::buddy(1 << 20, 256, 1 << 20).is_err());
    }

    #[test]
    fn with_four_blocks_requests_can_grow() {
        let plan = Plan::buddy(4 << 20, 256, 1 << 20).unwrap();
        assert!(plan.has_growth);
        assert_eq!((plan.read_block_bytes, plan.bytes_set_aside()), (64 << 10, 2 << 20));
    }

    #[test]
    fn where_frames_are_short_the_read_block_is_the_largest() {
        let plan = Plan::buddy(64 << 20, 256, 4 << 10).unwrap();
        assert!(!plan.has_growth && !plan.must_spill(plan.read_block_bytes()));
        assert_eq!((plan.read_block_bytes, plan.bytes_set_aside()), (64 << 10, 64 << 10));
    }

    #[test]
    fn a_frame_that_is_larger_than_a_slot_needs_twice_its_size_of_the_heap() {
        let plan = |spill| Plan::fixed(1 << 20, 64 << 10, 256 << 10, spill);
        let needs = PlanError::FrameNeedsSpill { block_bytes: 64 << 10, needed_bytes: 512 << 10 };
        assert_eq!(plan(0), Err(needs));
        let small = PlanError::SpillTooSmall { needed_bytes: 512 << 10 };
        assert_eq!(plan(511 << 10), Err(small));
        assert!(plan(512 << 10).is_ok());
    }

    #[test]
    fn the_sum_is_printed() {
        let plan = Plan::buddy(64 << 20, 256, 1 << 20).unwrap();
        let expected = "64MiB = 62MiB for requests + 1MiB for one that outgrows its read block + \
                        1MiB for replies; an idle connection holds 0, one at work reads 64KiB at a \
                        time and holds at most 2176KiB; who finds none waits";
        assert_eq!(plan.to_string(), expected);
    }

    #[test]
    fn the_defaults_hold_as_many_frames_at_once_as_the_configuration_says() {
        let plan = Config::buddy().plan().expect("a plan");
        let frames = plan.parts()[0].1 / plan.frame_block_bytes();
        let file = include_str!("../../../configs/arena-echo.toml");
        assert!(file.contains(&format!("The default lets {frames} connections work")), "{frames}");
    }

    proptest! {
        /// The read block, a block of the largest frame, and what is set aside always fit.
        #[test]
        fn every_plan_has_room_for_a_request_and_its_reply(
            capacity in 0u32..32, min_block in 0u32..32, frame in 1usize..1 << 30,
        ) {
            let Ok(plan) = Plan::buddy(1 << capacity, 1 << min_block, frame) else {
                return Ok(());
            };
            let ordinary = plan.capacity_bytes - plan.bytes_set_aside();
            let largest = 1 << ordinary.ilog2();
            prop_assert!(plan.read_block_bytes <= largest);
            prop_assert!(plan.block_bytes <= largest);
            prop_assert!(plan.read_block_bytes <= plan.block_bytes);
            prop_assert!(plan.has_growth || plan.read_block_bytes == plan.block_bytes);
            prop_assert!(!plan.must_spill(frame));
        }
    }
}
