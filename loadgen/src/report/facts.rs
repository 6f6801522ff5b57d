//! What a saved run says in words, for every form that people read.

use std::collections::BTreeMap;

use serde_json::Value;

use super::json::{Client, ConnectTimes, Document, SavedConnects, Server, WarmUp};
use crate::{
    load::tally::Errors,
    measure::latency::Percentiles,
    plan::{adversaries::AdversaryCounts, rate::Rate},
    report::verdict::Verdict,
    server::metrics::Sample,
    units,
};

/// What the names of figures mean that do not say it themselves.
pub(super) const TERMS: [(&str, &str); 10] = [
    ("warm-up", "requests that were due before measuring began. They are in no other figure"),
    (
        "errors",
        "requests that timed out, connections that were lost while measuring, and connections that \
         could not be made",
    ),
    ("mismatches", "replies with wrong bytes, and bytes that nobody asked for"),
    ("unanswered", "requests that were sent and whose reply never came"),
    ("reconnects", "connections that were made again after they were lost"),
    (
        "sent of what was due",
        "the share of the requests that were sent: in open loop each is due at its time, however \
         slow the server is",
    ),
    (
        "never sent",
        "requests that were due, but for which the server left no room until the load ended",
    ),
    (
        "blocked by the server",
        "requests that were sent later than due because their connection was down or full: it had \
         as many in flight as it may, or took no bytes. That time is part of the latency",
    ),
    (
        "server CPU per request",
        "CPU time of the whole server process while measuring, shared out over the requests",
    ),
    (
        "noise floor",
        "what this machine adds to every time without any server, looked at before the run: how \
         long a byte takes to another thread and back, and how late a thread wakes up. A latency \
         near it is the machine's",
    ),
];

/// The figures of a run, each with its name. What is unknown is left out.
pub(super) fn figures(document: &Document) -> Vec<(&'static str, String)> {
    let mut figures = vec![
        ("requests", units::grouped(document.requests)),
        ("rate", format!("{}/s", units::rate(document.rate))),
        ("payload each way", format!("{:.1} MiB/s", document.mib_per_s)),
        ("payload on average", format!("{:.0} B", document.payload_bytes_mean)),
        ("measured", format!("{:.3} s", document.duration_s)),
        ("warm-up", warm_up(document)),
        ("errors", counted(document.errors, kinds(document.errors_by_kind))),
        ("mismatches", counted(document.mismatches, classes(&document.mismatches_by_class))),
        ("unanswered", aged(document.unanswered, document.unanswered_age_ns.max)),
        ("reconnects", units::grouped(document.reconnects)),
        ("connections", connections(document)),
    ];
    let mut add = |name, value: Option<String>| figures.extend(value.map(|value| (name, value)));
    let planned = Some(document.adversaries.planned_reconnects).filter(|&count| count > 0);
    add("planned reconnects", planned.map(units::grouped));
    if !document.is_closed_loop() {
        let blocked = document.blocked;
        add("sent of what was due", document.sent_share.map(schedule));
        add("never sent", Some(aged(document.unsent, document.unsent_age_ns.max)));
        add("blocked by the server", Some(aged(blocked.requests, blocked.max_ns)));
    }
    add("first error", first_error(document));
    let kinds = document.adversaries.kinds;
    add("slow readers", adversaries(kinds.slow_readers));
    add("slow senders", adversaries(kinds.slow_senders));
    add("resetting clients", adversaries(kinds.resets));
    add("client CPU per request", document.client.cpu_us_per_request.map(units::micros));
    add("TLS of that", document.client.tls_cpu_us_per_request.map(units::micros));
    add("client CPU per handshake", document.client.tls_cpu_us_per_handshake.map(units::micros));
    add("client busy", busy(document.client));
    add("server CPU per request", document.server.cpu_us_per_request.map(units::micros));
    add("server busy", document.server.busy_share.map(percent));
    add("server peak memory", document.server.rss_peak_bytes.map(units::bytes));
    add("server context switches", switches(document.server));
    add("arena", arena(document));
    add("noise floor", noise_floor(document));
    figures
}

/// What the verdict means, in a sentence. It claims of the replies only what was checked.
pub(super) fn meaning(document: &Document) -> String {
    let meaning = document.verdict.meaning();
    if document.verdict != Verdict::Ok {
        return meaning.to_owned();
    }
    let verify = document.config.text("verify");
    match (verify.as_str(), verify.strip_prefix("sample:")) {
        ("none", _) => format!("{meaning}; replies were not checked (--verify none)"),
        (_, Some(one_in)) if one_in != "1" => format!(
            "{meaning}; of the replies on each connection one in {one_in} was checked, and was \
             right (--verify {verify})"
        ),
        _ => "every reply was right".to_owned(),
    }
}

/// What became of the conditions of a run, each a sentence.
pub(super) fn conditions(document: &Document) -> Vec<String> {
    let outcome = |met| if met { "is met" } else { "is missed" };
    let conditions = document.slo.iter();
    conditions
        .map(|slo| format!("{} {}: {}", slo.condition, outcome(slo.met), slo.reached_text))
        .collect()
}

/// The distributions of a run, each with its name and what its times are. In closed loop all is
/// said by the first.
pub(super) fn distributions(document: &Document) -> Vec<(&'static str, &'static str, Percentiles)> {
    let all = [
        ("latency", "from when a request was due until its echo was read", document.latency_ns),
        ("service", "from when it was sent until its echo was read", document.service_ns),
        ("send lag", "how late it was sent, by the generator's own fault", document.send_lag_ns),
    ];
    let count = if document.is_closed_loop() { 1 } else { all.len() };
    let mut distributions = all[..count].to_vec();
    let (times, _) = connects(document);
    let connects = [
        ("connect", "until a connection was made", times.connect_ns),
        ("handshake", "from then on until a full TLS handshake was over", times.handshake_ns),
        ("resumption", "the same of handshakes that resumed a session", times.resumption_ns),
    ];
    distributions.extend(connects.into_iter().filter(|(_, _, times)| times.max > 0));
    distributions
}

/// The connections that are shown: those that were begun while measuring, unless there were none.
/// With words for the others.
pub(super) fn connects(document: &Document) -> (&ConnectTimes, &'static str) {
    let SavedConnects { measured, before } = &document.connects;
    match measured.connections {
        0 => (before, "before measuring"),
        _ => (measured, "while measuring"),
    }
}

/// How many connections were made, and how.
pub(super) fn connections(document: &Document) -> String {
    let SavedConnects { measured, before } = &document.connects;
    let mut text = format!(
        "{} before measuring, {} while measuring",
        units::grouped(before.connections),
        units::grouped(measured.connections)
    );
    if let Some(tls) = &document.tls {
        let (times, _) = connects(document);
        text += &format!(
            "; {}, {}: {} full handshakes, {} resumed",
            tls.version,
            tls.cipher_suite,
            units::grouped(times.full_handshakes),
            units::grouped(times.resumed_handshakes),
        );
    }
    text
}

/// Percentiles in the order of [`PERCENTILE_NAMES`]. Of no time at all there are none.
pub(super) fn percentile_times(percentiles: Percentiles) -> [String; 5] {
    let Percentiles { p50, p90, p99, p99_9, max } = percentiles;
    [p50, p90, p99, p99_9, max].map(|nanos| time_or_none(percentiles, nanos))
}

/// A time out of these percentiles, which is `-` if there are none.
pub(crate) fn time_or_none(percentiles: Percentiles, nanos: u64) -> String {
    match percentiles.max {
        0 => "-".to_owned(),
        _ => units::time(nanos),
    }
}

pub(super) const PERCENTILE_NAMES: [&str; 5] = ["p50", "p90", "p99", "p99.9", "max"];

/// When the run began, in UTC.
pub(crate) fn started_at(document: &Document) -> String {
    use std::time::{Duration, SystemTime};

    let since_1970 = Duration::try_from_secs_f64(document.started_at_unix_s).unwrap_or_default();
    let started_at = SystemTime::UNIX_EPOCH.checked_add(since_1970);
    let started_at = started_at.unwrap_or(SystemTime::UNIX_EPOCH);
    humantime::format_rfc3339_seconds(started_at).to_string().replace('T', " ").replace('Z', " UTC")
}

/// The load in one line.
pub(super) fn load(document: &Document) -> String {
    let config = &document.config;
    let rate = match config.is_closed_loop() {
        true => "closed loop".to_owned(),
        false => format!("{}, {} arrivals", intended_rate(document), config.text("arrival")),
    };
    let counted = |name: &str, noun: &str| match config.get(name).and_then(Value::as_u64) {
        Some(1) => format!("1 {noun}"),
        Some(count) => format!("{} {noun}s", units::grouped(count)),
        None => format!("{} {noun}s", config.text(name)),
    };
    let size = config.text("size");
    format!(
        "{rate}, {} x {} in flight, {}, payloads of {}, seed {}",
        counted("connections", "connection"),
        config.text("pipeline"),
        counted("threads", "thread"),
        size.parse().map_or(size, units::exact_bytes),
        config.text("seed"),
    )
}

/// The rate at which requests were due.
fn intended_rate(document: &Document) -> String {
    let rates = document.config.rates();
    let sum = |of: fn(&Rate) -> f64| units::exact_rate(rates.iter().map(of).sum());
    let (from, to) = (sum(Rate::first), sum(Rate::last));
    if from == to { format!("{from} requests/s") } else { format!("{from} to {to} requests/s") }
}

/// How much of what was due was sent.
pub(super) fn schedule(sent_share: f64) -> String {
    // Rounded down: 100 % means all.
    format!("{:.2} %", (sent_share * 1e4).floor() / 100.0)
}

/// What came before measuring.
pub(super) fn warm_up(document: &Document) -> String {
    let WarmUp { requests, unanswered, errors, mismatches, .. } = document.warm_up;
    let mut text = format!("{} requests", units::grouped(requests));
    if unanswered > 0 {
        text += &format!(", and {} that were not answered", units::grouped(unanswered));
    }
    if errors > 0 {
        let kinds = kinds(document.warm_up.errors_by_kind);
        text += &format!(", errors: {}", counted(errors, kinds));
    }
    if mismatches > 0 {
        let classes = classes(&document.warm_up.mismatches_by_class);
        text += &format!(", mismatches: {}", counted(mismatches, classes));
    }
    text
}

/// The first error that counts, or if there is none, that of the warm-up.
pub(super) fn first_error(document: &Document) -> Option<String> {
    let of_warm_up =
        || Some(format!("{} (while warming up)", document.warm_up.first_error.as_ref()?));
    document.first_error.clone().or_else(of_warm_up)
}

/// How busy the generator was, and with what.
pub(super) fn busy(client: Client) -> Option<String> {
    let busy = client.busy_share?;
    let spin = client.spin_share.unwrap_or_default().min(busy);
    Some(match percent(spin).as_str() {
        "0 %" => percent(busy),
        spinning => format!(
            "{}: {} at work, {spinning} looking at the clock to send in time",
            percent(busy),
            percent(busy - spin)
        ),
    })
}

/// What the server's arena went through while measuring.
pub(super) fn arena(document: &Document) -> Option<String> {
    let began_at = document.measured().next().map_or(0.0, |interval| interval.start_s);
    // The last before measuring counts: it is what measuring began with.
    let first = document.arena.iter().rposition(|sample| sample.at_s <= began_at);
    let samples = &document.arena[first.unwrap_or_default()..];
    let all = |of: fn(&Sample) -> Option<u64>| samples.iter().filter_map(of);
    let reserved = all(|sample| sample.bytes_reserved).max();
    let spills = all(|sample| sample.spills_total);
    let parts = [
        all(|sample| sample.bytes_live).max().map(|live| {
            let whole = reserved.map(|bytes| format!(" of {}", units::bytes(bytes)));
            format!(
                "up to {}{} in use when it was looked at ({})",
                units::bytes(live),
                whole.unwrap_or_default(),
                if samples.len() == 1 {
                    "once".to_owned()
                } else {
                    format!("{} times", samples.len())
                }
            )
        }),
        all(|sample| sample.largest_free_block_bytes)
            .min()
            .map(|bytes| format!("largest free block at least {}", units::bytes(bytes))),
        all(|sample| sample.waiters)
            .max()
            .map(|waiters| format!("up to {} waiters", units::grouped(waiters))),
        spills
            .clone()
            .min()
            .zip(spills.max())
            .map(|(first, last)| format!("{} spills", units::grouped(last - first))),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// What the machine adds to every time by itself.
pub(super) fn noise_floor(document: &Document) -> Option<String> {
    let floor = document.noise_floor?;
    Some(format!(
        "loopback round trip p50 {}, wake-ups late by {} (p99)",
        units::time(floor.round_trip_ns.p50),
        units::time(floor.wake_up_late_ns.p99)
    ))
}

/// How often something happened, and how long it lasted at most.
fn aged(count: u64, nanos_max: u64) -> String {
    match count {
        0 => "0".to_owned(),
        count => format!("{}, for up to {}", units::grouped(count), units::time(nanos_max)),
    }
}

pub(super) fn counted(count: u64, parts: Vec<(String, u64)>) -> String {
    let parts: Vec<String> = parts
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{name}: {}", units::grouped(count)))
        .collect();
    match parts.as_slice() {
        [] => units::grouped(count),
        parts => format!("{} ({})", units::grouped(count), parts.join(", ")),
    }
}

fn kinds(errors: Errors) -> Vec<(String, u64)> {
    errors.kinds().map(|(name, count)| (name.to_owned(), count)).into()
}

fn classes(by_class: &BTreeMap<String, u64>) -> Vec<(String, u64)> {
    let named = |(class, count): (&String, &u64)| (class.replace('_', " "), *count);
    by_class.iter().map(named).collect()
}

pub(super) fn adversaries(counts: AdversaryCounts) -> Option<String> {
    (counts.clients > 0).then(|| {
        format!(
            "{} clients, {} connections, {} closed by the server, {} sent, {} back",
            units::grouped(counts.clients.into()),
            units::grouped(counts.connects),
            units::grouped(counts.closed_by_server),
            units::bytes(counts.bytes_sent),
            units::bytes(counts.bytes_received),
        )
    })
}

pub(super) fn switches(server: Server) -> Option<String> {
    let (voluntary, forced) = (server.voluntary_switches?, server.involuntary_switches?);
    Some(format!("{} ({} forced)", units::grouped(voluntary + forced), units::grouped(forced)))
}

pub(super) fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::json::samples;

    #[test]
    fn what_the_arena_went_through_in_the_warm_up_does_not_count() {
        let mut run = samples::run(&[10; 3], 20_000);
        // Measuring begins after a second.
        run.arena = [(0.0, 900, 0), (0.9, 70, 40), (2.0, 80, 41), (3.0, 60, 45)]
            .map(|(at_s, live, spills)| Sample {
                at_s,
                bytes_live: Some(live),
                spills_total: Some(spills),
                ..Sample::default()
            })
            .into();
        let text = arena(&run).unwrap();
        assert!(text.starts_with("up to 80 B in use when it was looked at (3 times)"), "{text}");
        assert!(text.ends_with("5 spills"), "{text}");
    }
}
