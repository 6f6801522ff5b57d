//! What a server does with a request: the [`Handler`] trait, and the two echoes.

use std::{
    fmt,
    future::{Future, poll_fn},
    io,
    ops::Deref,
    pin::Pin,
};

use arena::Frozen;

use crate::{
    frame::HEADER_BYTES,
    memory::{Block, Claimant, Held},
    transport::{Batch, Duplex, FrameError, Output, Place},
};

/// What a server does with a request.
///
/// Requests of one connection come one after the other, in the order in which they were sent, and
/// replies leave in the order in which they were given. A request may have no reply, or several.
///
/// # Memory
///
/// A request holds memory of the arena until `handle` returns. A reply gets its own by
/// [`Replies::copy`] or [`Replies::allocate`], which wait if there is none. That is safe as long as
/// what a handler waits for does not itself wait for the request at hand, and as long as it keeps
/// nothing of a request for longer: [`Request::to_frozen`] holds the whole block in which the
/// request lies, so what is to be kept is copied elsewhere.
///
/// # Examples
///
/// Replies with the length of the request:
///
/// ```
/// use arena_echo::{FrameError, Handler, Replies, Request};
///
/// struct Length;
///
/// impl Handler for Length {
///     async fn handle(
///         &self,
///         request: Request<'_>,
///         replies: &mut Replies<'_>,
///     ) -> Result<(), FrameError> {
///         replies.copy(&(request.len() as u64).to_be_bytes()).await
///     }
/// }
/// # let _ = Length;
/// ```
pub trait Handler: Send + Sync + 'static {
    /// Answers one request.
    ///
    /// An error closes the connection, after a flush of the replies before it where the peer can
    /// still take them. Errors of [`Replies`] are meant to be passed on; one's own are best told to
    /// the peer in a reply.
    ///
    /// A panic closes the connection in the same way, counts as
    /// [`Reject::Panicked`](crate::Reject::Panicked), and is logged. The server goes on, unless the
    /// program is built to abort on panics.
    fn handle(
        &self,
        request: Request<'_>,
        replies: &mut Replies<'_>,
    ) -> impl Future<Output = Result<(), FrameError>> + Send;

    /// Answers all requests that have arrived, one after the other.
    ///
    /// For handlers that do so little that a future for each request is much. By default it calls
    /// [`handle`](Self::handle) for each. A request that is not taken has no reply.
    fn handle_all(
        &self,
        requests: &mut Requests<'_>,
        replies: &mut Replies<'_>,
    ) -> impl Future<Output = Result<(), FrameError>> + Send {
        async {
            for request in requests.by_ref() {
                self.handle(request, replies).await?;
            }
            Ok(())
        }
    }
}

/// Replies with the request.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Echo {
    /// As it lies in memory: copies nothing, and takes no memory.
    #[default]
    Share,
    /// In a frame of its own from the arena, with backpressure: what a server does whose replies
    /// are not its requests.
    Copy,
}

impl Handler for Echo {
    #[inline]
    async fn handle(
        &self,
        request: Request<'_>,
        replies: &mut Replies<'_>,
    ) -> Result<(), FrameError> {
        match self {
            Self::Share => {
                replies.share(request);
                Ok(())
            }
            Self::Copy => replies.copy(&request).await,
        }
    }

    #[inline]
    async fn handle_all(
        &self,
        requests: &mut Requests<'_>,
        replies: &mut Replies<'_>,
    ) -> Result<(), FrameError> {
        match self {
            Self::Share => replies.share_all(requests),
            Self::Copy => {
                while let Some(request) = replies.copy_while_there_is_room(requests) {
                    replies.copy(&request).await?;
                }
            }
        }
        Ok(())
    }
}

/// A request: the payload of one frame, where it lies in arena memory.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    place: Place<'a>,
}

impl Request<'_> {
    /// Returns the payload as something that can be kept, without copying. The whole block in which
    /// it lies stays in use meanwhile.
    ///
    /// Costs one atomic operation.
    pub fn to_frozen(&self) -> Frozen {
        self.place.to_frozen()
    }
}

/// All requests that have arrived and are not taken: an iterator.
///
/// A request that is not taken has no reply.
pub struct Requests<'a> {
    batch: Option<Batch<'a>>,
}

impl<'a> Requests<'a> {
    pub(crate) fn of(batch: Option<Batch<'a>>) -> Self {
        Self { batch }
    }
}

impl<'a> Iterator for Requests<'a> {
    type Item = Request<'a>;

    #[inline]
    fn next(&mut self) -> Option<Request<'a>> {
        Some(Request { place: self.batch.as_mut()?.next()? })
    }
}

impl fmt::Debug for Requests<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").finish_non_exhaustive()
    }
}

impl Deref for Request<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.place.payload()
    }
}

/// Where a handler puts its replies.
///
/// They are written when all requests that have arrived are handled, or when there is no memory for
/// more; or earlier, by [`flush`](Self::flush).
pub struct Replies<'a> {
    pub(crate) output: &'a mut Output,
    pub(crate) stream: Pin<&'a mut dyn Duplex>,
    pub(crate) claimant: &'a mut Claimant,
    /// What the input side holds.
    pub(crate) input_held: Held,
}

impl Replies<'_> {
    /// Replies with the request itself, as it lies in memory. Copies nothing and takes no memory.
    #[inline]
    pub fn share(&mut self, request: Request<'_>) {
        self.output.share(request.place);
    }

    /// Replies with all requests, as they lie in memory: those that lie next to each other at once.
    #[inline]
    pub fn share_all(&mut self, requests: &mut Requests<'_>) {
        if let Some(batch) = &mut requests.batch
            && let Some((block, range)) = batch.take_neighbours()
        {
            self.output.share_range(block, range);
        }
        for request in requests {
            self.share(request);
        }
    }

    /// Copies requests as long as there is memory for it at hand. Returns the first for which there
    /// is none.
    #[inline]
    fn copy_while_there_is_room<'r>(&mut self, requests: &mut Requests<'r>) -> Option<Request<'r>> {
        requests.find(|request| !self.output.try_gather(request))
    }

    /// Replies with a payload that is in memory already.
    ///
    /// # Errors
    ///
    /// [`FrameError::ReplyTooLong`].
    pub fn send(&mut self, payload: impl Into<Frozen>) -> Result<(), FrameError> {
        let payload = payload.into();
        self.output.check(payload.len())?;
        self.output.push(payload, self.claimant);
        Ok(())
    }

    /// Replies with a copy of `payload`, in memory of the arena. Waits if there is none; flushes
    /// before it waits.
    ///
    /// Many small ones are gathered in one block.
    ///
    /// # Errors
    ///
    /// [`FrameError::ReplyTooLong`], and whatever ends the connection while it waits.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, there is no reply.
    #[inline]
    pub async fn copy(&mut self, payload: &[u8]) -> Result<(), FrameError> {
        self.output.check(payload.len())?;
        if HEADER_BYTES + payload.len() <= self.claimant.read_block_bytes() {
            self.gathering_room(payload.len()).await?;
            self.output.gather(payload);
            return Ok(());
        }
        let mut reply = self.allocate(payload.len()).await?;
        reply.put_slice(payload);
        self.send(reply)
    }

    /// Takes memory for a reply of up to `bytes`, to be written and then given to
    /// [`send`](Self::send). Waits if there is none; flushes before it waits.
    ///
    /// Where a handler holds one such reply and asks for another, it can wait for itself: send the
    /// first before.
    ///
    /// # Errors
    ///
    /// [`FrameError::ReplyTooLong`], and whatever ends the connection while it waits.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, nothing was taken.
    pub async fn allocate(&mut self, bytes: usize) -> Result<ReplyBuffer, FrameError> {
        self.output.check(bytes)?;
        if bytes == 0 {
            return Ok(ReplyBuffer { block: None, remaining_bytes: 0 });
        }
        let Self { output, stream, claimant, input_held } = self;
        let block = poll_fn(|context| {
            output.poll_own_block(stream.as_mut(), context, claimant, *input_held, bytes)
        });
        Ok(ReplyBuffer { block: Some(block.await?), remaining_bytes: bytes })
    }

    /// Writes the replies that were given so far: those to earlier requests included.
    ///
    /// For handlers that are about to wait for something slow. It costs a system call.
    ///
    /// # Errors
    ///
    /// Whatever ends the connection while the peer is waited for.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped, and nothing is written twice.
    pub async fn flush(&mut self) -> Result<(), FrameError> {
        let Self { output, stream, claimant, input_held } = self;
        poll_fn(|context| output.poll_flush(stream.as_mut(), context, claimant, *input_held)).await
    }

    #[inline]
    async fn gathering_room(&mut self, payload_bytes: usize) -> Result<(), FrameError> {
        if self.output.has_gathering_room(HEADER_BYTES + payload_bytes, self.claimant) {
            return Ok(());
        }
        let Self { output, stream, claimant, input_held } = self;
        poll_fn(|context| {
            let stream = stream.as_mut();
            output.poll_gathering_room(stream, context, claimant, *input_held, payload_bytes)
        })
        .await
    }
}

impl fmt::Debug for Replies<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replies").field("output", &self.output).finish_non_exhaustive()
    }
}

/// Memory for one reply: write it, then give it to [`Replies::send`].
///
/// It is a [`io::Write`] as well, which takes no more than was allocated.
#[derive(Debug)]
pub struct ReplyBuffer {
    /// `None` if there are to be no bytes.
    block: Option<Block>,
    remaining_bytes: usize,
}

impl ReplyBuffer {
    /// Returns how many bytes can still be written.
    pub fn remaining(&self) -> usize {
        self.remaining_bytes
    }

    /// Appends `bytes`.
    ///
    /// # Panics
    ///
    /// If they are more than [`remaining`](Self::remaining).
    #[track_caller]
    pub fn put_slice(&mut self, bytes: &[u8]) {
        let remaining = self.remaining_bytes;
        assert!(bytes.len() <= remaining, "{} bytes do not fit into {remaining}", bytes.len());
        self.remaining_bytes -= bytes.len();
        if let Some(block) = &mut self.block {
            block.put_slice(bytes);
        }
    }
}

impl io::Write for ReplyBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.remaining_bytes);
        self.put_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl From<ReplyBuffer> for Frozen {
    fn from(reply: ReplyBuffer) -> Self {
        match reply.block {
            Some(block) => block.into_frozen(),
            None => Self::from(bytes::Bytes::new()),
        }
    }
}
