//! Peers that keep others waiting are closed, and the others go on.

use std::time::Duration;

use arena_echo::{ArenaKind, Config, Reject};
use tokio::join;

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
    let before = server.rejects(Reject::FrameTimeout);
    let mut client = Client::connect(server.address).await;
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

#[test]
fn every_frame_has_the_frame_timeout_for_itself() {
    run(async {
        let slot_bytes = 64 << 10;
        let (capacity_bytes, frame_timeout) = (3 * slot_bytes, 15 * SHORT);
        let config = Config { capacity_bytes, frame_timeout, ..two_slots() };
        let server = InProcess::start(&config).await;
        let frame = frame(1000, 1);
        let (begun, rest) = frame.split_at(500);
        let mut steady = Client::connect(server.address).await;
        steady.send(begun).await;
        server.until_memory_is_held().await;

        // Begins later, so its end shows that the time of the first frame of the other is over too.
        let mut slow = hold_the_slot(&server).await;
        let end_of_slow = tokio::spawn(async move { slow.expect_end().await });
        while !end_of_slow.is_finished() {
            steady.exchange(&[rest, begun].concat(), &frame).await;
        }
        end_of_slow.await.expect("an end at the frame timeout");
        steady.exchange(rest, &frame).await;
        steady.close_and_expect_end().await;
        server.stop().await;
    });
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
        let frame_timeout = 15 * SHORT;
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
