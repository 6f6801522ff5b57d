//! What is asked of an arena, in which order and by which threads, and how an allocator answers.

use std::{collections::BTreeMap, iter, num::NonZeroUsize, sync::mpsc, thread};

use arena::{BuddyArena, Buffer};

use crate::numbers::Numbers;

/// The smallest block, and the smallest request.
pub(crate) const MIN_BLOCK_BYTES: usize = 256;

/// Requests have `MIN_BLOCK_BYTES << order` bytes, each order below this one equally often: up to
/// 16 KiB.
const REQUEST_ORDERS: usize = 7;

/// The largest free block is sampled once in so many requests.
const REQUESTS_PER_SAMPLE: usize = 75;

/// Large blocks are probed for once in so many requests.
const REQUESTS_PER_PROBE: usize = 750;

/// How many requests a thread makes before it is another's turn, on average.
const REQUESTS_PER_TURN: usize = 32;

/// How an arena is used: blocks of random sizes and random lifetimes fill it to a target and are
/// replaced from then on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) total_bytes: usize,
    /// How much of the arena is in use once it is filled.
    pub(crate) percent: usize,
    pub(crate) requests: usize,
    pub(crate) threads: usize,
    /// Sizes of blocks that are asked for now and then, and given back at once.
    pub(crate) probes: &'static [usize],
}

/// What happens, in order.
#[derive(Default)]
pub(crate) struct Trace {
    pub(crate) events: Vec<Event>,
    /// Requests are numbered from zero up to this.
    pub(crate) requests: usize,
}

pub(crate) struct Event {
    pub(crate) thread: usize,
    pub(crate) step: Step,
}

pub(crate) enum Step {
    Allocate {
        request: usize,
        bytes: usize,
    },
    /// Frees the block of an earlier request, if that was served.
    Free {
        request: usize,
    },
    /// Allocates a block and frees it at once.
    Probe {
        bytes: usize,
    },
    /// Reads the largest free block.
    Sample,
}

/// Whatever can be asked for blocks.
pub(crate) trait Allocator {
    type Block;

    fn allocate(&mut self, bytes: usize) -> Option<Self::Block>;

    fn free(&mut self, block: Self::Block);

    fn largest_free_block(&self) -> usize;
}

/// An allocator in the middle of a trace.
pub(crate) struct Replay<'a, A: Allocator> {
    pub(crate) allocator: A,
    /// The block of each request and its size, while it is in use.
    blocks: Vec<Option<(A::Block, usize)>>,
    live_bytes: usize,
    events: &'a [Event],
    pub(crate) outcome: Outcome,
}

/// How an allocator has answered.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) requests_refused: usize,
    /// By the probes' size.
    pub(crate) probes_refused: BTreeMap<usize, usize>,
    /// The largest free block at each sample.
    pub(crate) largest_free: Vec<usize>,
}

/// The blocks in use, by the thread that has allocated them: their requests and sizes.
struct Live {
    blocks: Vec<Vec<(usize, usize)>>,
    bytes: usize,
}

impl Load {
    /// Makes the trace, the same for the same seed. Threads take turns in it.
    pub(crate) fn trace(&self, seed: u64) -> Trace {
        let target_bytes = self.total_bytes / 100 * self.percent;
        let mut numbers = Numbers::from_seed(seed);
        let mut live = Live { blocks: vec![Vec::new(); self.threads], bytes: 0 };
        let mut events = Vec::new();
        let mut thread = 0;
        for request in 0..self.requests {
            if numbers.below(REQUESTS_PER_TURN) == 0 {
                thread = numbers.below(self.threads);
            }
            let bytes = MIN_BLOCK_BYTES << numbers.below(REQUEST_ORDERS);
            while live.bytes + bytes > target_bytes {
                let request = live.remove(thread, &mut numbers);
                events.push(Event { thread, step: Step::Free { request } });
            }
            live.insert(thread, request, bytes);
            events.push(Event { thread, step: Step::Allocate { request, bytes } });
            events.extend(self.looks_after(request).map(|step| Event { thread, step }));
        }
        Trace { events, requests: self.requests }
    }

    /// What is looked at after a request.
    fn looks_after(&self, request: usize) -> impl Iterator<Item = Step> {
        let sample = (request + 1).is_multiple_of(REQUESTS_PER_SAMPLE).then_some(Step::Sample);
        let probes: &[usize] =
            if (request + 1).is_multiple_of(REQUESTS_PER_PROBE) { self.probes } else { &[] };
        sample.into_iter().chain(probes.iter().map(|&bytes| Step::Probe { bytes }))
    }
}

impl Live {
    fn insert(&mut self, thread: usize, request: usize, bytes: usize) {
        self.blocks[thread].push((request, bytes));
        self.bytes += bytes;
    }

    /// Chooses a block for `thread` to free: in every second case one of its own, if it has any.
    fn remove(&mut self, thread: usize, numbers: &mut Numbers) -> usize {
        let threads = self.blocks.len();
        let first = if numbers.below(2) == 0 { thread } else { numbers.below(threads) };
        let owner = (first..first + threads)
            .map(|owner| owner % threads)
            .find(|&owner| !self.blocks[owner].is_empty())
            .expect("there is something in use");
        let victim = numbers.below(self.blocks[owner].len());
        let (request, bytes) = self.blocks[owner].swap_remove(victim);
        self.bytes -= bytes;
        request
    }
}

impl<'a, A: Allocator> Replay<'a, A> {
    pub(crate) fn new(trace: &'a Trace, allocator: A) -> Self {
        let blocks = iter::repeat_with(|| None).take(trace.requests).collect();
        let outcome = Outcome::default();
        Self { allocator, blocks, live_bytes: 0, events: &trace.events, outcome }
    }

    /// Does everything in this thread.
    pub(crate) fn run(mut self) -> Self {
        while !self.events.is_empty() {
            self.take_turn();
        }
        self
    }

    /// Does the events up to the next one of another thread.
    fn take_turn(&mut self) {
        let thread = self.events.first().map(|event| event.thread);
        while let [event, later @ ..] = self.events
            && Some(event.thread) == thread
        {
            self.events = later;
            self.take_step(&event.step);
        }
    }

    fn take_step(&mut self, step: &Step) {
        match *step {
            Step::Allocate { request, bytes } => match self.allocator.allocate(bytes) {
                Some(block) => {
                    self.blocks[request] = Some((block, bytes));
                    self.live_bytes += bytes;
                }
                None => self.outcome.requests_refused += 1,
            },
            Step::Free { request } => self.free(request),
            Step::Probe { bytes } => {
                let refused = self.outcome.probes_refused.entry(bytes).or_default();
                match self.allocator.allocate(bytes) {
                    Some(block) => self.allocator.free(block),
                    None => *refused += 1,
                }
            }
            Step::Sample => self.outcome.largest_free.push(self.allocator.largest_free_block()),
        }
    }

    fn free(&mut self, request: usize) {
        if let Some((block, bytes)) = self.blocks[request].take() {
            self.allocator.free(block);
            self.live_bytes -= bytes;
        }
    }

    /// Frees blocks in a random order, and returns how much was in use when a block of each of
    /// these sizes, which ascend, could be had for the first time.
    pub(crate) fn drain_for(&mut self, sizes: &[usize]) -> Vec<usize> {
        let mut numbers = Numbers::from_seed(0);
        let mut live: Vec<_> =
            (0..self.blocks.len()).filter(|&request| self.blocks[request].is_some()).collect();
        sizes
            .iter()
            .map(|&bytes| {
                loop {
                    if let Some(block) = self.allocator.allocate(bytes) {
                        self.allocator.free(block);
                        return self.live_bytes;
                    }
                    self.free(live.swap_remove(numbers.below(live.len())));
                }
            })
            .collect()
    }
}

impl<A: Allocator + Send> Replay<'_, A>
where
    A::Block: Send,
{
    /// Does each event in the thread that it is meant for, one at a time and in order.
    pub(crate) fn run_in_threads(mut self, threads: usize) -> Self {
        thread::scope(|scope| {
            let inboxes: Vec<_> = (0..threads)
                .map(|_| {
                    let (inbox, turns) = mpsc::channel::<(Self, mpsc::Sender<Self>)>();
                    scope.spawn(move || {
                        for (mut replay, done) in turns {
                            replay.take_turn();
                            done.send(replay).expect("the turn is waited for");
                        }
                    });
                    inbox
                })
                .collect();
            while let Some(event) = self.events.first() {
                let (done, is_done) = mpsc::channel();
                inboxes[event.thread].send((self, done)).expect("the thread waits for its turn");
                self = is_done.recv().expect("the turn ends without a panic");
            }
            self
        })
    }
}

impl Allocator for BuddyArena {
    type Block = Buffer;

    fn allocate(&mut self, bytes: usize) -> Option<Buffer> {
        Self::allocate(self, NonZeroUsize::new(bytes)?).ok()
    }

    fn free(&mut self, block: Buffer) {
        drop(block);
    }

    fn largest_free_block(&self) -> usize {
        self.metrics().largest_free_block
    }
}
