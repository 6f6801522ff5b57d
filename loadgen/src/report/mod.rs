//! What a run found, and the forms in which it is written.
//!
//! [`Report`] is complete: the forms below only choose and format.

pub(crate) mod compare;
pub(crate) mod comparison;
mod csv;
pub(crate) mod encoded;
pub(crate) mod facts;
mod hlog;
mod html;
pub(crate) mod json;
mod markdown;
pub(crate) mod output;
mod ratios;
pub(crate) mod text;
pub(crate) mod verdict;

use std::time::{Duration, SystemTime};

use crate::{
    load::{
        interval::Interval,
        tally::{self, Blocked, Counts, LittlesLaw},
    },
    measure::{latency::Latency, noise::NoiseFloor},
    net::address::Address,
    plan::{Plan, adversaries::AdversaryReport, slo::SloOutcome},
    report::verdict::Verdict,
    server::metrics::Sample,
    tls::TlsSession,
};

/// What a run found.
#[derive(Clone, Debug)]
pub struct Report {
    /// When the load began. The times of `intervals` count from here.
    pub started_at: SystemTime,
    /// What was asked for.
    pub plan: Plan,
    /// Whether each thread of the generator stayed on one CPU.
    pub are_threads_pinned: bool,
    /// The server that was loaded.
    pub target: Address,
    /// The worth of it all in one word.
    pub verdict: Verdict,
    /// Why, in sentences; and what else a reader should know.
    pub reasons: Vec<String>,
    /// What became of the conditions of [`Plan::slo`].
    pub slo: Vec<SloOutcome>,
    /// Whether the load was steady, if there was enough of it to tell.
    pub littles_law: Option<LittlesLaw>,
    /// The time in which measured requests were due: from the end of the warm-up until the load
    /// ended. If a number of requests ended it, until the last of them was answered.
    pub duration: Duration,
    /// How long after that the last reply came.
    pub drain: Duration,
    /// How often what happened.
    pub counts: Counts,
    /// How long measured requests took, from when they were due until their echo was read.
    pub latency: Latency,
    /// How long they took from when they were sent. In closed loop the same as `latency`.
    pub service: Latency,
    /// How late they were sent, through the generator's own fault. Empty in closed loop.
    pub send_lag: Latency,
    /// How long measured requests had been due that were never answered.
    pub unanswered_ages: Latency,
    /// How long the oldest request had been due that was never sent.
    pub unsent_age_max: Duration,
    /// How long requests had to wait until the server left room for them.
    pub blocked: Blocked,
    /// The same over time, also while warming up, in order and without a gap.
    pub intervals: Vec<Interval>,
    /// How long connections took to be made that were begun while measuring.
    pub connects: Connects,
    /// The same of those that were begun before.
    pub earlier_connects: Connects,
    /// What the first TLS handshake agreed on.
    pub tls_session: Option<TlsSession>,
    /// What the server's arena looked like meanwhile. Empty if the plan names no page of metrics
    /// and the server announces none.
    pub arena: Vec<Sample>,
    /// How large payloads were on average.
    pub mean_payload_bytes: f64,
    /// What the machine adds to every time by itself, if it could be measured before the run.
    pub noise_floor: Option<NoiseFloor>,
    /// What the generator itself used.
    pub client: ClientUsage,
    /// What the server used. All unknown without its process.
    pub server: ServerUsage,
    /// What the clients did that behave badly. It is in no other figure.
    pub adversaries: AdversaryReport,
    /// The first error in words.
    pub first_error: Option<String>,
    /// The same of the warm-up, which counts in no other figure than those of the warm-up.
    pub first_warm_up_error: Option<String>,
    /// Whether someone ended the run before its time.
    pub was_stopped: bool,
}

/// How long connections took to be made, the generator's own work included.
#[derive(Clone, Debug, Default)]
pub struct Connects {
    /// Until the socket was connected.
    pub connect: Latency,
    /// From then on, until a full TLS handshake was over.
    pub handshake: Latency,
    /// The same of handshakes that resumed a session.
    pub resumption: Latency,
}

impl Connects {
    pub(crate) fn of(recorded: &tally::Connects) -> Self {
        Self {
            connect: recorded.connect.latency(),
            handshake: recorded.handshake.latency(),
            resumption: recorded.resumption.latency(),
        }
    }
}

/// What the generator used while it measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClientUsage {
    /// CPU time of the whole process, in microseconds per request sent.
    pub cpu_us_per_request: Option<f64>,
    /// How much of that TLS took, handshakes included. An estimate, from a part of the calls.
    pub tls_cpu_us_per_request: Option<f64>,
    /// What a handshake took on average, over the whole run.
    pub tls_cpu_us_per_handshake: Option<f64>,
    /// What share of the time its threads used a CPU.
    pub busy_share: Option<f64>,
    /// What share of the time they did so only to send the next request in time, in open loop: they
    /// looked at the clock and had nothing else to do.
    pub spin_share: Option<f64>,
    /// What share of the time its threads did not run: they were stopped, or others ran for long.
    pub stood_still_share: Option<f64>,
    /// What share of the bytes in flight lay unread in its sockets.
    pub unread_share: Option<f64>,
    /// What share of the machine's time the hypervisor gave to others.
    pub stolen_share: Option<f64>,
}

/// What the server's process used while it was measured. Of a server that the run has started, all
/// processes of its group count together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ServerUsage {
    /// The process.
    pub pid: Option<u32>,
    /// CPU time of the whole process, in microseconds per request sent.
    pub cpu_us_per_request: Option<f64>,
    /// The largest resident set since the process started. Pages that several processes share count
    /// in each.
    pub rss_peak_bytes: Option<u64>,
    /// What share of the CPU time that it could have had.
    pub busy_share: Option<f64>,
    /// How often its threads left a CPU because they had nothing to do. Unknown if a thread ended.
    pub voluntary_switches: Option<u64>,
    /// How often they had to make room for others.
    pub involuntary_switches: Option<u64>,
}

impl Report {
    /// Measured requests that were answered, per second of the time in which they were due.
    #[must_use]
    pub fn rate(&self) -> f64 {
        match self.duration {
            Duration::ZERO => 0.0,
            duration => self.counts.requests as f64 / duration.as_secs_f64(),
        }
    }

    /// Payload that came back, in MiB per second. As much went out.
    #[must_use]
    pub fn mebibytes_per_second(&self) -> f64 {
        self.rate() * self.mean_payload_bytes / 1_048_576.0
    }

    /// The report for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        text::write(&json::Document::of(self))
    }

    /// The report for programs, as one JSON object.
    ///
    /// In closed loop a request is due when it is sent: `service_ns` equals `latency_ns`, and
    /// `send_lag_ns` is zero.
    #[must_use]
    pub fn to_json(&self) -> String {
        json::Document::of(self).to_json()
    }
}
