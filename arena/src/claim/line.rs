//! Who is handed what others free, before it is free for everybody.
//!
//! An entry of the line says which order somebody waits for. Whoever releases a block that suffices
//! puts it there instead of into the map, by one exchange; so nobody can take it in between, and no
//! lock is held. The entries belong to the arena: one is withdrawn by an exchange as well, whatever
//! others do with it at that moment.
//!
//! ```text
//!           want                  serve
//!  EMPTY ---------> WANTED(k) -----------> SERVED(block)
//!    ^                  |                       |
//!    +------------------+----- withdraw --------+
//! ```
//!
//! The *front* is the entry of whoever is first in the queue of waiters; it is served first. The
//! others belong to refusers, each to one thread that is about to be refused.
//!
//! # Signals
//!
//! Two words tell claims and releases that more than their fast path is asked for. Both are zero in
//! normal operation and rarely written.
//!
//! - `shut` counts who keeps the thread caches shut (see `cache`).
//! - `attention` has a bit for each entry that is in use, and one for the end of the arena.
//!
//! # Why whoever is in the line misses nothing
//!
//! ```text
//! in the line                             whoever makes memory free
//! 1  shut += 1, entry = WANTED,           a  sets bits in the map, or in its cache
//!    marks `attention`                    b  barrier::light
//! 2  barrier::heavy                       c  reads `attention`, and the entries in use:
//! 3  empties the caches, searches            serves them if it finds something
//! ```
//!
//! Dekker's pattern: c sees 1, or 3 sees a. Who reads `attention` before a as well and finds an
//! entry in use serves it with the block itself, and comes to c only with blocks that nobody wants.
//!
//! | Access                     | Ordering | Pairs with       | Carries                               |
//! |----------------------------|----------|------------------|---------------------------------------|
//! | entry: want                | `SeqCst` | `serve`, c       | one side of Dekker's pattern          |
//! | entry: serve               | `SeqCst` | withdraw         | the last owner is done with the bytes |
//! | entry: withdraw            | `SeqCst` | `serve`          | the same                              |
//! | `attention`, `shut`: write | `SeqCst` | c, cache owners  | one side of Dekker's pattern          |

use crate::{
    barrier,
    sync::{
        AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, SeqCst},
        between_write_and_read,
    },
};

/// The last handle is gone.
pub(crate) const ORPHANED: u64 = 1;

/// The entry of the queue.
pub(crate) const FRONT: Entry = Entry(1);

/// One for each bit of `attention`; the first is not used.
const ENTRIES: usize = if cfg!(all(test, arena_loom)) { 4 } else { 64 };

/// In `shut`: beyond any number of those who keep the caches shut.
const FOR_GOOD: u32 = 1 << 31;

const EMPTY: u64 = 0;
const WANTED: u64 = 1 << 62;
const SERVED: u64 = 2 << 62;

/// Which entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Entry(u32);

/// What is left to do for those in the line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Duty {
    /// To search for them: they were not seen before the memory was free.
    Search,
    /// To tell the queue that its front was served.
    Deliver,
}

/// The entries, and the signals.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Line {
    shut: AtomicU32,
    attention: AtomicU64,
    entries: [AtomicU64; ENTRIES],
}

impl Line {
    /// A line in which nobody stands. Caches stay shut for ever unless they `may_open`.
    pub(crate) fn new(may_open: bool) -> Self {
        Self {
            shut: AtomicU32::new(if may_open { 0 } else { FOR_GOOD }),
            attention: AtomicU64::new(0),
            entries: std::array::from_fn(|_| AtomicU64::new(EMPTY)),
        }
    }

    /// Whether the thread caches are shut. After a write by the caller: one side of Dekker's
    /// pattern.
    #[inline]
    pub(crate) fn is_shut(&self) -> bool {
        barrier::light();
        // Acquire: pairs with `open`; what a recaller did with the units.
        self.shut.load(Acquire) != 0
    }

    /// Shuts the caches. What follows is [`barrier::heavy`].
    pub(crate) fn shut(&self) {
        self.shut.fetch_add(1, SeqCst);
    }

    /// Shuts the caches, and nobody opens them again.
    pub(crate) fn shut_for_good(&self) {
        self.shut.fetch_or(FOR_GOOD, SeqCst);
    }

    /// Takes a [`shut`](Self::shut) back.
    pub(crate) fn open(&self) {
        self.shut.fetch_sub(1, SeqCst);
    }

    /// What a release must look after. After a write by the caller: one side of Dekker's pattern.
    #[inline]
    pub(crate) fn attention(&self) -> u64 {
        barrier::light();
        self.attention.load(SeqCst)
    }

    /// Whether somebody stands in the line.
    #[inline]
    pub(crate) fn is_in_use(&self) -> bool {
        self.attention() & !ORPHANED != 0
    }

    /// What a release must do for those in the line. `was_given` says that it has seen them before.
    #[inline]
    pub(crate) fn duty(&self, attention: u64, was_given: bool) -> Option<Duty> {
        if attention & !ORPHANED == 0 {
            None
        } else if !was_given {
            Some(Duty::Search)
        } else {
            self.is_served(FRONT).then_some(Duty::Deliver)
        }
    }

    /// Whether the queue is waited in.
    #[cfg(feature = "async-alloc")]
    #[inline]
    pub(crate) fn has_front(&self) -> bool {
        self.attention() & FRONT.bit() != 0
    }

    /// Notes that the last handle is gone.
    pub(crate) fn set_orphaned(&self) {
        // Release in any case: carried to later releases by `touch_every_word`.
        self.attention.fetch_or(ORPHANED, SeqCst);
    }

    /// Takes an entry that nobody uses and asks for a block of `order`. None if all are in use.
    pub(crate) fn join(&self, order: u32) -> Option<Entry> {
        let mut attention = self.attention.load(Relaxed);
        loop {
            let free = (!attention & !(ORPHANED | FRONT.bit())).trailing_zeros();
            if free as usize >= ENTRIES {
                return None;
            }
            let entry = Entry(free);
            match self.attention.compare_exchange(
                attention,
                attention | entry.bit(),
                SeqCst,
                Relaxed,
            ) {
                Ok(_) => {
                    self.want(entry, order);
                    return Some(entry);
                }
                Err(now) => attention = now,
            }
        }
    }

    /// Gives an entry up. Returns the block that it was served.
    pub(crate) fn leave(&self, entry: Entry) -> Option<(u32, u32)> {
        let served = self.withdraw(entry);
        self.attention.fetch_and(!entry.bit(), SeqCst);
        served
    }

    /// Asks for a block of `order` for the queue.
    #[cfg(feature = "async-alloc")]
    pub(crate) fn set_front(&self, order: u32) {
        self.want(FRONT, order);
        self.attention.fetch_or(FRONT.bit(), SeqCst);
    }

    /// Nobody is in the queue.
    #[cfg(feature = "async-alloc")]
    pub(crate) fn end_front(&self) {
        self.attention.fetch_and(!FRONT.bit(), SeqCst);
    }

    /// Asks for a block of `order`.
    pub(crate) fn want(&self, entry: Entry, order: u32) {
        self.at(entry).store(WANTED | u64::from(order), SeqCst);
        between_write_and_read();
    }

    /// Asks for nothing any more. Returns the block that the entry was served: its first unit and
    /// its order.
    pub(crate) fn withdraw(&self, entry: Entry) -> Option<(u32, u32)> {
        served(self.at(entry).swap(EMPTY, SeqCst))
    }

    /// Whether the entry has been served.
    pub(crate) fn is_served(&self, entry: Entry) -> bool {
        self.at(entry).load(SeqCst) & SERVED != 0
    }

    /// The entries in use, the front first.
    fn in_use(&self) -> impl Iterator<Item = Entry> + use<> {
        let mut in_use = self.attention.load(SeqCst) & !ORPHANED;
        std::iter::from_fn(move || {
            let entry = (in_use != 0).then(|| Entry(in_use.trailing_zeros()))?;
            in_use &= in_use - 1;
            Some(entry)
        })
    }

    /// The smallest order that somebody waits for.
    pub(crate) fn smallest_wanted(&self) -> Option<u32> {
        self.wanted().map(|(_, order)| order).min()
    }

    /// Who waits for which order, the front first.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = (Entry, u32)> {
        self.in_use().filter_map(|entry| {
            let state = self.at(entry).load(SeqCst);
            (state & WANTED != 0).then(|| (entry, order_in(state)))
        })
    }

    /// Hands the start of a free block to the first entry that it suffices for. Returns how large a
    /// block that took.
    pub(crate) fn offer(&self, first: u32, order: u32) -> Option<u32> {
        self.wanted()
            .filter(|&(_, wanted)| wanted <= order)
            .find(|&(entry, wanted)| self.serve(entry, first, wanted))
            .map(|(_, wanted)| wanted)
    }

    /// Hands a block over. False if the entry does not wait for such a block any more.
    pub(crate) fn serve(&self, entry: Entry, first: u32, order: u32) -> bool {
        let wanted = WANTED | u64::from(order);
        let served = SERVED | u64::from(order) << 32 | u64::from(first);
        self.at(entry).compare_exchange(wanted, served, SeqCst, Relaxed).is_ok()
    }

    fn at(&self, entry: Entry) -> &AtomicU64 {
        &self.entries[entry.0 as usize]
    }
}

impl Entry {
    fn bit(self) -> u64 {
        1 << self.0
    }
}

#[allow(clippy::cast_possible_truncation, reason = "an order is below 32")]
fn order_in(state: u64) -> u32 {
    state as u32 & 31
}

#[allow(clippy::cast_possible_truncation, reason = "the lower half")]
fn served(state: u64) -> Option<(u32, u32)> {
    (state & SERVED != 0).then(|| (state as u32, order_in(state >> 32)))
}
