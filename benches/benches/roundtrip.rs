//! What does it cost one thread to allocate a buffer, write it, freeze it and drop it?

#![allow(missing_docs, reason = "what criterion_group makes cannot be documented")]

use benches::*;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn fixed_slots(criterion: &mut Criterion) {
    for bytes in [256, 1024, 4096] {
        let data = vec![7; bytes];
        let (arena, alligator) = (fixed(bytes), fixed_alligator(bytes));
        let mut group = criterion.benchmark_group(format!("fixed/roundtrip/{bytes}_bytes"));
        group.throughput(Throughput::Elements(1));
        group.bench_function("arena_frozen", |b| b.iter(|| fixed_frozen_roundtrip(&arena, &data)));
        group.bench_function("arena_bytes", |b| b.iter(|| fixed_roundtrip(&arena, &data)));
        group.bench_function("heap", |b| b.iter(|| heap_roundtrip(&data)));
        group.bench_function("alligator", |b| {
            b.iter(|| fixed_alligator_roundtrip(&alligator, &data));
        });
        group.finish();
    }
}

fn buddy_blocks(criterion: &mut Criterion) {
    for bytes in [256, 1024, 4096, 16_384] {
        let data = vec![7; bytes];
        let (arena, alligator) = (buddy(), buddy_alligator());
        let mut group = criterion.benchmark_group(format!("buddy/roundtrip/{bytes}_bytes"));
        group.throughput(Throughput::Elements(1));
        group.bench_function("arena_frozen", |b| b.iter(|| buddy_frozen_roundtrip(&arena, &data)));
        group.bench_function("arena_bytes", |b| b.iter(|| buddy_roundtrip(&arena, &data)));
        group.bench_function("heap", |b| b.iter(|| heap_roundtrip(&data)));
        group.bench_function("alligator", |b| {
            b.iter(|| buddy_alligator_roundtrip(&alligator, &data));
        });
        group.finish();
    }
}

criterion_group!(roundtrip, fixed_slots, buddy_blocks);
criterion_main!(roundtrip);
