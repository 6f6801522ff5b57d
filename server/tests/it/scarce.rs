//! The smallest configurations: everyone is served, one after the other.

use std::time::Duration;

use arena_echo::Config;

use tokio::select;

use crate::support::{
    client::Client,
    in_process::InProcess,
    run,
    traffic::{echo_over_many, frame},
};

/// Nobody stalls here, however slow the machine is.
const LONG: Duration = Duration::from_secs(600);

/// One slot for requests and one for replies: the least that a server accepts.
fn two_slots() -> Config {
    Config { capacity_bytes: 2 * (64 << 10), stall_timeout: LONG, ..Config::fixed() }
}

#[test]
fn two_slots_serve_a_hundred_connections_that_pipeline() {
    run(async {
        let server = InProcess::start(&two_slots()).await;
        let lengths = [[256; 4], [60_000; 4], [65_536; 4], [1; 4]].concat();
        echo_over_many(server.address, 100, &lengths).await;
        server.stop().await;
    });
}

#[test]
fn two_blocks_serve_fifty_connections_with_the_largest_frame() {
    run(async {
        let config = Config { capacity_bytes: 2 << 20, stall_timeout: LONG, ..Config::buddy() };
        let server = InProcess::start(&config).await;
        echo_over_many(server.address, 50, &[1 << 20, 700, 1 << 20]).await;
        server.stop().await;
    });
}

#[test]
fn a_peer_that_always_has_a_frame_begun_lets_others_have_the_slot() {
    run(async {
        let server = InProcess::start(&two_slots()).await;
        let mut greedy = Client::connect(server.address).await;
        let begun_and_rest = frame(1000, 1);
        let (begun, rest) = begun_and_rest.split_at(500);
        greedy.send(begun).await;
        server.until_memory_is_held().await;

        let mut honest = Client::connect(server.address).await;
        let wanted = frame(10, 2);
        let never_pause = async {
            loop {
                greedy.exchange(&[rest, begun].concat(), &begun_and_rest).await;
            }
        };
        select! {
            () = never_pause => {}
            () = honest.echo(&wanted) => {}
        }
        drop((greedy, honest));
        server.stop().await;
    });
}
