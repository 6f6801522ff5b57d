//! Peers that end or abuse the conversation.

use arena_echo::{Config, Reject};

use crate::support::{
    client::Client,
    in_process::InProcess,
    run,
    traffic::{frame, frames, header},
    until,
};

#[test]
fn after_a_half_close_all_replies_arrive() {
    run(async {
        for config in [Config::fixed(), Config::buddy()] {
            let server = InProcess::start(&config).await;
            let mut client = Client::connect(server.address).await;
            let sent = frames([10, 0, 3000, 60_000, 7, 65_536, 1]);
            client.send(&sent).await;
            client.half_close().await;
            client.expect(&sent).await;
            client.expect_end().await;
            server.stop().await;
        }
    });
}

#[test]
fn a_half_close_inside_a_frame_ends_after_the_replies_before_it() {
    run(async {
        for begun in [1, 4, 5, 50] {
            let server = InProcess::start(&Config::buddy()).await;
            let mut client = Client::connect(server.address).await;
            let whole = frames([10, 20]);
            client.send(&[&whole[..], &frame(100, 3)[..begun]].concat()).await;
            client.half_close().await;
            client.expect(&whole).await;
            client.expect_end().await;
            server.stop().await;
        }
    });
}

#[test]
fn what_follows_a_frame_that_is_too_long_does_not_reset_the_replies_away() {
    run(async {
        let server = InProcess::start(&Config::fixed()).await;
        let mut client = Client::connect(server.address).await;
        let whole = frames([10, 60_000]);
        let mut sent = whole.clone();
        sent.extend(header(0xFFFF_FFFF));
        sent.resize(sent.len() + (64 << 10), 7);
        client.exchange(&sent, &whole).await;
        client.expect_end().await;
        server.stop().await;
    });
}

#[test]
fn who_connects_and_leaves_without_a_word_is_no_failure_however_it_leaves() {
    run(async {
        const PROBES: u64 = 50;
        let server = InProcess::start(&Config::fixed()).await;
        for _ in 0..PROBES {
            Client::connect(server.address).await.reset();
            Client::connect(server.address).await.close_and_expect_end().await;
        }
        until(|| server.metrics().accepted == 2 * PROBES).await;
        server.until_connected(0).await;
        assert_eq!(server.all_rejects(), []);

        let mut client = Client::connect(server.address).await;
        client.send(&frame(100, 1)[..50]).await;
        until(|| server.metrics().bytes_in == 50).await;
        client.reset();
        server.until_rejected(Reject::Failed, 1).await;
        server.stop().await;
    });
}
