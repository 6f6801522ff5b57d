//! Told to stop, the server answers what it has received, and ends.

use std::{
    fs,
    io::{self, ErrorKind, PipeReader, PipeWriter, Write},
    net::SocketAddr,
    process::Stdio,
    time::Duration,
};

use arena_echo::{Admin, ArenaKind, Config, Server};
use rustix::{io::ioctl_fionbio, process::Signal};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    join,
    net::{TcpListener, TcpStream},
    process::Command,
    sync::mpsc,
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::support::{
    client::Client,
    gate::{Gate, held},
    in_process::InProcess,
    program::{self, Program},
    run,
    traffic::{exceed, frame, frames, keep_busy},
    until,
};

const SLOT: usize = 4096;

/// Several slots in all, so that the server has more than one turn at them after it is told to
/// stop.
const LENGTHS: [usize; 8] = [10, 0, 3000, 7, 4096, 4000, 1, 4096];

/// So long that a test which needs it hangs.
const HOUR: Duration = Duration::from_secs(60 * 60);

/// One slot for requests and one for replies, and all the time to drain.
fn two_slots() -> Config {
    Config {
        arena: ArenaKind::Fixed { slot_bytes: SLOT },
        capacity_bytes: 2 * SLOT,
        max_frame_bytes: SLOT,
        drain_timeout: HOUR,
        stall_timeout: HOUR,
        ..Config::fixed()
    }
}

/// What a server may read of a frame without taking memory for it.
const CARRIED: usize = 256;

/// Waits until the server's side of the connection has this many bytes that are not read, or as
/// many less as it reads without memory.
///
/// A send on the loopback is soon received, but nothing promises when.
async fn until_received(server: SocketAddr, client: &Client, bytes: usize) {
    let ports = (server.port(), client.address().port());
    until(|| unread_bytes(ports).is_some_and(|unread| unread + CARRIED >= bytes)).await;
}

/// Looks the receive queue of a connection between two ports up.
fn unread_bytes((local, peer): (u16, u16)) -> Option<usize> {
    let table = fs::read_to_string("/proc/net/tcp").expect("a table of connections");
    table.lines().skip(1).find_map(|line| {
        let mut columns = line.split_whitespace().skip(1);
        let (from, to) = (columns.next()?, columns.next()?);
        let (_state, queues) = (columns.next()?, columns.next()?);
        let matches = |address: &str, port: u16| address.ends_with(&format!(":{port:04X}"));
        let (_unsent, unread) = queues.split_once(':')?;
        (matches(from, local) && matches(to, peer))
            .then(|| usize::from_str_radix(unread, 16).expect("hexadecimal digits"))
    })
}

/// Brings frames into the queue of the server that it cannot read before it stops: another peer
/// holds the only slot for requests.
async fn frames_in_the_queue(server: SocketAddr, sent: &[u8]) -> (Client, Client) {
    let mut waiting = Client::connect(server).await;
    waiting.echo(&frame(10, 1)).await;

    // The reply shows that the part of a frame behind it was read as well, and keeps the slot.
    let mut holder = Client::connect(server).await;
    let (first, next) = (frame(10, 2), frame(1000, 3));
    holder.exchange(&[&first[..], &next[..500]].concat(), &first).await;

    waiting.send(sent).await;
    until_received(server, &waiting, sent.len()).await;
    (holder, waiting)
}

#[test]
fn what_was_received_is_answered() {
    run(async {
        let server = InProcess::start(&two_slots()).await;
        let sent = frames(LENGTHS);
        let (mut holder, mut waiting) = frames_in_the_queue(server.address, &sent).await;

        server.begin_to_stop();
        holder.expect_end().await;
        waiting.expect(&sent).await;
        waiting.expect_end().await;
        drop((holder, waiting));
        server.stop().await;
    });
}

/// Short frames are read before there is memory for them.
#[test]
fn what_was_read_before_there_was_memory_is_answered() {
    run(async {
        let gate = Gate::new();
        let server = InProcess::start_with(&two_slots(), gate.clone()).await;
        let mut holder = gate.hold(server.address, 1000).await;
        let mut next = Client::connect(server.address).await;
        next.send(&frame(1000, 2)).await;
        server.until_waiting(1).await;

        let mut short = Client::connect(server.address).await;
        let frames = [frame(10, 3), frame(20, 4)].concat();
        short.send(&frames).await;
        server.until_waiting(2).await;
        let mut silent = Client::connect(server.address).await;
        server.until_connected(4).await;
        server.begin_to_stop();
        // Then everybody knows.
        silent.expect_end().await;
        gate.open_for(1);
        short.expect(&frames).await;
        short.expect_end().await;
        holder.expect(&held(1000)).await;
        next.expect(&frame(1000, 2)).await;
        drop((holder, next, silent));
        server.stop().await;
    });
}

/// It waited to be accepted, so nobody had looked at it before.
#[test]
fn half_a_frame_does_not_delay_the_end() {
    run(async {
        let config = Config {
            max_connections: 1,
            frame_timeout: HOUR,
            drain_timeout: HOUR,
            ..Config::buddy()
        };
        let server = InProcess::start(&config).await;
        let mut idle = Client::connect(server.address).await;
        idle.echo(&frame(10, 1)).await;
        let mut half = Client::connect(server.address).await;
        half.send(&frame(1000, 2)[..300]).await;

        server.begin_to_stop();
        idle.expect_end().await;
        half.expect_end().await;
        drop((idle, half));
        server.stop().await;
    });
}

#[test]
fn a_signal_answers_what_was_received_and_exits_with_zero() {
    run(async {
        for signal in [Signal::TERM, Signal::INT] {
            let flags = "--mode fixed --slot-size 4k --capacity 8k --drain-timeout 1h \
                         --stall-timeout 1h";
            let server = Program::start(flags).await;
            let sent = frames(LENGTHS);
            let (mut holder, mut waiting) = frames_in_the_queue(server.address, &sent).await;

            server.signal(signal);
            holder.expect_end().await;
            waiting.expect(&sent).await;
            waiting.expect_end().await;
            drop((holder, waiting));
            let (status, log) = server.ended().await;
            assert!(status.success(), "{status}\n{log:#?}");
        }
    });
}

/// Sends frames without a pause until it is told to stop, and reads replies until the server ends
/// the connection. Tells of each reply, and returns how many there were.
async fn load_until_the_end(
    server: SocketAddr,
    stop: CancellationToken,
    replies: mpsc::UnboundedSender<()>,
) -> usize {
    let (mut input, mut output) = Client::connect(server).await.stream.into_split();
    let frame = frame(1000, 7);
    let sent = frame.repeat(20);
    let send = async move {
        let all = async { while output.write_all(&sent).await.is_ok() {} };
        stop.run_until_cancelled(all).await;
        output
    };
    let read = async {
        let mut reply = vec![0; frame.len()];
        let mut count = 0;
        loop {
            match input.read_exact(&mut reply).await {
                Ok(_) => assert!(reply == frame, "reply {count} differs"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "an end, not a reset");
                    return count;
                }
            }
            count += 1;
            let _ = replies.send(());
        }
    };
    let (_still_open, count) = join!(send, read);
    count
}

#[test]
fn a_signal_in_the_middle_of_a_pipelined_load_loses_nothing_that_was_read() {
    run(async {
        let flags = "--mode fixed --slot-size 4k --capacity 32k --stall-timeout 10m \
                     --drain-timeout 1h";
        let server = Program::start(flags).await;
        let stop = CancellationToken::new();
        let (told, mut replies) = mpsc::unbounded_channel();
        let mut clients = JoinSet::new();
        for _ in 0..20 {
            clients.spawn(load_until_the_end(server.address, stop.clone(), told.clone()));
        }
        for _ in 0..2000 {
            replies.recv().await.expect("a load that goes on");
        }
        // Before the signal, because a server that has ended its output waits only for a moment
        // for the end of what it is sent.
        stop.cancel();
        server.signal(Signal::TERM);
        let received: usize = clients.join_all().await.into_iter().sum();

        let (status, log) = server.ended().await;
        assert!(status.success(), "{status}\n{log:#?}");
        let bytes = received * frame(1000, 7).len();
        let balance = format!("answered {received} frames on 20 connections; ");
        let says = |text: &str| log.iter().any(|line| line.contains(text));
        assert!(says(&balance) && says(&format!("wrote {bytes}")), "{balance}\n{log:#?}");
    });
}

#[test]
fn the_last_words_say_what_was_answered_and_that_all_memory_is_back() {
    run(async {
        let server = Program::start("--mode fixed --slot-size 4k --capacity 8k").await;
        let mut client = Client::connect(server.address).await;
        client.echo(&frame(10, 1)).await;
        client.echo(&frame(4096, 2)).await;
        drop(client);

        server.signal(Signal::TERM);
        let (_, log) = server.ended().await;
        let says = |text: &str| log.iter().any(|line| line.contains(text));
        let answered = "answered 2 frames on 1 connections; read 4114 bytes, wrote 4114";
        assert!(says(answered) && says("0 bytes are in use"), "{log:#?}");
    });
}

/// Sends two signals to a program with an admin page, which would drain for an hour.
async fn expect_second_signal_to_end(mut server: Program) {
    let admin = server.admin().await;
    keep_busy(server.address, admin).await;

    server.signal(Signal::TERM);
    server.signal(Signal::INT);
    let (status, _) = server.ended().await;
    assert!(matches!(status.code(), Some(130 | 143)), "{status}");
}

#[test]
fn a_second_signal_ends_at_once() {
    run(async {
        let flags = "--admin 127.0.0.1:0 --drain-timeout 1h --write-timeout 1h";
        let server = Program::start(flags).await;
        expect_second_signal_to_end(server).await;
    });
}

#[test]
fn a_log_that_nobody_reads_changes_nothing() {
    run(async {
        let mut server = Program::start("").await;
        server.close_log();
        exceed(server.address, 1 << 20).await;
        server.stop().await;
    });
}

/// A pipe that is full. Its reader reads nothing.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = io::pipe().expect("a pipe");
    ioctl_fionbio(&writer, true).expect("a pipe that does not block");
    while writer.write(&[b'\n'; 4096]).is_ok() {}
    ioctl_fionbio(&writer, false).expect("a pipe that blocks");
    (reader, writer)
}

async fn start_with_a_log_that_is_stuck() -> (PipeReader, Program) {
    let (reader, writer) = full_pipe();
    let mut command = Command::new(program::PATH);
    let flags = "--listen 127.0.0.1:0 --admin 127.0.0.1:0 --log-filter trace \
                 --drain-timeout 1h --write-timeout 1h";
    command.args(flags.split_whitespace()).stdin(Stdio::null());
    (reader, Program::launch_logging_to(writer, command, 1).await)
}

#[test]
fn a_log_whose_reader_has_stopped_changes_nothing() {
    run(async {
        let (_stuck, server) = start_with_a_log_that_is_stuck().await;
        for seed in 0..20 {
            let mut client = Client::connect(server.address).await;
            client.echo(&frame(1000, seed)).await;
            client.close_and_expect_end().await;
        }
        exceed(server.address, 1 << 20).await;
        server.stop().await;
    });
}

#[test]
fn a_second_signal_ends_at_once_also_if_nobody_reads_the_log() {
    run(async {
        let (_stuck, server) = start_with_a_log_that_is_stuck().await;
        expect_second_signal_to_end(server).await;
    });
}

#[test]
fn nobody_is_accepted_any_more() {
    run(async {
        let server = Server::new(&Config::buddy()).expect("a configuration that works");
        // An address at which no other test listens: it could get the port.
        let listener = TcpListener::bind("127.77.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a listener that is bound");
        let stop = CancellationToken::new();
        let running = tokio::spawn({
            let stop = stop.clone();
            async move { server.run(listener, stop).await }
        });
        let mut client = Client::connect(address).await;
        client.echo(&frame(10, 1)).await;
        client.close_and_expect_end().await;

        stop.cancel();
        running.await.expect("a server that does not panic").expect("all is answered");
        // A program that another test starts has all our sockets until it has begun: it keeps the
        // listener for that long.
        while TcpStream::connect(address).await.is_ok() {
            sleep(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn a_peer_that_does_not_read_delays_the_end_no_longer_than_the_drain_timeout() {
    run(async {
        let drain_timeout = Duration::from_millis(100);
        let config = Config { write_timeout: HOUR, drain_timeout, ..Config::fixed() };
        let server = InProcess::start(&config).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let admin = listener.local_addr().expect("a listener that is bound");
        let shown = Admin::new(server.server().clone());
        tokio::spawn(shown.run(listener, CancellationToken::new()));
        let flood = keep_busy(server.address, admin).await;

        let drained = server.end().await;
        assert_eq!(drained.expect_err("the deaf peer").connections, 1);
        flood.await.expect("an error of the socket");
    });
}

/// Who has the only place keeps it until the others are answered.
#[test]
fn connections_without_a_place_are_answered_whoever_has_the_places() {
    run(async {
        let config = Config { max_connections: 1, drain_timeout: HOUR, ..Config::buddy() };
        let gate = Gate::new();
        let server = InProcess::start_with(&config, gate.clone()).await;
        let mut holder = gate.hold(server.address, 1000).await;
        let mut waiting = Vec::new();
        for seed in 0..20 {
            let mut client = Client::connect(server.address).await;
            client.send(&frames([1000, seed])).await;
            until_received(server.address, &client, 1000).await;
            waiting.push(client);
        }

        server.begin_to_stop();
        for (seed, client) in waiting.iter_mut().enumerate() {
            client.expect(&frames([1000, seed])).await;
            client.expect_end().await;
        }
        gate.open_for(1);
        holder.expect(&held(1000)).await;
        drop((holder, waiting));
        server.stop().await;
    });
}

#[test]
fn a_program_that_has_cut_somebody_off_says_so_and_exits_with_one() {
    run(async {
        let flags = "--admin 127.0.0.1:0 --drain-timeout 100ms --write-timeout 1h";
        let mut server = Program::start(flags).await;
        let admin = server.admin().await;
        let flood = keep_busy(server.address, admin).await;

        server.signal(Signal::TERM);
        let (status, log) = server.ended().await;
        flood.await.expect("an error of the socket");
        assert_eq!(status.code(), Some(1), "{log:#?}");
        let last = log.last().expect("a log");
        assert!(last.contains("ERROR cut off 1 connections"), "{last}");
        assert!(last.contains("within 100ms, the time of --drain-timeout"), "{last}");
    });
}

/// Such a peer leaves its socket open for longer than the server waits.
#[tokio::test]
async fn who_is_cut_off_when_all_is_answered_has_lost_nothing() {
    let drain_timeout = Duration::from_millis(1);
    let server = InProcess::start(&Config { drain_timeout, ..Config::buddy() }).await;
    let mut client = Client::connect(server.address).await;
    client.echo(&frame(10, 1)).await;

    // Time goes on when nobody has anything else to do.
    tokio::time::pause();
    server.stop().await;
    client.expect_end().await;
}
