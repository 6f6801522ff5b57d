//! Two servers against each other: started in turn, loaded alike, and compared over many rounds.
//!
//! ```text
//! round 1   A B        Each letter is a fresh process and a whole run.
//! round 2   B A        The order alternates, so that neither side always comes first.
//! round 3   A B
//! ```
//!
//! Both runs of a round see the same machine within seconds. So what counts is the ratio B / A of
//! each round, and its spread over the rounds: what changes slowly, such as heat or neighbours,
//! falls out of it.

use clap::Args;
use serde_json::Value;

use crate::{
    measure::bootstrap::{self, CONFIDENCE_PERCENT, SAMPLES_MIN},
    plan::Plan,
    report::{
        compare::{self, Compared, Figure, Finding},
        comparison::{Comparison, Round},
        facts,
        json::Document,
        verdict::Verdict,
    },
    run::{self, RunError},
    stop::Stop,
    units,
};

/// Enough for a difference of a few percent on a machine that is not quiet.
const DEFAULT_ROUNDS: &str = "10";
const NAMES: [&str; 2] = ["A", "B"];

/// What `ab` knows beside the load.
#[derive(Args, Clone, Debug)]
pub(crate) struct Sides {
    /// The server to compare with: a command that prints `listening on ADDR`
    #[arg(long, value_name = "COMMAND", required = true)]
    a: String,
    /// The server that may be better or worse
    #[arg(long, value_name = "COMMAND", required = true)]
    b: String,
    /// How often to run each; below 8 nothing can be told
    #[arg(long, value_name = "N", default_value = DEFAULT_ROUNDS)]
    rounds: usize,
}

/// Two servers, one load.
#[derive(Debug)]
pub(crate) struct Contest {
    plans: [Plan; 2],
    rounds: usize,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The runs of A and B in each complete round.
    rounds: Vec<[Document; 2]>,
    /// The run that ended it all because its replies were wrong or missing.
    spoiler: Option<(&'static str, Verdict)>,
    /// How many rounds there were to be, if someone ended it all before that.
    stopped_of: Option<usize>,
}

impl Sides {
    /// Reads both commands, program first.
    ///
    /// # Errors
    ///
    /// The flag, and what is wrong with its value.
    pub(crate) fn commands(&self) -> Result<[Vec<String>; 2], (&'static str, String)> {
        let split = |flag, command: &str| match shlex::split(command) {
            Some(words) if words.first().is_some_and(|program| !program.is_empty()) => Ok(words),
            Some(_) => Err((flag, "is empty; name a program".to_owned())),
            None => Err((flag, format!("is `{command}`; a quotation does not end"))),
        };
        if self.rounds == 0 {
            return Err(("--rounds", "is 0; it must be at least 1".to_owned()));
        }
        Ok([split("--a", &self.a)?, split("--b", &self.b)?])
    }

    /// Sets both servers to be loaded as `plan` says.
    pub(crate) fn contest(&self, plan: &Plan, commands: [Vec<String>; 2]) -> Contest {
        // Reading a page costs a server something, and nothing of it is compared.
        let finds_metrics = false;
        let holds_server_output = true;
        let plans = commands.map(|command| Plan {
            command,
            finds_metrics,
            holds_server_output,
            ..plan.clone()
        });
        Contest { plans, rounds: self.rounds }
    }
}

impl Contest {
    /// The commands of both sides, in words.
    pub(crate) fn names(&self) -> [String; 2] {
        self.plans.each_ref().map(|plan| plan.command.join(" "))
    }

    /// Runs all rounds, or as many as are complete when someone stops it. `tell` hears of each run.
    ///
    /// # Errors
    ///
    /// The first run that cannot be made.
    pub(crate) fn carry_out(
        &self,
        stop: &Stop,
        tell: &mut dyn FnMut(&str),
    ) -> Result<Outcome, RunError> {
        let mut outcome = Outcome { rounds: Vec::new(), spoiler: None, stopped_of: None };
        for round in 1..=self.rounds {
            let mut runs = [None, None];
            let order = if round % 2 == 1 { [0, 1] } else { [1, 0] };
            for side in order {
                let name = NAMES[side];
                let report = match run::run(&self.plans[side], stop, &mut |_| {}) {
                    _ if stop.is_requested() => {
                        return Ok(Outcome { stopped_of: Some(self.rounds), ..outcome });
                    }
                    report => report?,
                };
                let run = Document::of(&report);
                tell(&format!("round {round} of {}, {name}: {}", self.rounds, describe(&run)));
                if run.verdict.exit_code() != 0 {
                    outcome.spoiler = Some((name, run.verdict));
                    return Ok(outcome);
                }
                runs[side] = Some(run);
            }
            if let [Some(a), Some(b)] = runs {
                outcome.rounds.push([a, b]);
            }
        }
        Ok(outcome)
    }
}

impl Outcome {
    /// Compares the figures that every run has, round by round.
    fn figures(&self) -> Vec<Compared> {
        Figure::ALL.into_iter().filter_map(|figure| self.figure(figure)).collect()
    }

    fn figure(&self, figure: Figure) -> Option<Compared> {
        let pair = |[a, b]: &[Document; 2]| Some([figure.of(a)?, figure.of(b)?]);
        let values: Vec<[f64; 2]> = self.rounds.iter().map(pair).collect::<Option<_>>()?;
        let count = values.len();
        if count == 0 {
            return None;
        }
        let sum = |side: usize, of: fn(f64) -> f64| -> f64 {
            values.iter().map(|pair| of(pair[side])).sum()
        };
        let of_round = |round: usize| {
            let [a, b] = values[round];
            match figure.is_count() {
                true => {
                    let [of_a, of_b] = self.rounds[round].each_ref().map(Document::due);
                    b / of_b.max(1) as f64 - a / of_a.max(1) as f64
                }
                false => compare::log_ratio(a, b),
            }
        };
        let bounds = bootstrap::bounds([count], |[drawn]| {
            drawn.iter().map(|&round| of_round(round)).sum::<f64>() / count as f64
        });
        if figure.is_count() {
            let due = [0, 1].map(|side| self.rounds.iter().map(|round| round[side].due()).sum());
            let [a, b] = [0, 1].map(|side| sum(side, |count| count));
            return Some(Compared { figure, a, b, due: Some(due), bounds });
        }
        let [a, b] = [0, 1].map(|side| (sum(side, f64::ln) / count as f64).exp());
        Some(Compared { figure, a, b, due: None, bounds })
    }

    /// The exit code that the runs themselves ask for.
    pub(crate) fn exit_code(&self) -> u8 {
        let verdict = self.spoiler.map_or(Verdict::Ok, |(_, verdict)| verdict);
        let mut runs = self.rounds.iter().flatten();
        verdict.exit_code_where(runs.any(Document::misses_a_condition))
    }

    /// What to tell of all this, of servers with these names.
    pub(crate) fn comparison(&self, names: [String; 2]) -> Comparison {
        let config = self.rounds.first().map(|[a, _]| {
            let mut config = a.config.clone();
            config.set("command", Value::Null);
            config
        });
        let figures = if self.spoiler.is_some() { Vec::new() } else { self.figures() };
        let notes = self.notes(&figures);
        let rounds = self.rounds.iter().map(|round| round.each_ref().map(round_of)).collect();
        Comparison::new(names, figures, notes, self.doubts()).of_rounds(rounds, config)
    }

    /// What became of the conditions of each side, each a sentence.
    fn conditions(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        for (side, name) in NAMES.into_iter().enumerate() {
            let runs = || self.rounds.iter().map(|round| &round[side]);
            for (number, slo) in runs().next().map_or(&[][..], |run| &run.slo).iter().enumerate() {
                let missed = runs().filter(|run| !run.slo[number].met).count();
                sentences.push(match missed {
                    0 => format!("{name} meets {} in every round.", slo.condition),
                    _ => format!(
                        "{name} misses {} in {missed} of {} rounds.",
                        slo.condition,
                        self.rounds.len()
                    ),
                });
            }
        }
        sentences
    }

    /// Verdicts of runs that may have hidden how the servers differ, each with what it means and
    /// how many there were.
    fn doubtful(&self) -> impl Iterator<Item = (Verdict, &'static str, usize)> {
        let doubts = [
            (Verdict::ClientLimited, "the generator was the limit"),
            (Verdict::Overloaded, "the server could not keep up"),
            (Verdict::Disturbed, "the machine was not quiet"),
        ];
        let count =
            |verdict| self.rounds.iter().flatten().filter(|run| run.verdict == verdict).count();
        let counted = doubts.map(|(verdict, words)| (verdict, words, count(verdict)));
        counted.into_iter().filter(|(_, _, count)| *count > 0)
    }

    /// The same in short.
    fn doubts(&self) -> Vec<String> {
        let runs = 2 * self.rounds.len();
        let in_words = |(verdict, _, count): (Verdict, _, usize)| {
            format!("{count} of {runs} runs were {}", verdict.word())
        };
        self.doubtful().map(in_words).collect()
    }

    fn notes(&self, figures: &[Compared]) -> Vec<String> {
        let count = self.rounds.len();
        let mut notes = self.conditions();
        notes.extend(
            self.stopped_of
                .map(|rounds| format!("Stopped before all {rounds} rounds were complete.")),
        );
        if let Some((name, verdict)) = self.spoiler {
            notes.push(format!("{name} cannot be compared: {}.", verdict.meaning()));
            return notes;
        }
        notes.push(match count {
            0..SAMPLES_MIN => format!(
                "There {}: with fewer than {SAMPLES_MIN}, chance alone may put them all on one \
                 side.",
                match count {
                    1 => "was 1 complete round".to_owned(),
                    _ => format!("were {count} complete rounds"),
                }
            ),
            _ => format!(
                "Geometric means over {count} rounds. In brackets: {CONFIDENCE_PERCENT} % \
                 confidence, from resampling the rounds."
            ),
        });
        if figures.iter().any(|compared| compared.finding() == Finding::NoDifference) {
            notes.push(
                "No difference detected is not the same as no difference: one inside the brackets \
                 may exist. More rounds, or longer ones (-d), narrow them."
                    .to_owned(),
            );
        }
        notes.extend(compare::note_on_failures(figures));
        notes.extend(self.doubtful().map(|(_, words, doubtful)| {
            format!(
                "In {doubtful} of {} runs {words}: the servers may differ in another way than this \
                 shows.",
                2 * count,
            )
        }));
        notes
    }
}

fn round_of(run: &Document) -> Round {
    Round {
        rate: Figure::Rate.of(run),
        latency_p50_ns: Figure::P50.of(run),
        latency_p99_ns: Figure::P99.of(run),
        server_cpu_us_per_request: Figure::ServerCpu.of(run),
        unanswered: run.unanswered,
        unsent: run.unsent,
        errors: run.errors,
        mismatches: run.mismatches,
    }
}

/// A run in a few words.
fn describe(run: &Document) -> String {
    let latency = run.latency_ns;
    let [p50, p99] = [latency.p50, latency.p99].map(|nanos| facts::time_or_none(latency, nanos));
    format!("{:>11}/s  p50 {p50:>8}  p99 {p99:>8}  {}", units::rate(run.rate), run.verdict.word())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::json::samples;

    fn outcome(ratio_percent: u64) -> Outcome {
        let round = |noise: u64| {
            let a = 1_000 + noise * 37 % 50;
            let b = a * ratio_percent / 100 + noise * 13 % 5 - 2;
            [a, b].map(|rate| samples::run(&[rate; 2], 50_000_000 / rate))
        };
        Outcome { rounds: (0..10).map(round).collect(), spoiler: None, stopped_of: None }
    }

    fn told(outcome: &Outcome) -> String {
        outcome.comparison(["one", "other"].map(str::to_owned)).to_text()
    }

    #[test]
    fn the_same_on_both_sides_is_no_difference() {
        let text = told(&outcome(100));
        assert!(text.contains("no difference detected"), "{text}");
        assert!(!text.contains("better") && !text.contains("worse"), "{text}");
    }

    #[test]
    fn noise_that_both_sides_share_hides_nothing() {
        // Rates differ by five percent from round to round, and by three within each.
        let text = told(&outcome(103));
        assert!(text.contains("better"), "{text}");
    }

    #[test]
    fn few_rounds_tell_nothing_and_say_so() {
        let mut outcome = outcome(150);
        outcome.rounds.truncate(SAMPLES_MIN - 1);
        let text = told(&outcome);
        assert!(text.contains("cannot tell") && text.contains("7 complete rounds"), "{text}");
    }

    #[test]
    fn one_round_is_one() {
        let mut outcome = outcome(150);
        outcome.rounds.truncate(1);
        let text = told(&outcome);
        assert!(text.contains("There was 1 complete round:"), "{text}");
    }

    #[test]
    fn commands_are_split_like_a_shell_does() {
        let sides = |a: &str| Sides { a: a.to_owned(), b: "b".to_owned(), rounds: 1 };
        let [a, b] = sides("server --name 'two words'").commands().unwrap();
        assert_eq!(a, ["server", "--name", "two words"]);
        assert_eq!(b, ["b"]);
        assert_eq!(sides("").commands().unwrap_err().0, "--a");
        assert_eq!(sides("'' x").commands().unwrap_err().0, "--a");
        assert_eq!(sides("'open").commands().unwrap_err().0, "--a");
    }
}
