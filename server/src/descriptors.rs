//! File descriptors: one for each connection and a few to spare, as far as the system allows.

use rlimit::{Resource, getrlimit, setrlimit};
use tracing::{info, warn};

use crate::settings::Settings;

/// For the listeners, the output, the signals, the event queue and those who operate the server.
const SPARE: u64 = 64;

/// Returns how many connections are possible, and how many file descriptors the system allows, if
/// that is known to be too few for the connections of `settings`.
pub(crate) fn shortage(settings: &Settings) -> Option<(usize, u64)> {
    let (current, maximum) = getrlimit(Resource::NOFILE).ok()?;
    let allowed = current.max(maximum.min(wanted(settings)));
    (allowed < needed(settings)).then(|| (possible(allowed), allowed))
}

/// Raises the process's own limit to what the connections of `settings` need, and returns how many
/// the system allows. Says so if that is fewer.
///
/// Then connections beyond it wait to be accepted.
pub(crate) fn raise_limit(settings: &Settings) -> usize {
    let max_connections = settings.config.max_connections;
    let needed = needed(settings);
    let Some(allowed) = raise_to(wanted(settings)) else { return max_connections };
    if allowed >= needed {
        return max_connections;
    }
    let possible = possible(allowed);
    warn!(
        "{possible} connections at once, not the {max_connections} of max-connections: the system \
         allows {allowed} file descriptors, and {SPARE} are kept back; raise `ulimit -n` \
         (LimitNOFILE= in a unit) to {needed}"
    );
    possible
}

/// Descriptors without which there are fewer connections.
fn needed(settings: &Settings) -> u64 {
    (settings.config.max_connections as u64).saturating_add(SPARE)
}

/// When the server stops, it accepts what is in the queues at once, to answer it.
fn wanted(settings: &Settings) -> u64 {
    let queues = settings.listen.len() as u64 * u64::from(settings.backlog);
    needed(settings).saturating_add(queues)
}

/// Connections for which so many descriptors are enough.
fn possible(allowed: u64) -> usize {
    usize::try_from(allowed.saturating_sub(SPARE)).unwrap_or(usize::MAX).max(1)
}

/// Raises the limit to `wanted`, or as far as it goes. Returns the limit, if it is known.
fn raise_to(wanted: u64) -> Option<u64> {
    let (current, maximum) = match getrlimit(Resource::NOFILE) {
        Ok(limits) => limits,
        Err(error) => {
            info!("the limit of file descriptors is unknown, because it cannot be read: {error}");
            return None;
        }
    };
    let possible = maximum.min(wanted);
    if possible <= current || setrlimit(Resource::NOFILE, possible, maximum).is_err() {
        return Some(current);
    }
    Some(possible)
}
