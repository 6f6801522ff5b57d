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

/// A1: the owner fetches units into its cache while another closes it - they end up in a cache that
/// is open, or in the map.
#[test]
fn a_cache_that_was_closed_is_not_filled() {
    model_bounded(2, || {
        let arena = Arena::of_blocks(64);
        let owner = owned_seat(0);
        let mine = arena.claim(HALF, owner).unwrap();
        let _held = arena.claim(HALF, shared_seat()).unwrap();
        arena.release(mine, shared_seat());
        let rival = thread::spawn({
            let arena = arena.clone();
            move || assert!(arena.claim(WORD, owned_seat(1)).is_none())
        });
        let again = arena.claim(HALF, owner).unwrap();
        assert!(again.first() < 64, "a span out of bounds");
        rival.join().unwrap();
    });
}

/// Rule 1: units on their way from a cache to the map are a part of a larger block - a request for
/// that is not refused meanwhile.
#[test]
fn a_recall_hides_no_word_from_a_large_request() {
    model_bounded(2, || {
        let arena = Arena::of_blocks(128);
        let owner = owned_seat(0);
        let half = arena.claim(HALF, owner).unwrap();
        let _held = arena.claim(WORD, shared_seat()).unwrap();
        arena.release(half, owner);
        let rival = thread::spawn({
            let arena = arena.clone();
            move || assert!(arena.claim(Order::new(7), owned_seat(1)).is_none())
        });
        assert!(arena.claim(WORD, owned_seat(2)).is_some(), "a word is free all the time");
        rival.join().unwrap();
    });
}

/// Rule 1: the owner fetches what others have freed of its part. There is a slot for each.
#[test]
fn a_refill_hides_nothing() {
    model(|| {
        let arena = Arena::of_slots(4);
        let owner = owned_seat(0);
        let slots = [0, 1, 2, 3].map(|_| arena.claim(Order::UNIT, owner).unwrap());
        arena.release(slots[0], shared_seat());
        arena.release(slots[1], shared_seat());
        let rival = thread::spawn({
            let arena = arena.clone();
            move || arena.claim(Order::UNIT, owned_seat(1)).is_some()
        });
        assert!(arena.claim(Order::UNIT, owner).is_some(), "two slots are free");
        assert!(rival.join().unwrap(), "a slot is free at every moment");
    });
}

/// Rule 1: somebody who needs more empties the cache that holds the only free block.
#[test]
fn a_recall_hides_nothing() {
    model(|| {
        let arena = Arena::of_blocks(64);
        let halves = [0, 1].map(|_| arena.claim(HALF, owned_seat(0)).unwrap());
        arena.release(halves[1], owned_seat(0));
        let rival = thread::spawn({
            let arena = arena.clone();
            move || arena.claim(WORD, owned_seat(2)).is_some()
        });
        assert!(arena.claim(HALF, owned_seat(1)).is_some(), "a half is free at every moment");
        assert!(!rival.join().unwrap(), "the other half is in use");
    });
}

/// A cache that was recalled opens again, with as many units as before.
#[test]
fn a_recalled_cache_opens_again() {
    model(|| {
        let arena = Arena::of_slots(1);
        let owner = owned_seat(0);
        for _ in 0..2 {
            for _ in 0..3 {
                let slot = arena.claim(Order::UNIT, owner).unwrap();
                arena.release(slot, owner);
            }
            let cached = arena.0.claim_cached(Order::UNIT, owner);
            arena.release(cached.expect("its cache is open"), owner);
            let recalled = arena.claim(Order::UNIT, owned_seat(1)).expect("it is recalled");
            arena.release(recalled, shared_seat());
        }
    });
}

/// A snapshot that is taken while a cache moves shows no unit as free that is in use.
#[test]
fn a_snapshot_of_a_cache_that_moves_shows_nothing_that_is_in_use() {
    model(|| {
        let arena = Arena::of_blocks(128);
        let owner = owned_seat(0);
        let _held = [0, 1].map(|_| arena.claim(HALF, owner).unwrap());
        let rival = thread::spawn({
            let arena = arena.clone();
            move || arena.claim(HALF, owner).is_some()
        });
        assert_eq!(arena.0.map.free_units(&arena.0.stripes)[0], 0, "the first word is in use");
        assert!(rival.join().unwrap());
    });
}

/// Rule 1: a cache moves to another word, where it finds more units in smaller pieces. What it
/// leaves behind is free all the time.
#[test]
fn a_cache_that_moves_leaves_its_units_behind() {
    model(|| {
        let arena = Arena::of_blocks(128);
        let (owner, filler) = (owned_seat(0), shared_seat());
        let [_, high, low, other] = [HALF; 4].map(|half| arena.claim(half, filler).unwrap());
        arena.release(other, filler);
        let pieces = [0; 8].map(|_| arena.claim(SIXTEENTH, filler).unwrap());
        for piece in pieces.into_iter().step_by(2) {
            arena.release(piece, filler);
        }
        arena.release(low, filler);
        arena.release(high, filler);
        // The other eighth of its word is in its cache then.
        let _held = [QUARTER, EIGHTH].map(|order| arena.claim(order, owner).unwrap());
        let rival = thread::spawn({
            let arena = arena.clone();
            move || arena.claim(HALF, owner)
        });
        assert!(arena.claim(EIGHTH, owned_seat(1)).is_some(), "an eighth is free at every moment");
        rival.join().unwrap();
    });
}

/// A snapshot that is taken while a cache moves shows what it leaves behind in no other word.
#[test]
fn a_snapshot_of_a_cache_that_moves_shows_its_units_where_they_are() {
    model(|| {
        let arena = Arena::of_blocks(128);
        let (owner, filler) = (owned_seat(0), shared_seat());
        let [low, _, _, other] = [HALF; 4].map(|half| arena.claim(half, filler).unwrap());
        arena.release(low, filler);
        // The other eighth of this half is in its cache then.
        let _held = [QUARTER, EIGHTH].map(|order| arena.claim(order, owner).unwrap());
        arena.release(other, filler);
        let rival = thread::spawn({
            let arena = arena.clone();
            move || arena.claim(QUARTER, owner).is_some()
        });
        let free = arena.0.map.free_units(&arena.0.stripes)[1];
        assert_eq!(free & 0xffff_ffff, 0, "the first half of the other word is in use");
        assert!(rival.join().unwrap());
    });
}

/// What caches may keep is shared out and given back: once, whoever closes them, and also if a
/// cache is shut while it opens.
#[test]
fn caches_give_their_share_back_once() {
    model_bounded(2, || {
        let arena = Arena::of_slots(2);
        let rival = thread::spawn({
            let arena = arena.clone();
            move || [0; 2].map(|_| arena.claim(Order::UNIT, shared_seat()))
        });
        if let Some(mine) = arena.claim(Order::UNIT, owned_seat(0)) {
            arena.release(mine, owned_seat(0));
        }
        rival.join().unwrap();
        let (spare, cached) = arena.0.map.shares(&arena.0.stripes);
        assert_eq!(spare + cached, 2);
    });
}

/// A1: an owner releases a slot twice into its cache.
#[test]
#[should_panic(expected = "released twice")]
fn a_slot_that_is_released_twice_into_a_cache_is_caught() {
    model(|| {
        let arena = Arena::of_slots(1);
        let slot = arena.claim(Order::UNIT, owned_seat(0)).unwrap();
        arena.release(slot, owned_seat(0));
        arena.release(slot, owned_seat(0));
    });
}

/// A1: the kernel refuses a barrier. Nobody knows whether an owner is in its cache, and so caches
/// stay shut and nobody touches what lies in them but their owners.
#[test]
fn a_recall_without_a_barrier_takes_nothing() {
    model(|| {
        let arena = Arena::of_slots(1);
        let owner = owned_seat(0);
        let slot = arena.claim(Order::UNIT, owner).unwrap();
        arena.release(slot, owner);
        let rival = thread::spawn({
            let arena = arena.clone();
            move || barrier::models::denied(|| arena.claim(Order::UNIT, owned_seat(1)).is_some())
        });
        let mine = arena.claim(Order::UNIT, owner).is_some();
        let other = rival.join().unwrap();
        assert!(!(mine && other), "one slot has one owner");
        assert!(arena.0.must_leave_cache(), "the caches stay shut");
        let after = arena.claim(Order::UNIT, owner).is_some();
        assert!(mine || other || after, "it is not lost");
    });
}
