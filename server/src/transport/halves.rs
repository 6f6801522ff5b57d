//! `Halves`: two tasks that wait for what can wake only one.

use std::{
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

/// A half of a transport.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Half {
    /// Polled for frames, or for bytes.
    Reader,
    /// Polled to take and to write them.
    Writer,
}

/// The halves of a transport that wait for what both of them poll: reading flushes too.
///
/// They may belong to different tasks (`StreamExt::split`), but a stream, a timer and a queue each
/// wake only the task that polled them last. So they are polled with a waker for both, and whoever
/// is done wakes the other. A transport that is not split pays nothing for it.
#[derive(Debug, Default)]
pub(crate) struct Halves {
    /// In the order of [`Half`].
    waiting: [Option<Waker>; 2],
}

/// Wakes two tasks.
struct Both(Waker, Waker);

impl Halves {
    /// Polls on behalf of one half what the other may be waiting for.
    pub(crate) fn poll<T>(
        &mut self,
        half: Half,
        context: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let other = self.waiting[half.other() as usize].as_ref();
        let polled = match other.filter(|other| !other.will_wake(context.waker())) {
            None => poll(context),
            Some(other) => {
                let both = Waker::from(Arc::new(Both(context.waker().clone(), other.clone())));
                poll(&mut Context::from_waker(&both))
            }
        };
        match polled {
            Poll::Pending => self.wait(half, context),
            Poll::Ready(_) => {
                self.waiting[half as usize] = None;
                self.wake(half.other());
            }
        }
        polled
    }

    /// Notes that a half waits, so that it is woken when the other half is done.
    pub(crate) fn wait(&mut self, half: Half, context: &Context<'_>) {
        match &mut self.waiting[half as usize] {
            Some(waker) => waker.clone_from(context.waker()),
            waiting => *waiting = Some(context.waker().clone()),
        }
    }

    /// Wakes a half if it waits.
    pub(crate) fn wake(&mut self, half: Half) {
        if let Some(waker) = self.waiting[half as usize].take() {
            waker.wake();
        }
    }
}

impl Half {
    pub(crate) const ALL: [Self; 2] = [Self::Reader, Self::Writer];

    fn other(self) -> Self {
        match self {
            Self::Reader => Self::Writer,
            Self::Writer => Self::Reader,
        }
    }
}

impl Wake for Both {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.wake_by_ref();
        self.1.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready, task::spawn};

    use super::*;

    #[test]
    fn the_half_that_is_done_wakes_the_other() {
        let mut halves = Halves::default();
        for (half, other) in [(Half::Reader, Half::Writer), (Half::Writer, Half::Reader)] {
            let (mut done, mut waiting) = (spawn(()), spawn(()));
            assert_pending!(
                waiting
                    .enter(|context, _| { halves.poll(other, context, |_| Poll::<()>::Pending) })
            );
            assert_ready!(
                done.enter(|context, _| { halves.poll(half, context, |_| Poll::Ready(())) })
            );
            assert!(waiting.is_woken(), "{other:?}");
        }
    }
}
