//! The program: exit codes, messages, files.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Output, Stdio},
    sync::mpsc::Receiver,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::servers::{self, again, echo};

/// The program with these arguments, split at blanks.
pub(crate) fn loadgen(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(arguments.split_whitespace());
    command
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
pub(crate) fn exits_with(code: i32, output: &Output) {
    let Output { status, stdout, stderr } = output;
    assert_eq!(status.code(), Some(code), "{}\n{}", text(stdout), text(stderr));
}

/// Sends SIGINT as soon as `child` has shown progress, and reads what it still shows.
pub(crate) fn interrupt_after_progress(child: &mut Child) {
    signal_after_progress(child, Signal::INT);
}

/// The same with any signal.
pub(crate) fn signal_after_progress(child: &mut Child, signal: Signal) {
    let mut progress = BufReader::new(child.stderr.take().unwrap()).lines();
    progress.next().unwrap().unwrap();
    kill_process(Pid::from_child(child), signal).unwrap();
    progress.for_each(drop);
}

fn honest() -> SocketAddr {
    servers::start(|_, stream| echo(stream))
}

#[test]
fn a_good_run_reports_and_exits_with_0() {
    let output = loadgen(&format!("-c 4 -n 1000 {}", honest())).output().unwrap();
    exits_with(0, &output);
    let report = text(&output.stdout);
    for words in ["1,000", "requests", "p99.9", "0 errors, 0 mismatches, 0 unanswered", "CPU"] {
        assert!(report.contains(words), "{words} is not in:\n{report}");
    }
}

/// Many machines resolve `localhost` to `::1` first, where this server does not listen.
#[test]
fn localhost_is_a_server_that_listens_on_one_of_its_addresses() {
    let port = honest().port();
    let output = loadgen(&format!("-n 20 -c 2 --reconnect-every 3 localhost:{port}")).output();
    let output = output.unwrap();
    exits_with(0, &output);
    let report = text(&output.stdout);
    assert!(report.contains("0 errors, 0 mismatches, 0 unanswered"), "{report}");
}

#[test]
fn the_word_run_is_optional() {
    exits_with(0, &loadgen(&format!("run -n 10 {}", honest())).output().unwrap());
}

#[test]
fn progress_is_one_line_per_interval_when_it_is_not_on_a_terminal() {
    let arguments = format!("-d 2s -w 50ms -i 50ms {}", honest());
    let output = loadgen(&arguments).output().unwrap();
    exits_with(0, &output);
    let progress = text(&output.stderr);
    assert!(progress.lines().count() >= 2, "{progress}");
    assert!(progress.lines().all(|line| line.contains("requests/s")), "{progress}");
    assert!(!progress.contains('\x1b'), "{progress}");
}

#[test]
fn a_wrong_byte_exits_with_4_also_where_there_are_errors() {
    let server = servers::replying(|_, number, mut frame| {
        frame[30] ^= u8::from(number == 3);
        frame
    });
    let output = loadgen(&format!("-c 1 -p 4 -n 100 {server}")).output().unwrap();
    exits_with(4, &output);
    assert!(text(&output.stdout).contains("flipped"), "{}", text(&output.stdout));
}

#[test]
fn nobody_listening_exits_with_1_and_says_what_to_do() {
    let output = loadgen(&format!("-n 1 {}", servers::nobody())).output().unwrap();
    exits_with(1, &output);
    assert!(text(&output.stderr).contains("start the server first"));
    assert!(output.stdout.is_empty());
}

#[test]
fn every_wrong_value_exits_with_2_and_is_named() {
    let output = loadgen("-c none -s huge -d 0s -o run.txt :x").output().unwrap();
    exits_with(2, &output);
    let message = text(&output.stderr);
    for flag in ["--connections", "--size", "--duration", "--output", ".json", "TARGET"] {
        assert!(message.contains(flag), "{flag} is not in:\n{message}");
    }
}

#[test]
fn a_path_that_is_too_long_for_a_unix_socket_is_named_as_that() {
    let output = loadgen(&format!("-n 1 unix:/tmp/{}", "x".repeat(200))).output().unwrap();
    exits_with(2, &output);
    let message = text(&output.stderr);
    assert!(message.contains("205 bytes") && message.contains("108 at most"), "{message}");
    assert!(!message.contains("start the server first"), "{message}");
}

#[test]
fn an_unknown_flag_exits_with_2() {
    exits_with(2, &loadgen("--unknown :9000").output().unwrap());
    exits_with(2, &loadgen("").output().unwrap());
}

#[test]
fn a_misspelt_command_is_told_from_a_target() {
    for arguments in ["serch :9000", "serch --slo p99<1ms :9000", "-c 3 serch :9000"] {
        let output = loadgen(arguments).output().unwrap();
        exits_with(2, &output);
        let message = text(&output.stderr);
        assert!(
            message.contains("there is no command `serch`; did you mean `search`?"),
            "{message}"
        );
    }
    let output = loadgen("serch").output().unwrap();
    exits_with(2, &output);
    assert!(text(&output.stderr).contains("loadgen search"), "{}", text(&output.stderr));
    let output = loadgen("127.0.0.1:9000 :9000").output().unwrap();
    assert!(!text(&output.stderr).contains("command `"), "{}", text(&output.stderr));
}

#[test]
fn help_and_version_exit_with_0() {
    exits_with(0, &loadgen("--help").output().unwrap());
    exits_with(0, &loadgen("--version").output().unwrap());
}

#[test]
fn a_process_that_does_not_exist_is_found_before_the_run() {
    let server = servers::start(|_, _| unreachable!("nobody connects"));
    let output = loadgen(&format!("-n 1 --server-pid {} {server}", u32::MAX)).output().unwrap();
    exits_with(1, &output);
    assert!(text(&output.stderr).contains("--server-pid"), "{}", text(&output.stderr));
}

#[test]
fn a_file_that_cannot_be_written_is_found_before_the_run() {
    let server = servers::start(|_, _| unreachable!("nobody connects"));
    let output = loadgen(&format!("-n 1 -o /nowhere/run.json {server}")).output().unwrap();
    exits_with(1, &output);
    assert!(text(&output.stderr).contains("/nowhere/run.json"), "{}", text(&output.stderr));
    assert!(output.stdout.is_empty());
}

#[test]
fn reduced_threads_are_said() {
    let output = loadgen(&format!("-t 9 -c 2 -n 10 {}", honest())).output().unwrap();
    exits_with(0, &output);
    assert!(text(&output.stderr).contains("reduced to 2"), "{}", text(&output.stderr));
}

#[test]
fn json_has_the_keys_that_scripts_read() {
    let folder = tempfile::tempdir().unwrap();
    let files = [folder.path().join("one.json"), folder.path().join("two.json")];
    let arguments = format!("-c 2 -n 300 -s 100 --seed 5 --server-pid {}", std::process::id());
    let output = loadgen(&arguments)
        .args(files.iter().flat_map(|file| ["-o".as_ref(), file.as_os_str()]))
        .arg(honest().to_string())
        .output()
        .unwrap();
    exits_with(0, &output);
    let [one, two] = files.map(|file| std::fs::read(file).unwrap());
    assert_eq!(one, two);
    let report: Value = serde_json::from_slice(&one).unwrap();
    assert_eq!(report["requests"], 300);
    for key in ["errors", "mismatches", "unanswered"] {
        assert_eq!(report[key], 0, "{key}");
    }
    for key in ["duration_s", "rate"] {
        assert!(report[key].as_f64().unwrap() > 0.0, "{key}");
    }
    for percentile in ["p50", "p90", "p99", "p99_9", "max"] {
        assert!(report["latency_ns"][percentile].as_u64().unwrap() > 0);
        assert_eq!(report["service_ns"][percentile], report["latency_ns"][percentile]);
        assert_eq!(report["send_lag_ns"][percentile], 0);
    }
    assert!(report["client"]["cpu_us_per_request"].as_f64().unwrap() > 0.0);
    assert!(report["server"]["cpu_us_per_request"].is_number());
    assert!(report["server"]["rss_peak_bytes"].as_u64().unwrap() > 0);
    let verdict = report["verdict"].as_str().unwrap();
    assert!(["ok", "client-limited", "disturbed"].contains(&verdict), "{verdict}");
    assert_eq!(report["schema"], 1);
    assert_eq!(report["config"]["seed"], 5);
    assert_eq!(report["config"]["seed_text"], "5");
}

#[test]
fn what_is_unknown_is_null_in_json() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.json");
    let output = loadgen(&format!("-n 10 {} -o", honest())).arg(&file).output().unwrap();
    exits_with(0, &output);
    let report: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(report["server"]["cpu_us_per_request"], Value::Null);
    assert_eq!(report["server"]["rss_peak_bytes"], Value::Null);
}

#[test]
fn ctrl_c_ends_a_run_with_a_report() {
    let mut child = loadgen(&format!("-d 1h -w 0s -i 20ms {}", honest()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    interrupt_after_progress(&mut child);
    let output = child.wait_with_output().unwrap();
    exits_with(0, &output);
    let report = text(&output.stdout);
    assert!(report.contains("stopped early"), "{report}");
    assert!(report.contains("p99.9"), "{report}");
}

/// Interrupts this as soon as it loads `server`, which tells of it.
pub(crate) fn interrupted(mut command: Command, told: &Receiver<()>) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    told.recv().unwrap();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn ctrl_c_before_a_search_has_measured_anything_says_so() {
    let (server, told) = servers::telling();
    let command = loadgen(&format!("search --slo p99<1h -c 1 -w 1h {server}"));
    let output = interrupted(command, &told);
    exits_with(1, &output);
    let message = text(&output.stderr);
    assert!(message.contains("stopped before anything was measured"), "{message}");
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
}

#[test]
fn ctrl_c_in_the_first_run_of_a_search_finds_nothing_and_reports() {
    let (server, told) = servers::telling();
    let command = loadgen(&format!("search --slo p99<1h -c 1 -w 0s -d 1h {server}"));
    let output = interrupted(command, &told);
    exits_with(3, &output);
    let report = text(&output.stdout);
    assert!(report.contains("found        nothing: stopped"), "{report}");
    assert!(report.contains("stopped early"), "{report}");
}

#[test]
fn a_search_that_finds_no_rate_exits_with_3_and_reports_on_the_last_run() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.json");
    // So slow that how late the generator is does not matter.
    let server = servers::replying(|_, _, frame| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        frame
    });
    let arguments = "search --slo p50<1ns --start 40 -c 1 -p 100 -d 1s -w 0s -o";
    let output = loadgen(arguments).arg(&file).arg(server.to_string()).output().unwrap();
    exits_with(3, &output);
    assert!(text(&output.stdout).contains("found "), "{}", text(&output.stdout));
    let report: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let last = text(&output.stderr).lines().last().unwrap().trim().to_owned();
    let rate = report["config"]["rate"].as_str().unwrap();
    assert!(last.starts_with(&format!("{rate} requests/s")) && rate != "40", "{rate}, {last}");
}

#[test]
fn a_run_that_ignores_the_end_of_its_terminal_goes_on() {
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$0\" -d 1h -w 0s -i 20ms \"$1\""]);
    shell.args([env!("CARGO_BIN_EXE_loadgen"), &honest().to_string()]);
    let mut child = shell.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut progress = BufReader::new(child.stderr.take().unwrap()).lines();
    progress.next().unwrap().unwrap();
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    // A run that ends shows no more than a line or two.
    assert_eq!(progress.by_ref().take(20).count(), 20);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    progress.for_each(drop);
    exits_with(0, &child.wait_with_output().unwrap());
}

#[test]
fn a_missed_condition_exits_with_3_and_a_met_one_with_0() {
    let server = honest();
    let met = loadgen(&format!("-n 100 --slo p99<1h,errors==0,rate>1 {server}")).output().unwrap();
    exits_with(0, &met);
    assert!(text(&met.stdout).contains("p99<1h is met"), "{}", text(&met.stdout));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.json");
    let missed = loadgen(&format!("-n 100 --slo p50<1ns,max<1h {server} -o")).arg(&file).output();
    let missed = missed.unwrap();
    exits_with(3, &missed);
    assert!(text(&missed.stdout).contains("p50<1ns is missed"), "{}", text(&missed.stdout));
    let report: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(report["slo"][0]["met"], false);
    assert_eq!(report["slo"][1]["met"], true);
}

#[test]
fn wrong_bytes_come_before_a_missed_condition() {
    let server = servers::replying(|_, number, mut frame| {
        frame[30] ^= u8::from(number == 3);
        frame
    });
    exits_with(4, &loadgen(&format!("-c 1 -n 10 --slo p50<1ns {server}")).output().unwrap());
}

#[test]
fn open_loop_keeps_its_three_times_apart_in_json() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.json");
    let arguments = format!("-c 4 -p 64 -R 2k -d 3s -w 100ms --arrival poisson {} -o", honest());
    exits_with(0, &loadgen(&arguments).arg(&file).output().unwrap());
    let report: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    for times in ["latency_ns", "service_ns"] {
        assert!(report[times]["p50"].as_u64().unwrap() > 0, "{times}");
    }
    let part = |key| report[key]["max"].as_u64().unwrap();
    assert!(part("send_lag_ns") <= part("latency_ns"));
    assert!(part("service_ns") <= part("latency_ns"));
    assert_eq!(report["config"]["rate"], "2000");
    assert_eq!(report["config"]["arrival"], "poisson");
    assert!(report["littles_law"]["in_flight_mean"].is_number(), "{report}");
    assert!(report["verdict_reasons"].is_array());
}

/// The program under limits that the shell sets first.
fn limited(limits: &str, arguments: &str) -> Output {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{limits} && exec \"$0\" \"$@\"")]);
    shell.arg(env!("CARGO_BIN_EXE_loadgen")).args(arguments.split_whitespace()).output().unwrap()
}

#[test]
fn a_soft_limit_on_open_files_is_raised_for_the_run_and_not_for_its_server() {
    let server = honest();
    let arguments = format!("-c 100 -n 1000 {server}");
    exits_with(0, &limited("ulimit -S -n 64", &arguments));
    let script = format!("ulimit -S -n >&2; echo listening on {server}; exec sleep 60");
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -S -n 64 && exec \"$0\" \"$@\""]);
    shell.arg(env!("CARGO_BIN_EXE_loadgen")).args(["-c", "100", "-n", "1000", "--", "sh", "-c"]);
    let output = shell.arg(script).output().unwrap();
    exits_with(0, &output);
    assert!(text(&output.stderr).lines().any(|line| line == "64"), "{}", text(&output.stderr));
}

#[test]
fn more_connections_than_files_may_be_open_are_refused_before_the_run() {
    let server = servers::start(|_, _| unreachable!("nobody connects"));
    let output = limited("ulimit -n 64", &format!("-c 100 -n 1000 {server}"));
    exits_with(1, &output);
    for words in ["--connections 100", "64", "ulimit -n"] {
        assert!(text(&output.stderr).contains(words), "{}", text(&output.stderr));
    }
    let slow = limited("ulimit -n 64", &format!("-c 1 --slow-readers 100 -n 1 {server}"));
    exits_with(1, &slow);
}

#[test]
fn a_search_ends_with_the_best_rate_and_its_report() {
    // It answers 5 requests per second: however late a busy machine makes the generator, the server
    // is later.
    let server = servers::replying(|_, _, frame| {
        std::thread::sleep(std::time::Duration::from_millis(200));
        frame
    });
    let arguments = "search --slo p50<1500ms,unsent==0 --start 4 --precision 50 -c 1 -p 100 \
                     -d 3s -w 0s";
    let search = || loadgen(arguments).arg(server.to_string()).output().unwrap();
    // Where the machine stands still, runs do not count or the server is late: nothing is found.
    let has_found = |output: &Output| {
        text(&output.stderr).lines().any(|line| line.ends_with(" met")) && output.status.success()
    };
    let output = again(11, search, has_found);
    let (found, steps) = (text(&output.stdout), text(&output.stderr));
    assert!(found.contains("found"), "{found}\n{steps}");
    assert!(found.contains("p50<1500ms is met"), "{found}\n{steps}");
    assert!(steps.lines().any(|line| line.ends_with("met")), "{steps}");
    exits_with(0, &output);
}

#[test]
fn a_search_goes_up_where_the_rate_is_too_low_for_a_condition() {
    let arguments =
        "search --slo rate>=15,rate<25 --start 10 --precision 50 -c 1 -p 100 -d 1s -w 0s";
    let server = honest();
    let search = || loadgen(arguments).arg(server.to_string()).output().unwrap();
    let output = again(10, search, |output: &Output| output.status.success());
    let (found, steps) = (text(&output.stdout), text(&output.stderr));
    exits_with(0, &output);
    assert!(steps.contains("too low for a condition"), "{steps}");
    assert!(found.contains("rate>=15 is met"), "{found}\n{steps}");
}

#[test]
fn a_search_finds_no_rate_that_the_server_does_not_keep_up_with() {
    // Any number of replies may come late: the condition alone is met at every rate. More than 100
    // requests per second are never answered.
    let server = servers::replying(|_, _, frame| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        frame
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.json");
    let arguments = "search --slo rate>=0 --start 400 --precision 50 -c 1 -p 10000 -n 20 \
                     --timeout 1h -o";
    let output = loadgen(arguments).arg(&file).arg(server.to_string()).output().unwrap();
    let steps = text(&output.stderr);
    assert!(steps.contains("--requests is raised"), "{steps}");
    assert!(steps.lines().any(|line| line.contains("400 requests/s") && line.ends_with("missed")));
    let report: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let found: f64 = report["config"]["rate"].as_str().unwrap().parse().unwrap();
    assert!(found <= 150.0, "{steps}");
    // A second of it, though so many were not asked for.
    assert!(report["config"]["requests"].as_f64().unwrap() >= found.max(20.0), "{steps}");
}

#[test]
fn a_search_of_runs_that_are_too_short_is_refused() {
    let output = loadgen("search --slo p99<1ms -d 100ms :9000").output().unwrap();
    exits_with(2, &output);
    let message = text(&output.stderr);
    assert!(message.contains("--duration is 100 ms; a search needs at least 1.00 s"), "{message}");
}

#[test]
fn a_search_names_the_rate_that_it_cannot_begin_with() {
    for start in ["--start 0", "--start=-4", "--start -4", "--start 1e12"] {
        let output = loadgen(&format!("search --slo p99<1ms {start} :9000")).output().unwrap();
        exits_with(2, &output);
        let message = text(&output.stderr);
        assert!(message.contains("--start is `") && message.contains("1 to 100,000,000"));
        assert!(!message.contains("--rate"), "{message}");
    }
}

#[test]
fn arrivals_without_a_rate_are_refused_but_for_a_search() {
    let output = loadgen("--arrival poisson :9000").output().unwrap();
    exits_with(2, &output);
    let message = text(&output.stderr);
    assert!(message.contains("--arrival is poisson") && message.contains("--rate"), "{message}");
    let output = loadgen("search --arrival poisson :9000").output().unwrap();
    exits_with(2, &output);
    assert!(!text(&output.stderr).contains("--arrival"), "{}", text(&output.stderr));
}

#[test]
fn a_search_needs_conditions_and_no_rate() {
    let output = loadgen("search -R 10 :9000").output().unwrap();
    exits_with(2, &output);
    for flag in ["--slo", "--rate"] {
        assert!(text(&output.stderr).contains(flag), "{}", text(&output.stderr));
    }
}
