//! How many files this process may have open at once: each connection is one.
//!
//! A run that needs more than the soft limit raises it, as far as the hard one allows, and gives it
//! back. A server that is started before that has the limit that the user gave it.

use rlimit::{Resource, getrlimit, setrlimit};

use crate::plan::Plan;

/// The poll of a thread, its handle for registering, and its alarm.
const FILES_PER_THREAD: u64 = 3;
/// Reports, a shelf, the page of metrics, name lookups, and whatever a library opens.
const OTHER_FILES: u64 = 24;
/// How many are open already where the system does not tell.
const OPEN_FILES: usize = 16;

/// A limit that was raised. Dropping it sets it back.
#[derive(Debug)]
pub(crate) struct Raised {
    current: u64,
    maximum: u64,
}

/// A limit that is too low.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct TooLow {
    pub(crate) needed: u64,
    pub(crate) limit: u64,
}

/// How many files a run of this plan may have open at once, with those that are open already.
pub(crate) fn needed_for(plan: &Plan) -> u64 {
    let open = std::fs::read_dir("/proc/self/fd").map_or(OPEN_FILES, Iterator::count);
    let sockets = u64::from(plan.connections) + plan.adversaries.count();
    let threads = u64::from(plan.threads_used()) * FILES_PER_THREAD;
    sockets + threads + OTHER_FILES + open as u64
}

/// Whether so many can be allowed. A limit that cannot be read is none.
pub(crate) fn check(needed: u64) -> Result<(), TooLow> {
    match getrlimit(Resource::NOFILE) {
        Ok((_, limit)) if limit < needed => Err(TooLow { needed, limit }),
        _ => Ok(()),
    }
}

/// Allows so many. `None` if that is allowed already, or if the system refuses: then connections
/// will fail, and that is reported.
pub(crate) fn raise(needed: u64) -> Option<Raised> {
    let (current, maximum) = getrlimit(Resource::NOFILE).ok()?;
    if current >= needed {
        return None;
    }
    setrlimit(Resource::NOFILE, maximum, maximum).is_ok().then_some(Raised { current, maximum })
}

impl Drop for Raised {
    fn drop(&mut self) {
        // A process may always lower its limit.
        let _ = setrlimit(Resource::NOFILE, self.current, self.maximum);
    }
}
