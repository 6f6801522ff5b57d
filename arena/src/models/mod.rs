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

use std::ptr::NonNull;

use loom::sync::Arc;

use crate::{
    claim::{Effort, Map},
    geometry::{Order, Span},
    life::{Core, Fate},
    stripe::Stripes,
    thread::{SHARED_SEATS, Seat},
};

/// Half a word.
const HALF: Order = Order::new(5);
/// A word: on two levels, one unit of the upper.
const WORD: Order = Order::new(6);

/// A core that lives as long as the model, and the threads that use it by number.
struct Arena(Core);

impl Arena {
    fn of_slots(units: u32) -> Arc<Self> {
        Self::new(Map::of_slots(units).unwrap())
    }

    fn of_blocks(units: u32) -> Arc<Self> {
        Self::new(Map::of_blocks(units, units).unwrap())
    }

    fn new(map: Map) -> Arc<Self> {
        let stripes = Stripes::new(map.words_of_ground());
        Arc::new(Self(Core::new(map, stripes)))
    }

    fn claim(&self, order: Order, seat: Seat) -> Option<Span> {
        let claim = || self.0.claim_beyond_cache(order, seat, Effort::Certain);
        self.0.claim_cached(order, seat).or_else(claim)
    }

    fn release(&self, span: Span, seat: Seat) {
        // SAFETY: the core lives as long as the model, and the span is released once.
        match unsafe { Core::release(NonNull::from(&self.0), span, seat) } {
            Fate::Lives => {}
            Fate::MustAttend => {
                self.0.await_last_look();
                // SAFETY: a handle was got, and the model's own remains.
                let fate = unsafe { Core::drop_handle(NonNull::from(&self.0)) };
                assert_eq!(fate, Fate::Lives);
            }
            Fate::Over => panic!("the model has a handle"),
        }
    }

    fn is_one_block(&self, units: u32) -> bool {
        let largest = self.0.map.largest_free_order(&self.0.stripes);
        largest.map(Order::units) == Some(units)
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
