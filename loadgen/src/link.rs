//! One connection with its socket: connecting, reading, writing, losing it and connecting again.
//!
//! Readiness is edge-triggered: a socket is read until a read does not fill the buffer, and written
//! until a write is not taken whole. One read answers everything it brought: one look at the clock,
//! one record in the histogram per batch, and one write of all that is due then.

use std::{
    io::{self, IoSlice, Read, Write},
    mem,
    net::SocketAddr,
    time::Duration,
};

use mio::{Interest, Registry, Token, event::Event, net::TcpStream};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};

use crate::{
    clock::Clock,
    connection::{Batch, Connection, Source},
    mismatch::Mismatch,
    schedule::{Phase, Schedule},
    tally::Tally,
};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause before the first attempt to connect again; it doubles with each failure, up to the
/// last.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// How often one socket is read before the others get their turn.
const READS_PER_TURN: u32 = 16;

/// What all links of one thread share.
#[derive(Debug)]
pub(crate) struct Desk<'run> {
    pub(crate) addresses: &'run [SocketAddr],
    pub(crate) source: Source<'run>,
    pub(crate) clock: &'run Clock,
    pub(crate) pipeline: u64,
    pub(crate) timeout: Option<Duration>,
    pub(crate) registry: Registry,
    pub(crate) schedule: Schedule,
    /// What happened since the last report.
    pub(crate) tally: Box<Tally>,
    /// The last look at the clock.
    pub(crate) now: u64,
    /// Requests of all links that have been queued and not echoed.
    pub(crate) in_flight: u64,
    /// When anything last arrived.
    pub(crate) last_arrival_at: u64,
    pub(crate) read_buffer: Box<[u8]>,
}

/// One connection and its socket.
#[derive(Debug)]
pub(crate) struct Link {
    token: Token,
    connection: Connection,
    socket: Socket,
    /// Attempts to connect that failed since the last success.
    failures: u32,
    was_open: bool,
}

/// Whether a link wants to go on at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Turn {
    /// It waits for its socket.
    Waits,
    /// There is more to read; no event will say so.
    HasMore,
}

#[derive(Debug)]
enum Socket {
    Down { retry_at: u64 },
    Connecting { stream: TcpStream, since: u64 },
    Open { stream: TcpStream },
}

/// Why a socket is given up.
#[derive(Debug)]
enum Loss {
    Closed,
    Broken(io::Error),
    NotMade(io::Error),
    TimedOut,
    Mismatch(Mismatch),
}

impl Link {
    pub(crate) fn new(token: Token, id: u32) -> Self {
        Self {
            token,
            connection: Connection::new(id),
            socket: Socket::Down { retry_at: 0 },
            failures: 0,
            was_open: false,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.socket, Socket::Open { .. })
    }

    pub(crate) fn is_connecting(&self) -> bool {
        matches!(self.socket, Socket::Connecting { .. })
    }

    /// Whether every address has refused.
    pub(crate) fn has_tried_all(&self, desk: &Desk<'_>) -> bool {
        self.failures as usize >= desk.addresses.len()
    }

    /// Begins to connect. A failure shows at once or as an event.
    pub(crate) fn connect(&mut self, desk: &mut Desk<'_>) {
        let address = desk.addresses[self.failures as usize % desk.addresses.len()];
        let made = TcpStream::connect(address).and_then(|mut stream| {
            let interest = Interest::READABLE | Interest::WRITABLE;
            desk.registry.register(&mut stream, self.token, interest)?;
            Ok(stream)
        });
        match made {
            Ok(stream) => self.socket = Socket::Connecting { stream, since: desk.now },
            Err(error) => self.lose(Loss::NotMade(error), desk),
        }
    }

    /// Reacts to an event.
    #[inline]
    pub(crate) fn ready(&mut self, event: &Event, desk: &mut Desk<'_>) -> Turn {
        if self.is_open() && (event.is_readable() || event.is_read_closed() || event.is_error()) {
            return self.receive(event.is_read_closed(), desk);
        }
        desk.now = desk.clock.now();
        match self.is_connecting() {
            true => self.finish_connecting(desk),
            false => self.send(desk),
        }
        Turn::Waits
    }

    /// Goes on reading after [`Turn::HasMore`].
    pub(crate) fn go_on(&mut self, desk: &mut Desk<'_>) -> Turn {
        // Whether the peer has closed is no longer known: read until the socket says that it is
        // empty.
        self.receive(true, desk)
    }

    /// Queues what may be sent now and writes what is due.
    #[inline]
    pub(crate) fn send(&mut self, desk: &mut Desk<'_>) {
        if !self.is_open() || self.connection.is_suspect() {
            return;
        }
        let room = desk.pipeline - self.connection.outstanding();
        let admitted = desk.schedule.admit(room, desk.now);
        if admitted.count > 0 {
            let (count, is_measured) = (admitted.count, admitted.is_measured);
            self.connection.queue(Batch { sent_at: desk.now, count, is_measured });
            desk.in_flight += count;
        }
        if let Err(error) = self.write(desk) {
            self.lose(Loss::Broken(error), desk);
        }
    }

    /// Looks after what no event reports: timeouts, attempts that are due, replies that stay
    /// incomplete.
    pub(crate) fn check(&mut self, is_ending: bool, desk: &mut Desk<'_>) {
        match &self.socket {
            Socket::Down { retry_at } if !is_ending && desk.now >= *retry_at => self.connect(desk),
            Socket::Down { .. } => {}
            Socket::Connecting { since, .. } => {
                if Duration::from_nanos(desk.now.saturating_sub(*since)) >= CONNECT_TIMEOUT {
                    self.lose(Loss::NotMade(io::ErrorKind::TimedOut.into()), desk);
                }
            }
            Socket::Open { .. } => {
                if let Some(mismatch) = self.connection.last_judgement(desk.source.payloads) {
                    self.lose(Loss::Mismatch(mismatch), desk);
                } else if self.connection.oldest().is_some_and(|oldest| is_overdue(&oldest, desk)) {
                    self.lose(Loss::TimedOut, desk);
                }
            }
        }
    }

    /// Counts what is outstanding as unanswered.
    pub(crate) fn finish(&mut self, desk: &mut Desk<'_>) {
        if let Some(mismatch) = self.connection.last_judgement(desk.source.payloads) {
            return self.lose(Loss::Mismatch(mismatch), desk);
        }
        for batch in self.connection.abandon() {
            desk.in_flight -= batch.count;
            desk.tally.counts.unanswered += measured(&batch);
        }
    }

    fn finish_connecting(&mut self, desk: &mut Desk<'_>) {
        let Socket::Connecting { stream, .. } = &self.socket else {
            return;
        };
        let made = match stream.take_error() {
            Ok(None) => stream.peer_addr().and_then(|_| stream.set_nodelay(true)),
            Ok(Some(error)) | Err(error) => Err(error),
        };
        match made {
            Ok(()) => self.open(desk),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
            Err(error) => self.lose(Loss::NotMade(error), desk),
        }
    }

    fn open(&mut self, desk: &mut Desk<'_>) {
        let down = Socket::Down { retry_at: 0 };
        if let Socket::Connecting { stream, .. } = mem::replace(&mut self.socket, down) {
            self.socket = Socket::Open { stream };
        }
        desk.tally.counts.reconnects += u64::from(self.was_open);
        self.was_open = true;
        self.failures = 0;
        self.send(desk);
    }

    /// Reads until the socket is empty, or its turn is over. An end of the stream only shows when
    /// it is read.
    #[inline]
    fn receive(&mut self, may_be_closed: bool, desk: &mut Desk<'_>) -> Turn {
        for _ in 0..READS_PER_TURN {
            let Socket::Open { stream } = &mut self.socket else {
                return Turn::Waits;
            };
            match Wire(stream).read(&mut desk.read_buffer) {
                Ok(0) => {
                    self.lose(Loss::Closed, desk);
                    return Turn::Waits;
                }
                Ok(len) => {
                    desk.now = desk.clock.now();
                    desk.last_arrival_at = desk.now;
                    self.take_in(len, desk);
                    if len < desk.read_buffer.len() && !may_be_closed {
                        return Turn::Waits;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Turn::Waits,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.lose(Loss::Broken(error), desk);
                    return Turn::Waits;
                }
            }
        }
        Turn::HasMore
    }

    /// Checks what one read brought, records it, and sends what is due after it.
    #[inline]
    fn take_in(&mut self, len: usize, desk: &mut Desk<'_>) {
        let completed = self.connection.receive(&mut desk.source, &desk.read_buffer[..len]);
        desk.in_flight -= completed;
        let (tally, now) = (&mut desk.tally, desk.now);
        let is_warming_up = desk.schedule.phase() == Phase::WarmUp;
        self.connection.settle(completed, |batch| {
            if batch.is_measured {
                tally.times.latency.record(now - batch.sent_at, batch.count);
                tally.counts.requests += batch.count;
                tally.last_echo_at = now;
            } else {
                tally.counts.warm_up_requests += batch.count;
                if is_warming_up {
                    tally.warm_up_times.latency.record(now - batch.sent_at, batch.count);
                }
            }
        });
        match self.connection.mismatch(desk.source.payloads) {
            Some(mismatch) => self.lose(Loss::Mismatch(mismatch), desk),
            None => self.send(desk),
        }
    }

    #[inline]
    fn write(&mut self, desk: &mut Desk<'_>) -> io::Result<()> {
        let Socket::Open { stream } = &mut self.socket else {
            return Ok(());
        };
        while self.connection.has_unwritten() {
            match self.connection.write(&mut desk.source, &mut Wire(stream)) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Drops the socket, counts why and what that costs, and plans the next attempt.
    #[cold]
    fn lose(&mut self, loss: Loss, desk: &mut Desk<'_>) {
        let loss = match (loss, self.connection.last_judgement(desk.source.payloads)) {
            (Loss::Closed | Loss::Broken(_), Some(mismatch)) => Loss::Mismatch(mismatch),
            (loss, _) => loss,
        };
        let is_over =
            desk.schedule.phase() == Phase::Draining && self.connection.outstanding() == 0;
        if is_over && matches!(loss, Loss::Closed | Loss::Broken(_)) {
            // The server may close what is done with.
            self.socket = Socket::Down { retry_at: u64::MAX };
            return;
        }
        self.write_off(&loss, desk);
        match &loss {
            Loss::Closed | Loss::Broken(_) => desk.tally.counts.errors.lost += 1,
            Loss::NotMade(_) => desk.tally.counts.errors.connect += 1,
            Loss::Mismatch(mismatch) => desk.tally.counts.mismatches.count(*mismatch),
            Loss::TimedOut => {}
        }
        desk.tally.note(|| describe(&loss));
        self.failures = match loss {
            Loss::NotMade(_) => self.failures.saturating_add(1),
            _ => 0,
        };
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10)).min(LAST_PAUSE);
        self.socket = Socket::Down { retry_at: desk.clock.after(desk.now, pause) };
    }

    /// Counts what is outstanding: as timed out what is overdue, the rest as unanswered.
    fn write_off(&mut self, loss: &Loss, desk: &mut Desk<'_>) {
        // A wrong reply ends the oldest request, and is counted as a mismatch.
        let mut mismatched = match loss {
            Loss::Mismatch(Mismatch::Unsolicited) => 0,
            Loss::Mismatch(_) => 1,
            _ => 0,
        };
        let is_timeout = matches!(loss, Loss::TimedOut);
        for batch in self.connection.abandon() {
            desk.in_flight -= batch.count;
            if is_timeout && is_overdue(&batch, desk) {
                desk.tally.counts.errors.timeouts += batch.count;
            } else {
                let others = measured(&batch).saturating_sub(mem::take(&mut mismatched));
                desk.tally.counts.unanswered += others;
            }
        }
    }
}

/// A socket that is read and written by the plain system calls. Those of the standard library are
/// points where a thread may be cancelled, which costs as much as checking a few frames.
#[derive(Debug)]
struct Wire<'a>(&'a TcpStream);

impl Read for Wire<'_> {
    #[inline]
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let (len, _) = rustix::net::recv(self.0, bytes, RecvFlags::empty())?;
        Ok(len)
    }
}

impl Write for Wire<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut nothing = SendAncillaryBuffer::default();
        Ok(rustix::net::sendmsg(self.0, slices, &mut nothing, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn measured(batch: &Batch) -> u64 {
    if batch.is_measured { batch.count } else { 0 }
}

fn is_overdue(batch: &Batch, desk: &Desk<'_>) -> bool {
    desk.timeout.is_some_and(|limit| desk.clock.after(batch.sent_at, limit) <= desk.now)
}

fn describe(loss: &Loss) -> String {
    match loss {
        Loss::Closed => "the server closed a connection".to_owned(),
        Loss::Broken(error) => format!("a connection broke: {error}"),
        Loss::NotMade(error) => format!("could not connect: {error}"),
        Loss::TimedOut => "a request timed out".to_owned(),
        Loss::Mismatch(mismatch) => format!("a reply was wrong: {}", mismatch.name()),
    }
}
