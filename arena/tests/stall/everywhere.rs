//! A thread that is stopped at each instruction of an operation in turn: others go on.
//!
//! The thread sets the trap flag of its processor, so that it gets `SIGTRAP` after each of its
//! instructions. The handler counts them, and at the chosen one it holds the thread until the
//! others have done all that they are to do. So no time is taken, and none is drawn at random: an
//! operation that ends only when the held thread goes on is one that waits for it. How long the
//! others may take before that is concluded ([`PATIENCE`]) matters only to a test that fails.
//!
//! An operation of many instructions is held at some of them, spread evenly, as many as there is
//! time for. Where the kernel restarts a sequence that a signal interrupts, it does so at each
//! instruction, and the way that does without is what is tested here.

use std::{
    arch::asm,
    future::Future,
    pin::pin,
    sync::{
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
        mpsc::{self, RecvTimeoutError, Sender},
    },
    task::{Context, Waker},
    thread,
    time::Duration,
};

use arena::{AsyncFixedArena, BuddyArena, Buffer, FixedArena};
use bytes::BufMut;

use crate::{
    process::{duration, isolated},
    stop::{handle, sleep_in_handler},
    support::{buddy, fixed, nz},
};

/// How many instructions a test steps through in a millisecond: each costs a signal.
const STEPS_PER_MS: u64 = 50;

/// For how long the others may be at one operation.
const PATIENCE: Duration = Duration::from_secs(1);

/// After so many that wait for the held thread, a test ends.
const FAILURES_MAX: usize = 3;

/// So many refusals take longer than [`PATIENCE`], if each waits for 100 ms.
const REFUSALS: usize = 30;

/// A block that spans words of the map.
const MANY_WORDS: usize = 1 << 16;

/// The trap flag among the flags of the processor.
const TRAP_FLAG: i64 = 1 << 8;

/// Instructions that the thread has executed one by one.
static STEPS: AtomicU64 = AtomicU64::new(0);
/// The instruction after which it is held.
static HOLD_AT: AtomicU64 = AtomicU64::new(0);
static IS_HELD: AtomicBool = AtomicBool::new(false);
static MAY_GO_ON: AtomicBool = AtomicBool::new(false);

extern "C" fn step(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let step = STEPS.load(Relaxed) + 1;
    STEPS.store(step, Relaxed);
    if step != HOLD_AT.load(Relaxed) {
        return;
    }
    IS_HELD.store(true, SeqCst);
    while !MAY_GO_ON.load(SeqCst) {
        sleep_in_handler(20_000);
    }
    // SAFETY: the kernel passes the state of the thread that it has interrupted, for the handler
    // to change.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    // The rest runs at full speed.
    context.uc_mcontext.gregs[libc::REG_EFL as usize] &= !TRAP_FLAG;
}

/// Executes `operation` one instruction at a time, up to the one at which it is held.
fn step_through<R>(operation: impl FnOnce() -> R) -> R {
    // SAFETY: the flag changes nothing but that a signal comes, whose handler is installed. The
    // stack is as it was.
    unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") };
    let outcome = operation();
    // SAFETY: as above.
    unsafe { asm!("pushfq", "and qword ptr [rsp], -0x101", "popfq") };
    outcome
}

/// Tells what a thread is about to do.
pub(crate) struct Diary(Sender<&'static str>);

impl Diary {
    pub(crate) fn will(&self, operation: &'static str) {
        self.0.send(operation).expect("somebody reads it");
    }
}

/// What the others do meanwhile.
pub(crate) type Others = Box<dyn FnOnce(&Diary) + Send>;

/// What the held thread does: it makes itself ready, and returns the operation that is held. What
/// the operation owns drops after it, when nobody is held any more.
pub(crate) type Held = Box<dyn FnOnce() -> Box<dyn FnMut()> + Send>;

/// What the held thread has in its hands.
#[derive(Debug)]
struct Hands {
    held: Option<Buffer>,
    taken: Option<Buffer>,
}

/// Holds a thread everywhere in an operation, each time in a scene of its own.
pub(crate) fn hold_everywhere(scene: impl Fn() -> (Held, Others)) {
    handle(libc::SIGTRAP, step);
    // Never held: this counts the instructions. The first scene is another, since it comes first.
    hold_at(u64::MAX, scene()).expect("nobody is held");
    hold_at(u64::MAX, scene()).expect("nobody is held");
    let steps = STEPS.load(SeqCst);
    assert!(steps > 10, "nothing was stepped through: {steps} instructions");
    // To hold at each of them takes half of the square.
    let ms = u64::try_from(duration().as_millis()).expect("it ends some day");
    let holds = steps.min(2 * ms * STEPS_PER_MS / steps).max(10);
    let mut failures = Vec::new();
    let mut held = 0;
    for hold in 1..=holds {
        let at = hold * steps / holds;
        match hold_at(at, scene()) {
            Ok(was_held) => held += u64::from(was_held),
            Err(waits) => {
                failures.push(format!("{waits}, held at instruction {at} of {steps}"));
            }
        }
        if failures.len() == FAILURES_MAX {
            break;
        }
    }
    eprintln!("held {held} times within {steps} instructions");
    assert!(failures.is_empty(), "waits for the thread that is held: {failures:#?}");
    // The operation is not always as long as the first time.
    assert!(held > holds / 2, "it was held only {held} times of {holds}");
}

/// Whether it was held, or what waits for it.
fn hold_at(instruction: u64, (held, others): (Held, Others)) -> Result<bool, &'static str> {
    STEPS.store(0, SeqCst);
    HOLD_AT.store(instruction, SeqCst);
    IS_HELD.store(false, SeqCst);
    MAY_GO_ON.store(false, SeqCst);
    thread::scope(|scope| {
        let held = scope.spawn(|| {
            // A thread's first use of any arena may use the heap, whose lock others need.
            warm_up(|| fixed(1, 1).allocate().ok());
            let mut operation = held();
            step_through(&mut operation);
        });
        while !IS_HELD.load(SeqCst) && !held.is_finished() {
            thread::sleep(Duration::from_micros(20));
        }
        let was_held = IS_HELD.load(SeqCst);
        let (sender, diary) = mpsc::channel();
        scope.spawn(move || others(&Diary(sender)));
        let mut last = "nothing";
        let outcome = loop {
            match diary.recv_timeout(PATIENCE) {
                Ok(operation) => last = operation,
                Err(RecvTimeoutError::Disconnected) => break Ok(was_held),
                Err(RecvTimeoutError::Timeout) => break Err(last),
            }
        };
        MAY_GO_ON.store(true, SeqCst);
        // Until the others are done as well: they may still write into the diary.
        diary.into_iter().for_each(|_| {});
        outcome
    })
}

/// Drops what is held, and then takes and drops as many as can be served whatever the held thread
/// has in its hands.
fn drop_and_take(
    held: Vec<Buffer>,
    servable: usize,
    allocate: impl Fn() -> Option<Buffer> + Send + 'static,
) -> Others {
    Box::new(move |diary| {
        for buffer in held {
            diary.will("drop");
            drop(buffer);
        }
        let mut taken = Vec::with_capacity(servable);
        for _ in 0..servable {
            diary.will("allocate what is free");
            taken.push(allocate().expect("enough is free outside of the held thread's hands"));
        }
        for buffer in taken {
            diary.will("drop what was just allocated");
            drop(buffer);
        }
    })
}

/// Uses an arena so that this thread has all in it that it can have.
fn warm_up(allocate: impl Fn() -> Option<Buffer>) {
    for _ in 0..3 {
        drop([(); 3].map(|()| allocate()));
    }
}

/// A scene in an arena of 64 slots of which half are in use: the thread is held in what `operation`
/// does.
fn in_half_full_slots(
    operation: impl Fn(&FixedArena, &mut Hands) + Clone + Send + 'static,
) -> (Held, Others) {
    let arena = fixed(64, 64);
    let kept: Vec<_> = (0..32).map(|_| arena.allocate().unwrap()).collect();
    let (mine, others) = (arena.clone(), arena);
    let held: Held = Box::new(move || {
        warm_up(|| mine.allocate().ok());
        let mut hands = Hands { held: mine.allocate().ok(), taken: None };
        Box::new(move || operation(&mine, &mut hands))
    });
    (held, drop_and_take(kept, 40, move || others.allocate().ok()))
}

/// A scene in a large arena: the thread is held in what `operation` does with a block of `size`.
fn in_blocks(
    size: usize,
    operation: impl Fn(&BuddyArena, &mut Hands) + Clone + Send + 'static,
) -> (Held, Others) {
    let arena = buddy(64 << 20, 256);
    let kept: Vec<_> = (0..8).map(|_| arena.allocate(nz(size)).unwrap()).collect();
    let (mine, others) = (arena.clone(), arena);
    let held: Held = Box::new(move || {
        warm_up(|| mine.allocate(nz(size)).ok());
        let mut hands = Hands { held: mine.allocate(nz(size)).ok(), taken: None };
        Box::new(move || operation(&mine, &mut hands))
    });
    (held, drop_and_take(kept, 20, move || others.allocate(nz(size)).ok()))
}

/// A scene in an arena of 64 slots, all in use and waited for: the thread is held in what
/// `operation` does.
///
/// The others take nothing: a stopped thread that serves the queue delays those who wait.
fn in_slots_that_are_waited_for(
    operation: impl Fn(&AsyncFixedArena, &mut Hands) + Clone + Send + 'static,
) -> (Held, Others) {
    let arena = FixedArena::builder(nz(64), nz(64)).build_async().unwrap();
    let mut all: Vec<_> = (0..64).map(|_| arena.allocate().unwrap()).collect();
    let mut hands = Hands { held: all.pop(), taken: None };
    let held: Held = Box::new(move || {
        let mut waiter = arena.waiter();
        assert!(waiter.poll_allocate(&mut Context::from_waker(Waker::noop())).is_pending());
        Box::new(move || {
            operation(&arena, &mut hands);
            let _stays_in_the_queue = &waiter;
        })
    });
    (held, drop_and_take(all, 0, || None))
}

#[test]
fn nobody_waits_for_a_thread_held_while_it_takes_a_slot() {
    isolated(|| {
        hold_everywhere(|| {
            in_half_full_slots(|arena, hands| hands.taken = Some(arena.allocate().unwrap()))
        });
    });
}

#[test]
fn nobody_waits_for_a_thread_held_while_it_drops_a_slot() {
    isolated(|| {
        hold_everywhere(|| in_half_full_slots(|_arena, hands| hands.held = None));
    });
}

#[test]
fn nobody_waits_for_a_thread_held_while_it_takes_a_snapshot() {
    isolated(|| {
        hold_everywhere(|| in_half_full_slots(|arena, _hands| _ = arena.metrics()));
    });
}

#[test]
fn nobody_waits_for_a_thread_held_while_it_takes_a_small_block() {
    isolated(|| {
        hold_everywhere(|| {
            in_blocks(300, |arena, hands| hands.taken = Some(arena.allocate(nz(300)).unwrap()))
        });
    });
}

#[test]
fn nobody_waits_for_a_thread_held_while_it_takes_a_block_of_many_words() {
    isolated(|| {
        hold_everywhere(|| {
            in_blocks(MANY_WORDS, |arena, hands| {
                hands.taken = Some(arena.allocate(nz(MANY_WORDS)).unwrap());
            })
        });
    });
}

#[test]
fn nobody_waits_for_a_thread_held_while_it_drops_a_small_block() {
    isolated(|| {
        hold_everywhere(|| in_blocks(300, |_arena, hands| hands.held = None));
    });
}

#[test]
fn nobody_waits_for_a_thread_held_while_it_drops_a_block_of_many_words() {
    isolated(|| {
        hold_everywhere(|| in_blocks(MANY_WORDS, |_arena, hands| hands.held = None));
    });
}

#[test]
fn nobody_waits_for_a_thread_held_while_it_shrinks_a_block() {
    isolated(|| {
        hold_everywhere(|| {
            in_blocks(MANY_WORDS, |_arena, hands| {
                let buffer = hands.held.as_mut().expect("it is there at first");
                buffer.put_u8(1);
                buffer.shrink_to_fit();
            })
        });
    });
}

#[test]
fn nobody_waits_for_a_thread_held_while_it_is_refused() {
    isolated(|| {
        hold_everywhere(|| {
            let arena = fixed(64, 64);
            let kept: Vec<_> = (0..61).map(|_| arena.allocate().unwrap()).collect();
            let (mine, others) = (arena.clone(), arena);
            let held: Held = Box::new(move || {
                warm_up(|| mine.allocate().ok());
                let last = [(); 3].map(|()| mine.allocate().unwrap());
                assert!(mine.allocate().is_err(), "none is left");
                let mut taken = Vec::with_capacity(1);
                Box::new(move || {
                    taken.extend(mine.allocate());
                    let _stay_in_use = &last;
                })
            });
            (held, drop_and_take(kept, 40, move || others.allocate().ok()))
        });
    });
}

#[test]
fn nobody_waits_for_a_thread_held_while_it_recalls_what_others_cache() {
    isolated(|| {
        hold_everywhere(|| {
            // What this thread frees may lie in its cache, and no others are free.
            let arena = fixed(64, 64);
            let kept: Vec<_> = (0..32).map(|_| arena.allocate().unwrap()).collect();
            let (mine, others) = (arena.clone(), arena);
            let held: Held = Box::new(move || {
                let mut taken = Vec::with_capacity(1);
                Box::new(move || taken.extend(mine.allocate()))
            });
            (held, drop_and_take(kept, 40, move || others.allocate().ok()))
        });
    });
}

#[test]
fn nobody_waits_for_a_thread_held_while_it_takes_or_drops_the_only_slot() {
    isolated(|| {
        hold_everywhere(|| {
            let arena = fixed(1, 64);
            let (mine, others) = (arena.clone(), arena);
            let held: Held = Box::new(move || {
                warm_up(|| mine.allocate().ok());
                Box::new(move || drop(mine.allocate()))
            });
            let others: Others = Box::new(move |diary| {
                // The first refusal may wait for the held thread. The next do not wait again.
                diary.will("allocate or be refused, again and again");
                let only: Vec<_> = (0..REFUSALS).filter_map(|_| others.allocate().ok()).collect();
                assert!(only.len() <= 1, "there is one slot");
                diary.will("drop the only slot");
                drop(only);
            });
            (held, others)
        });
    });
}

#[test]
fn no_drop_waits_for_a_thread_held_while_it_serves_a_waiter() {
    isolated(|| {
        hold_everywhere(|| in_slots_that_are_waited_for(|_arena, hands| hands.held = None));
    });
}

#[test]
fn no_drop_waits_for_a_thread_held_while_it_joins_and_leaves_the_queue() {
    isolated(|| {
        hold_everywhere(|| {
            in_slots_that_are_waited_for(|arena, _hands| {
                let mut request = pin!(arena.allocate_async());
                // If others have freed a slot meanwhile, it goes to the waiter before.
                let polled = request.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                drop(polled);
            })
        });
    });
}

#[test]
fn no_drop_waits_for_a_thread_held_while_it_reads_the_figures_of_the_queue() {
    isolated(|| {
        hold_everywhere(|| {
            in_slots_that_are_waited_for(|arena, _hands| drop(arena.wait_metrics()))
        });
    });
}

#[test]
fn no_drop_waits_for_a_thread_held_while_it_drops_the_last_handle() {
    isolated(|| {
        hold_everywhere(|| {
            let arena = fixed(64, 64);
            let kept: Vec<_> = (0..32).map(|_| arena.allocate().unwrap()).collect();
            let held: Held = Box::new(move || {
                warm_up(|| arena.allocate().ok());
                let mut last = Some(arena);
                Box::new(move || drop(last.take()))
            });
            (held, drop_and_take(kept, 0, || None))
        });
    });
}
