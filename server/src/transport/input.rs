//! `Input`: from the bytes of a stream to frames in arena memory.
//!
//! ```text
//!            +--------------------- whole frames handed out, nothing or a little left ----+
//!            v                                                                            |
//! Empty: wait for bytes, then for a block, read --+--> Frames: hand out, one by one ------+
//!   ^  holds at most a few bytes, inline          |       |
//!   |                                             |       | a frame has begun behind them
//!   |                                             v       v
//!   |                              the frame fits its block? -- yes --> Reading: read on
//!   |                                             | no
//!   |                                             v
//!   +--- handed out --- Frames <-- read --- Payload: a block for this payload alone
//! ```
//!
//! While memory is scarce, nothing is taken for a frame that is still trickling in: up to
//! [`CARRY_BYTES`] are read into the connection itself, and the rest of the frame stays in the
//! socket until it has arrived, as far as a socket buffers it. How much that is, is looked at now
//! and then: to be woken for it would take an option of the socket that cannot be set without
//! `unsafe`, and a readiness that is forgotten too early is never told again.

use std::{
    io, mem,
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use arena::{Buffer, Frozen};
use bytes::{Buf, BufMut};
use tokio::{io::ReadBuf, time::Instant};
use tokio_util::io::poll_read_buf;

use super::{FrameError, Half, Patience, ReadReady, Timeouts, Wait, Watch, ready::Asking};
use crate::{
    frame::{self, HEADER_BYTES, Rest, Scan},
    memory::{Block, Claimant, Held},
};

/// What is kept of a frame that has begun without any memory of the arena: most small frames whole.
const CARRY_BYTES: usize = 256;

/// How often a transport that waits for memory looks whether its peer is still there.
pub(super) const LOOK_AT_PEER_EVERY: Duration = Duration::from_millis(500);

/// How long it takes until it is looked again at a peer who is not worth memory while that is
/// scarce: twice as long each time.
const LOOK_PAUSE_MIN: Duration = Duration::from_millis(20);
const LOOK_PAUSE_MAX: Duration = Duration::from_millis(640);

/// While memory is scarce, some is taken for a frame when so much of it has arrived.
const REST_BYTES: usize = 32 << 10;

/// While memory is scarce, it is asked once in so many bytes whether a peer takes its replies: one
/// that took the last of them takes a few more.
const TRUSTED_BYTES: u64 = 32 << 10;

/// From a peer that has sent so much, anything is enough if no more comes.
///
/// A socket counts a segment in full until its last byte is read. So what is left of a large one
/// may keep the rest of a frame from arriving, until somebody reads. Who has sent less has no such
/// segment.
const LARGE_SEGMENT_BYTES: u64 = 16 << 10;

/// Bytes that were read and lie in no block.
#[derive(Debug)]
struct Carry {
    bytes: [u8; CARRY_BYTES],
    len: usize,
}

/// The input side of a connection.
#[derive(Debug)]
pub(crate) struct Input {
    max_frame_bytes: usize,
    carry: Carry,
    state: State,
    /// What a poll that is pending waits for.
    wait: Wait,
    bytes_read: u64,
    frames_read: u64,
    /// Whether there is enough input to ask for memory. From then on it is not looked for again:
    /// a place in the queue for memory is kept only by whoever can use what he is served.
    has_input: bool,
    /// Whether the last frame had a block of its own. The next one likely will, so its header is
    /// read first, and then its payload straight to where it belongs.
    was_long: bool,
    /// When it is to be looked at the peer again, because nothing was worth memory so far.
    look: Option<Look>,
    /// The peer is known to take replies until it has moved so many bytes.
    trusted_until: u64,
    /// Whether the stream is asked until it has nothing more, whatever is known of its readiness.
    asks: bool,
    watch: Watch,
}

#[derive(Debug)]
enum State {
    /// Holds nothing but what is in the carry.
    Empty,
    /// A block that begins with a part of a frame, or with nothing, and has room for all of it.
    Reading(Buffer),
    /// Whole frames, and behind them perhaps a part of another.
    Frames(Frames),
    /// The beginning of a frame in a block that it does not fit, or that it shares.
    Outgrown(Outgrown),
    /// A part of a payload in a block of its own.
    Payload(Payload),
}

/// The last look at a peer who was not worth memory.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    /// How long until the next.
    pause: Duration,
    /// How much had arrived.
    arrived: usize,
}

impl Look {
    fn is_over(&self) -> bool {
        self.at.elapsed() >= self.pause
    }
}

/// Frames in one block.
#[derive(Debug)]
struct Frames {
    block: Frozen,
    /// Whether the frames have their headers: a payload with a block of its own has none.
    has_headers: bool,
    /// Where the next frame begins.
    next: usize,
    /// Where the last whole frame ends.
    whole: usize,
    /// What is behind it.
    rest: Rest,
}

/// A frame without room, header included.
#[derive(Debug)]
struct Outgrown {
    payload_bytes: usize,
    begun: Frozen,
}

/// A payload that arrives in a block of its own.
#[derive(Debug)]
struct Payload {
    payload_bytes: usize,
    block: Block,
}

/// A request as it lies in memory: valid until the next fill.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// The block, or the payload if that has one of its own.
    pub(crate) block: &'a Frozen,
    /// Where header and payload lie in the block; the header of a payload with a block of its own
    /// lies nowhere.
    pub(crate) first: usize,
    pub(crate) payload_bytes: usize,
    pub(crate) has_header: bool,
}

/// The whole frames that are there and not handed out.
pub(crate) struct Batch<'a> {
    block: &'a Frozen,
    next: &'a mut usize,
    whole: usize,
    has_headers: bool,
}

/// What filling brought.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Filled {
    /// At least one whole frame.
    Frames,
    /// The end of the input, between frames.
    End,
}

impl Input {
    pub(crate) fn new(max_frame_bytes: usize, timeouts: Timeouts) -> Self {
        Self {
            max_frame_bytes,
            carry: Carry { bytes: [0; CARRY_BYTES], len: 0 },
            state: State::Empty,
            wait: Wait::FirstByte,
            bytes_read: 0,
            frames_read: 0,
            has_input: false,
            was_long: false,
            look: None,
            trusted_until: 0,
            asks: false,
            watch: Watch::new(timeouts),
        }
    }

    /// Bytes that were read since the beginning.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Whole frames that were read since the beginning.
    pub(crate) fn frames_read(&self) -> u64 {
        self.frames_read
    }

    /// Memory that this side holds.
    pub(crate) fn held(&self, claimant: &Claimant) -> Held {
        match &self.state {
            State::Empty => Held::default(),
            State::Reading(buffer) => Held::in_arena(buffer.capacity()),
            State::Frames(frames) => claimant.held_by(frames.block.len()),
            State::Outgrown(outgrown) => Held::in_arena(outgrown.begun.len()),
            State::Payload(payload) => payload.block.held(),
        }
    }

    /// Whether a frame that has not been handed out is there.
    pub(crate) fn has_frame(&self) -> bool {
        match &self.state {
            State::Frames(frames) => !frames.are_over(),
            // Short ones are read before there is memory for them.
            State::Empty => frame::scan(self.carry.bytes(), self.max_frame_bytes).whole_bytes > 0,
            State::Reading(_) | State::Outgrown(_) | State::Payload(_) => false,
        }
    }

    /// Asks the stream for all that has arrived, whatever is known of its readiness.
    pub(crate) fn ask(&mut self) {
        self.asks = true;
    }

    /// Whether a poll that is pending waits for memory.
    pub(crate) fn waits_for_memory(&self) -> bool {
        self.wait == Wait::Memory
    }

    /// Whether all that is held are frames that have arrived.
    fn holds_whole_frames_alone(&self) -> bool {
        matches!(&self.state, State::Frames(frames) if !frames.keep_block_for_rest())
    }

    /// The whole frames that are there.
    pub(crate) fn batch(&mut self) -> Option<Batch<'_>> {
        let State::Frames(frames) = &mut self.state else { return None };
        let Frames { block, has_headers, next, whole, .. } = frames;
        Some(Batch { block, next, whole: *whole, has_headers: *has_headers })
    }

    /// Leaves out the frames that are there and were not taken.
    #[inline]
    pub(crate) fn skip_rest_of_batch(&mut self) {
        if let State::Frames(frames) = &mut self.state {
            frames.next = frames.whole;
        }
    }

    /// Takes the next whole frame that is there, as a payload that can be kept.
    pub(crate) fn next_frame(&mut self) -> Option<Frozen> {
        let frame = self.batch()?.next()?.to_frozen();
        // The last frame of a block need not wait for the next fill to let go of it.
        if let State::Frames(frames) = &self.state
            && frames.are_over()
            && frames.rest == Rest::Nothing
        {
            self.state = State::Empty;
        }
        Some(frame)
    }

    /// Reads until there is at least one whole frame, or the end of the input. All frames that were
    /// there must be handed out.
    ///
    /// Waits for memory only with nothing held, or for a frame that has outgrown its block; and for
    /// nothing longer than the timeouts allow. A stall ends where nothing is held, and is suspended
    /// where the peer is not waited for: neither here nor for replies, if those `are_flushed`.
    pub(crate) fn poll_fill<S: ReadReady + ?Sized>(
        &mut self,
        mut stream: Pin<&mut S>,
        context: &mut Context<'_>,
        claimant: &mut Claimant,
        are_flushed: bool,
    ) -> Poll<Result<Filled, FrameError>> {
        let mut has_asked = false;
        loop {
            let before = self.bytes_read;
            let filled = self.poll_fill_in_time(stream.as_mut(), context, claimant, are_flushed);
            claimant.moved(self.bytes_read - before);
            let waits_for_memory = filled.is_pending() && self.waits_for_memory();
            if are_flushed && (waits_for_memory || self.holds_whole_frames_alone()) {
                claimant.suspend_stall();
            }
            if filled.is_ready() {
                self.watch.progress(claimant.clock());
                self.watch.frame_ends();
                claimant.end_wait();
                return filled;
            }
            if self.bytes_read != before {
                self.watch.hears();
            }
            if waits_for_memory && stream.is_hung_up() {
                return Poll::Ready(Err(FrameError::hung_up()));
            }
            let over = ready!(self.poll_over(context, claimant));
            if let Patience::Ends(error) = over
                && (has_asked || matches!(error, FrameError::MemoryTimeout(_)))
            {
                return Poll::Ready(Err(error));
            }
            if mem::replace(&mut has_asked, true) {
                return Poll::Pending;
            }
            self.ask();
        }
    }

    /// Goes on to wait. Ready if the stream is to be asked, or if the connection must close.
    fn poll_over(&mut self, context: &mut Context<'_>, claimant: &mut Claimant) -> Poll<Patience> {
        let held = self.held(claimant);
        if !self.waits_for_memory()
            && held.all_bytes() > 0
            && claimant.poll_stalled(Half::Reader, context, held).is_ready()
        {
            let bytes = held.all_bytes();
            return Poll::Ready(Patience::Ends(FrameError::Stalled { bytes }));
        }
        let look = match self.look {
            _ if self.waits_for_memory() => Some(LOOK_AT_PEER_EVERY),
            look => look.map(|look| look.pause),
        };
        claimant.note(self.wait.into(), held);
        self.watch.poll_over(context, claimant.clock(), self.wait, look)
    }

    fn poll_fill_in_time<S: ReadReady + ?Sized>(
        &mut self,
        mut stream: Pin<&mut S>,
        context: &mut Context<'_>,
        claimant: &mut Claimant,
        are_flushed: bool,
    ) -> Poll<Result<Filled, FrameError>> {
        loop {
            let step = match mem::replace(&mut self.state, State::Empty) {
                State::Empty => {
                    if are_flushed {
                        claimant.end_turn();
                    }
                    ready!(self.poll_begin(stream.as_mut(), context, claimant))?
                }
                State::Reading(block) => {
                    ready!(self.poll_reading(block, stream.as_mut(), context, claimant))?
                }
                State::Frames(frames) if frames.are_over() => {
                    self.keep_rest(frames)?;
                    None
                }
                State::Outgrown(outgrown) => {
                    ready!(self.poll_outgrown(outgrown, context, claimant));
                    None
                }
                State::Payload(payload) => {
                    ready!(self.poll_payload(payload, stream.as_mut(), context))?
                }
                frames @ State::Frames(_) => {
                    self.state = frames;
                    Some(Filled::Frames)
                }
            };
            if let Some(filled) = step {
                return Poll::Ready(Ok(filled));
            }
        }
    }

    /// Waits for input and then for a block, holding nothing of the arena.
    fn poll_begin<S: ReadReady + ?Sized>(
        &mut self,
        mut stream: Pin<&mut S>,
        context: &mut Context<'_>,
        claimant: &mut Claimant,
    ) -> Poll<Result<Option<Filled>, FrameError>> {
        let Scan { whole_bytes, rest, .. } = frame::scan(self.carry.bytes(), self.max_frame_bytes);
        let announced = match rest {
            _ if whole_bytes > 0 => None,
            Rest::Nothing | Rest::Header => None,
            Rest::Payload(announced) => Some(announced),
            Rest::TooLong(announced) => return Poll::Ready(Err(self.too_long(announced))),
        };
        if !self.has_input {
            if whole_bytes == 0 {
                ready!(self.poll_arrival(stream.as_mut(), context, announced, claimant))?;
                if self.reads_ahead(announced, claimant) {
                    return self.poll_read_carry(stream, context, claimant.read_block_bytes());
                }
            }
            if self.is_scarce(claimant) && !self.takes_output(&*stream, claimant) {
                self.wait = Wait::Write;
                self.look_again(0);
                return Poll::Pending;
            }
            self.look = None;
            self.has_input = true;
        }
        let read_block_bytes = claimant.read_block_bytes();
        let own_block = announced.filter(|announced| HEADER_BYTES + announced > read_block_bytes);
        self.wait = Wait::Memory;
        let block = claimant.poll_request(context, own_block.unwrap_or(read_block_bytes));
        let mut block = ready!(block);
        self.has_input = false;
        if let Some(payload_bytes) = own_block {
            block.put_slice(&self.carry.bytes()[HEADER_BYTES..]);
            self.carry.len = 0;
            self.state = State::Payload(Payload { payload_bytes, block });
            return Poll::Ready(Ok(None));
        }
        let Block::Arena(mut block) = block else {
            unreachable!("a read block lies in the arena");
        };
        block.put_slice(self.carry.bytes());
        self.carry.len = 0;
        if whole_bytes > 0 {
            return Poll::Ready(self.sort(block));
        }
        self.state = State::Reading(block);
        Poll::Ready(Ok(None))
    }

    /// Waits until there is something to read that is worth memory. `announced` is what the header
    /// in the carry says, if there is one.
    fn poll_arrival<S: ReadReady + ?Sized>(
        &mut self,
        mut stream: Pin<&mut S>,
        context: &mut Context<'_>,
        announced: Option<usize>,
        claimant: &Claimant,
    ) -> Poll<Result<(), FrameError>> {
        let is_ready = match self.asks {
            true => stream.as_mut().poll_read_ready_now(context),
            false => stream.as_mut().poll_read_ready(context),
        };
        self.asks &= is_ready.is_ready();
        self.wait = match stream.has_begun() {
            true => Wait::Frame,
            false => self.wait_for_input(),
        };
        ready!(is_ready)?;
        let Some(announced) = announced else { return Poll::Ready(Ok(())) };
        let missing = HEADER_BYTES + announced - self.carry.len;
        if self.is_scarce(claimant) && !self.is_worth_memory(&*stream, missing) {
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether memory is scarce for this peer. Once it was not worth any, it stays so until it
    /// is: others may come at any time.
    fn is_scarce(&self, claimant: &Claimant) -> bool {
        self.look.is_some() || claimant.is_pressed()
    }

    /// Whether the peer is not known to leave its replies unread.
    fn takes_output<S: ReadReady + ?Sized>(&mut self, stream: &S, claimant: &Claimant) -> bool {
        let moved = claimant.moved_bytes();
        if moved < self.trusted_until {
            return true;
        }
        let takes_output = stream.takes_output();
        if takes_output {
            self.trusted_until = moved + TRUSTED_BYTES;
        }
        takes_output
    }

    /// Whether a little is read without memory first.
    fn reads_ahead(&self, announced: Option<usize>, claimant: &Claimant) -> bool {
        match announced {
            None => self.was_long || self.is_scarce(claimant),
            // Readiness may be a mistake, and a long frame takes much memory.
            Some(announced) => {
                self.carry.len == HEADER_BYTES
                    && HEADER_BYTES + announced > claimant.read_block_bytes()
            }
        }
    }

    /// Whether enough of a frame has arrived to take memory for it while that is scarce, given how
    /// much is missing. If not, it is to be looked at again.
    fn is_worth_memory<S: ReadReady + ?Sized>(&mut self, stream: &S, missing: usize) -> bool {
        let Some(arrived) = stream.arrived() else { return true };
        let is_stuck = self.bytes_read >= LARGE_SEGMENT_BYTES
            && self.look.is_some_and(|look| look.is_over() && look.arrived == arrived);
        // What costs a call of the system comes last: most frames are there.
        let is_worth_it = arrived >= missing.min(REST_BYTES) || is_stuck || stream.has_ended();
        if !is_worth_it {
            self.look_again(arrived);
        }
        is_worth_it
    }

    /// Notes that it is to be looked at the peer again, after ever longer pauses.
    fn look_again(&mut self, arrived: usize) {
        let at = Instant::now();
        match &mut self.look {
            Some(look) if look.is_over() => {
                *look = Look { at, pause: LOOK_PAUSE_MAX.min(2 * look.pause), arrived };
            }
            Some(_) => {}
            None => self.look = Some(Look { at, pause: LOOK_PAUSE_MIN, arrived }),
        }
    }

    /// Reads a little without memory, to know what comes.
    fn poll_read_carry<S: ReadReady + ?Sized>(
        &mut self,
        stream: Pin<&mut S>,
        context: &mut Context<'_>,
        block_bytes: usize,
    ) -> Poll<Result<Option<Filled>, FrameError>> {
        self.look = None;
        let is_between_frames = self.carry.len == 0;
        // Not more than the block holds into which it goes.
        let end = CARRY_BYTES.min(block_bytes);
        let mut free = ReadBuf::new(&mut self.carry.bytes[self.carry.len..end]);
        let is_read = match self.asks {
            true => stream.poll_read_now(context, &mut free),
            false => stream.poll_read(context, &mut free),
        };
        self.asks &= is_read.is_ready();
        ready!(is_read)?;
        let read = free.filled().len();
        self.carry.len += read;
        self.bytes_read += read as u64;
        Poll::Ready(match read {
            0 if is_between_frames => Ok(Some(Filled::End)),
            0 => Err(FrameError::UnexpectedEnd),
            _ => Ok(None),
        })
    }

    /// Reads on into a block that has room for the frame with which it begins.
    fn poll_reading<S: ReadReady + ?Sized>(
        &mut self,
        mut block: Buffer,
        stream: Pin<&mut S>,
        context: &mut Context<'_>,
        claimant: &Claimant,
    ) -> Poll<Result<Option<Filled>, FrameError>> {
        let announced = frame::announced_bytes(&block);
        let frame_bytes = announced.map(|announced| HEADER_BYTES + announced);
        let room = block.capacity() - block.len();
        let wanted = match frame_bytes {
            // Others wait: not more than the frame that has begun, unless what may be left over
            // needs no memory.
            Some(frame_bytes) if frame_bytes > CARRY_BYTES && claimant.is_pressed() => {
                frame_bytes - block.len()
            }
            _ => room,
        };
        let read = self.poll_read(stream, context, &mut (&mut block).limit(wanted))?;
        match read {
            Poll::Ready(0) if block.is_empty() => Poll::Ready(Ok(Some(Filled::End))),
            Poll::Ready(0) => Poll::Ready(Err(FrameError::UnexpectedEnd)),
            Poll::Ready(read) => {
                self.bytes_read += read as u64;
                Poll::Ready(self.sort(block))
            }
            Poll::Pending => {
                if block.len() <= CARRY_BYTES {
                    self.carry.keep(&block);
                    self.wait = self.wait_for_input();
                } else {
                    block.shrink_to(frame_bytes.unwrap_or(0));
                    self.state = State::Reading(block);
                    self.wait = Wait::Frame;
                }
                Poll::Pending
            }
        }
    }

    /// Looks at what is in a block, and decides what becomes of it.
    fn sort(&mut self, mut block: Buffer) -> Result<Option<Filled>, FrameError> {
        let Scan { whole_frames, whole_bytes, rest } = frame::scan(&block, self.max_frame_bytes);
        self.frames_read += whole_frames as u64;
        if whole_bytes > 0 {
            self.was_long = false;
            // What has begun moves to the front later, if it is more than the carry takes.
            let kept = match rest {
                Rest::Payload(announced) if block.len() - whole_bytes > CARRY_BYTES => {
                    HEADER_BYTES + announced
                }
                _ => 0,
            };
            block.shrink_to(kept);
            let block = block.into_frozen();
            self.state = State::Frames(Frames::with_headers(block, whole_bytes, rest));
            return Ok(Some(Filled::Frames));
        }
        match rest {
            Rest::Payload(announced) if block.len() > HEADER_BYTES => self.go_on(block, announced),
            Rest::Nothing | Rest::Header | Rest::Payload(_) => self.carry.keep(&block),
            Rest::TooLong(announced) => return Err(self.too_long(announced)),
        }
        Ok(None)
    }

    /// Goes on with the frame at the front of a block that nobody else has.
    fn go_on(&mut self, mut block: Buffer, payload_bytes: usize) {
        if HEADER_BYTES + payload_bytes <= block.capacity() {
            self.state = State::Reading(block);
            return;
        }
        if payload_bytes <= block.capacity() {
            let arrived = block.len();
            block.copy_within(HEADER_BYTES..arrived, 0);
            block.truncate(arrived - HEADER_BYTES);
            let block = Block::Arena(block);
            self.state = State::Payload(Payload { payload_bytes, block });
        } else {
            let begun = block.into_frozen();
            self.state = State::Outgrown(Outgrown { payload_bytes, begun });
        }
    }

    /// Keeps what has begun behind frames that are all handed out.
    fn keep_rest(&mut self, frames: Frames) -> Result<(), FrameError> {
        let keeps_block = frames.keep_block_for_rest();
        let Frames { mut block, whole, rest, .. } = frames;
        let payload_bytes = match rest {
            Rest::Nothing => return Ok(()),
            Rest::TooLong(announced) => return Err(self.too_long(announced)),
            Rest::Payload(announced) if keeps_block => announced,
            Rest::Header | Rest::Payload(_) => {
                self.carry.keep(&block[whole..]);
                return Ok(());
            }
        };
        block.advance(whole);
        match block.try_into_buffer() {
            Ok(block) => self.go_on(block, payload_bytes),
            // Some of the frames are still in use.
            Err(begun) => {
                self.state = State::Outgrown(Outgrown { payload_bytes, begun });
            }
        }
        Ok(())
    }

    /// Waits for a block of its own for a payload that has begun.
    fn poll_outgrown(
        &mut self,
        outgrown: Outgrown,
        context: &mut Context<'_>,
        claimant: &mut Claimant,
    ) -> Poll<()> {
        self.wait = Wait::Memory;
        let Outgrown { payload_bytes, begun } = outgrown;
        // Replies that shared the block may have left meanwhile.
        let begun = match begun.try_into_buffer() {
            Ok(block) if payload_bytes <= block.capacity() => {
                claimant.cancel_growth();
                self.go_on(block, payload_bytes);
                return Poll::Ready(());
            }
            Ok(block) => block.into_frozen(),
            Err(begun) => begun,
        };
        let outgrown = Outgrown { payload_bytes, begun };
        let Poll::Ready(mut block) = claimant.poll_growth(context, payload_bytes) else {
            self.state = State::Outgrown(outgrown);
            return Poll::Pending;
        };
        block.put_slice(&outgrown.begun[HEADER_BYTES..]);
        self.state = State::Payload(Payload { payload_bytes, block });
        Poll::Ready(())
    }

    /// Reads the rest of a payload, and nothing behind it.
    fn poll_payload<S: ReadReady + ?Sized>(
        &mut self,
        mut payload: Payload,
        stream: Pin<&mut S>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Filled>, FrameError>> {
        let missing = payload.payload_bytes - payload.block.len();
        let read = match &mut payload.block {
            Block::Arena(block) => self.poll_read(stream, context, &mut block.limit(missing)),
            Block::Heap(heap) => {
                self.poll_read(stream, context, &mut (&mut heap.bytes).limit(missing))
            }
        };
        match read? {
            Poll::Ready(0) => Poll::Ready(Err(FrameError::UnexpectedEnd)),
            Poll::Ready(read) => {
                self.bytes_read += read as u64;
                if read < missing {
                    self.state = State::Payload(payload);
                    return Poll::Ready(Ok(None));
                }
                self.frames_read += 1;
                self.was_long = true;
                self.state = State::Frames(Frames::of_payload(payload.block.into_frozen()));
                Poll::Ready(Ok(Some(Filled::Frames)))
            }
            Poll::Pending => {
                self.wait = Wait::Frame;
                // So little that it needs no block yet.
                if !self.carry.take_payload(&payload) {
                    self.state = State::Payload(payload);
                }
                Poll::Pending
            }
        }
    }

    /// Reads into memory.
    #[inline]
    fn poll_read<S: ReadReady + ?Sized>(
        &mut self,
        stream: Pin<&mut S>,
        context: &mut Context<'_>,
        target: &mut impl BufMut,
    ) -> Poll<io::Result<usize>> {
        if !self.asks {
            return poll_read_buf(stream, context, target);
        }
        let read = poll_read_buf(Pin::new(&mut Asking(stream)), context, target);
        self.asks = read.is_ready();
        read
    }

    fn wait_for_input(&self) -> Wait {
        match self.carry.len {
            0 if self.bytes_read == 0 => Wait::FirstByte,
            0 => Wait::Idle,
            _ => Wait::Frame,
        }
    }

    fn too_long(&self, announced_bytes: usize) -> FrameError {
        FrameError::TooLong { announced_bytes, limit_bytes: self.max_frame_bytes }
    }
}

impl Frames {
    fn with_headers(block: Frozen, whole: usize, rest: Rest) -> Self {
        Self { block, has_headers: true, next: 0, whole, rest }
    }

    /// One frame, whose payload has a block of its own, and some bytes.
    fn of_payload(payload: Frozen) -> Self {
        let whole = payload.len();
        Self { block: payload, has_headers: false, next: 0, whole, rest: Rest::Nothing }
    }

    /// Whether a part of a frame behind them is more than the carry takes.
    fn keep_block_for_rest(&self) -> bool {
        self.block.len() - self.whole > CARRY_BYTES
    }

    /// Whether all are handed out.
    fn are_over(&self) -> bool {
        self.next == self.whole
    }
}

impl<'a> Batch<'a> {
    /// Takes the next.
    #[inline]
    pub(crate) fn next(&mut self) -> Option<Place<'a>> {
        let first = *self.next;
        if first == self.whole {
            return None;
        }
        let block = self.block;
        if !self.has_headers {
            *self.next = self.whole;
            return Some(Place { block, first, payload_bytes: self.whole, has_header: false });
        }
        let payload_bytes = frame::payload_bytes_at(block, first);
        *self.next = first + HEADER_BYTES + payload_bytes;
        Some(Place { block, first, payload_bytes, has_header: true })
    }

    /// Takes all that have headers: a range of the block.
    pub(crate) fn take_neighbours(&mut self) -> Option<(&'a Frozen, Range<usize>)> {
        let range = *self.next..self.whole;
        if !self.has_headers || range.is_empty() {
            return None;
        }
        *self.next = self.whole;
        Some((self.block, range))
    }
}

impl Place<'_> {
    /// The payload, to be kept.
    pub(crate) fn to_frozen(self) -> Frozen {
        self.block.slice(self.payload_range())
    }

    #[inline]
    pub(crate) fn payload(&self) -> &[u8] {
        &self.block[self.payload_range()]
    }

    #[inline]
    fn payload_range(&self) -> Range<usize> {
        let first = self.first + if self.has_header { HEADER_BYTES } else { 0 };
        first..first + self.payload_bytes
    }
}

impl Carry {
    /// Keeps `bytes`, which are few enough.
    fn keep(&mut self, bytes: &[u8]) {
        self.len = bytes.len();
        self.bytes[..bytes.len()].copy_from_slice(bytes);
    }

    /// Keeps the beginning of a payload and its header, if both are few enough.
    fn take_payload(&mut self, payload: &Payload) -> bool {
        let arrived: &[u8] = match &payload.block {
            Block::Arena(block) => block,
            Block::Heap(heap) => &heap.bytes,
        };
        let len = HEADER_BYTES + arrived.len();
        let fits = len <= CARRY_BYTES;
        if fits {
            self.bytes[..HEADER_BYTES].copy_from_slice(&frame::header_of(payload.payload_bytes));
            self.bytes[HEADER_BYTES..len].copy_from_slice(arrived);
            self.len = len;
        }
        fits
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
