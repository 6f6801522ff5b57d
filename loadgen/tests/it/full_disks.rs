//! Disks, pipes and terminals that take nothing: words are lost, results and exit codes are not.

use std::{
    fs::{self, File},
    io::Read,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::{
    command_line::{exits_with, loadgen, text},
    servers::{self, echo},
};

fn honest() -> SocketAddr {
    servers::start(|_, stream| echo(stream))
}

/// A command that announces this server.
fn announcing(server: SocketAddr) -> String {
    format!("sh -c 'echo listening on {server}; exec sleep 60'")
}

/// Where every write fails.
fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

fn without_stderr(mut command: Command) -> Output {
    command.stderr(full()).output().unwrap()
}

#[test]
fn where_standard_error_takes_nothing_results_and_exit_codes_stay() {
    let server = honest();
    let run = without_stderr(loadgen(&format!("-d 2s -w 0s -i 20ms -t 99 -c 2 {server}")));
    exits_with(0, &run);
    assert!(text(&run.stdout).contains("p99.9"), "{}", text(&run.stdout));
    exits_with(2, &without_stderr(loadgen("-c 0 :9000")));
    exits_with(2, &without_stderr(loadgen("--unknown")));
    exits_with(1, &without_stderr(loadgen("-n 1 -- /nowhere/server")));
    exits_with(1, &without_stderr(loadgen("compare /nowhere/a /nowhere/b")));
    let metrics = format!("-n 10 --metrics http://127.0.0.1:1 {server}");
    exits_with(0, &without_stderr(loadgen(&metrics)));
}

#[test]
fn a_search_and_a_contest_need_nobody_who_listens() {
    let server = honest();
    let arguments = format!("search --slo p50<1ns --start 2 -c 1 -n 2 {server}");
    let search = without_stderr(loadgen(&arguments));
    exits_with(3, &search);
    assert!(text(&search.stdout).contains("p50<1ns is missed"), "{}", text(&search.stdout));
    let mut contest = loadgen("ab --rounds 1 -c 1 -n 10");
    contest.args(["--a", &announcing(server), "--b", &announcing(server)]);
    let contest = without_stderr(contest);
    exits_with(0, &contest);
    assert!(text(&contest.stdout).contains("complete round"), "{}", text(&contest.stdout));
}

#[test]
fn a_result_that_standard_output_does_not_take_is_no_success() {
    let run = format!("-n 10 {}", honest());
    for arguments in [run.as_str(), "completions bash", "man", "doctor", "--help"] {
        let output = loadgen(arguments).stdout(full()).output().unwrap();
        exits_with(1, &output);
        let message = text(&output.stderr);
        assert!(message.contains("cannot write to standard output"), "{arguments}: {message}");
    }
}

#[test]
fn a_reader_that_has_gone_has_read_what_it_wanted() {
    for arguments in [format!("-n 10 {}", honest()), "completions bash".to_owned()] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        exits_with(0, &loadgen(&arguments).stdout(writer).output().unwrap());
    }
}

#[test]
fn a_contest_that_no_disk_takes_is_printed_and_keeps_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ab.json");
    symlink("/dev/full", &file).unwrap();
    let liar = servers::replying(|_, number, mut frame| {
        frame[30] ^= u8::from(number == 3);
        frame
    });
    for (server, code, words) in [(honest(), 1, "complete round"), (liar, 4, "cannot be compared")]
    {
        let mut contest = loadgen("ab --rounds 1 -c 1 -n 10");
        contest.args(["--a", &announcing(honest()), "--b", &announcing(server), "-o"]).arg(&file);
        let output = contest.output().unwrap();
        exits_with(code, &output);
        assert!(text(&output.stdout).contains(words), "{}", text(&output.stdout));
        assert!(text(&output.stderr).contains("ab.json"), "{}", text(&output.stderr));
    }
}

/// Runs with `-o file` where no file may grow beyond a few hundred bytes.
fn run_in_little_room(file: &Path) -> Output {
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$0\" \"$@\""]);
    shell.arg(env!("CARGO_BIN_EXE_loadgen")).args(["-n", "10", &honest().to_string(), "-o"]);
    shell.arg(file).output().unwrap()
}

#[test]
fn a_disk_without_room_leaves_the_earlier_file_as_it_was_and_nothing_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.json");
    fs::write(&file, "earlier").unwrap();
    let output = run_in_little_room(&file);
    exits_with(1, &output);
    assert!(text(&output.stdout).contains("p99.9"), "{}", text(&output.stdout));
    assert_eq!(fs::read_to_string(&file).unwrap(), "earlier");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    fs::remove_file(&file).unwrap();
    exits_with(1, &run_in_little_room(&file));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_pipe_with_a_reader_takes_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pipe.json");
    mknodat(CWD, &file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let reader = thread::spawn({
        let file = file.clone();
        move || {
            let mut report = String::new();
            File::open(file).unwrap().read_to_string(&mut report).unwrap();
            report
        }
    });
    exits_with(0, &loadgen(&format!("-n 10 {} -o", honest())).arg(&file).output().unwrap());
    assert!(reader.join().unwrap().contains("\"requests\": 10"));
}
