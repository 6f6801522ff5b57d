//! More connections than there is room for.

use std::{
    fs, io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use arena_echo::{Config, CutOff, Listener, Server};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, prlimit};
use tokio::{
    net::TcpListener,
    process::Command,
    task::{JoinHandle, JoinSet},
    try_join,
};
use tokio_util::sync::CancellationToken;

use crate::support::{
    client::Client,
    in_process::InProcess,
    program::{self, Program},
    run,
    traffic::frame,
};

#[test]
fn a_connection_beyond_the_limit_is_served_when_another_ends() {
    run(async {
        let server = InProcess::start(&Config { max_connections: 1, ..Config::buddy() }).await;
        let mut first = Client::connect(server.address).await;
        first.echo(&frame(10, 1)).await;

        let mut second = Client::connect(server.address).await;
        let waiting = frame(10, 2);
        second.send(&waiting).await;
        for seed in 0..100 {
            first.echo(&frame(10, seed)).await;
        }
        let early = second.stream.try_read(&mut [0; 1]).map_err(|error| error.kind());
        assert_eq!(early, Err(io::ErrorKind::WouldBlock), "served beyond the limit");

        first.close_and_expect_end().await;
        second.expect(&waiting).await;
        second.close_and_expect_end().await;
        server.stop().await;
    });
}

/// A server with one place and two listeners.
struct OnePlace {
    server: Server,
    addresses: [SocketAddr; 2],
    stop: CancellationToken,
    running: JoinHandle<Result<(), CutOff>>,
}

impl OnePlace {
    async fn start() -> Self {
        let config = Config { max_connections: 1, ..Config::buddy() };
        let server = Server::new(&config).expect("a configuration that works");
        let bind = || TcpListener::bind("127.0.0.1:0");
        let (one, other) = try_join!(bind(), bind()).expect("free ports");
        let address = |listener: &TcpListener| listener.local_addr().expect("an address");
        let addresses = [address(&one), address(&other)];
        let stop = CancellationToken::new();
        let running = tokio::spawn({
            let (server, stop) = (server.clone(), stop.clone());
            let listeners = vec![Listener::from(one), Listener::from(other)];
            async move { server.run(listeners, stop).await }
        });
        Self { server, addresses, stop, running }
    }

    async fn stop(self) {
        self.stop.cancel();
        let drained = self.running.await.expect("a server that does not panic");
        drained.expect("all is answered");
    }
}

#[test]
fn listeners_share_the_limit() {
    run(async {
        let one_place = OnePlace::start().await;
        let [one, other] = one_place.addresses;
        for (first, second) in [(one, one), (one, other), (other, one), (other, other)] {
            let mut client = Client::connect(first).await;
            client.echo(&frame(10, 1)).await;
            assert_eq!(one_place.server.connections(), 1);

            let mut waiting = Client::connect(second).await;
            waiting.send(&frame(10, 2)).await;
            client.echo(&frame(10, 3)).await;
            let early = waiting.stream.try_read(&mut [0; 1]).map_err(|error| error.kind());
            assert_eq!(early, Err(io::ErrorKind::WouldBlock), "served beyond the limit");
            client.close_and_expect_end().await;
            waiting.expect(&frame(10, 2)).await;
            waiting.close_and_expect_end().await;
        }
        one_place.stop().await;
    });
}

#[test]
fn listeners_take_turns_while_connections_wait_at_all_of_them() {
    run(async {
        let one_place = OnePlace::start().await;
        let [one, other] = one_place.addresses;
        let mut first = Client::connect(one).await;
        first.echo(&frame(10, 1)).await;

        let mut waiting = JoinSet::new();
        let order = Arc::new(Mutex::new(Vec::new()));
        for (name, address) in [("one", one), ("one again", one), ("other", other)] {
            let mut client = Client::connect(address).await;
            client.send(&frame(10, 2)).await;
            let order = Arc::clone(&order);
            waiting.spawn(async move {
                client.expect(&frame(10, 2)).await;
                order.lock().expect("a list").push(name);
                client.close_and_expect_end().await;
            });
        }
        first.close_and_expect_end().await;
        waiting.join_all().await;
        assert_eq!(order.lock().expect("a list").last(), Some(&"one again"));
        one_place.stop().await;
    });
}

/// Lets the process have file descriptors up to the first number that it does not use, and so many
/// more.
fn leave_descriptors(server: &Program, more: u64) {
    let open = format!("/proc/{}/fd", server.id().as_raw_nonzero());
    let is_used = |number: &u64| fs::symlink_metadata(format!("{open}/{number}")).is_ok();
    let unused = (0..).find(|number| !is_used(number)).expect("there is a next number");
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit { current: Some(unused + more), maximum };
    prlimit(Some(server.id()), Resource::Nofile, limit).expect("a process of the same user");
}

#[test]
fn without_descriptors_each_connection_is_closed_at_once_until_there_are_some() {
    run(async {
        let mut server = Program::start("").await;
        // It keeps a descriptor to spare by the time it has served somebody.
        let mut first = Client::connect(server.address).await;
        first.echo(&frame(10, 0)).await;
        leave_descriptors(&server, 0);

        let mut closed = Client::connect(server.address).await;
        closed.expect_end().await;
        let peer = format!("closed the connection of {} unanswered", closed.address());
        server.until_logged(&peer).await;

        // So many that a pause for each lasts longer than any test may.
        let mut others = Vec::new();
        for _ in 0..200 {
            others.push(Client::connect(server.address).await);
        }
        for mut other in others {
            other.expect_end().await;
        }
        first.echo(&frame(10, 1)).await;

        leave_descriptors(&server, 100);
        let mut served = Client::connect(server.address).await;
        served.echo(&frame(10, 1)).await;
        served.close_and_expect_end().await;
        first.close_and_expect_end().await;
        server.stop().await;
    });
}

#[test]
fn without_descriptors_what_waits_at_the_signal_is_answered_as_others_end() {
    run(async {
        let server = Program::start("--max-connections 1 --drain-timeout 1h").await;
        let mut first = Client::connect(server.address).await;
        first.echo(&frame(10, 0)).await;
        let mut waiting = Vec::new();
        for seed in 0..20 {
            let mut client = Client::connect(server.address).await;
            client.send(&frame(10, seed)).await;
            waiting.push(client);
        }
        leave_descriptors(&server, 0);

        server.signal(Signal::TERM);
        first.expect_end().await;
        for (seed, mut client) in waiting.into_iter().enumerate() {
            client.expect(&frame(10, seed)).await;
            client.expect_end().await;
        }
        drop(first);
        let (status, log) = server.ended().await;
        assert!(status.success(), "{status}\n{log:#?}");
        let says = |text: &str| log.iter().any(|line| line.contains(text));
        assert!(says("connections wait to be accepted until others have ended"), "{log:#?}");
    });
}

/// Those in the queue are counted, although nobody ever saw them.
#[test]
fn who_still_waits_to_be_accepted_at_the_drain_timeout_is_cut_off() {
    run(async {
        let server = Program::start("--max-connections 1 --drain-timeout 0s").await;
        let mut first = Client::connect(server.address).await;
        first.echo(&frame(10, 0)).await;
        let mut waiting = Vec::new();
        for _ in 0..20 {
            waiting.push(Client::connect(server.address).await);
        }
        leave_descriptors(&server, 0);

        server.signal(Signal::TERM);
        let (status, log) = server.ended().await;
        assert_eq!(status.code(), Some(1), "{log:#?}");
        let last = log.last().expect("a log");
        let count = last.split_once("cut off ").and_then(|(_, rest)| rest.split(' ').next());
        let count: usize = count.and_then(|count| count.parse().ok()).expect("a number");
        // One is taken by the spare descriptor. That and the first may be done or not.
        assert!((19..=21).contains(&count), "{last}");
    });
}

#[test]
fn the_limit_of_the_system_lowers_that_of_connections_and_spares_some_descriptors() {
    run(async {
        let mut command = Command::new("sh");
        command.args(["-c", r#"ulimit -n 66 && exec "$0" "$@""#, program::PATH]);
        let mut server = Program::start_as(command).await;
        server.until_logged("2 connections at once, not the 10000 of max-connections").await;

        let mut served = Vec::new();
        for seed in 0..2 {
            let mut client = Client::connect(server.address).await;
            client.echo(&frame(10, seed)).await;
            served.push(client);
        }
        let mut waiting = Client::connect(server.address).await;
        waiting.send(&frame(10, 2)).await;
        server.until_logged("2 connections are the limit").await;
        served.pop().expect("a client that is served").close_and_expect_end().await;
        waiting.expect(&frame(10, 2)).await;
        drop((served, waiting));
        server.stop().await;
    });
}
