//! Loom models: every interleaving of a few threads over the real code.
//!
//! Run by `ci/loom.sh`. Each model asserts one rule and cites it. Threads are few and steps are
//! few, because the number of interleavings grows with both; words keep their 64 units, and blocks
//! of 32 make two units of them.

mod cache;
mod claim;
mod life;
mod share;
#[cfg(feature = "async-alloc")]
mod wait;

use loom::sync::Arc;

use crate::{
    claim::{Effort, Map},
    geometry::{Order, Span},
    stripe::{Stripes, Tally},
    thread::{SHARED_SEATS, Seat},
};

/// Half a word.
const HALF: Order = Order::new(5);
/// A word: on two levels, one unit of the upper.
const WORD: Order = Order::new(6);

/// A map with its stripes, and the threads that use it by number.
struct Arena {
    map: Map,
    stripes: Stripes,
}

impl Arena {
    fn of_slots(units: u32) -> Arc<Self> {
        Self::new(Map::of_slots(units).unwrap())
    }

    fn of_blocks(units: u32) -> Arc<Self> {
        Self::new(Map::of_blocks(units).unwrap())
    }

    fn new(map: Map) -> Arc<Self> {
        let stripes = Stripes::new(map.words_of_ground());
        Arc::new(Self { map, stripes })
    }

    /// The counters of an owned seat. Each thread of a model has its own.
    fn tally(&self, thread: usize) -> Tally<'_> {
        self.stripes.at(owned_seat(thread))
    }

    fn claim(&self, order: Order, tally: Tally<'_>) -> Option<Span> {
        let first = self.map.claim_cached(order, tally).or_else(|| {
            self.map.claim_beyond_cache(order, Effort::Certain, &self.stripes, tally)
        })?;
        tally.count_claim(order.units());
        Some(Span::new(first, order.units()))
    }

    fn release(&self, span: Span, tally: Tally<'_>) {
        tally.begin_release();
        self.map.release(span, tally);
        tally.end_release(span.units());
    }

    fn is_one_block(&self, units: u32) -> bool {
        self.map.largest_free_order(&self.stripes).map(Order::units) == Some(units)
    }
}

fn owned_seat(thread: usize) -> Seat {
    Seat::new(SHARED_SEATS + thread)
}

fn shared_seat() -> Seat {
    Seat::new(0)
}

/// Runs a model, with the bound on preemptions that the environment sets or one that fits a test
/// run.
fn model(f: impl Fn() + Sync + Send + 'static) {
    model_bounded(usize::MAX, f);
}

/// Runs a model of many steps, with no more preemptions than `most`.
fn model_bounded(most: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(builder.preemption_bound.unwrap_or(3).min(most));
    builder.max_branches = 100_000;
    builder.check(f);
}
