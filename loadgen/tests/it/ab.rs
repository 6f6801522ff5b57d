//! Two servers against each other.

use std::{net::SocketAddr, path::Path};

use serde_json::Value;

use crate::{
    command_line::{exits_with, interrupted, loadgen, text},
    servers::{self, echo},
};

fn honest() -> SocketAddr {
    servers::start(|_, stream| echo(stream))
}

/// A command that announces `server` and notes in a file that it was started.
fn announcing(server: SocketAddr, name: &str, notes: &Path) -> String {
    let notes = notes.display();
    format!("sh -c 'echo {name} >> {notes}; echo listening on {server}; exec sleep 60'")
}

#[test]
fn both_servers_run_in_turn_and_the_order_alternates() {
    let folder = tempfile::tempdir().unwrap();
    let notes = folder.path().join("notes");
    let [a, b] = ["a", "b"].map(|name| announcing(honest(), name, &notes));
    let mut command = loadgen("ab --rounds 3 -c 1 -n 200");
    let output = command.args(["--a", &a, "--b", &b]).output().unwrap();
    exits_with(0, &output);
    let order = std::fs::read_to_string(notes).unwrap();
    assert_eq!(order.split_whitespace().collect::<String>(), "abbaab");
    let report = text(&output.stdout);
    assert!(report.contains("There were 3 complete rounds"), "{report}");
    assert!(report.contains("cannot tell"), "{report}");
    assert!(text(&output.stderr).contains("round 3 of 3, B:"), "{}", text(&output.stderr));
}

#[test]
fn what_servers_log_does_not_mix_with_the_rounds_unless_one_ends_by_itself() {
    let server = honest();
    let logging = format!("sh -c 'echo INFO ready >&2; echo listening on {server}; exec sleep 60'");
    let mut command = loadgen("ab --rounds 1 -c 1 -n 50");
    let output = command.args(["--a", &logging, "--b", &logging]).output().unwrap();
    exits_with(0, &output);
    let told = text(&output.stderr);
    assert!(told.lines().all(|line| line.starts_with("round 1 of 1, ")), "{told}");
    assert_eq!(told.lines().count(), 2, "{told}");

    let failing = "sh -c 'echo WARN no memory >&2; exit 3'";
    let mut command = loadgen("ab --rounds 1 -c 1 -n 50");
    let output = command.args(["--a", failing, "--b", &logging]).output().unwrap();
    exits_with(1, &output);
    let told = text(&output.stderr);
    assert!(told.contains("WARN no memory") && told.contains("exit status: 3"), "{told}");
}

#[test]
fn enough_rounds_have_a_finding_for_every_figure() {
    let folder = tempfile::tempdir().unwrap();
    let notes = folder.path().join("notes");
    let [a, b] = ["a", "b"].map(|name| announcing(honest(), name, &notes));
    let mut command = loadgen("ab --rounds 8 -c 1 -n 100");
    let files = ["json", "md", "html"].map(|form| folder.path().join("ab").with_extension(form));
    command.args(files.iter().flat_map(|file| ["-o".as_ref(), file.as_os_str()]));
    let output = command.args(["--a", &a, "--b", &b]).output().unwrap();
    exits_with(0, &output);
    let [json, markdown, page] = files.map(|file| std::fs::read_to_string(file).unwrap());
    let saved: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(saved["rounds"].as_array().unwrap().len(), 8);
    assert!(saved["rounds"][7][1]["rate"].as_f64().unwrap() > 0.0, "{saved}");
    assert_eq!(saved["config"]["connections"], 1);
    let rate = &saved["figures"][0];
    let ratio = |key: &str| rate[key].as_f64().unwrap();
    assert!(
        ratio("ratio_low") <= ratio("ratio") && ratio("ratio") <= ratio("ratio_high"),
        "{rate}"
    );
    assert!(markdown.starts_with("**loadgen: ") && markdown.contains("| rate |"), "{markdown}");
    assert!(page.contains("default-src 'none'") && !page.contains("{{"), "{page}");
    // A dot in the chart for each round and figure.
    assert!(page.matches("<circle").count() >= 3 * 8, "{page}");
    for term in ["mismatches", "unanswered", "never sent", "errors"] {
        assert!(page.contains(&format!("<dt>{term}</dt><dd>")), "{term} is not explained:\n{page}");
    }
    assert!(page.contains("Every round") && page.contains("<th scope=\"row\">8</th>"), "{page}");
    let report = text(&output.stdout);
    assert!(report.contains("Geometric means over 8 rounds"), "{report}");
    for figure in ["rate", "latency p50", "latency p99"] {
        let line = report.lines().find(|line| line.starts_with(figure)).unwrap();
        let findings = ["better", "worse", "no difference detected"];
        assert!(findings.iter().any(|finding| line.ends_with(finding)), "{line}");
    }
}

#[test]
fn a_server_that_sends_wrong_bytes_is_not_compared() {
    let folder = tempfile::tempdir().unwrap();
    let notes = folder.path().join("notes");
    let liar = servers::replying(|_, number, mut frame| {
        frame[30] ^= u8::from(number == 3);
        frame
    });
    let (a, b) = (announcing(honest(), "a", &notes), announcing(liar, "b", &notes));
    let mut command = loadgen("ab --rounds 8 -c 1 -n 100");
    let output = command.args(["--a", &a, "--b", &b]).output().unwrap();
    exits_with(4, &output);
    assert!(text(&output.stdout).contains("B cannot be compared"), "{}", text(&output.stdout));
}

#[test]
fn a_condition_that_one_side_misses_is_said_and_exits_with_3() {
    let folder = tempfile::tempdir().unwrap();
    let notes = folder.path().join("notes");
    let slow = servers::replying(|_, _, frame| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        frame
    });
    let (a, b) = (announcing(slow, "a", &notes), announcing(honest(), "b", &notes));
    let mut command = loadgen("ab --rounds 2 -c 1 -n 5 --slo p50<20ms,max<1h");
    let output = command.args(["--a", &a, "--b", &b]).output().unwrap();
    exits_with(3, &output);
    let report = text(&output.stdout);
    for words in [
        "A misses p50<20ms in 2 of 2 rounds.",
        "A meets max<1h in every round.",
        "B meets max<1h in every round.",
    ] {
        assert!(report.contains(words), "{words} is not in:\n{report}");
    }
}

#[test]
fn ctrl_c_is_said_with_what_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let notes = folder.path().join("notes");
    let (server, told) = servers::telling();
    let mut command = loadgen("ab --rounds 5 -c 1 -d 1h -w 0s");
    command.args(["--a", &announcing(server, "a", &notes), "--b", "never"]);
    let output = interrupted(command, &told);
    exits_with(0, &output);
    let report = text(&output.stdout);
    assert!(report.contains("Stopped before all 5 rounds were complete."), "{report}");
}

#[test]
fn what_has_no_meaning_for_two_servers_exits_with_2() {
    let output = loadgen("ab --a x --b y --server-pid 3 -o ab.hlog :9000").output().unwrap();
    exits_with(2, &output);
    for flag in ["TARGET", "--server-pid", "--output", ".json, .md, .html"] {
        assert!(text(&output.stderr).contains(flag), "{}", text(&output.stderr));
    }
}
