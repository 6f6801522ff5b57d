//! `SizeFault`: what is wrong with the sizes of a configuration, and which change would help.
//!
//! Every fault is looked for by itself, whatever else is wrong, so that all are found at once.
//!
//! A *remedy* is another value for one size. It is offered only if it takes its fault away and
//! brings no other. So whoever follows one has a fault less, and if it was the only one, a
//! configuration that works. Where only two changes at once would do, none is offered.

use std::fmt;

use crate::{
    config::{ArenaKind, Config, Problem},
    memory::{PlanError, READ_BLOCK_BYTES_MIN, SPILL_PAGE_BYTES, spill_bytes, spill_bytes_min},
    size::Size,
};

/// The longest payload that a header can announce.
const PAYLOAD_BYTES_MAX: usize = u32::MAX as usize;

/// As many slots or smallest blocks an arena can have.
const BLOCKS_MAX: usize = 1 << 31;

/// More than any system provides, and less than an arena could have.
const CAPACITY_BYTES_MAX: usize = 1 << (usize::BITS - 2);

/// What is wrong with sizes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum SizeFault {
    /// Not even a payload of one byte would be allowed.
    NoFrame,
    /// No header can announce the longest frame.
    FrameTooLong,
    SlotTooSmall,
    CapacityNotPowerOfTwo,
    BlockNotPowerOfTwo,
    CapacityTooLarge,
    TooManyBlocks,
    /// Requests and replies cannot have a block each.
    NoRoom,
    /// Frames are longer than a slot, and must not go to the heap.
    FrameNeedsSpill,
    SpillTooSmall,
    SpillTooLarge,
    /// Frames never go to the heap.
    SpillUnused,
}

/// A size of a configuration.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Key {
    Capacity,
    /// The size of a slot, or of the smallest block.
    Block,
    MaxFrame,
    Spill,
}

/// Where to look for another value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Direction {
    Down,
    Up,
}

/// A value with which a fault is gone.
#[derive(Clone, Copy, Debug)]
struct Remedy {
    key: Key,
    direction: Direction,
    bytes: usize,
    /// How many faults are left with it.
    faults_left: usize,
}

use self::{
    Direction::{Down, Up},
    Key::{Block, Capacity, MaxFrame, Spill},
};

/// Returns everything that is wrong with the sizes, each with what to change.
pub(crate) fn problems(config: &Config) -> Vec<Problem> {
    faults(config).into_iter().map(|fault| fault.problem(config)).collect()
}

fn faults(config: &Config) -> Vec<SizeFault> {
    SizeFault::ALL.into_iter().filter(|fault| fault.is_in(config)).collect()
}

impl SizeFault {
    const ALL: [Self; 12] = [
        Self::NoFrame,
        Self::FrameTooLong,
        Self::SlotTooSmall,
        Self::CapacityNotPowerOfTwo,
        Self::BlockNotPowerOfTwo,
        Self::CapacityTooLarge,
        Self::TooManyBlocks,
        Self::NoRoom,
        Self::FrameNeedsSpill,
        Self::SpillTooSmall,
        Self::SpillTooLarge,
        Self::SpillUnused,
    ];

    fn is_in(self, config: &Config) -> bool {
        let Config { capacity_bytes, max_frame_bytes, spill_bytes: written, .. } = *config;
        let (is_fixed, unit_bytes) = units(config);
        let spills = is_fixed && max_frame_bytes > unit_bytes.max(READ_BLOCK_BYTES_MIN);
        match self {
            Self::NoFrame => max_frame_bytes == 0,
            Self::FrameTooLong => max_frame_bytes > PAYLOAD_BYTES_MAX,
            Self::SlotTooSmall => is_fixed && unit_bytes < READ_BLOCK_BYTES_MIN,
            Self::CapacityNotPowerOfTwo => !is_fixed && !capacity_bytes.is_power_of_two(),
            Self::BlockNotPowerOfTwo => !is_fixed && !unit_bytes.is_power_of_two(),
            Self::CapacityTooLarge => capacity_bytes > CAPACITY_BYTES_MAX,
            Self::TooManyBlocks => {
                capacity_bytes.checked_div(unit_bytes).is_some_and(|blocks| blocks > BLOCKS_MAX)
            }
            Self::NoRoom => capacity_bytes < block_bytes(config).saturating_mul(2),
            Self::FrameNeedsSpill => spills && written == 0,
            Self::SpillTooSmall => {
                spills && written > 0 && spill_bytes(written) < spill_bytes_min(frame_bytes(config))
            }
            Self::SpillTooLarge => spill_bytes(written) / SPILL_PAGE_BYTES > BLOCKS_MAX,
            Self::SpillUnused => !is_fixed && written > 0,
        }
    }

    /// What may be changed against it.
    fn ways(self, config: &Config) -> &'static [(Key, Direction)] {
        match (self, config.arena) {
            (Self::NoFrame, _) => &[(MaxFrame, Up)],
            (Self::FrameTooLong, _) => &[(MaxFrame, Down)],
            (Self::SlotTooSmall, _) => &[(Block, Up)],
            (Self::CapacityNotPowerOfTwo, _) => &[(Capacity, Down), (Capacity, Up)],
            (Self::BlockNotPowerOfTwo, _) => &[(Block, Down), (Block, Up)],
            (Self::CapacityTooLarge, _) => &[(Capacity, Down)],
            (Self::TooManyBlocks, _) => &[(Block, Up), (Capacity, Down)],
            (Self::NoRoom, ArenaKind::Fixed { .. }) => &[(Capacity, Up), (Block, Down)],
            (Self::NoRoom, ArenaKind::Buddy { .. }) => {
                &[(Capacity, Up), (MaxFrame, Down), (Block, Down)]
            }
            (Self::FrameNeedsSpill, _) => &[(MaxFrame, Down), (Block, Up), (Spill, Up)],
            (Self::SpillTooSmall, _) => &[(Spill, Up), (MaxFrame, Down)],
            (Self::SpillTooLarge | Self::SpillUnused, _) => &[(Spill, Down)],
        }
    }

    /// The sizes that take part in it.
    fn keys(self, config: &Config) -> Vec<Key> {
        match self {
            Self::NoFrame | Self::FrameTooLong => vec![MaxFrame],
            Self::SlotTooSmall | Self::BlockNotPowerOfTwo => vec![Block],
            Self::CapacityNotPowerOfTwo | Self::CapacityTooLarge => vec![Capacity],
            Self::TooManyBlocks => vec![Block, Capacity],
            Self::NoRoom => {
                let (is_fixed, unit_bytes) = units(config);
                let needed = block_bytes(config);
                if unit_bytes.checked_next_power_of_two() == Some(needed) || is_fixed {
                    vec![Capacity, Block]
                } else if config.max_frame_bytes > READ_BLOCK_BYTES_MIN {
                    vec![Capacity, MaxFrame]
                } else {
                    vec![Capacity]
                }
            }
            Self::FrameNeedsSpill => vec![MaxFrame, Block],
            Self::SpillTooSmall => vec![Spill, MaxFrame],
            Self::SpillTooLarge | Self::SpillUnused => vec![Spill],
        }
    }

    fn reason(self, config: &Config) -> String {
        let block_bytes = block_bytes(config);
        let needed_bytes = spill_bytes_min(frame_bytes(config));
        let reason: &dyn fmt::Display = match self {
            Self::NoFrame => &"no payload would be allowed",
            Self::FrameTooLong => &"a header cannot announce so much",
            Self::SlotTooSmall => &"a slot must hold a header and some of a payload",
            Self::CapacityNotPowerOfTwo | Self::BlockNotPowerOfTwo => {
                &"buddy mode needs a power of two"
            }
            Self::CapacityTooLarge => &"no system has so much memory",
            Self::TooManyBlocks => &format!("an arena is cut into at most {BLOCKS_MAX} pieces"),
            Self::NoRoom => {
                let needed_bytes = block_bytes.saturating_mul(2);
                &PlanError::CapacityTooSmall { block_bytes, needed_bytes }
            }
            Self::FrameNeedsSpill => &PlanError::FrameNeedsSpill { block_bytes, needed_bytes },
            Self::SpillTooSmall => &PlanError::SpillTooSmall { needed_bytes },
            Self::SpillTooLarge => &"no system has so much memory",
            Self::SpillUnused => {
                &"only fixed mode has a use for it, because blocks of buddy mode hold every frame"
            }
        };
        reason.to_string()
    }

    fn problem(self, config: &Config) -> Problem {
        let keys = self.keys(config);
        let label = |key: Key| (key.flag(config), Size(key.bytes(config)));
        let (flag, size) = label(keys[0]);
        let problem = keys[1..].iter().fold(Problem::about(flag, size), |problem, key| {
            let (flag, size) = label(*key);
            problem.and(flag, size)
        });
        let remedies = self.remedies(config);
        let is_about_one = keys.len() == 1 && remedies.iter().all(|remedy| remedy.key == keys[0]);
        let remedies: Vec<_> = match self {
            Self::CapacityNotPowerOfTwo | Self::BlockNotPowerOfTwo => {
                remedies.iter().map(|remedy| Size(remedy.bytes).to_string()).collect()
            }
            _ => remedies.iter().map(|remedy| remedy.text(config, is_about_one)).collect(),
        };
        let reason = self.reason(config);
        match (&remedies[..], is_about_one) {
            ([], _) => problem.because(reason),
            (_, true) => problem.because(format!("{reason}; set it to {}", remedies.join(" or "))),
            (_, false) => problem.because(format!("{reason}; set {}", remedies.join(", or "))),
        }
    }

    /// Returns the values that help best, and bring no other fault.
    fn remedies(self, config: &Config) -> Vec<Remedy> {
        let before = faults(config);
        let remedies: Vec<_> = self
            .ways(config)
            .iter()
            .filter_map(|(key, direction)| self.remedy(config, &before, *key, *direction))
            .collect();
        let best = remedies.iter().map(|remedy| remedy.faults_left).min();
        remedies.into_iter().filter(|remedy| Some(remedy.faults_left) == best).collect()
    }

    /// Returns the nearest of the values that help best.
    fn remedy(
        self,
        config: &Config,
        before: &[Self],
        key: Key,
        direction: Direction,
    ) -> Option<Remedy> {
        let current = key.bytes(config);
        let is_there = |bytes: &usize| match direction {
            Down => *bytes < current,
            Up => *bytes > current,
        };
        candidates(config)
            .filter(is_there)
            .filter_map(|bytes| {
                let after = faults(&key.with(config, bytes));
                let helps = !after.contains(&self) && after.iter().all(|one| before.contains(one));
                let faults_left = after.len();
                helps.then_some(Remedy { key, direction, bytes, faults_left })
            })
            .min_by_key(|remedy| (remedy.faults_left, remedy.bytes.abs_diff(current)))
    }
}

impl Key {
    fn flag(self, config: &Config) -> &'static str {
        match (self, config.arena) {
            (Capacity, _) => "--capacity",
            (Block, ArenaKind::Fixed { .. }) => "--slot-size",
            (Block, ArenaKind::Buddy { .. }) => "--min-block",
            (MaxFrame, _) => "--max-frame",
            (Spill, _) => "--spill",
        }
    }

    fn bytes(self, config: &Config) -> usize {
        match self {
            Capacity => config.capacity_bytes,
            Block => units(config).1,
            MaxFrame => config.max_frame_bytes,
            Spill => config.spill_bytes,
        }
    }

    fn with(self, config: &Config, bytes: usize) -> Config {
        let mut config = *config;
        match self {
            Capacity => config.capacity_bytes = bytes,
            Block => match &mut config.arena {
                ArenaKind::Fixed { slot_bytes: unit_bytes }
                | ArenaKind::Buddy { min_block_bytes: unit_bytes } => *unit_bytes = bytes,
            },
            MaxFrame => config.max_frame_bytes = bytes,
            Spill => config.spill_bytes = bytes,
        }
        config
    }
}

impl Remedy {
    fn text(&self, config: &Config, is_about_one: bool) -> String {
        let bound = match self.direction {
            // There is nothing below.
            Down if self.bytes == 0 => "",
            Down => "at most ",
            Up => "at least ",
        };
        match is_about_one {
            true => format!("{bound}{}", Size(self.bytes)),
            false => format!("{} to {bound}{}", self.key.flag(config), Size(self.bytes)),
        }
    }
}

/// Whether memory is cut into slots, and bytes of a slot or of the smallest block.
fn units(config: &Config) -> (bool, usize) {
    match config.arena {
        ArenaKind::Fixed { slot_bytes } => (true, slot_bytes),
        ArenaKind::Buddy { min_block_bytes } => (false, min_block_bytes),
    }
}

/// The longest payload, as far as a header can announce it.
fn frame_bytes(config: &Config) -> usize {
    config.max_frame_bytes.min(PAYLOAD_BYTES_MAX)
}

/// The largest block that is asked for, were all sizes possible.
fn block_bytes(config: &Config) -> usize {
    let (is_fixed, unit_bytes) = units(config);
    let block_bytes = unit_bytes.max(READ_BLOCK_BYTES_MIN);
    if is_fixed {
        return block_bytes;
    }
    block_bytes.max(frame_bytes(config)).checked_next_power_of_two().unwrap_or(usize::MAX)
}

/// Values at which faults begin or end.
fn candidates(config: &Config) -> impl Iterator<Item = usize> {
    let (_, unit_bytes) = units(config);
    let Config { capacity_bytes, max_frame_bytes, .. } = *config;
    let others = [
        0,
        PAYLOAD_BYTES_MAX,
        unit_bytes,
        max_frame_bytes,
        capacity_bytes / 2,
        block_bytes(config).saturating_mul(2),
        capacity_bytes.div_ceil(BLOCKS_MAX),
        unit_bytes.saturating_mul(BLOCKS_MAX),
    ];
    (0..usize::BITS).map(|order| 1 << order).chain(others)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(arena: ArenaKind, capacity: usize, max_frame: usize, spill: usize) -> Config {
        Config {
            arena,
            capacity_bytes: capacity,
            max_frame_bytes: max_frame,
            spill_bytes: spill,
            ..Config::buddy()
        }
    }

    fn texts(config: &Config) -> Vec<String> {
        problems(config).iter().map(Problem::to_string).collect()
    }

    #[test]
    fn a_change_that_would_not_help_is_not_offered() {
        let fixed = |slot_bytes| ArenaKind::Fixed { slot_bytes };
        let buddy = |min_block_bytes| ArenaKind::Buddy { min_block_bytes };
        let cases = [
            (config(buddy(256), 0, 1 << 20, 0), "set it to 2MiB"),
            (config(buddy(1), 1, 1 << 20, 0), "set --capacity to at least 2MiB"),
            (config(buddy(64), 64, 32, 0), "set --capacity to at least 128"),
            (config(buddy(256), 3, 1 << 20, 0), "set it to 2MiB"),
            (config(fixed(64), 100, 64, 0), "set --capacity to at least 128"),
        ];
        for (config, expected) in cases {
            let texts = texts(&config);
            assert!(texts[0].ends_with(expected), "{texts:#?}");
        }
    }

    #[test]
    fn an_arena_has_at_most_so_many_blocks() {
        let tebibyte = 1 << 40;
        let buddy = config(ArenaKind::Buddy { min_block_bytes: 64 }, tebibyte, 1 << 20, 0);
        let expected = "--min-block 64 with --capacity 1024GiB: an arena is cut into at most \
                        2147483648 pieces; set --min-block to at least 512, or --capacity to at \
                        most 128GiB";
        assert_eq!(texts(&buddy), [expected]);
        let spilling = config(ArenaKind::Fixed { slot_bytes: 64 }, 128, 64, usize::MAX);
        let expected = format!(
            "--spill {}: no system has so much memory; set it to at most 8192GiB",
            usize::MAX
        );
        assert_eq!(texts(&spilling), [expected]);
    }

    #[test]
    fn blocks_that_hold_every_frame_need_no_heap() {
        let config = Config { spill_bytes: 1 << 20, ..Config::buddy() };
        let expected = "--spill 1MiB: only fixed mode has a use for it, because blocks of \
                        buddy mode hold every frame; set it to 0";
        assert_eq!(texts(&config), [expected]);
    }

    proptest! {
        /// And there is one for every fault, unless sizes are so far apart that two must change.
        #[test]
        fn every_remedy_leaves_fewer_faults_and_no_other(
            is_fixed: bool,
            unit in size(), capacity in size(), max_frame in size(), spill in size(),
        ) {
            let arena = match is_fixed {
                true => ArenaKind::Fixed { slot_bytes: unit },
                false => ArenaKind::Buddy { min_block_bytes: unit },
            };
            let config = config(arena, capacity, max_frame, spill);
            let before = faults(&config);
            prop_assert!(!before.is_empty() || config.plan().is_ok());
            for fault in &before {
                let remedies = fault.remedies(&config);
                let may_need_two = [SizeFault::NoRoom, SizeFault::CapacityTooLarge].contains(fault);
                let is_helpless = remedies.is_empty() && !may_need_two;
                prop_assert!(!is_helpless, "{:?} {:?}", before, texts(&config));
                for remedy in remedies {
                    let after = faults(&remedy.key.with(&config, remedy.bytes));
                    prop_assert!(after.len() < before.len() && !after.contains(fault));
                    prop_assert!(after.iter().all(|fault| before.contains(fault)));
                }
            }
        }
    }

    /// Sizes around powers of two, none, and any.
    fn size() -> impl Strategy<Value = usize> {
        prop_oneof![
            1 => Just(0),
            4 => (0u32..usize::BITS).prop_map(|order| 1 << order),
            2 => (0u32..usize::BITS, 0usize..3)
                .prop_map(|(order, more)| (1usize << order).saturating_add(more) - 1),
            1 => 0usize..1 << 22,
            1 => any::<usize>(),
        ]
    }
}
