//! `Samples`: the figures of the last minutes, one row a second, so that a page has a past when it
//! is opened.

use std::{
    collections::VecDeque,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{memory::MemoryMetrics, stats::ServerMetrics};

/// Ten minutes of seconds.
const SAMPLES_MAX: usize = 600;

/// The names of the numbers of a row, in their order.
pub(super) const COLUMNS: [&str; 11] = [
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
];

/// What was at one moment. Frames, bytes and spills are counted since the start.
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

pub(super) fn row(memory: &MemoryMetrics, server: &ServerMetrics) -> Row {
    let waiters: usize = memory.waits.iter().map(|queue| queue.waiters).sum();
    [
        milliseconds(SystemTime::now()),
        server.frames,
        server.bytes_in,
        server.bytes_out,
        memory.bytes_live as u64,
        memory.largest_free_block as u64,
        waiters as u64,
        memory.spills,
        memory.spill_bytes_live as u64,
        memory.stalled_bytes as u64,
        server.connections as u64,
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
