//! `Server`: built from a configuration, runs on a listener, drains when told to stop.

use std::{future::Future, sync::Arc};

use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};
use tracing::{info, warn};

use crate::{
    config::{Config, ConfigError, Reply},
    connection::{self, Shared, Stopping},
    handler::{Echo, Handler},
    listener,
    memory::{Memory, MemoryMetrics},
    stats::{ServerMetrics, Stats},
};

/// A server and its memory. It echoes, unless it was given another [`Handler`].
///
/// A clone is another handle to the same server.
#[derive(Debug)]
pub struct Server<H = Echo> {
    shared: Arc<Shared<H>>,
    config: Config,
}

impl<H> Clone for Server<H> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), config: self.config }
    }
}

impl Server {
    /// Checks the configuration and reserves the memory.
    ///
    /// # Errors
    ///
    /// Every reason why the configuration cannot work.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        let echo = match config.reply {
            Reply::Share => Echo::Share,
            Reply::Copy => Echo::Copy,
        };
        Self::with_handler(config, echo)
    }
}

impl<H: Handler> Server<H> {
    /// Checks the configuration and reserves the memory, for a server that does what `handler`
    /// says. [`Config::reply`] is for echoes and does not concern it.
    ///
    /// # Errors
    ///
    /// Every reason why the configuration cannot work.
    pub fn with_handler(config: &Config, handler: H) -> Result<Self, ConfigError> {
        ConfigError::check(config.problems())?;
        let plan = config.plan().map_err(Into::into);
        let memory =
            plan.and_then(Memory::new).map_err(|error| ConfigError::unbuildable(config, error))?;
        info!("memory: {}", memory.plan());
        let shared = Shared {
            memory,
            handler,
            max_frame_bytes: config.max_frame_bytes,
            timeouts: config.timeouts(),
            stats: Stats::default(),
        };
        Ok(Self { shared: Arc::new(shared), config: *config })
    }

    /// Takes a snapshot of the memory.
    pub fn memory_metrics(&self) -> MemoryMetrics {
        self.shared.memory.metrics()
    }

    /// Takes a snapshot of what the server has done.
    pub fn metrics(&self) -> ServerMetrics {
        self.shared.stats.metrics()
    }

    /// Returns the memory that its connections share.
    pub fn memory(&self) -> &Memory {
        &self.shared.memory
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
        let watch = tokio::spawn({
            let memory = self.shared.memory.clone();
            async move { memory.watch_stalls().await }
        });
        let _watch_ends_when_dropped = AbortOnDropHandle::new(watch);

        let max_connections = self.config.max_connections;
        let stopping = Stopping::default();
        let serve = |stream| self.serve(stream, stopping.for_connection(), &cut);
        listener::accept(listener, max_connections, &stop, &connections, serve).await;
        stopping.begin();
        connections.close();
        self.drain(&connections, &cut).await;
    }

    /// Serves one connection until it ends or is cut off.
    fn serve(
        &self,
        stream: TcpStream,
        stopping: Stopping,
        cut: &CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<H> {
        if let Err(error) = stream.set_nodelay(true) {
            warn!("replies may be delayed: {error}");
        }
        // A child token, so that connections do not share the lock of one.
        let cut = cut.child_token();
        let connection = connection::serve(stream, Arc::clone(&self.shared), stopping);
        async move {
            cut.run_until_cancelled(connection).await;
        }
    }

    async fn drain(&self, connections: &TaskTracker, cut: &CancellationToken) {
        let within = self.config.drain_timeout;
        info!("draining {} connections within {within:?}", connections.len());
        if timeout(within, connections.wait()).await.is_err() {
            warn!("cut off {} connections that did not end in time", connections.len());
            cut.cancel();
            connections.wait().await;
        }
    }
}
