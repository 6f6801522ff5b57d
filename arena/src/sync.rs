//! The synchronisation types of this crate: `std`, or loom when models run.
//!
//! # Dekker's pattern
//!
//! Three handshakes here have one shape: each side writes its own word and then reads the other's,
//! and at least one of the two must see the other. In production all four accesses are `SeqCst`,
//! which is enough and costs nothing extra on x86, where the write is a read-modify-write anyway.
//! Loom treats `SeqCst` accesses as `AcqRel`, so in a model [`between_write_and_read`] puts the
//! fence that gives the same guarantee.

#[cfg(not(all(test, arena_loom)))]
pub(crate) use std::{
    sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
    thread::yield_now,
};

#[cfg(all(test, arena_loom))]
pub(crate) use loom::{
    sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
    thread::yield_now,
};

#[cfg(all(feature = "async-alloc", not(all(test, arena_loom))))]
pub(crate) use {
    self::cell::UnsafeCell,
    std::sync::{Mutex, MutexGuard},
};

#[cfg(all(feature = "async-alloc", test, arena_loom))]
pub(crate) use {
    self::lock::{Mutex, MutexGuard},
    loom::cell::UnsafeCell,
};

#[cfg(all(feature = "async-alloc", not(all(test, arena_loom))))]
mod cell {
    /// A cell with the interface of loom's, which sees two that touch it at once.
    #[derive(Debug)]
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }

        pub(crate) fn with_mut<R>(&self, touch: impl FnOnce(*mut T) -> R) -> R {
            touch(self.0.get())
        }
    }
}

/// Loom's lock. It switches threads at atomics alone, so that there must be one for others to find
/// the lock taken.
#[cfg(all(feature = "async-alloc", test, arena_loom))]
mod lock {
    use std::{
        ops::{Deref, DerefMut},
        sync::{PoisonError, TryLockError},
    };

    use super::{AtomicU32, Ordering::Relaxed};

    #[derive(Debug)]
    pub(crate) struct Mutex<T> {
        inner: loom::sync::Mutex<T>,
        switch: AtomicU32,
    }

    pub(crate) struct MutexGuard<'a, T> {
        inner: loom::sync::MutexGuard<'a, T>,
        switch: &'a AtomicU32,
    }

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self { inner: loom::sync::Mutex::new(value), switch: AtomicU32::new(0) }
        }

        pub(crate) fn lock(&self) -> Result<MutexGuard<'_, T>, PoisonError<MutexGuard<'_, T>>> {
            let inner = self.inner.lock().expect("a panic ends the model");
            Ok(MutexGuard { inner, switch: &self.switch })
        }

        pub(crate) fn try_lock(
            &self,
        ) -> Result<MutexGuard<'_, T>, TryLockError<MutexGuard<'_, T>>> {
            match self.inner.try_lock() {
                Ok(inner) => Ok(MutexGuard { inner, switch: &self.switch }),
                Err(_) => Err(TryLockError::WouldBlock),
            }
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.inner
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            &mut self.inner
        }
    }

    impl<T> Drop for MutexGuard<'_, T> {
        fn drop(&mut self) {
            self.switch.load(Relaxed);
        }
    }
}

/// Stands between the write and the read of one side of Dekker's pattern.
#[inline(always)]
pub(crate) fn between_write_and_read() {
    #[cfg(all(test, arena_loom))]
    loom::sync::atomic::fence(Ordering::SeqCst);
}

/// Waits a moment in a loop that another thread will end: first by spinning, then by giving up the
/// processor, at last by sleeping, so that a thread of a lower priority comes to run as well.
pub(crate) fn wait_a_moment(round: u32) {
    const SPINS: u32 = 64;
    const YIELDS: u32 = 64;
    const SLEEP: std::time::Duration = std::time::Duration::from_micros(50);

    if cfg!(all(test, arena_loom)) {
        yield_now();
    } else if round < SPINS {
        std::hint::spin_loop();
    } else if round < SPINS + YIELDS {
        yield_now();
    } else {
        std::thread::sleep(SLEEP);
    }
}
