//! Honest servers: what is asked for is done, counted and measured.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use loadgen::{Plan, Rate, Stop, Verdict};

use crate::servers::{self, echo, plan, run};

#[track_caller]
fn echoes_exactly(plan: &Plan) {
    let report = run(plan);
    assert_eq!(Some(report.counts.requests), plan.requests);
    assert_eq!(report.latency.count(), report.counts.requests);
    assert_eq!(report.counts.unanswered, 0);
    // Whether the machine was quiet is not this test's business.
    let right = [Verdict::Ok, Verdict::ClientLimited, Verdict::Disturbed];
    assert!(right.contains(&report.verdict), "{report:?}");
    assert!(report.latency.percentiles().p50 > 0);
}

#[test]
fn every_size_is_echoed_and_counted_exactly() {
    let server = servers::start(|_, stream| echo(stream));
    for payload_bytes in [0, 1, 7, 8, 64, 4_096, 4_097, 65_536, 1 << 20] {
        let requests = if payload_bytes > 100_000 { 20 } else { 1_000 };
        echoes_exactly(&Plan { sizes: payload_bytes.into(), ..plan(server, requests) });
    }
}

#[test]
fn a_deep_pipeline_over_many_connections_and_threads_is_counted_exactly() {
    let server = servers::start(|_, stream| echo(stream));
    for payload_bytes in [0, 64, 65_536] {
        let requests = if payload_bytes > 10_000 { 501 } else { 20_001 };
        let load = Plan { connections: 7, threads: 3, pipeline: 33, ..plan(server, requests) };
        echoes_exactly(&Plan { sizes: payload_bytes.into(), ..load });
    }
}

#[test]
fn fewer_requests_than_connections_are_enough() {
    let server = servers::start(|_, stream| echo(stream));
    echoes_exactly(&Plan { connections: 5, threads: 2, pipeline: 4, ..plan(server, 3) });
}

#[test]
fn a_server_sees_as_many_frames_as_are_reported() {
    let seen = Arc::new(AtomicU64::new(0));
    let server = servers::replying({
        let seen = Arc::clone(&seen);
        move |_, _, frame| {
            seen.fetch_add(1, SeqCst);
            frame
        }
    });
    let warm_up = Duration::from_secs(1);
    let report = run(&Plan { connections: 3, pipeline: 4, warm_up, ..plan(server, 500) });
    assert_eq!(report.counts.requests, 500);
    assert!(report.counts.warm_up_requests > 0);
    assert_eq!(seen.load(SeqCst), 500 + report.counts.warm_up_requests);
}

#[test]
fn one_seed_sends_the_same_bytes_again() {
    let hash_of_run = |seed, sizes: &str| {
        let sum = Arc::new(AtomicU64::new(0));
        let server = servers::replying({
            let sum = Arc::clone(&sum);
            move |_, number, frame| {
                let weighted = frame.iter().zip(1..).map(|(byte, place)| u64::from(*byte) * place);
                sum.fetch_add(weighted.sum::<u64>() * (number as u64 + 1), SeqCst);
                frame
            }
        });
        let sizes = sizes.parse().unwrap();
        run(&Plan { seed, sizes, ..plan(server, 50) });
        sum.load(SeqCst)
    };
    for sizes in ["64", "10k", "lognormal:p50=100,p99=4k"] {
        assert_eq!(hash_of_run(1, sizes), hash_of_run(1, sizes), "{sizes}");
        assert_ne!(hash_of_run(1, sizes), hash_of_run(2, sizes), "{sizes}");
    }
}

#[test]
fn a_number_of_requests_is_dealt_out_to_the_connections() {
    for rate in [Rate::Max, Rate::Constant(100_000.0)] {
        let seen = Arc::new(Mutex::new([0; 3]));
        let server = servers::replying({
            let seen = Arc::clone(&seen);
            move |connection, _, frame| {
                seen.lock().unwrap()[connection] += 1;
                frame
            }
        });
        let load = Plan { rate, connections: 3, threads: 1, pipeline: 4, ..plan(server, 301) };
        assert_eq!(run(&load).counts.requests, 301);
        let mut seen = *seen.lock().unwrap();
        seen.sort_unstable();
        assert_eq!(seen, [100, 100, 101], "{rate}");
    }
}

#[test]
fn a_connection_without_a_measured_request_warms_up_like_the_others() {
    let seen = Arc::new(Mutex::new(std::collections::HashSet::new()));
    let server = servers::replying({
        let seen = Arc::clone(&seen);
        move |connection, _, frame| {
            seen.lock().unwrap().insert(connection);
            frame
        }
    });
    let warm_up = Duration::from_secs(1);
    let report = run(&Plan { connections: 5, threads: 2, warm_up, ..plan(server, 2) });
    assert_eq!(report.counts.requests, 2);
    assert_eq!(seen.lock().unwrap().len(), 5);
}

#[test]
fn a_duration_ends_a_run_and_what_is_in_flight_is_awaited() {
    let server = servers::start(|_, stream| echo(stream));
    let duration = Duration::from_secs(2);
    let load = Plan { duration: Some(duration), requests: None, pipeline: 8, ..plan(server, 1) };
    let report = run(&load);
    assert!(report.duration >= duration);
    assert!(report.counts.requests > 0);
    assert_eq!((report.counts.unanswered, report.counts.errors.total()), (0, 0));
}

#[test]
fn a_stop_ends_a_run_with_what_was_measured() {
    let server = servers::start(|_, stream| echo(stream));
    let stop = Stop::new();
    let interval = Duration::from_millis(20);
    let load =
        Plan { duration: Some(Duration::from_secs(3600)), interval, ..plan(server, u64::MAX) };
    let report = loadgen::run(&load, &stop, &mut |progress| {
        if !progress.interval.is_warm_up && progress.interval.requests > 0 {
            stop.request();
        }
    })
    .unwrap();
    assert!(report.was_stopped);
    assert!(report.counts.requests > 0);
    assert_eq!(report.counts.unanswered, 0);
}

#[test]
fn intervals_follow_each_other_and_add_up_to_the_whole() {
    let server = servers::start(|_, stream| echo(stream));
    let load = Plan {
        duration: Some(Duration::from_millis(250)),
        warm_up: Duration::from_secs(1),
        interval: Duration::from_millis(50),
        requests: None,
        connections: 4,
        threads: 2,
        ..plan(server, 1)
    };
    let mut told = Vec::new();
    let report = loadgen::run(&load, &Stop::new(), &mut |progress| {
        told.push((progress.interval.start, progress.interval.requests));
    })
    .unwrap();
    let intervals = &report.intervals;
    assert_eq!(intervals.iter().map(|i| (i.start, i.requests)).collect::<Vec<_>>(), told);
    assert_eq!(intervals[0].start, Duration::ZERO);
    assert!(intervals.windows(2).all(|pair| pair[0].end() == pair[1].start));
    let sum: u64 = intervals.iter().map(|i| i.requests + i.late_warm_up_requests).sum();
    assert_eq!(sum, report.counts.requests + report.counts.warm_up_requests);
    let (warm_up, measured): (Vec<_>, Vec<_>) = intervals.iter().partition(|i| i.is_warm_up);
    assert!(warm_up.iter().any(|interval| interval.latency.count() > 0));
    let mut sum = report.latency.histogram();
    sum.reset();
    measured.iter().for_each(|interval| sum.add(interval.latency.histogram()).unwrap());
    assert_eq!(sum, report.latency.histogram());
    assert_eq!(intervals.last().unwrap().in_flight, 0);
}

#[test]
fn distributions_of_sizes_are_echoed_and_counted_exactly() {
    let server = servers::start(|_, stream| echo(stream));
    for sizes in
        ["uniform:0..5000", "lognormal:p50=512,p99=16k", "list:64*80,4k*20,0*1,100k*1", "list:7*1"]
    {
        let load = Plan { connections: 3, threads: 2, pipeline: 9, ..plan(server, 3_000) };
        echoes_exactly(&Plan { sizes: sizes.parse().unwrap(), ..load });
    }
}
