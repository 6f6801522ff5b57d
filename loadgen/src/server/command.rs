//! A server that the generator starts for one run, and stops again whatever happens.
//!
//! The server says `listening on ADDR` on its standard output once it accepts. If it adds `admin on
//! ADDR` in the same write, its metrics are read there. What else it writes is dropped; its
//! standard error is ours, or where runs follow each other, held back until it fails. It
//! runs in a process group of its own, so Ctrl-C at the terminal reaches only the generator, which
//! ends the run before it stops the server. The group is stopped together, so that a wrapper does
//! not leave the server behind.

use std::{
    collections::VecDeque,
    io::{self, BufRead, BufReader, Read},
    mem,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use thiserror::Error;

use crate::{
    console,
    net::address::{Address, AddressError},
    server::metrics::MetricsUrl,
    stop::{Stop, Urgency},
};

/// How long a server may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to end after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long its exit status may be missing after it has closed its output.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last words of a server that has ended are awaited.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// How much of an output is held back: the last lines, each so long at most.
const HELD_LINES_MAX: usize = 20;
const HELD_LINE_BYTES_MAX: u64 = 1024;
const LISTENING: &str = "listening on ";
const ADMIN: &str = "admin on ";

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct ServerCommand {
    child: Child,
    stop: Stop,
    address: Address,
    /// Where it tells of itself.
    metrics: Option<MetricsUrl>,
    /// What it wrote last to its standard error, if that is held back.
    held: Option<Held>,
    /// Whether nothing of it is left: its number may be another's by now.
    has_ended: bool,
}

/// The last lines of an output.
#[derive(Debug)]
struct Held {
    lines: Arc<Mutex<VecDeque<String>>>,
    /// Disconnects when the output has ended.
    end: Receiver<()>,
}

/// What a server says of itself once it listens.
#[derive(Debug, Eq, PartialEq)]
struct Announcement {
    address: String,
    admin: Option<String>,
}

/// Why a server did not start.
#[non_exhaustive]
#[derive(Debug, Error)]
pub enum ServerCommandError {
    /// The program could not be run.
    #[error("cannot run `{program}`: {error}; check the name and path of that command")]
    NotRun {
        /// The program.
        program: String,
        /// What the system says.
        error: io::Error,
    },
    /// The system has no thread that reads its output.
    #[error("cannot read the output of `{program}`: {error}; allow more threads (ulimit -u)")]
    NotRead {
        /// The program.
        program: String,
        /// What the system says.
        error: io::Error,
    },
    /// It ended, or closed its output, before it listened.
    #[error(
        "`{program}` ended before it wrote `listening on ADDR` to its standard output ({status}); \
         see what it wrote above"
    )]
    Ended {
        /// The program.
        program: String,
        /// How it ended, in words.
        status: String,
    },
    /// It did not say in time that it listens.
    #[error(
        "`{program}` did not write `listening on ADDR` to its standard output within {} s; does it \
         write something else, or buffer it?",
        START_TIMEOUT.as_secs()
    )]
    Silent {
        /// The program.
        program: String,
    },
    /// It says that it listens, but not where.
    #[error("`{program}` announced an address that cannot be used: {error}; or give the TARGET")]
    Address {
        /// The program.
        program: String,
        /// What is wrong with it.
        error: AddressError,
    },
    /// Someone asked to stop meanwhile.
    #[error("stopped while waiting for `{program}` to listen")]
    Stopped {
        /// The program.
        program: String,
    },
}

impl ServerCommand {
    /// Runs `command`, program first, and waits until it listens.
    /// What it writes to its standard error is held back if `holds_output`.
    pub(crate) fn start(
        command: &[String],
        holds_output: bool,
        stop: &Stop,
    ) -> Result<Self, ServerCommandError> {
        let (program, arguments) = command.split_first().expect("a command names a program");
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(if holds_output { Stdio::piped() } else { Stdio::inherit() })
            .process_group(0)
            .spawn()
            .map_err(|error| ServerCommandError::NotRun { program: program.clone(), error })?;
        let output = child.stdout.take().expect("it is piped");
        let errors = child.stderr.take();
        let unset = Address::Tcp { host: String::new(), port: 0 };
        // From here on every way out stops the child.
        let mut server = Self {
            child,
            stop: stop.clone(),
            address: unset,
            metrics: None,
            held: None,
            has_ended: false,
        };
        let not_read = |error| ServerCommandError::NotRead { program: program.clone(), error };
        server.held = errors.map(Held::of).transpose().map_err(not_read)?;
        let lines = announcements(output).map_err(not_read)?;
        let said = server.wait_until_listening(program, &lines);
        if let (Err(error), Some(held)) = (&said, &server.held) {
            let has_ended = matches!(error, ServerCommandError::Ended { .. });
            held.show(if has_ended { LAST_WORDS_TIMEOUT } else { Duration::ZERO });
        }
        let said = said?;
        server.address = said
            .address
            .parse()
            .map_err(|error| ServerCommandError::Address { program: program.clone(), error })?;
        // A page that cannot be asked for is a loss of pictures only.
        server.metrics = said.admin.and_then(|address| MetricsUrl::of_announced(&address));
        Ok(server)
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Its page of metrics, if it has said where that is.
    pub(crate) fn metrics(&self) -> Option<&MetricsUrl> {
        self.metrics.as_ref()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, in words, if it did so by itself and nothing that it started runs on.
    pub(crate) fn end(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        self.has_ended |= test_kill_process_group(Pid::from_child(&self.child)).is_err();
        self.has_ended.then(|| match (status.signal(), status.code()) {
            (Some(signal), _) => format!("signal {signal}"),
            (None, Some(code)) => format!("exit status {code}"),
            (None, None) => status.to_string(),
        })
    }

    fn wait_until_listening(
        &mut self,
        program: &str,
        lines: &Receiver<Announcement>,
    ) -> Result<Announcement, ServerCommandError> {
        let program = program.to_owned();
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if self.stop.is_requested() {
                return Err(ServerCommandError::Stopped { program });
            }
            match lines.recv_timeout(POLL_INTERVAL) {
                Ok(said) => return Ok(said),
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.wait(EXIT_TIMEOUT).map_or_else(
                        || "it closed its standard output and runs on".to_owned(),
                        |status| status.to_string(),
                    );
                    return Err(ServerCommandError::Ended { program, status });
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() >= deadline => {
                    return Err(ServerCommandError::Silent { program });
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            if Instant::now() >= deadline || self.stop.urgency() == Urgency::AtOnce {
                return None;
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    fn signal(&self, signal: Signal) {
        // It fails only if the whole group has ended, which is what is wanted.
        let _ = kill_process_group(Pid::from_child(&self.child), signal);
    }
}

impl Drop for ServerCommand {
    fn drop(&mut self) {
        if self.has_ended {
            if let Some(held) = &self.held {
                held.show(LAST_WORDS_TIMEOUT);
            }
            return;
        }
        self.signal(Signal::TERM);
        if self.wait(STOP_TIMEOUT).is_none() {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

impl Held {
    /// Reads an output to its end.
    fn of(output: ChildStderr) -> io::Result<Self> {
        let (until_the_end, end) = mpsc::channel();
        let lines = Arc::default();
        thread::Builder::new().spawn({
            let lines = Arc::clone(&lines);
            move || {
                keep_last_lines(BufReader::new(output), &lines);
                drop(until_the_end);
            }
        })?;
        Ok(Self { lines, end })
    }

    /// Says what is held. Its last words may be on the way: they are awaited for so long.
    fn show(&self, patience: Duration) {
        // Something that the server started may keep the output open.
        let _ = self.end.recv_timeout(patience);
        let lines = mem::take(&mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner));
        lines.iter().for_each(console::say);
    }
}

fn keep_last_lines(mut output: impl BufRead, lines: &Mutex<VecDeque<String>>) {
    let mut line = Vec::new();
    let mut read =
        |line: &mut Vec<u8>| output.by_ref().take(HELD_LINE_BYTES_MAX).read_until(b'\n', line);
    while read(&mut line).is_ok_and(|len| len > 0) {
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == HELD_LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(String::from_utf8_lossy(&line).trim_end().to_owned());
        line.clear();
    }
}

/// Reads the output to its end, so that the server never blocks on it, and passes on the first
/// announcement, with what comes in the same write.
fn announcements(output: ChildStdout) -> io::Result<Receiver<Announcement>> {
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new().spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        let (mut sender, mut said) = (Some(sender), None);
        while output.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
            match &mut said {
                None => {
                    let announcement = |address| Announcement { address, admin: None };
                    said = announced(LISTENING, &line).map(announcement);
                }
                Some(said) => said.admin = said.admin.take().or_else(|| announced(ADMIN, &line)),
            }
            line.clear();
            let has_more = output.buffer().contains(&b'\n');
            if let Some(sender) = sender.take_if(|_| said.is_some() && !has_more) {
                // Nobody waits any more only if the run was stopped.
                let _ = sender.send(said.take().expect("it was looked at just now"));
            }
        }
    })?;
    Ok(receiver)
}

fn announced(what: &str, line: &[u8]) -> Option<String> {
    let line = str::from_utf8(line).ok()?;
    let address = line.strip_prefix(what)?.split_whitespace().next()?;
    Some(address.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Result<ServerCommand, ServerCommandError> {
        ServerCommand::start(&["sh", "-c", script].map(str::to_owned), false, &Stop::new())
    }

    /// A group exists as long as one of its processes does; an orphan is reaped by the system a
    /// moment later.
    fn wait_for_the_end_of(group: Pid) {
        while rustix::process::test_kill_process_group(group).is_ok() {
            thread::yield_now();
        }
    }

    #[test]
    fn only_a_line_that_starts_with_the_announcement_counts() {
        assert_eq!(announced(LISTENING, b"listening on [::1]:80\n").as_deref(), Some("[::1]:80"));
        assert_eq!(
            announced(LISTENING, b"listening on :80 (2 threads)\r\n").as_deref(),
            Some(":80")
        );
        assert_eq!(announced(LISTENING, b"not listening on :80\n"), None);
        assert_eq!(announced(LISTENING, b"listening on \n"), None);
    }

    #[test]
    fn the_address_is_taken_from_the_first_announcement() {
        let script =
            "echo hello; echo listening on 127.0.0.1:7; echo listening on :8; exec sleep 60";
        let server = shell(script).unwrap();
        assert_eq!(server.address().to_string(), "127.0.0.1:7");
    }

    #[test]
    fn metrics_are_where_the_same_words_say_that_operators_look() {
        let metrics = |words: &str| {
            let server = shell(&format!("printf '{words}'; exec sleep 60")).unwrap();
            server.metrics().map(ToString::to_string)
        };
        let both = "listening on :7\\nlistening on :8\\nadmin on 127.0.0.1:9\\n";
        assert_eq!(metrics(both).as_deref(), Some("http://127.0.0.1:9/metrics"));
        let everywhere = "listening on :7\\nadmin on 0.0.0.0:9\\n";
        assert_eq!(metrics(everywhere).as_deref(), Some("http://127.0.0.1:9/metrics"));
        assert_eq!(metrics("listening on :7\\nadmin on the second floor\\n"), None);
        assert_eq!(metrics("listening on :7\\n"), None);
    }

    #[test]
    fn dropping_a_server_ends_its_process_and_what_it_started() {
        let server = shell("sleep 60 & echo listening on :7; wait").unwrap();
        let group = Pid::from_child(&server.child);
        drop(server);
        wait_for_the_end_of(group);
    }

    #[test]
    fn a_server_that_ignores_sigterm_is_killed() {
        let server =
            shell("trap '' TERM; echo listening on :7; while :; do sleep 1; done").unwrap();
        server.stop.request();
        server.stop.request();
        let group = Pid::from_child(&server.child);
        drop(server);
        wait_for_the_end_of(group);
    }

    #[test]
    fn a_command_that_ends_is_reported_with_its_status() {
        let error = shell("exit 3").unwrap_err().to_string();
        assert!(error.contains("exit status: 3"), "{error}");
    }

    #[test]
    fn a_stop_ends_the_wait() {
        let stop = Stop::new();
        stop.request();
        let command = ["sleep", "60"].map(str::to_owned);
        let error = ServerCommand::start(&command, false, &stop).unwrap_err();
        assert!(matches!(error, ServerCommandError::Stopped { .. }), "{error}");
    }
}
