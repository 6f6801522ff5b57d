//! Warm-up, measurement and drain are kept apart: a request counts in the phase in which it was
//! due, however late its answer comes, and so does whatever goes wrong with it.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use loadgen::{Interval, Mismatch, Plan, Rate, Report, Verdict};

use crate::servers::{self, again, echo, plan, read_frame, run};

const RATE: f64 = 50.0;
/// Of a rate of 50 per second a round number, so that the counts are exact.
const DURATION: Duration = Duration::from_millis(1_200);
const WARM_UP: Duration = Duration::from_millis(400);

/// An open loop in which each connection has one request in flight at most, unless more is said.
fn paced(server: std::net::SocketAddr) -> Plan {
    Plan {
        rate: Rate::Constant(RATE),
        connections: 60,
        duration: Some(DURATION),
        requests: None,
        warm_up: WARM_UP,
        interval: Duration::from_millis(200),
        ..plan(server, 1)
    }
}

/// Runs a plan against a new server again, a few times, as long as the generator stood still and
/// left requests unsent: what is due in the last moment of a load is sent in that moment or never.
#[track_caller]
fn run_whole(plan: impl Fn() -> Plan) -> Report {
    let is_whole =
        |report: &Report| report.counts.unsent == 0 || report.client.stood_still_share == Some(0.0);
    again(21, || run(&plan()), is_whole)
}

fn sum(report: &Report, of: fn(&Interval) -> u64) -> u64 {
    report.intervals.iter().filter(|interval| !interval.is_warm_up).map(of).sum()
}

#[test]
fn measured_intervals_add_up_however_late_answers_come() {
    for delay_ms in [0, 300, 700] {
        let delay = Duration::from_millis(delay_ms);
        let report = run_whole(|| {
            let server = servers::replying(move |_, _, frame| {
                thread::sleep(delay);
                frame
            });
            // A busy machine makes answers later still: there is room for the next request.
            Plan { pipeline: 4, ..paced(server) }
        });
        let counts = report.counts;
        assert_eq!((counts.requests, counts.warm_up_requests), (60, 20), "{report:?}");
        assert_eq!(sum(&report, |interval| interval.requests), 60, "{report:?}");
        assert_eq!(sum(&report, |interval| interval.latency.count()), 60, "{report:?}");
        // The drain is no part of the time in which requests were due.
        assert_eq!((report.duration, report.rate()), (DURATION, RATE), "{report:?}");
        if delay > WARM_UP {
            assert_eq!(sum(&report, |interval| interval.late_warm_up_requests), 20, "{report:?}");
        }
    }
}

#[test]
fn a_closed_loop_counts_what_was_sent_while_measuring() {
    let server = servers::replying(|_, _, frame| {
        thread::sleep(Duration::from_millis(700));
        frame
    });
    let report = run(&Plan { rate: Rate::Max, connections: 3, ..paced(server) });
    let counts = report.counts;
    assert!(counts.requests > 0 && counts.warm_up_requests == 3, "{report:?}");
    assert_eq!(sum(&report, |interval| interval.requests), counts.requests, "{report:?}");
    assert_eq!(sum(&report, |interval| interval.late_warm_up_requests), 3, "{report:?}");
    assert_eq!(report.duration, DURATION);
}

#[test]
fn a_server_that_is_ill_only_during_the_warm_up_leaves_a_clean_run() {
    let report = run_whole(|| {
        let server = servers::start(|connection, mut stream| {
            if connection < 8 {
                return read_frame(&mut stream).map(drop);
            }
            echo(stream)
        });
        let slo = Some("errors==0,unanswered==0".parse().unwrap());
        let warm_up = Duration::from_secs(2);
        Plan { warm_up, connections: 4, slo, ..paced(server) }
    });
    let counts = report.counts;
    assert!(report.slo.iter().all(|outcome| outcome.is_met), "{report:?}");
    assert_eq!(report.verdict.exit_code(), 0, "{report:?}");
    assert_eq!((counts.requests, counts.sent(), counts.reconnects), (60, 60, 0), "{report:?}");
    assert_eq!(report.first_error, None);
    // None of it goes unseen.
    assert_eq!((counts.warm_up_errors.lost, counts.warm_up_unanswered), (8, 8), "{report:?}");
    assert_eq!(counts.warm_up_reconnects, 8, "{report:?}");
    assert_eq!(sum(&report, |interval| interval.errors), 0, "{report:?}");
    let text = report.to_text();
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains("errors: 8 (lost: 8)"), "{text}");
    assert!(flat.contains("(while warming up)"), "{text}");
}

#[test]
fn timeouts_are_never_more_than_were_due() {
    let server = servers::start(|_, mut stream| {
        io::copy(&mut stream, &mut io::sink())?;
        Ok(())
    });
    let timeout = Some(Duration::from_millis(500));
    let report = run(&Plan { connections: 4, pipeline: 100, timeout, ..paced(server) });
    let counts = report.counts;
    assert_eq!(counts.sent() + counts.unsent, 60, "{report:?}");
    assert!(counts.warm_up_errors.timeouts > 0, "{report:?}");
    let warm_up = counts.warm_up_errors.timeouts + counts.warm_up_unanswered;
    assert!(warm_up <= 20, "{report:?}");
}

#[test]
fn a_hang_in_the_warm_up_that_fails_the_run_is_its_reason() {
    let server = servers::start(|_, mut stream| {
        io::copy(&mut stream, &mut io::sink())?;
        Ok(())
    });
    let load = Plan { rate: Rate::Max, connections: 2, pipeline: 3, ..paced(server) };
    let report = run(&Plan { timeout: None, ..load });
    assert_eq!(report.verdict, Verdict::Failed);
    assert_eq!((report.counts.sent(), report.counts.warm_up_unanswered), (0, 6));
    assert!(report.reasons[0].contains("did not answer 6 of the warm-up"), "{report:?}");
}

#[test]
fn wrong_bytes_in_the_warm_up_are_counted_apart_and_decide_the_verdict() {
    let report = run_whole(|| {
        let server = servers::replying(|connection, number, mut frame| {
            frame[30] ^= u8::from((connection, number) == (0, 0));
            frame
        });
        Plan { connections: 1, ..paced(server) }
    });
    let counts = report.counts;
    assert_eq!(counts.warm_up_mismatches.of(Mismatch::Flipped), 1, "{report:?}");
    assert_eq!((counts.mismatches.total(), counts.sent()), (0, 60), "{report:?}");
    assert_eq!(report.verdict, Verdict::Mismatch);
    assert!(report.reasons[0].contains("while warming up: 1"), "{report:?}");
}

#[test]
fn what_is_in_flight_is_measured_over_time_and_not_when_something_is_sent() {
    let server = servers::start(|_, stream| echo(stream));
    let report = run(&Plan {
        rate: Rate::Constant(500.0),
        connections: 4,
        threads: 4,
        duration: Some(Duration::from_secs(2)),
        ..paced(server)
    });
    let law = report.littles_law.unwrap();
    // Both are sums of the same times, but for what is in flight at both ends.
    assert!((law.in_flight_mean - law.rate_times_service).abs() < 0.5, "{law:?}");
    let measured = report.intervals.iter().filter(|interval| !interval.is_warm_up);
    let (sum, seconds) = measured.fold((0.0, 0.0), |(sum, seconds), interval| {
        let length = interval.length.as_secs_f64();
        (sum + interval.in_flight_mean * length, seconds + length)
    });
    assert!((sum / seconds - law.in_flight_mean).abs() < 0.5, "{report:?}");
}

#[test]
fn the_rest_of_a_load_is_no_interval_of_its_own() {
    let server = servers::start(|_, stream| echo(stream));
    let duration = Some(Duration::from_millis(1_210));
    let began = Instant::now();
    let report = run(&Plan { warm_up: Duration::ZERO, duration, ..paced(server) });
    assert!(began.elapsed() >= Duration::from_millis(1_210));
    let least = Duration::from_millis(100);
    assert!(report.intervals.iter().all(|interval| interval.length >= least), "{report:?}");
    assert_eq!(sum(&report, |interval| interval.requests), report.counts.requests);
}
