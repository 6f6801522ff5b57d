//! Open loop: requests are due at their times, whatever the server does.

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use loadgen::{Address, Arrival, Plan, Rate, ReconnectEvery, Report, Stop, Verdict};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    built,
    command_line::loadgen,
    servers::{self, again, echo, plan, read_frame, run},
};

/// So many requests per second, in open loop, for this long.
fn paced(target: std::net::SocketAddr, rate: f64, duration: Duration) -> Plan {
    Plan {
        rate: Rate::Constant(rate),
        requests: None,
        duration: Some(duration),
        connections: 4,
        pipeline: 64,
        ..plan(target, 1)
    }
}

/// Runs a plan again, a few times, as long as the generator was late by its own fault: then the
/// machine did not run it, and what the server does cannot be seen.
#[track_caller]
fn run_in_time(plan: &Plan) -> Report {
    again(6, || run(plan), |report| report.verdict != Verdict::ClientLimited)
}

/// How long a server that never answers is awaited.
const A_SECOND: Option<Duration> = Some(Duration::from_secs(1));
const HALF_A_SECOND: Duration = Duration::from_millis(500);
/// Longer than a busy machine stands still.
const TWO_SECONDS: Duration = Duration::from_secs(2);

#[test]
fn every_request_that_was_due_is_sent_and_counted_once() {
    let server = servers::start(|_, stream| echo(stream));
    for threads in [1, 3] {
        let report = run(&Plan { threads, ..paced(server, 4_000.0, HALF_A_SECOND) });
        assert_eq!(report.counts.requests + report.counts.unsent, 2_000, "{report:?}");
        assert_eq!(report.latency.count(), report.counts.requests);
        assert_eq!(report.service.count(), report.counts.requests);
        assert_eq!(report.send_lag.count(), report.counts.requests);
    }
}

#[test]
fn the_warm_up_has_the_same_rate_and_does_not_count() {
    let server = servers::start(|_, stream| echo(stream));
    let warm_up = Duration::from_millis(250);
    let report = run(&Plan { warm_up, ..paced(server, 2_000.0, TWO_SECONDS) });
    assert_eq!(report.counts.warm_up_requests, 500);
    assert_eq!(report.counts.requests + report.counts.unsent, 4_000);
}

#[test]
fn a_ramp_sends_the_mean_of_its_rates() {
    let server = servers::start(|_, stream| echo(stream));
    let rate = Rate::Ramp { from: 1_000.0, to: 5_000.0 };
    let report = run(&Plan { rate, ..paced(server, 1.0, HALF_A_SECOND) });
    let due = report.counts.requests + report.counts.unsent;
    assert!(due.abs_diff(1_500) <= 2, "{due}");
}

#[test]
fn a_number_of_requests_ends_an_open_loop_too() {
    let server = servers::start(|_, stream| echo(stream));
    let load = Plan { rate: Rate::Constant(10_000.0), connections: 3, ..plan(server, 1_000) };
    let report = run(&load);
    assert_eq!((report.counts.requests, report.counts.unsent), (1_000, 0));
    assert!(report.duration >= Duration::from_millis(95), "{:?}", report.duration);
}

/// Each connection has a place on the timetable every five seconds.
#[test]
fn a_number_of_requests_is_one_total_after_a_warm_up_too() {
    let server = servers::start(|_, stream| echo(stream));
    for arrival in [Arrival::Fixed, Arrival::Poisson] {
        let load = Plan {
            rate: Rate::Constant(10.0),
            arrival,
            connections: 50,
            threads: 2,
            warm_up: Duration::from_millis(350),
            ..plan(server, 5)
        };
        let report = run(&load);
        assert_eq!((report.counts.requests, report.counts.unsent), (5, 0), "{report:?}");
        assert!(report.duration < Duration::from_secs(2), "{report:?}");
        if arrival == Arrival::Fixed {
            assert_eq!(report.counts.warm_up_requests, 4, "{report:?}");
        }
        assert_ne!(report.verdict, Verdict::Overloaded, "{report:?}");
    }
}

#[test]
fn what_a_slow_server_owes_at_the_last_request_is_no_overload() {
    let server = servers::replying(|_, _, frame| {
        thread::sleep(Duration::from_millis(600));
        frame
    });
    let load = Plan { rate: Rate::Constant(50.0), connections: 50, ..plan(server, 50) };
    let report = run(&load);
    assert_eq!(report.counts.requests, 50, "{report:?}");
    assert_ne!(report.verdict, Verdict::Overloaded, "{report:?}");
}

#[test]
fn what_a_number_of_requests_leaves_unsent_is_no_more_than_that() {
    let server = servers::start(|_, mut stream| {
        io::copy(&mut stream, &mut io::sink())?;
        Ok(())
    });
    let requests = Some(10);
    let load = Plan { requests, connections: 1, ..paced(server, 1_000.0, TWO_SECONDS) };
    let counts = run(&Plan { pipeline: 4, timeout: None, drain_timeout: A_SECOND, ..load }).counts;
    assert_eq!((counts.unanswered, counts.unsent), (4, 6), "{counts:?}");
}

#[test]
fn the_first_request_has_not_waited_for_room_that_was_there() {
    let server = servers::start(|_, stream| echo(stream));
    let report = run(&Plan { rate: Rate::Constant(1.0), ..plan(server, 1) });
    assert_eq!((report.counts.requests, report.blocked.requests), (1, 0), "{report:?}");
}

#[test]
fn poisson_arrivals_of_one_seed_are_the_same_again() {
    let server = servers::start(|_, stream| echo(stream));
    let due = |seed| {
        let load = paced(server, 4_000.0, HALF_A_SECOND);
        let report = run(&Plan { arrival: Arrival::Poisson, seed, ..load });
        report.counts.requests + report.counts.unsent
    };
    assert_eq!(due(1), due(1));
    assert!(due(2).abs_diff(2_000) < 300);
}

#[test]
fn time_blocked_by_a_full_pipeline_counts_as_latency_and_not_as_send_lag() {
    // It answers nothing for a while, then everything.
    let server = servers::start(|_, mut stream| {
        let first = read_frame(&mut stream)?;
        thread::sleep(Duration::from_millis(300));
        stream.write_all(&first)?;
        echo(stream)
    });
    let load = paced(server, 1_000.0, TWO_SECONDS);
    let report = run_in_time(&Plan { connections: 1, pipeline: 1, ..load });
    assert!(report.latency.percentiles().max >= 300_000_000, "{report:?}");
    // More than a tenth of all requests was due while the server answered nothing.
    assert!(report.latency.percentiles().p90 >= 30_000_000, "{report:?}");
    assert!(report.blocked.requests + report.counts.unsent > 100, "{report:?}");
    assert!(report.blocked.max >= Duration::from_millis(290), "{report:?}");
    assert!(report.send_lag.percentiles().p50 < 30_000_000, "{report:?}");
}

/// A server that answers at most 50 requests per second, under twice as many.
fn overload(requests: Option<u64>, duration: Option<Duration>, pipeline: u32) -> Verdict {
    let server = servers::replying(|_, _, frame| {
        thread::sleep(Duration::from_millis(20));
        frame
    });
    let load = paced(server, 100.0, HALF_A_SECOND);
    let report = run_in_time(&Plan { requests, duration, pipeline, connections: 1, ..load });
    assert_eq!(report.counts.requests + report.counts.unsent, 100, "{report:?}");
    report.verdict
}

#[test]
fn a_backlog_that_the_pipeline_holds_is_an_overload_all_the_same() {
    assert_eq!(overload(None, Some(Duration::from_secs(1)), 1_000), Verdict::Overloaded);
}

#[test]
fn a_number_of_requests_that_the_server_makes_late_is_an_overload_too() {
    assert_eq!(overload(Some(100), None, 1_000), Verdict::Overloaded);
    assert_eq!(overload(Some(100), None, 1), Verdict::Overloaded);
}

#[test]
fn a_rate_that_was_asked_for_and_served_is_reached() {
    let server = servers::start(|_, stream| echo(stream));
    for arrival in [Arrival::Fixed, Arrival::Poisson] {
        let slo = Some("rate>=1000,rate<=1100".parse().unwrap());
        let rate = Rate::Constant(1_000.0);
        let load = Plan { rate, arrival, slo, connections: 4, ..plan(server, 300) };
        // What the machine holds up at the very end is late.
        let reports = (0..5).map(|_| run(&load));
        let report = reports.into_iter().find(|report| report.verdict != Verdict::Overloaded);
        let outcome = &report.as_ref().expect("the server keeps up").slo[0];
        assert!(outcome.is_met, "{report:?}");
    }
}

#[test]
fn a_rate_that_the_server_made_up_for_after_the_load_is_not_reached() {
    let server = servers::replying(|_, _, frame| {
        thread::sleep(Duration::from_millis(20));
        frame
    });
    let slo = Some("rate>=90,rate>=10".parse().unwrap());
    let load = paced(server, 100.0, Duration::from_secs(1));
    let report = run_in_time(&Plan { pipeline: 1_000, connections: 1, slo, ..load });
    assert_eq!(report.verdict, Verdict::Overloaded, "{report:?}");
    assert_eq!(report.slo.iter().map(|slo| slo.is_met).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn what_a_dead_server_left_no_room_for_is_counted_as_never_sent() {
    let server = servers::start(|_, mut stream| {
        io::copy(&mut stream, &mut io::sink())?;
        Ok(())
    });
    let load = paced(server, 1_000.0, TWO_SECONDS);
    let load = Plan { timeout: None, drain_timeout: A_SECOND, ..load };
    let report = run(&Plan { connections: 2, pipeline: 5, ..load });
    assert_eq!((report.counts.requests, report.counts.unanswered), (0, 10));
    assert_eq!(report.counts.unsent, 1_990);
    assert!(report.unsent_age_max >= Duration::from_millis(1_900), "{report:?}");
    assert!(report.to_json().contains("\"sent_share\": 0.005,"), "{}", report.to_json());
    assert!(report.to_text().contains("0.50 % of what was due"), "{}", report.to_text());
    assert!(report.unanswered_ages.percentiles().max >= 500_000_000, "{report:?}");
    assert_eq!(report.unanswered_ages.count(), 10);
    assert_eq!(report.verdict, Verdict::Failed);
}

#[test]
fn a_server_that_dies_while_warming_up_owes_everything_that_was_measured() {
    let server = servers::start(|_, mut stream| {
        io::copy(&mut stream, &mut io::sink())?;
        Ok(())
    });
    let load = paced(server, 1_000.0, TWO_SECONDS);
    let load = Plan { timeout: None, drain_timeout: A_SECOND, ..load };
    let slo = Some("p50<1h".parse().unwrap());
    let report = run(&Plan { slo, warm_up: Duration::from_millis(300), pipeline: 5, ..load });
    assert_eq!((report.counts.requests, report.counts.unsent), (0, 2_000), "{report:?}");
    assert!(!report.slo[0].is_met, "{report:?}");
}

#[test]
fn the_timetable_goes_on_over_a_lost_connection() {
    let server = servers::closing_its_first();
    let report = run(&Plan { connections: 1, ..paced(server, 1_000.0, TWO_SECONDS) });
    let counts = report.counts;
    assert_eq!(counts.requests + counts.unanswered + counts.unsent, 2_000, "{report:?}");
    assert_eq!(counts.reconnects, 1);
    assert!(counts.unanswered < 100, "{report:?}");
}

#[test]
fn planned_reconnects_lose_nothing() {
    let server = servers::start(|_, stream| echo(stream));
    let reconnect_every = Some(ReconnectEvery::Requests(100.try_into().unwrap()));
    let closed = Plan { reconnect_every, connections: 2, pipeline: 7, ..plan(server, 2_000) };
    let open = Plan { reconnect_every, ..paced(server, 4_000.0, HALF_A_SECOND) };
    for load in [closed, open] {
        let report = run(&load);
        let counts = report.counts;
        assert_eq!((counts.requests + counts.unsent, counts.unanswered), (2_000, 0), "{report:?}");
        // The last socket of each connection carries fewer.
        assert!(counts.planned_reconnects + 5 >= counts.requests / 100, "{report:?}");
        assert_eq!((counts.reconnects, counts.errors.total()), (0, 0));
    }
}

#[test]
fn connections_that_join_late_have_nothing_to_catch_up() {
    let server = servers::start(|_, stream| echo(stream));
    let ramp_up = Duration::from_millis(300);
    let report = run(&Plan { ramp_up, ..paced(server, 2_000.0, HALF_A_SECOND) });
    assert_eq!(report.counts.requests + report.counts.unsent, 1_000);
    assert!((200..600).contains(&report.counts.warm_up_requests), "{report:?}");
    let first = report.intervals.iter().position(|interval| !interval.is_warm_up).unwrap();
    assert!(report.intervals[first].start >= Duration::from_millis(299));
}

#[test]
fn a_unix_socket_is_loaded_as_a_port_is() {
    let folder = tempfile::tempdir().unwrap();
    let target = unix_echo(&folder.path().join("echo"));
    for pipeline in [1, 50] {
        let load = Plan {
            connections: 3,
            pipeline,
            requests: Some(3_000),
            duration: None,
            warm_up: Duration::ZERO,
            ..Plan::for_target(target.clone())
        };
        let report = run(&load);
        assert_eq!((report.counts.requests, report.counts.errors.total()), (3_000, 0));
    }
}

/// One event may say that there is something to read and that there is room to write.
#[test]
fn a_socket_that_was_full_is_written_on() {
    let folder = tempfile::tempdir().unwrap();
    let target = unix_echo(&folder.path().join("echo"));
    let load = Plan {
        sizes: (64 << 10).into(),
        rate: Rate::Constant(100_000.0),
        pipeline: 32,
        connections: 2,
        requests: Some(1_000),
        duration: None,
        warm_up: Duration::ZERO,
        timeout: Some(Duration::from_secs(30)),
        ..Plan::for_target(target)
    };
    let report = run(&load);
    assert_eq!((report.counts.requests, report.counts.errors.total()), (1_000, 0), "{report:?}");
}

/// Echoes over a socket in the file system.
fn unix_echo(path: &Path) -> Address {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || io::copy(&mut stream.try_clone().unwrap(), &mut stream));
        }
    });
    format!("unix:{}", path.display()).parse().unwrap()
}

/// The raw echo server as a process, so that it can be stopped.
struct EchoProcess {
    child: Child,
    address: Address,
}

impl EchoProcess {
    fn start() -> Self {
        let mut command = Command::new(built::program("raw_echo"));
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the example runs");
        let mut line = String::new();
        let output = child.stdout.take().unwrap();
        io::BufRead::read_line(&mut io::BufReader::new(output), &mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap().parse().unwrap();
        Self { child, address }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for EchoProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_server_that_freezes_for_a_second_shows_in_p99() {
    let server = EchoProcess::start();
    let load = Plan {
        rate: Rate::Constant(1_000.0),
        duration: Some(Duration::from_secs(4)),
        warm_up: Duration::ZERO,
        interval: Duration::from_millis(100),
        connections: 4,
        ..Plan::for_target(server.address.clone())
    };
    let (tell, told) = mpsc::channel();
    let report = thread::scope(|scope| {
        let server = &server;
        scope.spawn(move || {
            // In the middle of the run.
            told.recv().unwrap();
            server.signal(Signal::STOP);
            thread::sleep(Duration::from_secs(1));
            server.signal(Signal::CONT);
        });
        loadgen::run(&load, &Stop::new(), &mut |progress| {
            if progress.elapsed >= Duration::from_secs(1) {
                let _ = tell.send(());
            }
        })
    })
    .unwrap();
    // A quarter of all requests was due while it was frozen.
    let latency = report.latency.percentiles();
    assert!(latency.p99 >= 900_000_000, "{report:?}");
    assert!(latency.p90 >= 500_000_000, "{report:?}");
    // Those that were in flight took as long; the others were not late by the generator's fault.
    assert!(report.service.percentiles().p50 < 500_000_000, "{report:?}");
    assert!(report.send_lag.percentiles().p50 < 500_000_000, "{report:?}");
    assert!(report.blocked.max >= Duration::from_millis(900), "{report:?}");
    assert_eq!(report.counts.requests + report.counts.unsent, 4_000, "{report:?}");
}

#[test]
fn a_number_of_requests_takes_as_long_as_its_rate_says() {
    let server = servers::start(|_, stream| echo(stream));
    // Longer than the silence after which a server that owes something is given up.
    let load = Plan { rate: Rate::Constant(0.09), timeout: None, ..plan(server, 2) };
    let report = run(&load);
    assert_eq!((report.counts.requests, report.first_error), (2, None));
}

#[test]
fn a_generator_that_stands_still_blames_itself() {
    for rate in ["2000", "max"] {
        let server = servers::start(|_, stream| echo(stream));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.json");
        let flags = format!("--plain -c 4 -t 1 -R {rate} -d 3s -w 0s -i 100ms {server} -o");
        let mut child = loadgen(&flags)
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut progress = BufReader::new(child.stderr.take().unwrap()).lines();
        progress.next().unwrap().unwrap();
        let id = Pid::from_child(&child);
        kill_process(id, Signal::STOP).unwrap();
        thread::sleep(HALF_A_SECOND);
        kill_process(id, Signal::CONT).unwrap();
        progress.for_each(drop);
        child.wait().unwrap();

        let report: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let share = report["client"]["stood_still_share"].as_f64().unwrap();
        assert!(share > 0.1, "{report}");
        assert_ne!(report["verdict"], "ok", "{report}");
        if rate != "max" {
            // What was due meanwhile was late by the generator's fault, though there was no room
            // for it: the replies that would have made some lay unread.
            let lag = report["send_lag_ns"]["max"].as_u64().unwrap();
            assert!(lag > 400_000_000, "{report}");
        }
    }
}

#[test]
fn a_socket_that_takes_no_bytes_blocks_and_the_timetable_goes_on() {
    // It reads nothing for a while: far less than what is due then fits into the socket.
    let server = servers::start(|_, stream| {
        // From the first byte on, however long after the connection the load begins.
        stream.peek(&mut [0])?;
        thread::sleep(Duration::from_millis(300));
        echo(stream)
    });
    let load = paced(server, 200.0, HALF_A_SECOND);
    let report = run(&Plan { connections: 1, sizes: (1 << 20).into(), ..load });
    let counts = report.counts;
    assert_eq!(counts.requests + counts.unanswered + counts.unsent, 100, "{report:?}");
    assert!(counts.requests > 0, "{report:?}");
    assert!(report.blocked.requests + counts.unsent > 10, "{report:?}");
    assert!(report.latency.percentiles().max >= 290_000_000, "{report:?}");
}
