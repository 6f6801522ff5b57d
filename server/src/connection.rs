//! One connection: wait for requests, have them handled, flush, give everything back.
//!
//! ```text
//!      holds nothing                      holds a block
//!   +-----------------+   +----------------------------------------------+
//!   wait for requests --> handle all that have arrived --> flush --> drop
//!        ^                                                           |
//!        +-----------------------------------------------------------+
//! ```

use std::{
    future::{Future, poll_fn},
    os::fd::AsFd,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{io::AsyncWrite, task::coop};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::{debug, warn};

use crate::{
    handler::{Handler, Replies, Request},
    memory::{Claimant, Memory},
    socket,
    stats::{Reject, Stats},
    transport::{Filled, FrameError, Input, Output, ReadReady, Timeouts},
};

/// A stream that a server can serve.
pub(crate) trait Socket: ReadReady + AsyncWrite + AsFd + Send + Unpin {}

impl<S: ReadReady + AsyncWrite + AsFd + Send + Unpin> Socket for S {}

/// What all connections of a server share.
#[derive(Debug)]
pub(crate) struct Shared<H> {
    pub(crate) memory: Memory,
    pub(crate) handler: H,
    pub(crate) max_frame_bytes: usize,
    pub(crate) timeouts: Timeouts,
    pub(crate) stats: Stats,
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the peer closed it")]
    PeerClosed,
    #[error("the server stops")]
    Drained,
    #[error("{0}")]
    Rejected(#[from] FrameError),
}

struct Connection<'s, S, H> {
    shared: &'s Shared<H>,
    stream: S,
    input: Input,
    output: Output,
    claimant: Claimant,
    drain: Drain,
    /// Bytes that are in the server's figures already.
    counted_in: u64,
    counted_out: u64,
}

/// Serves a connection until it ends, and closes it.
///
/// Once `draining` is cancelled, what has arrived is still answered.
pub(crate) async fn serve<S: Socket, H: Handler>(
    stream: S,
    shared: Arc<Shared<H>>,
    draining: CancellationToken,
) {
    let mut connection = Connection {
        shared: &shared,
        stream,
        input: Input::new(shared.max_frame_bytes, shared.timeouts),
        output: Output::new(shared.max_frame_bytes, shared.timeouts),
        claimant: Claimant::new(&shared.memory),
        drain: Drain::No,
        counted_in: 0,
        counted_out: 0,
    };
    let _open = Open::new(&shared.stats);
    let mut cancelled = pin!(draining.cancelled_owned());
    let end = connection.run(cancelled.as_mut()).await;
    connection.count_turn(0);
    end.log();
    if let End::Rejected(error) = &end {
        shared.stats.reject(Reject::from(error));
    }
    // Memory goes back before anything else is waited for.
    let Connection { stream, input, output, claimant, .. } = connection;
    drop((input, output, claimant));
    if end.may_leave_input() {
        socket::close_gently(stream).await;
    }
}

impl<S: Socket, H: Handler> Connection<'_, S, H> {
    async fn run(&mut self, mut cancelled: Cancelled<'_>) -> End {
        loop {
            match self.take_turn(cancelled.as_mut()).await {
                Ok(()) => {}
                Err(End::Rejected(error)) => {
                    self.flush_last(&error).await;
                    return End::Rejected(error);
                }
                Err(end) => return end,
            }
        }
    }

    /// Waits for requests, handles them, and writes the replies.
    async fn take_turn(&mut self, cancelled: Cancelled<'_>) -> Result<(), End> {
        self.fill(cancelled).await?;
        let Self { shared, stream, input, output, claimant, .. } = self;
        let input_bytes = input.held_bytes();
        let mut replies = Replies { output, stream: Pin::new(stream), claimant, input_bytes };
        let mut frames = 0;
        while let Some(place) = input.next_place() {
            frames += 1;
            shared.handler.handle(Request::at(place), &mut replies).await?;
        }
        self.flush().await?;
        self.output.end_turn();
        self.count_turn(frames);
        Ok(())
    }

    /// Waits until there is at least one whole frame.
    async fn fill(&mut self, mut cancelled: Cancelled<'_>) -> Result<(), End> {
        // A peer that never pauses must not keep the thread: nothing else of a turn need yield.
        coop::consume_budget().await;
        poll_fn(|context| {
            if self.drain.is_done(&self.stream, &self.input, cancelled.as_mut(), context)? {
                return Poll::Ready(Err(End::Drained));
            }
            let Self { stream, input, claimant, .. } = self;
            if input.held_bytes() == 0 {
                claimant.end_turn();
            }
            match input.poll_fill(Pin::new(stream), context, claimant)? {
                Poll::Ready(Filled::Frames) => Poll::Ready(Ok(())),
                Poll::Ready(Filled::End) => Poll::Ready(Err(End::PeerClosed)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    async fn flush(&mut self) -> Result<(), FrameError> {
        let Self { stream, input, output, claimant, .. } = self;
        poll_fn(|context| {
            output.poll_flush(Pin::new(&mut *stream), context, claimant, input.held_bytes())
        })
        .await
    }

    /// Writes the replies to what came before the error, if the peer can take them.
    async fn flush_last(&mut self, error: &FrameError) {
        let is_lost = matches!(
            error,
            FrameError::Io(_) | FrameError::WriteTimeout(_) | FrameError::Stalled { .. }
        );
        if !is_lost {
            // It failed already: another failure changes nothing.
            let _ = self.flush().await;
        }
    }

    fn count_turn(&mut self, frames: u64) {
        let (bytes_in, bytes_out) = (self.input.bytes_read(), self.output.bytes_written());
        let stats = &self.shared.stats;
        stats.count_turn(frames, bytes_in - self.counted_in, bytes_out - self.counted_out);
        (self.counted_in, self.counted_out) = (bytes_in, bytes_out);
    }
}

type Cancelled<'a> = Pin<&'a mut WaitForCancellationFutureOwned>;

/// Whether the server stops, and what is still to be answered then.
#[derive(Debug)]
enum Drain {
    /// It goes on.
    No,
    /// It stops when so many bytes have been read since the connection began: what had arrived when
    /// the server was told to stop.
    WhenRead(u64),
}

impl Drain {
    /// Whether everything is read that had arrived when the server was told to stop.
    fn is_done(
        &mut self,
        stream: &impl AsFd,
        input: &Input,
        cancelled: Cancelled<'_>,
        context: &mut Context<'_>,
    ) -> Result<bool, FrameError> {
        if matches!(self, Self::No) && cancelled.poll(context).is_ready() {
            let unread_bytes = socket::unread_bytes(stream)?;
            *self = Self::WhenRead(input.bytes_read() + unread_bytes);
        }
        Ok(match self {
            Self::No => false,
            Self::WhenRead(bytes) => input.bytes_read() >= *bytes && !input.has_frame(),
        })
    }
}

/// Counts a connection as open until it drops.
struct Open<'s>(&'s Stats);

impl<'s> Open<'s> {
    fn new(stats: &'s Stats) -> Self {
        stats.open();
        Self(stats)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl End {
    fn log(&self) {
        match self {
            Self::PeerClosed | Self::Drained => debug!("closed: {self}"),
            Self::Rejected(_) => warn!("closed: {self}"),
        }
    }

    /// Whether the peer may have sent, or still be sending, what nobody has read.
    fn may_leave_input(&self) -> bool {
        match self {
            Self::PeerClosed => false,
            Self::Drained => true,
            Self::Rejected(error) => match error {
                FrameError::UnexpectedEnd | FrameError::Io(_) => false,
                // It does not read what it has, so there is nothing to save by waiting.
                FrameError::WriteTimeout(_) => false,
                _ => true,
            },
        }
    }
}
