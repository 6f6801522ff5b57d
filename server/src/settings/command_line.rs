//! The command line: a flag and an environment variable for every key.
//!
//! Values are whatever is written to `clap` and read later, because `clap` stops at the first that
//! it cannot read. Variables are no matter of `clap`: one that a flag overrides is to be read, too.

use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use clap::{
    Arg, ArgAction, ArgMatches, Command,
    error::{ContextKind, ContextValue, ErrorKind},
    value_parser,
};

use super::{
    keys::{self, KEYS, Key},
    written::{Item, Origin, Written},
};

/// What the program is asked to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Task {
    /// Serve.
    Serve,
    /// Check the configuration.
    CheckConfiguration,
    /// Print the configuration.
    PrintConfiguration,
}

/// What the command line and the environment say.
#[derive(Clone, Debug)]
pub(crate) struct CommandLine {
    pub(crate) task: Task,
    /// The file to read, and what named it.
    pub(crate) file: Option<(PathBuf, Origin)>,
    pub(crate) written: Written,
    /// What is wrong with the command line itself.
    pub(crate) faults: Vec<String>,
    /// What is hardly meant.
    pub(crate) warnings: Vec<String>,
}

/// The variables of the environment. One that is empty counts as absent.
type Environment = BTreeMap<String, OsString>;

const ABOUT: &str = "Answers each length-prefixed frame with the same frame, out of one piece of \
                     memory that never grows.";

const LONG_ABOUT: &str = "\
Answers each length-prefixed frame with the same frame, out of one piece of memory that never \
grows.

A frame is a 4-byte big-endian payload length and the payload. When there is no memory for one, \
its connection waits, and so does its peer.";

const AFTER_HELP: &str = "\
In brackets are the defaults. Sizes are written like 64k or 1MiB, times like 500ms or 30s. \
--help says more about each flag.";

const AFTER_LONG_HELP: &str = "\
Values:
  Sizes are written like 65536, 64k or 1MiB; every unit is a power of 1,024. Times are written \
like 500ms, 30s or 5m.

Where values come from:
  A flag is stronger than its environment variable (ARENA_ECHO_MAX_FRAME for --max-frame), that \
is stronger than its key in the file of --config (max-frame = \"1MiB\"), and that is stronger \
than the default. `arena-echo config --print` shows which one holds. The others must be right, \
too.

Signals:
  SIGINT and SIGTERM stop accepting, answer what has arrived and exit with 0; a second one exits \
at once. SIGHUP reads the configuration and the files of --tls-cert, --tls-key and \
--tls-client-ca again, from regular files and within 5s; --max-connections, --log-filter and all \
timeouts but --stall-timeout change without a restart.

Exit status:
  0 after a signal, 1 if it could not run or somebody was cut off at --drain-timeout, 2 if the \
configuration or the command line cannot work.";

/// Reads the command line and the environment. Prints help or an error and exits, if that is due.
pub(crate) fn read() -> CommandLine {
    // A name that is no text is none of this program.
    let variables = env::vars_os().filter(|(_, text)| !text.is_empty());
    let named = variables.filter_map(|(name, text)| Some((name.into_string().ok()?, text)));
    let read = CommandLine::from_arguments(env::args_os().collect(), &named.collect());
    read.unwrap_or_else(|error| error.exit())
}

fn command() -> Command {
    let print = Arg::new("print")
        .long("print")
        .action(ArgAction::SetTrue)
        .help("Print the effective values, and where each comes from, as a file for --config");
    let config = Command::new("config")
        .about("Checks the configuration without serving, and prints it with --print")
        .arg(print);
    Command::new("arena-echo")
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .long_about(LONG_ABOUT)
        .after_help(AFTER_HELP)
        .after_long_help(AFTER_LONG_HELP)
        .max_term_width(80)
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .value_parser(value_parser!(OsString))
                .global(true)
                .action(ArgAction::Append)
                .help("TOML file with what flags and environment leave open"),
        )
        .args(KEYS.iter().map(flag))
        .subcommand(config)
}

fn flag(key: &'static Key) -> Arg {
    let Key { name, placeholder, help, more, default, section, .. } = *key;
    let long_help = match more {
        "" => format!("{help} [default: {default}]"),
        more => format!("{help} [default: {default}]\n\n{more}"),
    };
    let arg = Arg::new(name)
        .long(name)
        .value_name(placeholder)
        .value_parser(value_parser!(OsString))
        .global(true)
        .help_heading(section.title())
        // Short, so that each flag is one line of a terminal.
        .help(format!("{help} [{default}]"))
        .long_help(long_help)
        // A repetition is refused later, with everything else.
        .action(ArgAction::Append);
    if key.is_switch() {
        return arg.num_args(0..=1).require_equals(true).default_missing_value("true");
    }
    arg
}

impl CommandLine {
    /// Reads the arguments, of which the first is the name of the program, and the variables of the
    /// environment.
    ///
    /// `clap` stops at the first argument that it does not know. So each of those is noted and left
    /// out, and the rest is read again.
    fn from_arguments(
        mut arguments: Vec<OsString>,
        environment: &Environment,
    ) -> Result<Self, clap::Error> {
        let mut faults = Vec::new();
        loop {
            let error = match command().try_get_matches_from(&arguments) {
                Ok(matches) => {
                    let mut command_line = Self::from_matches(&matches, environment);
                    command_line.faults.splice(0..0, faults);
                    return Ok(command_line);
                }
                Err(error) => error,
            };
            match leave_out_unknown(&mut arguments, &error) {
                Some(name) => faults.push(unknown(&name)),
                None if faults.is_empty() => return Err(error),
                None => {
                    // Help was asked for, or `clap` sees no more than this.
                    if error.use_stderr() {
                        let text = error.to_string();
                        let line = text.lines().next().unwrap_or_default();
                        faults.push(line.trim_start_matches("error: ").to_owned());
                    }
                    let (task, file, written) = (Task::Serve, None, Written::default());
                    return Ok(Self { task, file, written, faults, warnings: Vec::new() });
                }
            }
        }
    }

    fn from_matches(matches: &ArgMatches, environment: &Environment) -> Self {
        let (task, matches) = match matches.subcommand() {
            Some((_, config)) if config.get_flag("print") => (Task::PrintConfiguration, config),
            Some((_, config)) => (Task::CheckConfiguration, config),
            None => (Task::Serve, matches),
        };
        let flags = |name| matches.get_many::<OsString>(name).into_iter().flatten();
        let variable = |name: &str| environment.get(name).cloned();

        let mut faults = Vec::new();
        let paths: Vec<_> = flags("config").collect();
        if let [_, .., last] = paths[..] {
            faults.push(format!("--config '{}': is there twice; leave one out", last.display()));
        }
        let file = match paths.last() {
            Some(path) => Some((PathBuf::from(path), Origin::Flag)),
            None => variable("ARENA_ECHO_CONFIG").map(|path| (path.into(), Origin::Variable)),
        };

        let (mut written, mut weaker) = (Written::default(), Written::default());
        for key in &KEYS {
            let item = |text: &OsString| Item { text: text.clone(), origin: Origin::Flag };
            written.put(key, flags(key.name).map(item).collect());
            let text = variable(&key.variable());
            weaker.put(key, text.map(|text| of_variable(key, &text)).unwrap_or_default());
        }
        let unknown = environment.keys().filter(|name| keys::is_unknown_variable(name));
        let warnings = unknown.map(|name| unknown_variable(name)).collect();
        Self { task, file, written: written.or(weaker), faults, warnings }
    }
}

/// Takes out what `error` says is unknown, with what seems to be its value, and returns its name.
/// `None` if the error is another.
fn leave_out_unknown(arguments: &mut Vec<OsString>, error: &clap::Error) -> Option<String> {
    let kind = match error.kind() {
        ErrorKind::UnknownArgument => ContextKind::InvalidArg,
        ErrorKind::InvalidSubcommand => ContextKind::InvalidSubcommand,
        _ => return None,
    };
    let Some(ContextValue::String(name)) = error.get(kind) else { return None };
    let is_flag = name.starts_with('-');
    let is_short = is_flag && !name.starts_with("--");
    let is_it = |argument: &OsString| {
        let argument = argument.to_string_lossy();
        let rest = argument.strip_prefix(name.as_str());
        // Several letters behind one dash are several flags.
        rest.is_some_and(|rest| is_short || rest.is_empty() || rest.starts_with('='))
    };
    let index = 1 + arguments.iter().skip(1).position(is_it)?;
    let removed = arguments.remove(index);
    let may_have_value = is_flag && removed.len() == name.len();
    let is_value = |argument: &OsString| {
        !argument.to_string_lossy().starts_with('-') && argument != "config" && argument != "help"
    };
    if may_have_value && arguments.get(index).is_some_and(is_value) {
        arguments.remove(index);
    }
    Some(name.clone())
}

fn unknown(name: &str) -> String {
    if !name.starts_with('-') {
        return format!("'{name}': is neither a flag nor a command; --help shows all of them");
    }
    match keys::flag_meant_by(name) {
        Some(flag) => format!("{name}: is no flag; did you mean --{flag}?"),
        None => format!("{name}: is no flag; --help shows all of them"),
    }
}

fn unknown_variable(name: &str) -> String {
    match keys::variable_meant_by(name) {
        Some(variable) => format!("{name}: no flag has this variable; did you mean {variable}?"),
        None => format!("{name}: no flag has this variable; --help shows all flags"),
    }
}

/// A variable that lists addresses has commas.
fn of_variable(key: &Key, text: &OsStr) -> Vec<Item> {
    let item = |text: &OsStr| Item { text: text.to_owned(), origin: Origin::Variable };
    match text.to_str() {
        Some(list) if key.is_list() => {
            let texts = list.split(',').map(str::trim).filter(|text| !text.is_empty());
            texts.map(|text| item(OsStr::new(text))).collect()
        }
        _ => vec![item(text)],
    }
}

#[cfg(test)]
pub(crate) fn parsed(flags: &str) -> CommandLine {
    let arguments = ["arena-echo"].into_iter().chain(flags.split_whitespace());
    let arguments = arguments.map(OsString::from).collect();
    CommandLine::from_arguments(arguments, &Environment::new()).expect("flags")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn the_help_says_what_a_signal_changes() {
        let mut paragraphs = AFTER_LONG_HELP.split("\n\n");
        let said = paragraphs.find(|paragraph| paragraph.contains("SIGHUP ")).expect("one");
        for key in &KEYS {
            // Timeouts are named where they are exceptions.
            let is_named = key.is_reloadable != key.name.ends_with("-timeout");
            assert_eq!(said.contains(&format!("--{}", key.name)), is_named, "{}", key.name);
        }
    }

    #[test]
    fn flags_may_stand_on_both_sides_of_a_subcommand() {
        for flags in ["config --print --capacity 1k", "--capacity 1k config --print"] {
            let CommandLine { task, written, .. } = parsed(flags);
            assert_eq!(task, Task::PrintConfiguration);
            assert_eq!(written.of("capacity")[0].text, "1k");
        }
    }

    #[test]
    fn every_flag_that_is_unknown_is_noted_and_the_rest_is_read() {
        let read = parsed("--colour red --capacty=1k config --threads 2 -xy --config a");
        let expected = [
            "--colour: is no flag; --help shows all of them",
            "--capacty: is no flag; did you mean --capacity?",
            "-x: is no flag; --help shows all of them",
        ];
        assert_eq!(read.faults, expected);
        assert_eq!(
            (read.task, read.written.of("threads")[0].text.as_os_str()),
            (Task::CheckConfiguration, OsStr::new("2"))
        );
        assert!(read.file.is_some());
        let faults = parsed("serve --config a --config b").faults;
        let expected = [
            "'serve': is neither a flag nor a command; --help shows all of them",
            "--config 'b': is there twice; leave one out",
        ];
        assert_eq!(faults, expected);
        let faults = parsed("--colour --capacity").faults;
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[1].starts_with("a value is required for '--capacity"), "{faults:?}");
    }

    #[test]
    fn a_switch_needs_no_value() {
        let value = |flags| parsed(flags).written.of("reuse-port")[0].text.clone();
        assert_eq!(value("--reuse-port --mode fixed"), "true");
        assert_eq!(value("--reuse-port=false"), "false");
    }
}
