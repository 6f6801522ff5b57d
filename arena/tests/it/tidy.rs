//! The tree stays tidy: rules that no compiler checks.

use std::{
    fs,
    path::{Path, PathBuf},
};

const COLUMNS_MAX: usize = 100;

/// The members of the workspace that hold Rust code.
const MEMBERS: [&str; 4] = ["arena", "server", "loadgen", "benches"];

/// Where no memory is touched but through what others have proven.
const SAFE: [&str; 3] = ["arena/src/claim", "server/src", "loadgen/src"];

/// One line of one file, and where it is.
struct Line {
    place: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources_under(folder: &Path, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("target") {
                sources_under(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn sources_of(folders: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in folders {
        sources_under(&root().join(folder), &mut found);
    }
    assert!(!found.is_empty(), "there are sources in {folders:?}");
    found
}

fn lines_of(folders: &[&str]) -> impl Iterator<Item = Line> {
    sources_of(folders).into_iter().flat_map(|path| {
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text
            .lines()
            .enumerate()
            .map(|(index, line)| Line {
                place: format!("{}:{}", path.strip_prefix(root()).unwrap().display(), index + 1),
                text: line.to_owned(),
            })
            .collect();
        lines
    })
}

/// The lines that break a rule, for the message of a failed test.
fn offenders(folders: &[&str], breaks_the_rule: impl Fn(&str) -> bool) -> String {
    lines_of(folders)
        .filter(|line| breaks_the_rule(&line.text))
        .map(|line| format!("\n{}: {}", line.place, line.text.trim()))
        .collect()
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|part| part == word)
}

fn without_comment(line: &str) -> &str {
    line.split_once("//").map_or(line, |(code, _)| code)
}

/// What the file begins with, behind the attributes of its crate or module.
fn first_line(text: &str) -> &str {
    let mut lines =
        text.lines().skip_while(|line| line.trim().is_empty() || line.starts_with("#!["));
    lines.next().unwrap_or_default()
}

#[test]
#[cfg_attr(miri, ignore = "reads files")]
fn claims_server_and_generator_are_safe_code() {
    // Put together here, so that the needle does not stand in this file.
    let keyword = ["un", "safe"].concat();
    // Behind the word a hyphen makes another: that of a security policy.
    let hyphenated = format!("{keyword}-");
    let found = offenders(&SAFE, |line| {
        has_word(&without_comment(line).replace(&hyphenated, ""), &keyword)
    });
    assert!(found.is_empty(), "this code must be safe:{found}");
}

#[test]
#[cfg_attr(miri, ignore = "reads files")]
fn every_file_begins_by_saying_what_it_is() {
    let silent: Vec<_> = sources_of(&MEMBERS)
        .into_iter()
        .filter(|path| !first_line(&fs::read_to_string(path).unwrap()).starts_with("//! "))
        .collect();
    assert!(silent.is_empty(), "these files do not begin with `//! `: {silent:#?}");
}

#[test]
#[cfg_attr(miri, ignore = "reads files")]
fn nothing_is_left_for_later() {
    let needles = [
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
        ["dbg", "!"].concat(),
        ["unimplemented", "!"].concat(),
        ["todo", "!"].concat(),
    ];
    let found = offenders(&MEMBERS, |line| needles.iter().any(|needle| line.contains(needle)));
    assert!(found.is_empty(), "unfinished:{found}");
}

#[test]
#[cfg_attr(miri, ignore = "reads files")]
fn lines_fit_on_a_screen() {
    // Tables of orderings are wide, and strings are not broken.
    let may_be_wide = |line: &str| line.contains('|') || line.contains('"');
    let found =
        offenders(&MEMBERS, |line| line.chars().count() > COLUMNS_MAX && !may_be_wide(line));
    assert!(found.is_empty(), "longer than {COLUMNS_MAX} columns:{found}");
}

#[test]
fn a_word_is_found_only_as_a_whole() {
    assert!(has_word("let x = y;", "x"));
    assert!(!has_word("let xs = y_x;", "x"));
}

#[test]
fn attributes_may_stand_before_the_first_line() {
    assert_eq!(first_line("#![forbid(x)]\n\n//! What.\nuse y;"), "//! What.");
    assert_eq!(first_line("use y;\n//! What."), "use y;");
}
