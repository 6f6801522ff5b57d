//! What is known of the loaded server: its process, its time, its metrics.

pub(crate) mod command;
pub(crate) mod metrics;
pub(crate) mod probe;
pub(crate) mod watch;
