//! How often the generator uses the heap: as often for many requests as for few.
//!
//! A binary of its own, because it counts what its global allocator is asked for.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::Duration,
};

use loadgen::{Plan, Rate, Stop};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// The system's heap, counted.
struct Counting;

#[global_allocator]
static HEAP: Counting = Counting;

// SAFETY: every call is passed on to the system's allocator as it is; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's promise is the one that is asked for; `start` came from the system.
        unsafe { System.realloc(start, layout, new_size) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the one that is asked for; `start` came from the system.
        unsafe { System.dealloc(start, layout) }
    }
}

/// A server whose connections allocate once each.
fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            thread::spawn(move || echo(stream));
        }
    });
    address
}

fn echo(mut stream: TcpStream) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(len @ 1..) = stream.read(&mut bytes) {
        if stream.write_all(&bytes[..len]).is_err() {
            return;
        }
    }
}

/// How often a run of so many requests asks the heap for something, in one long interval.
fn allocations_of(plan: &Plan, requests: u64) -> u64 {
    let requests = Some(requests);
    let plan = Plan { requests, interval: Duration::from_hours(1), ..plan.clone() };
    let before = ALLOCATIONS.load(Relaxed);
    let report = loadgen::run(&plan, &Stop::new(), &mut |_| {}).unwrap();
    assert_eq!(Some(report.counts.requests), requests);
    ALLOCATIONS.load(Relaxed) - before
}

// One test, so that nothing else allocates meanwhile.
#[test]
fn requests_do_not_allocate() {
    let closed = Plan {
        connections: 3,
        pipeline: 16,
        duration: None,
        warm_up: Duration::ZERO,
        ..Plan::for_target(echo_server().into())
    };
    let open = Plan { rate: Rate::Constant(50_000.0), ..closed.clone() };
    let sizes = "lognormal:p50=512,p99=16k".parse().unwrap();
    let mixed = Plan { sizes, ..closed.clone() };
    for (name, plan) in [("closed loop", closed), ("open loop", open), ("mixed sizes", mixed)] {
        let few = allocations_of(&plan, 1_000);
        let many = allocations_of(&plan, 21_000);
        // Queues grow to the depth of the pipeline, however many requests there are.
        assert!(
            many < few + 200,
            "{name}: {few} allocations for 1,000, {many} for 21,000 requests"
        );
    }
}
