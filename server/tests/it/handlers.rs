//! Servers with somebody's own handler: replies of other sizes than requests, several, none.

use std::{
    io,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use arena_echo::{Config, FrameError, Handler, Reject, Replies, Request};
use bytes::Bytes;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    sync::Semaphore,
};
use tracing::Level;

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

/// Echoes, and panics at requests that begin with [`FATAL`].
struct Brittle;

const FATAL: &[u8] = b"fatal";

impl Handler for Brittle {
    async fn handle(
        &self,
        request: Request<'_>,
        replies: &mut Replies<'_>,
    ) -> Result<(), FrameError> {
        assert!(!request.starts_with(FATAL), "no reply to {} bytes", request.len());
        replies.copy(&request).await
    }
}

#[test]
fn a_panic_of_the_handler_ends_its_connection_behind_the_replies_before_it() {
    run(async {
        let server = InProcess::start_with(&Config::fixed(), Brittle).await;
        let (first, second, last) = (frame(10, 1), frame(2000, 2), frame(30, 3));
        let mut client = Client::connect(server.address).await;
        let sent = [&first[..], &second, &framed(FATAL), &last].concat();
        client.exchange(&sent, &[&first[..], &second].concat()).await;
        client.expect_end().await;
        server.until_connected(0).await;
        assert_eq!(server.all_rejects(), [("panicked", 1)]);
        let metrics = server.metrics();
        assert_eq!(metrics.bytes_in, sent.len() as u64);
        assert_eq!(metrics.bytes_out, (first.len() + second.len()) as u64);

        let mut other = Client::connect(server.address).await;
        other.echo(&last).await;
        other.close_and_expect_end().await;
        server.stop().await;
    });
}

#[test]
fn panics_give_back_memory_and_places_while_both_are_scarce() {
    run(async {
        const PANICS: u64 = 40;
        let config = Config { capacity_bytes: 128 << 10, max_connections: 4, ..Config::fixed() };
        let server = InProcess::start_with(&config, Brittle).await;
        let whole = frame(30_000, 1);
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..PANICS {
            let (address, whole) = (server.address, whole.clone());
            clients.spawn(async move {
                let mut client = Client::connect(address).await;
                let sent = [&whole[..], &framed(FATAL), &whole].concat();
                client.exchange(&sent[..whole.len() + 9], &whole).await;
                client.expect_end().await;
            });
        }
        while let Some(client) = clients.join_next().await {
            client.expect("every client gets the reply before the panic");
        }
        let mut honest = Client::connect(server.address).await;
        honest.echo(&whole).await;
        honest.close_and_expect_end().await;
        server.until_connected(0).await;
        assert_eq!(server.all_rejects(), [("panicked", PANICS)]);
        server.stop().await;
    });
}

/// A log in memory.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("a log").clone()).expect("a log of text")
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("a log").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_panic_of_the_handler_is_logged_with_its_message_and_peer() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_max_level(Level::WARN);
    // For the whole process, whose other tests write into it, too: whether a line is of interest is
    // remembered for all threads.
    subscriber.with_writer(move || writer.clone()).init();
    let peer = run(async {
        let server = InProcess::start_with(&Config::fixed(), Brittle).await;
        let mut client = Client::connect(server.address).await;
        let peer = client.address();
        client.send(&framed(FATAL)).await;
        client.expect_end().await;
        server.stop().await;
        peer
    });
    let text = log.text();
    let mut lines = text.lines().filter(|line| line.contains(&peer.to_string()));
    let line = lines.next_back().expect("a line about the peer");
    assert!(line.contains("closed: its handler panicked: no reply to 5 bytes"), "{line}");
    assert!(line.contains("WARN"), "{line}");
}

/// Echoes, and waits for its gate at requests that begin with [`SLOW`], after a flush.
struct Slow(Arc<Semaphore>);

const SLOW: &[u8] = b"slow";

impl Handler for Slow {
    async fn handle(
        &self,
        request: Request<'_>,
        replies: &mut Replies<'_>,
    ) -> Result<(), FrameError> {
        if request.starts_with(SLOW) {
            replies.flush().await?;
            self.0.acquire().await.expect("a gate that is not closed").forget();
        }
        replies.copy(&request).await
    }
}

#[test]
fn replies_that_are_flushed_do_not_wait_for_a_slow_request_behind_them() {
    run(async {
        let gate = Arc::new(Semaphore::new(0));
        let server = InProcess::start_with(&Config::fixed(), Slow(Arc::clone(&gate))).await;
        let (first, slow) = (frame(10, 1), framed(SLOW));
        let mut client = Client::connect(server.address).await;
        client.exchange(&[&first[..], &slow].concat(), &first).await;
        gate.add_permits(1);
        client.expect(&slow).await;
        client.close_and_expect_end().await;
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
