//! The transports and the codec beside tokio-util's `LengthDelimitedCodec`: the same bytes, cut
//! anywhere, give the same frames and the same end, and the same payloads the same bytes.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    io,
    num::NonZeroUsize,
    pin::pin,
    task::Poll,
    time::Duration,
};

use arena::Frozen;
use arena_echo::{
    ArenaCodec, ArenaFramed, CodecError, Exhaustion, FrameError, Memory, Probe, Timeouts,
};
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, Stream, StreamExt, future::join_all};
use proptest::{collection::vec, prelude::*, sample::Index};
use tokio::{runtime, task::yield_now, time::timeout};
use tokio_util::codec::{Encoder, FramedRead, LengthDelimitedCodec};

use crate::support::{
    script::{Script, Writes},
    traffic::{frame, header},
};

/// Longer than any case takes that does not hang.
const HUNG: Duration = Duration::from_secs(30);

/// How a stream of frames ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    Clean,
    TooLong,
    Truncated,
    NoMemory,
    Other,
}

/// What is read: payloads, and how it ends.
type Outcome = (Vec<Vec<u8>>, End);

/// Memory of every shape: the smallest that is accepted, with and without growth.
#[derive(Clone, Copy, Debug)]
enum Shape {
    TwoSmallestSlots,
    TwoSlots,
    EightSlots,
    TwoSmallestBlocks,
    TwoBlocks,
    FourBlocks,
    ManyBlocks,
}

impl Shape {
    fn memory(self) -> Memory {
        let memory = match self {
            Self::TwoSmallestSlots => Memory::fixed(2, 64),
            Self::TwoSlots => Memory::fixed(2, 1024),
            Self::EightSlots => Memory::fixed(8, 1024),
            Self::TwoSmallestBlocks => Memory::buddy(128, 16, 64),
            Self::TwoBlocks => Memory::buddy(2048, 16, 1024),
            Self::FourBlocks => Memory::buddy(4096, 64, 1000),
            Self::ManyBlocks => Memory::buddy(64 << 10, 64, 2000),
        };
        memory.expect("sizes that work")
    }
}

fn shape() -> impl Strategy<Value = Shape> {
    prop_oneof![
        Just(Shape::TwoSmallestSlots),
        Just(Shape::TwoSlots),
        Just(Shape::EightSlots),
        Just(Shape::TwoSmallestBlocks),
        Just(Shape::TwoBlocks),
        Just(Shape::FourBlocks),
        Just(Shape::ManyBlocks),
    ]
}

/// A part of what a peer sends. Lengths are relative to the longest payload.
#[derive(Clone, Debug)]
enum Part {
    Short(usize),
    Long { below_the_limit: usize },
    Oversize { above_the_limit: u32 },
    Begun { payload_bytes: Index, sent_bytes: Index },
    Noise(Vec<u8>),
}

impl Part {
    fn bytes(&self, limit: usize, seed: usize) -> Vec<u8> {
        match self {
            Self::Short(length) => frame((*length).min(limit), seed),
            Self::Long { below_the_limit } => frame(limit.saturating_sub(*below_the_limit), seed),
            Self::Oversize { above_the_limit } => {
                let length = u32::try_from(limit).expect("a small limit");
                length.saturating_add(*above_the_limit).to_be_bytes().to_vec()
            }
            Self::Begun { payload_bytes, sent_bytes } => {
                let whole = frame(payload_bytes.index(limit + 1), seed);
                whole[..sent_bytes.index(whole.len())].to_vec()
            }
            Self::Noise(bytes) => bytes.clone(),
        }
    }
}

/// Mostly valid frames, and then perhaps something else.
fn parts() -> impl Strategy<Value = Vec<Part>> {
    let good = prop_oneof![
        4 => (0usize..40).prop_map(Part::Short),
        2 => (0usize..400).prop_map(Part::Short),
        2 => (0usize..8).prop_map(|below_the_limit| Part::Long { below_the_limit }),
    ];
    let last = prop_oneof![
        3 => Just(None),
        1 => prop_oneof![Just(1), 1u32..100, Just(u32::MAX)]
            .prop_map(|above_the_limit| Some(Part::Oversize { above_the_limit })),
        2 => (any::<Index>(), any::<Index>()).prop_map(|(payload_bytes, sent_bytes)| {
            Some(Part::Begun { payload_bytes, sent_bytes })
        }),
        1 => vec(prop_oneof![2 => Just(0u8), 1 => any::<u8>()], 0..60)
            .prop_map(|bytes| Some(Part::Noise(bytes))),
    ];
    let more = vec((0usize..40).prop_map(Part::Short), 0..3);
    (vec(good, 0..25), last, more)
        .prop_map(|(good, last, more)| good.into_iter().chain(last).chain(more).collect())
}

/// A peer: what it sends, and in which pieces.
#[derive(Clone, Debug)]
struct Peer {
    parts: Vec<Part>,
    cuts: Vec<Index>,
}

impl Peer {
    fn bytes(&self, limit: usize) -> Vec<u8> {
        self.parts.iter().enumerate().flat_map(|(seed, part)| part.bytes(limit, seed)).collect()
    }

    fn script(&self, limit: usize, writes: Writes) -> Script {
        let bytes = self.bytes(limit);
        let cuts = self.cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        Script::new(&bytes, cuts, writes)
    }
}

fn peer() -> impl Strategy<Value = Peer> {
    (parts(), vec(any::<Index>(), 0..40)).prop_map(|(parts, cuts)| Peer { parts, cuts })
}

fn writes() -> impl Strategy<Value = Writes> {
    let take = prop_oneof![1 => Just(0usize), 2 => 1usize..10, 2 => 1usize..2000];
    // At the end one that takes something, so that it never pauses for ever.
    (vec(take, 0..10), 1usize..3000, any::<bool>()).prop_map(|(mut takes, last, is_vectored)| {
        takes.push(last);
        Writes { takes, is_vectored, next: 0 }
    })
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let case = async { timeout(HUNG, test).await.expect("the case hangs") };
    runtime.expect("a runtime").block_on(case)
}

fn reference(limit: usize) -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().max_frame_length(limit).new_codec()
}

/// Reads with the codec that everybody has.
async fn expected(bytes: &[u8], limit: usize) -> Outcome {
    let mut frames = FramedRead::new(bytes, reference(limit));
    let mut payloads = Vec::new();
    let end = loop {
        match frames.next().await {
            Some(Ok(payload)) => payloads.push(payload.to_vec()),
            Some(Err(error)) if error.kind() == io::ErrorKind::InvalidData => break End::TooLong,
            Some(Err(error)) if error.to_string() == "bytes remaining on stream" => {
                break End::Truncated;
            }
            Some(Err(_)) => break End::Other,
            // It takes the end behind a whole header for a clean one, whatever that announces.
            None if bytes_of(&payloads) < bytes.len() => break End::Truncated,
            None => break End::Clean,
        }
    };
    (payloads, end)
}

/// How many bytes the payloads are as frames.
fn bytes_of(payloads: &[Vec<u8>]) -> usize {
    payloads.iter().map(|payload| header(payload.len()).len() + payload.len()).sum()
}

impl From<FrameError> for End {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::TooLong { .. } => Self::TooLong,
            FrameError::UnexpectedEnd => Self::Truncated,
            FrameError::MemoryTimeout(_) => Self::NoMemory,
            _ => Self::Other,
        }
    }
}

impl From<CodecError> for End {
    fn from(error: CodecError) -> Self {
        match error {
            CodecError::Frame(error) => error.into(),
            _ => Self::Other,
        }
    }
}

/// Reads to the end, and keeps the last `kept` frames to see whether they change.
async fn read_all<E: Into<End>>(
    frames: &mut (impl Stream<Item = Result<Frozen, E>> + Unpin),
    kept: usize,
) -> Outcome {
    let mut payloads = Vec::new();
    let mut held: VecDeque<(usize, Frozen)> = VecDeque::new();
    let end = loop {
        match frames.next().await {
            Some(Ok(payload)) => {
                payloads.push(payload.to_vec());
                held.push_back((payloads.len() - 1, payload));
                if held.len() > kept {
                    held.pop_front();
                }
            }
            Some(Err(error)) => break error.into(),
            None => break End::Clean,
        }
        for (number, payload) in &held {
            assert!(payload[..] == payloads[*number], "a frame changed while it was held");
        }
    };
    assert!(frames.next().await.is_none(), "something follows the end");
    (payloads, end)
}

/// A future that is dropped after so many polls, and made anew, until it is done.
macro_rules! cancelled_again_and_again {
    ($polls:expr, $future:expr) => {
        loop {
            let mut left = $polls.next().expect("an endless iterator");
            let mut future = pin!($future);
            let outcome = poll_fn(|context| match future.as_mut().poll(context) {
                Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
                Poll::Pending if left == 0 => Poll::Ready(None),
                Poll::Pending => {
                    left -= 1;
                    Poll::Pending
                }
            });
            if let Some(outcome) = outcome.await {
                break outcome;
            }
            yield_now().await;
        }
    };
}

fn assert_same(actual: &Outcome, expected: &Outcome) -> Result<(), TestCaseError> {
    let lengths = |outcome: &Outcome| outcome.0.iter().map(Vec::len).collect::<Vec<_>>();
    prop_assert_eq!(lengths(actual), lengths(expected));
    prop_assert_eq!(actual.1, expected.1);
    prop_assert!(actual.0 == expected.0, "the payloads differ");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Several readers at once, so that they also wait for each other's memory.
    #[test]
    fn readers_yield_what_the_codec_yields(shape in shape(), peers in vec(peer(), 1..5)) {
        run(async {
            let memory = shape.memory();
            let limit = memory.plan().max_frame_bytes();
            let read = |peer: &Peer| {
                let input = Probe::new(peer.script(limit, Writes::all()));
                let mut frames = ArenaFramed::builder().new_read(input, &memory);
                async move { read_all(&mut frames, 0).await }
            };
            let outcomes = join_all(peers.iter().map(read)).await;
            for (peer, outcome) in peers.iter().zip(&outcomes) {
                assert_same(outcome, &expected(&peer.bytes(limit), limit).await)?;
            }
            prop_assert_eq!(memory.metrics().bytes_live, 0);
            Ok(())
        })?;
    }

    /// The same for both directions: frames go back as they came, while others do the same.
    #[test]
    fn framed_transports_echo_what_the_codec_yields(
        shape in shape(),
        peers in vec((peer(), writes()), 1..4),
    ) {
        run(async {
            let memory = shape.memory();
            let limit = memory.plan().max_frame_bytes();
            let echo = |(peer, writes): &(Peer, Writes)| {
                let script = peer.script(limit, writes.clone());
                let written = script.written();
                let mut frames = ArenaFramed::builder().new_framed(Probe::new(script), &memory);
                async move {
                    let mut payloads = Vec::new();
                    let end = loop {
                        match frames.next().await {
                            Some(Ok(payload)) => {
                                payloads.push(payload.to_vec());
                                frames.feed(payload).await.expect("a script fails no write");
                            }
                            Some(Err(error)) => break error.into(),
                            None => break End::Clean,
                        }
                    };
                    frames.close().await.expect("a script fails no write");
                    drop(frames);
                    let written = written.lock().expect("nobody panics with it").clone();
                    ((payloads, end), written)
                }
            };
            let outcomes = join_all(peers.iter().map(echo)).await;
            for ((peer, _), (outcome, written)) in peers.iter().zip(outcomes) {
                let expected = expected(&peer.bytes(limit), limit).await;
                assert_same(&outcome, &expected)?;
                prop_assert!(written == encoded(&expected.0), "the echo differs");
            }
            prop_assert_eq!(memory.metrics().bytes_live, 0);
            Ok(())
        })?;
    }

    #[test]
    fn the_arena_codec_yields_what_the_codec_yields(
        peer in peer(),
        limit in prop_oneof![Just(64usize), Just(1000)],
        is_fixed: bool,
        spills: bool,
    ) {
        run(async {
            let nz = |bytes| NonZeroUsize::new(bytes).expect("a size");
            // Where frames may spill there is room for two of them, else for all that can be kept.
            let (count, exhaustion) = match spills {
                true => (2, Exhaustion::Spill),
                false => (16, Exhaustion::Error),
            };
            let block = limit.next_power_of_two();
            let script = peer.script(limit, Writes::all());
            let (outcome, live_bytes) = if is_fixed {
                let arena = arena::FixedArena::builder(nz(count), nz(block)).build().unwrap();
                let codec = ArenaCodec::new(arena.clone(), limit, exhaustion);
                let outcome = read_all(&mut FramedRead::new(script, codec), 4).await;
                (outcome, arena.metrics().bytes_live)
            } else {
                let arena = arena::BuddyArena::builder(nz(count * block), nz(32)).build().unwrap();
                let codec = ArenaCodec::new(arena.clone(), limit, exhaustion);
                let outcome = read_all(&mut FramedRead::new(script, codec), 4).await;
                (outcome, arena.metrics().bytes_live)
            };
            assert_same(&outcome, &expected(&peer.bytes(limit), limit).await)?;
            prop_assert_eq!(live_bytes, 0);
            Ok(())
        })?;
    }

    #[test]
    fn frames_that_are_kept_do_not_change(peer in peer(), kept in 1usize..6) {
        run(async {
            let memory = Memory::buddy(64 << 10, 64, 2000).expect("sizes that work");
            let limit = memory.plan().max_frame_bytes();
            let input = Probe::new(peer.script(limit, Writes::all()));
            let mut frames = ArenaFramed::builder().new_read(input, &memory);
            let outcome = read_all(&mut frames, kept).await;
            assert_same(&outcome, &expected(&peer.bytes(limit), limit).await)?;
            prop_assert_eq!(memory.metrics().bytes_live, 0);
            Ok(())
        })?;
    }

    /// Who keeps what others need waits for himself; that ends at the timeout, whatever is kept.
    #[test]
    fn who_keeps_frames_that_fill_the_memory_is_told_after_the_memory_timeout(
        shape in shape(),
        peer in peer(),
        kept in 1usize..6,
    ) {
        run(async {
            let memory = shape.memory();
            let limit = memory.plan().max_frame_bytes();
            let input = Probe::new(peer.script(limit, Writes::all()));
            let timeouts =
                Timeouts { memory: Some(Duration::from_millis(2)), ..Timeouts::default() };
            let mut frames = ArenaFramed::builder().timeouts(timeouts).new_read(input, &memory);
            let outcome = read_all(&mut frames, kept).await;
            let expected = expected(&peer.bytes(limit), limit).await;
            if outcome.1 == End::NoMemory {
                prop_assert!(expected.0.starts_with(&outcome.0), "the payloads differ");
            } else {
                assert_same(&outcome, &expected)?;
            }
            drop(frames);
            prop_assert_eq!(memory.metrics().bytes_live, 0);
            Ok(())
        })?;
    }

    /// Futures of `next`, `send` and `flush` are dropped after any number of polls.
    #[test]
    fn cancelled_calls_lose_nothing_and_write_nothing_twice(
        shape in shape(),
        peers in vec((peer(), writes(), vec(0usize..3, 1..20)), 1..4),
    ) {
        run(async {
            let memory = shape.memory();
            let limit = memory.plan().max_frame_bytes();
            let echo = |(peer, writes, polls): &(Peer, Writes, Vec<usize>)| {
                let script = peer.script(limit, writes.clone());
                let written = script.written();
                let mut frames = ArenaFramed::builder().new_framed(Probe::new(script), &memory);
                let mut polls = polls.clone().into_iter().cycle();
                async move {
                    let mut payloads = Vec::new();
                    let end = loop {
                        match cancelled_again_and_again!(polls, frames.next()) {
                            Some(Ok(payload)) => {
                                payloads.push(payload.to_vec());
                                cancelled_again_and_again!(polls, frames.send(payload.clone()))
                                    .expect("a script fails no write");
                                drop(payload);
                                if payloads.len() % 3 == 0 {
                                    cancelled_again_and_again!(polls, frames.flush())
                                        .expect("a script fails no write");
                                }
                            }
                            Some(Err(error)) => break error.into(),
                            None => break End::Clean,
                        }
                    };
                    cancelled_again_and_again!(polls, frames.flush()).expect("a script");
                    drop(frames);
                    let written = written.lock().expect("nobody panics with it").clone();
                    ((payloads, end), written)
                }
            };
            let outcomes = join_all(peers.iter().map(echo)).await;
            for ((peer, ..), (outcome, written)) in peers.iter().zip(outcomes) {
                let expected = expected(&peer.bytes(limit), limit).await;
                assert_same(&outcome, &expected)?;
                prop_assert!(written == encoded(&expected.0), "the echo differs");
            }
            prop_assert_eq!(memory.metrics().bytes_live, 0);
            Ok(())
        })?;
    }

    #[test]
    fn what_is_sent_is_what_the_codec_writes(
        shape in shape(),
        payloads in vec((prop_oneof![0usize..100, 0usize..3000], 0u8..4, any::<bool>()), 0..30),
        writes in writes(),
        joins: bool,
    ) {
        run(async {
            let memory = shape.memory();
            let limit = memory.plan().max_frame_bytes();
            let script = Script::new(&[], Vec::new(), writes);
            let written = script.written();
            let payloads: Vec<_> = payloads
                .into_iter()
                .enumerate()
                .map(|(seed, (bytes, step, is_shared))| {
                    let bytes = Bytes::from(frame(bytes.min(limit), seed).split_off(4));
                    (Payload { bytes, is_shared }, step)
                })
                .collect();
            let expected: Vec<_> =
                payloads.iter().map(|(payload, _)| payload.bytes.to_vec()).collect();
            if joins {
                let mut sink = ArenaFramed::builder().new_framed(Probe::new(script), &memory);
                for (payload, step) in payloads {
                    match step {
                        0 => SinkExt::send(&mut sink, payload).await,
                        1 => sink.send(payload).await,
                        2 => sink.feed(payload).await,
                        _ => {
                            sink.feed(payload).await.expect("a script fails no write");
                            sink.flush().await
                        }
                    }
                    .expect("a script fails no write");
                }
                sink.close().await.expect("a script fails no write");
            } else {
                let mut sink = ArenaFramed::builder().new_write(script, &memory);
                for (payload, step) in payloads {
                    match step {
                        0 => SinkExt::send(&mut sink, payload).await,
                        1 => sink.send(payload).await,
                        2 => sink.feed(payload).await,
                        _ => {
                            sink.feed(payload).await.expect("a script fails no write");
                            sink.flush().await
                        }
                    }
                    .expect("a script fails no write");
                }
                sink.close().await.expect("a script fails no write");
            }
            let written = written.lock().expect("nobody panics with it").clone();
            prop_assert!(written == encoded(&expected), "what was written differs");
            prop_assert_eq!(memory.metrics().bytes_live, 0);
            Ok(())
        })?;
    }
}

/// A payload that somebody else has as well, or not.
#[derive(Clone, Debug)]
struct Payload {
    bytes: Bytes,
    is_shared: bool,
}

impl From<Payload> for Frozen {
    fn from(payload: Payload) -> Self {
        if payload.is_shared {
            return Self::from(payload.bytes);
        }
        Self::from(Bytes::copy_from_slice(&payload.bytes))
    }
}

/// The frames as the codec that everybody has writes them.
fn encoded(payloads: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    for payload in payloads {
        let payload = Bytes::copy_from_slice(payload);
        reference(usize::MAX).encode(payload, &mut bytes).expect("a short payload");
    }
    bytes.to_vec()
}

#[test]
fn a_payload_beyond_the_limit_is_refused_and_the_sink_goes_on() {
    run(async {
        let memory = Memory::fixed(2, 64).expect("sizes that work");
        let script = Script::new(&[], Vec::new(), Writes::all());
        let written = script.written();
        let mut sink = ArenaFramed::builder().new_write(script, &memory);
        let long = Bytes::from(vec![7; 65]);
        let refused = sink.send(long).await;
        assert!(matches!(refused, Err(FrameError::ReplyTooLong { bytes: 65, limit_bytes: 64 })));
        sink.send(Bytes::from_static(b"ok")).await.expect("a short payload");
        sink.flush().await.expect("a script fails no write");
        assert_eq!(*written.lock().expect("nobody panics with it"), b"\0\0\0\x02ok");
    });
}

#[test]
fn a_header_of_four_gigabytes_takes_no_memory() {
    run(async {
        let memory = Memory::buddy(2048, 16, 1024).expect("sizes that work");
        let bytes = [&frame(10, 1)[..], &header(0xFFFF_FFFF)].concat();
        let input = Probe::new(Script::new(&bytes, Vec::new(), Writes::all()));
        let mut frames = ArenaFramed::builder().new_read(input, &memory);
        let outcome = read_all(&mut frames, 0).await;
        assert_eq!(outcome, (vec![frame(10, 1)[4..].to_vec()], End::TooLong));
        assert_eq!(memory.metrics().bytes_live, 0);
    });
}
