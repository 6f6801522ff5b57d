//! `Config`: what a server may use, and every reason why it could not work.

use std::{fmt, time::Duration};

use tokio::sync::Semaphore;

use crate::{
    memory::{MemoryError, Plan, PlanError, READ_BLOCK_BYTES_MIN},
    size::Size,
    transport::Timeouts,
};

/// The longest timeout. Longer ones would not fit every clock.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest payload that a header can announce.
const PAYLOAD_BYTES_MAX: u64 = u32::MAX as u64;

/// What a server may use.
///
/// ```
/// use arena_echo::{Config, Server};
///
/// let config = Config { capacity_bytes: 1 << 20, ..Config::buddy() };
/// let error = Server::new(&config).unwrap_err();
/// assert!(error.to_string().contains("set --capacity to at least 2MiB"));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How the memory is cut.
    pub arena: ArenaKind,
    /// All payload memory of the server.
    pub capacity_bytes: usize,
    /// The longest payload that is answered.
    pub max_frame_bytes: usize,
    /// Bytes of the heap for frames that fit into no slot or block. Zero: there are none.
    pub spill_bytes: usize,
    /// Where the reply lies.
    pub reply: Reply,
    /// Connections at once. Further ones wait in the queue of the listener.
    pub max_connections: usize,
    /// How long a peer may take until its first byte. `None`: for ever.
    pub first_byte_timeout: Option<Duration>,
    /// How long a peer may take between two frames. `None`: for ever.
    pub idle_timeout: Option<Duration>,
    /// How long a peer may take from the first byte of a frame to its last.
    pub frame_timeout: Duration,
    /// How long a peer may take none of its reply.
    pub write_timeout: Duration,
    /// How long a connection waits for memory.
    pub memory_timeout: Duration,
    /// How long connections may take to end once the server stops.
    pub drain_timeout: Duration,
}

/// How the memory of a server is cut.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ArenaKind {
    /// Slots of one size.
    Fixed {
        /// Bytes of a slot.
        slot_bytes: usize,
    },
    /// Blocks of powers of two.
    Buddy {
        /// Bytes of the smallest block.
        min_block_bytes: usize,
    },
}

/// Where the reply to a request lies.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Reply {
    /// In the memory of the request itself.
    #[default]
    Share,
    /// In a frame of its own, for which the server waits if there is no memory.
    Copy,
}

impl Config {
    /// Returns the defaults of a server with slots.
    pub fn fixed() -> Self {
        let slot_bytes = 64 << 10;
        // Without its header, a payload may fill a slot.
        Self {
            arena: ArenaKind::Fixed { slot_bytes },
            max_frame_bytes: slot_bytes,
            ..Self::buddy()
        }
    }

    /// Returns the defaults of a server with blocks of powers of two.
    pub fn buddy() -> Self {
        Self {
            arena: ArenaKind::Buddy { min_block_bytes: 256 },
            capacity_bytes: 64 << 20,
            max_frame_bytes: 1 << 20,
            spill_bytes: 0,
            reply: Reply::Share,
            max_connections: 10_000,
            first_byte_timeout: Some(Duration::from_secs(30)),
            idle_timeout: Some(Duration::from_secs(5 * 60)),
            // Long enough for a slow network, short enough to wait for behind a peer that is gone.
            frame_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(10),
            // Outlasts a holder that uses up both of the above.
            memory_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
        }
    }

    /// Returns every reason why this cannot work, each with what to change.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = self.size_problems();
        // What follows divides by sizes and multiplies them, so those come first.
        if problems.is_empty() {
            problems.extend(self.progress_problem());
        }
        problems.extend(self.limit_problems());
        problems
    }

    fn size_problems(&self) -> Vec<Problem> {
        let mut problems = self.frame_problems();
        match self.arena {
            ArenaKind::Fixed { slot_bytes } => problems.extend(self.slot_problems(slot_bytes)),
            ArenaKind::Buddy { min_block_bytes } => {
                problems.extend(self.block_problems(min_block_bytes));
            }
        }
        problems
    }

    fn frame_problems(&self) -> Vec<Problem> {
        let max_frame = Problem::about("--max-frame", Size(self.max_frame_bytes));
        let mut problems = Vec::new();
        if self.max_frame_bytes == 0 {
            problems.push(max_frame.because("no payload would be allowed; set it to at least 1"));
        } else if self.max_frame_bytes as u64 > PAYLOAD_BYTES_MAX {
            problems.push(max_frame.because(format_args!(
                "a header cannot announce so much; set it to at most {PAYLOAD_BYTES_MAX}"
            )));
        }
        problems
    }

    fn slot_problems(&self, slot_bytes: usize) -> Vec<Problem> {
        let Self { capacity_bytes, max_frame_bytes, .. } = *self;
        let slot_size = Problem::about("--slot-size", Size(slot_bytes));
        let mut problems = Vec::new();
        if slot_bytes < READ_BLOCK_BYTES_MIN {
            problems.push(slot_size.because(format_args!(
                "a slot must hold a header and some of a payload; \
                 set it to at least {READ_BLOCK_BYTES_MIN}"
            )));
        } else if slot_bytes > capacity_bytes {
            problems.push(slot_size.and("--capacity").because(format_args!(
                "no slot would fit into --capacity {}; set --slot-size to at most {0}, \
                 or --capacity to at least {}",
                Size(capacity_bytes),
                Size(slot_bytes)
            )));
        }
        if max_frame_bytes > slot_bytes && self.spill_bytes == 0 {
            let max_frame = Problem::about("--max-frame", Size(max_frame_bytes));
            problems.push(max_frame.and("--slot-size").because(format_args!(
                "a payload must fit into one slot, or go to the heap; set --max-frame to at most {}, \
                 or --slot-size to at least {}, or --spill to at least {}",
                Size(slot_bytes),
                Size(max_frame_bytes),
                Size(max_frame_bytes.saturating_mul(2))
            )));
        }
        problems
    }

    fn block_problems(&self, min_block_bytes: usize) -> Vec<Problem> {
        let sizes = [("--capacity", self.capacity_bytes), ("--min-block", min_block_bytes)];
        let mut problems: Vec<_> = sizes
            .into_iter()
            .filter(|(_, bytes)| !bytes.is_power_of_two())
            .map(|(flag, bytes)| {
                Problem::about(flag, Size(bytes)).because(format_args!(
                    "buddy mode needs a power of two; set it to {}",
                    powers_of_two_beside(bytes)
                ))
            })
            .collect();
        if min_block_bytes > self.capacity_bytes {
            let min_block = Problem::about("--min-block", Size(min_block_bytes));
            problems.push(min_block.and("--capacity").because(format_args!(
                "no block would fit into --capacity {}; set --min-block to at most {0}",
                Size(self.capacity_bytes)
            )));
        }
        problems
    }

    /// Adds up what connections can need.
    pub(crate) fn plan(&self) -> Result<Plan, PlanError> {
        let Self { capacity_bytes, max_frame_bytes, spill_bytes, .. } = *self;
        match self.arena {
            ArenaKind::Fixed { slot_bytes } => {
                Plan::fixed(capacity_bytes, slot_bytes, max_frame_bytes, spill_bytes)
            }
            ArenaKind::Buddy { min_block_bytes } => {
                Plan::buddy(capacity_bytes, min_block_bytes, max_frame_bytes, spill_bytes)
            }
        }
    }

    /// How long connections wait for what.
    pub(crate) fn timeouts(&self) -> Timeouts {
        Timeouts {
            first_byte: self.first_byte_timeout,
            idle: self.idle_timeout,
            frame: Some(self.frame_timeout),
            write: Some(self.write_timeout),
            memory: Some(self.memory_timeout),
        }
    }

    /// A server in which connections could wait for each other for ever.
    fn progress_problem(&self) -> Option<Problem> {
        let error = self.plan().err()?;
        let capacity = Problem::about("--capacity", Size(self.capacity_bytes));
        let max_frame = Problem::about("--max-frame", Size(self.max_frame_bytes));
        Some(match error {
            PlanError::CapacityTooSmall { needed_bytes, .. } => {
                let smaller = match self.arena {
                    ArenaKind::Fixed { .. } => {
                        format!("--slot-size to at most {}", Size(self.capacity_bytes / 2))
                    }
                    ArenaKind::Buddy { .. } => {
                        format!("--max-frame to at most {}", Size(self.capacity_bytes / 2))
                    }
                };
                capacity.and(smaller_flag(self.arena)).because(format_args!(
                    "{error}; set --capacity to at least {}, or {smaller}",
                    Size(needed_bytes)
                ))
            }
            PlanError::FrameNeedsSpill { .. } => max_frame.and("--spill").because(format_args!(
                "{error}; set --spill to at least {}, or a smaller --max-frame",
                Size(self.max_frame_bytes.saturating_mul(2))
            )),
            PlanError::SpillTooSmall { needed_bytes } => {
                let spill = Problem::about("--spill", Size(self.spill_bytes));
                spill.and("--max-frame").because(format_args!(
                    "{error}; set --spill to at least {}, or a smaller --max-frame",
                    Size(needed_bytes)
                ))
            }
            other => capacity.because(other),
        })
    }

    fn limit_problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if !(1..=Semaphore::MAX_PERMITS).contains(&self.max_connections) {
            let max_connections = Problem::about("--max-connections", self.max_connections);
            problems.push(max_connections.because(format_args!(
                "set it to at least 1 and at most {}",
                Semaphore::MAX_PERMITS
            )));
        }
        let timeouts = [
            ("--frame-timeout", self.frame_timeout),
            ("--write-timeout", self.write_timeout),
            ("--memory-timeout", self.memory_timeout),
        ];
        for (flag, timeout) in timeouts {
            if timeout.is_zero() {
                let timeout = Problem::about(flag, "0s");
                problems.push(timeout.because("no peer is that fast; set it to at least 1ms"));
            }
        }
        for (flag, timeout) in timeouts.into_iter().chain([("--drain-timeout", self.drain_timeout)])
        {
            if timeout > TIMEOUT_MAX {
                let timeout = Problem::about(flag, humantime::format_duration(timeout));
                problems.push(timeout.because(format_args!(
                    "set it to at most {}",
                    humantime::format_duration(TIMEOUT_MAX)
                )));
            }
        }
        problems
    }
}

/// One reason why a configuration cannot work.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    flag: &'static str,
    value: String,
    other_flag: Option<&'static str>,
    reason: String,
}

impl Problem {
    /// Begins a problem with the value of a flag.
    pub fn about(flag: &'static str, value: impl fmt::Display) -> Self {
        Self { flag, value: value.to_string(), other_flag: None, reason: String::new() }
    }

    /// Names another flag that takes part.
    #[must_use]
    fn and(mut self, other_flag: &'static str) -> Self {
        self.other_flag = Some(other_flag);
        self
    }

    /// Says what is wrong, and what to change.
    #[must_use]
    pub fn because(mut self, reason: impl fmt::Display) -> Self {
        self.reason = reason.to_string();
        self
    }

    /// Returns whether the value of `flag` takes part in it.
    pub fn involves(&self, flag: &str) -> bool {
        self.flag == flag || self.other_flag == Some(flag)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { flag, value, reason, .. } = self;
        write!(f, "{flag} {value}: {reason}")
    }
}

/// A configuration that cannot work, with every reason.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}", lines(.problems))]
pub struct ConfigError {
    problems: Vec<Problem>,
}

impl ConfigError {
    /// Collects the reasons, if there are any.
    ///
    /// # Errors
    ///
    /// The reasons.
    pub fn check(problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self { problems }) }
    }

    /// Says that the system refuses what the configuration asks for.
    pub(crate) fn unbuildable(config: &Config, error: MemoryError) -> Self {
        let capacity = Problem::about("--capacity", Size(config.capacity_bytes));
        Self { problems: vec![capacity.because(error)] }
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

/// The flag that makes the largest frame smaller.
fn smaller_flag(arena: ArenaKind) -> &'static str {
    match arena {
        ArenaKind::Fixed { .. } => "--slot-size",
        ArenaKind::Buddy { .. } => "--max-frame",
    }
}

/// The powers of two on both sides of `bytes`, which is none.
fn powers_of_two_beside(bytes: usize) -> String {
    let below = bytes.checked_ilog2().map(|order| Size(1 << order).to_string());
    let above = bytes.checked_next_power_of_two().map(|above| Size(above).to_string());
    [below, above].into_iter().flatten().collect::<Vec<_>>().join(" or ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::memory::Memory;

    fn texts(config: &Config) -> Vec<String> {
        config.problems().iter().map(Problem::to_string).collect()
    }

    #[test]
    fn the_defaults_work() {
        assert_eq!(texts(&Config::fixed()), [""; 0]);
        assert_eq!(texts(&Config::buddy()), [""; 0]);
    }

    #[test]
    fn a_frame_must_fit_into_a_slot() {
        let config = Config { max_frame_bytes: 1 << 20, ..Config::fixed() };
        let expected = "--max-frame 1MiB: a payload must fit into one slot, or go to the heap; \
                        set --max-frame to at most 64KiB, or --slot-size to at least 1MiB, \
                        or --spill to at least 2MiB";
        assert_eq!(texts(&config), [expected]);
    }

    #[test]
    fn the_capacity_must_let_one_connection_progress() {
        let config = Config { capacity_bytes: 1 << 20, ..Config::buddy() };
        let expected = "--capacity 1MiB: requests need a block of 1MiB and replies another, so that \
                        neither waits for the other; there must be at least 2MiB in all; \
                        set --capacity to at least 2MiB, or --max-frame to at most 512KiB";
        assert_eq!(texts(&config), [expected]);
    }

    #[test]
    fn blocks_are_powers_of_two() {
        let arena = ArenaKind::Buddy { min_block_bytes: 300 };
        let config = Config { arena, capacity_bytes: 3 << 20, ..Config::buddy() };
        let expected = [
            "--capacity 3MiB: buddy mode needs a power of two; set it to 2MiB or 4MiB",
            "--min-block 300: buddy mode needs a power of two; set it to 256 or 512",
        ];
        assert_eq!(texts(&config), expected);
    }

    #[test]
    fn every_problem_is_found_at_once() {
        let config = Config {
            max_frame_bytes: 0,
            max_connections: 0,
            frame_timeout: Duration::ZERO,
            drain_timeout: Duration::MAX,
            ..Config::buddy()
        };
        let problems = config.problems();
        let flags: Vec<_> = problems.iter().map(|problem| problem.flag).collect();
        let expected = ["--max-frame", "--max-connections", "--frame-timeout", "--drain-timeout"];
        assert_eq!(flags, expected);
    }

    proptest! {
        /// Whatever is accepted can be built and serves the largest frame; whatever is refused says
        /// why.
        #[test]
        fn what_has_no_problem_works(
            is_fixed: bool,
            block_bytes in size(), max_frame_bytes in size(),
            // No more than a test may reserve.
            capacity_bytes in size().prop_map(|bytes| bytes.min(1 << 24)),
        ) {
            let arena = match is_fixed {
                true => ArenaKind::Fixed { slot_bytes: block_bytes },
                false => ArenaKind::Buddy { min_block_bytes: block_bytes },
            };
            let config = Config { arena, capacity_bytes, max_frame_bytes, ..Config::buddy() };
            if !config.problems().is_empty() {
                return Ok(());
            }
            let plan = config.plan().map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert!(Memory::new(plan).is_ok());
        }
    }

    /// Sizes up to 1 MiB, powers of two more often than not, and huge ones.
    fn size() -> impl Strategy<Value = usize> {
        prop_oneof![
            4 => (0u32..=20).prop_map(|order| 1 << order),
            2 => 0usize..1 << 20,
            1 => (20u32..usize::BITS).prop_map(|order| 1 << order),
        ]
    }
}
