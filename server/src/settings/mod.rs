//! The settings of the program: flags over environment over file over defaults.
//!
//! | Module         | What it knows                                               |
//! |----------------|-------------------------------------------------------------|
//! | `keys`         | what can be configured                                      |
//! | `command_line` | the text of flags and environment variables                 |
//! | `file`         | the text of a TOML file                                     |
//! | `written`      | what text is written for a key, and where                   |
//! | `values`       | what that text means                                        |
//! | `addresses`    | where to listen                                             |
//! | `tls`          | the files with which connections are encrypted              |
//! | `print`        | the effective values, as a file that can be read back       |
//!
//! Nothing stops at the first error: everything that is wrong is reported at once.

mod addresses;
mod command_line;
mod file;
mod keys;
mod print;
mod tls;
mod values;
mod written;

use std::{fmt, io, path::Path, time::Duration};

use arena_echo::{ArenaKind, Config, ConfigError, Problem, Reply};

pub(crate) use self::command_line::{CommandLine, Task, read};
pub(crate) use self::tls::{Encryption, TlsPaths};
use self::{
    addresses::Addresses,
    file::Contents,
    values::Reader,
    written::{Label, Origin, Written},
};
use crate::{
    address::{AdminAddress, ListenAddress},
    files::ReadFile,
};

/// Everything that can be configured.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) config: Config,
    pub(crate) listen: Vec<ListenAddress>,
    pub(crate) backlog: u16,
    pub(crate) keepalive: Option<Duration>,
    pub(crate) reuse_port: bool,
    pub(crate) tls_paths: TlsPaths,
    /// What those files hold.
    pub(crate) encryption: Option<Encryption>,
    pub(crate) threads: Option<usize>,
    pub(crate) admin: Option<AdminAddress>,
    pub(crate) log_format: LogFormat,
    pub(crate) log_filter: String,
    /// Where the values come from.
    written: Written,
    /// What the environment has that is hardly meant.
    unknown: Vec<String>,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Everything that is wrong, a line each.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Faults {
    lines: Vec<String>,
    /// How log lines are to be written, as far as that is known.
    pub(crate) log_format: LogFormat,
}

impl Settings {
    /// Reads the file that the command line names, then all values, and checks that they work
    /// together. Every file is read by `read`.
    ///
    /// # Errors
    ///
    /// Every reason why they do not.
    pub(crate) fn load(command_line: &CommandLine, read: ReadFile<'_>) -> Result<Self, Faults> {
        let Contents { written, faults: of_file, is_complete } = contents(command_line, read);
        let mut faults = [&command_line.faults[..], &of_file].concat();
        let written = command_line.written.clone().or(written);
        let mut reader = Reader::new(&written);
        let settings = settings(&mut reader, read);

        let unreadable = reader.unreadable;
        faults.extend(reader.faults);
        // What the rest of a broken file says is not known, so conclusions would mislead. The same
        // holds for a value that cannot be read.
        let is_sound = |problem: &&Problem| {
            is_complete && !problem.involved().any(|(flag, _)| unreadable.contains(&flag[2..]))
        };
        let problems = settings.config.problems();
        faults.extend(problems.iter().filter(is_sound).map(|problem| describe(problem, &written)));
        if faults.is_empty() {
            return Ok(Self { written, unknown: command_line.warnings.clone(), ..settings });
        }
        Err(Faults { lines: faults, log_format: settings.log_format })
    }

    /// Says what the library found wrong, in the words of whoever wrote the values.
    pub(crate) fn faults(&self, error: &ConfigError) -> Faults {
        let problems = error.problems().iter();
        let lines = problems.map(|problem| describe(problem, &self.written)).collect();
        Faults { lines, log_format: self.log_format }
    }

    /// Makes one of what is wrong with none of the values.
    pub(crate) fn fault(&self, line: String) -> Faults {
        Faults { lines: vec![line], log_format: self.log_format }
    }

    /// Says what works, and is hardly what was meant.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.unknown.iter().cloned().chain(self.early_end_of_waits()).collect()
    }

    fn early_end_of_waits(&self) -> Option<String> {
        let Config { frame_timeout, write_timeout, memory_timeout, .. } = self.config;
        let held = frame_timeout + write_timeout;
        if memory_timeout > held {
            return None;
        }
        let time = humantime::format_duration;
        let problem = Problem::about("--memory-timeout", time(memory_timeout))
            .and("--frame-timeout", time(frame_timeout))
            .and("--write-timeout", time(write_timeout))
            .because(format_args!(
                "one peer may hold memory for longer than others wait for it; set --memory-timeout \
                 to more than {}",
                time(held)
            ));
        Some(describe(&problem, &self.written))
    }

    /// Returns whether addresses to listen on are written anywhere.
    pub(crate) fn names_listeners(&self) -> bool {
        !self.written.of("listen").is_empty()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}

impl Faults {
    pub(crate) fn lines(&self) -> &[String] {
        &self.lines
    }
}

/// What the file says that the command line names. Nothing if it names none.
fn contents(command_line: &CommandLine, read: ReadFile<'_>) -> Contents {
    let Some((path, origin)) = &command_line.file else {
        return Contents { is_complete: true, ..Contents::default() };
    };
    let name = match origin {
        Origin::Variable => "ARENA_ECHO_CONFIG",
        _ => "--config",
    };
    if path.as_os_str().is_empty() {
        let fault = format!("{name} '': is not a path; write that of a file");
        return Contents { faults: vec![fault], ..Contents::default() };
    }
    match read_text(path, read) {
        Ok(text) => file::read(&text, path),
        Err(error) => {
            let fault = format!("{name} {}: cannot read this file: {error}", path.display());
            Contents { faults: vec![fault], ..Contents::default() }
        }
    }
}

fn read_text(path: &Path, read: ReadFile<'_>) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|_| io::Error::other("it is not text in UTF-8"))
}

/// Names the values that take part in a problem by what they are called where they are written.
fn describe(problem: &Problem, written: &Written) -> String {
    let labels = problem.involved().enumerate().filter_map(|(index, (flag, value))| {
        let key = keys::find(flag)?;
        let origin = &written.origin_of(key.name);
        Some(Label { key, value, origin, is_first: index == 0 }.to_string())
    });
    format!("{}: {}", labels.collect::<Vec<_>>().join(" with "), problem.reason())
}

/// Reads every value; a default stands in for what cannot be read.
fn settings(reader: &mut Reader<'_>, read: ReadFile<'_>) -> Settings {
    let config = config(reader);
    let tls_paths = TlsPaths::read(reader);
    let encryption = tls_paths.load(reader, read);
    let Addresses { listen, reuse_port, admin } = Addresses::read(reader);
    let log_formats = values::choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]);
    Settings {
        config,
        listen,
        backlog: reader.read("backlog", values::backlog).unwrap_or(1024),
        keepalive: reader.read("keepalive", values::keepalive).unwrap_or(Some(KEEPALIVE)),
        reuse_port,
        tls_paths,
        encryption,
        threads: reader.read("threads", values::threads).unwrap_or(None),
        admin,
        log_format: reader.read("log-format", log_formats).unwrap_or(LogFormat::Text),
        log_filter: reader.read("log-filter", values::filter).unwrap_or_else(|| "info".to_owned()),
        written: Written::default(),
        unknown: Vec::new(),
    }
}

/// The silence after which a peer is probed: long enough to cost nothing, short enough to find a
/// dead one while somebody still wonders.
const KEEPALIVE: Duration = Duration::from_secs(60);

fn config(reader: &mut Reader<'_>) -> Config {
    let modes = values::choice(&[("fixed", Mode::Fixed), ("buddy", Mode::Buddy)]);
    let mode = reader.read("mode", modes).unwrap_or(Mode::Buddy);
    if reader.unreadable.contains("mode") {
        // Each mode has its own rules for these.
        reader.unreadable.extend(["capacity", "max-frame", "slot-size", "min-block", "spill"]);
    } else {
        match mode {
            Mode::Fixed => reader.refuse_other_mode("min-block", "buddy"),
            Mode::Buddy => reader.refuse_other_mode("slot-size", "fixed"),
        }
    }
    let mut config = match mode {
        Mode::Fixed => Config::fixed(),
        Mode::Buddy => Config::buddy(),
    };
    match &mut config.arena {
        ArenaKind::Fixed { slot_bytes } => {
            reader.set("slot-size", values::bytes, slot_bytes);
        }
        ArenaKind::Buddy { min_block_bytes } => {
            reader.set("min-block", values::bytes, min_block_bytes);
        }
    }
    read_rest(reader, &mut config);
    config
}

#[derive(Clone, Copy)]
enum Mode {
    Fixed,
    Buddy,
}

/// Reads what both modes have.
fn read_rest(reader: &mut Reader<'_>, config: &mut Config) {
    reader.set("capacity", values::bytes, &mut config.capacity_bytes);
    if let ArenaKind::Fixed { slot_bytes } = config.arena {
        config.max_frame_bytes = frame_of_slot(slot_bytes, config.capacity_bytes);
    }
    reader.set("spill", values::bytes, &mut config.spill_bytes);
    if reader.unreadable.contains("spill") {
        // How long frames may be depends on it.
        reader.unreadable.insert("max-frame");
    }
    if config.spill_bytes > 0 {
        // Frames may be longer than a slot then.
        config.max_frame_bytes = config.max_frame_bytes.max(Config::buddy().max_frame_bytes);
    }
    reader.set("max-frame", values::bytes, &mut config.max_frame_bytes);
    let replies = values::choice(&[("share", Reply::Share), ("copy", Reply::Copy)]);
    reader.set("reply", replies, &mut config.reply);
    reader.set("max-connections", values::count, &mut config.max_connections);

    let first_byte_timeout = &mut config.first_byte_timeout;
    reader.set("first-byte-timeout", values::or_off(values::time), first_byte_timeout);
    reader.set("idle-timeout", values::or_off(values::time), &mut config.idle_timeout);
    reader.set("frame-timeout", values::time, &mut config.frame_timeout);
    reader.set("write-timeout", values::time, &mut config.write_timeout);
    reader.set("stall-timeout", values::time, &mut config.stall_timeout);
    reader.set("memory-timeout", values::time, &mut config.memory_timeout);
    reader.set("drain-timeout", values::time, &mut config.drain_timeout);
}

/// The longest frame that is answered out of slots, unless another is written.
///
/// No longer than a header can announce, than the largest slot of which there can be two, and not
/// nothing: where a slot has an impossible size, that alone is to be changed.
fn frame_of_slot(slot_bytes: usize, capacity_bytes: usize) -> usize {
    slot_bytes.min(u32::MAX as usize).min(capacity_bytes / 2).max(1)
}

#[cfg(test)]
mod tests {
    use arena_echo::Size;

    use super::{command_line::parsed, *};
    use crate::files;

    fn load(flags: &str) -> Result<Settings, Vec<String>> {
        Settings::load(&parsed(flags), &files::any).map_err(|faults| faults.lines)
    }

    #[test]
    fn without_flags_the_defaults_of_the_library_hold() {
        let settings = load("").expect("the defaults work");
        assert_eq!(settings.listen, ["127.0.0.1:9000".parse().unwrap()]);
        assert_eq!(settings.config.arena, Config::buddy().arena);
        assert_eq!(settings.config.capacity_bytes, Config::buddy().capacity_bytes);
        assert_eq!(settings.config.max_frame_bytes, Config::buddy().max_frame_bytes);
        assert_eq!(settings.config.limits(), Config::buddy().limits());
        assert_eq!(load("--mode fixed").unwrap().config.arena, Config::fixed().arena);
    }

    #[test]
    fn in_fixed_mode_the_longest_frame_is_a_slot_unless_it_is_set_or_spills() {
        let longest = |flags| load(flags).expect("flags that work").config.max_frame_bytes;
        assert_eq!(longest("--mode fixed --slot-size 4k"), 4 << 10);
        assert_eq!(longest("--mode fixed --slot-size 4k --max-frame 1k"), 1 << 10);
        assert_eq!(longest("--mode fixed --slot-size 4k --spill 2MiB"), 1 << 20);
        assert_eq!(longest("--mode fixed --slot-size 2MiB --spill 8MiB"), 2 << 20);
        assert_eq!(longest("--mode fixed --slot-size 8GiB --capacity 16GiB"), u32::MAX as usize);
    }

    #[test]
    fn a_slot_of_an_impossible_size_is_blamed_and_no_frame() {
        for (slot, offer) in [
            ("64MiB", "; set --capacity to at least 128MiB, or --slot-size to at most 32MiB"),
            ("18446744073709551615", "; set --slot-size to at most 32MiB"),
        ] {
            let lines = load(&format!("--mode fixed --slot-size {slot}")).unwrap_err();
            let expected = format!("--capacity 64MiB (the default) with --slot-size {slot}: ");
            assert!(lines[0].starts_with(&expected) && lines[0].ends_with(offer), "{lines:?}");
            assert_eq!(lines.len(), 1, "{lines:?}");
        }
        let lines = load("--mode fixed --slot-size 0").unwrap_err();
        assert_eq!(lines.len(), 1, "{lines:?}");
    }

    #[test]
    fn who_waits_for_memory_for_a_shorter_time_than_others_may_hold_it_is_warned() {
        let warnings = |flags| load(flags).expect("flags that work").warnings();
        assert_eq!(warnings(""), [""; 0]);
        assert_eq!(
            warnings("--memory-timeout 1s --frame-timeout 300ms --write-timeout 600ms"),
            [""; 0]
        );
        let expected = "--memory-timeout 20s with --frame-timeout 10s (the default) with \
                        --write-timeout 10s (the default): one peer may hold memory for longer \
                        than others wait for it; set --memory-timeout to more than 20s";
        assert_eq!(warnings("--memory-timeout 20s"), [expected]);
    }

    #[test]
    fn what_cannot_be_read_and_what_cannot_work_are_reported_together() {
        let lines = load("--capacity 3MiB --drain-timeout soon").unwrap_err();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("--drain-timeout 'soon': is not a time"), "{lines:?}");
        assert!(lines[1].starts_with("--capacity 3MiB: "), "{lines:?}");
    }

    #[test]
    fn nothing_is_concluded_from_a_value_that_cannot_be_read() {
        let lines = load("--capacity lots --max-frame 1GiB").unwrap_err();
        assert_eq!(lines.len(), 1, "{lines:?}");
        let lines = load("--mode slab --slot-size 4k --min-block 3").unwrap_err();
        assert_eq!(lines.len(), 1, "{lines:?}");
    }

    #[test]
    fn every_change_that_is_offered_works() {
        let runs = [
            "--capacity 0",
            "--capacity 3",
            "--capacity 1 --min-block 1",
            "--capacity 64 --min-block 64 --max-frame 32",
            "--capacity 1MiB --max-frame 1MiB",
            "--capacity 1TiB --min-block 64",
            "--capacity 4EiB",
            "--capacity 9EiB",
            "--min-block 1GiB",
            "--max-frame 5GiB",
            "--spill 1MiB",
            "--mode fixed --capacity 100 --slot-size 64",
            "--mode fixed --capacity 0",
            "--mode fixed --slot-size 10",
            "--mode fixed --slot-size 64MiB",
            "--mode fixed --slot-size 18446744073709551615",
            "--mode fixed --slot-size 4k --max-frame 8k",
            "--mode fixed --max-frame 1MiB --spill 1MiB",
            "--mode fixed --spill 1EiB",
        ];
        for flags in runs {
            for line in load(flags).expect_err(flags) {
                for (flag, value) in offered(&line) {
                    let others = flags.split(" --").map(|other| other.trim_start_matches('-'));
                    let others = others.filter(|other| !other.starts_with(&flag[2..]));
                    let others: String = others.map(|other| format!("--{other} ")).collect();
                    let changed = format!("{others}{flag} {value}");
                    assert!(load(&changed).is_ok(), "{line}\n{changed}\n{:?}", load(&changed));
                }
            }
        }
    }

    #[test]
    fn the_least_that_is_offered_is_the_least_that_is_accepted() {
        let runs = [
            "--capacity 1 --mode fixed",
            "--capacity 1MiB",
            "--slot-size 1 --mode fixed",
            "--max-frame 0",
            "--spill 1 --max-frame 1MiB --mode fixed",
            "--first-byte-timeout 0s",
            "--idle-timeout 1ns",
            "--frame-timeout 999us",
            "--write-timeout 0s",
            "--stall-timeout 1us",
            "--memory-timeout 0s",
            "--drain-timeout 1ns",
            "--keepalive 1ns",
        ];
        for flags in runs {
            let (flag, others) = flags.split_once(' ').expect("a value");
            let (_, others) = others.split_once(' ').unwrap_or((others, ""));
            let lines = load(flags).expect_err(flags);
            let least = lines[0].rsplit_once("at least ").expect(&lines[0]).1;
            let least = least.split([' ', ',']).next().expect("a value");
            assert!(load(&format!("{flag} {least} {others}")).is_ok(), "{lines:?}");
            let below = match least.parse::<Size>() {
                Ok(Size(bytes)) => (bytes - 1).to_string(),
                Err(_) => {
                    let time = values::time(least).expect("a time") - Duration::from_nanos(1);
                    format!("{}ns", time.as_nanos())
                }
            };
            assert!(load(&format!("{flag} {below} {others}")).is_err(), "{flag} {below}");
        }
    }

    /// The flags and values that a message offers, as `--a: ...; set it to 1 or 2` or as
    /// `--a: ...; set --a to at least 1, or --b to at most 2`.
    fn offered<'l>(line: &'l str) -> Vec<(&'l str, &'l str)> {
        let (_, offer) = line.split_once("; set ").expect(line);
        let flag = line.split(' ').next().expect("a flag");
        let offers: Vec<_> = match offer.strip_prefix("it to ") {
            Some(values) => values.split(" or ").map(|value| (flag, value)).collect(),
            None => offer.split(", or ").filter_map(|one| one.split_once(" to ")).collect(),
        };
        let value = |text: &'l str| text.rsplit(' ').next().expect("a value");
        offers.into_iter().map(|(flag, text)| (flag, value(text))).collect()
    }

    #[test]
    fn a_flag_of_the_other_mode_is_refused() {
        let expected = "--slot-size '4k': only --mode fixed has it; leave it out or set that mode";
        assert_eq!(load("--slot-size 4k").unwrap_err(), [expected]);
        let expected = "--min-block '4k': only --mode buddy has it; leave it out or set that mode";
        assert_eq!(load("--mode fixed --min-block 4k").unwrap_err(), [expected]);
    }

    #[test]
    fn a_flag_that_is_there_twice_is_refused_beside_all_else() {
        let lines = load("--capacity 1MiB --backlog 0 --capacity 2MiB").unwrap_err();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert_eq!(lines[0], "--capacity '2MiB': is there twice; leave one out");
        assert!(lines[1].starts_with("--backlog '0': "), "{lines:?}");
    }

    #[test]
    fn changes_name_both_values_and_whether_they_wait_for_a_restart() {
        let before = load("").expect("the defaults work");
        let after =
            load("--mode fixed --idle-timeout off --slot-size 4k").expect("flags that work");
        let changes: Vec<_> = before
            .changes(&after)
            .iter()
            .map(|change| (change.to_string(), change.is_reloadable()))
            .collect();
        let expected = [
            (r#"mode from "buddy" to "fixed""#, false),
            (r#"slot-size from nothing to "4KiB""#, false),
            (r#"min-block from "256" to nothing"#, false),
            (r#"max-frame from "1MiB" to "4KiB""#, false),
            (r#"idle-timeout from "5m" to "off""#, true),
        ];
        assert_eq!(changes, expected.map(|(text, reloads)| (text.to_owned(), reloads)));
    }
}
