//! When the process ends: the first signal drains the server, the second ends everything at once.

use std::{io, process};

use arena_echo::Server;
use tokio::{
    select,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{log::Log, service::Manager};

/// Cancels `stop` at the first SIGINT or SIGTERM. The second one exits with 128 plus its number, as
/// shells report it.
pub(crate) fn on_signals(stop: CancellationToken, log: Log) -> io::Result<()> {
    let mut signals = Signals::new()?;
    tokio::spawn(async move {
        signals.next().await;
        info!("stopping; a second signal ends at once");
        stop.cancel();

        let kind = signals.next().await;
        warn!("ending at once");
        log.finish_at_once();
        process::exit(128 + kind.as_raw_value());
    });
    Ok(())
}

/// Tells the service manager when the server begins to stop.
pub(crate) async fn tell(manager: &Manager, server: &Server, stop: &CancellationToken) {
    stop.cancelled().await;
    let status = format!("draining {} connections", server.connections());
    manager.stopping(&status, server.limits().drain_timeout);
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let interrupt = signal(SignalKind::interrupt())?;
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { interrupt, terminate })
    }

    async fn next(&mut self) -> SignalKind {
        select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
        }
    }
}
