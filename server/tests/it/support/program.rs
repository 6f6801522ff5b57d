//! The real program, as a child process.

use std::{
    fs::{self, DirEntry},
    net::SocketAddr,
    process::{ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader, Lines},
    process::{Child, ChildStderr, ChildStdout, Command},
};

use crate::support::until;

/// Where the build has put the program.
pub(crate) const PATH: &str = env!("CARGO_BIN_EXE_arena-echo");

/// A server process on a free port. Killed when dropped.
pub(crate) struct Program {
    /// Where it listens, if that is one address of the network.
    pub(crate) address: SocketAddr,
    /// Where it says that it listens, in the order of its lines.
    pub(crate) labels: Vec<String>,
    output: Lines<BufReader<ChildStdout>>,
    log: Option<Lines<BufReader<ChildStderr>>>,
    child: Child,
}

impl Program {
    /// Starts it with these flags, and waits until it listens.
    pub(crate) async fn start(flags: &str) -> Self {
        let mut command = Command::new(PATH);
        command.args(flags.split_whitespace()).stdin(Stdio::null());
        Self::start_as(command).await
    }

    /// Starts it by a command that ends in its flags.
    pub(crate) async fn start_as(mut command: Command) -> Self {
        command.args(["--listen", "127.0.0.1:0"]);
        Self::launch(command, 1).await
    }

    /// Starts it by a complete command, and waits until it says that it listens on so many
    /// addresses.
    pub(crate) async fn launch(command: Command, addresses: usize) -> Self {
        Self::launch_logging_to(Stdio::piped(), command, addresses).await
    }

    /// The same, with its log in other hands.
    pub(crate) async fn launch_logging_to(
        log: impl Into<Stdio>,
        mut command: Command,
        addresses: usize,
    ) -> Self {
        command.env_remove("RUST_LOG").stdout(Stdio::piped()).stderr(log);
        let child = command.kill_on_drop(true).spawn().expect("the program starts");
        Self::of(child, addresses).await
    }

    /// Takes a process that was started with its output piped, and waits until it says that it
    /// listens on so many addresses.
    pub(crate) async fn of(mut child: Child, addresses: usize) -> Self {
        let mut output = lines(child.stdout.take().expect("an output that is piped"));
        let mut labels = Vec::new();
        for _ in 0..addresses {
            let line = next_line(&mut output).await;
            labels.push(line.strip_prefix("listening on ").expect("an address").to_owned());
        }
        let address = labels[0].parse().unwrap_or_else(|_| ([0; 4], 0).into());
        let log = child.stderr.take().map(lines);
        Self { address, labels, output, log, child }
    }

    pub(crate) fn id(&self) -> Pid {
        id(&self.child)
    }

    /// Waits until it says where operators look, and returns that.
    pub(crate) async fn admin(&mut self) -> SocketAddr {
        let line = next_line(&mut self.output).await;
        let address = line.strip_prefix("admin on ").and_then(|address| address.parse().ok());
        address.expect("an address")
    }

    /// Waits for a line of the log that contains `text`, and returns it.
    pub(crate) async fn until_logged(&mut self, text: &str) -> String {
        let log = self.log.as_mut().expect("a log that is not closed");
        loop {
            let line = next_line(log).await;
            if line.contains(text) {
                return line;
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.id(), signal).expect("a process that runs");
    }

    /// Stops the process, and waits until each of its threads stands still: the system sends the
    /// signal to one of them, and the others may go on for a moment.
    pub(crate) async fn pause(&self) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.id().as_raw_pid());
        let is_stopped = |task: DirEntry| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // The state follows the name, which is in parentheses.
            stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with('T'))
        };
        until(|| fs::read_dir(&tasks).expect("threads").flatten().all(is_stopped)).await;
    }

    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Waits until the process ends, and returns how, and the rest of its log.
    pub(crate) async fn ended(mut self) -> (ExitStatus, Vec<String>) {
        let mut log = Vec::new();
        if let Some(lines) = &mut self.log {
            while let Some(line) = lines.next_line().await.expect("a log of text") {
                log.push(line);
            }
        }
        (self.child.wait().await.expect("a process that was started"), log)
    }

    /// Closes the reading end of its log, as when whoever collects it is gone.
    pub(crate) fn close_log(&mut self) {
        self.log = None;
    }

    /// Stops it as an operator would, and expects that it was content.
    pub(crate) async fn stop(self) {
        self.signal(Signal::TERM);
        let (status, log) = self.ended().await;
        assert!(status.success(), "{status}\n{log:#?}");
    }
}

pub(crate) fn id(child: &Child) -> Pid {
    let id = child.id().expect("a process that runs");
    i32::try_from(id).ok().and_then(Pid::from_raw).expect("the id of a process")
}

fn lines<R: AsyncRead>(output: R) -> Lines<BufReader<R>> {
    BufReader::new(output).lines()
}

async fn next_line<R: AsyncRead + Unpin>(lines: &mut Lines<BufReader<R>>) -> String {
    lines.next_line().await.expect("lines of text").expect("another line")
}
