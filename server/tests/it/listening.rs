//! Where the program listens: several addresses, sockets in the file system, and what the sockets
//! are like.

use std::{fs, os::unix::fs::FileTypeExt, os::unix::net::UnixListener, path::Path, process::Stdio};

use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, UnixStream},
    process::Command,
};

use crate::support::{
    client::Client,
    program::{self, Program},
    run,
    traffic::frame,
    until,
};

fn listening_on(addresses: &[&str]) -> Command {
    let mut command = Command::new(program::PATH);
    command.stdin(Stdio::null());
    command.args(addresses.iter().flat_map(|address| ["--listen", address]));
    command
}

/// Runs a server that cannot listen, and returns what it says.
async fn refusal(addresses: &[&str]) -> String {
    let output = listening_on(addresses).kill_on_drop(true).output().await.expect("a program");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "it must not say that it listens");
    String::from_utf8(output.stderr).expect("text")
}

async fn echo_over_path(path: &Path) {
    let mut client = UnixStream::connect(path).await.expect("the server listens");
    let sent = [frame(10, 1), frame(0, 2), frame(1 << 20, 3)].concat();
    let mut received = vec![0; sent.len()];
    let (mut input, mut output) = client.split();
    let (read, written) = tokio::join!(input.read_exact(&mut received), output.write_all(&sent));
    read.and(written.map(|()| 0)).expect("all replies");
    assert!(received == sent, "the replies differ");
    client.shutdown().await.expect("a socket that is connected");
    assert_eq!(client.read(&mut [0; 1]).await.expect("an end"), 0);
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

#[test]
fn an_address_that_is_taken_is_an_error_even_if_the_name_has_another() {
    run(async {
        let Ok(taken) = std::net::TcpListener::bind("[::1]:0") else {
            eprintln!("skipped: this machine has no IPv6");
            return;
        };
        let port = taken.local_addr().expect("a listener that is bound").port();
        let said = refusal(&[&format!(":{port}")]).await;
        assert!(said.contains(&format!("--listen :{port}: cannot listen there")), "{said}");
    });
}

#[test]
fn an_output_that_takes_no_address_is_an_error_that_says_so() {
    run(async {
        let full = fs::File::options().write(true).open("/dev/full").expect("a device");
        let mut command = listening_on(&["127.0.0.1:0"]);
        let output = command.kill_on_drop(true).stdout(full).stderr(Stdio::piped()).spawn();
        let output = output.expect("a program").wait_with_output().await.expect("a program");
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("cannot write to the standard output: No space left"), "{said}");
    });
}

#[test]
fn every_address_is_announced_in_its_order_and_served() {
    run(async {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("echo.sock");
        let unix = format!("unix:{}", path.display());
        let command = listening_on(&["127.0.0.1:0", &unix, "localhost:0"]);
        let server = Program::launch(command, 3).await;

        assert!(server.labels[0].starts_with("127.0.0.1:"), "{:?}", server.labels);
        assert_eq!(server.labels[1], unix);
        for label in [&server.labels[0], &server.labels[2]] {
            let mut client = Client::connect(label.parse().expect("an address")).await;
            client.echo(&frame(10, 1)).await;
            client.close_and_expect_end().await;
        }
        echo_over_path(&path).await;
        server.stop().await;
    });
}

#[test]
fn a_port_alone_is_served_over_ipv6_and_ipv4() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return;
    }
    run(async {
        let server = Program::launch(listening_on(&[":0"]), 1).await;
        let port = server.labels[0].strip_prefix("[::]:").expect("every address");
        for host in ["127.0.0.1", "[::1]"] {
            let address = format!("{host}:{port}").parse().expect("an address");
            let mut client = Client::connect(address).await;
            client.echo(&frame(10, 1)).await;
            client.close_and_expect_end().await;
        }
        server.stop().await;
    });
}

#[test]
fn the_file_of_a_socket_is_removed_at_the_end() {
    run(async {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("echo.sock");
        let unix = format!("unix:{}", path.display());
        let server = Program::launch(listening_on(&[&unix]), 1).await;
        assert!(is_socket(&path));
        server.stop().await;
        assert!(!path.exists());
    });
}

#[test]
fn the_socket_of_a_dead_server_is_replaced() {
    run(async {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("echo.sock");
        drop(UnixListener::bind(&path).expect("a new path"));
        assert!(is_socket(&path), "what a server leaves that was killed");

        let unix = format!("unix:{}", path.display());
        let server = Program::launch(listening_on(&[&unix]), 1).await;
        echo_over_path(&path).await;
        server.stop().await;
    });
}

#[test]
fn the_socket_of_a_live_server_is_left_alone() {
    run(async {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("echo.sock");
        let unix = format!("unix:{}", path.display());
        let server = Program::launch(listening_on(&[&unix]), 1).await;

        let said = refusal(&[&unix]).await;
        assert!(said.contains("another server accepts there"), "{said}");
        echo_over_path(&path).await;
        server.stop().await;
    });
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    run(async {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("echo.sock");
        fs::write(&path, "precious").expect("a new file");
        let said = refusal(&[&format!("unix:{}", path.display())]).await;
        assert!(said.contains("there is a file that is no socket"), "{said}");
        assert_eq!(fs::read_to_string(&path).expect("the file"), "precious");
    });
}

#[test]
fn every_address_that_cannot_be_listened_on_is_named_and_nothing_is_left_behind() {
    run(async {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let taken = taken.local_addr().map(|address| (taken, address)).expect("an address");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("echo.sock");
        let nowhere = format!("unix:{}/nowhere/echo.sock", folder.path().display());
        let (taken, unix) = (taken.1.to_string(), format!("unix:{}", path.display()));

        let said = refusal(&[&taken, &unix, &nowhere]).await;
        for address in [&taken, &nowhere] {
            assert!(said.contains(&format!("--listen {address}: cannot listen there")), "{said}");
        }
        assert_eq!(said.lines().count(), 3, "the memory and two addresses:\n{said}");
        assert!(!path.exists());
    });
}

#[test]
fn two_servers_share_a_port_if_both_say_so() {
    run(async {
        let start = |address: String| {
            let mut command = listening_on(&[&address]);
            command.arg("--reuse-port");
            Program::launch(command, 1)
        };
        let one = start("127.0.0.1:0".to_owned()).await;
        let other = start(one.labels[0].clone()).await;
        assert_eq!(one.labels, other.labels);

        let said = refusal(&[&one.labels[0]]).await;
        assert!(said.contains("Address already in use"), "{said}");
        for _ in 0..10 {
            let mut client = Client::connect(one.address).await;
            client.echo(&frame(10, 1)).await;
            client.close_and_expect_end().await;
        }
        one.stop().await;
        other.stop().await;
    });
}

#[test]
fn silent_connections_are_probed_unless_that_is_off() {
    run(async {
        for (flags, is_probed) in [("", true), ("--keepalive off", false)] {
            let server = Program::start(flags).await;
            let mut client = Client::connect(server.address).await;
            client.echo(&frame(10, 1)).await;
            let ports = (server.address.port(), client.address().port());
            // The timer of a connection from whose peer nothing is awaited.
            let expected = if is_probed { "02" } else { "00" };
            until(|| connection(ports).is_some_and(|end| end.timer == expected)).await;
            drop(client);
            server.stop().await;
        }
    });
}

#[test]
fn more_clients_than_the_backlog_wait_outside() {
    run(async {
        for backlog in [1, 20] {
            let server = Program::start(&format!("--backlog {backlog}")).await;
            // Nothing is accepted while the process is stopped.
            server.pause().await;
            let mut inside = Vec::new();
            // The system lets one more wait than it is told. One after the other: of several that
            // knock at the same moment it may let more in.
            for _ in 0..=backlog {
                inside.push(Client::connect(server.address).await);
            }
            // Who has connected is on the way into the queue.
            until(|| queued(server.address.port()) == Some(backlog + 1)).await;

            let knocking = TcpSocket::new_v4().expect("a socket");
            knocking.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
            let ports = knocking.local_addr().expect("an address").port();
            let ports = (ports, server.address.port());
            let mut outside = tokio::spawn(knocking.connect(server.address));
            until(|| connection(ports).is_some_and(|outside| outside.is_knocking_again())).await;
            assert!(!outside.is_finished());

            server.resume();
            let admitted = (&mut outside).await.expect("a task that ends");
            drop(admitted.expect("the server has room again"));
            drop(inside);
            server.stop().await;
        }
    });
}

/// What the system says of one end of a connection.
struct Connection {
    state: String,
    timer: String,
    retransmits: String,
}

impl Connection {
    /// It has asked to be let in more than once, and was not answered.
    fn is_knocking_again(&self) -> bool {
        const SYN_SENT: &str = "02";
        self.state == SYN_SENT && self.retransmits != "00000000"
    }
}

/// How many connections wait to be accepted at this port.
fn queued(port: u16) -> Option<usize> {
    const LISTEN: &str = "0A";
    let table = fs::read_to_string("/proc/net/tcp").expect("a table of connections");
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let (_, queued) = columns[4].split_once(':')?;
        (columns[1].ends_with(&format!(":{port:04X}")) && columns[3] == LISTEN)
            .then(|| usize::from_str_radix(queued, 16).expect("hexadecimal digits"))
    })
}

/// The end of a connection at the first of two ports.
fn connection((local, peer): (u16, u16)) -> Option<Connection> {
    let table = fs::read_to_string("/proc/net/tcp").expect("a table of connections");
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let matches = |address: &str, port: u16| address.ends_with(&format!(":{port:04X}"));
        let (timer, _) = columns[5].split_once(':')?;
        (matches(columns[1], local) && matches(columns[2], peer)).then(|| Connection {
            state: columns[3].to_owned(),
            timer: timer.to_owned(),
            retransmits: columns[6].to_owned(),
        })
    })
}

#[test]
fn connections_that_wait_to_be_accepted_when_the_signal_comes_are_answered() {
    run(async {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("echo.sock");
        let unix = format!("unix:{}", path.display());
        let mut command = listening_on(&["127.0.0.1:0", &unix]);
        command.args(["--max-connections", "1", "--drain-timeout", "1h"]);
        let server = Program::launch(command, 2).await;

        // Nothing is accepted while the process is stopped.
        server.pause().await;
        let mut clients = Vec::new();
        for seed in 0..20 {
            let mut client = Client::connect(server.address).await;
            client.send(&frame(100, seed)).await;
            clients.push(client);
        }
        let mut other = UnixStream::connect(&path).await.expect("the server listens");
        other.write_all(&frame(100, 20)).await.expect("a socket that is connected");
        server.signal(Signal::TERM);
        server.resume();

        for (seed, mut client) in clients.into_iter().enumerate() {
            client.expect(&frame(100, seed)).await;
            client.expect_end().await;
        }
        let mut reply = Vec::new();
        other.read_to_end(&mut reply).await.expect("a reply and an end");
        assert!(reply == frame(100, 20), "the reply differs");
        drop(other);
        let (status, log) = server.ended().await;
        assert!(status.success(), "{status}\n{log:#?}");
    });
}
