//! The server while it is loaded: what it has used, and whether it is still there.
//!
//! A server that has ended tells nothing any more. So it is glanced at from time to time, and what
//! was seen last stands.

use std::time::Duration;

use crate::{
    clock::Clock,
    server::{
        command::ServerCommand,
        probe::{ServerProbe, Usage},
    },
};

/// How long between two glances. Each reads two small files per process.
const GLANCE_PERIOD: Duration = Duration::from_millis(100);

/// What is known of a server.
#[derive(Debug)]
pub(crate) struct ServerWatch<'run> {
    probe: Option<ServerProbe>,
    /// The server, if the run has started it.
    command: Option<&'run mut ServerCommand>,
    last: Option<Seen>,
    next_glance: u64,
    rss_peak_bytes: Option<u64>,
    end: Option<String>,
}

/// What a server had used at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) at: u64,
    pub(crate) usage: Usage,
}

impl<'run> ServerWatch<'run> {
    pub(crate) fn new(
        probe: Option<ServerProbe>,
        command: Option<&'run mut ServerCommand>,
    ) -> Self {
        Self { probe, command, last: None, next_glance: 0, rss_peak_bytes: None, end: None }
    }

    /// Takes a glance if it is time.
    pub(crate) fn glance(&mut self, clock: &Clock) {
        let now = clock.now();
        if now < self.next_glance {
            return;
        }
        self.next_glance = clock.after(now, GLANCE_PERIOD);
        if let (Some(probe), Some(last)) = (self.probe, &self.last) {
            let usage = probe.glance(&last.usage);
            self.note(clock, usage);
        }
        self.look_for_end();
    }

    /// Finds all of it and reads what it has used, which is what was seen last if it has ended.
    /// That takes a while: it is no thing to do under load.
    pub(crate) fn find(&mut self, clock: &Clock) -> Option<Seen> {
        let usage = self.probe.and_then(ServerProbe::usage);
        self.note(clock, usage);
        self.last.clone()
    }

    /// Reads what it has used, of those parts that were found and what has come of them.
    pub(crate) fn usage(&mut self, clock: &Clock) -> Option<Seen> {
        if let (Some(probe), Some(last)) = (self.probe, &self.last) {
            let usage = probe.usage_after(&last.usage);
            self.note(clock, usage);
        }
        self.last.clone()
    }

    /// The largest resident set that was seen.
    pub(crate) fn rss_peak_bytes(&self) -> Option<u64> {
        self.rss_peak_bytes
    }

    /// How it ended, if it did so by itself.
    pub(crate) fn end(&mut self) -> Option<String> {
        self.look_for_end();
        self.end.clone()
    }

    fn note(&mut self, clock: &Clock, usage: Option<Usage>) {
        let Some(usage) = usage else { return };
        self.rss_peak_bytes = self.rss_peak_bytes.max(usage.rss_peak_bytes());
        self.last = Some(Seen { at: clock.now(), usage });
    }

    fn look_for_end(&mut self) {
        if self.end.is_some() {
            return;
        }
        self.end = match (&mut self.command, &self.last) {
            (Some(command), _) => command.end(),
            (None, Some(last)) if ServerProbe::has_ended(&last.usage) => {
                let pid = self.probe.map(ServerProbe::pid);
                pid.map(|pid| format!("process {pid} is no longer there"))
            }
            (None, _) => None,
        };
    }
}
