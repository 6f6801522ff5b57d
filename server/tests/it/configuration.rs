//! Where values come from, and how the effective ones are shown.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use toml::{Table, Value};

use crate::support::program;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs")
}

/// Runs the program with these arguments and variables alone.
fn outcome(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(program::PATH);
    command.env_clear().envs(variables.iter().copied()).args(arguments);
    command.output().expect("the program starts")
}

fn printed(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let arguments = [&["config", "--print"], arguments].concat();
    let Output { status, stdout, stderr } = outcome(&arguments, variables);
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success() && stderr.is_empty(), "{arguments:?}: {status}\n{stderr}");
    String::from_utf8(stdout).expect("text")
}

fn effective(arguments: &[&str]) -> Table {
    printed(arguments, &[]).parse().expect("TOML")
}

/// The defaults of all keys, whatever the system allows.
fn defaults() -> Table {
    let mut defaults = effective(&[]);
    defaults.extend(effective(&["--mode=fixed"]).remove_entry("slot-size"));
    let line = line_of(&printed(&[], &[]), "max-connections");
    if let Some((_, written)) = line.split_once("# default ") {
        let (count, _) = written.split_once(';').expect("a reason");
        defaults
            .insert("max-connections".to_owned(), Value::Integer(count.parse().expect("a count")));
    }
    defaults
}

fn refused(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let Output { status, stdout, stderr } = outcome(arguments, variables);
    assert_eq!(status.code(), Some(2), "{arguments:?}");
    assert!(stdout.is_empty(), "{arguments:?}");
    String::from_utf8(stderr).expect("text")
}

/// A file with this text. Deleted when dropped.
fn file(text: &str) -> tempfile::TempPath {
    let file = tempfile::NamedTempFile::with_suffix(".toml").expect("a temporary file");
    fs::write(file.path(), text).expect("a file that can be written");
    file.into_temp_path()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}

/// The line that sets a key, without the spaces that align it.
fn line_of(printed: &str, key: &str) -> String {
    let line = printed.lines().find(|line| line.starts_with(&format!("{key} ="))).expect("a key");
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn what_is_printed_can_be_read_back() {
    let runs: [&[&str]; 4] = [
        &[],
        &["--mode", "fixed", "--slot-size", "3k", "--idle-timeout", "off", "--threads", "3"],
        &["--mode=fixed", "--spill=8MiB", "--reply=copy", "--keepalive=off", "--reuse-port"],
        &["--listen", "[::1]:0", "--listen", "unix:/a b\"c", "--log-filter", "a=debug,b=off"],
    ];
    for arguments in runs {
        let first = printed(arguments, &[]);
        let file = file(&first);
        let second = printed(&["--config", text(&file)], &[]);
        assert_eq!(first.parse::<Table>().unwrap(), second.parse::<Table>().unwrap(), "{first}");
        assert!(!second.contains("# default"), "every value now comes from the file:\n{second}");
    }
}

#[test]
fn a_flag_is_stronger_than_its_variable_that_than_the_file_and_that_than_the_default() {
    let file = file("capacity = '1GiB'\nmax-frame = '2MiB'\n\nbacklog = 7");
    let variables = [("ARENA_ECHO_CAPACITY", "2GiB"), ("ARENA_ECHO_MAX_FRAME", "3MiB")];
    let printed = printed(&["--config", text(&file), "--capacity", "4GiB"], &variables);
    assert_eq!(line_of(&printed, "capacity"), "capacity = \"4GiB\" # --capacity");
    assert_eq!(line_of(&printed, "max-frame"), "max-frame = \"3MiB\" # ARENA_ECHO_MAX_FRAME");
    assert_eq!(line_of(&printed, "backlog"), format!("backlog = 7 # {}:4", text(&file)));
    assert_eq!(line_of(&printed, "min-block"), "min-block = \"256\" # default");
}

#[test]
fn what_is_in_effect_is_printed_where_something_else_is_written() {
    let printed = printed(
        &["--mode=fixed", "--capacity=1MiB", "--slot-size=100000"],
        &[("ARENA_ECHO_SPILL", "3MiB")],
    );
    let expected = "capacity = \"1000000\" # --capacity 1MiB, rounded down to whole slots";
    assert_eq!(line_of(&printed, "capacity"), expected);
    let expected = "spill = \"2MiB\" # ARENA_ECHO_SPILL 3MiB, rounded down to a power of two";
    assert_eq!(line_of(&printed, "spill"), expected);

    let shell = format!("ulimit -n 164 && exec '{}' config --print", program::PATH);
    let output = Command::new("sh").args(["-c", &shell]).output().expect("a shell");
    let printed = String::from_utf8(output.stdout).expect("text");
    let expected = "max-connections = 100 # default 10000; the system allows 164 file descriptors";
    assert_eq!(line_of(&printed, "max-connections"), expected);
}

#[test]
fn a_variable_names_the_file_and_may_list_addresses() {
    let file = file("listen = ':1'\nreuse-port = true");
    let variables = [("ARENA_ECHO_CONFIG", text(&file)), ("ARENA_ECHO_LISTEN", ":2, unix:/x")];
    let printed = printed(&[], &variables);
    let line = line_of(&printed, "listen");
    assert_eq!(line, "listen = [\":2\", \"unix:/x\"] # ARENA_ECHO_LISTEN");
    assert!(line_of(&printed, "reuse-port").starts_with("reuse-port = true"));
}

#[test]
fn a_variable_that_is_empty_is_absent() {
    let names = ["CAPACITY", "LISTEN", "REUSE_PORT", "CONFIG"];
    let names = names.map(|name| format!("ARENA_ECHO_{name}"));
    let mut variables: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
    variables.push(("RUST_LOG", ""));
    assert_eq!(printed(&[], &variables), printed(&[], &[]));
    assert!(refused(&["--config", ""], &[]).starts_with("error: --config '': is not a path; "));
}

#[test]
fn what_is_no_text_is_reported_beside_all_else() {
    let no_text = OsStr::from_bytes(b"\xff");
    let mut command = Command::new(program::PATH);
    command.env_clear().env("ARENA_ECHO_CAPACITY", no_text).env("ARENA_ECHO_THREADS", "0");
    command.env("ARENA_ECHO_LISTEN", no_text).args(["config", "--backlog=0", "--admin"]);
    let Output { status, stderr, .. } = command.arg(no_text).output().expect("the program starts");
    assert_eq!(status.code(), Some(2));
    let said = String::from_utf8(stderr).expect("text");
    let expected = [
        r"error: ARENA_ECHO_CAPACITY '\xff': is not text; write it in UTF-8",
        r"error: ARENA_ECHO_LISTEN '\xff': is not text; write it in UTF-8",
        r"error: --admin '\xff': is not text; write it in UTF-8",
        "error: --backlog '0': set it to at least 1 and at most 65535",
        "error: ARENA_ECHO_THREADS '0': set it to at least 1 and at most 1024, or to auto",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn variables_that_kubernetes_sets_for_a_service_are_no_errors() {
    let variables = [
        ("ARENA_ECHO_SERVICE_HOST", "10.0.0.1"),
        ("ARENA_ECHO_SERVICE_PORT", "9000"),
        ("ARENA_ECHO_PORT", "tcp://10.0.0.1:9000"),
    ];
    assert_eq!(printed(&[], &variables), printed(&[], &[]));
}

#[test]
fn a_variable_that_no_flag_has_is_warned_of_with_the_one_that_is_meant() {
    let variables = [("ARENA_ECHO_MAX_FRAM", "1k"), ("ARENA_ECHO_SERVICE_PORT", "9000")];
    let output = outcome(&["config"], &variables);
    assert!(output.status.success());
    let expected = "warning: ARENA_ECHO_MAX_FRAM: no flag has this variable; did you mean \
                    ARENA_ECHO_MAX_FRAME?\n";
    assert_eq!(String::from_utf8(output.stderr).expect("text"), expected);
}

#[test]
fn every_error_of_all_sources_is_reported_at_once_with_its_place() {
    let file = file("mode = 'slab'\ncapacty = 1\nmax-frame = 1.5\nlisten = [':1',\n'x']\n");
    let path = text(&file);
    let variables = [("ARENA_ECHO_THREADS", "none"), ("RUST_LOG", "a=b=c")];
    let said = refused(&["--config", path, "--backlog", "0"], &variables);
    let expected = [
        format!("error: {path}:2: capacty: is no key; did you mean capacity?"),
        format!("error: {path}:3: max-frame: is a number with a fraction; write"),
        format!("error: {path}:1: mode 'slab': is not one of the values; set it to fixed or buddy"),
        format!("error: {path}:5: listen 'x': is not an address; write"),
        "error: --backlog '0': set it to at least 1 and at most 65535".to_owned(),
        "error: ARENA_ECHO_THREADS 'none': set it to".to_owned(),
        "error: RUST_LOG 'a=b=c': is not a filter".to_owned(),
    ];
    for (line, expected) in said.lines().zip(&expected) {
        assert!(line.starts_with(expected), "{line}\nis not\n{expected}");
    }
    assert_eq!(said.lines().count(), expected.len(), "{said}");
}

#[test]
fn a_value_that_is_overridden_must_be_right_all_the_same() {
    let file = file("threads = 'zzz'\nlisten = [':1', 'x']\ncapacity = 'lots'\nmax-frame = '1k'");
    let path = text(&file);
    let variables = [("ARENA_ECHO_THREADS", "0"), ("ARENA_ECHO_BACKLOG", "0")];
    let flags = ["--threads=3", "--listen=:2", "--capacity=3MiB", "--backlog=1", "--max-frame=2k"];
    let said = refused(&[&["config", "--config", path], &flags[..]].concat(), &variables);
    let expected = [
        format!("error: {path}:3: capacity 'lots': is not a size"),
        format!("error: {path}:2: listen 'x': is not an address; write"),
        "error: ARENA_ECHO_BACKLOG '0': set it to at least 1".to_owned(),
        "error: ARENA_ECHO_THREADS '0': set it to at least 1".to_owned(),
        format!("error: {path}:1: threads 'zzz': set it to at least 1"),
        // What holds is known, and so is what is wrong with it.
        "error: --capacity 3MiB: buddy mode needs a power of two".to_owned(),
    ];
    for (line, expected) in said.lines().zip(&expected) {
        assert!(line.starts_with(expected), "{line}\nis not\n{expected}");
    }
    assert_eq!(said.lines().count(), expected.len(), "{said}");
}

#[test]
fn what_cannot_work_together_is_named_with_both_places() {
    let file = file("\ncapacity = '1MiB'");
    let path = text(&file);
    let said = refused(&["--config", path], &[("ARENA_ECHO_MAX_FRAME", "2MiB")]);
    let expected = format!("error: {path}:2: capacity 1MiB with ARENA_ECHO_MAX_FRAME 2MiB: ");
    assert!(said.starts_with(&expected), "{said}");

    let said = refused(&["--config", path], &[]);
    let expected = format!("error: {path}:2: capacity 1MiB with --max-frame 1MiB (the default): ");
    assert!(said.starts_with(&expected), "{said}");
}

#[test]
fn addresses_that_exclude_each_other_are_named_with_both_places() {
    let file = file("listen = [':9100',\n'127.0.0.1:9100', \"unix:\\u0000abs\"]\n");
    let path = text(&file);
    let said = refused(&["config", "--config", path, "--admin", ":9100"], &[]);
    let taken = format!("takes the port of listen ':9100' ({path}:1); choose another port");
    let expected = [
        format!(
            "error: {path}:2: listen 'unix:\\0abs': has a NUL in its path, and abstract sockets \
             are not supported; write unix:/path"
        ),
        format!(
            "error: {path}:2: listen '127.0.0.1:9100': {taken}, leave one out or set --reuse-port"
        ),
        format!("error: --admin ':9100': {taken}"),
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn nothing_is_concluded_from_a_file_that_is_broken() {
    let file = file("max-frame = '4k\ncapacity = '1MiB'\nthreads = 0\n");
    let said = refused(&["--config", text(&file)], &[]);
    assert!(said.contains(":1: "), "{said}");
    assert!(said.contains(":3: threads '0'"), "{said}");
    assert!(!said.contains("capacity"), "{said}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let said = refused(&["--config", "/nowhere/a.toml"], &[]);
    assert!(said.starts_with("error: --config /nowhere/a.toml: cannot read this file: "), "{said}");
    let said = refused(&[], &[("ARENA_ECHO_CONFIG", "/nowhere/a.toml")]);
    assert!(said.starts_with("error: ARENA_ECHO_CONFIG /nowhere/a.toml: "), "{said}");
}

#[test]
fn checking_says_that_it_works_or_why_it_does_not() {
    let Output { status, stdout, .. } = outcome(&["config"], &[]);
    assert!(status.success());
    assert_eq!(stdout, b"the configuration works\n");
    assert!(refused(&["config", "--capacity", "3MiB"], &[]).contains("a power of two"));
}

#[test]
fn what_works_and_is_hardly_meant_is_warned_of() {
    let Output { status, stdout, stderr } = outcome(&["config", "--memory-timeout", "1s"], &[]);
    assert!(status.success());
    assert_eq!(stdout, b"the configuration works\n");
    let said = String::from_utf8(stderr).expect("text");
    assert!(said.starts_with("warning: --memory-timeout 1s with --frame-timeout 10s "), "{said}");
}

#[test]
fn sizes_that_no_arena_can_have_are_refused_before_it_is_built() {
    let said = refused(&["config", "--capacity=1TiB", "--min-block=64"], &[]);
    let expected = "error: --min-block 64 with --capacity 1024GiB: an arena is cut into at most ";
    assert!(
        said.starts_with(expected) && said.contains("set --min-block to at least 512"),
        "{said}"
    );
    let said = refused(&["config", "--capacity", "4EiB"], &[]);
    assert!(said.contains("set --min-block to at least 2GiB"), "{said}");
}

#[test]
fn a_heap_for_long_frames_is_refused_in_buddy_mode() {
    let file = file("mode = 'buddy'\nspill = '1MiB'");
    let said = refused(&["config", "--config", text(&file)], &[]);
    let expected =
        format!("error: {}:2: spill 1MiB: only fixed mode has a use for it", text(&file));
    assert!(said.starts_with(&expected) && said.ends_with("; set it to 0\n"), "{said}");
}

#[test]
fn the_short_help_fits_a_screen_and_the_long_one_has_every_flag_too() {
    let help =
        |flag| String::from_utf8(outcome(&[flag], &[("COLUMNS", "80")]).stdout).expect("text");
    let (short, long) = (help("-h"), help("--help"));
    assert!(short.lines().count() <= 54, "{short}");
    let wide = String::from_utf8(outcome(&["-h"], &[]).stdout).expect("text");
    let mut lines = short.lines().chain(long.lines()).chain(wide.lines());
    assert!(lines.all(|line| line.chars().count() <= 80), "{wide}");
    // Each flag is one line.
    let flags = short.lines().filter(|line| line.starts_with("      --"));
    assert!(flags.skip(1).all(|line| line.ends_with(']')), "{short}");
    assert!(long.lines().count() > 2 * short.lines().count(), "{long}");
    for key in effective(&[]).keys() {
        let flag = format!("--{key}");
        assert!(short.contains(&flag) && long.contains(&flag), "{flag}");
    }
    for text in ["ARENA_ECHO_", "SIGHUP", "Exit status"] {
        assert!(long.contains(text), "{text}");
    }
}

#[test]
fn the_help_shows_the_real_defaults() {
    let help = String::from_utf8(outcome(&["--help"], &[]).stdout).expect("text");
    let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let defaults = defaults();
    for (key, value) in defaults {
        let (_, help) = words.split_once(&format!(" --{key}")).expect("a flag");
        let (_, default) = help.split_once("[default: ").expect("a default");
        let (default, _) = default.split_once(']').expect("the end of a default");
        let value = match value {
            Value::String(value) => value,
            Value::Array(values) => values[0].as_str().expect("an address").to_owned(),
            value => value.to_string(),
        };
        assert_eq!(default, value, "{key}");
    }
}

/// The lines of a file that set a key, with or without the `#` in front of it.
fn documented(text: &str) -> Vec<(&str, &str)> {
    let lines = text.lines().map(|line| line.strip_prefix('#').unwrap_or(line));
    let is_key = |key: &str| key.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    let settings = lines.filter_map(|line| line.split_once(" = "));
    settings.filter(|(key, _)| is_key(key)).collect()
}

#[test]
fn the_file_that_explains_every_key_has_each_once_with_its_real_default() {
    let text = fs::read_to_string(folder().join("arena-echo.toml")).expect("the file");
    let documented = documented(&text);
    let names: BTreeSet<_> = documented.iter().map(|(key, _)| (*key).to_owned()).collect();
    assert_eq!(names.len(), documented.len(), "a key is there twice");

    let defaults = defaults();
    assert_eq!(names, defaults.keys().cloned().collect());
    for (key, value) in documented {
        let table: Table = format!("{key} = {value}").parse().expect("TOML");
        assert_eq!(table[key], defaults[key], "{key}");
    }
}

#[test]
fn every_file_of_the_program_in_configs_works() {
    let entries = fs::read_dir(folder()).expect("the folder").map(|entry| entry.unwrap().path());
    let files: Vec<_> =
        entries.filter(|path| path.extension() == Some(OsStr::new("toml"))).collect();
    assert!(!files.is_empty());
    for path in files {
        let text = fs::read_to_string(&path).expect("text");
        text.parse::<Table>().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("arena-echo")) {
            let path = path.to_str().expect("a path of text");
            let Output { status, stderr, .. } = outcome(&["config", "--config", path], &[]);
            assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
        }
    }
}
