//! The command line: from arguments to a plan, from a report to files and an exit code.
//!
//! Values are read as text and judged together, so that one attempt shows every mistake.
//!
//! | Exit code | Means                                                        |
//! |-----------|--------------------------------------------------------------|
//! | 0         | the run is good                                              |
//! | 1         | it could not run, or not every request was answered          |
//! | 2         | the command line is wrong                                    |
//! | 3         | a condition of `--slo` was missed, or a baseline is better   |
//! | 4         | the server sent wrong bytes                                  |

#![allow(rustdoc::broken_intra_doc_links, reason = "the comments of flags are help texts")]

mod ab;
mod completions;
mod doctor;
mod merge;
mod misspelt;

use std::{
    env,
    ffi::OsString,
    fmt,
    hash::{BuildHasher, RandomState},
    io, mem,
    num::NonZero,
    ops::RangeInclusive,
    path::PathBuf,
    process::ExitCode,
    thread,
    time::Duration,
};

use clap::{
    ArgAction, Args, Command, CommandFactory, Parser, Subcommand,
    error::{ContextKind, ContextValue, ErrorKind},
};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM},
    iterator::Signals,
};

use crate::{
    cli::{
        ab::{Contest, Sides},
        completions::{Completions, ManPage},
    },
    console::{self, COULD_NOT_RUN},
    live::Live,
    payload::{CONNECTIONS_MAX, size::Sizes},
    plan::{
        DEFAULT_DURATION, DEFAULT_WARM_UP, PIPELINE_MAX, Plan, Problem, THREADS_MAX,
        adversaries::Adversaries, rate::Rate,
    },
    report::{
        Report,
        compare::{self, Baseline},
        comparison::Comparison,
        json::Document,
        output::{self, Forms, Output},
        text,
    },
    run::{
        self,
        search::{self, Search},
    },
    server::metrics::MetricsUrlError,
    stop::Stop,
    tls::{Tls, TlsOptions},
    units,
};

const USAGE: u8 = 2;

/// How long each of the many runs of `ab` lasts, unless it is said.
const AB_DURATION: &str = "3s";
const AB_WARM_UP: &str = "1s";
/// Where a search begins, unless it is said.
const START: &str = "1k";

/// One screen. Commands are listed below the options, in one line.
const HELP_TEMPLATE: &str = "\
{about}

{usage-heading} {usage}

{positionals}

{options}{after-help}";

const AFTER_HELP: &str = "\
Commands: run (default) search doctor compare ab merge report man completions
Example:  loadgen -R 20k -d 30s --slo 'p99<1ms' -o run.json -- arena-echo";

const AFTER_LONG_HELP: &str = "\
Commands, each with its own --help:
  run       run a load (the default)
  search    find the largest rate that meets --slo
  doctor    measure what this machine itself adds to every figure
  compare   compare two saved runs
  ab        start two servers in turn, load them alike, and compare them
  merge     add up saved runs that several machines made at the same time
  report    write a saved run in other forms
  completions, man   print completions for a shell, or the man page

Examples:
  loadgen -c 64 -p 16 :9000                      load a server that runs already
  loadgen -d 30s -o run.json -- arena-echo       start a server, load it, stop it
  loadgen -R 20k -p 64 --slo 'p99<1ms' :9000     open loop, with a condition to meet
  loadgen search --slo 'p99<1ms' -p 64 :9000     the largest rate that meets it
  loadgen -n 100000 -s 4k --server-pid 123 :9000

Exit codes: 0 good, 1 could not run or not every request was answered, 2 usage,
            3 a condition (--slo) was missed or the baseline is better,
            4 the server sent wrong bytes";

/// Loads a server that echoes length-prefixed frames and checks every byte.
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    disable_version_flag = true,
    override_usage = "loadgen [COMMAND] [OPTIONS] [TARGET] [-- COMMAND...]",
    help_template = HELP_TEMPLATE,
    after_help = AFTER_HELP,
    after_long_help = AFTER_LONG_HELP
)]
struct Cli {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    run: RunArguments,
    /// Print version
    #[arg(short = 'V', long, action = ArgAction::Version, hide_short_help = true)]
    version: Option<bool>,
}

/// What can be asked for besides a run. Each has its arguments and a function that carries them out
/// and returns the exit code; [`Action::carry_out`] is where a new one is added.
#[derive(Debug, Subcommand)]
enum Action {
    /// Run a load (the default)
    #[command(after_help = AFTER_HELP, after_long_help = AFTER_LONG_HELP)]
    Run(Box<RunArguments>),
    /// Find the largest rate that meets --slo
    Search(Box<SearchArguments>),
    /// Measure what this machine itself adds to every figure
    Doctor,
    /// Compare two saved runs
    Compare(compare::Arguments),
    /// Start two servers in turn, load them alike, and compare them
    Ab(Box<AbArguments>),
    /// Add up saved runs that several machines made at the same time
    Merge(merge::Arguments),
    /// Write a saved run in other forms
    Report(output::Arguments),
    /// Print completions for a shell
    Completions(Completions),
    /// Print the man page
    Man(ManPage),
}

impl Action {
    fn carry_out(self) -> u8 {
        match self {
            Self::Run(arguments) => arguments.judge().map_or_else(refuse, Order::carry_out),
            Self::Search(arguments) => arguments.carry_out(),
            Self::Doctor => doctor::main(),
            Self::Compare(arguments) => {
                write_to::<Comparison>(&arguments.output, || print(arguments.carry_out()))
            }
            Self::Ab(arguments) => arguments.carry_out(),
            Self::Merge(arguments) => {
                write_to::<Document>(&arguments.output, || print(arguments.carry_out()))
            }
            Self::Report(arguments) => {
                write_to::<Document>(&arguments.output, || print(arguments.carry_out()))
            }
            Self::Completions(shell) => console::print(&shell.text(Cli::command())),
            Self::Man(page) => match page.text(Cli::command()) {
                Ok(text) => console::print(&text),
                Err(reason) => refuse(vec![Problem { flag: "COMMAND", reason }]),
            },
        }
    }
}

#[derive(Args, Debug)]
struct SearchArguments {
    /// The rate to begin with
    #[arg(long, value_name = "RATE", default_value = START)]
    start: String,
    /// How near to the limit to go
    #[arg(long, value_name = "PERCENT", default_value = "3")]
    precision: String,
    #[command(flatten)]
    run: RunArguments,
}

#[derive(Args, Debug)]
#[command(
    mut_args(|arg| match arg.get_id().as_str() {
        "target" | "command" | "server_pid" | "metrics" | "baseline" | "fail_on_regression"
        | "interval" | "plain" => arg.hide(true),
        "output" => arg.help("Comparison: .html .json .md; repeatable").long_help(None::<&str>),
        _ => arg,
    })
)]
struct AbArguments {
    #[command(flatten)]
    sides: Sides,
    #[command(flatten)]
    run: RunArguments,
}

#[derive(Args, Debug)]
struct RunArguments {
    /// The server: host:port, :port or unix:/path [default: COMMAND's]
    target: Option<String>,
    /// A server to start and stop; it must print `listening on ADDR`
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
    /// Connections
    #[arg(short, long, value_name = "N", default_value = "10")]
    connections: String,
    /// Threads [default: one per core]
    ///
    /// At most one per connection: more are idle.
    #[arg(short, long, value_name = "N")]
    threads: Option<String>,
    /// Requests in flight per connection
    #[arg(short, long, value_name = "N", default_value = "1")]
    pipeline: String,
    /// Total rate: max, 20k, or a ramp 1k:20k
    ///
    /// Requests per second over all connections, or as many as the server answers (max). A ramp
    /// rises or falls evenly while it is measured.
    #[arg(short = 'R', long, value_name = "RATE", default_value = "max")]
    rate: String,
    /// How long to measure [default: 10s, or until -n]
    #[arg(short, long, value_name = "TIME")]
    duration: Option<String>,
    /// How many requests to measure
    #[arg(short = 'n', long, value_name = "N")]
    requests: Option<String>,
    /// How long to load before that [default: 2s, with -n 0s]
    #[arg(short, long, value_name = "TIME")]
    warm_up: Option<String>,
    /// Payload size: 64, 4k, uniform:64..4k, ...
    ///
    /// A size, or a distribution: uniform:64..4k, lognormal:p50=512,p99=16k, list:64*80,4k*20, or
    /// file:PATH with a size per line. Write lognormal:p50=512,p99=16k,max=1m where the server has
    /// a limit.
    #[arg(short, long, value_name = "SIZE", default_value = "64")]
    size: String,
    /// Conditions to meet: p99<1ms,errors==0,rate>=10k
    ///
    /// Figures are p50 and any other percentile, max, errors, mismatches, unanswered, unsent and
    /// rate. A request that is not answered took longer than any other.
    #[arg(long, value_name = "EXPR")]
    slo: Option<String>,
    /// Report: .html .json .csv .md .hlog .hgrm; repeatable
    ///
    /// The extension says in which form it is written.
    #[arg(short, long, value_name = "FILE")]
    output: Vec<PathBuf>,
    /// How often to show progress
    #[arg(short, long, value_name = "TIME", default_value = "1s")]
    interval: String,
    /// The arena's metrics [default: what COMMAND announces]
    ///
    /// The server's page, http://HOST:PORT/metrics. A COMMAND announces it by `admin on IP:PORT`,
    /// in the same write as `listening on ADDR`.
    #[arg(long, value_name = "URL", hide_short_help = true)]
    metrics: Option<String>,
    /// Compare with this run afterwards, which was saved with -o FILE.json
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    baseline: Option<PathBuf>,
    /// Exit with 3 if any figure is clearly worse than in the baseline, by more than PERCENT
    /// [default: 5]
    #[arg(
        long,
        value_name = "PERCENT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "5",
        hide_short_help = true
    )]
    fail_on_regression: Option<String>,
    /// What all payloads follow from [default: another one each time]
    #[arg(long, value_name = "N", hide_short_help = true)]
    seed: Option<String>,
    /// What of the replies is checked: full, sample:N (one in N) or none
    #[arg(long, value_name = "WHAT", default_value = "full", hide_short_help = true)]
    verify: String,
    /// Encrypt connections, by TLS 1.3 or 1.2
    ///
    /// The server's certificate must be for its host, and from an authority that the system trusts,
    /// unless --tls-name and --tls-ca name others. Pages of metrics are read without TLS.
    #[arg(long, hide_short_help = true)]
    tls: bool,
    /// Trust the authorities in this PEM file instead of the system's
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    tls_ca: Option<PathBuf>,
    /// Show the server the certificate in this PEM file, and those behind it
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    tls_cert: Option<PathBuf>,
    /// The private key of --tls-cert, as PEM
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    tls_key: Option<PathBuf>,
    /// The name or IP address that the server's certificate is for [default: the server's host]
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    tls_name: Option<String>,
    /// Accept any certificate of the server; the report says so
    #[arg(long, hide_short_help = true)]
    tls_insecure: bool,
    /// Make every handshake a full one
    ///
    /// Otherwise a connection that is made again resumes its session, if the server lets it.
    #[arg(long, hide_short_help = true)]
    tls_no_resume: bool,
    /// How requests are spread over time with -R: fixed or poisson
    #[arg(long, value_name = "HOW", default_value = "fixed", hide_short_help = true)]
    arrival: String,
    /// Over how long to open the connections, before the warm-up
    #[arg(long, value_name = "TIME", default_value = "0s", hide_short_help = true)]
    ramp_up: String,
    /// Change each connection for a new one after a time, or after N requests
    #[arg(long, value_name = "TIME|N", hide_short_help = true)]
    reconnect_every: Option<String>,
    /// Clients beside the others that ask for much and read little, twice a second
    #[arg(long, value_name = "N", default_value = "0", hide_short_help = true)]
    slow_readers: String,
    /// Clients beside the others that send byte by byte, two a second
    #[arg(long, value_name = "N", default_value = "0", hide_short_help = true)]
    slow_senders: String,
    /// Clients beside the others that reset their connection in the middle of a request
    #[arg(long, value_name = "N", default_value = "0", hide_short_help = true)]
    resets: String,
    /// Count a request that takes longer as an error and close its connection
    #[arg(long, value_name = "TIME", hide_short_help = true)]
    timeout: Option<String>,
    /// How long to wait for replies once the load has ended
    /// [default: --timeout, or three times as long as the slowest reply took]
    ///
    /// Without --timeout at least a second, and ten if no reply has come at all. With -n alone the
    /// time counts from the last reply.
    #[arg(long, value_name = "TIME", hide_short_help = true)]
    drain_timeout: Option<String>,
    /// Report CPU time and memory of this process
    #[arg(long, value_name = "PID", hide_short_help = true)]
    server_pid: Option<String>,
    /// Keep each thread on one CPU: auto (if one is left for the server), on or off
    #[arg(long, value_name = "WHEN", default_value = "auto", hide_short_help = true)]
    pin: String,
    /// Show progress line by line, also on a terminal
    #[arg(long, hide_short_help = true)]
    plain: bool,
}

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    let words: Vec<OsString> = env::args_os().collect();
    let cli = match read(&words) {
        Ok(cli) => cli,
        Err(error) => {
            let word =
                unknown_command(&words).filter(|_| error.kind() == ErrorKind::UnknownArgument);
            if let Some(word) = word {
                return refuse(vec![no_command(&word)]).into();
            }
            // Help and version are such errors too; clap knows where they go.
            let printed = error.print();
            return if error.use_stderr() { USAGE } else { console::outcome_of(printed) }.into();
        }
    };
    let action = cli.action.unwrap_or_else(|| Action::Run(Box::new(cli.run)));
    action.carry_out().into()
}

/// Reads the arguments, the name of the program first.
fn read(words: &[OsString]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(with_negative_values(words)).map_err(without_false_tip)
}

/// Joins a flag and a negative value behind it, so that the value is judged: no flag begins like a
/// number.
fn with_negative_values(words: &[OsString]) -> Vec<OsString> {
    let is_flag = |word: &OsString| word.as_encoded_bytes().starts_with(b"-");
    let is_negative =
        |word: &OsString| matches!(word.as_encoded_bytes(), [b'-', b'0'..=b'9' | b'.', ..]);
    let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
    let mut joined: Vec<OsString> = Vec::with_capacity(words.len());
    for word in &words[..end] {
        match joined.last_mut() {
            Some(flag) if is_negative(word) && is_flag(flag) => {
                flag.push("=");
                flag.push(word);
            }
            _ => joined.push(word.clone()),
        }
    }
    joined.extend_from_slice(&words[end..]);
    joined
}

/// Takes away the advice to write a flag after `--`: here that would run it as a command.
fn without_false_tip(mut error: clap::Error) -> clap::Error {
    if error.kind() == ErrorKind::UnknownArgument
        && let Some(ContextValue::StyledStrs(mut tips)) = error.remove(ContextKind::Suggested)
    {
        tips.retain(|tip| !tip.to_string().contains("'-- "));
        if !tips.is_empty() {
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
        }
    }
    error
}

/// The word that stands where a command would, if it cannot be a target either.
fn unknown_command(words: &[OsString]) -> Option<String> {
    let matches = Cli::command().ignore_errors(true).try_get_matches_from(words).ok()?;
    let word = matches.get_one::<String>("target")?;
    (!word.contains([':', '.', '/'])).then(|| word.clone())
}

/// A sentence that names the command that was meant, or all of them.
fn no_command(word: &str) -> String {
    let advice = command_like(word).map_or_else(
        || {
            let program = Cli::command();
            let names: Vec<_> = program.get_subcommands().map(Command::get_name).collect();
            format!("there are {}", names.join(", "))
        },
        |name| format!("did you mean `{name}`?"),
    );
    format!("there is no command `{word}`; {advice}")
}

/// The command that someone meant by this word.
fn command_like(word: &str) -> Option<String> {
    let program = Cli::command();
    misspelt::nearest(word, program.get_subcommands().map(Command::get_name)).map(str::to_owned)
}

/// Does what ends with files of these names, if they say in which forms.
fn write_to<T: Forms>(outputs: &[PathBuf], carry_out: impl FnOnce() -> u8) -> u8 {
    match output::problems::<T>(outputs) {
        problems if problems.is_empty() => carry_out(),
        problems => refuse(problems),
    }
}

fn refuse<P: fmt::Display>(problems: Vec<P>) -> u8 {
    problems.iter().for_each(console::complain);
    console::say("Try `loadgen --help`.");
    USAGE
}

impl SearchArguments {
    fn carry_out(mut self) -> u8 {
        let mut judge = Judge::default();
        let start = judge.value("--start", Some(&self.start), search::parse_start);
        let precision = judge.value("--precision", Some(&self.precision), |text| {
            let percent = text.parse().ok().filter(|percent| (0.1..=50.0).contains(percent));
            percent.ok_or_else(|| format!("is `{text}`; it must be 0.1 to 50"))
        });
        if self.run.slo.is_none() {
            judge.refuse("--slo", "is missing; write for example p99<1ms");
        }
        if self.run.rate != "max" {
            judge.refuse("--rate", "cannot be given: it is what is searched for");
        }
        // The first of many.
        self.run.rate = if start.is_some() { self.start } else { START.to_owned() };
        let order = match self.run.judge() {
            Ok(mut order) => {
                order.plan.holds_server_output = true;
                judge.problems.extend(search::problems(&order.plan));
                if order.plan.requests.is_some() {
                    order.notes.push(
                        "--requests is raised where it would not last for a second: a shorter run \
                         cannot tell whether the server keeps up with the rate"
                            .to_owned(),
                    );
                }
                Some(order)
            }
            Err(problems) => {
                judge.problems.extend(problems);
                None
            }
        };
        match (order, start, precision) {
            (Some(order), Some(start), Some(percent)) if judge.problems.is_empty() => {
                order.search(&Search { start, precision: percent / 100.0 })
            }
            _ => refuse(judge.problems),
        }
    }
}

impl AbArguments {
    fn carry_out(self) -> u8 {
        match self.run.judge_ab(&self.sides) {
            Ok((contest, outputs)) => print(compete(&contest, &outputs)),
            Err(problems) => refuse(problems),
        }
    }
}

/// Runs a contest and writes what came of it. Returns it in words, with the exit code.
fn compete(contest: &Contest, outputs: &[PathBuf]) -> Result<(String, u8), String> {
    // Before the runs: a file that cannot be written must not cost their result.
    let outputs = Output::open_all(outputs)?;
    let stop = Stop::new();
    stop_on_signals(&stop).map_err(|error| format!("cannot catch signals: {error}"))?;
    let mut tell = |line: &str| console::say(line);
    let outcome = contest.carry_out(&stop, &mut tell).map_err(|error| error.to_string())?;
    let comparison = outcome.comparison(contest.names());
    let exit_code = outcome.exit_code().max(Output::write_all(outputs, &comparison));
    Ok((comparison.to_text(), exit_code))
}

/// What a correct command line asks for.
#[derive(Debug)]
struct Order {
    plan: Plan,
    outputs: Vec<PathBuf>,
    is_plain: bool,
    baseline: Option<Baseline>,
    /// What was changed, in words.
    notes: Vec<String>,
}

impl RunArguments {
    fn judge(self) -> Result<Order, Vec<Problem>> {
        let mut judge = Judge::default();
        let requests = judge.number("--requests", self.requests.as_deref(), 1..=u64::MAX);
        let (default_duration, default_warm_up) = match self.requests {
            Some(_) => (None, Duration::ZERO),
            None => (Some(DEFAULT_DURATION), DEFAULT_WARM_UP),
        };
        let connections =
            judge.number("--connections", Some(&self.connections), 1..=CONNECTIONS_MAX);
        let connections = connections.unwrap_or(1);
        let threads = judge.number("--threads", self.threads.as_deref(), 1..=THREADS_MAX);
        let any = 0..=u32::MAX;
        let mut clients = |flag, text| judge.number(flag, Some(text), any.clone()).unwrap_or(0);
        let adversaries = Adversaries {
            slow_readers: clients("--slow-readers", &self.slow_readers),
            slow_senders: clients("--slow-senders", &self.slow_senders),
            resets: clients("--resets", &self.resets),
        };
        let tls = judge.tls(
            self.tls,
            TlsOptions {
                authorities: self.tls_ca,
                certificates: self.tls_cert,
                key: self.tls_key,
                name: self.tls_name,
                accepts_any_certificate: self.tls_insecure,
                never_resumes: self.tls_no_resume,
            },
        );
        let pipeline = judge.number("--pipeline", Some(&self.pipeline), 1..=PIPELINE_MAX);
        let plan = Plan {
            target: judge.value("TARGET", self.target.as_deref(), |text| {
                text.parse().map_err(|error| match command_like(text) {
                    Some(name) => format!("is wrong: {error}; or did you mean `loadgen {name}`?"),
                    None => format!("is wrong: {error}"),
                })
            }),
            command: self.command,
            holds_server_output: false,
            connections,
            threads: threads.unwrap_or_else(|| available_threads().min(connections)),
            pipeline: pipeline.unwrap_or(1),
            duration: judge.time("--duration", self.duration.as_deref()).or(default_duration),
            // One that cannot be read is not missing.
            requests: self.requests.as_ref().map(|_| requests.unwrap_or(1)),
            warm_up: judge.time("--warm-up", self.warm_up.as_deref()).unwrap_or(default_warm_up),
            sizes: judge.value("--size", Some(&self.size), str::parse).unwrap_or(Sizes::Fixed(0)),
            rate: judge.value("--rate", Some(&self.rate), str::parse).unwrap_or(Rate::Max),
            arrival: judge.value("--arrival", Some(&self.arrival), str::parse).unwrap_or_default(),
            ramp_up: judge.time("--ramp-up", Some(&self.ramp_up)).unwrap_or_default(),
            tls,
            reconnect_every: judge.value(
                "--reconnect-every",
                self.reconnect_every.as_deref(),
                str::parse,
            ),
            adversaries,
            verify: judge.value("--verify", Some(&self.verify), str::parse).unwrap_or_default(),
            pin: judge.value("--pin", Some(&self.pin), str::parse).unwrap_or_default(),
            seed: judge
                .number("--seed", self.seed.as_deref(), 0..=u64::MAX)
                .unwrap_or_else(any_seed),
            timeout: judge.time("--timeout", self.timeout.as_deref()),
            drain_timeout: judge.time("--drain-timeout", self.drain_timeout.as_deref()),
            server_pid: judge.number("--server-pid", self.server_pid.as_deref(), 1..=u32::MAX),
            interval: judge
                .time("--interval", Some(&self.interval))
                .unwrap_or(Duration::from_secs(1)),
            slo: judge.value("--slo", self.slo.as_deref(), str::parse),
            metrics: judge.value("--metrics", self.metrics.as_deref(), |text| {
                text.parse().map_err(|error: MetricsUrlError| error.to_string())
            }),
            finds_metrics: true,
        };
        judge.problems.extend(output::problems::<Document>(&self.output));
        let known: Vec<_> = judge.problems.iter().map(|problem| problem.flag).collect();
        if let Err(error) = plan.check() {
            // What could not be read stands in the plan as a default: the plan knows nothing about
            // it.
            let is_news = |problem: &Problem| !known.contains(&problem.flag);
            judge.problems.extend(error.problems.into_iter().filter(is_news));
        }
        let tolerance = judge.value(
            "--fail-on-regression",
            self.fail_on_regression.as_deref(),
            compare::parse_tolerance,
        );
        if tolerance.is_some() && self.baseline.is_none() {
            judge.refuse("--fail-on-regression", "needs a --baseline to compare with");
        }
        let baseline = self.baseline.and_then(|path| {
            let baseline = Baseline::read(&path, tolerance, &plan);
            baseline.map_err(|reason| judge.refuse("--baseline", &reason)).ok()
        });
        if !judge.problems.is_empty() {
            return Err(judge.problems);
        }
        let mut notes = Vec::new();
        if plan.threads > plan.threads_used() {
            let (threads, used) = (plan.threads, plan.threads_used());
            notes.push(format!(
                "--threads {threads} is reduced to {used}: a thread without a connection is idle"
            ));
        }
        Ok(Order { plan, outputs: self.output, is_plain: self.plain, baseline, notes })
    }
}

impl RunArguments {
    /// Judges the arguments of `ab`, whose servers are commands of their own.
    fn judge_ab(mut self, sides: &Sides) -> Result<(Contest, Vec<PathBuf>), Vec<Problem>> {
        let commands = sides.commands().map_err(|(flag, reason)| vec![Problem { flag, reason }])?;
        let unused = [
            ("TARGET", self.target.is_some()),
            ("COMMAND", !self.command.is_empty()),
            ("--server-pid", self.server_pid.is_some()),
            ("--metrics", self.metrics.is_some()),
            ("--baseline", self.baseline.is_some()),
        ];
        let mut problems: Vec<Problem> = unused
            .into_iter()
            .filter(|(_, is_given)| *is_given)
            .map(|(flag, _)| Problem {
                flag,
                reason: "has no meaning here: leave it out; --a and --b name the servers"
                    .to_owned(),
            })
            .collect();
        // It is no run that is written.
        let outputs = mem::take(&mut self.output);
        problems.extend(output::problems::<Comparison>(&outputs));
        if !problems.is_empty() {
            return Err(problems);
        }
        // Many short runs tell more than few long ones.
        if self.requests.is_none() {
            self.duration.get_or_insert_with(|| AB_DURATION.to_owned());
            self.warm_up.get_or_insert_with(|| AB_WARM_UP.to_owned());
        }
        self.command.clone_from(&commands[0]);
        let order = self.judge()?;
        Ok((sides.contest(&order.plan, commands), outputs))
    }
}

/// Reads values and remembers what is wrong with them.
#[derive(Debug, Default)]
struct Judge {
    problems: Vec<Problem>,
}

impl Judge {
    fn value<T>(
        &mut self,
        flag: &'static str,
        text: Option<&str>,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match read(text?) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.problems.push(Problem { flag, reason });
                None
            }
        }
    }

    fn refuse(&mut self, flag: &'static str, reason: &str) {
        self.problems.push(Problem { flag, reason: reason.to_owned() });
    }

    fn number<T>(
        &mut self,
        flag: &'static str,
        text: Option<&str>,
        range: RangeInclusive<T>,
    ) -> Option<T>
    where
        T: Copy + Into<u64> + TryFrom<u64> + PartialOrd,
    {
        self.value(flag, text, |text| {
            let read = units::parse_count(text);
            let number = match &read {
                // More than there can be.
                Ok(u64::MAX) if text.trim().parse::<u64>().is_err() => None,
                Ok(count) => T::try_from(*count).ok(),
                Err(_) if text.starts_with('-') => None,
                Err(reason) => return Err(reason.clone()),
            };
            let (least, most) = range.clone().into_inner();
            number.filter(|number| range.contains(number)).ok_or_else(|| {
                let least = units::grouped(least.into());
                match most.into() {
                    u64::MAX if read != Ok(u64::MAX) => {
                        format!("is `{text}`; it must be at least {least}")
                    }
                    most => format!("is `{text}`; it must be {least} to {}", units::grouped(most)),
                }
            })
        })
    }

    /// Reads the files of TLS. What would have no effect without it is refused.
    fn tls(&mut self, is_on: bool, options: TlsOptions) -> Option<Tls> {
        if is_on {
            let tls = Tls::new(options);
            return tls.map_err(|error| self.problems.extend(error.problems)).ok();
        }
        let flags = [
            ("--tls-ca", options.authorities.is_some()),
            ("--tls-cert", options.certificates.is_some()),
            ("--tls-key", options.key.is_some()),
            ("--tls-name", options.name.is_some()),
            ("--tls-insecure", options.accepts_any_certificate),
            ("--tls-no-resume", options.never_resumes),
        ];
        for (flag, _) in flags.into_iter().filter(|(_, is_given)| *is_given) {
            self.refuse(flag, "has no effect without --tls; add that, or leave it out");
        }
        None
    }

    fn time(&mut self, flag: &'static str, text: Option<&str>) -> Option<Duration> {
        self.value(flag, text, units::parse_time)
    }
}

impl Order {
    fn carry_out(self) -> u8 {
        self.say_notes();
        self.report_on(|order, stop| {
            let mut live = Live::start(&order.plan, order.is_plain, stop);
            let report = run::run(&order.plan, stop, &mut |progress| live.show(progress));
            drop(live);
            let report = report.map_err(|error| error.to_string())?;
            let exit_code = report.verdict.exit_code_with(&report.slo);
            Ok((String::new(), report, exit_code))
        })
    }

    /// Searches, and reports on the best run.
    fn search(self, search: &Search) -> u8 {
        self.say_notes();
        self.report_on(|order, stop| {
            let found = search.run(&order.plan, stop, &mut |step| console::say(step));
            let found = found.map_err(|error| error.to_string())?;
            let (words, exit_code) = (format!("{found}\n"), found.exit_code());
            Ok((words, found.report, exit_code))
        })
    }

    fn say_notes(&self) {
        self.notes.iter().for_each(console::complain);
    }

    /// Makes a report with words to come before it and its exit code, and writes it where it was
    /// asked for. Returns the exit code of all that.
    fn report_on(
        &self,
        make: impl FnOnce(&Self, &Stop) -> Result<(String, Report, u8), String>,
    ) -> u8 {
        // Before the run: a file that cannot be written must not cost its result.
        let outcome = Output::open_all(&self.outputs).and_then(|outputs| {
            let stop = Stop::new();
            stop_on_signals(&stop).map_err(|error| format!("cannot catch signals: {error}"))?;
            Ok((outputs, make(self, &stop)?))
        });
        let (outputs, (mut text, report, mut exit_code)) = match outcome {
            Ok(results) => results,
            Err(error) => {
                console::complain(error);
                return COULD_NOT_RUN;
            }
        };
        let document = Document::of(&report);
        // Wrong replies come before a regression, which comes before what is missing.
        exit_code = exit_code.max(Output::write_all(outputs, &document));
        text += &text::write(&document);
        if let Some(baseline) = &self.baseline {
            let (comparison, code) = baseline.judge(&document);
            text += &comparison;
            exit_code = exit_code.max(code);
        }
        exit_code.max(console::print(&text))
    }
}

/// Prints what there is to say, and returns the gravest exit code.
fn print(outcome: Result<(String, u8), String>) -> u8 {
    match outcome {
        Ok((text, exit_code)) => console::print(&text).max(exit_code),
        Err(error) => {
            console::complain(error);
            COULD_NOT_RUN
        }
    }
}

fn available_threads() -> u32 {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    u32::try_from(cores).unwrap_or(u32::MAX)
}

fn any_seed() -> u64 {
    // Short enough to be typed again.
    RandomState::new().hash_one(()) >> 32
}

/// Whatever asks a program to end, also a terminal that closes, ends the run with a report and its
/// server with it.
fn stop_on_signals(stop: &Stop) -> io::Result<()> {
    // Who starts a program with these ignored, as nohup does, wants it to go on.
    let others = [SIGHUP, SIGQUIT].into_iter().filter(|&signal| !is_ignored(signal));
    let mut signals = Signals::new([SIGINT, SIGTERM].into_iter().chain(others))?;
    let stop = stop.clone();
    thread::Builder::new().spawn(move || signals.forever().for_each(|_| stop.request()))?;
    Ok(())
}

#[cfg(target_os = "linux")]
fn is_ignored(signal: i32) -> bool {
    let status = procfs::process::Process::myself().and_then(|process| process.status());
    status.is_ok_and(|status| status.sigign & (1 << (signal - 1)) != 0)
}

/// Nothing is known on this system.
#[cfg(not(target_os = "linux"))]
fn is_ignored(_: i32) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Cli, clap::Error> {
        let words = ["loadgen"].into_iter().chain(line.split_whitespace());
        read(&words.map(OsString::from).collect::<Vec<_>>())
    }

    fn judge(line: &str) -> Result<Order, Vec<Problem>> {
        let cli = parsed(line).unwrap();
        match cli.action {
            None => cli.run.judge(),
            Some(Action::Run(arguments)) => arguments.judge(),
            Some(other) => panic!("{other:?} is no run"),
        }
    }

    #[track_caller]
    fn blames(line: &str, flags: &[&str]) {
        let problems = judge(line).unwrap_err();
        assert_eq!(problems.iter().map(|problem| problem.flag).collect::<Vec<_>>(), flags);
    }

    #[test]
    fn a_target_is_enough() {
        let Order { plan, .. } = judge(":9000").unwrap();
        assert_eq!(plan.target, Some(":9000".parse().unwrap()));
        assert_eq!((plan.connections, plan.pipeline, plan.sizes), (10, 1, Sizes::Fixed(64)));
        assert_eq!((plan.duration, plan.requests), (Some(Duration::from_secs(10)), None));
        assert_eq!(plan.warm_up, Duration::from_secs(2));
    }

    #[test]
    fn the_word_run_may_be_said_or_left_out() {
        let (said, left_out) = (judge("run -c 3 :9000").unwrap(), judge("-c 3 :9000").unwrap());
        assert_eq!(said.plan.connections, left_out.plan.connections);
        assert_eq!(said.plan.target, left_out.plan.target);
    }

    #[test]
    fn a_number_of_requests_replaces_duration_and_warm_up() {
        let Order { plan, .. } = judge("-n 5 :9000").unwrap();
        assert_eq!((plan.duration, plan.requests), (None, Some(5)));
        assert_eq!(plan.warm_up, Duration::ZERO);
        let Order { plan, .. } = judge("-n 5 -d 1s -w 1s :9000").unwrap();
        assert_eq!(plan.duration, Some(Duration::from_secs(1)));
        assert_eq!(plan.warm_up, Duration::from_secs(1));
    }

    #[test]
    fn what_follows_two_dashes_is_the_command() {
        let Order { plan, .. } = judge("-c 2 -- server --listen :0 -c 9").unwrap();
        assert_eq!(plan.command, ["server", "--listen", ":0", "-c", "9"]);
        assert_eq!((plan.connections, plan.target), (2, None));
    }

    #[test]
    fn every_wrong_value_is_named_at_once() {
        let line = "-c x -t 0 -p 1.5 -d soon -n -w 1 -s big --seed z --timeout 0s --server-pid a \
                    --verify some -o run.txt nowhere";
        let line = line.replace("-n ", "");
        let flags = [
            "--connections",
            "--threads",
            "--pipeline",
            "TARGET",
            "--duration",
            "--warm-up",
            "--size",
            "--verify",
            "--seed",
            "--server-pid",
            "--output",
            "--timeout",
        ];
        blames(&line, &flags);
    }

    #[test]
    fn a_negative_value_is_judged_and_none_is_a_command() {
        blames("-R -5 :9000", &["--rate"]);
        blames("-n -3 --seed -1 -d -1s :9000", &["--requests", "--duration", "--seed"]);
        let order = judge("-c 2 -- server -n -3").unwrap();
        assert_eq!(order.plan.command, ["server", "-n", "-3"]);
        for line in ["-5 :9000", "--plain -5 :9000", "-c 4 -5 :9000", "--nosuch 3 :9000"] {
            let message = parsed(line).unwrap_err().to_string();
            assert!(!message.contains("tip: "), "{message}");
        }
    }

    #[test]
    fn a_flag_is_no_value_of_another() {
        let message = parsed("-d -w 3s :9000").unwrap_err().to_string();
        assert!(message.contains("--duration"), "{message}");
    }

    #[test]
    fn counts_have_units() {
        let Order { plan, .. } = judge("-n 10k -c 1e3 :9000").unwrap();
        assert_eq!((plan.requests, plan.connections), (Some(10_000), 1_000));
    }

    #[test]
    fn a_number_that_cannot_be_read_is_not_missing() {
        blames("-n ten :9000", &["--requests"]);
    }

    #[test]
    fn a_number_out_of_range_is_told_the_range() {
        let problems = judge("-c 99999999999 -t 0 -n 0 :9000").unwrap_err();
        let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "--requests is `0`; it must be at least 1",
                "--connections is `99999999999`; it must be 1 to 1,048,576",
                "--threads is `0`; it must be 1 to 1,024",
            ]
        );
    }

    #[test]
    fn a_number_that_is_too_large_is_refused_and_not_another_one() {
        for number in ["18446744073709551616", "99999999999999999999", "1e30"] {
            let problems = judge(&format!("--seed {number} -n {number} :9000")).unwrap_err();
            let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
            let most = "18,446,744,073,709,551,615";
            assert_eq!(
                said,
                [
                    format!("--requests is `{number}`; it must be 1 to {most}"),
                    format!("--seed is `{number}`; it must be 0 to {most}"),
                ]
            );
        }
        let Order { plan, .. } = judge(&format!("--seed {} :9000", u64::MAX)).unwrap();
        assert_eq!(plan.seed, u64::MAX);
    }

    #[test]
    fn a_missing_target_is_named() {
        blames("-c 1", &["TARGET"]);
    }

    #[test]
    fn too_many_threads_are_reduced_and_said() {
        let order = judge("-t 8 -c 2 :9000").unwrap();
        assert_eq!(order.plan.threads_used(), 2);
        assert!(order.notes[0].contains("reduced to 2"), "{:?}", order.notes);
        assert!(judge("-c 1 :9000").unwrap().notes.is_empty());
    }

    #[test]
    fn help_fits_a_screen() {
        let help = parsed("-h").unwrap_err().to_string();
        // Of 24 lines one is the command and one the next prompt.
        assert!(help.lines().count() <= 22, "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
    }

    #[test]
    fn two_servers_have_no_flags_of_one() {
        let help = parsed("ab --help").unwrap_err().to_string();
        for words in ["TARGET", "--server-pid", "--metrics", "--baseline", ".hlog"] {
            assert!(!help.contains(words), "{words} is in:\n{help}");
        }
    }
}
