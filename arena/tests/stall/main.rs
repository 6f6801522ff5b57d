//! Progress where threads are stopped: nobody waits for a thread that a debugger, a signal, the
//! scheduler or the host has taken off its processor. With it, what else ends in a hang: `fork`, a
//! `membarrier` that the system denies, wakers that free memory, waiters that are overtaken.
//!
//! Each test runs in a process of its own, with a limit after which it is killed and fails (see
//! `process`), because such bugs hang, abort, or leave threads behind that disturb other tests.
//!
//! | Module       | Stops                                                                       |
//! |--------------|-----------------------------------------------------------------------------|
//! | `everywhere` | a thread at each instruction of an operation, for as long as others need    |
//! | `stalls`     | threads by signals at random moments, for up to 200 ms, hundreds of times   |
//! | `realtime`   | a thread by one of a higher class on its processor                          |
//! | `fork`       | for ever: threads that a forked child does not have                         |
//!
//! How long the tests that could go on for ever take, and how many instructions are tried:
//! `ARENA_STALL_SECONDS`, each. `ci/stalls.sh` gives them more of it than a build does.

#![cfg(all(target_os = "linux", not(miri)))]

mod fence;
#[path = "../it/numbers.rs"]
mod numbers;
mod process;
mod stop;
#[allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "shared with the tests that use all of it"
)]
#[path = "../it/support.rs"]
mod support;
mod tasks;
mod time;

mod end;
#[cfg(target_arch = "x86_64")]
mod everywhere;
mod fork;
mod membarrier;
mod realtime;
mod seats;
mod stalls;
mod starvation;
mod wakers;
