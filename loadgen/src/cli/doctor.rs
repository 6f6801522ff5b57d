//! What this machine itself adds to every figure: the noise floor, without any server.
//!
//! Whoever measures less than this measures the machine. A run looks at the same things for a
//! moment and says so itself: see [`noise`].

use std::{
    io, thread,
    time::{Duration, Instant},
};

use rustix::thread::sched_getaffinity;

use crate::{
    clock::Clock,
    console::{self, COULD_NOT_RUN},
    measure::{
        latency::{Latency, Recorder},
        noise::{self, WAKE_UP_PAUSE},
    },
    server::probe::MachineTime,
    tls::Price,
    units,
};

/// How often each thing is tried.
const CLOCK_READS: u32 = 1_000_000;
const WAKE_UPS: u32 = 300;
const ROUND_TRIPS: u32 = 5_000;
/// How long a thread looks for pauses that it did not ask for.
const LOOK_OUT: Duration = Duration::from_secs(1);
/// A gap between two looks at the clock that is no longer than this is not a pause.
const PAUSE_MIN: Duration = Duration::from_micros(5);

/// What was found.
#[derive(Debug)]
struct Findings {
    cpus: u32,
    clock_read: Duration,
    /// How late an alarm and the sleep of a thread wake up.
    alarm_lateness: Latency,
    sleep_lateness: Latency,
    round_trip: Latency,
    /// How long a thread stood still that wanted to go on.
    pauses: Latency,
    stolen_share: Option<f64>,
    /// What TLS costs the generator.
    tls: Price,
}

/// Measures and prints. Returns the exit code.
pub(crate) fn main() -> u8 {
    match Findings::gather() {
        Ok(findings) => console::print(&findings.to_text()),
        Err(error) => {
            console::complain(format_args!("cannot examine this machine: {error}"));
            COULD_NOT_RUN
        }
    }
}

impl Findings {
    fn gather() -> io::Result<Self> {
        let before = MachineTime::now();
        let clock = Clock::start();
        let pauses = pauses(&clock);
        let after = MachineTime::now();
        Ok(Self {
            cpus: sched_getaffinity(None)?.count(),
            clock_read: clock_read(&clock),
            alarm_lateness: noise::wake_up_lateness(&clock, WAKE_UPS)?,
            sleep_lateness: sleep_lateness(&clock),
            round_trip: noise::round_trip(&clock, ROUND_TRIPS)?,
            pauses,
            stolen_share: before.zip(after).and_then(|(b, a)| a.stolen_share_since(&b)),
            tls: Price::find()?,
        })
    }

    fn to_text(&self) -> String {
        let times = |latency: &Latency| {
            let percentiles = latency.percentiles();
            let [p50, p99, max] =
                [percentiles.p50, percentiles.p99, percentiles.max].map(units::time);
            format!("p50 {p50}, p99 {p99}, max {max}")
        };
        let pauses = match self.pauses.count() {
            0 => "none".to_owned(),
            count => format!("{} in a second, {}", units::grouped(count), times(&self.pauses)),
        };
        let stolen = self.stolen_share.map_or_else(
            || "unknown".to_owned(),
            |share| format!("{:.1} % of the machine's time", share * 100.0),
        );
        let floor = self.round_trip.percentiles();
        let lag = self.alarm_lateness.percentiles().p99;
        format!(
            "CPUs         {}\n\
             clock        {} per look\n\
             alarms       late by {}\n\
             sleeps       late by {}\n\
             loopback     round trip {}\n\
             pauses       {pauses}\n\
             stolen       {stolen}\n\
             noise floor  p50 {}, p99 {}: what is near it is this machine, not the server\n\
             send lag     expect a p99 of {} in open loop at low rates\n\
             TLS          takes the generator {} of CPU per request of 64 B, {} of 16 KiB,\n\
             {:13}{} per full handshake, {} per resumed one\n",
            self.cpus,
            units::time_of(self.clock_read),
            times(&self.alarm_lateness),
            times(&self.sleep_lateness),
            times(&self.round_trip),
            units::time(floor.p50),
            units::time(floor.p99),
            units::time(lag),
            units::time_of(self.tls.small),
            units::time_of(self.tls.large),
            "",
            units::time_of(self.tls.full),
            units::time_of(self.tls.resumed),
        )
    }
}

fn clock_read(clock: &Clock) -> Duration {
    let started = Instant::now();
    for _ in 0..CLOCK_READS {
        std::hint::black_box(clock.now());
    }
    started.elapsed() / CLOCK_READS
}

/// How long a thread stands still that does nothing but look at the clock.
fn pauses(clock: &Clock) -> Latency {
    let mut pauses = Recorder::new();
    let pause_min = units::nanos(PAUSE_MIN);
    let end = clock.after(clock.now(), LOOK_OUT);
    let mut last = clock.now();
    while last < end {
        let now = clock.now();
        if now - last > pause_min {
            pauses.record(now - last, 1);
        }
        last = now;
    }
    pauses.latency()
}

/// How late an ordinary sleep ends, which the kernel may prolong by the timer slack.
fn sleep_lateness(clock: &Clock) -> Latency {
    let mut lateness = Recorder::new();
    for _ in 0..WAKE_UPS {
        let due_at = clock.after(clock.now(), WAKE_UP_PAUSE);
        thread::sleep(WAKE_UP_PAUSE);
        lateness.record(clock.now().saturating_sub(due_at), 1);
    }
    lateness.latency()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_is_told() {
        let findings = Findings::gather().unwrap();
        assert!(findings.cpus >= 1);
        assert_eq!(findings.round_trip.count(), u64::from(ROUND_TRIPS));
        assert!(findings.round_trip.percentiles().p50 > 0);
        let text = findings.to_text();
        let names =
            ["clock", "alarms", "sleeps", "loopback", "pauses", "stolen", "noise floor", "TLS"];
        for name in names {
            assert!(text.contains(name), "{name} is not in:\n{text}");
        }
    }
}
