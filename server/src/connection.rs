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
    any::Any,
    future::{Future, poll_fn},
    io::ErrorKind,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
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
    #[error("{culprit} panicked: {message}")]
    Panicked { culprit: &'static str, message: String, leaves_replies: bool },
}

struct Connection<'s, H> {
    shared: &'s Shared<H>,
    stream: Stream,
    input: Input,
    output: Output,
    claimant: Claimant,
    drain: Drain,
    /// Whether the handler is at work: then a panic is its own.
    is_handling: bool,
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
        is_handling: false,
        counted: Counted::default(),
    };
    let mut waking = pin!(stopping.waking());
    stop::wake_by(waking.as_mut()).await;
    let end = connection.run().await;
    connection.count();
    match end.reason() {
        None => debug!("closed: {end}"),
        Some(reason) => {
            shared.stats.reject(reason);
            shared.warnings.rejected(reason, &end);
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
        let end = match self.take_turns().await {
            Ok(end) => end,
            Err(panic) => End::panicked(&*panic, self.is_handling),
        };
        if self.was_only_looked_at(&end) {
            return End::PeerClosed;
        }
        if end.leaves_replies() {
            // It failed already: another failure changes nothing.
            let _ = self.flush().await;
        }
        end
    }

    /// Whether the peer reset the connection without a word, as probes of a port do.
    fn was_only_looked_at(&self, end: &End) -> bool {
        let is_reset = matches!(
            end,
            End::Rejected(FrameError::Io(error)) if error.kind() == ErrorKind::ConnectionReset
        );
        is_reset && matches!(self.stream.arrived_ever(self.input.bytes_read()), Ok(0))
    }

    /// Takes turns until one of them ends the connection, or panics.
    async fn take_turns(&mut self) -> Result<End, Box<dyn Any + Send>> {
        // Pinned here: a future that moves takes its place twice, in every connection.
        let mut turns = pin!(async {
            loop {
                if let Err(end) = self.take_turn().await {
                    return end;
                }
            }
        });
        // Unwind safe: after a panic of the handler, what it was lent is whole; after one of our
        // own, everything is dropped.
        poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| turns.as_mut().poll(context))) {
            Ok(polled) => polled.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        })
        .await
    }

    /// Waits for requests, handles them, and writes the replies.
    async fn take_turn(&mut self) -> Result<(), End> {
        self.fill().await?;
        let Self { shared, stream, input, output, claimant, is_handling, .. } = self;
        let input_held = input.held(claimant);
        let mut replies = Replies { output, stream: Pin::new(stream), claimant, input_held };
        let mut requests = Requests::of(input.batch());
        *is_handling = true;
        shared.handler.handle_all(&mut requests, &mut replies).await?;
        *is_handling = false;
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
            if self.drain.is_done(&self.stream, &mut self.input, context)? {
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
                    match self.drain.is_done(&self.stream, &mut self.input, context)? {
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
    WhenRead { bytes: u64, mark: Mark },
}

/// What is known of an urgent byte, behind which nothing counts as arrived.
#[derive(Clone, Copy, Debug)]
enum Mark {
    Unseen,
    /// The next byte to be read lies behind it.
    Seen,
    /// What had arrived behind it is counted. It is the only one: a peer could send them for ever.
    Passed,
}

impl Drain {
    /// Whether everything is read that had arrived when the server was told to stop.
    #[inline]
    fn is_done(
        &mut self,
        stream: &Stream,
        input: &mut Input,
        context: &Context<'_>,
    ) -> Result<bool, FrameError> {
        if let Self::No(stopping) = self {
            if !stopping.has_begun() {
                return Ok(false);
            }
            *self = Self::WhenArrived(stream.arrived_ever(input.bytes_read())?);
            input.ask();
        }
        if let Self::WhenArrived(bytes) = *self
            && let Some(left) = stream.left_to_read(bytes, input.bytes_read())
        {
            *self = Self::WhenRead { bytes: input.bytes_read() + left, mark: Mark::Unseen };
        }
        let read = input.bytes_read();
        match self {
            Self::WhenRead { bytes, mark } if read >= *bytes && !input.has_frame() => match mark {
                Mark::Unseen if stream.is_at_mark() => {
                    *self = Self::WhenRead { bytes: read + 1, mark: Mark::Seen };
                    input.ask();
                    context.waker().wake_by_ref();
                    Ok(false)
                }
                Mark::Seen => {
                    let bytes = stream.arrived_ever(read)?;
                    *self = Self::WhenRead { bytes, mark: Mark::Passed };
                    Ok(read >= bytes)
                }
                Mark::Unseen | Mark::Passed => Ok(true),
            },
            _ => Ok(false),
        }
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
    fn panicked(panic: &(dyn Any + Send), is_of_handler: bool) -> Self {
        let message = panic.downcast_ref::<&str>().copied();
        let message = message.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Self::Panicked {
            culprit: if is_of_handler { "its handler" } else { "the server" },
            message: message.unwrap_or("a value that is no text").to_owned(),
            leaves_replies: is_of_handler,
        }
    }

    /// Why the server closes the connection before its peer does.
    fn reason(&self) -> Option<Reject> {
        match self {
            Self::PeerClosed | Self::Drained => None,
            Self::Rejected(error) => Some(error.into()),
            Self::Panicked { .. } => Some(Reject::Panicked),
        }
    }

    /// Whether there may be replies to what came before, which the peer can still take.
    fn leaves_replies(&self) -> bool {
        match self {
            Self::PeerClosed | Self::Drained => false,
            Self::Rejected(error) => !matches!(
                error,
                FrameError::Io(_) | FrameError::WriteTimeout(_) | FrameError::Stalled { .. }
            ),
            Self::Panicked { leaves_replies, .. } => *leaves_replies,
        }
    }

    /// Whether the stream failed, so that nothing more can be said.
    fn is_of_stream(&self) -> bool {
        matches!(self, Self::Rejected(FrameError::Io(_) | FrameError::WriteTimeout(_)))
    }

    /// Whether the peer may have sent, or still be sending, what nobody has read.
    fn may_leave_input(&self) -> bool {
        match self {
            Self::PeerClosed => false,
            Self::Drained | Self::Panicked { .. } => true,
            Self::Rejected(error) => match error {
                FrameError::UnexpectedEnd | FrameError::Io(_) => false,
                // It does not read what it has, so there is nothing to save by waiting.
                FrameError::WriteTimeout(_) => false,
                _ => true,
            },
        }
    }
}
