//! Everybody gets on, however little memory there is, and whoever else is connected.
//!
//! First the real programs under load, in the smallest configurations that work; then each rule by
//! itself, on a server in this process whose memory can be watched.

use std::{
    io, iter,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use arena_echo::{
    ArenaFramed, Config, FrameError, Handler, Memory, Probe, ReadReady, Reject, Replies, Reply,
    Request,
};
use bytes::Bytes;
use loadgen::{Plan, Stop};
use rustix::process::{Resource, getrlimit};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf, duplex},
    net::{TcpListener, TcpStream},
    select,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::support::{
    client::Client,
    gate::{Gate, held},
    in_process::InProcess,
    program::{self, Program},
    run,
    traffic::{echo_over_many, frame, frames, header},
    until,
};

const LONG: Duration = Duration::from_secs(600);
const SLOT: usize = 64 << 10;

/// No deadline that an honest peer could meet.
const UNHURRIED: &str = "--stall-timeout 10m --frame-timeout 10m --write-timeout 10m \
                         --memory-timeout 30m";

/// After this long a request counts as lost. Thousands wait for their turn, so latency is seconds
/// even on a quiet machine.
const LOST: Duration = Duration::from_secs(180);

/// Loads the real server, which the generator starts and stops: every echo must come back right.
fn loads(flags: &str, connections: u32, pipeline: u32, payload_bytes: u32, requests: u64) {
    let files = u64::from(connections) + 200;
    let allowed = getrlimit(Resource::Nofile).maximum;
    if allowed.is_some_and(|allowed| allowed < files) {
        eprintln!("skipped: {connections} connections need `ulimit -n` to be {files} at least");
        return;
    }
    for reply in ["share", "copy"] {
        // All are honest, however slow the machine is.
        let flags = format!("{flags} --reply {reply} {UNHURRIED} --listen 127.0.0.1:0");
        let command = iter::once(program::PATH).chain(flags.split_whitespace());
        let plan = Plan {
            command: command.map(str::to_owned).collect(),
            connections,
            pipeline,
            sizes: payload_bytes.into(),
            requests: Some(requests),
            duration: None,
            warm_up: Duration::ZERO,
            timeout: Some(LOST),
            ..Plan::default()
        };
        let report = loadgen::run(&plan, &Stop::new(), &mut |_| {}).expect("a run with a report");
        let context = format!("{flags}: {:?} {:?}", report.counts, report.first_error);
        assert_eq!(report.counts.requests, requests, "{context}");
        assert_eq!(report.counts.errors.total(), 0, "{context}");
        assert_eq!(report.counts.mismatches.total(), 0, "{context}");
        assert_eq!(report.counts.unanswered, 0, "{context}");
    }
}

const TWO_SLOTS: &str = "--mode fixed --slot-size 64k --capacity 128k";
const FOUR_BLOCKS: &str = "--mode buddy --capacity 4MiB --max-frame 1MiB";

#[test]
fn two_slots_serve_five_hundred_that_pipeline_short_frames() {
    loads(TWO_SLOTS, 500, 8, 256, 20_000);
}

#[test]
fn two_slots_serve_five_hundred_that_pipeline_frames_of_nearly_a_slot() {
    loads(TWO_SLOTS, 500, 4, 60_000, 3000);
}

#[test]
fn two_slots_serve_five_thousand_that_pipeline_short_frames() {
    loads(TWO_SLOTS, 5000, 4, 256, 40_000);
}

#[test]
fn four_blocks_serve_a_hundred_with_the_largest_frame() {
    loads(FOUR_BLOCKS, 100, 1, 1 << 20, 150);
}

#[test]
fn four_blocks_serve_two_thousand_that_pipeline_short_frames() {
    loads(FOUR_BLOCKS, 2000, 4, 700, 30_000);
}

#[test]
fn two_blocks_serve_fifty_with_the_largest_frame() {
    loads("--mode buddy --capacity 2MiB --max-frame 1MiB", 50, 2, 1 << 20, 100);
}

#[test]
fn short_frames_alone_need_no_growth() {
    loads("--mode buddy --capacity 4MiB --max-frame 4k", 200, 8, 4096, 10_000);
}

#[test]
fn frames_larger_than_a_slot_are_served_from_the_heap() {
    let flags = "--mode fixed --slot-size 64k --capacity 256k --max-frame 1MiB --spill 2MiB";
    loads(flags, 50, 2, 1 << 20, 100);
    loads(flags, 200, 4, 300, 5000);
}

fn two_slots() -> Config {
    Config {
        capacity_bytes: 2 * SLOT,
        frame_timeout: LONG,
        write_timeout: LONG,
        memory_timeout: LONG,
        ..Config::fixed()
    }
}

/// A frame that no gate holds.
fn passing(payload_bytes: usize, seed: usize) -> Vec<u8> {
    let mut bytes = frame(payload_bytes, seed);
    bytes[4] = 1;
    bytes
}

#[test]
fn idle_connections_hold_no_memory_however_many_they_are() {
    run(async {
        for (config, count) in [(Config::fixed(), 1), (Config::buddy(), 1), (Config::fixed(), 1000)]
        {
            let server = InProcess::start(&config).await;
            let mut clients = Vec::new();
            for seed in 0..count {
                let mut client = Client::connect(server.address).await;
                // One in two has never sent anything.
                if seed % 2 == 0 {
                    client.echo(&frame(1000, seed)).await;
                }
                clients.push(client);
            }
            server.until_connected(count).await;
            server.until_no_memory_is_held().await;
            drop(clients);
            server.stop().await;
        }
    });
}

/// Rule 1.
#[test]
fn a_reply_leaves_before_its_transport_waits_for_memory() {
    run(async {
        let memory = Memory::fixed(2, 1024).expect("sizes that work");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a listener that is bound");

        // Somebody keeps the only slot for requests.
        let mut holder = Client { stream: TcpStream::connect(address).await.expect("a peer") };
        let (stream, _) = listener.accept().await.expect("a connection");
        let mut holding = ArenaFramed::builder().new_framed(stream, &memory);
        holder.send(&frame(500, 1)).await;
        let kept = holding.next().await.expect("a frame").expect("no error");

        let mut client = Client { stream: TcpStream::connect(address).await.expect("a peer") };
        let (stream, _) = listener.accept().await.expect("a connection");
        let mut frames = ArenaFramed::builder().new_framed(stream, &memory);
        client.send(&frame(300, 2)).await;
        frames.send(Bytes::from_static(b"early")).await.expect("room");
        select! {
            _ = frames.next() => panic!("a request without memory"),
            () = client.expect(b"\0\0\0\x05early") => {}
        }

        drop(kept);
        let request = frames.next().await.expect("a frame").expect("no error");
        assert!(request[..] == frame(300, 2)[4..]);
        drop((request, frames, holding));
        assert_eq!(memory.metrics().bytes_live, 0);
    });
}

/// Rule 2.
#[test]
fn requests_that_fill_the_memory_leave_enough_for_replies() {
    run(async {
        let patient = Config { stall_timeout: LONG, ..two_slots() };
        let fixed = Config { capacity_bytes: 4 * SLOT, ..patient };
        let buddy = Config { capacity_bytes: 4 << 20, ..patient };
        let arena = Config::buddy().arena;
        let buddy = Config { arena, max_frame_bytes: 1 << 20, ..buddy };
        for (config, holders, payload_bytes) in [(fixed, 3, 50_000), (buddy, 3, 1 << 20)] {
            let config = Config { reply: Reply::Copy, stall_timeout: LONG, ..config };
            let server = InProcess::start(&config).await;
            let whole: Vec<_> = (0..holders).map(|seed| frame(payload_bytes, seed)).collect();
            let mut clients = Vec::new();
            for frame in &whole {
                let mut client = Client::connect(server.address).await;
                let before = server.bytes_live();
                client.send(&frame[..40_000]).await;
                until(|| server.bytes_live() >= before + SLOT).await;
                clients.push(client);
            }
            // Not one of them gives its memory back before it is answered.
            for (client, frame) in clients.iter_mut().zip(&whole) {
                client.exchange(&frame[40_000..], frame).await;
            }
            assert_eq!(server.all_rejects(), []);
            drop(clients);
            server.stop().await;
        }
    });
}

/// Rule 3, the exception: nobody is closed for stalling as long as nobody else waits.
#[test]
fn a_peer_that_stalls_inside_a_frame_is_closed_only_while_others_wait() {
    run(async {
        let server = InProcess::start(&two_slots()).await;
        let mut slow = Client::connect(server.address).await;
        let whole = frame(1000, 1);
        slow.send(&whole[..500]).await;
        server.until_memory_is_held().await;
        // Longer than a peer may stall while others wait.
        sleep(Duration::from_millis(1500)).await;
        assert_eq!(server.all_rejects(), []);
        slow.exchange(&whole[500..], &whole).await;
        server.until_no_memory_is_held().await;

        slow.send(&whole[..500]).await;
        server.until_memory_is_held().await;
        let mut honest = Client::connect(server.address).await;
        honest.echo(&frames([10, 60_000])).await;
        slow.expect_end().await;
        server.until_rejected(Reject::Stalled, 1).await;
        honest.close_and_expect_end().await;
        assert_eq!(server.all_rejects(), [("stalled", 1)]);
        drop(slow);
        server.stop().await;
    });
}

#[test]
fn a_peer_that_does_not_read_is_closed_while_others_wait() {
    run(async {
        for reply in [Reply::Share, Reply::Copy] {
            let server = InProcess::start(&Config { reply, ..two_slots() }).await;
            let mut deaf = Client::connect(server.address).await;
            let mut honest = Client::connect(server.address).await;
            let flood = frame(60_000, 1);
            tokio::join!(deaf.send_without_reading(&flood), async {
                while server.rejects(Reject::Stalled) == 0 {
                    honest.echo(&frames([10, 60_000])).await;
                }
            });
            honest.close_and_expect_end().await;
            assert_eq!(server.all_rejects(), [("stalled", 1)]);
            server.stop().await;
        }
    });
}

/// A small part of the memory can be the part for which everybody waits.
#[test]
fn a_peer_that_does_not_read_cannot_keep_the_memory_of_replies() {
    run(async {
        let gate = Gate::new();
        let config = Config { capacity_bytes: 16 * SLOT, ..two_slots() };
        let server = InProcess::start_with(&config, gate.clone()).await;
        // All ordinary memory but one slot, for requests that have arrived.
        let mut honest = Vec::new();
        for _ in 0..14 {
            honest.push(gate.hold(server.address, 50_000).await);
        }
        assert_eq!(server.bytes_live(), 14 * SLOT);
        // Its replies are in the memory that is set aside for them, and it stalls.
        let mut deaf = Client::connect_with_little_room(server.address).await;
        let flood =
            tokio::spawn(async move { deaf.send_without_reading(&passing(50_000, 1)).await });
        until(|| server.memory().stalled_bytes > SLOT).await;

        gate.open_for(14);
        for mut client in honest {
            client.expect(&held(50_000)).await;
            client.close_and_expect_end().await;
        }
        flood.await.expect("an error of the socket");
        server.until_connected(0).await;
        assert_eq!(server.all_rejects(), [("stalled", 1)]);
        server.stop().await;
    });
}

/// Who has sent a request in two parts is not to blame for the time that its handler takes.
#[test]
fn a_stall_is_suspended_when_the_request_has_arrived() {
    run(async {
        let gate = Gate::new();
        let server = InProcess::start_with(&two_slots(), gate.clone()).await;
        let mut client = Client::connect(server.address).await;
        let request = held(1000);
        client.send(&request[..500]).await;
        until(|| server.memory().stalled_bytes == SLOT).await;
        client.send(&request[500..]).await;
        until(|| server.memory().stalled_bytes == 0).await;
        assert_eq!(server.bytes_live(), SLOT);

        gate.open_for(1);
        client.expect(&request).await;
        client.close_and_expect_end().await;
        server.stop().await;
    });
}

/// Nor for the time until there is memory for the next, of which a part has come.
#[test]
fn a_stall_is_suspended_when_the_next_request_needs_more_memory() {
    run(async {
        // One slot that stalls is not too much.
        let memory = Memory::fixed(4, 1024).expect("memory");
        let mut kept = Vec::new();
        let (mut theirs, ours) = duplex(4096);
        let mut holding = ArenaFramed::builder().new_read(Probe::new(ours), &memory);
        theirs.write_all(&frames([1000, 1000])).await.expect("a pipe with room");
        for _ in 0..2 {
            kept.push(holding.next().await.expect("a request").expect("a frame"));
        }

        let (mut theirs, ours) = duplex(4096);
        let mut requests = ArenaFramed::builder().new_read(Probe::new(ours), &memory);
        let both = frames([400, 600]);
        theirs.write_all(&both[..300]).await.expect("a pipe with room");
        select! {
            _ = requests.next() => panic!("a request that has not arrived"),
            () = until(|| memory.metrics().stalled_bytes == 1024) => {}
        }
        theirs.write_all(&both[300..900]).await.expect("a pipe with room");
        // While it is kept, the next gets no room in its slot, and there is no other.
        kept.push(requests.next().await.expect("a request").expect("a frame"));
        assert_eq!(memory.metrics().stalled_bytes, 1024, "the rest of the next is waited for");
        select! {
            _ = requests.next() => panic!("a request that has not arrived"),
            () = until(|| memory.metrics().stalled_bytes == 0) => {}
        }
        assert!(memory.metrics().waits.iter().any(|queue| queue.waiters == 1));
    });
}

/// Answers a request with so many replies that no socket takes them all.
#[derive(Clone, Debug)]
struct Flood;

impl Flood {
    const REPLIES: usize = 400;
    const REPLY_BYTES: usize = 60_000;
}

impl Handler for Flood {
    async fn handle(&self, _: Request<'_>, replies: &mut Replies<'_>) -> Result<(), FrameError> {
        for _ in 0..Self::REPLIES {
            let mut reply = replies.allocate(Self::REPLY_BYTES).await?;
            reply.put_slice(&[0; Self::REPLY_BYTES]);
            replies.send(reply)?;
        }
        Ok(())
    }
}

/// Nor is who has taken all replies so far to blame for the time until there is memory for more.
#[test]
fn a_stall_is_suspended_when_the_replies_are_taken() {
    run(async {
        let config = Config { capacity_bytes: 3 * SLOT, stall_timeout: LONG, ..two_slots() };
        let server = InProcess::start_with(&config, Flood).await;
        let mut reader = Client::connect(server.address).await;
        reader.send(&frame(1, 1)).await;
        until(|| server.memory().stalled_bytes > 0).await;
        // It gets the memory for its replies as soon as the first has taken one.
        let mut deaf = Client::connect(server.address).await;
        deaf.send(&frame(50_000, 2)).await;
        server.until_waiting(1).await;

        let reading = tokio::spawn(async move {
            let mut taken = vec![0; Flood::REPLIES * (4 + Flood::REPLY_BYTES)];
            reader.stream.read_exact(&mut taken).await.expect("all replies");
            reader
        });
        until(|| server.memory().stalled_bytes == 4 + 50_000 + Flood::REPLY_BYTES).await;
        server.until_waiting(1).await;
        assert_eq!(server.bytes_live(), 3 * SLOT);

        drop(deaf);
        reading.await.expect("no panic").close_and_expect_end().await;
        server.until_connected(0).await;
        server.stop().await;
    });
}

/// Frames of 1 MiB, which lie on the heap, and of which one fits there beside its reply.
fn spilling() -> Config {
    Config {
        // A quarter of it is more than the heap has.
        capacity_bytes: 16 << 20,
        max_frame_bytes: 1 << 20,
        spill_bytes: 2 << 20,
        ..two_slots()
    }
}

#[test]
fn peers_that_do_not_read_cannot_keep_the_heap_of_long_frames() {
    run(async {
        for reply in [Reply::Share, Reply::Copy] {
            let server = InProcess::start(&Config { reply, ..spilling() }).await;
            let mut deaf = Client::connect(server.address).await;
            let mut honest = Client::connect(server.address).await;
            let flood = frame(1 << 20, 1);
            tokio::join!(deaf.send_without_reading(&flood), async {
                while server.rejects(Reject::Stalled) == 0 {
                    honest.echo(&frames([10, 1 << 20])).await;
                }
            });
            server.stop().await;
        }
    });
}

/// However long it has stalled, and whoever else is closed.
#[test]
fn a_peer_that_keeps_the_heap_is_not_closed_for_those_who_wait_for_a_slot() {
    run(async {
        let config = Config {
            capacity_bytes: 2 * SLOT,
            stall_timeout: Duration::from_millis(100),
            ..spilling()
        };
        let server = InProcess::start(&config).await;
        let mut deaf = Client::connect(server.address).await;
        let flood =
            tokio::spawn(async move { deaf.send_without_reading(&frame(1 << 20, 1)).await });
        until(|| server.memory().spill_stalled_bytes == 1 << 20).await;

        let mut slow = Client::connect(server.address).await;
        slow.send(&frame(1000, 1)[..500]).await;
        until(|| server.memory().stalled_bytes == SLOT).await;
        let mut honest = Client::connect(server.address).await;
        honest.echo(&frame(60_000, 2)).await;
        slow.expect_end().await;
        server.until_rejected(Reject::Stalled, 1).await;
        assert!(!flood.is_finished(), "who keeps no slot was closed for one");

        flood.abort();
        honest.close_and_expect_end().await;
        server.until_connected(0).await;
        server.stop().await;
    });
}

#[test]
fn who_waits_for_the_heap_shows_in_the_figures() {
    run(async {
        let gate = Gate::new();
        let config = Config { stall_timeout: LONG, ..spilling() };
        let server = InProcess::start_with(&config, gate.clone()).await;
        let mut holder = gate.hold(server.address, 1 << 20).await;
        assert_eq!(server.memory().spill_bytes_live, 1 << 20);
        let mut waiting = Client::connect(server.address).await;
        waiting.send(&passing(1 << 20, 1)).await;
        server.until_waiting(1).await;
        until(|| server.memory().waits.iter().any(|queue| !queue.exhausted_time.is_zero())).await;

        gate.open_for(1);
        holder.expect(&held(1 << 20)).await;
        waiting.expect(&passing(1 << 20, 1)).await;
        let waits: u64 = server.memory().waits.iter().map(|queue| queue.waits).sum();
        assert_eq!((waits, server.waiters()), (1, 0));
        for client in [holder, waiting] {
            client.close_and_expect_end().await;
        }
        server.until_connected(0).await;
        server.stop().await;
    });
}

/// Rule 5.
#[test]
fn a_peer_that_is_gone_is_noticed_while_its_request_waits_for_memory() {
    run(async {
        let gate = Gate::new();
        let server = InProcess::start_with(&two_slots(), gate.clone()).await;
        let mut holder = gate.hold(server.address, 1000).await;

        let mut doomed = Client::connect(server.address).await;
        doomed.send(&passing(1000, 1)).await;
        let mut patient = Client::connect(server.address).await;
        patient.send(&passing(1000, 2)).await;
        // Half a close is no death.
        patient.half_close().await;
        server.until_waiting(2).await;

        doomed.reset();
        server.until_rejected(Reject::Failed, 1).await;
        server.until_waiting(1).await;
        server.until_connected(2).await;

        gate.open_for(1);
        holder.expect(&held(1000)).await;
        patient.expect(&passing(1000, 2)).await;
        patient.expect_end().await;
        holder.close_and_expect_end().await;
        server.until_connected(0).await;
        assert_eq!(server.all_rejects(), [("failed", 1)]);
        server.stop().await;
    });
}

#[test]
fn a_peer_that_is_gone_is_noticed_while_its_reply_waits_for_memory() {
    run(async {
        let gate = Gate::new();
        let config = Config { capacity_bytes: 3 * SLOT, stall_timeout: LONG, ..two_slots() };
        let server = InProcess::start_with(&config, gate.clone()).await;
        // The reply of the deaf one takes what is set aside.
        let doomed = gate.hold(server.address, 50_000).await;
        let mut deaf = Client::connect(server.address).await;
        let flood =
            tokio::spawn(async move { deaf.send_without_reading(&passing(50_000, 1)).await });
        until(|| server.memory().stalled_bytes > SLOT).await;

        gate.open_for(1);
        server.until_waiting(1).await;
        doomed.reset();
        server.until_waiting(0).await;
        flood.abort();
        server.until_connected(0).await;
        server.stop().await;
    });
}

#[test]
fn a_frame_that_trickles_in_holds_no_memory_while_it_is_scarce() {
    run(async {
        let gate = Gate::new();
        let server = InProcess::start_with(&two_slots(), gate.clone()).await;
        let mut holder = gate.hold(server.address, 1000).await;
        let mut waiting = Client::connect(server.address).await;
        waiting.send(&passing(1000, 1)).await;
        server.until_waiting(1).await;

        let mut trickling = Vec::new();
        for seed in 0..20 {
            let mut client = Client::connect(server.address).await;
            client.send(&passing(50_000, seed)[..3000]).await;
            trickling.push(client);
        }
        // From each, what a connection keeps of a frame without memory.
        until(|| server.metrics().bytes_in == 20 * 256).await;
        gate.open_for(1);
        holder.expect(&held(1000)).await;
        waiting.expect(&passing(1000, 1)).await;
        drop(trickling);
        for client in [holder, waiting] {
            client.close_and_expect_end().await;
        }
        server.until_connected(0).await;
        server.stop().await;
    });
}

/// The mix for which `adversaries` of the benches has figures: here nobody honest may lose
/// anything.
#[test]
fn slow_senders_and_slow_readers_take_nothing_from_honest_peers() {
    run(async {
        for flags in [TWO_SLOTS, FOUR_BLOCKS, "--mode buddy --reply copy"] {
            // Short, so that the adversaries do not last, and longer than an honest peer pauses.
            let server = Program::start(&format!("{flags} --stall-timeout 3s")).await;
            let address = server.address;
            let mut adversaries = tokio::task::JoinSet::new();
            for number in 0..200 {
                adversaries.spawn(async move {
                    let sender = Client::connect(address).await;
                    let announced = if number % 2 == 0 { 60_000 } else { 5000 };
                    let whole = frame(announced, number);
                    // A byte now and then, after a beginning that may need memory.
                    sender.stream.writable().await.expect("a socket that is connected");
                    let mut at = 4 + number * 7 % 900;
                    let _ = sender.stream.try_write(&whole[..at]);
                    while at < whole.len() && sender.stream.try_write(&whole[at..=at]).is_ok() {
                        at += 1;
                        sleep(Duration::from_millis(50)).await;
                    }
                });
                adversaries.spawn(async move {
                    let mut reader = Client::connect(address).await;
                    let flood = frame(50_000, number);
                    let _ = reader.send_without_reading(&flood).await;
                });
            }
            sleep(Duration::from_millis(300)).await;
            echo_over_many(address, 50, &[64, 1000, 60_000, 5000, 64]).await;
            adversaries.abort_all();
            while adversaries.join_next().await.is_some() {}
            server.stop().await;
        }
    });
}

#[test]
fn a_header_alone_takes_no_memory_whatever_it_announces() {
    run(async {
        let config = Config { frame_timeout: LONG, ..Config::buddy() };
        let server = InProcess::start(&config).await;
        let mut clients = Vec::new();
        for _ in 0..200 {
            let mut client = Client::connect(server.address).await;
            client.send(&header(1 << 20)).await;
            clients.push(client);
        }
        server.until_connected(200).await;
        let mut honest = Client::connect(server.address).await;
        honest.echo(&frame(1 << 20, 1)).await;
        server.until_no_memory_is_held().await;
        // Nor does any of them count as one who blocks memory.
        until(|| server.memory().stalled_bytes == 0).await;
        assert_eq!(server.all_rejects(), []);
        drop((honest, clients));
        server.stop().await;
    });
}

/// A stream of requests that says how often it is asked whether replies are taken.
struct Asked {
    requests: &'static [u8],
    times: Arc<AtomicUsize>,
    takes_output: Arc<AtomicBool>,
}

impl AsyncRead for Asked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.requests).poll_read(context, target)
    }
}

impl ReadReady for Asked {
    fn poll_read_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn takes_output(&self) -> bool {
        self.times.fetch_add(1, Relaxed);
        self.takes_output.load(Relaxed)
    }
}

#[test]
fn a_peer_is_asked_now_and_then_whether_it_takes_replies_while_memory_is_scarce() {
    run(async {
        const FRAMES: usize = 400;
        let memory = Memory::fixed(8, 1024).expect("memory");
        // Three of eight slots are blocked by who has begun a frame and sends no more.
        let stalled: Vec<_> = (0..3)
            .map(|_| {
                let (mut theirs, ours) = duplex(1024);
                let memory = memory.clone();
                tokio::spawn(async move {
                    let begun = frame(1000, 1);
                    theirs.write_all(&begun[..600]).await.expect("a pipe with room");
                    ArenaFramed::builder().new_read(Probe::new(ours), &memory).next().await
                })
            })
            .collect();
        until(|| memory.metrics().stalled_bytes >= 3 * 1024).await;

        let (times, takes_output) = (Arc::default(), Arc::new(AtomicBool::new(true)));
        let requests = frame(500, 2).repeat(FRAMES).leak();
        let asked =
            Asked { requests, times: Arc::clone(&times), takes_output: Arc::clone(&takes_output) };
        let mut peer = ArenaFramed::builder().new_read(asked, &memory);
        for _ in 0..FRAMES / 2 {
            let request = peer.next().await.expect("a request").expect("a frame");
            assert_eq!(request.len(), 500);
        }
        let asked = times.load(Relaxed);
        assert!((3..=10).contains(&asked), "asked {asked} times in 100 kB");

        takes_output.store(false, Relaxed);
        let mut taken = 0;
        while let Ok(Some(_)) = timeout(Duration::from_millis(200), peer.next()).await {
            taken += 1;
        }
        assert!(taken <= 80, "{taken} requests of a peer that takes no replies");
        takes_output.store(true, Relaxed);
        let rest = FRAMES / 2 - taken;
        for _ in 0..rest {
            peer.next().await.expect("a request").expect("a frame");
        }
        stalled.iter().for_each(JoinHandle::abort);
    });
}
