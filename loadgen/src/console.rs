//! What this program writes to its own standard output and standard error. No write that fails ends
//! a run: words are lost, results are not.

use std::{
    fmt::Display,
    io::{self, Write},
};

/// What a program exits with that could not do what was asked for.
pub(crate) const COULD_NOT_RUN: u8 = 1;

/// Says something on standard error, in lines of its own. Where nobody can read it, it is lost.
pub(crate) fn say(words: impl Display) {
    // In one write, so that what a server says at the same time does not come in between.
    let line = format!("{words}\n");
    let _ = io::stderr().write_all(line.as_bytes());
}

/// The same with the name of the program in front.
pub(crate) fn complain(words: impl Display) {
    say(format_args!("loadgen: {words}"));
}

/// Prints a result on standard output. Returns the exit code: a result that could not be written is
/// no success.
pub(crate) fn print(text: &str) -> u8 {
    let mut stdout = io::stdout().lock();
    outcome_of(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

/// The exit code after a write to standard output. A reader that has gone has read what it wanted.
pub(crate) fn outcome_of(written: io::Result<()>) -> u8 {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(format_args!("cannot write to standard output: {error}"));
            COULD_NOT_RUN
        }
        _ => 0,
    }
}
