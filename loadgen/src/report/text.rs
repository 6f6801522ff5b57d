//! The report and its progress for people.

use std::fmt::Write;

use super::{Report, describe_load};
use crate::{adversaries::AdversaryCounts, latency::Latency, rate::Rate, run::Progress, units};

pub(super) fn write(report: &Report) -> String {
    let mut lines = Lines::default();
    lines.add("target", report.target.to_string());
    lines.add("load", describe_load(&report.plan));
    lines.add("measured", measured(report));
    lines.add("requests", requests(report));
    lines.add("latency", percentiles(&report.latency));
    if report.plan.rate != Rate::Max {
        lines.add("service time", percentiles(&report.service));
        lines.add("send lag", percentiles(&report.send_lag));
        lines.add("blocked", blocked(report));
    }
    lines.add("failures", failures(report));
    if let Some(error) = &report.first_error {
        lines.add("first error", error.clone());
    }
    for (name, counts) in [
        ("slow readers", report.adversaries.slow_readers),
        ("slow senders", report.adversaries.slow_senders),
        ("resets", report.adversaries.resets),
    ] {
        if counts.clients > 0 {
            lines.add(name, adversaries(&counts));
        }
    }
    lines.add("client", client(report));
    lines.add("server", server(report));
    let verdict = report.verdict;
    for outcome in &report.slo {
        let is_met = if outcome.is_met { "met" } else { "missed" };
        let (condition, reached) = (&outcome.condition, &outcome.reached_text);
        lines.add("condition", format!("{condition} is {is_met}: {reached}"));
    }
    lines.add("verdict", format!("{}: {}", verdict.word(), verdict.meaning()));
    for reason in &report.reasons {
        lines.add("", reason.clone());
    }
    lines.text
}

/// One interval in one line, without a line end.
pub(crate) fn progress(Progress { elapsed, interval, .. }: &Progress) -> String {
    let rate = units::rate(interval.rate());
    let mut line = format!("{:>5.0} s  {rate:>11} requests/s", elapsed.as_secs_f64());
    if interval.is_warm_up {
        line.push_str("  warming up");
    } else {
        let percentiles = interval.latency.percentiles();
        let (p50, p99) = (units::time(percentiles.p50), units::time(percentiles.p99));
        write!(line, "  p50 {p50:>8}  p99 {p99:>8}").expect("a string takes everything");
    }
    let failures = interval.errors + interval.mismatches;
    if failures > 0 {
        write!(line, "  {} failures", units::grouped(failures)).expect("a string takes everything");
    }
    line
}

/// Lines of a name and a value.
#[derive(Default)]
struct Lines {
    text: String,
}

impl Lines {
    fn add(&mut self, name: &str, value: String) {
        writeln!(self.text, "{name:<12} {value}").expect("a string takes everything");
    }
}

fn measured(report: &Report) -> String {
    let warm_up = match report.counts.warm_up_requests {
        0 => String::new(),
        count => format!(", after {} requests to warm up", units::grouped(count)),
    };
    let stopped = if report.was_stopped { ", stopped early" } else { "" };
    format!("{:.3} s{warm_up}{stopped}", report.duration.as_secs_f64())
}

fn requests(report: &Report) -> String {
    format!(
        "{}, {}/s, {:.1} MiB/s of payload each way",
        units::grouped(report.counts.requests),
        units::rate(report.rate()),
        report.mebibytes_per_second(),
    )
}

fn percentiles(latency: &Latency) -> String {
    let percentiles = latency.percentiles();
    let [p50, p90, p99, p99_9, max] =
        [percentiles.p50, percentiles.p90, percentiles.p99, percentiles.p99_9, percentiles.max]
            .map(units::time);
    format!("p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p99_9}, max {max}")
}

/// What the server's fault was that requests were not sent when they were due.
fn blocked(report: &Report) -> String {
    let blocked = &report.blocked;
    let max = units::time_of(blocked.max);
    let mut text =
        format!("{} requests had to wait for room, up to {max}", units::grouped(blocked.requests));
    if report.counts.unsent > 0 {
        let age = units::time_of(report.unsent_age_max);
        write!(text, "; {} were never sent, the oldest due for {age}", report.counts.unsent)
            .expect("a string takes everything");
    }
    text
}

fn failures(report: &Report) -> String {
    let counts = &report.counts;
    let errors = counts.errors;
    let mut text = format!(
        "{} errors, {} mismatches, {} unanswered",
        units::grouped(errors.total()),
        units::grouped(counts.mismatches.total()),
        units::grouped(counts.unanswered)
    );
    let kinds =
        [("timed out", errors.timeouts), ("lost", errors.lost), ("refused", errors.connect)];
    let classes = counts.mismatches.iter().map(|(class, count)| (class.name(), count));
    let details = kinds.into_iter().chain(classes).chain([
        ("reconnects", counts.reconnects),
        ("planned reconnects", counts.planned_reconnects),
    ]);
    let details: Vec<String> = details
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{name}: {}", units::grouped(count)))
        .collect();
    if !details.is_empty() {
        write!(text, " ({})", details.join(", ")).expect("a string takes everything");
    }
    if counts.unanswered > 0 {
        let oldest = units::time(report.unanswered_ages.percentiles().max);
        write!(text, ", the oldest unanswered after {oldest}").expect("a string takes everything");
    }
    text
}

fn adversaries(counts: &AdversaryCounts) -> String {
    format!(
        "{} clients, {} connections, {} closed by the server, {} sent, {} back",
        units::grouped(u64::from(counts.clients)),
        units::grouped(counts.connects),
        units::grouped(counts.closed_by_server),
        units::bytes(counts.bytes_sent),
        units::bytes(counts.bytes_received),
    )
}

fn client(report: &Report) -> String {
    usage(report.client.cpu_us_per_request, report.client.busy_share)
}

fn server(report: &Report) -> String {
    let server = &report.server;
    let memory = server.rss_peak_bytes.map(|peak| format!(", peak memory {}", units::bytes(peak)));
    match (server.cpu_us_per_request, memory) {
        (None, None) => "unknown: give its --server-pid, or its command after `--`".to_owned(),
        (cpu, memory) => {
            let switches = server.involuntary_switches.map(|forced| {
                let own = server.voluntary_switches.unwrap_or_default();
                format!(
                    ", context switches {} ({} forced)",
                    units::grouped(own + forced),
                    units::grouped(forced)
                )
            });
            let more = [memory, switches].map(Option::unwrap_or_default).concat();
            usage(cpu, server.busy_share) + &more
        }
    }
}

fn usage(cpu_us_per_request: Option<f64>, busy_share: Option<f64>) -> String {
    let cpu = match cpu_us_per_request {
        Some(cpu) => format!("CPU {cpu:.3} us per request"),
        None => "CPU unknown".to_owned(),
    };
    let busy = busy_share.map(|share| format!(", busy {:.0} %", share * 100.0));
    cpu + &busy.unwrap_or_default()
}
