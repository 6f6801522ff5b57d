//! The report as JSON. The names are an interface: scripts read them.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::Report;
use crate::{
    adversaries::AdversaryReport,
    latency::Percentiles,
    mismatch::Mismatch,
    slo::SloOutcome,
    tally::{Counts, Errors},
    verdict::Verdict,
};

/// Grows when a name changes its meaning or goes away, not when one is added.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    version: &'static str,
    target: String,
    verdict: Verdict,
    verdict_reasons: &'a [String],
    slo: Vec<Condition<'a>>,
    stopped: bool,
    requests: u64,
    errors: u64,
    mismatches: u64,
    unanswered: u64,
    duration_s: f64,
    rate: f64,
    mib_per_s: f64,
    payload_bytes_mean: f64,
    latency_ns: Percentiles,
    service_ns: Percentiles,
    send_lag_ns: Percentiles,
    client: Client,
    server: Server,
    littles_law: Option<Law>,
    adversaries: Adversaries,
    unanswered_age_ns: Percentiles,
    unsent: u64,
    unsent_age_ns: Age,
    blocked: BlockedTime,
    reconnects: u64,
    warm_up: WarmUp,
    errors_by_kind: Errors,
    mismatches_by_class: BTreeMap<String, u64>,
    first_error: Option<&'a str>,
    config: Config<'a>,
}

#[derive(Serialize)]
struct Client {
    cpu_us_per_request: Option<f64>,
    busy_share: Option<f64>,
    unread_share: Option<f64>,
    stolen_share: Option<f64>,
}

#[derive(Serialize)]
struct Server {
    cpu_us_per_request: Option<f64>,
    rss_peak_bytes: Option<u64>,
    busy_share: Option<f64>,
    voluntary_switches: Option<u64>,
    involuntary_switches: Option<u64>,
}

#[derive(Serialize)]
struct Adversaries {
    #[serde(flatten)]
    kinds: AdversaryReport,
    planned_reconnects: u64,
}

#[derive(Serialize)]
struct Law {
    in_flight_mean: f64,
    rate_times_service: f64,
    holds: bool,
}

#[derive(Serialize)]
struct Condition<'a> {
    condition: &'a str,
    /// Nothing if it is infinite, for which JSON has no word.
    reached: Option<f64>,
    met: bool,
}

impl<'a> Condition<'a> {
    fn of(outcome: &'a SloOutcome) -> Self {
        let SloOutcome { condition, reached, is_met, .. } = outcome;
        Self { condition, reached: reached.is_finite().then_some(*reached), met: *is_met }
    }
}

#[derive(Serialize)]
struct Age {
    max: u64,
}

#[derive(Serialize)]
struct BlockedTime {
    requests: u64,
    total_s: f64,
    max_ns: u64,
}

#[derive(Serialize)]
struct WarmUp {
    requests: u64,
}

#[derive(Serialize)]
struct Config<'a> {
    connections: u32,
    threads: u32,
    pipeline: u32,
    duration_s: Option<f64>,
    requests: Option<u64>,
    warm_up_s: f64,
    size: String,
    rate: String,
    arrival: &'static str,
    ramp_up_s: f64,
    reconnect_every: Option<String>,
    seed: u64,
    timeout_s: Option<f64>,
    verify: String,
    command: &'a [String],
}

pub(super) fn write(report: &Report) -> String {
    let counts = &report.counts;
    let Counts { requests, unanswered, unsent, errors, mismatches, .. } = *counts;
    let plan = &report.plan;
    let document = Document {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        target: report.target.to_string(),
        verdict: report.verdict,
        verdict_reasons: &report.reasons,
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
            busy_share: report.client.busy_share,
            unread_share: report.client.unread_share,
            stolen_share: report.client.stolen_share,
        },
        server: Server {
            cpu_us_per_request: report.server.cpu_us_per_request,
            rss_peak_bytes: report.server.rss_peak_bytes,
            busy_share: report.server.busy_share,
            voluntary_switches: report.server.voluntary_switches,
            involuntary_switches: report.server.involuntary_switches,
        },
        littles_law: report.littles_law.map(|law| Law {
            in_flight_mean: law.in_flight_mean,
            rate_times_service: law.rate_times_service,
            holds: law.holds(),
        }),
        adversaries: Adversaries {
            kinds: report.adversaries,
            planned_reconnects: counts.planned_reconnects,
        },
        unanswered_age_ns: report.unanswered_ages.percentiles(),
        unsent,
        unsent_age_ns: Age { max: nanos(report.unsent_age_max) },
        blocked: BlockedTime {
            requests: report.blocked.requests,
            total_s: report.blocked.total.as_secs_f64(),
            max_ns: nanos(report.blocked.max),
        },
        reconnects: counts.reconnects,
        warm_up: WarmUp { requests: counts.warm_up_requests },
        errors_by_kind: errors,
        mismatches_by_class: mismatches.iter().map(|(class, count)| (key(class), count)).collect(),
        first_error: report.first_error.as_deref(),
        config: Config {
            connections: plan.connections,
            threads: plan.threads_used(),
            pipeline: plan.pipeline,
            duration_s: plan.duration.map(|duration| duration.as_secs_f64()),
            requests: plan.requests,
            warm_up_s: plan.warm_up.as_secs_f64(),
            size: plan.sizes.to_string(),
            rate: plan.rate.to_string(),
            arrival: plan.arrival.word(),
            ramp_up_s: plan.ramp_up.as_secs_f64(),
            reconnect_every: plan.reconnect_every.map(|every| every.to_string()),
            seed: plan.seed,
            timeout_s: plan.timeout.map(|timeout| timeout.as_secs_f64()),
            verify: plan.verify.words(),
            command: &plan.command,
        },
    };
    let mut text = serde_json::to_string_pretty(&document).expect("plain data can be written");
    text.push('\n');
    text
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn key(class: Mismatch) -> String {
    match serde_json::to_value(class) {
        Ok(serde_json::Value::String(key)) => key,
        other => unreachable!("a class is written as a string, not as {other:?}"),
    }
}
