//! A snapshot of which memory is free, for pictures and tests.

use std::fmt;

use crate::shared::Shared;

/// Which slots or minimum blocks of an arena were free at one moment.
///
/// Taken without stopping anybody: what is claimed or released meanwhile may be shown either way,
/// and a block that is just being opened or closed may be shown as in use. Exact when nothing is
/// under way.
///
/// `{}` draws it as text, a character for each unit up to 4096 units and for equal groups of units
/// beyond that: `.` is free, `#` in use, `+` partly in use.
///
/// # Examples
///
/// ```
/// # use std::num::NonZeroUsize;
/// # let nz = |n| NonZeroUsize::new(n).unwrap();
/// let arena = arena::BuddyArena::builder(nz(4096), nz(256)).build()?;
/// let _held = arena.allocate(nz(1000))?;
///
/// let occupancy = arena.occupancy();
/// assert_eq!(occupancy.free_bytes(), 3072);
/// assert_eq!(occupancy.to_string(), "####............");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Occupancy {
    unit_bytes: usize,
    units: usize,
    /// A bit for each unit, set if it is free. Bits beyond the last unit are clear.
    free: Vec<u64>,
}

/// Neighbouring units that are all free or all in use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Run {
    /// Distance from the start of the arena, in bytes.
    pub offset_bytes: usize,
    /// Length in bytes.
    pub len_bytes: usize,
    /// Whether it is free.
    pub is_free: bool,
}

impl Occupancy {
    pub(crate) fn of(shared: &Shared) -> Self {
        let units = shared.geometry.units() as usize;
        let mut free = shared.core.map.free_units(&shared.core.stripes);
        free.resize(units.div_ceil(64), 0);
        let mut occupancy = Self { unit_bytes: shared.geometry.unit_bytes(), units, free };
        if let Some(reserve) = shared.reserve() {
            occupancy
                .append(&Self::of(reserve.shared()), shared.geometry.ordinary_units() as usize);
        }
        occupancy
    }

    /// Takes over the units of `part`, the first of which is our unit `first`.
    fn append(&mut self, part: &Self, first: usize) {
        for unit in (0..part.units).filter(|&unit| part.is_free(unit)) {
            self.free[(first + unit) / 64] |= 1 << ((first + unit) % 64);
        }
    }

    /// Returns the size of one unit, a slot or a minimum block, in bytes.
    pub fn unit_bytes(&self) -> usize {
        self.unit_bytes
    }

    /// Returns the number of units.
    pub fn units(&self) -> usize {
        self.units
    }

    /// Returns whether a unit is free.
    ///
    /// # Panics
    ///
    /// If there is no such unit.
    pub fn is_free(&self, unit: usize) -> bool {
        assert!(unit < self.units, "there are {} units, and no unit {unit}", self.units);
        self.free[unit / 64] >> (unit % 64) & 1 == 1
    }

    /// Returns how many units are free.
    pub fn free_units(&self) -> usize {
        self.free.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Returns how many bytes are free.
    pub fn free_bytes(&self) -> usize {
        self.free_units() * self.unit_bytes
    }

    /// Returns the runs of free and used memory, in the order of their addresses.
    pub fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        let mut first = 0;
        std::iter::from_fn(move || {
            if first == self.units {
                return None;
            }
            let is_free = self.is_free(first);
            let end = (first..self.units)
                .find(|&unit| self.is_free(unit) != is_free)
                .unwrap_or(self.units);
            let run = Run {
                offset_bytes: first * self.unit_bytes,
                len_bytes: (end - first) * self.unit_bytes,
                is_free,
            };
            first = end;
            Some(run)
        })
    }
}

impl fmt::Display for Occupancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CHARACTERS_MAX: usize = 4096;

        let group = self.units.div_ceil(CHARACTERS_MAX);
        for first in (0..self.units).step_by(group) {
            let end = (first + group).min(self.units);
            let free = (first..end).filter(|&unit| self.is_free(unit)).count();
            let drawn = if free == 0 {
                '#'
            } else if free == end - first {
                '.'
            } else {
                '+'
            };
            fmt::Write::write_char(f, drawn)?;
        }
        Ok(())
    }
}
