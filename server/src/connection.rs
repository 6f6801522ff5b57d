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
    future::poll_fn,
    mem,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
};

use tokio::task::coop;
use tracing::debug;

use crate::{
    handler::{Handler, Replies, Requests},
    memory::{Claimant, Memory},
    roster::{Name, Roster},
    stats::{Reject, Stats},
    stop::{self, Stop},
    stream::Stream,
    transport::{Filled, FrameError, Input, Output, Timeouts},
    warnings::Warnings,
};

/// What all connections of a server share.
#[derive(Debug)]
pub(crate) struct Shared<H> {
    pub(crate) memory: Memory,
    pub(crate) handler: H,
    pub(crate) max_frame_bytes: usize,
    pub(crate) stats: Stats,
    pub(crate) roster: Arc<Roster>,
    pub(crate) warnings: Warnings,
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

struct Connection<'s, H> {
    shared: &'s Shared<H>,
    stream: Stream,
    input: Input,
    output: Output,
    claimant: Claimant,
    drain: Drain,
    /// What is in the server's figures already.
    counted: Counted,
}

/// What a connection has done since it began.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    frames: u64,
    bytes_in: u64,
    bytes_out: u64,
}

/// Serves a connection until it ends. Returns its stream if that is to be closed gently.
///
/// Once `stopping` has begun, what has arrived is still answered.
pub(crate) async fn serve<H: Handler>(
    stream: Stream,
    name: Name,
    shared: &Shared<H>,
    timeouts: Timeouts,
    stopping: Stop,
) -> Option<Stream> {
    let mut connection = Connection {
        shared,
        stream,
        input: Input::new(shared.max_frame_bytes, timeouts),
        output: Output::new(shared.max_frame_bytes, timeouts),
        claimant: Claimant::new(&shared.memory).known_as(shared.roster.enter(name)),
        drain: Drain::No(stopping.clone()),
        counted: Counted::default(),
    };
    let mut waking = pin!(stopping.waking());
    stop::wake_by(waking.as_mut()).await;
    let end = connection.run().await;
    connection.count();
    match &end {
        End::PeerClosed | End::Drained => debug!("closed: {end}"),
        End::Rejected(error) => {
            shared.stats.reject(Reject::from(error));
            shared.warnings.rejected(error);
        }
    }
    // Memory goes back before anything else is waited for.
    let Connection { stream, input, output, claimant, .. } = connection;
    drop((input, output, claimant));
    let is_gentle = end.may_leave_input() || (stream.takes_leave() && !end.is_of_stream());
    is_gentle.then_some(stream)
}

impl<H: Handler> Connection<'_, H> {
    async fn run(&mut self) -> End {
        loop {
            match self.take_turn().await {
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
    async fn take_turn(&mut self) -> Result<(), End> {
        self.fill().await?;
        let Self { shared, stream, input, output, claimant, .. } = self;
        let input_held = input.held(claimant);
        let mut replies = Replies { output, stream: Pin::new(stream), claimant, input_held };
        let mut requests = Requests::of(input.batch());
        shared.handler.handle_all(&mut requests, &mut replies).await?;
        input.skip_rest_of_batch();
        self.flush().await?;
        self.output.end_turn();
        self.count();
        Ok(())
    }

    /// Waits until there is at least one whole frame.
    async fn fill(&mut self) -> Result<(), End> {
        // A peer that never pauses must not keep the thread: nothing else of a turn need yield.
        coop::consume_budget().await;
        poll_fn(|context| {
            if self.drain.is_done(&self.stream, &self.input)? {
                return Poll::Ready(Err(End::Drained));
            }
            let Self { stream, input, claimant, .. } = self;
            // All replies are flushed, so the input side holds all that there is.
            match input.poll_fill(Pin::new(stream), context, claimant, true)? {
                Poll::Ready(Filled::Frames) => Poll::Ready(Ok(())),
                Poll::Ready(Filled::End) => Poll::Ready(Err(End::PeerClosed)),
                Poll::Pending => {
                    // What trickles in shows in the figures at once.
                    if self.input.bytes_read() != self.counted.bytes_in {
                        self.count();
                    }
                    // The last of what had arrived may have been a part of a frame.
                    match self.drain.is_done(&self.stream, &self.input)? {
                        true => Poll::Ready(Err(End::Drained)),
                        false => Poll::Pending,
                    }
                }
            }
        })
        .await
    }

    async fn flush(&mut self) -> Result<(), FrameError> {
        let Self { stream, input, output, claimant, .. } = self;
        poll_fn(|context| {
            let input_held = input.held(claimant);
            output.poll_flush(Pin::new(&mut *stream), context, claimant, input_held)
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

    fn count(&mut self) {
        let total = Counted {
            frames: self.input.frames_read(),
            bytes_in: self.input.bytes_read(),
            bytes_out: self.output.bytes_written(),
        };
        let before = mem::replace(&mut self.counted, total);
        self.shared.stats.count_turn(
            total.frames - before.frames,
            total.bytes_in - before.bytes_in,
            total.bytes_out - before.bytes_out,
        );
    }
}

/// Whether the server stops, and what is still to be answered then.
#[derive(Debug)]
enum Drain {
    /// It goes on until it is told.
    No(Stop),
    /// So many bytes had arrived since the connection began when the server was told to stop,
    /// encrypted ones if they are.
    WhenArrived(u64),
    /// It stops when so many bytes have been read since the connection began.
    WhenRead(u64),
}

impl Drain {
    /// Whether everything is read that had arrived when the server was told to stop.
    #[inline]
    fn is_done(&mut self, stream: &Stream, input: &Input) -> Result<bool, FrameError> {
        if let Self::No(stopping) = self {
            if !stopping.has_begun() {
                return Ok(false);
            }
            *self = Self::WhenArrived(stream.arrived_ever(input.bytes_read())?);
        }
        if let Self::WhenArrived(bytes) = *self
            && let Some(left) = stream.left_to_read(bytes, input.bytes_read())
        {
            *self = Self::WhenRead(input.bytes_read() + left);
        }
        Ok(match self {
            Self::No(_) | Self::WhenArrived(_) => false,
            Self::WhenRead(bytes) => input.bytes_read() >= *bytes && !input.has_frame(),
        })
    }
}

/// Counts a connection as open until it drops.
pub(crate) struct Open<'s>(&'s Stats);

impl<'s> Open<'s> {
    pub(crate) fn new(stats: &'s Stats) -> Self {
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
    /// Whether the stream failed, so that nothing more can be said.
    fn is_of_stream(&self) -> bool {
        matches!(self, Self::Rejected(FrameError::Io(_) | FrameError::WriteTimeout(_)))
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
