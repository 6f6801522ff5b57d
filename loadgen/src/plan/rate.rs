//! How often requests are due: the rate, and the timetable that follows from it.
//!
//! Every request of a run has a place on one line, `0, 1, 2, ...` for regular arrivals. The
//! timetable says when a place is due, and is a pure function: neither a slow server nor a slow
//! generator moves it.
//!
//! ```text
//! places due
//!    |                  ...../        after the ramp: the last rate
//!    |             ..../
//!    |        .../                    measuring: from the first rate to the last
//!    |  ..../
//!    |./                              warming up: the first rate
//!    +---------------------------> time
//! ```
//!
//! The line is dealt out to the connections in turn, so they are staggered. With `poisson` each
//! connection has independent, exponentially distributed gaps; together they have the same rate.
//!
//! A number of measured requests is so many places of the line, from the first one that is due
//! after the warm-up on, whoever sends them: `n` requests take `n / rate`. With `poisson` they lie
//! at random on this part of the line, which is what random arrivals do if there happen to be `n`.

use std::{f64, fmt, str::FromStr, time::Duration};

use crate::units;

/// The fewest requests per second that make sense: one a day.
const RATE_MIN: f64 = 1.0 / 86_400.0;
/// More than any machine sends.
const RATE_MAX: f64 = 1e9;

/// How many requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// As many as the server answers: closed loop.
    Max,
    /// So many per second over all connections, however slow the server is: open loop.
    Constant(f64),
    /// From one rate to another, evenly, while measuring.
    Ramp {
        /// The rate at first, and while warming up.
        from: f64,
        /// The rate in the end.
        to: f64,
    },
}

/// How requests are spread over time in open loop.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Arrival {
    /// At equal distances.
    #[default]
    Fixed,
    /// As those of many independent users: exponentially distributed distances.
    Poisson,
}

impl Rate {
    /// Requests per second at first. Infinite in closed loop.
    pub(crate) fn first(&self) -> f64 {
        match *self {
            Self::Max => f64::INFINITY,
            Self::Constant(rate) | Self::Ramp { from: rate, .. } => rate,
        }
    }

    /// Requests per second in the end. Infinite in closed loop.
    pub(crate) fn last(&self) -> f64 {
        match *self {
            Self::Max => f64::INFINITY,
            Self::Constant(rate) | Self::Ramp { to: rate, .. } => rate,
        }
    }

    /// Requests per second on average. Infinite in closed loop.
    pub(crate) fn mean(&self) -> f64 {
        f64::midpoint(self.first(), self.last())
    }

    /// Says what is wrong with it: a sentence without subject.
    pub(crate) fn problem(self) -> Option<String> {
        let rates = match self {
            Self::Max => return None,
            Self::Constant(rate) => [rate, rate],
            Self::Ramp { from, to } => [from, to],
        };
        let is_wrong = rates.iter().any(|rate| !(RATE_MIN..=RATE_MAX).contains(rate));
        is_wrong
            .then(|| format!("is {self}; a rate must be above 0 and at most {RATE_MAX} per second"))
    }
}

impl FromStr for Rate {
    type Err = String;

    /// Reads `max`, `20k` or `1k:20k`. The error is a sentence without subject.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "max" => Ok(Self::Max),
            None => units::parse_rate(text).map(Self::Constant),
            Some((from, to)) => {
                Ok(Self::Ramp { from: units::parse_rate(from)?, to: units::parse_rate(to)? })
            }
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Max => f.write_str("max"),
            Self::Constant(rate) => write!(f, "{rate}"),
            Self::Ramp { from, to } => write!(f, "{from}:{to}"),
        }
    }
}

impl Arrival {
    /// The word, as in JSON and on the command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Poisson => "poisson",
        }
    }
}

impl FromStr for Arrival {
    type Err = String;

    /// Reads its word. The error is a sentence without subject.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "fixed" => Ok(Self::Fixed),
            "poisson" => Ok(Self::Poisson),
            _ => Err(format!("is `{text}`; it must be fixed or poisson")),
        }
    }
}

/// When which place is due. Times are nanoseconds since the load began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timetable {
    /// Requests per nanosecond: at first, and in the end.
    from: f64,
    to: f64,
    /// Nanoseconds per request at first, and the last place at that rate.
    gap: f64,
    steady_until: f64,
    /// When the ramp begins, and how long it is.
    warm_up: f64,
    ramp: f64,
}

impl Timetable {
    /// `None` in closed loop, where there are no times.
    pub(crate) fn new(rate: Rate, warm_up: Duration, ramp: Duration) -> Option<Self> {
        let (from, to) = match rate {
            Rate::Max => return None,
            Rate::Constant(rate) => (rate, rate),
            Rate::Ramp { from, to } => (from, to),
        };
        let nanos = |time: Duration| time.as_nanos() as f64;
        let (gap, warm_up, ramp) = (1e9 / from, nanos(warm_up), nanos(ramp));
        let (from, to) = (from / 1e9, to / 1e9);
        let steady_until = if from == to { f64::INFINITY } else { warm_up * from };
        Some(Self { from, to, gap, steady_until, warm_up, ramp })
    }

    /// When a place is due.
    #[inline]
    pub(crate) fn time_at(&self, place: f64) -> u64 {
        match place <= self.steady_until {
            true => whole_nanos(place * self.gap),
            false => self.time_after_warm_up(place - self.steady_until),
        }
    }

    /// The first place that is due once the warm-up is over.
    fn first_measured(&self) -> f64 {
        let warm_up = whole_nanos(self.warm_up);
        let guess = (self.warm_up * self.from).floor();
        // Rounding may have moved the guess by one.
        let near = [guess - 1.0, guess, guess + 1.0].into_iter();
        near.map(|place| place.max(0.0))
            .find(|&place| self.time_at(place) >= warm_up)
            .unwrap_or(guess + 2.0)
    }

    /// Where on the line the warm-up ends, which need not be a whole place.
    fn end_of_warm_up(&self) -> f64 {
        let place = self.warm_up * self.from;
        // What is due a nanosecond too early would belong to the warm-up.
        match self.time_at(place) >= whole_nanos(self.warm_up) {
            true => place,
            false => self.first_measured(),
        }
    }

    /// The connection of this many that has the first measured place.
    pub(crate) fn first_turn(&self, connections: u32) -> u32 {
        let turn = units::whole(self.first_measured() % f64::from(connections));
        u32::try_from(turn).expect("it is less than the divisor")
    }

    /// When a place is due that comes so many after the last one of the warm-up.
    fn time_after_warm_up(&self, places: f64) -> u64 {
        // The places of the ramp are `from * t + slope * t^2 / 2`, solved for `t` in the form that
        // does not subtract what is nearly equal.
        let slope = (self.to - self.from) / self.ramp;
        let root = (self.from * self.from + 2.0 * slope * places).max(0.0).sqrt();
        let time = 2.0 * places / (self.from + root);
        if time <= self.ramp {
            return whole_nanos(self.warm_up + time);
        }
        let places_of_ramp = (self.from + self.to) / 2.0 * self.ramp;
        whole_nanos(self.warm_up + self.ramp + (places - places_of_ramp) / self.to)
    }
}

/// When the requests of one connection are due, one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrivals {
    timetable: Timetable,
    arrival: Arrival,
    connection: u32,
    connections: f64,
    seed: u64,
    /// The number of the next request among those of this connection.
    index: u64,
    place: f64,
    next_due: u64,
    /// Where the measured ones lie at random, if their number is limited.
    stretch: Option<Stretch>,
}

/// A part of the line, with so many requests of one connection at random places.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    begin: f64,
    end: f64,
    left: u64,
}

/// How many measured requests there are, if their number is limited.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    /// Of this connection.
    pub(crate) own: u64,
    /// Of all connections.
    pub(crate) all: u64,
}

impl Arrivals {
    pub(crate) fn new(
        timetable: Timetable,
        arrival: Arrival,
        connection: u32,
        connections: u32,
        seed: u64,
        share: Option<Share>,
    ) -> Self {
        let stretch = share.map(|Share { own, all }| {
            let begin = timetable.end_of_warm_up();
            Stretch { begin, end: begin + all as f64, left: own }
        });
        let mut arrivals = Self {
            timetable,
            arrival,
            connection,
            connections: f64::from(connections),
            seed,
            index: 0,
            place: 0.0,
            next_due: 0,
            stretch,
        };
        arrivals.place = match arrival {
            Arrival::Fixed => f64::from(connection),
            Arrival::Poisson => arrivals.random_place(),
        };
        arrivals.next_due = timetable.time_at(arrivals.place);
        arrivals
    }

    /// When the next request is due, in nanoseconds since the load began.
    #[inline]
    pub(crate) fn next_due(&self) -> u64 {
        self.next_due
    }

    /// Goes on to the request after the next.
    #[inline]
    pub(crate) fn advance(&mut self) {
        self.index += 1;
        self.place = match self.arrival {
            // Exact: places are whole numbers.
            Arrival::Fixed => self.place + self.connections,
            Arrival::Poisson => self.random_place(),
        };
        self.next_due = self.timetable.time_at(self.place);
    }

    /// The next place, if arrivals are random. Infinite if there is none.
    fn random_place(&mut self) -> f64 {
        let gap = exponential(self.seed, self.connection, self.index);
        let place = self.place + gap * self.connections;
        match &mut self.stretch {
            Some(stretch) if place >= stretch.begin => stretch.next_after(self.place, gap),
            _ => place,
        }
    }
}

impl Stretch {
    /// The first of the places that are left, which lie at random between `place` and the end.
    /// Infinite if none are left. `gap` is exponentially distributed.
    fn next_after(&mut self, place: f64, gap: f64) -> f64 {
        if self.left == 0 {
            return f64::INFINITY;
        }
        let begin = place.max(self.begin);
        // All of them lie in the same share of what remains with a probability of that share to
        // the power of their number.
        let share_before = -(-gap / self.left as f64).exp_m1();
        self.left -= 1;
        begin + (self.end - begin) * share_before
    }
}

/// An exponentially distributed number of mean 1, which follows from who asks.
fn exponential(seed: u64, connection: u32, index: u64) -> f64 {
    let random = mixed(mixed(mixed(seed) ^ u64::from(connection)) ^ index);
    // 53 bits fill the open interval from 0 to 1 evenly.
    let uniform = ((random >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -uniform.ln()
}

/// The finisher of SplitMix64: every bit of the result depends on every bit of the number.
fn mixed(number: u64) -> u64 {
    let mut bits = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[inline]
fn whole_nanos(nanos: f64) -> u64 {
    // What `round` does with a number that is not negative, without a call. By way of a signed
    // number, which is one instruction.
    #[expect(clippy::cast_possible_truncation, reason = "what is too large is never due")]
    let nanos = (nanos + 0.5) as i64;
    nanos.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn timetable(rate: &str, warm_up_s: u64, ramp_s: u64) -> Timetable {
        let rate = rate.parse().unwrap();
        let (warm_up, ramp) = (Duration::from_secs(warm_up_s), Duration::from_secs(ramp_s));
        Timetable::new(rate, warm_up, ramp).unwrap()
    }

    fn due_times(arrival: Arrival, connections: u32, seed: u64, until: u64) -> Vec<u64> {
        let mut all = Vec::new();
        for connection in 0..connections {
            let timetable = timetable("1000", 0, 1);
            let mut arrivals =
                Arrivals::new(timetable, arrival, connection, connections, seed, None);
            while arrivals.next_due() < until {
                all.push(arrivals.next_due());
                arrivals.advance();
            }
        }
        all.sort_unstable();
        all
    }

    #[test]
    fn rates_are_read_and_written_back() {
        for (text, rate) in [
            ("max", Rate::Max),
            ("20000", Rate::Constant(20_000.0)),
            ("1000:20000", Rate::Ramp { from: 1_000.0, to: 20_000.0 }),
        ] {
            assert_eq!(text.parse(), Ok(rate));
            assert_eq!(rate.to_string(), text);
            assert_eq!(rate.problem(), None);
        }
        assert_eq!("1.5k".parse(), Ok(Rate::Constant(1_500.0)));
        assert!("fast".parse::<Rate>().is_err());
        assert!(Rate::Constant(0.0).problem().is_some());
        assert!(Rate::Ramp { from: 1.0, to: -1.0 }.problem().is_some());
    }

    #[test]
    fn a_constant_rate_is_exact_to_the_nanosecond_for_days() {
        let timetable = timetable("3", 5, 1);
        let day = 86_400;
        assert_eq!(timetable.time_at(3.0 * day as f64), day * SECOND);
        assert_eq!(timetable.time_at(3.0 * day as f64 + 1.0), day * SECOND + 333_333_333);
    }

    #[test]
    fn a_ramp_reaches_its_rates_and_keeps_the_last() {
        for (from, to) in [(100.0, 300.0), (300.0, 100.0)] {
            let timetable = timetable(&format!("{from}:{to}"), 2, 10);
            let rate_at = |place: f64| {
                let [before, after] = [place - 0.5, place + 0.5].map(|p| timetable.time_at(p));
                1e9 / (after - before) as f64
            };
            let (warm_up, ramp) = (2.0 * from, (from + to) / 2.0 * 10.0);
            assert!((rate_at(warm_up / 2.0) - from).abs() < 1.0);
            assert!((rate_at(warm_up + ramp) - to).abs() < 2.0);
            assert!((rate_at(warm_up + ramp * 2.0) - to).abs() < 1.0);
            assert!(timetable.time_at(warm_up).abs_diff(2 * SECOND) < 2);
            assert!(timetable.time_at(warm_up + ramp).abs_diff(12 * SECOND) < 2);
        }
    }

    #[test]
    fn a_timetable_never_goes_back() {
        let timetable = timetable("10:1000", 1, 3);
        let times: Vec<_> = (0..10_000).map(|place| timetable.time_at(f64::from(place))).collect();
        assert!(times.windows(2).all(|pair| pair[0] <= pair[1]));
    }

    #[test]
    fn fixed_arrivals_are_staggered_over_the_connections() {
        let times = due_times(Arrival::Fixed, 7, 1, SECOND);
        assert_eq!(times.len(), 1_000);
        assert!(times.iter().zip(0..).all(|(&time, place)| time == place * 1_000_000));
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_vary_as_they_should() {
        for connections in [1, 16] {
            let times = due_times(Arrival::Poisson, connections, 1, 20 * SECOND);
            assert!(times.len().abs_diff(20_000) < 600, "{}", times.len());
            // Of exponentially distributed gaps, the standard deviation is the mean.
            let gaps: Vec<f64> =
                times.windows(2).map(|pair| (pair[1] - pair[0]) as f64 / 1e6).collect();
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            let squares = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>();
            let deviation = (squares / gaps.len() as f64).sqrt();
            assert!((deviation / mean - 1.0).abs() < 0.05, "{deviation} and {mean}");
        }
    }

    /// When requests are due of a run with so many of them: those of the warm-up, and the measured
    /// ones.
    fn due_times_of(
        requests: u64,
        arrival: Arrival,
        connections: u32,
        warm_up: Duration,
    ) -> [Vec<u64>; 2] {
        let plan =
            crate::plan::Plan { connections, requests: Some(requests), ..Default::default() };
        let timetable = Timetable::new(Rate::Constant(10.0), warm_up, Duration::MAX).unwrap();
        let first = timetable.first_turn(connections);
        let mut times = [Vec::new(), Vec::new()];
        for connection in 0..connections {
            let own = plan.requests_of(connection, first).unwrap();
            let share = Some(Share { own, all: requests });
            let mut arrivals = Arrivals::new(timetable, arrival, connection, connections, 7, share);
            let mut left = own;
            while left > 0 {
                let is_measured = arrivals.next_due() >= units::nanos(warm_up);
                times[usize::from(is_measured)].push(arrivals.next_due());
                left -= u64::from(is_measured);
                arrivals.advance();
            }
        }
        times.iter_mut().for_each(|times| times.sort_unstable());
        times
    }

    #[test]
    fn a_number_of_requests_takes_as_long_as_the_rate_says_whoever_sends_them() {
        for connections in [1, 7, 50, 100] {
            for warm_up_ms in [0, 1_000, 1_050, 2_730] {
                for requests in [2, 5, 20, 133] {
                    let warm_up = Duration::from_millis(warm_up_ms);
                    let of = |arrival| due_times_of(requests, arrival, connections, warm_up);
                    // The first place at or after the end of the warm-up, in tenths of a second.
                    let first = warm_up_ms.div_ceil(100);
                    let [_, regular] = of(Arrival::Fixed);
                    let expected = (first..first + requests).map(|place| place * SECOND / 10);
                    assert!(regular.iter().copied().eq(expected), "{connections}, {regular:?}");
                    let [_, random] = of(Arrival::Poisson);
                    assert_eq!(random.len(), usize::try_from(requests).unwrap());
                    let begin = units::nanos(warm_up);
                    let within = begin..=begin + requests * SECOND / 10;
                    assert!(random.iter().all(|time| within.contains(time)), "{random:?}");
                }
            }
        }
    }

    #[test]
    fn a_number_of_random_arrivals_varies_as_they_do() {
        for connections in [1, 16] {
            let [_, times] = due_times_of(20_000, Arrival::Poisson, connections, Duration::ZERO);
            // A tenth of a second has one on average: none at all as often as e^-1 says.
            let mut counts = vec![0_u32; 20_000];
            for time in times {
                counts[usize::try_from(time / (SECOND / 10)).unwrap()] += 1;
            }
            for (arrivals, share) in [(0, 0.3679), (1, 0.3679), (2, 0.1839), (3, 0.0613)] {
                let found = counts.iter().filter(|&&count| count == arrivals).count() as f64;
                assert!((found / 20_000.0 - share).abs() < 0.015, "{arrivals}: {found}");
            }
        }
    }

    #[test]
    fn after_its_last_random_arrival_a_connection_has_none() {
        let timetable = timetable("10", 1, 1);
        let share = Some(Share { own: 3, all: 5 });
        let mut arrivals = Arrivals::new(timetable, Arrival::Poisson, 0, 2, 1, share);
        while arrivals.next_due() < SECOND {
            arrivals.advance();
        }
        (0..3).for_each(|_| arrivals.advance());
        assert!(arrivals.next_due() > 1_000_000 * SECOND);
    }

    #[test]
    fn one_seed_gives_the_same_times_again() {
        let times = |seed| due_times(Arrival::Poisson, 3, seed, SECOND);
        assert_eq!(times(1), times(1));
        assert_ne!(times(1), times(2));
    }
}
