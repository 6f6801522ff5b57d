//! A server in this process, whose memory can be watched.

use std::net::SocketAddr;

use arena_echo::{
    Config, CutOff, Echo, Handler, Listener, MemoryMetrics, Reject, Reply, Server, ServerMetrics,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::until;

pub(crate) struct InProcess<H = Echo> {
    pub(crate) address: SocketAddr,
    server: Server<H>,
    stop: CancellationToken,
    running: JoinHandle<Result<(), CutOff>>,
}

impl InProcess {
    /// Starts an echo.
    pub(crate) async fn start(config: &Config) -> Self {
        let echo = match config.reply {
            Reply::Share => Echo::Share,
            Reply::Copy => Echo::Copy,
        };
        Self::start_with(config, echo).await
    }
}

impl<H: Handler> InProcess<H> {
    pub(crate) async fn start_with(config: &Config, handler: H) -> Self {
        Self::start_as(config, handler, Listener::from).await
    }

    /// Starts it with a listener that was made something of.
    pub(crate) async fn start_as(
        config: &Config,
        handler: H,
        listener_of: impl FnOnce(TcpListener) -> Listener,
    ) -> Self {
        let server = Server::with_handler(config, handler).expect("a configuration that works");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a listener that is bound");
        let listener = listener_of(listener);
        let stop = CancellationToken::new();
        let running = tokio::spawn({
            let (server, stop) = (server.clone(), stop.clone());
            async move { server.run(listener, stop).await }
        });
        Self { address, server, stop, running }
    }

    pub(crate) fn server(&self) -> &Server<H> {
        &self.server
    }

    pub(crate) fn memory(&self) -> MemoryMetrics {
        self.server.memory_metrics()
    }

    pub(crate) fn metrics(&self) -> ServerMetrics {
        self.server.metrics()
    }

    /// How many connections were closed for this reason.
    pub(crate) fn rejects(&self, reason: Reject) -> u64 {
        let rejects = self.metrics().rejects;
        rejects.into_iter().find(|(other, _)| *other == reason).map_or(0, |(_, count)| count)
    }

    /// How many connections were closed, with the reason.
    pub(crate) fn all_rejects(&self) -> Vec<(&'static str, u64)> {
        let rejects = self.metrics().rejects.into_iter().filter(|(_, count)| *count > 0);
        rejects.map(|(reason, count)| (reason.name(), count)).collect()
    }

    pub(crate) async fn until_rejected(&self, reason: Reject, count: u64) {
        until(|| self.rejects(reason) == count).await;
    }

    pub(crate) async fn until_connected(&self, connections: usize) {
        until(|| self.metrics().connections == connections).await;
    }

    /// Waits until so many connections wait for memory, in whichever queue.
    pub(crate) async fn until_waiting(&self, waiters: usize) {
        until(|| self.waiters() == waiters).await;
    }

    pub(crate) fn waiters(&self) -> usize {
        self.memory().waits.iter().map(|queue| queue.waiters).sum()
    }

    pub(crate) fn bytes_live(&self) -> usize {
        self.memory().bytes_live
    }

    pub(crate) async fn until_memory_is_held(&self) {
        until(|| self.bytes_live() > 0).await;
    }

    pub(crate) async fn until_no_memory_is_held(&self) {
        until(|| self.bytes_live() == 0).await;
    }

    /// Tells the server to stop, without waiting until it has.
    pub(crate) fn begin_to_stop(&self) {
        self.stop.cancel();
    }

    /// Stops the server, which must answer everything.
    pub(crate) async fn stop(self) {
        self.end().await.expect("all is answered");
    }

    /// Stops the server, and returns whether everything was answered. Every connection must have
    /// ended, and all memory must have come back.
    pub(crate) async fn end(self) -> Result<(), CutOff> {
        let Self { server, stop, running, .. } = self;
        stop.cancel();
        let drained = running.await.expect("a server that does not panic");
        let memory = server.memory_metrics();
        assert_eq!(memory.bytes_live, 0, "memory that nobody gave back");
        assert_eq!(memory.spill_bytes_live, 0, "heap that nobody gave back");
        assert_eq!(memory.stalled_bytes, 0, "a stall that nobody ended");
        assert_eq!(memory.spill_stalled_bytes, 0, "a stall that nobody ended");
        assert_eq!(server.metrics().connections, 0, "a connection that nobody closed");
        drained
    }
}
