//! What SIGHUP does: the configuration is read again, and what can be taken over is.

use std::{io, time::SystemTime};

use arena_echo::{Config, Server};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    descriptors,
    files::{FileThread, ReadFile},
    log::Log,
    service::Manager,
    settings::{CommandLine, Encryption, Faults, Settings},
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
    pub(crate) manager: Manager,
    pub(crate) files: FileThread,
}

/// Reads the configuration again whenever SIGHUP comes before `stop`. The service manager is told
/// `status` if nothing is wrong with it.
pub(crate) fn on_hangup(
    mut running: Running,
    status: String,
    stop: CancellationToken,
) -> io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            if stop.is_cancelled() {
                warn!("reload: nothing is read, because the server is ending");
                continue;
            }
            running.manager.reloading();
            let Some(reloaded) = stop.run_until_cancelled(running.reload()).await else {
                warn!("reload: given up, because the server is ending");
                continue;
            };
            match reloaded {
                Ok(()) => {
                    info!("reload: done");
                    running.manager.ready(&status);
                }
                Err(faults) => {
                    faults.lines().iter().for_each(|fault| error!("reload: {fault}"));
                    error!("reload: nothing has changed, because of these errors");
                    running.manager.ready(&format!("{}; the last reload failed", status));
                }
            }
        }
    });
    Ok(())
}

/// Says when the certificate is valid with which connections begin from now on.
pub(crate) fn log_certificate(settings: &Settings) {
    let Some(path) = &settings.tls_paths.cert else { return };
    let encryption = settings.encryption.as_ref();
    let Some(valid_until) = encryption.and_then(Encryption::valid_until) else { return };
    let valid_from = encryption.and_then(Encryption::valid_from);
    let (path, end) = (path.display(), humantime::format_rfc3339_seconds(valid_until));
    let now = SystemTime::now();
    if let Some(start) = valid_from.filter(|start| *start > now) {
        let start = humantime::format_rfc3339_seconds(start);
        warn!(
            "{path}: the certificate is valid only from {start} until {end}: peers will \
             refuse it before that"
        );
    } else if valid_until < now {
        warn!("{path}: the certificate has expired, {end}: peers will refuse it");
    } else {
        info!("{path}: the certificate is valid until {end}");
    }
}

impl Running {
    /// Reads the configuration again, and takes it over.
    ///
    /// # Cancel safety
    ///
    /// Nothing is taken over if the future is dropped.
    async fn reload(&mut self) -> Result<(), Faults> {
        let command_line = self.command_line.clone();
        let load = move |read: ReadFile<'_>| Settings::load(&command_line, read);
        match self.files.run(load).await {
            Ok(loaded) => self.take_over(loaded?),
            Err(late) => Err(self.settings.fault(late)),
        }
    }

    /// Takes over what can be, and says what cannot.
    fn take_over(&mut self, new: Settings) -> Result<(), Faults> {
        new.warnings().iter().for_each(|warning| warn!("reload: {warning}"));
        // Not with the new sizes: those wait for a restart.
        let config = self.settings.config.with_limits(new.config.limits());
        let max_connections = descriptors::raise_limit(&new);
        let reloaded = self.server.reload(&Config { max_connections, ..config });
        reloaded.map_err(|error| new.faults(&error))?;
        self.log.set_filter(&new.log_filter);
        if let (Some(encryption), Some(new)) = (&self.settings.encryption, &new.encryption) {
            encryption.replace(new);
        }
        if self.settings.encryption.is_some() {
            log_certificate(&new);
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
