//! `Stop`: tells many tasks to stop, for the price of one load whenever they look.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Poll,
};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// Tells tasks to stop.
///
/// To ask a token takes a lock each time. Here the token only wakes the tasks, which look at a flag
/// whenever they run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop {
    /// Set before the token is cancelled.
    has_begun: Arc<AtomicBool>,
    token: CancellationToken,
}

impl Stop {
    /// The same for one task, so that tasks do not share the lock of one token.
    pub(crate) fn for_task(&self) -> Self {
        Self { has_begun: Arc::clone(&self.has_begun), token: self.token.child_token() }
    }

    pub(crate) fn begin(&self) {
        // Relaxed: whoever is woken by the token sees it, and who looks earlier looks again.
        self.has_begun.store(true, Relaxed);
        self.token.cancel();
    }

    #[inline]
    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun.load(Relaxed)
    }

    /// Polls `future` until it is ready or the stop begins. Then it is `None`.
    ///
    /// The task is woken when the stop begins if it has called [`wake_by`].
    pub(crate) async fn unless_begun<F: Future>(
        &self,
        mut future: Pin<&mut F>,
    ) -> Option<F::Output> {
        poll_fn(|context| match self.has_begun() {
            true => Poll::Ready(None),
            false => future.as_mut().poll(context).map(Some),
        })
        .await
    }

    /// What wakes the task: to be pinned, kept, and given to [`wake_by`].
    pub(crate) fn waking(&self) -> WaitForCancellationFuture<'_> {
        self.token.cancelled()
    }
}

/// Makes sure that the task is woken when the stop begins, as long as `waking` lives.
///
/// Once is enough, since the task stays the same. Whether it has begun is asked elsewhere.
pub(crate) async fn wake_by(mut waking: Pin<&mut WaitForCancellationFuture<'_>>) {
    let _ = poll_fn(|context| Poll::Ready(waking.as_mut().poll(context))).await;
}

/// Begins the stop when it drops.
#[derive(Debug)]
pub(crate) struct BeginsWhenDropped(pub(crate) Stop);

impl Drop for BeginsWhenDropped {
    fn drop(&mut self) {
        self.0.begin();
    }
}
