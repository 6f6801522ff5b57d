//! When to accept, and when to wait before the next try.
//!
//! Nothing is accepted that has no place: further connections wait in the queue of the listener. If
//! the system has no file descriptor left in spite of that, a spare one is given up for a moment,
//! to take the first connection of the queue and close it. So its peer learns at once that it is
//! not served, and can go elsewhere.
//!
//! When the server stops, what is in the queue has been accepted by the system already, and its
//! peers may have sent frames. Those are answered too.

use std::{
    fs::File,
    future::{Future, poll_fn},
    io::{self, ErrorKind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::io::Errno;
use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, info_span, warn};

#[cfg(feature = "tls")]
use crate::tls::Tls;
use crate::{
    places::{Place, Places},
    roster::Name,
    stream::Stream,
    throttle::{Throttle, WARN_EVERY},
};

/// The first and the longest pause after an error that the next try would meet again.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The most connections that a queue is expected to hold.
const QUEUE_MAX: usize = 1 << 16;

/// What the system takes of a peer's replies beyond what the peer has room for. A socket counts as
/// writable below half of it: then the replies to a read block fit, and a peer that does not read
/// keeps no memory of the arena for them.
const UNSENT_BYTES_MAX: u32 = 128 << 10;

/// How a peer that does not answer is probed, once it has been silent.
const PROBES: u32 = 6;
const PROBE_EVERY: Duration = Duration::from_secs(10);

/// A socket that accepts connections.
#[derive(Debug)]
pub struct Listener {
    socket: Accepting,
    keepalive: Option<Duration>,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
}

#[derive(Debug)]
enum Accepting {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// The sockets on which a server accepts connections.
#[derive(Debug)]
pub struct Listeners {
    listeners: Vec<Listener>,
    /// Whose turn it is.
    turn: AtomicUsize,
}

impl Listener {
    fn new(socket: Accepting) -> Self {
        Self {
            socket,
            keepalive: None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Has connections probed that have been silent for this long. `None` for never.
    ///
    /// Whole seconds, and only over TCP. A peer that does not answer is gone: reads fail.
    #[must_use]
    pub fn keepalive(self, keepalive: Option<Duration>) -> Self {
        Self { keepalive, ..self }
    }

    /// Encrypts the connections, unless they are in the file system.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(self, tls: Option<Tls>) -> Self {
        Self { tls, ..self }
    }

    /// Returns its real address, as `host:port` or `unix:/path`.
    ///
    /// # Errors
    ///
    /// Those of the system.
    pub fn label(&self) -> io::Result<String> {
        match &self.socket {
            Accepting::Tcp(listener) => Ok(listener.local_addr()?.to_string()),
            Accepting::Unix(listener) => {
                let address = listener.local_addr()?;
                let path = address.as_pathname().map(|path| path.display().to_string());
                Ok(format!("unix:{}", path.as_deref().unwrap_or("unnamed")))
            }
        }
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        let stream: Stream = match &self.socket {
            Accepting::Tcp(listener) => ready!(listener.poll_accept(context))?.0.into(),
            Accepting::Unix(listener) => ready!(listener.poll_accept(context))?.0.into(),
        };
        Poll::Ready(Ok(self.prepare(stream)))
    }

    /// Takes the first connection of the queue, asking the system rather than what is known of its
    /// readiness.
    fn accept_now(&self) -> io::Result<Stream> {
        let stream = match &self.socket {
            Accepting::Tcp(listener) => {
                let socket = accept_now(&SockRef::from(listener))?;
                Stream::Tcp(TcpStream::from_std(socket.into())?)
            }
            Accepting::Unix(listener) => {
                let socket = accept_now(&SockRef::from(listener))?;
                Stream::Unix(UnixStream::from_std(socket.into())?)
            }
        };
        Ok(self.prepare(stream))
    }

    /// Makes a connection that was accepted what it is to be.
    fn prepare(&self, stream: Stream) -> Stream {
        let Stream::Tcp(tcp) = stream else { return stream };
        self.set_options(&tcp);
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.accept(tcp).into();
        }
        tcp.into()
    }

    /// Sets the options of a connection. One that is gone already is no trouble.
    fn set_options(&self, tcp: &TcpStream) {
        let kept_alive = self.keepalive.map_or(Ok(()), |silence| {
            let probes = TcpKeepalive::new().with_time(silence);
            let probes = probes.with_interval(PROBE_EVERY).with_retries(PROBES);
            SockRef::from(tcp).set_tcp_keepalive(&probes)
        });
        let unsent = SockRef::from(tcp).set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
        let prepared = tcp.set_nodelay(true).and(kept_alive).and(unsent);
        if let Err(error) = prepared
            && error.kind() != ErrorKind::InvalidInput
        {
            static THROTTLE: Throttle = Throttle::new(WARN_EVERY);
            if THROTTLE.pass().is_some() {
                warn!("cannot set the options of a connection: {error}");
            }
        }
    }
}

fn accept_now(listener: &SockRef<'_>) -> io::Result<Socket> {
    let (socket, _) = listener.accept()?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::new(Accepting::Tcp(listener))
    }
}

impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self::new(Accepting::Unix(listener))
    }
}

impl<L: Into<Listener>> From<L> for Listeners {
    fn from(listener: L) -> Self {
        vec![listener.into()].into()
    }
}

impl From<Vec<Listener>> for Listeners {
    fn from(listeners: Vec<Listener>) -> Self {
        Self { listeners, turn: AtomicUsize::new(0) }
    }
}

/// Accepts the connections of a server and serves each in a task of its own.
pub(crate) struct Acceptor<'s, F> {
    listeners: Listeners,
    places: &'s Arc<Places>,
    connections: &'s TaskTracker,
    serve: F,
    accepted: u64,
    spare: Spare,
}

impl<'s, F, S> Acceptor<'s, F>
where
    F: Fn(Stream, Name) -> S + Clone + Send + 'static,
    S: Future<Output = ()> + Send + 'static,
{
    /// Does what `serve` says with each connection, in a task among `connections`.
    pub(crate) fn new(
        listeners: Listeners,
        places: &'s Arc<Places>,
        connections: &'s TaskTracker,
        serve: F,
    ) -> Self {
        Self { listeners, places, connections, serve, accepted: 0, spare: Spare::new() }
    }

    /// Accepts connections until `stop` is cancelled, as long as they have places.
    pub(crate) async fn accept_until(&mut self, stop: &CancellationToken) {
        let mut pause = PAUSE_MIN;
        loop {
            if self.places.is_full() {
                warn_of_full(self.places.limit());
            }
            let next = async {
                self.places.free().await;
                self.listeners.accept().await
            };
            match stop.run_until_cancelled(next).await {
                None => return,
                Some(Ok(stream)) => {
                    pause = PAUSE_MIN;
                    self.serve(stream);
                }
                Some(Err(error)) if is_of_one_connection(&error) => {}
                Some(Err(error)) => {
                    let is_of_descriptors = is_out_of_descriptors(&error);
                    let closed = is_of_descriptors.then(|| self.spare.close_one(&self.listeners));
                    warn_of_failure(&error, closed.flatten().as_deref(), pause);
                    stop.run_until_cancelled(sleep(pause)).await;
                    pause = PAUSE_MAX.min(pause * 2);
                }
            }
        }
    }

    /// Takes what is in the queues, without waiting, and closes the listeners.
    ///
    /// Places are not waited for: whoever has one may keep it for as long as the server has to
    /// end, and what is in the queues has been accepted by the system.
    pub(crate) fn take_queues(&mut self) {
        while let Some(listener) = self.listeners.listeners.pop() {
            for _ in 0..QUEUE_MAX {
                match listener.accept_now() {
                    Ok(stream) => self.serve(stream),
                    Err(error) if is_of_one_connection(&error) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => {
                        warn!("connections that waited to be accepted are lost: {error}");
                        break;
                    }
                }
            }
        }
    }

    fn serve(&mut self, stream: Stream) {
        self.accepted += 1;
        let name = Name { id: self.accepted, peer: stream.peer_label() };
        let span = info_span!("connection", id = name.id, peer = name.peer);
        let (place, serve) = (self.places.enter(), self.serve.clone());
        let task = async move {
            let _place: Place = place;
            serve(stream, name).await;
        };
        self.connections.spawn(task.instrument(span));
    }
}

impl Listeners {
    /// Accepts from whichever has a connection, each in its turn.
    async fn accept(&self) -> io::Result<Stream> {
        let start = self.turn.fetch_add(1, Relaxed) % self.listeners.len().max(1);
        let (later, first) = self.listeners.split_at(start);
        poll_fn(|context| {
            let mut in_turn = first.iter().chain(later);
            let ready = in_turn.find_map(|listener| match listener.poll_accept(context) {
                Poll::Ready(accepted) => Some(accepted),
                Poll::Pending => None,
            });
            ready.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// A file descriptor that is held back.
struct Spare(Option<File>);

impl Spare {
    fn new() -> Self {
        Self(File::open("/dev/null").ok())
    }

    /// Closes the first connection of a queue. Returns the name of its peer.
    fn close_one(&mut self, listeners: &Listeners) -> Option<String> {
        self.0 = None;
        let closed = listeners.listeners.iter().find_map(|listener| listener.accept_now().ok());
        let peer = closed.map(|stream| stream.peer_label());
        *self = Self::new();
        peer
    }
}

fn warn_of_full(limit: usize) {
    static THROTTLE: Throttle = Throttle::new(WARN_EVERY);
    if THROTTLE.pass().is_some() {
        warn!("{limit} connections are the limit; further ones wait to be accepted");
    }
}

fn warn_of_failure(error: &io::Error, closed: Option<&str>, pause: Duration) {
    static THROTTLE: Throttle = Throttle::new(WARN_EVERY);
    let Some(held_back) = THROTTLE.pass() else { return };
    let closed = closed.map(|peer| format!("; closed the connection of {peer} unanswered"));
    let others = (held_back > 0).then(|| format!("; {held_back} more times since this was logged"));
    let (closed, others) = (closed.unwrap_or_default(), others.unwrap_or_default());
    warn!("cannot accept, trying again in {pause:?}: {error}{closed}{others}");
}

/// Whether the error is about a connection that is gone already, not about the listener or the
/// system.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused
    )
}

/// Whether the process or the system can open no more files.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn replies_of_a_connection_do_not_wait_for_its_peer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a listener that is bound");
        let _peer = TcpStream::connect(address).await.expect("it listens");
        let listeners = Listeners::from(Listener::from(listener));
        let Ok(Stream::Tcp(accepted)) = listeners.accept().await else { panic!("no connection") };
        assert!(accepted.nodelay().expect("a socket"));
    }
}
