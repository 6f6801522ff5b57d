//! `Admin`: what operators and their machines see of a server, over HTTP.
//!
//! | Path       | What it is                                                             |
//! |------------|------------------------------------------------------------------------|
//! | `/metrics` | all figures, as Prometheus reads them                                  |
//! | `/healthz` | 200 as long as this process answers                                    |
//! | `/readyz`  | 200 if it makes sense to send more connections here, else 503 and why  |
//! | `/`        | the status page: complete in itself, so it works without an internet   |
//! | `/events`  | what moves on that page: server-sent events, one a second              |
//!
//! It only reads, and only what is counted anyway. Nothing is drawn while nobody looks, and what is
//! drawn is the same bytes for everybody who does. Who reads slowly misses something: nothing is
//! kept for him.
//!
//! It bounds what it costs, too: [`CONNECTIONS_MAX`] at once, of which [`SUBSCRIBERS_MAX`] may be
//! for events; one request a connection, answered within [`ANSWER_TIMEOUT`]; a peer that takes
//! nothing is gone after [`UNREAD_TIMEOUT`].

mod events;
mod exposition;
mod map;
mod samples;
mod site;

use std::{
    convert::Infallible,
    future::ready,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    pin, select,
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use self::{events::Content, site::Site};
use crate::{
    handler::{Echo, Handler},
    server::Server,
    throttle::{Throttle, WARN_EVERY},
};

/// Connections at once. Further ones wait in the queue of the listener.
const CONNECTIONS_MAX: usize = 32;

/// How many of them may be for events, so that there is room for metrics.
const SUBSCRIBERS_MAX: usize = 16;

const _: () = assert!(SUBSCRIBERS_MAX < CONNECTIONS_MAX);

/// From the first byte of a request to the last of its answer, unless that is a stream of events.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a peer may leave unread what was sent to it.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(20);

/// How long those that are being answered at the end have.
const END_TIMEOUT: Duration = Duration::from_millis(500);

/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Whoever has waited for memory for so long shows that there are too many connections here.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Pause after an error of the listener, which the next try would meet again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Shows a [`Server`] over HTTP: metrics, readiness, and a live status page.
///
/// It has no password and shows the addresses of peers, so its listener belongs on this machine or
/// into a network of operators.
///
/// # Examples
///
/// ```
/// use arena_echo::{Admin, Config, Server};
/// use tokio::{io::{AsyncReadExt, AsyncWriteExt}, net::{TcpListener, TcpStream}};
/// use tokio_util::sync::CancellationToken;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = Server::new(&Config { capacity_bytes: 4 << 20, ..Config::buddy() })?;
/// let listener = TcpListener::bind("127.0.0.1:0").await?;
/// let address = listener.local_addr()?;
///
/// let stop = CancellationToken::new();
/// let running = tokio::spawn(Admin::new(server).run(listener, stop.clone()));
///
/// let mut client = TcpStream::connect(address).await?;
/// client.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
/// let mut answer = String::new();
/// client.read_to_string(&mut answer).await?;
/// assert!(answer.starts_with("HTTP/1.1 200 OK"));
///
/// stop.cancel();
/// running.await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Admin<H = Echo> {
    server: Server<H>,
    wait_max: Duration,
}

impl<H: Handler> Admin<H> {
    /// Shows `server`.
    pub fn new(server: Server<H>) -> Self {
        Self { server, wait_max: WAIT_MAX }
    }

    /// Sets for how long somebody may wait for memory before `/readyz` says that the server is not
    /// ready for more. Ten seconds by default: below the default memory timeout, beyond which
    /// connections are closed, and well above what a burst needs.
    #[must_use]
    pub fn wait_max(self, wait_max: Duration) -> Self {
        Self { wait_max, ..self }
    }

    /// Answers requests from `listener` until `stop` is cancelled.
    ///
    /// That should be when the server has ended, so that `/readyz` says that it drains.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the listener and all connections.
    pub async fn run(self, listener: TcpListener, stop: CancellationToken) {
        let over = CancellationToken::new();
        let _over_when_dropped = over.clone().drop_guard();
        let site = Arc::new(Site::new(self.server, self.wait_max, over.clone()));
        let connections = TaskTracker::new();
        let cut = CancellationToken::new();
        let _cut_when_dropped = cut.clone().drop_guard();
        select! {
            () = stop.cancelled() => {}
            () = site.watch() => {}
            () = accept(&listener, &site, &connections, &cut) => {}
        }
        drop(listener);
        over.cancel();
        connections.close();
        // Whoever is not done then is cut off.
        let _ = timeout(END_TIMEOUT, connections.wait()).await;
    }
}

async fn accept<H: Handler>(
    listener: &TcpListener,
    site: &Arc<Site<H>>,
    connections: &TaskTracker,
    cut: &CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("nobody closes it");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                static THROTTLE: Throttle = Throttle::new(WARN_EVERY);
                if THROTTLE.pass().is_some() {
                    warn!("admin: cannot accept: {error}");
                }
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (site, cut) = (Arc::clone(site), cut.child_token());
        connections.spawn(async move {
            cut.run_until_cancelled(serve(stream, site)).await;
            drop(place);
        });
    }
}

/// Answers one request. Errors are those of the peer, and nobody else's business.
async fn serve<H: Handler>(stream: TcpStream, site: Arc<Site<H>>) {
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(UNREAD_TIMEOUT));
    let is_subscriber = AtomicBool::new(false);
    let service = service_fn(|request| {
        let response = site.answer(&request);
        // Relaxed: read by this very task.
        is_subscriber.store(matches!(response.body(), Content::Events(_)), Relaxed);
        ready(Ok::<_, Infallible>(response))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ANSWER_TIMEOUT)
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    pin!(connection);
    if timeout(ANSWER_TIMEOUT, connection.as_mut()).await.is_err() && is_subscriber.load(Relaxed) {
        let _ = connection.await;
    }
}
