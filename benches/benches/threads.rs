//! How many operations do several threads get done together, as wall time sees it?
//!
//! Every thread does all iterations, so one iteration is one operation a thread, and the throughput
//! is that of all.

#![allow(missing_docs, reason = "what criterion_group makes cannot be documented")]

use benches::*;
use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};

const THREADS: [usize; 3] = [1, 2, 4];

fn fixed_slots(criterion: &mut Criterion) {
    let data = vec![7; 1024];
    for threads in THREADS {
        let (arena, alligator) = (fixed(1024), fixed_alligator(1024));
        let name = format!("fixed/roundtrip/1024_bytes/{threads}_threads");
        let mut group = criterion.benchmark_group(name);
        bench(&mut group, "arena_bytes", threads, |_, _| fixed_roundtrip(&arena, &data));
        bench(&mut group, "arena_frozen", threads, |_, _| fixed_frozen_roundtrip(&arena, &data));
        bench(&mut group, "heap", threads, |_, _| heap_roundtrip(&data));
        bench(&mut group, "alligator", threads, |_, _| {
            fixed_alligator_roundtrip(&alligator, &data)
        });
        group.finish();
    }
}

fn buddy_blocks(criterion: &mut Criterion) {
    let payloads = MixedPayloads::new();
    for threads in THREADS {
        let (arena, alligator) = (buddy(), buddy_alligator());
        let name = format!("buddy/roundtrip/192_to_16384_bytes/{threads}_threads");
        let mut group = criterion.benchmark_group(name);
        bench(&mut group, "arena_bytes", threads, |thread, turn| {
            buddy_roundtrip(&arena, payloads.of(thread, turn));
        });
        bench(&mut group, "heap", threads, |thread, turn| {
            heap_roundtrip(payloads.of(thread, turn))
        });
        bench(&mut group, "alligator", threads, |thread, turn| {
            buddy_alligator_roundtrip(&alligator, payloads.of(thread, turn));
        });
        group.finish();
    }
}

fn bench(
    group: &mut BenchmarkGroup<'_, WallTime>,
    side: &str,
    threads: usize,
    operation: impl Fn(usize, u64) + Sync,
) {
    group.throughput(Throughput::Elements(threads as u64));
    group.bench_function(side, |b| {
        b.iter_custom(|iterations| time_in_threads(threads, iterations, &operation));
    });
}

criterion_group!(threads, fixed_slots, buddy_blocks);
criterion_main!(threads);
