//! What does it cost a server to send back what it reads? The least that any echo server can do,
//! without framing.
//!
//! One thread, one poll, one buffer for all peers. It is the baseline for what the generator itself
//! may cost. What a socket does not take at once is kept, and nothing more is read from that peer
//! meanwhile.
//!
//! Usage: `raw_echo [ADDRESS]`, by default on a free port. It prints `listening on ADDRESS`.

use std::{
    env,
    error::Error,
    io::{self, ErrorKind, Read, Write},
    net::SocketAddr,
};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};

const LISTENER: Token = Token(usize::MAX);
const READ_BYTES: usize = 64 * 1024;

/// A peer, and what it has not taken yet.
struct Peer {
    stream: TcpStream,
    unsent: Vec<u8>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let address: SocketAddr = env::args().nth(1).as_deref().unwrap_or("127.0.0.1:0").parse()?;
    let mut listener = TcpListener::bind(address)?;
    println!("listening on {}", listener.local_addr()?);

    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut peers: Vec<Option<Peer>> = Vec::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &events {
            if event.token() == LISTENER {
                accept(&listener, &poll, &mut peers)?;
                continue;
            }
            let place = &mut peers[event.token().0];
            let Some(peer) = place else { continue };
            if !peer.echo(&mut buffer, event.is_read_closed()).unwrap_or(false) {
                *place = None;
            }
        }
    }
}

impl Peer {
    /// Sends back all that has arrived. Returns whether the peer stays.
    fn echo(&mut self, buffer: &mut [u8], may_be_closed: bool) -> io::Result<bool> {
        if !self.send_rest()? {
            return Ok(true);
        }
        loop {
            let read = match self.stream.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            };
            let sent = match self.stream.write(&buffer[..read]) {
                Ok(sent) => sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error),
            };
            if sent < read {
                self.unsent.extend_from_slice(&buffer[sent..read]);
                return Ok(true);
            }
            if read < buffer.len() && !may_be_closed {
                return Ok(true);
            }
        }
    }

    /// Sends what was left. Returns whether nothing is left any more.
    fn send_rest(&mut self) -> io::Result<bool> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(sent) => self.unsent.drain(..sent),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            };
        }
        Ok(true)
    }
}

fn accept(listener: &TcpListener, poll: &Poll, peers: &mut Vec<Option<Peer>>) -> io::Result<()> {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        stream.set_nodelay(true)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut stream, Token(peers.len()), interest)?;
        peers.push(Some(Peer { stream, unsent: Vec::new() }));
    }
}
