//! Transports that two tasks share: one reads, one writes, and neither takes the other's wake-ups.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use arena_echo::{ArenaFramed, FrameError, Memory, Probe, Timeouts};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream::SplitSink};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    join,
    net::{TcpListener, TcpStream},
    select,
    sync::mpsc,
    time::{advance, pause, sleep},
};
use tokio_test::{assert_pending, assert_ready, task::spawn};

use crate::support::{client::Client, run, traffic::frame};

/// Bytes between the two ends of a pipe.
const PIPE_BYTES: usize = 64;
const LIMIT: Duration = Duration::from_secs(1);

/// Receive buffer of a slow client. With a much smaller one TCP itself crawls: windows are shorter
/// than a segment then, and only a timer of the sender fills them.
const CLIENT_ROOM_BYTES: u32 = 64 << 10;

type Framed = ArenaFramed<Probe<DuplexStream>>;

fn framed(memory: &Memory, timeouts: Timeouts) -> (DuplexStream, Framed) {
    let (peer, stream) = duplex(PIPE_BYTES);
    let builder = ArenaFramed::builder().timeouts(timeouts);
    (peer, builder.new_framed(Probe::new(stream), memory))
}

fn memory() -> Memory {
    Memory::fixed(2, 1024).expect("memory")
}

/// A payload that the pipe does not take at once, and its frame.
fn reply() -> (Bytes, Vec<u8>) {
    let frame = frame(10 * PIPE_BYTES, 1);
    (Bytes::copy_from_slice(&frame[4..]), frame)
}

async fn send(sink: &mut SplitSink<Framed, Bytes>, payload: Bytes) -> Result<(), FrameError> {
    sink.send(payload).await
}

#[tokio::test]
async fn a_reader_that_flushes_too_leaves_the_writer_its_wake_up() {
    let memory = memory();
    let (mut peer, framed) = framed(&memory, Timeouts::default());
    let (mut sink, mut stream) = framed.split::<Bytes>();
    let (payload, whole) = reply();
    let mut writer = spawn(send(&mut sink, payload));
    assert_pending!(writer.poll());
    let mut reader = spawn(stream.next());
    assert_pending!(reader.poll());

    let mut received = vec![0; whole.len()];
    let mut reading = spawn(peer.read_exact(&mut received));
    let (mut polls, mut sent) = (0, Poll::Pending);
    while reading.poll().is_pending() {
        assert!(writer.is_woken(), "the peer has made room");
        polls += 1;
        match polls % 2 {
            // Whoever comes first: neither may depend on it.
            0 => {
                assert_pending!(reader.poll());
                sent = writer.poll();
            }
            _ => {
                sent = writer.poll();
                assert_pending!(reader.poll());
            }
        }
    }
    drop(reading);
    assert_ready!(sent).expect("everything is written");
    assert!(received == whole);
}

#[tokio::test]
async fn what_the_reader_flushes_wakes_the_writer() {
    let memory = memory();
    let (mut peer, framed) = framed(&memory, Timeouts::default());
    let (mut sink, mut stream) = framed.split::<Bytes>();
    let (payload, whole) = reply();
    let mut writer = spawn(send(&mut sink, payload));
    assert_pending!(writer.poll());
    let mut reader = spawn(stream.next());
    assert_pending!(reader.poll());

    // The reader alone is polled.
    let mut received = vec![0; whole.len()];
    let mut reading = spawn(peer.read_exact(&mut received));
    while reading.poll().is_pending() {
        assert_pending!(reader.poll());
    }
    assert!(writer.is_woken(), "everything is written");
    assert_ready!(writer.poll()).expect("everything is written");
}

#[tokio::test]
async fn the_write_deadline_wakes_both_halves() {
    pause();
    let memory = memory();
    let timeouts = Timeouts { write: Some(LIMIT), ..Timeouts::default() };
    let (_peer, framed) = framed(&memory, timeouts);
    let (mut sink, mut stream) = framed.split::<Bytes>();
    let mut writer = spawn(send(&mut sink, reply().0));
    assert_pending!(writer.poll());
    let mut reader = spawn(stream.next());
    assert_pending!(reader.poll());

    while !reader.is_woken() {
        advance(LIMIT).await;
    }
    assert!(writer.is_woken(), "the deadline is over for both");
    let end = loop {
        advance(LIMIT).await;
        if let Poll::Ready(end) = writer.poll() {
            break end;
        }
    };
    assert!(matches!(end, Err(FrameError::WriteTimeout(LIMIT))), "{end:?}");
}

#[tokio::test]
async fn both_halves_learn_that_their_memory_is_needed_more() {
    pause();
    let memory = memory();
    let (mut peer, stalled) = framed(&memory, Timeouts::default());
    let (mut sink, mut stream) = stalled.split::<Bytes>();
    let begun = frame(1000, 2);
    let mut begun = begun[..500].chunks(PIPE_BYTES);
    let mut reader = spawn(stream.next());
    for part in begun.by_ref() {
        peer.write_all(part).await.expect("a pipe with room");
        assert_pending!(reader.poll());
    }
    assert!(memory.metrics().bytes_live > 0, "a frame has begun");
    let mut writer = spawn(send(&mut sink, reply().0));
    assert_pending!(writer.poll());
    // After it has asked its stream the reader has no timer that could wake it.
    advance(LIMIT).await;
    assert_pending!(writer.poll());
    assert_pending!(reader.poll());

    let (mut other_peer, mut other) = framed(&memory, Timeouts::default());
    other_peer.write_all(&frame(10, 3)).await.expect("a pipe with room");
    select! {
        biased;
        () = memory.watch_stalls() => {}
        _ = async {
            select! {
                _ = other.next() => {}
                () = async {
                    for _ in 0..1000 {
                        if reader.is_woken() && writer.is_woken() {
                            break;
                        }
                        advance(LIMIT / 10).await;
                    }
                } => {}
            }
        } => {}
    }
    assert!(reader.is_woken() && writer.is_woken(), "both of them stall");
    let end = assert_ready!(reader.poll());
    assert!(matches!(end, Some(Err(FrameError::Stalled { .. }))), "{end:?}");
    let end = assert_ready!(writer.poll());
    assert!(matches!(end, Err(FrameError::Stalled { .. })), "{end:?}");
}

#[tokio::test]
async fn a_reader_goes_on_alone_with_what_a_dropped_writer_took() {
    let memory = memory();
    let (mut peer, framed) = framed(&memory, Timeouts::default());
    let (mut sink, mut stream) = framed.split::<Bytes>();
    let (payload, whole) = reply();
    let mut writer = spawn(send(&mut sink, payload));
    assert_pending!(writer.poll());
    drop(writer);
    drop(sink);
    let mut received = vec![0; whole.len()];
    select! {
        end = stream.next() => panic!("{end:?}"),
        read = peer.read_exact(&mut received) => {
            read.expect("the whole reply");
        }
    }
    assert!(received == whole);
}

#[test]
fn a_client_that_is_slow_at_first_gets_all_that_two_tasks_write() {
    run(async {
        const FRAMES: usize = 1000;
        let memory = Memory::buddy(1 << 20, 256, 64 << 10).expect("memory");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let mut client = Client::connect_with_room(address, CLIENT_ROOM_BYTES).await;
        let (accepted, _) = listener.accept().await.expect("a client");
        SockRef::from(&accepted).set_send_buffer_size(1).expect("a socket");
        let framed = ArenaFramed::builder().new_framed(accepted, &memory);
        let (mut sink, mut stream) = framed.split();
        let (give, mut take) = mpsc::channel(4);
        let reader = tokio::spawn(async move {
            while let Some(request) = stream.next().await {
                give.send(request.expect("a frame")).await.expect("a writer");
            }
        });
        let written = Arc::new(AtomicUsize::new(0));
        let writer = tokio::spawn({
            let written = Arc::clone(&written);
            async move {
                while let Some(reply) = take.recv().await {
                    sink.send(reply).await.expect("a client that reads");
                    written.fetch_add(1, Relaxed);
                }
                sink.close().await.expect("a client that reads");
            }
        });

        let all = frame(3000, 1).repeat(FRAMES);
        let (mut input, mut output) = client.stream.split();
        let send = async {
            output.write_all(&all).await.expect("a server that reads");
            output.shutdown().await.expect("a server that reads");
        };
        let mut received = vec![0; all.len()];
        let read = async {
            // Reads nothing until nothing more can be written.
            let mut before = usize::MAX;
            while before != written.load(Relaxed) {
                before = written.load(Relaxed);
                sleep(LIMIT / 4).await;
            }
            assert!(before < FRAMES, "more than all buffers take");
            input.read_exact(&mut received).await.expect("all replies");
        };
        join!(send, read);
        assert!(received == all);
        reader.await.expect("a reader that ends");
        writer.await.expect("a writer that ends");
    });
}

#[tokio::test]
async fn transports_give_their_stream_as_others_do() {
    let memory = memory();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let connect = || TcpStream::connect(listener.local_addr().expect("an address"));
    let (stream, address) = {
        let stream = connect().await.expect("it listens");
        let address = stream.local_addr().expect("a socket");
        (stream, address)
    };
    let mut framed = ArenaFramed::builder().new_framed(stream, &memory);
    assert_eq!(framed.get_ref().local_addr().expect("a socket"), address);
    framed.get_mut().set_nodelay(true).expect("a socket");
    assert!(Pin::new(&mut framed).get_pin_mut().nodelay().expect("a socket"));

    let (input, output) = framed.into_inner().into_split();
    let reader = ArenaFramed::builder().new_read(input, &memory);
    let writer = ArenaFramed::builder().new_write(output, &memory);
    assert_eq!(reader.get_ref().local_addr().expect("a socket"), address);
    assert_eq!(writer.get_ref().local_addr().expect("a socket"), address);
    let stream = reader.into_inner().reunite(writer.into_inner()).expect("two halves of one");
    assert_eq!(stream.local_addr().expect("a socket"), address);
}
