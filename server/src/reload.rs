//! What SIGHUP does: the configuration is read again, and what can be taken over is.

use std::io;

use arena_echo::{Config, Server};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use crate::{
    descriptors,
    log::LogFilter,
    service,
    settings::{CommandLine, Settings},
};

/// Reads the configuration again whenever SIGHUP comes.
pub(crate) fn on_hangup(
    command_line: CommandLine,
    mut settings: Settings,
    server: Server,
    filter: LogFilter,
) -> io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            service::reloading();
            let status = match Settings::load(&command_line) {
                Ok(new) => take_over(&mut settings, &new, &server, &filter),
                Err(faults) => {
                    faults.lines().iter().for_each(|fault| error!("{fault}"));
                    "not reloaded: the configuration has errors, and nothing has changed"
                }
            };
            info!("{status}");
            service::ready(status);
        }
    });
    Ok(())
}

/// Takes over what can be, and says what cannot.
fn take_over(
    settings: &mut Settings,
    new: &Settings,
    server: &Server,
    filter: &LogFilter,
) -> &'static str {
    let limits = new.config.limits();
    let max_connections = descriptors::raise_limit(new);
    // Not with the new sizes: those wait for a restart.
    let config = settings.config.with_limits(limits);
    if let Err(error) = server.reload(&Config { max_connections, ..config }) {
        new.faults(&error).lines().iter().for_each(|fault| error!("{fault}"));
        return "not reloaded: the configuration does not work with the running server";
    }
    filter.set(&new.log_filter);
    for change in settings.changes(new) {
        if change.is_reloadable() {
            info!("{change}");
        } else {
            warn!("{change}: only after a restart");
        }
    }
    settings.config = config;
    settings.log_filter.clone_from(&new.log_filter);
    "reloaded"
}
