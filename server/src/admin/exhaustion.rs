//! `Exhaustion`: whether memory has been short for so long that no more connections should come.
//!
//! Two signs say so: somebody waits for long, or was closed because it waited too long. That
//! somebody waits at all is none: at full load somebody always does, for microseconds. A sign holds
//! until it is known that there is no other: for as long as a wait takes to be long, and [`CALM`].
//! So nobody is sent here and away in turns while all wait for long, again and again.

use std::time::{Duration, Instant};

/// How long nobody must have waited for long before more connections should come, beyond the time
/// that a long wait takes.
const CALM: Duration = Duration::from_secs(5);

/// The last sign of it.
#[derive(Debug)]
pub(super) struct Exhaustion {
    wait_max: Duration,
    /// As of the last look.
    closed: u64,
    /// When it was seen, and what it was.
    sign: Option<(Instant, String)>,
}

/// The figures of one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// For how long somebody has waited for memory, if somebody waits.
    pub(super) longest_wait: Option<Duration>,
    /// After how long it is closed.
    pub(super) memory_timeout: Duration,
    /// How many connections have been closed for that.
    pub(super) closed: u64,
}

impl Exhaustion {
    /// Allows waits below `wait_max`, and below half of the memory timeout. As many connections
    /// have been `closed` before.
    pub(super) fn new(wait_max: Duration, closed: u64) -> Self {
        Self { wait_max, closed, sign: None }
    }

    /// Takes in what is seen `now`. Returns why no more connections should come, if they should
    /// not.
    pub(super) fn observe(&mut self, now: Instant, look: Look) -> Option<String> {
        let wait_max = self.wait_max.min(look.memory_timeout / 2);
        if let Some(longest) = look.longest_wait.filter(|longest| *longest >= wait_max) {
            let what = format!("exhausted: a connection has waited for memory for {longest:.1?}");
            self.sign = Some((now, what));
        } else if look.closed > self.closed {
            let what = "exhausted: a connection was closed after it had waited for memory";
            self.sign = Some((now, what.to_owned()));
        }
        self.closed = look.closed;
        let (seen, what) = self.sign.as_ref()?;
        let ago = now.saturating_duration_since(*seen);
        (ago < wait_max + CALM).then(|| match ago.as_secs() {
            0 => what.clone(),
            seconds => format!("{what}, {seconds} s ago"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Somebody has waited for so long, where connections are closed after 5 s.
    fn waiting(longest_wait: Duration) -> Look {
        Look { longest_wait: Some(longest_wait), memory_timeout: 5 * SECOND, closed: 0 }
    }

    /// Nobody waits, and so many have been closed.
    fn closed(closed: u64) -> Look {
        Look { longest_wait: None, memory_timeout: 5 * SECOND, closed }
    }

    #[test]
    fn short_waits_are_no_sign_however_many_there_are() {
        let start = Instant::now();
        let mut exhaustion = Exhaustion::new(10 * SECOND, 0);
        for second in 0..100 {
            let look = waiting(SECOND * 249 / 100);
            assert_eq!(exhaustion.observe(start + second * SECOND, look), None);
        }
    }

    #[test]
    fn waits_that_are_long_again_and_again_are_one_long_sign() {
        let start = Instant::now();
        let mut exhaustion = Exhaustion::new(10 * SECOND, 0);
        for second in 0..100 {
            // All wait for 10 s, and then get something at once.
            let look = Look { memory_timeout: 30 * SECOND, ..waiting(second % 11 * SECOND) };
            let why = exhaustion.observe(start + second * SECOND, look);
            assert_eq!(why.is_some(), second >= 10, "{second}: {why:?}");
        }
    }

    #[test]
    fn half_of_the_memory_timeout_is_a_long_wait() {
        let mut exhaustion = Exhaustion::new(10 * SECOND, 0);
        let why = exhaustion.observe(Instant::now(), waiting(SECOND * 5 / 2));
        assert_eq!(why.as_deref(), Some("exhausted: a connection has waited for memory for 2.5s"));
    }

    #[test]
    fn the_longest_wait_allowed_is_long_whatever_the_memory_timeout_is() {
        let mut exhaustion = Exhaustion::new(10 * SECOND, 0);
        let look = |longest| Look { memory_timeout: 60 * SECOND, ..waiting(longest) };
        let now = Instant::now();
        assert_eq!(exhaustion.observe(now, look(SECOND * 99 / 10)), None);
        assert!(exhaustion.observe(now, look(10 * SECOND)).is_some());
    }

    #[test]
    fn a_connection_that_was_closed_is_a_sign_and_those_before_the_first_look_are_none() {
        let mut exhaustion = Exhaustion::new(10 * SECOND, 7);
        let now = Instant::now();
        assert_eq!(exhaustion.observe(now, closed(7)), None);
        let why = exhaustion.observe(now, closed(8)).expect("a sign");
        assert_eq!(why, "exhausted: a connection was closed after it had waited for memory");
    }

    #[test]
    fn a_sign_holds_until_there_has_been_none_for_a_while() {
        let start = Instant::now();
        let mut exhaustion = Exhaustion::new(10 * SECOND, 0);
        assert!(exhaustion.observe(start, closed(1)).is_some());
        // Half of the memory timeout, and then some.
        let hold = SECOND * 5 / 2 + CALM;
        let mut now = start + hold - SECOND;
        let why = exhaustion.observe(now, closed(1)).expect("a sign");
        assert!(why.ends_with("memory, 6 s ago"), "{why}");
        for _ in 0..10 {
            let look = Look { closed: 1, ..waiting(3 * SECOND) };
            assert!(exhaustion.observe(now, look).is_some());
            now += hold - SECOND;
            assert!(exhaustion.observe(now, closed(1)).is_some());
        }
        assert_eq!(exhaustion.observe(now + SECOND, closed(1)), None);
    }
}
