//! One run: starts the server if there is one to start, the threads, and the clock; gathers what
//! they tell.
//!
//! ```text
//! connect ........ all links of all threads; none at all ends the run
//! go ............. the threads get the same bounds; from here on they are on their own
//! warm-up, then measuring: CPU of both sides is taken at either end
//! drain .......... what is in flight
//! report
//! ```

mod open_files;
pub(crate) mod search;

use std::{
    io,
    ops::Range,
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, SystemTime},
};

use rustix::thread::{CpuSet, sched_getaffinity};
use thiserror::Error;

use crate::{
    clock::{self, Clock},
    load::{
        interval::{Assembly, Cuts, Interval},
        schedule::Bounds,
        tally::{LittlesLaw, Tally},
        worker::{self, Effort, Job, Lines, News, Start},
    },
    measure::{
        backlog::{self, Backlog},
        noise::NoiseFloor,
    },
    net::{address::Address, stream::Endpoint},
    payload::{HEADER_BYTES, Payloads},
    plan::{
        Pin, Plan, PlanError, Problem,
        adversaries::AdversaryReport,
        rate::{Rate, Timetable},
    },
    report::{
        ClientUsage, Connects, Report, ServerUsage,
        verdict::{Evidence, Verdict},
    },
    run::open_files::TooLow,
    server::{
        command::{ServerCommand, ServerCommandError},
        metrics::{MetricsProbe, MetricsUrl, Sample},
        probe::{MachineTime, ServerProbe},
        watch::{Seen, ServerWatch},
    },
    shelf::Shelf,
    stop::{Stop, Urgency},
    tls::{self, Sessions},
    units,
};

/// How often the orchestrating thread looks up while nothing happens.
const PATIENCE: Duration = Duration::from_millis(20);
/// Open loop: how long after the signal to go the first request is due, so that threads which have
/// to wake up first are not late.
const LEAD: Duration = Duration::from_millis(1);
/// In less time than this, how busy a side was says nothing.
const TELLING_TIME: Duration = Duration::from_millis(200);
/// In less time than this a load is not steady.
const STEADY_TIME: Duration = Duration::from_millis(500);
/// Why it is not known what a server cost that was there all the time.
const LOST_COST: &str = "the server's CPU time is unknown: one of its processes ended and took its \
                         count along";

/// What to know of a run with `--tls-insecure`.
const ANYBODY: &str =
    "the server may be another one: its certificate was not checked (--tls-insecure)";

/// Why there is nothing to report.
#[non_exhaustive]
#[derive(Debug, Error)]
pub enum RunError {
    /// The plan is not possible.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The server that was to be started did not start.
    #[error(transparent)]
    Server(#[from] ServerCommandError),
    /// The system does not let this process have so many connections.
    #[error(
        "--connections {connections} needs {needed} open files in all and this process may have \
         {limit}; raise that limit (ulimit -n), or open fewer connections"
    )]
    TooManyConnections {
        /// What was asked for.
        connections: u32,
        /// How many files that needs, with other clients and whatever else is open.
        needed: u64,
        /// How many there may be at most.
        limit: u64,
    },
    /// There is no such process, or it may not be read.
    #[error(
        "cannot read process {0} (--server-pid); give the PID of the server if it runs on this \
         machine and you may read it, or leave the flag out"
    )]
    Process(u32),
    /// The server's name has no address.
    #[error("cannot look up {target}: {error}; check the host name")]
    Lookup {
        /// The server.
        target: Address,
        /// What the resolver says.
        error: io::Error,
    },
    /// Not one connection could be made.
    #[error(
        "no connection to {target} ({tried}): {error}; start the server first, or let loadgen \
         start it: loadgen [OPTIONS] -- SERVER COMMAND"
    )]
    NothingConnects {
        /// The server.
        target: Address,
        /// Its addresses.
        tried: String,
        /// The first error in words.
        error: String,
    },
    /// The server was reached, and not one connection to it could be encrypted.
    #[error("no TLS connection to {target} ({tried}): {error}")]
    NotEncrypted {
        /// The server.
        target: Address,
        /// Its addresses.
        tried: String,
        /// The first error in words, with what to change.
        error: String,
    },
    /// The system refused something that the generator needs.
    #[error(
        "cannot go on: {0}; if there are too many open files, or no threads to have, raise the \
         limit (ulimit -n, ulimit -u)"
    )]
    System(#[from] io::Error),
    /// Someone asked to stop before the load began.
    #[error("stopped before the load began")]
    Stopped,
    /// Someone asked to stop a search before a request of its first run counted.
    #[error("stopped before anything was measured")]
    NothingMeasured,
}

/// What is told while a run goes on: the interval that has just ended.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Time since the load began.
    pub elapsed: Duration,
    /// What happened in the interval. It will be the last one in [`Report::intervals`] so far, to
    /// which one that is too short to be told of its own may be added.
    pub interval: Interval,
    /// What the server told last of its arena.
    pub arena: Option<Sample>,
}

/// Runs a plan and reports. It blocks until all is over.
///
/// `observe` is called once per [`Plan::interval`] on the calling thread. Raising `stop` ends the
/// run early, with a report of what was measured. Replies that are wrong, errors and requests
/// without an answer are in the report: they are no [`RunError`].
///
/// A server that the plan starts is stopped before this returns.
///
/// # Errors
///
/// [`RunError`] if there is nothing to report: the plan is impossible, the server does not start,
/// or nothing connects.
///
/// # Examples
///
/// ```
/// use std::{io::{Read, Write}, net::TcpListener, thread};
/// use loadgen::{Plan, Stop, Verdict};
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let target = listener.local_addr()?.into();
/// thread::spawn(move || {
///     let (mut stream, _) = listener.accept().unwrap();
///     let mut bytes = [0; 4096];
///     while let Ok(len @ 1..) = stream.read(&mut bytes) {
///         stream.write_all(&bytes[..len]).unwrap();
///     }
/// });
///
/// let mut plan = Plan::for_target(target);
/// plan.connections = 1;
/// plan.requests = Some(100);
/// plan.duration = None;
/// plan.warm_up = std::time::Duration::ZERO;
///
/// let report = loadgen::run(&plan, &Stop::new(), &mut |_| {})?;
/// assert_eq!(report.counts.requests, 100);
/// assert_eq!(report.counts.mismatches.total(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn run(
    plan: &Plan,
    stop: &Stop,
    observe: &mut dyn FnMut(&Progress),
) -> Result<Report, RunError> {
    plan.check()?;
    if let Some(pid) = plan.server_pid.filter(|&pid| ServerProbe::new(pid).usage().is_none()) {
        return Err(RunError::Process(pid));
    }
    let files = open_files::needed_for(plan);
    open_files::check(files).map_err(|TooLow { needed, limit }| RunError::TooManyConnections {
        connections: plan.connections,
        needed,
        limit,
    })?;
    // Before there is a server that could disturb it.
    let noise_floor = NoiseFloor::measure(&Clock::start());
    // Dropped on every way out, which stops the server.
    let mut server = match plan.command.as_slice() {
        [] => None,
        command => Some(ServerCommand::start(command, plan.holds_server_output, stop)?),
    };
    // The server has the limit that it was given.
    let _raised = open_files::raise(files);
    let announced = server.as_ref().map(|server| server.address().clone());
    let target = plan.target.clone().or(announced).expect("a checked plan has one of the two");
    if let Some(Err(reason)) = plan.tls.as_ref().map(|tls| tls.name_of(&target)) {
        return Err(PlanError { problems: vec![Problem { flag: tls::NAME, reason }] }.into());
    }
    let endpoints =
        target.resolve().map_err(|error| RunError::Lookup { target: target.clone(), error })?;
    let group = server.as_ref().map(|server| ServerProbe::of_group(server.pid()));
    let payloads = Payloads::new(plan.seed, plan.connections, plan.sizes.clone());
    let announced = server.as_ref().and_then(ServerCommand::metrics).filter(|_| plan.finds_metrics);
    let site = Site {
        plan,
        target,
        metrics: plan.metrics.clone().or(announced.cloned()),
        payloads,
        endpoints,
        probe: group.or(plan.server_pid.map(ServerProbe::new)),
        noise_floor,
    };
    site.run(server.as_mut(), stop, observe)
}

/// A plan whose server is known.
#[derive(Debug)]
struct Site<'run> {
    plan: &'run Plan,
    target: Address,
    metrics: Option<MetricsUrl>,
    endpoints: Vec<Endpoint>,
    payloads: Payloads,
    probe: Option<ServerProbe>,
    noise_floor: Option<NoiseFloor>,
}

/// What the threads have told so far.
#[derive(Debug)]
struct Gathered<'run> {
    total: Tally,
    assembly: Assembly,
    intervals: Vec<Interval>,
    /// Where the distributions of the intervals lie.
    shelf: Shelf,
    arena: Option<MetricsProbe>,
    loading: usize,
    /// Requests in flight when the load ended.
    in_flight: u64,
    efforts: Vec<Effort>,
    server: ServerWatch<'run>,
    costs: [Option<Cost>; 2],
}

/// CPU time of both sides at one moment.
#[derive(Clone, Debug)]
struct Cost {
    client: Duration,
    server: Option<Seen>,
    machine: Option<MachineTime>,
}

impl Site<'_> {
    fn run(
        &self,
        server: Option<&mut ServerCommand>,
        stop: &Stop,
        observe: &mut dyn FnMut(&Progress),
    ) -> Result<Report, RunError> {
        let plan = self.plan;
        let server = ServerWatch::new(self.probe, server);
        let clock = Clock::start();
        thread::scope(|scope| {
            let (news, received) = mpsc::channel();
            let (cpus, allowed) = cpus_for(plan);
            let mut lines = Vec::new();
            for (thread, number) in (0..plan.threads_used()).zip(0..) {
                let (signal, go) = mpsc::channel();
                let (used, spares) = mpsc::channel();
                lines.push(Lines { go: signal, spares: used });
                let job = Job {
                    plan,
                    target: &self.target,
                    endpoints: &self.endpoints,
                    payloads: &self.payloads,
                    clock: &clock,
                    stop,
                    connections: connections_of(thread, plan),
                    cpu: cpus.as_ref().map(|cpus| cpus[number % cpus.len()]),
                    may_spin: plan.threads_used() < allowed,
                    go,
                    spares,
                    number,
                    news: news.clone(),
                };
                thread::Builder::new()
                    .name(format!("loadgen-{thread}"))
                    .spawn_scoped(scope, || worker::run(job))?;
            }
            // Now the news end when the last thread does.
            drop(news);
            self.wait_for_connections(&received, lines.len(), stop)?;
            if plan.adversaries.is_empty() {
                return self.conduct(&clock, &lines, &received, server, stop, observe);
            }
            let (begin, begun) = mpsc::channel();
            let adversaries = thread::Builder::new().spawn_scoped(scope, move || {
                let sessions = Sessions::new(plan.tls.as_ref(), &self.target);
                plan.adversaries.run(&self.endpoints, sessions, &begun)
            })?;
            // It cannot fail: the other end waits for it.
            let _ = begin.send(());
            let report = self.conduct(&clock, &lines, &received, server, stop, observe);
            drop(begin);
            let adversaries = adversaries.join().expect("that thread does not panic");
            report.map(|report| with_adversaries(report, adversaries))
        })
    }

    fn wait_for_connections(
        &self,
        received: &Receiver<(usize, News)>,
        threads: usize,
        stop: &Stop,
    ) -> Result<(), RunError> {
        let mut connections = 0;
        let mut error = None;
        let mut failed = 0;
        for (_, news) in received.iter().take(threads) {
            match news {
                News::Connected { open, first_error, failed_handshakes } => {
                    connections += open;
                    failed += failed_handshakes;
                    error = error.or(first_error);
                }
                News::Failed(error) => return Err(RunError::System(error)),
                _ => unreachable!("a thread first tells that it has connected"),
            }
        }
        if connections > 0 {
            return Ok(());
        }
        if stop.is_requested() {
            return Err(RunError::Stopped);
        }
        let tried: Vec<String> = self.endpoints.iter().map(ToString::to_string).collect();
        let (target, tried) = (self.target.clone(), tried.join(", "));
        let error = error.unwrap_or_default();
        Err(match failed {
            0 => RunError::NothingConnects { target, tried, error },
            _ => RunError::NotEncrypted { target, tried, error },
        })
    }

    /// Gives the signal to go and gathers all news until the last thread has finished.
    fn conduct(
        &self,
        clock: &Clock,
        lines: &[Lines],
        received: &Receiver<(usize, News)>,
        mut server: ServerWatch<'_>,
        stop: &Stop,
        observe: &mut dyn FnMut(&Progress),
    ) -> Result<Report, RunError> {
        let before = Cost::before(server.find(clock));
        // In closed loop the first requests are due when they are sent.
        let lead = if self.plan.rate == Rate::Max { Duration::ZERO } else { LEAD };
        let started_at = clock.after(clock.now(), lead);
        let warm_up = self.plan.ramp_up.saturating_add(self.plan.warm_up);
        let measured_from = clock.after(started_at, warm_up);
        let duration = self.plan.duration.unwrap_or(Duration::MAX);
        let timetable = Timetable::new(self.plan.rate, warm_up, duration);
        let wall_clock = SystemTime::now();
        let length = units::nanos(self.plan.interval);
        let load_ends_at = self.plan.duration.map(|time| clock.after(measured_from, time));
        let cuts = Cuts {
            load_begins_at: started_at,
            measuring_begins_at: measured_from,
            load_ends_at,
            length,
        };
        let assembly = Assembly::new(cuts, lines.len());
        let mut gathered = Gathered::new(assembly, lines.len(), server);
        if let Some(url) = &self.metrics {
            let probe = MetricsProbe::start(url, self.plan.interval, *clock, started_at)?;
            gathered.arena = Some(probe);
        }
        gathered.costs[0] = Some(before).filter(|_| warm_up.is_zero());
        for line in lines {
            let bounds = Bounds { warm_up_ends_at: measured_from, load_ends_at };
            // A thread that is gone has told why: its news are next.
            let _ = line.go.send(Start { bounds, cuts, timetable });
        }
        while gathered.efforts.len() < lines.len() {
            gathered.server.glance(clock);
            if gathered.costs[0].is_none() && clock.now() >= measured_from {
                gathered.costs[0] = Some(Cost::before(gathered.server.usage(clock)));
            }
            match received.recv_timeout(gathered.patience(clock, measured_from)) {
                Ok((_, News::Failed(error))) => {
                    // The other threads end at once, and with them the scope.
                    stop.request();
                    stop.request();
                    return Err(RunError::System(error));
                }
                Ok((_, News::LoadEnded { in_flight })) => {
                    gathered.loading -= 1;
                    gathered.in_flight += in_flight;
                    // Requests that time ends are in flight for a moment; a number of them may be,
                    // for long.
                    if gathered.loading == 0 && self.plan.duration.is_some() {
                        gathered.costs[1] = Some(Cost::after(&mut gathered.server, clock));
                    }
                }
                Ok((thread, news)) => gathered.take_in(thread, news, lines, observe),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let server = &mut gathered.server;
        gathered.costs[1].get_or_insert_with(|| Cost::after(server, clock));
        Ok(self.report(gathered, wall_clock, stop.urgency() != Urgency::None))
    }

    fn report(&self, gathered: Gathered, started_at: SystemTime, was_stopped: bool) -> Report {
        let Gathered { total, intervals, arena, in_flight, efforts, costs, server, .. } = gathered;
        let mut watch = server;
        let from = efforts.iter().map(|effort| effort.window.0).min().unwrap_or_default();
        let until = efforts.iter().map(|effort| effort.window.1).max().unwrap_or_default();
        let load = Duration::from_nanos(until.saturating_sub(from));
        let duration = match (self.plan.duration, self.plan.requests) {
            // What is measured was due in this time: its answers may come later.
            (Some(limit), _) if load >= limit => limit,
            (_, None) => load,
            // All may have been due at once: their number took until the last was answered.
            (_, Some(_)) => {
                Duration::from_nanos(until.max(total.last_echo_at).saturating_sub(from))
            }
        };
        let drain = total.last_echo_at.saturating_sub(from);
        let drain = Duration::from_nanos(drain).saturating_sub(duration);
        let sent = total.counts.sent();
        let is_telling = duration >= TELLING_TIME;
        let in_flight_mean: f64 = efforts.iter().map(|effort| effort.in_flight_mean).sum();
        // Each sample is what one connection held.
        let in_flight_bytes = in_flight_mean / f64::from(self.plan.connections)
            * (HEADER_BYTES as f64 + self.payloads.mean_payload_bytes());
        let unread_bytes = total.samples.unread_bytes as f64 / total.samples.count.max(1) as f64;
        let client = ClientUsage {
            // With less than a request per connection, what lies unread is a matter of chance.
            unread_share: (is_telling && in_flight_mean >= f64::from(self.plan.connections))
                .then(|| unread_bytes / in_flight_bytes),
            ..client_usage(&efforts, &costs, sent)
        };
        let server = ServerUsage {
            pid: self.probe.map(ServerProbe::pid),
            rss_peak_bytes: watch.rss_peak_bytes(),
            ..server_usage(&costs, sent)
        };
        let latency = total.times.latency.latency();
        let service = total.times.service.latency();
        let send_lag = total.times.send_lag.latency();
        let littles_law = (load >= STEADY_TIME).then(|| LittlesLaw {
            in_flight_mean,
            rate_times_service: total.counts.requests as f64 / duration.as_secs_f64()
                * (service.mean() / 1e9),
        });
        let lag_and_latency = match self.plan.rate {
            Rate::Max => None,
            _ => Some((send_lag.percentiles().p99, latency.percentiles().p99)),
        };
        let evidence = Evidence {
            client_busy: client.busy_share.filter(|_| is_telling),
            server_busy: server.busy_share,
            client_spin: client.spin_share.filter(|_| is_telling),
            client_stood_still: client.stood_still_share,
            lag_and_latency: lag_and_latency.filter(|_| is_telling),
            service_p50: (service.count() > 0).then(|| service.percentiles().p50),
            noise_floor: self.noise_floor,
            unread_share: client.unread_share,
            stolen_share: client.stolen_share.filter(|_| is_telling),
            littles_law,
            backlog: self.backlog(&total, in_flight, in_flight_mean, load, was_stopped),
        };
        let (verdict, mut reasons) = Verdict::of(&total.counts, &evidence);
        reasons.extend(given_up(&efforts));
        if let Some(how) = watch.end() {
            reasons.insert(0, format!("the server ended by itself ({how})"));
        } else if is_cost_lost(&costs) {
            reasons.push(LOST_COST.to_owned());
        }
        if self.plan.tls.as_ref().is_some_and(|tls| tls.options().accepts_any_certificate) {
            reasons.push(ANYBODY.to_owned());
        }
        let mut report = Report {
            started_at,
            plan: Plan { metrics: self.metrics.clone(), ..self.plan.clone() },
            are_threads_pinned: cpus_for(self.plan).0.is_some(),
            target: self.target.clone(),
            verdict,
            reasons,
            slo: Vec::new(),
            littles_law,
            duration,
            drain,
            counts: total.counts,
            latency,
            service,
            send_lag,
            unanswered_ages: total.unanswered_ages.map(|ages| ages.latency()).unwrap_or_default(),
            unsent_age_max: Duration::from_nanos(total.unsent_age_max),
            blocked: total.blocked,
            connects: Connects::of(&total.connects),
            earlier_connects: Connects::of(&total.earlier_connects),
            tls_session: total.session,
            intervals,
            arena: arena.map(MetricsProbe::finish).unwrap_or_default(),
            mean_payload_bytes: self.payloads.mean_payload_bytes(),
            noise_floor: self.noise_floor,
            client,
            server,
            adversaries: AdversaryReport::default(),
            first_error: total.first_error,
            first_warm_up_error: total.first_warm_up_error,
            was_stopped,
        };
        if let Some(slo) = &self.plan.slo {
            report.slo = slo.judge(&report);
        }
        report
    }

    /// What the server owed when the load ended. Nothing in closed loop.
    fn backlog(
        &self,
        total: &Tally,
        in_flight: u64,
        in_flight_mean: f64,
        load: Duration,
        was_stopped: bool,
    ) -> Option<Backlog> {
        let plan = self.plan;
        let load_s = load.as_secs_f64();
        let due = total.counts.sent() + total.counts.unsent;
        // Whatever the rate is in the end, a steady latency keeps in flight in proportion to it.
        let (late_s, end_to_mean) = match plan.rate {
            Rate::Constant(rate) => {
                let time_to_send = plan.requests.map(|requests| requests as f64 / rate);
                (load_s - time_to_send.unwrap_or(load_s), 1.0)
            }
            Rate::Ramp { from, to } if !was_stopped => (0.0, 2.0 * to / (from + to)),
            Rate::Max | Rate::Ramp { .. } => return None,
        };
        // A load that a number of requests ends goes on until they are sent, be it too late.
        let sent_late = due as f64 * (late_s / load_s).clamp(0.0, 1.0);
        let latency_min_s = total.times.latency.latency().histogram().min() as f64 / 1e9;
        let warm_up_s = plan.ramp_up.saturating_add(plan.warm_up).as_secs_f64();
        Some(Backlog {
            at_end: in_flight as f64 + total.counts.unsent as f64 + sent_late,
            mean: (in_flight_mean + total.blocked.total.as_secs_f64() / load_s) * end_to_mean,
            filling: backlog::filling(plan.rate.first(), latency_min_s, warm_up_s, load_s),
            due,
            load,
        })
    }
}

impl Cost {
    /// That before measuring, where the server was just looked at.
    fn before(server: Option<Seen>) -> Self {
        Self { client: clock::process_cpu(), server, machine: MachineTime::now() }
    }

    /// That after measuring. To look at the server is no part of it.
    fn after(server: &mut ServerWatch<'_>, clock: &Clock) -> Self {
        let (client, machine) = (clock::process_cpu(), MachineTime::now());
        Self { client, server: server.find(clock), machine }
    }
}

impl<'run> Gathered<'run> {
    fn new(assembly: Assembly, threads: usize, server: ServerWatch<'run>) -> Self {
        Self {
            total: Tally::new(),
            assembly,
            intervals: Vec::new(),
            shelf: Shelf::new(),
            arena: None,
            loading: threads,
            in_flight: 0,
            efforts: Vec::with_capacity(threads),
            server,
            costs: [None, None],
        }
    }

    /// How long to wait for news: not beyond the moment when measuring begins.
    fn patience(&self, clock: &Clock, measured_from: u64) -> Duration {
        match self.costs[0] {
            Some(_) => PATIENCE,
            None => PATIENCE.min(Duration::from_nanos(measured_from.saturating_sub(clock.now()))),
        }
    }

    fn take_in(
        &mut self,
        thread: usize,
        news: News,
        lines: &[Lines],
        observe: &mut dyn FnMut(&Progress),
    ) {
        match news {
            News::Interval(piece) => {
                self.total.add(&piece.tally);
                self.assembly.add(thread, piece);
            }
            News::Finished(effort) => {
                self.efforts.push(effort);
                self.assembly.finish(thread);
            }
            News::Connected { .. } | News::LoadEnded { .. } | News::Failed(_) => {}
        }
        while let Some(mut interval) = self.assembly.next() {
            if self.assembly.is_sliver(&interval) && self.add_to_the_last(&interval) {
                continue;
            }
            let arena = self.arena.as_ref().and_then(MetricsProbe::latest);
            let progress = Progress { elapsed: interval.end(), interval, arena };
            observe(&progress);
            interval = progress.interval;
            interval.shelve(&mut self.shelf);
            self.intervals.push(interval);
        }
        for (owner, tally) in self.assembly.spares() {
            // A thread that has finished needs none.
            let _ = lines[owner].spares.send(tally);
        }
    }
}

impl Gathered<'_> {
    /// Adds an interval that is too short to the one before it, if that has the same phase.
    fn add_to_the_last(&mut self, sliver: &Interval) -> bool {
        let last = self.intervals.last_mut().filter(|last| last.is_warm_up == sliver.is_warm_up);
        last.is_some_and(|last| {
            let is_added = last.absorb(sliver).is_ok();
            last.shelve(&mut self.shelf);
            is_added
        })
    }
}

/// The CPUs to which threads are pinned, if they are, and how many there are that may be used.
fn cpus_for(plan: &Plan) -> (Option<Vec<usize>>, u32) {
    let Ok(allowed) = sched_getaffinity(None) else {
        return (None, 1);
    };
    let count = allowed.count();
    let is_pinned = match plan.pin {
        Pin::Auto => plan.threads_used() < count,
        Pin::On => count > 0,
        Pin::Off => false,
    };
    // The last ones first: servers, and what interrupts, tend to be on the first.
    let cpus = (0..CpuSet::MAX_CPU).rev().filter(|&cpu| allowed.is_set(cpu));
    (is_pinned.then(|| cpus.collect()), count)
}

/// The connections of one thread.
fn connections_of(thread: u32, plan: &Plan) -> Range<u32> {
    let start = |thread: u32| {
        let before = u64::from(plan.connections) * u64::from(thread);
        let start = before / u64::from(plan.threads_used());
        u32::try_from(start).expect("there are no more than connections")
    };
    start(thread)..start(thread + 1)
}

/// Adds what the clients did that behave badly, or why nobody knows it.
fn with_adversaries(mut report: Report, adversaries: io::Result<AdversaryReport>) -> Report {
    match adversaries {
        Ok(adversaries) => report.adversaries = adversaries,
        Err(error) => report.reasons.push(format!(
            "the slow and the resetting clients stopped, and what they did is unknown: {error}"
        )),
    }
    report
}

/// How many replies were still awaited when the generator stopped waiting, and for how long it did.
fn given_up(efforts: &[Effort]) -> Option<String> {
    let count: u64 = efforts.iter().map(|effort| effort.given_up).sum();
    let waited = efforts.iter().filter(|effort| effort.given_up > 0);
    let waited = waited.map(|effort| effort.drained_for).max()?;
    Some(format!(
        "{} had no reply {} after the load ended, when the generator stopped waiting; \
         --drain-timeout waits longer",
        match count {
            1 => "1 request".to_owned(),
            _ => format!("{} requests", units::grouped(count)),
        },
        units::time_of(waited)
    ))
}

fn client_usage(efforts: &[Effort], costs: &[Option<Cost>; 2], sent: u64) -> ClientUsage {
    let windows: u64 = efforts.iter().map(|effort| effort.window.1 - effort.window.0).sum();
    let share = |spent: fn(&Effort) -> Duration| {
        let spent: Duration = efforts.iter().map(spent).sum();
        (windows > 0).then(|| spent.as_nanos() as f64 / windows as f64)
    };
    let (cpu, stolen_share) = match costs {
        [Some(before), Some(after)] => {
            let machine = before.machine.zip(after.machine);
            let stolen = machine.and_then(|(first, last)| last.stolen_share_since(&first));
            (Some(after.client.saturating_sub(before.client)), stolen)
        }
        _ => (None, None),
    };
    let tls: tls::Cost = efforts.iter().map(|effort| effort.tls).sum();
    let ever: tls::Cost = efforts.iter().map(|effort| effort.tls_ever).sum();
    ClientUsage {
        unread_share: None,
        stolen_share,
        cpu_us_per_request: cpu.and_then(|cpu| micros_per_request(cpu, sent)),
        tls_cpu_us_per_request: (ever.handshake_count > 0)
            .then(|| micros_per_request(tls.total(), sent))
            .flatten(),
        tls_cpu_us_per_handshake: micros_per_request(ever.handshakes, ever.handshake_count),
        busy_share: share(|effort| effort.cpu),
        spin_share: share(|effort| effort.spun),
        stood_still_share: share(|effort| effort.stood_still),
    }
}

/// What the server used between two looks at it, but for its memory.
fn server_usage(costs: &[Option<Cost>; 2], sent: u64) -> ServerUsage {
    let Some((first, last)) = server_seen(costs) else {
        return ServerUsage::default();
    };
    let cpu = last.usage.cpu_since(&first.usage);
    let switches = last.usage.switches_since(&first.usage);
    let time = Duration::from_nanos(last.at - first.at);
    let possible = time.as_secs_f64() * f64::from(last.usage.cpus);
    let busy_share = cpu.map(|cpu| cpu.as_secs_f64() / possible);
    ServerUsage {
        pid: None,
        cpu_us_per_request: cpu.and_then(|cpu| micros_per_request(cpu, sent)),
        rss_peak_bytes: None,
        busy_share: busy_share.filter(|_| time >= TELLING_TIME),
        voluntary_switches: switches.map(|(voluntary, _)| voluntary),
        involuntary_switches: switches.map(|(_, involuntary)| involuntary),
    }
}

/// Whether the server was there all the time, and still nobody knows what it used.
fn is_cost_lost(costs: &[Option<Cost>; 2]) -> bool {
    server_seen(costs).is_some_and(|(first, last)| last.usage.cpu_since(&first.usage).is_none())
}

/// The server at both ends. `None` if it has not been seen since the first.
fn server_seen(costs: &[Option<Cost>; 2]) -> Option<(&Seen, &Seen)> {
    let [before, after] = costs.each_ref().map(|cost| cost.as_ref()?.server.as_ref());
    before.zip(after).filter(|(before, after)| before.at < after.at)
}

fn micros_per_request(cpu: Duration, requests: u64) -> Option<f64> {
    (requests > 0).then(|| cpu.as_secs_f64() * 1e6 / requests as f64)
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use super::*;
    use crate::{load::tally::Errors, plan::adversaries::Adversaries};

    /// The address of a server that echoes.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || io::copy(&mut stream.try_clone().unwrap(), &mut stream));
            }
        });
        address
    }

    /// An address at which nobody listens: no other test binds to this host.
    fn nobody() -> SocketAddr {
        TcpListener::bind("127.77.0.2:0").unwrap().local_addr().unwrap()
    }

    fn plan(requests: u64) -> Plan {
        Plan {
            connections: 1,
            requests: Some(requests),
            duration: None,
            warm_up: Duration::ZERO,
            ..Plan::for_target("server.test:9000".parse().unwrap())
        }
    }

    /// Runs a plan against a server whose name has these addresses.
    fn run_at(addresses: &[SocketAddr], plan: &Plan) -> Result<Report, RunError> {
        let site = Site {
            plan,
            target: plan.target.clone().unwrap(),
            metrics: None,
            endpoints: addresses.iter().copied().map(Endpoint::Tcp).collect(),
            payloads: Payloads::new(plan.seed, plan.connections, plan.sizes.clone()),
            probe: None,
            noise_floor: None,
        };
        site.run(None, &Stop::new(), &mut |_| {})
    }

    #[test]
    fn a_server_at_any_address_of_its_name_is_loaded_without_an_error() {
        let server = echo();
        let reconnect_every = Some("3".parse().unwrap());
        let plan = Plan { connections: 2, reconnect_every, ..plan(20) };
        for addresses in [vec![nobody(), server], vec![nobody(), nobody(), server, nobody()]] {
            let report = run_at(&addresses, &plan).unwrap();
            assert_eq!(report.counts.requests, 20, "{report:?}");
            assert!(report.counts.planned_reconnects > 0, "{report:?}");
            assert_eq!((report.counts.errors, &report.first_error), (Errors::default(), &None));
        }
    }

    #[test]
    fn slow_and_resetting_clients_go_to_the_address_of_the_server_too() {
        let adversaries = Adversaries { slow_readers: 2, slow_senders: 2, resets: 4 };
        let duration = Some(Duration::from_secs(2));
        let plan = Plan { adversaries, duration, requests: None, ..plan(1) };
        let report = run_at(&[nobody(), echo()], &plan).unwrap().adversaries;
        for kind in [report.slow_readers, report.slow_senders, report.resets] {
            assert!(kind.connects > 0 && kind.connect_errors == 0, "{report:?}");
        }
    }

    #[test]
    fn adversaries_that_fail_leave_the_report_of_the_others() {
        let plan = Plan { target: Some(echo().into()), ..plan(10) };
        let report = run(&plan, &Stop::new(), &mut |_| {}).unwrap();
        let report = with_adversaries(report, Err(io::Error::other("no more files")));
        assert_eq!(report.counts.requests, 10);
        assert!(report.reasons.iter().any(|reason| reason.contains("no more files")));
    }

    #[test]
    fn connections_are_shared_evenly_among_the_threads() {
        for (connections, threads) in [(1, 1), (7, 3), (10, 7), (u32::MAX, 5), (3, 8)] {
            let target = "127.0.0.1:1".parse().unwrap();
            let plan = Plan { connections, threads, ..Plan::for_target(target) };
            let parts: Vec<_> =
                (0..plan.threads_used()).map(|thread| connections_of(thread, &plan)).collect();
            assert_eq!((parts[0].start, parts.last().unwrap().end), (0, connections));
            assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start));
            let lengths = parts.iter().map(|part| part.end - part.start);
            assert!(lengths.clone().max().unwrap() - lengths.min().unwrap() <= 1);
        }
    }
}
