//! Stalled peers: how much memory they block, and who is closed while others wait for it.
//!
//! A connection that waits for its peer while it holds memory *stalls*. Most stalls end at once.
//! Those that do not would leave the others waiting until a deadline, or for ever if the peer moves
//! a byte now and then. So while somebody waits for memory, and stalled peers block more than their
//! share, the connection that has held its memory the longest is closed, if that is longer than the
//! stall timeout. So it is if nobody in a queue is served for that long: then a small part of the
//! memory blocks the rest.
//!
//! A stall is counted from its first wait until the connection holds nothing, and anew whenever the
//! peer has moved [`PROGRESS_BYTES`]: a byte now and then is no progress.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::time::{Instant, sleep};

/// A peer that moves so much does not stall: its time begins anew.
const PROGRESS_BYTES: u64 = 64 << 10;

/// How often it is looked at who has stalled for too long.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// All stalls of a server.
#[derive(Debug)]
pub(crate) struct Stalls {
    /// How many bytes they may block while somebody waits.
    bytes_max: usize,
    /// How long a connection may hold memory for a stalled peer, whoever waits for it.
    timeout: Duration,
    /// The sum over `stalled`. Changed with the lock held, read without.
    bytes: AtomicUsize,
    stalled: Mutex<BTreeMap<Place, Stalled>>,
    numbers: AtomicUsize,
}

/// Who has stalled for longer comes first.
type Place = (Instant, usize);

#[derive(Debug)]
struct Stalled {
    bytes: usize,
    sentence: Arc<Sentence>,
}

/// Whether a connection must close.
#[derive(Debug, Default)]
struct Sentence {
    is_closed: AtomicBool,
    waker: AtomicWaker,
}

/// One connection's stall, if it has one.
#[derive(Debug)]
pub(crate) struct Stall {
    place: Option<Place>,
    /// Bytes that the peer has moved since the beginning.
    moved_bytes: u64,
    /// How many it had moved when the place was taken.
    moved_before: u64,
    sentence: Option<Arc<Sentence>>,
}

impl Stalls {
    pub(crate) fn new(bytes_max: usize, timeout: Duration) -> Self {
        Self {
            bytes_max,
            timeout,
            bytes: AtomicUsize::new(0),
            stalled: Mutex::default(),
            numbers: AtomicUsize::new(0),
        }
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Bytes that stalled peers block.
    pub(crate) fn bytes(&self) -> usize {
        // Relaxed: a figure, and a hint to be careful.
        self.bytes.load(Relaxed)
    }

    /// Whether stalled peers block more than their share.
    pub(crate) fn are_too_many(&self) -> bool {
        self.bytes() > self.bytes_max
    }

    /// Closes the connection that has stalled for the longest, if it must close, and lets some time
    /// pass.
    ///
    /// It must if stalled peers block more than their share, or if `queues_are_stuck`: however
    /// little they block, that may be what all others wait for.
    pub(crate) async fn close_the_longest(&self, queues_are_stuck: bool) {
        if self.are_too_many() && self.sentence_the_longest() {
            // It ends on its own task; the next may have to follow at once.
            tokio::task::yield_now().await;
            return;
        }
        if queues_are_stuck {
            self.sentence_the_longest();
        }
        sleep(LOOK_EVERY).await;
    }

    fn sentence_the_longest(&self) -> bool {
        let mut stalled = self.lock();
        let Some(longest) = stalled.first_entry() else { return false };
        if longest.key().0.elapsed() < self.timeout {
            return false;
        }
        let Stalled { bytes, sentence } = longest.remove();
        self.bytes.fetch_sub(bytes, Relaxed);
        // Relaxed: the lock carries it to whoever ends the stall meanwhile, and takes it back; the
        // waker's own synchronisation to whoever is woken.
        sentence.is_closed.store(true, Relaxed);
        drop(stalled);
        sentence.waker.wake();
        true
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
        Self { place: None, moved_bytes: 0, moved_before: 0, sentence: None }
    }

    /// Stalls with `bytes`, or goes on. Ready if the connection must close.
    pub(crate) fn poll_closed(
        &mut self,
        stalls: &Stalls,
        context: &mut Context<'_>,
        bytes: usize,
    ) -> Poll<()> {
        let sentence = Arc::clone(self.sentence.get_or_insert_default());
        sentence.waker.register(context.waker());
        if sentence.is_closed.load(Relaxed) {
            return Poll::Ready(());
        }
        if self.moved_bytes - self.moved_before >= PROGRESS_BYTES {
            self.end(stalls);
        }
        let place = *self.place.get_or_insert_with(|| {
            self.moved_before = self.moved_bytes;
            (Instant::now(), stalls.number())
        });
        let mut stalled = stalls.lock();
        let begun = || Stalled { bytes: 0, sentence };
        let entry = stalled.entry(place).or_insert_with(begun);
        let before = std::mem::replace(&mut entry.bytes, bytes);
        stalls.bytes.fetch_add(bytes.wrapping_sub(before), Relaxed);
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

    /// Ends the stall: the connection holds nothing any more.
    #[inline]
    pub(crate) fn end(&mut self, stalls: &Stalls) {
        if let Some(place) = self.place.take() {
            self.leave(stalls, place);
        }
    }

    #[cold]
    fn leave(&self, stalls: &Stalls, place: Place) {
        match stalls.lock().remove(&place) {
            Some(stalled) => {
                stalls.bytes.fetch_sub(stalled.bytes, Relaxed);
            }
            // It was to close, and has given its memory back meanwhile: there is no need any more.
            None => {
                if let Some(sentence) = &self.sentence {
                    sentence.is_closed.store(false, Relaxed);
                }
            }
        }
    }
}
