//! A socket of either kind, TCP or Unix, read and written by the plain system calls.
//!
//! Those of the standard library are points where a thread may be cancelled, which costs as much as
//! checking a few frames.

use std::{
    fmt,
    io::{self, IoSlice, Read, Write},
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::PathBuf,
    time::Duration,
};

use mio::{Interest, Registry, Token, unix::SourceFd};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketAddrUnix, SocketFlags,
        SocketType, sockopt,
    },
};

/// An address that a socket can be connected to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Endpoint {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A socket that never blocks. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: OwnedFd,
}

impl Stream {
    /// Begins to connect. Whether it succeeds is told by [`outcome`](Self::outcome), once there is
    /// an event for `token`.
    pub(crate) fn connect(
        endpoint: &Endpoint,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        let family = match endpoint {
            Endpoint::Tcp(SocketAddr::V4(_)) => AddressFamily::INET,
            Endpoint::Tcp(SocketAddr::V6(_)) => AddressFamily::INET6,
            Endpoint::Unix(_) => AddressFamily::UNIX,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        let begun = match endpoint {
            Endpoint::Tcp(address) => {
                sockopt::set_tcp_nodelay(&socket, true)?;
                rustix::net::connect(&socket, address)
            }
            Endpoint::Unix(path) => rustix::net::connect(&socket, &SocketAddrUnix::new(path)?),
        };
        match begun {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut SourceFd(&socket.as_raw_fd()), token, interest)?;
        Ok(Self { socket })
    }

    /// Whether it is connected by now.
    pub(crate) fn outcome(&self) -> io::Result<bool> {
        sockopt::socket_error(&self.socket)??;
        match rustix::net::getpeername(&self.socket) {
            Ok(_) => Ok(true),
            Err(Errno::NOTCONN) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// How many bytes have arrived that nobody has read.
    pub(crate) fn unread_bytes(&self) -> io::Result<u64> {
        Ok(rustix::io::ioctl_fionread(&self.socket)?)
    }

    /// Has the peer see a reset when it is closed.
    pub(crate) fn forget_unsent(&self) {
        // If the option cannot be set the socket is closed all the same.
        let _ = sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
    }
}

impl Read for &Stream {
    #[inline]
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let (len, _) = rustix::net::recv(self.socket.as_fd(), bytes, RecvFlags::empty())?;
        Ok(len)
    }
}

impl Write for &Stream {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.socket.as_fd(), bytes, SendFlags::NOSIGNAL)?)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut nothing = SendAncillaryBuffer::default();
        let flags = SendFlags::NOSIGNAL;
        Ok(rustix::net::sendmsg(self.socket.as_fd(), slices, &mut nothing, flags)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
