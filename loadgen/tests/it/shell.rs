//! What helps at the shell.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::command_line::{exits_with, loadgen, text};

#[test]
fn every_shell_has_completions_for_flags_and_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = loadgen(&format!("completions {shell}")).output().unwrap();
        exits_with(0, &output);
        let script = text(&output.stdout);
        for word in ["warm-up", "metrics", "compare", "fail-on-regression"] {
            assert!(script.contains(word), "{word} is not completed by {shell}");
        }
    }
}

#[test]
fn bash_can_read_its_completions() {
    let script = loadgen("completions bash").output().unwrap().stdout;
    let mut shell = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
    shell.stdin.take().unwrap().write_all(&script).unwrap();
    assert!(shell.wait().unwrap().success());
}

#[test]
fn an_unknown_shell_exits_with_2() {
    exits_with(2, &loadgen("completions cobol").output().unwrap());
}

#[test]
fn the_man_page_names_flags_and_commands() {
    let output = loadgen("man").output().unwrap();
    exits_with(0, &output);
    let page = text(&output.stdout);
    for words in [".TH loadgen 1", ".SH OPTIONS", "duration", "compare", "Exit codes"] {
        assert!(page.contains(words), "{words} is not in:\n{page}");
    }
}

#[test]
fn every_command_has_a_man_page_of_its_own() {
    for command in ["run", "compare", "ab", "merge", "report"] {
        let output = loadgen(&format!("man {command}")).output().unwrap();
        exits_with(0, &output);
        let page = text(&output.stdout);
        assert!(page.contains(&format!(".TH loadgen-{command} 1")), "{page}");
    }
    let output = loadgen("man nothing").output().unwrap();
    exits_with(2, &output);
    assert!(text(&output.stderr).contains("merge"), "{}", text(&output.stderr));
}
