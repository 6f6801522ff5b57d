//! A run cut into intervals: what all threads together did in each.
//!
//! The cuts are the same for all threads: a whole number of intervals before or after the moment
//! when measuring begins. So no interval is half warm-up.
//!
//! ```text
//! load begins        measuring begins                                    load ends, drained
//!  |---|-------|-------|-------|-------|-------| ... |-------|-------|----|
//!    0     1       2       3
//!  \__________________/ warm-up
//! ```
//!
//! The first interval may be shorter and the last one longer than the others: what is in flight
//! when the load ends belongs to it.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    mem,
    time::Duration,
};

use crate::{latency::Latency, shelf::Shelf, tally::Tally};

/// What happened in one interval, over all threads.
#[derive(Clone, Debug)]
pub struct Interval {
    /// When it began, counted from when the load began.
    pub start: Duration,
    /// How long it was.
    pub length: Duration,
    /// Whether it is part of the warm-up. Such an interval has no part in the report's sums.
    pub is_warm_up: bool,
    /// Requests that were answered in it.
    pub requests: u64,
    /// Errors in it.
    pub errors: u64,
    /// Wrong replies in it.
    pub mismatches: u64,
    /// Requests in flight at its end.
    pub in_flight: u64,
    /// How long requests took that were answered in it, from when they were due.
    pub latency: Latency,
    /// The same from when they were sent.
    pub service: Latency,
    /// How late requests were sent that were sent in it, through the generator's own fault.
    pub send_lag: Latency,
}

impl Interval {
    /// Answered requests per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        match self.length {
            Duration::ZERO => 0.0,
            length => self.requests as f64 / length.as_secs_f64(),
        }
    }

    /// When it ended, counted from when the load began.
    #[must_use]
    pub fn end(&self) -> Duration {
        self.start + self.length
    }
}

impl Interval {
    /// Whether nothing happened, in no time.
    fn is_nothing(&self) -> bool {
        let counts = self.requests + self.errors + self.mismatches;
        let times = [&self.latency, &self.service, &self.send_lag];
        self.length.is_zero() && counts == 0 && times.iter().all(|times| times.count() == 0)
    }

    /// Keeps its distributions there from now on.
    pub(crate) fn shelve(&mut self, shelf: &mut Shelf) {
        for latency in [&mut self.latency, &mut self.service, &mut self.send_lag] {
            latency.shelve(shelf);
        }
    }
}

/// Where the cuts are. Times are nanoseconds of the run's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cuts {
    pub(crate) load_begins_at: u64,
    pub(crate) measuring_begins_at: u64,
    pub(crate) length: u64,
}

impl Cuts {
    /// Which interval this moment is in.
    pub(crate) fn number_at(&self, now: u64) -> u64 {
        match now.checked_sub(self.first_cut()) {
            None => 0,
            Some(since) => 1 + since / self.length,
        }
    }

    pub(crate) fn start_of(&self, number: u64) -> u64 {
        match number {
            0 => self.load_begins_at,
            _ => self.first_cut() + (number - 1) * self.length,
        }
    }

    /// The first cut after the load has begun.
    fn first_cut(&self) -> u64 {
        let warm_up = self.measuring_begins_at - self.load_begins_at;
        // Without a warm-up the first interval is a whole one.
        let short = match warm_up {
            0 => self.length,
            _ => (warm_up - 1) % self.length + 1,
        };
        self.load_begins_at + short
    }
}

/// What one thread did in one interval.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) number: u64,
    /// When the thread took the tally.
    pub(crate) until: u64,
    pub(crate) tally: Box<Tally>,
}

/// Puts the pieces of all threads together.
#[derive(Debug)]
pub(crate) struct Assembly {
    cuts: Cuts,
    /// For each thread the number of the interval that it is in. `None`: it has finished.
    threads: Vec<Option<u64>>,
    pending: BTreeMap<u64, Pending>,
    /// When the last interval that was taken ended: the next one begins there.
    told_until: u64,
    spares: Vec<(usize, Box<Tally>)>,
}

#[derive(Debug)]
struct Pending {
    until: u64,
    tally: Box<Tally>,
    /// The thread whose tally this was.
    owner: usize,
}

impl Assembly {
    pub(crate) fn new(cuts: Cuts, threads: usize) -> Self {
        Self {
            cuts,
            threads: vec![Some(0); threads],
            pending: BTreeMap::new(),
            told_until: cuts.load_begins_at,
            spares: Vec::new(),
        }
    }

    /// Adds a piece of `thread`, which is the last one of this number.
    pub(crate) fn add(&mut self, thread: usize, piece: Piece) {
        let Piece { number, until, tally } = piece;
        self.threads[thread] = Some(number + 1);
        self.put(number, Pending { until, tally, owner: thread });
    }

    /// Takes the tallies that are no longer needed, empty, each with the thread that it is from.
    pub(crate) fn spares(&mut self) -> impl Iterator<Item = (usize, Box<Tally>)> + '_ {
        self.spares.drain(..).map(|(owner, mut tally)| {
            tally.clear();
            (owner, tally)
        })
    }

    /// Notes that `thread` will add no more.
    pub(crate) fn finish(&mut self, thread: usize) {
        self.threads[thread] = None;
    }

    /// Takes the oldest interval to which no thread can add any more.
    pub(crate) fn next(&mut self) -> Option<Interval> {
        loop {
            let (&number, _) = self.pending.first_key_value()?;
            if self.threads.iter().flatten().any(|&reached| reached <= number) {
                return None;
            }
            let mut pending = self.pending.remove(&number)?;
            let is_warm_up = self.cuts.start_of(number) < self.cuts.measuring_begins_at;
            if is_warm_up {
                self.put_off_what_is_measured(&mut pending);
            }
            let interval = self.interval(&pending, is_warm_up);
            self.spares.push((pending.owner, pending.tally));
            // The last one of a thread may begin where it ends.
            if !interval.is_nothing() {
                return Some(interval);
            }
        }
    }

    fn interval(&mut self, Pending { until, tally, .. }: &Pending, is_warm_up: bool) -> Interval {
        let start = self.told_until;
        self.told_until = start.max(*until);
        let times = if is_warm_up { &tally.warm_up_times } else { &tally.times };
        Interval {
            start: Duration::from_nanos(start - self.cuts.load_begins_at),
            length: Duration::from_nanos(self.told_until - start),
            is_warm_up,
            requests: tally.counts.requests + tally.counts.warm_up_requests,
            errors: tally.counts.errors.total(),
            mismatches: tally.counts.mismatches.total(),
            in_flight: tally.in_flight,
            latency: times.latency.latency(),
            service: times.service.latency(),
            send_lag: times.send_lag.latency(),
        }
    }

    /// Moves what was measured to the first interval that is. A thread comes to a cut a little
    /// late, and goes on meanwhile; after a warm-up it may even be done before.
    fn put_off_what_is_measured(&mut self, pending: &mut Pending) {
        let tally = &mut pending.tally;
        if tally.counts.requests == 0 && tally.times.are_empty() {
            return;
        }
        let mut measured = Box::new(Tally::new());
        measured.counts.requests = mem::take(&mut tally.counts.requests);
        mem::swap(&mut measured.times, &mut tally.times);
        let until = pending.until;
        pending.until = until.min(self.cuts.measuring_begins_at);
        let first = self.cuts.number_at(self.cuts.measuring_begins_at);
        self.put(first, Pending { until, tally: measured, owner: pending.owner });
    }

    fn put(&mut self, number: u64, Pending { until, tally, owner }: Pending) {
        match self.pending.entry(number) {
            Entry::Vacant(place) => {
                place.insert(Pending { until, tally, owner });
            }
            Entry::Occupied(mut pending) => {
                let pending = pending.get_mut();
                pending.tally.add(&tally);
                pending.until = pending.until.max(until);
                self.spares.push((owner, tally));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cuts(warm_up: u64) -> Cuts {
        Cuts { load_begins_at: 1_000, measuring_begins_at: 1_000 + warm_up, length: 100 }
    }

    #[test]
    fn measuring_begins_with_a_cut() {
        for (warm_up, number) in [(0, 0), (1, 1), (99, 1), (100, 1), (101, 2), (250, 3)] {
            let cuts = cuts(warm_up);
            assert_eq!(cuts.start_of(number), cuts.measuring_begins_at, "after {warm_up}");
            assert_eq!(cuts.number_at(cuts.measuring_begins_at), number);
        }
    }

    #[test]
    fn every_moment_is_in_the_interval_that_it_is_numbered() {
        for warm_up in [0, 30, 100, 250] {
            let cuts = cuts(warm_up);
            for now in 1_000..2_000 {
                let number = cuts.number_at(now);
                assert!(cuts.start_of(number) <= now && now < cuts.start_of(number + 1));
            }
        }
    }

    fn piece(number: u64, requests: u64) -> Piece {
        let mut tally = Tally::new();
        tally.counts.requests = requests;
        Piece { number, until: 1_000 + (number + 1) * 100, tally: Box::new(tally) }
    }

    #[test]
    fn an_interval_is_told_once_every_thread_is_past_it() {
        let mut assembly = Assembly::new(cuts(0), 2);
        assembly.add(0, piece(0, 3));
        assembly.add(0, piece(1, 4));
        assert!(assembly.next().is_none());
        assembly.add(1, piece(0, 5));
        let first = assembly.next().unwrap();
        assert_eq!((first.requests, first.length), (8, Duration::from_nanos(100)));
        assert!(assembly.next().is_none());
    }

    #[test]
    fn what_is_measured_before_a_thread_comes_to_the_cut_is_in_the_first_measured_interval() {
        let mut assembly = Assembly::new(cuts(100), 1);
        let mut late = piece(0, 2);
        late.until = 1_130;
        late.tally.counts.warm_up_requests = 5;
        late.tally.times.send_lag.record(7, 3);
        assembly.add(0, late);
        let warm_up = assembly.next().unwrap();
        assert!(warm_up.is_warm_up);
        assert_eq!((warm_up.requests, warm_up.length), (5, Duration::from_nanos(100)));
        assert_eq!(warm_up.send_lag.count(), 0);
        let mut next = piece(1, 4);
        next.tally.times.send_lag.record(9, 1);
        assembly.add(0, next);
        let measured = assembly.next().unwrap();
        assert!(!measured.is_warm_up);
        assert_eq!((measured.start, measured.requests), (Duration::from_nanos(100), 6));
        assert_eq!((measured.send_lag.count(), measured.send_lag.percentiles().max), (4, 9));
    }

    #[test]
    fn a_load_that_is_over_before_the_cut_has_a_measured_interval() {
        let mut assembly = Assembly::new(cuts(100), 1);
        let mut only = piece(0, 2);
        only.until = 1_130;
        only.tally.times.latency.record(20, 2);
        assembly.add(0, only);
        assembly.finish(0);
        assert!(assembly.next().unwrap().is_warm_up);
        let measured = assembly.next().unwrap();
        assert_eq!((measured.requests, measured.latency.count()), (2, 2));
        assert_eq!(measured.length, Duration::from_nanos(30));
        assert!(assembly.next().is_none());
    }

    #[test]
    fn an_interval_without_length_and_content_is_none() {
        let mut assembly = Assembly::new(cuts(0), 1);
        for requests in [3, 0] {
            let mut piece = piece(0, requests);
            piece.number = u64::from(requests == 0);
            assembly.add(0, piece);
        }
        assembly.finish(0);
        assert_eq!(assembly.next().unwrap().requests, 3);
        assert!(assembly.next().is_none());
        assert_eq!(assembly.spares().count(), 2);
    }

    #[test]
    fn a_thread_that_has_finished_is_not_waited_for() {
        let mut assembly = Assembly::new(cuts(0), 2);
        assembly.add(0, piece(0, 3));
        assembly.finish(1);
        assert_eq!(assembly.next().unwrap().requests, 3);
    }

    #[test]
    fn where_a_thread_misses_a_cut_the_interval_is_longer() {
        let mut assembly = Assembly::new(cuts(0), 1);
        assembly.add(0, piece(0, 1));
        assembly.add(0, piece(2, 1));
        let intervals = std::iter::from_fn(|| assembly.next());
        let times: Vec<_> = intervals.map(|i| (i.start, i.length)).collect();
        let nanos = Duration::from_nanos;
        assert_eq!(times, [(nanos(0), nanos(100)), (nanos(100), nanos(200))]);
    }
}
