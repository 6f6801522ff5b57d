//! `Server`: built from a configuration, runs on a listener, drains when told to stop.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::{join, time::timeout};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};
use tracing::info;

use crate::{
    config::{Config, ConfigError, Limits, Reply},
    connection::{self, Open, Shared},
    handler::{Echo, Handler},
    listener::{Acceptor, Listeners},
    memory::{Memory, MemoryMetrics},
    places::Places,
    roster::{Name, Roster},
    socket,
    stats::{ServerMetrics, Stats},
    stop::{self, BeginsWhenDropped, Stop},
    stream::Stream,
    warnings::Warnings,
};

/// A server and its memory. It echoes, unless it was given another [`Handler`].
///
/// A clone is another handle to the same server.
#[derive(Debug)]
pub struct Server<H = Echo> {
    shared: Arc<Shared<H>>,
    config: Config,
    /// What new connections obey; it takes the place of what `config` says.
    limits: Arc<ArcSwap<Limits>>,
    places: Arc<Places>,
    life: Arc<Life>,
}

/// When a server was built, and where it is in its life.
#[derive(Debug)]
struct Life {
    built: SystemTime,
    /// A [`Phase`].
    phase: AtomicU8,
}

/// A server has ended without having answered everything: what took longer than the drain timeout
/// was cut off.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("cut off {connections} connections that were not answered within {within:?}")]
pub struct CutOff {
    /// How many connections were cut off.
    pub connections: usize,
    /// The drain timeout.
    pub within: Duration,
}

/// Where a server is in its life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    /// It does not run yet.
    Built,
    /// It accepts connections.
    Serving,
    /// It answers what it has accepted.
    Draining,
    /// It does not run any more.
    Ended,
}

impl<H> Clone for Server<H> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            config: self.config,
            limits: Arc::clone(&self.limits),
            places: Arc::clone(&self.places),
            life: Arc::clone(&self.life),
        }
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
        let memory = plan
            .and_then(|plan| Memory::new(plan, config.stall_timeout))
            .map_err(|error| ConfigError::unbuildable(config, error))?;
        info!("memory: {}", memory.plan());
        let max_frame_bytes = config.max_frame_bytes;
        let shared = Shared {
            memory,
            handler,
            max_frame_bytes,
            stats: Stats::default(),
            roster: Roster::new(),
            warnings: Warnings::new(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            config: *config,
            limits: Arc::new(ArcSwap::from_pointee(config.limits())),
            places: Arc::new(Places::new(config.max_connections)),
            life: Arc::new(Life {
                built: SystemTime::now(),
                phase: AtomicU8::new(Phase::Built as u8),
            }),
        })
    }

    /// Takes the [`Limits`] of `config` over, and leaves everything else as it is.
    ///
    /// They hold for connections that are accepted from now on, and for a drain that has not begun.
    /// If there are more connections than are allowed now, none is closed for that.
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

    /// Returns what its connections do.
    pub(crate) fn roster(&self) -> &Roster {
        &self.shared.roster
    }

    /// Returns when it was built.
    pub(crate) fn built(&self) -> SystemTime {
        self.life.built
    }

    /// Returns where it is in its life.
    pub(crate) fn phase(&self) -> Phase {
        Phase::ALL[usize::from(self.life.phase.load(Relaxed))]
    }

    /// Serves connections from `listeners` until `stop` is cancelled and they have ended: one
    /// [`TcpListener`](tokio::net::TcpListener) or [`UnixListener`](tokio::net::UnixListener), or
    /// several [`Listener`](crate::Listener)s.
    ///
    /// Then no more are accepted, everything that has arrived is answered, also by connections that
    /// waited to be accepted, and what takes longer than the drain timeout is cut off.
    ///
    /// Connections that end for a reason of their own are no error, nor are panics of handlers:
    /// [`ServerMetrics::rejects`] has them.
    ///
    /// # Errors
    ///
    /// [`CutOff`] if not everything was answered in that time.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the listeners and cuts all connections off.
    pub async fn run(
        &self,
        listeners: impl Into<Listeners>,
        stop: CancellationToken,
    ) -> Result<(), CutOff> {
        let connections = TaskTracker::new();
        let cut = Cut::default();
        let _cut_when_dropped = BeginsWhenDropped(cut.stop.clone());
        let watch = tokio::spawn({
            let shared = Arc::clone(&self.shared);
            async move {
                let Shared { memory, roster, warnings, .. } = &*shared;
                join!(memory.watch_stalls(), warnings.report(memory, roster))
            }
        });
        let _watch_ends_when_dropped = AbortOnDropHandle::new(watch);

        let _ended_when_dropped = Ending(&self.life);
        self.life.enter(Phase::Serving);
        let stopping = Stop::default();
        let serve = {
            let (server, stopping, cut) = (self.clone(), stopping.clone(), cut.clone());
            move |stream, name| server.serve(stream, name, stopping.for_task(), cut.for_task())
        };
        let listeners = listeners.into();
        let mut acceptor = Acceptor::new(listeners, &self.places, &connections, serve);
        acceptor.accept_until(&stop).await;
        self.life.enter(Phase::Draining);
        stopping.begin();
        let drained = self.drain(acceptor, &connections, &cut).await;
        self.shared.warnings.report_rest();
        self.sum_up();
        drained
    }

    /// Serves one connection until it ends or is cut off.
    fn serve(
        &self,
        stream: Stream,
        name: Name,
        stopping: Stop,
        cut: Cut,
    ) -> impl Future<Output = ()> + Send + use<H> {
        let shared = Arc::clone(&self.shared);
        let timeouts = self.limits().timeouts();
        async move {
            let _open = Open::new(&shared.stats);
            let mut waking = pin!(cut.stop.waking());
            stop::wake_by(waking.as_mut()).await;
            let served = {
                // Pinned here rather than handed on: a future that moves takes its place twice, in
                // every connection.
                let connection = connection::serve(stream, name, &shared, timeouts, stopping);
                let mut connection = pin!(connection);
                cut.stop.unless_begun(connection.as_mut()).await
            };
            match served {
                // Relaxed: it is looked at when all tasks have ended.
                None => _ = cut.connections.fetch_add(1, Relaxed),
                Some(None) => {}
                Some(Some(stream)) => {
                    let mut closing = pin!(socket::close_gently(stream));
                    // All is answered: whoever is cut off now loses nothing.
                    cut.stop.unless_begun(closing.as_mut()).await;
                }
            }
        }
    }

    async fn drain<F, S>(
        &self,
        mut acceptor: Acceptor<'_, F>,
        connections: &TaskTracker,
        cut: &Cut,
    ) -> Result<(), CutOff>
    where
        F: Fn(Stream, Name) -> S + Clone + Send + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        let within = self.limits().drain_timeout;
        let here = connections.len();
        info!("draining {here} connections, and those that wait to be accepted, within {within:?}");
        connections.close();
        let answer = async {
            acceptor.take_queues().await;
            connections.wait().await;
        };
        if timeout(within, answer).await.is_err() {
            cut.stop.begin();
            connections.wait().await;
            // Now there are descriptors to take them with.
            cut.connections.fetch_add(acceptor.close_queues(), Relaxed);
        }
        match cut.connections.load(Relaxed) {
            0 => Ok(()),
            connections => Err(CutOff { connections, within }),
        }
    }

    /// Says what was done, when no more can come: whoever stops a server can see that it is whole.
    fn sum_up(&self) {
        let ServerMetrics { accepted, frames, bytes_in, bytes_out, .. } = self.metrics();
        info!(
            "answered {frames} frames on {accepted} connections; read {bytes_in} bytes, wrote \
             {bytes_out}"
        );
        let MemoryMetrics { allocations_ok, frees, bytes_live, .. } = self.memory_metrics();
        info!("took {allocations_ok} blocks, gave {frees} back; {bytes_live} bytes are in use");
    }
}

/// Tells connections that their time is over, and counts those that were not done.
#[derive(Clone, Debug, Default)]
struct Cut {
    stop: Stop,
    connections: Arc<AtomicUsize>,
}

impl Cut {
    fn for_task(&self) -> Self {
        Self { stop: self.stop.for_task(), connections: Arc::clone(&self.connections) }
    }
}

/// Notes the end when it is dropped, also when a future is that has not ended.
struct Ending<'l>(&'l Life);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.enter(Phase::Ended);
    }
}

impl Life {
    fn enter(&self, phase: Phase) {
        // Relaxed: a figure.
        self.phase.store(phase as u8, Relaxed);
    }
}

impl Phase {
    const ALL: [Self; 4] = [Self::Built, Self::Serving, Self::Draining, Self::Ended];
}
