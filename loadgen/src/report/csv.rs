//! One line per interval, for spreadsheets and scripts. Units stand in the names of the columns.
//!
//! What the arena's page told stands in the interval in which it was read last. A field is empty if
//! nothing is known.

use super::json::{Document, SavedInterval};
use crate::{latency::Percentiles, metrics_probe::Sample};

pub(super) fn write(document: &Document) -> String {
    let mut text = header();
    let mut samples = document.arena.iter().peekable();
    for interval in &document.intervals {
        let mut last = None;
        while let Some(sample) = samples.next_if(|sample| sample.at_s < interval.end_s()) {
            last = Some(sample);
        }
        text.push_str(&line(interval, last));
    }
    text
}

fn header() -> String {
    let mut columns: Vec<String> =
        ["start_s", "length_s", "phase", "requests", "rate_per_s", "errors", "mismatches"]
            .map(str::to_owned)
            .into();
    columns.push("in_flight".to_owned());
    for distribution in ["latency", "service", "send_lag"] {
        for percentile in ["p50", "p90", "p99", "p99_9", "max"] {
            columns.push(format!("{distribution}_{percentile}_ns"));
        }
    }
    let arena = ["bytes_reserved", "bytes_live", "largest_free_block_bytes", "waiters"];
    columns.extend(arena.map(|figure| format!("arena_{figure}")));
    columns.push("arena_spills_total".to_owned());
    columns.join(",") + "\n"
}

fn line(interval: &SavedInterval, sample: Option<&Sample>) -> String {
    let mut fields = vec![
        format!("{:.6}", interval.start_s),
        format!("{:.6}", interval.length_s),
        if interval.is_warm_up { "warm-up" } else { "measured" }.to_owned(),
        interval.requests.to_string(),
        format!("{:.3}", interval.rate()),
        interval.errors.to_string(),
        interval.mismatches.to_string(),
        interval.in_flight.to_string(),
    ];
    let has_answers = interval.latency_ns.max > 0;
    for percentiles in [interval.latency_ns, interval.service_ns, interval.send_lag_ns] {
        let Percentiles { p50, p90, p99, p99_9, max } = percentiles;
        let known = |nanos: u64| if has_answers { nanos.to_string() } else { String::new() };
        fields.extend([p50, p90, p99, p99_9, max].map(known));
    }
    let sample = sample.copied().unwrap_or_default();
    let figures = [
        sample.bytes_reserved,
        sample.bytes_live,
        sample.largest_free_block_bytes,
        sample.waiters,
        sample.spills_total,
    ];
    fields.extend(figures.map(|figure| figure.map_or(String::new(), |value| value.to_string())));
    fields.join(",") + "\n"
}
