//! Clients that behave badly beside the honest ones: what they do to a server shows in the figures
//! of the others.
//!
//! | Kind         | What it does                                                                   |
//! |--------------|--------------------------------------------------------------------------------|
//! | slow reader  | sends as much as the socket takes and reads a few bytes, twice a second        |
//! | slow sender  | sends a request byte by byte, two a second                                     |
//! | resetter     | sends half a request and resets the connection, over and over                  |
//!
//! With TLS they are honest until the handshake is over, and what they do is encrypted: a slow
//! reader takes its few bytes from the socket, and a slow sender sends a record for each byte.
//!
//! All of them share one thread, which lets a part of them act at a time: clients that do not know
//! of each other have no common beat. Nothing that they do is in the report's other figures; what
//! they get back is counted, not checked.

use std::{
    io::{self, Write},
    ops::AddAssign,
    sync::mpsc::{Receiver, TryRecvError},
    time::{Duration, Instant},
};

use mio::{Events, Poll, Registry, Token};
use serde::{Deserialize, Serialize};

use crate::{
    net::{
        route::{Addresses, Attempts},
        stream::{Endpoint, Stream},
    },
    payload::HEADER_BYTES,
    tls::{self, Channel, Input, Prepared, Sessions},
};

/// How often it is an adversary's turn. A slow one lets most turns pass once it is connected.
const TURN: Duration = Duration::from_millis(50);
/// A slow one does something in one of so many turns: twice a second.
const SLOW_TURNS: u32 = 10;
/// They take their turns in so many groups, one after the other.
const GROUPS: u32 = 25;
/// How much a slow reader takes at a time.
const READ_BYTES: usize = 64;
/// How long their payloads are: short enough for any server.
const PAYLOAD_BYTES: u32 = 1024;
const REQUEST_BYTES: usize = HEADER_BYTES + PAYLOAD_BYTES as usize;
/// How many requests a slow reader sends at a time at most.
const REQUESTS_AT_ONCE: usize = 64;

/// How many of each kind there are.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Adversaries {
    /// Clients that do not read what they asked for.
    pub slow_readers: u32,
    /// Clients that never finish a request in reasonable time.
    pub slow_senders: u32,
    /// Clients that reset their connection in the middle of a request.
    pub resets: u32,
}

/// What one kind did, and what came of it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct AdversaryCounts {
    /// How many there were.
    pub clients: u32,
    /// Connections that were made.
    pub connects: u64,
    /// Connections that could not be made at any address.
    pub connect_errors: u64,
    /// Connections that the server closed or reset.
    pub closed_by_server: u64,
    /// Connections that they reset themselves.
    pub resets: u64,
    /// Bytes that the server took.
    pub bytes_sent: u64,
    /// Bytes that came back.
    pub bytes_received: u64,
}

/// What all of them did.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct AdversaryReport {
    /// See [`Adversaries::slow_readers`].
    pub slow_readers: AdversaryCounts,
    /// See [`Adversaries::slow_senders`].
    pub slow_senders: AdversaryCounts,
    /// See [`Adversaries::resets`].
    pub resets: AdversaryCounts,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    SlowReader,
    SlowSender,
    Resetter,
}

#[derive(Debug)]
struct Adversary {
    kind: Kind,
    state: State,
    attempts: Attempts,
    /// How many turns it lets pass.
    turns_to_rest: u32,
    /// Where in its requests it is, which are the same over and over.
    offset: usize,
    counts: AdversaryCounts,
}

/// How to get to the server.
#[derive(Debug)]
struct Way<'run> {
    addresses: Addresses<'run>,
    registry: Registry,
    sessions: Sessions,
    /// What comes back is read into it, and forgotten.
    buffer: Box<[u8]>,
}

#[derive(Debug)]
enum State {
    Down,
    Connecting(Stream),
    /// Connected, but for the handshake.
    Preparing(Channel),
    Open(Channel),
}

impl Adversaries {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// How many there are of all kinds together.
    pub(crate) fn count(self) -> u64 {
        let Self { slow_readers, slow_senders, resets } = self;
        [slow_readers, slow_senders, resets].map(u64::from).iter().sum()
    }

    /// Waits for the first message, and then acts until the channel closes.
    pub(crate) fn run(
        self,
        endpoints: &[Endpoint],
        sessions: Sessions,
        begin: &Receiver<()>,
    ) -> io::Result<AdversaryReport> {
        let mut poll = Poll::new()?;
        let mut events = Events::with_capacity(1024);
        let kinds = [
            (Kind::SlowReader, self.slow_readers),
            (Kind::SlowSender, self.slow_senders),
            (Kind::Resetter, self.resets),
        ];
        let mut all: Vec<Adversary> = kinds
            .into_iter()
            .flat_map(|(kind, count)| (0..count).map(move |index| Adversary::new(kind, index)))
            .collect();
        let requests = request().repeat(REQUESTS_AT_ONCE);
        if begin.recv().is_ok() {
            let mut groups = (0..GROUPS as usize).cycle();
            let mut due_at = Instant::now();
            let addresses = Addresses::new(endpoints);
            let registry = poll.registry().try_clone()?;
            let buffer = vec![0; tls::PLAIN_BYTES_MAX].into_boxed_slice();
            let mut way = Way { addresses, registry, sessions, buffer };
            while !matches!(begin.try_recv(), Err(TryRecvError::Disconnected)) {
                let first = groups.next().expect("groups without end");
                for adversary in all.iter_mut().skip(first).step_by(GROUPS as usize) {
                    adversary.take_turn(&mut way, &requests);
                }
                // Who is late does not catch up: that would be a burst.
                due_at = (due_at + TURN / GROUPS).max(Instant::now());
                rest(due_at, &mut poll, &mut events, begin)?;
            }
        }
        let mut report = AdversaryReport::default();
        for adversary in all {
            *report.of(adversary.kind) += adversary.counts;
        }
        Ok(report)
    }
}

impl AdversaryReport {
    fn of(&mut self, kind: Kind) -> &mut AdversaryCounts {
        match kind {
            Kind::SlowReader => &mut self.slow_readers,
            Kind::SlowSender => &mut self.slow_senders,
            Kind::Resetter => &mut self.resets,
        }
    }
}

impl AddAssign for AdversaryCounts {
    fn add_assign(&mut self, other: Self) {
        self.clients += other.clients;
        self.connects += other.connects;
        self.connect_errors += other.connect_errors;
        self.closed_by_server += other.closed_by_server;
        self.resets += other.resets;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
    }
}

impl Adversary {
    /// The one of its kind with this index.
    fn new(kind: Kind, index: u32) -> Self {
        let counts = AdversaryCounts { clients: 1, ..AdversaryCounts::default() };
        // Slow ones do not rest all at the same time.
        let turns_to_rest = (index / GROUPS) % SLOW_TURNS;
        let attempts = Attempts::default();
        Self { kind, state: State::Down, attempts, turns_to_rest, offset: 0, counts }
    }

    /// Does the next bad thing, unless it rests.
    fn take_turn(&mut self, way: &mut Way<'_>, requests: &[u8]) {
        if let Some(turns_left) = self.turns_to_rest.checked_sub(1) {
            self.turns_to_rest = turns_left;
            return;
        }
        self.state = match std::mem::replace(&mut self.state, State::Down) {
            State::Down => {
                let endpoint = self.attempts.endpoint(&way.addresses);
                match Stream::connect(endpoint, &way.registry, Token(0)) {
                    Ok(stream) => State::Connecting(stream),
                    Err(error) => self.not_connected(error, &way.addresses),
                }
            }
            State::Connecting(stream) => match stream.outcome() {
                Ok(true) => {
                    self.attempts.succeed(&mut way.addresses);
                    match way.sessions.begin(stream, 0) {
                        Ok(channel) => self.prepare(channel, way),
                        Err(_) => self.not_encrypted(),
                    }
                }
                Ok(false) => State::Connecting(stream),
                Err(error) => self.not_connected(error, &way.addresses),
            },
            State::Preparing(channel) => self.prepare(channel, way),
            State::Open(mut channel) => match self.act(&mut channel, way, requests) {
                Ok(false) => {
                    if self.kind != Kind::Resetter {
                        self.turns_to_rest = SLOW_TURNS - 1;
                    }
                    State::Open(channel)
                }
                Ok(true) => {
                    channel.reset();
                    self.counts.resets += 1;
                    State::Down
                }
                Err(_) => {
                    self.counts.closed_by_server += 1;
                    State::Down
                }
            },
        };
    }

    /// The next turn is for the next address.
    fn not_connected(&mut self, error: io::Error, addresses: &Addresses<'_>) -> State {
        self.counts.connect_errors += u64::from(self.attempts.fail(error, addresses).is_some());
        State::Down
    }

    /// Goes on with the handshake, if there is one.
    fn prepare(&mut self, mut channel: Channel, way: &mut Way<'_>) -> State {
        match channel.prepare(&mut way.sessions) {
            Ok(Prepared::Open(_)) => {
                self.counts.connects += 1;
                self.offset = 0;
                State::Open(channel)
            }
            Ok(Prepared::NotYet) => State::Preparing(channel),
            Err(_) => self.not_encrypted(),
        }
    }

    fn not_encrypted(&mut self) -> State {
        self.counts.connect_errors += 1;
        State::Down
    }

    /// Uses an open connection. Returns whether to reset it.
    fn act(
        &mut self,
        channel: &mut Channel,
        way: &mut Way<'_>,
        requests: &[u8],
    ) -> io::Result<bool> {
        match self.kind {
            Kind::SlowReader => {
                self.send(channel, way, &requests[self.offset..], requests.len())?;
                self.receive(channel, way, READ_BYTES)?;
                Ok(false)
            }
            Kind::SlowSender => {
                self.send(channel, way, &requests[self.offset..=self.offset], requests.len())?;
                while self.receive(channel, way, 4096)? > 0 {}
                Ok(false)
            }
            Kind::Resetter if self.offset > 0 => Ok(true),
            Kind::Resetter => {
                self.send(channel, way, &requests[..REQUEST_BYTES / 2], requests.len())?;
                Ok(false)
            }
        }
    }

    /// Sends as much of `bytes` as the socket takes, of requests that repeat after `period` bytes.
    fn send(
        &mut self,
        channel: &mut Channel,
        way: &mut Way<'_>,
        bytes: &[u8],
        period: usize,
    ) -> io::Result<()> {
        let sent = unless_blocked(match channel {
            Channel::Plain(stream) => (&*stream).write(bytes),
            Channel::Secure(secure) => secure.encrypting(&mut way.sessions).write(bytes),
        })?;
        self.offset = (self.offset + sent) % period;
        self.counts.bytes_sent += sent as u64;
        Ok(())
    }

    /// Takes so many bytes from the socket at most, encrypted or not.
    fn receive(
        &mut self,
        channel: &mut Channel,
        way: &mut Way<'_>,
        bytes_max: usize,
    ) -> io::Result<usize> {
        let Way { sessions, buffer, .. } = way;
        let received = match channel.read_some(buffer, bytes_max, sessions) {
            Ok(Input { is_end: true, .. }) => return Err(io::ErrorKind::UnexpectedEof.into()),
            received => unless_blocked(received.map(|input| input.len))?,
        };
        self.counts.bytes_received += received as u64;
        Ok(received)
    }
}

/// Waits until then, or until the channel closes.
fn rest(
    until: Instant,
    poll: &mut Poll,
    events: &mut Events,
    begin: &Receiver<()>,
) -> io::Result<()> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || matches!(begin.try_recv(), Err(TryRecvError::Disconnected)) {
            return Ok(());
        }
        match poll.poll(events, Some(left)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
    }
}

/// One request that is as good as any other, until someone stops in the middle of it.
fn request() -> Vec<u8> {
    let mut request = PAYLOAD_BYTES.to_be_bytes().to_vec();
    request.resize(REQUEST_BYTES, 0xA5);
    request
}

fn unless_blocked(transferred: io::Result<usize>) -> io::Result<usize> {
    match transferred {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        transferred => transferred,
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, sync::mpsc, thread};

    use super::*;

    #[test]
    fn each_kind_does_its_part_and_all_end_when_the_channel_closes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoints = [Endpoint::Tcp(listener.local_addr().unwrap())];
        let (reset, was_reset) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, reset) = (stream.unwrap(), reset.clone());
                thread::spawn(move || {
                    let outcome = io::copy(&mut stream.try_clone().unwrap(), &mut stream);
                    let is_reset =
                        |error: io::Error| error.kind() == io::ErrorKind::ConnectionReset;
                    if outcome.is_err_and(is_reset) {
                        let _ = reset.send(());
                    }
                });
            }
        });
        let (begin, begun) = mpsc::channel();
        let adversaries = Adversaries { slow_readers: 2, slow_senders: 1, resets: 3 };
        let thread = thread::spawn(move || {
            adversaries.run(&endpoints, Sessions::default(), &begun).unwrap()
        });
        begin.send(()).unwrap();
        (0..4).for_each(|_| was_reset.recv().unwrap());
        drop(begin);
        let report = thread.join().unwrap();
        assert!(report.resets.resets >= 4, "{report:?}");
        assert_eq!((report.slow_readers.clients, report.slow_readers.connects), (2, 2));
        assert!(report.slow_readers.bytes_sent > report.slow_readers.bytes_received, "{report:?}");
        assert_eq!(report.slow_senders.clients, 1);
        assert!(report.slow_senders.bytes_sent <= 200, "{report:?}");
    }

    #[test]
    fn a_channel_that_closes_before_the_beginning_is_the_end() {
        let (begin, begun) = mpsc::channel();
        drop(begin);
        let report = Adversaries { slow_readers: 1, ..Adversaries::default() };
        let report = report.run(&[], Sessions::default(), &begun).unwrap();
        assert_eq!(report.slow_readers.connects, 0);
    }
}
