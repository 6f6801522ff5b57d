//! Wakers on their way out of the lock.

use std::task::Waker;

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

    pub(crate) fn wake(self) {
        self.wakers.into_iter().flatten().for_each(Waker::wake);
    }
}
