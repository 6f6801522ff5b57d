//! A server in this process, whose memory can be watched.

use std::net::SocketAddr;

use arena_echo::{Config, Server};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::until;

pub(crate) struct InProcess {
    pub(crate) address: SocketAddr,
    server: Server,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl InProcess {
    pub(crate) async fn start(config: &Config) -> Self {
        let server = Server::new(config).expect("a configuration that works");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a listener that is bound");
        let stop = CancellationToken::new();
        let running = tokio::spawn({
            let (server, stop) = (server.clone(), stop.clone());
            async move { server.run(listener, stop).await }
        });
        Self { address, server, stop, running }
    }

    pub(crate) fn bytes_live(&self) -> usize {
        self.server.memory_metrics().bytes_live
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

    /// Stops the server. All memory must have come back, and none must ever have been refused.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.running.await.expect("a server that does not panic");
        let metrics = self.server.memory_metrics();
        assert_eq!(metrics.bytes_live, 0, "memory that nobody gave back");
        assert_eq!(metrics.allocations_failed, 0, "the budget is too large");
    }
}
