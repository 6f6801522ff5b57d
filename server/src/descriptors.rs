//! File descriptors: one for each connection and a few to spare, as far as the system allows.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

use crate::settings::Settings;

/// For the listeners, the output, the signals, the event queue and those who operate the server.
const SPARE: u64 = 64;

/// Raises the process's own limit to what the connections of `settings` need, and returns how many
/// the system allows. Says so if that is fewer.
///
/// Then connections beyond it wait to be accepted.
pub(crate) fn raise_limit(settings: &Settings) -> usize {
    let max_connections = settings.config.max_connections;
    let needed = (max_connections as u64).saturating_add(SPARE);
    // When the server stops, it accepts what is in the queues at once, to answer it.
    let queues = settings.listen.len() as u64 * u64::from(settings.backlog);
    let Some(allowed) = raise_to(needed.saturating_add(queues)) else { return max_connections };
    if allowed >= needed {
        return max_connections;
    }
    let possible = usize::try_from(allowed.saturating_sub(SPARE)).unwrap_or(usize::MAX).max(1);
    warn!(
        "{possible} connections at once, not the {max_connections} of max-connections: the system \
         allows {allowed} file descriptors, and {SPARE} are kept back; raise `ulimit -n` \
         (LimitNOFILE= in a unit) to {needed}"
    );
    possible
}

/// Raises the limit to `wanted`, or as far as it goes. Returns the limit, if there is one.
fn raise_to(wanted: u64) -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let current = current?;
    let possible = maximum.map_or(wanted, |maximum| maximum.min(wanted));
    if possible <= current {
        return Some(current);
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(possible), maximum }) {
        Ok(()) => Some(possible),
        Err(_) => Some(current),
    }
}
