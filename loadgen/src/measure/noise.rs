//! The noise floor: what this machine adds to every time that is measured on it, without a server.
//!
//! A run takes a short look before it starts anything, and holds its send lag and its latency
//! against it; `loadgen doctor` takes a long one. Both see the machine while it is idle: what other
//! programs take away during a run shows elsewhere, as send lag or as stolen time.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use mio::{Events, Poll, Token};

use crate::{
    alarm::Alarm,
    clock::Clock,
    measure::latency::{Latency, Percentiles, Recorder},
};

/// A pause that each wake-up asks for.
pub(crate) const WAKE_UP_PAUSE: Duration = Duration::from_micros(200);
/// How often a run tries each thing: a twentieth of a second altogether, where nothing is late.
const WAKE_UPS: u32 = 100;
const ROUND_TRIPS: u32 = 1_000;

/// What a machine adds by itself, as it was just before a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NoiseFloor {
    /// How late a thread wakes up that asked to sleep until a moment, in nanoseconds.
    pub wake_up_late: Percentiles,
    /// How long a byte takes to another thread and back over the loopback, in nanoseconds.
    pub round_trip: Percentiles,
}

impl NoiseFloor {
    /// Takes a short look. `None` where the system does not allow it.
    pub(crate) fn measure(clock: &Clock) -> Option<Self> {
        Some(Self {
            wake_up_late: wake_up_lateness(clock, WAKE_UPS).ok()?.percentiles(),
            round_trip: round_trip(clock, ROUND_TRIPS).ok()?.percentiles(),
        })
    }
}

/// How late the generator's own alarm goes off.
pub(crate) fn wake_up_lateness(clock: &Clock, times: u32) -> io::Result<Latency> {
    let mut poll = Poll::new()?;
    let alarm = Alarm::new(poll.registry(), Token(0))?;
    let mut events = Events::with_capacity(1);
    let mut lateness = Recorder::new();
    for _ in 0..times {
        let due_at = clock.after(clock.now(), WAKE_UP_PAUSE);
        alarm.set(WAKE_UP_PAUSE)?;
        poll.poll(&mut events, None)?;
        lateness.record(clock.now().saturating_sub(due_at), 1);
    }
    Ok(lateness.latency())
}

/// How long a byte takes to another thread and back, over the network's loopback.
pub(crate) fn round_trip(clock: &Clock, times: u32) -> io::Result<Latency> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let echo = thread::Builder::new().spawn(move || {
        let mut byte = [0];
        while far.read_exact(&mut byte).is_ok() && far.write_all(&byte).is_ok() {}
    })?;
    let mut taken = Recorder::new();
    for _ in 0..times {
        let sent_at = clock.now();
        near.write_all(&[1])?;
        near.read_exact(&mut [0])?;
        taken.record(clock.now() - sent_at, 1);
    }
    drop(near);
    echo.join().expect("that thread does not panic");
    Ok(taken.latency())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_look_finds_a_floor() {
        let floor = NoiseFloor::measure(&Clock::start()).unwrap();
        assert!(floor.round_trip.p50 > 0 && floor.wake_up_late.max > 0, "{floor:?}");
    }
}
