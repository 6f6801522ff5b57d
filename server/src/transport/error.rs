//! `FrameError`: why a transport ends.

use std::{io, time::Duration};

use crate::size::Size;

/// Why no more frames can be read or written.
///
/// Frames that arrived before the error were handed out first, and replies to them can still be
/// flushed, unless the peer is gone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A header announces more than the limit. No byte of the payload was kept.
    #[error("a frame of {announced_bytes} bytes exceeds the limit of {limit_bytes} bytes")]
    TooLong {
        /// What the header announces.
        announced_bytes: usize,
        /// The longest payload.
        limit_bytes: usize,
    },
    /// The peer ended its output in the middle of a frame.
    #[error("the peer closed it inside a frame")]
    UnexpectedEnd,
    /// The peer sent nothing at all.
    #[error("the peer sent not one byte within {0:?}")]
    FirstByteTimeout(Duration),
    /// The peer sent nothing more after its last frame.
    #[error("the peer sent no further frame within {0:?}")]
    IdleTimeout(Duration),
    /// A frame that has begun did not end in time.
    #[error("the rest of a frame did not arrive within {0:?}")]
    FrameTimeout(Duration),
    /// The peer did not take what was written.
    #[error("the peer took no reply for {0:?}")]
    WriteTimeout(Duration),
    /// There was no memory in time.
    #[error("no memory became free within {0:?}")]
    MemoryTimeout(Duration),
    /// The peer stalled while others waited for the memory that it blocked.
    #[error("the peer stalled with {} of memory for which others waited", Size(*.bytes))]
    Stalled {
        /// What was held.
        bytes: usize,
    },
    /// A reply is longer than a frame can be.
    #[error("a reply of {bytes} bytes exceeds the limit of {limit_bytes} bytes")]
    ReplyTooLong {
        /// Bytes of the reply.
        bytes: usize,
        /// The longest payload.
        limit_bytes: usize,
    },
    /// The peer's side of an encrypted connection is not what it must be: no common version, no
    /// certificate, or not TLS at all.
    #[error("no encrypted connection: {0}")]
    Tls(#[source] io::Error),
    /// The stream failed.
    #[error("{0}")]
    Io(#[source] io::Error),
}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> Self {
        #[cfg(feature = "tls")]
        if crate::tls::is_of_tls(&error) {
            return Self::Tls(error);
        }
        Self::Io(error)
    }
}

impl FrameError {
    /// The peer is gone, which shows while something else is waited for.
    pub(crate) fn hung_up() -> Self {
        Self::Io(io::ErrorKind::ConnectionReset.into())
    }
}
