//! Peers that keep others waiting are closed, and the others go on.

use std::time::Duration;

use arena_echo::{ArenaFramed, ArenaKind, Config, FrameError, Memory, Probe, Reject, Timeouts};
use tokio::{
    io::{AsyncWriteExt, duplex},
    join,
    time::{Instant, sleep},
};

use crate::support::{client::Client, in_process::InProcess, run, traffic::frame, until};

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(600);

/// One slot for requests, so that whoever holds it keeps all others waiting.
fn two_slots() -> Config {
    let slot_bytes = 64 << 10;
    Config {
        arena: ArenaKind::Fixed { slot_bytes },
        capacity_bytes: 2 * slot_bytes,
        frame_timeout: LONG,
        write_timeout: LONG,
        memory_timeout: LONG,
        stall_timeout: LONG,
        ..Config::fixed()
    }
}

/// Sends so much of a frame that it takes a slot, and waits until it holds the one for requests, or
/// has done so for too long already.
async fn hold_the_slot(server: &InProcess) -> Client {
    let mut client = Client::connect(server.address).await;
    let before = server.rejects(Reject::FrameTimeout);
    client.send(&frame(1000, 1)[..500]).await;
    until(|| server.bytes_live() > 0 || server.rejects(Reject::FrameTimeout) > before).await;
    client
}

#[test]
fn a_slow_sender_is_closed_at_the_frame_timeout_and_others_go_on() {
    run(async {
        let server = InProcess::start(&Config { frame_timeout: SHORT, ..two_slots() }).await;
        let mut slow = hold_the_slot(&server).await;
        let mut honest = Client::connect(server.address).await;
        honest.echo(&frame(1000, 2)).await;
        honest.close_and_expect_end().await;
        slow.expect_end().await;
        server.stop().await;
    });
}

/// The clock stands still, but for what the test waits: no pause of the machine counts.
#[tokio::test(start_paused = true)]
async fn every_frame_has_the_frame_timeout_for_itself() {
    const FRAMES: usize = 10;
    const FRAME_TIMEOUT: Duration = Duration::from_secs(1);
    const PAUSE: Duration = Duration::from_millis(900);
    let memory = Memory::fixed(3, 1024).expect("memory");
    let timeouts = Timeouts { frame: Some(FRAME_TIMEOUT), ..Timeouts::default() };
    let builder = ArenaFramed::builder().timeouts(timeouts);
    let whole = frame(1000, 1);
    let (begun, rest) = whole.split_at(500);

    // Each frame takes nearly the whole timeout, and the next one begins right behind it.
    let (mut peer, stream) = duplex(4096);
    let mut steady = builder.new_read(Probe::new(stream), &memory);
    let send = async move {
        peer.write_all(begun).await.expect("a pipe with room");
        for _ in 1..FRAMES {
            sleep(PAUSE).await;
            peer.write_all(&[rest, begun].concat()).await.expect("a pipe with room");
        }
        sleep(PAUSE).await;
        peer.write_all(rest).await.expect("a pipe with room");
    };
    let receive = async {
        let mut frames = 0;
        while let Some(request) = steady.next().await {
            assert!(request.expect("a frame in time")[..] == whole[4..]);
            frames += 1;
        }
        assert_eq!(frames, FRAMES);
    };

    // The timeout of the other peer is over long before.
    let (mut slow_peer, slow_stream) = duplex(4096);
    slow_peer.write_all(begun).await.expect("a pipe with room");
    let mut slow = builder.new_read(Probe::new(slow_stream), &memory);
    let start = Instant::now();
    let end_of_slow = async {
        let end = slow.next().await.expect("an end with an error");
        assert!(matches!(end, Err(FrameError::FrameTimeout(FRAME_TIMEOUT))), "{end:?}");
        assert!(start.elapsed() >= FRAME_TIMEOUT);
    };
    join!(send, receive, end_of_slow);
}

#[test]
fn a_part_of_a_header_is_waited_for_no_longer_than_the_frame_timeout() {
    run(async {
        let server = InProcess::start(&Config { frame_timeout: SHORT, ..two_slots() }).await;
        let mut slow = Client::connect(server.address).await;
        slow.send(&[0]).await;
        slow.expect_end().await;
        server.stop().await;
    });
}

#[test]
fn a_peer_may_be_idle_between_frames_for_longer_than_the_frame_timeout() {
    run(async {
        let server = InProcess::start(&Config { frame_timeout: SHORT, ..two_slots() }).await;
        let mut idle = Client::connect(server.address).await;
        idle.echo(&frame(10, 1)).await;
        server.until_no_memory_is_held().await;

        // Outlasts the frame timeout, as its own end shows.
        let mut slow = hold_the_slot(&server).await;
        slow.expect_end().await;

        idle.echo(&frame(10, 2)).await;
        idle.close_and_expect_end().await;
        server.stop().await;
    });
}

#[test]
fn a_peer_that_does_not_read_is_closed_at_the_write_timeout_and_others_go_on() {
    run(async {
        let server = InProcess::start(&Config { write_timeout: SHORT, ..two_slots() }).await;
        let mut deaf = Client::connect(server.address).await;
        let mut honest = Client::connect(server.address).await;
        let flood = frame(60_000, 1);
        let (_, ()) = join!(deaf.send_without_reading(&flood), async {
            until(|| server.bytes_live() > 0 || server.rejects(Reject::WriteTimeout) > 0).await;
            honest.echo(&frame(1000, 2)).await;
            honest.close_and_expect_end().await;
        });
        server.stop().await;
    });
}

#[test]
fn who_waits_too_long_for_memory_is_closed_and_the_holder_goes_on() {
    run(async {
        let server = InProcess::start(&Config { memory_timeout: SHORT, ..two_slots() }).await;
        let mut holder = hold_the_slot(&server).await;
        let mut other = Client::connect(server.address).await;
        other.send(&frame(10, 2)).await;
        other.expect_end().await;

        let held = frame(1000, 1);
        holder.exchange(&held[500..], &held).await;
        holder.close_and_expect_end().await;
        server.stop().await;
    });
}

#[test]
fn waiting_for_memory_does_not_count_towards_the_frame_timeout() {
    run(async {
        // The other sends each part of its frame in less time.
        let frame_timeout = Duration::from_secs(3);
        let server = InProcess::start(&Config { frame_timeout, ..two_slots() }).await;
        let mut waiting = Client::connect(server.address).await;
        let (first, next) = (frame(10, 1), frame(60_000, 2));
        waiting.exchange(&[&first[..], &next[..4]].concat(), &first).await;
        server.until_no_memory_is_held().await;

        // Holds the slot for the whole timeout; meanwhile the other goes on with the frame that it
        // has begun, so far that memory is worth waiting for.
        let mut slow = hold_the_slot(&server).await;
        waiting.send(&next[4..50_000]).await;
        slow.expect_end().await;

        waiting.exchange(&next[50_000..], &next).await;
        waiting.close_and_expect_end().await;
        server.stop().await;
    });
}
