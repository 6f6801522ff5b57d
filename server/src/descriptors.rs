//! File descriptors: one for each connection and a few to spare, as far as the system allows.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// For the listener, the output, the signals and the event queue.
const SPARE: u64 = 64;

/// Raises the process's own limit to what `max_connections` need, and says so if it stays below.
///
/// Then connections beyond it wait to be accepted.
pub(crate) fn raise_limit(max_connections: usize) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = (max_connections as u64).saturating_add(SPARE);
    if current.is_none_or(|current| current >= wanted) {
        return;
    }
    let allowed = maximum.map_or(wanted, |maximum| maximum.min(wanted));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(allowed), maximum });
    if raised.is_err() || allowed < wanted {
        warn!(
            "--max-connections {max_connections}: the system allows fewer file descriptors than \
             the {wanted} that these need; raise `ulimit -n` or lower the flag"
        );
    }
}
