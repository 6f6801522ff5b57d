//! Servers with somebody's own handler: replies of other sizes than requests, several, none.

use std::{process::Stdio, time::Duration};

use arena_echo::{Config, FrameError, Handler, Reject, Replies, Request};
use bytes::Bytes;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use crate::{
    built,
    support::{client::Client, in_process::InProcess, run, traffic::frame},
};

const LONG: Duration = Duration::from_secs(600);

/// What a request asks for: its first byte says how many replies, the next four how many bytes each
/// has; the rest is what they repeat.
struct Repeat;

impl Handler for Repeat {
    async fn handle(
        &self,
        request: Request<'_>,
        replies: &mut Replies<'_>,
    ) -> Result<(), FrameError> {
        let (count, bytes, pattern) = parts(&request);
        for number in 0..count {
            let reply = pattern.repeat(bytes.div_ceil(pattern.len()));
            let reply = &reply[..bytes];
            match number % 3 {
                0 => replies.copy(reply).await?,
                1 => {
                    let mut room = replies.allocate(bytes).await?;
                    room.put_slice(reply);
                    replies.send(room)?;
                }
                _ => replies.send(Bytes::copy_from_slice(reply))?,
            }
        }
        Ok(())
    }
}

fn parts(request: &[u8]) -> (u8, usize, &[u8]) {
    let bytes = u32::from_be_bytes(request[1..5].try_into().expect("four bytes"));
    (request[0], bytes as usize, &request[5..])
}

/// A request and its replies.
fn conversation(count: u8, bytes: usize, pattern: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let length = u32::try_from(bytes).expect("a short reply").to_be_bytes();
    let request = [&[count][..], &length, pattern].concat();
    let reply = &pattern.repeat(bytes.div_ceil(pattern.len()))[..bytes];
    (framed(&request), framed(reply).repeat(usize::from(count)))
}

fn framed(payload: &[u8]) -> Vec<u8> {
    let mut bytes = frame(payload.len(), 0);
    bytes[4..].copy_from_slice(payload);
    bytes
}

/// The smallest and the usual memory, and no deadline that an honest peer could meet.
fn configs() -> [Config; 4] {
    let configs = [
        Config { capacity_bytes: 128 << 10, ..Config::fixed() },
        Config::fixed(),
        Config { capacity_bytes: 2 << 20, ..Config::buddy() },
        Config::buddy(),
    ];
    // All are honest, however slow the machine is.
    configs.map(|config| Config {
        frame_timeout: LONG,
        write_timeout: LONG,
        memory_timeout: LONG,
        stall_timeout: LONG,
        ..config
    })
}

#[test]
fn replies_may_be_more_and_longer_or_fewer_and_shorter_than_requests() {
    run(async {
        for config in configs() {
            let server = InProcess::start_with(&config, Repeat).await;
            let mut clients = tokio::task::JoinSet::new();
            for number in 0..10u8 {
                let address = server.address;
                clients.spawn(async move {
                    let pattern = [b'a' + number; 7];
                    let shapes =
                        [(0, 5), (1, 0), (3, 1), (7, 100), (4, 2000), (3, 65_536), (6, 60_000)];
                    let mut sent = Vec::new();
                    let mut expected = Vec::new();
                    for (count, bytes) in shapes {
                        let (request, replies) = conversation(count, bytes, &pattern);
                        sent.extend(request);
                        expected.extend(replies);
                    }
                    let mut client = Client::connect(address).await;
                    client.exchange(&sent, &expected).await;
                    client.close_and_expect_end().await;
                });
            }
            while let Some(client) = clients.join_next().await {
                client.expect("every client gets its replies");
            }
            server.until_connected(0).await;
            assert_eq!(server.all_rejects(), []);
            server.stop().await;
        }
    });
}

#[test]
fn a_reply_beyond_the_limit_ends_the_connection_behind_the_replies_before_it() {
    run(async {
        let server = InProcess::start_with(&Config::fixed(), Repeat).await;
        let mut client = Client::connect(server.address).await;
        let (good, reply) = conversation(2, 10, b"ab");
        let (long, _) = conversation(1, 65_537, b"ab");
        client.exchange(&[good, long].concat(), &reply).await;
        client.expect_end().await;
        server.until_rejected(Reject::ReplyTooLong, 1).await;
        server.stop().await;
    });
}

#[test]
fn the_checksum_example_answers_with_checksums() {
    let example = built::program("checksum");
    run(async {
        let mut command = Command::new(example);
        command.arg("127.0.0.1:0").stdout(Stdio::piped()).kill_on_drop(true);
        let mut server = command.spawn().expect("the example starts");
        let output = BufReader::new(server.stdout.take().expect("an output that is piped"));
        let first = output.lines().next_line().await.expect("text").expect("a line");
        let address = first.strip_prefix("listening on ").expect("the first line");
        let mut client = Client::connect(address.parse().expect("an address")).await;

        // The check value of this checksum, and that of nothing.
        let sent = [framed(b"123456789"), framed(b"")].concat();
        let expected =
            [framed(&0xCBF4_3926_u32.to_be_bytes()), framed(&0_u32.to_be_bytes())].concat();
        client.exchange(&sent, &expected).await;
        client.close_and_expect_end().await;
    });
}
