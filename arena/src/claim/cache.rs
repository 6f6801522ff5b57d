//! The free units that a thread keeps to itself: claimed and released without a read-modify-write.
//!
//! Of the word that is a thread's home, the free units lie partly in the map and partly in the
//! thread's cache; no unit is in both. The owner takes units out and puts units back with plain
//! loads and stores. What the cache lacks is fetched from the map in one exchange.
//!
//! What is in a cache is free memory, so nobody may be refused or kept waiting beside it. A thread
//! that finds nothing in the map *recalls* the caches of the others: their units go back to the
//! map, and their owners use the map for a while.
//!
//! # How a recall keeps the owner out
//!
//! ```text
//! owner                              recaller
//! 1  busy = 1                        a  state: OPEN -> RECALLING (exchange)
//! 2  barrier::light                  b  barrier::heavy
//! 3  if state == OPEN,               c  wait until busy == 0
//!      take units or put units       d  take all units
//! 4  busy = 0                        e  state = RESTING
//! ```
//!
//! This is Dekker's pattern: 3 sees RECALLING and stays out, or c sees 1 and waits for 4. So 3 and
//! d exclude each other. The owner is inside for a few instructions, and never waits there for
//! anything.
//!
//! | Access            | Ordering  | Pairs with | Carries                                                        |
//! |-------------------|-----------|------------|----------------------------------------------------------------|
//! | 4, `busy = 0`     | `Release` | c          | what the owner did with the units                              |
//! | a, `state`        | `AcqRel`  | 3          | that the recaller's move has begun (for refusals)              |
//! | e, `state`        | `Release` | 3          | what the recaller did with the units                           |
//! | `free`, store     | `Release` | refusals   | what we published before, as for a claim or release in `word`  |
//! | `free`, load      | `Acquire` | the same   |                                                                |
//!
//! `busy` serves the last handle as well: a release at an owned seat is under way while it is set
//! (see `life`).
//!
//! Models: `models::cache`.

use crate::{
    barrier,
    claim::word::{self, WORD_UNITS},
    geometry::{Order, Span},
    sync::{
        AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
        wait_a_moment,
    },
};

/// The owner may use the cache.
const OPEN: u32 = 0;
/// Somebody is emptying it.
const RECALLING: u32 = 1;
/// It is empty, and the owner uses the map until it has rested.
const RESTING: u32 = 2;
/// The seat has no single owner, or the system has no barrier that would keep the owner out.
const NEVER: u32 = 3;

/// Claims that an owner serves from the map after a recall. A recall costs as much as some hundred
/// of them.
const REST_CLAIMS: u32 = if cfg!(all(test, arena_loom)) { 1 } else { 256 };

/// The free units that one thread keeps to itself.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Cache {
    /// Not zero while the owner is inside, or in the middle of a release. Written by the owner
    /// alone.
    busy: AtomicU32,
    state: AtomicU32,
    /// The units, as bits of the word `home`. Written by the owner while `busy` and `OPEN`, or by
    /// whoever recalls.
    free: AtomicU64,
    /// The word of level 0 at which the owner claims first. Written by the owner alone, while the
    /// cache is empty.
    home: AtomicU32,
    /// Claims until a resting cache opens again. Written by the owner while RESTING, or by whoever
    /// recalls.
    rest: AtomicU32,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            busy: AtomicU32::new(0),
            state: AtomicU32::new(NEVER),
            free: AtomicU64::new(0),
            home: AtomicU32::new(0),
            rest: AtomicU32::new(0),
        }
    }
}

impl Cache {
    /// Lets the owner use it, if this system allows that.
    pub(crate) fn allow(&self) {
        if barrier::is_available() {
            self.state.store(OPEN, Release);
        }
    }

    #[inline]
    pub(crate) fn home(&self) -> u32 {
        self.home.load(Relaxed)
    }

    /// Moves to another word and returns the old one. Its units must be elsewhere already. Only
    /// inside [`change`](Self::change), or out of use.
    pub(crate) fn move_home(&self, word: u32) -> u32 {
        // Release, both: a snapshot that sees the new home sees none of the old one's units.
        self.free.store(0, Release);
        // A read-modify-write, since threads that share a seat share its home.
        self.home.swap(word, AcqRel)
    }

    /// The home, and the units that lie here as its bits. For snapshots.
    pub(crate) fn view(&self) -> (u32, u64) {
        loop {
            // Acquire: pairs with `move_home`. The same home before and after: the units are its.
            let home = self.home.load(Acquire);
            let free = self.free();
            if self.home.load(Relaxed) == home {
                return (home, free);
            }
        }
    }

    /// Whether there are units in it that a recall would bring. What another thread is recalling is
    /// that thread's: its move is under way.
    pub(crate) fn may_hold_units(&self) -> bool {
        self.free() != 0 && self.state.load(Acquire) == OPEN
    }

    /// Whether it is empty and stays so until the owner opens it again.
    pub(crate) fn is_out_of_use(&self) -> bool {
        matches!(self.state.load(Acquire), RESTING | NEVER)
    }

    /// The units that lie here, as bits of the word `home`.
    fn free(&self) -> u64 {
        self.free.load(Acquire)
    }

    /// The owner begins a release or steps in.
    #[inline]
    pub(crate) fn set_busy(&self) {
        self.busy.store(1, Relaxed);
    }

    /// The owner is done.
    #[inline]
    pub(crate) fn clear_busy(&self) {
        self.busy.store(0, Release);
    }

    #[inline]
    pub(crate) fn is_busy(&self) -> bool {
        self.busy.load(Acquire) != 0
    }

    /// Claims the lowest free block of `order`, and returns its first unit. Only the owner may ask.
    #[inline]
    pub(crate) fn claim(&self, order: Order) -> Option<u32> {
        self.set_busy();
        let claimed = if self.owner_may_enter() { self.take(order) } else { None };
        self.clear_busy();
        claimed
    }

    /// Puts back a run of units, if they are a part of the home word and the cache is open. The
    /// owner is busy.
    ///
    /// A whole word goes back to where it was claimed, one level up.
    #[inline]
    pub(crate) fn release(&self, span: Span) -> bool {
        let bit = span.first() % WORD_UNITS;
        if span.first() / WORD_UNITS != self.home()
            || span.units() == WORD_UNITS
            || span.units() > WORD_UNITS - bit
            || !self.owner_may_enter()
        {
            return false;
        }
        let free = self.free.load(Relaxed);
        let run = word::run(bit, span.units());
        // Kept in release builds: going on would give two owners the same bytes.
        assert_eq!(free & run, 0, "units released twice");
        self.free.store(free | run, Release);
        true
    }

    /// Lets the owner exchange what is in the cache: `change` gets the units and returns those that
    /// stay. Not called if the cache cannot be used.
    pub(crate) fn change(&self, change: impl FnOnce(u64) -> u64) -> bool {
        self.set_busy();
        let may_enter = self.owner_may_enter();
        if may_enter {
            let kept = change(self.free.load(Relaxed));
            self.free.store(kept, Release);
        }
        self.clear_busy();
        may_enter
    }

    /// Counts a claim that the map served. True if the cache may be used for the next.
    pub(crate) fn rest(&self) -> bool {
        match self.state.load(Acquire) {
            OPEN => true,
            RESTING => {
                let left = self.rest.load(Relaxed).saturating_sub(1);
                self.rest.store(left, Relaxed);
                if left == 0 {
                    // Nobody else changes a state of RESTING.
                    self.state.store(OPEN, Release);
                }
                left == 0
            }
            _ => false,
        }
    }

    /// Begins a recall. False if somebody else is at it, or the cache is not in use. What follows
    /// is [`barrier::heavy`], once for all caches that are shut, and then [`drain`](Self::drain).
    pub(crate) fn shut(&self) -> bool {
        // Release: whoever finds the cache shut sees that our move has begun. Acquire: pairs with
        // the owner's opening.
        self.state.compare_exchange(OPEN, RECALLING, AcqRel, Relaxed).is_ok()
    }

    /// Ends a recall: waits until the owner is outside, and hands all units to `take`.
    pub(crate) fn drain(&self, take: impl FnOnce(u32, u64)) {
        let mut round = 0;
        // Acquire: pairs with `clear_busy`.
        while self.is_busy() {
            wait_a_moment(round);
            round += 1;
        }
        let free = self.free.load(Relaxed);
        self.free.store(0, Release);
        take(self.home(), free);
        self.rest.store(REST_CLAIMS, Relaxed);
        self.state.store(RESTING, Release);
    }

    /// Steps 2 and 3 of the diagram. The owner is busy.
    #[inline]
    fn owner_may_enter(&self) -> bool {
        barrier::light();
        // Acquire: pairs with the end of a recall and of a rest.
        self.state.load(Acquire) == OPEN
    }

    #[inline]
    fn take(&self, order: Order) -> Option<u32> {
        let free = self.free.load(Relaxed);
        let bit = word::lowest_free_run(free, order)?;
        self.free.store(free & !word::run(bit, order.units()), Release);
        Some(self.home() * WORD_UNITS + bit)
    }
}
