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
//! The first interval and the last one may be shorter or longer than the others: what is in flight
//! when the load ends belongs to the last one. So does one that follows where the generator stood
//! still. None is shorter than half of the others unless it has no neighbour in its phase: what
//! happens to be counted in a sliver of time says nothing as a rate.
//!
//! A request counts in the interval in which its answer is read, but never in another phase than
//! the one in which it was due: answers that come after the warm-up to what was sent before have a
//! count of their own. So what the measured intervals count adds up to the report's sums.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io, mem,
    time::Duration,
};

use crate::{
    load::tally::{Counts, Tally},
    measure::latency::Latency,
    shelf::Shelf,
    units,
};

/// What happened in one interval, over all threads.
#[derive(Clone, Debug)]
pub struct Interval {
    /// When it began, counted from when the load began.
    pub start: Duration,
    /// How long it was.
    pub length: Duration,
    /// Whether it is part of the warm-up. Such an interval has no part in the report's sums.
    pub is_warm_up: bool,
    /// Requests that were answered in it and had been due in the same phase.
    pub requests: u64,
    /// Requests that were answered in it and had been due in the warm-up, which was over.
    pub late_warm_up_requests: u64,
    /// Errors in it that belong to its phase.
    pub errors: u64,
    /// Wrong replies in it to requests of its phase.
    pub mismatches: u64,
    /// Requests in flight at its end.
    pub in_flight: u64,
    /// Requests in flight, on average over its time.
    pub in_flight_mean: f64,
    /// How long requests took that were answered in it, from when they were due.
    pub latency: Latency,
    /// The same from when they were sent.
    pub service: Latency,
    /// How late requests were sent that were sent in it, through the generator's own fault.
    pub send_lag: Latency,
}

impl Interval {
    /// Answers per second, whenever their requests were due.
    #[must_use]
    pub fn rate(&self) -> f64 {
        match self.length {
            Duration::ZERO => 0.0,
            length => self.answered() as f64 / length.as_secs_f64(),
        }
    }

    fn answered(&self) -> u64 {
        self.requests + self.late_warm_up_requests
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
        let counts = self.answered() + self.errors + self.mismatches;
        let times = [&self.latency, &self.service, &self.send_lag];
        self.length.is_zero() && counts == 0 && times.iter().all(|times| times.count() == 0)
    }

    /// Adds the one that follows.
    ///
    /// # Errors
    ///
    /// That of the system, if a distribution cannot be read. Then nothing has changed.
    pub(crate) fn absorb(&mut self, next: &Self) -> io::Result<()> {
        let length = self.length + next.length;
        let weighted = |one: &Self| one.in_flight_mean * one.length.as_secs_f64();
        let in_flight_mean = match length {
            Duration::ZERO => 0.0,
            length => (weighted(self) + weighted(next)) / length.as_secs_f64(),
        };
        *self = Self {
            start: self.start,
            length,
            is_warm_up: self.is_warm_up,
            requests: self.requests + next.requests,
            late_warm_up_requests: self.late_warm_up_requests + next.late_warm_up_requests,
            errors: self.errors + next.errors,
            mismatches: self.mismatches + next.mismatches,
            in_flight: next.in_flight,
            in_flight_mean,
            latency: self.latency.plus(&next.latency)?,
            service: self.service.plus(&next.service)?,
            send_lag: self.send_lag.plus(&next.send_lag)?,
        };
        Ok(())
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
    /// When the load ends, unless a number of requests ends it.
    pub(crate) load_ends_at: Option<u64>,
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
        let rest = match warm_up {
            0 => self.length,
            _ => (warm_up - 1) % self.length + 1,
        };
        let first = if self.is_sliver(rest) { (rest + self.length).min(warm_up) } else { rest };
        self.load_begins_at + first
    }

    /// Whether an interval would be too short to say something.
    fn is_sliver(&self, length: u64) -> bool {
        length < self.length / 2
    }

    /// Whether what is left of the load would make a sliver.
    fn is_all_but_over(&self, now: u64) -> bool {
        let left = self.load_ends_at.and_then(|end| end.checked_sub(now)).filter(|&left| left > 0);
        left.is_some_and(|left| self.is_sliver(left))
    }

    fn is_warm_up(&self, number: u64) -> bool {
        self.start_of(number) < self.measuring_begins_at
    }
}

/// What one thread did in one interval.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) number: u64,
    /// When the thread took the tally.
    pub(crate) until: u64,
    /// Whether the thread has ended, rather than come to a cut.
    pub(crate) is_last: bool,
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
    end: End,
    tally: Box<Tally>,
    /// The thread whose tally this was.
    owner: usize,
}

/// When an interval ended: when the first thread came to the cut, because others may have been kept
/// from it; and not before all threads had ended that end in it.
#[derive(Clone, Copy, Debug)]
struct End {
    cut: Option<u64>,
    last: Option<u64>,
}

impl End {
    fn at(&self) -> u64 {
        self.cut.max(self.last).unwrap_or_default()
    }

    fn join(self, other: Self) -> Self {
        let cuts = [self.cut, other.cut].into_iter().flatten();
        Self { cut: cuts.min(), last: self.last.max(other.last) }
    }
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
        let Piece { number, until, is_last, tally } = piece;
        self.threads[thread] = Some(number + 1);
        let end = match is_last {
            true => End { cut: None, last: Some(until) },
            false => End { cut: Some(until), last: None },
        };
        self.put(number, Pending { end, tally, owner: thread });
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

    /// Whether an interval is too short to say something.
    pub(crate) fn is_sliver(&self, interval: &Interval) -> bool {
        self.cuts.is_sliver(units::nanos(interval.length))
    }

    /// Takes the oldest interval to which no thread can add any more.
    ///
    /// One that is too short is left to the next of its phase, if there will be one.
    pub(crate) fn next(&mut self) -> Option<Interval> {
        loop {
            let (&number, _) = self.pending.first_key_value()?;
            if self.threads.iter().flatten().any(|&reached| reached <= number) {
                return None;
            }
            let mut pending = self.pending.remove(&number)?;
            let is_warm_up = self.cuts.is_warm_up(number);
            if is_warm_up {
                self.put_off_what_is_measured(&mut pending);
            }
            if self.is_left_to_the_next(number, pending.end.at()) {
                // What is in flight at its end is counted again at that of the next.
                pending.tally.in_flight = 0;
                let end = End { cut: None, last: Some(pending.end.at()) };
                self.put(number + 1, Pending { end, ..pending });
                continue;
            }
            let interval = self.interval(&pending, is_warm_up);
            self.spares.push((pending.owner, pending.tally));
            // The last one of a thread may begin where it ends.
            if !interval.is_nothing() {
                return Some(interval);
            }
        }
    }

    /// Whether an interval that ends then waits for the next one and becomes part of it.
    fn is_left_to_the_next(&self, number: u64, until: u64) -> bool {
        let is_short = self.cuts.is_sliver(until.saturating_sub(self.told_until));
        let has_next = self.pending.keys().any(|&other| other > number)
            || self.threads.iter().any(Option::is_some);
        let is_one_phase = self.cuts.is_warm_up(number) == self.cuts.is_warm_up(number + 1);
        (is_short || self.cuts.is_all_but_over(until)) && has_next && is_one_phase
    }

    fn interval(&mut self, Pending { end, tally, .. }: &Pending, is_warm_up: bool) -> Interval {
        let start = self.told_until;
        self.told_until = start.max(end.at());
        let length = self.told_until - start;
        let counts = &tally.counts;
        let (requests, late_warm_up_requests, errors, mismatches) = match is_warm_up {
            true => (counts.warm_up_requests, 0, counts.warm_up_errors, counts.warm_up_mismatches),
            false => (counts.requests, counts.warm_up_requests, counts.errors, counts.mismatches),
        };
        let times = if is_warm_up { &tally.warm_up_times } else { &tally.times };
        Interval {
            start: Duration::from_nanos(start - self.cuts.load_begins_at),
            length: Duration::from_nanos(length),
            is_warm_up,
            requests,
            late_warm_up_requests,
            errors: errors.total(),
            mismatches: mismatches.total(),
            in_flight: tally.in_flight,
            in_flight_mean: tally.in_flight_ns as f64 / length.max(1) as f64,
            latency: times.latency.latency(),
            service: times.service.latency(),
            send_lag: times.send_lag.latency(),
        }
    }

    /// Moves what was measured to the first interval that is. A thread comes to a cut a little
    /// late, and goes on meanwhile; after a warm-up it may even be done before.
    fn put_off_what_is_measured(&mut self, pending: &mut Pending) {
        let counts = pending.tally.counts.take_measured();
        if counts == Counts::default() && pending.tally.times.are_empty() {
            return;
        }
        let mut measured = Box::new(Tally::new());
        measured.counts = counts;
        mem::swap(&mut measured.times, &mut pending.tally.times);
        let End { cut, last } = pending.end;
        let end = End { cut: None, last };
        let begin = self.cuts.measuring_begins_at;
        pending.end = End { cut: cut.map(|at| at.min(begin)), last: last.map(|at| at.min(begin)) };
        let first = self.cuts.number_at(begin);
        self.put(first, Pending { end, tally: measured, owner: pending.owner });
    }

    fn put(&mut self, number: u64, Pending { end, tally, owner }: Pending) {
        match self.pending.entry(number) {
            Entry::Vacant(place) => {
                place.insert(Pending { end, tally, owner });
            }
            Entry::Occupied(mut pending) => {
                let pending = pending.get_mut();
                pending.tally.add(&tally);
                pending.end = pending.end.join(end);
                self.spares.push((owner, tally));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cuts(warm_up: u64) -> Cuts {
        let (load_begins_at, measuring_begins_at) = (1_000, 1_000 + warm_up);
        Cuts { load_begins_at, measuring_begins_at, load_ends_at: None, length: 100 }
    }

    #[test]
    fn measuring_begins_with_a_cut() {
        // Where the first interval would be a sliver, it is a longer one.
        for (warm_up, number) in [(0, 0), (1, 1), (99, 1), (100, 1), (149, 1), (150, 2), (250, 3)] {
            let cuts = cuts(warm_up);
            assert_eq!(cuts.start_of(number), cuts.measuring_begins_at, "after {warm_up}");
            assert_eq!(cuts.number_at(cuts.measuring_begins_at), number);
        }
    }

    #[test]
    fn every_moment_is_in_the_interval_that_it_is_numbered() {
        for warm_up in [0, 30, 100, 101, 250] {
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
        let until = 1_000 + (number + 1) * 100;
        Piece { number, until, is_last: false, tally: Box::new(tally) }
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
        (only.until, only.is_last) = (1_130, true);
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

    /// Pieces of one thread that ends then: which intervals come of them, as start and length.
    fn assembled(cuts: Cuts, pieces: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut assembly = Assembly::new(cuts, 1);
        let mut told = Vec::new();
        let nanos = |time: Duration| units::nanos(time);
        for (index, &(number, until)) in pieces.iter().enumerate() {
            let is_last = index + 1 == pieces.len();
            assembly.add(0, Piece { until, is_last, ..piece(number, 5) });
            if is_last {
                assembly.finish(0);
            }
            while let Some(interval) = assembly.next() {
                told.push((nanos(interval.start), nanos(interval.length)));
            }
        }
        told
    }

    #[test]
    fn a_sliver_becomes_part_of_the_next_interval() {
        // The thread stood still until just before the second cut.
        let told = assembled(cuts(0), &[(0, 1_190), (1, 1_200), (2, 1_300), (3, 1_400)]);
        assert_eq!(told, [(0, 190), (190, 110), (300, 100)]);
    }

    #[test]
    fn the_last_sliver_of_a_load_becomes_part_of_the_interval_before() {
        let cuts = Cuts { load_ends_at: Some(1_230), ..cuts(0) };
        assert_eq!(assembled(cuts, &[(0, 1_100), (1, 1_200), (2, 1_231)]), [(0, 100), (100, 131)]);
    }

    #[test]
    fn a_sliver_of_the_warm_up_stays_out_of_what_is_measured() {
        let told = assembled(cuts(200), &[(0, 1_180), (1, 1_200), (2, 1_300)]);
        assert_eq!(told, [(0, 180), (180, 20), (200, 100)]);
    }

    #[test]
    fn a_thread_that_comes_late_to_a_cut_moves_it_for_no_other() {
        let mut assembly = Assembly::new(cuts(0), 2);
        for (thread, until) in [(0, 1_101), (1, 1_190)] {
            assembly.add(thread, Piece { until, ..piece(0, 5) });
        }
        assert_eq!(assembly.next().unwrap().length, Duration::from_nanos(101));
        for thread in [0, 1] {
            assembly.add(thread, piece(1, 5));
        }
        let next = assembly.next().unwrap();
        assert_eq!((next.requests, next.length), (10, Duration::from_nanos(99)));
    }

    #[test]
    fn an_interval_absorbs_what_follows() {
        let interval = |start: u64, length: u64, requests: u64| {
            let mut assembly = Assembly::new(cuts(0), 1);
            let mut one = piece(0, requests);
            one.until = 1_000 + length;
            one.tally.times.latency.record(start + 7, requests);
            one.tally.in_flight_ns = length * requests;
            one.is_last = true;
            assembly.add(0, one);
            assembly.finish(0);
            assembly.next().unwrap()
        };
        let mut first = interval(0, 300, 2);
        first.absorb(&interval(300, 100, 6)).unwrap();
        assert_eq!((first.requests, first.length), (8, Duration::from_nanos(400)));
        assert_eq!((first.latency.count(), first.latency.percentiles().max), (8, 307));
        assert!((first.in_flight_mean - 3.0).abs() < 1e-9, "{first:?}");
    }
}
