//! `TlsStream`: an encrypted connection.

use std::{
    fmt,
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use rustix::net::{Shutdown, shutdown};
use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{
    Accept, TlsAcceptor,
    rustls::{self, ServerConfig},
    server,
};

use super::is_of_tls;
use crate::{
    socket,
    transport::{ReadReady, poll_read_now},
};

/// What rustls keeps of the output at most, as long as the peer takes none of it: one record.
const UNSENT_BYTES_MAX: usize = 16 << 10;

/// The longest handshake of a peer, certificates included. Without this it could have rustls gather
/// 64 KiB, before anybody knows who it is.
const HANDSHAKE_BYTES_MAX: u64 = 32 << 10;

/// Bytes that are forgotten at once.
const DISCARD_BYTES: usize = 1 << 10;

/// A connection that is encrypted.
///
/// The first read or write shakes hands with the peer. So whoever waits for the first byte of a
/// peer, under a deadline, waits for that too.
///
/// Beside what lies in the arena, rustls has buffers of its own on the heap: up to a record of
/// input as it arrives and two as they are read, and one of output, of 16 KiB each; and 64 KiB if a
/// peer sends a message for rustls itself in small pieces. What arrives is decrypted there, and
/// copied once into the memory of whoever reads.
#[derive(Debug)]
pub struct TlsStream {
    socket: Socket,
    /// On the heap: rustls' part is large, and the other kinds of stream need no room for it.
    session: Session,
    /// Bytes that are decrypted and not read yet.
    decrypted: usize,
}

enum Session {
    /// The peers do not know each other yet.
    Shaking(Box<Accept<Socket>>),
    /// Frames can be read and written.
    Open(Box<server::TlsStream<Socket>>),
    /// There never was one, and never will be.
    Failed,
}

/// The socket below. Both the session and the stream around it have it.
#[derive(Clone, Debug)]
struct Socket(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    socket: TcpStream,
    /// Whether reads ask the system, whatever is known of the socket.
    asks: AtomicBool,
    /// Of one task, so nobody waits for it.
    received: Mutex<Received>,
}

/// What was read of the encrypted input.
#[derive(Clone, Copy, Debug, Default)]
struct Received {
    bytes: u64,
    /// How many of them are the beginning of a record that is not there whole. Nothing of it can be
    /// decrypted.
    begun: usize,
    /// The header of that record, as far as it is there: type, version, and length of the rest.
    header: [u8; RECORD_HEADER_BYTES],
}

/// What every record begins with.
const RECORD_HEADER_BYTES: usize = 5;

impl Received {
    /// Notes that more was read.
    fn note(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let missing = match self.begun.checked_sub(RECORD_HEADER_BYTES) {
                None => RECORD_HEADER_BYTES - self.begun,
                Some(there) => self.rest_bytes() - there,
            };
            let (part, later) = bytes.split_at(missing.min(bytes.len()));
            if let Some(place) = self.header.get_mut(self.begun..) {
                let known = part.len().min(place.len());
                place[..known].copy_from_slice(&part[..known]);
            }
            self.begun += part.len();
            bytes = later;
            if self.begun >= RECORD_HEADER_BYTES
                && self.begun == RECORD_HEADER_BYTES + self.rest_bytes()
            {
                self.begun = 0;
            }
        }
    }

    /// How long the record is without its header, which is there.
    fn rest_bytes(&self) -> usize {
        usize::from(u16::from_be_bytes([self.header[3], self.header[4]]))
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shaking(_) => "Shaking",
            Self::Open(_) => "Open",
            Self::Failed => "Failed",
        })
    }
}

impl TlsStream {
    pub(super) fn new(socket: TcpStream, config: Arc<ServerConfig>) -> Self {
        let socket = Socket(Arc::new(Counted {
            socket,
            asks: AtomicBool::new(false),
            received: Mutex::default(),
        }));
        let accept = TlsAcceptor::from(config).accept_with(socket.clone(), |session| {
            session.set_buffer_limit(Some(UNSENT_BYTES_MAX));
        });
        Self { socket, session: Session::Shaking(Box::new(accept)), decrypted: 0 }
    }

    /// Returns the socket below.
    pub fn socket(&self) -> &TcpStream {
        &self.socket.0.socket
    }

    /// Returns how many encrypted bytes have arrived since the beginning.
    pub(crate) fn arrived_ever(&self) -> io::Result<u64> {
        Ok(self.socket.received().bytes + socket::unread_bytes(self.socket())?)
    }

    /// Returns how much is left to read of the first `bytes` that arrived, and perhaps of what came
    /// behind them. `None` while they are not decrypted. Before a handshake has ended nothing is:
    /// its own last message finds room in any socket.
    pub(crate) fn left_to_read(&self, bytes: u64) -> Option<u64> {
        (self.socket.received().bytes >= bytes).then_some(self.decrypted as u64)
    }

    /// Gives the session up if it is broken: what still arrives is nobody's.
    fn fail_on(&mut self, result: io::Result<()>) -> io::Result<()> {
        if let Err(error) = &result
            && is_of_tls(error)
        {
            self.session = Session::Failed;
        }
        result
    }

    /// Polls with reads that ask the system.
    fn poll_asking<T>(&mut self, poll: impl FnOnce(Pin<&mut Self>) -> T) -> T {
        self.socket.0.asks.store(true, Relaxed);
        let polled = poll(Pin::new(self));
        self.socket.0.asks.store(false, Relaxed);
        polled
    }

    /// Asks rustls what is decrypted.
    fn count_decrypted(&mut self) -> io::Result<()> {
        if let Session::Open(stream) = &mut self.session {
            let state = stream.get_mut().1.process_new_packets();
            // An error is told whenever it is asked.
            let broken = |error| io::Error::new(ErrorKind::InvalidData, error);
            self.decrypted = state.map_err(broken)?.plaintext_bytes_to_read();
        }
        Ok(())
    }

    /// Shakes hands. `None` if the peer left without a word.
    fn poll_open(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Pin<&mut server::TlsStream<Socket>>>>> {
        if let Session::Shaking(accept) = &mut self.session {
            let shaken = Pin::new(accept).poll(context);
            let received = self.socket.received().bytes;
            if shaken.is_pending() && received <= HANDSHAKE_BYTES_MAX {
                return Poll::Pending;
            }
            self.session = Session::Failed;
            match shaken {
                Poll::Ready(Ok(stream)) => self.session = Session::Open(Box::new(stream)),
                // Whoever looks whether a port is open does not talk.
                Poll::Ready(Err(error)) if is_cut(&error) && received == 0 => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Ready(Err(too_long_a_handshake())),
            }
        }
        Poll::Ready(Ok(match &mut self.session {
            Session::Open(stream) => Some(Pin::new(stream)),
            Session::Shaking(_) | Session::Failed => None,
        }))
    }
}

/// Whether the peer closed its socket without ending the session. Between frames that is an end
/// like any other, and within one it shows anyway: a frame says how long it is.
fn is_cut(error: &io::Error) -> bool {
    error.kind() == ErrorKind::UnexpectedEof
}

fn too_long_a_handshake() -> io::Error {
    let reason = format!("the handshake takes more than {HANDSHAKE_BYTES_MAX} bytes");
    io::Error::new(ErrorKind::InvalidData, rustls::Error::General(reason))
}

fn or_end<T: Default>(result: io::Result<T>) -> io::Result<T> {
    match result {
        Err(error) if is_cut(&error) => Ok(T::default()),
        result => result,
    }
}

impl ReadReady for TlsStream {
    fn poll_read_ready(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if ready!(self.poll_open(context))?.is_none() {
            return Poll::Ready(Ok(()));
        }
        let mut counted = self.count_decrypted();
        if counted.is_ok()
            && self.decrypted == 0
            && let Session::Open(stream) = &mut self.session
        {
            let filled = ready!(Pin::new(stream).poll_fill_buf(context)).map(drop);
            counted = or_end(filled).and_then(|()| self.count_decrypted());
        }
        Poll::Ready(self.fail_on(counted))
    }

    fn poll_read_ready_now(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_asking(|stream| ReadReady::poll_read_ready(stream, context))
    }

    fn poll_read_now(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_asking(|stream| stream.poll_read(context, target))
    }

    /// What is decrypted, and what is encrypted still. That is a little more than will be read.
    fn arrived(&self) -> Option<usize> {
        let below = ReadReady::arrived(self.socket())?;
        Some(self.decrypted + self.socket.received().begun + below)
    }

    fn has_ended(&self) -> bool {
        ReadReady::has_ended(self.socket())
    }

    fn has_begun(&self) -> bool {
        let is_open = matches!(self.session, Session::Open(_));
        is_open && self.socket.received().begun > 0
    }

    fn takes_output(&self) -> bool {
        ReadReady::takes_output(self.socket())
    }

    fn is_hung_up(&self) -> bool {
        ReadReady::is_hung_up(self.socket())
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(stream) = ready!(self.poll_open(context))? else {
            return self.socket.poll_discard(context);
        };
        let read = or_end(ready!(stream.poll_read(context, target)));
        self.fail_on(read)?;
        // What was read before an error is handed on first.
        let _ = self.count_decrypted();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match ready!(self.poll_open(context))? {
            Some(stream) => stream.poll_write(context, bytes),
            None => Poll::Ready(Err(ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match ready!(self.poll_open(context))? {
            Some(stream) => stream.poll_write_vectored(context, pieces),
            None => Poll::Ready(Err(ErrorKind::BrokenPipe.into())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.session {
            Session::Open(stream) => Pin::new(stream).poll_flush(context),
            Session::Shaking(_) | Session::Failed => Poll::Ready(Ok(())),
        }
    }

    /// Ends the output. The peer learns that nothing was cut off.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.session {
            Session::Open(stream) => Pin::new(stream).poll_shutdown(context),
            Session::Shaking(_) | Session::Failed => {
                Pin::new(&mut self.socket).poll_shutdown(context)
            }
        }
    }
}

impl Socket {
    fn received(&self) -> Received {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Received> {
        self.0.received.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what arrives, up to the end: without a session nobody can read it.
    fn poll_discard(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut bytes = [0; DISCARD_BYTES];
            let mut bytes = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut *self).poll_read(context, &mut bytes))?;
            if bytes.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let socket = &self.0.socket;
        // Relaxed: of one task.
        if self.0.asks.load(Relaxed) {
            let before = target.filled().len();
            if let Some(read) = ready!(poll_read_now(socket, context, target)) {
                self.lock().note(&target.filled()[before..]);
                return Poll::Ready(read);
            }
        }
        loop {
            ready!(socket.poll_read_ready(context))?;
            match socket.try_read(target.initialize_unfilled()) {
                Ok(read) => {
                    self.lock().note(&target.initialize_unfilled()[..read]);
                    target.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(context, |socket| socket.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(context, |socket| socket.try_write_vectored(pieces))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(shutdown(&self.0.socket, Shutdown::Write)?))
    }
}

impl Socket {
    fn poll_write_with(
        &self,
        context: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.socket.poll_write_ready(context))?;
            match write(&self.0.socket) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records of these lengths without their headers.
    fn records(lengths: &[u16]) -> Vec<u8> {
        let record = |&length: &u16| {
            let header = [&[23, 3, 3], &length.to_be_bytes()[..]].concat();
            [header, vec![7; usize::from(length)]].concat()
        };
        lengths.iter().flat_map(record).collect()
    }

    #[test]
    fn what_has_begun_is_known_wherever_the_bytes_are_cut() {
        let bytes = records(&[3, 0, 300, 1]);
        let ends = [8, 13, 318, 324];
        for cut in 0..=bytes.len() {
            for other in [cut / 2, cut] {
                let mut received = Received::default();
                let (first, rest) = bytes[..cut].split_at(other);
                received.note(first);
                received.note(rest);
                let last_end = ends.into_iter().rfind(|&end| end <= cut).unwrap_or(0);
                assert_eq!(received.begun, cut - last_end, "{cut}, {other}");
                assert_eq!(received.bytes, cut as u64);
            }
        }
    }
}
