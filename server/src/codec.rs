//! The same frames for tokio-util's `Framed`: a [`Decoder`] and [`Encoder`] pair.
//!
//! Neither can wait, so what happens when there is no memory must be chosen: [`Exhaustion`].

use std::{io, num::NonZeroUsize};

use arena::{AllocError, BuddyArena, FixedArena, Frozen};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use crate::{
    frame::{self, HEADER_BYTES},
    transport::FrameError,
};

/// Length-prefixed frames whose payloads are copied into arena memory, for `Framed`.
///
/// `Framed` reads into a buffer on the heap of its own, so this costs a copy of each payload that
/// [`ArenaFramed`](crate::ArenaFramed) saves, and it cannot wait for memory. It is for code that is
/// built around `Framed`; else take `ArenaFramed`.
///
/// # Examples
///
/// ```
/// use std::num::NonZeroUsize;
/// use arena_echo::{ArenaCodec, Exhaustion};
/// use bytes::BytesMut;
/// use tokio_util::codec::{Decoder, Encoder};
///
/// # let nz = |n| NonZeroUsize::new(n).unwrap();
/// let arena = arena::BuddyArena::builder(nz(1 << 20), nz(256)).build()?;
/// let mut codec = ArenaCodec::new(arena, 64 << 10, Exhaustion::Spill);
///
/// let mut bytes = BytesMut::from(&b"\0\0\0\x02hi\0\0"[..]);
/// let frame = codec.decode(&mut bytes)?.expect("a whole frame");
/// assert_eq!(&frame[..], b"hi");
/// assert!(codec.decode(&mut bytes)?.is_none());
///
/// let mut reply = BytesMut::new();
/// codec.encode(frame, &mut reply)?;
/// assert_eq!(&reply[..], b"\0\0\0\x02hi");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ArenaCodec {
    arena: Arena,
    max_frame_bytes: usize,
    exhaustion: Exhaustion,
}

/// What becomes of a frame for which there is no memory in the arena.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exhaustion {
    /// It stays where it is, and decoding fails with [`CodecError::Exhausted`]. Another call
    /// decodes it, once there is memory.
    Error,
    /// Its payload goes to the heap. Then the arena bounds nothing: use it where something else
    /// does.
    Spill,
}

/// Why a frame cannot be decoded or encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// There is no memory for the frame now. Nothing is lost: try again when some is free.
    #[error("the arena has no memory for a frame of {bytes} bytes now")]
    Exhausted {
        /// Bytes of the payload.
        bytes: usize,
    },
    /// The arena never has so much memory.
    #[error("the arena has no block for a frame of {bytes} bytes")]
    NeverFits {
        /// Bytes of the payload.
        bytes: usize,
    },
    /// The frame is longer than the limit, or the stream ended inside of one.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

impl From<io::Error> for CodecError {
    fn from(error: io::Error) -> Self {
        Self::Frame(FrameError::Io(error))
    }
}

/// Either kind of arena.
#[derive(Clone, Debug)]
enum Arena {
    Fixed(FixedArena),
    Buddy(BuddyArena),
}

impl ArenaCodec {
    /// Makes a codec for payloads of up to `max_frame_bytes`.
    pub fn new(arena: impl Into<AnyArena>, max_frame_bytes: usize, exhaustion: Exhaustion) -> Self {
        let max_frame_bytes = max_frame_bytes.min(u32::MAX as usize);
        Self { arena: arena.into().0, max_frame_bytes, exhaustion }
    }

    fn keep(&self, payload: &[u8]) -> Result<Frozen, CodecError> {
        let Some(bytes) = NonZeroUsize::new(payload.len()) else {
            return Ok(Frozen::from(Bytes::new()));
        };
        let allocated = match &self.arena {
            Arena::Fixed(arena) if bytes.get() > arena.slot_capacity() => {
                Err(AllocError::RequestTooLarge)
            }
            Arena::Fixed(arena) => arena.allocate(),
            Arena::Buddy(arena) => arena.allocate(bytes),
        };
        match allocated {
            Ok(mut buffer) => {
                buffer.put_slice(payload);
                Ok(buffer.into_frozen())
            }
            Err(_) if self.exhaustion == Exhaustion::Spill => {
                Ok(Frozen::from(Bytes::copy_from_slice(payload)))
            }
            Err(AllocError::RequestTooLarge) => Err(CodecError::NeverFits { bytes: bytes.get() }),
            Err(_) => Err(CodecError::Exhausted { bytes: bytes.get() }),
        }
    }
}

impl Decoder for ArenaCodec {
    type Item = Frozen;
    type Error = CodecError;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Frozen>, CodecError> {
        let Some(announced_bytes) = frame::announced_bytes(bytes) else {
            return Ok(None);
        };
        let limit_bytes = self.max_frame_bytes;
        if announced_bytes > limit_bytes {
            return Err(FrameError::TooLong { announced_bytes, limit_bytes }.into());
        }
        let end = HEADER_BYTES + announced_bytes;
        if bytes.len() < end {
            bytes.reserve(end - bytes.len());
            return Ok(None);
        }
        let frame = self.keep(&bytes[HEADER_BYTES..end])?;
        bytes.advance(end);
        Ok(Some(frame))
    }

    fn decode_eof(&mut self, bytes: &mut BytesMut) -> Result<Option<Frozen>, CodecError> {
        match self.decode(bytes)? {
            None if !bytes.is_empty() => Err(FrameError::UnexpectedEnd.into()),
            frame => Ok(frame),
        }
    }
}

impl<P: AsRef<[u8]>> Encoder<P> for ArenaCodec {
    type Error = CodecError;

    fn encode(&mut self, payload: P, bytes: &mut BytesMut) -> Result<(), CodecError> {
        let payload = payload.as_ref();
        let limit_bytes = self.max_frame_bytes;
        if payload.len() > limit_bytes {
            return Err(FrameError::ReplyTooLong { bytes: payload.len(), limit_bytes }.into());
        }
        bytes.reserve(HEADER_BYTES + payload.len());
        bytes.put_slice(&frame::header_of(payload.len()));
        bytes.put_slice(payload);
        Ok(())
    }
}

/// An arena of either kind, for [`ArenaCodec::new`].
#[derive(Clone, Debug)]
pub struct AnyArena(Arena);

impl From<FixedArena> for AnyArena {
    fn from(arena: FixedArena) -> Self {
        Self(Arena::Fixed(arena))
    }
}

impl From<BuddyArena> for AnyArena {
    fn from(arena: BuddyArena) -> Self {
        Self(Arena::Buddy(arena))
    }
}
