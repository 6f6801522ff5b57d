//! Threads that use an arena at the same time, and the trace of what they did.

use std::{
    collections::VecDeque,
    sync::{Mutex, RwLock},
    thread,
};

use arena::{BuddyArena, Buffer};

use super::trace::{Allocator, Event, Load, Outcome, Replay, Step, Trace};
use crate::support::nz;

/// How many blocks wait to be freed, by whichever thread frees one next.
const PARCELS: usize = 8;

/// What the threads share.
struct Track {
    arena: BuddyArena,
    /// Held for reading while memory is allocated or freed, for writing while figures are read.
    under_way: RwLock<()>,
    parcels: Mutex<VecDeque<Block>>,
    log: Mutex<Log>,
}

/// What has happened. An allocation is logged after it has happened, a free before it does. So at
/// each place of the log the arena has at least as much in use as the log says.
#[derive(Default)]
struct Log {
    trace: Trace,
    outcome: Outcome,
}

/// A block in use, and the number of its request in the log.
struct Block {
    request: usize,
    buffer: Buffer,
}

/// The arena as one thread sees it.
struct Runner<'a> {
    track: &'a Track,
    thread: usize,
}

/// Lets the threads of `load` use `arena` at the same time, each for its share of the load. Returns
/// what happened, in order, and how the arena has answered.
///
/// In the log a block that was refused is freed at once: nobody has it.
pub(crate) fn race(load: &Load, seed: u64, arena: BuddyArena) -> (Trace, Outcome) {
    let (under_way, parcels, log) = (RwLock::default(), Mutex::default(), Mutex::default());
    let track = Track { arena, under_way, parcels, log };
    let share = Load {
        total_bytes: load.total_bytes / load.threads,
        requests: load.requests / load.threads,
        threads: 1,
        ..*load
    };
    let traces: Vec<_> = (0..load.threads).zip(seed..).map(|(_, seed)| share.trace(seed)).collect();
    thread::scope(|scope| {
        let run = |(thread, trace)| {
            let runner = Runner { track: &track, thread };
            scope.spawn(move || Replay::new(trace, runner).run())
        };
        let runs: Vec<_> = traces.iter().enumerate().map(run).collect();
        // What is still in use then is freed when all have ended: the log does not show it.
        let _ended: Vec<_> = runs.into_iter().map(|run| run.join().unwrap()).collect();
    });
    let Log { trace, outcome } = track.log.into_inner().unwrap();
    (trace, outcome)
}

impl Allocator for Runner<'_> {
    type Block = Block;

    fn allocate(&mut self, bytes: usize) -> Option<Block> {
        let _under_way = self.track.under_way.read().unwrap();
        let buffer = self.track.arena.allocate(nz(bytes)).ok();
        let Log { trace, outcome } = &mut *self.track.log.lock().unwrap();
        let request = trace.requests;
        trace.requests += 1;
        let steps = [Step::Allocate { request, bytes }, Step::Free { request }];
        let happened = if buffer.is_some() { 1 } else { 2 };
        let thread = self.thread;
        trace.events.extend(steps.into_iter().take(happened).map(|step| Event { thread, step }));
        outcome.requests_refused += usize::from(buffer.is_none());
        buffer.map(|buffer| Block { request, buffer })
    }

    /// Leaves the block to whoever frees one next, and frees one that was left.
    fn free(&mut self, block: Block) {
        let left = {
            let mut parcels = self.track.parcels.lock().unwrap();
            parcels.push_back(block);
            if parcels.len() > PARCELS { parcels.pop_front() } else { None }
        };
        if let Some(Block { request, buffer }) = left {
            let _under_way = self.track.under_way.read().unwrap();
            let event = Event { thread: self.thread, step: Step::Free { request } };
            self.track.log.lock().unwrap().trace.events.push(event);
            drop(buffer);
        }
    }

    fn largest_free_block(&self) -> usize {
        let _alone = self.track.under_way.write().unwrap();
        let largest = self.track.arena.largest_free_block();
        let Log { trace, outcome } = &mut *self.track.log.lock().unwrap();
        trace.events.push(Event { thread: self.thread, step: Step::Sample });
        outcome.largest_free.push(largest);
        largest
    }
}
