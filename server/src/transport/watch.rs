//! `Watch`: how long a transport waits, and for what.
//!
//! Nobody is judged by the clock alone. When a deadline is over, the stream is asked once more, and
//! the event loop has a moment to tell what it has not told yet. A read that comes back short makes
//! the event loop take a socket for drained, which is wrong where an urgent byte or a descriptor
//! ended it. So the stream is also asked when a peer has been silent for [`ASK_AFTER`].

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    task::coop,
    time::{Sleep, sleep_until},
};

use super::FrameError;
use crate::{
    memory::{Clock, Moment},
    roster::Doing,
};

/// A stream is asked whether it is as silent as it seems after this time, once.
const ASK_AFTER: Duration = Duration::from_millis(50);

/// How long the event loop has to tell what it knows when a deadline is over.
const GRACE: Duration = Duration::from_millis(20);

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
    /// Since when, or since when the peer has been silent if it sends a frame.
    wait: Option<(Wait, Moment)>,
    /// Since when the frame that has begun has been waited for, less the time that its memory took.
    frame_since: Option<Moment>,
    /// Whether the peer has sent something since `wait` was noted.
    was_heard: bool,
    /// Whether the stream was asked in this silence.
    has_asked: bool,
    /// When the wait is over indeed: its deadline has passed.
    grace_ends: Option<Moment>,
    timer: Option<Pin<Box<Sleep>>>,
    /// What the timer is set to, less the pauses since then.
    timer_due: Moment,
    /// The task that the timer wakes, once it was set.
    timer_wakes: Option<Waker>,
}

/// What a wait has come to.
#[derive(Debug)]
pub(crate) enum Patience {
    /// The stream is to be asked before it is waited for any longer. A timer runs.
    Asks,
    /// It took too long.
    Ends(FrameError),
}

impl Watch {
    pub(crate) fn new(timeouts: Timeouts) -> Self {
        Self {
            timeouts,
            wait: None,
            frame_since: None,
            was_heard: false,
            has_asked: false,
            grace_ends: None,
            timer: None,
            timer_due: Moment::FIRST,
            timer_wakes: None,
        }
    }

    /// Ends the wait under way, if there is one: there was progress.
    #[inline]
    pub(crate) fn progress(&mut self, clock: &Clock) {
        self.has_asked = false;
        self.grace_ends = None;
        if let Some((Wait::Memory, since)) = self.wait.take()
            && let Some(frame_since) = &mut self.frame_since
        {
            // The peer is not to blame for this wait.
            *frame_since = *frame_since + clock.now().since(since);
        }
    }

    /// Notes that the peer has sent something, though not yet what is waited for.
    #[inline]
    pub(crate) fn hears(&mut self) {
        self.was_heard = true;
        self.has_asked = false;
    }

    /// Ends the time of the frame that had begun: it is whole.
    #[inline]
    pub(crate) fn frame_ends(&mut self) {
        self.frame_since = None;
    }

    /// Begins to wait, or goes on. Ready if the stream is to be asked, or if it takes too long. The
    /// task is woken after `look` if that is earlier.
    pub(crate) fn poll_over(
        &mut self,
        context: &mut Context<'_>,
        clock: &Clock,
        wait: Wait,
        look: Option<Duration>,
    ) -> Poll<Patience> {
        let now = clock.now();
        let since = match self.wait {
            // A frame has a deadline of its own, so this is the silence alone.
            Some((Wait::Frame, _)) if wait == Wait::Frame && self.was_heard => now,
            Some((under_way, since)) if under_way == wait => since,
            _ => {
                self.progress(clock);
                now
            }
        };
        self.wait = Some((wait, since));
        self.was_heard = false;
        let begun = match wait {
            Wait::Frame => *self.frame_since.get_or_insert(since),
            Wait::FirstByte | Wait::Idle => {
                // What had begun was no frame: a message of the encryption, say.
                self.frame_ends();
                since
            }
            Wait::Memory | Wait::Write => since,
        };
        let limit = self.limit(wait);
        let deadline = limit.map_or(Moment::NEVER, |limit| begun + limit);
        if let Some(limit) = limit
            && deadline <= now
        {
            return self.poll_grace(context, clock, now, wait.error(limit));
        }
        let asks_at = match wait.may_be_deaf() && !self.has_asked {
            true => since + ASK_AFTER,
            false => Moment::NEVER,
        };
        let asks = asks_at <= now;
        self.has_asked |= asks;
        let mut due = deadline;
        if !asks {
            due = due.min(asks_at);
        }
        if let Some(look) = look {
            due = due.min(now + look);
        }
        if due < Moment::NEVER {
            self.arm(context, clock, due, now);
        }
        if asks { Poll::Ready(Patience::Asks) } else { Poll::Pending }
    }

    /// The deadline is over: lets a moment pass, in which all that has happened becomes known.
    #[cold]
    fn poll_grace(
        &mut self,
        context: &mut Context<'_>,
        clock: &Clock,
        now: Moment,
        error: FrameError,
    ) -> Poll<Patience> {
        let asks = self.grace_ends.is_none();
        let ends = *self.grace_ends.get_or_insert(now + GRACE);
        if ends <= now {
            return Poll::Ready(Patience::Ends(error));
        }
        self.arm(context, clock, ends, now);
        if asks { Poll::Ready(Patience::Asks) } else { Poll::Pending }
    }

    /// Makes sure that the task is woken at `due` or before.
    #[inline]
    fn arm(&mut self, context: &mut Context<'_>, clock: &Clock, due: Moment, now: Moment) {
        let is_armed = now < self.timer_due
            && self.timer_due <= due
            && self.timer_wakes.as_ref().is_some_and(|task| task.will_wake(context.waker()))
            && self.timer.as_ref().is_some_and(|timer| !timer.is_elapsed());
        if !is_armed {
            self.set_timer(context, clock, due, now);
        }
    }

    fn set_timer(&mut self, context: &mut Context<'_>, clock: &Clock, due: Moment, now: Moment) {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(clock.instant(due))));
        if self.timer_due > due || self.timer_due <= now {
            timer.as_mut().reset(clock.instant(due));
            self.timer_due = due;
        }
        self.timer_wakes = Some(context.waker().clone());
        if poll_timer(timer, context).is_ready() {
            // The process has paused since it was set.
            timer.as_mut().reset(clock.instant(due));
            self.timer_due = due;
            if poll_timer(timer, context).is_ready() {
                // It fired in this very moment, early.
                context.waker().wake_by_ref();
            }
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
    /// Whether the peer may have sent what the event loop does not tell. Before the first read it
    /// tells everything.
    fn may_be_deaf(self) -> bool {
        matches!(self, Self::Idle | Self::Frame)
    }

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

/// Polls a timer, which notes whom to wake however much the task has done in this turn.
fn poll_timer(timer: &mut Pin<Box<Sleep>>, context: &mut Context<'_>) -> Poll<()> {
    Pin::new(&mut coop::unconstrained(timer)).poll(context)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        select,
        task::yield_now,
        time::{advance, pause},
    };
    use tokio_test::{assert_pending, assert_ready, task::spawn};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(1);
    const TIMEOUTS: Timeouts =
        Timeouts { first_byte: None, idle: None, frame: None, write: None, memory: Some(LIMIT) };

    /// Lets `duration` pass as a process sees it that runs.
    async fn run(duration: Duration) {
        for _ in 0..duration.as_millis() / 10 {
            advance(Duration::from_millis(10)).await;
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_task_without_budget_is_woken_at_its_deadline() {
        pause();
        let (clock, mut watch) = (Clock::new(), Watch::new(TIMEOUTS));
        let mut task =
            spawn(poll_fn(|context| watch.poll_over(context, &clock, Wait::Memory, None)));
        poll_fn(|context| {
            while let Poll::Ready(turn) = coop::poll_proceed(context) {
                turn.made_progress();
            }
            Poll::Ready(())
        })
        .await;
        assert_pending!(task.poll());
        yield_now().await;
        assert_pending!(task.poll());
        advance(2 * LIMIT).await;
        assert!(task.is_woken());
    }

    #[tokio::test]
    async fn the_task_that_polled_last_is_woken_at_the_deadline() {
        pause();
        let (clock, mut watch) = (Clock::new(), Watch::new(TIMEOUTS));
        let mut poll = |context: &mut Context<'_>| {
            watch.poll_over(context, &clock, Wait::Memory, None).map(drop)
        };
        let (mut first, mut last) = (spawn(()), spawn(()));
        assert_pending!(first.enter(|context, _| poll(context)));
        assert_pending!(last.enter(|context, _| poll(context)));
        advance(2 * LIMIT).await;
        assert!(last.is_woken());
    }

    #[tokio::test]
    async fn a_timer_that_is_set_too_late_is_set_again() {
        pause();
        let (clock, mut watch) = (Clock::new(), Watch::new(TIMEOUTS));
        let mut task = spawn(());
        for look in [None, Some(LIMIT / 4)] {
            let polled =
                task.enter(|context, _| watch.poll_over(context, &clock, Wait::Memory, look));
            assert_pending!(polled);
        }
        advance(LIMIT / 2).await;
        assert!(task.is_woken());
    }

    #[tokio::test]
    async fn a_deadline_leaves_the_event_loop_a_moment() {
        pause();
        let (clock, mut watch) = (Clock::new(), Watch::new(TIMEOUTS));
        let mut poll =
            |context: &mut Context<'_>| watch.poll_over(context, &clock, Wait::Memory, None);
        let mut task = spawn(());
        assert_pending!(task.enter(|context, _| poll(context)));
        advance(LIMIT).await;
        let asks = assert_ready!(task.enter(|context, _| poll(context)));
        assert!(matches!(asks, Patience::Asks), "{asks:?}");
        assert_pending!(task.enter(|context, _| poll(context)));
        advance(2 * GRACE).await;
        assert!(task.is_woken());
        let ends = assert_ready!(task.enter(|context, _| poll(context)));
        assert!(matches!(ends, Patience::Ends(FrameError::MemoryTimeout(LIMIT))), "{ends:?}");
    }

    #[tokio::test]
    async fn a_timer_that_fired_in_a_pause_is_set_again() {
        pause();
        let (clock, mut watch) = (Clock::new(), Watch::new(TIMEOUTS));
        let mut poll = |context: &mut Context<'_>| {
            watch.poll_over(context, &clock, Wait::Memory, None).map(drop)
        };
        let mut task = spawn(());
        let test = async {
            run(LIMIT).await;
            assert_pending!(task.enter(|context, _| poll(context)));
            advance(100 * LIMIT).await;
            assert!(task.is_woken(), "by the clock of the system it is over");
            assert_pending!(task.enter(|context, _| poll(context)));
            run(2 * LIMIT).await;
            assert!(task.is_woken(), "it is over by the clock that counts");
        };
        select! {
            () = clock.run() => unreachable!("it beats as long as it is polled"),
            () = test => {}
        }
    }
}
