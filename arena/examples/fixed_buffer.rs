//! Slots of one size: write, freeze, share, and see the memory come back.
//!
//! Run it with `cargo run -p arena --example fixed_buffer`.

use std::{error::Error, num::NonZeroUsize, thread};

use arena::{AllocError, FixedArena};
use bytes::BufMut;

fn main() -> Result<(), Box<dyn Error>> {
    let slots = NonZeroUsize::new(4).expect("above zero");
    let bytes_each = NonZeroUsize::new(1024).expect("above zero");
    let arena = FixedArena::builder(slots, bytes_each).build()?;
    println!("an arena of {} slots of {} bytes", arena.slot_count(), arena.slot_capacity());

    let mut buffer = arena.allocate()?;
    buffer.put_slice(b"hello, arena");
    println!("wrote {} of {} bytes", buffer.len(), buffer.capacity());

    // Freezing copies nothing. Clones and slices share the slot, on any thread.
    let bytes = buffer.freeze();
    let word = bytes.slice(7..);
    let reader = thread::spawn(move || {
        println!("another thread reads {:?}", String::from_utf8_lossy(&bytes[..5]));
    });
    reader.join().expect("the reader does not panic");
    println!("a slice of it still holds the slot: {}", arena.occupancy());

    // An arena has an end, and says so.
    let others: Vec<_> = std::iter::from_fn(|| arena.allocate().ok()).collect();
    println!("{} more slots are taken: {}", others.len(), arena.occupancy());
    assert_eq!(arena.allocate().unwrap_err(), AllocError::ArenaFull);
    println!("the next request: {}", AllocError::ArenaFull);

    drop(word);
    println!("the slice is dropped, its slot is back: {}", arena.occupancy());
    drop(others);
    println!("and now all of them: {}", arena.occupancy());

    let metrics = arena.metrics();
    println!(
        "{} allocations, {} refused, {} freed, {} bytes in use, {} at most",
        metrics.allocations_ok,
        metrics.allocations_failed,
        metrics.frees,
        metrics.bytes_live,
        metrics.bytes_live_max,
    );
    Ok(())
}
