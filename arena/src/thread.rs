//! Which stripe of counters the current thread writes to.
//!
//! A thread that claims memory has a seat of its own, and with it, in every arena, a stripe that no
//! other thread writes: it counts with plain stores. A seat is given up when its thread ends and
//! then taken by another. Threads that only free memory, and those beyond [`OWNED_SEATS`] at one
//! time, share [`SHARED_SEATS`] seats and count with read-modify-writes.
//!
//! This is the only state that arenas have in common. It is touched once when a thread first claims
//! and once when the thread ends, never in between.

use std::{
    cell::Cell,
    sync::atomic::{
        AtomicU32, AtomicU64, AtomicUsize,
        Ordering::{Acquire, Relaxed, Release},
    },
};

/// Seats that one thread has to itself.
pub(crate) const OWNED_SEATS: usize = if cfg!(all(test, arena_loom)) { 3 } else { 1020 };

/// Seats for all other threads. They come first in the numbering.
pub(crate) const SHARED_SEATS: usize = if cfg!(all(test, arena_loom)) { 1 } else { 4 };

#[allow(clippy::cast_possible_truncation, reason = "a handful")]
const SHARED_SEATS_U32: u32 = SHARED_SEATS as u32;

/// All seats.
pub(crate) const SEATS: usize = SHARED_SEATS + OWNED_SEATS;

/// Words of `TAKEN`.
const TAKEN_WORDS: usize = OWNED_SEATS.div_ceil(u64::BITS as usize);

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
static TAKEN: [AtomicU64; TAKEN_WORDS] = [const { AtomicU64::new(0) }; TAKEN_WORDS];

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

/// The seat of the current thread, if no other thread has it.
#[cfg(all(test, arena_loom))]
pub(crate) fn owned_seat() -> Option<Seat> {
    Some(seat()).filter(|seat| seat.is_owned())
}

/// The seat of the current thread, which is about to claim.
#[cfg(all(test, arena_loom))]
pub(crate) fn seat_to_claim() -> Seat {
    seat()
}

/// The seat of the current thread, if no other thread has it.
#[cfg(not(all(test, arena_loom)))]
#[inline]
pub(crate) fn owned_seat() -> Option<Seat> {
    let seat = SEAT.get();
    (seat > SHARED_SEATS_U32).then(|| Seat(seat - 1))
}

/// The seat of the current thread: a shared one until it claims.
#[cfg(not(all(test, arena_loom)))]
#[inline]
pub(crate) fn seat() -> Seat {
    let seat = SEAT.get();
    if seat > SHARED_SEATS_U32 { Seat(seat - 1) } else { shared_seat() }
}

/// The seat of the current thread, which is about to claim: one of its own if there is any.
#[cfg(not(all(test, arena_loom)))]
#[inline]
pub(crate) fn seat_to_claim() -> Seat {
    let seat = SEAT.get();
    if seat > SHARED_SEATS_U32 { Seat(seat - 1) } else { take_seat() }
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
fn shared_seat() -> Seat {
    if SEAT.get() != STANDING {
        return Seat(SEAT.get() - 1);
    }
    let seat = Seat(NEXT_SHARED.fetch_add(1, Relaxed) % SHARED_SEATS_U32);
    SEAT.set(seat.0 + 1);
    seat
}

#[cfg_attr(all(test, arena_loom), allow(dead_code))]
#[cold]
fn take_seat() -> Seat {
    // A thread whose destructors are running could not give an owned seat back any more.
    let can_leave = LEAVE.try_with(|_| ()).is_ok();
    match can_leave.then(take_owned).flatten() {
        Some(seat) => {
            SEAT.set(seat.0 + 1);
            seat
        }
        None => shared_seat(),
    }
}

fn take_owned() -> Option<Seat> {
    (0..).zip(&TAKEN).find_map(|(row, taken)| {
        let mut bits = taken.load(Relaxed);
        loop {
            let number = row * u64::BITS + bits.trailing_ones();
            if bits == u64::MAX || number as usize >= OWNED_SEATS {
                return None;
            }
            // Acquire: pairs with `Leave`. The counters that the last owner stored are ours to read
            // and to go on from.
            let bit = 1 << (number % u64::BITS);
            match taken.compare_exchange_weak(bits, bits | bit, Acquire, Relaxed) {
                Ok(_) => {
                    let seat = Seat(number + SHARED_SEATS_U32);
                    // Release: pairs with `seats_in_use`, but it is what the thread then writes
                    // that carries it.
                    IN_USE.fetch_max(seat.index() + 1, Release);
                    return Some(seat);
                }
                Err(now) => bits = now,
            }
        }
    })
}

/// Gives the seat of an ending thread to the next one.
struct Leave;

impl Drop for Leave {
    fn drop(&mut self) {
        let seat = SEAT.get();
        if seat > SHARED_SEATS_U32 {
            // Buffers that drop after this, in later destructors of the same thread, are counted at
            // a shared seat.
            SEAT.set(STANDING);
            let number = Seat(seat - 1).index() - SHARED_SEATS;
            let bit = 1 << (number % u64::BITS as usize);
            // Release: pairs with `take_owned`; our plain stores happen before those of the next
            // owner.
            TAKEN[number / u64::BITS as usize].fetch_and(!bit, Release);
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
        const THREADS: usize = 300;
        let all_seated = Arc::new(Barrier::new(THREADS));
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let all_seated = Arc::clone(&all_seated);
                std::thread::spawn(move || {
                    let seat = seat_to_claim();
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
            .filter(|_| std::thread::spawn(seat_to_claim).join().unwrap().is_owned())
            .count();
        assert!(owned > OWNED_SEATS, "only {owned} of the threads had a seat of their own");
    }

    #[test]
    fn a_thread_keeps_its_seat() {
        assert_eq!(seat(), seat());
    }
}
