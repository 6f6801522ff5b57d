//! Servers to talk to, and clients that talk to them.

pub(crate) mod client;
pub(crate) mod gate;
pub(crate) mod http;
pub(crate) mod in_process;
pub(crate) mod program;
pub(crate) mod script;
pub(crate) mod traffic;

use std::{future::Future, time::Duration};

use tokio::{
    runtime,
    time::{sleep, timeout},
};

/// Longer than any test takes that does not hang.
const HUNG: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Runs a test on threads of its own, and fails it rather than hang.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async { timeout(HUNG, test).await.expect("the test hangs") })
}

/// Waits until `condition` holds. That it never does is a test that hangs.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        sleep(LOOK_AGAIN).await;
    }
}
