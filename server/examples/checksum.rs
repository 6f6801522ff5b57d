//! A server of one's own in a page: it answers each frame with the CRC-32 of its payload.
//!
//! ```sh
//! cargo run --example checksum -- 127.0.0.1:9000
//! ```
//!
//! Its replies are four bytes each and copied into arena memory; a frame as long as the limit costs
//! no more of it than while it is read. The rest (limits, deadlines, draining) is the server's.

use std::env;

use arena_echo::{Config, FrameError, Handler, Replies, Request, Server};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

struct Checksum;

impl Handler for Checksum {
    async fn handle(
        &self,
        request: Request<'_>,
        replies: &mut Replies<'_>,
    ) -> Result<(), FrameError> {
        replies.copy(&crc32(&request).to_be_bytes()).await
    }
}

/// The checksum of Ethernet, gzip and PNG.
fn crc32(bytes: &[u8]) -> u32 {
    let shifted = |crc: u32| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| shifted(crc)))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9000".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);

    let server = Server::with_handler(&Config::buddy(), Checksum)?;
    let stop = CancellationToken::new();
    let running = server.run(listener, stop.clone());
    tokio::pin!(running);
    tokio::select! {
        drained = &mut running => drained?,
        _ = tokio::signal::ctrl_c() => {
            stop.cancel();
            running.await?;
        }
    }
    Ok(())
}
