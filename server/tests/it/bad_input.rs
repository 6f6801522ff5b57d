//! Peers that send what is no frame, too little, too much or nothing: each sees why by what arrives
//! and how it ends, the server counts it, and nobody else loses anything.

use std::{io, iter, time::Duration};

use arena_echo::{Config, Reject, Reply};
use tokio::{
    io::AsyncReadExt,
    task::{JoinSet, yield_now},
};

use crate::support::{
    client::Client,
    gate::{Gate, held},
    in_process::InProcess,
    program::Program,
    run,
    traffic::{frame, frames, header},
    until,
};

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(600);

/// A deadline that is reached, but by nobody who sends all at once.
const IN_TIME: Duration = Duration::from_secs(2);

/// Every mode and reply.
fn configs() -> impl Iterator<Item = Config> {
    [Config::fixed(), Config::buddy()]
        .into_iter()
        .flat_map(|config| [Reply::Share, Reply::Copy].map(|reply| Config { reply, ..config }))
}

/// No deadline that a test could meet by accident.
fn patient() -> Config {
    Config {
        first_byte_timeout: None,
        idle_timeout: None,
        frame_timeout: LONG,
        write_timeout: LONG,
        memory_timeout: LONG,
        stall_timeout: LONG,
        ..Config::buddy()
    }
}

/// Shows that a server goes on, and ends it.
async fn still_serves(server: InProcess) {
    let mut honest = Client::connect(server.address).await;
    honest.echo(&frames([100, 0, 60_000])).await;
    honest.close_and_expect_end().await;
    server.stop().await;
}

#[test]
fn a_header_beyond_the_limit_ends_the_connection_behind_the_replies_before_it() {
    run(async {
        for config in configs() {
            for announced in [config.max_frame_bytes + 1, 0xFFFF_FFFF] {
                let server = InProcess::start(&config).await;
                let mut bystander = Client::connect(server.address).await;
                bystander.echo(&frame(10, 1)).await;

                let mut client = Client::connect(server.address).await;
                let whole = frames([10, 0, 50_000]);
                client.exchange(&[&whole[..], &header(announced)].concat(), &whole).await;
                client.expect_end().await;
                server.until_rejected(Reject::TooLong, 1).await;
                drop(client);

                bystander.echo(&frame(20, 2)).await;
                bystander.close_and_expect_end().await;
                assert_eq!(server.all_rejects(), [("too_long", 1)]);
                still_serves(server).await;
            }
        }
    });
}

#[test]
fn a_frame_that_ends_early_is_counted_and_the_replies_before_it_arrive() {
    run(async {
        for config in configs() {
            // A part of a header, a header, a part that needs no memory, and one that does.
            for begun in [1, 4, 100, 10_000] {
                let server = InProcess::start(&config).await;
                let mut client = Client::connect(server.address).await;
                let whole = frames([10, 300]);
                client.send(&[&whole[..], &frame(50_000, 3)[..begun]].concat()).await;
                client.half_close().await;
                client.expect(&whole).await;
                client.expect_end().await;
                server.until_rejected(Reject::UnexpectedEnd, 1).await;
                assert_eq!(server.all_rejects(), [("unexpected_end", 1)]);
                still_serves(server).await;
            }
        }
    });
}

#[test]
fn a_reset_inside_a_frame_ends_that_connection_alone() {
    run(async {
        for config in configs() {
            let server = InProcess::start(&config).await;
            let mut bystander = Client::connect(server.address).await;
            bystander.echo(&frame(10, 1)).await;

            let mut client = Client::connect(server.address).await;
            client.send(&frame(50_000, 2)[..10_000]).await;
            server.until_memory_is_held().await;
            client.reset();
            server.until_rejected(Reject::Failed, 1).await;
            server.until_no_memory_is_held().await;

            bystander.echo(&frame(20, 3)).await;
            bystander.close_and_expect_end().await;
            still_serves(server).await;
        }
    });
}

#[test]
fn after_a_half_close_every_reply_to_what_was_sent_arrives() {
    run(async {
        for config in configs() {
            let server = InProcess::start(&config).await;
            let mut client = Client::connect(server.address).await;
            let sent = frames((0..500).map(|number| number * 37 % 3000));
            // The end is behind all frames before the first reply is read.
            let (mut input, mut output) = client.stream.split();
            let send = async {
                tokio::io::AsyncWriteExt::write_all(&mut output, &sent).await?;
                tokio::io::AsyncWriteExt::shutdown(&mut output).await
            };
            let mut received = Vec::new();
            tokio::try_join!(send, input.read_to_end(&mut received)).expect("all replies");
            assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
            server.until_connected(0).await;
            assert_eq!(server.all_rejects(), []);
            server.stop().await;
        }
    });
}

#[test]
fn frames_that_dribble_in_byte_by_byte_are_answered() {
    run(async {
        for config in configs() {
            let server = InProcess::start(&config).await;
            let mut client = Client::connect(server.address).await;
            let sent = frames([3, 0, 300, 1, 700]);
            for byte in &sent {
                client.send(&[*byte]).await;
                yield_now().await;
            }
            client.expect(&sent).await;
            client.close_and_expect_end().await;
            assert_eq!(server.all_rejects(), []);
            server.stop().await;
        }
    });
}

#[test]
fn frames_of_no_bytes_are_frames() {
    run(async {
        for config in configs() {
            let server = InProcess::start(&config).await;
            let mut client = Client::connect(server.address).await;
            client.echo(&frames(iter::repeat_n(0, 50_000))).await;
            client.close_and_expect_end().await;
            server.until_connected(0).await;
            assert_eq!(server.metrics().frames, 50_000);
            server.stop().await;
        }
    });
}

#[test]
fn a_peer_that_never_reads_meets_the_write_timeout_and_others_lose_nothing() {
    run(async {
        for config in configs() {
            let server = InProcess::start(&Config { write_timeout: SHORT, ..config }).await;
            let mut deaf = Client::connect(server.address).await;
            let mut honest = Client::connect(server.address).await;
            let flood = frame(50_000, 1);
            tokio::join!(deaf.send_without_reading(&flood), async {
                while server.rejects(Reject::WriteTimeout) == 0 {
                    honest.echo(&frames([10, 5000])).await;
                    yield_now().await;
                }
            });
            honest.close_and_expect_end().await;
            assert_eq!(server.all_rejects(), [("write_timeout", 1)]);
            server.stop().await;
        }
    });
}

#[test]
fn each_deadline_of_a_silent_peer_has_its_own_error_and_counter() {
    run(async {
        let first_byte = Config { first_byte_timeout: Some(IN_TIME), ..patient() };
        let idle = Config { idle_timeout: Some(IN_TIME), ..patient() };
        let frame_timeout = Config { frame_timeout: IN_TIME, ..patient() };
        let mut cases = JoinSet::new();
        for (config, reason, sent) in [
            (first_byte, Reject::FirstByteTimeout, Vec::new()),
            (idle, Reject::IdleTimeout, frame(10, 1)),
            (frame_timeout, Reject::FrameTimeout, frame(10, 1)[..7].to_vec()),
            (frame_timeout, Reject::FrameTimeout, frame(50_000, 1)[..1000].to_vec()),
        ] {
            cases.spawn(async move {
                let server = InProcess::start(&config).await;
                let mut client = Client::connect(server.address).await;
                client.send(&sent).await;
                if reason == Reject::IdleTimeout {
                    client.expect(&sent).await;
                }
                client.expect_end().await;
                server.until_rejected(reason, 1).await;
                assert_eq!(server.all_rejects(), [(reason.name(), 1)]);
                drop(client);
                server.until_connected(0).await;
                still_serves(server).await;
            });
        }
        cases.join_all().await;
    });
}

#[test]
fn the_memory_deadline_has_its_own_error_and_counter() {
    run(async {
        let small = Config { capacity_bytes: 128 << 10, ..Config::fixed() };
        // The holder is honest, however long it is away.
        let config = Config { frame_timeout: LONG, stall_timeout: LONG, ..small };
        let server = InProcess::start(&Config { memory_timeout: SHORT, ..config }).await;
        let mut holder = Client::connect(server.address).await;
        let held = frame(1000, 1);
        holder.send(&held[..500]).await;
        server.until_memory_is_held().await;

        let mut other = Client::connect(server.address).await;
        other.send(&frame(10, 2)).await;
        other.expect_end().await;
        server.until_rejected(Reject::MemoryTimeout, 1).await;
        drop(other);

        holder.exchange(&held[500..], &held).await;
        holder.close_and_expect_end().await;
        assert_eq!(server.all_rejects(), [("memory_timeout", 1)]);
        still_serves(server).await;
    });
}

/// Starts the program with one deadline that is soon reached, and no other that a test could meet
/// by accident.
async fn start_with_deadline(name: &str, time: &str) -> Program {
    let mut flags = "--mode fixed --slot-size 64k --capacity 256k".to_owned();
    for other in ["first-byte", "idle", "frame", "write", "memory", "stall"] {
        let time = if other == name { time } else { "10m" };
        flags += &format!(" --{other}-timeout {time}");
    }
    Program::start(&flags).await
}

#[test]
fn the_log_says_why_a_connection_was_closed() {
    run(async {
        let mut server = start_with_deadline("first-byte", "200ms").await;
        let mut silent = Client::connect(server.address).await;
        silent.expect_end().await;
        server.until_logged("sent not one byte within 200ms").await;
        drop(silent);
        server.stop().await;

        let mut server = start_with_deadline("idle", "1s").await;
        let mut idle = Client::connect(server.address).await;
        idle.echo(&frame(10, 1)).await;
        idle.expect_end().await;
        server.until_logged("sent no further frame within 1s").await;
        drop(idle);
        server.stop().await;

        let mut server = start_with_deadline("frame", "300ms").await;
        let mut slow = Client::connect(server.address).await;
        slow.send(&frame(1000, 1)[..500]).await;
        slow.expect_end().await;
        server.until_logged("did not arrive within 300ms").await;
        drop(slow);
        server.stop().await;

        let mut server = start_with_deadline("write", "250ms").await;
        let mut deaf = Client::connect(server.address).await;
        let _: io::Error = deaf.send_without_reading(&frame(60_000, 1)).await;
        server.until_logged("took no reply for 250ms").await;
        drop(deaf);

        let mut long = Client::connect(server.address).await;
        let whole = frame(10, 1);
        long.exchange(&[&whole[..], &header(0xFFFF_FFFF)].concat(), &whole).await;
        long.expect_end().await;
        server.until_logged("a frame of 4294967295 bytes exceeds the limit of 65536").await;

        let mut short = Client::connect(server.address).await;
        short.exchange(&[&whole[..], &whole[..7]].concat(), &whole).await;
        short.close_and_expect_end().await;
        server.until_logged("closed it inside a frame").await;

        let mut honest = Client::connect(server.address).await;
        honest.echo(&frames([10, 0, 60_000])).await;
        honest.close_and_expect_end().await;
        server.stop().await;
    });
}

#[test]
fn the_log_says_that_there_was_no_memory() {
    run(async {
        let flags = "--mode fixed --slot-size 64k --capacity 128k --memory-timeout 200ms \
                     --frame-timeout 10m --stall-timeout 10m";
        let mut server = Program::start(flags).await;
        let mut holder = Client::connect(server.address).await;
        let (first, held) = (frame(10, 1), frame(1000, 2));
        // The reply shows that the part behind it was read as well.
        holder.exchange(&[&first[..], &held[..500]].concat(), &first).await;

        let mut other = Client::connect(server.address).await;
        other.send(&frame(10, 3)).await;
        other.expect_end().await;
        server.until_logged("no memory became free within 200ms").await;

        holder.exchange(&held[500..], &held).await;
        holder.close_and_expect_end().await;
        server.stop().await;
    });
}

/// What a connection reads without memory goes into a slot, however small that is.
#[test]
fn small_frames_that_arrive_while_memory_is_scarce_fit_the_smallest_slot() {
    run(async {
        let arena = arena_echo::ArenaKind::Fixed { slot_bytes: 64 };
        let small = Config { arena, capacity_bytes: 128, max_frame_bytes: 64, ..Config::fixed() };
        let gate = Gate::new();
        let server = InProcess::start_with(&small, gate.clone()).await;
        let mut holder = gate.hold(server.address, 64).await;
        let mut first = Client::connect(server.address).await;
        first.send(&frame(10, 2)).await;
        server.until_waiting(1).await;

        let mut many = Client::connect(server.address).await;
        let sent = frame(1, 0).repeat(50);
        many.send(&sent).await;
        server.until_waiting(2).await;
        gate.open_for(1);
        holder.expect(&held(64)).await;
        first.expect(&frame(10, 2)).await;
        many.expect(&sent).await;
        for client in [holder, first, many] {
            client.close_and_expect_end().await;
        }
        until(|| server.all_rejects().is_empty()).await;
        server.stop().await;
    });
}
