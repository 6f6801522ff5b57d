//! Units, orders and spans, and the only place where they become bytes.
//!
//! An arena is a row of *units* of one size: the slots of a fixed arena, the minimum blocks of a
//! buddy arena. The rest of the crate counts in units; whether a unit lies inside the region is
//! decided here and nowhere else, so every span is in bounds (invariant A3).

use std::{alloc::Layout, fmt, num::NonZeroUsize};

use crate::error::BuildError;

/// The largest number of units, so that a unit's index and every count of units fit into a `u32`.
pub(crate) const UNITS_MAX: usize = 1 << 31;

/// The region starts at a page boundary if it is at least this large, else at a cache line.
const PAGE_BYTES: usize = 4096;
const CACHE_LINE_BYTES: usize = 64;

/// The size of a block: `2^order` units.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Order(u32);

impl Order {
    /// The smallest block: one unit.
    pub(crate) const UNIT: Self = Self(0);

    pub(crate) const fn new(order: u32) -> Self {
        assert!(order < 32, "a block has at most 2^31 units");
        Self(order)
    }

    #[inline]
    pub(crate) const fn get(self) -> u32 {
        self.0
    }

    #[inline]
    pub(crate) const fn units(self) -> u32 {
        1 << self.0
    }
}

/// A run of neighbouring units: at least one.
///
/// One word, so that it moves through memory as it is written: two halves that are stored apart and
/// loaded as one would stall the processor.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) struct Span(u64);

impl Span {
    #[inline]
    pub(crate) fn new(first: u32, units: u32) -> Self {
        debug_assert!(units >= 1);
        Self(u64::from(units) << 32 | u64::from(first))
    }

    /// The first unit.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "the lower half")]
    pub(crate) fn first(self) -> u32 {
        self.0 as u32
    }

    /// How many there are.
    #[inline]
    pub(crate) fn units(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The order of the block that these units are, if they are one.
    #[inline]
    pub(crate) fn as_block(self) -> Option<u32> {
        let units = self.units();
        let is_block = units.is_power_of_two() && self.first().is_multiple_of(units);
        is_block.then(|| units.trailing_zeros())
    }

    /// The first `units` units, and the others if there are any.
    pub(crate) fn split_at(self, units: u32) -> (Self, Option<Self>) {
        if units >= self.units() {
            return (self, None);
        }
        let tail = Self::new(self.first() + units, self.units() - units);
        (Self::new(self.first(), units), Some(tail))
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.first(), self.units())
    }
}

/// How large the units of an arena are, how many there are, and where the region may start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    units: u32,
    /// How many of the units, counted from the end, are set aside.
    reserved_units: u32,
    /// The units of the largest block that an ordinary request can have, in a buddy arena.
    largest_units: u32,
    unit_bytes: usize,
    align: usize,
}

impl Geometry {
    /// `slot_count` slots of `slot_capacity` bytes, rounded up to the alignment.
    pub(crate) fn fixed(
        slot_count: NonZeroUsize,
        slot_capacity: NonZeroUsize,
        alignment: usize,
    ) -> Result<Self, BuildError> {
        if !alignment.is_power_of_two() {
            return Err(BuildError::InvalidAlignment);
        }
        let unit_bytes = slot_capacity
            .get()
            .checked_next_multiple_of(alignment)
            .ok_or(BuildError::SizeOverflow)?;
        Self::checked(slot_count.get(), unit_bytes, alignment)
    }

    /// Blocks of `min_block_size` bytes that add up to `total_size`.
    pub(crate) fn buddy(
        total_size: NonZeroUsize,
        min_block_size: NonZeroUsize,
        alignment: usize,
    ) -> Result<Self, BuildError> {
        if !alignment.is_power_of_two() {
            return Err(BuildError::InvalidAlignment);
        }
        if !min_block_size.is_power_of_two()
            || !total_size.is_power_of_two()
            || total_size < min_block_size
            || !min_block_size.get().is_multiple_of(alignment)
        {
            return Err(BuildError::InvalidGeometry);
        }
        Self::checked(total_size.get() / min_block_size.get(), min_block_size.get(), alignment)
    }

    fn checked(units: usize, unit_bytes: usize, alignment: usize) -> Result<Self, BuildError> {
        if units > UNITS_MAX {
            return Err(BuildError::SizeOverflow);
        }
        let total_bytes = units.checked_mul(unit_bytes).ok_or(BuildError::SizeOverflow)?;
        let preferred = if total_bytes >= PAGE_BYTES { PAGE_BYTES } else { CACHE_LINE_BYTES };
        let align = alignment.max(preferred);
        Layout::from_size_align(total_bytes, align).map_err(|_| BuildError::SizeOverflow)?;
        let units = u32::try_from(units).map_err(|_| BuildError::SizeOverflow)?;
        let largest_units = power_of_two_within(units);
        Ok(Self { units, reserved_units: 0, largest_units, unit_bytes, align })
    }

    #[inline]
    pub(crate) fn units(&self) -> u32 {
        self.units
    }

    #[inline]
    pub(crate) fn unit_bytes(&self) -> usize {
        self.unit_bytes
    }

    pub(crate) fn total_bytes(&self) -> usize {
        self.units as usize * self.unit_bytes
    }

    /// Sets the last slots aside, as many as hold `bytes`.
    pub(crate) fn reserve_slots(self, bytes: usize) -> Result<Self, BuildError> {
        self.reserve(bytes.div_ceil(self.unit_bytes), self.units as usize - 1)
    }

    /// Sets the last block aside that holds `bytes`, if there are any.
    pub(crate) fn reserve_block(self, bytes: usize) -> Result<Self, BuildError> {
        let units = match bytes.div_ceil(self.unit_bytes) {
            0 => 0,
            units => units.checked_next_power_of_two().ok_or(BuildError::ReserveTooLarge)?,
        };
        self.reserve(units, self.units as usize / 2)
    }

    fn reserve(self, units: usize, units_max: usize) -> Result<Self, BuildError> {
        let reserved_units = u32::try_from(units).map_err(|_| BuildError::ReserveTooLarge)?;
        if units > units_max {
            return Err(BuildError::ReserveTooLarge);
        }
        let largest_units = power_of_two_within(self.units - reserved_units);
        Ok(Self { reserved_units, largest_units, ..self })
    }

    /// How many units ordinary requests can have. They come first.
    pub(crate) fn ordinary_units(&self) -> u32 {
        self.units - self.reserved_units
    }

    /// The units that are set aside, as an arena of their own, if there are any.
    pub(crate) fn of_reserve(&self) -> Option<Self> {
        let units = self.reserved_units;
        let largest_units = power_of_two_within(units);
        (units > 0).then_some(Self { units, reserved_units: 0, largest_units, ..*self })
    }

    /// Size and alignment of the region.
    pub(crate) fn layout(&self) -> Layout {
        Layout::from_size_align(self.total_bytes(), self.align).expect("checked when it was made")
    }

    /// The order of the largest block that an ordinary request can have. Only a buddy arena has
    /// one.
    pub(crate) fn max_order(&self) -> Order {
        Order::new(self.largest_units.ilog2())
    }

    /// The order of the smallest block of at least `len` bytes, if an ordinary request can have one
    /// so large. For buddy arenas, whose unit is a power of two.
    #[inline]
    pub(crate) fn order_for(&self, len: NonZeroUsize) -> Option<Order> {
        debug_assert!(self.unit_bytes.is_power_of_two());
        let last_unit = (len.get() - 1) >> self.unit_bytes.trailing_zeros();
        if last_unit >= self.largest_units as usize {
            return None;
        }
        Some(Order(usize::BITS - last_unit.leading_zeros()))
    }

    /// How many units the first `len` bytes of a span take up: at least one.
    pub(crate) fn units_for(&self, len: usize) -> u32 {
        let units = len.div_ceil(self.unit_bytes).max(1);
        u32::try_from(units).expect("a buffer is never longer than the region")
    }

    /// The distance of a unit from the start of the region, in bytes.
    ///
    /// # Panics
    ///
    /// If the arena has no such unit: going on would hand out memory that is not ours.
    #[inline]
    pub(crate) fn offset_of(&self, unit: u32) -> usize {
        assert!(unit < self.units, "the unit lies outside of the region");
        unit as usize * self.unit_bytes
    }

    /// The bytes of `units` units.
    #[inline]
    pub(crate) fn bytes_of(&self, units: u32) -> usize {
        debug_assert!(units <= self.units);
        units as usize * self.unit_bytes
    }
}

/// The largest power of two that is not more than `units`; zero for zero.
fn power_of_two_within(units: u32) -> u32 {
    units.checked_ilog2().map_or(0, |order| 1 << order)
}

#[cfg(all(test, not(arena_loom)))]
mod tests {
    use super::*;

    fn nz(n: usize) -> NonZeroUsize {
        NonZeroUsize::new(n).unwrap()
    }

    #[test]
    fn a_request_gets_the_smallest_block_that_holds_it() {
        let geometry = Geometry::buddy(nz(1 << 20), nz(256), 1).unwrap();
        let order = |len| geometry.order_for(nz(len)).map(Order::get);
        assert_eq!(order(1), Some(0));
        assert_eq!(order(256), Some(0));
        assert_eq!(order(257), Some(1));
        assert_eq!(order(512), Some(1));
        assert_eq!(order(513), Some(2));
        assert_eq!(order(1 << 20), Some(12));
        assert_eq!(order((1 << 20) + 1), None);
        assert_eq!(order(usize::MAX), None);
    }

    #[test]
    fn a_reserve_of_blocks_leaves_blocks_of_at_most_half() {
        let whole = Geometry::buddy(nz(4096), nz(256), 1).unwrap();
        let geometry = whole.reserve_block(300).unwrap();
        assert_eq!((geometry.ordinary_units(), geometry.max_order()), (14, Order::new(3)));
        assert_eq!(geometry.order_for(nz(2048)), Some(Order::new(3)));
        assert_eq!(geometry.order_for(nz(2049)), None);
        assert_eq!(geometry.of_reserve().unwrap().total_bytes(), 512);

        assert!(whole.reserve_block(0).unwrap().of_reserve().is_none());
        assert!(whole.reserve_block(2048).is_ok());
        assert_eq!(whole.reserve_block(2049).unwrap_err(), BuildError::ReserveTooLarge);
        assert_eq!(whole.reserve_block(usize::MAX).unwrap_err(), BuildError::ReserveTooLarge);
    }

    #[test]
    fn a_reserve_of_slots_leaves_at_least_one() {
        let whole = Geometry::fixed(nz(3), nz(100), 1).unwrap();
        assert_eq!(whole.reserve_slots(101).unwrap().ordinary_units(), 1);
        assert_eq!(whole.reserve_slots(201).unwrap_err(), BuildError::ReserveTooLarge);
    }

    #[test]
    fn a_length_takes_whole_units_and_at_least_one() {
        let geometry = Geometry::buddy(nz(4096), nz(256), 1).unwrap();
        assert_eq!(geometry.units_for(0), 1);
        assert_eq!(geometry.units_for(256), 1);
        assert_eq!(geometry.units_for(257), 2);
        assert_eq!(geometry.units_for(4096), 16);
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        let refused =
            |count, bytes, align| Geometry::fixed(nz(count), nz(bytes), align).unwrap_err();
        assert_eq!(refused(usize::MAX, 1, 1), BuildError::SizeOverflow);
        assert_eq!(refused(2, usize::MAX, 1), BuildError::SizeOverflow);
        assert_eq!(refused(1, usize::MAX, 2), BuildError::SizeOverflow);
        assert_eq!(refused(UNITS_MAX + 1, 1, 1), BuildError::SizeOverflow);
        assert_eq!(refused(1 << 20, 1 << 43, 1), BuildError::SizeOverflow);
        assert_eq!(refused(1, 1, 1 << 63), BuildError::SizeOverflow);
        assert_eq!(refused(1, 1, 0), BuildError::InvalidAlignment);
        assert_eq!(refused(1, 1, 24), BuildError::InvalidAlignment);
    }
}
