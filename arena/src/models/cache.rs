//! The caches: a recall and the owner exclude each other, and what lies in a cache is free for
//! everybody.

use loom::thread;

use super::*;

/// A1: the owner claims from its cache while another recalls it - the slot has one owner.
#[test]
fn a_recall_and_a_claim_exclude_each_other() {
    model(|| {
        let arena = Arena::of_slots(1);
        let owner = owned_seat(0);
        let slot = arena.claim(Order::UNIT, owner).unwrap();
        arena.release(slot, owner);
        let rival = thread::spawn({
            let arena = arena.clone();
            move || arena.claim(Order::UNIT, owned_seat(1)).is_some()
        });
        let mine = arena.claim(Order::UNIT, owner).is_some();
        assert_ne!(mine, rival.join().unwrap(), "exactly one claim must win");
    });
}

/// Rule 1: the owner releases into its cache while another is searching - the slot is found at the
/// latest afterwards, and it is not lost.
#[test]
fn a_recall_and_a_release_lose_nothing() {
    model(|| {
        let arena = Arena::of_slots(1);
        let owner = owned_seat(0);
        let slot = arena.claim(Order::UNIT, owner).unwrap();
        let rival = thread::spawn({
            let arena = arena.clone();
            move || arena.claim(Order::UNIT, owned_seat(1)).is_some()
        });
        arena.release(slot, owner);
        let before = rival.join().unwrap();
        let after = arena.claim(Order::UNIT, owned_seat(1)).is_some();
        assert!(before != after, "one slot is given out once");
    });
}

/// Rule 1: two threads look for what lies in the cache of a third - one gets it, and the other's
/// refusal is true.
#[test]
fn two_recalls_find_the_slot_once() {
    model(|| {
        let arena = Arena::of_slots(1);
        let slot = arena.claim(Order::UNIT, owned_seat(0)).unwrap();
        arena.release(slot, owned_seat(0));
        let rival = thread::spawn({
            let arena = arena.clone();
            move || arena.claim(Order::UNIT, owned_seat(1)).is_some()
        });
        let mine = arena.claim(Order::UNIT, owned_seat(2)).is_some();
        assert_ne!(mine, rival.join().unwrap(), "the slot is found once");
    });
}

/// Rule 1: the owner frees into its cache and claims from it, over and over - whoever is refused
/// met a moment without room, so with two slots nobody is.
#[test]
fn a_cache_in_use_hides_nothing() {
    model(|| {
        let arena = Arena::of_slots(2);
        let owner = owned_seat(0);
        let slot = arena.claim(Order::UNIT, owner).unwrap();
        let rival = thread::spawn({
            let arena = arena.clone();
            move || arena.claim(Order::UNIT, owned_seat(1)).is_some()
        });
        arena.release(slot, owner);
        assert!(
            arena.claim(Order::UNIT, owner).is_some(),
            "one of two slots is free for the owner"
        );
        assert!(rival.join().unwrap(), "and one for the other");
    });
}

/// Rule 1: the owner moves its cache to another word while somebody searches. Two of the 65 slots
/// are free throughout.
#[test]
fn a_cache_that_moves_hides_nothing() {
    model(|| {
        let arena = Arena::of_slots(66);
        let filler = shared_seat();
        let slots: Vec<_> = (0..66).map(|_| arena.claim(Order::UNIT, filler).unwrap()).collect();
        // Free in both words. The owner's home is the first.
        arena.release(slots[64], filler);
        arena.release(slots[65], filler);
        let rival = thread::spawn({
            let arena = arena.clone();
            move || arena.claim(Order::UNIT, owned_seat(1)).is_some()
        });
        assert!(arena.claim(Order::UNIT, owned_seat(0)).is_some());
        assert!(rival.join().unwrap(), "a slot is free at every moment");
    });
}
