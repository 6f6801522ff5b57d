//! What a server has done: connections, frames, bytes, and why connections were closed.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::transport::FrameError;

/// Why the server closes a connection before its peer does.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Reject {
    /// A header announced more than the limit.
    TooLong,
    /// The peer ended its output inside a frame.
    UnexpectedEnd,
    /// Not one byte came.
    FirstByteTimeout,
    /// No further frame came.
    IdleTimeout,
    /// The rest of a frame did not come.
    FrameTimeout,
    /// The peer did not take its replies.
    WriteTimeout,
    /// There was no memory in time.
    MemoryTimeout,
    /// The peer blocked memory for which others waited.
    Stalled,
    /// A handler's reply was longer than a frame can be.
    ReplyTooLong,
    /// The peer's side of an encrypted connection was not what it must be.
    Tls,
    /// The connection failed.
    Failed,
    /// The handler panicked, or the server did.
    Panicked,
}

impl Reject {
    /// All reasons.
    pub const ALL: [Self; 12] = [
        Self::TooLong,
        Self::UnexpectedEnd,
        Self::FirstByteTimeout,
        Self::IdleTimeout,
        Self::FrameTimeout,
        Self::WriteTimeout,
        Self::MemoryTimeout,
        Self::Stalled,
        Self::ReplyTooLong,
        Self::Tls,
        Self::Failed,
        Self::Panicked,
    ];

    /// Returns its name, as figures are labelled with it.
    pub fn name(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::UnexpectedEnd => "unexpected_end",
            Self::FirstByteTimeout => "first_byte_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::FrameTimeout => "frame_timeout",
            Self::WriteTimeout => "write_timeout",
            Self::MemoryTimeout => "memory_timeout",
            Self::Stalled => "stalled",
            Self::ReplyTooLong => "reply_too_long",
            Self::Tls => "tls",
            Self::Failed => "failed",
            Self::Panicked => "panicked",
        }
    }
}

impl From<&FrameError> for Reject {
    fn from(error: &FrameError) -> Self {
        match error {
            FrameError::TooLong { .. } => Self::TooLong,
            FrameError::UnexpectedEnd => Self::UnexpectedEnd,
            FrameError::FirstByteTimeout(_) => Self::FirstByteTimeout,
            FrameError::IdleTimeout(_) => Self::IdleTimeout,
            FrameError::FrameTimeout(_) => Self::FrameTimeout,
            FrameError::WriteTimeout(_) => Self::WriteTimeout,
            FrameError::MemoryTimeout(_) => Self::MemoryTimeout,
            FrameError::Stalled { .. } => Self::Stalled,
            FrameError::ReplyTooLong { .. } => Self::ReplyTooLong,
            FrameError::Tls(_) => Self::Tls,
            FrameError::Io(_) => Self::Failed,
        }
    }
}

/// The counters. All are figures: nothing else depends on them, so no access orders anything.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    connections: AtomicUsize,
    accepted: AtomicU64,
    frames: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    rejects: [AtomicU64; Reject::ALL.len()],
}

/// A snapshot of what a server has done.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct ServerMetrics {
    /// Connections now.
    pub connections: usize,
    /// Connections since the start.
    pub accepted: u64,
    /// Requests that were handled.
    pub frames: u64,
    /// Bytes that were read, headers included.
    pub bytes_in: u64,
    /// Bytes that were written, headers included.
    pub bytes_out: u64,
    /// Connections that were closed by the server, by reason.
    pub rejects: Vec<(Reject, u64)>,
}

impl Stats {
    pub(crate) fn open(&self) {
        self.connections.fetch_add(1, Relaxed);
        self.accepted.fetch_add(1, Relaxed);
    }

    pub(crate) fn close(&self) {
        self.connections.fetch_sub(1, Relaxed);
    }

    pub(crate) fn reject(&self, reason: Reject) {
        self.rejects[reason as usize].fetch_add(1, Relaxed);
    }

    #[inline]
    pub(crate) fn count_turn(&self, frames: u64, bytes_in: u64, bytes_out: u64) {
        self.frames.fetch_add(frames, Relaxed);
        self.bytes_in.fetch_add(bytes_in, Relaxed);
        self.bytes_out.fetch_add(bytes_out, Relaxed);
    }

    pub(crate) fn metrics(&self) -> ServerMetrics {
        let rejects = |reason| (reason, self.rejects[reason as usize].load(Relaxed));
        ServerMetrics {
            connections: self.connections.load(Relaxed),
            accepted: self.accepted.load(Relaxed),
            frames: self.frames.load(Relaxed),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            rejects: Reject::ALL.map(rejects).to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_in_the_order_of_all() {
        for (index, reason) in Reject::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }
}
