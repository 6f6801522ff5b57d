//! The real programs against each other, and against clients from here.

use crate::support::{
    program::Program,
    run,
    traffic::{echo_each_and_all, echo_over_many, exceed},
};

/// No deadline that an honest peer could meet.
const UNHURRIED: &str = "--stall-timeout 10m --frame-timeout 10m --write-timeout 10m \
                         --memory-timeout 30m";

#[test]
fn slots_echo_frames_from_nothing_to_a_slot() {
    run(async {
        let server = Program::start("--mode fixed --slot-size 4k --capacity 64k").await;
        echo_each_and_all(server.address, &[0, 1, 4092, 4093, 4095, 4096]).await;
        exceed(server.address, 4096).await;
        server.stop().await;
    });
}

#[test]
fn blocks_echo_frames_from_nothing_to_the_largest() {
    run(async {
        let server = Program::start("--mode buddy").await;
        echo_each_and_all(server.address, &[0, 1, 65_532, 65_533, 65_536, 1 << 20]).await;
        exceed(server.address, 1 << 20).await;
        server.stop().await;
    });
}

#[test]
fn two_slots_serve_a_hundred_connections() {
    run(async {
        let server =
            Program::start(&format!("--mode fixed --slot-size 64k --capacity 128k {UNHURRIED}"))
                .await;
        echo_over_many(server.address, 100, &[256, 65_536, 60_000, 256]).await;
        server.stop().await;
    });
}

#[test]
fn two_blocks_serve_fifty_connections() {
    run(async {
        let server =
            Program::start(&format!("--mode buddy --capacity 2MiB --max-frame 1MiB {UNHURRIED}"))
                .await;
        echo_over_many(server.address, 50, &[1 << 20, 1 << 20]).await;
        server.stop().await;
    });
}
