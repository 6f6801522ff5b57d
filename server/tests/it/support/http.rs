//! Requests as a browser or a scraper makes them.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::sleep,
};

/// How long to wait before asking again.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Asks, and reads the answer to its end.
pub(crate) async fn request(address: SocketAddr, method: &str, path: &str) -> Answer {
    let mut stream = send(address, method, path).await;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("an answer of text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.expect("a status");
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    request(address, "GET", path).await
}

/// Waits until the server cannot go on before its only peer takes more of a reply.
///
/// The peer has to be one that [connected with little
/// room](super::client::Client::connect_with_little_room): then nothing moves any more.
pub(crate) async fn until_writing(admin: SocketAddr) {
    let is_writing = "echo_connections_by_state{state=\"writing\"} 1\n";
    while !get(admin, "/metrics").await.body.contains(is_writing) {
        sleep(ASK_AGAIN).await;
    }
}

async fn send(address: SocketAddr, method: &str, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("the server listens");
    let request = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("the server reads");
    stream
}

/// A stream of events.
pub(crate) struct Events(BufReader<TcpStream>);

impl Events {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let mut reader = BufReader::new(send(address, "GET", "/events").await);
        let mut line = String::new();
        reader.read_line(&mut line).await.expect("an answer of text");
        assert!(line.starts_with("HTTP/1.1 200 "), "{line}");
        Self(reader)
    }

    /// Waits for the next event of this name, and returns its data. `None` is the end.
    pub(crate) async fn next(&mut self, name: &str) -> Option<Value> {
        let wanted = format!("event: {name}\n");
        let mut line = String::new();
        let mut is_wanted = false;
        loop {
            line.clear();
            if self.0.read_line(&mut line).await.expect("an answer of text") == 0 {
                return None;
            }
            // Lines of chunks lie in between.
            if line.starts_with("event: ") {
                is_wanted = line == wanted;
            } else if is_wanted && let Some(data) = line.strip_prefix("data: ") {
                return Some(serde_json::from_str(data).expect("JSON"));
            }
        }
    }
}
