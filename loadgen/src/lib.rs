#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr, reason = "they panic: see `console`")]
//! A load generator for servers that echo length-prefixed frames: it checks every byte of every
//! reply, and says what both sides cost.
//!
//! The program is `loadgen`; this library is what it is made of, for tests and tools that want a
//! run in their own process. The way in is [`Plan`], [`run()`] and [`Report`].
//!
//! # Protocol
//!
//! Each frame is a 4-byte big-endian length and that many bytes of payload. The reply is the same
//! frame. Replies come in the order of the requests.
//!
//! # What the figures mean
//!
//! * In closed loop each connection keeps a fixed number of requests in flight, and sends the next
//!   when a reply comes. A slow server is therefore asked less often, and its latency looks better
//!   than independent users would find it. In open loop ([`Rate`]) requests are due at their times,
//!   however slow the server is.
//! * A request counts if it was due after the warm-up and before the end, whenever its answer
//!   comes, and the rate is that of this time. What goes wrong with requests of the warm-up is
//!   counted apart. Three times are kept apart, and nothing is ever added to them that did not
//!   happen:
//!
//! ```text
//!         due                      sent                      echo read
//!          |                        |                            |
//!          +------------------------+----------------------------+
//!          | send lag, or blocked   |        service time        |
//!          \______________________ latency ______________________/
//! ```
//!
//! * The time before a request is sent is *send lag* while there was room in the pipeline and the
//!   socket took bytes: then the generator was late. Else the server left no room, and the request
//!   was *blocked*. In closed loop a request is due when there is room, so there is neither.
//! * A request that was due and could not be sent until the end is *unsent*; one that was sent and
//!   not answered is *unanswered*. Both are counted with their age.
//! * All replies that one read brings share one look at the clock.
//! * How long connections take to be made is recorded in two parts, `connect` and the TLS
//!   handshake, and the handshake in two kinds, full and resumed. The generator's own work is part
//!   of them.
//!   Connections that are begun before measuring are kept apart.
//! * Before anything starts, the machine itself is measured for a moment: the *noise floor*. Send
//!   lag that it explains is not held against the generator, and a latency near it is said to be
//!   the machine's. In open loop a thread may look at the clock until a request is due; that time
//!   is told apart from work.
//! * Nothing that is wrong is left out: a mismatch, an error or a request without an answer is in
//!   the report, and in the exit code of the program.
//!
//! # Modules, from the outside in
//!
//! ```text
//! cli -> plan -> search -> run -> worker -> link -> connection -> template -> payload -> size
//!   \                       |          \      |-> route, tls        \-> mismatch
//!    \-> doctor -> noise    |           \     |    \-> stream
//!     \         \-> tls     |            \    |-> rate
//!                           |            \    \-> schedule, tally, latency -> shelf
//!                           |             \-> alarm, patience
//!                           |-> server_watch -> server_command, server_probe
//!                           |-> adversaries, metrics_probe, noise
//!                           \-> interval, backlog, verdict, slo, report
//! cli -> live                       shows the intervals of a run as they end
//! cli -> ab -> compare -> bootstrap ab runs what compare judges; both stand on resampled samples
//! cli -> merge, report::output      make one run of several, and other forms of one
//! cli -> completions, misspelt
//! ```
//!
//! Everything that is written or read after a run goes through one document, the saved JSON: so
//! `report`, `compare` and `merge` can do from a file whatever a run can do at its end.

mod adversaries;
pub mod cli;
mod doctor;
mod plan;
mod run;
mod search;

mod worker;

mod alarm;
mod link;
mod stream;
mod tls;

mod connection;
mod mismatch;
mod payload;
mod rate;
mod route;
mod schedule;
mod shelf;
mod size;
mod slo;
mod template;

mod backlog;
mod interval;
mod latency;
mod tally;
mod verdict;

mod live;
mod report;

mod ab;
mod bootstrap;
mod compare;
mod merge;

mod completions;
mod misspelt;

mod metrics_probe;
mod noise;
mod server_command;
mod server_probe;
mod server_watch;

mod address;
mod clock;
mod console;
mod open_files;
mod patience;
mod stop;
mod units;

pub use address::{Address, AddressError};
pub use adversaries::{Adversaries, AdversaryCounts, AdversaryReport};
pub use interval::Interval;
pub use latency::{Latency, Percentiles};
pub use metrics_probe::{MetricsUrl, MetricsUrlError, Sample};
pub use mismatch::Mismatch;
pub use noise::NoiseFloor;
pub use plan::{Pin, Plan, PlanError, Problem, ReconnectEvery, Verify};
pub use rate::{Arrival, Rate};
pub use report::{ClientUsage, Connects, Report, ServerUsage};
pub use run::{Progress, RunError, run};
pub use search::{Found, Search, Step, StepOutcome};
pub use server_command::ServerCommandError;
pub use size::Sizes;
pub use slo::{Slo, SloOutcome};
pub use stop::Stop;
pub use tally::{Blocked, Counts, Errors, LittlesLaw, Mismatches};
pub use tls::{Tls, TlsOptions, TlsSession};
pub use verdict::Verdict;
