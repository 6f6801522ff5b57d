#![forbid(unsafe_code)]
//! `arena-echo`: the server as a program.

mod cli;

mod address;
mod descriptors;
mod shutdown;

use std::{
    error::Error,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use arena_echo::Server;
use clap::Parser;
use tokio::{
    net::TcpListener,
    runtime::{self, Runtime},
};
use tokio_util::sync::CancellationToken;
use tracing::error;
use tracing_subscriber::EnvFilter;

use crate::{
    address::ListenAddress,
    cli::{Flags, Settings},
};

/// The configuration or the command line cannot work.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let flags = Flags::parse();
    log_to_stderr();
    let built = flags.into_settings().and_then(|settings| {
        let server = Server::new(&settings.config)?;
        Ok((settings, server))
    });
    let (settings, server) = match built {
        Ok(built) => built,
        Err(error) => {
            for line in error.to_string().lines() {
                eprintln!("error: {line}");
            }
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match run(&settings, &server) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until a signal comes and everything is answered.
fn run(settings: &Settings, server: &Server) -> Result<(), Box<dyn Error>> {
    descriptors::raise_limit(settings.config.max_connections);
    runtime(settings.threads)?.block_on(async {
        let stop = CancellationToken::new();
        shutdown::on_signals(stop.clone())?;
        let listener = listen(&settings.listen).await?;
        server.run(listener, stop).await;
        Ok(())
    })
}

/// Binds the address and announces it, as the first line of the output.
async fn listen(address: &ListenAddress) -> Result<TcpListener, Box<dyn Error>> {
    let listener = address
        .bind()
        .await
        .map_err(|error| format!("--listen {address}: cannot listen there: {error}"))?;
    let mut output = io::stdout().lock();
    writeln!(output, "listening on {}", listener.local_addr()?)?;
    output.flush()?;
    Ok(listener)
}

fn runtime(threads: Option<usize>) -> io::Result<Runtime> {
    let mut builder = runtime::Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads);
    }
    builder.enable_all().build()
}

/// Logs what RUST_LOG asks for, or what is worth knowing.
///
/// A line that cannot be written is dropped: reporting that to the same place would panic, and end
/// what logged it.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .log_internal_errors(false)
        .init();
}
