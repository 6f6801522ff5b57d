//! A connection, over TCP, encrypted or not, or in the file system: one type, so that nothing else
//! asks which it is.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};

#[cfg(feature = "tls")]
use crate::tls::TlsStream;
use crate::{socket, transport::ReadReady};

/// A connection between the server and a peer.
///
/// Reads, writes and waits as the stream in it does.
#[derive(Debug)]
pub enum Stream {
    /// Over the network.
    Tcp(TcpStream),
    /// On this machine, by a path.
    Unix(UnixStream),
    /// Over the network, encrypted.
    #[cfg(feature = "tls")]
    Tls(TlsStream),
}

/// Delegates to the stream in it.
macro_rules! either {
    ($stream:expr, $inner:ident => $action:expr) => {
        match $stream {
            Stream::Tcp($inner) => $action,
            Stream::Unix($inner) => $action,
            #[cfg(feature = "tls")]
            Stream::Tls($inner) => $action,
        }
    };
}

impl Stream {
    /// Sends small pieces at once (`TCP_NODELAY`). In the file system they never wait.
    ///
    /// # Errors
    ///
    /// Those of the system.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.tcp().map_or(Ok(()), |stream| stream.set_nodelay(nodelay))
    }

    /// Returns the name of the peer for people who read logs: its address, or its process and user.
    pub fn peer_label(&self) -> String {
        let unknown = || "unknown".to_owned();
        if let Self::Unix(stream) = self {
            let Ok(peer) = stream.peer_cred() else { return unknown() };
            let process = peer.pid().map_or_else(unknown, |process| process.to_string());
            return format!("unix:pid={process},uid={}", peer.uid());
        }
        let address = self.tcp().and_then(|stream| stream.peer_addr().ok());
        address.map_or_else(unknown, |address| address.to_string())
    }

    /// The socket of a connection over the network.
    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Unix(_) => None,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Some(stream.socket()),
        }
    }

    /// Returns how many bytes have arrived since the beginning, of which `bytes_read` were read.
    pub(crate) fn arrived_ever(&self, bytes_read: u64) -> io::Result<u64> {
        match self {
            Self::Tcp(stream) => Ok(bytes_read + socket::unread_bytes(stream)?),
            Self::Unix(stream) => Ok(bytes_read + socket::unread_bytes(stream)?),
            // As they arrive, not as they are read.
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.arrived_ever(),
        }
    }

    /// Returns how much is left to read of the first `bytes` that arrived, of which `bytes_read`
    /// were read. `None` while that is not known.
    pub(crate) fn left_to_read(&self, bytes: u64, bytes_read: u64) -> Option<u64> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Some(bytes.saturating_sub(bytes_read)),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.left_to_read(bytes),
        }
    }

    /// Returns whether reading stands before an urgent byte with something behind it, which
    /// does not count as arrived, or before the end.
    pub(crate) fn is_at_mark(&self) -> bool {
        match self {
            Self::Tcp(stream) => socket::is_at_mark(stream),
            // What is encrypted is read until nothing comes, and others have no urgent bytes.
            Self::Unix(_) => false,
            #[cfg(feature = "tls")]
            Self::Tls(_) => false,
        }
    }

    /// Returns whether the peer is to be told that the end is one, and nothing was cut off.
    pub(crate) fn takes_leave(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) => false,
            #[cfg(feature = "tls")]
            Self::Tls(_) => true,
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Self {
        Self::Unix(stream)
    }
}

#[cfg(feature = "tls")]
impl From<TlsStream> for Stream {
    fn from(stream: TlsStream) -> Self {
        Self::Tls(stream)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_read(context, target))
    }
}

impl ReadReady for Stream {
    fn poll_read_ready(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => ReadReady::poll_read_ready(Pin::new(stream), context))
    }

    fn poll_read_ready_now(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_read_ready_now(context))
    }

    fn poll_read_now(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_read_now(context, target))
    }

    fn arrived(&self) -> Option<usize> {
        either!(self, stream => ReadReady::arrived(stream))
    }

    fn has_ended(&self) -> bool {
        either!(self, stream => ReadReady::has_ended(stream))
    }

    fn takes_output(&self) -> bool {
        either!(self, stream => ReadReady::takes_output(stream))
    }

    fn has_begun(&self) -> bool {
        either!(self, stream => ReadReady::has_begun(stream))
    }

    fn is_hung_up(&self) -> bool {
        either!(self, stream => ReadReady::is_hung_up(stream))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(context, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        either!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(context))
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    async fn pairs() -> io::Result<[(Stream, Stream); 2]> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let connecting = TcpStream::connect(listener.local_addr()?);
        let (one, other) = tokio::join!(connecting, listener.accept());
        let (here, there) = UnixStream::pair()?;
        Ok([(one?.into(), other?.0.into()), (here.into(), there.into())])
    }

    #[tokio::test]
    async fn both_kinds_read_and_write() -> io::Result<()> {
        for (mut one, mut other) in pairs().await? {
            assert!(one.is_write_vectored());
            one.set_nodelay(true)?;
            one.write_all(b"there").await?;
            one.flush().await?;
            one.shutdown().await?;
            let mut text = String::new();
            other.read_to_string(&mut text).await?;
            assert_eq!(text, "there");
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_peer_is_named_by_its_address_or_its_process() -> io::Result<()> {
        let [(tcp, other), (unix, _there)] = pairs().await?;
        let Stream::Tcp(other) = other else { panic!("not over the network") };
        assert_eq!(tcp.peer_label(), other.local_addr()?.to_string());
        let name = unix.peer_label();
        assert!(name.starts_with(&format!("unix:pid={},uid=", std::process::id())), "{name}");
        Ok(())
    }
}
