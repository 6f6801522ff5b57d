//! The report as JSON. The names are an interface: scripts read them.
//!
//! A [`Document`] is a run that was saved. Every other file is written from one, so `report`,
//! `compare` and `merge` need nothing but the JSON.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Connects, Report, encoded::Encoded};
use crate::{
    load::{
        interval::Interval,
        tally::{Counts, Errors, LittlesLaw, Mismatches},
    },
    measure::latency::{Latency, Percentiles},
    payload::mismatch::Mismatch,
    plan::{Plan, adversaries::AdversaryReport, rate::Rate, slo::SloOutcome},
    report::verdict::Verdict,
    server::metrics::Sample,
    tls::TlsOptions,
    units,
};

/// Grows when a name changes its meaning or goes away, not when one is added.
const SCHEMA: u32 = 1;

/// From here on, in seconds since 1970, years have more digits than a date has room for.
const YEAR_10000: f64 = 253_402_300_800.0;

/// The seed once more: programs that read every number as a double lose digits of it.
pub(crate) const SEED_TEXT: &str = "seed_text";
/// What stands between the rates of runs that were added up.
pub(crate) const RATES_JOINT: &str = " + ";

/// A run, as it is saved.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Document {
    pub(crate) schema: u32,
    pub(crate) version: String,
    /// The machine that ran the generator.
    #[serde(default)]
    pub(crate) host: Option<String>,
    pub(crate) target: String,
    /// When the load began, warm-up included, in seconds since 1970.
    pub(crate) started_at_unix_s: f64,
    pub(crate) verdict: Verdict,
    /// Why, in sentences.
    pub(crate) verdict_reasons: Vec<String>,
    pub(crate) slo: Vec<Condition>,
    pub(crate) stopped: bool,
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) mismatches: u64,
    pub(crate) unanswered: u64,
    pub(crate) duration_s: f64,
    pub(crate) rate: f64,
    pub(crate) mib_per_s: f64,
    pub(crate) payload_bytes_mean: f64,
    pub(crate) latency_ns: Percentiles,
    pub(crate) service_ns: Percentiles,
    pub(crate) send_lag_ns: Percentiles,
    pub(crate) client: Client,
    pub(crate) server: Server,
    /// What the machine adds to every time by itself.
    #[serde(default)]
    pub(crate) noise_floor: Option<Floor>,
    pub(crate) littles_law: Option<Law>,
    pub(crate) adversaries: SavedAdversaries,
    pub(crate) unanswered_age_ns: Percentiles,
    pub(crate) unsent: u64,
    /// What share of the requests that were due were sent. Nothing in closed loop.
    #[serde(default)]
    pub(crate) sent_share: Option<f64>,
    pub(crate) unsent_age_ns: Age,
    pub(crate) blocked: BlockedTime,
    pub(crate) reconnects: u64,
    /// How long connections took to be made.
    #[serde(default)]
    pub(crate) connects: SavedConnects,
    /// What connections were encrypted with, if they were.
    #[serde(default)]
    pub(crate) tls: Option<SavedTls>,
    pub(crate) warm_up: WarmUp,
    pub(crate) errors_by_kind: Errors,
    pub(crate) mismatches_by_class: BTreeMap<String, u64>,
    pub(crate) first_error: Option<String>,
    pub(crate) config: Config,
    /// The whole distributions, of measured requests only.
    pub(crate) histograms: Histograms,
    pub(crate) unanswered_age_histogram: Encoded,
    pub(crate) intervals: Vec<SavedInterval>,
    /// What the server told of its arena. Empty without `--metrics`.
    #[serde(default)]
    pub(crate) arena: Vec<Sample>,
}

/// How the run was made: settings by name, in the order in which they are shown.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Config(Map<String, Value>);

/// What the generator used.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Client {
    pub(crate) cpu_us_per_request: Option<f64>,
    #[serde(default)]
    pub(crate) tls_cpu_us_per_request: Option<f64>,
    #[serde(default)]
    pub(crate) tls_cpu_us_per_handshake: Option<f64>,
    pub(crate) busy_share: Option<f64>,
    #[serde(default)]
    pub(crate) spin_share: Option<f64>,
    #[serde(default)]
    pub(crate) stood_still_share: Option<f64>,
    pub(crate) unread_share: Option<f64>,
    pub(crate) stolen_share: Option<f64>,
}

/// What the server used.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Server {
    #[serde(default)]
    pub(crate) pid: Option<u32>,
    pub(crate) cpu_us_per_request: Option<f64>,
    pub(crate) rss_peak_bytes: Option<u64>,
    pub(crate) busy_share: Option<f64>,
    pub(crate) voluntary_switches: Option<u64>,
    pub(crate) involuntary_switches: Option<u64>,
}

/// What a machine adds by itself, in nanoseconds, as it was just before the run.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Floor {
    pub(crate) wake_up_late_ns: Percentiles,
    pub(crate) round_trip_ns: Percentiles,
}

/// A condition that the run was to meet.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Condition {
    pub(crate) condition: String,
    /// Nothing if it is infinite, for which JSON has no word.
    pub(crate) reached: Option<f64>,
    /// The same with its unit, for people.
    pub(crate) reached_text: String,
    pub(crate) met: bool,
}

/// What the clients did that behave badly.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct SavedAdversaries {
    #[serde(flatten)]
    pub(crate) kinds: AdversaryReport,
    pub(crate) planned_reconnects: u64,
}

/// Whether the load was steady.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Law {
    pub(crate) in_flight_mean: f64,
    pub(crate) rate_times_service: f64,
    pub(crate) holds: bool,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Age {
    pub(crate) max: u64,
}

/// How long the server left no room for requests that were due.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct BlockedTime {
    pub(crate) requests: u64,
    pub(crate) total_s: f64,
    pub(crate) max_ns: u64,
}

/// What happened before measuring, and is in no other count.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct WarmUp {
    pub(crate) requests: u64,
    pub(crate) unanswered: u64,
    pub(crate) errors: u64,
    pub(crate) mismatches: u64,
    pub(crate) errors_by_kind: Errors,
    pub(crate) mismatches_by_class: BTreeMap<String, u64>,
    pub(crate) reconnects: u64,
    pub(crate) first_error: Option<String>,
}

/// Response time, service time and send lag in nanoseconds.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Histograms {
    pub(crate) latency: Encoded,
    pub(crate) service: Encoded,
    pub(crate) send_lag: Encoded,
}

/// Connections by when they were begun.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct SavedConnects {
    pub(crate) measured: ConnectTimes,
    pub(crate) before: ConnectTimes,
}

/// How long connections took to be made, in nanoseconds: until the socket was connected, and from
/// then on until a full handshake was over, or one that resumed a session.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct ConnectTimes {
    pub(crate) connections: u64,
    pub(crate) full_handshakes: u64,
    pub(crate) resumed_handshakes: u64,
    pub(crate) connect_ns: Percentiles,
    pub(crate) handshake_ns: Percentiles,
    pub(crate) resumption_ns: Percentiles,
    pub(crate) histograms: ConnectHistograms,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct ConnectHistograms {
    pub(crate) connect: Encoded,
    pub(crate) handshake: Encoded,
    pub(crate) resumption: Encoded,
}

/// What both sides agreed on.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct SavedTls {
    pub(crate) version: String,
    pub(crate) cipher_suite: String,
    /// Whether the server had to show a certificate that is trusted.
    pub(crate) certificate_checked: bool,
}

/// What happened in one interval.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct SavedInterval {
    /// When it began, in seconds since the load began.
    pub(crate) start_s: f64,
    pub(crate) length_s: f64,
    /// Whether it lies before what is measured.
    pub(crate) is_warm_up: bool,
    pub(crate) requests: u64,
    /// Requests of the warm-up that were answered in it, after the warm-up.
    #[serde(default)]
    pub(crate) late_warm_up_requests: u64,
    pub(crate) errors: u64,
    pub(crate) mismatches: u64,
    /// How many requests were in flight at its end.
    pub(crate) in_flight: u64,
    /// How many were in flight on average. Older files lack it.
    #[serde(default)]
    pub(crate) in_flight_mean: Option<f64>,
    pub(crate) latency_ns: Percentiles,
    pub(crate) service_ns: Percentiles,
    pub(crate) send_lag_ns: Percentiles,
    pub(crate) histograms: Histograms,
}

impl Document {
    pub(crate) fn of(report: &Report) -> Self {
        let counts = &report.counts;
        let Counts { requests, unanswered, unsent, errors, mismatches, .. } = *counts;
        let since_1970 = report.started_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (intervals, losses): (Vec<_>, Vec<_>) =
            report.intervals.iter().map(SavedInterval::of).unzip();
        let losses: Vec<io::Error> = losses.into_iter().flatten().collect();
        let mut verdict_reasons = report.reasons.clone();
        verdict_reasons.extend(losses.first().map(|error| {
            format!(
                "the distributions of {} of {} intervals are lost, a temporary file cannot be \
                 read: {error}",
                losses.len(),
                intervals.len()
            )
        }));
        Self {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: host_name(),
            target: report.target.to_string(),
            started_at_unix_s: since_1970.as_secs_f64(),
            verdict: report.verdict,
            verdict_reasons,
            slo: report.slo.iter().map(Condition::of).collect(),
            stopped: report.was_stopped,
            requests,
            errors: errors.total(),
            mismatches: mismatches.total(),
            unanswered,
            duration_s: report.duration.as_secs_f64(),
            rate: report.rate(),
            mib_per_s: report.mebibytes_per_second(),
            payload_bytes_mean: report.mean_payload_bytes,
            latency_ns: report.latency.percentiles(),
            service_ns: report.service.percentiles(),
            send_lag_ns: report.send_lag.percentiles(),
            client: Client {
                cpu_us_per_request: report.client.cpu_us_per_request,
                tls_cpu_us_per_request: report.client.tls_cpu_us_per_request,
                tls_cpu_us_per_handshake: report.client.tls_cpu_us_per_handshake,
                busy_share: report.client.busy_share,
                spin_share: report.client.spin_share,
                stood_still_share: report.client.stood_still_share,
                unread_share: report.client.unread_share,
                stolen_share: report.client.stolen_share,
            },
            server: Server {
                pid: report.server.pid,
                cpu_us_per_request: report.server.cpu_us_per_request,
                rss_peak_bytes: report.server.rss_peak_bytes,
                busy_share: report.server.busy_share,
                voluntary_switches: report.server.voluntary_switches,
                involuntary_switches: report.server.involuntary_switches,
            },
            noise_floor: report.noise_floor.map(|floor| Floor {
                wake_up_late_ns: floor.wake_up_late,
                round_trip_ns: floor.round_trip,
            }),
            littles_law: report.littles_law.map(Law::of),
            adversaries: SavedAdversaries {
                kinds: report.adversaries,
                planned_reconnects: counts.planned_reconnects,
            },
            unanswered_age_ns: report.unanswered_ages.percentiles(),
            unsent,
            sent_share: sent_share(report.plan.rate == Rate::Max, counts.sent(), unsent),
            unsent_age_ns: Age { max: units::nanos(report.unsent_age_max) },
            blocked: BlockedTime {
                requests: report.blocked.requests,
                total_s: report.blocked.total.as_secs_f64(),
                max_ns: units::nanos(report.blocked.max),
            },
            reconnects: counts.reconnects,
            connects: SavedConnects {
                measured: ConnectTimes::of(&report.connects),
                before: ConnectTimes::of(&report.earlier_connects),
            },
            tls: report.tls_session.map(|session| SavedTls {
                version: session.version.to_owned(),
                cipher_suite: session.cipher_suite.to_owned(),
                certificate_checked: !accepts_any_certificate(&report.plan),
            }),
            warm_up: WarmUp {
                requests: counts.warm_up_requests,
                unanswered: counts.warm_up_unanswered,
                errors: counts.warm_up_errors.total(),
                mismatches: counts.warm_up_mismatches.total(),
                errors_by_kind: counts.warm_up_errors,
                mismatches_by_class: by_class(&counts.warm_up_mismatches),
                reconnects: counts.warm_up_reconnects,
                first_error: report.first_warm_up_error.clone(),
            },
            errors_by_kind: errors,
            mismatches_by_class: by_class(&mismatches),
            first_error: report.first_error.clone(),
            config: Config::of(&report.plan).with_threads_pinned(report.are_threads_pinned),
            histograms: Histograms::of(&report.latency, &report.service, &report.send_lag),
            unanswered_age_histogram: Encoded::of_latency(&report.unanswered_ages),
            intervals,
            arena: report.arena.clone(),
        }
    }

    /// Reads a saved run.
    ///
    /// # Errors
    ///
    /// A sentence that names the file, if it cannot be read or is no run of this schema.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let name = path.display();
        let text = fs::read_to_string(path).map_err(|error| {
            format!("cannot read {name}: {error}; give a run that was saved with -o FILE.json")
        })?;
        let document: Self = serde_json::from_str(&text).map_err(|error| {
            format!("{name} is not a run that loadgen has saved with `-o FILE.json`: {error}")
        })?;
        let began_at = document.started_at_unix_s;
        match document.schema {
            SCHEMA if !(0.0..YEAR_10000).contains(&began_at) => Err(format!(
                "{name} is not a run that loadgen has saved with `-o FILE.json`: it began {began_at} s \
                 after 1970"
            )),
            SCHEMA => Ok(document),
            schema => Err(format!(
                "{name} has schema {schema}, and this loadgen reads schema {SCHEMA}: use the \
                 loadgen that wrote it"
            )),
        }
    }

    pub(crate) fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("plain data can be written");
        text.push('\n');
        text
    }

    /// Whether requests were due when they were sent, so that latency is all there is.
    pub(crate) fn is_closed_loop(&self) -> bool {
        self.config.is_closed_loop()
    }

    /// Whether a condition is missed.
    pub(crate) fn misses_a_condition(&self) -> bool {
        self.slo.iter().any(|slo| !slo.met)
    }

    /// How many measured requests were sent: see [`Counts::sent`].
    pub(crate) fn sent(&self) -> u64 {
        let unsolicited = self.mismatches_by_class.get(&key(Mismatch::Unsolicited));
        let wrong = self.mismatches.saturating_sub(unsolicited.copied().unwrap_or_default());
        self.requests + wrong + self.errors_by_kind.timeouts + self.unanswered
    }

    /// How many measured requests were due: in closed loop, as many as were sent.
    pub(crate) fn due(&self) -> u64 {
        self.sent() + self.unsent
    }

    /// How many of them were not answered in time, so that no percentile knows of them.
    pub(crate) fn lost(&self) -> u64 {
        self.unanswered + self.unsent + self.errors_by_kind.timeouts
    }

    /// The intervals that are measured, which are those of the sums.
    pub(crate) fn measured(&self) -> impl Iterator<Item = &SavedInterval> {
        self.intervals.iter().filter(|interval| !interval.is_warm_up)
    }
}

impl Condition {
    pub(crate) fn of(outcome: &SloOutcome) -> Self {
        let SloOutcome { condition, reached, reached_text, is_met } = outcome;
        Self {
            condition: condition.clone(),
            reached: reached.is_finite().then_some(*reached),
            reached_text: reached_text.clone(),
            met: *is_met,
        }
    }
}

impl Law {
    fn of(law: LittlesLaw) -> Self {
        Self {
            in_flight_mean: law.in_flight_mean,
            rate_times_service: law.rate_times_service,
            holds: law.holds(),
        }
    }
}

impl ConnectTimes {
    fn of(connects: &Connects) -> Self {
        Self::of_times(&connects.connect, &connects.handshake, &connects.resumption)
    }

    pub(crate) fn of_times(connect: &Latency, handshake: &Latency, resumption: &Latency) -> Self {
        let encoded = Encoded::of_latency;
        Self {
            connections: connect.count(),
            full_handshakes: handshake.count(),
            resumed_handshakes: resumption.count(),
            connect_ns: connect.percentiles(),
            handshake_ns: handshake.percentiles(),
            resumption_ns: resumption.percentiles(),
            histograms: ConnectHistograms {
                connect: encoded(connect),
                handshake: encoded(handshake),
                resumption: encoded(resumption),
            },
        }
    }
}

impl Histograms {
    pub(crate) fn of(latency: &Latency, service: &Latency, send_lag: &Latency) -> Self {
        let [latency, service, send_lag] = [latency, service, send_lag].map(Encoded::of_latency);
        Self { latency, service, send_lag }
    }
}

impl SavedInterval {
    /// The interval, and why its distributions are lost, if they are. Their percentiles are not.
    fn of(interval: &Interval) -> (Self, Option<io::Error>) {
        let Interval { latency, service, send_lag, .. } = interval;
        let recall = || Ok([latency.recalled()?, service.recalled()?, send_lag.recalled()?]);
        let ([all_latency, all_service, all_send_lag], loss) = match recall() {
            Ok(recalled) => (recalled, None),
            Err(error) => (Default::default(), Some(error)),
        };
        let saved = Self {
            start_s: interval.start.as_secs_f64(),
            length_s: interval.length.as_secs_f64(),
            is_warm_up: interval.is_warm_up,
            requests: interval.requests,
            late_warm_up_requests: interval.late_warm_up_requests,
            errors: interval.errors,
            mismatches: interval.mismatches,
            in_flight: interval.in_flight,
            in_flight_mean: Some(interval.in_flight_mean),
            latency_ns: latency.percentiles(),
            service_ns: service.percentiles(),
            send_lag_ns: send_lag.percentiles(),
            histograms: Histograms::of(&all_latency, &all_service, &all_send_lag),
        };
        (saved, loss)
    }

    /// Answers per second, whenever their requests were due.
    pub(crate) fn rate(&self) -> f64 {
        if self.length_s > 0.0 { self.answered() as f64 / self.length_s } else { 0.0 }
    }

    /// All requests that were answered in it.
    pub(crate) fn answered(&self) -> u64 {
        self.requests + self.late_warm_up_requests
    }

    /// How many requests were in flight: on average, or if nobody knows that, at its end.
    pub(crate) fn in_flight(&self) -> f64 {
        self.in_flight_mean.unwrap_or(self.in_flight as f64)
    }

    pub(crate) fn end_s(&self) -> f64 {
        self.start_s + self.length_s
    }
}

impl Config {
    pub(crate) fn of(plan: &Plan) -> Self {
        let config = json!({
            "connections": plan.connections,
            "threads": plan.threads_used(),
            "pipeline": plan.pipeline,
            "duration_s": plan.duration.map(|duration| duration.as_secs_f64()),
            "requests": plan.requests,
            "warm_up_s": plan.warm_up.as_secs_f64(),
            "size": plan.sizes.to_string(),
            "rate": plan.rate.to_string(),
            "arrival": plan.arrival.word(),
            "ramp_up_s": plan.ramp_up.as_secs_f64(),
            "reconnect_every": plan.reconnect_every.map(|every| every.to_string()),
            "slow_readers": plan.adversaries.slow_readers,
            "slow_senders": plan.adversaries.slow_senders,
            "resets": plan.adversaries.resets,
            "seed": plan.seed,
            SEED_TEXT: plan.seed.to_string(),
            "timeout_s": plan.timeout.map(|timeout| timeout.as_secs_f64()),
            "drain_timeout_s": plan.drain_timeout.map(|timeout| timeout.as_secs_f64()),
            "verify": plan.verify.words(),
            "pin": plan.pin.word(),
            "interval_s": plan.interval.as_secs_f64(),
            "slo": plan.slo.as_ref().map(ToString::to_string),
            "metrics": plan.metrics.as_ref().map(ToString::to_string),
            "server_pid": plan.server_pid,
            "command": plan.command,
        });
        let Value::Object(config) = config else {
            unreachable!("the configuration is an object, not {config:?}");
        };
        Self(config).with_tls(plan)
    }

    /// The same, and how it is encrypted. Without TLS nothing is said of it.
    fn with_tls(mut self, plan: &Plan) -> Self {
        if let Some(tls) = &plan.tls {
            let TlsOptions { authorities, certificates, key, name, .. } = tls.options();
            let path = |path: &Option<PathBuf>| {
                json!(path.as_ref().map(|path| path.display().to_string()))
            };
            self.set("tls", true.into());
            self.set("tls_ca", path(authorities));
            self.set("tls_cert", path(certificates));
            self.set("tls_key", path(key));
            self.set("tls_name", json!(name));
            self.set("tls_insecure", tls.options().accepts_any_certificate.into());
            self.set("tls_no_resume", tls.options().never_resumes.into());
        }
        self
    }

    /// The same, and what came of its `pin`.
    fn with_threads_pinned(mut self, are_pinned: bool) -> Self {
        self.set("threads_pinned", are_pinned.into());
        self
    }

    /// Whether requests had no rate of their own.
    pub(crate) fn is_closed_loop(&self) -> bool {
        self.text("rate") == Rate::Max.to_string()
    }

    /// The rates of all runs that this one is the sum of; mostly that is one. None in closed loop.
    pub(crate) fn rates(&self) -> Vec<Rate> {
        let text = self.text("rate");
        let rates = text.split(RATES_JOINT).filter_map(|rate| rate.parse().ok());
        rates.filter(|&rate| rate != Rate::Max).collect()
    }

    /// A setting that is a number of seconds.
    pub(crate) fn seconds(&self, name: &str) -> Option<f64> {
        self.get(name).and_then(Value::as_f64)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// A setting in words, which are `-` if it is not set.
    pub(crate) fn text(&self, name: &str) -> String {
        self.0.get(name).map_or("-".to_owned(), in_words)
    }

    /// All settings in words.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (&str, String)> {
        self.0
            .iter()
            .filter(|(name, _)| *name != SEED_TEXT)
            .map(|(name, value)| (name.as_str(), in_words(value)))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    pub(crate) fn set(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }
}

fn accepts_any_certificate(plan: &Plan) -> bool {
    plan.tls.as_ref().is_some_and(|tls| tls.options().accepts_any_certificate)
}

/// What share of what was due was sent, if there are times at which something is due.
pub(crate) fn sent_share(is_closed_loop: bool, sent: u64, unsent: u64) -> Option<f64> {
    (!is_closed_loop).then(|| sent as f64 / (sent + unsent).max(1) as f64)
}

/// What this machine is called, where the system tells.
fn host_name() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

fn in_words(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(parts) if parts.is_empty() => "-".to_owned(),
        Value::Array(parts) => parts.iter().map(in_words).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

fn by_class(mismatches: &Mismatches) -> BTreeMap<String, u64> {
    mismatches.iter().map(|(class, count)| (key(class), count)).collect()
}

fn key(class: Mismatch) -> String {
    match serde_json::to_value(class) {
        Ok(Value::String(key)) => key,
        other => unreachable!("a class is written as a string, not as {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::shelf::Shelf;

    #[test]
    fn an_interval_whose_distributions_are_lost_keeps_its_percentiles() {
        let mut histogram = Latency::default().histogram();
        histogram.record_n(20_000, 10).unwrap();
        let latency = Latency::from(&histogram);
        let mut interval = Interval {
            start: Duration::ZERO,
            length: Duration::from_secs(1),
            is_warm_up: false,
            requests: 10,
            late_warm_up_requests: 0,
            errors: 0,
            mismatches: 0,
            in_flight: 0,
            in_flight_mean: 0.0,
            service: latency.clone(),
            send_lag: Latency::default(),
            latency,
        };
        let mut shelf = Shelf::new();
        interval.shelve(&mut shelf);
        let (saved, loss) = SavedInterval::of(&interval);
        assert!(loss.is_none());
        assert_eq!(saved.histograms.latency.decode(), histogram);
        shelf.lose();
        let (saved, loss) = SavedInterval::of(&interval);
        assert!(loss.is_some());
        assert!(saved.histograms.latency.is_empty());
        assert_eq!(saved.latency_ns, interval.latency.percentiles());
    }
}

/// Runs that nobody made, for tests.
#[cfg(test)]
pub(crate) mod samples {
    use hdrhistogram::Histogram;

    use super::*;

    /// When every sample began.
    pub(crate) const BEGAN_AT: f64 = 1_700_000_000.0;

    /// A run with one measured interval of a second for each number of requests, all of which took
    /// about as long, after one interval of warm-up.
    pub(crate) fn run(requests: &[u64], nanos: u64) -> Document {
        let warm_up = [100].iter().map(|&requests| interval(requests, nanos, true));
        let measured = requests.iter().map(|&requests| interval(requests, nanos, false));
        let mut intervals: Vec<SavedInterval> = warm_up.chain(measured).collect();
        for (interval, start_s) in intervals.iter_mut().zip(0_u32..) {
            interval.start_s = start_s.into();
        }
        let total: u64 = requests.iter().sum();
        let duration_s = requests.len() as f64;
        let latency = Latency::from(&histogram(total, nanos));
        let nothing = Latency::default();
        Document {
            schema: SCHEMA,
            version: "0.0.0".to_owned(),
            host: Some("host.test".to_owned()),
            target: "127.0.0.1:9000".to_owned(),
            started_at_unix_s: BEGAN_AT,
            verdict: Verdict::Ok,
            verdict_reasons: Vec::new(),
            slo: Vec::new(),
            stopped: false,
            requests: total,
            errors: 0,
            mismatches: 0,
            unanswered: 0,
            duration_s,
            rate: total as f64 / duration_s,
            mib_per_s: 1.0,
            payload_bytes_mean: 64.0,
            latency_ns: latency.percentiles(),
            service_ns: latency.percentiles(),
            send_lag_ns: nothing.percentiles(),
            client: Client { cpu_us_per_request: Some(1.0), ..Client::default() },
            server: Server::default(),
            noise_floor: None,
            littles_law: None,
            adversaries: SavedAdversaries::default(),
            unanswered_age_ns: nothing.percentiles(),
            unsent: 0,
            sent_share: None,
            unsent_age_ns: Age::default(),
            blocked: BlockedTime::default(),
            reconnects: 0,
            connects: SavedConnects::default(),
            tls: None,
            warm_up: WarmUp { requests: 100, ..WarmUp::default() },
            errors_by_kind: Errors::default(),
            mismatches_by_class: BTreeMap::new(),
            first_error: None,
            config: Config::of(&Plan::for_target("127.0.0.1:9000".parse().unwrap())),
            histograms: Histograms::of(&latency, &latency, &nothing),
            unanswered_age_histogram: Encoded::of_latency(&nothing),
            intervals,
            arena: Vec::new(),
        }
    }

    fn interval(requests: u64, nanos: u64, is_warm_up: bool) -> SavedInterval {
        let latency = Latency::from(&histogram(requests, nanos));
        let nothing = Latency::default();
        SavedInterval {
            start_s: 0.0,
            length_s: 1.0,
            is_warm_up,
            requests,
            late_warm_up_requests: 0,
            errors: 0,
            mismatches: 0,
            in_flight: 10,
            in_flight_mean: Some(10.0),
            latency_ns: latency.percentiles(),
            service_ns: latency.percentiles(),
            send_lag_ns: nothing.percentiles(),
            histograms: Histograms::of(&latency, &latency, &nothing),
        }
    }

    /// Times from `nanos` to twice as much, evenly.
    fn histogram(count: u64, nanos: u64) -> Histogram<u64> {
        let mut histogram = Latency::default().histogram();
        for index in 0..count {
            histogram.record(nanos + nanos * index / count.max(1)).unwrap();
        }
        histogram
    }
}
