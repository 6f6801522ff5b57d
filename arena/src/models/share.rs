//! The counts of frozen leases: the last reference is told from the others.

use loom::{cell::UnsafeCell, thread};

use super::*;
use crate::share::{self, Counts};

/// A5: two references go at once - one of them is the last, and sees the other's reads done.
#[test]
fn one_of_two_references_is_the_last() {
    model(|| {
        let counts = Arc::new(Counts::new(1).unwrap());
        let bytes = Arc::new(UnsafeCell::new(7));
        counts.add(0);
        let leave = |counts: &Counts, bytes: &UnsafeCell<i32>| {
            // SAFETY: read through a reference; loom says if somebody writes.
            bytes.with(|bytes| unsafe { assert_eq!(*bytes, 7) });
            let is_last = share::leave(counts.of(0));
            if is_last {
                // SAFETY: the last reference owns the bytes; loom says if somebody still reads.
                bytes.with_mut(|bytes| unsafe { *bytes = 0 });
            }
            is_last
        };
        let rival = thread::spawn({
            let (counts, bytes) = (counts.clone(), bytes.clone());
            move || leave(&counts, &bytes)
        });
        let mine = leave(&counts, &bytes);
        assert_ne!(mine, rival.join().unwrap(), "exactly one is the last");
        assert!(share::is_alone(counts.of(0)), "the next lease starts with a count of zero");
    });
}

/// A5: a sole reference may write, and sees the reads of one that just went.
#[test]
fn a_sole_reference_sees_the_others_done() {
    model(|| {
        let counts = Arc::new(Counts::new(1).unwrap());
        let bytes = Arc::new(UnsafeCell::new(7));
        counts.add(0);
        let rival = thread::spawn({
            let (counts, bytes) = (counts.clone(), bytes.clone());
            move || {
                // SAFETY: read through a reference; loom says if somebody writes.
                bytes.with(|bytes| unsafe { assert_eq!(*bytes, 7) });
                share::leave(counts.of(0))
            }
        });
        if share::is_alone(counts.of(0)) {
            // SAFETY: a sole reference may write; loom says if somebody still reads.
            bytes.with_mut(|bytes| unsafe { *bytes = 0 });
        }
        rival.join().unwrap();
    });
}
