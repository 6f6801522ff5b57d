//! `Roster`: which connections there are, what each does, and how much memory it holds for how
//! long.
//!
//! For people who look, and for nothing else. A connection notes what it does when it has to wait,
//! and only if that is not what it noted before: at full load nothing is written. The lock is for
//! coming, going and looking.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// What a connection does while it waits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Doing {
    /// It waits for requests, or is at work.
    Idle,
    /// It waits for the rest of a frame.
    Reading,
    /// It waits for memory.
    Waiting,
    /// It waits until its peer takes replies.
    Writing,
}

/// All connections.
#[derive(Debug)]
pub(crate) struct Roster {
    start: Instant,
    /// For how long connections have done what, in the order of [`Doing::ALL`], up to their last
    /// changes. Written with an entry, so as rarely.
    spent_ms: [AtomicU64; Doing::ALL.len()],
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    by_number: BTreeMap<u64, Arc<Entry>>,
}

/// What is known of a connection. All are figures: no access orders anything.
#[derive(Debug)]
struct Entry {
    name: Name,
    doing: AtomicU8,
    /// Since when it does that, in milliseconds since `start`.
    doing_since_ms: AtomicU64,
    held_bytes: AtomicUsize,
    /// When it was first seen to hold what it holds, in milliseconds since `start`. Without meaning
    /// while it holds nothing.
    held_since_ms: AtomicU64,
}

/// How a connection is called in the log and in pictures.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    pub(crate) id: u64,
    pub(crate) peer: String,
}

/// One connection's entry. It goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Presence {
    roster: Arc<Roster>,
    number: u64,
    entry: Arc<Entry>,
    /// What the entry says, so that it is not read.
    noted: (Doing, usize),
}

/// What all connections do, added up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Census {
    /// Connections and the bytes that they hold, in the order of [`Doing::ALL`].
    pub(crate) by_doing: [(usize, usize); Doing::ALL.len()],
    /// Connections that hold nothing, at most the first of [`HELD_BYTES_STEPS`], and so on, and
    /// those that hold more.
    pub(crate) by_held: [usize; HELD_BYTES_STEPS.len() + 2],
    /// Those that have held memory for the longest come first.
    pub(crate) oldest: Vec<Holder>,
}

/// A connection that holds memory.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    pub(crate) name: Name,
    pub(crate) doing: Doing,
    pub(crate) held_bytes: usize,
    pub(crate) held_for: Duration,
}

/// Where [`Census::by_held`] is cut.
pub(crate) const HELD_BYTES_STEPS: [usize; 4] = [4 << 10, 64 << 10, 256 << 10, 1 << 20];

impl Doing {
    pub(crate) const ALL: [Self; 4] = [Self::Idle, Self::Reading, Self::Waiting, Self::Writing];

    /// Returns its name, as figures are labelled with it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Reading => "reading",
            Self::Waiting => "waiting_for_memory",
            Self::Writing => "writing",
        }
    }
}

impl Roster {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            spent_ms: Default::default(),
            entries: Mutex::default(),
        })
    }

    /// Notes that a connection has come. It is idle, and holds nothing.
    pub(crate) fn enter(self: &Arc<Self>, name: Name) -> Presence {
        let entry = Arc::new(Entry {
            name,
            doing: AtomicU8::new(Doing::Idle as u8),
            doing_since_ms: AtomicU64::new(self.now_ms()),
            held_bytes: AtomicUsize::new(0),
            held_since_ms: AtomicU64::new(0),
        });
        let mut entries = self.lock();
        let number = entries.next;
        entries.next += 1;
        entries.by_number.insert(number, Arc::clone(&entry));
        drop(entries);
        Presence { roster: Arc::clone(self), number, entry, noted: (Doing::Idle, 0) }
    }

    /// Adds up what all do, and finds as many who hold memory as asked for.
    pub(crate) fn census(&self, oldest: usize) -> Census {
        let now_ms = self.now_ms();
        let mut census = Census::default();
        // Not with the lock held: a connection that comes or goes would wait.
        let entries: Vec<_> = self.lock().by_number.values().cloned().collect();
        let mut holders = Vec::new();
        for entry in entries {
            let doing = entry.doing();
            let held_bytes = entry.held_bytes.load(Relaxed);
            let (connections, bytes) = &mut census.by_doing[doing as usize];
            *connections += 1;
            *bytes += held_bytes;
            let steps = HELD_BYTES_STEPS.iter().filter(|step| held_bytes > **step).count();
            census.by_held[if held_bytes == 0 { 0 } else { 1 + steps }] += 1;
            if held_bytes > 0 {
                holders.push((entry.held_since_ms.load(Relaxed), doing, held_bytes, entry));
            }
        }
        holders.sort_by_key(|(since, _, _, entry)| (*since, entry.name.id));
        holders.truncate(oldest);
        let holder = |(since, doing, held_bytes, entry): (u64, _, _, Arc<Entry>)| Holder {
            name: entry.name.clone(),
            doing,
            held_bytes,
            held_for: Duration::from_millis(now_ms.saturating_sub(since)),
        };
        census.oldest = holders.into_iter().map(holder).collect();
        census
    }

    /// Returns for how long somebody has waited for memory, if somebody waits.
    pub(crate) fn longest_wait(&self) -> Option<Duration> {
        let entries = self.lock();
        let is_waiting = |entry: &&Arc<Entry>| entry.doing() == Doing::Waiting;
        let waiting = entries.by_number.values().filter(is_waiting);
        let since = waiting.map(|entry| entry.doing_since_ms.load(Relaxed)).min();
        drop(entries);
        since.map(|since| Duration::from_millis(self.now_ms().saturating_sub(since)))
    }

    /// Returns for how many milliseconds all connections together have done what, in the order of
    /// [`Doing::ALL`]. What a connection does while this looks may be missing until the next look.
    pub(crate) fn spent_ms(&self) -> [u64; Doing::ALL.len()] {
        let entries = self.lock();
        // First the sums: nothing may count twice.
        let mut spent = self.spent_ms.each_ref().map(|spent| spent.load(Relaxed));
        let now_ms = self.now_ms();
        for entry in entries.by_number.values() {
            let since_ms = entry.doing_since_ms.load(Relaxed);
            spent[entry.doing() as usize] += now_ms.saturating_sub(since_ms);
        }
        spent
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn doing(&self) -> Doing {
        Doing::ALL[usize::from(self.doing.load(Relaxed))]
    }
}

impl Presence {
    /// Notes what the connection does, and how much memory it holds.
    #[inline]
    pub(crate) fn note(&mut self, doing: Doing, held_bytes: usize) {
        if self.noted != (doing, held_bytes) {
            self.write(doing, held_bytes);
        }
    }

    /// Notes that the connection need not wait for memory any more.
    #[inline]
    pub(crate) fn end_wait(&mut self) {
        if self.noted.0 == Doing::Waiting {
            self.write(Doing::Idle, self.noted.1);
        }
    }

    /// Notes that the connection holds nothing. If it waits for memory, it goes on with that.
    #[inline]
    pub(crate) fn end_turn(&mut self) {
        match self.noted {
            (Doing::Idle | Doing::Waiting, 0) => {}
            (Doing::Waiting, _) => self.write(Doing::Waiting, 0),
            _ => self.write(Doing::Idle, 0),
        }
    }

    #[cold]
    fn write(&mut self, doing: Doing, held_bytes: usize) {
        let now_ms = self.roster.now_ms();
        let (did, held_before) = self.noted;
        if did != doing {
            self.count_spent(now_ms);
            // First the time: who looks in between must not take a short wait for a
            // long one. Only on machines that reorder stores may it show for a moment.
            self.entry.doing_since_ms.store(now_ms, Relaxed);
            self.entry.doing.store(doing as u8, Relaxed);
        }
        if held_before == 0 {
            self.entry.held_since_ms.store(now_ms, Relaxed);
        }
        self.entry.held_bytes.store(held_bytes, Relaxed);
        self.noted = (doing, held_bytes);
    }

    /// Adds the time since the last change to that of all connections.
    fn count_spent(&self, now_ms: u64) {
        let since_ms = self.entry.doing_since_ms.load(Relaxed);
        let spent_ms = &self.roster.spent_ms[self.noted.0 as usize];
        spent_ms.fetch_add(now_ms.saturating_sub(since_ms), Relaxed);
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut entries = self.roster.lock();
        entries.by_number.remove(&self.number);
        // Under the lock: who looks sees the time in one of the two.
        self.count_spent(self.roster.now_ms());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(id: u64) -> Name {
        Name { id, peer: format!("peer {id}") }
    }

    #[test]
    fn names_are_in_the_order_of_all() {
        for (index, doing) in Doing::ALL.into_iter().enumerate() {
            assert_eq!(doing as usize, index);
        }
    }

    #[test]
    fn a_connection_is_there_until_it_drops() {
        let roster = Roster::new();
        let presence = roster.enter(name(1));
        assert_eq!(roster.census(1).by_doing, [(1, 0), (0, 0), (0, 0), (0, 0)]);
        drop(presence);
        assert_eq!(roster.census(1).by_doing, [(0, 0); 4]);
    }

    #[test]
    fn connections_are_counted_by_what_they_do_and_hold() {
        let roster = Roster::new();
        let mut all: Vec<_> = (0..4).map(|id| roster.enter(name(id))).collect();
        all[1].note(Doing::Reading, 4 << 10);
        all[2].note(Doing::Reading, 64 << 10);
        all[3].note(Doing::Writing, 2 << 20);
        let census = roster.census(8);
        assert_eq!(census.by_doing, [(1, 0), (2, 68 << 10), (0, 0), (1, 2 << 20)]);
        assert_eq!(census.by_held, [1, 1, 1, 0, 0, 1]);
    }

    #[test]
    fn who_has_held_memory_for_the_longest_comes_first() {
        let roster = Roster::new();
        let (mut one, mut other) = (roster.enter(name(1)), roster.enter(name(2)));
        other.note(Doing::Reading, 10);
        let since = |id| {
            let oldest = roster.census(2).oldest;
            oldest.into_iter().find(|holder| holder.name.id == id).map(|holder| holder.held_for)
        };
        // The clock of the roster counts milliseconds.
        while since(2) == Some(Duration::ZERO) {
            std::hint::spin_loop();
        }
        one.note(Doing::Writing, 20);
        other.note(Doing::Writing, 30);
        let oldest = roster.census(1).oldest;
        assert_eq!((oldest.len(), oldest[0].name.id, oldest[0].held_bytes), (1, 2, 30));

        other.note(Doing::Idle, 0);
        assert_eq!(roster.census(1).oldest[0].name.id, 1);
    }

    #[test]
    fn time_is_counted_for_what_a_connection_did_in_it_also_when_it_has_gone() {
        let roster = Roster::new();
        let mut presence = roster.enter(name(1));
        // The clock of the roster counts milliseconds.
        let until_spent = |doing: Doing| {
            while roster.spent_ms()[doing as usize] == 0 {
                std::hint::spin_loop();
            }
        };
        until_spent(Doing::Idle);
        presence.note(Doing::Waiting, 0);
        let idle_ms = roster.spent_ms()[Doing::Idle as usize];
        until_spent(Doing::Waiting);
        // A connection that looks whether there is memory goes on waiting.
        presence.end_turn();
        presence.note(Doing::Writing, 10);
        until_spent(Doing::Writing);
        drop(presence);

        let spent_ms = roster.spent_ms();
        assert_eq!(spent_ms[Doing::Idle as usize], idle_ms);
        assert_eq!(spent_ms[Doing::Reading as usize], 0);
        assert!(spent_ms[Doing::Waiting as usize] > 0 && spent_ms[Doing::Writing as usize] > 0);
        assert!(spent_ms.iter().sum::<u64>() <= roster.now_ms(), "{spent_ms:?}");
    }

    #[test]
    fn a_wait_for_memory_lasts_until_there_is_some() {
        let roster = Roster::new();
        let mut presence = roster.enter(name(1));
        assert_eq!(roster.longest_wait(), None);
        presence.note(Doing::Waiting, 0);
        // A connection that looks whether there is memory begins its turn anew.
        presence.end_turn();
        presence.note(Doing::Waiting, 0);
        assert!(roster.longest_wait().is_some());
        presence.end_wait();
        assert_eq!(roster.longest_wait(), None);
    }
}
