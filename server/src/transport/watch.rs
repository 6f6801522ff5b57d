//! `Watch`: how long a transport waits, and for what.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::FrameError;
use crate::roster::Doing;

/// How long a transport waits for its peer and for memory. `None` is for ever.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Timeouts {
    /// Until the first byte of all.
    pub first_byte: Option<Duration>,
    /// Between the end of a frame and the first byte of the next.
    pub idle: Option<Duration>,
    /// From the first byte of a frame to its last. Waiting for memory does not count.
    pub frame: Option<Duration>,
    /// While the stream takes nothing of what is written. A socket takes more only when its peer
    /// has taken a good part of what it has.
    pub write: Option<Duration>,
    /// Until there is memory.
    pub memory: Option<Duration>,
}

/// What a transport waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Wait {
    /// The first byte of all.
    FirstByte,
    /// The first byte of the next frame.
    Idle,
    /// The rest of a frame.
    Frame,
    /// Memory.
    Memory,
    /// A peer that takes bytes.
    Write,
}

/// The wait under way, and the timer that ends it.
///
/// The timer is not set for every wait: it may fire early, and is then set to what is due.
#[derive(Debug)]
pub(crate) struct Watch {
    timeouts: Timeouts,
    wait: Option<(Wait, Instant)>,
    /// Since when the frame that has begun has been waited for, less the time that its memory took.
    frame_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Watch {
    pub(crate) fn new(timeouts: Timeouts) -> Self {
        Self { timeouts, wait: None, frame_since: None, timer: None }
    }

    /// Ends the wait under way, if there is one: there was progress.
    #[inline]
    pub(crate) fn progress(&mut self) {
        if let Some((Wait::Memory, since)) = self.wait.take()
            && let Some(frame_since) = &mut self.frame_since
        {
            // The peer is not to blame for this wait.
            *frame_since += since.elapsed();
        }
    }

    /// Ends the time of the frame that had begun: it is whole.
    #[inline]
    pub(crate) fn frame_ends(&mut self) {
        self.frame_since = None;
    }

    /// Begins to wait, or goes on. Ready if it takes too long. The task is woken after `look` if
    /// that is earlier.
    pub(crate) fn poll_over(
        &mut self,
        context: &mut Context<'_>,
        wait: Wait,
        look: Option<Duration>,
    ) -> Poll<FrameError> {
        let now = Instant::now();
        let since = match self.wait {
            Some((under_way, since)) if under_way == wait => since,
            _ => {
                self.progress();
                now
            }
        };
        self.wait = Some((wait, since));
        let since = match wait {
            Wait::Frame => *self.frame_since.get_or_insert(since),
            Wait::FirstByte | Wait::Idle => {
                // What had begun was no frame: a message of the encryption, say.
                self.frame_ends();
                since
            }
            Wait::Memory | Wait::Write => since,
        };
        let limit = self.limit(wait);
        let deadline = limit.map(|limit| since + limit);
        if let (Some(limit), Some(deadline)) = (limit, deadline)
            && deadline <= now
        {
            return Poll::Ready(wait.error(limit));
        }
        let look = look.map(|look| now + look);
        if let Some(due) = deadline.into_iter().chain(look).min() {
            self.arm(context, due, now);
        }
        Poll::Pending
    }

    /// Makes sure that the task is woken at `due` or before.
    fn arm(&mut self, context: &mut Context<'_>, due: Instant, now: Instant) {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if timer.deadline() > due || timer.deadline() <= now {
            timer.as_mut().reset(due);
        }
        if timer.as_mut().poll(context).is_ready() {
            // It fired in this very moment, early.
            context.waker().wake_by_ref();
        }
    }

    fn limit(&self, wait: Wait) -> Option<Duration> {
        match wait {
            Wait::FirstByte => self.timeouts.first_byte,
            Wait::Idle => self.timeouts.idle,
            Wait::Frame => self.timeouts.frame,
            Wait::Memory => self.timeouts.memory,
            Wait::Write => self.timeouts.write,
        }
    }
}

impl From<Wait> for Doing {
    #[inline]
    fn from(wait: Wait) -> Self {
        match wait {
            Wait::FirstByte | Wait::Idle => Self::Idle,
            Wait::Frame => Self::Reading,
            Wait::Memory => Self::Waiting,
            Wait::Write => Self::Writing,
        }
    }
}

impl Wait {
    fn error(self, limit: Duration) -> FrameError {
        match self {
            Self::FirstByte => FrameError::FirstByteTimeout(limit),
            Self::Idle => FrameError::IdleTimeout(limit),
            Self::Frame => FrameError::FrameTimeout(limit),
            Self::Memory => FrameError::MemoryTimeout(limit),
            Self::Write => FrameError::WriteTimeout(limit),
        }
    }
}
