//! Who waits for its peer between frames holds no memory.

use arena_echo::Config;

use crate::support::{
    client::Client,
    in_process::InProcess,
    run,
    traffic::{frame, header},
};

#[test]
fn idle_connections_hold_no_memory() {
    run(async {
        let server = InProcess::start(&Config::buddy()).await;
        let mut clients = Vec::new();
        for seed in 0..100 {
            let mut client = Client::connect(server.address).await;
            client.echo(&frame(1000, seed)).await;
            clients.push(client);
        }
        server.until_no_memory_is_held().await;
        drop(clients);
        server.stop().await;
    });
}

#[test]
fn a_header_without_payload_holds_no_memory() {
    run(async {
        for header_bytes in 1..=4 {
            let server = InProcess::start(&Config::fixed()).await;
            let mut client = Client::connect(server.address).await;

            // The reply shows that the part of the next header behind it was read as well.
            let (first, next) = (frame(10, 1), frame(20, 2));
            let (begun, rest) = next.split_at(header_bytes);
            client.exchange(&[&first[..], begun].concat(), &first).await;
            server.until_no_memory_is_held().await;

            client.exchange(rest, &next).await;
            client.close_and_expect_end().await;
            server.stop().await;
        }
    });
}

#[test]
fn a_reset_inside_a_frame_returns_the_memory() {
    run(async {
        for (config, length) in [(Config::fixed(), 60_000), (Config::buddy(), 1 << 20)] {
            let server = InProcess::start(&config).await;
            let mut client = Client::connect(server.address).await;
            client.send(&header(length)).await;
            client.send(&[7; 1000]).await;
            server.until_memory_is_held().await;

            client.reset();
            server.until_no_memory_is_held().await;
            server.stop().await;
        }
    });
}
