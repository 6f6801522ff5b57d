//! `Config`: what a server may use, and every reason why it could not work.

use std::{fmt, time::Duration};

use crate::{
    memory::{Memory, MemoryError, Plan, PlanError},
    size::Size,
    sizes,
    transport::Timeouts,
};

/// The shortest timeout: what a clock of the runtime tells apart.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// The longest timeout. Longer ones would not fit every clock.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// More connections than any system has file descriptors for.
const CONNECTIONS_MAX: usize = 1 << 30;

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
    /// Heap memory, beside the capacity, for frames that are longer than a slot. Zero for none.
    pub spill_bytes: usize,
    /// What a response is made of.
    pub reply: Reply,
    /// Connections at once. Further ones wait in the queue of the listener.
    pub max_connections: usize,
    /// How long a peer may take to its first byte. `None` for ever.
    pub first_byte_timeout: Option<Duration>,
    /// How long a peer may be silent between frames. `None` for ever.
    pub idle_timeout: Option<Duration>,
    /// How long a peer may take from the first byte of a frame to its last.
    pub frame_timeout: Duration,
    /// How long the system may take no more of a reply. A peer that takes 256 KiB in this time is
    /// not closed.
    pub write_timeout: Duration,
    /// How long a peer may keep memory for which others wait, and move less than 64 KiB. The time
    /// of a handler, or until there is memory for replies, does not count.
    pub stall_timeout: Duration,
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

/// What a response is made of.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Reply {
    /// The memory of the request itself.
    #[default]
    Share,
    /// A frame of its own, for which the server waits if there is no memory.
    Copy,
}

/// What connections obey: the part of a [`Config`] that a running server can take over.
///
/// A connection keeps the limits that held when it was accepted. The number of connections and the
/// drain timeout concern the whole server, and hold at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Limits {
    /// See [`Config::max_connections`].
    pub max_connections: usize,
    /// See [`Config::first_byte_timeout`].
    pub first_byte_timeout: Option<Duration>,
    /// See [`Config::idle_timeout`].
    pub idle_timeout: Option<Duration>,
    /// See [`Config::frame_timeout`].
    pub frame_timeout: Duration,
    /// See [`Config::write_timeout`].
    pub write_timeout: Duration,
    /// See [`Config::memory_timeout`].
    pub memory_timeout: Duration,
    /// See [`Config::drain_timeout`].
    pub drain_timeout: Duration,
}

impl Limits {
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
            // The bound on memory is a bound until somebody asks for more.
            spill_bytes: 0,
            reply: Reply::Share,
            max_connections: 10_000,
            // Whoever connects has something to say; a port scanner has not.
            first_byte_timeout: Some(Duration::from_secs(30)),
            // An idle connection costs a descriptor and no arena memory, so it may stay for long.
            idle_timeout: Some(Duration::from_secs(5 * 60)),
            // Long enough for a slow network, short enough to wait for behind a peer that is gone.
            frame_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(10),
            // Long enough for a lost packet to be sent again.
            stall_timeout: Memory::STALL_TIMEOUT,
            // Outlasts a holder that uses up the frame timeout and the write timeout.
            memory_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
        }
    }

    /// Returns what a running server can take over of this.
    pub fn limits(&self) -> Limits {
        Limits {
            max_connections: self.max_connections,
            first_byte_timeout: self.first_byte_timeout,
            idle_timeout: self.idle_timeout,
            frame_timeout: self.frame_timeout,
            write_timeout: self.write_timeout,
            memory_timeout: self.memory_timeout,
            drain_timeout: self.drain_timeout,
        }
    }

    /// Returns the same with other limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self {
            max_connections: limits.max_connections,
            first_byte_timeout: limits.first_byte_timeout,
            idle_timeout: limits.idle_timeout,
            frame_timeout: limits.frame_timeout,
            write_timeout: limits.write_timeout,
            memory_timeout: limits.memory_timeout,
            drain_timeout: limits.drain_timeout,
            ..self
        }
    }

    /// Returns every reason why this cannot work, each with what to change.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = sizes::problems(self);
        problems.extend(self.limit_problems());
        problems
    }

    /// Adds up what connections can need.
    ///
    /// # Errors
    ///
    /// [`PlanError`] if the sizes do not let every connection progress.
    /// [`problems`](Self::problems) knows more reasons.
    pub fn plan(&self) -> Result<Plan, PlanError> {
        let Self { capacity_bytes, max_frame_bytes, spill_bytes, .. } = *self;
        match self.arena {
            ArenaKind::Fixed { slot_bytes } => {
                Plan::fixed(capacity_bytes, slot_bytes, max_frame_bytes, spill_bytes)
            }
            ArenaKind::Buddy { min_block_bytes } => {
                Plan::buddy(capacity_bytes, min_block_bytes, max_frame_bytes)
            }
        }
    }

    fn limit_problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if !(1..=CONNECTIONS_MAX).contains(&self.max_connections) {
            let max_connections = Problem::about("--max-connections", self.max_connections);
            problems.push(
                max_connections
                    .because(format_args!("set it to at least 1 and at most {}", CONNECTIONS_MAX)),
            );
        }
        problems.extend(self.timeout_problems());
        problems
    }

    fn timeout_problems(&self) -> impl Iterator<Item = Problem> {
        let timeouts = [
            ("--first-byte-timeout", self.first_byte_timeout),
            ("--idle-timeout", self.idle_timeout),
            ("--frame-timeout", Some(self.frame_timeout)),
            ("--write-timeout", Some(self.write_timeout)),
            ("--stall-timeout", Some(self.stall_timeout)),
            ("--memory-timeout", Some(self.memory_timeout)),
            ("--drain-timeout", Some(self.drain_timeout)),
        ];
        timeouts.into_iter().filter_map(|(flag, timeout)| {
            let timeout = timeout?;
            let problem = Problem::about(flag, humantime::format_duration(timeout));
            let [shortest, longest] = [TIMEOUT_MIN, TIMEOUT_MAX].map(humantime::format_duration);
            if timeout < TIMEOUT_MIN {
                return match flag {
                    // Draining may take no time at all: then everything is cut off.
                    "--drain-timeout" if timeout.is_zero() => None,
                    "--drain-timeout" => Some(
                        problem.because(format_args!("set it to 0s, or to at least {shortest}")),
                    ),
                    _ => Some(problem.because(format_args!(
                        "no peer is that fast; set it to at least {shortest}"
                    ))),
                };
            }
            (timeout > TIMEOUT_MAX)
                .then(|| problem.because(format_args!("set it to at most {longest}")))
        })
    }
}

/// One reason why a configuration cannot work.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    involved: Vec<(&'static str, String)>,
    reason: String,
}

impl Problem {
    /// Begins a problem with the value of a flag.
    pub fn about(flag: &'static str, value: impl fmt::Display) -> Self {
        Self { involved: vec![(flag, value.to_string())], reason: String::new() }
    }

    /// Names another flag that takes part, and its value.
    #[must_use]
    pub fn and(mut self, flag: &'static str, value: impl fmt::Display) -> Self {
        self.involved.push((flag, value.to_string()));
        self
    }

    /// Says what is wrong, and what to change.
    #[must_use]
    pub fn because(mut self, reason: impl fmt::Display) -> Self {
        self.reason = reason.to_string();
        self
    }

    /// Returns the flags whose values take part in it, with these.
    pub fn involved(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.involved.iter().map(|(flag, value)| (*flag, value.as_str()))
    }

    /// Returns what is wrong, and what to change.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (flag, value)) in self.involved().enumerate() {
            let with = if index == 0 { "" } else { " with " };
            write!(f, "{with}{flag} {value}")?;
        }
        write!(f, ": {}", self.reason)
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
    pub(crate) fn check(problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self { problems }) }
    }

    /// Returns the reasons.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
        let expected = "--max-frame 1MiB with --slot-size 64KiB: a longer frame than a block of \
                        64KiB needs the heap beside the arena; set --max-frame to at most 64KiB, \
                        or --slot-size to at least 1MiB, or --spill to at least 2MiB";
        assert_eq!(texts(&config), [expected]);
    }

    #[test]
    fn two_of_the_longest_frames_must_be_able_to_spill() {
        let config = Config { max_frame_bytes: 1 << 20, spill_bytes: 2 << 20, ..Config::fixed() };
        assert_eq!(texts(&config), [""; 0]);

        let expected = "--spill 1048577 with --max-frame 1MiB: a frame of the largest size and its \
                        reply need 2MiB of the heap; set --spill to at least 2MiB, \
                        or --max-frame to at most 512KiB";
        assert_eq!(texts(&Config { spill_bytes: (1 << 20) + 1, ..config }), [expected]);
    }

    #[test]
    fn limits_are_taken_over_and_nothing_else() {
        let other = Config {
            max_connections: 7,
            first_byte_timeout: None,
            idle_timeout: None,
            frame_timeout: Duration::from_secs(1),
            write_timeout: Duration::from_secs(2),
            memory_timeout: Duration::from_secs(3),
            drain_timeout: Duration::from_secs(4),
            ..Config::fixed()
        };
        let taken = Config::buddy().with_limits(other.limits());
        assert_eq!(taken.limits(), other.limits());
        assert_eq!(taken.arena, Config::buddy().arena);
    }

    #[test]
    fn the_capacity_must_let_one_connection_progress() {
        let config = Config { capacity_bytes: 1 << 20, ..Config::buddy() };
        let expected = "--capacity 1MiB with --max-frame 1MiB: requests need a block of 1MiB and \
                        replies another, so that neither waits for the other: 2MiB in all; \
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
        let flags: Vec<_> = problems.iter().map(|problem| problem.involved[0].0).collect();
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
            prop_assert!(Memory::new(plan, config.stall_timeout).is_ok());
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
