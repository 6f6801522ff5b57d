//! What a run is to do, checked before anything starts.
//!
//! [`Plan`] is a plain struct: fill in what differs from the defaults. [`Plan::check`] finds
//! everything that is wrong with it at once, and names each part by the flag that sets it.

pub(crate) mod adversaries;
pub(crate) mod rate;
pub(crate) mod slo;

use std::{fmt, num::NonZeroU64, str::FromStr, time::Duration};

use thiserror::Error;

use crate::{
    net::address::Address,
    payload::{CONNECTIONS_MAX, size::Sizes},
    plan::{
        adversaries::Adversaries,
        rate::{Arrival, Rate},
        slo::Slo,
    },
    server::metrics::MetricsUrl,
    tls::{self, Tls},
    units,
};

/// How many connections there are unless the plan says otherwise.
pub(crate) const DEFAULT_CONNECTIONS: u32 = 10;
/// How long the load lasts unless the plan says otherwise.
pub(crate) const DEFAULT_DURATION: Duration = Duration::from_secs(10);
/// How long a load that time ends warms up unless the plan says otherwise.
pub(crate) const DEFAULT_WARM_UP: Duration = Duration::from_secs(2);
/// How large payloads are unless the plan says otherwise.
pub(crate) const DEFAULT_PAYLOAD_BYTES: u32 = 64;

pub(crate) const THREADS_MAX: u32 = 1024;
/// Deep enough for any link, small enough that a batch's size always fits.
pub(crate) const PIPELINE_MAX: u32 = 1 << 16;
/// Reports that come more often cost more than the load.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Everything that a run does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server. `None` takes it from what [`command`](Self::command) announces.
    pub target: Option<Address>,
    /// A server to start, with its arguments, and to stop afterwards. Empty: the server runs
    /// already.
    pub command: Vec<String>,
    /// Whether what that server writes to its standard error is held back, and shown only if it
    /// does not start or ends by itself. For runs that follow each other.
    pub holds_server_output: bool,
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
    /// How many requests are sent.
    pub rate: Rate,
    /// How they are spread over time. With [`Rate::Max`] nothing but the replies says when, and
    /// this stays [`Arrival::Fixed`].
    pub arrival: Arrival,
    /// Over how long the connections are opened, one after the other. It comes before the warm-up.
    pub ramp_up: Duration,
    /// How connections are encrypted, if they are. It does not hold for
    /// [`metrics`](Self::metrics).
    pub tls: Option<Tls>,
    /// When a connection is changed for another.
    pub reconnect_every: Option<ReconnectEvery>,
    /// Clients that behave badly, beside the connections.
    pub adversaries: Adversaries,
    /// What of the replies is checked.
    pub verify: Verify,
    /// Whether each thread stays on one CPU.
    pub pin: Pin,
    /// What all payloads and random arrivals follow from.
    pub seed: u64,
    /// After this long a request counts as an error and its connection is closed.
    pub timeout: Option<Duration>,
    /// How long replies are awaited once the load has ended. `None`: for
    /// [`timeout`](Self::timeout), or as long as the replies so far give reason to.
    pub drain_timeout: Option<Duration>,
    /// The process whose CPU time and memory are reported. Not needed with
    /// [`command`](Self::command).
    pub server_pid: Option<u32>,
    /// How often progress is reported, at least 10 ms.
    pub interval: Duration,
    /// The page on which the server tells of its arena.
    pub metrics: Option<MetricsUrl>,
    /// Whether, without [`metrics`](Self::metrics), the page is read that a server announces which
    /// the run starts: as `admin on ADDR`, right after `listening on ADDR`.
    pub finds_metrics: bool,
    /// What the run must reach.
    pub slo: Option<Slo>,
}

/// What of the replies is compared with what must come. Their length always counts.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Verify {
    /// Every byte.
    #[default]
    Full,
    /// Every byte of one in so many replies of each connection.
    Sample(NonZeroU64),
    /// Nothing.
    None,
}

/// When a connection is closed, once all its requests are answered, and made anew.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReconnectEvery {
    /// After so many requests.
    Requests(NonZeroU64),
    /// After so much time.
    Time(Duration),
}

/// Whether each thread stays on one CPU.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Pin {
    /// If that leaves a CPU for the server.
    Auto,
    /// Yes.
    On,
    /// No.
    #[default]
    Off,
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

    /// How many measured requests a connection sends, if their number is limited. They are dealt
    /// out one by one, beginning with the connection `first`, so that regular arrivals are the next
    /// ones of the timetable.
    pub(crate) fn requests_of(&self, connection: u32, first: u32) -> Option<u64> {
        let requests = self.requests?;
        let [connections, connection, first] = [self.connections, connection, first].map(u64::from);
        let turn = (connection + connections - first) % connections;
        let has_one_more = turn < requests % connections;
        Some(requests / connections + u64::from(has_one_more))
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
        let problem = self.rate.problem();
        rule(problem.is_none(), "--rate", problem.unwrap_or_default());
        rule(
            self.duration.is_some() || !matches!(self.rate, Rate::Ramp { .. }),
            "--rate",
            "is a ramp; it needs a --duration over which to rise or fall".to_owned(),
        );
        rule(
            self.arrival == Arrival::Fixed || self.rate != Rate::Max,
            "--arrival",
            format!(
                "is {}, which says when requests are due; it needs a --rate such as 20k",
                self.arrival.word()
            ),
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
        rule(
            self.interval >= INTERVAL_MIN,
            "--interval",
            format!(
                "is {}; it must be at least {}",
                units::time_beside(self.interval, INTERVAL_MIN),
                units::time_of(INTERVAL_MIN)
            ),
        );
        rule(
            self.server_pid.is_none() || self.command.is_empty(),
            "--server-pid",
            "cannot be given with a command after `--`: its process is known".to_owned(),
        );
        if let (Some(tls), Some(target)) = (&self.tls, &self.target) {
            let problem = tls.name_of(target).err();
            rule(problem.is_none(), tls::NAME, problem.unwrap_or_default());
        }
        if problems.is_empty() { Ok(()) } else { Err(PlanError { problems }) }
    }
}

impl Verify {
    /// How it is written on the command line.
    #[must_use]
    pub fn words(self) -> String {
        match self {
            Self::Full => "full".to_owned(),
            Self::Sample(one_in) => format!("sample:{one_in}"),
            Self::None => "none".to_owned(),
        }
    }
}

impl FromStr for Verify {
    type Err = String;

    /// Reads [its words](Self::words). The error is a sentence without subject.
    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("is `{text}`; it must be full, sample:N or none");
        match text.split_once(':') {
            None if text == "full" => Ok(Self::Full),
            None if text == "none" => Ok(Self::None),
            Some(("sample", one_in)) => one_in.parse().map(Self::Sample).map_err(|_| unknown()),
            _ => Err(unknown()),
        }
    }
}

impl FromStr for ReconnectEvery {
    type Err = String;

    /// Reads a number of requests or a time. The error is a sentence without subject.
    fn from_str(text: &str) -> Result<Self, String> {
        let requests = text.trim().parse().map(Self::Requests);
        let time = || units::parse_time(text).ok().filter(|time| !time.is_zero()).map(Self::Time);
        requests.ok().or_else(time).ok_or_else(|| {
            format!("is `{text}`; write a number of requests such as 100, or a time such as 1s")
        })
    }
}

impl fmt::Display for ReconnectEvery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requests(count) => count.fmt(f),
            Self::Time(time) => humantime::format_duration(*time).fmt(f),
        }
    }
}

impl Pin {
    /// The word, as in JSON and on the command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

impl FromStr for Pin {
    type Err = String;

    /// Reads `auto`, `on` or `off`. The error is a sentence without subject.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(format!("is `{text}`; it must be auto, on or off")),
        }
    }
}

impl Default for Plan {
    /// The plan of a command line without flags. Two things differ: there is one thread and it is
    /// not pinned, so that tests that embed runs do not take all cores, or all the same one.
    fn default() -> Self {
        Self {
            target: None,
            command: Vec::new(),
            holds_server_output: false,
            connections: DEFAULT_CONNECTIONS,
            threads: 1,
            pipeline: 1,
            duration: Some(DEFAULT_DURATION),
            requests: None,
            warm_up: DEFAULT_WARM_UP,
            sizes: Sizes::Fixed(DEFAULT_PAYLOAD_BYTES),
            rate: Rate::Max,
            arrival: Arrival::Fixed,
            ramp_up: Duration::ZERO,
            tls: None,
            reconnect_every: None,
            adversaries: Adversaries::default(),
            verify: Verify::Full,
            pin: Pin::Off,
            seed: 0,
            timeout: None,
            drain_timeout: None,
            server_pid: None,
            interval: Duration::from_secs(1),
            metrics: None,
            finds_metrics: true,
            slo: None,
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
    fn an_interval_that_would_ruin_the_run_is_refused() {
        let of = |interval| Plan { interval, ..plan() }.check();
        assert_eq!(of(Duration::from_millis(10)), Ok(()));
        for micros in [0, 1, 9_999] {
            let problems = of(Duration::from_micros(micros)).unwrap_err().problems;
            assert!(problems[0].to_string().contains("--interval is "), "{problems:?}");
            assert!(problems[0].to_string().ends_with("at least 10.0 ms"), "{problems:?}");
        }
    }

    #[test]
    fn arrivals_need_a_rate() {
        let poisson = Plan { arrival: Arrival::Poisson, ..plan() };
        blames(&poisson, &["--arrival"]);
        assert_eq!(Plan { rate: Rate::Constant(5.0), ..poisson }.check(), Ok(()));
    }

    #[test]
    fn there_are_never_more_threads_than_connections() {
        assert_eq!(Plan { connections: 3, threads: 8, ..plan() }.threads_used(), 3);
    }

    #[test]
    fn requests_are_dealt_out_one_by_one() {
        let plan = |requests| Plan {
            connections: 4,
            requests,
            ..Plan::for_target("127.0.0.1:1".parse().unwrap())
        };
        let parts =
            |plan: Plan, first| [0, 1, 2, 3].map(|connection| plan.requests_of(connection, first));
        assert_eq!(parts(plan(None), 0), [None; 4]);
        for (requests, first, expected) in [
            (1, 0, [1, 0, 0, 0]),
            (8, 0, [2; 4]),
            (11, 0, [3, 3, 3, 2]),
            (1, 3, [0, 0, 0, 1]),
            (8, 3, [2; 4]),
            (11, 3, [3, 3, 2, 3]),
        ] {
            assert_eq!(parts(plan(Some(requests)), first), expected.map(Some));
        }
    }
}
