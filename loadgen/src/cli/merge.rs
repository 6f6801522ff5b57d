//! One run out of several that loaded at the same time from several machines.
//!
//! Histograms are added, and percentiles come from the sum. Nothing is averaged. Runs that do not
//! fit together are refused, with the reason: a sum of unlike runs would describe none of them.
//!
//! The server's cost is that of the whole server for the requests of all runs: see [`server`].
//! Conditions that all runs had are judged again, by what all of them reached together. Of
//! timetables that were kept and answered that is the sum of their rates.
//!
//! The times of all runs are taken from the clocks of their machines, which should agree to much
//! less than an interval.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
};

use clap::Args;
use serde_json::Value;

use crate::{
    measure::latency::Latency,
    net::address::Address,
    plan::{
        rate::Rate,
        slo::{self, Reached, Slo, Throughput},
    },
    report::{
        encoded::Encoded,
        json::{
            Age, BlockedTime, Client, Condition, Config, ConnectHistograms, ConnectTimes, Document,
            Floor, Histograms, RATES_JOINT, SEED_TEXT, SavedAdversaries, SavedConnects,
            SavedInterval, Server, WarmUp, sent_share,
        },
        output::Output,
        text,
        verdict::Verdict,
    },
    server::metrics::Sample,
};

/// Settings of one machine each, which are added up.
const ADDED: [&str; 6] =
    ["connections", "threads", "requests", "slow_readers", "slow_senders", "resets"];
/// Settings of one machine each, which are kept side by side.
const LISTED: [&str; 11] = [
    "seed",
    SEED_TEXT,
    "pin",
    "slo",
    "metrics",
    "server_pid",
    "command",
    "threads_pinned",
    "tls_ca",
    "tls_cert",
    "tls_key",
];
/// The setting that says how often each machine sent.
const RATE: &str = "rate";
/// How much of the time in which any of them measured all of them must have measured.
const SHARED_TIME_MIN: f64 = 0.5;

/// Adds up runs that several machines made at the same time
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The runs, saved with -o FILE.json
    #[arg(value_name = "RUN.json", required = true, num_args = 2..)]
    runs: Vec<PathBuf>,
    /// Write the sum to FILE, in the format of its extension; repeatable
    #[arg(short, long, value_name = "FILE", required = true)]
    pub(crate) output: Vec<PathBuf>,
}

/// A run and the name by which people know it.
#[derive(Debug)]
struct Named {
    name: String,
    run: Document,
}

/// A stretch of time in seconds.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: f64,
    to: f64,
}

/// An interval of one of the runs.
#[derive(Clone, Copy, Debug)]
struct Part<'a> {
    run: usize,
    interval: &'a SavedInterval,
}

/// All that was recorded of one kind of time.
type Pick = fn(&Histograms) -> &Encoded;

impl Arguments {
    /// Returns the report, and the exit code that it asks for.
    pub(crate) fn carry_out(&self) -> Result<(String, u8), String> {
        let read = |path: &PathBuf| {
            let run = Document::read(path)?;
            Ok(Named { name: path.display().to_string(), run })
        };
        let runs: Vec<Named> = self.runs.iter().map(read).collect::<Result<_, String>>()?;
        let outputs = Output::open_all(&self.output)?;
        let sum = merge(&runs)?;
        let exit_code = sum.verdict.exit_code_where(sum.misses_a_condition());
        Ok((text::write(&sum), exit_code.max(Output::write_all(outputs, &sum))))
    }
}

/// Adds up runs that fit together.
fn merge(runs: &[Named]) -> Result<Document, String> {
    let (first, others) = runs.split_first().expect("the command line asks for two or more");
    for (index, other) in others.iter().enumerate() {
        fits(first, other)?;
        for earlier in &runs[..=index] {
            are_different(earlier, other)?;
        }
    }
    let measured = together(runs)?;
    let all = || runs.iter().map(|named| &named.run);
    let began_at = all().map(|run| run.started_at_unix_s).fold(f64::INFINITY, f64::min);
    let requests: u64 = all().map(|run| run.requests).sum();
    let duration_s = measured.to - measured.from;
    let sums = |pick: Pick| sum(all().map(|run| &run.histograms), pick);
    let [latency, service, send_lag] = PICKS.map(sums);
    let ages = add(all().map(|run| &run.unanswered_age_histogram));
    let intervals = intervals(runs, began_at);
    let mut targets: Vec<&str> = all().map(|run| run.target.as_str()).collect();
    targets.dedup();
    let mut merged = Document {
        host: None,
        target: targets.join(", "),
        started_at_unix_s: began_at,
        verdict: worst(all().map(|run| run.verdict)),
        verdict_reasons: sentences(runs),
        slo: Vec::new(),
        stopped: all().any(|run| run.stopped),
        requests,
        errors: all().map(|run| run.errors).sum(),
        mismatches: all().map(|run| run.mismatches).sum(),
        unanswered: all().map(|run| run.unanswered).sum(),
        duration_s,
        rate: requests as f64 / duration_s,
        payload_bytes_mean: all()
            .map(|run| run.payload_bytes_mean * run.requests as f64)
            .sum::<f64>()
            / requests.max(1) as f64,
        mib_per_s: all().map(|run| run.mib_per_s * run.duration_s).sum::<f64>() / duration_s,
        latency_ns: latency.percentiles(),
        service_ns: service.percentiles(),
        send_lag_ns: send_lag.percentiles(),
        histograms: Histograms::of(&latency, &service, &send_lag),
        client: client(runs, requests),
        server: server(runs).unwrap_or_default(),
        noise_floor: noise_floor(runs),
        littles_law: None,
        unanswered_age_ns: ages.percentiles(),
        unanswered_age_histogram: Encoded::of_latency(&ages),
        unsent: all().map(|run| run.unsent).sum(),
        unsent_age_ns: Age {
            max: all().map(|run| run.unsent_age_ns.max).max().unwrap_or_default(),
        },
        blocked: blocked(all()),
        reconnects: all().map(|run| run.reconnects).sum(),
        connects: SavedConnects {
            measured: connects(all().map(|run| &run.connects.measured)),
            before: connects(all().map(|run| &run.connects.before)),
        },
        tls: all().find_map(|run| run.tls.clone()),
        adversaries: adversaries(all()),
        warm_up: warm_up(runs),
        intervals,
        ..first.run.clone()
    };
    for Named { run, .. } in others {
        merged.errors_by_kind += run.errors_by_kind;
        add_classes(&mut merged.mismatches_by_class, &run.mismatches_by_class);
    }
    merged.first_error = first_error(runs, |run| run.first_error.as_ref());
    // Several pages tell of the same server, or of several that cannot be added: the first stands.
    if let Some(run) = all().find(|run| !run.arena.is_empty()) {
        let shift = run.started_at_unix_s - began_at;
        let shifted = |sample: &Sample| Sample { at_s: sample.at_s + shift, ..*sample };
        merged.arena = run.arena.iter().map(shifted).collect();
    }
    combine_settings(&mut merged.config, runs);
    merged.sent_share = sent_share(merged.is_closed_loop(), merged.sent(), merged.unsent);
    if let Err(reason) = server(runs) {
        merged.verdict_reasons.extend(reason);
    }
    merged.slo = conditions(runs, &merged, &latency);
    Ok(merged)
}

/// What happened while any of the runs warmed up.
fn warm_up(runs: &[Named]) -> WarmUp {
    let mut sum = WarmUp::default();
    for Named { run, .. } in runs {
        let one = &run.warm_up;
        sum.requests += one.requests;
        sum.unanswered += one.unanswered;
        sum.errors += one.errors;
        sum.mismatches += one.mismatches;
        sum.errors_by_kind += one.errors_by_kind;
        add_classes(&mut sum.mismatches_by_class, &one.mismatches_by_class);
        sum.reconnects += one.reconnects;
    }
    sum.first_error = first_error(runs, |run| run.warm_up.first_error.as_ref());
    sum
}

fn add_classes(sum: &mut BTreeMap<String, u64>, classes: &BTreeMap<String, u64>) {
    for (class, count) in classes {
        *sum.entry(class.clone()).or_default() += count;
    }
}

/// The first error of the first run that has one, with its name.
fn first_error(runs: &[Named], of: fn(&Document) -> Option<&String>) -> Option<String> {
    runs.iter().find_map(|Named { name, run }| Some(format!("{name}: {}", of(run)?)))
}

/// Whether two runs were made in the same way.
fn fits(first: &Named, other: &Named) -> Result<(), String> {
    let (a, b) = (&first.run.config, &other.run.config);
    let names: BTreeSet<&str> = a.names().chain(b.names()).collect();
    let alike = |name: &&str| {
        LISTED.contains(name)
            || a.get(name) == b.get(name)
            || (*name == RATE && !a.is_closed_loop() && !b.is_closed_loop())
            || (ADDED.contains(name) && is_number(a.get(name)) == is_number(b.get(name)))
    };
    match names.into_iter().find(|name| !alike(name)) {
        None => Ok(()),
        Some(name) => Err(format!(
            "{} and {} do not fit together: {name} is {} and {}; merge adds up runs that were made in \
             the same way, on several machines",
            first.name,
            other.name,
            a.text(name),
            b.text(name)
        )),
    }
}

/// Whether two files hold two runs, and not one of them twice.
fn are_different(one: &Named, other: &Named) -> Result<(), String> {
    let is_same = one.run.started_at_unix_s == other.run.started_at_unix_s
        && one.run.histograms == other.run.histograms;
    match is_same {
        true => Err(format!("{} and {} are one and the same run", one.name, other.name)),
        false => Ok(()),
    }
}

/// The time in which any of the runs measured, if most of it they share.
fn together(runs: &[Named]) -> Result<Span, String> {
    let spans: Vec<Span> = runs.iter().map(|named| measured(&named.run)).collect();
    let latest = |of: fn(&Span) -> f64| spans.iter().map(of).fold(f64::NEG_INFINITY, f64::max);
    let earliest = |of: fn(&Span) -> f64| spans.iter().map(of).fold(f64::INFINITY, f64::min);
    let any = Span { from: earliest(|span| span.from), to: latest(|span| span.to) };
    let shared = earliest(|span| span.to) - latest(|span| span.from);
    if shared >= SHARED_TIME_MIN * (any.to - any.from) && any.to > any.from {
        return Ok(any);
    }
    let times = runs.iter().zip(&spans).map(|(Named { name, .. }, span)| {
        let (from, to) = (span.from - any.from, span.to - any.from);
        format!("{name} from {from:.1} s to {to:.1} s")
    });
    Err(format!(
        "the runs did not measure at the same time: {}; merge adds up load, and loadgen compare is \
         for runs one after the other",
        times.collect::<Vec<_>>().join(", ")
    ))
}

/// When a run measured, in seconds since 1970.
fn measured(run: &Document) -> Span {
    let after = run.measured().next().map_or(0.0, |interval| interval.start_s);
    let from = run.started_at_unix_s + after;
    Span { from, to: from + run.duration_s }
}

/// Adds up what happened at the same time, on the grid of the first run that began.
fn intervals(runs: &[Named], began_at: f64) -> Vec<SavedInterval> {
    let mut order: Vec<&Document> = runs.iter().map(|named| &named.run).collect();
    order.sort_by(|a, b| a.started_at_unix_s.total_cmp(&b.started_at_unix_s));
    // The intervals of all runs that fall into each stretch of time.
    let mut grid: Vec<(Span, Vec<Part<'_>>)> = Vec::new();
    for (number, run) in order.into_iter().enumerate() {
        let shift = run.started_at_unix_s - began_at;
        for interval in &run.intervals {
            let end = shift + interval.end_s();
            let middle = end - interval.length_s / 2.0;
            let place = grid.partition_point(|(span, _)| span.to <= middle);
            if place == grid.len() {
                let from = grid.last().map_or(shift + interval.start_s, |(span, _)| span.to);
                grid.push((Span { from, to: end }, Vec::new()));
            }
            grid[place].1.push(Part { run: number, interval });
        }
    }
    grid.into_iter().map(|(span, parts)| add_up(span, &parts)).collect()
}

fn add_up(span: Span, parts: &[Part<'_>]) -> SavedInterval {
    let [latency, service, send_lag] =
        PICKS.map(|pick| sum(parts.iter().map(|part| &part.interval.histograms), pick));
    let total = |of: fn(&SavedInterval) -> u64| parts.iter().map(|part| of(part.interval)).sum();
    // Of each run what was in flight at the end.
    let ends = parts.chunk_by(|one, next| one.run == next.run).filter_map(<[Part<'_>]>::last);
    SavedInterval {
        start_s: span.from,
        length_s: span.to - span.from,
        is_warm_up: parts.iter().any(|part| part.interval.is_warm_up),
        requests: total(|part| part.requests),
        late_warm_up_requests: total(|part| part.late_warm_up_requests),
        errors: total(|part| part.errors),
        mismatches: total(|part| part.mismatches),
        in_flight: ends.map(|part| part.interval.in_flight).sum(),
        in_flight_mean: in_flight_mean(span, parts),
        latency_ns: latency.percentiles(),
        service_ns: service.percentiles(),
        send_lag_ns: send_lag.percentiles(),
        histograms: Histograms::of(&latency, &service, &send_lag),
    }
}

/// How many requests all runs together had in flight, on average. `None` if a run does not know it.
fn in_flight_mean(span: Span, parts: &[Part<'_>]) -> Option<f64> {
    let in_flight_s =
        |part: &Part<'_>| Some(part.interval.in_flight_mean? * part.interval.length_s);
    let sum: Option<f64> = parts.iter().map(in_flight_s).sum();
    Some(sum? / (span.to - span.from).max(f64::MIN_POSITIVE))
}

const PICKS: [Pick; 3] = [|all| &all.latency, |all| &all.service, |all| &all.send_lag];

fn sum<'a>(all: impl Iterator<Item = &'a Histograms>, pick: Pick) -> Latency {
    add(all.map(pick))
}

/// Adds up how long connections took to be made.
fn connects<'a>(all: impl Iterator<Item = &'a ConnectTimes> + Clone) -> ConnectTimes {
    let sum = |pick: fn(&ConnectHistograms) -> &Encoded| {
        add(all.clone().map(|times| pick(&times.histograms)))
    };
    ConnectTimes::of_times(
        &sum(|times| &times.connect),
        &sum(|times| &times.handshake),
        &sum(|times| &times.resumption),
    )
}

/// Adds up histograms, of which there is at least one.
fn add<'a>(all: impl Iterator<Item = &'a Encoded>) -> Latency {
    let mut decoded = all.map(Encoded::decode);
    let mut sum = decoded.next().expect("there is something to add up");
    for histogram in decoded {
        sum.add(histogram).expect("histograms grow with what they are given");
    }
    Latency::from(&sum)
}

/// What all generators used for each of all requests, and the worst of what each of them saw.
fn client(runs: &[Named], requests: u64) -> Client {
    let per_request = |of: fn(&Client) -> Option<f64>| {
        let micros = |named: &Named| Some(of(&named.run.client)? * named.run.requests as f64);
        let all: Option<f64> = runs.iter().map(micros).sum();
        all.map(|micros| micros / requests.max(1) as f64)
    };
    let worst = |of: fn(&Client) -> Option<f64>| {
        runs.iter().filter_map(|named| of(&named.run.client)).reduce(f64::max)
    };
    Client {
        cpu_us_per_request: per_request(|client| client.cpu_us_per_request),
        tls_cpu_us_per_request: per_request(|client| client.tls_cpu_us_per_request),
        tls_cpu_us_per_handshake: worst(|client| client.tls_cpu_us_per_handshake),
        busy_share: worst(|client| client.busy_share),
        spin_share: worst(|client| client.spin_share),
        stood_still_share: worst(|client| client.stood_still_share),
        unread_share: worst(|client| client.unread_share),
        stolen_share: worst(|client| client.stolen_share),
    }
}

/// The floor of the noisiest machine.
fn noise_floor(runs: &[Named]) -> Option<Floor> {
    let floors = runs.iter().filter_map(|named| named.run.noise_floor);
    floors.max_by_key(|floor| floor.wake_up_late_ns.p99)
}

/// What the servers used for each of all requests.
///
/// A run that knew the process of its server knows what that used for all who loaded it, while this
/// run measured. Divided by the requests of all runs in that time, it is what one request cost. If
/// several runs knew the same process, the one that measured longest stands. Peak memory and
/// context switches of several servers are added.
///
/// # Errors
///
/// Why nothing is known, if a run knew a server and another loaded one that nobody knew.
fn server(runs: &[Named]) -> Result<Server, Option<String>> {
    let is_known = |named: &&Named| {
        let server = &named.run.server;
        server.pid.is_some() && server.cpu_us_per_request.is_some()
    };
    let known = runs.iter().filter(is_known);
    let mut witnesses: Vec<&Named> = Vec::new();
    for named in known {
        match witnesses.iter_mut().find(|witness| process(witness) == process(named)) {
            Some(witness) if witness.run.duration_s < named.run.duration_s => *witness = named,
            Some(_) => {}
            None => witnesses.push(named),
        }
    }
    if witnesses.is_empty() {
        return Err(None);
    }
    let (mut cpu_us, mut requests) = (0.0, 0.0);
    for witness in &witnesses {
        let span = measured(&witness.run);
        let own = witness.run.server.cpu_us_per_request.unwrap_or_default();
        cpu_us += own * witness.run.sent() as f64;
        for named in runs {
            if std::ptr::eq(server_of(named, &witnesses)?, *witness) {
                requests += answered_within(&named.run, span);
            }
        }
    }
    let all = || witnesses.iter().map(|witness| witness.run.server);
    let total = |of: fn(&Server) -> Option<u64>| all().map(|server| of(&server)).sum();
    Ok(Server {
        pid: None,
        cpu_us_per_request: (requests > 0.0).then(|| cpu_us / requests),
        rss_peak_bytes: total(|server| server.rss_peak_bytes),
        busy_share: all().filter_map(|server| server.busy_share).reduce(f64::max),
        voluntary_switches: total(|server| server.voluntary_switches),
        involuntary_switches: total(|server| server.involuntary_switches),
    })
}

/// The process that a run knew as its server.
fn process(named: &Named) -> (Option<&str>, Option<u32>) {
    (named.run.host.as_deref(), named.run.server.pid)
}

/// Whose word counts for the server of a run: its own, or that of a run with the same target.
fn server_of<'a>(named: &Named, witnesses: &[&'a Named]) -> Result<&'a Named, Option<String>> {
    let knows_it = |witness: &&&Named| process(witness) == process(named);
    // Each machine has such an address of its own.
    let is_of_one_host = named.run.host.is_some() && is_of_one_host(&named.run.target);
    let loads_it = |witness: &&&Named| {
        let (run, other) = (&named.run, &witness.run);
        run.target == other.target && (!is_of_one_host || run.host == other.host)
    };
    let own = witnesses.iter().find(knows_it);
    let mut others = witnesses.iter().filter(loads_it);
    match (own, others.next(), others.next()) {
        (Some(witness), _, _) | (None, Some(witness), None) => Ok(witness),
        _ => Err(Some(format!(
            "what the servers used for all requests is unknown: none of the runs tells it of the \
             server that {} loaded at {} (--server-pid, on that server's machine)",
            named.name, named.run.target
        ))),
    }
}

/// Whether an address means another server on each machine.
fn is_of_one_host(target: &str) -> bool {
    match target.parse() {
        Ok(Address::Unix { .. }) => true,
        Ok(Address::Tcp { host, .. }) => {
            host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
        }
        Err(_) => false,
    }
}

/// How many requests were answered in this time, if they were spread evenly over each interval.
fn answered_within(run: &Document, span: Span) -> f64 {
    let answered = |interval: &SavedInterval| {
        let from = run.started_at_unix_s + interval.start_s;
        let to = from + interval.length_s;
        let shared = (to.min(span.to) - from.max(span.from)).max(0.0);
        interval.answered() as f64 * shared / interval.length_s.max(f64::MIN_POSITIVE)
    };
    run.intervals.iter().map(answered).sum()
}

/// What was said of the runs, each with its name.
fn sentences(runs: &[Named]) -> Vec<String> {
    let of_run = |Named { name, run }: &Named| {
        let sentences = run.verdict_reasons.iter();
        sentences.map(|sentence| format!("{name}: {sentence}")).collect::<Vec<_>>()
    };
    runs.iter().flat_map(of_run).collect()
}

/// The conditions that all runs had, judged by what they reached together. If they had others each,
/// those stand, each with the name of its run.
fn conditions(runs: &[Named], merged: &Document, latency: &Latency) -> Vec<Condition> {
    let of = |named: &Named| -> Vec<String> {
        named.run.slo.iter().map(|slo| slo.condition.clone()).collect()
    };
    let shared = of(&runs[0]);
    let are_shared = runs.iter().all(|named| of(named) == shared);
    if let (true, Ok(slo)) = (are_shared, shared.join(",").parse::<Slo>()) {
        let reached = Reached {
            latency,
            errors: merged.errors,
            timeouts: merged.errors_by_kind.timeouts,
            mismatches: merged.mismatches,
            unanswered: merged.unanswered,
            unsent: merged.unsent,
            throughput: throughput(runs, merged),
        };
        return slo.judge_figures(&reached).iter().map(Condition::of).collect();
    }
    let of_run = |Named { name, run }: &Named| {
        let named = |slo: &Condition| Condition {
            condition: format!("{name}: {}", slo.condition),
            ..slo.clone()
        };
        run.slo.iter().map(named).collect::<Vec<_>>()
    };
    runs.iter().flat_map(of_run).collect()
}

/// What decides which rate all runs together have reached.
fn throughput(runs: &[Named], merged: &Document) -> Throughput {
    let from = merged.measured().next().map_or(0.0, |interval| interval.start_s);
    let until = merged.intervals.last().map_or(0.0, SavedInterval::end_s);
    Throughput {
        measured: merged.rate,
        with_drain: slo::per_second(merged.requests, until - from),
        asked: runs.iter().map(|named| asked(&named.run.config)).sum(),
        is_overloaded: runs.iter().any(|named| named.run.verdict == Verdict::Overloaded),
        is_whole: !merged.stopped,
    }
}

/// How many requests per second were due. Nothing in closed loop.
fn asked(config: &Config) -> Option<f64> {
    let rate: Rate = config.text(RATE).parse().ok()?;
    (rate != Rate::Max).then(|| rate.mean())
}

fn adversaries<'a>(all: impl Iterator<Item = &'a Document>) -> SavedAdversaries {
    all.map(|run| run.adversaries).fold(SavedAdversaries::default(), |mut sum, one| {
        sum.kinds.slow_readers += one.kinds.slow_readers;
        sum.kinds.slow_senders += one.kinds.slow_senders;
        sum.kinds.resets += one.kinds.resets;
        sum.planned_reconnects += one.planned_reconnects;
        sum
    })
}

fn blocked<'a>(all: impl Iterator<Item = &'a Document>) -> BlockedTime {
    all.map(|run| run.blocked).fold(BlockedTime::default(), |sum, blocked| BlockedTime {
        requests: sum.requests + blocked.requests,
        total_s: sum.total_s + blocked.total_s,
        max_ns: sum.max_ns.max(blocked.max_ns),
    })
}

fn worst(verdicts: impl Iterator<Item = Verdict>) -> Verdict {
    let rank = |verdict: &Verdict| match verdict {
        Verdict::Mismatch => 6,
        Verdict::Failed => 5,
        Verdict::Errors => 4,
        Verdict::ClientLimited => 3,
        Verdict::Overloaded => 2,
        Verdict::Disturbed => 1,
        Verdict::Ok => 0,
    };
    verdicts.max_by_key(rank).expect("there is at least one run")
}

/// Says of the sum how its parts were made.
fn combine_settings(config: &mut Config, runs: &[Named]) {
    let values = |name: &str| -> Vec<Value> {
        runs.iter().map(|named| named.run.config.get(name).cloned().unwrap_or_default()).collect()
    };
    for name in ADDED {
        if let Some(sum) = values(name).iter().map(Value::as_u64).sum::<Option<u64>>() {
            config.set(name, sum.into());
        }
    }
    for name in LISTED {
        let mut values = values(name);
        values.dedup();
        if let (Some(_), 2..) = (values.first(), values.len()) {
            config.set(name, values.into());
        }
    }
    if !config.is_closed_loop() {
        let rates: Vec<String> = runs.iter().map(|named| named.run.config.text(RATE)).collect();
        config.set(RATE, rates.join(RATES_JOINT).into());
    }
    let names: Vec<Value> = runs.iter().map(|named| named.name.clone().into()).collect();
    config.set("merged_from", names.into());
}

fn is_number(value: Option<&Value>) -> bool {
    value.is_some_and(Value::is_number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::json::samples::{self, BEGAN_AT};

    fn named(name: &str, run: Document) -> Named {
        Named { name: name.to_owned(), run }
    }

    /// Two runs of five seconds that began 100 ms apart.
    fn pair() -> [Named; 2] {
        let mut late = samples::run(&[3_000; 5], 80_000);
        late.started_at_unix_s += 0.1;
        [named("one", samples::run(&[1_000; 5], 20_000)), named("other", late)]
    }

    #[test]
    fn histograms_are_added_and_percentiles_come_from_the_sum() {
        let merged = merge(&pair()).unwrap();
        let sum = merged.histograms.latency.decode();
        assert_eq!((merged.requests, sum.len()), (20_000, 20_000));
        // Three of four requests are slow: the middle of all is the first third of the slow ones.
        // An average of both medians would be 75 us.
        assert!(merged.latency_ns.p50.abs_diff(106_600) < 200, "{:?}", merged.latency_ns);
        assert_eq!(merged.latency_ns.p50, sum.value_at_quantile(0.5));
    }

    #[test]
    fn times_of_connecting_are_added() {
        let mut runs = pair();
        for (named, (nanos, resumed)) in runs.iter_mut().zip([(1_000, 2), (3_000, 3)]) {
            let times = |count| {
                let mut histogram = Latency::default().histogram();
                histogram.record_n(nanos, count).unwrap();
                Latency::from(&histogram)
            };
            let connects = &mut named.run.connects;
            connects.measured = ConnectTimes::of_times(&times(5), &times(1), &times(resumed));
            connects.before = ConnectTimes::of_times(&times(1), &times(1), &Latency::default());
            named.run.client.tls_cpu_us_per_request = Some(nanos as f64 / 1e3);
        }
        let merged = merge(&runs).unwrap();
        let SavedConnects { measured, before } = &merged.connects;
        assert_eq!((measured.connections, before.connections), (10, 2));
        assert_eq!((measured.full_handshakes, measured.resumed_handshakes), (2, 5));
        assert!(measured.handshake_ns.max.abs_diff(3_000) < 10, "{measured:?}");
        assert_eq!(measured.histograms.connect.decode().len(), 10);
        // The second one sent three times as much.
        assert_eq!(merged.client.tls_cpu_us_per_request, Some(2.5));
    }

    #[test]
    fn time_is_that_in_which_any_run_measured() {
        let merged = merge(&pair()).unwrap();
        assert!((merged.duration_s - 5.1).abs() < 1e-6, "{}", merged.duration_s);
        assert_eq!(merged.started_at_unix_s, BEGAN_AT);
        assert!((merged.rate - 20_000.0 / merged.duration_s).abs() < 1e-6);
    }

    #[test]
    fn intervals_at_the_same_time_are_added() {
        let merged = merge(&pair()).unwrap();
        assert_eq!(merged.intervals.len(), 6);
        assert!(merged.intervals[0].is_warm_up);
        for interval in merged.measured() {
            assert_eq!((interval.requests, interval.in_flight), (4_000, 20));
            assert_eq!(interval.histograms.latency.decode().len(), 4_000);
        }
    }

    #[test]
    fn settings_of_one_machine_are_added_or_kept_side_by_side() {
        let [one, mut other] = pair();
        other.run.config.set("connections", 30.into());
        other.run.config.set("seed", 9.into());
        let merged = merge(&[one, other]).unwrap();
        assert_eq!(merged.config.text("connections"), "40");
        assert!(merged.config.text("seed").ends_with(" 9"), "{:?}", merged.config);
        assert_eq!(merged.config.text("merged_from"), "one other");
    }

    #[test]
    fn the_worst_verdict_stands() {
        let [one, mut other] = pair();
        other.run.verdict = Verdict::Mismatch;
        assert_eq!(merge(&[one, other]).unwrap().verdict, Verdict::Mismatch);
    }

    /// What the servers of two runs cost per request, where each is told this of them.
    fn server_cpu(change: impl FnOnce([&mut Document; 2])) -> Option<f64> {
        let [mut one, mut other] = pair();
        change([&mut one.run, &mut other.run]);
        merge(&[one, other]).unwrap().server.cpu_us_per_request
    }

    fn knows(run: &mut Document, pid: u32, cpu_us_per_request: f64) {
        run.server.pid = Some(pid);
        run.server.cpu_us_per_request = Some(cpu_us_per_request);
    }

    #[track_caller]
    fn is_near(cpu: Option<f64>, expected: f64) {
        assert!((cpu.unwrap() / expected - 1.0).abs() < 0.03, "{cpu:?} is not near {expected}");
    }

    #[test]
    fn what_one_run_knows_of_the_server_is_shared_out_over_the_requests_of_all() {
        // 5,000 requests of one run took 40 us each, while the other made 15,000.
        is_near(server_cpu(|[one, _]| knows(one, 7, 40.0)), 10.0);
    }

    #[test]
    fn one_server_that_two_runs_know_is_counted_once() {
        is_near(
            server_cpu(|[one, other]| {
                knows(one, 7, 40.0);
                knows(other, 7, 40.0 / 3.0);
            }),
            10.0,
        );
    }

    #[test]
    fn two_servers_cost_what_both_cost() {
        is_near(
            server_cpu(|[one, other]| {
                knows(one, 7, 10.0);
                knows(other, 8, 30.0);
            }),
            25.0,
        );
    }

    #[test]
    fn the_same_loopback_address_on_two_machines_is_two_servers() {
        let [mut one, mut other] = pair();
        knows(&mut one.run, 7, 40.0);
        for (named, host) in [(&mut one, "here"), (&mut other, "there")] {
            named.run.target = "127.0.0.1:9000".to_owned();
            named.run.host = Some(host.to_owned());
        }
        assert_eq!(merge(&[one, other]).unwrap().server.cpu_us_per_request, None);
    }

    #[test]
    fn a_server_that_nobody_knows_leaves_the_cost_unknown_and_that_is_said() {
        let [mut one, mut other] = pair();
        knows(&mut one.run, 7, 10.0);
        other.run.target = "elsewhere.test:9000".to_owned();
        let merged = merge(&[one, other]).unwrap();
        assert_eq!(merged.server.cpu_us_per_request, None);
        assert!(merged.verdict_reasons[0].contains("elsewhere.test:9000"));
    }

    fn condition(condition: &str) -> Condition {
        Condition {
            condition: condition.to_owned(),
            reached: Some(0.0),
            reached_text: "nothing".to_owned(),
            met: false,
        }
    }

    #[test]
    fn conditions_of_all_runs_are_judged_by_what_they_reached_together() {
        let [mut one, mut other] = pair();
        for named in [&mut one, &mut other] {
            named.run.slo = vec![condition("rate>=3500"), condition("p50<50us")];
        }
        let merged = merge(&[one, other]).unwrap();
        // Neither run has that rate, and one of them that median.
        assert_eq!(merged.slo.iter().map(|slo| slo.met).collect::<Vec<_>>(), [true, false]);
        assert_eq!(merged.slo[0].condition, "rate>=3500");
    }

    /// Two runs that kept 1,000 and 3,000 requests/s, of which there are fewer in the time of both.
    fn timetables() -> [Named; 2] {
        let [mut one, mut other] = pair();
        for (named, rate) in [(&mut one, "1000"), (&mut other, "2000:4000")] {
            named.run.slo = vec![condition("rate>=4000")];
            named.run.config.set(RATE, rate.into());
        }
        [one, other]
    }

    #[track_caller]
    fn reaches(runs: &[Named], rate: f64) {
        let merged = merge(runs).unwrap();
        let slo = &merged.slo[0];
        assert_eq!((slo.reached.unwrap().round(), slo.met), (rate, rate >= 4_000.0), "{slo:?}");
    }

    #[test]
    fn timetables_that_were_kept_and_answered_have_the_rate_of_their_sum() {
        reaches(&timetables(), 4_000.0);
    }

    #[test]
    fn timetables_that_were_not_kept_have_the_rate_of_their_answers() {
        let answered = 20_000.0 / 5.1_f64;
        for spoil in [
            (|run| run.unsent = 1) as fn(&mut Document),
            |run| run.unanswered = 1,
            |run| run.errors_by_kind.timeouts = 1,
            |run| run.mismatches = 1,
            |run| run.stopped = true,
        ] {
            let mut runs = timetables();
            spoil(&mut runs[1].run);
            reaches(&runs, answered.round());
        }
        let mut runs = timetables();
        runs[0].run.verdict = Verdict::Overloaded;
        // The other verdict is the worse one.
        runs[1].run.verdict = Verdict::ClientLimited;
        let drain = SavedInterval { start_s: 6.0, requests: 0, ..runs[0].run.intervals[1].clone() };
        runs.iter_mut().for_each(|named| named.run.intervals.push(drain.clone()));
        let until = merge(&runs).unwrap().intervals.last().unwrap().end_s();
        reaches(&runs, (20_000.0 / (until - 1.0)).round());
    }

    #[test]
    fn conditions_of_one_run_alone_keep_its_name() {
        let [mut one, other] = pair();
        one.run.slo = vec![condition("rate>=3500")];
        let merged = merge(&[one, other]).unwrap();
        assert_eq!(merged.slo[0].condition, "one: rate>=3500");
        assert!(!merged.slo[0].met);
    }

    #[track_caller]
    fn refuses(runs: &[Named], words: &str) {
        let error = merge(runs).unwrap_err();
        assert!(error.contains(words), "{error}");
    }

    #[test]
    fn runs_of_different_loads_are_refused() {
        let [one, mut other] = pair();
        other.run.config.set("size", "4096".into());
        refuses(&[one, other], "size is 64 and 4096");
    }

    #[test]
    fn runs_one_after_the_other_are_refused() {
        let [one, mut other] = pair();
        other.run.started_at_unix_s += 60.0;
        refuses(&[one, other], "did not measure at the same time");
    }

    #[test]
    fn the_same_run_twice_is_refused() {
        let [one, _] = pair();
        let again = named("again", one.run.clone());
        refuses(&[one, again], "one and the same run");
    }
}
