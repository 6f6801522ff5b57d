//! Which stripe of counters the current thread writes to.
//!
//! The first [`OWNED_SEATS`] threads that are alive at one time have a seat of their own, and with
//! it, in every arena, a stripe that no other thread writes: they count with plain stores. The
//! threads beyond share [`SHARED_SEATS`] seats and count with read-modify-writes. A seat is given
//! up when its thread ends and then taken by another.
//!
//! This is the only state that arenas have in common. It is touched once when a thread first uses
//! an arena and once when the thread ends, never in between.

use std::{
    cell::Cell,
    sync::atomic::{
        AtomicU32, AtomicU64, AtomicUsize,
        Ordering::{Acquire, Relaxed, Release},
    },
};

/// Seats that one thread has to itself.
pub(crate) const OWNED_SEATS: usize = if cfg!(all(test, arena_loom)) { 3 } else { 62 };

/// Seats for all other threads. They come first in the numbering.
pub(crate) const SHARED_SEATS: usize = if cfg!(all(test, arena_loom)) { 1 } else { 2 };

#[allow(clippy::cast_possible_truncation, reason = "a handful")]
const SHARED_SEATS_U32: u32 = SHARED_SEATS as u32;

/// All seats.
pub(crate) const SEATS: usize = SHARED_SEATS + OWNED_SEATS;

const _: () = assert!(OWNED_SEATS <= u64::BITS as usize, "one bit of `TAKEN` for each");
const _: () = assert!(SEATS.is_power_of_two(), "so that an index is in bounds by its bits");

/// A place at which a thread counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Seat(u32);

impl Seat {
    /// The seat with this number.
    #[cfg(all(test, arena_loom))]
    pub(crate) fn new(number: usize) -> Self {
        assert!(number < SEATS, "there is no such seat");
        Self(u32::try_from(number).expect("below SEATS"))
    }

    /// Below [`SEATS`].
    #[inline]
    pub(crate) fn index(self) -> usize {
        // Changes nothing, and spares every use the check of a bound.
        self.0 as usize & (SEATS - 1)
    }

    /// Whether no other thread has it.
    #[inline]
    pub(crate) fn is_owned(self) -> bool {
        self.0 >= SHARED_SEATS_U32
    }
}

/// In `SEAT`: no seat was given to this thread yet.
const STANDING: u32 = 0;

/// The owned seats that are taken, a bit each.
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// Seats from here on were never taken by any thread. What sums over seats stops here.
///
/// Raised before the seat is used, so whoever is bound to see something written at a seat sees this
/// as well.
static IN_USE: AtomicUsize = AtomicUsize::new(SHARED_SEATS);

/// Turns through the shared seats.
static NEXT_SHARED: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// The number of the seat, plus one. So one comparison tells the owned seats from all else.
    static SEAT: Cell<u32> = const { Cell::new(STANDING) };
    static LEAVE: Leave = const { Leave };
}

#[cfg(all(test, arena_loom))]
loom::thread_local! {
    static MODEL_SEAT: Cell<usize> = Cell::new(0);
}

/// In a model, gives the current thread a seat. Without one it has the shared seat 0.
#[cfg(all(test, arena_loom))]
pub(crate) fn sit(seat: Seat) {
    MODEL_SEAT.with(|cell| cell.set(seat.index()));
}

/// The seat of the current thread.
#[cfg(all(test, arena_loom))]
pub(crate) fn seat() -> Seat {
    Seat::new(MODEL_SEAT.with(Cell::get))
}

/// The seat of the current thread.
#[cfg(not(all(test, arena_loom)))]
#[inline]
pub(crate) fn seat() -> Seat {
    let seat = SEAT.get();
    if seat > SHARED_SEATS_U32 { Seat(seat - 1) } else { seat_without_owning() }
}

/// How many seats have been in use so far: those below this number.
#[inline]
pub(crate) fn seats_in_use() -> usize {
    if cfg!(all(test, arena_loom)) {
        return SEATS;
    }
    // Acquire: pairs with `take_owned`.
    IN_USE.load(Acquire)
}

#[cfg_attr(all(test, arena_loom), allow(dead_code))]
#[cold]
fn seat_without_owning() -> Seat {
    match SEAT.get() {
        STANDING => take_seat(),
        seat => Seat(seat - 1),
    }
}

fn take_seat() -> Seat {
    // A thread whose destructors are running could not give an owned seat back any more.
    let can_leave = LEAVE.try_with(|_| ()).is_ok();
    let seat = can_leave.then(take_owned).flatten().unwrap_or_else(take_shared);
    SEAT.set(seat + 1);
    Seat(seat)
}

fn take_owned() -> Option<u32> {
    let mut taken = TAKEN.load(Relaxed);
    loop {
        let free = taken.trailing_ones();
        if free as usize >= OWNED_SEATS {
            return None;
        }
        // Acquire: pairs with `Leave`. The counters that the last owner stored are ours to read and
        // to go on from.
        match TAKEN.compare_exchange_weak(taken, taken | 1 << free, Acquire, Relaxed) {
            Ok(_) => {
                let seat = free + SHARED_SEATS_U32;
                // Release: pairs with `seats_in_use`, but it is what the thread then writes that
                // carries it.
                IN_USE.fetch_max(Seat(seat).index() + 1, Release);
                return Some(seat);
            }
            Err(now) => taken = now,
        }
    }
}

fn take_shared() -> u32 {
    NEXT_SHARED.fetch_add(1, Relaxed) % SHARED_SEATS_U32
}

/// Gives the seat of an ending thread to the next one.
struct Leave;

impl Drop for Leave {
    fn drop(&mut self) {
        let seat = SEAT.get();
        // Buffers that drop after this, in later destructors of the same thread, are counted at a
        // shared seat.
        SEAT.set(take_shared() + 1);
        if seat > SHARED_SEATS_U32 {
            let seat = Seat(seat - 1);
            let bit = 1 << (seat.index() - SHARED_SEATS);
            // Release: pairs with `take_owned`; our plain stores happen before those of the next
            // owner.
            TAKEN.fetch_and(!bit, Release);
        }
    }
}

#[cfg(all(test, not(arena_loom)))]
mod tests {
    use std::{
        collections::HashSet,
        sync::{Arc, Barrier},
    };

    use super::*;

    #[test]
    fn threads_that_live_at_one_time_never_share_an_owned_seat() {
        const THREADS: usize = 2 * OWNED_SEATS;
        let all_seated = Arc::new(Barrier::new(THREADS));
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let all_seated = Arc::clone(&all_seated);
                std::thread::spawn(move || {
                    let seat = seat();
                    all_seated.wait();
                    seat
                })
            })
            .collect();
        let seats = threads.into_iter().map(|thread| thread.join().unwrap());
        let owned: Vec<_> = seats.filter(|seat| seat.is_owned()).map(Seat::index).collect();
        assert_eq!(owned.iter().collect::<HashSet<_>>().len(), owned.len());
    }

    #[test]
    fn seats_are_taken_again_when_threads_end() {
        let owned = (0..4 * OWNED_SEATS)
            .filter(|_| std::thread::spawn(seat).join().unwrap().is_owned())
            .count();
        assert!(owned > OWNED_SEATS, "only {owned} of the threads had a seat of their own");
    }

    #[test]
    fn a_thread_keeps_its_seat() {
        assert_eq!(seat(), seat());
    }
}
