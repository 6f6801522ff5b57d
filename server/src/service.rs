//! What the service manager is told (systemd's `sd_notify`). Without one, nothing happens.

use std::{
    env,
    fmt::Write as _,
    io::{self, Write},
    str,
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::time::interval;
use tracing::debug;

use crate::lines::Lines;

/// What ending may take beyond the drain timeout.
const ENDING: Duration = Duration::from_secs(5);

/// How long the end waits for a manager that does not read what it is told.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Who started this process and wants to know how it is, if somebody does.
///
/// It is told by a thread of its own: a manager that does not read holds up nobody else.
#[derive(Clone, Debug)]
pub(crate) struct Manager(Option<Lines>);

/// Sends each write as a message.
struct Messages;

impl Manager {
    /// The one that the environment names.
    ///
    /// # Errors
    ///
    /// That the system has no thread for it, with what to change.
    pub(crate) fn of_this_process() -> Result<Self, String> {
        if env::var_os("NOTIFY_SOCKET").is_none() {
            return Ok(Self(None));
        }
        // Whoever does not read learns nothing of what was lost either.
        Lines::to(Messages, "service", |_| ()).map(|messages| Self(Some(messages)))
    }

    /// Says that all listeners accept, or that the configuration is read again.
    pub(crate) fn ready(&self, status: &str) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// Says that the configuration is being read again.
    pub(crate) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(error) => debug!("the service manager is not told of the reload: {error}"),
        }
    }

    /// Says that the server drains, and how long that may take.
    pub(crate) fn stopping(&self, status: &str, drain_timeout: Duration) {
        let within = (drain_timeout + ENDING).as_micros();
        let within = u32::try_from(within).unwrap_or(u32::MAX);
        self.tell(&[
            NotifyState::Stopping,
            NotifyState::Status(status),
            NotifyState::ExtendTimeoutUsec(within),
        ]);
    }

    /// Shows the service manager, if it asks for that, that tasks are served: twice as often as it
    /// wants to see it.
    pub(crate) fn keep_watchdog_fed(&self) {
        let Some(period) = sd_notify::watchdog_enabled() else { return };
        let manager = self.clone();
        tokio::spawn(async move {
            let mut ticks = interval((period / 2).max(Duration::from_millis(1)));
            loop {
                ticks.tick().await;
                manager.tell(&[NotifyState::Watchdog]);
            }
        });
    }

    /// Waits until the manager has been told everything, unless it does not read.
    pub(crate) fn finish(&self) {
        if let Some(messages) = &self.0 {
            messages.finish(LAST_WORDS);
        }
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        let Some(messages) = &self.0 else { return };
        let mut message = String::new();
        for (index, state) in states.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            let _ = write!(message, "{separator}{state}");
        }
        messages.push(&message);
    }
}

impl Write for Messages {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        let text = str::from_utf8(message).map_err(io::Error::other)?;
        if let Err(error) = sd_notify::notify(&[NotifyState::Custom(text)]) {
            debug!("the service manager is not told: {error}");
        }
        Ok(message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
