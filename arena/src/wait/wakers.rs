//! Wakers on their way out of the lock.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    task::Waker,
};

/// How many waiters are served under one locking. More make the others wait longer; fewer lock more
/// often.
const BATCH: usize = if cfg!(all(test, arena_loom)) { 1 } else { 16 };

/// Up to [`BATCH`] wakers, to be woken when the lock is released.
#[derive(Debug, Default)]
pub(crate) struct Wakers {
    wakers: [Option<Waker>; BATCH],
    len: usize,
}

impl Wakers {
    pub(crate) fn is_full(&self) -> bool {
        self.len == BATCH
    }

    pub(crate) fn push(&mut self, waker: Option<Waker>) {
        self.wakers[self.len] = waker;
        self.len += 1;
    }

    /// Wakes all, and returns the first panic if there was any.
    pub(crate) fn wake(self) -> Option<Box<dyn Any + Send>> {
        let wake = |waker: Waker| catch_unwind(AssertUnwindSafe(|| waker.wake())).err();
        self.wakers.into_iter().flatten().fold(None, |first, waker| {
            let panic = wake(waker);
            first.or(panic)
        })
    }
}
