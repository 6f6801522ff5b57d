//! What operators see over HTTP: metrics, readiness, the status page and its events.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use arena_echo::{Admin, ArenaKind, Config, Handler};
use prometheus_parse::{Scrape, Value};
use rustix::process::Signal;
use serde_json::Value as Json;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    process::Command,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use yaml_rust2::{Yaml, YamlLoader};

use crate::support::{
    client::Client,
    http::{Events, get, request, until_writing},
    in_process::InProcess,
    program::{self, Program},
    run,
    traffic::{exceed, frame},
};

const SLOT: usize = 4096;

/// How often something is asked for again until it is so.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// Memory that is held for some of these is seen.
const LOOK: Duration = Duration::from_millis(100);

/// A deadline that is soon reached.
const SOON: Duration = Duration::from_secs(1);

/// A deadline that is reached, but by no answer to somebody who asks and reads.
const IN_TIME: Duration = Duration::from_secs(2);

/// A deadline that no test reaches.
const LATE: Duration = Duration::from_secs(60 * 60);

/// What only a server with a certificate has, and the tests of TLS look at.
const SERVED_WITH_TLS: [&str; 1] = ["echo_tls_valid_until_seconds"];

const HALF_A_REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nhost:";

/// One slot for requests and one for replies.
fn scarce() -> Config {
    Config {
        arena: ArenaKind::Fixed { slot_bytes: SLOT },
        capacity_bytes: 2 * SLOT,
        max_frame_bytes: SLOT,
        // A slow machine must not make a peer stall.
        stall_timeout: Duration::from_secs(600),
        ..Config::fixed()
    }
}

/// Operators' view of a server in this process.
struct Shown {
    address: SocketAddr,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Shown {
    async fn start<H: Handler>(admin: Admin<H>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a listener that is bound");
        // Its connections have as little: what a peer does not read soon stays with the server.
        SockRef::from(&listener).set_send_buffer_size(1).expect("a socket");
        let stop = CancellationToken::new();
        let running = tokio::spawn(admin.run(listener, stop.clone()));
        Self { address, stop, running }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.running.await.expect("it does not panic");
    }
}

/// Asks until the answer has this status, and returns its text.
async fn until_status(address: SocketAddr, path: &str, status: u16) -> String {
    loop {
        let answer = get(address, path).await;
        if answer.status == status {
            return answer.body;
        }
        sleep(ASK_AGAIN).await;
    }
}

fn parse(text: &str) -> Scrape {
    let lines = text.lines().map(|line| Ok(line.to_owned()));
    Scrape::parse(lines).expect("the text format of Prometheus")
}

/// The value of a metric with these labels, if that is one number.
fn value(scrape: &Scrape, name: &str, labels: &[(&str, &str)]) -> f64 {
    let is_it = |sample: &&prometheus_parse::Sample| {
        sample.metric == name && labels.iter().all(|(key, of)| sample.labels.get(key) == Some(*of))
    };
    let sample = scrape.samples.iter().find(is_it).unwrap_or_else(|| panic!("no {name}"));
    match sample.value {
        Value::Counter(number) | Value::Gauge(number) | Value::Untyped(number) => number,
        ref other => panic!("{name} is {other:?}"),
    }
}

#[test]
fn metrics_count_what_the_server_does() {
    run(async {
        let mut server = Program::start("--admin 127.0.0.1:0 --capacity 8MiB").await;
        let admin = server.admin().await;
        let mut client = Client::connect(server.address).await;
        for seed in 0..3 {
            client.echo(&frame(100, seed)).await;
        }
        exceed(server.address, 1 << 20).await;

        // A turn is counted when its replies are written, which its peer may see before.
        let answer = loop {
            let answer = get(admin, "/metrics").await;
            if value(&parse(&answer.body), "echo_frames_total", &[]) == 4.0 {
                break answer;
            }
            sleep(ASK_AGAIN).await;
        };
        assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
        let scrape = parse(&answer.body);
        let value = |name, labels: &[_]| value(&scrape, name, labels);
        assert_eq!(value("arena_bytes_reserved", &[]), f64::from(8 << 20));
        // Three small frames and the one that was allowed.
        let bytes_out = 3.0 * 104.0 + f64::from((1 << 20) + 4);
        assert_eq!(value("echo_bytes_total", &[("direction", "out")]), bytes_out);
        assert!(value("echo_bytes_total", &[("direction", "in")]) >= bytes_out);
        assert_eq!(value("echo_rejects_total", &[("reason", "too_long")]), 1.0);
        assert_eq!(value("echo_rejects_total", &[("reason", "stalled")]), 0.0);
        assert_eq!(value("echo_connections_limit", &[]), 10_000.0);
        assert!(value("arena_allocations_total", &[]) > 0.0);
        assert!(value("process_resident_memory_bytes", &[]) > 1e6);
        server.stop().await;
    });
}

#[test]
fn the_fixed_names_are_all_there_with_their_kinds() {
    run(async {
        let server = InProcess::start(&scarce()).await;
        let shown = Shown::start(Admin::new(server.server().clone())).await;
        let page = get(shown.address, "/metrics").await.body;
        let gauges = [
            "arena_bytes_reserved",
            "arena_bytes_live",
            "arena_bytes_live_max",
            "arena_largest_free_block_bytes",
            "arena_waiters",
            "echo_connections",
        ];
        let counters = [
            "arena_allocations_total",
            "arena_allocation_failures_total",
            "arena_frees_total",
            "arena_spills_total",
            "arena_splits_total",
            "arena_coalesces_total",
            "echo_frames_total",
            "echo_bytes_total",
            "echo_rejects_total",
        ];
        for (names, kind) in [(&gauges[..], "gauge"), (&counters[..], "counter")] {
            for name in names {
                assert!(page.contains(&format!("# TYPE {name} {kind}\n")), "{name}");
            }
        }
        assert!(page.contains("# TYPE arena_wait_seconds histogram\n"));
        shown.stop().await;
        server.stop().await;
    });
}

#[test]
fn waits_are_a_histogram_whose_last_bucket_has_all() {
    run(async {
        let server = InProcess::start(&scarce()).await;
        let shown = Shown::start(Admin::new(server.server().clone())).await;
        let mut holder = Client::connect(server.address).await;
        let whole = frame(1000, 1);
        holder.send(&whole[..500]).await;
        server.until_memory_is_held().await;
        let mut waiting = Client::connect(server.address).await;
        waiting.send(&frame(10, 2)).await;
        server.until_waiting(1).await;
        assert_eq!(
            value(&parse(&get(shown.address, "/metrics").await.body), "arena_waiters", &[]),
            1.0
        );

        holder.exchange(&whole[500..], &whole).await;
        waiting.expect(&frame(10, 2)).await;
        // What is counted when a wait ends is counted by now.
        server.until_waiting(0).await;
        server.until_no_memory_is_held().await;
        let page = get(shown.address, "/metrics").await.body;
        let scrape = parse(&page);
        let waits = scrape.samples.iter().find(|sample| sample.metric == "arena_wait_seconds");
        let Value::Histogram(buckets) = &waits.expect("a histogram").value else {
            panic!("no histogram")
        };
        assert!(buckets.is_sorted_by(|one, next| {
            one.less_than < next.less_than && one.count <= next.count
        }));
        // One of them may have waited twice: who gets in only to see that there is nothing to do.
        let queues = server.server().memory_metrics().waits;
        let waits: u64 = queues.iter().map(|queue| queue.waits).sum();
        assert!(waits > 0);
        let last = buckets.last().expect("buckets");
        assert_eq!((last.less_than, last.count), (f64::INFINITY, waits as f64));
        assert!(page.contains(&format!("arena_wait_seconds_count {waits}\n")), "{page}");
        drop((holder, waiting));
        shown.stop().await;
        server.stop().await;
    });
}

#[test]
fn a_server_that_does_not_run_is_healthy_but_not_ready() {
    run(async {
        let server = arena_echo::Server::new(&scarce()).expect("a configuration that works");
        let shown = Shown::start(Admin::new(server)).await;
        assert_eq!(get(shown.address, "/healthz").await.status, 200);
        let answer = get(shown.address, "/readyz").await;
        assert_eq!(answer.status, 503);
        assert!(answer.body.starts_with("starting"), "{}", answer.body);
        shown.stop().await;
    });
}

#[test]
fn descriptors_are_counted_with_their_limit() {
    run(async {
        let mut server = Program::start("--admin 127.0.0.1:0").await;
        let admin = server.admin().await;
        let descriptors = async || {
            let scrape = parse(&get(admin, "/metrics").await.body);
            let value = |name| value(&scrape, name, &[]);
            (value("process_open_fds"), value("process_max_fds"))
        };
        let (before, limit) = descriptors().await;
        assert!((1.0..100.0).contains(&before) && before < limit, "{before} of {limit}");
        let mut clients = Vec::new();
        for seed in 0..100 {
            let mut client = Client::connect(server.address).await;
            client.echo(&frame(10, seed)).await;
            clients.push(client);
        }
        let (open, _) = descriptors().await;
        assert!((100.0..200.0).contains(&open), "{open}");
        drop(clients);
        server.stop().await;
    });
}

#[test]
fn a_draining_server_says_so_until_it_has_ended() {
    run(async {
        let flags = "--admin 127.0.0.1:0 --drain-timeout 1h --write-timeout 1h";
        let mut server = Program::start(flags).await;
        let admin = server.admin().await;
        let mut events = Events::open(admin).await;
        // More than the sockets take: the server is left with a reply in its hands.
        let mut client = Client::connect_with_little_room(server.address).await;
        let deaf =
            tokio::spawn(async move { client.send_without_reading(&frame(1 << 20, 1)).await });
        until_writing(admin).await;
        assert_eq!(get(admin, "/readyz").await.body, "ready\n");

        server.signal(Signal::TERM);
        let why = until_status(admin, "/readyz", 503).await;
        assert_eq!(why, "draining: 1 connections are left\n");
        assert_eq!(get(admin, "/healthz").await.status, 200);
        loop {
            let tick = events.next("tick").await.expect("events until the end");
            if tick["draining"] == true {
                break;
            }
        }
        deaf.abort();
        while events.next("tick").await.is_some() {}
        assert!(server.ended().await.0.success());
    });
}

#[test]
fn who_has_waited_for_memory_for_too_long_makes_the_server_unready() {
    run(async {
        let server = InProcess::start(&scarce()).await;
        let admin = Admin::new(server.server().clone()).wait_max(Duration::ZERO);
        let shown = Shown::start(admin).await;
        assert_eq!(get(shown.address, "/readyz").await.status, 200);

        let mut holder = Client::connect(server.address).await;
        holder.send(&frame(1000, 1)[..500]).await;
        server.until_memory_is_held().await;
        let mut waiting = Client::connect(server.address).await;
        waiting.send(&frame(10, 2)).await;
        let why = until_status(shown.address, "/readyz", 503).await;
        assert!(why.starts_with("exhausted: a connection has waited for memory for "), "{why}");

        drop(holder);
        waiting.expect(&frame(10, 2)).await;
        until_status(shown.address, "/readyz", 200).await;
        drop(waiting);
        shown.stop().await;
        server.stop().await;
    });
}

#[test]
fn a_server_that_closes_connections_for_want_of_memory_is_unready_and_its_page_says_so() {
    run(async {
        let memory_timeout = Duration::from_millis(20);
        let config = Config { memory_timeout, frame_timeout: LATE, ..scarce() };
        let server = InProcess::start(&config).await;
        let shown = Shown::start(Admin::new(server.server().clone())).await;
        let mut holder = Client::connect(server.address).await;
        holder.send(&frame(1000, 1)[..500]).await;
        server.until_memory_is_held().await;
        // They come back as soon as they are closed, and nobody ever waits for long.
        let address = server.address;
        let crowd = tokio::spawn(async move {
            loop {
                rest(send(address, &frame(10, 2)).await).await;
            }
        });
        let why = until_status(shown.address, "/readyz", 503).await;
        assert!(why.starts_with("exhausted: a connection "), "{why}");
        let mut events = Events::open(shown.address).await;
        loop {
            let tick = events.next("tick").await.expect("what changes");
            if tick["unready"].as_str().is_some_and(|why| why.starts_with("exhausted: ")) {
                break;
            }
        }

        drop((holder, events));
        crowd.abort();
        until_status(shown.address, "/readyz", 200).await;
        shown.stop().await;
        server.stop().await;
    });
}

#[test]
fn the_page_shows_who_holds_memory_and_what_for() {
    run(async {
        let server = InProcess::start(&scarce()).await;
        let shown = Shown::start(Admin::new(server.server().clone())).await;
        let mut client = Client::connect(server.address).await;
        client.send(&frame(1000, 1)[..500]).await;
        server.until_memory_is_held().await;

        let mut events = Events::open(shown.address).await;
        let hello = events.next("hello").await.expect("what does not change");
        assert_eq!(hello["capacity_bytes"], 2 * SLOT);
        assert_eq!(hello["parts"][1][0], "replies");
        let tick = events.next("tick").await.expect("what changes");
        assert_eq!(tick["map"]["cells"].as_str().map(|cells| cells.matches('8').count()), Some(1));
        let oldest = &tick["census"]["oldest"][0];
        assert_eq!(oldest["peer"], client.address().to_string());
        assert_eq!((&oldest["doing"], &oldest["bytes"]), (&"reading".into(), &SLOT.into()));

        // Whoever opens it later sees what was before.
        events.next("tick").await.expect("another");
        let mut later = Events::open(shown.address).await;
        let rows = &later.next("hello").await.expect("the past")["rows"];
        assert!(rows.as_array().is_some_and(|rows| rows.len() >= 2), "{rows}");

        drop(client);
        server.until_no_memory_is_held().await;
        shown.stop().await;
        server.stop().await;
    });
}

/// What a page has in itself, for what it shows first.
fn figures(page: &str) -> Json {
    let (_, figures) = page.split_once("id=\"figures\">").expect("figures");
    let (figures, _) = figures.split_once("</script>").expect("their end");
    serde_json::from_str(figures).expect("JSON")
}

/// The value of a column in a row.
fn column(figures: &Json, row: &Json, name: &str) -> u64 {
    let columns = figures["columns"].as_array().expect("names");
    let place = columns.iter().position(|column| column == name).expect("a column");
    row[place].as_u64().expect("a number")
}

#[test]
fn the_page_begins_with_the_past_the_map_and_who_holds_memory() {
    run(async {
        let server = InProcess::start(&scarce()).await;
        let shown = Shown::start(Admin::new(server.server().clone())).await;
        let mut client = Client::connect(server.address).await;
        client.send(&frame(1000, 1)[..500]).await;
        server.until_memory_is_held().await;
        // Nobody listens to events: nothing but the page has to tell.
        let page = loop {
            let page = figures(&get(shown.address, "/").await.body);
            if page["rows"].as_array().is_some_and(|rows| rows.len() >= 2) {
                break page;
            }
            sleep(ASK_AGAIN).await;
        };
        let tick = &page["tick"];
        assert_eq!(Some(&tick["row"]), page["rows"].as_array().and_then(|rows| rows.last()));
        assert!(tick["map"]["cells"].as_str().is_some_and(|cells| cells.contains('8')), "{tick}");
        assert_eq!(tick["census"]["oldest"][0]["peer"], client.address().to_string());
        drop(client);
        shown.stop().await;
        server.stop().await;
    });
}

#[test]
fn memory_that_was_in_use_between_two_ticks_is_in_the_second() {
    run(async {
        let server = InProcess::start(&scarce()).await;
        let shown = Shown::start(Admin::new(server.server().clone())).await;
        let mut events = Events::open(shown.address).await;
        let hello = events.next("hello").await.expect("what does not change");
        loop {
            events.next("tick").await.expect("what changes");
            let mut client = Client::connect(server.address).await;
            client.send(&frame(1000, 1)[..500]).await;
            server.until_memory_is_held().await;
            sleep(3 * LOOK).await;
            drop(client);
            server.until_no_memory_is_held().await;
            let tick = events.next("tick").await.expect("what changes");
            let column = |name| column(&hello, &tick["row"], name);
            // On a busy machine a tick may come while it is in use.
            if (column("live"), column("live_max")) == (0, SLOT as u64) {
                break;
            }
        }
        loop {
            let tick = events.next("tick").await.expect("what changes");
            if column(&hello, &tick["row"], "live_max") == 0 {
                break;
            }
        }
        shown.stop().await;
        server.stop().await;
    });
}

#[test]
fn the_page_knows_how_long_connections_did_what() {
    run(async {
        let server = InProcess::start(&scarce()).await;
        let shown = Shown::start(Admin::new(server.server().clone())).await;
        let mut holder = Client::connect(server.address).await;
        holder.send(&frame(1000, 1)[..500]).await;
        server.until_memory_is_held().await;
        let mut waiting = Client::connect(server.address).await;
        waiting.send(&frame(10, 2)).await;
        server.until_waiting(1).await;
        let mut events = Events::open(shown.address).await;
        let hello = events.next("hello").await.expect("what does not change");
        let mut rows = Vec::new();
        for _ in 0..3 {
            rows.push(events.next("tick").await.expect("what changes")["row"].clone());
        }
        // Both have done nothing else for longer than from one tick to the next.
        let during = |name| column(&hello, &rows[2], name) - column(&hello, &rows[1], name);
        let passed_ms = during("time_ms");
        assert_eq!((during("idle_ms"), during("writing_ms")), (0, 0));
        for name in ["reading_ms", "waiting_for_memory_ms"] {
            assert!(during(name) * 2 > passed_ms, "{name}: {} of {passed_ms}", during(name));
        }
        drop((holder, waiting));
        shown.stop().await;
        server.stop().await;
    });
}

#[test]
fn more_may_not_look_than_there_are_places_and_metrics_have_others() {
    run(async {
        let server = InProcess::start(&scarce()).await;
        let shown = Shown::start(Admin::new(server.server().clone())).await;
        let mut all = Vec::new();
        for _ in 0..16 {
            all.push(Events::open(shown.address).await);
        }
        let refused = get(shown.address, "/events").await;
        assert_eq!((refused.status, &refused.body[..]), (503, "as many look already as may\n"));
        assert_eq!(get(shown.address, "/metrics").await.status, 200);
        all.pop();
        // The place is free when the server has noticed.
        until_status_of_events(shown.address).await;
        drop(all);
        shown.stop().await;
        server.stop().await;
    });
}

/// As many places for operators.
fn places(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).expect("some")
}

async fn send(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(bytes).await.expect("it reads");
    stream
}

/// Asks for this path, with as little room for the answer as a socket can have, and reads nothing.
async fn ask_without_reading(address: SocketAddr, path: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(1).expect("a socket");
    let mut stream = socket.connect(address).await.expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    stream
}

/// How many bytes come before the end, be it a reset.
async fn rest(mut stream: TcpStream) -> usize {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    bytes.len()
}

#[test]
fn half_a_request_keeps_its_place_no_longer_than_the_deadline() {
    run(async {
        let server = InProcess::start(&scarce()).await;
        let admin = Admin::new(server.server().clone());
        let shown = Shown::start(admin.answer_timeout(IN_TIME)).await;
        for half in [&b""[..], HALF_A_REQUEST] {
            assert_eq!(rest(send(shown.address, half).await).await, 0);
        }
        shown.stop().await;
        server.stop().await;
    });
}

#[test]
fn an_answer_that_is_not_read_keeps_its_place_no_longer_than_the_deadline() {
    run(async {
        let server = InProcess::start(&scarce()).await;
        let admin = Admin::new(server.server().clone()).connections_max(places(1));
        let shown = Shown::start(admin.answer_timeout(IN_TIME).unread_timeout(LATE)).await;
        for path in ["/metrics", "/"] {
            let deaf = ask_without_reading(shown.address, path).await;
            let whole = get(shown.address, path).await;
            assert_eq!(whole.status, 200);
            let received = rest(deaf).await;
            assert!(received < whole.body.len(), "{path}: {received} bytes are all of it");
        }
        shown.stop().await;
        server.stop().await;
    });
}

#[test]
fn a_subscriber_that_does_not_read_loses_its_place_and_holds_nobody_up() {
    run(async {
        let server = InProcess::start(&scarce()).await;
        let admin = Admin::new(server.server().clone()).connections_max(places(4));
        let shown = Shown::start(admin.answer_timeout(LATE).unread_timeout(SOON)).await;
        // They have both places for events, until one is gone.
        let mut deaf = ask_without_reading(shown.address, "/events").await;
        let mut status = [0; 12];
        deaf.read_exact(&mut status).await.expect("the beginning of an answer");
        assert_eq!(&status, b"HTTP/1.1 200");
        let mut reader = Events::open(shown.address).await;
        assert_eq!(get(shown.address, "/metrics").await.status, 200);
        until_status_of_events(shown.address).await;
        reader.next("tick").await.expect("events for who reads them");
        drop(deaf);
        shown.stop().await;
        server.stop().await;
    });
}

#[test]
fn a_subscriber_that_reads_stays_beyond_the_deadline_of_answers() {
    run(async {
        let server = InProcess::start(&scarce()).await;
        let admin = Admin::new(server.server().clone()).answer_timeout(IN_TIME);
        let shown = Shown::start(admin).await;
        let mut reader = Events::open(shown.address).await;
        // They come a second apart.
        for _ in 0..4 {
            reader.next("tick").await.expect("events");
        }
        shown.stop().await;
        server.stop().await;
    });
}

#[test]
fn connections_beyond_the_places_wait_for_one_if_all_have_asked() {
    run(async {
        let server = InProcess::start(&scarce()).await;
        let admin = Admin::new(server.server().clone()).connections_max(places(2));
        let shown = Shown::start(admin.answer_timeout(LATE).unread_timeout(LATE)).await;
        let mut deaf = Vec::new();
        for _ in 0..2 {
            let mut stream = ask_without_reading(shown.address, "/metrics").await;
            let mut status = [0; 12];
            stream.read_exact(&mut status).await.expect("the beginning of an answer");
            deaf.push(stream);
        }
        let mut next = Box::pin(get(shown.address, "/healthz"));
        assert!(timeout(SOON, &mut next).await.is_err(), "answered without a place");
        deaf.pop();
        assert_eq!(next.await.status, 200);
        drop(deaf);
        shown.stop().await;
        server.stop().await;
    });
}

#[test]
fn who_does_not_ask_keeps_nobody_out_who_does() {
    const PLACES: usize = 4;
    run(async {
        let server = InProcess::start(&scarce()).await;
        let admin = Admin::new(server.server().clone()).connections_max(places(PLACES));
        let shown = Shown::start(admin.answer_timeout(LATE)).await;
        let mut slow = Vec::new();
        for half in [&b""[..], HALF_A_REQUEST, b"", HALF_A_REQUEST] {
            for _ in 0..4 * PLACES {
                slow.push(send(shown.address, half).await);
            }
            assert_eq!(get(shown.address, "/healthz").await.status, 200);
        }
        drop(slow);
        shown.stop().await;
        server.stop().await;
    });
}

#[test]
fn the_oldest_that_has_not_asked_leaves_and_others_stay() {
    run(async {
        let server = InProcess::start(&scarce()).await;
        let admin = Admin::new(server.server().clone()).connections_max(places(2));
        let shown = Shown::start(admin.answer_timeout(LATE)).await;
        let first = send(shown.address, HALF_A_REQUEST).await;
        assert_eq!(get(shown.address, "/healthz").await.status, 200);
        let mut second = send(shown.address, HALF_A_REQUEST).await;
        assert_eq!(get(shown.address, "/healthz").await.status, 200);
        assert_eq!(rest(first).await, 0);
        second.write_all(b" x\r\n\r\n").await.expect("it reads");
        assert!(rest(second).await > 0, "closed, though nobody needed its place");
        shown.stop().await;
        server.stop().await;
    });
}

#[test]
fn who_has_asked_does_not_have_to_leave() {
    run(async {
        let server = InProcess::start(&scarce()).await;
        let admin = Admin::new(server.server().clone()).connections_max(places(2));
        let shown = Shown::start(admin.answer_timeout(LATE)).await;
        let mut reader = Events::open(shown.address).await;
        for _ in 0..4 {
            // The only other place is that of the one before.
            let slow = send(shown.address, HALF_A_REQUEST).await;
            assert_eq!(get(shown.address, "/healthz").await.status, 200);
            assert_eq!(rest(slow).await, 0);
        }
        reader.next("tick").await.expect("events for who has asked for them");
        shown.stop().await;
        server.stop().await;
    });
}

/// Asks for events until there is a place: the head of the answer is enough.
async fn until_status_of_events(address: SocketAddr) {
    loop {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.write_all(b"GET /events HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("it reads");
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.expect("an answer");
        if &status == b"HTTP/1.1 200" {
            return;
        }
        sleep(ASK_AGAIN).await;
    }
}

#[test]
fn the_page_is_complete_in_itself() {
    run(async {
        let server = InProcess::start(&scarce()).await;
        let shown = Shown::start(Admin::new(server.server().clone())).await;
        let page = get(shown.address, "/").await;
        assert!(page.head.contains("default-src 'none'"), "{}", page.head);
        for foreign in ["http:", "https:", " src=", "url(", "@import", "<link rel=\"stylesheet"] {
            assert!(!page.body.contains(foreign), "{foreign}");
        }
        shown.stop().await;
        server.stop().await;
    });
}

#[test]
fn what_is_not_there_and_what_would_change_something_is_refused() {
    run(async {
        let server = InProcess::start(&scarce()).await;
        let shown = Shown::start(Admin::new(server.server().clone())).await;
        assert_eq!(get(shown.address, "/favicon.ico").await.status, 404);
        assert_eq!(request(shown.address, "POST", "/metrics").await.status, 405);
        shown.stop().await;
        server.stop().await;
    });
}

#[test]
fn a_head_is_answered_as_a_get_without_the_body_and_keeps_no_place() {
    run(async {
        let server = InProcess::start(&scarce()).await;
        let shown =
            Shown::start(Admin::new(server.server().clone()).connections_max(places(2))).await;
        for path in ["/", "/metrics", "/healthz", "/readyz", "/favicon.ico"] {
            let head = request(shown.address, "HEAD", path).await;
            let get = get(shown.address, path).await;
            assert_eq!((head.status, &head.body[..]), (get.status, ""), "{path}");
        }
        // There is one place for events.
        for _ in 0..3 {
            let head = request(shown.address, "HEAD", "/events").await;
            assert_eq!((head.status, &head.body[..]), (200, ""));
            assert!(head.head.contains("text/event-stream"), "{}", head.head);
        }
        assert!(Events::open(shown.address).await.next("hello").await.is_some());
        shown.stop().await;
        server.stop().await;
    });
}

#[test]
fn an_address_that_is_taken_is_an_error_of_admin() {
    run(async {
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = taken.local_addr().expect("a listener that is bound").to_string();
        let output = Command::new(program::PATH)
            .args(["--listen", "127.0.0.1:0", "--admin", &address])
            .output()
            .await
            .expect("the program starts");
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("--admin {address}: cannot listen there")), "{said}");
        assert!(output.stdout.is_empty());
    });
}

#[test]
fn a_flood_of_bad_peers_is_no_flood_of_lines() {
    const PEERS: usize = 20;
    run(async {
        let server = Program::start("--max-frame 1k").await;
        for _ in 0..PEERS {
            exceed(server.address, 1 << 10).await;
        }
        server.signal(Signal::TERM);
        let (status, log) = server.ended().await;
        assert!(status.success());
        let about = log.iter().filter(|line| line.contains("exceeds the limit")).count();
        assert!(about < PEERS / 2, "{log:#?}");
        // None is forgotten.
        let told = log.iter().filter_map(|line| {
            let (_, rest) = line.split_once("closed ")?;
            rest.split_once(" more connections")?.0.parse::<usize>().ok()
        });
        assert_eq!(about + told.sum::<usize>(), PEERS, "{log:#?}");
    });
}

#[test]
fn nothing_is_logged_for_a_frame() {
    const FRAMES: usize = 1000;
    run(async {
        let server = Program::start("--log-filter trace").await;
        let mut client = Client::connect(server.address).await;
        for seed in 0..FRAMES {
            client.echo(&frame(10, seed)).await;
        }
        client.close_and_expect_end().await;
        server.signal(Signal::TERM);
        let (_, log) = server.ended().await;
        let closed = log.iter().any(|line| line.contains("closed: the peer closed it"));
        assert!(closed && log.len() < FRAMES / 4, "{} lines, such as {:?}", log.len(), log.last());
    });
}

#[test]
fn every_line_of_a_json_log_is_json() {
    run(async {
        let server = Program::start("--log-format json --log-filter debug --admin :0").await;
        exceed(server.address, 1 << 20).await;
        Client::connect(server.address).await.close_and_expect_end().await;
        server.signal(Signal::TERM);
        let (_, log) = server.ended().await;
        assert!(log.len() > 3, "{log:#?}");
        for line in log {
            let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
        }
    });
}

fn configs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(name)
}

/// The names of our metrics in an expression.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let is_ours =
        |word: &&str| ["arena_", "echo_", "process_"].iter().any(|prefix| word.starts_with(prefix));
    words.filter(is_ours).map(str::to_owned).collect()
}

/// Every string under this key, at any depth.
fn strings_under(yaml: &Yaml, key: &str, found: &mut Vec<String>) {
    match yaml {
        Yaml::Array(list) => list.iter().for_each(|item| strings_under(item, key, found)),
        Yaml::Hash(map) => {
            for (name, item) in map {
                if name.as_str() == Some(key) {
                    found.extend(item.as_str().map(str::to_owned));
                }
                strings_under(item, key, found);
            }
        }
        _ => {}
    }
}

#[test]
fn every_metric_is_explained_to_operators() {
    run(async {
        let server = InProcess::start(&scarce()).await;
        let shown = Shown::start(Admin::new(server.server().clone())).await;
        let page = get(shown.address, "/metrics").await.body;
        let manual = fs::read_to_string(configs("../docs/operations.md")).expect("a file");
        let explained = names(&manual);
        let served: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        assert!(served.len() > 20, "{page}");
        for name in served.iter().filter_map(|line| line.split(' ').next()) {
            assert!(explained.contains(name), "{name} is not in docs/operations.md");
        }
        shown.stop().await;
        server.stop().await;
    });
}

/// Every rule of the alerts, as an expression of metrics.
fn alerts() -> Vec<String> {
    let text = fs::read_to_string(configs("prometheus-alerts.yaml")).expect("a file");
    let documents = YamlLoader::load_from_str(&text).expect("YAML");
    let mut expressions = Vec::new();
    strings_under(&documents[0], "expr", &mut expressions);
    expressions
}

/// The numbers that an expression compares with. Zero is no threshold.
fn thresholds(expression: &str) -> BTreeSet<String> {
    let compared = expression.split(['<', '>']).skip(1).map(str::trim_start);
    let is_of_number = |c: char| c.is_ascii_digit() || matches!(c, '.' | ' ' | '*');
    let number = |text: &str| {
        let end = text.find(|c| !is_of_number(c)).unwrap_or(text.len());
        text[..end].trim().to_owned()
    };
    compared.map(number).filter(|number| !matches!(&number[..], "" | "0")).collect()
}

/// What is measured by an expression: without selectors, times and thresholds.
fn measured(expression: &str) -> String {
    let mut depth = 0;
    let is_kept = |c: &char| {
        depth += i32::from(matches!(c, '{' | '['));
        let is_kept = depth == 0 && !c.is_whitespace();
        depth -= i32::from(matches!(c, '}' | ']'));
        is_kept
    };
    let kept: String = expression.chars().filter(is_kept).collect();
    kept.split(['<', '>']).next().expect("a beginning").to_owned()
}

#[test]
fn the_guide_the_alerts_and_the_dashboard_name_the_same_thresholds() {
    let guide = fs::read_to_string(configs("../docs/operations.md")).expect("a file");
    let rows: Vec<_> = guide.lines().filter(|line| line.starts_with("| `")).collect();
    let has_number = |row: &str, number: &str| {
        let mut found = row.match_indices(number).map(|(at, _)| (at, at + number.len()));
        let is_digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit() || c == '.');
        found.any(|(start, end)| {
            !is_digit(row[..start].chars().next_back()) && !is_digit(row[end..].chars().next())
        })
    };
    let explains = |expression: &str, number: &str| {
        let names = names(expression);
        let about = rows.iter().filter(|row| {
            let subject = row.split(" | ").next().unwrap_or_default();
            let mut metrics = names.iter().map(|name| name.trim_end_matches("_bucket"));
            metrics.any(|name| subject.contains(&format!("`{name}")))
        });
        let mut about = about.peekable();
        assert!(about.peek().is_some(), "the guide has no row for {expression}");
        assert!(
            about.any(|row| has_number(row, number)),
            "the guide has another threshold than {number} for {expression}"
        );
    };
    let (mut compared, mut drawn) = (0, 0);
    let dashboard = fs::read_to_string(configs("grafana-dashboard.json")).expect("a file");
    let dashboard: Json = serde_json::from_str(&dashboard).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    for alert in alerts() {
        for number in thresholds(&alert).iter().filter(|_| !alert.starts_with("up{")) {
            explains(&alert, number);
            compared += 1;
        }
    }
    for panel in panels {
        let expression = panel["targets"][0]["expr"].as_str().expect("an expression");
        let steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"].as_array();
        let steps = steps.into_iter().flatten().filter(|step| step["value"].is_number());
        let lines: BTreeSet<_> = steps.map(|step| step["value"].to_string()).collect();
        lines.iter().for_each(|line| explains(expression, line));
        let same = alerts().into_iter().find(|alert| measured(alert) == measured(expression));
        if let Some(alert) = same {
            assert_eq!(lines, thresholds(&alert), "{}", panel["title"]);
            drawn += 1;
        }
    }
    assert!(compared >= 8 && drawn >= 1, "{compared} compared, {drawn} drawn");
}

#[test]
fn the_dashboard_and_the_alerts_use_metrics_that_are_served() {
    run(async {
        let server = InProcess::start(&scarce()).await;
        let shown = Shown::start(Admin::new(server.server().clone())).await;
        let page = get(shown.address, "/metrics").await.body;
        let served = page.lines().filter(|line| !line.starts_with('#'));
        let served = served.filter_map(|line| line.split([' ', '{']).next());
        let served: BTreeSet<_> = served.chain(SERVED_WITH_TLS).collect();

        // JSON is YAML, too.
        for (file, key, least) in
            [("grafana-dashboard.json", "expr", 15), ("prometheus-alerts.yaml", "expr", 5)]
        {
            let text = fs::read_to_string(configs(file)).expect("a file");
            let documents = YamlLoader::load_from_str(&text).expect("YAML");
            let mut expressions = Vec::new();
            strings_under(&documents[0], key, &mut expressions);
            let used: BTreeSet<_> = expressions.iter().flat_map(|text| names(text)).collect();
            assert!(used.len() >= least, "{file}: {used:?}");
            for name in used {
                assert!(served.contains(&name[..]), "{file}: {name} is not served");
            }
        }
        shown.stop().await;
        server.stop().await;
    });
}
