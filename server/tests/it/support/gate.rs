//! A handler that holds its request until it is let go: memory in use that no peer is to blame for.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use arena_echo::{FrameError, Handler, Replies, Request};
use tokio::sync::Semaphore;

use super::{client::Client, traffic::frame, until};

/// What a request begins with that is held.
const HOLD: u8 = 200;

/// A frame whose request the gate holds.
pub(crate) fn held(payload_bytes: usize) -> Vec<u8> {
    let mut bytes = frame(payload_bytes, 0);
    bytes[4] = HOLD;
    bytes
}

/// Echoes a copy, of requests that begin with [`HOLD`] only when the gate is opened for them.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    places: Arc<Semaphore>,
    /// Requests that came to it.
    came: Arc<AtomicUsize>,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self { places: Arc::new(Semaphore::new(0)), came: Arc::default() }
    }

    /// Lets so many requests go.
    pub(crate) fn open_for(&self, requests: usize) {
        self.places.add_permits(requests);
    }

    /// Connects, and sends a request that is held. Returns when it has come here, whole.
    pub(crate) async fn hold(&self, address: SocketAddr, payload_bytes: usize) -> Client {
        let before = self.came.load(Relaxed);
        let mut client = Client::connect(address).await;
        client.send(&held(payload_bytes)).await;
        until(|| self.came.load(Relaxed) > before).await;
        client
    }
}

impl Handler for Gate {
    async fn handle(
        &self,
        request: Request<'_>,
        replies: &mut Replies<'_>,
    ) -> Result<(), FrameError> {
        if request.first() == Some(&HOLD) {
            self.came.fetch_add(1, Relaxed);
            self.places.acquire().await.expect("a gate that is not closed").forget();
        }
        replies.copy(&request).await
    }
}
