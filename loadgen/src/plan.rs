//! What a run is to do, checked before anything starts.
//!
//! [`Plan`] is a plain struct: fill in what differs from the defaults. [`Plan::check`] finds
//! everything that is wrong with it at once, and names each part by the flag that sets it.

use std::{fmt, time::Duration};

use thiserror::Error;

use crate::{address::Address, payload::CONNECTIONS_MAX, size::Sizes};

/// How many connections there are unless the plan says otherwise.
pub(crate) const DEFAULT_CONNECTIONS: u32 = 10;
/// How long the load lasts unless the plan says otherwise.
pub(crate) const DEFAULT_DURATION: Duration = Duration::from_secs(10);
/// How long a load that time ends warms up unless the plan says otherwise.
pub(crate) const DEFAULT_WARM_UP: Duration = Duration::from_secs(2);
/// How large payloads are unless the plan says otherwise.
pub(crate) const DEFAULT_PAYLOAD_BYTES: u32 = 64;

const THREADS_MAX: u32 = 1024;
/// Deep enough for any link, small enough that a batch's size always fits.
const PIPELINE_MAX: u32 = 1 << 16;

/// Everything that a run does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server. `None` takes it from what [`command`](Self::command) announces.
    pub target: Option<Address>,
    /// A server to start, with its arguments, and to stop afterwards. Empty: the server runs
    /// already.
    pub command: Vec<String>,
    /// Connections, at least 1.
    pub connections: u32,
    /// Threads, at least 1. More than connections are useless: see
    /// [`threads_used`](Self::threads_used).
    pub threads: u32,
    /// Requests in flight per connection, at least 1.
    pub pipeline: u32,
    /// How long to measure. `None`: until [`requests`](Self::requests) are sent.
    pub duration: Option<Duration>,
    /// How many measured requests to send. `None`: until [`duration`](Self::duration) is over. With
    /// both, whatever comes first.
    pub requests: Option<u64>,
    /// How long to load before measuring begins.
    pub warm_up: Duration,
    /// Payload sizes, without the length in front.
    pub sizes: Sizes,
    /// What all payloads follow from.
    pub seed: u64,
    /// After this long a request counts as an error and its connection is closed.
    pub timeout: Option<Duration>,
    /// The process whose CPU time and memory are reported. Not needed with
    /// [`command`](Self::command).
    pub server_pid: Option<u32>,
    /// How often progress is reported.
    pub interval: Duration,
}

/// One thing that is wrong with a plan.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// The flag that is to be changed, or `TARGET`.
    pub flag: &'static str,
    /// What is wrong and what would be right: a sentence whose subject is the flag.
    pub reason: String,
}

/// Everything that is wrong with a plan.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{}", .problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct PlanError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl Plan {
    /// Makes a plan with every default for this server.
    #[must_use]
    pub fn for_target(target: Address) -> Self {
        Self { target: Some(target), ..Self::default() }
    }

    /// How many threads there will be: never more than connections.
    #[must_use]
    pub fn threads_used(&self) -> u32 {
        self.threads.min(self.connections)
    }

    /// Finds everything that is wrong.
    ///
    /// # Errors
    ///
    /// [`PlanError`] with each problem and the flag that solves it.
    pub fn check(&self) -> Result<(), PlanError> {
        let mut problems = Vec::new();
        let mut rule = |is_kept: bool, flag, reason: String| {
            if !is_kept {
                problems.push(Problem { flag, reason });
            }
        };
        let within = |value: u32, limit: u32| (1..=limit).contains(&value);
        rule(
            self.target.is_some() || !self.command.is_empty(),
            "TARGET",
            "is missing; write host:port or :port, or put a server's command after `--`".to_owned(),
        );
        rule(
            within(self.connections, CONNECTIONS_MAX),
            "--connections",
            format!("is {}; it must be 1 to {CONNECTIONS_MAX}", self.connections),
        );
        rule(
            within(self.threads, THREADS_MAX),
            "--threads",
            format!("is {}; it must be 1 to {THREADS_MAX}", self.threads),
        );
        rule(
            within(self.pipeline, PIPELINE_MAX),
            "--pipeline",
            format!("is {}; it must be 1 to {PIPELINE_MAX}", self.pipeline),
        );
        let problem = self.sizes.problem();
        rule(problem.is_none(), "--size", problem.unwrap_or_default());
        rule(
            self.duration.is_some() || self.requests.is_some(),
            "--duration",
            "is missing, and so is --requests: one of them must end the load".to_owned(),
        );
        rule(
            self.duration.is_none_or(|duration| !duration.is_zero()),
            "--duration",
            "is zero; it must be longer".to_owned(),
        );
        rule(self.requests != Some(0), "--requests", "is 0; it must be at least 1".to_owned());
        rule(
            self.timeout.is_none_or(|timeout| !timeout.is_zero()),
            "--timeout",
            "is zero; it must be longer".to_owned(),
        );
        rule(!self.interval.is_zero(), "--interval", "is zero; it must be longer".to_owned());
        rule(
            self.server_pid.is_none() || self.command.is_empty(),
            "--server-pid",
            "cannot be given with a command after `--`: its process is known".to_owned(),
        );
        if problems.is_empty() { Ok(()) } else { Err(PlanError { problems }) }
    }
}

impl Default for Plan {
    /// The plan of a command line without flags. One thing differs: there is one thread, so that a
    /// test that embeds a run does not take all cores.
    fn default() -> Self {
        Self {
            target: None,
            command: Vec::new(),
            connections: DEFAULT_CONNECTIONS,
            threads: 1,
            pipeline: 1,
            duration: Some(DEFAULT_DURATION),
            requests: None,
            warm_up: DEFAULT_WARM_UP,
            sizes: Sizes::Fixed(DEFAULT_PAYLOAD_BYTES),
            seed: 0,
            timeout: None,
            server_pid: None,
            interval: Duration::from_secs(1),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.flag, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan::for_target("127.0.0.1:9000".parse().unwrap())
    }

    #[track_caller]
    fn blames(plan: &Plan, flags: &[&str]) {
        let problems = plan.check().unwrap_err().problems;
        assert_eq!(problems.iter().map(|problem| problem.flag).collect::<Vec<_>>(), flags);
    }

    #[test]
    fn the_defaults_are_a_plan_once_there_is_a_target() {
        assert_eq!(plan().check(), Ok(()));
        blames(&Plan::default(), &["TARGET"]);
    }

    #[test]
    fn a_command_stands_for_the_target() {
        let plan = Plan { command: vec!["server".to_owned()], ..Plan::default() };
        assert_eq!(plan.check(), Ok(()));
    }

    #[test]
    fn everything_that_is_wrong_is_found_at_once() {
        let plan = Plan {
            connections: 0,
            threads: 0,
            pipeline: 0,
            sizes: Sizes::Fixed(u32::MAX),
            duration: Some(Duration::ZERO),
            requests: Some(0),
            timeout: Some(Duration::ZERO),
            ..plan()
        };
        let all = [
            "--connections",
            "--threads",
            "--pipeline",
            "--size",
            "--duration",
            "--requests",
            "--timeout",
        ];
        blames(&plan, &all);
    }

    #[test]
    fn something_must_end_the_load() {
        blames(&Plan { duration: None, requests: None, ..plan() }, &["--duration"]);
    }

    #[test]
    fn there_are_never_more_threads_than_connections() {
        assert_eq!(Plan { connections: 3, threads: 8, ..plan() }.threads_used(), 3);
    }
}
