#![forbid(unsafe_code)]
//! `arena-echo`: the server as a program.
//!
//! | Module        | What it knows                                                |
//! |---------------|--------------------------------------------------------------|
//! | `settings`    | what is configured, and where that is written                |
//! | `address`     | where to listen, as people write it                          |
//! | `bind`        | from addresses to sockets that accept                        |
//! | `descriptors` | how many connections the system allows                       |
//! | `log`         | where log lines go, and which                                |
//! | `shutdown`    | when the process ends                                        |
//! | `reload`      | what changes while it runs                                   |
//! | `service`     | what the service manager is told                             |

mod settings;

mod address;
mod bind;
mod descriptors;

mod log;
mod reload;
mod service;
mod shutdown;

use std::{
    fmt,
    io::{self, Write},
    process::ExitCode,
};

use arena_echo::{ArenaKind, Config, Listener, Server};
use listenfd::ListenFd;
use tokio::runtime::{self, Runtime};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::settings::{CommandLine, Faults, Settings, Task};

/// The configuration or the command line cannot work.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    // First: it takes variables out of the environment, which only one thread may do.
    let passed = ListenFd::from_env();
    let command_line = settings::read();
    let settings = match Settings::load(&command_line) {
        Ok(settings) => settings,
        Err(faults) => return refuse(&faults),
    };
    match command_line.task {
        Task::Serve => serve(command_line, settings, passed),
        Task::CheckConfiguration => print("the configuration works\n"),
        Task::PrintConfiguration => print(settings.to_toml()),
    }
}

fn refuse(faults: &Faults) -> ExitCode {
    for fault in faults.lines() {
        eprintln!("error: {fault}");
    }
    ExitCode::from(EXIT_USAGE)
}

fn print(text: impl fmt::Display) -> ExitCode {
    // Whoever closes the output early, as `head` does, has seen enough.
    match write!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

fn serve(command_line: CommandLine, settings: Settings, passed: ListenFd) -> ExitCode {
    let filter = log::start(&settings);
    let max_connections = descriptors::raise_limit(&settings);
    let server = match Server::new(&Config { max_connections, ..settings.config }) {
        Ok(server) => server,
        Err(error) => return refuse(&settings.faults(&error)),
    };
    warn_of_what_has_no_use(&settings);
    let runtime = runtime(settings.threads);
    let run = async {
        let stop = CancellationToken::new();
        shutdown::on_signals(stop.clone())?;
        let bound = bind::listen(&settings, passed).await?;
        reload::on_hangup(command_line, settings, server.clone(), filter)?;

        service::ready(&format!("accepting on {}", announce(&bound.listeners)?));
        service::keep_watchdog_fed();
        shutdown::tell_service(server.clone(), stop.clone());
        server.run(bound.listeners, stop).await;
        drop(bound.files);
        Ok::<(), Box<dyn std::error::Error>>(())
    };
    match runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.to_string().lines().for_each(|line| error!("{line}"));
            ExitCode::FAILURE
        }
    }
}

fn warn_of_what_has_no_use(settings: &Settings) {
    if matches!(settings.config.arena, ArenaKind::Buddy { .. }) && settings.config.spill_bytes > 0 {
        warn!("spill has no use in buddy mode: blocks hold every frame");
    }
    if let Some(address) = &settings.admin {
        warn!("admin {address}: this build serves nothing there");
    }
}

/// Announces every listener, as the first lines of the output. Returns their names.
fn announce(listeners: &[Listener]) -> io::Result<String> {
    let labels: Vec<_> = listeners.iter().map(Listener::label).collect::<Result<_, _>>()?;
    let mut output = io::stdout().lock();
    for label in &labels {
        writeln!(output, "listening on {label}")?;
    }
    output.flush()?;
    Ok(labels.join(", "))
}

fn runtime(threads: Option<usize>) -> io::Result<Runtime> {
    let mut builder = runtime::Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads);
    }
    builder.enable_all().build()
}
