//! What the server tells of its arena while it is loaded: its Prometheus page, read on a thread of
//! its own at a calm pace.
//!
//! Nothing here may disturb the load. A page that fails is reported once and asked again later, and
//! the run goes on without it.

use std::{
    fmt,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    clock::Clock,
    console,
    net::address::{host_of, is_ipv6, reachable},
    units,
};

/// How often the page is read, whatever the interval of progress.
const PERIOD_MIN: Duration = Duration::from_millis(100);
const PERIOD_MAX: Duration = Duration::from_secs(1);
/// How long one reading may take.
const TIMEOUT: Duration = Duration::from_secs(1);
/// A page that is longer is none that we look for.
const PAGE_BYTES_MAX: u64 = 4 << 20;
const HTTP_PORT: u16 = 80;
const METRICS_PATH: &str = "/metrics";

/// Where the metrics are: `http://host:port/path`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MetricsUrl {
    /// A name or an IP address, without brackets.
    host: String,
    port: u16,
    path: String,
}

/// Why a text is not the address of a metrics page.
#[non_exhaustive]
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum MetricsUrlError {
    /// Another protocol, or none.
    #[error("is `{0}`; write http://host:port/metrics (encrypted pages cannot be read)")]
    Scheme(String),
    /// The part between the slashes is no host, or its port is no port.
    #[error("is `{0}`; the server in it must be host, host:port or [::1]:port")]
    Authority(String),
}

/// What the arena looked like at one moment. What the page did not tell is `None`.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Sample {
    /// Seconds since the load began.
    pub at_s: f64,
    /// Bytes of the whole arena.
    pub bytes_reserved: Option<u64>,
    /// Bytes in use.
    pub bytes_live: Option<u64>,
    /// The largest block that an allocation could have got.
    pub largest_free_block_bytes: Option<u64>,
    /// Who waits for memory.
    pub waiters: Option<u64>,
    /// Buffers that have moved to the heap since the server started.
    pub spills_total: Option<u64>,
}

/// A page that is read until this is finished or dropped.
#[derive(Debug)]
pub(crate) struct MetricsProbe {
    state: Arc<Mutex<State>>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    samples: Vec<Sample>,
    is_over: bool,
}

impl MetricsProbe {
    /// Starts to read the page about as often as progress is reported. `began_at` is when the load
    /// began, on `clock`.
    pub(crate) fn start(
        url: &MetricsUrl,
        interval: Duration,
        clock: Clock,
        began_at: u64,
    ) -> io::Result<Self> {
        let state = Arc::new(Mutex::new(State::default()));
        let reader = thread::Builder::new().name("loadgen-metrics".to_owned()).spawn({
            let (url, state) = (url.clone(), Arc::clone(&state));
            let period = interval.clamp(PERIOD_MIN, PERIOD_MAX);
            move || read_repeatedly(&url, period, &state, || seconds_since(began_at, &clock))
        })?;
        Ok(Self { state, reader: Some(reader) })
    }

    /// What was read last.
    pub(crate) fn latest(&self) -> Option<Sample> {
        lock(&self.state).samples.last().copied()
    }

    /// Ends reading, and hands over all that was read.
    pub(crate) fn finish(mut self) -> Vec<Sample> {
        self.end();
        std::mem::take(&mut lock(&self.state).samples)
    }

    fn end(&mut self) {
        lock(&self.state).is_over = true;
        if let Some(reader) = self.reader.take() {
            reader.thread().unpark();
            // A reader that has panicked has said so, and takes only its later samples with it.
            let _ = reader.join();
        }
    }
}

impl Drop for MetricsProbe {
    fn drop(&mut self) {
        self.end();
    }
}

impl MetricsUrl {
    /// The page of a server that says it tells of itself at this address, if it is one.
    pub(crate) fn of_announced(address: &str) -> Option<Self> {
        let address = reachable(address.parse().ok()?);
        (address.port() != 0).then(|| Self {
            host: host_of(address),
            port: address.port(),
            path: METRICS_PATH.to_owned(),
        })
    }
}

impl FromStr for MetricsUrl {
    type Err = MetricsUrlError;

    fn from_str(text: &str) -> Result<Self, MetricsUrlError> {
        let rest =
            text.strip_prefix("http://").ok_or_else(|| MetricsUrlError::Scheme(text.to_owned()))?;
        let (authority, path) = match rest.find('/') {
            Some(slash) if &rest[slash..] != "/" => rest.split_at(slash),
            Some(slash) => (&rest[..slash], METRICS_PATH),
            None => (rest, METRICS_PATH),
        };
        let wrong = || MetricsUrlError::Authority(text.to_owned());
        let after_brackets = authority.rfind(']').map_or(0, |bracket| bracket + 1);
        let (host, port) = match authority[after_brackets..].rfind(':') {
            Some(colon) => {
                let (host, port) = authority.split_at(after_brackets + colon);
                (host, port[1..].parse().ok().filter(|&port| port != 0).ok_or_else(wrong)?)
            }
            None => (authority, HTTP_PORT),
        };
        let host = match host.strip_prefix('[') {
            // In URLs the sign before an interface is escaped.
            Some(host) => {
                let host = host.strip_suffix(']').ok_or_else(wrong)?.replace("%25", "%");
                is_ipv6(&host).then_some(host).ok_or_else(wrong)?
            }
            None if host.contains(':') => return Err(wrong()),
            None => host.to_owned(),
        };
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if host.is_empty() || !is_plain(&host) || !is_plain(path) {
            return Err(wrong());
        }
        Ok(Self { host, port, path: path.to_owned() })
    }
}

impl fmt::Display for MetricsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, path } = self;
        match host.contains(':') {
            true => write!(f, "http://[{}]:{port}{path}", host.replace('%', "%25")),
            false => write!(f, "http://{host}:{port}{path}"),
        }
    }
}

fn seconds_since(began_at: u64, clock: &Clock) -> f64 {
    clock.now().saturating_sub(began_at) as f64 / 1e9
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Samples are pushed whole: there is nothing half done behind a panic.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_repeatedly(
    url: &MetricsUrl,
    period: Duration,
    state: &Mutex<State>,
    now_s: impl Fn() -> f64,
) {
    let mut has_complained = false;
    let mut due = Instant::now();
    while !lock(state).is_over {
        match fetch(url).and_then(|page| parse(&page)).map_err(in_words) {
            Ok(sample) => lock(state).samples.push(Sample { at_s: now_s(), ..sample }),
            Err(error) if !has_complained => {
                has_complained = true;
                console::complain(format_args!(
                    "cannot read {url} (--metrics): {error}; the run goes on, and it is tried again"
                ));
            }
            Err(_) => {}
        }
        // A reading that took long is no reason to hurry afterwards.
        due = (due + period).max(Instant::now());
        while !lock(state).is_over
            && let Some(pause) = due.checked_duration_since(Instant::now())
            && !pause.is_zero()
        {
            thread::park_timeout(pause);
        }
    }
}

/// An error as people know it. A read or write that takes too long ends like one that would block.
fn in_words(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
            let words = format!("no complete answer within {}", units::time_of(TIMEOUT));
            io::Error::new(io::ErrorKind::TimedOut, words)
        }
        _ => error,
    }
}

/// Reads the page.
fn fetch(url: &MetricsUrl) -> io::Result<String> {
    let deadline = Instant::now() + TIMEOUT;
    let mut stream = connect(url, deadline)?;
    // An interface means something on this machine only.
    let host = url.host.split('%').next().unwrap_or_default();
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    write!(
        stream,
        "GET {} HTTP/1.1\r\nHost: {host}:{}\r\nAccept: text/plain\r\nConnection: close\r\n\r\n",
        url.path, url.port
    )?;
    let mut reply = BufReader::new(Timed { stream, deadline }.take(PAGE_BYTES_MAX));
    let mut line = String::new();
    reply.read_line(&mut line)?;
    let status = line.split_ascii_whitespace().nth(1).unwrap_or_default();
    if status != "200" {
        return Err(io::Error::other(format!("the server answers `{}`", line.trim_end())));
    }
    let (mut length, mut is_chunked) = (None, false);
    loop {
        line.clear();
        if reply.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let header = line.trim_end();
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').unwrap_or((header, ""));
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok();
        }
        is_chunked |= name.eq_ignore_ascii_case("transfer-encoding")
            && value.trim().eq_ignore_ascii_case("chunked");
    }
    let mut page = Vec::new();
    match length {
        _ if is_chunked => read_chunks(&mut reply, &mut page)?,
        Some(length) => {
            if reply.take(length).read_to_end(&mut page)? as u64 != length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        None => {
            reply.read_to_end(&mut page)?;
        }
    }
    String::from_utf8(page).map_err(io::Error::other)
}

fn connect(url: &MetricsUrl, deadline: Instant) -> io::Result<TcpStream> {
    let mut error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let addresses: Vec<_> = (url.host.as_str(), url.port).to_socket_addrs()?.collect();
    for (address, left) in addresses.iter().zip((1..=addresses.len()).rev()) {
        // An address that is silent leaves time for those behind it.
        let patience = remaining(deadline)?.div_f64(left as f64);
        match TcpStream::connect_timeout(address, patience) {
            Ok(stream) => {
                stream.set_write_timeout(Some(remaining(deadline)?))?;
                return Ok(stream);
            }
            Err(refusal) => error = refusal,
        }
    }
    Err(error)
}

/// What is left until `deadline`, which is never nothing.
fn remaining(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// A stream that must tell all by its deadline.
struct Timed {
    stream: TcpStream,
    deadline: Instant,
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(remaining(self.deadline)?))?;
        self.stream.read(buffer)
    }
}

/// Reads a body that comes in chunks: each behind a line with its length in hexadecimal.
fn read_chunks(reply: &mut impl BufRead, page: &mut Vec<u8>) -> io::Result<()> {
    let mut line = String::new();
    loop {
        line.clear();
        reply.read_line(&mut line)?;
        let digits = line.trim_end().split(';').next().unwrap_or_default();
        let length = u64::from_str_radix(digits, 16)
            .map_err(|_| io::Error::other("the server's chunks have no length"))?;
        if length == 0 {
            return Ok(());
        }
        if reply.by_ref().take(length).read_to_end(page)? as u64 != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // The end of the line that ends a chunk.
        line.clear();
        reply.read_line(&mut line)?;
    }
}

/// Finds the arena's figures in a page of Prometheus text. Series with labels are added up.
fn parse(page: &str) -> io::Result<Sample> {
    let mut sample = Sample::default();
    for line in page.lines() {
        let end_of_name = line.find(['{', ' ', '\t']).unwrap_or(line.len());
        let (name, rest) = line.split_at(end_of_name);
        let figure = match name {
            "arena_bytes_reserved" => &mut sample.bytes_reserved,
            "arena_bytes_live" => &mut sample.bytes_live,
            "arena_largest_free_block_bytes" => &mut sample.largest_free_block_bytes,
            "arena_waiters" => &mut sample.waiters,
            "arena_spills_total" => &mut sample.spills_total,
            _ => continue,
        };
        // A label's value may hold blanks, and a time may follow the value.
        let rest = rest.rfind('}').map_or(rest, |brace| &rest[brace + 1..]);
        let value = rest.split_ascii_whitespace().next().and_then(|value| value.parse().ok());
        if let Some(value @ 0.0..=1.8e19) = value {
            *figure = Some(figure.unwrap_or_default() + units::whole(value));
        }
    }
    if sample == Sample::default() {
        return Err(io::Error::other("the page names none of the arena's figures"));
    }
    Ok(sample)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn reads_as(text: &str, canonical: &str) {
        assert_eq!(text.parse::<MetricsUrl>().unwrap().to_string(), canonical);
    }

    #[test]
    fn a_url_may_leave_out_port_and_path() {
        reads_as("http://a.test:9100/m?x=1", "http://a.test:9100/m?x=1");
        reads_as("http://a.test", "http://a.test:80/metrics");
        reads_as("http://127.0.0.1:9100/", "http://127.0.0.1:9100/metrics");
        reads_as("http://[::1]:9100", "http://[::1]:9100/metrics");
        reads_as("http://[::1]/metrics", "http://[::1]:80/metrics");
        reads_as("http://[fe80::1%25eth0]:9100", "http://[fe80::1%25eth0]:9100/metrics");
        reads_as("http://[fe80::1%eth0]:9100", "http://[fe80::1%25eth0]:9100/metrics");
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for text in ["", "a.test:80", "https://a.test", "ftp://a.test"] {
            assert_eq!(
                text.parse::<MetricsUrl>(),
                Err(MetricsUrlError::Scheme(text.to_owned())),
                "{text}"
            );
        }
        for text in
            ["http://", "http://:80", "http://a:b", "http://a:0", "http://::1", "http://a b"]
        {
            assert_eq!(
                text.parse::<MetricsUrl>(),
                Err(MetricsUrlError::Authority(text.to_owned())),
                "{text}"
            );
        }
    }

    #[test]
    fn figures_are_found_among_others_and_labels_are_added_up() {
        let page = "# HELP arena_waiters Who waits.\n# TYPE arena_waiters gauge\n\
                    arena_waiters 3\narena_waiters_max 9\n\
                    arena_bytes_live{pool=\"a } b\"} 1.5e3 1700000000\n\
                    arena_bytes_live{pool=\"c\"} 500\narena_bytes_reserved NaN\n";
        let found = parse(page).unwrap();
        let expected = Sample { waiters: Some(3), bytes_live: Some(2_000), ..Sample::default() };
        assert_eq!(found, expected);
    }

    #[test]
    fn a_page_without_the_arena_is_an_error() {
        assert!(parse("process_cpu_seconds_total 1\n").is_err());
        assert!(parse("").is_err());
    }

    #[test]
    fn chunks_are_joined() {
        let mut page = Vec::new();
        read_chunks(&mut &b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n"[..], &mut page).unwrap();
        assert_eq!(page, b"hello world");
        assert!(read_chunks(&mut &b"5\r\nhel"[..], &mut page).is_err());
        assert!(read_chunks(&mut &b""[..], &mut page).is_err());
    }
}
