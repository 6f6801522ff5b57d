//! Servers that go away, stay silent, or were never there.

use std::{
    io::{self, Write},
    net::TcpListener,
    thread,
    time::Duration,
};

use loadgen::{Plan, Rate, RunError, Stop, Verdict};

use crate::servers::{self, echo, plan, read_frame, run};

#[test]
fn a_connection_that_the_server_closes_is_made_again_and_what_it_owed_is_unanswered() {
    let server = servers::closing_its_first();
    let report = run(&Plan { pipeline: 8, ..plan(server, 500) });
    let counts = report.counts;
    assert_eq!(report.counts.sent(), 500);
    assert!((1..=8).contains(&counts.unanswered), "{counts:?}");
    assert_eq!((counts.errors.lost, counts.reconnects), (1, 1));
    assert_eq!(report.verdict, Verdict::Errors);
    assert_eq!(report.verdict.exit_code(), 1);
    let error = report.first_error.expect("an error");
    let owed = if counts.unanswered == 1 {
        "1 reply".into()
    } else {
        format!("{} replies", counts.unanswered)
    };
    assert!(error.contains(&format!("owed {owed} (largest payload: 64 B)")), "{error}");
}

#[test]
fn a_frame_beyond_the_servers_limit_is_seen_in_the_first_error() {
    let server = servers::start(|_, mut stream| {
        loop {
            let frame = read_frame(&mut stream)?;
            if frame.len() > 1000 {
                return Ok(());
            }
            stream.write_all(&frame)?;
        }
    });
    let sizes = "list:64*99,2k*1".parse().unwrap();
    let report = run(&Plan { sizes, ..plan(server, 2_000) });
    assert!(report.counts.errors.lost > 0, "{report:?}");
    let error = report.first_error.expect("an error");
    assert!(error.contains("(largest payload: 2.00 KiB)"), "{error}");
}

#[test]
fn a_request_that_takes_too_long_is_an_error_and_closes_its_connection() {
    let server = servers::start(|connection, mut stream| {
        if connection > 0 {
            return echo(stream);
        }
        for number in 0.. {
            let frame = read_frame(&mut stream)?;
            if number != 5 {
                stream.write_all(&frame)?;
            } else {
                // Until the client closes.
                return io::copy(&mut stream, &mut io::sink()).map(|_| ());
            }
        }
        Ok(())
    });
    let timeout = Some(Duration::from_secs(3));
    let report = run(&Plan { timeout, ..plan(server, 100) });
    assert_eq!(report.counts.errors.timeouts, 1);
    assert_eq!(report.counts.requests, 99);
    assert_eq!(report.counts.reconnects, 1);
    assert_eq!(report.verdict, Verdict::Errors);
}

#[test]
fn a_server_that_never_answers_leaves_everything_unanswered() {
    let server = servers::start(|_, mut stream| {
        io::copy(&mut stream, &mut io::sink())?;
        Ok(())
    });
    let duration = Some(Duration::from_secs(1));
    let load = Plan { duration, requests: None, connections: 3, pipeline: 4, ..plan(server, 1) };
    let report = run(&Plan { timeout: None, drain_timeout: Some(Duration::from_secs(1)), ..load });
    assert_eq!(report.counts.unanswered, 12);
    assert_eq!(report.counts.requests, 0);
    assert_eq!(report.verdict, Verdict::Failed);
    assert_eq!(report.verdict.exit_code(), 1);
}

/// Two requests on each of five connections, and ten a second: each takes longer than a second.
#[test]
fn a_server_that_was_slow_all_the_time_is_awaited_at_the_end() {
    let server = servers::replying(|_, _, frame| {
        thread::sleep(Duration::from_millis(1_500));
        frame
    });
    let closed = Plan { connections: 5, timeout: None, ..plan(server, 10) };
    let (rate, duration) = (Rate::Constant(10.0), Some(Duration::from_secs(2)));
    let open = Plan { rate, duration, requests: None, connections: 20, ..closed.clone() };
    for load in [closed, open] {
        let report = run(&load);
        let counts = report.counts;
        assert_eq!((counts.unanswered, counts.errors.total()), (0, 0), "{report:?}");
        assert_eq!(counts.requests, load.requests.unwrap_or(20), "{report:?}");
        assert_eq!(report.verdict.exit_code(), 0, "{report:?}");
    }
}

#[test]
fn replies_that_are_no_longer_awaited_are_told_of_with_the_flag_that_waits_longer() {
    let server = servers::start(|_, mut stream| {
        io::copy(&mut stream, &mut io::sink())?;
        Ok(())
    });
    let drain_timeout = Some(Duration::from_millis(20));
    let load = Plan { drain_timeout, pipeline: 3, ..plan(server, 3) };
    let report = run(&Plan { requests: None, duration: Some(Duration::from_millis(50)), ..load });
    assert_eq!(report.counts.unanswered, 3);
    let told = report.reasons.iter().find(|reason| reason.contains("--drain-timeout"));
    assert!(told.expect("it is told").starts_with("3 requests had no reply "), "{report:?}");
    assert!(report.to_json().contains("\"drain_timeout_s\": 0.02"), "{}", report.to_json());
}

#[test]
fn a_server_that_stops_listening_cannot_hold_a_run_beyond_its_time() {
    let listener = TcpListener::bind((servers::DESERTED, 0)).unwrap();
    let server = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        drop(listener);
        let frame = read_frame(&mut stream).unwrap();
        stream.write_all(&frame).unwrap();
    });
    let duration = Some(Duration::from_secs(2));
    let report = run(&Plan { duration, requests: None, ..plan(server, 1) });
    assert_eq!(report.counts.requests, 1);
    assert_eq!(report.counts.errors.lost, 1);
    assert!(report.counts.errors.connect > 0);
    assert_eq!(report.counts.errors.refused, report.counts.errors.connect);
    assert!(report.to_text().contains("refused: "), "{}", report.to_text());
    assert_eq!(report.counts.reconnects, 0);
}

#[test]
fn nobody_listening_is_said_with_what_was_tried() {
    let address = servers::nobody();
    let load = Plan { connections: 4, threads: 2, ..plan(address, 10) };
    let error = loadgen::run(&load, &Stop::new(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, RunError::NothingConnects { .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains(&address.to_string()), "{message}");
    assert!(message.contains("refused"), "{message}");
    assert!(message.contains("start the server first"), "{message}");
}

#[test]
fn what_was_sent_while_warming_up_and_never_came_back_is_counted_apart() {
    let server = servers::closing_its_first();
    let warm_up = Duration::from_secs(2);
    let report = run(&Plan { pipeline: 8, warm_up, ..plan(server, 500) });
    let counts = report.counts;
    assert!((1..=8).contains(&counts.warm_up_unanswered), "{counts:?}");
    assert_eq!((counts.unanswered, counts.sent()), (0, 500), "{counts:?}");
    let words = format!("{} that were not answered", counts.warm_up_unanswered);
    let text = report.to_text();
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains(&words), "{text}");
    assert!(report.to_json().contains(&format!("\"unanswered\": {}", counts.warm_up_unanswered)));
}
