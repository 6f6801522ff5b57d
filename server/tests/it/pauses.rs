//! A process that is paused: its peers are not to blame for the time in which it did not run.

use std::time::Duration;

use tokio::{
    join,
    time::{Instant, sleep},
};

use crate::support::{client::Client, program::Program, run, traffic::frame};

/// What a peer may take for anything. Before the pause and after it, no peer needs nearly as long.
const LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_secs(12);

/// Replies that no buffer holds.
const MANY: usize = 200;

async fn start() -> Program {
    Program::start(&format!(
        "--first-byte-timeout {0}s --idle-timeout {0}s --frame-timeout {0}s --write-timeout {0}s \
         --memory-timeout {0}s",
        LIMIT.as_secs()
    ))
    .await
}

/// Sends many frames that nobody reads the replies to, until nothing more is taken.
async fn flood(client: &mut Client, frames: &[u8]) -> usize {
    let mut sent = 0;
    while sent < frames.len() {
        let write = client.stream.try_write(&frames[sent..]);
        match write {
            Ok(written) => sent += written,
            Err(_) => {
                let ready = tokio::time::timeout(LIMIT / 16, client.stream.writable()).await;
                if ready.is_err() {
                    break;
                }
            }
        }
    }
    sent
}

#[test]
fn peers_that_do_their_part_in_a_pause_or_right_behind_it_are_answered() {
    run(async {
        let server = start().await;
        let whole = frame(50_000, 1);
        let many = whole.repeat(MANY);
        let (begun, rest) = whole.split_at(20_000);
        let connect = || Client::connect(server.address);
        // Two of each: one acts in the pause, one behind it.
        let mut new = [connect().await, connect().await];
        let mut idle = [connect().await, connect().await];
        let mut sending = [connect().await, connect().await];
        let mut deaf = [connect().await, connect().await];
        for client in &mut idle {
            client.echo(&frame(10, 2)).await;
        }
        for client in &mut sending {
            client.send(begun).await;
        }
        let [one, other] = &mut deaf;
        let (one, other) = join!(flood(one, &many), flood(other, &many));
        assert!(one < many.len() && other < many.len(), "the server waits for these peers");
        let mut sent = [one, other].into_iter();

        server.pause().await;
        let paused = Instant::now();
        let [new_in, new_behind] = &mut new;
        let [idle_in, idle_behind] = &mut idle;
        let [sending_in, sending_behind] = &mut sending;
        let [deaf_in, deaf_behind] = &mut deaf;
        new_in.send(&whole).await;
        idle_in.send(&whole).await;
        sending_in.send(rest).await;
        let left = sent.next().expect("two of them");
        let reads = deaf_in.exchange(&many[left..], &many);
        let resumes = async {
            sleep(PAUSE.saturating_sub(paused.elapsed())).await;
            server.resume();
        };
        let ((), ()) = join!(reads, resumes);
        let left = sent.next().expect("two of them");
        join!(
            new_in.expect(&whole),
            idle_in.expect(&whole),
            sending_in.expect(&whole),
            new_behind.echo(&whole),
            idle_behind.echo(&whole),
            sending_behind.exchange(rest, &whole),
            deaf_behind.exchange(&many[left..], &many),
        );
        drop((new, idle, sending, deaf));
        server.stop().await;
    });
}

#[test]
fn a_peer_that_stalls_is_closed_after_a_pause_as_well() {
    run(async {
        let mut server = start().await;
        let mut stalled = Client::connect(server.address).await;
        stalled.send(&frame(1000, 1)[..500]).await;
        server.pause().await;
        sleep(PAUSE).await;
        server.resume();
        stalled.expect_end().await;
        server.until_logged("the rest of a frame did not arrive").await;
        server.stop().await;
    });
}

#[test]
fn nobody_has_stalled_for_the_time_of_a_pause() {
    run(async {
        let flags = "--mode fixed --slot-size 4k --capacity 8k --stall-timeout";
        let server = Program::start(&format!("{flags} {}s", LIMIT.as_secs())).await;
        let whole = frame(3000, 1);
        let (begun, rest) = whole.split_at(1000);
        let mut holder = Client::connect(server.address).await;
        holder.send(begun).await;
        let mut waiting = Client::connect(server.address).await;
        let short = frame(10, 2);
        waiting.send(&short).await;
        // Both have come: who connects later is answered by the accepting side alone.
        sleep(LIMIT / 8).await;
        server.pause().await;
        sleep(PAUSE).await;
        server.resume();
        sleep(LIMIT / 8).await;
        holder.exchange(rest, &whole).await;
        waiting.expect(&short).await;
        drop((holder, waiting));
        server.stop().await;
    });
}
