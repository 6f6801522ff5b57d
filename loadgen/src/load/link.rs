//! One connection with its socket: connecting, reading, writing, losing it and connecting again.
//!
//! Readiness is edge-triggered: a socket is read until a read does not fill the buffer, and written
//! until a write is not taken whole. One read answers everything it brought: one look at the clock,
//! one record in the histogram per batch, and in closed loop one write of all that is due then.
//!
//! In open loop a link sends when the agenda says so, and not after a read: what is due on all
//! links is sent in one pass, so that the busier the thread, the more requests share a write. While
//! the server leaves a link no room (the pipeline is full, the socket takes no bytes, or there is
//! none), it stays off the agenda, and returns as soon as there is room. What was due meanwhile
//! counts from when it was due.

use std::{cmp::Reverse, collections::BinaryHeap, io, mem, ops::Range, time::Duration};

use mio::{Registry, Token, event::Event};

use crate::{
    clock::Clock,
    load::{
        connection::{Batch, Connection, Source},
        schedule::{Admission, Phase, Schedule},
        tally::{Connects, Counted, Tally},
    },
    net::{
        route::{Addresses, Attempts},
        stream::Stream,
    },
    payload::{Payloads, mismatch::Mismatch},
    plan::{ReconnectEvery, rate::Arrivals},
    tls::{Channel, Handshake, Input, Prepared, Secure, Sessions},
    units,
};

/// How long an address may take to answer, and a handshake after that.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause before the first attempt to connect again; it doubles with each failure, up to the
/// last.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// How often one socket is read before the others get their turn.
const READS_PER_TURN: u32 = 16;
/// The clock is looked at more often than this, unless the thread stands still: the process is
/// stopped, or the system runs others.
pub(crate) const STANDSTILL_MIN: Duration = Duration::from_millis(20);

/// What all links of one thread share.
#[derive(Debug)]
pub(crate) struct Desk<'run> {
    pub(crate) addresses: Addresses<'run>,
    pub(crate) sessions: Sessions,
    pub(crate) source: Source<'run>,
    pub(crate) clock: &'run Clock,
    pub(crate) pipeline: u64,
    pub(crate) timeout: Option<Duration>,
    pub(crate) reconnect_every: Option<ReconnectEvery>,
    pub(crate) registry: Registry,
    pub(crate) schedule: Schedule,
    /// Present in open loop.
    pub(crate) agenda: Option<Agenda>,
    /// What happened since the last report.
    pub(crate) tally: Box<Tally>,
    /// The last look at the clock.
    pub(crate) now: u64,
    /// Open loop: when what is due is sent again, even if there are more replies to read.
    pub(crate) next_pass: u64,
    /// Requests of all links that have been queued and not echoed.
    pub(crate) in_flight: u64,
    /// Their number times nanoseconds, summed over time. It may wrap: differences count.
    pub(crate) in_flight_ns: u64,
    /// Since when something is awaited and nothing arrives.
    pub(crate) silent_since: u64,
    /// From when until when the thread last stood still.
    pub(crate) standstill: Range<u64>,
    /// Nanoseconds of measuring in which it stood still.
    pub(crate) stood_still: u64,
    pub(crate) read_buffer: Box<[u8]>,
}

impl Desk<'_> {
    #[inline]
    pub(crate) fn look_at_the_clock(&mut self) {
        let before = mem::replace(&mut self.now, self.clock.now());
        let passed = self.now.saturating_sub(before);
        // What changes the number is told to have happened when the clock was looked at last.
        self.in_flight_ns = self.in_flight_ns.wrapping_add(self.in_flight.wrapping_mul(passed));
        if Duration::from_nanos(passed) >= STANDSTILL_MIN {
            self.note_standstill(before);
        }
    }

    /// The phase of what happens now and ends no request.
    pub(crate) fn phase_now(&self) -> Counted {
        match self.schedule.is_warm_up(self.now) {
            true => Counted::WarmUp,
            false => Counted::Measured,
        }
    }

    #[cold]
    fn note_standstill(&mut self, since: u64) {
        self.standstill = since..self.now;
        if self.schedule.phase() == Phase::Measuring {
            self.stood_still += self.now - since;
        }
    }
}

/// Which links have a request to send, and when; the next one first.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    entries: BinaryHeap<Reverse<(u64, usize)>>,
}

impl Agenda {
    /// When the next request is due.
    #[inline]
    pub(crate) fn next_due(&self) -> Option<u64> {
        self.entries.peek().map(|Reverse((due_at, _))| *due_at)
    }

    /// Takes the link whose request is due next, if it is due by now.
    #[inline]
    pub(crate) fn take_due(&mut self, now: u64) -> Option<usize> {
        let index = self.entries.peek().filter(|Reverse((due_at, _))| *due_at <= now)?.0.1;
        self.entries.pop();
        Some(index)
    }
}

/// One connection and its socket.
#[derive(Debug)]
pub(crate) struct Link {
    token: Token,
    connection: Connection,
    socket: Socket,
    /// Present in open loop.
    pace: Option<Pace>,
    /// How many measured requests it may still send, if their number is limited.
    left: Option<u64>,
    /// When the socket was opened, and how many requests had been queued before.
    opened_at: u64,
    queued_before: u64,
    attempts: Attempts,
    /// How often every address has failed since the last success.
    failures: u32,
    was_open: bool,
    /// The phase of the last loss.
    lost_in: Counted,
    /// Whether the attempts to connect began while measuring.
    is_connect_measured: bool,
}

/// When the requests of a link are due, and what keeps them.
#[derive(Debug)]
struct Pace {
    arrivals: Arrivals,
    /// When the load began: arrivals count from there.
    begins_at: u64,
    /// Since when there is room; only if it is not blocked.
    free_since: u64,
    is_blocked: bool,
    is_on_agenda: bool,
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
    Down {
        retry_at: u64,
    },
    Connecting {
        stream: Stream,
        since: u64,
    },
    /// Connected, but for the handshake.
    Preparing {
        channel: Channel,
        since: u64,
    },
    Open {
        channel: Channel,
    },
}

/// Why a socket is given up.
#[derive(Debug)]
enum Loss {
    Closed,
    Broken(io::Error),
    NotMade(io::Error),
    /// The server or this side refused the other, or they do not understand each other.
    NotEncrypted(io::Error),
    TimedOut,
    Mismatch(Mismatch),
}

impl Link {
    /// Makes one that will connect, but not before `opens_at`.
    pub(crate) fn new(token: Token, id: u32, opens_at: u64) -> Self {
        Self {
            token,
            connection: Connection::new(id),
            socket: Socket::Down { retry_at: opens_at },
            pace: None,
            left: None,
            opened_at: 0,
            queued_before: 0,
            attempts: Attempts::default(),
            failures: 0,
            was_open: false,
            lost_in: Counted::Measured,
            is_connect_measured: false,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.socket, Socket::Open { .. })
    }

    pub(crate) fn is_connecting(&self) -> bool {
        matches!(self.socket, Socket::Connecting { .. } | Socket::Preparing { .. })
    }

    /// Whether it is open, and the server may still refuse it.
    pub(crate) fn may_be_refused(&self, desk: &Desk<'_>) -> bool {
        match &self.socket {
            Socket::Open { channel: Channel::Secure(secure) } => {
                secure.may_be_refused(&desk.sessions)
            }
            _ => false,
        }
    }

    /// Sends so many measured requests at most.
    pub(crate) fn limit(&mut self, requests: u64) {
        self.left = Some(requests);
    }

    /// Whether something is awaited from the server: a reply, or a connection that it refused.
    pub(crate) fn awaits_the_server(&self) -> bool {
        self.connection.outstanding() > 0 || self.has_failed()
    }

    /// Whether every address has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.failures > 0
    }

    /// From now on requests are due at these times, counted from `begins_at`.
    pub(crate) fn follow(&mut self, mut arrivals: Arrivals, begins_at: u64) {
        if let Socket::Down { retry_at } = self.socket
            && !self.has_failed()
        {
            // Before it joins nothing is due.
            while begins_at + arrivals.next_due() < retry_at {
                arrivals.advance();
            }
        }
        let pace = Pace {
            arrivals,
            begins_at,
            free_since: begins_at,
            is_blocked: !self.is_open(),
            is_on_agenda: false,
        };
        self.pace = Some(pace);
    }

    /// Whether it is down and due to be connected.
    pub(crate) fn is_due_to_connect(&self, now: u64) -> bool {
        matches!(self.socket, Socket::Down { retry_at } if retry_at <= now)
    }

    /// Begins to connect. A failure shows at once or as an event.
    pub(crate) fn connect(&mut self, desk: &mut Desk<'_>) {
        desk.look_at_the_clock();
        self.is_connect_measured = desk.schedule.phase() == Phase::Measuring;
        let endpoint = self.attempts.endpoint(&desk.addresses);
        match Stream::connect(endpoint, &desk.registry, self.token) {
            Ok(stream) => self.socket = Socket::Connecting { stream, since: desk.now },
            Err(error) => self.try_next_address(error, desk),
        }
    }

    /// Goes on to the next address after a failed attempt. Counts an error if there is none.
    fn try_next_address(&mut self, error: io::Error, desk: &mut Desk<'_>) {
        match self.attempts.fail(error, &desk.addresses) {
            None => self.connect(desk),
            Some(error) => self.lose(Loss::NotMade(error), desk),
        }
    }

    /// Reacts to an event.
    #[inline]
    pub(crate) fn ready(&mut self, event: &Event, desk: &mut Desk<'_>) -> Turn {
        if self.is_open() && (event.is_readable() || event.is_read_closed() || event.is_error()) {
            let turn = self.receive(event.is_read_closed(), desk);
            // One event tells both, and tells it once.
            if event.is_writable() && self.has_unwritten() {
                self.send(desk);
            }
            return turn;
        }
        desk.look_at_the_clock();
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
        let sent = match self.pace.is_some() {
            true => self.send_what_is_due(desk),
            false => self.fill_the_pipeline(desk),
        };
        if let Err(error) = sent {
            self.lose(Loss::Broken(error), desk);
        }
    }

    /// Sends because the agenda says so.
    pub(crate) fn send_on_time(&mut self, desk: &mut Desk<'_>) {
        if let Some(pace) = &mut self.pace {
            pace.is_on_agenda = false;
        }
        desk.look_at_the_clock();
        self.send(desk);
    }

    /// Closed loop: as many requests as there is room for.
    #[inline]
    fn fill_the_pipeline(&mut self, desk: &mut Desk<'_>) -> io::Result<()> {
        let left = match desk.schedule.is_warm_up(desk.now) {
            true => u64::MAX,
            false => self.left.unwrap_or(u64::MAX),
        };
        let admitted = desk.schedule.admit(self.room(desk).min(left), desk.now);
        if admitted.count > 0 {
            let (count, is_measured) = (admitted.count, admitted.is_measured);
            spend(&mut self.left, admitted);
            let now = desk.now;
            self.connection.queue(Batch { due_at: now, sent_at: now, count, is_measured });
            desk.in_flight += count;
        }
        self.write(desk)
    }

    /// Open loop: what is due by now, as far as there is room; the next one goes on the agenda.
    fn send_what_is_due(&mut self, desk: &mut Desk<'_>) -> io::Result<()> {
        self.write(desk)?;
        let room = if self.has_unwritten() { 0 } else { self.room(desk) };
        if room > 0 {
            self.queue_what_is_due(room, desk);
            self.write(desk)?;
        }
        let is_blocked = self.has_unwritten() || self.room(desk) == 0;
        if let Some(pace) = &mut self.pace {
            pace.is_blocked = is_blocked;
        }
        self.enter_agenda(desk);
        Ok(())
    }

    /// Open loop: puts the next request on the agenda, unless it is there or there is no room.
    fn enter_agenda(&mut self, desk: &mut Desk<'_>) {
        let (Some(pace), Some(agenda)) = (&mut self.pace, &mut desk.agenda) else {
            return;
        };
        let due_at = pace.next_due();
        let is_spent = self.left == Some(0) && !desk.schedule.is_warm_up(due_at);
        let is_open = !is_spent && desk.schedule.is_open_for(due_at);
        if is_open && !pace.is_blocked && !pace.is_on_agenda {
            pace.is_on_agenda = true;
            agenda.entries.push(Reverse((due_at, self.token.0)));
        }
    }

    /// Open loop: returns to the agenda if a read has made room.
    fn use_room(&mut self, desk: &mut Desk<'_>) {
        let has_room = self.is_open()
            && !self.connection.is_suspect()
            && !self.has_unwritten()
            && self.room(desk) > 0;
        if let Some(pace) = &mut self.pace
            && pace.is_blocked
            && has_room
        {
            pace.is_blocked = false;
            pace.free_since = desk.now;
            self.enter_agenda(desk);
        }
    }

    fn queue_what_is_due(&mut self, room: u64, desk: &mut Desk<'_>) {
        let Some(pace) = &mut self.pace else {
            return;
        };
        let now = desk.now;
        if mem::take(&mut pace.is_blocked) {
            pace.free_since = now;
        }
        // Mostly the first request settles what holds for all of them.
        let first = pace.next_due();
        let is_plain = desk.schedule.admits_all(first, now) && desk.standstill.end <= first;
        for _ in 0..room {
            let due_at = pace.next_due();
            if due_at > now {
                return;
            }
            let admitted = match is_plain {
                true => Admission { count: 1, is_measured: true },
                false if self.left == Some(0) && !desk.schedule.is_warm_up(due_at) => return,
                false => match desk.schedule.admit_due(due_at) {
                    Some(admitted) => admitted,
                    None => return,
                },
            };
            pace.arrivals.advance();
            let (count, is_measured) = (admitted.count, admitted.is_measured);
            self.connection.queue(Batch { due_at, sent_at: now, count, is_measured });
            desk.in_flight += count;
            // Room that a standstill let nobody see is not to be blamed on the server.
            let free_since = match !is_plain && desk.standstill.contains(&due_at) {
                true => due_at,
                false => pace.free_since,
            };
            let tally = &mut desk.tally;
            let times = if is_measured { &mut tally.times } else { &mut tally.warm_up_times };
            times.send_lag.record(now - due_at.max(free_since), count);
            if is_measured && free_since > due_at {
                tally.blocked.record(free_since - due_at);
            }
            spend(&mut self.left, admitted);
        }
    }

    /// Whether something waits until the socket takes it.
    #[inline]
    fn has_unwritten(&self) -> bool {
        self.connection.has_unwritten()
            || matches!(&self.socket, Socket::Open { channel } if channel.has_unsent())
    }

    /// How many more requests this socket may have in flight.
    #[inline]
    fn room(&self, desk: &Desk<'_>) -> u64 {
        let room = desk.pipeline - self.connection.outstanding();
        match desk.reconnect_every {
            None => room,
            Some(limit) => room.min(self.left_on_socket(limit, desk.now)),
        }
    }

    /// How many more requests this socket will carry before it is changed for another.
    fn left_on_socket(&self, limit: ReconnectEvery, now: u64) -> u64 {
        match limit {
            ReconnectEvery::Requests(count) => {
                count.get().saturating_sub(self.connection.queued() - self.queued_before)
            }
            ReconnectEvery::Time(time) => {
                let is_old = Duration::from_nanos(now.saturating_sub(self.opened_at)) >= time;
                if is_old { 0 } else { u64::MAX }
            }
        }
    }

    /// Changes a socket that has carried what it should for another one.
    #[cold]
    fn renew(&mut self, limit: ReconnectEvery, desk: &mut Desk<'_>) {
        let is_over = desk.schedule.phase() == Phase::Draining;
        if is_over || self.connection.outstanding() > 0 || self.left_on_socket(limit, desk.now) > 0
        {
            return;
        }
        let is_measured = desk.phase_now() == Counted::Measured;
        desk.tally.counts.planned_reconnects += u64::from(is_measured);
        self.was_open = false;
        self.socket = Socket::Down { retry_at: desk.now };
        self.block();
        self.connect(desk);
    }

    /// Notes that there is no room.
    fn block(&mut self) {
        if let Some(pace) = &mut self.pace {
            pace.is_blocked = true;
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
                    self.try_next_address(io::ErrorKind::TimedOut.into(), desk);
                }
            }
            Socket::Preparing { channel, since } => {
                if Duration::from_nanos(desk.now.saturating_sub(*since)) >= CONNECT_TIMEOUT {
                    let error = channel.lateness(&desk.sessions);
                    self.lose(Loss::NotEncrypted(error), desk);
                }
            }
            Socket::Open { .. } => {
                if let Some(mismatch) = self.connection.last_judgement(desk.source.payloads) {
                    self.lose(Loss::Mismatch(mismatch), desk);
                } else if self.connection.oldest().is_some_and(|oldest| is_overdue(&oldest, desk)) {
                    self.lose(Loss::TimedOut, desk);
                } else if let Some(limit) = desk.reconnect_every {
                    self.renew(limit, desk);
                }
            }
        }
    }

    /// How many bytes have arrived that have not been read.
    pub(crate) fn unread_bytes(&self) -> u64 {
        match &self.socket {
            Socket::Open { channel } => channel.socket().unread_bytes().unwrap_or_default(),
            _ => 0,
        }
    }

    /// Counts what is outstanding as unanswered.
    pub(crate) fn finish(&mut self, desk: &mut Desk<'_>) {
        if let Some(mismatch) = self.connection.last_judgement(desk.source.payloads) {
            return self.lose(Loss::Mismatch(mismatch), desk);
        }
        for batch in self.connection.abandon() {
            desk.in_flight -= batch.count;
            desk.tally.give_up(&batch, batch.count, desk.now);
        }
        let Some(pace) = &mut self.pace else {
            return;
        };
        while desk.schedule.is_warm_up(pace.next_due()) {
            pace.arrivals.advance();
        }
        let oldest = pace.next_due();
        while self.left != Some(0) && desk.schedule.is_missing(pace.next_due()) {
            desk.tally.counts.unsent += 1;
            pace.arrivals.advance();
            self.left = self.left.map(|left| left - 1);
        }
        if pace.next_due() > oldest {
            let age = desk.now.saturating_sub(oldest);
            desk.tally.unsent_age_max = desk.tally.unsent_age_max.max(age);
        }
    }

    fn finish_connecting(&mut self, desk: &mut Desk<'_>) {
        if let Socket::Connecting { stream, .. } = &self.socket {
            match stream.outcome() {
                Ok(true) => self.prepare(desk),
                Ok(false) => {}
                Err(error) => self.try_next_address(error, desk),
            }
        }
        if let Socket::Preparing { channel, .. } = &mut self.socket {
            match channel.prepare(&mut desk.sessions) {
                Ok(Prepared::NotYet) => {}
                Ok(Prepared::Open(handshake)) => self.open(handshake, desk),
                Err(error) => self.lose(Loss::NotEncrypted(error), desk),
            }
        }
    }

    /// The socket is connected: what is left is the handshake, if there is to be one.
    fn prepare(&mut self, desk: &mut Desk<'_>) {
        let down = Socket::Down { retry_at: 0 };
        let Socket::Connecting { stream, since } = mem::replace(&mut self.socket, down) else {
            return;
        };
        self.attempts.succeed(&mut desk.addresses);
        let now = desk.now;
        self.connects(&mut desk.tally).connect.record(now.saturating_sub(since), 1);
        match desk.sessions.begin(stream, self.token.0) {
            Ok(channel) => self.socket = Socket::Preparing { channel, since: now },
            Err(error) => self.lose(Loss::NotEncrypted(error), desk),
        }
    }

    /// Where it belongs how long this connection took to be made.
    fn connects<'t>(&self, tally: &'t mut Tally) -> &'t mut Connects {
        if self.is_connect_measured { &mut tally.connects } else { &mut tally.earlier_connects }
    }

    fn open(&mut self, handshake: Option<Handshake>, desk: &mut Desk<'_>) {
        let down = Socket::Down { retry_at: 0 };
        if let Socket::Preparing { channel, since } = mem::replace(&mut self.socket, down) {
            self.socket = Socket::Open { channel };
            if let Some(handshake) = handshake {
                desk.look_at_the_clock();
                let time = desk.now.saturating_sub(since);
                self.connects(&mut desk.tally).note_handshake(&handshake, time);
                desk.tally.session.get_or_insert(handshake.session);
            }
        }
        *desk.tally.counts.reconnects_mut(self.lost_in) += u64::from(self.was_open);
        self.was_open = true;
        self.failures = 0;
        self.opened_at = desk.now;
        self.queued_before = self.connection.queued();
        self.send(desk);
    }

    /// Reads until the socket is empty, or its turn is over. An end of the stream only shows when
    /// it is read.
    #[inline]
    fn receive(&mut self, may_be_closed: bool, desk: &mut Desk<'_>) -> Turn {
        for _ in 0..READS_PER_TURN {
            let Socket::Open { channel } = &mut self.socket else {
                return Turn::Waits;
            };
            match channel.read(&mut desk.read_buffer, &mut desk.sessions) {
                Ok(Input { is_end: true, .. }) => {
                    self.lose(Loss::Closed, desk);
                    return Turn::Waits;
                }
                Ok(Input { len, is_drained, .. }) => {
                    desk.look_at_the_clock();
                    desk.silent_since = desk.now;
                    self.take_in(len, desk);
                    if is_drained && !may_be_closed {
                        return Turn::Waits;
                    }
                    if self.pace.is_some() && desk.now >= desk.next_pass {
                        return Turn::HasMore;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Turn::Waits,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let is_refusal = channel.is_unproven();
                    let loss = if is_refusal { Loss::NotEncrypted } else { Loss::Broken };
                    self.lose(loss(error), desk);
                    return Turn::Waits;
                }
            }
        }
        Turn::HasMore
    }

    /// Checks what one read brought and records it. In closed loop it sends what is due after it.
    #[inline]
    fn take_in(&mut self, len: usize, desk: &mut Desk<'_>) {
        let completed = self.connection.receive(&mut desk.source, &desk.read_buffer[..len]);
        desk.in_flight -= completed;
        let (tally, now) = (&mut desk.tally, desk.now);
        let is_warming_up = desk.schedule.phase() == Phase::WarmUp;
        // What one write has sent is counted at once.
        let mut written = Batch { due_at: 0, sent_at: now, count: 0, is_measured: false };
        self.connection.settle(completed, |batch| {
            if (written.sent_at, written.is_measured) != (batch.sent_at, batch.is_measured) {
                tally.count_answered(&written, is_warming_up, now);
                written = Batch { count: 0, ..batch };
            }
            written.count += batch.count;
            if let Some(times) = tally.times_of(&batch, is_warming_up) {
                times.latency.record(now - batch.due_at, batch.count);
            }
        });
        tally.count_answered(&written, is_warming_up, now);
        if let Some(mismatch) = self.connection.mismatch(desk.source.payloads) {
            return self.lose(Loss::Mismatch(mismatch), desk);
        }
        if let Some(limit) = desk.reconnect_every {
            self.renew(limit, desk);
        }
        match self.pace.is_some() {
            true => self.use_room(desk),
            false => self.send(desk),
        }
    }

    #[inline]
    fn write(&mut self, desk: &mut Desk<'_>) -> io::Result<()> {
        let Socket::Open { channel } = &mut self.socket else {
            return Ok(());
        };
        match channel {
            Channel::Plain(stream) => {
                while self.connection.has_unwritten()
                    && takes_more(self.connection.write(&mut desk.source, &mut &*stream))?
                {
                }
                Ok(())
            }
            Channel::Secure(secure) => {
                write_encrypted(&mut self.connection, secure, &mut desk.source, &mut desk.sessions)
            }
        }
    }

    /// Drops the socket, counts why and what that costs, and plans the next attempt.
    #[cold]
    fn lose(&mut self, loss: Loss, desk: &mut Desk<'_>) {
        self.block();
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
        self.lost_in = self.phase_of(&loss, desk);
        desk.tally.note(self.lost_in, || self.describe(&loss, desk.source.payloads));
        self.write_off(&loss, desk);
        let counts = &mut desk.tally.counts;
        match &loss {
            Loss::Closed | Loss::Broken(_) => counts.errors_mut(self.lost_in).lost += 1,
            Loss::NotMade(error) => counts.errors_mut(self.lost_in).not_connected(error),
            Loss::NotEncrypted(_) => counts.errors_mut(self.lost_in).not_encrypted(),
            Loss::Mismatch(mismatch) => counts.mismatches_mut(self.lost_in).count(*mismatch),
            Loss::TimedOut => {}
        }
        self.failures = match loss {
            Loss::NotMade(_) | Loss::NotEncrypted(_) => self.failures.saturating_add(1),
            _ => 0,
        };
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10)).min(LAST_PAUSE);
        self.socket = Socket::Down { retry_at: desk.clock.after(desk.now, pause) };
    }

    /// To which phase a loss belongs, before what is outstanding is written off: that of the
    /// request that it ends, or if it ends none, that of the moment. A connection that owed replies
    /// to requests of both counts as measured.
    fn phase_of(&self, loss: &Loss, desk: &Desk<'_>) -> Counted {
        let ended = match loss {
            Loss::NotMade(_) | Loss::NotEncrypted(_) | Loss::Mismatch(Mismatch::Unsolicited) => {
                None
            }
            Loss::TimedOut | Loss::Mismatch(_) => self.connection.oldest(),
            Loss::Closed | Loss::Broken(_) => self.connection.newest(),
        };
        ended.map_or_else(|| desk.phase_now(), |batch| Counted::of(&batch))
    }

    /// Before what is outstanding is written off.
    fn describe(&self, loss: &Loss, payloads: &Payloads) -> String {
        // A frame beyond the server's limit is the most frequent reason.
        let owed = match self.connection.largest_outstanding(payloads) {
            None => String::new(),
            Some(largest) => format!(
                " that owed {} (largest payload: {})",
                match self.connection.outstanding() {
                    1 => "1 reply".to_owned(),
                    replies => format!("{} replies", units::grouped(replies)),
                },
                units::exact_bytes(u64::from(largest))
            ),
        };
        match loss {
            Loss::Closed => format!("the server closed a connection{owed}"),
            Loss::Broken(error) => format!("a connection broke{owed}: {error}"),
            Loss::NotMade(error) => format!("could not connect: {error}"),
            Loss::NotEncrypted(error) => format!("the TLS handshake failed: {error}"),
            Loss::TimedOut => "a request timed out".to_owned(),
            Loss::Mismatch(_) if self.connection.was_answered_in_tls() => {
                "a reply was an alert of TLS: the server may speak that; try --tls".to_owned()
            }
            Loss::Mismatch(mismatch) => format!("a reply was wrong: {}", mismatch.name()),
        }
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
                let errors = desk.tally.counts.errors_mut(Counted::of(&batch));
                errors.timeouts += batch.count;
            } else {
                let others = batch.count.saturating_sub(mem::take(&mut mismatched));
                desk.tally.give_up(&batch, others, desk.now);
            }
        }
    }
}

impl Pace {
    /// When the next request is due, on the run's clock.
    #[inline]
    fn next_due(&self) -> u64 {
        self.begins_at.saturating_add(self.arrivals.next_due())
    }
}

// A call of its own: what plain connections pass by stays short.
#[inline(never)]
fn write_encrypted(
    connection: &mut Connection,
    secure: &mut Secure,
    source: &mut Source<'_>,
    sessions: &mut Sessions,
) -> io::Result<()> {
    secure.flush()?;
    let socket = &mut secure.encrypting(sessions);
    // What takes less than was offered may take more: no event tells of it.
    while connection.has_unwritten() && takes_more(connection.write(source, socket).map(|_| true))?
    {
    }
    Ok(())
}

/// Whether to offer more after a write, which tells whether all was taken that was offered.
#[inline]
fn takes_more(written: io::Result<bool>) -> io::Result<bool> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
        written => written,
    }
}

/// Takes measured requests off what a link may still send.
#[inline]
fn spend(left: &mut Option<u64>, admitted: Admission) {
    if admitted.is_measured
        && let Some(left) = left
    {
        *left -= admitted.count;
    }
}

fn is_overdue(batch: &Batch, desk: &Desk<'_>) -> bool {
    desk.timeout.is_some_and(|limit| desk.clock.after(batch.sent_at, limit) <= desk.now)
}
