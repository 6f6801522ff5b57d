//! How bytes move between a socket and memory, without waiting longer than they must.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::pin,
    task::Poll,
    time::Duration,
};

use bytes::{Buf, BufMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::coop,
    time,
};

/// How long a connection that is given up still reads, so that its last replies arrive.
const LINGER: Duration = Duration::from_millis(500);

/// Bytes that are discarded at once.
const DISCARD_BYTES: usize = 16 << 10;

/// Reads what has arrived. `None` if that is nothing yet; zero at the end of the input.
///
/// May also be `None` when the task has used up its turn on its thread; the caller yields then.
pub(crate) async fn read_arrived(
    stream: &mut TcpStream,
    target: &mut impl BufMut,
) -> io::Result<Option<usize>> {
    // Polled rather than `try_read_buf`: a poll remembers that a short read has emptied the socket,
    // so that the next wait costs no further read.
    let mut read = pin!(stream.read_buf(target));
    poll_fn(|context| {
        Poll::Ready(match read.as_mut().poll(context) {
            Poll::Ready(result) => result.map(Some),
            Poll::Pending => Ok(None),
        })
    })
    .await
}

/// Reads some of what `target` has room for, as soon as there is something. Zero at the end of the
/// input.
///
/// # Cancel safety
///
/// Nothing is read if the future is dropped.
pub(crate) async fn read(stream: &mut TcpStream, target: &mut impl BufMut) -> io::Result<usize> {
    debug_assert!(
        target.has_remaining_mut(),
        "a read without room looks like the end of the input"
    );
    stream.read_buf(target).await
}

/// Writes as much of `reply` as the socket takes now, in one call for up to two pieces.
pub(crate) fn try_write(stream: &TcpStream, reply: &impl Buf) -> io::Result<usize> {
    let mut pieces = [IoSlice::new(&[]); 2];
    let count = reply.chunks_vectored(&mut pieces);
    match stream.try_write_vectored(&pieces[..count])? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        written => Ok(written),
    }
}

/// Returns how many bytes have arrived and are not read yet.
pub(crate) fn unread_bytes(stream: &TcpStream) -> io::Result<u64> {
    Ok(rustix::io::ioctl_fionread(stream)?)
}

/// Ends the output and, for a moment, discards what still arrives.
///
/// Closing with unread input would reset the connection, and the reset would overtake the last
/// replies.
pub(crate) async fn close_gently(mut stream: TcpStream) {
    if stream.shutdown().await.is_ok() {
        // Whether the peer closes in time or not, or fails: it has had its moment.
        let _ = time::timeout(LINGER, discard(&stream)).await;
    }
}

/// Reads and forgets, up to the end of the input.
async fn discard(stream: &TcpStream) -> io::Result<()> {
    loop {
        stream.readable().await?;
        match stream.try_read(&mut [0; DISCARD_BYTES]) {
            Ok(0) => return Ok(()),
            Ok(_) => coop::consume_budget().await,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}
