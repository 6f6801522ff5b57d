//! Stalled peers: how much memory they block, and who is closed while others wait for it.
//!
//! A connection that waits for its peer while it holds memory *stalls*. Most stalls end at once.
//! Those that do not would leave the others waiting until a deadline, or for ever if the peer moves
//! a byte now and then. So while somebody waits for memory, and stalled peers block more than their
//! share, the connection that has held its memory the longest is closed, if that is longer than the
//! stall timeout. So it is if nobody in a queue is served for that long: then a small part of the
//! memory blocks the rest.
//!
//! The arena and the budget of the heap are judged each by itself: nobody is closed for memory that
//! would not help those who wait.
//!
//! A stall lasts until the connection holds nothing. Only what its peer could have ended counts. So
//! it is suspended once requests have arrived whole, while their handler is waited for, and once
//! replies are taken, while memory for more is. It goes on where it was when the peer is waited for
//! again. It is counted anew whenever the peer has moved [`PROGRESS_BYTES`]: a byte now and then
//! is no progress.

use std::{
    collections::BTreeMap,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::{task::yield_now, time::sleep};

use super::{
    clock::{Clock, Moment},
    held::{Held, Home},
};
use crate::transport::Half;

/// A peer that moves so much does not stall: its time begins anew.
const PROGRESS_BYTES: u64 = 64 << 10;

/// How often it is looked at who has stalled for too long.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// All stalls of a server.
#[derive(Debug)]
pub(crate) struct Stalls {
    /// By which they are measured, and every other deadline for a peer.
    clock: Clock,
    /// How much they may block while somebody waits for it.
    share: Held,
    /// How long a connection may hold memory for a stalled peer, whoever waits for it.
    timeout: Duration,
    /// The sums over `stalled`, by home. Changed with the lock held, read without.
    bytes: [AtomicUsize; Home::ALL.len()],
    stalled: Mutex<BTreeMap<Place, Stalled>>,
    numbers: AtomicUsize,
}

/// Who has stalled for longer comes first.
type Place = (Moment, usize);

#[derive(Debug)]
struct Stalled {
    held: Held,
    sentence: Arc<Sentence>,
}

/// Whether a connection must close.
#[derive(Debug, Default)]
struct Sentence {
    is_closed: AtomicBool,
    /// Of both halves of its transport, in the order of [`Half`].
    wakers: [AtomicWaker; Half::ALL.len()],
}

/// One connection's stall, if it has one.
#[derive(Debug)]
pub(crate) struct Stall {
    /// `None` while there is none, and while it is suspended.
    place: Option<Place>,
    /// How long it had lasted when it was suspended, if it is.
    suspended: Option<Duration>,
    /// Bytes that the peer has moved since the beginning.
    moved_bytes: u64,
    /// How many it had moved when the stall began.
    moved_before: u64,
    sentence: Option<Arc<Sentence>>,
}

impl Stalls {
    pub(crate) fn new(share: Held, timeout: Duration) -> Self {
        Self {
            clock: Clock::new(),
            share,
            timeout,
            bytes: Default::default(),
            stalled: Mutex::default(),
            numbers: AtomicUsize::new(0),
        }
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Bytes that stalled peers block.
    pub(crate) fn bytes(&self, home: Home) -> usize {
        // Relaxed: a figure, and a hint to be careful.
        self.bytes[home as usize].load(Relaxed)
    }

    /// Whether stalled peers block more than their share.
    pub(crate) fn are_too_many(&self, home: Home) -> bool {
        self.bytes(home) > self.share.bytes(home)
    }

    /// Closes the connection that has stalled for the longest with memory of this home, if it must
    /// close. Returns whether the next may have to follow at once.
    ///
    /// It must if stalled peers block more than their share, or if `queues_are_stuck`: however
    /// little they block, that may be what all others wait for.
    pub(crate) fn close_the_longest(&self, home: Home, queues_are_stuck: bool) -> bool {
        if self.are_too_many(home) {
            return self.sentence_the_longest(home);
        }
        if queues_are_stuck {
            self.sentence_the_longest(home);
        }
        false
    }

    /// Lets some time pass until the next look.
    pub(crate) async fn pause(&self, is_urgent: bool) {
        if is_urgent {
            // Who was closed ends on its own task.
            yield_now().await;
        } else {
            sleep(LOOK_EVERY).await;
        }
    }

    fn sentence_the_longest(&self, home: Home) -> bool {
        let mut stalled = self.lock();
        let longest = stalled.iter().find(|(_, stalled)| stalled.held.bytes(home) > 0);
        let Some(place) = longest.map(|(place, _)| *place) else { return false };
        if self.clock.now().since(place.0) < self.timeout {
            return false;
        }
        let Some(Stalled { held, sentence }) = stalled.remove(&place) else { return false };
        self.change(held, Held::default());
        // Relaxed: the lock carries it to the connection, which looks with the lock held.
        sentence.is_closed.store(true, Relaxed);
        drop(stalled);
        sentence.wakers.iter().for_each(AtomicWaker::wake);
        true
    }

    /// Counts `after` in place of `before`. The caller has the lock.
    fn change(&self, before: Held, after: Held) {
        for home in Home::ALL {
            let more = after.bytes(home).wrapping_sub(before.bytes(home));
            self.bytes[home as usize].fetch_add(more, Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Place, Stalled>> {
        // Nothing can panic while the lock is held.
        self.stalled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that nobody else has, to tell those apart who stall at the same instant.
    fn number(&self) -> usize {
        self.numbers.fetch_add(1, Relaxed)
    }
}

impl Stall {
    pub(crate) fn new() -> Self {
        Self { place: None, suspended: None, moved_bytes: 0, moved_before: 0, sentence: None }
    }

    /// Stalls with what it holds, or goes on. Ready if the connection must close: both halves are
    /// woken then.
    pub(crate) fn poll_closed(
        &mut self,
        stalls: &Stalls,
        half: Half,
        context: &mut Context<'_>,
        held: Held,
    ) -> Poll<()> {
        if self.moved_bytes - self.moved_before >= PROGRESS_BYTES {
            self.end(stalls);
        }
        if self.place.is_none() && self.suspended.is_none() {
            self.moved_before = self.moved_bytes;
        }
        let sentence = Arc::clone(self.sentence.get_or_insert_default());
        sentence.wakers[half as usize].register(context.waker());
        let place = *self.place.get_or_insert_with(|| {
            let lasted = self.suspended.take().unwrap_or_default();
            (stalls.clock.now().before(lasted), stalls.number())
        });
        let mut stalled = stalls.lock();
        // With the lock held, under which sentences are passed: none comes between this and the
        // entry.
        if sentence.is_closed.load(Relaxed) {
            return Poll::Ready(());
        }
        let begun = || Stalled { held: Held::default(), sentence };
        let entry = stalled.entry(place).or_insert_with(begun);
        let before = mem::replace(&mut entry.held, held);
        stalls.change(before, held);
        Poll::Pending
    }

    #[inline]
    pub(crate) fn moved(&mut self, bytes: u64) {
        self.moved_bytes += bytes;
    }

    #[inline]
    pub(crate) fn moved_bytes(&self) -> u64 {
        self.moved_bytes
    }

    /// Ends the stall: the connection holds nothing any more. If it was to close, there is no need.
    #[inline]
    pub(crate) fn end(&mut self, stalls: &Stalls) {
        if self.place.is_some() || self.suspended.is_some() {
            self.leave(stalls);
            self.suspended = None;
            self.pardon();
        }
    }

    /// Suspends the stall: for what the connection holds, the peer need do nothing now. If it was
    /// to close, it still is when the peer is waited for again.
    #[inline]
    pub(crate) fn suspend(&mut self, stalls: &Stalls) {
        if self.place.is_some() {
            self.leave(stalls);
        }
    }

    #[cold]
    fn leave(&mut self, stalls: &Stalls) {
        let Some(place) = self.place.take() else { return };
        self.suspended = Some(stalls.clock.now().since(place.0));
        if let Some(stalled) = stalls.lock().remove(&place) {
            stalls.change(stalled.held, Held::default());
        }
    }

    #[cold]
    fn pardon(&self) {
        if let Some(sentence) = &self.sentence {
            // Relaxed: who has no place gets no sentence, and the lock was held to give it up.
            sentence.is_closed.store(false, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::advance;

    use super::*;

    const HELD: Held = Held { arena_bytes: 100, heap_bytes: 0 };
    const TIMEOUT: Duration = Duration::from_secs(1);

    fn stalls() -> Stalls {
        Stalls::new(Held::default(), TIMEOUT)
    }

    /// Waits for the peer, and returns whether the connection must close.
    async fn wait(stall: &mut Stall, stalls: &Stalls) -> bool {
        let closed = |context: &mut Context<'_>| {
            Poll::Ready(stall.poll_closed(stalls, Half::Reader, context, HELD).is_ready())
        };
        poll_fn(closed).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_goes_on_where_it_was_suspended() {
        let (stalls, mut stall) = (stalls(), Stall::new());
        assert!(!wait(&mut stall, &stalls).await);
        assert_eq!(stalls.bytes(Home::Arena), HELD.arena_bytes);
        advance(TIMEOUT * 6 / 10).await;
        stall.suspend(&stalls);
        assert_eq!(stalls.bytes(Home::Arena), 0);

        advance(100 * TIMEOUT).await;
        assert!(!wait(&mut stall, &stalls).await);
        advance(TIMEOUT * 3 / 10).await;
        assert!(!stalls.close_the_longest(Home::Arena, false), "nine tenths of the timeout");
        advance(TIMEOUT * 2 / 10).await;
        assert!(stalls.close_the_longest(Home::Arena, false));
        assert!(wait(&mut stall, &stalls).await);
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_to_close_is_pardoned_at_the_end_of_the_stall_alone() {
        let (stalls, mut stall) = (stalls(), Stall::new());
        assert!(!wait(&mut stall, &stalls).await);
        advance(2 * TIMEOUT).await;
        assert!(stalls.close_the_longest(Home::Arena, false));
        stall.suspend(&stalls);
        assert!(wait(&mut stall, &stalls).await);

        stall.end(&stalls);
        assert!(!wait(&mut stall, &stalls).await);
        assert!(!stalls.close_the_longest(Home::Arena, false), "its time begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_peer_moves_counts_across_suspensions() {
        let (stalls, mut stall) = (stalls(), Stall::new());
        for _ in 0..4 {
            assert!(!wait(&mut stall, &stalls).await);
            advance(TIMEOUT * 4 / 10).await;
            stall.moved(PROGRESS_BYTES / 2);
            stall.suspend(&stalls);
        }
        assert!(!wait(&mut stall, &stalls).await);
        assert!(!stalls.close_the_longest(Home::Arena, false), "it has moved enough");
    }
}
