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
//! running.await??;
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
//! | `stream`     | the kinds of connection: TCP, encrypted or not, and Unix sockets     |
//! | `connection` | the turns of one connection: wait for requests, handle, flush        |
//! | `handler`    | what is done with a request                                          |
//! | `transport`  | frames between a stream and arena memory                             |
//! | `frame`      | where frames begin and end; no I/O                                   |
//! | `memory`     | who may hold how much memory, and why nobody waits for ever          |
//! | `sizes`      | which sizes do not work together, and what would                     |
//! | `roster`     | which connections there are, and what each does, for people who look |
//! | `warnings`   | what the log says of trouble, and how often                          |
//! | `admin`      | what is shown over HTTP: metrics, readiness, the status page         |
//! | `codec`      | the same frames for tokio-util's `Framed`                            |
//! | `socket`     | what a server does with a socket besides                             |
//! | `tls`        | encrypted connections (feature `tls`)                                |

mod server;

mod listener;
mod places;
mod stream;
mod throttle;

mod connection;
mod handler;
mod roster;
mod socket;
mod stats;
mod stop;
#[cfg(feature = "tls")]
mod tls;
mod warnings;

mod admin;

mod codec;
mod frame;
mod transport;

mod memory;

mod config;
mod size;
mod sizes;

#[cfg(feature = "tls")]
pub use crate::tls::{Tls, TlsError, TlsFile, TlsFiles, TlsProblem, TlsStream};
pub use crate::{
    admin::Admin,
    codec::{AnyArena, ArenaCodec, CodecError, Exhaustion},
    config::{ArenaKind, Config, ConfigError, Limits, Problem, Reply},
    handler::{Echo, Handler, Replies, ReplyBuffer, Request, Requests},
    listener::{Listener, Listeners},
    memory::{Memory, MemoryError, MemoryMetrics, Plan, PlanError},
    server::{CutOff, Server},
    size::Size,
    stats::{Reject, ServerMetrics},
    stream::Stream,
    transport::{
        ArenaFramed, FrameError, FrameReader, FrameWriter, FramedBuilder, Probe, ReadReady,
        Timeouts,
    },
};
