//! `Output`: replies on their way out, in as few writes as possible.
//!
//! | Reply                              | Becomes                                                    |
//! |------------------------------------|------------------------------------------------------------|
//! | a request, as it lies in its block | a segment of that block; neighbours are one segment        |
//! | small                              | copied into the gathering block, behind the one before     |
//! | large                              | a header and the payload where it lies                     |
//!
//! Up to [`PIECES_MAX`] pieces leave by one vectored write. The gathering block is filled again
//! after a flush, and given back when the connection has nothing to do.

use std::{
    collections::VecDeque,
    io::IoSlice,
    ops::{Add, Range},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use arena::{Buffer, Frozen};
use bytes::BufMut;
use tokio::io::AsyncWrite;

use super::{
    Duplex, FrameError, Half, Timeouts, Wait,
    input::{LOOK_AT_PEER_EVERY, Place},
    watch::{Patience, Watch},
};
use crate::{
    frame::{self, HEADER_BYTES},
    memory::{Block, Claimant, Held},
};

/// Payloads up to this size are copied rather than written from where they lie: that is cheaper
/// than two more pieces in a write.
const GATHERED_PAYLOAD_BYTES_MAX: usize = 1 << 10;

/// Pieces of one vectored write.
const PIECES_MAX: usize = 32;

/// The output side of a connection.
#[derive(Debug)]
pub(crate) struct Output {
    max_frame_bytes: usize,
    segments: VecDeque<Segment>,
    /// Bytes of the first segment that are written.
    first_written: usize,
    unsent_bytes: usize,
    bytes_written: u64,
    gathering: Option<Buffer>,
    /// Whether the stream may hold back what it took.
    needs_flush: bool,
    watch: Watch,
}

/// Bytes that follow each other.
#[derive(Debug)]
enum Segment {
    /// Frames in the gathering block.
    Gathered(Range<usize>),
    /// Frames in a block that others may use as well.
    Shared { block: Frozen, range: Range<usize> },
    /// A frame whose payload lies somewhere else, perhaps where the input side holds it anyway.
    Headed { header: [u8; HEADER_BYTES], payload: Frozen, is_request: bool },
}

impl Output {
    pub(crate) fn new(max_frame_bytes: usize, timeouts: Timeouts) -> Self {
        Self {
            max_frame_bytes,
            segments: VecDeque::new(),
            first_written: 0,
            unsent_bytes: 0,
            bytes_written: 0,
            gathering: None,
            needs_flush: false,
            watch: Watch::new(timeouts),
        }
    }

    /// Bytes that are not written yet.
    pub(crate) fn unsent_bytes(&self) -> usize {
        self.unsent_bytes
    }

    /// Whether the stream has passed everything on: one that encrypts takes some and keeps it.
    #[inline]
    pub(crate) fn is_flushed(&self) -> bool {
        self.unsent_bytes == 0 && !self.needs_flush
    }

    /// Bytes that were written since the beginning.
    pub(crate) fn bytes_written(&self) -> u64 {
        self.bytes_written
    }

    /// Memory that this side holds, what it shares with the input side left out.
    fn held(&self, claimant: &Claimant) -> Held {
        let gathering = Held::in_arena(self.gathering.as_ref().map_or(0, Buffer::capacity));
        let others = self.segments.iter().map(|segment| match segment {
            Segment::Headed { payload, is_request: false, .. } => claimant.held_by(payload.len()),
            Segment::Headed { .. } | Segment::Gathered(_) | Segment::Shared { .. } => {
                Held::default()
            }
        });
        others.fold(gathering, Held::add)
    }

    /// Checks that a frame can have so many bytes.
    pub(crate) fn check(&self, bytes: usize) -> Result<(), FrameError> {
        let limit_bytes = self.max_frame_bytes;
        if bytes > limit_bytes {
            return Err(FrameError::ReplyTooLong { bytes, limit_bytes });
        }
        Ok(())
    }

    /// Replies with a request, as it lies in memory. Copies nothing.
    #[inline]
    pub(crate) fn share(&mut self, request: Place<'_>) {
        let Place { block, first, payload_bytes, has_header } = request;
        if has_header {
            self.share_range(block, first..first + HEADER_BYTES + payload_bytes);
        } else {
            self.push_headed(request.to_frozen(), true);
        }
    }

    /// Replies with frames, as they lie in memory. Copies nothing.
    #[inline]
    pub(crate) fn share_range(&mut self, block: &Frozen, range: Range<usize>) {
        self.unsent_bytes += range.len();
        if let Some(Segment::Shared { block: last, range: before }) = self.segments.back_mut()
            && before.end == range.start
            && last.as_ptr() == block.as_ptr()
        {
            before.end = range.end;
            return;
        }
        self.segments.push_back(Segment::Shared { block: block.clone(), range });
    }

    /// Replies with `payload`, which is not too long. A small one is copied if there is memory to
    /// gather it in.
    pub(crate) fn push(&mut self, payload: Frozen, claimant: &Claimant) {
        if payload.len() <= GATHERED_PAYLOAD_BYTES_MAX
            && self.has_gathering_room(HEADER_BYTES + payload.len(), claimant)
        {
            self.gather(&payload);
        } else {
            self.push_headed(payload, false);
        }
    }

    fn push_headed(&mut self, payload: Frozen, is_request: bool) {
        self.unsent_bytes += HEADER_BYTES + payload.len();
        let header = frame::header_of(payload.len());
        self.segments.push_back(Segment::Headed { header, payload, is_request });
    }

    /// Whether so many bytes can be gathered now. Takes a block for it if there is one to have.
    #[inline]
    pub(crate) fn has_gathering_room(&mut self, bytes: usize, claimant: &Claimant) -> bool {
        if self.gathering.is_none() {
            self.gathering = match claimant.try_reply(claimant.read_block_bytes()) {
                Some(Block::Arena(block)) => Some(block),
                _ => None,
            };
        }
        self.has_room_in_block(bytes)
    }

    /// Whether there is a gathering block with room for so many bytes.
    #[inline]
    fn has_room_in_block(&self, bytes: usize) -> bool {
        self.gathering.as_ref().is_some_and(|block| block.capacity() - block.len() >= bytes)
    }

    /// Copies a payload into the gathering block if there is one with room for it.
    #[inline]
    pub(crate) fn try_gather(&mut self, payload: &[u8]) -> bool {
        let has_room = self.has_room_in_block(HEADER_BYTES + payload.len());
        if has_room {
            self.gather(payload);
        }
        has_room
    }

    /// Copies a payload into the gathering block, which has room for it and its header.
    #[inline]
    pub(crate) fn gather(&mut self, payload: &[u8]) {
        let block = self.gathering.as_mut().expect("there is room");
        let first = block.len();
        block.put_slice(&frame::header_of(payload.len()));
        block.put_slice(payload);
        let end = block.len();
        self.unsent_bytes += end - first;
        match self.segments.back_mut() {
            Some(Segment::Gathered(before)) if before.end == first => before.end = end,
            _ => self.segments.push_back(Segment::Gathered(first..end)),
        }
    }

    /// Waits until a payload of so many bytes can be gathered. Flushes before it waits for memory.
    pub(crate) fn poll_gathering_room(
        &mut self,
        mut stream: Pin<&mut dyn Duplex>,
        context: &mut Context<'_>,
        claimant: &mut Claimant,
        input_held: Held,
        payload_bytes: usize,
    ) -> Poll<Result<(), FrameError>> {
        let bytes = HEADER_BYTES + payload_bytes;
        loop {
            if self.has_gathering_room(bytes, claimant) {
                claimant.cancel_reply();
                self.watch.progress(claimant.clock());
                return Poll::Ready(Ok(()));
            }
            if !self.is_flushed() {
                ready!(self.poll_flush(stream.as_mut(), context, claimant, input_held))?;
                continue;
            }
            // It is too small, or there is none.
            self.gathering = None;
            match ready!(self.poll_reply(stream.as_mut(), context, claimant, input_held, bytes))? {
                Block::Arena(block) => self.gathering = Some(block),
                Block::Heap(_) => unreachable!("what is gathered fits into a block"),
            }
        }
    }

    /// Waits for a block of its own for a payload. Flushes before it waits for memory.
    pub(crate) fn poll_own_block(
        &mut self,
        mut stream: Pin<&mut dyn Duplex>,
        context: &mut Context<'_>,
        claimant: &mut Claimant,
        input_held: Held,
        payload_bytes: usize,
    ) -> Poll<Result<Block, FrameError>> {
        if let Some(block) = claimant.try_reply(payload_bytes) {
            claimant.cancel_reply();
            self.watch.progress(claimant.clock());
            return Poll::Ready(Ok(block));
        }
        if !self.is_flushed() {
            ready!(self.poll_flush(stream.as_mut(), context, claimant, input_held))?;
        }
        self.gathering = None;
        self.poll_reply(stream, context, claimant, input_held, payload_bytes)
    }

    /// Waits for memory that is set aside for replies. All is flushed.
    fn poll_reply(
        &mut self,
        stream: Pin<&mut dyn Duplex>,
        context: &mut Context<'_>,
        claimant: &mut Claimant,
        input_held: Held,
        bytes: usize,
    ) -> Poll<Result<Block, FrameError>> {
        if let Poll::Ready(block) = claimant.poll_reply(context, bytes) {
            self.watch.progress(claimant.clock());
            return Poll::Ready(Ok(block));
        }
        if stream.is_hung_up() {
            return Poll::Ready(Err(FrameError::hung_up()));
        }
        // The peer has taken everything.
        claimant.suspend_stall();
        let held = input_held + self.held(claimant);
        claimant.note(Wait::Memory.into(), held);
        self.poll_over(context, claimant, Wait::Memory, Some(LOOK_AT_PEER_EVERY))
    }

    /// Writes until nothing is left.
    ///
    /// `input_held` is what the connection holds besides.
    pub(crate) fn poll_flush<S: AsyncWrite + ?Sized>(
        &mut self,
        mut stream: Pin<&mut S>,
        context: &mut Context<'_>,
        claimant: &mut Claimant,
        input_held: Held,
    ) -> Poll<Result<(), FrameError>> {
        let before = self.bytes_written;
        let flushed = self.poll_write_all(stream.as_mut(), context);
        if self.bytes_written != before {
            self.watch.progress(claimant.clock());
            claimant.moved(self.bytes_written - before);
        }
        if flushed.is_pending() {
            let held = input_held + self.held(claimant);
            if held.all_bytes() > 0 && claimant.poll_stalled(Half::Writer, context, held).is_ready()
            {
                return Poll::Ready(Err(FrameError::Stalled { bytes: held.all_bytes() }));
            }
            claimant.note(Wait::Write.into(), held);
            return self.poll_over(context, claimant, Wait::Write, None);
        }
        claimant.suspend_stall();
        flushed
    }

    /// Goes on to wait. Ready if that takes too long.
    fn poll_over<T>(
        &mut self,
        context: &mut Context<'_>,
        claimant: &Claimant,
        wait: Wait,
        look: Option<Duration>,
    ) -> Poll<Result<T, FrameError>> {
        match self.watch.poll_over(context, claimant.clock(), wait, look) {
            Poll::Ready(Patience::Ends(error)) => Poll::Ready(Err(error)),
            // The event loop tells when the stream takes more.
            Poll::Ready(Patience::Asks) | Poll::Pending => Poll::Pending,
        }
    }

    fn poll_write_all<S: AsyncWrite + ?Sized>(
        &mut self,
        mut stream: Pin<&mut S>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), FrameError>> {
        while !self.segments.is_empty() {
            let written = ready!(self.poll_write_some(stream.as_mut(), context))?;
            if written == 0 {
                return Poll::Ready(Err(FrameError::Io(std::io::ErrorKind::WriteZero.into())));
            }
            self.needs_flush = true;
            self.advance(written);
        }
        if self.needs_flush {
            ready!(stream.poll_flush(context))?;
            self.needs_flush = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_some<S: AsyncWrite + ?Sized>(
        &self,
        stream: Pin<&mut S>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<usize>> {
        let mut pieces = self.segments.iter().flat_map(|segment| self.pieces(segment));
        let mut skipped = self.first_written;
        let mut next = || {
            for piece in pieces.by_ref() {
                if skipped < piece.len() {
                    let piece = &piece[skipped..];
                    skipped = 0;
                    return Some(piece);
                }
                skipped -= piece.len();
            }
            None
        };
        let first = next().unwrap_or_default();
        let Some(second) = next() else { return stream.poll_write(context, first) };
        let mut slices = [IoSlice::new(&[]); PIECES_MAX];
        (slices[0], slices[1]) = (IoSlice::new(first), IoSlice::new(second));
        let mut count = 2;
        while count < PIECES_MAX
            && let Some(piece) = next()
        {
            slices[count] = IoSlice::new(piece);
            count += 1;
        }
        stream.poll_write_vectored(context, &slices[..count])
    }

    fn pieces<'s>(&'s self, segment: &'s Segment) -> impl Iterator<Item = &'s [u8]> {
        let (first, second): (&[u8], &[u8]) = match segment {
            Segment::Gathered(range) => {
                let block = self.gathering.as_ref().expect("it has gathered frames");
                (&block[range.clone()], &[])
            }
            Segment::Shared { block, range } => (&block[range.clone()], &[]),
            Segment::Headed { header, payload, .. } => (header, payload),
        };
        [first, second].into_iter().filter(|piece| !piece.is_empty())
    }

    /// Takes off what is written.
    fn advance(&mut self, written: usize) {
        self.bytes_written += written as u64;
        self.unsent_bytes -= written;
        self.first_written += written;
        while let Some(first) = self.segments.front()
            && self.first_written >= first.len()
        {
            self.first_written -= first.len();
            self.segments.pop_front();
        }
        if self.segments.is_empty()
            && let Some(block) = &mut self.gathering
        {
            block.clear();
        }
    }

    /// Gives back what is only kept for the next reply. Nothing is unsent.
    #[inline]
    pub(crate) fn end_turn(&mut self) {
        debug_assert_eq!(self.unsent_bytes, 0, "a turn ends when all is flushed");
        self.gathering = None;
    }
}

impl Segment {
    fn len(&self) -> usize {
        match self {
            Self::Gathered(range) | Self::Shared { range, .. } => range.len(),
            Self::Headed { header, payload, .. } => header.len() + payload.len(),
        }
    }
}
