//! Whether this process is a child of the one that made an arena.
//!
//! `fork` copies the memory and one thread. What the other threads were in the middle of stays as
//! it was for ever, so nobody may wait for it.

/// How many forks lie between the first process and this one.
#[cfg(all(unix, not(miri), not(all(test, arena_loom))))]
pub(crate) use self::child::count;

#[cfg(not(all(unix, not(miri), not(all(test, arena_loom)))))]
pub(crate) fn count() -> u32 {
    0
}

#[cfg(all(unix, not(miri), not(all(test, arena_loom))))]
mod child {
    use std::sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering::Relaxed},
    };

    static FORKS: AtomicU32 = AtomicU32::new(0);

    static HANDLER: LazyLock<()> = LazyLock::new(|| {
        // SAFETY: the handler is a function that lives as long as the program, and does what is
        // allowed in a child: it bumps an atomic. If it cannot be registered, children wait as the
        // parent does.
        unsafe { libc::pthread_atfork(None, None, Some(note)) };
    });

    extern "C" fn note() {
        // Relaxed: the child has one thread.
        FORKS.fetch_add(1, Relaxed);
    }

    pub(crate) fn count() -> u32 {
        LazyLock::force(&HANDLER);
        FORKS.load(Relaxed)
    }
}
