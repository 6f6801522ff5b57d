//! Small servers with one thread per connection. They live as long as the test's process.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        mpsc::{self, Receiver},
    },
    thread,
    time::Duration,
};

use loadgen::{Plan, Report, Stop};

/// An address at which nobody listens.
///
/// No other test binds to this host, so nobody is given the port that has just been free.
pub(crate) fn nobody() -> SocketAddr {
    TcpListener::bind((DESERTED, 0)).unwrap().local_addr().unwrap()
}

/// A host of the loopback network for listeners that go away.
pub(crate) const DESERTED: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 1);

/// Serves connections with `serve`, which is given their number, and returns the address.
pub(crate) fn start<S>(serve: S) -> SocketAddr
where
    S: Fn(usize, TcpStream) -> io::Result<()> + Send + Sync + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let (serve, stream) = (Arc::clone(&serve), stream.unwrap());
            // A client that goes away ends its server, which is no error of the test.
            thread::spawn(move || serve(number, stream));
        }
    });
    address
}

/// Sends back every byte.
pub(crate) fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut bytes)? {
            0 => return Ok(()),
            len => stream.write_all(&bytes[..len])?,
        }
    }
}

/// A server that answers 50 frames on its first connection, reads one more and closes; later
/// connections are served.
pub(crate) fn closing_its_first() -> SocketAddr {
    start(|connection, mut stream| {
        if connection > 0 {
            return echo(stream);
        }
        for _ in 0..50 {
            let frame = read_frame(&mut stream)?;
            stream.write_all(&frame)?;
        }
        read_frame(&mut stream)?;
        Ok(())
    })
}

/// A server that echoes, and tells of every connection that asks for something.
pub(crate) fn telling() -> (SocketAddr, Receiver<()>) {
    let (tell, told) = mpsc::channel();
    let server = start(move |_, mut stream| {
        let first = read_frame(&mut stream)?;
        // Nobody listens once the test has what it waits for.
        let _ = tell.send(());
        stream.write_all(&first)?;
        echo(stream)
    });
    (server, told)
}

/// A server that passes each frame, header included, through `reply` with its number on its
/// connection.
pub(crate) fn replying<R>(reply: R) -> SocketAddr
where
    R: Fn(usize, usize, Vec<u8>) -> Vec<u8> + Send + Sync + 'static,
{
    start(move |connection, mut stream| {
        for number in 0.. {
            let frame = read_frame(&mut stream)?;
            stream.write_all(&reply(connection, number, frame))?;
        }
        Ok(())
    })
}

/// Reads one frame, header included.
pub(crate) fn read_frame(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut header = [0; 4];
    stream.read_exact(&mut header)?;
    let mut frame = vec![0; 4 + u32::from_be_bytes(header) as usize];
    frame[..4].copy_from_slice(&header);
    stream.read_exact(&mut frame[4..])?;
    Ok(frame)
}

/// A plan for exactly this many requests over one connection, which are awaited for a minute: a
/// server that is not run for a while is not given up.
pub(crate) fn plan(target: SocketAddr, requests: u64) -> Plan {
    Plan {
        connections: 1,
        requests: Some(requests),
        duration: None,
        warm_up: Duration::ZERO,
        timeout: Some(Duration::from_secs(60)),
        ..Plan::for_target(target.into())
    }
}

/// Does something at most so many times, until what comes of it counts: the machine may have stood
/// still meanwhile.
#[track_caller]
pub(crate) fn again<T>(most: usize, what: impl Fn() -> T, counts: impl Fn(&T) -> bool) -> T {
    let mut last = what();
    for _ in 1..most {
        if counts(&last) {
            break;
        }
        last = what();
    }
    last
}

/// Runs a plan that can be run.
#[track_caller]
pub(crate) fn run(plan: &Plan) -> Report {
    loadgen::run(plan, &Stop::new(), &mut |_| {}).unwrap()
}
