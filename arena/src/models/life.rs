//! The end of an arena: its memory is freed once, and touched by nobody afterwards.

use loom::{cell::UnsafeCell, thread};

use super::*;

/// A core that is freed for real, and beside it a cell that stands for the memory: a release reads
/// it before, and freeing writes it, so loom sees a release that comes too late.
struct Doomed {
    core: NonNull<Core>,
    memory: Arc<UnsafeCell<u32>>,
}

// SAFETY: the core is made of atomics; the protocol under test says who frees it.
unsafe impl Send for Doomed {}

impl Clone for Doomed {
    fn clone(&self) -> Self {
        Self { core: self.core, memory: self.memory.clone() }
    }
}

impl Doomed {
    fn of_slots(units: u32) -> Self {
        Self::new(core_of_slots(units))
    }

    fn of_blocks(units: u32) -> Self {
        Self::new(core_of_blocks(units))
    }

    fn new(core: Core) -> Self {
        let core = Box::leak(Box::new(core));
        Self { core: NonNull::from(core), memory: Arc::new(UnsafeCell::new(0)) }
    }

    fn claim(&self, order: Order, seat: Seat) -> Span {
        // SAFETY: called while the handle exists.
        let core = unsafe { self.core.as_ref() };
        claim(core, order, seat).unwrap()
    }

    fn release(&self, span: Span, seat: Seat) -> bool {
        // SAFETY: a read that nothing writes meanwhile, or loom says so.
        self.memory.with(|memory| unsafe { assert_eq!(*memory, 0) });
        // SAFETY: the span was claimed, and is released once.
        let fate = unsafe { release(self.core, span, seat) };
        self.end(fate)
    }

    fn drop_handle(&self) -> bool {
        // SAFETY: there is one handle, and it is dropped once.
        let fate = unsafe { Core::drop_handle(self.core, || ()) };
        self.end(fate)
    }

    /// Runs `end`, the last release or what is left of it, while the handle goes: one of the two
    /// frees.
    #[track_caller]
    fn ends_once(&self, end: impl FnOnce(&Self) -> bool + Send + 'static) {
        let rival = thread::spawn({
            let arena = self.clone();
            move || end(&arena)
        });
        let by_handle = self.drop_handle();
        assert_ne!(by_handle, rival.join().unwrap(), "freed exactly once");
    }

    fn end(&self, fate: Fate) -> bool {
        if fate == Fate::Over {
            // SAFETY: nobody else reads or writes it any more, or loom says so.
            self.memory.with_mut(|memory| unsafe { *memory += 1 });
            // SAFETY: `new` made it from a box.
            drop(unsafe { Box::from_raw(self.core.as_ptr()) });
        }
        fate == Fate::Over
    }
}

/// A2: the last buffer and the last handle go at once, the buffer into its thread's cache.
#[test]
fn the_last_release_and_the_last_handle_free_once() {
    model(|| {
        let arena = Doomed::of_slots(1);
        let slot = arena.claim(Order::UNIT, owned_seat(0));
        arena.ends_once(move |arena| arena.release(slot, owned_seat(0)));
    });
}

/// A2: the same through the map, at a seat that threads share.
#[test]
fn the_last_release_at_a_shared_seat_and_the_last_handle_free_once() {
    model(|| {
        let arena = Doomed::of_slots(1);
        let slot = arena.claim(Order::UNIT, shared_seat());
        arena.ends_once(move |arena| arena.release(slot, shared_seat()));
    });
}

/// A2: the same through the map, at an owned seat that did not claim the slot.
#[test]
fn a_release_by_another_thread_and_the_last_handle_free_once() {
    model(|| {
        let arena = Doomed::of_slots(65);
        let slot = arena.claim(Order::UNIT, owned_seat(0));
        arena.ends_once(move |arena| arena.release(slot, owned_seat(1)));
    });
}

/// A2: where there is no barrier, the words of the map carry the handshake alone.
#[test]
fn without_a_barrier_the_arena_is_freed_once_as_well() {
    for seat in [owned_seat(0), shared_seat()] {
        barrier::models::without(|| {
            model(move || {
                let arena = Doomed::of_slots(1);
                let slot = arena.claim(Order::UNIT, seat);
                arena.ends_once(move |arena| arena.release(slot, seat));
            });
        });
    }
}

/// A2: two releases and the last handle. Whoever is last frees.
#[test]
fn two_releases_and_the_last_handle_free_once() {
    model(|| {
        let arena = Doomed::of_slots(2);
        let (left, right) =
            (arena.claim(Order::UNIT, owned_seat(0)), arena.claim(Order::UNIT, owned_seat(0)));
        let rivals = [(left, owned_seat(0)), (right, shared_seat())].map(|(slot, seat)| {
            let arena = arena.clone();
            thread::spawn(move || arena.release(slot, seat))
        });
        let by_handle = arena.drop_handle();
        let by_rivals = rivals.map(|rival| rival.join().unwrap());
        let freed = by_rivals.into_iter().chain([by_handle]).filter(|&freed| freed).count();
        assert_eq!(freed, 1);
    });
}

/// A2: a release that closes a word is waited for: it goes on touching the map after its bits are
/// set.
#[test]
fn a_release_that_closes_a_word_is_waited_for() {
    model(|| {
        let arena = Doomed::of_blocks(128);
        let half = arena.claim(HALF, owned_seat(0));
        // The thread's home moves on, so that its first word is closed when it is whole again.
        let rest = arena.claim(HALF, owned_seat(0));
        let elsewhere = arena.claim(HALF, owned_seat(0));
        assert!(!arena.release(rest, owned_seat(1)));
        assert!(!arena.release(elsewhere, owned_seat(0)));
        arena.ends_once(move |arena| arena.release(half, owned_seat(1)));
    });
}

/// A2: handles that go at once settle the account once.
#[test]
fn the_last_of_two_handles_frees() {
    model(|| {
        let arena = Doomed::of_slots(1);
        // SAFETY: the handle exists.
        unsafe { arena.core.as_ref() }.add_handle();
        let rival = thread::spawn({
            let arena = arena.clone();
            move || arena.drop_handle()
        });
        let mine = arena.drop_handle();
        assert_ne!(mine, rival.join().unwrap(), "freed exactly once");
    });
}

/// A2: a release serves whoever stands in the line, and then ends, while the last handle goes.
#[test]
fn a_release_that_serves_and_the_last_handle_free_once() {
    for claimer in [owned_seat(1), shared_seat()] {
        let race = move || {
            let arena = Doomed::of_slots(1);
            let slot = arena.claim(Order::UNIT, owned_seat(0));
            let rival = thread::spawn({
                let arena = arena.clone();
                move || arena.release(slot, owned_seat(0))
            });
            // SAFETY: the handle exists.
            if let Some(slot) = claim(unsafe { arena.core.as_ref() }, Order::UNIT, claimer) {
                assert!(!arena.release(slot, claimer), "the model has a handle");
            }
            let by_handle = arena.drop_handle();
            assert_ne!(by_handle, rival.join().unwrap(), "freed exactly once");
        };
        model_both(race);
    }
}

/// A2: a lease gives its tail back and then ends, while the last handle goes.
#[test]
fn a_tail_and_the_last_handle_free_once() {
    for seat in [owned_seat(0), shared_seat()] {
        model_both(move || {
            let arena = Doomed::of_blocks(128);
            let whole = arena.claim(WORD, seat);
            arena.ends_once(move |arena| {
                let [head, tail] = [0, 32].map(|at| Span::new(whole.first() + at, 32));
                // SAFETY: the head keeps it alive.
                assert!(unsafe { arena.core.as_ref() }.release_alive(tail, seat).is_none());
                arena.release(head, seat)
            });
        });
    }
}

/// A2: two releases at one seat. One of them begins after the last handle has looked, and ends
/// before the other.
#[test]
fn two_releases_at_a_shared_seat_and_the_last_handle_free_once() {
    barrier::models::without(|| {
        model_bounded(2, || {
            let arena = Doomed::of_slots(2);
            let slots = [0, 1].map(|_| arena.claim(Order::UNIT, shared_seat()));
            let releasers = slots.map(|slot| {
                let arena = arena.clone();
                thread::spawn(move || arena.release(slot, shared_seat()))
            });
            let last = thread::spawn({
                let arena = arena.clone();
                move || arena.drop_handle()
            });
            let ends = releasers.into_iter().chain([last]).map(|thread| thread.join().unwrap());
            assert_eq!(ends.filter(|&freed| freed).count(), 1);
        });
    });
}

/// A2: a release that has served ends, while the last handle goes.
#[test]
fn a_release_that_has_served_and_the_last_handle_free_once() {
    for seat in [owned_seat(0), shared_seat()] {
        model_both(move || {
            let arena = Doomed::of_slots(1);
            let slot = arena.claim(Order::UNIT, seat);
            // SAFETY: the handle exists.
            let map = &unsafe { arena.core.as_ref() }.map;
            let is_safe = map.shut_caches();
            map.line.set_front(0);
            // SAFETY: the slot is released once.
            let fate = unsafe { Core::release(arena.core, slot, seat, Progress::Nothing) };
            assert_eq!(fate, Fate::MustServe(Duty::Deliver));
            map.line.withdraw(FRONT).expect("it was handed over");
            map.line.end_front();
            map.open_caches_if(is_safe);
            arena.ends_once(move |arena| {
                // SAFETY: as it has to end.
                let fate = unsafe { Core::finish_release(arena.core, 1, seat) };
                arena.end(fate)
            });
        });
    }
}

/// A2: a claim is made through a handle that goes: the last handle knows of it.
#[test]
fn a_claim_through_another_handle_is_outstanding() {
    model_both(|| {
        let arena = Doomed::of_slots(1);
        // SAFETY: the handle exists.
        unsafe { arena.core.as_ref() }.add_handle();
        let rival = thread::spawn({
            let arena = arena.clone();
            move || {
                let slot = arena.claim(Order::UNIT, shared_seat());
                assert!(!arena.drop_handle(), "its slot is in use");
                slot
            }
        });
        assert!(!arena.drop_handle(), "a slot is in use, or about to be");
        let slot = rival.join().unwrap();
        assert!(arena.release(slot, shared_seat()), "it was the last");
    });
}

/// A2: the kernel refuses a barrier that it had granted. The end cannot be decided then, and the
/// memory stays.
#[test]
fn an_end_without_a_barrier_frees_nothing() {
    model(|| {
        let arena = Doomed::of_slots(1);
        let slot = arena.claim(Order::UNIT, owned_seat(0));
        let rival = thread::spawn({
            let arena = arena.clone();
            move || arena.release(slot, owned_seat(0))
        });
        let by_handle = barrier::models::denied(|| arena.drop_handle());
        let by_rival = rival.join().unwrap();
        assert!(!by_handle && !by_rival);
        // SAFETY: `new` made it from a box, and nobody else has it any more.
        drop(unsafe { Box::from_raw(arena.core.as_ptr()) });
    });
}
