//! Backpressure: four tasks share one slot, and wait for it in the order in which they came.
//!
//! `cargo run -p arena --features tokio --example async_alloc`

use std::{error::Error, num::NonZeroUsize, time::Duration};

use arena::{AllocError, FixedArena};
use bytes::BufMut;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let bytes_each = NonZeroUsize::new(64).ok_or("zero")?;
    let arena = FixedArena::builder(NonZeroUsize::MIN, bytes_each).build_async()?;

    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..4_u8 {
        let arena = arena.clone();
        tasks.spawn(async move {
            let mut buffer = arena.allocate_async().await;
            buffer.put_u8(number);
            // Somebody is slow; the others wait rather than take more memory.
            tokio::time::sleep(Duration::from_millis(10)).await;
            println!("task {number} has the slot, {} wait", arena.wait_metrics().waiters);
            buffer.freeze()
        });
    }
    while let Some(bytes) = tasks.join_next().await {
        drop(bytes?);
    }

    let held = arena.allocate_async().await;
    match arena.allocate_timeout(Duration::from_millis(20)).await {
        Err(AllocError::TimedOut) => println!("a fifth lost patience after 20 ms"),
        other => return Err(format!("expected to time out, got {other:?}").into()),
    }
    drop(held);

    let waits = arena.wait_metrics();
    println!("{} waited, {:?} in all", waits.waits, waits.wait_time);
    Ok(())
}
