//! `Server`: built from a configuration, runs on a listener, drains when told to stop.

use std::{future::Future, sync::Arc};

use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    budget::Budget,
    config::{Config, ConfigError},
    connection::{self, Shared},
    listener,
    pool::MemoryMetrics,
};

/// An echo server and its memory.
///
/// A clone is another handle to the same server.
#[derive(Clone, Debug)]
pub struct Server {
    shared: Arc<Shared>,
}

impl Server {
    /// Checks the configuration and reserves the memory.
    ///
    /// # Errors
    ///
    /// Every reason why the configuration cannot work.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        ConfigError::check(config.problems())?;
        let budget =
            Budget::new(config).map_err(|error| ConfigError::unbuildable(config, error))?;
        info!("memory: {}", budget.plan());
        Ok(Self { shared: Arc::new(Shared { budget, config: *config }) })
    }

    /// Takes a snapshot of the memory.
    pub fn memory_metrics(&self) -> MemoryMetrics {
        self.shared.budget.metrics()
    }

    /// Serves connections from `listener` until `stop` is cancelled and they have ended.
    ///
    /// Then no more are accepted, everything that has arrived is answered, and what takes longer
    /// than the drain timeout is cut off.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the listener and cuts all connections off.
    pub async fn run(&self, listener: TcpListener, stop: CancellationToken) {
        let connections = TaskTracker::new();
        let cut = CancellationToken::new();
        let _cut_when_dropped = cut.clone().drop_guard();

        let max_connections = self.shared.config.max_connections;
        let serve = |stream| self.serve(stream, &stop, &cut);
        listener::accept(listener, max_connections, &stop, &connections, serve).await;
        connections.close();
        self.drain(&connections, &cut).await;
    }

    /// Serves one connection until it ends or is cut off.
    fn serve(
        &self,
        stream: TcpStream,
        stop: &CancellationToken,
        cut: &CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        if let Err(error) = stream.set_nodelay(true) {
            warn!("replies may be delayed: {error}");
        }
        // Child tokens, so that connections do not share the lock of one.
        let (draining, cut) = (stop.child_token(), cut.child_token());
        let connection = connection::serve(stream, Arc::clone(&self.shared), draining);
        async move {
            cut.run_until_cancelled(connection).await;
        }
    }

    async fn drain(&self, connections: &TaskTracker, cut: &CancellationToken) {
        let within = self.shared.config.drain_timeout;
        info!("draining {} connections within {within:?}", connections.len());
        if timeout(within, connections.wait()).await.is_err() {
            warn!("cut off {} connections that did not end in time", connections.len());
            cut.cancel();
            connections.wait().await;
        }
    }
}
