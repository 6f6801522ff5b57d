//! More connections than there is room for.

use std::io;

use arena_echo::Config;
use tokio::process::Command;

use crate::support::{
    client::Client,
    in_process::InProcess,
    program::{self, Program},
    run,
    traffic::frame,
};

#[test]
fn a_connection_beyond_the_limit_is_served_when_another_ends() {
    run(async {
        let server = InProcess::start(&Config { max_connections: 1, ..Config::buddy() }).await;
        let mut first = Client::connect(server.address).await;
        first.echo(&frame(10, 1)).await;

        let mut second = Client::connect(server.address).await;
        let waiting = frame(10, 2);
        second.send(&waiting).await;
        for seed in 0..100 {
            first.echo(&frame(10, seed)).await;
        }
        let early = second.stream.try_read(&mut [0; 1]).map_err(|error| error.kind());
        assert_eq!(early, Err(io::ErrorKind::WouldBlock), "served beyond the limit");

        first.close_and_expect_end().await;
        second.expect(&waiting).await;
        second.close_and_expect_end().await;
        server.stop().await;
    });
}

#[test]
fn without_descriptors_connections_wait_and_the_server_pauses_longer_each_time() {
    run(async {
        let mut command = Command::new("sh");
        command.args(["-c", r#"ulimit -n 32 && exec "$0" "$@""#, program::PATH]);
        let mut server = Program::start_as(command).await;
        let mut clients = Vec::new();
        for seed in 0..40 {
            let mut client = Client::connect(server.address).await;
            client.send(&frame(10, seed)).await;
            clients.push(client);
        }
        server.until_logged("cannot accept, trying again in 10ms").await;
        server.until_logged("cannot accept, trying again in 80ms").await;
        for (seed, mut client) in clients.into_iter().enumerate() {
            client.expect(&frame(10, seed)).await;
            client.close_and_expect_end().await;
        }
        server.stop().await;
    });
}
