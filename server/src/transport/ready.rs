//! `ReadReady`: streams that can say that there is something to read, before there is memory for
//! it.

use std::{
    io::{self, IoSlice},
    os::fd::AsFd,
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, retry_on_intr},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream, tcp, unix},
    task::coop,
};

/// A stream that can say that there is something to read.
///
/// [`AsyncRead`] cannot: it reads into memory that the caller must have already. TCP and Unix
/// streams and their owned halves implement it; [`Probe`] makes one of anything else.
pub trait ReadReady: AsyncRead {
    /// Waits until there is something to read, the end, or an error.
    ///
    /// It may be ready early: then reading waits.
    ///
    /// # Errors
    ///
    /// What the stream says. Then reading fails as well.
    fn poll_read_ready(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Does what [`poll_read_ready`](Self::poll_read_ready) does, and asks the system whatever is
    /// known of the stream.
    ///
    /// An event loop takes a socket for drained when a read comes back short, and does not know yet
    /// what arrived while the process was paused. So this is called now and then when a peer seems
    /// to be silent. By default nothing is asked.
    ///
    /// # Errors
    ///
    /// What the stream says. Then reading fails as well.
    fn poll_read_ready_now(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_read_ready(context)
    }

    /// Reads, and asks the system whatever is known of the stream. By default nothing is asked.
    ///
    /// # Errors
    ///
    /// Those of [`poll_read`](AsyncRead::poll_read).
    fn poll_read_now(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_read(context, target)
    }

    /// Returns how many bytes have arrived and are not read yet, if the stream can tell.
    ///
    /// While memory is scarce, none is taken for a frame of which little has arrived.
    fn arrived(&self) -> Option<usize> {
        None
    }

    /// Returns whether nothing more will come than what has arrived.
    ///
    /// Then that is worth memory, however little it is.
    fn has_ended(&self) -> bool {
        false
    }

    /// Returns whether the peer has begun to send something that can be read only when it is there
    /// whole, such as a record that is encrypted.
    ///
    /// The peer is not idle then: a frame has begun.
    fn has_begun(&self) -> bool {
        false
    }

    /// Returns whether the peer is not known to leave unread what was written.
    ///
    /// While memory is scarce, none is taken for requests of a peer that does not read its replies:
    /// it is asked once in some tens of kilobytes.
    fn takes_output(&self) -> bool {
        true
    }

    /// Returns whether the peer is known to be gone in both directions: a half-close is not that.
    fn is_hung_up(&self) -> bool {
        false
    }
}

/// A stream for both directions.
pub(crate) trait Duplex: ReadReady + AsyncWrite + Send + Unpin {}

impl<S: ReadReady + AsyncWrite + Send + Unpin> Duplex for S {}

/// A stream that is asked for what it has, whatever is known of it.
pub(super) struct Asking<'s, S: ?Sized>(pub(super) Pin<&'s mut S>);

impl<S: ReadReady + ?Sized> AsyncRead for Asking<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_read_now(context, target)
    }
}

/// Reads what a socket has, whatever the event loop knows of it. `None` if it has nothing.
pub(crate) fn poll_read_now(
    socket: impl AsFd,
    context: &mut Context<'_>,
    target: &mut ReadBuf<'_>,
) -> Poll<Option<io::Result<()>>> {
    // As every read of the event loop does: no peer keeps the thread.
    let turn = ready!(coop::poll_proceed(context));
    let read = retry_on_intr(|| rustix::io::read(&socket, target.initialize_unfilled()));
    if read == Err(Errno::AGAIN) {
        return Poll::Ready(None);
    }
    turn.made_progress();
    Poll::Ready(Some(read.map(|read| target.advance(read)).map_err(Into::into)))
}

/// Whether a read would bring something: bytes, the end, or an error.
pub(crate) fn is_readable(socket: impl AsFd) -> bool {
    let ends = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    look(socket, PollFlags::IN | PollFlags::RDHUP).intersects(PollFlags::IN | ends)
}

/// Asks the system what can be said of a socket without waiting: of `events`, and of hang-ups and
/// errors in any case.
fn look(socket: impl AsFd, events: PollFlags) -> PollFlags {
    let mut asked = [PollFd::new(&socket, events)];
    match poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(_) => asked[0].revents(),
        Err(_) => PollFlags::empty(),
    }
}

fn arrived(socket: impl AsFd) -> Option<usize> {
    usize::try_from(rustix::io::ioctl_fionread(socket).ok()?).ok()
}

fn has_ended(socket: impl AsFd) -> bool {
    let ends = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    look(socket, PollFlags::RDHUP).intersects(ends)
}

fn takes_output(socket: impl AsFd) -> bool {
    let ends = PollFlags::HUP | PollFlags::ERR;
    look(socket, PollFlags::OUT).intersects(PollFlags::OUT | ends)
}

fn is_hung_up(socket: impl AsFd) -> bool {
    look(socket, PollFlags::empty()).intersects(PollFlags::HUP | PollFlags::ERR)
}

macro_rules! sockets {
    ($($type:ty: $socket:ident => $as_socket:expr;)*) => {$(
        impl ReadReady for $type {
            fn poll_read_ready(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                let $socket = &*self;
                $as_socket.poll_read_ready(context)
            }

            fn poll_read_ready_now(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                let $socket = &*self;
                match is_readable($as_socket) {
                    true => Poll::Ready(Ok(())),
                    false => $as_socket.poll_read_ready(context),
                }
            }

            fn poll_read_now(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                target: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                let $socket = &*self;
                match ready!(poll_read_now($as_socket, context, target)) {
                    Some(read) => Poll::Ready(read),
                    None => self.poll_read(context, target),
                }
            }

            fn arrived(&self) -> Option<usize> {
                let $socket = self;
                arrived($as_socket)
            }

            fn has_ended(&self) -> bool {
                let $socket = self;
                has_ended($as_socket)
            }

            fn takes_output(&self) -> bool {
                let $socket = self;
                takes_output($as_socket)
            }

            fn is_hung_up(&self) -> bool {
                let $socket = self;
                is_hung_up($as_socket)
            }
        }
    )*};
}

sockets! {
    TcpStream: socket => socket;
    UnixStream: socket => socket;
    tcp::OwnedReadHalf: half => AsRef::<TcpStream>::as_ref(half);
    unix::OwnedReadHalf: half => AsRef::<UnixStream>::as_ref(half);
}

/// Makes a [`ReadReady`] of any stream, by reading a few bytes ahead.
///
/// They lie in the probe itself, so that waiting needs no other memory.
///
/// # Examples
///
/// ```
/// use arena_echo::{ArenaFramed, Memory, Probe};
/// use futures_util::StreamExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let memory = Memory::fixed(2, 1024)?;
/// let input = Probe::new(&b"\0\0\0\x02hi"[..]);
/// let mut frames = ArenaFramed::builder().new_read(input, &memory);
/// assert_eq!(&frames.next().await.unwrap()?[..], b"hi");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Probe<S> {
    stream: S,
    ahead: [u8; AHEAD_BYTES],
    ahead_from: usize,
    ahead_to: usize,
    is_at_end: bool,
}

/// Bytes that a probe reads ahead: a header, and some of a short payload.
const AHEAD_BYTES: usize = 16;

impl<S> Probe<S> {
    /// Wraps a stream.
    pub fn new(stream: S) -> Self {
        Self { stream, ahead: [0; AHEAD_BYTES], ahead_from: 0, ahead_to: 0, is_at_end: false }
    }

    /// Returns the stream. What was read ahead and not yet asked for is lost.
    pub fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin> ReadReady for Probe<S> {
    fn poll_read_ready(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.ahead_from == this.ahead_to && !this.is_at_end {
            let mut ahead = ReadBuf::new(&mut this.ahead);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut ahead))?;
            (this.ahead_from, this.ahead_to) = (0, ahead.filled().len());
            this.is_at_end = this.ahead_to == 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Probe<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let ahead = &this.ahead[this.ahead_from..this.ahead_to];
        if ahead.is_empty() {
            if this.is_at_end {
                return Poll::Ready(Ok(()));
            }
            return Pin::new(&mut this.stream).poll_read(context, target);
        }
        let taken = ahead.len().min(target.remaining());
        target.put_slice(&ahead[..taken]);
        this.ahead_from += taken;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Probe<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
