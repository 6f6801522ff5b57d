//! Streams that do what a script says: bytes in pieces, partial writes, pauses in between.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The input and the output of one side, as a script has them.
#[derive(Debug)]
pub(crate) struct Script {
    reads: VecDeque<Vec<u8>>,
    /// Whether the next read pauses first.
    pauses: bool,
    writes: Writes,
    written: Arc<Mutex<Vec<u8>>>,
}

/// How much each write takes. A zero is a pause. Begins anew when it is over.
#[derive(Clone, Debug)]
pub(crate) struct Writes {
    pub(crate) takes: Vec<usize>,
    pub(crate) is_vectored: bool,
    pub(crate) next: usize,
}

impl Script {
    /// Yields `bytes` cut at these places, with a pause before each piece and before the end.
    pub(crate) fn new(bytes: &[u8], mut cuts: Vec<usize>, writes: Writes) -> Self {
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|ends| bytes[ends[0]..ends[1]].to_vec());
        let reads = pieces.filter(|piece| !piece.is_empty()).collect();
        Self { reads, pauses: true, writes, written: Arc::default() }
    }

    /// What is written, also after the script is gone.
    pub(crate) fn written(&self) -> Arc<Mutex<Vec<u8>>> {
        Arc::clone(&self.written)
    }

    fn poll_take(&mut self, context: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<usize> {
        let Writes { takes, next, .. } = &mut self.writes;
        let mut most = takes.get(*next % takes.len().max(1)).copied().unwrap_or(usize::MAX);
        *next += 1;
        if most == 0 {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut written = self.written.lock().expect("nobody panics with it");
        let before = written.len();
        for piece in pieces {
            let taken = piece.len().min(most);
            written.extend_from_slice(&piece[..taken]);
            most -= taken;
        }
        Poll::Ready(written.len() - before)
    }
}

impl Writes {
    /// Takes everything at once.
    pub(crate) fn all() -> Self {
        Self { takes: Vec::new(), is_vectored: true, next: 0 }
    }
}

impl AsyncRead for Script {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.pauses) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(piece) = self.reads.front_mut() {
            let taken = piece.len().min(target.remaining());
            target.put_slice(&piece[..taken]);
            piece.drain(..taken);
            if piece.is_empty() {
                self.reads.pop_front();
                self.pauses = true;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_take(context, &[IoSlice::new(bytes)]).map(Ok)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = if self.writes.is_vectored { pieces.len() } else { 1 };
        self.poll_take(context, &pieces[..count]).map(Ok)
    }

    fn is_write_vectored(&self) -> bool {
        self.writes.is_vectored
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
