//! A forked child has the arena of its parent, and none of the threads that were using it: they are
//! stopped for ever, wherever they were.

use std::{
    iter,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use arena::{AllocError, Buffer, FixedArena};

use crate::{
    process::isolated,
    support::{buddy, fixed, nz},
    tasks::block_on,
};

const CHILDREN: usize = 48;

/// Threads of the parent that use the arena while it forks.
const THREADS: usize = 3;

const UNITS: usize = 1024;

/// How many units a thread that is stopped may have in its hands: a word and a buffer.
const IN_HANDS: usize = 65;

/// When the last child must be done.
const PATIENCE: Duration = Duration::from_secs(4);

/// What a child says by its exit status.
const DONE: libc::c_int = 0;
const REFUSED_TOO_EARLY: libc::c_int = 11;
const LOST_SOME: libc::c_int = 12;

/// Forks again and again while `use_it` runs on some threads. The child ends with what `child`
/// returns.
fn assert_children_go_on(use_it: impl Fn() + Sync, child: impl Fn() -> libc::c_int) {
    let is_over = AtomicBool::new(false);
    let mut children = Vec::new();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    use_it();
                }
            });
        }
        for index in 0..CHILDREN {
            // Wherever the threads are by then.
            thread::sleep(Duration::from_micros(300 + 77 * (index as u64 % 13)));
            // SAFETY: the child uses the arena, which is what is tested, and ends.
            let pid = unsafe { libc::fork() };
            assert!(pid >= 0, "a process can be forked");
            if pid == 0 {
                let status = child();
                // SAFETY: ends the process at once. Nothing of the parent's is cleaned up.
                unsafe { libc::_exit(status) };
            }
            children.push(pid);
        }
        is_over.store(true, Relaxed);
    });
    let end = Instant::now() + PATIENCE;
    let endings: Vec<_> = children.into_iter().map(|pid| ending_of(pid, end)).collect();
    let hung = endings.iter().filter(|ending| ending.is_none()).count();
    assert_eq!(hung, 0, "children that hang, of {CHILDREN}");
    let failed: Vec<_> = endings.into_iter().flatten().filter(|status| *status != DONE).collect();
    assert!(failed.is_empty(), "wait statuses of children that failed: {failed:?}");
}

/// The wait status of a child, if it has ended by then. Otherwise it is killed.
fn ending_of(pid: libc::pid_t, end: Instant) -> Option<libc::c_int> {
    loop {
        let mut status = 0;
        // SAFETY: writes into a variable of its own; the child has not been waited for yet.
        let ended = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) };
        assert!(ended >= 0, "the child is ours");
        if ended == pid {
            return Some(if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { status });
        }
        if Instant::now() > end {
            // SAFETY: as above.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            // SAFETY: as above.
            unsafe { libc::waitpid(pid, &raw mut status, 0) };
            return None;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Allocates until it is refused and frees everything, three times.
fn fill_and_empty(allocate: impl Fn() -> Result<Buffer, AllocError>) -> libc::c_int {
    let mut most = UNITS - THREADS * IN_HANDS;
    for _ in 0..3 {
        let all: Vec<_> = iter::repeat_with(&allocate).map_while(Result::ok).collect();
        if all.len() < most {
            return if most < UNITS - THREADS * IN_HANDS { REFUSED_TOO_EARLY } else { LOST_SOME };
        }
        most = all.len();
    }
    DONE
}

fn two_at_once(allocate: impl Fn() -> Result<Buffer, AllocError>) {
    drop([(); 2].map(|()| allocate()));
}

#[test]
fn a_forked_child_can_use_the_slots_that_are_not_in_other_threads_hands() {
    isolated(|| {
        let arena = fixed(UNITS, 64);
        assert_children_go_on(
            || two_at_once(|| arena.allocate()),
            || fill_and_empty(|| arena.allocate()),
        );
    });
}

#[test]
fn a_forked_child_can_use_the_blocks_that_are_not_in_other_threads_hands() {
    isolated(|| {
        let arena = buddy(UNITS * 256, 256);
        assert_children_go_on(
            || two_at_once(|| arena.allocate(nz(300))),
            || fill_and_empty(|| arena.allocate(nz(256))),
        );
    });
}

#[test]
fn a_forked_child_goes_on_where_memory_is_short() {
    isolated(|| {
        // There may be nothing that is in nobody's hands.
        let arena = fixed(4, 64);
        let all_at_once =
            || -> Vec<_> { iter::repeat_with(|| arena.allocate()).map_while(Result::ok).collect() };
        assert_children_go_on(
            || two_at_once(|| arena.allocate()),
            || {
                (0..10).for_each(|_| drop(all_at_once()));
                DONE
            },
        );
    });
}

#[test]
fn a_forked_child_goes_on_where_its_parent_waits_for_memory() {
    isolated(|| {
        let arena = FixedArena::builder(nz(2), nz(64)).build_async().unwrap();
        assert_children_go_on(
            || drop(block_on(arena.allocate_async())),
            || {
                (0..10).for_each(|_| two_at_once(|| arena.allocate()));
                DONE
            },
        );
    });
}

#[test]
fn a_forked_child_can_drop_what_it_has_inherited_and_the_last_handle() {
    isolated(|| {
        let arena = fixed(UNITS, 64);
        let inherited = [(); 8].map(|()| arena.allocate().unwrap().into_frozen());
        let everything = Box::into_raw(Box::new((arena, inherited)));
        // SAFETY: the box lives until the end.
        let (arena, _) = unsafe { &*everything };
        assert_children_go_on(
            || two_at_once(|| arena.allocate()),
            || {
                // SAFETY: in the child nobody else has it: the threads that borrow it are not
                // there.
                drop(unsafe { Box::from_raw(everything) });
                DONE
            },
        );
        // SAFETY: in the parent nobody has it any more: the threads have ended.
        drop(unsafe { Box::from_raw(everything) });
    });
}
