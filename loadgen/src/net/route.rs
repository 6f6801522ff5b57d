//! Which of a server's addresses is tried.
//!
//! A name may have several addresses, such as `::1` and `127.0.0.1` of `localhost`, and a server
//! may listen on one of them. A connection fails only once every address has failed. Attempts
//! begin with the address that worked last, so an address without a server costs one attempt in a
//! run, not one per connection.

use std::{io, mem};

use crate::net::stream::Endpoint;

/// The addresses of a server, as connections that share them know them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses<'run> {
    all: &'run [Endpoint],
    /// The one that worked last, or the first of all.
    best: usize,
}

/// The attempts to make one connection.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    /// The address of the first attempt.
    first: usize,
    failed: usize,
    /// The most telling error so far.
    error: Option<io::Error>,
}

impl<'run> Addresses<'run> {
    pub(crate) fn new(all: &'run [Endpoint]) -> Self {
        Self { all, best: 0 }
    }
}

impl Attempts {
    /// The address to try now.
    pub(crate) fn endpoint<'run>(&mut self, addresses: &Addresses<'run>) -> &'run Endpoint {
        if self.failed == 0 {
            self.first = addresses.best;
        }
        &addresses.all[self.index(addresses)]
    }

    /// Notes that this address has failed. Returns the error of the connection once all have: a
    /// refusal, which is an answer, if there was one, and the first error otherwise.
    pub(crate) fn fail(
        &mut self,
        error: io::Error,
        addresses: &Addresses<'_>,
    ) -> Option<io::Error> {
        self.failed += 1;
        if self.error.is_none() || error.kind() == io::ErrorKind::ConnectionRefused {
            self.error = Some(error);
        }
        (self.failed >= addresses.all.len()).then(|| mem::take(self).error).flatten()
    }

    /// Notes that the address works.
    pub(crate) fn succeed(&mut self, addresses: &mut Addresses<'_>) {
        addresses.best = self.index(addresses);
        *self = Self::default();
    }

    fn index(&self, addresses: &Addresses<'_>) -> usize {
        (self.first + self.failed) % addresses.all.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> [Endpoint; 3] {
        ["[::1]:7", "127.0.0.1:7", "127.0.0.2:7"].map(|text| Endpoint::Tcp(text.parse().unwrap()))
    }

    fn refused() -> io::Error {
        io::ErrorKind::ConnectionRefused.into()
    }

    fn timed_out() -> io::Error {
        io::ErrorKind::TimedOut.into()
    }

    #[test]
    fn a_connection_fails_once_every_address_has() {
        let all = three();
        let addresses = Addresses::new(&all);
        let mut attempts = Attempts::default();
        for endpoint in &all[..2] {
            assert_eq!(attempts.endpoint(&addresses), endpoint);
            assert!(attempts.fail(refused(), &addresses).is_none());
        }
        assert_eq!(attempts.endpoint(&addresses), &all[2]);
        assert!(attempts.fail(refused(), &addresses).is_some());
        assert_eq!(attempts.endpoint(&addresses), &all[0], "the next round begins again");
    }

    #[test]
    fn the_address_that_worked_last_is_tried_first() {
        let all = three();
        let mut addresses = Addresses::new(&all);
        let mut attempts = Attempts::default();
        attempts.endpoint(&addresses);
        attempts.fail(refused(), &addresses);
        attempts.endpoint(&addresses);
        attempts.succeed(&mut addresses);
        let mut others = Attempts::default();
        let order = [(); 3].map(|()| {
            let endpoint = others.endpoint(&addresses);
            others.fail(refused(), &addresses);
            endpoint
        });
        assert_eq!(order, [&all[1], &all[2], &all[0]]);
    }

    #[test]
    fn an_address_that_another_connection_finds_meanwhile_is_for_the_next_round() {
        let all = three();
        let mut addresses = Addresses::new(&all);
        let [mut one, mut other] = [Attempts::default(), Attempts::default()];
        for attempts in [&mut one, &mut other] {
            attempts.endpoint(&addresses);
            attempts.fail(refused(), &addresses);
        }
        assert_eq!(one.endpoint(&addresses), &all[1]);
        one.succeed(&mut addresses);
        assert_eq!(other.endpoint(&addresses), &all[1], "none is left out or tried twice");
    }

    #[test]
    fn a_refusal_says_more_than_silence() {
        let all = three();
        let addresses = Addresses::new(&all);
        for errors in [[timed_out, refused, timed_out], [refused, timed_out, timed_out]] {
            let mut attempts = Attempts::default();
            let all = errors.map(|error| attempts.fail(error(), &addresses));
            let [None, None, Some(error)] = all else { panic!("{all:?}") };
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        }
    }
}
