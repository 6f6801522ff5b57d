//! The distributions for other tools: HdrHistogram's interval log, and the text that its plotter
//! reads.
//!
//! In the log, response times have no tag: tools that know nothing of tags see them alone. Service
//! time and send lag are tagged, and so is everything that was measured while warming up. How long
//! connections took to be made stands at the end, in a line each for the whole time. Values
//! are nanoseconds, and the largest of each line is in milliseconds, as is the custom.

use std::{
    fmt::Write,
    time::{Duration, UNIX_EPOCH},
};

use hdrhistogram::{
    Histogram,
    serialization::{
        V2DeflateSerializer,
        interval_log::{IntervalLogWriterBuilder, Tag},
    },
};

use super::json::{ConnectHistograms, Document};

const NANOS_PER_MILLI: f64 = 1e6;
/// How many lines the plotter's text has each time the distance to 100 % halves.
const TICKS_PER_HALF_DISTANCE: u32 = 5;

/// Writes the interval log.
pub(super) fn write_log(document: &Document) -> String {
    let mut log = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let began_at = Duration::try_from_secs_f64(document.started_at_unix_s).unwrap_or_default();
    let mut writer = IntervalLogWriterBuilder::new()
        .add_comment("[Histogram log format version 1.3]")
        .add_comment(&format!("[loadgen {}, nanoseconds]", document.version))
        .with_start_time(UNIX_EPOCH + began_at)
        .with_base_time(UNIX_EPOCH + began_at)
        .with_max_value_divisor(NANOS_PER_MILLI)
        .begin_log_with(&mut log, &mut serializer)
        .expect("memory takes what is written");
    for interval in &document.intervals {
        let tags = match interval.is_warm_up {
            true => [Some("warm-up"), Some("warm-up-service"), Some("warm-up-send-lag")],
            false => [None, Some("service"), Some("send-lag")],
        };
        let encoded = &interval.histograms;
        for (tag, encoded) in
            tags.into_iter().zip([&encoded.latency, &encoded.service, &encoded.send_lag])
        {
            let tag = tag.map(|tag| Tag::new(tag).expect("a tag has neither blank nor comma"));
            let [start, length] = [interval.start_s, interval.length_s]
                .map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default());
            writer
                .write_histogram(&encoded.decode(), start, length, tag)
                .expect("memory takes what is written");
        }
    }
    let [before, measured] = [&document.connects.before, &document.connects.measured];
    let measured_from = document.measured().next().map_or(0.0, |interval| interval.start_s);
    for (prefix, times, start_s, length_s) in [
        ("warm-up-", before, 0.0, measured_from),
        ("", measured, measured_from, document.duration_s),
    ] {
        let ConnectHistograms { connect, handshake, resumption } = &times.histograms;
        for (name, encoded) in
            [("connect", connect), ("handshake", handshake), ("resumption", resumption)]
        {
            if encoded.is_empty() {
                continue;
            }
            let tag = format!("{prefix}{name}");
            let tag = Tag::new(&tag).expect("a tag has neither blank nor comma");
            let [start, length] = [start_s, length_s]
                .map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default());
            writer
                .write_histogram(&encoded.decode(), start, length, Some(tag))
                .expect("memory takes what is written");
        }
    }
    String::from_utf8(log).expect("the log is text")
}

/// Writes the distribution of response times, in milliseconds, as the plotter reads it.
pub(super) fn write_distribution(document: &Document) -> String {
    let histogram = document.histograms.latency.decode();
    let mut text = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    for Step { nanos, quantile, count } in steps(&histogram) {
        let value = millis(nanos as f64);
        let line = match quantile {
            1.0 => format!("{value:>12.6} {quantile:2.12} {count:>10}\n"),
            _ => {
                let inverse = 1.0 / (1.0 - quantile);
                format!("{value:>12.6} {quantile:2.12} {count:>10} {inverse:>14.2}\n")
            }
        };
        text.push_str(&line);
    }
    let [mean, deviation, max] =
        [histogram.mean(), histogram.stdev(), histogram.max() as f64].map(millis);
    let count = histogram.len();
    write!(
        text,
        "#[Mean    = {mean:>12.6}, StdDeviation   = {deviation:>12.6}]\n\
         #[Max     = {max:>12.6}, Total count    = {count:>12}]\n\
         #[Buckets = {:>12}, SubBuckets     = {:>12}]\n",
        histogram.buckets(),
        (2 * 10_u32.pow(histogram.sigfig().into())).next_power_of_two(),
    )
    .expect("a string takes everything");
    text
}

/// A point of a distribution.
pub(super) struct Step {
    /// No less than this share of all values ...
    pub(super) quantile: f64,
    /// ... are at most this.
    pub(super) nanos: u64,
    /// How many values are at most this.
    pub(super) count: u64,
}

/// Walks a distribution, in steps that become finer towards its end. Yields nothing if nothing is
/// recorded.
pub(super) fn steps(histogram: &Histogram<u64>) -> impl Iterator<Item = Step> + '_ {
    histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE).scan(0, |count, value| {
        *count += value.count_since_last_iteration();
        let quantile = value.quantile_iterated_to();
        Some(Step { quantile, nanos: value.value_iterated_to(), count: *count })
    })
}

fn millis(nanos: f64) -> f64 {
    nanos / NANOS_PER_MILLI
}
