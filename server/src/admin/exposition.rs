//! The figures of a server as Prometheus reads them: its text format, version 0.0.4.

use std::{
    fmt::{self, Display, Write},
    fs,
    time::{Duration, SystemTime},
};

use rlimit::{Resource, getrlimit};
use rustix::{
    param::page_size,
    time::{ClockId, clock_gettime},
};

use super::samples::milliseconds;
use crate::{
    handler::Handler,
    memory::MemoryMetrics,
    roster::Doing,
    server::{Phase, Server},
};

pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Waits are told apart from a microsecond on: `2^10` ns.
const WAIT_BUCKET_FIRST: usize = 9;
/// And up to a minute: `2^36` ns.
const WAIT_BUCKET_LAST: usize = 35;

/// The text under way.
struct Page(String);

impl Page {
    /// Begins a metric.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.line(format_args!("{name} {value}"));
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "counter", help);
        self.line(format_args!("{name} {value}"));
    }

    /// One value of a metric that has several. The label's value is one of ours: no quotes in it.
    fn labelled(&mut self, name: &str, label: &str, of: &str, value: impl Display) {
        self.line(format_args!("{name}{{{label}=\"{of}\"}} {value}"));
    }

    fn line(&mut self, line: fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("a string takes everything");
    }
}

/// Writes all figures.
///
/// The certificate of the server is valid until `valid_until`, if it has one.
pub(super) fn write<H: Handler>(server: &Server<H>, valid_until: Option<SystemTime>) -> String {
    let mut page = Page(String::with_capacity(16 << 10));
    let memory = server.memory_metrics();
    write_memory(&mut page, &memory);
    write_waits(&mut page, &memory);
    write_server(&mut page, server);
    if let Some(valid_until) = valid_until {
        page.gauge(
            "echo_tls_valid_until_seconds",
            "Until when the certificate of the server is valid, in seconds since 1970.",
            milliseconds(valid_until) / 1000,
        );
    }
    write_process(&mut page, server);
    page.0
}

fn write_memory(page: &mut Page, memory: &MemoryMetrics) {
    page.gauge("arena_bytes_reserved", "All bytes of the arena.", memory.bytes_reserved);
    page.gauge("arena_bytes_live", "Bytes of the arena in use.", memory.bytes_live);
    page.gauge(
        "arena_bytes_live_max",
        "The most bytes in use that a look or a refusal has seen.",
        memory.bytes_live_max,
    );
    page.gauge(
        "arena_largest_free_block_bytes",
        "The largest block that could be allocated.",
        memory.largest_free_block,
    );
    page.gauge(
        "arena_stalled_bytes",
        "Bytes of the arena held by connections that wait for their peers.",
        memory.stalled_bytes,
    );
    page.counter("arena_allocations_total", "Blocks that were taken.", memory.allocations_ok);
    page.counter(
        "arena_allocation_failures_total",
        "Blocks that were refused. Whoever was refused waited, or did with less.",
        memory.allocations_failed,
    );
    page.counter("arena_frees_total", "Blocks that came back.", memory.frees);
    page.counter(
        "arena_splits_total",
        "Blocks that were split off larger ones. Zero in fixed mode.",
        memory.splits,
    );
    page.counter(
        "arena_coalesces_total",
        "Blocks that were merged to larger ones. Zero in fixed mode.",
        memory.coalesces,
    );
    page.counter(
        "arena_spills_total",
        "Frames that were put on the heap, because no slot holds them.",
        memory.spills,
    );
    page.gauge(
        "arena_spill_bytes_reserved",
        "Bytes of the heap that such frames may have.",
        memory.spill_bytes_reserved,
    );
    page.gauge(
        "arena_spill_bytes_live",
        "Bytes of the heap that such frames have.",
        memory.spill_bytes_live,
    );
    page.gauge(
        "arena_spill_stalled_bytes",
        "Bytes of the heap held by connections that wait for their peers.",
        memory.spill_stalled_bytes,
    );
}

/// All queues together.
fn write_waits(page: &mut Page, memory: &MemoryMetrics) {
    let waits = &memory.waits;
    let waiters: usize = waits.iter().map(|queue| queue.waiters).sum();
    page.gauge("arena_waiters", "Connections that wait for memory.", waiters);

    let name = "arena_wait_seconds";
    page.family(name, "histogram", "How long connections waited that got memory in the end.");
    let counted_in = |bucket| -> u64 {
        waits.iter().filter_map(|queue| queue.wait_time_buckets.get(bucket)).sum()
    };
    let buckets = waits.iter().map(|queue| queue.wait_time_buckets.len()).max().unwrap_or(0);
    let mut count = 0;
    for bucket in 0..buckets {
        count += counted_in(bucket);
        if (WAIT_BUCKET_FIRST..=WAIT_BUCKET_LAST).contains(&bucket) {
            let seconds = 2_f64.powi(i32::try_from(bucket).unwrap_or(i32::MAX) + 1) / 1e9;
            page.line(format_args!("{name}_bucket{{le=\"{seconds}\"}} {count}"));
        }
    }
    // Its own count: a sum of all buckets is consistent with them, whatever happens meanwhile.
    page.line(format_args!("{name}_bucket{{le=\"+Inf\"}} {count}"));
    let sum: f64 = waits.iter().map(|queue| queue.wait_time.as_secs_f64()).sum();
    page.line(format_args!("{name}_sum {sum}"));
    page.line(format_args!("{name}_count {count}"));

    let exhausted = waits.iter().map(|queue| queue.exhausted_time.as_secs_f64());
    page.counter(
        "arena_exhausted_seconds_total",
        "How long somebody waited for memory, in the queue where that was longest.",
        exhausted.fold(0.0, f64::max),
    );
}

fn write_server<H: Handler>(page: &mut Page, server: &Server<H>) {
    let metrics = server.metrics();
    page.gauge("echo_connections", "Connections.", metrics.connections);
    let limit = server.limits().max_connections;
    page.gauge("echo_connections_limit", "Connections that there may be at once.", limit);
    page.counter(
        "echo_connections_accepted_total",
        "Connections since the start.",
        metrics.accepted,
    );
    let census = server.roster().census(0);
    let name = "echo_connections_by_state";
    page.family(name, "gauge", "Connections by what they wait for.");
    for (doing, (connections, _)) in Doing::ALL.into_iter().zip(census.by_doing) {
        page.labelled(name, "state", doing.name(), connections);
    }
    page.counter("echo_frames_total", "Requests that were handled.", metrics.frames);
    let name = "echo_bytes_total";
    page.family(name, "counter", "Bytes that were read and written, headers included.");
    page.labelled(name, "direction", "in", metrics.bytes_in);
    page.labelled(name, "direction", "out", metrics.bytes_out);
    let name = "echo_rejects_total";
    page.family(name, "counter", "Connections that were closed by the server, by reason.");
    for (reason, count) in metrics.rejects {
        page.labelled(name, "reason", reason.name(), count);
    }
    let is_draining = server.phase() == Phase::Draining;
    page.gauge("echo_draining", "1 while the server ends.", u8::from(is_draining));
}

/// The names that Prometheus clients have for every process.
fn write_process<H: Handler>(page: &mut Page, server: &Server<H>) {
    let cpu = cpu_time();
    page.counter(
        "process_cpu_seconds_total",
        "CPU time of the process, of users and the system.",
        format_args!("{}.{:09}", cpu.as_secs(), cpu.subsec_nanos()),
    );
    if let Some(bytes) = resident_bytes() {
        page.gauge("process_resident_memory_bytes", "Resident memory of the process.", bytes);
    }
    if let Some(count) = open_descriptors() {
        page.gauge("process_open_fds", "File descriptors that are open.", count);
    }
    // Without a limit, the largest number that one could be. Not there if it cannot be read.
    if let Ok((limit, _)) = getrlimit(Resource::NOFILE) {
        page.gauge("process_max_fds", "File descriptors that may be open.", limit);
    }
    let start = milliseconds(server.built());
    page.gauge(
        "process_start_time_seconds",
        "When the server was started, in seconds since 1970.",
        format_args!("{}.{:03}", start / 1000, start % 1000),
    );
}

/// Counts the file descriptors of this process.
fn open_descriptors() -> Option<u64> {
    let folder = "/proc/self/fd";
    match fs::metadata(folder).ok()?.len() {
        // Before Linux 6.2 a folder of descriptors has no size: its entries are counted, one of
        // which is the folder itself.
        0 => Some((fs::read_dir(folder).ok()?.count() as u64).saturating_sub(1)),
        count => Some(count),
    }
}

/// CPU time of this process, of users and the system.
pub(super) fn cpu_time() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap_or_default()
}

pub(super) fn resident_bytes() -> Option<usize> {
    let pages = fs::read_to_string("/proc/self/statm").ok()?;
    let resident: usize = pages.split_whitespace().nth(1)?.parse().ok()?;
    Some(resident * page_size())
}
