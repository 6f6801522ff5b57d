//! Latencies, the noise of the machine, and what samples say.

pub(crate) mod backlog;
pub(crate) mod bootstrap;
pub(crate) mod latency;
pub(crate) mod noise;
