//! What the text of a value means, and what is wrong with it if it means nothing.

use std::{
    collections::BTreeSet,
    fmt::{self, Debug},
    ops::RangeInclusive,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use arena_echo::Size;
use tracing_subscriber::EnvFilter;

use super::{
    keys::{self, Key},
    written::{Item, Label, Written},
};

/// Threads that a runtime can have without failing for other reasons.
const THREADS: RangeInclusive<usize> = 1..=1024;

/// The silences that Linux lets a connection have before it is probed, but in round hours.
const KEEPALIVE: RangeInclusive<u64> = 1..=9 * 60 * 60;

/// Reads values and collects what is wrong with them.
#[derive(Debug)]
pub(crate) struct Reader<'w> {
    written: &'w Written,
    pub(crate) faults: Vec<String>,
    /// The keys whose values are not known.
    pub(crate) unreadable: BTreeSet<&'static str>,
}

impl<'w> Reader<'w> {
    pub(crate) fn new(written: &'w Written) -> Self {
        Self { written, faults: Vec::new(), unreadable: BTreeSet::new() }
    }

    /// Reads a value if it is written and can be read.
    pub(crate) fn read<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let value = match self.written.of(name) {
            [] => None,
            [item] => self.parse(name, item, &parse),
            [.., last] => {
                self.refuse(name, last, "is there twice; leave one out");
                None
            }
        };
        self.check_overridden(name, parse);
        value
    }

    /// Reads all values that are written and can be read.
    pub(crate) fn read_all<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<(&'w Item, T)> {
        let mut values = Vec::new();
        for item in self.written.of(name) {
            values.extend(self.parse(name, item, &parse).map(|value| (item, value)));
        }
        self.check_overridden(name, parse);
        values
    }

    /// Replaces `target` by the value, if it is written and can be read.
    pub(crate) fn set<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
        target: &mut T,
    ) {
        if let Some(value) = self.read(name, parse) {
            *target = value;
        }
    }

    pub(crate) fn refuse_other_mode(&mut self, name: &'static str, mode: &str) {
        let reason = format_args!("only --mode {mode} has it; leave it out or set that mode");
        self.refuse_written(name, reason);
    }

    fn parse<T>(
        &mut self,
        name: &'static str,
        item: &Item,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        read_by(parse, item).map_err(|reason| self.refuse(name, item, reason)).ok()
    }

    /// Refuses overridden values that cannot be read. The one that holds is known all the same.
    fn check_overridden<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) {
        for item in self.written.overridden(name) {
            if let Err(reason) = read_by(&parse, item) {
                self.note(name, item, reason);
            }
        }
    }

    /// Notes that what is written for a key cannot work. There is something written for it.
    pub(super) fn refuse_written(&mut self, name: &'static str, reason: impl fmt::Display) {
        if let Some(item) = self.written.of(name).last() {
            self.refuse(name, item, reason);
        }
    }

    /// Notes that a value cannot work.
    pub(super) fn refuse(&mut self, name: &'static str, item: &Item, reason: impl fmt::Display) {
        self.unreadable.insert(name);
        self.note(name, item, reason);
    }

    fn note(&mut self, name: &'static str, item: &Item, reason: impl fmt::Display) {
        let (key, value) = (key(name), &quoted(item));
        let label = Label { key, value, origin: &item.origin, is_first: true };
        self.faults.push(format!("{label}: {reason}"));
    }
}

/// Names a value in the middle of a message.
pub(super) fn label(name: &str, item: &Item) -> String {
    let (key, value) = (key(name), &quoted(item));
    Label { key, value, origin: &item.origin, is_first: false }.to_string()
}

fn key(name: &str) -> &'static Key {
    keys::find(name).expect("a key of the table")
}

fn quoted(item: &Item) -> String {
    match item.text.to_str() {
        Some(text) => format!("'{}'", text.escape_debug()),
        None => format!("'{}'", item.text.as_encoded_bytes().escape_ascii()),
    }
}

fn read_by<T>(parse: impl Fn(&str) -> Result<T, String>, item: &Item) -> Result<T, String> {
    match item.text.to_str() {
        Some(text) => parse(text),
        None => Err("is not text; write it in UTF-8".to_owned()),
    }
}

pub(crate) fn text<T: FromStr<Err = String>>(written: &str) -> Result<T, String> {
    written.parse()
}

/// Reads the path of a file.
pub(crate) fn path(written: &str) -> Result<PathBuf, String> {
    if written.is_empty() {
        return Err("is not a path; write that of a file".to_owned());
    }
    Ok(written.into())
}

pub(crate) fn bytes(written: &str) -> Result<usize, String> {
    written.parse().map(|Size(bytes)| bytes)
}

pub(crate) fn count(written: &str) -> Result<usize, String> {
    written.parse().map_err(|_| "is not a count; write a whole number".to_owned())
}

pub(crate) fn time(written: &str) -> Result<Duration, String> {
    let unreadable = |_| "is not a time; write for example 500ms, 10s or 1m".to_owned();
    humantime::parse_duration(written).map_err(unreadable)
}

/// Reads `off` as nothing, and anything else as `parse` does.
pub(crate) fn or_off<T>(
    parse: impl Fn(&str) -> Result<T, String>,
) -> impl Fn(&str) -> Result<Option<T>, String> {
    move |written| match written {
        "off" => Ok(None),
        written => match parse(written) {
            Ok(value) => Ok(Some(value)),
            Err(reason) => Err(format!("{reason}, or off")),
        },
    }
}

/// Reads one of a few words.
pub(crate) fn choice<T: Copy>(
    choices: &'static [(&'static str, T)],
) -> impl Fn(&str) -> Result<T, String> {
    move |written| {
        let chosen = choices.iter().find(|(word, _)| *word == written);
        chosen.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
            format!("is not one of the values; set it to {}", words.join(" or "))
        })
    }
}

pub(crate) fn truth(written: &str) -> Result<bool, String> {
    choice(&[("true", true), ("false", false)])(written)
}

pub(crate) fn threads(written: &str) -> Result<Option<usize>, String> {
    if written == "auto" {
        return Ok(None);
    }
    let (first, last) = THREADS.into_inner();
    match written.parse() {
        Ok(threads) if THREADS.contains(&threads) => Ok(Some(threads)),
        _ => Err(format!("set it to at least {first} and at most {last}, or to auto")),
    }
}

pub(crate) fn backlog(written: &str) -> Result<u16, String> {
    let refused = || format!("set it to at least 1 and at most {}", u16::MAX);
    written.parse().ok().filter(|backlog| *backlog > 0).ok_or_else(refused)
}

pub(crate) fn keepalive(written: &str) -> Result<Option<Duration>, String> {
    let keepalive = or_off(time)(written)?;
    let is_possible = |keepalive: &Duration| {
        keepalive.subsec_nanos() == 0 && KEEPALIVE.contains(&keepalive.as_secs())
    };
    if keepalive.as_ref().is_none_or(is_possible) {
        Ok(keepalive)
    } else {
        Err("set it to whole seconds, at least 1s and at most 9h, or to off".to_owned())
    }
}

/// Checks a filter for log lines.
pub(crate) fn filter(written: &str) -> Result<String, String> {
    match EnvFilter::builder().parse(written) {
        Ok(_) => Ok(written.to_owned()),
        Err(error) => Err(format!(
            "is not a filter ({error}); write for example info or warn,arena_echo=debug"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_is_no_value() {
        assert_eq!(or_off(time)("off"), Ok(None));
        assert_eq!(or_off(time)("1s"), Ok(Some(Duration::from_secs(1))));
        assert_eq!(
            or_off(time)("never").unwrap_err(),
            "is not a time; write for example 500ms, 10s or 1m, or off"
        );
    }

    #[test]
    fn probes_begin_after_whole_seconds() {
        assert_eq!(keepalive("off"), Ok(None));
        assert_eq!(keepalive("1m"), Ok(Some(Duration::from_secs(60))));
        for text in ["500ms", "0s", "10h", "1s 1ms"] {
            assert!(keepalive(text).is_err(), "{text}");
        }
    }

    #[test]
    fn nothing_is_no_number_of_threads() {
        assert_eq!(threads("auto"), Ok(None));
        assert_eq!(threads("2"), Ok(Some(2)));
        for text in ["0", "1025", "-1", "many"] {
            assert!(threads(text).is_err(), "{text}");
        }
    }
}
