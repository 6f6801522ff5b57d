//! Reads that end early though more has arrived: before an urgent byte, and before a descriptor.
//! An event loop takes such a socket for drained.

use std::{io::IoSlice, mem::MaybeUninit, os::fd::AsFd, path::Path};

use rustix::{
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
    process::Signal,
};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::Command,
};

use crate::support::{
    client::Client,
    program::{self, Program},
    run,
    traffic::frame,
};

fn urgent(client: &Client) {
    let sent = SockRef::from(&client.stream).send_out_of_band(b"!").expect("a connection");
    assert_eq!(sent, 1);
}

/// Sends a frame, an urgent byte and another frame while the server does not look.
async fn interrupt(server: &Program, client: &mut Client, first: &[u8], second: &[u8]) {
    server.pause().await;
    client.send(first).await;
    urgent(client);
    client.send(second).await;
}

#[test]
fn a_frame_behind_an_urgent_byte_is_answered() {
    run(async {
        let server = Program::start("").await;
        for [first, second] in [[10, 20], [10, 40_000], [60_000, 10]] {
            let mut client = Client::connect(server.address).await;
            client.echo(&frame(5, 1)).await;
            let (first, second) = (frame(first, 2), frame(second, 3));
            interrupt(&server, &mut client, &first, &second).await;
            server.resume();
            client.expect(&[first, second].concat()).await;
            client.close_and_expect_end().await;
        }
        server.stop().await;
    });
}

#[test]
fn an_urgent_byte_inside_a_frame_is_no_part_of_it() {
    run(async {
        let server = Program::start("").await;
        let whole = frame(50_000, 1);
        for begun in [2, 4, 100, 40_000] {
            let mut client = Client::connect(server.address).await;
            let (begun, rest) = whole.split_at(begun);
            interrupt(&server, &mut client, begun, rest).await;
            server.resume();
            client.expect(&whole).await;
            client.close_and_expect_end().await;
        }
        server.stop().await;
    });
}

#[test]
fn urgent_bytes_all_along_lose_no_frame() {
    run(async {
        let server = Program::start("").await;
        let mut client = Client::connect(server.address).await;
        for seed in 0..30 {
            let whole = frame(1000, seed);
            client.send(&whole).await;
            urgent(&client);
            client.send(&whole).await;
            client.expect(&whole.repeat(2)).await;
        }
        client.close_and_expect_end().await;
        server.stop().await;
    });
}

#[test]
fn what_is_behind_an_urgent_byte_at_the_signal_is_answered() {
    run(async {
        let server = Program::start("").await;
        let mut client = Client::connect(server.address).await;
        client.echo(&frame(5, 1)).await;
        let (first, second) = (frame(10, 2), frame(50_000, 3));
        interrupt(&server, &mut client, &first, &second).await;
        server.signal(Signal::TERM);
        server.resume();
        client.expect(&[first, second].concat()).await;
        client.expect_end().await;
        let (status, log) = server.ended().await;
        assert!(status.success(), "{status}\n{log:#?}");
    });
}

#[test]
fn an_urgent_byte_with_nothing_behind_it_does_not_hold_the_end_up() {
    run(async {
        let server = Program::start("").await;
        let mut client = Client::connect(server.address).await;
        let whole = frame(10, 1);
        interrupt(&server, &mut client, &whole, &[]).await;
        server.signal(Signal::TERM);
        server.resume();
        client.expect(&whole).await;
        client.expect_end().await;
        let (status, log) = server.ended().await;
        assert!(status.success(), "{status}\n{log:#?}");
    });
}

async fn listening_on(path: &Path) -> Program {
    let mut command = Command::new(program::PATH);
    command.args(["--listen", &format!("unix:{}", path.display())]);
    Program::launch(command, 1).await
}

/// Sends a descriptor along with these bytes.
fn send_with_descriptor(stream: &UnixStream, bytes: &[u8]) {
    let descriptors = [stream.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let sent = sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::empty());
    assert_eq!(sent.expect("a connection"), bytes.len());
}

#[test]
fn frames_that_descriptors_come_with_are_answered() {
    run(async {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for ends in [false, true] {
            let path = folder.path().join("echo.sock");
            let server = listening_on(&path).await;
            let mut client = UnixStream::connect(&path).await.expect("it listens");
            let whole = [frame(10, 1), frame(20, 2), frame(3000, 3)];
            server.pause().await;
            client.write_all(&whole[0]).await.expect("room");
            send_with_descriptor(&client, &whole[1]);
            send_with_descriptor(&client, &whole[2]);
            if ends {
                server.signal(Signal::TERM);
            }
            server.resume();
            let expected = whole.concat();
            let mut received = vec![0; expected.len()];
            client.read_exact(&mut received).await.expect("all replies");
            assert!(received == expected);
            drop(client);
            if !ends {
                server.signal(Signal::TERM);
            }
            let (status, log) = server.ended().await;
            assert!(status.success(), "{status}\n{log:#?}");
        }
    });
}
