//! Encrypted connections: every echo is verified, handshakes are measured, and who is refused is
//! told why.

use std::{
    fs,
    io::{self, Write},
    net::SocketAddr,
    os::unix::net::UnixListener,
    process::Output,
    sync::Arc,
    thread,
    time::Duration,
};

use loadgen::{Adversaries, Plan, Rate, Report, RunError, Stop, Tls, TlsOptions, Verdict};
use rustls::{ServerConnection, StreamOwned};
use serde_json::Value;

use crate::{
    command_line::{exits_with, loadgen, text},
    servers,
    tls_servers::{Accepted, Authority, VERSIONS, echo, read_frame, start},
};

/// A plan for so many requests to a server for which this authority vouches.
fn plan(authority: &Authority, server: SocketAddr, requests: u64) -> Plan {
    let options =
        TlsOptions { authorities: Some(authority.path("ca.pem")), ..TlsOptions::default() };
    Plan { tls: Some(Tls::new(options).unwrap()), ..servers::plan(server, requests) }
}

#[track_caller]
fn run(plan: &Plan) -> Report {
    servers::run(plan)
}

#[track_caller]
fn answers_all(report: &Report, requests: u64) {
    assert_eq!((report.counts.requests, report.counts.errors.total()), (requests, 0), "{report:?}");
    assert_eq!((report.counts.mismatches.total(), &report.first_error), (0, &None), "{report:?}");
}

/// Runs the program with these arguments.
fn run_program(arguments: &str) -> Output {
    loadgen(arguments).output().unwrap()
}

/// Runs the program with `flags` against a server, and returns the one line in which it says why
/// that failed.
#[track_caller]
fn failure(flags: &str, server: SocketAddr) -> String {
    let output = run_program(&format!("-n 10 -c 2 {flags} {server}"));
    exits_with(1, &output);
    let message = text(&output.stderr);
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.contains(&format!("no TLS connection to {server}")), "{message}");
    message
}

#[track_caller]
fn says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "{word} is not in: {message}");
    }
}

#[test]
fn requests_of_every_size_are_echoed_in_both_versions() {
    let authority = Authority::new();
    for (version, name) in VERSIONS.into_iter().zip(["TLS 1.2", "TLS 1.3"]) {
        let config = authority.server_of("server", &[version], None);
        let server = start(config, |_, stream| echo(stream));
        for (size, requests) in [("0", 50), ("64", 500), ("16k", 200), ("uniform:0..70k", 100)] {
            let sizes = size.parse().unwrap();
            let load =
                Plan { sizes, connections: 2, pipeline: 8, ..plan(&authority, server, requests) };
            let report = run(&load);
            answers_all(&report, requests);
            assert_eq!(report.tls_session.unwrap().version, name);
        }
    }
}

#[test]
fn a_wrong_byte_is_noticed() {
    let authority = Authority::new();
    let server = start(authority.server("server"), |connection, mut stream| {
        for number in 0.. {
            let mut frame = read_frame(&mut stream)?;
            frame[40] ^= u8::from((connection, number) == (0, 7));
            stream.write_all(&frame)?;
        }
        Ok(())
    });
    let report = run(&plan(&authority, server, 20));
    assert_eq!((report.verdict, report.counts.mismatches.total()), (Verdict::Mismatch, 1));
    assert_eq!(report.verdict.exit_code(), 4);
}

#[test]
fn a_rate_is_kept_and_latency_is_recorded() {
    let authority = Authority::new();
    let server = start(authority.server("server"), |_, stream| echo(stream));
    let load =
        Plan { rate: Rate::Constant(1_000.0), connections: 4, ..plan(&authority, server, 200) };
    let report = run(&load);
    answers_all(&report, 200);
    assert_eq!(report.latency.count(), 200);
}

/// More than any socket takes at once, to a server that answers only when it has read it all.
#[test]
fn what_a_socket_does_not_take_is_sent_later() {
    let authority = Authority::new();
    let server = start(authority.server("server"), |_, mut stream| {
        loop {
            let frames: Vec<_> =
                (0..4).map(|_| read_frame(&mut stream)).collect::<Result<_, _>>()?;
            stream.write_all(&frames.concat())?;
        }
    });
    for rate in [Rate::Max, Rate::Constant(1e6)] {
        let sizes = "6m".parse().unwrap();
        let report = run(&Plan { sizes, rate, pipeline: 4, ..plan(&authority, server, 8) });
        answers_all(&report, 8);
    }
}

#[test]
fn keys_may_change_at_any_time() {
    let authority = Authority::new();
    let server = start(authority.server("server"), |_, mut stream| {
        loop {
            let frame = read_frame(&mut stream)?;
            // The client is to change its keys too.
            stream.conn.refresh_traffic_keys().unwrap();
            stream.write_all(&frame)?;
        }
    });
    answers_all(&run(&Plan { pipeline: 4, ..plan(&authority, server, 300) }), 300);
}

#[test]
fn connections_that_are_made_again_are_measured_and_resume_their_sessions() {
    let authority = Authority::new();
    for version in VERSIONS {
        let config = authority.server_of("server", &[version], None);
        let server = start(config, |_, stream| echo(stream));
        let reconnect_every = Some("10".parse().unwrap());
        let load = Plan { reconnect_every, ..plan(&authority, server, 100) };
        let report = run(&load);
        answers_all(&report, 100);
        let (measured, before) = (&report.connects, &report.earlier_connects);
        let times = [&measured.connect, &measured.handshake, &measured.resumption];
        assert_eq!(times.map(|times| times.count()), [9, 0, 9], "{report:?}");
        assert_eq!(report.counts.planned_reconnects, 9);
        let times = [&before.connect, &before.handshake, &before.resumption];
        assert_eq!(times.map(|times| times.count()), [1, 1, 0], "{report:?}");
        assert!(
            before.handshake.percentiles().p50 > 0 && measured.resumption.percentiles().p50 > 0
        );
        assert!(report.client.tls_cpu_us_per_handshake.unwrap() > 0.0);

        let mut options = load.tls.as_ref().unwrap().options().clone();
        options.never_resumes = true;
        let report = run(&Plan { tls: Some(Tls::new(options).unwrap()), ..load });
        answers_all(&report, 100);
        let measured = [&report.connects.handshake, &report.connects.resumption];
        assert_eq!(measured.map(|times| times.count()), [9, 0], "{report:?}");
    }
}

#[test]
fn connections_that_are_not_encrypted_are_measured_too() {
    let server = servers::start(|_, stream| servers::echo(stream));
    let reconnect_every = Some("10".parse().unwrap());
    let report = run(&Plan { reconnect_every, ..servers::plan(server, 100) });
    let [measured, before] = [&report.connects, &report.earlier_connects];
    assert_eq!((measured.connect.count(), before.connect.count()), (9, 1));
    assert_eq!((measured.handshake.count(), before.handshake.count()), (0, 0));
    assert_eq!((report.client.tls_cpu_us_per_request, report.tls_session), (None, None));
}

#[test]
fn an_end_without_close_notify_is_told_from_one_with_it() {
    fn close_first(says_so: bool, connection: usize, mut stream: Accepted) -> io::Result<()> {
        if connection > 0 {
            return echo(stream);
        }
        let frame = read_frame(&mut stream)?;
        stream.write_all(&frame)?;
        read_frame(&mut stream)?;
        if says_so {
            stream.conn.send_close_notify();
            stream.flush()?;
        }
        Ok(())
    }
    let authority = Authority::new();
    for (says_so, words) in [
        (true, "the server closed a connection that owed 1 reply"),
        (
            false,
            "owed 1 reply (largest payload: 64 B): the server closed the connection without \
                 close_notify",
        ),
    ] {
        let server = start(authority.server("server"), move |connection, stream| {
            close_first(says_so, connection, stream)
        });
        let report = run(&plan(&authority, server, 20));
        assert_eq!((report.counts.errors.lost, report.counts.errors.connect), (1, 0), "{report:?}");
        assert_eq!((report.counts.reconnects, report.counts.unanswered), (1, 1));
        says(&report.first_error.unwrap(), &[words]);
    }
}

#[test]
fn a_certificate_that_is_not_trusted_is_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = start(authority.server("server"), |_, stream| echo(stream));
    let message = failure(&other.flags(), server);
    says(&message, &["from an authority that is not trusted here", "--tls-ca"]);
    // Nor is it without an authority of its own.
    says(&failure("--tls", server), &["not trusted here"]);
}

#[test]
fn a_certificate_that_is_not_valid_now_is_refused() {
    let authority = Authority::new();
    for (years, words) in [
        ([1975, 2001], "expired on 2001-05-17 00:00:00 UTC; renew it"),
        ([4000, 4096], "is valid from 4000-05-17 00:00:00 UTC on; check the clocks"),
        ([2001, 1975], "expires before it begins to be valid; make another one"),
    ] {
        authority.vouch_for("odd", ["127.0.0.1"], years);
        let server = start(authority.server("odd"), |_, stream| echo(stream));
        says(&failure(&authority.flags(), server), &[words]);
    }
}

#[test]
fn a_certificate_for_another_name_is_refused_unless_that_is_asked_for() {
    let authority = Authority::new();
    authority.vouch_for("odd", ["a.test", "b.test"], [1975, 4096]);
    let server = start(authority.server("odd"), |_, stream| echo(stream));
    let message = failure(&authority.flags(), server);
    says(&message, &["is for a.test, b.test, not for 127.0.0.1", "--tls-name"]);
    for name in ["a.test", "b.test"] {
        exits_with(
            0,
            &run_program(&format!("-n 10 {} --tls-name {name} {server}", authority.flags())),
        );
    }
}

#[test]
fn any_certificate_is_accepted_if_that_is_asked_for_and_the_verdict_says_so() {
    let authority = Authority::new();
    authority.vouch_for("odd", ["a.test"], [1975, 2001]);
    let server = start(authority.server("odd"), |_, stream| echo(stream));
    let output = run_program(&format!("-n 10 --tls --tls-insecure {server}"));
    exits_with(0, &output);
    let report = text(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    says(&report, &["verdict", "its certificate was not checked (--tls-insecure)"]);
}

#[test]
fn a_client_without_the_certificate_that_is_asked_for_is_told_so() {
    let (authority, other) = (Authority::new(), Authority::new());
    for version in VERSIONS {
        let config = authority.server_of("server", &[version], Some(&authority));
        let server = start(config, |_, stream| echo(stream));
        let message = failure(&authority.flags(), server);
        says(&message, &["asks for a certificate of its client", "--tls-cert", "--tls-key"]);
        let flags = format!("{} {}", authority.flags(), other.shows("client"));
        let message = failure(&flags, server);
        says(&message, &["refuses the certificate of --tls-cert", "does not trust"]);
        authority.vouch_for("late", ["client"], [1975, 2001]);
        let flags = format!("{} {}", authority.flags(), authority.shows("late"));
        says(&failure(&flags, server), &["--tls-cert, which has expired"]);
        let flags = format!("{} {}", authority.flags(), authority.shows("client"));
        exits_with(0, &run_program(&format!("-n 10 -c 2 {flags} {server}")));
    }
}

/// A server may answer before it has judged its clients, and then be without a word.
#[test]
fn a_server_that_need_not_know_its_clients_is_not_waited_for_longer_than_a_moment() {
    let authority = Authority::new();
    let mut config = authority.server_of("server", &VERSIONS, Some(&authority));
    config.send_tls13_tickets = 0;
    let server = start(config, |_, stream| echo(stream));
    let flags = format!("{} {}", authority.flags(), authority.shows("client"));
    exits_with(0, &run_program(&format!("-n 10 -c 2 {flags} {server}")));
}

#[test]
fn a_client_that_is_refused_later_has_an_error_with_the_reason() {
    let (authority, other) = (Authority::new(), Authority::new());
    let [welcome, refused] = [&authority, &other]
        .map(|clients| Arc::new(authority.server_of("server", &VERSIONS, Some(clients))));
    let server = servers::start(move |connection, stream| {
        let config = if connection == 1 { &refused } else { &welcome };
        let session = ServerConnection::new(Arc::clone(config)).unwrap();
        echo(StreamOwned::new(session, stream))
    });
    let mut load = plan(&authority, server, 40);
    let mut options = load.tls.unwrap().options().clone();
    options.certificates = Some(authority.path("client.pem"));
    options.key = Some(authority.path("client-key.pem"));
    load.tls = Some(Tls::new(options).unwrap());
    load.reconnect_every = Some("10".parse().unwrap());
    let report = run(&load);
    let errors = report.counts.errors;
    assert_eq!((errors.connect, errors.handshakes, errors.lost), (1, 1, 0), "{report:?}");
    says(&report.first_error.clone().unwrap(), &["the TLS handshake failed", "--tls-cert"]);
    says(&report.to_text(), &["handshake failed: 1"]);
}

#[test]
fn a_server_that_does_not_speak_tls_is_said_to() {
    let authority = Authority::new();
    let closing = servers::start(|_, mut stream| {
        let mut bytes = [0; 16];
        io::Read::read(&mut stream, &mut bytes).map(drop)
    });
    let parrot = servers::start(|_, stream| servers::echo(stream));
    let silent = servers::start(|_, mut stream| io::copy(&mut stream, &mut io::sink()).map(drop));
    for (server, words) in [
        (closing, "instead of answering"),
        (parrot, "what the server answers is no TLS"),
        (silent, "the server does not answer"),
    ] {
        let message = failure(&authority.flags(), server);
        says(&message, &[words, "does not speak TLS, leave out --tls"]);
    }
}

#[test]
fn a_server_that_speaks_tls_alone_is_said_to() {
    let authority = Authority::new();
    let server = start(authority.server("server"), |_, stream| echo(stream));
    let report = run(&Plan { duration: Some(Duration::from_secs(2)), ..servers::plan(server, 10) });
    assert_eq!(report.verdict, Verdict::Mismatch);
    says(&report.first_error.unwrap(), &["the server may speak that; try --tls"]);
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let (authority, other) = (Authority::new(), Authority::new());
    let nothing = authority.path("nothing.pem");
    fs::write(&nothing, "nothing\n").unwrap();
    let broken = authority.path("broken.pem");
    fs::write(&broken, "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").unwrap();
    let key = authority.path("encrypted.pem");
    fs::write(
        &key,
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    )
    .unwrap();
    let name = |path: &std::path::Path| path.display().to_string();
    let (ca, certificate) = (name(&authority.path("ca.pem")), name(&authority.path("client.pem")));
    let other_key = name(&other.path("client-key.pem"));
    let [nothing, broken, encrypted] = [nothing, broken, key].map(|path| name(&path));
    for (flags, words) in [
        (
            "--tls --tls-ca /nowhere/ca.pem".to_owned(),
            "--tls-ca /nowhere/ca.pem cannot be read: No such",
        ),
        (format!("--tls --tls-ca {nothing}"), "nothing.pem holds no certificate; it must be PEM"),
        (format!("--tls --tls-ca {broken}"), "broken.pem is broken PEM"),
        (format!("--tls --tls-ca {ca} --tls-cert {certificate}"), "--tls-key is missing"),
        (format!("--tls --tls-ca {ca} --tls-key {other_key}"), "--tls-cert is missing"),
        (
            format!("--tls --tls-ca {ca} --tls-cert {certificate} --tls-key {other_key}"),
            "is not the key of the first certificate in",
        ),
        (
            format!("--tls --tls-ca {ca} --tls-cert {certificate} --tls-key {encrypted}"),
            "encrypted.pem is encrypted",
        ),
        (
            format!("--tls --tls-insecure --tls-ca {ca}"),
            "--tls-ca has no meaning with --tls-insecure",
        ),
        (
            format!("--tls --tls-ca {ca} --tls-name a/b"),
            "--tls-name is `a/b`; it must be a DNS name",
        ),
        (format!("--tls-ca {ca}"), "--tls-ca has no effect without --tls"),
        ("--tls-insecure".to_owned(), "--tls-insecure has no effect without --tls"),
        (
            format!("--tls --tls-ca {ca} unix:/nowhere"),
            "--tls-name is missing; a Unix socket has no name",
        ),
    ] {
        let target = if flags.contains("unix:") { "" } else { ":9" };
        let output = run_program(&format!("-n 1 {flags} {target}"));
        exits_with(2, &output);
        says(&text(&output.stderr), &[words]);
    }
}

#[test]
fn a_unix_socket_is_encrypted_once_it_has_a_name() {
    let authority = Authority::new();
    let path = authority.path("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let config = Arc::new(authority.server("server"));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let session = ServerConnection::new(Arc::clone(&config)).unwrap();
            let stream = StreamOwned::new(session, stream.unwrap());
            thread::spawn(move || echo(stream));
        }
    });
    let (flags, path) = (authority.flags(), path.display());
    exits_with(0, &run_program(&format!("-n 10 {flags} --tls-name localhost unix:{path}")));
    // A command may announce one.
    let script = format!("echo listening on unix:{path}; exec sleep 60");
    let output =
        loadgen(&format!("-n 10 {flags} --")).args(["sh", "-c", &script]).output().unwrap();
    exits_with(1, &output);
    says(&text(&output.stderr), &["--tls-name is missing"]);
}

#[test]
fn every_form_tells_of_handshakes() {
    let authority = Authority::new();
    let server = start(authority.server("server"), |_, stream| echo(stream));
    let files = ["json", "html", "md", "hlog"].map(|form| authority.path(&format!("run.{form}")));
    let mut command =
        loadgen(&format!("-n 100 -c 1 --reconnect-every 10 {} {server}", authority.flags()));
    command.args(files.iter().flat_map(|file| ["-o".as_ref(), file.as_os_str()]));
    let output = command.output().unwrap();
    exits_with(0, &output);
    let [json, html, markdown, log] = files.map(|file| fs::read_to_string(file).unwrap());
    let report: Value = serde_json::from_str(&json).unwrap();
    let connects = &report["connects"];
    assert_eq!(connects["before"]["full_handshakes"], 1, "{connects}");
    let measured = &connects["measured"];
    assert_eq!((&measured["connections"], &measured["resumed_handshakes"]), (&9.into(), &9.into()));
    assert!(measured["resumption_ns"]["p50"].as_u64().unwrap() > 0, "{measured}");
    assert!(measured["connect_ns"]["max"].as_u64().unwrap() > 0, "{measured}");
    assert_eq!(report["tls"]["version"], "TLS 1.3");
    assert_eq!(
        (&report["tls"]["certificate_checked"], &report["config"]["tls"]),
        (&true.into(), &true.into())
    );
    assert!(report["client"]["tls_cpu_us_per_request"].as_f64().unwrap() > 0.0);
    let report = text(&output.stdout);
    says(&report, &["connect ", "resumption ", "TLS 1.3", "9 resumed", "TLS takes"]);
    says(&markdown, &["| connect |", "| resumption |", "client CPU per handshake"]);
    says(&html, &["resumption</th>", "\"connects\":[{\"name\":\"connect\""]);
    says(&log, &["Tag=connect,", "Tag=resumption,", "Tag=warm-up-handshake,"]);
}

#[test]
fn searches_and_contests_are_encrypted_too() {
    let authority = Authority::new();
    let server = start(authority.server("server"), |_, stream| echo(stream));
    let flags = authority.flags();
    let side = format!("sh -c 'echo listening on {server}; exec sleep 60'");
    let mut command = loadgen(&format!("ab --rounds 1 -c 1 -n 50 {flags}"));
    exits_with(0, &command.args(["--a", &side, "--b", &side]).output().unwrap());
    // Below one request a second a search gives up, and reports on its last run.
    let search = "search --start 2 --precision 50 --slo p99<1ns -d 1s -w 0s";
    let output = run_program(&format!("{search} {flags} {server}"));
    says(&text(&output.stdout), &["TLS 1.3"]);
}

#[test]
fn clients_that_behave_badly_shake_hands_first() {
    let authority = Authority::new();
    let server = start(authority.server("server"), |_, stream| echo(stream));
    let adversaries = Adversaries { slow_readers: 2, slow_senders: 2, resets: 2 };
    let duration = Some(Duration::from_secs(3));
    let load = Plan { adversaries, duration, requests: None, ..plan(&authority, server, 1) };
    let report = run(&load);
    assert_eq!(
        (report.counts.errors.total(), report.counts.mismatches.total()),
        (0, 0),
        "{report:?}"
    );
    let kinds = report.adversaries;
    for counts in [kinds.slow_readers, kinds.slow_senders, kinds.resets] {
        assert!(counts.connects >= 2 && counts.bytes_sent > 0, "{kinds:?}");
        assert_eq!((counts.connect_errors, counts.closed_by_server), (0, 0), "{kinds:?}");
    }
    assert!(kinds.resets.resets > 0 && kinds.slow_senders.bytes_received > 0, "{kinds:?}");
}

#[test]
fn a_library_is_told_the_same() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = start(authority.server("server"), |_, stream| echo(stream));
    let error = loadgen::run(&plan(&other, server, 10), &Stop::new(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, RunError::NotEncrypted { .. }), "{error}");
}
