//! What SIGHUP does: the configuration is read again, and what can be taken over is.

use std::io;

use arena_echo::{Config, Server};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use crate::{
    descriptors,
    log::Log,
    service,
    settings::{CommandLine, Faults, Settings},
};

/// A server that runs, and what can change about it.
#[derive(Debug)]
pub(crate) struct Running {
    /// How to read the configuration again.
    pub(crate) command_line: CommandLine,
    /// What is in effect.
    pub(crate) settings: Settings,
    pub(crate) server: Server,
    pub(crate) log: Log,
}

/// Reads the configuration again whenever SIGHUP comes. The service manager is told `status` if
/// nothing is wrong with it.
pub(crate) fn on_hangup(mut running: Running, status: String) -> io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            service::reloading();
            match running.reload() {
                Ok(()) => {
                    info!("reload: done");
                    service::ready(&status);
                }
                Err(faults) => {
                    faults.lines().iter().for_each(|fault| error!("reload: {fault}"));
                    error!("reload: nothing has changed, because of these errors");
                    service::ready(&format!("{}; the last reload failed", status));
                }
            }
        }
    });
    Ok(())
}

impl Running {
    /// Takes over what can be, and says what cannot.
    fn reload(&mut self) -> Result<(), Faults> {
        let new = Settings::load(&self.command_line)?;
        // Not with the new sizes: those wait for a restart.
        let config = self.settings.config.with_limits(new.config.limits());
        let max_connections = descriptors::raise_limit(&new);
        let reloaded = self.server.reload(&Config { max_connections, ..config });
        reloaded.map_err(|error| new.faults(&error))?;
        self.log.set_filter(&new.log_filter);
        if let (Some(encryption), Some(new)) = (&self.settings.encryption, &new.encryption) {
            encryption.replace(new);
        }

        for change in self.settings.changes(&new) {
            if change.is_reloadable() {
                info!("reload: {change}");
            } else {
                warn!("reload: {change}: only after a restart");
            }
        }
        self.settings.config = config;
        self.settings.log_filter = new.log_filter;
        if self.settings.encryption.is_some() && new.encryption.is_some() {
            self.settings.tls_paths = new.tls_paths;
        }
        Ok(())
    }
}
