//! The echo as tokio-util's `LengthDelimitedCodec` sees it: frames of several sizes, one at a time
//! and then all at once.
//!
//! ```text
//! cargo run --example codec_client -- PORT SIZE..
//! ```

use std::{env, error::Error};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream};
use tokio::{join, net::TcpStream};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let port: u16 = arguments.next().ok_or("PORT SIZE..")?.parse()?;
    let sizes = arguments.map(|size| size.parse()).collect::<Result<Vec<usize>, _>>()?;
    let payloads: Vec<_> = sizes.iter().map(|size| payload(*size)).collect();

    let socket = TcpStream::connect(("127.0.0.1", port)).await?;
    let longest = sizes.iter().copied().max().unwrap_or_default();
    let codec = LengthDelimitedCodec::builder().max_frame_length(longest).new_codec();
    let (mut requests, mut replies) = Framed::new(socket, codec).split();

    for payload in &payloads {
        requests.send(payload.clone()).await?;
        let reply = replies.next().await.ok_or("the server closed the connection")??;
        assert!(reply == payload, "{} bytes came back as others", payload.len());
    }
    let again = || payloads.iter().chain(&payloads).cloned();
    let sent = async {
        requests.send_all(&mut stream::iter(again().map(Ok))).await?;
        requests.close().await
    };
    let received = async {
        for payload in again() {
            let reply = replies.next().await.ok_or("the server closed the connection")??;
            assert!(reply == payload, "{} bytes came back as others", payload.len());
        }
        Ok::<_, Box<dyn Error>>(replies.next().await.is_none())
    };
    let (sent, received) = join!(sent, received);
    sent?;
    assert!(received?, "more came back than was sent");
    println!(
        "LengthDelimitedCodec, tokio-util: {} frames of {} to {longest} bytes are equal",
        3 * sizes.len(),
        sizes.first().copied().unwrap_or_default(),
    );
    Ok(())
}

/// Bytes that depend on the size and on their place.
fn payload(size: usize) -> Bytes {
    let mut state = size as u64 | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..size).map(next).collect()
}
