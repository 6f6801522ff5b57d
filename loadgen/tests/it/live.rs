//! The live view on a terminal: a pseudo terminal, whose other end these tests hold.

use std::{
    fs::File,
    io::{Read, Write},
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};

use crate::{
    command_line::loadgen,
    servers::{self, echo},
};

const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";

/// A program on a terminal of its own.
struct OnTerminal {
    child: Child,
    keyboard_and_screen: File,
    /// All that has been written to the screen.
    seen: String,
}

impl OnTerminal {
    fn start(mut command: Command) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY;
        let terminal = rustix::fs::open(name, flags, Mode::empty()).unwrap();
        let size = Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&terminal, size).unwrap();
        let stdio = || Stdio::from(terminal.try_clone().unwrap());
        command.env("TERM", "xterm").stdin(stdio()).stdout(stdio()).stderr(stdio());
        let child = command.spawn().unwrap();
        // From here on only the program holds its end: when it ends, reading fails and does not
        // wait.
        drop(command);
        Self { child, keyboard_and_screen: ours.into(), seen: String::new() }
    }

    /// Starts it as a job in the background of a shell that has the terminal.
    fn start_in_background(arguments: &str) -> Self {
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait", "sh", "-mc", "\"$0\" $1 & wait"]);
        command.args([env!("CARGO_BIN_EXE_loadgen"), arguments]);
        Self::start(command)
    }

    /// Reads the screen until these words are on it.
    fn wait_for(&mut self, words: &str) {
        let mut bytes = [0; 4096];
        while !self.seen.contains(words) {
            let Ok(len) = self.keyboard_and_screen.read(&mut bytes) else {
                panic!("{words} is not on the screen: {}", self.seen);
            };
            self.seen.push_str(&String::from_utf8_lossy(&bytes[..len]));
        }
    }

    fn press(&mut self, keys: &[u8]) {
        self.keyboard_and_screen.write_all(keys).unwrap();
    }

    fn echoes(&self) -> bool {
        tcgetattr(&self.keyboard_and_screen).unwrap().local_modes.contains(LocalModes::ECHO)
    }

    /// What came after the view, once the program has ended with 0.
    #[track_caller]
    fn end(mut self, last_words: &str) -> String {
        self.wait_for(LEAVE);
        self.wait_for(last_words);
        assert!(self.child.wait().unwrap().success());
        assert!(self.echoes(), "the terminal is not itself again");
        self.seen.split_once(LEAVE).unwrap().1.to_owned()
    }
}

fn honest() -> SocketAddr {
    servers::start(|_, stream| echo(stream))
}

#[track_caller]
fn ends_with_a_report(keys: &[u8]) {
    let command = loadgen(&format!("-c 2 -d 1h -w 0s -i 20ms {}", honest()));
    let mut program = OnTerminal::start(command);
    program.wait_for(ENTER);
    // The figure of the first interval: the load has begun.
    program.wait_for("p99 ");
    assert!(!program.echoes());
    program.press(keys);
    let report = program.end("verdict");
    assert!(report.contains("stopped early"), "{report}");
    assert!(report.contains("p99.9"), "{report}");
}

#[test]
fn q_ends_a_run_with_its_report() {
    ends_with_a_report(b"q");
}

#[test]
fn ctrl_c_ends_a_run_with_its_report() {
    ends_with_a_report(b"\x03");
}

#[test]
fn what_a_server_says_waits_until_the_view_is_gone() {
    let mut command = loadgen("-n 500 -i 20ms -- sh -c");
    let script = "echo some words >&2; echo listening on $0; exec sleep 60";
    let mut program = OnTerminal::start({
        command.arg(script).arg(honest().to_string());
        command
    });
    program.wait_for(ENTER);
    let after = program.end("verdict");
    let (words, report) = (after.find("some words"), after.find("requests"));
    assert!(words.is_some() && words < report, "{after}");
}

#[test]
fn plain_progress_is_lines_on_a_terminal_too() {
    let command = loadgen(&format!("--plain -d 2s -w 0s -i 50ms {}", honest()));
    let mut program = OnTerminal::start(command);
    program.wait_for("verdict");
    assert!(program.child.wait().unwrap().success());
    assert!(!program.seen.contains('\x1b'), "{:?}", program.seen);
    assert!(program.seen.contains("requests/s"), "{}", program.seen);
}

#[test]
fn a_job_in_the_background_shows_lines_and_is_not_stopped() {
    let arguments = format!("-d 2s -w 0s -i 50ms {}", honest());
    let mut program = OnTerminal::start_in_background(&arguments);
    program.wait_for("verdict");
    assert!(program.child.wait().unwrap().success());
    assert!(!program.seen.contains(ENTER), "{:?}", program.seen);
    assert!(program.seen.contains("requests/s"), "{}", program.seen);
}
