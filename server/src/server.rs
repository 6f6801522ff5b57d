//! `Server`: built from a configuration, runs on a listener, drains when told to stop.

use std::{future::Future, sync::Arc};

use arc_swap::ArcSwap;
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    budget::Budget,
    config::{Config, ConfigError, Limits},
    connection::{self, Shared},
    listener::{self, Listeners},
    places::Places,
    pool::MemoryMetrics,
    stream::Stream,
};

/// An echo server and its memory.
///
/// A clone is another handle to the same server.
#[derive(Clone, Debug)]
pub struct Server {
    budget: Arc<Budget>,
    config: Config,
    /// What new connections obey; it takes the place of what `config` says.
    limits: Arc<ArcSwap<Limits>>,
    places: Arc<Places>,
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
        Ok(Self {
            budget: Arc::new(budget),
            config: *config,
            limits: Arc::new(ArcSwap::from_pointee(config.limits())),
            places: Arc::new(Places::new(config.max_connections)),
        })
    }

    /// Takes the [`Limits`] of `config` over, and leaves everything else as it is.
    ///
    /// They hold for connections that are accepted from now on. If there are more connections than
    /// are allowed now, none is closed for that.
    ///
    /// # Errors
    ///
    /// Every reason why they cannot work. Then nothing has changed.
    pub fn reload(&self, config: &Config) -> Result<(), ConfigError> {
        let limits = config.limits();
        ConfigError::check(self.config.with_limits(limits).problems())?;
        self.limits.store(Arc::new(limits));
        self.places.set_limit(limits.max_connections);
        Ok(())
    }

    /// Returns what new connections obey.
    pub fn limits(&self) -> Limits {
        **self.limits.load()
    }

    /// Returns how many connections there are now.
    pub fn connections(&self) -> usize {
        self.places.taken()
    }

    /// Takes a snapshot of the memory.
    pub fn memory_metrics(&self) -> MemoryMetrics {
        self.budget.metrics()
    }

    /// Serves connections from `listeners` until `stop` is cancelled and they have ended: one
    /// [`TcpListener`](tokio::net::TcpListener) or [`UnixListener`](tokio::net::UnixListener), or
    /// several [`Listener`](crate::Listener)s.
    ///
    /// Then no more are accepted, everything that has arrived is answered, also by connections that
    /// waited to be accepted, and what takes longer than the drain timeout is cut off.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the listeners and cuts all connections off.
    pub async fn run(&self, listeners: impl Into<Listeners>, stop: CancellationToken) {
        let connections = TaskTracker::new();
        let cut = CancellationToken::new();
        let _cut_when_dropped = cut.clone().drop_guard();

        let serve = |stream| self.serve(stream, &stop, &cut);
        listener::accept(listeners.into(), &self.places, &stop, &connections, serve).await;
        connections.close();
        self.drain(&connections, &cut).await;
    }

    /// Serves one connection until it ends or is cut off.
    fn serve(
        &self,
        stream: Stream,
        stop: &CancellationToken,
        cut: &CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        // Child tokens, so that connections do not share the lock of one.
        let (draining, cut) = (stop.child_token(), cut.child_token());
        let config = self.config.with_limits(self.limits());
        let shared = Arc::new(Shared { budget: Arc::clone(&self.budget), config });
        async move {
            match stream.into_tcp() {
                Ok(stream) => {
                    cut.run_until_cancelled(connection::serve(stream, shared, draining)).await;
                }
                Err(error) => warn!("cannot serve it: {error}"),
            }
        }
    }

    async fn drain(&self, connections: &TaskTracker, cut: &CancellationToken) {
        let within = self.limits().drain_timeout;
        info!("draining {} connections within {within:?}", connections.len());
        if timeout(within, connections.wait()).await.is_err() {
            warn!("cut off {} connections that did not end in time", connections.len());
            cut.cancel();
            connections.wait().await;
        }
    }
}
