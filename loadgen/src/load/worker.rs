//! One thread of the generator: a poll, its links, and nothing shared with the others but what
//! never changes.
//!
//! It connects, says so, waits for the signal to go, loads, drains, and reports. Between the signal
//! and the report it talks to nobody, except that it sends a tally once per interval.

use std::{
    io, mem,
    ops::Range,
    sync::mpsc::{Receiver, Sender},
    time::Duration,
};

use mio::{Events, Poll, Token};

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::{
    alarm::Alarm,
    clock::{self, Clock},
    load::{
        connection::Source,
        interval::{Cuts, Piece},
        link::{Agenda, Desk, Link, Turn},
        patience::{self, Drain, Patience},
        schedule::{Bounds, Phase, Schedule},
        tally::{Samples, Tally},
    },
    net::{address::Address, route::Addresses, stream::Endpoint},
    payload::{Payloads, template::Template},
    plan::{
        Plan,
        rate::{Arrivals, Share, Timetable},
    },
    stop::{Stop, Urgency},
    tls::{self, Sessions},
};

/// How often links are looked after and the request to stop is noticed.
const TICK: Duration = Duration::from_millis(10);
const EVENTS_PER_POLL: usize = 1024;
/// One read should bring everything that a connection has waiting.
const READ_BUFFER_BYTES: usize = 256 * 1024;
const _: () = assert!(READ_BUFFER_BYTES >= tls::PLAIN_BYTES_MAX);
/// How long a server may take to refuse a client that has connected.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Wakes up the poll before a request is due.
const ALARM: Token = Token(usize::MAX);
/// How long before a request is due the alarm goes off: waking up takes some time, and what is left
/// of it is spent polling without a pause.
const WAKE_EARLY: Duration = Duration::from_micros(50);
/// How long what is due is sent before replies are read again. Less would write to a few
/// connections more often than to the others; more would be worth noticing as the generator's own
/// delay.
const PASS_MAX: Duration = Duration::from_micros(100);
/// How long replies are read then, if there are so many: at least this long, and at least half as
/// long as was sent before, since a read costs half of a write. With less the pipelines fill, and
/// the server would be blamed for replies that lie here.
const READS_MIN: Duration = Duration::from_micros(20);

/// What a thread needs to start.
#[derive(Debug)]
pub(crate) struct Job<'run> {
    pub(crate) plan: &'run Plan,
    pub(crate) target: &'run Address,
    pub(crate) endpoints: &'run [Endpoint],
    pub(crate) payloads: &'run Payloads,
    pub(crate) clock: &'run Clock,
    pub(crate) stop: &'run Stop,
    /// The connections of this thread.
    pub(crate) connections: Range<u32>,
    /// The CPU on which it stays.
    pub(crate) cpu: Option<usize>,
    /// Whether it may keep a CPU busy while it waits for a moment.
    pub(crate) may_spin: bool,
    /// The signal to go. If it never comes, the thread ends.
    pub(crate) go: Receiver<Start>,
    pub(crate) spares: Receiver<Box<Tally>>,
    /// Who tells what is said there.
    pub(crate) number: usize,
    pub(crate) news: Sender<(usize, News)>,
}

/// The signal to go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) bounds: Bounds,
    pub(crate) cuts: Cuts,
    /// Present in open loop.
    pub(crate) timetable: Option<Timetable>,
}

/// The other ends of what a thread listens to.
#[derive(Debug)]
pub(crate) struct Lines {
    pub(crate) go: Sender<Start>,
    /// Empty tallies, to be filled.
    pub(crate) spares: Sender<Box<Tally>>,
}

/// What a thread tells.
#[derive(Debug)]
pub(crate) enum News {
    /// Every connection is made or has failed.
    Connected { open: usize, first_error: Option<String>, failed_handshakes: u64 },
    /// What happened since the last cut.
    Interval(Piece),
    /// No more requests are sent.
    LoadEnded { in_flight: u64 },
    /// All is over.
    Finished(Effort),
    /// The thread could not even start.
    Failed(io::Error),
}

/// What a thread spent on its measured requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// From when until when measured requests were sent.
    pub(crate) window: (u64, u64),
    /// CPU time of the thread in the window.
    pub(crate) cpu: Duration,
    /// What of that encryption took, and what it took since the thread began.
    pub(crate) tls: tls::Cost,
    pub(crate) tls_ever: tls::Cost,
    /// How much of the window it spent looking at the clock until the next request was due.
    pub(crate) spun: Duration,
    /// How much of the window it did not run at all: it was stopped, or others ran.
    pub(crate) stood_still: Duration,
    /// How many requests were in flight, on average over the window.
    pub(crate) in_flight_mean: f64,
    /// How long it waited for replies after that.
    pub(crate) drained_for: Duration,
    /// How many requests had no reply then.
    pub(crate) given_up: u64,
}

#[derive(Debug)]
struct Worker<'run> {
    plan: &'run Plan,
    poll: Poll,
    alarm: Alarm,
    first_connection: u32,
    may_spin: bool,
    /// The link that is asked next how much it has not read.
    next_sample: usize,
    links: Vec<Link>,
    desk: Desk<'run>,
    stop: &'run Stop,
    number: usize,
    news: Sender<(usize, News)>,
    spares: &'run Receiver<Box<Tally>>,
    patience: Patience,
    /// How long the slowest reply took of those that are in no tally any more.
    slowest: Option<Duration>,
    /// Links that wait for nothing.
    eager: Vec<usize>,
    /// Since when a poll does not wait only because a request is due soon.
    spins_since: Option<u64>,
    /// Nanoseconds of measuring in which such polls brought nothing.
    spun: u64,
    /// The desk's sum of requests in flight over time, at the last report.
    reported_ns: u64,
}

/// Does the job. The news end with [`News::Finished`], with [`News::Failed`], or after the first if
/// there is no signal.
pub(crate) fn run(job: Job<'_>) {
    let news = job.news.clone();
    let Job { go, .. } = &job;
    let outcome = Worker::new(&job).and_then(|mut worker| {
        worker.connect()?;
        match go.recv() {
            Ok(start) => worker.load(start),
            Err(_) => Ok(()),
        }
    });
    if let Err(error) = outcome {
        // Nobody listens only if the run has failed for another reason.
        let _ = news.send((job.number, News::Failed(error)));
    }
}

impl<'run> Worker<'run> {
    fn new(job: &'run Job<'run>) -> io::Result<Self> {
        if let Some(cpu) = job.cpu {
            let mut cpus = CpuSet::new();
            cpus.set(cpu);
            sched_setaffinity(None, &cpus)?;
        }
        let poll = Poll::new()?;
        let alarm = Alarm::new(poll.registry(), ALARM)?;
        let now = job.clock.now();
        let links = job.connections.clone().enumerate().map(|(index, id)| {
            let pause = job.plan.ramp_up.mul_f64(f64::from(id) / f64::from(job.plan.connections));
            Link::new(Token(index), id, job.clock.after(now, pause))
        });
        let timeout = job.plan.timeout;
        let template = Template::new(job.payloads, job.plan.pipeline);
        let desk = Desk {
            addresses: Addresses::new(job.endpoints),
            sessions: Sessions::new(job.plan.tls.as_ref(), job.target),
            source: Source { payloads: job.payloads, template, verify: job.plan.verify },
            clock: job.clock,
            pipeline: u64::from(job.plan.pipeline),
            timeout,
            reconnect_every: job.plan.reconnect_every,
            registry: poll.registry().try_clone()?,
            schedule: Schedule::closed(job.plan.ramp_up.saturating_add(job.plan.warm_up)),
            agenda: None,
            tally: Box::new(Tally::new()),
            now,
            next_pass: now,
            in_flight: 0,
            in_flight_ns: 0,
            silent_since: 0,
            standstill: 0..0,
            stood_still: 0,
            read_buffer: vec![0; READ_BUFFER_BYTES].into_boxed_slice(),
        };
        Ok(Self {
            plan: job.plan,
            links: links.collect(),
            poll,
            alarm,
            first_connection: job.connections.start,
            may_spin: job.may_spin,
            next_sample: 0,
            desk,
            stop: job.stop,
            number: job.number,
            news: job.news.clone(),
            spares: &job.spares,
            patience: Patience { limit: job.plan.drain_timeout.or(timeout) },
            slowest: None,
            eager: Vec::new(),
            spins_since: None,
            spun: 0,
            reported_ns: 0,
        })
    }

    /// Tries once to make every connection that is to be there from the start.
    fn connect(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_POLL);
        let now = self.desk.now;
        let first = self.links.iter().take_while(|link| link.is_due_to_connect(now)).count();
        while self.stop.urgency() == Urgency::None {
            for link in &mut self.links[..first] {
                let is_down = !link.is_open() && !link.is_connecting();
                if is_down && !link.has_failed() {
                    link.connect(&mut self.desk);
                }
            }
            if !self.links.iter().any(Link::is_connecting) {
                break;
            }
            self.wait(&mut events, TICK)?;
            self.links.iter_mut().for_each(|link| link.check(true, &mut self.desk));
        }
        let until = self.desk.clock.after(self.desk.now, REFUSAL_TIMEOUT);
        while self.stop.urgency() == Urgency::None
            && self.desk.now < until
            && self.links.iter().any(|link| link.may_be_refused(&self.desk))
        {
            self.wait(&mut events, TICK)?;
        }
        let open = self.links.iter().filter(|link| link.is_open()).count();
        let first_error = self.desk.tally.first_error_of_all().cloned();
        let failed_handshakes = self.desk.tally.counts.failed_handshakes();
        self.tell(News::Connected { open, first_error, failed_handshakes });
        Ok(())
    }

    fn load(&mut self, Start { bounds, cuts, timetable }: Start) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_POLL);
        let first = timetable.map_or(0, |timetable| timetable.first_turn(self.plan.connections));
        self.desk.schedule = Schedule::new(bounds, self.deal_out(first));
        self.desk.now = self.desk.clock.now();
        self.desk.silent_since = self.desk.now;
        if let Some(timetable) = timetable {
            self.follow(timetable, first, cuts.load_begins_at);
        }
        let mut meter = Meter::start(&self.desk);
        let mut next_check = self.desk.now;
        let mut interval = cuts.number_at(self.desk.now);
        let mut next_cut = cuts.start_of(interval + 1);
        self.links.iter_mut().for_each(|link| link.send(&mut self.desk));
        loop {
            let patience = self.patience(next_cut)?;
            self.wait(&mut events, patience)?;
            self.pass_if_time();
            self.desk.schedule.advance(self.desk.now);
            if meter.follow(&self.desk) {
                self.tell(News::LoadEnded { in_flight: self.desk.in_flight });
                // What is in flight now belongs to this interval, unless it stays for long.
                next_cut = next_cut.max(self.desk.now.saturating_add(cuts.length));
            }
            if self.desk.now >= next_check {
                next_check = self.desk.clock.after(self.desk.now, TICK);
                self.look_after_links();
            }
            if self.desk.now >= next_cut {
                self.report(interval, false);
                interval = cuts.number_at(self.desk.now).max(interval + 1);
                next_cut = cuts.start_of(interval + 1);
            }
            if meter.drained_since.is_some_and(|since| self.is_drained(since)) {
                break;
            }
        }
        let given_up = self.desk.in_flight;
        self.links.iter_mut().for_each(|link| link.finish(&mut self.desk));
        self.report(interval, true);
        let window = self.desk.schedule.measured_window();
        let spun = Duration::from_nanos(self.spun);
        let stood_still = Duration::from_nanos(self.desk.stood_still);
        let drained_for = meter.drained_since.map_or(0, |since| self.desk.now - since);
        self.tell(News::Finished(Effort {
            window,
            cpu: meter.cpu(),
            tls: meter.tls(),
            tls_ever: self.desk.sessions.cost(),
            spun,
            stood_still,
            in_flight_mean: meter.in_flight_mean(),
            drained_for: Duration::from_nanos(drained_for),
            given_up,
        }));
        Ok(())
    }

    /// Gives every link its part of the measured requests, if their number is limited: which
    /// connection sends what does not depend on who is quicker. The connection `first` begins.
    /// Returns the sum.
    fn deal_out(&mut self, first: u32) -> Option<u64> {
        self.links.iter_mut().zip(self.first_connection..).try_fold(0, |sum, (link, id)| {
            let part = self.plan.requests_of(id, first)?;
            link.limit(part);
            Some(sum + part)
        })
    }

    /// Open loop: gives every link its times. The connection `first` has the first measured one.
    fn follow(&mut self, timetable: Timetable, first: u32, begins_at: u64) {
        self.desk.agenda = Some(Agenda::default());
        let Plan { arrival, connections, seed, .. } = *self.plan;
        for (link, id) in self.links.iter_mut().zip(self.first_connection..) {
            let own = self.plan.requests_of(id, first);
            let share = own.zip(self.plan.requests).map(|(own, all)| Share { own, all });
            let arrivals = Arrivals::new(timetable, arrival, id, connections, seed, share);
            link.follow(arrivals, begins_at);
        }
    }

    /// Waits for events and lets the links react. In closed loop the desk's `now` is fresh
    /// afterwards.
    fn wait(&mut self, events: &mut Events, patience: Duration) -> io::Result<()> {
        match self.poll.poll(events, Some(patience)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        if events.is_empty() {
            self.desk.look_at_the_clock();
            self.note_spin();
            // There is nothing to read.
            self.desk.next_pass = self.desk.now;
        }
        let mut eager = mem::take(&mut self.eager);
        eager.retain(|&index| {
            let turn = self.links[index].go_on(&mut self.desk);
            self.pass_if_time();
            turn == Turn::HasMore
        });
        for event in events.iter() {
            let index = event.token().0;
            if event.token() == ALARM {
                continue;
            }
            if self.links[index].ready(event, &mut self.desk) == Turn::HasMore
                && !eager.contains(&index)
            {
                eager.push(index);
            }
            self.pass_if_time();
        }
        self.eager = eager;
        Ok(())
    }

    /// Adds the time of a poll that brought nothing to what was spent waiting for a moment.
    fn note_spin(&mut self) {
        let is_measuring = self.desk.schedule.phase() == Phase::Measuring;
        if let Some(since) = self.spins_since.filter(|_| is_measuring) {
            self.spun += self.desk.now.saturating_sub(since);
        }
    }

    /// Open loop: sends what is due by now on every link that has room. Afterwards the desk's `now`
    /// is fresh.
    #[inline]
    fn send_what_is_due(&mut self) {
        if self.desk.agenda.is_some() {
            self.keep_the_agenda();
        }
    }

    /// Sends what is due if replies have been read for long enough.
    #[inline]
    fn pass_if_time(&mut self) {
        if self.desk.now >= self.desk.next_pass {
            self.send_what_is_due();
        }
    }

    /// One pass over what is due. Whatever becomes due meanwhile, or is left, waits for the next,
    /// so that replies are read in between, however high the rate.
    // A call of its own: what closed loops pass by stays short.
    #[inline(never)]
    fn keep_the_agenda(&mut self) {
        self.desk.look_at_the_clock();
        let now = self.desk.now;
        let until = self.desk.clock.after(now, PASS_MAX);
        while self.desk.now < until
            && let Some(agenda) = &mut self.desk.agenda
            && let Some(index) = agenda.take_due(now)
        {
            self.links[index].send_on_time(&mut self.desk);
        }
        self.desk.look_at_the_clock();
        let reads = READS_MIN.max(Duration::from_nanos((self.desk.now - now) / 2));
        self.desk.next_pass = self.desk.clock.after(self.desk.now, reads);
    }

    /// How long a poll may wait. If that is not a matter of milliseconds the alarm is set.
    fn patience(&mut self, next_cut: u64) -> io::Result<Duration> {
        self.spins_since = None;
        if !self.eager.is_empty() {
            return Ok(Duration::ZERO);
        }
        let desk = &mut self.desk;
        let next_change = desk.schedule.next_change_at().unwrap_or(u64::MAX).min(next_cut);
        let patience = TICK.min(Duration::from_nanos(next_change.saturating_sub(desk.now)));
        let Some(due_at) = desk.agenda.as_ref().and_then(Agenda::next_due) else {
            return Ok(patience);
        };
        desk.look_at_the_clock();
        let until_due = Duration::from_nanos(due_at.saturating_sub(desk.now));
        let early = if self.may_spin { WAKE_EARLY } else { Duration::ZERO };
        let pause = until_due.saturating_sub(early);
        if pause.is_zero() {
            self.spins_since = (desk.now < due_at).then_some(desk.now);
            return Ok(Duration::ZERO);
        }
        // A poll waits for whole milliseconds.
        if pause < patience + Duration::from_millis(1) {
            self.alarm.set(pause)?;
        }
        Ok(patience)
    }

    fn look_after_links(&mut self) {
        let silence_max = self.silence_max();
        let desk = &mut self.desk;
        if self.stop.urgency() != Urgency::None {
            desk.schedule.end(desk.now);
        }
        if !self.links.iter().any(Link::awaits_the_server) {
            desk.silent_since = desk.now;
        }
        let silence = Duration::from_nanos(desk.now.saturating_sub(desk.silent_since));
        if !desk.schedule.is_bounded_by_time() && silence >= silence_max {
            let phase = desk.phase_now();
            desk.tally.note(phase, || {
                format!(
                    "nothing arrived for {} s; --timeout or --drain-timeout waits longer",
                    silence.as_secs()
                )
            });
            desk.schedule.end(desk.now);
        }
        if desk.schedule.phase() == Phase::Measuring {
            // One link after the other: asking them all would keep the thread from its work.
            self.next_sample = (self.next_sample + 1) % self.links.len();
            desk.tally.samples +=
                Samples { count: 1, unread_bytes: self.links[self.next_sample].unread_bytes() };
        }
        let is_ending = desk.schedule.phase() == Phase::Draining;
        self.links.iter_mut().for_each(|link| link.check(is_ending, desk));
    }

    /// Whether nothing more is to be waited for, given when draining began.
    fn is_drained(&self, since: u64) -> bool {
        let desk = &self.desk;
        let was_stopped = self.stop.urgency() != Urgency::None;
        let drain = Drain {
            time: Duration::from_nanos(desk.now - since),
            silence: Duration::from_nanos(desk.now.saturating_sub(desk.silent_since)),
            slowest: self.slowest(),
            is_cut: desk.schedule.is_bounded_by_time() || was_stopped,
            was_stopped,
        };
        desk.in_flight == 0
            || self.patience.is_over(&drain)
            || self.stop.urgency() == Urgency::AtOnce
    }

    /// How long the slowest reply has taken.
    fn slowest(&self) -> Option<Duration> {
        self.slowest.max(self.desk.tally.slowest())
    }

    /// How much silence ends a load that only a number of requests ends.
    fn silence_max(&self) -> Duration {
        let expected = self.plan.timeout.max(self.plan.drain_timeout).max(self.slowest());
        patience::UNKNOWN.max(expected.unwrap_or_default().saturating_mul(2))
    }

    fn report(&mut self, number: u64, is_last: bool) {
        self.slowest = self.slowest();
        self.desk.tally.in_flight = self.desk.in_flight;
        // Whoever reads the tallies sends them back, so that there is nothing to allocate or copy.
        let spare = self.spares.try_recv().unwrap_or_else(|_| Box::new(Tally::new()));
        let mut tally = mem::replace(&mut self.desk.tally, spare);
        let before = mem::replace(&mut self.reported_ns, self.desk.in_flight_ns);
        tally.in_flight_ns = self.desk.in_flight_ns.wrapping_sub(before);
        self.tell(News::Interval(Piece { number, until: self.desk.now, is_last, tally }));
    }

    fn tell(&self, news: News) {
        // Nobody listens only if the run has failed for another reason; then there is nobody to
        // tell.
        let _ = self.news.send((self.number, news));
    }
}

/// Takes what a thread has used and had in flight at the two ends of the measured window.
#[derive(Debug)]
struct Meter {
    phase: Phase,
    from: Reading,
    until: Reading,
    drained_since: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    at: u64,
    /// CPU time of this thread.
    cpu: Duration,
    tls: tls::Cost,
    /// The desk's sum of requests in flight over time.
    in_flight_ns: u64,
}

impl Meter {
    fn start(desk: &Desk<'_>) -> Self {
        let now = Reading::of(desk);
        Self { phase: Phase::WarmUp, from: now, until: now, drained_since: None }
    }

    /// Notes a change of phase. Returns whether the load has just ended.
    fn follow(&mut self, desk: &Desk<'_>) -> bool {
        let phase = desk.schedule.phase();
        if phase == self.phase {
            return false;
        }
        self.phase = phase;
        if phase == Phase::Draining {
            self.until = Reading::of(desk);
            self.drained_since = Some(desk.now);
            return true;
        }
        self.from = Reading::of(desk);
        false
    }

    fn cpu(&self) -> Duration {
        self.until.cpu.saturating_sub(self.from.cpu)
    }

    fn tls(&self) -> tls::Cost {
        self.until.tls - self.from.tls
    }

    fn in_flight_mean(&self) -> f64 {
        let time = self.until.at.saturating_sub(self.from.at);
        self.until.in_flight_ns.wrapping_sub(self.from.in_flight_ns) as f64 / time.max(1) as f64
    }
}

impl Reading {
    fn of(desk: &Desk<'_>) -> Self {
        let (at, in_flight_ns) = (desk.now, desk.in_flight_ns);
        Self { at, cpu: clock::thread_cpu(), tls: desk.sessions.cost(), in_flight_ns }
    }
}
