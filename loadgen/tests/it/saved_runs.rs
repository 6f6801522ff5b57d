//! What is done with runs that were saved: comparing them, adding them up, holding new ones against
//! them.

use std::{
    fs,
    io::Write,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Command, Output},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hdrhistogram::{
    Histogram,
    serialization::{Serializer, V2DeflateSerializer},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    command_line::{exits_with, loadgen, text},
    servers::{self, echo},
};

/// Enough intervals to know their spread, also where the machine stands still for most of them.
const LOAD: &str = "-c 2 -d 2s -w 0s -i 50ms --timeout 60s";

fn honest() -> SocketAddr {
    servers::start(|_, stream| echo(stream))
}

/// A folder with a run that was saved in it: the same run every time.
fn saved() -> (TempDir, PathBuf) {
    static RUN: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.json");
        let output = loadgen(&format!("{LOAD} {} -o", honest())).arg(&file).output().unwrap();
        exits_with(0, &output);
        fs::read(file).unwrap()
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.json");
    fs::write(&file, &*RUN).unwrap();
    (folder, file)
}

/// The run in this file after a change, in a file beside it.
fn changed(file: &PathBuf, change: impl FnOnce(&mut Value)) -> PathBuf {
    let mut run: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    change(&mut run);
    let other = file.with_file_name("b.json");
    fs::write(&other, run.to_string()).unwrap();
    other
}

#[track_caller]
fn fails_with(output: &Output, words: &str) {
    exits_with(1, output);
    assert!(text(&output.stderr).contains(words), "{}", text(&output.stderr));
}

fn compare(a: &PathBuf, b: &PathBuf) -> Command {
    let mut command = loadgen("compare");
    command.arg(a).arg(b);
    command
}

#[test]
fn a_run_does_not_differ_from_itself_and_one_run_says_little() {
    let (_folder, file) = saved();
    let output = compare(&file, &file).output().unwrap();
    exits_with(0, &output);
    let text = text(&output.stdout);
    assert_eq!(text.matches("no difference detected").count(), 3, "{text}");
    assert!(text.contains("One run each says little"), "{text}");
    let (_, notes) = text.split_once("In brackets").unwrap();
    assert!(notes.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(text.contains("99 % confidence"), "{text}");
}

#[test]
fn a_comparison_is_written_in_the_forms_that_are_asked_for() {
    let (folder, file) = saved();
    let other = changed(&file, |run| run["target"] = "a|<b>".into());
    let files = ["json", "md", "html"].map(|form| folder.path().join("diff").with_extension(form));
    let mut command = compare(&file, &other);
    command.args(files.iter().flat_map(|file| ["-o".as_ref(), file.as_os_str()]));
    exits_with(0, &command.output().unwrap());
    let [json, markdown, page] = files.map(|file| fs::read_to_string(file).unwrap());
    let saved: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(saved["figures"][0]["name"], "rate");
    assert_eq!(saved["figures"][0]["finding"], "no difference detected");
    assert_eq!(saved["rounds"], Value::Array(Vec::new()));
    assert!(saved["b"].as_str().unwrap().starts_with("a|<b>, "), "{saved}");
    assert!(markdown.contains("**loadgen: no difference detected**"), "{markdown}");
    assert!(markdown.contains("B: a\\|&lt;b>"), "{markdown}");
    assert!(page.contains("B: a|&lt;b&gt;"), "{page}");
}

#[test]
fn a_file_whose_form_nobody_knows_is_refused_before_anything_is_read() {
    for command in ["compare no.json no.json", "merge no.json no.json", "report no.json"] {
        let output = loadgen(&format!("{command} -o run.txt")).output().unwrap();
        exits_with(2, &output);
        let message = text(&output.stderr);
        assert!(
            message.contains("--output is `run.txt`") && message.contains(".json"),
            "{message}"
        );
    }
}

#[test]
fn a_run_of_few_intervals_cannot_tell() {
    let (_folder, file) = saved();
    let short = changed(&file, |run| run["intervals"].as_array_mut().unwrap().truncate(3));
    let output = compare(&file, &short).output().unwrap();
    exits_with(0, &output);
    assert!(text(&output.stdout).contains("too few intervals"), "{}", text(&output.stdout));
}

#[test]
fn loads_that_differ_are_said() {
    let (_folder, file) = saved();
    let other = changed(&file, |run| run["config"]["pipeline"] = 9.into());
    let output = compare(&file, &other).output().unwrap();
    assert!(text(&output.stdout).contains("pipeline is 1 in A and 9 in B"));
}

#[test]
fn what_is_no_saved_run_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("other.json");
    fails_with(&compare(&file, &file).output().unwrap(), "other.json");
    fs::write(&file, "{\"requests\": 3}").unwrap();
    fails_with(&compare(&file, &file).output().unwrap(), "is not a run that loadgen has saved");
}

#[test]
fn a_run_of_another_schema_is_refused() {
    let (_folder, file) = saved();
    let newer = changed(&file, |run| run["schema"] = 99.into());
    fails_with(&compare(&file, &newer).output().unwrap(), "schema 99");
}

#[test]
fn a_run_that_began_at_no_time_is_refused() {
    let (folder, file) = saved();
    for began_at in [2.6e11, 1e19, -1.0] {
        let other = changed(&file, |run| run["started_at_unix_s"] = began_at.into());
        fails_with(&compare(&file, &other).output().unwrap(), "after 1970");
        let page = folder.path().join("page.html");
        let output = loadgen("report").arg(&other).arg("-o").arg(&page).output().unwrap();
        fails_with(&output, "after 1970");
    }
}

#[test]
fn histograms_of_other_bounds_are_added_up_and_compared() {
    let (folder, file) = saved();
    let mut histogram = Histogram::<u64>::new_with_bounds(1, 1_000, 3).unwrap();
    histogram.record_n(900, 20).unwrap();
    let mut bytes = Vec::new();
    V2DeflateSerializer::new().serialize(&histogram, &mut bytes).unwrap();
    let narrow: Value = STANDARD.encode(bytes).into();
    let other = changed(&file, |run| {
        run["histograms"]["latency"] = narrow.clone();
        let intervals = run["intervals"].as_array_mut().unwrap();
        // Several intervals make a batch, whose first one is the narrow one.
        *intervals = [&intervals[..]; 4].concat();
        for interval in intervals.iter_mut().step_by(2) {
            interval["histograms"]["latency"] = narrow.clone();
        }
    });
    exits_with(0, &compare(&file, &other).output().unwrap());
    let sum = folder.path().join("sum.json");
    let output = loadgen("merge").args([&other, &file]).arg("-o").arg(sum).output().unwrap();
    exits_with(0, &output);
}

#[test]
fn runs_of_two_machines_become_one() {
    let server = honest();
    let folder = tempfile::tempdir().unwrap();
    let files = [1, 2].map(|number| folder.path().join(format!("{number}.json")));
    let runs = files.each_ref().map(|file| {
        loadgen(&format!("-c 1 -d 2s -w 0s -i 50ms --plain {server} -o"))
            .arg(file)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap()
    });
    for mut run in runs {
        assert!(run.wait().unwrap().success());
    }
    // However late a busy machine starts one of them: by their clocks they run at the same time.
    let read =
        |file: &PathBuf| -> Value { serde_json::from_slice(&fs::read(file).unwrap()).unwrap() };
    let (first, mut second) = (read(&files[0]), read(&files[1]));
    second["started_at_unix_s"] = (first["started_at_unix_s"].as_f64().unwrap() + 0.01).into();
    fs::write(&files[1], second.to_string()).unwrap();
    let sum = folder.path().join("sum.json");
    let output = loadgen("merge").args(&files).arg("-o").arg(&sum).output().unwrap();
    exits_with(0, &output);
    let (parts, sum) = (files.each_ref().map(read), read(&sum));
    let count = |run: &Value| run["requests"].as_u64().unwrap();
    assert_eq!(count(&sum), count(&parts[0]) + count(&parts[1]));
    assert_eq!(sum["config"]["connections"], 2);
    let longest = |run: &Value| run["latency_ns"]["max"].as_u64().unwrap();
    assert_eq!(longest(&sum), longest(&parts[0]).max(longest(&parts[1])));
    let shown = text(&output.stdout);
    assert!(shown.starts_with("target ") && shown.contains("2 connections x 1"), "{shown}");
}

#[test]
fn the_configuration_tells_all_that_was_asked_for_and_older_files_do_without() {
    let (folder, file) = (tempfile::tempdir().unwrap(), "run.json");
    let path = folder.path().join(file);
    let arguments = format!("{LOAD} --pin off --slo p99<1h --server-pid {}", std::process::id());
    let output = loadgen(&format!("{arguments} {} -o", honest())).arg(&path).output().unwrap();
    exits_with(0, &output);
    let run: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let config = &run["config"];
    assert_eq!((&config["pin"], &config["threads_pinned"]), (&"off".into(), &false.into()));
    assert_eq!(config["slo"], "p99<1h");
    assert_eq!(config["server_pid"], std::process::id());
    let older = changed(&path, |run| {
        for name in ["pin", "threads_pinned", "slo", "server_pid"] {
            run["config"].as_object_mut().unwrap().remove(name).unwrap();
        }
        run["started_at_unix_s"] = (run["started_at_unix_s"].as_f64().unwrap() + 0.001).into();
    });
    let page = folder.path().join("run.html");
    let merged = folder.path().join("sum.json");
    exits_with(0, &loadgen("report").arg(&older).arg("-o").arg(&page).output().unwrap());
    let compared = compare(&path, &older).output().unwrap();
    exits_with(0, &compared);
    assert!(!text(&compared.stdout).contains("The loads differ"), "{}", text(&compared.stdout));
    let merge = loadgen("merge").arg(&path).arg(&older).arg("-o").arg(&merged).output().unwrap();
    exits_with(0, &merge);
    exits_with(0, &loadgen("report").arg(&path).arg("-o").arg(&page).output().unwrap());
    let page = fs::read_to_string(page).unwrap();
    for name in ["pin", "threads_pinned", "slo", "server_pid"] {
        assert!(page.contains(&format!(">{name}<")), "{name} is not in:\n{page}");
    }
}

#[test]
fn runs_that_do_not_fit_are_not_added_up_and_no_file_is_left() {
    let (folder, file) = saved();
    let sum = folder.path().join("sum.json");
    let later = changed(&file, |run| {
        run["started_at_unix_s"] = (run["started_at_unix_s"].as_f64().unwrap() + 60.0).into();
    });
    let merge = |other: &PathBuf| {
        loadgen("merge").arg(&file).arg(other).arg("-o").arg(&sum).output().unwrap()
    };
    fails_with(&merge(&later), "did not measure at the same time");
    fails_with(&merge(&file), "one and the same run");
    assert!(!sum.exists());
}

#[test]
fn a_sum_and_a_comparison_that_no_disk_takes_are_printed_all_the_same() {
    let (folder, file) = saved();
    let other = changed(&file, |run| {
        run["started_at_unix_s"] = (run["started_at_unix_s"].as_f64().unwrap() + 0.01).into();
    });
    let full = folder.path().join("full.json");
    symlink("/dev/full", &full).unwrap();
    for (command, words) in [("merge", "verdict"), ("compare", "One run each says little")] {
        let output = loadgen(command).arg(&file).arg(&other).arg("-o").arg(&full).output().unwrap();
        fails_with(&output, "full.json");
        assert!(text(&output.stdout).contains(words), "{}", text(&output.stdout));
    }
}

/// A run like the saved one, held against `baseline`.
fn against(baseline: &PathBuf, flags: &str) -> Output {
    let mut command = loadgen(&format!("{LOAD} {flags} {} --baseline", honest()));
    command.arg(baseline).output().unwrap()
}

/// A baseline with so many requests per interval, each of which took `nanos`.
fn baseline(requests: u64, nanos: u64) -> (TempDir, PathBuf) {
    let (folder, file) = saved();
    let mut histogram = Histogram::<u64>::new_with_bounds(1, 3_600_000_000_000, 3).unwrap();
    histogram.record_n(nanos, requests).unwrap();
    let mut bytes = Vec::new();
    V2DeflateSerializer::new().serialize(&histogram, &mut bytes).unwrap();
    let encoded = STANDARD.encode(bytes);
    let file = changed(&file, |run| {
        // As long an interval as the others, so many times per second.
        run["rate"] = (20 * requests).into();
        for percentile in ["p50", "p99", "max"] {
            run["latency_ns"][percentile] = nanos.into();
        }
        for interval in run["intervals"].as_array_mut().unwrap() {
            interval["requests"] = requests.into();
            interval["histograms"]["latency"] = encoded.clone().into();
        }
    });
    (folder, file)
}

/// One that no server reaches.
fn too_good() -> (TempDir, PathBuf) {
    baseline(1_000_000_000, 1)
}

#[test]
fn a_run_that_is_worse_than_its_baseline_exits_with_3() {
    let (_folder, file) = too_good();
    let output = against(&file, "--fail-on-regression");
    exits_with(3, &output);
    let text = text(&output.stdout);
    assert!(
        text.contains("Regression: clearly worse by more than 5 %: rate, latency p50"),
        "{text}"
    );
}

#[test]
fn without_the_flag_a_worse_run_is_shown_and_exits_with_0() {
    let (_folder, file) = too_good();
    let output = against(&file, "");
    exits_with(0, &output);
    assert!(text(&output.stdout).contains("worse"), "{}", text(&output.stdout));
}

#[test]
fn a_run_that_is_better_than_its_baseline_exits_with_0() {
    let (_folder, file) = baseline(1, 1_000_000_000_000);
    let output = against(&file, "--fail-on-regression=0%");
    exits_with(0, &output);
    assert!(text(&output.stdout).contains("nothing is clearly worse"), "{}", text(&output.stdout));
}

#[test]
fn a_baseline_of_another_load_is_refused_before_the_run() {
    let (_folder, file) = saved();
    let other = changed(&file, |run| run["config"]["size"] = "9".into());
    let output = against(&other, "--fail-on-regression");
    exits_with(2, &output);
    assert!(text(&output.stderr).contains("size is 9 in A"), "{}", text(&output.stderr));
}

#[test]
fn a_baseline_without_spread_is_refused_before_the_run() {
    let (_folder, file) = saved();
    let short = changed(&file, |run| run["intervals"].as_array_mut().unwrap().truncate(3));
    let output = against(&short, "--fail-on-regression");
    exits_with(2, &output);
    assert!(text(&output.stderr).contains("3 measured intervals"), "{}", text(&output.stderr));
}

#[test]
fn a_regression_needs_a_baseline() {
    let output = loadgen("--fail-on-regression :9000").output().unwrap();
    exits_with(2, &output);
    assert!(text(&output.stderr).contains("--baseline"), "{}", text(&output.stderr));
}

/// A server that answers one request of twenty after 100 ms, or closes its connection instead.
fn slow_at_times(is_closing: bool) -> SocketAddr {
    let seen = AtomicU64::new(0);
    servers::start(move |_, mut stream| {
        loop {
            let frame = servers::read_frame(&mut stream)?;
            if seen.fetch_add(1, SeqCst) % 20 == 19 {
                thread::sleep(Duration::from_millis(100));
                if is_closing {
                    return Ok(());
                }
            }
            stream.write_all(&frame)?;
        }
    })
}

#[test]
fn losing_slow_requests_is_worse_than_answering_them_late() {
    let folder = tempfile::tempdir().unwrap();
    let [late, lost] = ["late.json", "lost.json"].map(|name| folder.path().join(name));
    exits_with(
        0,
        &loadgen(&format!("{LOAD} {} -o", slow_at_times(false))).arg(&late).output().unwrap(),
    );
    let mut command = loadgen(&format!("{LOAD} --fail-on-regression {} -o", slow_at_times(true)));
    let output = command.arg(&lost).arg("--baseline").arg(&late).output().unwrap();
    exits_with(3, &output);
    let shown = text(&output.stdout);
    let regression = shown.lines().find(|line| line.starts_with("Regression: ")).unwrap();
    assert!(regression.contains("latency p99") && regression.contains("unanswered"), "{shown}");
    let output = compare(&late, &lost).arg("--fail-on-regression").output().unwrap();
    exits_with(3, &output);
    let shown = text(&output.stdout);
    let p99 = shown.lines().find(|line| line.starts_with("latency p99")).unwrap();
    assert!(p99.contains("never answered") && p99.ends_with("worse"), "{shown}");
    let output = compare(&lost, &late).arg("--fail-on-regression").output().unwrap();
    let shown = text(&output.stdout);
    for figure in ["latency p99", "unanswered", "errors"] {
        let row = shown.lines().find(|line| line.starts_with(figure)).unwrap();
        assert!(row.ends_with("better"), "{shown}");
    }
    // Of two short runs, medians of microseconds and rates may differ clearly by themselves.
    let regression = shown.lines().find(|line| line.starts_with("Regression: ")).unwrap();
    let is_clean = regression.contains("nothing is clearly worse");
    exits_with(if is_clean { 0 } else { 3 }, &output);
    for figure in ["p99", "unanswered", "never sent", "errors", "mismatches"] {
        assert!(!regression.contains(figure), "{shown}");
    }
    exits_with(2, &compare(&lost, &late).arg("--fail-on-regression=much").output().unwrap());
}
