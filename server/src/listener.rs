//! When to accept, and when to wait before the next try.

use std::{future::Future, io, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, info_span, warn};

/// The first and the longest pause after an error that the next try would meet again.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Accepts connections until `stop` is cancelled, and serves each in a task of its own.
///
/// While there are `max_connections`, further ones wait in the queue of the listener.
pub(crate) async fn accept<S>(
    listener: TcpListener,
    max_connections: usize,
    stop: &CancellationToken,
    connections: &TaskTracker,
    serve: impl Fn(TcpStream) -> S,
) where
    S: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(max_connections));
    let mut pause = PAUSE_MIN;
    loop {
        let place = stop.run_until_cancelled(Arc::clone(&places).acquire_owned()).await;
        let Some(place) = place else { return };
        let Some(accepted) = stop.run_until_cancelled(listener.accept()).await else {
            return;
        };
        match accepted {
            Ok((stream, peer)) => {
                pause = PAUSE_MIN;
                let connection = serve(stream);
                let task = async move {
                    connection.await;
                    drop(place);
                };
                connections.spawn(task.instrument(info_span!("connection", %peer)));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                warn!("cannot accept, trying again in {pause:?}: {error}");
                stop.run_until_cancelled(sleep(pause)).await;
                pause = PAUSE_MAX.min(pause * 2);
            }
        }
    }
}

/// Whether the error is about a connection that is gone already, not about the listener or the
/// system.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}
