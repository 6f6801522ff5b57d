//! The command line: a flag and an environment variable for every key.
//!
//! Values are text to `clap` and read later, because `clap` stops at the first that it cannot read.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, parser::ValueSource, value_parser};

use super::{
    keys::{KEYS, Key},
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
}

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
than the default. `arena-echo config --print` shows which one holds.

Signals:
  SIGINT and SIGTERM stop accepting, answer what has arrived and exit with 0; a second one exits \
at once. SIGHUP reads the configuration again; timeouts, --max-connections and --log-filter \
change without a restart.

Exit status:
  0 after a signal, 1 if it could not run or somebody was cut off at --drain-timeout, 2 if the \
configuration or the command line cannot work.";

/// Reads the command line and the environment. Prints help or an error and exits, if that is due.
pub(crate) fn read() -> CommandLine {
    CommandLine::from_matches(&command().get_matches())
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
        .max_term_width(100)
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .env("ARENA_ECHO_CONFIG")
                .hide_env(true)
                .global(true)
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
        .env(key.variable())
        .hide_env(true)
        .global(true)
        .help_heading(section.title())
        // Short, so that each flag is one line of a terminal.
        .help(format!("{help} [{default}]"))
        .long_help(long_help)
        .action(if key.is_list() { ArgAction::Append } else { ArgAction::Set });
    if key.is_switch() {
        return arg.num_args(0..=1).require_equals(true).default_missing_value("true");
    }
    arg
}

impl CommandLine {
    fn from_matches(matches: &ArgMatches) -> Self {
        let (task, matches) = match matches.subcommand() {
            Some((_, config)) if config.get_flag("print") => (Task::PrintConfiguration, config),
            Some((_, config)) => (Task::CheckConfiguration, config),
            None => (Task::Serve, matches),
        };
        let file = matches.get_one::<PathBuf>("config").filter(|path| !path.as_os_str().is_empty());
        let file = file.and_then(|path| Some((path.clone(), origin(matches, "config")?)));

        let mut written = Written::default();
        for key in &KEYS {
            if let Some(origin) = origin(matches, key.name) {
                let texts = matches.get_many::<String>(key.name).into_iter().flatten();
                written.put(key, items(key, texts, &origin));
            }
        }
        Self { task, file, written }
    }
}

fn origin(matches: &ArgMatches, name: &str) -> Option<Origin> {
    match matches.value_source(name)? {
        ValueSource::CommandLine => Some(Origin::Flag),
        ValueSource::EnvVariable => Some(Origin::Variable),
        _ => None,
    }
}

/// A variable that is empty counts as absent, and one that lists addresses has commas.
fn items<'t>(key: &Key, texts: impl Iterator<Item = &'t String>, origin: &Origin) -> Vec<Item> {
    let item = |text: &str| Item { text: text.to_owned(), origin: origin.clone() };
    match origin {
        Origin::Variable if key.is_list() => texts
            .flat_map(|text| text.split(','))
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .map(item)
            .collect(),
        Origin::Variable => {
            texts.map(String::as_str).filter(|text| !text.is_empty()).map(item).collect()
        }
        _ => texts.map(String::as_str).map(item).collect(),
    }
}

#[cfg(test)]
pub(crate) fn parsed(flags: &str) -> CommandLine {
    let arguments = ["arena-echo"].into_iter().chain(flags.split_whitespace());
    CommandLine::from_matches(&command().try_get_matches_from(arguments).expect("known flags"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_consistent() {
        command().debug_assert();
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
    fn a_switch_needs_no_value() {
        let value = |flags| parsed(flags).written.of("reuse-port")[0].text.clone();
        assert_eq!(value("--reuse-port --mode fixed"), "true");
        assert_eq!(value("--reuse-port=false"), "false");
    }
}
