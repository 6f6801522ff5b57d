//! A system that denies `membarrier`: from the start, later (a filter that a service installs when
//! it has started, a process that was restored elsewhere), or for a moment.
//!
//! The system is played by a thread of the process: a seccomp filter passes every `membarrier` on
//! to it, and it answers. So what is denied can change at any time, and is known to have been
//! asked.

use std::{
    fs::File,
    io, iter, mem,
    os::fd::{AsRawFd, FromRawFd},
    sync::{
        Barrier,
        atomic::{AtomicI64, AtomicU64, Ordering::SeqCst},
    },
    thread,
};

use arena::{AsyncFixedArena, FixedArena};

use crate::{
    process::{isolated_as, skip, test_of},
    support::nz,
    tasks::block_on,
};

const SLOTS: usize = 256;

const THREADS: usize = 4;

/// The commands of `membarrier` that register for others: every second bit from this on.
const REGISTRATIONS: [libc::c_int; 3] = [
    libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED,
    libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE,
    libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ,
];

/// The errors that calls get for as long as there are any left, and otherwise for ever.
static ERROR: AtomicI64 = AtomicI64::new(0);
static ERRORS_LEFT: AtomicU64 = AtomicU64::new(0);
/// Whether a registration ends the errors.
static REGISTRATION_HELPS: AtomicU64 = AtomicU64::new(0);
static DENIED: AtomicU64 = AtomicU64::new(0);
static GRANTED: AtomicU64 = AtomicU64::new(0);

/// From now on, calls get `error`, so many of them.
fn deny(error: libc::c_int, calls: u64) {
    ERROR.store(error.into(), SeqCst);
    ERRORS_LEFT.store(calls, SeqCst);
}

/// The error that a call gets, or 0 for the kernel's own answer.
fn answer(command: libc::c_int) -> libc::c_int {
    if REGISTRATIONS.contains(&command) && REGISTRATION_HELPS.load(SeqCst) != 0 {
        ERRORS_LEFT.store(0, SeqCst);
    }
    let one_less = |left: u64| left.checked_sub(1);
    if ERRORS_LEFT.fetch_update(SeqCst, SeqCst, one_less).is_ok() {
        DENIED.fetch_add(1, SeqCst);
        return ERROR.load(SeqCst).try_into().expect("an error number");
    }
    GRANTED.fetch_add(1, SeqCst);
    0
}

/// Has all calls of `membarrier` answered by [`answer`].
fn play_the_system() -> io::Result<()> {
    let instruction = |code: u32, if_true, if_false, value| libc::sock_filter {
        code: code.try_into().expect("a short code"),
        jt: if_true,
        jf: if_false,
        k: value,
    };
    let number = u32::try_from(libc::SYS_membarrier).expect("a small number");
    let mut program = [
        // The number comes first in what a filter sees.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: program.len().try_into().expect("a short program"),
        filter: program.as_mut_ptr(),
    };
    // SAFETY: takes numbers alone.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER
        | libc::SECCOMP_FILTER_FLAG_TSYNC
        | libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH;
    // SAFETY: reads a program that is alive, and whose length is given.
    let listener = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    let Ok(listener @ 0..) = libc::c_int::try_from(listener) else {
        return Err(io::Error::last_os_error());
    };
    // SAFETY: the descriptor was just made, and is nobody else's.
    let listener = unsafe { File::from_raw_fd(listener) };
    thread::spawn(move || while answer_one(&listener) {});
    Ok(())
}

fn answer_one(listener: &File) -> bool {
    // SAFETY: all zeroes is a valid value of this plain C type, and the one that the kernel wants.
    let mut asked: libc::seccomp_notif = unsafe { mem::zeroed() };
    // SAFETY: writes what it was given.
    let outcome = unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut asked)
    };
    if outcome != 0 {
        return io::Error::last_os_error().kind() == io::ErrorKind::Interrupted;
    }
    #[allow(clippy::cast_possible_truncation, reason = "the argument is an int")]
    let error = answer(asked.data.args[0] as libc::c_int);
    let goes_on = u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).expect("a flag");
    let mut answered = libc::seccomp_notif_resp {
        id: asked.id,
        val: 0,
        error: -error,
        flags: if error == 0 { goes_on } else { 0 },
    };
    // SAFETY: reads what it was given.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answered) };
    true
}

/// Lets the system be played in a process of its own, if this one may do that.
fn with_a_played_system(body: impl FnOnce() + Copy) {
    let test = test_of(&body);
    isolated_as(test, || match play_the_system() {
        Ok(()) => body(),
        Err(error) => skip(test, &format!("no seccomp filter can be installed: {error}")),
    });
}

fn slots() -> AsyncFixedArena {
    FixedArena::builder(nz(SLOTS), nz(64)).build_async().unwrap()
}

/// Uses an arena on several threads until each may have a part of its memory to itself, changes the
/// system by `change`, and goes on: with a full arena, an empty one, one that is waited for, and
/// its end.
fn assert_goes_on(change: impl FnOnce()) {
    let arena = slots();
    let use_it = || (0..500).for_each(|_| drop([(); 3].map(|()| arena.allocate())));
    let take_all =
        || -> Vec<_> { iter::repeat_with(|| arena.allocate()).map_while(Result::ok).collect() };
    let (ready, changed, used) =
        (Barrier::new(THREADS + 1), Barrier::new(THREADS + 1), Barrier::new(THREADS + 1));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                use_it();
                ready.wait();
                changed.wait();
                // Others have found them idle meanwhile.
                use_it();
                used.wait();
            });
        }
        ready.wait();
        change();
        // Some of it may lie where nobody can get it but those who are idle. None of it is lost.
        let most = take_all();
        assert!(most.len() <= SLOTS && !most.is_empty(), "{} of {SLOTS}", most.len());
        assert!(arena.allocate().is_err(), "none is left");
        drop(most);
        changed.wait();
        used.wait();
    });
    let mut all = take_all();
    assert_eq!(all.len(), SLOTS, "all threads have used it since, or ended");
    thread::scope(|scope| {
        // All those who wait are served by what is dropped, wherever it is dropped.
        for _ in 0..THREADS {
            scope.spawn(|| (0..100).for_each(|_| drop(block_on(arena.allocate_async()))));
        }
        scope.spawn(|| {
            while let Some(buffer) = all.pop() {
                drop(buffer);
                thread::yield_now();
            }
        });
    });
    assert_eq!(take_all().len(), SLOTS);
    // Its end, by its last handle and then its last buffer.
    let other = slots();
    let held = [(); 3].map(|()| other.allocate().unwrap());
    drop(other);
    drop(held);
    drop(arena);
}

#[test]
fn an_arena_goes_on_where_membarrier_is_denied_from_the_start() {
    with_a_played_system(|| {
        deny(libc::EPERM, u64::MAX);
        assert_goes_on(|| {});
    });
}

#[test]
fn an_arena_goes_on_where_the_kernel_has_no_membarrier() {
    with_a_played_system(|| {
        deny(libc::ENOSYS, u64::MAX);
        assert_goes_on(|| {});
    });
}

#[test]
fn an_arena_goes_on_where_membarrier_is_denied_later() {
    with_a_played_system(|| assert_goes_on(|| deny(libc::EPERM, u64::MAX)));
}

#[test]
fn an_arena_goes_on_where_membarrier_vanishes_later() {
    with_a_played_system(|| assert_goes_on(|| deny(libc::ENOSYS, u64::MAX)));
}

#[test]
fn an_arena_goes_on_where_the_kernel_has_no_memory_for_a_membarrier_for_a_moment() {
    with_a_played_system(|| {
        assert_goes_on(|| deny(libc::ENOMEM, 5));
        assert!(GRANTED.load(SeqCst) > 0 || DENIED.load(SeqCst) < 5, "it was given up too early");
    });
}

#[test]
fn an_arena_registers_again_where_its_registration_is_lost() {
    with_a_played_system(|| {
        assert_goes_on(|| {
            // As after a process was restored: not permitted before it has registered.
            REGISTRATION_HELPS.store(1, SeqCst);
            deny(libc::EPERM, u64::MAX);
        });
        // Unless it never asked, which needs no barrier at all.
        let (denied, left) = (DENIED.load(SeqCst), ERRORS_LEFT.load(SeqCst));
        assert!(denied == 0 || left == 0, "it has not registered again");
    });
}

#[test]
fn the_last_handle_can_drop_after_membarrier_was_denied() {
    with_a_played_system(|| {
        let arena = slots();
        let held = thread::scope(|scope| {
            scope.spawn(|| [(); 3].map(|()| arena.allocate().unwrap())).join().unwrap()
        });
        let mine = [(); 3].map(|()| arena.allocate().unwrap());
        deny(libc::EPERM, u64::MAX);
        drop(mine);
        drop(arena);
        thread::spawn(move || drop(held)).join().unwrap();
    });
}
