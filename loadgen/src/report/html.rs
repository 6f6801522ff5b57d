//! The report as one page that needs nothing else: no other file, no network. Its style, its script
//! and the figures stand in it.
//!
//! The tables are written here; the script draws the same figures as charts. Its policy forbids the
//! browser to load anything, so a page that needs something is seen to be broken.

use std::fmt::Write;

use serde::Serialize;

use super::{
    facts::{self, PERCENTILE_NAMES},
    hlog,
    json::{Document, SavedInterval},
};
use crate::{latency::Percentiles, metrics_probe::Sample, units, verdict::Verdict};

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
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
        "verdict" => match document.slo.iter().all(|slo| slo.met) {
            true => document.verdict.word().to_owned(),
            false => format!("{}, but a condition is missed", document.verdict.word()),
        },
        "meaning" => escape(document.verdict.meaning()),
        "reasons" => reasons(document),
        "keys" => keys(document),
        "percentiles" => percentiles(document),
        "figures" => pairs(facts::figures(document).into_iter()),
        "configuration" => configuration(document),
        "intervals" => intervals(document),
        "arena" => arena(document),
        "data" => data(document),
        "script" => SCRIPT.to_owned(),
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
        _ if document.slo.iter().any(|slo| !slo.met) => "bad",
        Verdict::Ok => "good",
        Verdict::Overloaded | Verdict::ClientLimited | Verdict::Disturbed => "doubt",
        Verdict::Mismatch | Verdict::Failed | Verdict::Errors => "bad",
    }
}

/// Why the verdict is what it is, and what became of the conditions.
fn reasons(document: &Document) -> String {
    let sentences = facts::conditions(document).into_iter().chain(document.verdict_reasons.clone());
    let items: String =
        sentences.map(|sentence| format!("<li>{}</li>\n", escape(&sentence))).collect();
    match items.as_str() {
        "" => String::new(),
        items => format!("<ul class=\"reasons\">\n{items}</ul>"),
    }
}

fn keys(document: &Document) -> String {
    let failures = document.errors + document.mismatches + document.unanswered;
    let Percentiles { p50, p99, p99_9, max, .. } = document.latency_ns;
    let keys = [
        ("requests/s", units::rate(document.rate)),
        ("p50", units::time(p50)),
        ("p99", units::time(p99)),
        ("p99.9", units::time(p99_9)),
        ("max", units::time(max)),
        ("failures", units::grouped(failures)),
    ];
    keys.map(|(name, value)| format!("<div><dt>{name}</dt><dd>{value}</dd></div>")).join("\n")
}

fn percentiles(document: &Document) -> String {
    let distributions = facts::distributions(document);
    let rows = distributions.iter().map(|(name, _, percentiles)| {
        let name = [(*name).to_owned()];
        name.into_iter().chain(facts::percentile_times(*percentiles)).collect()
    });
    let mut heading = vec![""];
    heading.extend(PERCENTILE_NAMES);
    let meanings =
        distributions.iter().map(|(name, meaning, _)| format!("<b>{name}</b>: {meaning}"));
    let table = table("numbers", "Percentiles", &heading, rows);
    let meanings: Vec<String> = meanings.collect();
    format!("{table}<p class=\"hint\">{}.</p>", meanings.join("; "))
}

fn configuration(document: &Document) -> String {
    let facts = [
        ("target", document.target.clone()),
        ("started", facts::started_at(document)),
        ("loadgen", document.version.clone()),
    ];
    pairs(facts.into_iter().chain(document.config.texts()))
}

fn pairs<'a>(rows: impl Iterator<Item = (&'a str, String)>) -> String {
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
            units::grouped(interval.requests),
            units::rate(interval.rate()),
        ];
        row.extend(match interval.latency_ns.max {
            0 => PERCENTILE_NAMES.map(|_| "-".to_owned()),
            _ => facts::percentile_times(interval.latency_ns),
        });
        row.extend([interval.errors, interval.mismatches, interval.in_flight].map(units::grouped));
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

/// A table that scrolls by itself where the page is narrow.
fn table(
    class: &str,
    name: &str,
    heading: &[&str],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let mut html = format!(
        "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"{name}\">\
         <table class=\"{class}\">\n<thead><tr>"
    );
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
    arena: Vec<ArenaPoint>,
    distributions: Vec<Distribution<'a>>,
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
    in_flight: u64,
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
        let histogram = histogram.decode();
        if !histogram.is_empty() {
            let points = hlog::steps(&histogram).map(|step| (step.quantile, step.nanos)).collect();
            distributions.push(Distribution { name, look, count: histogram.len(), points });
        }
    }
    let data = Data {
        intervals: document.intervals.iter().map(Point::of).collect(),
        arena: document.arena.iter().map(ArenaPoint::of).collect(),
        distributions,
    };
    // A tag in the data would end the script that holds it.
    serde_json::to_string(&data).expect("plain data can be written").replace('<', "\\u003c")
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
            in_flight: interval.in_flight,
        }
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
