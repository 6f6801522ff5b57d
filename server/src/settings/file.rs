//! The configuration file: TOML, one value for each key, no tables.

use std::{path::Path, sync::Arc};

use toml::de::{DeTable, DeValue};

use super::{
    keys::{self, Key},
    written::{Item, Origin, Written},
};

/// What a file says.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) written: Written,
    /// What is wrong with it, in the order of its lines.
    pub(crate) faults: Vec<String>,
    /// Whether all of it is TOML. If not, more may be written there than was found.
    pub(crate) is_complete: bool,
}

/// Reads the text of the file at `path`.
pub(crate) fn read(text: &str, path: &Path) -> Contents {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut reader =
        Reader { path: Arc::from(path), text, written: Written::default(), faults: Vec::new() };
    for error in &errors {
        let line = error.span().map_or(1, |span| line_of(text, span.start));
        let fault = (line, describe(error, text, line));
        // The parser may stumble over one value several times.
        if !reader.faults.contains(&fault) {
            reader.faults.push(fault);
        }
    }
    let broken: Vec<_> = reader.faults.iter().map(|(line, _)| *line).collect();
    for (name, value) in table.get_ref() {
        let line = line_of(text, name.span().start);
        // What the parser made up for a broken line is not what is written there.
        if !broken.contains(&line) {
            reader.take(name.get_ref(), line, value.get_ref());
        }
    }
    reader.faults.sort_by_key(|(line, _)| *line);
    let place = |(line, fault)| format!("{}:{line}: {fault}", path.display());
    Contents {
        written: reader.written,
        faults: reader.faults.into_iter().map(place).collect(),
        is_complete: errors.is_empty(),
    }
}

struct Reader<'t> {
    path: Arc<Path>,
    text: &'t str,
    written: Written,
    /// Each with its line.
    faults: Vec<(usize, String)>,
}

impl Reader<'_> {
    fn take(&mut self, name: &str, line: usize, value: &DeValue<'_>) {
        let Some(key) = keys::find(name).filter(|key| key.name == name) else {
            let fault = match value {
                DeValue::Table(_) => format!("{name}: is a table; write its keys without it"),
                _ => unknown(name),
            };
            self.faults.push((line, fault));
            return;
        };
        let items = match value {
            DeValue::Array(values) if key.is_list() => values
                .iter()
                .filter_map(|value| {
                    self.item(key, line_of(self.text, value.span().start), value.get_ref())
                })
                .collect(),
            value => self.item(key, line, value).into_iter().collect(),
        };
        if matches!(value, DeValue::Array(values) if key.is_list() && values.is_empty()) {
            self.faults.push((line, format!("{name}: is empty; write at least one value")));
        }
        self.written.put(key, items);
    }

    /// Returns one value as the text that a flag would have.
    fn item(&mut self, key: &Key, line: usize, value: &DeValue<'_>) -> Option<Item> {
        let text = match value {
            DeValue::String(text) => Ok(text.to_string()),
            DeValue::Boolean(value) => Ok(value.to_string()),
            DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
                .map(|integer| integer.to_string())
                .map_err(|_| "a number that is too large"),
            DeValue::Float(_) => Err("a number with a fraction"),
            DeValue::Datetime(_) => Err("a date"),
            DeValue::Array(_) => Err("a list"),
            DeValue::Table(_) => Err("a table"),
        };
        match text {
            Ok(text) => {
                Some(Item { text: text.into(), origin: Origin::Line(Arc::clone(&self.path), line) })
            }
            Err(kind) => {
                let Key { name, default, .. } = key;
                let fault =
                    format!("{name}: is {kind}; write one value, for example \"{default}\"");
                self.faults.push((line, fault));
                None
            }
        }
    }
}

/// Says what is wrong with a line that is no TOML, and what to write instead.
fn describe(error: &toml::de::Error, text: &str, line: usize) -> String {
    if let ("duplicate key", Some(name)) =
        (error.message(), error.span().and_then(|span| text.get(span)))
    {
        return format!("{name}: is there twice; leave one out");
    }
    let line = text.lines().nth(line - 1).unwrap_or_default().trim();
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let (name, rest) = line.split_at(line.find(|c| !is_of_name(c)).unwrap_or(line.len()));
    let rest = rest.trim_start();
    match (keys::find(name).filter(|key| key.name == name), rest.strip_prefix('=')) {
        (Some(key), value) => {
            let value = value.or(rest.strip_prefix(':')).unwrap_or(rest);
            let value = value.split(" #").next().unwrap_or_default().trim();
            let shown = value.escape_debug();
            format!("{name} '{shown}': is no value of TOML; write {}", quoted(key, value))
        }
        (None, Some(_)) if !name.is_empty() => unknown(name),
        (None, _) => {
            let (shown, reason) = (line.escape_debug(), error.message());
            format!("'{shown}': is no TOML ({reason}); write a line like capacity = \"64MiB\"")
        }
    }
}

/// A line that gives a key what was meant by `value`, or an example if that cannot be guessed.
fn quoted(key: &Key, value: &str) -> String {
    let Key { name, default, .. } = key;
    let word = value.trim_matches(['"', '\'']).trim();
    let is_special = |c: char| c.is_control() || matches!(c, '"' | '\\' | '[' | ']');
    if word.is_empty() || word.contains(is_special) || key.is_switch() {
        format!("for example {name} = \"{default}\"")
    } else {
        format!("{name} = \"{word}\"")
    }
}

fn unknown(name: &str) -> String {
    match keys::meant_by(name) {
        Some(key) => format!("{name}: is no key; did you mean {key}?"),
        None => format!("{name}: is no key; `arena-echo config --print` shows all of them"),
    }
}

fn line_of(text: &str, position: usize) -> usize {
    let before = &text.as_bytes()[..position.min(text.len())];
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        read(text, Path::new("a.toml")).faults
    }

    #[test]
    fn values_are_the_text_that_flags_would_have() {
        let text = "capacity = 1_024\nreuse-port = true\nmode = 'fixed'\nlisten = [':1', ':2']";
        let Contents { written, faults, is_complete } = read(text, Path::new("a.toml"));
        assert_eq!(faults, [""; 0]);
        assert!(is_complete);
        let texts = |name: &str| -> Vec<_> {
            written.of(name).iter().map(|item| item.text.as_os_str()).collect()
        };
        assert_eq!(texts("capacity"), ["1024"]);
        assert_eq!(texts("reuse-port"), ["true"]);
        assert_eq!(texts("mode"), ["fixed"]);
        assert_eq!(texts("listen"), [":1", ":2"]);
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_one_that_was_meant() {
        let expected = [
            "a.toml:1: max_frame: is no key; did you mean max-frame?",
            "a.toml:2: colour: is no key; `arena-echo config --print` shows all of them",
            "a.toml:3: --mode: is no key; did you mean mode?",
        ];
        assert_eq!(faults("max_frame = 1\ncolour = 'red'\n\"--mode\" = 'fixed'"), expected);
    }

    #[test]
    fn a_key_that_is_there_twice_is_named() {
        let expected = ["a.toml:3: mode: is there twice; leave one out"];
        assert_eq!(faults("mode = 'fixed'\nbacklog = 1\nmode = 'buddy'"), expected);
    }

    #[test]
    fn what_is_no_single_value_is_refused() {
        let expected = [
            "a.toml:1: capacity: is a number with a fraction; write one value, for example \"64MiB\"",
            "a.toml:2: mode: is a list; write one value, for example \"buddy\"",
            "a.toml:3: listen: is empty; write at least one value",
            "a.toml:4: spill: is a table; write one value, for example \"0\"",
            "a.toml:5: limits: is a table; write its keys without it",
        ];
        let text = "capacity = 1.5\nmode = []\nlisten = []\n[spill]\n[limits]";
        assert_eq!(faults(text), expected);
    }

    #[test]
    fn a_value_without_quotes_is_named_with_the_line_that_was_meant() {
        let lines = [
            ("capacity = 64MiB", "capacity '64MiB'", "capacity = \"64MiB\""),
            ("  capacity=64 MiB  # all", "capacity '64 MiB'", "capacity = \"64 MiB\""),
            ("capacity: 64MiB", "capacity '64MiB'", "capacity = \"64MiB\""),
            ("max-frame 4k", "max-frame '4k'", "max-frame = \"4k\""),
            ("mode = \"fixed", "mode '\\\"fixed'", "mode = \"fixed\""),
            ("listen = :9000", "listen ':9000'", "listen = \":9000\""),
            ("listen = [::1]:9", "listen '[::1]:9'", "for example listen = \"127.0.0.1:9000\""),
            ("log-filter = a,b=c", "log-filter 'a,b=c'", "log-filter = \"a,b=c\""),
            ("reuse-port = True", "reuse-port 'True'", "for example reuse-port = \"false\""),
            ("capacity", "capacity ''", "for example capacity = \"64MiB\""),
        ];
        for (line, named, meant) in lines {
            let expected = format!("a.toml:1: {named}: is no value of TOML; write {meant}");
            assert_eq!(faults(line), [expected], "{line}");
            let meant = meant.trim_start_matches("for example ");
            assert_eq!(faults(meant), [""; 0], "{meant}");
        }
    }

    #[test]
    fn a_line_that_is_no_toml_is_shown_even_if_it_names_no_key() {
        let fault = &faults("[limits")[0];
        assert!(fault.starts_with("a.toml:1: '[limits': is no TOML (unclosed table"), "{fault}");
        assert!(fault.ends_with("; write a line like capacity = \"64MiB\""), "{fault}");
        assert_eq!(faults("max_frame = 4k"), faults("max_frame = '4k'"));
    }

    #[test]
    fn what_is_no_toml_is_reported_beside_what_is() {
        let contents = read("capacity = \nmode = 'x'\ncolour = 1", Path::new("a.toml"));
        assert!(!contents.is_complete);
        assert_eq!(contents.faults.len(), 2, "{:?}", contents.faults);
        assert!(contents.faults[0].starts_with("a.toml:1: "), "{:?}", contents.faults);
        assert_eq!(contents.written.of("mode")[0].text, "x");
        assert!(contents.written.of("capacity").is_empty(), "made up");
    }
}
