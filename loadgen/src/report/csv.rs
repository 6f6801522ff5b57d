//! One line per interval, for spreadsheets and scripts. Units stand in the names of the columns.
//!
//! What the arena's page told stands in the interval in which it was read last. A field is empty if
//! nothing is known.

use super::json::{Document, SavedInterval};
use crate::{measure::latency::Percentiles, server::metrics::Sample};

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
    columns.extend(
        ["arena_spills_total", "in_flight_mean", "late_warm_up_requests"].map(str::to_owned),
    );
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
    let encoded = &interval.histograms;
    for (percentiles, encoded) in [
        (interval.latency_ns, &encoded.latency),
        (interval.service_ns, &encoded.service),
        (interval.send_lag_ns, &encoded.send_lag),
    ] {
        let Percentiles { p50, p90, p99, p99_9, max } = percentiles;
        // Each may hold something where the others are empty: requests are sent in one interval and
        // answered in another, and in closed loop none is late.
        let is_known = max > 0 || !encoded.is_empty();
        let known = |nanos: u64| if is_known { nanos.to_string() } else { String::new() };
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
    let in_flight_mean = interval.in_flight_mean;
    fields.push(in_flight_mean.map_or(String::new(), |mean| format!("{mean:.3}")));
    fields.push(interval.late_warm_up_requests.to_string());
    fields.join(",") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        measure::latency::Latency,
        report::json::{Histograms, samples},
    };

    /// The fields of the only measured interval that stand below these names.
    fn fields(document: &Document, prefix: &str) -> Vec<String> {
        let text = write(document);
        let mut lines = text.lines();
        let names = lines.next().unwrap().split(',');
        let row = lines.last().unwrap().split(',');
        let below = names.zip(row).filter(|(name, _)| name.starts_with(prefix));
        below.map(|(_, field)| field.to_owned()).collect()
    }

    #[test]
    fn in_closed_loop_there_is_no_send_lag() {
        let run = samples::run(&[10], 20_000);
        assert_eq!(fields(&run, "send_lag_"), [""; 5]);
        assert!(fields(&run, "latency_").iter().all(|field| !field.is_empty()));
    }

    #[test]
    fn send_lag_is_known_where_requests_were_sent_and_none_was_answered() {
        for lag in [0, 700] {
            let mut run = samples::run(&[0], 20_000);
            let mut histogram = Latency::default().histogram();
            histogram.record(lag).unwrap();
            let (lags, nothing) = (Latency::from(&histogram), Latency::default());
            let interval = run.intervals.last_mut().unwrap();
            interval.send_lag_ns = lags.percentiles();
            interval.histograms = Histograms::of(&nothing, &nothing, &lags);
            assert_eq!(fields(&run, "send_lag_"), [lag.to_string().as_str(); 5]);
            assert_eq!(fields(&run, "latency_"), [""; 5]);
        }
    }
}
