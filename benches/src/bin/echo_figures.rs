//! What does a frame cost an echo server, beside a codec on the heap and an echo without frames?
//!
//! Each side is a server in a process of its own, pinned to the first CPU that this one may use,
//! and loaded by `loadgen`, pinned to the second, which checks every byte. All sides use one
//! current-thread tokio runtime. They take turns, and each figure is the median over the rounds; a
//! ratio is the median of the rounds' ratios.
//!
//! ```sh
//! taskset -c 0,1 cargo run --release -p benches --bin echo_figures
//! ```
//!
//! Arguments are the number of rounds, 5 if there is none, and the seconds that each side is loaded
//! for in each round, 3 if there are none.

use std::{
    env,
    error::Error,
    fs,
    os::unix::process::CommandExt,
    process::{Command, ExitCode, Stdio},
};

use arena_echo::{Config, Reply, Server};
use benches::median;
use bytes::Bytes;
use futures_util::{FutureExt, SinkExt, StreamExt};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime, task,
};
use tokio_util::{
    codec::{Framed, LengthDelimitedCodec},
    sync::CancellationToken,
};

const ROUNDS: usize = 5;
const SECONDS: u64 = 3;
const CONNECTIONS: usize = 16;

/// What a raw echo reads at once.
const RAW_BYTES: usize = 64 << 10;

/// As what this program runs when it loads a server.
const LOADGEN: &str = "loadgen";
/// The first argument when it is a server.
const SERVE: &str = "serve";

/// Payload, frames in flight, and the wanted ratios to the codec and to the raw echo.
const ROWS: [(&str, usize, f64, Option<f64>); 4] = [
    ("64", 64, 0.75, Some(1.15)),
    ("1KiB", 16, 0.65, Some(1.1)),
    ("16KiB", 8, 0.55, Some(1.1)),
    ("256KiB", 4, 0.8, None),
];

/// The contenders, in the order in which they take turns.
const SIDES: [&str; 4] = ["share", "codec", "raw", "copy"];

/// What one round says of one side.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    cpu_us: f64,
    requests_per_s: f64,
    p99_us: f64,
}

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().collect();
    if arguments[0] == LOADGEN {
        return loadgen::cli::main();
    }
    let done = match arguments.get(1).map(String::as_str) {
        Some(SERVE) => serve(&arguments[2]),
        rounds => compare(rounds, arguments.get(2).map(String::as_str)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo_figures: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(rounds: Option<&str>, seconds: Option<&str>) -> Result<(), Box<dyn Error>> {
    let rounds = rounds.map_or(Ok(ROUNDS), str::parse)?;
    let seconds = seconds.map_or(Ok(SECONDS), str::parse)?;
    let allowed = sched_getaffinity(None)?;
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu));
    let (Some(server_cpu), Some(client_cpu)) = (cpus.next(), cpus.next()) else {
        return Err("needs two CPUs, one for each side; see taskset(1)".into());
    };
    println!(
        "{rounds} rounds of {seconds} s; {CONNECTIONS} connections; server CPU in us per frame; \
         medians"
    );
    println!();
    println!("| payload, depth | side | CPU us | x codec | x raw | requests/s | p99 ms |");
    println!("|---|---|---|---|---|---|---|");
    for (payload, depth, of_codec, of_raw) in ROWS {
        let mut taken = vec![Vec::new(); SIDES.len()];
        for round in 0..rounds {
            eprint!("\r{payload}, round {} of {rounds} ", round + 1);
            for (side, taken) in SIDES.iter().zip(&mut taken) {
                taken.push(load(side, payload, depth, seconds, server_cpu, client_cpu)?);
            }
        }
        eprint!("\r                              \r");
        let (codec, raw) = (&taken[1], &taken[2]);
        for (side, figures) in SIDES.iter().zip(&taken) {
            let ratio = |other: &[Figures]| {
                let ratios =
                    figures.iter().zip(other).map(|(one, other)| one.cpu_us / other.cpu_us);
                median(ratios)
            };
            let of = |read: fn(&Figures) -> f64| median(figures.iter().map(read));
            let wanted = |wanted: Option<f64>| match (*side, wanted) {
                ("share", Some(wanted)) => format!(" (wanted: {wanted})"),
                _ => String::new(),
            };
            println!(
                "| {payload}, {depth} | {side} | {:.3} | {:.2}{} | {:.2}{} | {:.0} | {:.2} |",
                of(|figures| figures.cpu_us),
                ratio(codec),
                wanted(Some(of_codec)),
                ratio(raw),
                wanted(of_raw),
                of(|figures| figures.requests_per_s),
                of(|figures| figures.p99_us) / 1000.0,
            );
        }
    }
    Ok(())
}

/// Loads one side once.
fn load(
    side: &str,
    payload: &str,
    depth: usize,
    seconds: u64,
    server_cpu: usize,
    client_cpu: usize,
) -> Result<Figures, Box<dyn Error>> {
    let report = env::temp_dir().join(format!("echo-figures-{}.json", std::process::id()));
    let this = env::current_exe()?;
    pin(client_cpu)?;
    let status = Command::new(&this)
        .arg0(LOADGEN)
        .args(["-c", &CONNECTIONS.to_string(), "-t", "1", "-p", &depth.to_string()])
        .args(["-s", payload, "-d", &format!("{seconds}s"), "-w", "500ms"])
        .arg("-o")
        .arg(&report)
        .args(["--", "taskset", "-c", &server_cpu.to_string()])
        .arg(&this)
        .args([SERVE, side])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    let written = fs::read_to_string(&report);
    let _ = fs::remove_file(&report);
    if !status.success() {
        return Err(format!("the load on {side} with {payload} ended with {status}").into());
    }
    let report: serde_json::Value = serde_json::from_str(&written?)?;
    let number = |pointer: &str| {
        report.pointer(pointer).and_then(serde_json::Value::as_f64).ok_or("a figure is missing")
    };
    Ok(Figures {
        cpu_us: number("/server/cpu_us_per_request")?,
        requests_per_s: number("/rate")?,
        p99_us: number("/latency_ns/p99")? / 1000.0,
    })
}

fn pin(cpu: usize) -> Result<(), Box<dyn Error>> {
    let mut one = CpuSet::new();
    one.set(cpu);
    Ok(sched_setaffinity(None, &one)?)
}

/// Runs one of the servers until it is killed.
fn serve(side: &str) -> Result<(), Box<dyn Error>> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("listening on {}", listener.local_addr()?);
        match side {
            "raw" => accept(listener, echo_raw).await,
            "codec" => accept(listener, echo_codec).await,
            _ => {
                let reply = if side == "copy" { Reply::Copy } else { Reply::Share };
                let server = Server::new(&Config { reply, ..Config::buddy() })?;
                Ok(server.run(listener, CancellationToken::new()).await?)
            }
        }
    })
}

async fn accept<E>(
    listener: TcpListener,
    echo: impl Fn(TcpStream) -> E,
) -> Result<(), Box<dyn Error>>
where
    E: Future<Output = Result<(), std::io::Error>> + Send + 'static,
{
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        task::spawn(echo(stream));
    }
}

/// Bytes in, the same bytes out.
async fn echo_raw(mut stream: TcpStream) -> Result<(), std::io::Error> {
    let mut bytes = vec![0; RAW_BYTES];
    loop {
        match stream.read(&mut bytes).await? {
            0 => return Ok(()),
            read => stream.write_all(&bytes[..read]).await?,
        }
    }
}

/// Frames on the heap, written when no further one has arrived.
async fn echo_codec(stream: TcpStream) -> Result<(), std::io::Error> {
    let mut frames = Framed::new(stream, LengthDelimitedCodec::new());
    loop {
        let next = match frames.next().now_or_never() {
            Some(next) => next,
            None => {
                SinkExt::<Bytes>::flush(&mut frames).await?;
                frames.next().await
            }
        };
        let Some(frame) = next else { return Ok(()) };
        frames.feed(frame?.freeze()).await?;
    }
}
