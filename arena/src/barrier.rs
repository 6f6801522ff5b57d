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
//! [`is_available`] says so, and the frequent side must take another way. A kernel that has offered
//! it can refuse it later (a seccomp filter, a process restored from an image); then [`heavy`] says
//! so. In the models both are full fences, or nothing.

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
        atomic::{
            AtomicBool,
            Ordering::{Relaxed, SeqCst},
            compiler_fence, fence,
        },
    };

    static IS_REGISTERED: LazyLock<bool> = LazyLock::new(register);

    /// The kernel has refused a barrier that it had granted before.
    static IS_DENIED: AtomicBool = AtomicBool::new(false);

    /// How often a barrier is asked for while the kernel is short of memory.
    const TRIES: u32 = 100;

    /// Whether [`heavy`] works here.
    pub(crate) fn is_available() -> bool {
        *IS_REGISTERED && !IS_DENIED.load(Relaxed)
    }

    /// Keeps the compiler from moving memory accesses across.
    #[inline(always)]
    pub(crate) fn light() {
        compiler_fence(SeqCst);
    }

    /// Makes every thread of the process execute a full barrier. False if the kernel refuses: then
    /// this thread alone did.
    pub(crate) fn heavy() -> bool {
        // What this thread did before is ordered as well: the call itself is a full barrier.
        for _ in 0..TRIES {
            if is_available() && call(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED) {
                return true;
            }
            match std::io::Error::last_os_error().raw_os_error() {
                Some(libc::ENOMEM) if is_available() => std::thread::yield_now(),
                // The registration is lost in a process that was restored from an image.
                Some(libc::EPERM) if is_available() && register() => {}
                _ => break,
            }
        }
        fence(SeqCst);
        if *IS_REGISTERED {
            // For good: a program that is denied it once, by a filter for instance, stays so.
            IS_DENIED.store(true, Relaxed);
        }
        false
    }

    fn register() -> bool {
        call(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
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

    pub(crate) fn heavy() -> bool {
        fence(SeqCst);
        // Nothing relies on others: there are no caches.
        true
    }
}

#[cfg(all(test, arena_loom))]
pub(crate) mod models {
    use std::cell::Cell;

    use loom::sync::atomic::{Ordering::SeqCst, fence};

    thread_local! {
        static IS_AVAILABLE: Cell<bool> = const { Cell::new(true) };
    }

    loom::thread_local! {
        static IS_DENIED: Cell<bool> = Cell::new(false);
    }

    /// Runs models as on a system that has no such barrier.
    pub(crate) fn without(run: impl FnOnce()) {
        IS_AVAILABLE.set(false);
        run();
        IS_AVAILABLE.set(true);
    }

    /// Runs a part of a model as on a system that refuses the barriers that this part asks for.
    /// Other threads of the model are not refused.
    pub(crate) fn denied<R>(run: impl FnOnce() -> R) -> R {
        IS_DENIED.with(|is_denied| is_denied.set(true));
        let done = run();
        IS_DENIED.with(|is_denied| is_denied.set(false));
        done
    }

    pub(crate) fn is_available() -> bool {
        IS_AVAILABLE.get()
    }

    pub(crate) fn light() {
        if is_available() {
            fence(SeqCst);
        }
    }

    pub(crate) fn heavy() -> bool {
        if IS_DENIED.with(Cell::get) {
            return false;
        }
        if is_available() {
            fence(SeqCst);
        }
        true
    }
}
