//! The real server under the real load generator, which starts and stops it and checks every byte.

use std::{
    path::PathBuf,
    process::{Command, Output},
    sync::LazyLock,
};

use serde_json::Value;

use crate::{built, support::program};

/// Requests that each run measures.
const REQUESTS: u64 = 2000;

/// The generator's program, built as this test is.
pub(crate) static LOADGEN: LazyLock<PathBuf> = LazyLock::new(|| built::program("loadgen"));

const FIXED: &str = "--mode fixed --slot-size 4k --capacity 256k";
const BUDDY: &str = "--mode buddy --capacity 4MiB --max-frame 256k";

/// Loads a server with these flags with payloads of one size. The report is empty if there was
/// none.
fn load(server: &str, payload_bytes: usize) -> (Output, Value) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let report = folder.path().join("run.json");
    let mut command = Command::new(&*LOADGEN);
    command.args(["-c", "4", "-p", "8", "-n", &REQUESTS.to_string(), "--plain", "-s"]);
    command.arg(payload_bytes.to_string()).arg("-o").arg(&report);
    command.arg("--").arg(program::PATH).args(["--listen", "127.0.0.1:0"]);
    let output = command.args(server.split_whitespace()).output().expect("loadgen runs");
    let text = std::fs::read_to_string(report).unwrap_or_default();
    (output, serde_json::from_str(&text).unwrap_or_default())
}

#[track_caller]
fn echoes_everything(server: &str, payload_bytes: usize) {
    let (output, report) = load(server, payload_bytes);
    assert_eq!(output.status.code(), Some(0), "{payload_bytes} bytes: {output:#?}");
    assert_eq!(report["requests"], REQUESTS);
    for failure in ["errors", "mismatches", "unanswered"] {
        assert_eq!(report[failure], 0, "{failure} with {payload_bytes} bytes");
    }
    assert!(report["server"]["rss_peak_bytes"].as_u64() > Some(0), "{report:#}");
}

#[track_caller]
fn rejects(server: &str, payload_bytes: usize) {
    let (output, report) = load(server, payload_bytes);
    assert_eq!(output.status.code(), Some(1), "{payload_bytes} bytes: {output:#?}");
    assert_eq!(report["requests"], 0, "{report:#}");
}

#[test]
fn slots_echo_nothing_a_byte_and_a_slot_under_load() {
    for payload_bytes in [0, 1, 4096] {
        echoes_everything(FIXED, payload_bytes);
    }
}

#[test]
fn blocks_echo_nothing_a_byte_a_read_block_and_the_largest_frame_under_load() {
    for payload_bytes in [0, 1, 64 << 10, 256 << 10] {
        echoes_everything(BUDDY, payload_bytes);
    }
}

#[test]
fn a_byte_more_than_a_slot_is_rejected() {
    rejects(FIXED, 4097);
}

#[test]
fn a_byte_more_than_the_largest_frame_is_rejected() {
    rejects(BUDDY, (256 << 10) + 1);
}
