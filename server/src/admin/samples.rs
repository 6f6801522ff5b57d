//! `Samples`: the figures of the last minutes, one row a second, so that a page has a past when it
//! is opened.

use std::{
    collections::VecDeque,
    time::{SystemTime, UNIX_EPOCH},
};

use super::exposition::cpu_time;
use crate::{handler::Handler, memory::MemoryMetrics, server::Server};

/// Ten minutes of seconds.
const SAMPLES_MAX: usize = 600;

/// The names of the numbers of a row, in their order.
pub(super) const COLUMNS: [&str; 18] = [
    "time_ms",
    "frames",
    "bytes_in",
    "bytes_out",
    "live",
    "largest_free",
    "waiters",
    "spills",
    "spill_live",
    "stalled",
    "connections",
    "live_max",
    "blocks",
    "cpu_ms",
    "idle_ms",
    "reading_ms",
    "waiting_for_memory_ms",
    "writing_ms",
];

/// What was at one moment, and how much memory was in use at most since the row before. Frames,
/// bytes, spills and blocks are counted since the start, and so are the times: of the process, and
/// of what connections did.
pub(super) type Row = [u64; COLUMNS.len()];

/// The last rows, oldest first.
#[derive(Debug, Default)]
pub(super) struct Samples {
    rows: VecDeque<Row>,
}

impl Samples {
    pub(super) fn push(&mut self, row: Row) {
        if self.rows.len() == SAMPLES_MAX {
            self.rows.pop_front();
        }
        self.rows.push_back(row);
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter()
    }
}

/// Takes the figures. So much memory was in use at most, that of these figures included.
pub(super) fn row<H: Handler>(server: &Server<H>, memory: &MemoryMetrics, live_max: usize) -> Row {
    let waiters: usize = memory.waits.iter().map(|queue| queue.waiters).sum();
    let metrics = server.metrics();
    let [idle_ms, reading_ms, waiting_ms, writing_ms] = server.roster().spent_ms();
    [
        milliseconds(SystemTime::now()),
        metrics.frames,
        metrics.bytes_in,
        metrics.bytes_out,
        memory.bytes_live as u64,
        memory.largest_free_block as u64,
        waiters as u64,
        memory.spills,
        memory.spill_bytes_live as u64,
        memory.stalled_bytes as u64,
        metrics.connections as u64,
        live_max as u64,
        memory.allocations_ok,
        u64::try_from(cpu_time().as_millis()).unwrap_or(u64::MAX),
        idle_ms,
        reading_ms,
        waiting_ms,
        writing_ms,
    ]
}

/// Milliseconds since 1970.
pub(super) fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roster::Doing;

    #[test]
    fn times_are_in_the_order_of_what_connections_do() {
        let names = Doing::ALL.map(|doing| format!("{}_ms", doing.name()));
        assert_eq!(COLUMNS[COLUMNS.len() - names.len()..], names);
    }

    #[test]
    fn only_the_last_rows_are_kept() {
        let mut samples = Samples::default();
        for number in 0..2 * SAMPLES_MAX as u64 {
            samples.push([number; COLUMNS.len()]);
        }
        let firsts: Vec<_> = samples.rows().map(|row| row[0]).collect();
        assert_eq!(firsts.len(), SAMPLES_MAX);
        assert_eq!((firsts[0], firsts[firsts.len() - 1]), (600, 1199));
    }
}
