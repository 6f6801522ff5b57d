//! The report as one page that needs nothing else: no other file, no network. Its style, its script
//! and the figures stand in it.
//!
//! The tables are written here; the script draws the same figures as charts. Its policy forbids the
//! browser to load anything, so a page that needs something is seen to be broken.

use std::fmt::Write;

use serde::Serialize;

use super::{
    encoded::Encoded,
    facts::{self, PERCENTILE_NAMES},
    hlog,
    json::{Document, SavedInterval, WarmUp},
};
use crate::{
    measure::latency::Percentiles, plan::rate::Rate, report::verdict::Verdict,
    server::metrics::Sample, units,
};

const PAGE: &str = include_str!("page/page.html");
const PLAIN_PAGE: &str = include_str!("page/plain.html");
const STYLE: &str = include_str!("page/page.css");
/// A table with more columns is wider than a telephone.
const COLUMNS_MAX: usize = 5;
const SCRIPT: &str = include_str!("page/page.js");

pub(super) fn write(document: &Document) -> String {
    fill(PAGE, |place| match place {
        "title" => format!("loadgen: {}", escape(&document.target)),
        "style" => STYLE.to_owned(),
        "when" => format!(
            "{}, measured for {:.1} s{}",
            facts::started_at(document),
            document.duration_s,
            if document.stopped { ", stopped early" } else { "" }
        ),
        "verdict-class" => class(document).to_owned(),
        "verdict" => match document.misses_a_condition() {
            false => document.verdict.word().to_owned(),
            true => format!("{}, but a condition is missed", document.verdict.word()),
        },
        "meaning" => escape(&facts::meaning(document)),
        "reasons" => reasons(document),
        "keys" => keys(document),
        "percentiles" => percentiles(document),
        "figures" => figures(document),
        "configuration" => configuration(document),
        "intervals" => intervals(document),
        "arena" => arena(document),
        "data" => data(document),
        "script" => SCRIPT.to_owned(),
        other => unreachable!("the page has no place for {other}"),
    })
}

/// What a page says first.
#[derive(Debug)]
pub(super) struct Summary {
    pub(super) class: &'static str,
    pub(super) finding: String,
    pub(super) reservation: String,
}

/// A page without script: `sides` are what it is about, `body` is markup.
pub(super) fn plain_page(title: &str, summary: &Summary, sides: &[String], body: &str) -> String {
    fill(PLAIN_PAGE, |place| match place {
        "title" => escape(title),
        "style" => STYLE.to_owned(),
        "class" => summary.class.to_owned(),
        "summary" => escape(&summary.finding),
        "reservation" => escape(&summary.reservation),
        "sides" => list("sides", sides),
        "body" => body.to_owned(),
        other => unreachable!("the page has no place for {other}"),
    })
}

/// Fills the places of a page, each `{{name}}`, in one pass: what is filled in is not looked at
/// again.
fn fill(page: &str, content: impl Fn(&str) -> String) -> String {
    let mut parts = page.split("{{");
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (place, rest) = part.split_once("}}").expect("every place is closed");
        filled.push_str(&content(place));
        filled.push_str(rest);
    }
    filled
}

/// Text that is no markup, inside and outside of attributes.
fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;").replace('\'', "&#39;")
}

fn class(document: &Document) -> &'static str {
    match document.verdict {
        _ if document.misses_a_condition() => "bad",
        Verdict::Ok => "good",
        Verdict::Overloaded | Verdict::ClientLimited | Verdict::Disturbed => "doubt",
        Verdict::Mismatch | Verdict::Failed | Verdict::Errors => "bad",
    }
}

/// Why the verdict is what it is, and what became of the conditions.
fn reasons(document: &Document) -> String {
    let sentences = facts::conditions(document).into_iter().chain(document.verdict_reasons.clone());
    list("reasons", &sentences.collect::<Vec<_>>())
}

/// Sentences one below the other. Of none there is no list.
pub(super) fn list(class: &str, sentences: &[String]) -> String {
    let items: String =
        sentences.iter().map(|sentence| format!("<li>{}</li>\n", escape(sentence))).collect();
    match items.as_str() {
        "" => String::new(),
        items => format!("<ul class=\"{class}\">\n{items}</ul>"),
    }
}

fn keys(document: &Document) -> String {
    let WarmUp { unanswered, errors, mismatches, .. } = document.warm_up;
    let [counted, before] = [
        document.errors + document.mismatches + document.unanswered + document.unsent,
        errors + mismatches + unanswered,
    ];
    let [p50, _, p99, p99_9, max] = facts::percentile_times(document.latency_ns);
    let mut keys = vec![
        ("requests/s", units::rate(document.rate)),
        ("p50", p50),
        ("p99", p99),
        ("p99.9", p99_9),
        ("max", max),
        ("failures", units::grouped(counted)),
    ];
    if before > 0 {
        keys.push(("failures in warm-up", units::grouped(before)));
    }
    let keys = keys.into_iter();
    keys.map(|(name, value)| format!("<div><dt>{name}</dt><dd>{value}</dd></div>\n")).collect()
}

fn percentiles(document: &Document) -> String {
    let distributions = facts::distributions(document);
    // One row for each percentile: that is narrow enough for a telephone.
    let mut heading = vec![""];
    heading.extend(distributions.iter().map(|(name, ..)| *name));
    let columns: Vec<_> =
        distributions.iter().map(|(.., times)| facts::percentile_times(*times)).collect();
    let rows = PERCENTILE_NAMES.iter().enumerate().map(|(row, name)| {
        let times = columns.iter().map(|column| column[row].clone());
        [(*name).to_owned()].into_iter().chain(times).collect()
    });
    let meanings =
        distributions.iter().map(|(name, meaning, _)| format!("<b>{name}</b>: {meaning}"));
    let table = table("numbers", "Percentiles", &heading, rows);
    let meanings: Vec<String> = meanings.collect();
    format!("{table}<p class=\"hint\">{}.</p>", meanings.join("; "))
}

fn figures(document: &Document) -> String {
    let figures = facts::figures(document);
    let names: Vec<&str> = figures.iter().map(|(name, _)| *name).collect();
    pairs(figures.into_iter()) + &terms(&names)
}

/// What these names mean, as far as that needs saying.
pub(super) fn terms(names: &[&str]) -> String {
    let terms = facts::TERMS.iter().filter(|(term, _)| names.contains(term));
    let terms: String =
        terms.map(|(term, meaning)| format!("<dt>{term}</dt><dd>{meaning}</dd>\n")).collect();
    format!("<dl class=\"terms\">\n{terms}</dl>\n")
}

fn configuration(document: &Document) -> String {
    let facts = [
        ("target", document.target.clone()),
        ("started", facts::started_at(document)),
        ("loadgen", document.version.clone()),
    ];
    pairs(facts.into_iter().chain(document.config.texts()))
}

pub(super) fn pairs<'a>(rows: impl Iterator<Item = (&'a str, String)>) -> String {
    let rows = rows.map(|(name, value)| vec![name.to_owned(), value]);
    table("words", "Names and values", &["name", "value"], rows)
}

fn intervals(document: &Document) -> String {
    let mut heading = vec!["from", "to", "phase", "requests", "requests/s"];
    heading.extend(PERCENTILE_NAMES);
    heading.extend(["errors", "mismatches", "in flight"]);
    let rows = document.intervals.iter().map(|interval| {
        let mut row = vec![
            format!("{:.3} s", interval.start_s),
            format!("{:.3} s", interval.end_s()),
            if interval.is_warm_up { "warm-up" } else { "measured" }.to_owned(),
            units::grouped(interval.answered()),
            units::rate(interval.rate()),
        ];
        row.extend(facts::percentile_times(interval.latency_ns));
        row.extend([interval.errors, interval.mismatches].map(units::grouped));
        row.push(units::rate(interval.in_flight()));
        row
    });
    details("Load and latency", &table("numbers", "Load and latency", &heading, rows))
}

fn arena(document: &Document) -> String {
    if document.arena.is_empty() {
        return String::new();
    }
    let heading = ["at", "whole arena", "in use", "largest free block", "waiters", "spills in all"];
    let rows = document.arena.iter().map(|sample| {
        let bytes = |figure: Option<u64>| figure.map_or("-".to_owned(), units::bytes);
        let count = |figure: Option<u64>| figure.map_or("-".to_owned(), units::grouped);
        vec![
            format!("{:.3} s", sample.at_s),
            bytes(sample.bytes_reserved),
            bytes(sample.bytes_live),
            bytes(sample.largest_free_block_bytes),
            count(sample.waiters),
            count(sample.spills_total),
        ]
    });
    details("Arena", &table("numbers", "Arena", &heading, rows))
}

fn details(summary: &str, content: &str) -> String {
    format!("<details><summary>{summary}</summary>\n{content}</details>")
}

/// A table that scrolls by itself where the page is narrow, and says so if it has many columns.
pub(super) fn table(
    class: &str,
    name: &str,
    heading: &[&str],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let mut html = match heading.len() {
        0..=COLUMNS_MAX => String::new(),
        _ => "<p class=\"hint sideways\">Scroll sideways to see all columns.</p>\n".to_owned(),
    };
    write!(
        html,
        "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"{name}\">\
         <table class=\"{class}\">\n<thead><tr>"
    )
    .expect("a string takes everything");
    for cell in heading {
        write!(html, "<th scope=\"col\">{cell}</th>").expect("a string takes everything");
    }
    html.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let cell = escape(cell);
            let cell = match column {
                0 => format!("<tr><th scope=\"row\">{cell}</th>"),
                _ => format!("<td>{cell}</td>"),
            };
            html.push_str(&cell);
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody>\n</table></div>\n");
    html
}

/// What the script draws.
#[derive(Serialize)]
struct Data<'a> {
    intervals: Vec<Point>,
    /// When measuring had ended, in seconds: what comes later is the drain.
    measured_until: f64,
    /// Open loop: seconds, and how many requests per second were due then.
    intended: Vec<(f64, f64)>,
    arena: Vec<ArenaPoint>,
    distributions: Vec<Distribution<'a>>,
    /// How long connections took to be made.
    connects: Vec<Distribution<'a>>,
}

#[derive(Serialize)]
struct Point {
    start: f64,
    end: f64,
    warm_up: bool,
    rate: f64,
    /// In the order of [`PERCENTILE_NAMES`].
    latency: [u64; 5],
    errors: u64,
    mismatches: u64,
    /// On average.
    in_flight: f64,
}

#[derive(Serialize)]
struct ArenaPoint {
    at: f64,
    reserved: Option<u64>,
    live: Option<u64>,
    largest_free: Option<u64>,
    waiters: Option<u64>,
    spills: Option<u64>,
}

#[derive(Serialize)]
struct Distribution<'a> {
    name: &'a str,
    /// Which colour and dashes, so that a name looks the same in every report.
    look: usize,
    count: u64,
    /// Quantile and nanoseconds.
    points: Vec<(f64, u64)>,
}

fn data(document: &Document) -> String {
    let encoded = &document.histograms;
    let mut distributions = Vec::new();
    for (look, (name, histogram)) in [
        ("latency", &encoded.latency),
        ("service", &encoded.service),
        ("send lag", &encoded.send_lag),
    ]
    .into_iter()
    .enumerate()
    {
        // In closed loop service time is latency: one line says it.
        if name == "service" && document.is_closed_loop() {
            continue;
        }
        distributions.extend(Distribution::of(name, look, histogram));
    }
    let times = &facts::connects(document).0.histograms;
    let connects = [
        ("connect", &times.connect),
        ("handshake", &times.handshake),
        ("resumption", &times.resumption),
    ];
    let connects = connects.into_iter().enumerate();
    let connects = connects.filter_map(|(look, (name, all))| Distribution::of(name, look, all));
    let data = Data {
        intervals: document.intervals.iter().map(Point::of).collect(),
        measured_until: measured_until(document),
        intended: intended(document),
        arena: document.arena.iter().map(ArenaPoint::of).collect(),
        distributions,
        connects: connects.collect(),
    };
    // A tag in the data would end the script that holds it.
    serde_json::to_string(&data).expect("plain data can be written").replace('<', "\\u003c")
}

fn measured_until(document: &Document) -> f64 {
    let began_at = document.measured().next().map_or(0.0, |interval| interval.start_s);
    began_at + document.duration_s
}

/// The rate at which requests were due, at both ends of each interval of the load and wherever the
/// line bends. Nothing in closed loop.
fn intended(document: &Document) -> Vec<(f64, f64)> {
    let config = &document.config;
    let rates = config.rates();
    let end = document.intervals.last().map_or(0.0, SavedInterval::end_s);
    if rates.is_empty() {
        return Vec::new();
    }
    let joined = config.seconds("ramp_up_s").unwrap_or_default();
    let warm = joined + config.seconds("warm_up_s").unwrap_or_default();
    let over = config.seconds("duration_s").map_or(end, |duration| warm + duration);
    let starts = document.intervals.iter().map(|interval| interval.start_s);
    let times = starts.chain([0.0, joined, warm, over]);
    let mut times: Vec<f64> = times.filter(|&time| time <= over.min(end)).collect();
    times.sort_by(f64::total_cmp);
    times.dedup();
    let due_at = |time: f64| {
        let due = |rate: &Rate| {
            let (first, last) = (rate.first(), rate.last());
            match time {
                // Connections join one after the other.
                _ if time < joined => first * time / joined,
                _ if time <= warm => first,
                _ => first + (last - first) * (time - warm) / (over - warm),
            }
        };
        rates.iter().map(due).sum()
    };
    times.into_iter().map(|time| (time, due_at(time))).collect()
}

impl Point {
    fn of(interval: &SavedInterval) -> Self {
        let Percentiles { p50, p90, p99, p99_9, max } = interval.latency_ns;
        Self {
            start: interval.start_s,
            end: interval.end_s(),
            warm_up: interval.is_warm_up,
            rate: interval.rate(),
            latency: [p50, p90, p99, p99_9, max],
            errors: interval.errors,
            mismatches: interval.mismatches,
            in_flight: interval.in_flight(),
        }
    }
}

impl<'a> Distribution<'a> {
    /// `None` if nothing is recorded.
    fn of(name: &'a str, look: usize, histogram: &Encoded) -> Option<Self> {
        let histogram = histogram.decode();
        let points = hlog::steps(&histogram).map(|step| (step.quantile, step.nanos)).collect();
        let count = histogram.len();
        (count > 0).then_some(Self { name, look, count, points })
    }
}

impl ArenaPoint {
    fn of(sample: &Sample) -> Self {
        Self {
            at: sample.at_s,
            reserved: sample.bytes_reserved,
            live: sample.bytes_live,
            largest_free: sample.largest_free_block_bytes,
            waiters: sample.waiters,
            spills: sample.spills_total,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::json::samples;

    #[test]
    fn the_intended_rate_follows_the_ramp_to_the_end_of_the_load() {
        let mut run = samples::run(&[10; 4], 20_000);
        run.config.set("rate", "10:50 + 5".into());
        run.config.set("ramp_up_s", 0.5.into());
        run.config.set("warm_up_s", 0.5.into());
        run.config.set("duration_s", 4.0.into());
        let start = [(0.0, 0.0), (0.5, 15.0), (1.0, 15.0)];
        let ramp = [(2.0, 25.0), (3.0, 35.0), (4.0, 45.0), (5.0, 55.0)];
        assert_eq!(intended(&run), [&start[..], &ramp].concat());
    }

    #[test]
    fn a_closed_loop_has_no_intended_rate() {
        assert!(intended(&samples::run(&[10; 4], 20_000)).is_empty());
    }
}
