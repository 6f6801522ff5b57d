//! What a server does with a socket besides reading and writing frames.

use std::{
    future::poll_fn, io, mem::MaybeUninit, os::fd::AsFd, pin::Pin, task::Context, time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    time,
};

use crate::transport::is_readable;

/// How long a connection that is given up still reads, so that its last replies arrive.
const LINGER: Duration = Duration::from_millis(500);

/// Bytes that are discarded at once.
const DISCARD_BYTES: usize = 4 << 10;

/// Returns how many bytes have arrived and are not read yet.
pub(crate) fn unread_bytes(socket: &impl AsFd) -> io::Result<u64> {
    Ok(rustix::io::ioctl_fionread(socket)?)
}

/// Returns whether reading stands before an urgent byte with something behind it, or before the
/// end: there is something to read, and no byte counts as arrived.
pub(crate) fn is_at_mark(socket: &impl AsFd) -> bool {
    matches!(unread_bytes(socket), Ok(0)) && is_readable(socket)
}

/// Ends the output and, for a moment, discards what still arrives.
///
/// Closing with unread input would reset the connection, and the reset would overtake the last
/// replies.
pub(crate) async fn close_gently<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let close = async {
        stream.shutdown().await?;
        discard(stream).await
    };
    // Whether the peer closes in time or not, or fails: it has had its moment.
    let _ = time::timeout(LINGER, close).await;
}

/// Reads and forgets, up to the end of the input.
async fn discard(mut stream: impl AsyncRead + Unpin) -> io::Result<()> {
    // Inside of the closure, so that the bytes lie on the stack and not in every connection.
    let mut read = |context: &mut Context<'_>| {
        let mut bytes = [MaybeUninit::uninit(); DISCARD_BYTES];
        let mut bytes = ReadBuf::uninit(&mut bytes);
        let read = Pin::new(&mut stream).poll_read(context, &mut bytes);
        read.map_ok(|()| bytes.filled().len())
    };
    while poll_fn(&mut read).await? > 0 {}
    Ok(())
}
