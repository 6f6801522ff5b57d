//! The server's arena, read beside the load: from pages that these tests write themselves, and from
//! those of the real server.

use std::{
    ffi::OsString,
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use loadgen::Stop;
use serde_json::Value;

use crate::{
    built,
    command_line::{exits_with, loadgen, text},
    servers::{self, echo, plan},
};

/// A server of pages: `page` writes the answer to the request of this number.
fn pages<P>(page: P) -> SocketAddr
where
    P: Fn(usize) -> String + Send + Sync + 'static,
{
    servers::start(move |number, mut stream: TcpStream| {
        let request = BufReader::new(stream.try_clone()?).lines();
        let request: Vec<String> =
            request.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
        assert_eq!(request[0], "GET /metrics HTTP/1.1");
        assert!(request.iter().any(|line| line.starts_with("Host: 127.0.0.1:")), "{request:?}");
        stream.write_all(page(number).as_bytes())
    })
}

fn found(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn honest() -> SocketAddr {
    servers::start(|_, stream| echo(stream))
}

#[test]
fn the_arena_is_on_the_time_axis_of_the_intervals() {
    let asked = Arc::new(AtomicU64::new(0));
    let metrics = pages({
        let asked = Arc::clone(&asked);
        move |_| {
            let number = asked.fetch_add(1, Relaxed);
            found(&format!(
                "# TYPE arena_bytes_reserved gauge\narena_bytes_reserved 67108864\n\
                 arena_bytes_live {}\narena_largest_free_block_bytes 1048576\n\
                 arena_waiters 3\narena_spills_total {number}\n",
                number * 4096
            ))
        }
    });
    let mut plan = plan(honest(), 1);
    plan.requests = None;
    plan.duration = Some(std::time::Duration::from_mins(10));
    plan.interval = std::time::Duration::from_millis(100);
    plan.metrics = Some(format!("http://{metrics}").parse().unwrap());
    let stop = Stop::new();
    let mut told = Vec::new();
    let report = loadgen::run(&plan, &stop, &mut |progress| {
        told.extend(progress.arena.map(|sample| sample.spills_total));
        told.dedup();
        // Three pages are a series. Some may come too late to be read, but not so many.
        if told.len() >= 3 || asked.load(Relaxed) > 100 {
            stop.request();
        }
    })
    .unwrap();
    assert!(report.arena.len() >= 3, "{:?}", report.arena);
    assert!(report.arena.is_sorted_by(|one, next| one.at_s < next.at_s), "{:?}", report.arena);
    assert!(report.arena.is_sorted_by(|one, next| one.spills_total < next.spills_total));
    for sample in &report.arena {
        assert!(sample.at_s >= 0.0, "{sample:?} is before the run");
        assert_eq!(sample.bytes_reserved, Some(67_108_864));
        // The number of the page that was read.
        let number = sample.spills_total.expect("every page has it");
        assert_eq!(sample.bytes_live, Some(number * 4096));
        assert_eq!(sample.largest_free_block_bytes, Some(1_048_576));
        assert_eq!(sample.waiters, Some(3));
    }
    assert!(told.len() >= 3, "progress does not tell of the arena: {told:?}");
}

#[track_caller]
fn is_reported_once_and_the_run_goes_on(metrics: SocketAddr, words: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.json");
    let arguments =
        format!("-d 2s -w 0s -i 100ms --metrics http://{metrics}/metrics {} -o", honest());
    let output = loadgen(&arguments).arg(&file).output().unwrap();
    exits_with(0, &output);
    let message = text(&output.stderr);
    assert_eq!(message.matches("--metrics").count(), 1, "{message}");
    assert!(message.contains(words), "{message}");
    let report: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(report["arena"], Value::Array(Vec::new()));
    assert!(report["requests"].as_u64().unwrap() > 0);
}

#[test]
fn a_page_that_is_missing_is_reported_once_and_the_run_goes_on() {
    let metrics = pages(|_| "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned());
    is_reported_once_and_the_run_goes_on(metrics, "404 Not Found");
}

#[test]
fn a_page_of_something_else_is_reported_once_and_the_run_goes_on() {
    is_reported_once_and_the_run_goes_on(pages(|_| found("up 1\n")), "none of the arena's figures");
}

#[test]
fn a_page_that_ends_early_is_reported_once_and_the_run_goes_on() {
    let metrics =
        pages(|_| "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\narena_waiters 1\n".to_owned());
    is_reported_once_and_the_run_goes_on(metrics, "--metrics");
}

#[test]
fn a_page_that_is_slow_once_is_said_to_be_and_read_again() {
    let metrics = pages(|number| {
        if number == 0 {
            // Longer than a page may take.
            std::thread::sleep(std::time::Duration::from_millis(1_500));
        }
        found("arena_waiters 1\n")
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.json");
    let arguments =
        format!("-d 3s -w 0s -i 100ms --metrics http://{metrics}/metrics {} -o", honest());
    let output = loadgen(&arguments).arg(&file).output().unwrap();
    exits_with(0, &output);
    let message = text(&output.stderr);
    assert!(message.contains("no complete answer within 1.00 s"), "{message}");
    assert!(message.contains("tried again") && !message.contains("os error"), "{message}");
    let report: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert!(!report["arena"].as_array().unwrap().is_empty(), "{message}");
}

#[test]
fn a_wrong_url_is_a_usage_error() {
    let output = loadgen("--metrics localhost:9100 :9000").output().unwrap();
    exits_with(2, &output);
    assert!(text(&output.stderr).contains("http://host:port/metrics"), "{}", text(&output.stderr));
}

/// The real server, with a page of metrics.
fn arena_echo() -> Vec<OsString> {
    let program = built::program("arena-echo").into();
    let arguments = "--mode buddy --listen 127.0.0.1:0 --admin 127.0.0.1:0";
    [program].into_iter().chain(arguments.split_whitespace().map(OsString::from)).collect()
}

/// Runs a load and checks that all figures of the arena are in every form.
#[track_caller]
fn has_the_arena_in_every_form(mut loadgen: Command, end: &[OsString]) {
    let folder = tempfile::tempdir().unwrap();
    for form in ["json", "html", "csv", "md"] {
        loadgen.arg("-o").arg(folder.path().join("run").with_extension(form));
    }
    let output = loadgen.args(end).output().unwrap();
    exits_with(0, &output);
    let read = |form| fs::read_to_string(folder.path().join("run").with_extension(form)).unwrap();
    let report: Value = serde_json::from_str(&read("json")).unwrap();
    let samples = report["arena"].as_array().unwrap();
    assert!(samples.len() >= 2, "{samples:?}");
    for sample in samples {
        let bytes = |figure: &str| sample[figure].as_u64().unwrap();
        assert!(bytes("bytes_live") <= bytes("bytes_reserved"), "{sample}");
        assert!(bytes("largest_free_block_bytes") <= bytes("bytes_reserved"), "{sample}");
        assert!(sample["waiters"].is_u64() && sample["spills_total"].is_u64(), "{sample}");
    }
    assert!(report["config"]["metrics"].as_str().unwrap().ends_with("/metrics"), "{report}");
    let page = read("html");
    let data = page.split_once("id=\"run\">").unwrap().1.split_once("</script>").unwrap().0;
    let drawn: Value = serde_json::from_str(data).unwrap();
    assert_eq!(drawn["arena"].as_array().unwrap().len(), samples.len());
    for (point, sample) in drawn["arena"].as_array().unwrap().iter().zip(samples) {
        for (drawn, saved) in [
            ("reserved", "bytes_reserved"),
            ("live", "bytes_live"),
            ("largest_free", "largest_free_block_bytes"),
            ("waiters", "waiters"),
            ("spills", "spills_total"),
        ] {
            assert_eq!(point[drawn], sample[saved], "{drawn}");
        }
    }
    assert!(page.contains("<summary>Arena</summary>"), "the page has no table of the arena");
    assert!(read("md").contains("largest free block at least"), "{}", read("md"));
    // The last columns are the arena's. An interval in which nothing was read has nothing there.
    let csv = read("csv");
    let has_the_arena = |row: &str| row.rsplit(',').take(5).all(|field| !field.is_empty());
    assert!(csv.lines().skip(1).any(has_the_arena), "{csv}");
    assert!(text(&output.stdout).contains("largest free block"), "{}", text(&output.stdout));
}

#[test]
fn the_arena_of_the_real_server_is_found_where_it_says_and_shown_in_every_form() {
    let loadgen = loadgen("-c 4 -p 16 -w 100ms -d 3s -i 100ms --timeout 60s -s uniform:64..8k");
    let end: Vec<_> = [OsString::from("--")].into_iter().chain(arena_echo()).collect();
    has_the_arena_in_every_form(loadgen, &end);
}

#[test]
fn the_arena_of_a_server_that_runs_already_is_read_where_the_flag_says() {
    let [program, arguments @ ..] = &arena_echo()[..] else { unreachable!("it has a program") };
    let mut server = Command::new(program).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let [target, admin] = lines.take(2).collect::<Result<Vec<_>, _>>().unwrap().try_into().unwrap();
    let target = target.strip_prefix("listening on ").unwrap();
    let admin = admin.strip_prefix("admin on ").unwrap();
    let arguments = format!("-c 4 -w 0s -d 3s -i 100ms --timeout 60s --metrics http://{admin}");
    has_the_arena_in_every_form(loadgen(&arguments), &[target.into()]);
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn two_servers_are_compared_without_reading_their_metrics() {
    let reads = Arc::new(AtomicU64::new(0));
    let metrics = pages({
        let reads = Arc::clone(&reads);
        move |_| {
            reads.fetch_add(1, Relaxed);
            found("arena_waiters 1\n")
        }
    });
    let server = honest();
    let says = format!("listening on {server}\\nadmin on {metrics}\\n");
    let command = format!("sh -c 'printf \"{says}\"; exec sleep 60'");
    let mut run = loadgen("-c 1 -w 0s -d 1s --");
    let script = format!("printf '{says}'; exec sleep 60");
    exits_with(0, &run.args(["sh", "-c", &script]).output().unwrap());
    assert!(reads.load(Relaxed) > 0, "an ordinary run does not read the page either");
    reads.store(0, Relaxed);
    let mut ab = loadgen("ab --rounds 1 -c 1 -n 100");
    exits_with(0, &ab.args(["--a", &command, "--b", &command]).output().unwrap());
    assert_eq!(reads.load(Relaxed), 0);
}
