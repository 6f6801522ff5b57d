//! How many references share a frozen lease: a count beside each unit, instead of a heap
//! allocation.
//!
//! The count of a lease stands at its first unit, and it counts the *others*: zero means that
//! whoever holds it is alone. So freezing writes nothing, and dropping an unshared lease reads
//! once.
//!
//! | Operation | Ordering  | Pairs with | Carries                                                             |
//! |-----------|-----------|------------|---------------------------------------------------------------------|
//! | `add`     | `Relaxed` | -          | the new reference comes from one that exists                        |
//! | `leave`   | `Release` | `is_alone` | this reference has read what it wanted                              |
//! | `is_alone`| `Acquire` | `leave`    | the others are done, so the bytes may be written or given away      |

use crate::{
    error::BuildError,
    sync::{
        AtomicU32,
        Ordering::{AcqRel, Acquire, Relaxed},
    },
    zeroed,
};

/// More references than this to one lease mean a leak in a loop; going on could wrap the count.
const OTHERS_MAX: u32 = u32::MAX / 2;

/// For each unit, the number of further references to the lease that starts there.
#[derive(Debug)]
pub(crate) struct Counts(Box<[AtomicU32]>);

impl Counts {
    pub(crate) fn new(units: u32) -> Result<Self, BuildError> {
        zeroed::table(units as usize).map(Self)
    }

    /// Adds a reference. The caller has one.
    pub(crate) fn add(&self, first: u32) {
        let others = self.of(first).fetch_add(1, Relaxed);
        if others > OTHERS_MAX {
            // The same answer as `Arc`: unwinding would leave the count where it is.
            std::process::abort();
        }
    }

    /// The count of the lease that starts at a unit.
    #[inline]
    pub(crate) fn of(&self, first: u32) -> &AtomicU32 {
        &self.0[first as usize]
    }
}

/// Whether the caller has the only reference. If so, that stays true until the caller adds one.
#[inline]
pub(crate) fn is_alone(others: &AtomicU32) -> bool {
    others.load(Acquire) == 0
}

/// Takes the caller's reference away. True if it was the last: the lease is then the caller's, with
/// a count of zero. If not, the arena may be gone when this returns: it gets the count alone, an
/// atomic, and does not touch it after the exchange.
#[inline]
pub(crate) fn leave(others: &AtomicU32) -> bool {
    is_alone(others) || leave_others(others)
}

fn leave_others(others: &AtomicU32) -> bool {
    // Release: what we read is read. Acquire, if we turn out to be the last: the others are done
    // too.
    if others.fetch_sub(1, AcqRel) > 0 {
        return false;
    }
    // Relaxed: nobody else has a reference, and the release of the units carries it to the next
    // owner.
    others.store(0, Relaxed);
    true
}
