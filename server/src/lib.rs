#![forbid(unsafe_code)]
//! A TCP framing server whose frames live in a bounded arena.
//!
//! Each frame is a 4-byte big-endian payload length and the payload; the response is the same
//! frame. All payload memory comes from one [`arena`] of a fixed size. When there is none,
//! connections wait in line, and TCP carries that to their peers; the process does not grow.
//!
//! The listener and the signal to stop are arguments, so whoever embeds the server owns both:
//!
//! ```
//! use arena_echo::{Config, Server};
//! use tokio::{io::{AsyncReadExt, AsyncWriteExt}, net::{TcpListener, TcpStream}};
//! use tokio_util::sync::CancellationToken;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::new(&Config { capacity_bytes: 4 << 20, ..Config::buddy() })?;
//! let listener = TcpListener::bind("127.0.0.1:0").await?;
//! let address = listener.local_addr()?;
//!
//! let stop = CancellationToken::new();
//! let running = tokio::spawn({
//!     let (server, stop) = (server.clone(), stop.clone());
//!     async move { server.run(listener, stop).await }
//! });
//!
//! let mut client = TcpStream::connect(address).await?;
//! client.write_all(b"\0\0\0\x05hello").await?;
//! let mut reply = [0; 9];
//! client.read_exact(&mut reply).await?;
//! assert_eq!(&reply, b"\0\0\0\x05hello");
//!
//! stop.cancel();
//! running.await?;
//! assert_eq!(server.memory_metrics().bytes_live, 0);
//! # Ok(())
//! # }
//! ```
//!
//! # From the socket inwards
//!
//! | Module       | What it knows                                                        |
//! |--------------|----------------------------------------------------------------------|
//! | `server`     | the life of a server: build, accept, drain                           |
//! | `listener`   | when to accept, and when to wait before the next try                 |
//! | `places`     | how many connections there may be                                    |
//! | `stream`     | the two kinds of connection: TCP, and Unix sockets                   |
//! | `connection` | the turns of one connection: wait for input, hold memory, answer     |
//! | `socket`     | how bytes move without waiting longer than they must                 |
//! | `frame`      | where frames begin and end; no I/O                                   |
//! | `budget`     | who may hold memory, and why nobody waits for ever                   |
//! | `pool`       | the arena behind the two modes                                       |

mod server;

mod listener;
mod places;
mod stream;
mod throttle;

mod connection;
mod socket;

mod frame;

mod budget;
mod pool;

mod config;
mod size;

pub use crate::{
    config::{ArenaKind, Config, ConfigError, Limits, Problem, Reply},
    listener::{Listener, Listeners},
    pool::MemoryMetrics,
    server::Server,
    size::Size,
    stream::Stream,
};
