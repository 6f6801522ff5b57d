//! What a run is worth: one word, and the exit code.

use serde::{Deserialize, Serialize};

use crate::tally::Counts;

/// What share of its time a side must have been busy to count as saturated.
const SATURATED_SHARE: f64 = 0.95;

/// The worth of a run in one word. The first that applies.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Replies were wrong. Nothing else matters.
    Mismatch,
    /// No measured request was answered.
    Failed,
    /// There were errors, or requests that nobody answered.
    Errors,
    /// The generator was busy all the time and the server was not: the figures describe the
    /// generator.
    ClientLimited,
    /// The figures describe the server.
    Ok,
}

/// How busy a side was, as a share of what it could have been.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Load {
    pub(crate) client: f64,
    /// Unknown without the server's process.
    pub(crate) server: Option<f64>,
}

impl Verdict {
    pub(crate) fn of(counts: &Counts, load: Load) -> Self {
        let server_is_saturated = load.server.is_some_and(|share| share >= SATURATED_SHARE);
        if counts.mismatches.total() > 0 {
            Self::Mismatch
        } else if counts.requests == 0 {
            Self::Failed
        } else if counts.errors.total() > 0 || counts.unanswered > 0 {
            Self::Errors
        } else if load.client >= SATURATED_SHARE && !server_is_saturated {
            Self::ClientLimited
        } else {
            Self::Ok
        }
    }

    /// The word, as in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Mismatch => "mismatch",
            Self::Failed => "failed",
            Self::Errors => "errors",
            Self::ClientLimited => "client-limited",
            Self::Ok => "ok",
        }
    }

    /// What that means, in a sentence.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Mismatch => "the server sent wrong bytes",
            Self::Failed => "no measured request was answered",
            Self::Errors => "not every request was answered",
            Self::ClientLimited => {
                "the generator was busy all the time and the server was not known to be: \
                 try more threads or cores"
            }
            Self::Ok => "every reply was right",
        }
    }

    /// The exit code of a program that ends with this verdict.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Mismatch => 4,
            Self::Failed | Self::Errors => 1,
            Self::ClientLimited | Self::Ok => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{mismatch::Mismatch, tally::Errors};

    const IDLE: Load = Load { client: 0.5, server: None };

    fn good() -> Counts {
        Counts { requests: 10, ..Counts::default() }
    }

    #[test]
    fn a_mismatch_comes_before_everything() {
        let mut counts = Counts { unanswered: 1, ..Counts::default() };
        counts.mismatches.count(Mismatch::Flipped);
        assert_eq!(Verdict::of(&counts, IDLE), Verdict::Mismatch);
        assert_eq!(Verdict::Mismatch.exit_code(), 4);
    }

    #[test]
    fn a_run_without_a_single_answer_has_failed() {
        let counts = Counts { warm_up_requests: 5, unanswered: 1, ..Counts::default() };
        assert_eq!(Verdict::of(&counts, IDLE), Verdict::Failed);
        assert_eq!(Verdict::Failed.exit_code(), 1);
    }

    #[test]
    fn one_error_or_one_unanswered_request_is_enough() {
        let unanswered = Counts { unanswered: 1, ..good() };
        let errors = Counts { errors: Errors { connect: 1, ..Errors::default() }, ..good() };
        for counts in [unanswered, errors] {
            assert_eq!(Verdict::of(&counts, IDLE), Verdict::Errors);
        }
        assert_eq!(Verdict::Errors.exit_code(), 1);
    }

    #[test]
    fn a_busy_client_limits_only_a_server_that_is_not_busy() {
        let verdict = |client, server| Verdict::of(&good(), Load { client, server });
        assert_eq!(verdict(0.99, Some(0.6)), Verdict::ClientLimited);
        assert_eq!(verdict(0.99, None), Verdict::ClientLimited);
        assert_eq!(verdict(0.99, Some(0.99)), Verdict::Ok);
        assert_eq!(verdict(0.90, Some(0.6)), Verdict::Ok);
    }
}
