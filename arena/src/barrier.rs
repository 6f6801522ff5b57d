//! A memory barrier that costs one side nothing.
//!
//! Both sides of Dekker's pattern need a full barrier between their write and their read. Where one
//! side runs at every allocation and the other once in a long while, the rare side can do the work
//! of both: it asks the kernel to interrupt every processor that runs a thread of this process
//! (`membarrier(2)`, about a microsecond). Then the frequent side needs only that the compiler
//! keeps its order.
//!
//! ```text
//! frequent side                rare side
//! 1  write x                   a  write y
//! 2  light()                   b  heavy()
//! 3  read y                    c  read x
//! ```
//!
//! As with two full barriers, 3 sees a or c sees 1. Where the kernel does not offer it,
//! [`is_available`] says so, and the frequent side must take another way. In the models both are
//! full fences, or nothing.

#[cfg(all(target_os = "linux", not(miri), not(all(test, arena_loom))))]
pub(crate) use self::kernel::{heavy, is_available, light};

#[cfg(all(any(not(target_os = "linux"), miri), not(all(test, arena_loom))))]
pub(crate) use self::fences::{heavy, is_available, light};

#[cfg(all(test, arena_loom))]
pub(crate) use self::models::{heavy, is_available, light};

#[cfg(all(target_os = "linux", not(miri), not(all(test, arena_loom))))]
mod kernel {
    use std::sync::{
        LazyLock,
        atomic::{Ordering::SeqCst, compiler_fence, fence},
    };

    static IS_REGISTERED: LazyLock<bool> =
        LazyLock::new(|| call(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED));

    /// Whether [`heavy`] works here.
    pub(crate) fn is_available() -> bool {
        *IS_REGISTERED
    }

    /// Keeps the compiler from moving memory accesses across.
    #[inline(always)]
    pub(crate) fn light() {
        compiler_fence(SeqCst);
    }

    /// Makes every thread of the process execute a full barrier; only this one, where that is not
    /// available.
    pub(crate) fn heavy() {
        if !is_available() {
            return fence(SeqCst);
        }
        // What this thread did before it is ordered as well: the call itself is a full barrier. A
        // child made by `fork` inherits the registration, and an `exec` ends the program that
        // relied on it.
        if !call(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED) {
            // Others rely on it at this moment, and nothing else would order them.
            eprintln!(
                "arena: membarrier(2) fails although the kernel has offered it: cannot go on"
            );
            std::process::abort();
        }
    }

    fn call(command: libc::c_int) -> bool {
        let no_flags: libc::c_uint = 0;
        // SAFETY: `membarrier` takes a command and flags by value and touches no memory of ours.
        unsafe { libc::syscall(libc::SYS_membarrier, command, no_flags, 0) == 0 }
    }
}

#[cfg(all(any(not(target_os = "linux"), miri), not(all(test, arena_loom))))]
mod fences {
    use std::sync::atomic::{Ordering::SeqCst, fence};

    pub(crate) fn is_available() -> bool {
        false
    }

    #[inline(always)]
    pub(crate) fn light() {}

    pub(crate) fn heavy() {
        fence(SeqCst);
    }
}

#[cfg(all(test, arena_loom))]
pub(crate) mod models {
    use std::cell::Cell;

    use loom::sync::atomic::{Ordering::SeqCst, fence};

    thread_local! {
        static IS_AVAILABLE: Cell<bool> = const { Cell::new(true) };
    }

    /// Runs models as on a system that has no such barrier.
    pub(crate) fn without(run: impl FnOnce()) {
        IS_AVAILABLE.set(false);
        run();
        IS_AVAILABLE.set(true);
    }

    pub(crate) fn is_available() -> bool {
        IS_AVAILABLE.get()
    }

    pub(crate) fn light() {
        if is_available() {
            fence(SeqCst);
        }
    }

    pub(crate) fn heavy() {
        if is_available() {
            fence(SeqCst);
        }
    }
}
