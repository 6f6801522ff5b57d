//! When to accept, and when to wait before the next try.
//!
//! Nothing is accepted that has no place: further connections wait in the queue of the listener. If
//! the system has no file descriptor left in spite of that, a spare one is given up, so that
//! accepting can go on: whoever takes the last one is closed. So peers learn at once that they are
//! not served, and can go elsewhere.
//!
//! When the server stops, what is in the queue has been accepted by the system already, and its
//! peers may have sent frames. Those are answered too, if need be one after the other, as
//! descriptors come back.

use std::{
    fs::File,
    future::{Future, poll_fn},
    io::{self, ErrorKind},
    iter,
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
use tracing::{Instrument, error_span, warn};

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

/// The most connections that all queues are expected to hold.
const QUEUES_MAX: usize = 1 << 16;

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
        let mut spare = Spare::default();
        // If there is none, the first connection learns of it.
        let _ = spare.take_back();
        Self { listeners, places, connections, serve, accepted: 0, spare }
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
                    match self.spare.take_back() {
                        Ok(()) => self.serve(stream),
                        Err(error) => warn_of_closed(&stream, &error),
                    }
                }
                Some(Err(error)) if is_of_one_connection(&error) => {}
                Some(Err(error)) if is_out_of_descriptors(&error) && self.spare.give_up() => {}
                Some(Err(error)) => {
                    warn_of_failure(&error, pause);
                    stop.run_until_cancelled(sleep(pause)).await;
                    pause = PAUSE_MAX.min(pause * 2);
                }
            }
        }
    }

    /// Takes what is in the queues, and closes the listeners.
    ///
    /// Waits for nothing but descriptors. Places are not waited for: whoever has one may keep it
    /// for as long as the server has to end, and what is in the queues has been accepted by the
    /// system.
    ///
    /// # Cancel safety
    ///
    /// What is not taken is still in the queues when the future is dropped.
    pub(crate) async fn take_queues(&mut self) {
        self.spare.give_up();
        let mut taken = 0;
        while let Some(listener) = self.listeners.listeners.last() {
            match listener.accept_now() {
                // A flood of new ones must not keep the server from its end.
                Ok(_) if taken == QUEUES_MAX => return,
                Ok(stream) => {
                    taken += 1;
                    self.serve(stream);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) if is_out_of_descriptors(&error) => {
                    warn_of_waiting(&error);
                    // Also if nobody waits: that does not show without a descriptor.
                    sleep(PAUSE_MIN).await;
                }
                Err(error) => {
                    if error.kind() != ErrorKind::WouldBlock {
                        warn!("connections that waited to be accepted are lost: {error}");
                    }
                    self.listeners.listeners.pop();
                }
            }
        }
    }

    /// Closes what is left in the queues, and the listeners. Returns how many those were.
    pub(crate) fn close_queues(self) -> usize {
        let rest = |listener: &Listener| listener.accept_now().ok();
        let queues = self.listeners.listeners.iter();
        queues.flat_map(|listener| iter::from_fn(|| rest(listener))).take(QUEUES_MAX).count()
    }

    fn serve(&mut self, stream: Stream) {
        self.accepted += 1;
        let name = Name { id: self.accepted, peer: stream.peer_label() };
        // Of the gravest level: whatever is logged, it is said of whom.
        let span = error_span!("connection", id = name.id, peer = name.peer);
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

/// A file descriptor that is held back, so that there is one when there is no other.
#[derive(Default)]
struct Spare(Option<File>);

impl Spare {
    /// Gives it up. Returns whether there was one.
    fn give_up(&mut self) -> bool {
        self.0.take().is_some()
    }

    /// Makes sure that there is one.
    ///
    /// # Errors
    ///
    /// That the system has none left. If there is none for another reason, nobody is held up.
    fn take_back(&mut self) -> io::Result<()> {
        if self.0.is_some() {
            return Ok(());
        }
        match File::open("/dev/null") {
            Err(error) if is_out_of_descriptors(&error) => return Err(error),
            file => self.0 = file.ok(),
        }
        Ok(())
    }
}

fn warn_of_full(limit: usize) {
    static THROTTLE: Throttle = Throttle::new(WARN_EVERY);
    if THROTTLE.pass().is_some() {
        warn!("{limit} connections are the limit; further ones wait to be accepted");
    }
}

fn warn_of_failure(error: &io::Error, pause: Duration) {
    static THROTTLE: Throttle = Throttle::new(WARN_EVERY);
    let Some(held_back) = THROTTLE.pass() else { return };
    let others = others(held_back);
    warn!("cannot accept, trying again in {pause:?}: {error}{others}");
}

/// Says that a connection is closed which has taken the last descriptor.
fn warn_of_closed(stream: &Stream, error: &io::Error) {
    static THROTTLE: Throttle = Throttle::new(WARN_EVERY);
    let Some(held_back) = THROTTLE.pass() else { return };
    let (peer, others) = (stream.peer_label(), others(held_back));
    warn!("cannot serve, closed the connection of {peer} unanswered: {error}{others}");
}

fn warn_of_waiting(error: &io::Error) {
    static THROTTLE: Throttle = Throttle::new(WARN_EVERY);
    if THROTTLE.pass().is_some() {
        warn!("connections wait to be accepted until others have ended: {error}");
    }
}

fn others(held_back: u64) -> String {
    match held_back {
        0 => String::new(),
        times => format!("; {times} more times since this was logged"),
    }
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
