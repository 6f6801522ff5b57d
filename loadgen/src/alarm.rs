//! Wakes a poll at a moment, exact to the timer's interrupt: timeouts of a poll itself are whole
//! milliseconds.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use mio::{Interest, Registry, Token, unix::SourceFd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// A timer that a poll listens to.
#[derive(Debug)]
pub(crate) struct Alarm {
    timer: OwnedFd,
}

impl Alarm {
    /// Makes one that is not set. When it goes off there is an event for `token`.
    pub(crate) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self { timer })
    }

    /// Sets it, once. What it was set to before no longer counts.
    pub(crate) fn set(&self, pause: Duration) -> io::Result<()> {
        // Zero would mean: never.
        let pause = pause.max(Duration::from_nanos(1));
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let pause = Timespec::try_from(pause).map_err(|_| io::ErrorKind::InvalidInput)?;
        let setting = Itimerspec { it_interval: zero, it_value: pause };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &setting)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use mio::{Events, Poll};

    use super::*;

    #[test]
    fn an_alarm_wakes_a_poll_as_often_as_it_is_set_and_never_early() {
        let mut poll = Poll::new().unwrap();
        let alarm = Alarm::new(poll.registry(), Token(7)).unwrap();
        let mut events = Events::with_capacity(4);
        for pause in [300, 100, 0, 200].map(Duration::from_micros) {
            let started = Instant::now();
            alarm.set(pause).unwrap();
            poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
            assert!(started.elapsed() >= pause);
            assert!(events.iter().all(|event| event.token() == Token(7)));
            assert!(!events.is_empty());
        }
    }
}
