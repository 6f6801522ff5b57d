//! Blocks of many sizes: a request gets the smallest block that holds it, and neighbours become one
//! again.
//!
//! Run it with `cargo run -p arena --example buddy_buffer`.

use std::{error::Error, num::NonZeroUsize};

use arena::{AllocError, BuddyArena};
use bytes::BufMut;

fn bytes(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).expect("above zero")
}

fn show(arena: &BuddyArena, what: &str) {
    let largest = arena.metrics().largest_free_block;
    println!("{}  {what}; the largest free block has {largest} bytes", arena.occupancy());
}

fn main() -> Result<(), Box<dyn Error>> {
    let arena = BuddyArena::builder(bytes(16 << 10), bytes(256)).build()?;
    println!("{} bytes in blocks of at least {}", arena.total_size(), arena.min_block_size());
    println!("each character is a minimum block: `.` is free, `#` in use\n");
    show(&arena, "nothing is in use");

    let small = arena.allocate(bytes(100))?;
    show(&arena, &format!("100 bytes got a block of {}", small.capacity()));

    let mut large = arena.allocate(bytes(5000))?;
    show(&arena, &format!("5000 bytes got a block of {}", large.capacity()));

    // Half of the block is not needed. The arena can have it back before the buffer is dropped.
    large.put_bytes(b'x', 4000);
    large.shrink_to_fit();
    show(&arena, &format!("only 4000 were written: shrunk to {}", large.capacity()));

    // Frozen bytes are shared without the heap, and can be made writable again.
    let mut frame = large.into_frozen();
    let header = frame.split_to(4);
    println!("\nthe frame was split into {} and {} bytes", header.len(), frame.len());
    let frame = frame.try_into_buffer().expect_err("the header is in the same block");
    drop(header);
    let mut reply = frame.try_into_buffer().expect("nobody else refers to it now");
    reply.clear();
    reply.put_slice(b"done");
    println!("it became its own reply, {:?}\n", String::from_utf8_lossy(&reply));

    // Not now, and never, are different answers.
    assert_eq!(arena.allocate(bytes(16 << 10)).unwrap_err(), AllocError::ArenaFull);
    println!("16 KiB: {}", AllocError::ArenaFull);
    assert_eq!(arena.allocate(bytes(16 << 11)).unwrap_err(), AllocError::RequestTooLarge);
    println!("32 KiB: {}\n", AllocError::RequestTooLarge);

    drop(small);
    show(&arena, "the small block is free");
    drop(reply);
    show(&arena, "so is the large one");
    let whole = arena.allocate(bytes(16 << 10))?;
    show(&arena, &format!("so {} bytes can be had in one piece", whole.capacity()));
    Ok(())
}
