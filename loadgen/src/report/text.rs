//! The report and its progress for people at a terminal. Lines fit [`COLUMNS`]; what is longer goes
//! on in the next line.

use std::fmt::Write;

use super::{
    facts::{self, PERCENTILE_NAMES},
    json::{Document, WarmUp},
};
use crate::{run::Progress, units};

/// As wide as the narrowest terminal that people use.
const COLUMNS: usize = 80;
/// How wide names are, with the blank behind them.
const NAME_COLUMNS: usize = 13;
const TIME_COLUMNS: usize = 10;
/// What share of an interval its label may be wrong by.
const LABEL_ERROR_MAX: f64 = 0.05;
/// Labels have no more digits behind the point.
const DIGITS_MAX: usize = 3;

pub(crate) fn write(document: &Document) -> String {
    let mut lines = Lines::default();
    lines.add("target", &document.target);
    lines.add("load", &facts::load(document));
    lines.add("measured", &measured(document));
    lines.add("requests", &requests(document));
    lines
        .add("", PERCENTILE_NAMES.map(|name| format!("{name:>TIME_COLUMNS$}")).concat().trim_end());
    for (name, _, percentiles) in facts::distributions(document) {
        let times = facts::percentile_times(percentiles);
        lines.add(name, &times.map(|time| format!("{time:>TIME_COLUMNS$}")).concat());
    }
    if !document.is_closed_loop() {
        lines.add("blocked", &blocked(document));
    }
    lines.add("connections", &facts::connections(document));
    lines.add("failures", &failures(document));
    if let Some(error) = facts::first_error(document) {
        lines.add("first error", &error);
    }
    let kinds = document.adversaries.kinds;
    for (name, counts) in [
        ("slow readers", kinds.slow_readers),
        ("slow senders", kinds.slow_senders),
        ("resets", kinds.resets),
    ] {
        if let Some(counts) = facts::adversaries(counts) {
            lines.add(name, &counts);
        }
    }
    lines.add("client", &client(document));
    lines.add("server", &server(document));
    for (name, fact) in
        [("arena", facts::arena(document)), ("noise floor", facts::noise_floor(document))]
    {
        if let Some(fact) = fact {
            lines.add(name, &fact);
        }
    }
    for condition in facts::conditions(document) {
        lines.add("condition", &condition);
    }
    let verdict = document.verdict.word();
    lines.add("verdict", &format!("{verdict}: {}", facts::meaning(document)));
    for reason in &document.verdict_reasons {
        lines.add("", reason);
    }
    lines.text
}

/// Sentences in lines that fit.
pub(crate) fn paragraph(sentences: &str) -> String {
    wrapped(sentences, COLUMNS).join("\n") + "\n"
}

/// One interval in one line, without a line end.
pub(crate) fn progress(Progress { elapsed, interval, .. }: &Progress) -> String {
    let rate = units::rate(interval.rate());
    let (elapsed, length) = (elapsed.as_secs_f64(), interval.length.as_secs_f64());
    // Of the length as well: all lines have as many.
    let digits = digits_for(elapsed, length).max(digits_for(length, length));
    let mut line = format!("{elapsed:>6.digits$} s  {rate:>11} requests/s");
    let percentiles = interval.latency.percentiles();
    let times = match interval.latency.count() {
        _ if interval.is_warm_up => "  warming up".to_owned(),
        0 => "  no answers".to_owned(),
        _ => {
            let (p50, p99) = (units::time(percentiles.p50), units::time(percentiles.p99));
            format!("  p50 {p50:>8}  p99 {p99:>8}")
        }
    };
    line.push_str(&times);
    let failures = interval.errors + interval.mismatches;
    if failures > 0 {
        write!(line, "  {} failures", units::grouped(failures)).expect("a string takes everything");
    }
    line
}

/// How many digits behind the point a time must have to be right, but for a small part of an
/// interval of this length.
fn digits_for(seconds: f64, length: f64) -> usize {
    let is_right = |digits: &usize| {
        let scale = 10_f64.powi(i32::try_from(*digits).unwrap_or_default());
        ((seconds * scale).round() / scale - seconds).abs() <= length * LABEL_ERROR_MAX
    };
    (0..DIGITS_MAX).find(is_right).unwrap_or(DIGITS_MAX)
}

/// Lines of a name and a value.
#[derive(Default)]
struct Lines {
    text: String,
}

impl Lines {
    fn add(&mut self, mut name: &str, value: &str) {
        for part in wrapped(value, COLUMNS - NAME_COLUMNS) {
            let line = format!("{name:<NAME_COLUMNS$}{part}");
            writeln!(self.text, "{}", line.trim_end()).expect("a string takes everything");
            name = "";
        }
    }
}

/// A text in lines of no more characters than this, unless a word is longer. A cut behind a comma
/// is preferred: it does not separate a number from its unit. Blanks at which it is not cut stay.
fn wrapped(text: &str, columns: usize) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while rest.chars().count() > columns {
        let end = rest.char_indices().nth(columns + 1).map_or(rest.len(), |(end, _)| end);
        let fitting = &rest[..end];
        let comma = fitting.rfind(", ").map(|comma| comma + 1).filter(|&cut| cut > end / 3);
        let Some(blank) = comma.or_else(|| fitting.rfind(' ')).or_else(|| rest.find(' ')) else {
            break;
        };
        lines.push(&rest[..blank]);
        rest = &rest[blank + 1..];
    }
    lines.push(rest);
    lines
}

fn measured(document: &Document) -> String {
    let WarmUp { requests, unanswered, errors, mismatches, .. } = document.warm_up;
    let warm_up = match requests + unanswered + errors + mismatches {
        0 => String::new(),
        _ => format!(", after a warm-up of {}", facts::warm_up(document)),
    };
    let stopped = if document.stopped { ", stopped early" } else { "" };
    format!("{:.3} s{warm_up}{stopped}", document.duration_s)
}

fn requests(document: &Document) -> String {
    let mut text = format!(
        "{}, {}/s, {:.1} MiB/s of payload each way",
        units::grouped(document.requests),
        units::rate(document.rate),
        document.mib_per_s,
    );
    if let Some(share) = document.sent_share {
        text += &format!(", {} of what was due was sent", facts::schedule(share));
    }
    text
}

/// What the server's fault was that requests were not sent when they were due.
fn blocked(document: &Document) -> String {
    let blocked = document.blocked;
    let mut text = match blocked.requests {
        0 => "no request had to wait for room".to_owned(),
        1 => format!("1 request had to wait for room, for {}", units::time(blocked.max_ns)),
        count => format!(
            "{} requests had to wait for room, up to {}",
            units::grouped(count),
            units::time(blocked.max_ns)
        ),
    };
    if document.unsent > 0 {
        let age = units::time(document.unsent_age_ns.max);
        let unsent = match document.unsent {
            1 => format!("1 was never sent, due for {age}"),
            count => format!("{} were never sent, the oldest due for {age}", units::grouped(count)),
        };
        write!(text, "; {unsent}").expect("a string takes everything");
    }
    text
}

fn failures(document: &Document) -> String {
    let errors = document.errors_by_kind;
    let mut text = format!(
        "{} errors, {} mismatches, {} unanswered",
        units::grouped(document.errors),
        units::grouped(document.mismatches),
        units::grouped(document.unanswered)
    );
    let classes =
        document.mismatches_by_class.iter().map(|(class, count)| (class.as_str(), *count));
    let details = errors.kinds().into_iter().chain(classes).chain([
        ("reconnects", document.reconnects),
        ("planned reconnects", document.adversaries.planned_reconnects),
    ]);
    let details: Vec<String> = details
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{}: {}", name.replace('_', " "), units::grouped(count)))
        .collect();
    if !details.is_empty() {
        write!(text, " ({})", details.join(", ")).expect("a string takes everything");
    }
    if document.unanswered > 0 {
        let oldest = units::time(document.unanswered_age_ns.max);
        write!(text, ", the oldest unanswered after {oldest}").expect("a string takes everything");
    }
    text
}

fn client(document: &Document) -> String {
    let client = document.client;
    let mut text = usage(client.cpu_us_per_request, facts::busy(client));
    if let Some(micros) = client.tls_cpu_us_per_request {
        text += &format!("; TLS takes {} of that per request", units::micros(micros));
    }
    if let Some(micros) = client.tls_cpu_us_per_handshake {
        text += &format!(", and {} per handshake", units::micros(micros));
    }
    text
}

fn server(document: &Document) -> String {
    let server = document.server;
    let memory = server.rss_peak_bytes.map(|peak| format!(", peak memory {}", units::bytes(peak)));
    if let (None, None, None) = (server.pid, server.cpu_us_per_request, &memory) {
        return "unknown: give its --server-pid, or its command after `--`".to_owned();
    }
    let switches = facts::switches(server).map(|counts| format!(", context switches {counts}"));
    let more = [memory, switches].map(Option::unwrap_or_default).concat();
    usage(server.cpu_us_per_request, server.busy_share.map(facts::percent)) + &more
}

fn usage(cpu_us_per_request: Option<f64>, busy: Option<String>) -> String {
    let cpu = match cpu_us_per_request {
        Some(cpu) => format!("CPU {} per request", units::micros(cpu)),
        None => "CPU unknown".to_owned(),
    };
    let busy = busy.map(|busy| format!(", busy {busy}"));
    cpu + &busy.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{load::interval::Interval, measure::latency::Latency, report::json::samples};

    #[test]
    fn no_line_is_longer_than_a_narrow_terminal_but_for_long_words() {
        assert_eq!(wrapped("one two  three", 7), ["one two", " three"]);
        assert_eq!(wrapped("one two", 3), ["one", "two"]);
        assert_eq!(wrapped("a-long-word b", 4), ["a-long-word", "b"]);
        assert_eq!(wrapped("ö ü ä", 3), ["ö ü", "ä"]);
        assert_eq!(wrapped("of 3, seed 64 B", 13), ["of 3,", "seed 64 B"]);
        let mut run = samples::run(&[5, 7], 20_000);
        run.verdict_reasons = vec!["a word and ".repeat(20)];
        assert!(write(&run).lines().all(|line| line.chars().count() <= COLUMNS));
    }

    #[test]
    fn a_run_without_answers_has_no_latency() {
        let mut run = samples::run(&[1], 20_000);
        run.latency_ns = Latency::default().percentiles();
        let text = write(&run);
        let latency = text.lines().find(|line| line.starts_with("latency")).unwrap();
        assert_eq!(latency.split_whitespace().collect::<Vec<_>>()[1..], ["-"; 5]);
    }

    /// An interval in which nothing was answered, which ended then.
    fn silent(end: Duration, length: Duration) -> String {
        let nothing = Latency::default();
        let interval = Interval {
            start: end - length,
            length,
            is_warm_up: false,
            requests: 0,
            late_warm_up_requests: 0,
            errors: 2,
            mismatches: 0,
            in_flight: 10,
            in_flight_mean: 10.0,
            latency: nothing.clone(),
            service: nothing.clone(),
            send_lag: nothing,
        };
        progress(&Progress { elapsed: end, interval, arena: None })
    }

    #[test]
    fn an_interval_without_answers_says_so() {
        let line = silent(Duration::from_secs(1), Duration::from_secs(1));
        assert!(line.contains("0 requests/s  no answers  2 failures"), "{line}");
    }

    #[test]
    fn an_interval_is_labelled_with_the_time_at_which_it_ended() {
        for (end_ms, length_ms, label) in [
            (3_001, 1_000, "3 s"),
            (1_500, 1_500, "1.5 s"),
            (3_000, 1_500, "3.0 s"),
            (2_500, 1_000, "2.5 s"),
            (250, 250, "0.25 s"),
            (500, 250, "0.50 s"),
            (100, 100, "0.1 s"),
            (120, 10, "0.12 s"),
        ] {
            let line = silent(Duration::from_millis(end_ms), Duration::from_millis(length_ms));
            assert!(line.trim_start().starts_with(label), "{label}: {line}");
        }
    }

    #[test]
    fn one_request_is_one() {
        let mut run = samples::run(&[5], 20_000);
        run.config.set("rate", "5".into());
        run.blocked.requests = 1;
        run.unsent = 1;
        let text = write(&run);
        assert!(text.contains("1 request had to wait"), "{text}");
        assert!(text.contains("1 was never sent,"), "{text}");
    }

    #[test]
    fn what_nobody_had_to_wait_for_has_no_time() {
        let mut run = samples::run(&[5], 20_000);
        run.config.set("rate", "5".into());
        assert!(write(&run).contains("no request had to wait for room\n"));
    }

    #[test]
    fn spinning_is_told_apart_from_work() {
        let mut run = samples::run(&[5], 20_000);
        run.client.busy_share = Some(1.0);
        run.client.spin_share = Some(0.83);
        let text = write(&run).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains("busy 100 %: 17 % at work, 83 % looking at"), "{text}");
    }
}
