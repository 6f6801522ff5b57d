//! One connection: wait for input, hold memory, answer, give it back.
//!
//! ```text
//!            holds nothing                       holds a permit and a block
//!   +-----------------------------+   +---------------------------------------------+
//!   wait for input --> wait for a permit --> read --> write the whole frames --+
//!        ^                                     ^                               |
//!        |                                     +---- a payload has begun ------+
//!        +------------------------------------------ nothing, or a header -----+
//! ```
//!
//! Whole frames in a block are their own reply, written from where they lie. A payload that has
//! begun moves to the front of its block after the replies before it are written. If it does not
//! fit there together with its header, the header is taken out; if it does not fit at all, it moves
//! to a block of its own and the rest is read straight into that.
//!
//! A header without payload needs no block: its four bytes stay here, and permit and block go back.

use std::{io, sync::Arc, time::Duration};

use arena::{AllocError, Buffer};
use bytes::{Buf, BufMut};
use tokio::{
    net::TcpStream,
    select,
    task::coop,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::{
    budget::{Budget, Permit},
    config::Config,
    frame::{self, HEADER_BYTES, Header, Rest},
    socket,
};

/// What all connections of a server share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) budget: Arc<Budget>,
    pub(crate) config: Config,
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the peer closed it")]
    PeerClosed,
    #[error("the server stops")]
    Drained,
    #[error("the peer closed it inside a frame")]
    PeerClosedInsideFrame,
    #[error("a frame of {announced} bytes exceeds the limit of {limit} bytes")]
    FrameTooLong { announced: usize, limit: usize },
    #[error("the rest of a frame did not arrive within the frame timeout of {0:?}")]
    FrameTimeout(Duration),
    #[error("the peer took no reply for the write timeout of {0:?}")]
    WriteTimeout(Duration),
    #[error("no memory became free within the memory timeout of {0:?}")]
    MemoryTimeout(Duration),
    #[error("memory was refused in spite of a permit: {0}")]
    MemoryRefused(#[from] AllocError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

struct Connection<'s> {
    shared: &'s Shared,
    stream: TcpStream,
    /// What has arrived of the next frame's header, while no block holds it.
    header: Header,
    /// When the frame that has begun must be complete. Absent between frames, and until the first
    /// wait for its rest.
    frame_deadline: Option<Instant>,
    /// Cancelled when the server stops.
    draining: CancellationToken,
    /// Since the server stops: the bytes that had arrived by then and are not read yet.
    unread_bytes: Option<u64>,
}

/// Serves a connection until it ends, and closes it.
///
/// Once `draining` is cancelled, what has arrived is still answered.
pub(crate) async fn serve(stream: TcpStream, shared: Arc<Shared>, draining: CancellationToken) {
    let mut connection = Connection {
        shared: &shared,
        stream,
        header: Header::default(),
        frame_deadline: None,
        draining,
        unread_bytes: None,
    };
    let end = connection.run().await;
    end.log();
    if end.may_leave_input() {
        socket::close_gently(connection.stream).await;
    }
}

impl<'s> Connection<'s> {
    async fn run(&mut self) -> End {
        loop {
            if let Err(end) = self.take_turn().await {
                return end;
            }
        }
    }

    /// Waits for input, then for memory, and answers what has arrived.
    async fn take_turn(&mut self) -> Result<(), End> {
        self.wait_for_input().await?;
        // A peer that never pauses must not keep the thread: neither the wait above nor a permit
        // that is free yields.
        coop::consume_budget().await;
        let permit = self.wait_for_permit().await?;
        match self.header.payload_bytes() {
            Some(announced) if !permit.reads_in_one_block(announced) => {
                let payload = permit.payload_block(announced)?;
                self.answer_long_frame(payload, announced).await
            }
            _ => self.answer_frames(&permit).await,
        }
    }

    /// Waits until there is something to read, holding nothing.
    async fn wait_for_input(&mut self) -> Result<(), End> {
        let deadline = (!self.header.is_empty()).then(|| self.frame_deadline());
        loop {
            self.heed_drain()?;
            select! {
                biased;
                ready = self.stream.readable() => return Ok(ready?),
                () = self.draining.cancelled(), if self.unread_bytes.is_none() => {}
                () = reached(deadline) => return Err(self.frame_timeout()),
            }
        }
    }

    /// Waits in line for memory, holding nothing.
    async fn wait_for_permit(&mut self) -> Result<Permit<'s>, End> {
        let Shared { budget, config } = self.shared;
        if let Some(permit) = budget.try_acquire() {
            return Ok(permit);
        }
        let since = Instant::now();
        let permit = timeout(config.memory_timeout, budget.acquire())
            .await
            .map_err(|_| End::MemoryTimeout(config.memory_timeout))?;
        // The peer is not to blame for this wait.
        if let Some(deadline) = &mut self.frame_deadline {
            *deadline += since.elapsed();
        }
        Ok(permit)
    }

    /// Answers the frames that have arrived, up to the end of the last one whose payload has begun.
    async fn answer_frames(&mut self, permit: &Permit<'_>) -> Result<(), End> {
        let mut block = permit.read_block()?;
        block.put_slice(self.header.as_bytes());
        let Some(read) = socket::read_arrived(&mut self.stream, &mut block).await? else {
            return Ok(());
        };
        self.count(read)?;
        self.header = Header::default();
        loop {
            let scan = frame::scan(&block, self.shared.config.max_frame_bytes);
            self.write(&block[..scan.whole_bytes]).await?;
            if scan.whole_bytes > 0 {
                self.frame_deadline = None;
            }
            match scan.rest {
                Rest::Nothing => return Ok(()),
                Rest::Header(header) => {
                    self.header = header;
                    return Ok(());
                }
                Rest::TooLong(announced) => return Err(self.frame_too_long(announced)),
                Rest::Payload(announced) if HEADER_BYTES + announced <= block.capacity() => {
                    keep_from(&mut block, scan.whole_bytes);
                    self.read_on(&mut block, HEADER_BYTES + announced).await?;
                }
                Rest::Payload(announced) => {
                    self.header = Header::at_front_of(&block[scan.whole_bytes..]);
                    keep_from(&mut block, scan.whole_bytes + HEADER_BYTES);
                    let payload = permit.with_room_for(announced, block)?;
                    return self.answer_long_frame(payload, announced).await;
                }
            }
        }
    }

    /// Reads the rest of a payload whose header is taken out, and answers the frame.
    async fn answer_long_frame(
        &mut self,
        mut payload: Buffer,
        announced: usize,
    ) -> Result<(), End> {
        while payload.len() < announced {
            let missing = announced - payload.len();
            self.read_within_deadline(&mut (&mut payload).limit(missing)).await?;
        }
        self.write(self.header.as_bytes().chain(&payload[..])).await?;
        self.header = Header::default();
        self.frame_deadline = None;
        Ok(())
    }

    /// Reads more into a block that begins with a part of a frame of `frame_bytes`.
    async fn read_on(&mut self, block: &mut Buffer, frame_bytes: usize) -> Result<(), End> {
        let until = if self.shared.budget.is_exhausted() { frame_bytes } else { block.capacity() };
        let missing = until - block.len();
        self.read_within_deadline(&mut block.limit(missing)).await
    }

    /// Reads some of what `target` has room for, or returns without, when the server begins to
    /// stop.
    async fn read_within_deadline(&mut self, target: &mut impl BufMut) -> Result<(), End> {
        let deadline = self.frame_deadline();
        self.heed_drain()?;
        select! {
            biased;
            read = socket::read(&mut self.stream, target) => match read? {
                // The header may lie in the block, where `count` does not look.
                0 => Err(End::PeerClosedInsideFrame),
                read => self.count(read),
            },
            () = self.draining.cancelled(), if self.unread_bytes.is_none() => Ok(()),
            () = sleep_until(deadline) => Err(self.frame_timeout()),
        }
    }

    /// Writes all of `reply`, as long as the peer goes on taking some.
    async fn write(&self, mut reply: impl Buf) -> Result<(), End> {
        let within = self.shared.config.write_timeout;
        while reply.has_remaining() {
            match socket::try_write(&self.stream, &reply) {
                Ok(written) => reply.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let writable = timeout(within, self.stream.writable()).await;
                    writable.map_err(|_| End::WriteTimeout(within))??;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Notes how much was read. Nothing is the end of the input, in a frame only if a header has
    /// begun.
    fn count(&mut self, read: usize) -> Result<(), End> {
        if let Some(unread) = &mut self.unread_bytes {
            *unread = unread.saturating_sub(read as u64);
        }
        match read {
            0 if self.header.is_empty() => Err(End::PeerClosed),
            0 => Err(End::PeerClosedInsideFrame),
            _ => Ok(()),
        }
    }

    /// Ends the connection if the server stops and everything that had arrived by then is read.
    fn heed_drain(&mut self) -> Result<(), End> {
        if self.unread_bytes.is_none() && self.draining.is_cancelled() {
            self.unread_bytes = Some(socket::unread_bytes(&self.stream)?);
        }
        if self.unread_bytes == Some(0) { Err(End::Drained) } else { Ok(()) }
    }

    /// When the frame that has begun must be complete.
    fn frame_deadline(&mut self) -> Instant {
        let within = self.shared.config.frame_timeout;
        *self.frame_deadline.get_or_insert_with(|| Instant::now() + within)
    }

    fn frame_timeout(&self) -> End {
        End::FrameTimeout(self.shared.config.frame_timeout)
    }

    fn frame_too_long(&self, announced: usize) -> End {
        End::FrameTooLong { announced, limit: self.shared.config.max_frame_bytes }
    }
}

impl End {
    fn log(&self) {
        match self {
            Self::PeerClosed | Self::Drained => debug!("closed: {self}"),
            Self::MemoryRefused(_) => error!("closed: {self}"),
            _ => warn!("closed: {self}"),
        }
    }

    /// Whether the peer may have sent, or still be sending, what nobody has read.
    fn may_leave_input(&self) -> bool {
        match self {
            Self::PeerClosed | Self::PeerClosedInsideFrame | Self::Io(_) => false,
            // It does not read what it has, so there is nothing to save by waiting.
            Self::WriteTimeout(_) => false,
            Self::Drained
            | Self::FrameTooLong { .. }
            | Self::FrameTimeout(_)
            | Self::MemoryTimeout(_)
            | Self::MemoryRefused(_) => true,
        }
    }
}

/// Moves what is written from `first` on to the front.
fn keep_from(block: &mut Buffer, first: usize) {
    let end = block.len();
    block.copy_within(first..end, 0);
    block.truncate(end - first);
}

/// Waits for the deadline; for ever if there is none.
async fn reached(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
