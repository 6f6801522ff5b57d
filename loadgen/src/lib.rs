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
//! cli/       the commands, one file for each of the larger ones: ab, merge, doctor, completions
//! live/      progress while a run lasts, on a terminal and in lines
//! run/       conducts a run: probes, workers, the end; search repeats it at other rates
//! report/    the run document, the verdict, a file for each form; what is compared
//! load/      worker -> link -> connection, and schedule, tally, interval: the hot path
//! plan/      what a run is asked to do: rate, conditions (slo), adversaries
//! server/    the loaded server: its command, its process, its metrics
//! payload/   the bytes of frames: sizes, templates, and how a wrong echo is described
//! measure/   latencies, noise, backlog, resampled samples (bootstrap)
//! tls/       TLS on the side of the generator, and what it costs
//! net/       addresses, sockets, and the way to the next address
//! ```
//!
//! Beside them are small things that any of them uses: `alarm`, `clock`, `console`, `shelf`,
//! `stop`, `units`.
//!
//! Everything that is written or read after a run goes through one document, the saved JSON: so
//! `report`, `compare` and `merge` can do from a file whatever a run can do at its end.

pub mod cli;
mod live;
mod report;
mod run;

mod load;
mod measure;
mod payload;
mod plan;
mod server;

mod net;
mod tls;

mod alarm;
mod clock;
mod console;
mod shelf;
mod stop;
mod units;

pub use load::interval::Interval;
pub use load::tally::{Blocked, Counts, Errors, LittlesLaw, Mismatches};
pub use measure::latency::{Latency, Percentiles};
pub use measure::noise::NoiseFloor;
pub use net::address::{Address, AddressError};
pub use payload::mismatch::Mismatch;
pub use payload::size::Sizes;
pub use plan::adversaries::{Adversaries, AdversaryCounts, AdversaryReport};
pub use plan::rate::{Arrival, Rate};
pub use plan::slo::{Slo, SloOutcome};
pub use plan::{Pin, Plan, PlanError, Problem, ReconnectEvery, Verify};
pub use report::verdict::Verdict;
pub use report::{ClientUsage, Connects, Report, ServerUsage};
pub use run::search::{Found, Search, Step, StepOutcome};
pub use run::{Progress, RunError, run};
pub use server::command::ServerCommandError;
pub use server::metrics::{MetricsUrl, MetricsUrlError, Sample};
pub use stop::Stop;
pub use tls::{Tls, TlsOptions, TlsSession};
