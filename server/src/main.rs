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
//! | `lines`       | that nobody waits for who reads the log, or is told          |
//! | `files`       | how files are read, and that nobody waits for one that hangs |
//! | `threads`     | that there are enough threads before connections are served  |
//! | `shutdown`    | when the process ends                                        |
//! | `reload`      | what changes while it runs                                   |
//! | `service`     | what the service manager is told                             |

mod settings;

mod address;
mod bind;
mod descriptors;
mod files;
mod threads;

mod lines;
mod log;
mod reload;
mod service;
mod shutdown;

use std::{
    error::Error,
    fmt,
    io::{self, Write},
    net::SocketAddr,
    process::{self, ExitCode},
};

use arena_echo::{Admin, Config, Listener, Server};
use listenfd::ListenFd;
use tokio::{join, net::TcpListener};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{Level, error, info, warn};

use crate::{
    bind::{Bound, Names},
    files::FileThread,
    log::Log,
    reload::Running,
    service::Manager,
    settings::{CommandLine, Faults, LogFormat, Settings, Task},
};

/// It could not run.
const EXIT_FAILURE: i32 = 1;

/// The configuration or the command line cannot work.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    // First: it takes variables out of the environment, which only one thread may do.
    let passed = ListenFd::from_env();
    let command_line = settings::read();
    let settings = match Settings::load(&command_line, &files::any) {
        Ok(settings) => settings,
        // Only what serves has a log.
        Err(faults) if command_line.task == Task::Serve => {
            return refuse(&faults, faults.log_format);
        }
        Err(faults) => return refuse(&faults, LogFormat::Text),
    };
    if command_line.task != Task::Serve {
        let say = |line: &String| say(LogFormat::Text, Level::WARN, line);
        settings.warnings().iter().for_each(say);
    }
    match command_line.task {
        Task::Serve => match log::start(&settings) {
            Ok(log) => {
                let status = serve(command_line, settings, passed, &log);
                log.finish();
                status
            }
            Err(error) => fail(settings.log_format, &format!("cannot log: {error}")),
        },
        Task::CheckConfiguration => print("the configuration works\n"),
        Task::PrintConfiguration => print(settings.to_toml()),
    }
}

/// Says why the program ends before anything is logged.
fn refuse(faults: &Faults, format: LogFormat) -> ExitCode {
    faults.lines().iter().for_each(|fault| say(format, Level::ERROR, fault));
    ExitCode::from(EXIT_USAGE)
}

/// The same, if it is not the configuration.
fn fail(format: LogFormat, reason: &str) -> ExitCode {
    say(format, Level::ERROR, reason);
    ExitCode::FAILURE
}

/// If nobody listens any more, that is no reason to end otherwise.
fn say(format: LogFormat, level: Level, line: &str) {
    let _ = io::stderr().write_all(format.line(level, line).as_bytes());
}

fn print(text: impl fmt::Display) -> ExitCode {
    let mut output = io::stdout().lock();
    match write!(output, "{text}").and_then(|()| output.flush()) {
        // Whoever closes the output early, as `head` does, has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            fail(LogFormat::Text, &format!("cannot write the output: {error}"))
        }
        _ => ExitCode::SUCCESS,
    }
}

fn serve(command_line: CommandLine, settings: Settings, passed: ListenFd, log: &Log) -> ExitCode {
    let max_connections = descriptors::raise_limit(&settings);
    let server = match Server::new(&Config { max_connections, ..settings.config }) {
        Ok(server) => server,
        Err(error) => {
            log.finish();
            return refuse(&settings.faults(&error), settings.log_format);
        }
    };
    settings.warnings().iter().for_each(|warning| warn!("{warning}"));
    reload::log_certificate(&settings);
    let manager = match Manager::of_this_process() {
        Ok(manager) => manager,
        Err(error) => {
            log.complain(&format!("cannot tell the service manager: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let files = match FileThread::start() {
        Ok(files) => files,
        Err(error) => {
            log.complain(&format!("cannot read files while it serves: {error}"));
            return ExitCode::FAILURE;
        }
    };
    // Before signals are handled: until then one ends the process, whatever that waits for.
    let names = Names::look_up(&settings, &passed);
    let runtime = threads::runtime(settings.threads, {
        let log = log.clone();
        move |reason| {
            log.complain(reason);
            log.finish();
            process::exit(EXIT_FAILURE);
        }
    });
    let running = Running {
        command_line,
        settings,
        server,
        log: log.clone(),
        manager: manager.clone(),
        files,
    };
    let runtime = runtime.map_err(Into::into);
    let ended = runtime.and_then(|runtime| runtime.block_on(run(running, names, passed)));
    manager.finish();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.to_string().lines().for_each(|reason| log.complain(reason));
            ExitCode::FAILURE
        }
    }
}

/// Serves until a signal comes and everything is answered. That something is not is an error.
async fn run(running: Running, names: Names, passed: ListenFd) -> Result<(), Box<dyn Error>> {
    let stop = CancellationToken::new();
    shutdown::on_signals(stop.clone(), running.log.clone())?;
    let Bound { listeners, admin, files } = bind::listen(&running.settings, names, passed)?;
    let labels: Vec<_> = listeners.iter().map(Listener::label).collect::<Result<_, _>>()?;
    let status = format!("accepting on {}", labels.join(", "));
    let (server, manager) = (running.server.clone(), running.manager.clone());
    let encryption = running.settings.encryption.clone();
    reload::on_hangup(running, status.clone(), stop.clone())?;

    let admin_label = admin.as_ref().map(TcpListener::local_addr).transpose()?;
    announce(&labels, admin_label)
        .map_err(|error| format!("cannot write to the standard output: {error}"))?;
    manager.ready(&status);
    manager.keep_watchdog_fed();
    let ended = CancellationToken::new();
    let serve = async {
        let drained = server.run(listeners, stop.clone()).await;
        ended.cancel();
        drained
    };
    let admin = admin.map(|listener| {
        let admin = Admin::new(server.clone());
        let admin = match &encryption {
            Some(encryption) => encryption.show(admin),
            None => admin,
        };
        // A task of its own: nothing that it does holds up who accepts connections.
        AbortOnDropHandle::new(tokio::spawn(admin.run(listener, ended.clone())))
    });
    let show = async {
        if let Some(admin) = admin
            && let Err(error) = admin.await
        {
            error!("admin: has ended: {error}");
        }
    };
    // All to the end: a server without connections stops before a task of its own would have told,
    // and until then operators see that it drains.
    let (drained, (), ()) = join!(serve, show, shutdown::tell(&manager, &server, &stop));
    drop(files);
    drained.map_err(|cut_off| format!("{cut_off}, the time of --drain-timeout").into())
}

/// Says where it listens, as the first lines of the output, and then where operators look.
fn announce(labels: &[String], admin: Option<SocketAddr>) -> io::Result<()> {
    let mut lines: String = labels.iter().map(|label| format!("listening on {label}\n")).collect();
    if let Some(address) = admin {
        lines += &format!("admin on {address}\n");
        info!("admin on {address}: http://{address}/ shows the server live");
    }
    // In one write: whoever reads only the first line may have closed the output before a second.
    let mut output = io::stdout().lock();
    output.write_all(lines.as_bytes())?;
    output.flush()
}
