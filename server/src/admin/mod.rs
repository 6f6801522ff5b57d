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
//! It bounds what it costs, too: [`CONNECTIONS_MAX`] at once, of which half may be for events; one
//! request a connection, answered within [`ANSWER_TIMEOUT`]; a peer that takes nothing is gone
//! after [`UNREAD_TIMEOUT`]. Who asks for nothing keeps nobody out: see [`accept`].
//!
//! A panic stays here: see [`restart_after_panics`].

mod events;
mod exhaustion;
mod exposition;
mod map;
mod samples;
mod site;

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    num::NonZeroUsize,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use futures_util::FutureExt;
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
use tracing::{error, warn};

use self::{events::Content, site::Site};
#[cfg(feature = "tls")]
use crate::tls::Tls;
use crate::{
    handler::{Echo, Handler},
    server::Server,
    throttle::{Throttle, WARN_EVERY},
};

/// Connections at once. A further one takes the place of one that has not asked yet, or waits.
const CONNECTIONS_MAX: NonZeroUsize = NonZeroUsize::new(32).unwrap();

/// From the first byte of a request to the last of its answer, unless that is a stream of events.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long nobody else gets the place of a peer that has not asked yet: more than a round trip,
/// and so short that the longest queue of a listener passes within the timeout of a probe.
const UNASKED_MIN: Duration = Duration::from_millis(20);

/// How long a peer may leave unread what was sent to it.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(20);

/// What the system keeps for a peer beyond what the peer has room for: a few events.
const UNSENT_BYTES_MAX: u32 = 64 << 10;

/// How long those that are being answered at the end have.
const END_TIMEOUT: Duration = Duration::from_millis(500);

/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Whoever has waited for memory for so long shows that there are too many connections here.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Pause after an error of the listener, which the next try would meet again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Pause before a part that has panicked is started again: it may panic each time.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

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
    connections_max: NonZeroUsize,
    deadlines: Deadlines,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
}

/// How long its peers may take.
#[derive(Clone, Copy, Debug)]
struct Deadlines {
    answer: Duration,
    unread: Duration,
}

impl<H: Handler> Admin<H> {
    /// Shows `server`.
    pub fn new(server: Server<H>) -> Self {
        let deadlines = Deadlines { answer: ANSWER_TIMEOUT, unread: UNREAD_TIMEOUT };
        Self {
            server,
            wait_max: WAIT_MAX,
            connections_max: CONNECTIONS_MAX,
            deadlines,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Shows in `/metrics` until when the certificate of `tls` is valid.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(self, tls: Option<Tls>) -> Self {
        Self { tls, ..self }
    }

    /// Sets for how long somebody may wait for memory before `/readyz` says that the server is not
    /// ready for more. Ten seconds by default: well above what a burst needs. If half of the memory
    /// timeout is less, that counts, and so does a connection that is closed for it. The server is
    /// ready again when there has been neither for this time and five seconds.
    #[must_use]
    pub fn wait_max(self, wait_max: Duration) -> Self {
        Self { wait_max, ..self }
    }

    /// Sets how many connections there may be at once. 32 by default. Half of them, rounded down,
    /// may be for `/events`: metrics have the others. For a further one, the oldest is closed that
    /// has sent no whole request in 20 milliseconds. If all have asked, the further one waits.
    #[must_use]
    pub fn connections_max(self, connections_max: NonZeroUsize) -> Self {
        Self { connections_max, ..self }
    }

    /// Sets how long a peer may take to ask and to read the answer, unless that is a stream of
    /// events. Then it is cut off. Ten seconds by default, which is what Prometheus gives a scrape.
    #[must_use]
    pub fn answer_timeout(self, answer: Duration) -> Self {
        Self { deadlines: Deadlines { answer, ..self.deadlines }, ..self }
    }

    /// Sets how long a peer may take nothing of what it was sent, be it the thousandth event: then
    /// it is cut off. Whole milliseconds, one at least. 20 seconds by default, for networks that
    /// lose packets.
    #[must_use]
    pub fn unread_timeout(self, unread: Duration) -> Self {
        Self { deadlines: Deadlines { unread, ..self.deadlines }, ..self }
    }

    /// Answers requests from `listener` until `stop` is cancelled.
    ///
    /// That should be when the server has ended, so that `/readyz` says that it drains.
    ///
    /// A panic does not leave it: it is logged, and what has panicked is started again.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the listener and all connections.
    pub async fn run(self, listener: TcpListener, stop: CancellationToken) {
        let over = CancellationToken::new();
        let _over_when_dropped = over.clone().drop_guard();
        let Self { server, wait_max, connections_max, deadlines, .. } = self;
        let connections_max = connections_max.get().min(Semaphore::MAX_PERMITS);
        let subscribers_max = connections_max / 2;
        let site = Site::new(server, wait_max, subscribers_max, over.clone());
        #[cfg(feature = "tls")]
        let site = site.tls(self.tls);
        let site = Arc::new(site);
        let places = Arc::new(Semaphore::new(connections_max));
        let exits = Arc::new(Semaphore::new(0));
        let connections = TaskTracker::new();
        let cut = CancellationToken::new();
        let _cut_when_dropped = cut.clone().drop_guard();
        let answer = |stream| {
            let (site, cut) = (Arc::clone(&site), cut.child_token());
            let exits = Arc::clone(&exits);
            async move {
                cut.run_until_cancelled(serve(stream, site, &exits, deadlines)).await;
            }
        };
        select! {
            () = stop.cancelled() => {}
            () = restart_after_panics("what takes the figures", || site.watch()) => {}
            () = restart_after_panics("what accepts connections", || {
                accept(&listener, &places, &exits, &connections, &answer)
            }) => {}
        }
        drop(listener);
        over.cancel();
        connections.close();
        // Whoever is not done then is cut off.
        let _ = timeout(END_TIMEOUT, connections.wait()).await;
    }
}

/// Runs a part of the admin server until it ends, and starts it again whenever it panics.
///
/// What it shares with others stays in order: locks are taken whether they are poisoned or not.
async fn restart_after_panics<F: Future<Output = ()>>(part: &str, start: impl Fn() -> F) {
    while AssertUnwindSafe(start()).catch_unwind().await.is_err() {
        error!("admin: {part} has panicked, and is started again in {RESTART_PAUSE:?}");
        sleep(RESTART_PAUSE).await;
    }
}

/// Accepts connections, and gives each a place.
///
/// If there is none, one of `exits` is opened. Connections that have not asked yet queue there. The
/// first leaves, though not before [`UNASKED_MIN`]: if its request comes until then, it stays, and
/// the exit is for the next. If nobody leaves, a place is free when somebody has been answered.
async fn accept<A: Future<Output = ()> + Send + 'static>(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    exits: &Semaphore,
    connections: &TaskTracker,
    answer: impl Fn(TcpStream) -> A,
) {
    loop {
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
        if places.available_permits() == 0 {
            exits.add_permits(1);
        }
        let place = Arc::clone(places).acquire_owned().await.expect("nobody closes it");
        // Nobody need leave now, also not by an exit that somebody has come back from since.
        exits.forget_permits(1);
        let answered = answer(stream);
        connections.spawn(async move {
            answered.await;
            drop(place);
        });
    }
}

/// Answers one request, or leaves by one of `exits` before it has come. Errors are those of the
/// peer, and nobody else's business.
async fn serve<H: Handler>(
    stream: TcpStream,
    site: Arc<Site<H>>,
    exits: &Semaphore,
    deadlines: Deadlines,
) {
    let _ = stream.set_nodelay(true);
    let socket = SockRef::from(&stream);
    // The system watches that what is sent is taken, also where it only lies in its own queue.
    let _ = socket.set_tcp_user_timeout(Some(deadlines.unread));
    // Short, so that events are not kept there for who does not read them.
    let _ = socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
    // Relaxed, both: read by this very task.
    let (has_asked, is_subscriber) = (AtomicBool::new(false), AtomicBool::new(false));
    let service = service_fn(async |request| {
        has_asked.store(true, Relaxed);
        let response = site.answer(request).await;
        is_subscriber.store(matches!(response.body(), Content::Events(_)), Relaxed);
        Ok::<_, Infallible>(response)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(deadlines.answer)
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    pin!(connection);
    let unasked = sleep(UNASKED_MIN);
    let leaving = async {
        let exit = exits.acquire().await.expect("nobody closes it");
        unasked.await;
        exit.forget();
    };
    let answered = async {
        let is_over = poll_fn(|context| match connection.as_mut().poll(context) {
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending if has_asked.load(Relaxed) => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        });
        select! {
            // A request that has come is answered.
            biased;
            is_over = is_over => if is_over { return },
            () = leaving => return,
        }
        let _ = connection.as_mut().await;
    };
    if timeout(deadlines.answer, answered).await.is_err() && is_subscriber.load(Relaxed) {
        let _ = connection.await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_part_that_panics_is_started_again() {
        let starts = AtomicUsize::new(0);
        restart_after_panics("a part of this test", async || {
            let earlier = starts.fetch_add(1, Relaxed);
            tokio::task::yield_now().await;
            assert!(earlier >= 2, "the first two panic");
        })
        .await;
        assert_eq!(starts.into_inner(), 3);
    }
}
