//! The map: one owner a unit, nothing lost, true refusals.

use loom::thread;

use super::*;

/// A1: two claimers of one unit - one wins, one is refused.
#[test]
fn one_unit_has_one_owner() {
    model(|| {
        let arena = Arena::of_slots(1);
        let rival = thread::spawn({
            let arena = arena.clone();
            move || arena.claim(Order::UNIT, shared_seat()).is_some()
        });
        let mine = arena.claim(Order::UNIT, owned_seat(0)).is_some();
        assert_ne!(mine, rival.join().unwrap(), "exactly one claim must win");
    });
}

/// A1: a block and a half of it race for one word - no unit is given out twice, and one of them
/// gets it.
#[test]
fn small_and_large_claims_of_one_word_exclude_each_other() {
    model(|| {
        let arena = Arena::of_blocks(128);
        let _held = arena.claim(WORD, owned_seat(0)).unwrap();
        let rival = thread::spawn({
            let arena = arena.clone();
            move || arena.claim(HALF, owned_seat(1)).is_some()
        });
        let large = arena.claim(WORD, owned_seat(0)).is_some();
        let small = rival.join().unwrap();
        assert_ne!(large, small, "one word serves one of them");
    });
}

/// Rule 2: two buddies that are freed at once are one block afterwards.
#[test]
fn two_buddies_freed_at_once_always_merge() {
    model(|| {
        let arena = Arena::of_blocks(128);
        let tally = owned_seat(0);
        let left = arena.claim(HALF, tally).unwrap();
        let right = arena.claim(HALF, tally).unwrap();
        let rival = thread::spawn({
            let arena = arena.clone();
            move || arena.release(right, owned_seat(1))
        });
        arena.release(left, tally);
        rival.join().unwrap();
        assert!(arena.is_one_block(128));
        let all = arena.claim(Order::new(7), tally).expect("nothing is in use");
        arena.release(all, tally);
        assert!(arena.is_one_block(128));
    });
}

/// Rule 2: the same for two words that are freed at once, at seats without a cache.
#[test]
fn two_words_freed_at_once_always_merge() {
    model(|| {
        let arena = Arena::of_blocks(128);
        let tally = shared_seat();
        let left = arena.claim(WORD, tally).unwrap();
        let right = arena.claim(WORD, tally).unwrap();
        let rival = thread::spawn({
            let arena = arena.clone();
            move || arena.release(right, shared_seat())
        });
        arena.release(left, tally);
        rival.join().unwrap();
        assert!(arena.claim(Order::new(7), tally).is_some());
    });
}

/// Rule 1: one of two slots is free at every moment, so nobody is refused.
///
/// The rival holds one slot. It frees it and claims again: whatever it gets, there is one more.
#[test]
fn a_refusal_implies_a_moment_without_room() {
    model(|| {
        let arena = Arena::of_slots(65);
        let held = fill(&arena, 64);
        let rival = thread::spawn({
            let arena = arena.clone();
            move || {
                let tally = shared_seat();
                arena.release(held, tally);
                let again = arena.claim(Order::UNIT, tally);
                assert!(again.is_some(), "two slots are free");
            }
        });
        assert!(
            arena.claim(Order::UNIT, owned_seat(1)).is_some(),
            "a slot is free at every moment"
        );
        rival.join().unwrap();
    });
}

/// Rule 1, through the summary: the word in which a slot becomes free was just found full, and its
/// mark is being cleared by a third party.
#[test]
fn a_refusal_is_true_through_the_summary() {
    model(|| {
        let arena = Arena::of_slots(65);
        let held = fill(&arena, 65);
        let clearer = thread::spawn({
            let arena = arena.clone();
            move || arena.claim(Order::UNIT, shared_seat()).is_some()
        });
        arena.release(held, shared_seat());
        let mine = arena.claim(Order::UNIT, shared_seat()).is_some();
        assert_ne!(mine, clearer.join().unwrap(), "the slot that became free is found once");
    });
}

/// Rule 1: a word that its thread leaves open, wholly free, is found when a block of that size is
/// missing.
#[test]
fn a_word_left_open_is_found_by_a_large_request() {
    model(|| {
        let arena = Arena::of_blocks(128);
        let _held = arena.claim(WORD, owned_seat(0)).unwrap();
        let small = arena.claim(HALF, owned_seat(0)).unwrap();
        let rival = thread::spawn({
            let arena = arena.clone();
            move || arena.release(small, owned_seat(0))
        });
        let before = arena.claim(WORD, owned_seat(1)).is_some();
        rival.join().unwrap();
        let after = arena.claim(WORD, owned_seat(1)).is_some();
        assert!(before != after, "the word is whole in the end, and can be had once");
    });
}

/// Rule 2: a home that is left while its last units come back is closed by one of the two.
#[test]
fn a_home_that_is_left_is_closed() {
    model(|| {
        let arena = Arena::of_blocks(128);
        let resident = shared_seat();
        let halves = [0, 1].map(|_| arena.claim(HALF, resident).unwrap());
        let rival = thread::spawn({
            let arena = arena.clone();
            move || halves.map(|half| arena.release(half, owned_seat(1)))
        });
        // If nothing has come back yet, this moves the home to the other word.
        let third = arena.claim(HALF, resident).unwrap();
        rival.join().unwrap();
        arena.release(third, resident);
        assert!(arena.is_one_block(128));
        assert!(arena.claim(Order::new(7), owned_seat(2)).is_some());
    });
}

/// Claims `units` slots and returns the last one alone.
fn fill(arena: &Arena, units: u32) -> Span {
    let tally = shared_seat();
    (0..units).map(|_| arena.claim(Order::UNIT, tally).unwrap()).last().unwrap()
}
