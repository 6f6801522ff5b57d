//! Frames of every length come back as they are, in both modes.

use arena_echo::{ArenaKind, Config};
use proptest::{collection::vec, prelude::*, sample::Index};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::yield_now,
    try_join,
};

use crate::support::{
    client::Client,
    in_process::InProcess,
    run,
    traffic::{echo_each_and_all, exceed, frame, frames},
};

const SLOT: usize = 4096;
const READ_BLOCK: usize = 64 << 10;
const LARGEST: usize = 1 << 20;

/// A header, or a part of it, more or less than a block.
fn around(block_bytes: usize) -> impl Iterator<Item = usize> {
    block_bytes - 9..=block_bytes
}

fn fixed() -> Config {
    let arena = ArenaKind::Fixed { slot_bytes: SLOT };
    Config { arena, max_frame_bytes: SLOT, capacity_bytes: 16 * SLOT, ..Config::fixed() }
}

#[test]
fn slots_echo_every_length_up_to_a_slot() {
    run(async {
        let server = InProcess::start(&fixed()).await;
        let lengths: Vec<usize> = [0, 1, 2, 3, 4, 100].into_iter().chain(around(SLOT)).collect();
        echo_each_and_all(server.address, &lengths).await;
        server.stop().await;
    });
}

#[test]
fn blocks_echo_every_length_up_to_the_limit() {
    run(async {
        let server = InProcess::start(&Config::buddy()).await;
        let lengths = [0, 1, 255, 256, 257].into_iter().chain(around(READ_BLOCK));
        let lengths = lengths.chain([READ_BLOCK + 1, 300_000, LARGEST - 1, LARGEST]);
        echo_each_and_all(server.address, &lengths.collect::<Vec<_>>()).await;
        server.stop().await;
    });
}

#[test]
fn blocks_no_larger_than_a_frame_echo_it() {
    run(async {
        let config = Config { max_frame_bytes: 1000, capacity_bytes: 2048, ..Config::buddy() };
        let server = InProcess::start(&config).await;
        echo_each_and_all(server.address, &(980..=1000).collect::<Vec<_>>()).await;
        server.stop().await;
    });
}

#[test]
fn a_frame_longer_than_the_limit_closes_the_connection_after_the_replies_before_it() {
    run(async {
        for config in [fixed(), Config::buddy()] {
            let server = InProcess::start(&config).await;
            exceed(server.address, config.max_frame_bytes).await;
            server.until_no_memory_is_held().await;
            server.stop().await;
        }
    });
}

#[test]
fn many_small_frames_may_be_in_flight() {
    run(async {
        for config in [fixed(), Config::buddy()] {
            let server = InProcess::start(&config).await;
            let mut client = Client::connect(server.address).await;
            client.echo(&frames((0..20_000).map(|number| number * 7 % 300))).await;
            client.close_and_expect_end().await;
            server.stop().await;
        }
    });
}

#[test]
fn frames_may_arrive_byte_by_byte() {
    run(async {
        for config in [fixed(), Config::buddy()] {
            let server = InProcess::start(&config).await;
            let mut client = Client::connect(server.address).await;
            for (seed, length) in [0, 1, 5, 300].into_iter().enumerate() {
                let frame = frame(length, seed);
                for byte in &frame {
                    client.send(&[*byte]).await;
                    yield_now().await;
                }
                client.expect(&frame).await;
            }
            client.close_and_expect_end().await;
            server.stop().await;
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Slots and blocks so small that headers and payloads are cut, moved and taken out all the
    /// time.
    #[test]
    fn cuts_between_writes_do_not_matter(
        lengths in vec(0usize..=64, 1..30),
        cuts in vec(any::<Index>(), 0..30),
    ) {
        run(async {
            let slots = ArenaKind::Fixed { slot_bytes: 64 };
            let small = Config { max_frame_bytes: 64, capacity_bytes: 128, ..Config::fixed() };
            let sent = frames(lengths.clone());
            echo_in_pieces(&Config { arena: slots, ..small }, &sent, &cuts).await;

            let blocks = ArenaKind::Buddy { min_block_bytes: 16 };
            echo_in_pieces(&Config { arena: blocks, ..small }, &frames(lengths), &cuts).await;
        });
    }

    /// Frames on both sides of the read block, so that they move to blocks of their own.
    #[test]
    fn cuts_within_long_frames_do_not_matter(
        lengths in vec(prop_oneof![0usize..100, 65_000usize..66_000, 100_000usize..200_000], 1..6),
        cuts in vec(any::<Index>(), 0..30),
    ) {
        run(async {
            let config = Config { capacity_bytes: 2 << 20, ..Config::buddy() };
            echo_in_pieces(&config, &frames(lengths), &cuts).await;
        });
    }
}

/// Has the bytes echoed by a server of its own, with a write for each piece between two cuts.
async fn echo_in_pieces(config: &Config, bytes: &[u8], cuts: &[Index]) {
    let server = InProcess::start(config).await;
    let mut client = Client::connect(server.address).await;

    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();

    let (mut input, mut output) = client.stream.split();
    let write = async {
        for ends in cuts.windows(2) {
            output.write_all(&bytes[ends[0]..ends[1]]).await?;
            yield_now().await;
        }
        Ok(())
    };
    let mut received = vec![0; bytes.len()];
    let (_, ()) = try_join!(input.read_exact(&mut received), write).expect("all replies");
    assert!(received == bytes, "the echo differs");

    client.close_and_expect_end().await;
    server.stop().await;
}
