//! Frames to send, and conversations that many tests have.

use std::{io, net::SocketAddr};

use tokio::task::{JoinHandle, JoinSet};

use super::{client::Client, http::until_writing};

/// The period of payloads: a prime number of bytes, so that a shift by any block size shows.
const PERIOD: usize = 251;

/// A frame whose payload tells frames of different seeds, and places in it, apart.
pub(crate) fn frame(payload_bytes: usize, seed: usize) -> Vec<u8> {
    let cycle: Vec<u8> = (0..=u8::MAX).take(PERIOD).collect();
    let first = seed * 31 % PERIOD;
    let cycles = cycle.repeat((first + payload_bytes).div_ceil(PERIOD));
    [&header(payload_bytes), &cycles[first..first + payload_bytes]].concat()
}

pub(crate) fn header(payload_bytes: usize) -> [u8; 4] {
    u32::try_from(payload_bytes).expect("a length that fits a header").to_be_bytes()
}

/// One frame of each length, one behind the other.
pub(crate) fn frames(lengths: impl IntoIterator<Item = usize>) -> Vec<u8> {
    lengths.into_iter().enumerate().flat_map(|(seed, length)| frame(length, seed)).collect()
}

/// Has each length echoed alone, then all of them pipelined.
pub(crate) async fn echo_each_and_all(address: SocketAddr, lengths: &[usize]) {
    let mut client = Client::connect(address).await;
    for (seed, length) in lengths.iter().enumerate() {
        client.echo(&frame(*length, seed)).await;
    }
    client.echo(&frames(lengths.iter().copied())).await;
    client.close_and_expect_end().await;
}

/// Sends frames of `limit` bytes and one more than that: the first is answered, the second closes
/// the connection.
pub(crate) async fn exceed(address: SocketAddr, limit: usize) {
    let mut client = Client::connect(address).await;
    let allowed = frame(limit, 1);
    client.exchange(&[&allowed[..], &frame(limit + 1, 2)].concat(), &allowed).await;
    client.expect_end().await;
}

/// Has a server write a reply that is never taken, and waits until it can do nothing else.
pub(crate) async fn keep_busy(server: SocketAddr, admin: SocketAddr) -> JoinHandle<io::Error> {
    let mut deaf = Client::connect_with_little_room(server).await;
    let flood = tokio::spawn(async move { deaf.send_without_reading(&frame(60_000, 1)).await });
    until_writing(admin).await;
    flood
}

/// Has the same frames echoed over many connections at once, all pipelined.
pub(crate) async fn echo_over_many(address: SocketAddr, connections: usize, lengths: &[usize]) {
    let frames_of = |number: usize| -> Vec<u8> {
        let frames: Vec<_> =
            lengths.iter().enumerate().map(|(n, len)| frame(*len, number + n)).collect();
        frames.concat()
    };
    // Before the first one connects: making them takes longer than having them echoed.
    let all: Vec<_> = (0..connections).map(frames_of).collect();
    let mut clients = JoinSet::new();
    for frames in all {
        clients.spawn(async move {
            let mut client = Client::connect(address).await;
            client.echo(&frames).await;
            client.close_and_expect_end().await;
        });
    }
    while let Some(client) = clients.join_next().await {
        client.expect("every client gets its echoes");
    }
}
