//! What the service manager is told (systemd's `sd_notify`). Without one, nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::interval;
use tracing::debug;

/// What ending may take beyond the drain timeout.
const ENDING: Duration = Duration::from_secs(5);

/// Says that all listeners accept, or that the configuration is read again.
pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Says that the configuration is being read again.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => debug!("the service manager is not told of the reload: {error}"),
    }
}

/// Says that the server drains, and how long that may take.
pub(crate) fn stopping(status: &str, drain_timeout: Duration) {
    let within = (drain_timeout + ENDING).as_micros();
    let within = u32::try_from(within).unwrap_or(u32::MAX);
    tell(&[
        NotifyState::Stopping,
        NotifyState::Status(status),
        NotifyState::ExtendTimeoutUsec(within),
    ]);
}

/// Shows the service manager, if it asks for that, that tasks are served: twice as often as it
/// wants to see it.
pub(crate) fn keep_watchdog_fed() {
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    tokio::spawn(async move {
        let mut ticks = interval((period / 2).max(Duration::from_millis(1)));
        loop {
            ticks.tick().await;
            tell(&[NotifyState::Watchdog]);
        }
    });
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!("the service manager is not told: {error}");
    }
}
