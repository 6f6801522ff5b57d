//! How much longer do honest peers wait beside 1,000 slow senders and 1,000 slow readers?
//!
//! The server is a process of its own, and so are the adversaries; honest peers are `loadgen` in
//! this one, which checks every byte. There are three loads: alone, beside adversaries of another
//! server, which take as much of the CPUs, and beside adversaries of the same. Rounds of them take
//! turns; a ratio is the median of the rounds' ratios, and 2 is the most that is wanted of p99.
//!
//! A slow sender sends a beginning of up to 900 bytes of a frame and then a byte twice a second;
//! half of them announce the longest frame. A slow reader pipelines frames of 50,000 bytes, and
//! reads a little of the replies twice a second. Who is closed comes back after a second. They
//! begin one after the other, so that they do not all act at the same moment.
//!
//! ```sh
//! cargo run --release -p benches --bin adversaries
//! ```
//!
//! Arguments are the number of rounds, 3 if there is none, and the seconds of each load, 4 if there
//! are none. What the figures do not show: peers on other machines, whose adversaries cost this one
//! no CPU.

use std::{
    env,
    error::Error,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use arena_echo::{Config, Server};
use benches::median;
use loadgen::{Plan, Stop};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

const ROUNDS: usize = 3;
const SECONDS: u64 = 4;

/// Adversaries of each kind.
const SLOW: u32 = 1000;
/// How often they do something.
const PACE: Duration = Duration::from_millis(500);
/// How long they stay away when they are closed.
const AWAY: Duration = Duration::from_secs(1);
/// How long they have to come before honest peers are measured.
const GATHER: Duration = Duration::from_secs(3);

/// Honest peers, each with one frame in flight.
const HONEST: u32 = 32;
const HONEST_BYTES: u32 = 1000;
const HONEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The first argument when it is a server, and when it is the adversaries.
const SERVE: &str = "serve";
const ATTACK: &str = "attack";

/// Kind and capacity of the memory.
const ROWS: [(&str, &str); 4] = [("buddy", "64"), ("fixed", "64"), ("buddy", "4"), ("fixed", "4")];

/// What the honest peers meet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Beside {
    Nobody,
    /// Adversaries who have a server of their own.
    Others,
    Adversaries,
}

impl Beside {
    const ALL: [Self; 3] = [Self::Nobody, Self::Others, Self::Adversaries];

    fn words(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Others => "adversaries of another server",
            Self::Adversaries => "adversaries",
        }
    }
}

/// A process that ends with this one.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What one load says.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    p50_ms: f64,
    p99_ms: f64,
    requests_per_s: f64,
    lost: u64,
}

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        [SERVE, kind, mebibytes] => serve(kind, mebibytes),
        [ATTACK, address, longest_bytes] => attack(address, longest_bytes),
        _ => compare(arguments.first().copied(), arguments.get(1).copied()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("adversaries: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(rounds: Option<&str>, seconds: Option<&str>) -> Result<(), Box<dyn Error>> {
    let rounds = rounds.map_or(Ok(ROUNDS), str::parse)?;
    let seconds = Duration::from_secs(seconds.map_or(Ok(SECONDS), str::parse)?);
    println!(
        "{rounds} rounds of {seconds:?}; {HONEST} honest peers, {HONEST_BYTES} bytes; medians, lost \
         is the sum"
    );
    println!();
    println!("| memory | beside | p50 ms | p99 ms | x alone | requests/s | lost |");
    println!("|---|---|---|---|---|---|---|");
    for (kind, mebibytes) in ROWS {
        let mut taken = Beside::ALL.map(|_| Vec::new());
        for _ in 0..rounds {
            for (beside, taken) in Beside::ALL.into_iter().zip(&mut taken) {
                taken.push(load(kind, mebibytes, beside, seconds)?);
            }
        }
        for (beside, figures) in Beside::ALL.into_iter().zip(&taken) {
            let of = |read: fn(&Figures) -> f64| median(figures.iter().map(read));
            let alone = &taken[0];
            let ratios = figures.iter().zip(alone).map(|(with, alone)| with.p99_ms / alone.p99_ms);
            println!(
                "| {kind}, {mebibytes} MiB | {} | {:.2} | {:.2} | {:.2} | {:.0} | {} |",
                beside.words(),
                of(|figures| figures.p50_ms),
                of(|figures| figures.p99_ms),
                median(ratios),
                of(|figures| figures.requests_per_s),
                figures.iter().map(|figures| figures.lost).sum::<u64>(),
            );
        }
    }
    Ok(())
}

/// Loads a new server once.
fn load(
    kind: &str,
    mebibytes: &str,
    beside: Beside,
    duration: Duration,
) -> Result<Figures, Box<dyn Error>> {
    let (_server, address) = start(kind, mebibytes)?;
    let others = match beside {
        Beside::Others => Some(start(kind, mebibytes)?),
        _ => None,
    };
    let mut adversaries = None;
    if beside != Beside::Nobody {
        let attacked = others.as_ref().map_or(&address, |(_, address)| address);
        let longest_bytes = config(kind, mebibytes)?.max_frame_bytes.to_string();
        let spawned =
            Command::new(env::current_exe()?).args([ATTACK, attacked, &longest_bytes]).spawn()?;
        adversaries = Some(Process(spawned));
        std::thread::sleep(GATHER);
    }
    let plan = Plan {
        connections: HONEST,
        sizes: HONEST_BYTES.into(),
        duration: Some(duration),
        warm_up: Duration::from_secs(1),
        timeout: Some(HONEST_TIMEOUT),
        ..Plan::for_target(address.parse()?)
    };
    let report = loadgen::run(&plan, &Stop::new(), &mut |_| {})?;
    drop(adversaries);
    let latency = report.latency.percentiles();
    let ms = |nanos: u64| Duration::from_nanos(nanos).as_secs_f64() * 1000.0;
    let counts = &report.counts;
    Ok(Figures {
        p50_ms: ms(latency.p50),
        p99_ms: ms(latency.p99),
        requests_per_s: report.rate(),
        lost: counts.errors.total() + counts.mismatches.total() + counts.unanswered,
    })
}

/// Starts a server. Returns it and its address.
fn start(kind: &str, mebibytes: &str) -> Result<(Process, String), Box<dyn Error>> {
    let mut server = Command::new(env::current_exe()?);
    let mut server = server.args([SERVE, kind, mebibytes]).stdout(Stdio::piped()).spawn()?;
    let output = server.stdout.take();
    let server = Process(server);
    let mut first = String::new();
    BufReader::new(output.ok_or("no output")?).read_line(&mut first)?;
    let address = first.trim().strip_prefix("listening on ").ok_or("no address")?;
    Ok((server, address.to_owned()))
}

fn config(kind: &str, mebibytes: &str) -> Result<Config, Box<dyn Error>> {
    let defaults = match kind {
        "fixed" => Config::fixed(),
        _ => Config::buddy(),
    };
    Ok(Config { capacity_bytes: mebibytes.parse::<usize>()? << 20, ..defaults })
}

fn runtime() -> std::io::Result<runtime::Runtime> {
    runtime::Builder::new_current_thread().enable_all().build()
}

fn serve(kind: &str, mebibytes: &str) -> Result<(), Box<dyn Error>> {
    let server = Server::new(&config(kind, mebibytes)?)?;
    runtime()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("listening on {}", listener.local_addr()?);
        Ok(server.run(listener, CancellationToken::new()).await?)
    })
}

fn attack(address: &str, longest_bytes: &str) -> Result<(), Box<dyn Error>> {
    let (address, longest_bytes) = (address.parse()?, longest_bytes.parse()?);
    runtime()?.block_on(async {
        let mut adversaries = JoinSet::new();
        for number in 0..SLOW {
            let announced = if number % 2 == 0 { longest_bytes } else { 5000 };
            // Nobody's moments are those of another.
            let begin_after = PACE * number / SLOW;
            adversaries.spawn(async move {
                sleep(begin_after).await;
                send_slowly(address, announced, 4 + number as usize * 7 % 900).await;
            });
            adversaries.spawn(async move {
                sleep(begin_after).await;
                read_slowly(address).await;
            });
        }
        // Until it is killed.
        while adversaries.join_next().await.is_some() {}
        Ok(())
    })
}

async fn send_slowly(address: SocketAddr, announced: u32, begun_bytes: usize) {
    let begun = [&announced.to_be_bytes()[..], &[7; 1000]].concat();
    loop {
        if let Ok(mut stream) = TcpStream::connect(address).await
            && stream.write_all(&begun[..begun_bytes]).await.is_ok()
        {
            while stream.write_all(&[7]).await.is_ok() {
                sleep(PACE).await;
            }
        }
        sleep(AWAY).await;
    }
}

async fn read_slowly(address: SocketAddr) {
    let frame = [&50_000_u32.to_be_bytes()[..], &[7; 50_000]].concat();
    let mut replies = [0; 1000];
    loop {
        if let Ok(mut stream) = TcpStream::connect(address).await {
            let mut at = 0;
            loop {
                match timeout(PACE, stream.write(&frame[at..])).await {
                    Ok(Ok(written)) => at = (at + written) % frame.len(),
                    Ok(Err(_)) => break,
                    // Nothing more goes out: a little must come in.
                    Err(_) => match stream.read(&mut replies).await {
                        Ok(1..) => {}
                        Ok(0) | Err(_) => break,
                    },
                }
            }
        }
        sleep(AWAY).await;
    }
}
