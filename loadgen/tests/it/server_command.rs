//! A server that the generator starts itself: found by what it prints, measured, and always
//! stopped.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
};

use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    process::Signal,
};
use serde_json::Value;

use crate::{
    command_line::{exits_with, loadgen, signal_after_progress, text},
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

fn run(arguments: &str, server: SocketAddr) -> (Output, bool) {
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
    let (output, was_stopped) = run("-n 1", servers::nobody());
    exits_with(1, &output);
    assert!(was_stopped);
}

#[test]
fn whatever_ends_a_run_stops_the_command_after_the_report() {
    let server = servers::start(|_, stream| echo(stream));
    // Where these tests run with a signal ignored, as under nohup, the program ignores it too.
    let ignored = procfs::process::Process::myself().unwrap().status().unwrap().sigign;
    let is_heard = |signal: &Signal| ignored & (1 << (signal.as_raw() - 1)) == 0;
    let others = [Signal::HUP, Signal::QUIT].into_iter().filter(is_heard);
    for signal in [Signal::INT, Signal::TERM].into_iter().chain(others) {
        let folder = tempfile::tempdir().unwrap();
        let stopped = folder.path().join("stopped");
        let mut child = announcing(loadgen("-d 1h -w 0s -i 20ms"), server, &stopped)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        signal_after_progress(&mut child, signal);
        let output = child.wait_with_output().unwrap();
        exits_with(0, &output);
        assert!(text(&output.stdout).contains("stopped early"), "{}", text(&output.stdout));
        assert!(stopped.exists());
    }
}

/// The JSON of a run whose command ends in the middle of it in this way, as a line of its script.
fn run_that_loses_its_server(how: &str) -> (Output, Value) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (pid, pipe, file) = (path("pid"), path("pipe"), path("run.json"));
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let server = servers::replying({
        let (pid, pipe) = (pid.clone(), pipe.clone());
        move |_, number, frame| {
            if number == 50 {
                fs::write(&pipe, "end\n").unwrap();
                let pid = fs::read_to_string(&pid).unwrap();
                let stat = format!("/proc/{}/stat", pid.trim());
                // Until it is gone, or a zombie.
                while fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
                    thread::yield_now();
                }
            }
            frame
        }
    });
    let script =
        format!("ulimit -c 0; echo $$ > \"$1\"; echo listening on $0; read line < \"$2\"; {how}");
    let mut command = loadgen("-c 1 -n 500 -o");
    command.arg(&file).args(["--", "sh", "-c", &script]).arg(server.to_string());
    let output = command.arg(pid).arg(pipe).output().unwrap();
    let report = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    (output, report)
}

#[test]
fn a_server_that_ends_by_itself_is_said_to_and_its_memory_is_known() {
    for (how, words) in [("exit 3", "exit status 3"), ("kill -SEGV $$", "signal 11")] {
        let (output, report) = run_that_loses_its_server(how);
        let said = format!("the server ended by itself ({words})");
        assert_eq!(report["verdict_reasons"][0], said, "{report}");
        assert!(text(&output.stdout).contains(&said), "{}", text(&output.stdout));
        assert!(report["server"]["rss_peak_bytes"].as_u64().unwrap() > 0, "{report}");
        assert_eq!(report["requests"], 500);
    }
}

#[test]
fn a_process_of_the_server_that_ends_meanwhile_is_said_to() {
    let server = servers::start(|_, stream| echo(stream));
    let mut process = Command::new("sleep").arg("60").spawn().unwrap();
    let id = process.id();
    let mut command = loadgen(&format!("-c 1 -d 2s -w 0s -i 50ms --server-pid {id} {server}"));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut progress = BufReader::new(child.stderr.take().unwrap()).lines();
    progress.next().unwrap().unwrap();
    // Nobody waits for it yet: it stays in the list of processes.
    process.kill().unwrap();
    progress.for_each(drop);
    let output = child.wait_with_output().unwrap();
    process.wait().unwrap();
    exits_with(0, &output);
    let report = text(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    let words = format!("the server ended by itself (process {id} is no longer there)");
    assert!(report.contains(&words), "{report}");
}

#[test]
fn a_server_behind_a_shell_is_measured_with_it() {
    let server = servers::start(|_, stream| echo(stream));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.json");
    // The shell itself does nothing but wait.
    let script = "echo listening on $0; sh -c 'while :; do :; done'; true";
    let mut command = loadgen("-c 1 -d 2s -w 100ms -o");
    command.arg(&file).args(["--", "sh", "-c", script]).arg(server.to_string());
    exits_with(0, &command.output().unwrap());
    let report: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert!(report["server"]["cpu_us_per_request"].as_f64().unwrap() > 0.0, "{report}");
}

#[test]
fn a_given_target_is_preferred_to_the_announced_one() {
    let server = servers::start(|_, stream| echo(stream));
    let (output, was_stopped) = run(&format!("-n 10 {server}"), servers::nobody());
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
