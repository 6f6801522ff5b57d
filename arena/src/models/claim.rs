//! The map: one owner a unit, nothing lost, true refusals.

use loom::{cell::UnsafeCell, thread};

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

/// Rule 1: a free block is cut while somebody looks for what is left of it.
#[test]
fn the_rest_of_a_cut_block_is_found() {
    for order in [HALF, QUARTER] {
        model(move || {
            let arena = Arena::of_blocks(64);
            let rival = thread::spawn({
                let arena = arena.clone();
                move || arena.claim(order, shared_seat()).is_some()
            });
            assert!(arena.claim(HALF, shared_seat()).is_some(), "half of it is left");
            assert!(rival.join().unwrap());
        });
    }
}

/// Rule 1: the word that holds the only free block is opened by another. There is a half for each.
#[test]
fn a_word_that_is_opened_hides_nothing() {
    model_both(|| {
        let arena = Arena::of_blocks(128);
        let _held = arena.claim(WORD, shared_seat()).unwrap();
        let rival = thread::spawn({
            let arena = arena.clone();
            move || arena.claim(HALF, shared_seat()).is_some()
        });
        assert!(arena.claim(HALF, shared_seat()).is_some(), "a half is free at every moment");
        assert!(rival.join().unwrap());
    });
}

/// Rule 1: the word that holds the only free block becomes wholly free, and is closed.
#[test]
fn a_word_that_is_closed_hides_nothing() {
    model_both(|| {
        let arena = Arena::of_blocks(128);
        let _held = arena.claim(WORD, shared_seat()).unwrap();
        let halves = [HALF, HALF].map(|half| arena.claim(half, shared_seat()).unwrap());
        let [low, high] = halves;
        arena.release(low, owned_seat(1));
        let rival = thread::spawn({
            let arena = arena.clone();
            move || arena.release(high, owned_seat(2))
        });
        assert!(arena.claim(HALF, shared_seat()).is_some(), "a half is free at every moment");
        rival.join().unwrap();
    });
}

/// Rule 1: the same while somebody waits for more. The block that is completed is out of sight.
#[test]
fn a_block_that_is_completed_hides_nothing() {
    model(|| {
        let arena = Arena::of_blocks(128);
        let _held = arena.claim(WORD, shared_seat()).unwrap();
        let [low, high] = [HALF, HALF].map(|half| arena.claim(half, shared_seat()).unwrap());
        arena.release(low, owned_seat(1));
        arena.0.map.line.set_front(7);
        let rival = thread::spawn({
            let arena = arena.clone();
            move || arena.release(high, owned_seat(2))
        });
        assert!(arena.claim(HALF, shared_seat()).is_some(), "a half is free at every moment");
        rival.join().unwrap();
    });
}

/// Rule 1: two words were left open, wholly free. One thread closes both, while another looks for
/// one.
#[test]
fn closing_what_was_left_open_hides_nothing() {
    barrier::models::without(|| {
        model_bounded(2, || {
            let arena = Arena::of_blocks(256);
            let halves = [0, 1].map(|_| arena.claim(HALF, owned_seat(0)).unwrap());
            let third = arena.claim(HALF, owned_seat(1)).unwrap();
            let _held = [0, 1].map(|_| arena.claim(WORD, shared_seat()).unwrap());
            let _ = halves.map(|half| arena.release(half, owned_seat(0)));
            arena.release(third, owned_seat(1));
            let rival = thread::spawn({
                let arena = arena.clone();
                move || arena.claim(WORD, shared_seat()).is_some()
            });
            assert!(arena.claim(WORD, shared_seat()).is_some(), "there are two");
            assert!(rival.join().unwrap(), "there are two");
        });
    });
}

/// Rule 1: the tail of a lease that goes on comes back behind a search, and what was free before is
/// claimed.
#[test]
fn a_tail_that_comes_back_disturbs_a_refusal() {
    model_both(|| {
        let arena = Arena::of_blocks(128);
        let whole = arena.claim(WORD, shared_seat()).unwrap();
        let _held = arena.claim(HALF, shared_seat()).unwrap();
        let rival = thread::spawn({
            let arena = arena.clone();
            move || {
                let tail = Span::new(whole.first() + 32, 32);
                if arena.0.release_alive(tail, shared_seat()).is_some() {
                    serve(&arena.0, shared_seat());
                }
                assert!(arena.claim(HALF, shared_seat()).is_some(), "two are free");
            }
        });
        assert!(arena.claim(HALF, shared_seat()).is_some(), "a half is free at every moment");
        rival.join().unwrap();
    });
}

/// Rule 1: two that are about to be refused, and one release: it serves one of them, or nobody if
/// it comes last, and then it can be had afterwards.
#[test]
fn one_release_serves_one_of_two_refusers() {
    model_bounded(1, || {
        let arena = Arena::of_slots(1);
        let slot = arena.claim(Order::UNIT, shared_seat()).unwrap();
        let rivals = [0, 1].map(|_| {
            let arena = arena.clone();
            thread::spawn(move || arena.claim(Order::UNIT, shared_seat()).is_some())
        });
        arena.release(slot, shared_seat());
        let winners = rivals.map(|rival| rival.join().unwrap()).iter().filter(|&&won| won).count();
        let after = arena.claim(Order::UNIT, owned_seat(2)).is_some();
        assert_eq!(winners + usize::from(after), 1, "one slot is given out once");
    });
}

/// Rule 2: what a refuser is served besides what it finds itself is not lost, and neither is what
/// it is served while it gives up.
#[test]
fn what_a_refuser_is_served_is_not_lost() {
    model_both(|| {
        let arena = Arena::of_slots(2);
        let slots = [0, 1].map(|_| arena.claim(Order::UNIT, owned_seat(0)).unwrap());
        let rival = thread::spawn({
            let arena = arena.clone();
            move || slots.map(|slot| arena.release(slot, shared_seat()))
        });
        let mut claimed = usize::from(claim_in_line(&arena, Order::UNIT).is_some());
        rival.join().unwrap();
        claimed += (0..2).filter(|_| arena.claim(Order::UNIT, owned_seat(2)).is_some()).count();
        assert_eq!(claimed, 2, "each slot is given out once");
    });
}

/// Rule 2: the same with a block that is more than a refuser needs.
#[test]
fn the_rest_of_what_a_refuser_is_served_is_not_lost() {
    model_both(|| {
        let arena = Arena::of_blocks(64);
        let whole = arena.claim(WORD, owned_seat(0)).unwrap();
        let rival = thread::spawn({
            let arena = arena.clone();
            move || arena.release(whole, shared_seat())
        });
        let mut claimed = usize::from(claim_in_line(&arena, HALF).is_some());
        rival.join().unwrap();
        claimed += (0..2).filter(|_| arena.claim(HALF, owned_seat(2)).is_some()).count();
        assert_eq!(claimed, 2, "each half is given out once");
    });
}

/// The front of the queue comes before refusers, and what is left of a block that was handed over
/// is free.
#[test]
fn the_front_is_served_first_and_the_rest_is_free() {
    model(|| {
        let arena = Arena::of_blocks(64);
        let whole = arena.claim(WORD, shared_seat()).unwrap();
        let line = &arena.0.map.line;
        let refuser = line.join(WORD.get()).unwrap();
        line.set_front(QUARTER.get());
        assert!(arena.0.map.release(whole, arena.0.stripes.at(shared_seat())));
        assert_eq!(line.withdraw(FRONT), Some((0, QUARTER.get())));
        assert_eq!(line.leave(refuser), None);
        line.end_front();
        assert!(arena.claim(QUARTER, shared_seat()).is_some());
        assert!(arena.claim(HALF, shared_seat()).is_some());
    });
}

/// Who leaves the line leaves its entry to others.
#[test]
fn an_entry_serves_one_refuser_after_the_other() {
    model(|| {
        let arena = Arena::of_slots(1);
        for _ in 0..3 {
            // A cache that is open sends a refuser into the line.
            let slots = [0, 1, 2].map(|_| {
                let slot = arena.claim(Order::UNIT, owned_seat(0)).unwrap();
                arena.release(slot, owned_seat(0));
                slot
            });
            let held = arena.claim(Order::UNIT, owned_seat(0)).unwrap();
            assert_eq!(held, slots[0]);
            assert!(arena.claim(Order::UNIT, owned_seat(1)).is_none());
            arena.release(held, owned_seat(0));
        }
    });
}

/// A1: whoever gets a block sees that its last owner is done with the bytes, whichever way it went.
#[test]
fn the_next_owner_sees_the_last_one_done() {
    // In the map or the line; out of a cache; from the map into a cache.
    let ways = [
        [shared_seat(), shared_seat(), shared_seat()],
        [owned_seat(0), owned_seat(0), owned_seat(1)],
        [owned_seat(0), owned_seat(1), owned_seat(0)],
    ];
    for [first, last, next] in ways {
        model_both(move || {
            let arena = Arena::of_slots(1);
            let bytes = Arc::new(UnsafeCell::new(0));
            let slot = arena.claim(Order::UNIT, first).unwrap();
            let rival = thread::spawn({
                let (arena, bytes) = (arena.clone(), bytes.clone());
                move || {
                    write(&bytes);
                    arena.release(slot, last);
                }
            });
            if arena.claim(Order::UNIT, next).is_some() {
                write(&bytes);
            }
            rival.join().unwrap();
        });
    }
}

/// A1: the same for a block that two have freed.
#[test]
fn the_next_owner_of_two_halves_sees_both_done() {
    for units in [64, 128] {
        model_bounded(2, move || {
            let arena = Arena::of_blocks(units);
            let _held = (units > 64).then(|| arena.claim(WORD, shared_seat()).unwrap());
            let bytes = Arc::new([UnsafeCell::new(0), UnsafeCell::new(0)]);
            let halves = [0, 1].map(|_| arena.claim(HALF, shared_seat()).unwrap());
            let release = |half| {
                let (arena, bytes): (Arc<Arena>, _) = (arena.clone(), bytes.clone());
                move || {
                    write(&bytes[half]);
                    arena.release(halves[half], owned_seat(half));
                }
            };
            let rival = thread::spawn(release(0));
            release(1)();
            if arena.claim(WORD, shared_seat()).is_some() {
                bytes.iter().for_each(write);
            }
            rival.join().unwrap();
        });
    }
}

/// A snapshot taken while others claim and release never shows more in use than there was.
#[test]
fn a_snapshot_never_shows_more_in_use_than_there_was() {
    model(|| {
        let arena = Arena::of_slots(2);
        let rivals = thread::spawn({
            let arena = arena.clone();
            move || {
                let slot = arena.claim(Order::UNIT, shared_seat()).unwrap();
                arena.release(slot, shared_seat());
                let slot = arena.claim(Order::UNIT, owned_seat(0)).unwrap();
                arena.release(slot, owned_seat(0));
            }
        });
        assert!(arena.0.stripes.live_units() <= 1, "one is in use at a time");
        rivals.join().unwrap();
    });
}

/// Claims as somebody whose first try was disturbed.
fn claim_in_line(arena: &Arena, order: Order) -> Option<u32> {
    let Core { map, stripes, .. } = &arena.0;
    map.claim_in_line_at_once(order, stripes, stripes.at(owned_seat(1)))
}

/// Writes as the owner of a block. Loom says if somebody else does so at the same time.
fn write(bytes: &UnsafeCell<u32>) {
    // SAFETY: a block has one owner, or loom says so.
    bytes.with_mut(|bytes| unsafe { *bytes += 1 });
}

/// Rule 1: a slot is freed behind a search, and the one that was free is claimed before the search
/// comes to it. At every moment one of the two is free.
#[test]
fn a_search_that_is_outrun_is_no_refusal() {
    barrier::models::without(|| {
        model(|| {
            let arena = Arena::of_slots(66);
            let behind = fill(&arena, 64);
            // From now on this seat claims in the second word.
            let _held = arena.claim(Order::UNIT, owned_seat(0)).unwrap();
            let rival = thread::spawn({
                let arena = arena.clone();
                move || {
                    arena.release(behind, owned_seat(0));
                    assert!(arena.claim(Order::UNIT, owned_seat(0)).is_some(), "two are free");
                }
            });
            let mine = arena.claim(Order::UNIT, owned_seat(1));
            assert!(mine.is_some(), "a slot is free at every moment");
            rival.join().unwrap();
        });
    });
}

/// Rule 1: others claim in the word in which somebody searches. There is a slot for each, however
/// often they come first.
#[test]
fn a_lost_race_is_no_refusal() {
    model_bounded(2, || {
        let arena = Arena::of_slots(3);
        let rivals = [0, 1].map(|_| {
            let arena = arena.clone();
            thread::spawn(move || arena.claim(Order::UNIT, shared_seat()).is_some())
        });
        assert!(arena.claim(Order::UNIT, shared_seat()).is_some());
        assert!(rivals.into_iter().all(|rival| rival.join().unwrap()));
    });
}

/// Rule 1: the same as `a_search_that_is_outrun_is_no_refusal` for somebody who stands in the line:
/// what is freed behind his search is handed to him.
#[test]
fn who_is_outrun_in_the_line_is_served() {
    model_both(|| {
        let arena = Arena::of_slots(66);
        let behind = fill(&arena, 64);
        // From now on this seat claims in the second word.
        let _held = arena.claim(Order::UNIT, shared_seat()).unwrap();
        let rival = thread::spawn({
            let arena = arena.clone();
            move || {
                arena.release(behind, shared_seat());
                assert!(arena.claim(Order::UNIT, shared_seat()).is_some(), "two are free");
            }
        });
        let mine = claim_in_line(&arena, Order::UNIT);
        assert!(mine.is_some(), "a slot is free at every moment");
        rival.join().unwrap();
    });
}

/// Rule 1: two slots of a full word are freed at once - who has freed one finds it.
#[test]
fn a_slot_that_is_freed_beside_another_is_found() {
    model(|| {
        let arena = Arena::of_slots(2);
        let [left, right] = [0, 1].map(|_| arena.claim(Order::UNIT, shared_seat()).unwrap());
        assert!(arena.claim(Order::UNIT, shared_seat()).is_none(), "so the summary is empty");
        let rival = thread::spawn({
            let arena = arena.clone();
            move || arena.release(left, shared_seat())
        });
        arena.release(right, shared_seat());
        // At a seat that has no home yet, which would spare it the summary.
        assert!(arena.claim(Order::UNIT, owned_seat(1)).is_some(), "at least one is free");
        rival.join().unwrap();
    });
}

/// Rule 1: somebody who needs more corrects the summaries of a word, while a part of it becomes
/// free.
#[test]
fn a_correction_hides_nothing() {
    model(|| {
        let arena = Arena::of_blocks(64);
        let quarters = [0; 4].map(|_| arena.claim(QUARTER, shared_seat()).unwrap());
        let rival = thread::spawn({
            let arena = arena.clone();
            move || assert!(arena.claim(HALF, shared_seat()).is_none())
        });
        arena.release(quarters[0], shared_seat());
        // At a seat that has no home yet, which would spare it the summary.
        assert!(arena.claim(QUARTER, owned_seat(1)).is_some(), "a quarter is free");
        rival.join().unwrap();
    });
}

/// A1: the owner fetches into its cache what others have freed meanwhile, and sees them done.
#[test]
fn an_owner_that_fills_its_cache_sees_the_last_owners_done() {
    model(|| {
        let arena = Arena::of_slots(4);
        let bytes = Arc::new(UnsafeCell::new(0));
        let slots = [0; 4].map(|_| arena.claim(Order::UNIT, owned_seat(0)).unwrap());
        arena.release(slots[0], shared_seat());
        let rival = thread::spawn({
            let (arena, bytes) = (arena.clone(), bytes.clone());
            move || {
                write(&bytes);
                arena.release(slots[1], shared_seat());
            }
        });
        for claimed in [0; 2].map(|_| arena.claim(Order::UNIT, owned_seat(0))) {
            if claimed == Some(slots[1]) {
                write(&bytes);
            }
        }
        rival.join().unwrap();
    });
}

/// Rule 1: a word was left open, wholly free. Somebody who needs more closes it, in vain.
#[test]
fn closing_for_a_request_that_is_refused_hides_nothing() {
    for order in [HALF, WORD] {
        model(move || {
            let arena = Arena::of_blocks(128);
            let half = arena.claim(HALF, shared_seat()).unwrap();
            let _held = arena.claim(WORD, shared_seat()).unwrap();
            arena.release(half, shared_seat());
            let rival = thread::spawn({
                let arena = arena.clone();
                move || assert!(arena.claim(Order::new(7), shared_seat()).is_none())
            });
            assert!(arena.claim(order, owned_seat(1)).is_some(), "a word is free at every moment");
            rival.join().unwrap();
        });
    }
}

/// Rule 1: the word becomes wholly free, and is left open, while somebody corrects its summaries.
#[test]
fn a_correction_hides_no_word_that_was_left_open() {
    model_bounded(2, || {
        let arena = Arena::of_blocks(128);
        let half = arena.claim(HALF, shared_seat()).unwrap();
        let _held = arena.claim(WORD, shared_seat()).unwrap();
        // Now its summary has the word, and keeps it.
        arena.release(half, shared_seat());
        let half = arena.claim(HALF, shared_seat()).unwrap();
        let corrector = thread::spawn({
            let arena = arena.clone();
            move || assert!(arena.claim(Order::new(7), owned_seat(1)).is_none())
        });
        let releaser = thread::spawn({
            let arena = arena.clone();
            move || arena.release(half, shared_seat())
        });
        releaser.join().unwrap();
        assert!(arena.claim(WORD, owned_seat(2)).is_some(), "a word is free since then");
        corrector.join().unwrap();
    });
}

/// Rule 1: somebody searches for an entry of the line, and corrects the summaries of a word, while
/// a part of it becomes free and somebody comes to wait for that.
#[test]
fn a_correction_for_the_line_hides_nothing_from_the_front() {
    model_bounded(2, || {
        let arena = Arena::of_blocks(64);
        let [low, _high] = [0; 2].map(|_| arena.claim(HALF, shared_seat()).unwrap());
        arena.0.map.line.join(WORD.get()).unwrap();
        let releaser = thread::spawn({
            let arena = arena.clone();
            move || arena.release(low, shared_seat())
        });
        let server = thread::spawn({
            let arena = arena.clone();
            move || serve(&arena.0, owned_seat(1))
        });
        arena.0.map.line.set_front(HALF.get());
        assert!(arena.0.map.shut_caches());
        serve(&arena.0, owned_seat(0));
        releaser.join().unwrap();
        server.join().unwrap();
        assert!(arena.0.map.line.is_served(FRONT), "half of it is free");
    });
}

/// Rule 1: somebody claims a block for an entry of the line that is given up meanwhile.
#[test]
fn a_block_that_is_claimed_for_the_line_hides_nothing() {
    model_both(|| {
        let arena = Arena::of_blocks(64);
        let _held = arena.claim(HALF, shared_seat()).unwrap();
        let entry = arena.0.map.line.join(HALF.get()).unwrap();
        let server = thread::spawn({
            let arena = arena.clone();
            move || serve(&arena.0, owned_seat(1))
        });
        let served = arena.0.map.line.leave(entry).is_some();
        assert!(
            served || arena.claim(HALF, owned_seat(0)).is_some(),
            "a half is free at every moment",
        );
        server.join().unwrap();
    });
}

/// Claims `units` slots and returns the last one alone.
fn fill(arena: &Arena, units: u32) -> Span {
    let tally = shared_seat();
    (0..units).map(|_| arena.claim(Order::UNIT, tally).unwrap()).last().unwrap()
}
