//! `auto_spill`: a buffer that outgrows its slot moves to the heap, and its slot is free in that
//! moment.
//!
//! Run it with `cargo run -p arena --example spill_buffer`.

use std::{error::Error, num::NonZeroUsize};

use arena::{Buffer, FixedArena};
use bytes::BufMut;

fn show(arena: &FixedArena, buffer: &Buffer, what: &str) {
    println!(
        "slots {}  {what}: {} bytes written, on the heap: {}",
        arena.occupancy(),
        buffer.len(),
        buffer.is_spilled(),
    );
}

fn main() -> Result<(), Box<dyn Error>> {
    let slots = NonZeroUsize::new(2).expect("above zero");
    let bytes_each = NonZeroUsize::new(16).expect("above zero");

    // Without `auto_spill` a buffer ends with its slot.
    let strict = FixedArena::builder(slots, bytes_each).build()?;
    let mut buffer = strict.allocate()?;
    let full = buffer.try_put_slice(b"twenty bytes of text").unwrap_err();
    println!("without auto_spill: {full}\n");

    let arena = FixedArena::builder(slots, bytes_each).auto_spill().build()?;
    let mut buffer = arena.allocate()?;
    show(&arena, &buffer, "fresh");
    assert!(buffer.will_fit(17), "more than the slot, because it may spill");

    buffer.put_slice(b"sixteen bytes...");
    show(&arena, &buffer, "full ");

    buffer.put_slice(b" and more");
    show(&arena, &buffer, "grown");

    // Whoever reads the bytes need not know where they lie.
    let bytes = buffer.freeze();
    println!("\nfrozen: {:?}", String::from_utf8_lossy(&bytes));

    // What is on the heap is not bounded by the arena, so it is counted.
    let metrics = arena.metrics();
    println!("{} spill, {} bytes of the arena in use", metrics.spills, metrics.bytes_live);
    Ok(())
}
