//! A server that the generator starts itself: found by what it prints, measured, and always
//! stopped.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    command_line::{exits_with, interrupt_after_progress, loadgen, text},
    servers::{self, echo},
};

/// A command that announces `server`, lives until SIGTERM, and leaves a file then.
fn announcing(mut loadgen: Command, server: SocketAddr, stopped: &Path) -> Command {
    let script = r#"
        trap 'touch "$1"; exit 0' TERM
        echo "starting"
        echo "listening on $0"
        while :; do sleep 0.02; done"#;
    loadgen.args(["--", "sh", "-c", script]).arg(server.to_string()).arg(stopped);
    loadgen
}

fn run(arguments: &str, server: SocketAddr) -> (std::process::Output, bool) {
    let folder = tempfile::tempdir().unwrap();
    let stopped = folder.path().join("stopped");
    let output = announcing(loadgen(arguments), server, &stopped).output().unwrap();
    (output, stopped.exists())
}

#[test]
fn the_target_is_what_the_command_announces_and_the_command_is_stopped() {
    let server = servers::start(|_, stream| echo(stream));
    let (output, was_stopped) = run("-c 2 -n 100", server);
    exits_with(0, &output);
    assert!(was_stopped);
    let report = text(&output.stdout);
    assert!(report.contains(&server.to_string()), "{report}");
    assert!(report.contains("peak memory"), "{report}");
    assert!(!report.contains("starting"), "the server's own output is not ours: {report}");
}

#[test]
fn a_command_is_stopped_after_a_failed_run_too() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (output, was_stopped) = run("-n 1", nobody);
    exits_with(1, &output);
    assert!(was_stopped);
}

#[test]
fn ctrl_c_stops_the_command_after_the_report() {
    let server = servers::start(|_, stream| echo(stream));
    let folder = tempfile::tempdir().unwrap();
    let stopped = folder.path().join("stopped");
    let mut child = announcing(loadgen("-d 1h -w 0s -i 20ms"), server, &stopped)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    interrupt_after_progress(&mut child);
    let output = child.wait_with_output().unwrap();
    exits_with(0, &output);
    assert!(text(&output.stdout).contains("stopped early"), "{}", text(&output.stdout));
    assert!(stopped.exists());
}

#[test]
fn a_given_target_is_preferred_to_the_announced_one() {
    let server = servers::start(|_, stream| echo(stream));
    let announced = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (output, was_stopped) = run(&format!("-n 10 {server}"), announced);
    exits_with(0, &output);
    assert!(was_stopped);
}

#[test]
fn a_command_that_ends_at_once_is_an_error_with_its_status() {
    let script = "echo it broke >&2; exit 7";
    let output = loadgen("-n 1 --").args(["sh", "-c", script]).output().unwrap();
    exits_with(1, &output);
    let message = text(&output.stderr);
    assert!(message.contains("exit status: 7"), "{message}");
    assert!(message.contains("it broke"), "{message}");
}

#[test]
fn a_command_that_cannot_be_run_is_an_error() {
    let output = loadgen("-n 1 -- /nowhere/server").output().unwrap();
    exits_with(1, &output);
    assert!(text(&output.stderr).contains("/nowhere/server"), "{}", text(&output.stderr));
}
