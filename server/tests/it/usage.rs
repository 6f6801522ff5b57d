//! The command line: what cannot work is refused with everything to change.

use std::process::Output;

use serde_json::Value;
use tokio::process::Command;

use crate::support::{program, run};

/// Runs the program to its end. One that serves instead is killed when the test gives up.
fn outcome(flags: &str) -> Output {
    run(async {
        let mut command = Command::new(program::PATH);
        command.args(flags.split_whitespace()).kill_on_drop(true);
        command.output().await.expect("the program starts")
    })
}

fn refused(flags: &str) -> String {
    let Output { status, stdout, stderr } = outcome(flags);
    assert_eq!(status.code(), Some(2), "{flags}");
    assert!(stdout.is_empty(), "{flags}: it must not say that it listens");
    String::from_utf8(stderr).expect("text")
}

#[test]
fn every_error_is_reported_at_once_with_its_flag_and_value() {
    let errors = refused("--mode slab --capacity lots --max-connections 0 --frame-timeout soon");
    let expected =
        ["--mode 'slab'", "--capacity 'lots'", "--max-connections 0", "--frame-timeout 'soon'"];
    for text in expected {
        assert!(errors.contains(text), "{text} is missing:\n{errors}");
    }
    assert_eq!(errors.lines().count(), expected.len(), "{errors}");
}

#[test]
fn errors_are_json_where_the_log_is() {
    let output = outcome("--log-format json --capacity 3MiB --drain-timeout 1ns");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).expect("text");
    let lines = said.lines().map(|line| serde_json::from_str::<Value>(line).expect(line));
    let expected = [
        "--capacity 3MiB: buddy mode needs a power of two; set it to 2MiB or 4MiB",
        "--drain-timeout 1ns: set it to 0s, or to at least 1ms",
    ];
    for (line, expected) in lines.zip(expected) {
        assert_eq!(
            (&line["level"], &line["fields"]["message"]),
            (&"ERROR".into(), &expected.into())
        );
    }
    assert_eq!(said.lines().count(), expected.len());
    // To check is not to log.
    assert!(refused("config --log-format json --capacity 3MiB").starts_with("error: --capacity"));
}

#[test]
fn a_capacity_without_progress_is_refused_with_one_that_works() {
    let errors = refused("--capacity 1MiB --max-frame 1MiB");
    assert!(errors.contains("set --capacity to at least 2MiB"), "{errors}");
}

#[test]
fn a_frame_larger_than_a_slot_is_refused() {
    let errors = refused("--mode fixed --slot-size 4k --max-frame 8k");
    assert!(errors.contains("set --max-frame to at most 4KiB"), "{errors}");
}

#[test]
fn memory_that_the_system_refuses_is_a_configuration_to_change() {
    let errors = refused("--capacity 4EiB --min-block 4GiB");
    assert!(errors.contains("--capacity"), "{errors}");
}

#[test]
fn an_unknown_flag_is_refused() {
    assert!(refused("--colour").contains("--colour"));
}

#[test]
fn unknown_and_repeated_flags_are_reported_with_everything_else() {
    let errors = refused("--colour red --capacity 3MiB --backlog 0 --threads 1 --threads 2");
    let expected = ["--colour:", "--backlog '0':", "--threads '2':", "--capacity 3MiB:"];
    for (line, expected) in errors.lines().zip(expected) {
        assert!(line.starts_with(&format!("error: {expected}")), "{errors}");
    }
    assert_eq!(errors.lines().count(), expected.len(), "{errors}");
}

#[test]
fn an_address_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("a listener that is bound").to_string();
    for (filter, level) in [("info", "ERROR "), ("off", "error: ")] {
        let Output { status, stderr, .. } =
            outcome(&format!("--listen {address} --log-filter {filter}"));
        assert_eq!(status.code(), Some(1));
        let errors = String::from_utf8(stderr).expect("text");
        assert!(errors.contains(&format!("{level}--listen {address}: ")), "{errors}");
    }
}
