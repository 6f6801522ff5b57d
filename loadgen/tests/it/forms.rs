//! The forms in which a run is written, read back as the tools do that they are meant for.

use std::{fs, path::Path, sync::LazyLock};

use base64::{Engine, engine::general_purpose::STANDARD};
use hdrhistogram::{
    Histogram,
    serialization::{
        Deserializer,
        interval_log::{IntervalLogIterator, LogEntry},
    },
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    command_line::{exits_with, loadgen},
    servers::{self, echo},
};

const FORMS: [&str; 6] = ["json", "html", "csv", "md", "hlog", "hgrm"];

/// A folder with a run in every form, warm-up included: the same run every time.
fn run() -> TempDir {
    static RUN: LazyLock<[String; FORMS.len()]> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        let server = servers::start(|_, stream| echo(stream));
        let mut command = loadgen("-c 2 -d 3s -w 100ms -i 50ms --timeout 60s");
        for extension in FORMS {
            command.arg("-o").arg(folder.path().join("run").with_extension(extension));
        }
        exits_with(0, &command.arg(server.to_string()).output().unwrap());
        FORMS.map(|extension| read(&folder, extension))
    });
    let folder = tempfile::tempdir().unwrap();
    for (extension, content) in FORMS.iter().zip(&*RUN) {
        fs::write(folder.path().join("run").with_extension(extension), content).unwrap();
    }
    folder
}

fn read(folder: &TempDir, extension: &str) -> String {
    fs::read_to_string(folder.path().join("run").with_extension(extension)).unwrap()
}

fn json(folder: &TempDir) -> Value {
    serde_json::from_str(&read(folder, "json")).unwrap()
}

fn decode(text: &str) -> Histogram<u64> {
    let bytes = STANDARD.decode(text).unwrap();
    Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap()
}

#[test]
fn the_json_holds_every_distribution() {
    let folder = run();
    let run = json(&folder);
    let whole = decode(run["histograms"]["latency"].as_str().unwrap());
    assert_eq!(whole.len(), run["requests"].as_u64().unwrap());
    assert_eq!(whole.value_at_quantile(0.99), run["latency_ns"]["p99"].as_u64().unwrap());
    let intervals = run["intervals"].as_array().unwrap();
    assert!(intervals.len() > 2, "{intervals:?}");
    let mut measured = 0;
    for interval in intervals {
        let histogram = decode(interval["histograms"]["latency"].as_str().unwrap());
        // What was sent while warming up and answered later is counted but has no time.
        assert!(histogram.len() <= interval["requests"].as_u64().unwrap());
        assert_eq!(histogram.max(), interval["latency_ns"]["max"].as_u64().unwrap());
        measured += if interval["is_warm_up"] == false { histogram.len() } else { 0 };
    }
    assert_eq!(measured, whole.len());
}

#[test]
fn the_interval_log_is_read_back_by_its_own_reader() {
    let folder = run();
    let log = read(&folder, "hlog");
    let run = json(&folder);
    let mut saved = run["intervals"].as_array().unwrap().iter();
    let mut has_start = false;
    for entry in IntervalLogIterator::new(log.as_bytes()) {
        let interval = match entry.unwrap() {
            LogEntry::Interval(interval) => interval,
            LogEntry::StartTime(since_1970) | LogEntry::BaseTime(since_1970) => {
                has_start = true;
                let began_at = run["started_at_unix_s"].as_f64().unwrap();
                assert!((since_1970.as_secs_f64() - began_at).abs() < 0.001);
                continue;
            }
        };
        let tag = interval.tag().map(|tag| tag.as_str().to_owned());
        let histogram = decode(interval.encoded_histogram());
        // The text has the maximum in milliseconds, to the microsecond.
        assert!((interval.max() - histogram.max() as f64 / 1e6).abs() <= 0.0005 + 1e-9);
        if matches!(tag.as_deref(), None | Some("warm-up")) {
            let saved = saved.next().unwrap();
            assert_eq!(saved["is_warm_up"], tag.is_some());
            assert_eq!(histogram, decode(saved["histograms"]["latency"].as_str().unwrap()));
            let start = saved["start_s"].as_f64().unwrap();
            assert!((interval.start_timestamp().as_secs_f64() - start).abs() < 0.001);
        }
    }
    assert!(has_start);
    assert!(saved.next().is_none(), "the log lacks intervals");
}

#[test]
fn the_percentile_distribution_has_the_columns_that_plotters_read() {
    let folder = run();
    let text = read(&folder, "hgrm");
    let run = json(&folder);
    let histogram = decode(run["histograms"]["latency"].as_str().unwrap());
    let mut lines = text.lines();
    let heading: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(heading, ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]);
    let rows: Vec<Vec<f64>> = lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_whitespace().map(|column| column.parse().unwrap()).collect())
        .collect();
    for row in &rows[..rows.len() - 1] {
        let [millis, percentile, count, inverse] = row[..] else {
            panic!("{row:?} has other columns");
        };
        let nanos: u64 = format!("{millis:.6}").replace('.', "").parse().unwrap();
        assert_eq!(histogram.count_between(0, nanos) as f64, count, "{row:?}");
        assert!(count >= percentile * histogram.len() as f64 - 1e-3, "{row:?}");
        // It has two places, and the share that it is computed from here has twelve.
        let rounding = 0.005 + inverse * inverse * 1e-12;
        assert!((inverse - 1.0 / (1.0 - percentile)).abs() <= rounding, "{row:?}");
    }
    assert!(rows.is_sorted_by(|one, next| one[..3] <= next[..3]), "{text}");
    let last = rows.last().unwrap();
    assert_eq!(last[1..], [1.0, histogram.len() as f64]);
    for words in ["#[Mean    =", "#[Max     =", "#[Buckets ="] {
        assert!(text.contains(words), "{words} is not in:\n{text}");
    }
    let total = format!("{}]", histogram.len());
    assert!(text.lines().any(|line| line.starts_with("#[Max") && line.ends_with(&total)), "{text}");
}

#[test]
fn the_table_has_a_line_per_interval_under_names_with_units() {
    let folder = run();
    let csv = read(&folder, "csv");
    let mut lines = csv.lines();
    let columns: Vec<&str> = lines.next().unwrap().split(',').collect();
    for column in ["start_s", "rate_per_s", "latency_p99_ns", "send_lag_max_ns", "arena_waiters"] {
        assert!(columns.contains(&column), "{column} is not among {columns:?}");
    }
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
    assert!(rows.iter().all(|row| row.len() == columns.len()), "{csv}");
    let run = json(&folder);
    let intervals = run["intervals"].as_array().unwrap();
    assert_eq!(rows.len(), intervals.len());
    let requests = columns.iter().position(|&column| column == "requests").unwrap();
    for (row, interval) in rows.iter().zip(intervals) {
        assert_eq!(row[requests].parse::<u64>().unwrap(), interval["requests"].as_u64().unwrap());
    }
}

#[test]
fn the_markdown_is_tables_with_the_verdict_first() {
    let folder = run();
    let markdown = read(&folder, "md");
    let verdict = json(&folder)["verdict"].as_str().unwrap().to_owned();
    assert!(markdown.starts_with(&format!("**loadgen: {verdict}**")), "{markdown}");
    let table = |line: &&str| line.starts_with('|');
    assert!(markdown.lines().filter(table).all(|line| line.ends_with('|')), "{markdown}");
    assert!(markdown.contains("| latency |"), "{markdown}");
}

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let folder = run();
    let page = read(&folder, "html");
    assert!(page.starts_with("<!doctype html>"));
    assert!(page.contains("default-src 'none'"), "the policy lets the page load something");
    assert!(!page.contains("{{"), "a place is not filled");
    // The one address in it names the kind of the drawings, and is never loaded.
    let page = page.replace("http://www.w3.org/2000/svg", "");
    for words in ["http:", "https:", "src=", "@import", "url(", "fetch(", "XMLHttpRequest"] {
        assert!(!page.contains(words), "{words} is in the page");
    }
    for words in ["Throughput", "Distribution", "Configuration", "class=\"verdict", "<table"] {
        assert!(page.contains(words), "{words} is not in the page");
    }
}

#[test]
fn the_page_explains_what_does_not_explain_itself() {
    let folder = run();
    let mut run = json(&folder);
    run["config"]["rate"] = "100".into();
    let page = report(&folder, &run, "html");
    for term in ["mismatches", "unanswered", "blocked by the server", "noise floor", "never sent"] {
        assert!(page.contains(&format!("<dt>{term}</dt><dd>")), "{term} is not explained");
    }
    // A row for each percentile: columns would not fit a telephone.
    assert!(page.contains("<th scope=\"row\">max</th><td>"), "{page}");
}

#[test]
fn nothing_in_a_run_becomes_part_of_the_page() {
    let folder = run();
    let mut run = json(&folder);
    let nasty = "</script><script>alert(1)</script>{{style}}&'\"";
    run["target"] = nasty.into();
    run["config"]["command"] = nasty.into();
    run["first_error"] = nasty.into();
    let page = report(&folder, &run, "html");
    assert!(!page.contains("alert(1)</script>"), "markup is not escaped");
    assert!(page.contains("&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;{{style}}"));
    let markdown = report(&folder, &run, "md");
    assert!(!markdown.contains("<script>"), "{markdown}");
}

#[test]
fn a_missed_condition_is_said_with_what_was_reached() {
    let folder = run();
    let mut run = json(&folder);
    run["slo"] = serde_json::json!([
        { "condition": "p99<1ns", "reached": 5000.0, "reached_text": "5.00 us", "met": false }
    ]);
    let page = report(&folder, &run, "html");
    assert!(page.contains("a condition is missed"));
    assert!(page.contains("class=\"verdict bad\""));
    assert!(page.contains("p99&lt;1ns is missed: 5.00 us"));
    assert!(report(&folder, &run, "md").contains("p99&lt;1ns is missed: 5.00 us"));
}

#[test]
fn a_saved_run_gives_the_same_files_again() {
    let folder = run();
    let original = json(&folder);
    for extension in FORMS {
        assert_eq!(report(&folder, &original, extension), read(&folder, extension), "{extension}");
    }
}

/// What `report` makes of this run.
fn report(folder: &TempDir, run: &Value, extension: &str) -> String {
    let saved = folder.path().join("saved.json");
    fs::write(&saved, serde_json::to_string(run).unwrap()).unwrap();
    let again: &Path = &folder.path().join("again").with_extension(extension);
    let output = loadgen("report").arg(&saved).arg("-o").arg(again).output().unwrap();
    exits_with(0, &output);
    fs::read_to_string(again).unwrap()
}
