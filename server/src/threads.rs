//! Threads: all of them start before the server serves, and an error says what to change if the
//! system refuses one.
//!
//! Later there may be none left to have: `pids.max`, `TasksMax=` and `ulimit -u` count them.

use std::{fmt::Display, io, num::NonZero, os::unix::net::UnixStream, panic, sync::mpsc, thread};

use rustix::io::Errno;
use tokio::runtime::{self, Runtime};

/// What allows a process more threads.
const ALLOW_MORE: &str = "allow the process more threads (TasksMax= in a unit, pids.max of a \
                          container, `ulimit -u`) or more memory (`ulimit -v`)";

/// Starts a thread that nobody waits for.
///
/// # Errors
///
/// Why the system refuses it, with what to change.
pub(crate) fn start(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), String> {
    match thread::Builder::new().name(name.to_owned()).spawn(run) {
        Ok(_) => Ok(()),
        Err(error) => Err(refusal(&error)),
    }
}

fn refusal(error: &io::Error) -> String {
    format!("the system refuses a thread: {error}; {}", change(error))
}

/// What to change where the system refuses something.
fn change(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        // The C library reports a lack of memory in the same way.
        Some(Errno::AGAIN) => ALLOW_MORE,
        Some(Errno::MFILE | Errno::NFILE) => {
            "allow the process more file descriptors (LimitNOFILE= in a unit, `ulimit -n`)"
        }
        _ => {
            "allow it in the filter of system calls (SystemCallFilter= in a unit, the seccomp \
             profile of a container): threads need clone3, or that it answers ENOSYS"
        }
    }
}

/// Builds the runtime, with so many threads that serve, or one per core.
///
/// Where the system refuses it something, the runtime panics, in the thread that builds it or in a
/// new one, and then waits for ever for the threads that it has. So `give_up` has to end the
/// process: it is called with the reason before anything is unwound.
///
/// # Errors
///
/// The reason, where the runtime does not panic.
pub(crate) fn runtime(
    threads: Option<usize>,
    give_up: impl Fn(&str) + Send + Sync + 'static,
) -> Result<Runtime, String> {
    let threads = threads.or_else(|| thread::available_parallelism().ok().map(NonZero::get));
    let threads = threads.unwrap_or(1);
    let (starts, started) = mpsc::channel();
    let mut builder = runtime::Builder::new_multi_thread();
    builder.worker_threads(threads).on_thread_start(move || _ = starts.send(()));

    let cannot_start = move |reason: &dyn Display, change: &str| {
        format!("cannot start {threads} threads that serve: {reason}; {change}")
    };
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let reason = panic.payload_as_str().unwrap_or("a panic that is no text");
        // What the runtime has opened is open still: if descriptors were short, they are now.
        let change = match UnixStream::pair() {
            Err(error) => change(&error).to_owned(),
            Ok(_) if threads > 1 => format!("set --threads to fewer, or {ALLOW_MORE}"),
            Ok(_) => ALLOW_MORE.to_owned(),
        };
        give_up(&cannot_start(&reason, &change));
    }));
    let runtime = builder.enable_all().build();
    if runtime.is_ok() {
        started.iter().take(threads).for_each(drop);
    }
    panic::set_hook(hook);
    runtime.map_err(|error| cannot_start(&error, change(&error)))
}
