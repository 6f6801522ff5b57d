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
    barrier,
    claim::{Duty, FRONT, Map},
    geometry::{Order, Span},
    life::{Core, Effort, Fate, Progress},
    thread::{SHARED_SEATS, Seat},
};

/// A sixteenth of a word.
const SIXTEENTH: Order = Order::new(2);
/// An eighth of a word.
const EIGHTH: Order = Order::new(3);
/// A quarter of a word.
const QUARTER: Order = Order::new(4);
/// Half a word.
const HALF: Order = Order::new(5);
/// A word: on two levels, one unit of the upper.
const WORD: Order = Order::new(6);

/// A core that lives as long as the model, and the threads that use it by number.
struct Arena(Core);

impl Arena {
    fn of_slots(units: u32) -> Arc<Self> {
        Arc::new(Self(core_of_slots(units)))
    }

    fn of_blocks(units: u32) -> Arc<Self> {
        Arc::new(Self(core_of_blocks(units)))
    }

    fn claim(&self, order: Order, seat: Seat) -> Option<Span> {
        claim(&self.0, order, seat)
    }

    fn release(&self, span: Span, seat: Seat) {
        // SAFETY: the core lives as long as the model, and the span is released once.
        let fate = unsafe { release(NonNull::from(&self.0), span, seat) };
        assert_eq!(fate, Fate::Lives, "the model has a handle");
    }

    fn is_one_block(&self, units: u32) -> bool {
        let largest = self.0.map.largest_free_order(&self.0.stripes);
        largest.map(Order::units) == Some(units)
    }
}

fn core_of_slots(units: u32) -> Core {
    let has_caches = barrier::is_available();
    let map = Map::of_slots(units, has_caches).unwrap();
    Core::new(map, has_caches).unwrap()
}

fn core_of_blocks(units: u32) -> Core {
    let has_caches = barrier::is_available();
    let map = Map::of_blocks(units, units, has_caches).unwrap();
    Core::new(map, has_caches).unwrap()
}

/// Claims as `shared` does.
fn claim(core: &Core, order: Order, seat: Seat) -> Option<Span> {
    let Some(span) = core.claim_cached(order, seat) else {
        return core.claim_beyond_cache(order, seat, Effort::Certain);
    };
    if core.must_leave_cache() {
        serve(core, seat);
    }
    Some(span)
}

/// Releases as `shared` does.
///
/// # Safety
///
/// As for [`Core::release`].
unsafe fn release(core: NonNull<Core>, span: Span, seat: Seat) -> Fate {
    let progress = if seat.is_owned() {
        // SAFETY: the caller's promise.
        unsafe { Core::release_cached(core, span, seat) }
    } else {
        Progress::Nothing
    };
    if progress == Progress::Ended {
        return Fate::Lives;
    }
    // SAFETY: the caller's promise.
    match unsafe { Core::release(core, span, seat, progress) } {
        Fate::MustServe(duty) => {
            // There is no queue to deliver to: a model looks at the front itself.
            if duty == Duty::Search {
                // SAFETY: the units are outstanding, so the core is alive.
                serve(unsafe { core.as_ref() }, seat);
            }
            // SAFETY: the caller's promise.
            unsafe { Core::finish_release(core, span.units(), seat) }
        }
        fate => fate,
    }
}

fn serve(core: &Core, seat: Seat) {
    let tally = core.stripes.at(seat);
    core.map.leave_cache_if_shut(tally);
    core.map.serve_line(tally);
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

/// Runs a model with the kernel's barrier and without.
fn model_both(f: impl Fn() + Sync + Send + Copy + 'static) {
    model(f);
    barrier::models::without(|| model(f));
}
