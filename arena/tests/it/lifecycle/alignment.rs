//! `alignment(n)`: every slot and block starts at a multiple of `n`.

use arena::{BuddyArena, FixedArena};

use crate::support::{address_of, nz};

const ALIGNMENTS: [usize; 8] = [1, 2, 8, 64, 512, 4096, 1 << 14, 1 << 16];

#[test]
fn slot_capacity_is_rounded_up_to_the_alignment() {
    for (capacity, alignment, rounded) in
        [(17, 1, 17), (17, 8, 24), (24, 8, 24), (1, 64, 64), (4095, 4096, 4096), (4097, 4096, 8192)]
    {
        let arena = FixedArena::builder(nz(3), nz(capacity)).alignment(alignment).build().unwrap();
        assert_eq!(arena.slot_capacity(), rounded, "{capacity} aligned to {alignment}");
        assert_eq!(arena.allocate().unwrap().capacity(), rounded);
        assert_eq!(arena.metrics().bytes_reserved, 3 * rounded);
    }
}

#[test]
fn every_slot_is_aligned() {
    for alignment in ALIGNMENTS {
        let arena = FixedArena::builder(nz(5), nz(100)).alignment(alignment).build().unwrap();
        let mut slots = [(); 5].map(|()| arena.allocate().unwrap());
        for slot in &mut slots {
            let address = address_of(slot);
            assert!(address.is_multiple_of(alignment), "{address:#x} at {alignment}");
        }
    }
}

#[test]
fn every_block_is_aligned() {
    for alignment in ALIGNMENTS {
        let min = alignment.max(16);
        for total in [min, 8 * min] {
            let arena =
                BuddyArena::builder(nz(total), nz(min)).alignment(alignment).build().unwrap();
            let mut blocks: Vec<_> =
                (0..total / min).map(|_| arena.allocate(nz(1)).unwrap()).collect();
            for block in &mut blocks {
                let address = address_of(block);
                assert!(address.is_multiple_of(alignment), "{address:#x} at {alignment}");
            }
        }
    }
}

#[test]
fn a_block_starts_at_a_multiple_of_its_size_from_the_start() {
    let arena = BuddyArena::builder(nz(1 << 16), nz(64)).build().unwrap();
    let start = address_of(&mut arena.allocate(nz(1 << 16)).unwrap());
    let mut held = Vec::new();
    for size in [64, 4096, 64, 1024, 16 << 10, 128, 8192, 64] {
        let mut block = arena.allocate(nz(size)).unwrap();
        let offset = address_of(&mut block) - start;
        assert!(offset.is_multiple_of(size), "{size} bytes at {offset}");
        held.push(block);
    }
}

#[test]
fn the_alignment_leaves_the_minimum_block_as_it_is() {
    let arena = BuddyArena::builder(nz(4096), nz(256)).alignment(256).build().unwrap();
    assert_eq!((arena.total_size(), arena.min_block_size(), arena.max_order()), (4096, 256, 4));
}
