//! What does it cost to be told that an arena is full?

#![allow(missing_docs, reason = "what criterion_group makes cannot be documented")]

use arena::FixedArena;
use benches::*;
use criterion::{Criterion, criterion_group, criterion_main};

const SLOTS: usize = 65_536;

fn full_slots(criterion: &mut Criterion) {
    let arena = FixedArena::builder(nz(SLOTS), nz(64)).build().expect("a valid arena");
    let _held: Vec<_> = (0..SLOTS).map(|_| arena.allocate().expect("not full yet")).collect();
    let alligator = arena_alligator::FixedArena::with_slot_capacity(nz(SLOTS), nz(64))
        .build()
        .expect("a valid arena");
    let _held_too: Vec<_> =
        (0..SLOTS).map(|_| alligator.allocate().expect("not full yet")).collect();

    let mut group = criterion.benchmark_group(format!("fixed/refusal/{SLOTS}_slots"));
    group.bench_function("arena", |b| b.iter(|| arena.allocate().is_err()));
    group.bench_function("alligator", |b| b.iter(|| alligator.allocate().is_err()));
    group.finish();
}

criterion_group!(refusal, full_slots);
criterion_main!(refusal);
