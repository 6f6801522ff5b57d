//! The transports: joined, reading, writing.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use arena::Frozen;
use futures_util::{Sink, Stream};
use tokio::io::AsyncWrite;

use super::{Filled, FrameError, Half, Halves, Input, Output, ReadReady, Timeouts};
use crate::memory::{Claimant, Held, Memory};

/// While more than this is unsent, nothing more is taken or read: the peer must read first.
const UNSENT_BYTES_MAX: usize = 64 << 10;

/// A [`Stream`] and [`Sink`] of frames over a byte stream, whose payloads lie in arena memory.
///
/// What `Framed<S, LengthDelimitedCodec>` is to the heap: items are payloads without their header.
/// Reading hands out [`Frozen`], writing takes whatever becomes one: `Frozen`, `Buffer`, `Bytes`.
///
/// When there is no memory it waits, in the order in which transports came, and TCP carries that to
/// the peer. It flushes before it waits, also in [`next`](Self::next), so that a reply never
/// sits unsent behind a request that has no memory. Frames that are kept while the next are waited
/// for are memory that nobody else gets; who keeps many can wait for himself, up to
/// [`Timeouts::memory`].
///
/// Two tasks can share it by `StreamExt::split`, one that reads and one that writes. Reading goes
/// on to flush then, and stops while the peer has much to read.
///
/// # Examples
///
/// An echo, with `LengthDelimitedCodec::builder().new_framed(stream)` exchanged for this:
///
/// ```
/// use arena_echo::{ArenaFramed, Memory};
/// use futures_util::{SinkExt, StreamExt};
/// # use tokio::{io::{AsyncReadExt, AsyncWriteExt}, net::{TcpListener, TcpStream}};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let listener = TcpListener::bind("127.0.0.1:0").await?;
/// # let mut client = TcpStream::connect(listener.local_addr()?).await?;
/// # let (stream, _) = listener.accept().await?;
/// let memory = Memory::buddy(4 << 20, 256, 1 << 20)?;
/// let mut frames = ArenaFramed::builder().max_frame_length(1 << 20).new_framed(stream, &memory);
///
/// # client.write_all(b"\0\0\0\x02hi").await?;
/// # client.shutdown().await?;
/// while let Some(request) = frames.next().await {
///     frames.feed(request?).await?;
/// }
/// frames.close().await?;
/// # let mut reply = Vec::new();
/// # client.read_to_end(&mut reply).await?;
/// # assert_eq!(reply, b"\0\0\0\x02hi");
/// # assert_eq!(memory.metrics().bytes_live, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ArenaFramed<S> {
    input: Input,
    /// It has the stream, and the way to the memory of both directions.
    writer: FrameWriter<S>,
    /// Who waits until everything is written.
    flushing: Halves,
    is_over: bool,
}

/// The reading half of a transport: a [`Stream`] of frames.
///
/// Frames that the reader handed out are memory that nobody else gets: answer them, or drop them,
/// before asking for more.
#[derive(Debug)]
pub struct FrameReader<S> {
    stream: S,
    input: Input,
    claimant: Claimant,
    is_over: bool,
}

/// The writing half of a transport: a [`Sink`] of payloads.
///
/// It never waits for memory. Whenever it is not empty it must be driven, by
/// [`flush`](Self::flush) for instance: replies that sit in it hold memory for which requests may
/// be waiting, those of this very connection included. [`ArenaFramed`] does that by itself.
#[derive(Debug)]
pub struct FrameWriter<S> {
    stream: S,
    output: Output,
    claimant: Claimant,
}

/// How transports are built.
///
/// The defaults are the limit of `LengthDelimitedCodec`, 8 MiB or what the memory holds, and no
/// timeouts.
#[derive(Clone, Copy, Debug)]
#[must_use = "a builder does nothing until it builds a transport"]
pub struct FramedBuilder {
    max_frame_bytes: usize,
    timeouts: Timeouts,
}

impl FramedBuilder {
    pub(crate) fn new() -> Self {
        Self { max_frame_bytes: 8 << 20, timeouts: Timeouts::default() }
    }

    /// Sets the longest payload, in bytes. A memory that was made for shorter ones keeps its limit.
    pub fn max_frame_length(mut self, bytes: usize) -> Self {
        self.max_frame_bytes = bytes;
        self
    }

    /// Sets how long to wait for what.
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// Makes a transport for both directions.
    pub fn new_framed<S>(self, stream: S, memory: &Memory) -> ArenaFramed<S>
    where
        S: ReadReady + AsyncWrite + Unpin,
    {
        let input = Input::new(self.limit(memory), self.timeouts);
        let writer = self.new_write(stream, memory);
        ArenaFramed { input, writer, flushing: Halves::default(), is_over: false }
    }

    /// Makes a transport that reads.
    pub fn new_read<S: ReadReady + Unpin>(self, stream: S, memory: &Memory) -> FrameReader<S> {
        let input = Input::new(self.limit(memory), self.timeouts);
        FrameReader { stream, input, claimant: Claimant::new(memory), is_over: false }
    }

    /// Makes a transport that writes.
    pub fn new_write<S: AsyncWrite + Unpin>(self, stream: S, memory: &Memory) -> FrameWriter<S> {
        let output = Output::new(self.limit(memory), self.timeouts);
        FrameWriter { stream, output, claimant: Claimant::new(memory) }
    }

    fn limit(&self, memory: &Memory) -> usize {
        self.max_frame_bytes.min(memory.plan().max_frame_bytes())
    }
}

impl ArenaFramed<()> {
    /// Starts to configure a transport.
    pub fn builder() -> FramedBuilder {
        FramedBuilder::new()
    }
}

impl<S: ReadReady + AsyncWrite + Unpin> ArenaFramed<S> {
    /// Waits for the next frame, and flushes meanwhile. `None` is the end of the input.
    ///
    /// # Errors
    ///
    /// [`FrameError`]; the transport is over then, and further calls return `None`.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Result<Frozen, FrameError>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// Takes a payload. It is written at the latest when the input runs dry, or by
    /// [`flush`](Self::flush). Waits if the peer has much to read already.
    ///
    /// # Errors
    ///
    /// [`FrameError`], [`FrameError::ReplyTooLong`] for instance.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the payload was not taken.
    pub async fn send(&mut self, payload: impl Into<Frozen>) -> Result<(), FrameError> {
        poll_fn(|context| self.poll_room(context)).await?;
        self.writer.take(payload.into())
    }

    /// Writes everything that was taken.
    ///
    /// # Errors
    ///
    /// [`FrameError`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped, and nothing is written twice.
    pub async fn flush(&mut self) -> Result<(), FrameError> {
        poll_fn(|context| self.poll_flush_all(context)).await
    }

    /// Writes everything that was taken, and ends the output.
    ///
    /// # Errors
    ///
    /// [`FrameError`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped, and nothing is written twice.
    pub async fn close(&mut self) -> Result<(), FrameError> {
        self.flush().await?;
        self.writer.end().await
    }

    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<Result<(), FrameError>> {
        match self.writer.has_room() {
            true => Poll::Ready(Ok(())),
            false => self.poll_flush_all(context),
        }
    }

    fn poll_flush_all(&mut self, context: &mut Context<'_>) -> Poll<Result<(), FrameError>> {
        self.poll_flush_for(Half::Writer, context)
    }

    fn poll_flush_for(
        &mut self,
        half: Half,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), FrameError>> {
        let Self { input, writer, flushing, .. } = self;
        let input_held = input.held(&writer.claimant);
        flushing.poll(half, context, |context| writer.poll_write_all(context, input_held))
    }

    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Frozen>, FrameError>> {
        if let Some(frame) = self.input.next_frame() {
            return Poll::Ready(Ok(Some(frame)));
        }
        // Before anything is waited for. As long as the peer has not too much to read, its own
        // requests can go on.
        let flushed = self.poll_flush_for(Half::Reader, context)?;
        if flushed.is_pending() && !self.writer.has_room() {
            return Poll::Pending;
        }
        let Self { input, writer: FrameWriter { stream, output, claimant }, flushing, .. } = self;
        let are_flushed = output.is_flushed();
        let filled = input.poll_fill(Pin::new(stream), context, claimant, are_flushed);
        if filled.is_pending() && input.waits_for_memory() {
            // What is written next may share the memory that is waited for.
            flushing.wait(Half::Reader, context);
        }
        match ready!(filled)? {
            Filled::Frames => Poll::Ready(Ok(self.input.next_frame())),
            // The end is told when everything is flushed.
            Filled::End => {
                self.is_over = true;
                flushed.map(|()| Ok(None))
            }
        }
    }
}

impl<S: ReadReady + AsyncWrite + Unpin> Stream for ArenaFramed<S> {
    type Item = Result<Frozen, FrameError>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frozen, FrameError>>> {
        let this = &mut *self;
        if this.is_over {
            let flushed = this.poll_flush_for(Half::Reader, context);
            return flushed.map(|flushed| flushed.err().map(Err));
        }
        let frame = ready!(this.poll_frame(context));
        if frame.is_err() {
            this.is_over = true;
            // What ended the input may have ended both.
            this.flushing.wake(Half::Writer);
        }
        Poll::Ready(frame.transpose())
    }
}

impl<S: ReadReady + Unpin> FrameReader<S> {
    /// Waits for the next frame. `None` is the end of the input.
    ///
    /// # Errors
    ///
    /// [`FrameError`]; the reader is over then, and further calls return `None`.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Result<Frozen, FrameError>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Frozen>, FrameError>> {
        if let Some(frame) = self.input.next_frame() {
            return Poll::Ready(Ok(Some(frame)));
        }
        let Self { stream, input, claimant, .. } = self;
        match ready!(input.poll_fill(Pin::new(stream), context, claimant, true))? {
            Filled::Frames => Poll::Ready(Ok(self.input.next_frame())),
            Filled::End => Poll::Ready(Ok(None)),
        }
    }
}

impl<S: ReadReady + Unpin> Stream for FrameReader<S> {
    type Item = Result<Frozen, FrameError>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frozen, FrameError>>> {
        let this = &mut *self;
        if this.is_over {
            return Poll::Ready(None);
        }
        let frame = ready!(this.poll_frame(context));
        this.is_over = !matches!(frame, Ok(Some(_)));
        Poll::Ready(frame.transpose())
    }
}

impl<S: AsyncWrite + Unpin> FrameWriter<S> {
    /// Takes a payload. Waits if the peer has much to read already.
    ///
    /// # Errors
    ///
    /// [`FrameError`], [`FrameError::ReplyTooLong`] for instance.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the payload was not taken.
    pub async fn send(&mut self, payload: impl Into<Frozen>) -> Result<(), FrameError> {
        poll_fn(|context| self.poll_room(context)).await?;
        self.take(payload.into())
    }

    /// Writes everything that was taken.
    ///
    /// # Errors
    ///
    /// [`FrameError`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped, and nothing is written twice.
    pub async fn flush(&mut self) -> Result<(), FrameError> {
        poll_fn(|context| self.poll_flush_all(context)).await
    }

    /// Writes everything that was taken, and ends the output.
    ///
    /// # Errors
    ///
    /// [`FrameError`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped, and nothing is written twice.
    pub async fn close(&mut self) -> Result<(), FrameError> {
        self.flush().await?;
        self.end().await
    }

    fn has_room(&self) -> bool {
        self.output.unsent_bytes() < UNSENT_BYTES_MAX
    }

    fn take(&mut self, payload: Frozen) -> Result<(), FrameError> {
        self.output.check(payload.len())?;
        self.output.push(payload, &self.claimant);
        Ok(())
    }

    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<Result<(), FrameError>> {
        match self.has_room() {
            true => Poll::Ready(Ok(())),
            false => self.poll_flush_all(context),
        }
    }

    fn poll_flush_all(&mut self, context: &mut Context<'_>) -> Poll<Result<(), FrameError>> {
        ready!(self.poll_write_all(context, Held::default()))?;
        self.claimant.end_turn();
        Poll::Ready(Ok(()))
    }

    /// Writes until nothing is left. `input_held` is what the connection holds besides.
    fn poll_write_all(
        &mut self,
        context: &mut Context<'_>,
        input_held: Held,
    ) -> Poll<Result<(), FrameError>> {
        let Self { stream, output, claimant } = self;
        ready!(output.poll_flush(Pin::new(stream), context, claimant, input_held))?;
        output.end_turn();
        Poll::Ready(Ok(()))
    }

    async fn end(&mut self) -> Result<(), FrameError> {
        poll_fn(|context| self.poll_end(context)).await
    }

    /// Ends the output. Whoever is gone has ended it himself.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<Result<(), FrameError>> {
        match ready!(Pin::new(&mut self.stream).poll_shutdown(context)) {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => {
                Poll::Ready(Err(error.into()))
            }
            _ => Poll::Ready(Ok(())),
        }
    }
}

/// Makes a [`Sink`] of a transport that has a writer, or is one.
macro_rules! sink {
    ($transport:ident<S: $($bound:path),+>: $this:ident => $writer:expr) => {
        impl<S: $($bound +)+, P: Into<Frozen>> Sink<P> for $transport<S> {
            type Error = FrameError;

            fn poll_ready(
                mut self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<Result<(), FrameError>> {
                self.poll_room(context)
            }

            fn start_send(self: Pin<&mut Self>, payload: P) -> Result<(), FrameError> {
                let $this = self.get_mut();
                $writer.take(payload.into())
            }

            fn poll_flush(
                mut self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<Result<(), FrameError>> {
                self.poll_flush_all(context)
            }

            fn poll_close(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<Result<(), FrameError>> {
                let $this = self.get_mut();
                ready!($this.poll_flush_all(context))?;
                $writer.poll_end(context)
            }
        }
    };
}

sink!(ArenaFramed<S: ReadReady, AsyncWrite, Unpin>: this => this.writer);
sink!(FrameWriter<S: AsyncWrite, Unpin>: this => this);

/// Gives access to the stream of a transport, as tokio-util's `Framed` does.
macro_rules! stream_of {
    ($($transport:ident: $($field:ident).+, $lost:literal;)+) => {$(
        impl<S> $transport<S> {
            /// Returns the stream.
            pub fn get_ref(&self) -> &S {
                &self.$($field).+
            }

            /// Returns the stream. Who reads from it, or writes to it, cuts frames to pieces.
            pub fn get_mut(&mut self) -> &mut S {
                &mut self.$($field).+
            }

            /// Returns the stream. Who reads from it, or writes to it, cuts frames to pieces.
            pub fn get_pin_mut(self: Pin<&mut Self>) -> Pin<&mut S>
            where
                S: Unpin,
            {
                Pin::new(self.get_mut().get_mut())
            }

            #[doc = concat!("Returns the stream. ", $lost, " is lost.")]
            pub fn into_inner(self) -> S {
                self.$($field).+
            }
        }
    )+};
}

stream_of! {
    ArenaFramed: writer.stream, "What was read and not handed out, and what was not flushed,";
    FrameReader: stream, "What was read and not handed out";
    FrameWriter: stream, "What was not flushed";
}
