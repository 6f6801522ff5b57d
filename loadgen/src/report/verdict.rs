//! What a run is worth: one word, the reasons for it, and the exit code.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    load::tally::{Counts, LittlesLaw},
    measure::{backlog::Backlog, noise::NoiseFloor},
    plan::slo::SloOutcome,
    units,
};

/// What share of its time a side must have been busy to count as saturated.
const SATURATED_SHARE: f64 = 0.95;
/// What share of the requests that were due may stay unsent.
const UNSENT_SHARE_MAX: f64 = 0.01;
/// Requests that the generator sends no later than this are on time.
const SEND_LAG_MAX: Duration = Duration::from_micros(100);
/// What share of the latency may be the generator's own lag, both at p99.
const SEND_LAG_SHARE_MAX: f64 = 0.25;
/// A machine that is late by more than this share of the send lag when it is idle explains it.
const EXPLAINED_SHARE_MIN: f64 = 0.5;
/// A generator that is at work for more of the time than this is late because of its work.
const AT_WORK_SHARE_MAX: f64 = 0.8;
/// Service times below so many round trips over the loopback are mostly that.
const ROUND_TRIPS_MIN: f64 = 1.5;
/// What share of what is in flight may lie unread in the generator's sockets. With a server that is
/// as fast as the generator it is a half.
const UNREAD_SHARE_MAX: f64 = 0.75;
/// What share of the machine's time the hypervisor may give to others.
const STOLEN_SHARE_MAX: f64 = 0.05;
/// What share of the time the generator may stand still: more is all that p99 shows.
const STOOD_STILL_SHARE_MAX: f64 = 0.01;

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
    /// The generator was late or busy, and the server was not known to be: the figures describe the
    /// generator.
    ClientLimited,
    /// The server cannot keep up with the rate: it left no room for requests that were due, or
    /// owed more and more replies.
    Overloaded,
    /// Something outside took the CPUs away, or threads wake up late on this machine even when it
    /// is idle.
    Disturbed,
    /// None of these: the figures describe a server that answered everything and kept up.
    Ok,
}

/// What a verdict is drawn from, besides the counts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Evidence {
    /// How busy each side was, as a share of what it could have been, if known.
    pub(crate) client_busy: Option<f64>,
    pub(crate) server_busy: Option<f64>,
    /// What share of the time the generator spent looking at the clock, if known.
    pub(crate) client_spin: Option<f64>,
    /// What share of the time the generator did not run at all, if known.
    pub(crate) client_stood_still: Option<f64>,
    /// Open loop: send lag and latency at p99, in nanoseconds.
    pub(crate) lag_and_latency: Option<(u64, u64)>,
    /// Service time at p50, in nanoseconds.
    pub(crate) service_p50: Option<u64>,
    /// What the machine adds to both.
    pub(crate) noise_floor: Option<NoiseFloor>,
    /// What share of the bytes in flight lay unread in the generator's sockets.
    pub(crate) unread_share: Option<f64>,
    /// What share of the machine's time the hypervisor gave to others.
    pub(crate) stolen_share: Option<f64>,
    pub(crate) littles_law: Option<LittlesLaw>,
    /// Open loop: what the server owed.
    pub(crate) backlog: Option<Backlog>,
}

impl Verdict {
    /// Judges, and gives the reasons, each a sentence.
    pub(crate) fn of(counts: &Counts, evidence: &Evidence) -> (Self, Vec<String>) {
        let limits = evidence.limits_of_the_client();
        let unsent = counts.unsent as f64 / (counts.sent() + counts.unsent).max(1) as f64;
        let restless = evidence.restlessness();
        let stolen = evidence.stolen_share.filter(|share| *share > STOLEN_SHARE_MAX);
        let stood_still =
            evidence.client_stood_still.filter(|share| *share > STOOD_STILL_SHARE_MAX);
        let mut reasons = Vec::new();
        let wrong_before = counts.warm_up_mismatches.total();
        let verdict = if counts.mismatches.total() + wrong_before > 0 {
            Self::Mismatch
        } else if counts.requests == 0 {
            Self::Failed
        } else if counts.errors.total() > 0 || counts.unanswered > 0 {
            Self::Errors
        } else if !limits.is_empty() {
            Self::ClientLimited
        } else if unsent > UNSENT_SHARE_MAX {
            reasons.push(format!(
                "{:.1} % of the requests that were due were never sent",
                unsent * 100.0
            ));
            Self::Overloaded
        } else if let Some(sentence) = evidence.growth_of_the_backlog() {
            reasons.push(sentence);
            Self::Overloaded
        } else if stolen.is_some() || stood_still.is_some() || restless.is_some() {
            Self::Disturbed
        } else {
            Self::Ok
        };
        if wrong_before > 0 {
            reasons.push(format!(
                "replies were wrong while warming up: {}",
                units::grouped(wrong_before)
            ));
        }
        if counts.sent() + counts.unsent == 0 && counts.warm_up_unanswered > 0 {
            reasons.push(format!(
                "no measured request was sent: the server did not answer {} of the warm-up, which \
                 left no room",
                units::grouped(counts.warm_up_unanswered)
            ));
        }
        reasons.extend(limits);
        reasons.extend(restless);
        if let Some(share) = stolen {
            reasons
                .push(format!("the hypervisor gave {:.0} % of the CPUs to others", share * 100.0));
        }
        if let Some(share) = stood_still {
            reasons.push(format!(
                "the generator stood still for {:.0} % of the time: it was stopped, or others ran",
                share * 100.0
            ));
        }
        reasons.extend(evidence.littles_law.filter(|law| !law.holds()).map(|law| {
            format!(
                "Little's law does not hold: {:.1} requests were in flight, but rate times service \
                 time is {:.1}; the load was not steady",
                law.in_flight_mean, law.rate_times_service
            )
        }));
        reasons.extend(evidence.shortness_of_the_load().filter(|_| counts.requests > 0));
        reasons.extend(evidence.nearness_to_the_floor());
        (verdict, reasons)
    }

    /// The word, as in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Mismatch => "mismatch",
            Self::Failed => "failed",
            Self::Errors => "errors",
            Self::Overloaded => "overloaded",
            Self::ClientLimited => "client-limited",
            Self::Disturbed => "disturbed",
            Self::Ok => "ok",
        }
    }

    /// What that means, in a sentence. What the replies were worth depends on the plan's `verify`.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Mismatch => "the server sent wrong bytes",
            Self::Failed => "no measured request was answered",
            Self::Errors => "not every request was answered",
            Self::Overloaded => "the server cannot keep up with the rate",
            Self::ClientLimited => {
                "the figures describe the generator: try more threads or cores, or a lower rate"
            }
            Self::Disturbed => "the machine was not quiet: try again, or on another one",
            Self::Ok => "every request was answered",
        }
    }

    /// The exit code of a program that ends with this verdict.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Mismatch => 4,
            Self::Failed | Self::Errors => 1,
            Self::Overloaded | Self::ClientLimited | Self::Disturbed | Self::Ok => 0,
        }
    }

    /// The same, where the run also had conditions to meet: wrong bytes come before a missed
    /// condition, which comes before errors.
    #[must_use]
    pub fn exit_code_with(self, slo: &[SloOutcome]) -> u8 {
        self.exit_code_where(slo.iter().any(|outcome| !outcome.is_met))
    }

    /// The same where all that is known of the conditions is whether one is missed.
    pub(crate) fn exit_code_where(self, is_a_condition_missed: bool) -> u8 {
        match self.exit_code() {
            4 => 4,
            _ if is_a_condition_missed => 3,
            code => code,
        }
    }
}

impl Evidence {
    fn client_is_busier(&self) -> bool {
        self.client_busy.is_some_and(|share| share >= SATURATED_SHARE)
            && self.server_busy.is_none_or(|share| share < SATURATED_SHARE)
    }

    /// Open loop: how late requests were sent, if that matters.
    fn lag_that_matters(&self) -> Option<String> {
        let (lag, latency) = self.lag_and_latency?;
        let share = lag as f64 / latency.max(1) as f64;
        (u128::from(lag) > SEND_LAG_MAX.as_nanos() && share > SEND_LAG_SHARE_MAX).then(|| {
            format!(
                "requests were sent up to {} late (p99), which is {:.0} % of the latency",
                units::time(lag),
                share * 100.0
            )
        })
    }

    /// The same, where it is the machine's fault: it is as late when it is idle.
    fn restlessness(&self) -> Option<String> {
        let (lag, _) = self.lag_and_latency?;
        let at_work = self.client_busy.unwrap_or_default() - self.client_spin.unwrap_or_default();
        if at_work >= AT_WORK_SHARE_MAX {
            // Who hardly sleeps is hardly ever woken up late.
            return None;
        }
        let late = self.noise_floor?.wake_up_late.p99;
        let is_explained = late as f64 >= lag as f64 * EXPLAINED_SHARE_MIN;
        let sentence = self.lag_that_matters().filter(|_| is_explained)?;
        Some(format!(
            "{sentence}; before the run, with nothing to do, this machine woke up {} late (p99)",
            units::time(late)
        ))
    }

    /// How much more the server owed in the end than before, if that matters.
    fn growth_of_the_backlog(&self) -> Option<String> {
        let backlog = self.backlog.filter(Backlog::has_grown)?;
        Some(format!(
            "when the load ended, {:.0} requests were due and not answered, {:.1} % of all, and \
             {:.0} on average before: the backlog grew",
            backlog.at_end,
            backlog.share() * 100.0,
            backlog.mean
        ))
    }

    /// Why it cannot be known whether the server kept up with the rate.
    fn shortness_of_the_load(&self) -> Option<String> {
        let load = self.backlog.filter(Backlog::is_untold)?.load;
        Some(format!(
            "the load lasted {}, which is too short to tell whether the server keeps up with the \
             rate",
            units::time_of(load)
        ))
    }

    /// What there is to know of a latency that hardly any server could undercut here.
    fn nearness_to_the_floor(&self) -> Option<String> {
        let (service, floor) = (self.service_p50?, self.noise_floor?.round_trip.p50);
        ((service as f64) < floor as f64 * ROUND_TRIPS_MIN).then(|| {
            format!(
                "half of the requests took less than {ROUND_TRIPS_MIN} times as long as a byte \
                 takes over this machine's loopback without any server ({}): the p50 is mostly \
                 the machine",
                units::time(floor)
            )
        })
    }

    /// In what the generator fell short, if that matters.
    fn limits_of_the_client(&self) -> Vec<String> {
        let mut limits = Vec::new();
        match self.lag_and_latency {
            Some(_) if self.restlessness().is_none() => limits.extend(self.lag_that_matters()),
            Some(_) => {}
            // A thread that waits for moments may keep its CPU busy; in closed loop busy is busy.
            None if self.client_is_busier() => limits.push(
                "the generator was busy all the time and the server was not known to be".to_owned(),
            ),
            None => {}
        }
        if let Some(share) = self.unread_share.filter(|share| *share > UNREAD_SHARE_MAX) {
            limits.push(format!(
                "{:.0} % of what was in flight lay unread in the generator's sockets",
                share * 100.0
            ));
        }
        limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{load::tally::Errors, measure::latency::Percentiles, payload::mismatch::Mismatch};

    const NOTHING: Evidence = Evidence {
        client_busy: None,
        server_busy: None,
        client_spin: None,
        client_stood_still: None,
        lag_and_latency: None,
        service_p50: None,
        noise_floor: None,
        unread_share: None,
        stolen_share: None,
        littles_law: None,
        backlog: None,
    };

    fn good() -> Counts {
        Counts { requests: 1_000, ..Counts::default() }
    }

    fn judge(counts: &Counts, evidence: &Evidence) -> Verdict {
        Verdict::of(counts, evidence).0
    }

    #[test]
    fn a_mismatch_comes_before_everything() {
        let mut counts = Counts { unanswered: 1, ..Counts::default() };
        counts.mismatches.count(Mismatch::Flipped);
        assert_eq!(judge(&counts, &NOTHING), Verdict::Mismatch);
        assert_eq!(Verdict::Mismatch.exit_code(), 4);
    }

    #[test]
    fn a_run_without_a_single_answer_has_failed() {
        let counts = Counts { warm_up_requests: 5, unanswered: 1, ..Counts::default() };
        assert_eq!(judge(&counts, &NOTHING), Verdict::Failed);
        assert_eq!(Verdict::Failed.exit_code(), 1);
    }

    #[test]
    fn one_error_or_one_unanswered_request_is_enough() {
        let unanswered = Counts { unanswered: 1, ..good() };
        let errors = Counts { errors: Errors { connect: 1, ..Errors::default() }, ..good() };
        for counts in [unanswered, errors] {
            assert_eq!(judge(&counts, &NOTHING), Verdict::Errors);
        }
        assert_eq!(Verdict::Errors.exit_code(), 1);
    }

    #[test]
    fn a_busy_client_limits_only_a_server_that_is_not_busy() {
        let verdict = |client, server_busy| {
            judge(&good(), &Evidence { client_busy: Some(client), server_busy, ..NOTHING })
        };
        assert_eq!(verdict(0.99, Some(0.6)), Verdict::ClientLimited);
        assert_eq!(verdict(0.99, None), Verdict::ClientLimited);
        assert_eq!(verdict(0.99, Some(0.99)), Verdict::Ok);
        assert_eq!(verdict(0.90, Some(0.6)), Verdict::Ok);
    }

    #[test]
    fn in_open_loop_lag_counts_and_not_how_busy_the_client_was() {
        let verdict = |lag, latency| {
            let lag_and_latency = Some((lag, latency));
            judge(&good(), &Evidence { client_busy: Some(1.0), lag_and_latency, ..NOTHING })
        };
        assert_eq!(verdict(90_000, 90_000), Verdict::Ok);
        assert_eq!(verdict(400_000, 1_000_000), Verdict::ClientLimited);
        assert_eq!(verdict(400_000, 1_000_000_000), Verdict::Ok);
    }

    fn floor(wake_up_late: u64, round_trip: u64) -> Option<NoiseFloor> {
        let always =
            |nanos| Percentiles { p50: nanos, p90: nanos, p99: nanos, p99_9: nanos, max: nanos };
        Some(NoiseFloor { wake_up_late: always(wake_up_late), round_trip: always(round_trip) })
    }

    #[test]
    fn lag_that_the_idle_machine_has_too_is_not_the_generators_fault() {
        let judge = |wake_up_late| {
            let lag_and_latency = Some((400_000, 1_000_000));
            let noise_floor = floor(wake_up_late, 1_000);
            Verdict::of(&good(), &Evidence { lag_and_latency, noise_floor, ..NOTHING })
        };
        assert_eq!(judge(20_000).0, Verdict::ClientLimited);
        let (verdict, reasons) = judge(300_000);
        assert_eq!((verdict, reasons.len()), (Verdict::Disturbed, 1));
        assert!(reasons[0].contains("400 us late") && reasons[0].contains("300 us late"));
    }

    #[test]
    fn a_generator_that_never_sleeps_cannot_blame_how_late_it_wakes_up() {
        let judge = |client_spin| {
            let (client_busy, lag_and_latency) = (Some(1.0), Some((400_000, 1_000_000)));
            let noise_floor = floor(300_000, 1_000);
            let evidence =
                Evidence { client_busy, client_spin, lag_and_latency, noise_floor, ..NOTHING };
            Verdict::of(&good(), &evidence).0
        };
        assert_eq!(judge(Some(0.1)), Verdict::ClientLimited);
        assert_eq!(judge(Some(0.9)), Verdict::Disturbed);
    }

    #[test]
    fn a_machine_that_is_late_disturbs_nothing_that_was_sent_in_time() {
        let lag_and_latency = Some((90_000, 100_000));
        let evidence = Evidence { lag_and_latency, noise_floor: floor(900_000, 1_000), ..NOTHING };
        assert_eq!(Verdict::of(&good(), &evidence), (Verdict::Ok, Vec::new()));
    }

    #[test]
    fn a_latency_near_the_noise_floor_is_said_to_be_the_machine() {
        let reasons = |service_p50| {
            let evidence = Evidence { service_p50, noise_floor: floor(0, 10_000), ..NOTHING };
            Verdict::of(&good(), &evidence).1
        };
        assert!(reasons(Some(14_000))[0].contains("mostly the machine"));
        assert!(reasons(Some(16_000)).is_empty() && reasons(None).is_empty());
    }

    #[test]
    fn requests_that_were_never_sent_mean_that_the_server_is_overloaded() {
        assert_eq!(judge(&Counts { unsent: 5, ..good() }, &NOTHING), Verdict::Ok);
        let counts = Counts { unsent: 50, ..good() };
        let (verdict, reasons) = Verdict::of(&counts, &NOTHING);
        assert_eq!(verdict, Verdict::Overloaded);
        assert!(reasons[0].contains("4.8 %"), "{reasons:?}");
    }

    #[test]
    fn a_backlog_that_grows_means_the_same_though_all_was_sent() {
        let judge = |at_end| {
            let (due, load) = (345, Duration::from_secs(3));
            let backlog = Backlog { at_end, mean: 24.0, filling: 0.0, due, load };
            Verdict::of(&good(), &Evidence { backlog: Some(backlog), ..NOTHING })
        };
        assert_eq!(judge(30.0), (Verdict::Ok, Vec::new()));
        let (verdict, reasons) = judge(48.0);
        assert_eq!(verdict, Verdict::Overloaded);
        assert!(reasons[0].contains("48 requests") && reasons[0].contains("13.9 %"), "{reasons:?}");
    }

    #[test]
    fn a_load_that_is_too_short_to_tell_says_so() {
        let (due, load) = (200, Duration::from_millis(3));
        let backlog = Backlog { at_end: 30.0, mean: 1.0, filling: 0.0, due, load };
        let (verdict, reasons) =
            Verdict::of(&good(), &Evidence { backlog: Some(backlog), ..NOTHING });
        assert_eq!(verdict, Verdict::Ok);
        assert!(reasons[0].contains("3.00 ms, which is too short"), "{reasons:?}");
    }

    #[test]
    fn unread_replies_and_stolen_time_are_said() {
        let unread = Evidence { unread_share: Some(0.8), ..NOTHING };
        assert_eq!(judge(&good(), &unread), Verdict::ClientLimited);
        let stolen = Evidence { stolen_share: Some(0.3), ..NOTHING };
        let (verdict, reasons) = Verdict::of(&good(), &stolen);
        assert_eq!(verdict, Verdict::Disturbed);
        assert!(reasons[0].contains("30 %"), "{reasons:?}");
        let stood_still = Evidence { client_stood_still: Some(0.25), ..NOTHING };
        let (verdict, reasons) = Verdict::of(&good(), &stood_still);
        assert_eq!(verdict, Verdict::Disturbed);
        assert!(reasons[0].contains("stood still for 25 %"), "{reasons:?}");
    }

    #[test]
    fn a_load_that_breaks_littles_law_says_so_whatever_the_verdict() {
        let law = |in_flight_mean| {
            let law = LittlesLaw { in_flight_mean, rate_times_service: 10.0 };
            Verdict::of(&good(), &Evidence { littles_law: Some(law), ..NOTHING }).1.len()
        };
        assert_eq!((law(10.5), law(3.0), law(30.0)), (0, 1, 1));
    }

    #[test]
    fn wrong_bytes_come_before_a_missed_condition_and_that_before_errors() {
        let outcome = |is_met| SloOutcome {
            condition: "p99<1ms".to_owned(),
            reached: 2e6,
            reached_text: "2 ms".to_owned(),
            is_met,
        };
        assert_eq!(Verdict::Mismatch.exit_code_with(&[outcome(false)]), 4);
        assert_eq!(Verdict::Errors.exit_code_with(&[outcome(true), outcome(false)]), 3);
        assert_eq!(Verdict::Errors.exit_code_with(&[outcome(true)]), 1);
        assert_eq!(Verdict::Ok.exit_code_with(&[]), 0);
    }
}
