//! A peer of the server.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    try_join,
};

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        stream.set_nodelay(true).expect("a socket that is connected");
        Self { stream }
    }

    /// Connects with as little room for what arrives as a socket can have: what this side does not
    /// read stays with the server.
    pub(crate) async fn connect_with_little_room(address: SocketAddr) -> Self {
        Self::connect_with_room(address, 1).await
    }

    /// Connects with room for so many bytes that arrive, and never more.
    pub(crate) async fn connect_with_room(address: SocketAddr, bytes: u32) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(bytes).expect("a socket");
        let stream = socket.connect(address).await.expect("the server listens");
        Self { stream }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.stream.local_addr().expect("a socket that is connected")
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the server reads");
    }

    /// Reads as many bytes as `expected` has, and compares.
    pub(crate) async fn expect(&mut self, expected: &[u8]) {
        let mut received = vec![0; expected.len()];
        self.stream.read_exact(&mut received).await.expect("a reply");
        compare(&received, expected);
    }

    /// Sends and reads at the same time, as long as both take.
    pub(crate) async fn exchange(&mut self, sent: &[u8], expected: &[u8]) {
        let (mut input, mut output) = self.stream.split();
        let mut received = vec![0; expected.len()];
        let write = output.write_all(sent);
        let (_, ()) = try_join!(input.read_exact(&mut received), write).expect("all replies");
        compare(&received, expected);
    }

    pub(crate) async fn echo(&mut self, frames: &[u8]) {
        self.exchange(frames, frames).await;
    }

    /// Expects that the server ends its output here, without a reset.
    pub(crate) async fn expect_end(&mut self) {
        let read = self.stream.read(&mut [0; 1]).await.expect("an end, not a reset");
        assert_eq!(read, 0, "bytes behind the last reply");
    }

    /// Ends the output of this side.
    pub(crate) async fn half_close(&mut self) {
        self.stream.shutdown().await.expect("a socket that is connected");
    }

    pub(crate) async fn close_and_expect_end(mut self) {
        self.half_close().await;
        self.expect_end().await;
    }

    /// Closes with a reset.
    pub(crate) fn reset(self) {
        self.stream.set_zero_linger().expect("a socket that is connected");
    }

    /// Sends `frame` again and again, reads nothing, and returns how the server ends that.
    pub(crate) async fn send_without_reading(&mut self, frame: &[u8]) -> io::Error {
        loop {
            if let Err(error) = self.stream.write_all(frame).await {
                return error;
            }
        }
    }
}

/// Says where the first difference is: the bytes themselves are too many to print.
fn compare(received: &[u8], expected: &[u8]) {
    let difference = received.iter().zip(expected).position(|(one, other)| one != other);
    assert_eq!(difference, None, "the replies differ from byte {difference:?} on");
}
