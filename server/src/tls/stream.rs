//! `TlsStream`: an encrypted connection.

use std::{
    fmt,
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use rustix::net::{Shutdown, shutdown};
use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{Accept, TlsAcceptor, rustls::ServerConfig, server};

use crate::{
    socket,
    transport::{Arrived, ReadReady},
};

/// What rustls keeps of the output at most, as long as the peer takes none of it: one record.
const UNSENT_BYTES_MAX: usize = 16 << 10;

/// Bytes that are forgotten at once.
const DISCARD_BYTES: usize = 1 << 10;

/// A connection that is encrypted.
///
/// The first read or write shakes hands with the peer. So whoever waits for the first byte of a
/// peer, under a deadline, waits for that too.
///
/// Beside what lies in the arena, rustls has buffers of its own on the heap. They are bounded: a
/// record of input as it arrives and one as it is read, and one of output, of 16 KiB each. What
/// arrives is decrypted there, and copied once into the memory of whoever reads.
#[derive(Debug)]
pub struct TlsStream {
    socket: Socket,
    /// On the heap: rustls' part is large, and the other kinds of stream need no room for it.
    session: Session,
    /// Bytes that are decrypted and not read yet, as far as is known.
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
    /// Encrypted bytes that were read. A figure of one task: nothing is ordered by it.
    received: AtomicU64,
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
        let socket = Socket(Arc::new(Counted { socket, received: AtomicU64::new(0) }));
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
        Ok(self.socket.received() + socket::unread_bytes(self.socket())?)
    }

    /// Returns whether nothing is left to read of the first `bytes` that arrived.
    pub(crate) fn has_handed_out(&mut self, bytes: u64) -> bool {
        let is_decrypted = self.socket.received() >= bytes;
        let is_read = match &mut self.session {
            Session::Open(stream) => match stream.get_mut().1.process_new_packets() {
                Ok(state) => state.plaintext_bytes_to_read() == 0,
                // Reading says the same.
                Err(_) => false,
            },
            Session::Shaking(_) | Session::Failed => true,
        };
        is_decrypted && is_read
    }

    /// Shakes hands. `None` if the peer left without a word.
    fn poll_open(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Pin<&mut server::TlsStream<Socket>>>>> {
        if let Session::Shaking(accept) = &mut self.session {
            let shaken = ready!(Pin::new(accept).poll(context));
            self.session = Session::Failed;
            match shaken {
                Ok(stream) => self.session = Session::Open(Box::new(stream)),
                // Whoever looks whether a port is open does not talk.
                Err(error) if is_cut(&error) && self.socket.received() == 0 => {}
                Err(error) => return Poll::Ready(Err(error)),
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
        let Some(stream) = ready!(self.poll_open(context))? else { return Poll::Ready(Ok(())) };
        let decrypted = ready!(stream.poll_fill_buf(context)).map(<[u8]>::len);
        self.decrypted = or_end(decrypted)?;
        Poll::Ready(Ok(()))
    }

    /// What is decrypted, and what waits in the socket. That is a little more than will be read.
    fn arrived(&self) -> Option<Arrived> {
        let below = ReadReady::arrived(self.socket())?;
        Some(Arrived { bytes: self.decrypted + below.bytes, ..below })
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
        let before = target.filled().len();
        let Some(stream) = ready!(self.poll_open(context))? else {
            return self.socket.poll_discard(context);
        };
        or_end(ready!(stream.poll_read(context, target)))?;
        self.decrypted = self.decrypted.saturating_sub(target.filled().len() - before);
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
    fn received(&self) -> u64 {
        self.0.received.load(Relaxed)
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
        let Counted { socket, received } = &*self.0;
        loop {
            ready!(socket.poll_read_ready(context))?;
            match socket.try_read(target.initialize_unfilled()) {
                Ok(read) => {
                    target.advance(read);
                    received.fetch_add(read as u64, Relaxed);
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
