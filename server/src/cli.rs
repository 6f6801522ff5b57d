//! The command line: what people write, and all that is wrong with it at once.
//!
//! Values are text to `clap` and read here, because `clap` stops at the first that it cannot read.

#![allow(rustdoc::broken_intra_doc_links, reason = "the comments of flags are help texts")]

use std::{fmt, str::FromStr, time::Duration};

use arena_echo::{ArenaKind, Config, ConfigError, Problem, Reply, Size};
use clap::Parser;

use crate::address::ListenAddress;

/// Threads that a runtime can have without failing for other reasons.
const THREADS_MAX: usize = 1024;

/// Answers each length-prefixed frame with the same frame, out of one piece of memory that never
/// grows.
///
/// A frame is a 4-byte big-endian payload length and the payload. Sizes are written like 64k or
/// 1MiB, times like 500ms or 30s. SIGINT and SIGTERM stop accepting, answer what has arrived and
/// exit; a second one exits at once.
#[derive(Debug, Parser)]
#[command(name = "arena-echo", version, max_term_width = 100)]
pub(crate) struct Flags {
    /// How the memory is cut: into fixed slots, or into buddy blocks of powers of two
    /// [default: buddy]
    #[arg(long, value_name = "fixed|buddy", default_value = "buddy", hide_default_value = true)]
    mode: String,
    /// Where to listen: host:port, [::1]:port, or :port for every address
    /// [default: 127.0.0.1:9000]
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9000", hide_default_value = true)]
    listen: String,
    /// All payload memory [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    capacity: Option<String>,
    /// Bytes of a slot, fixed mode only [default: 64KiB]
    #[arg(long, value_name = "SIZE")]
    slot_size: Option<String>,
    /// Bytes of the smallest block, buddy mode only [default: 256]
    #[arg(long, value_name = "SIZE")]
    min_block: Option<String>,
    /// The longest payload [default: 1MiB; in fixed mode the slot size, which is also the most]
    #[arg(long, value_name = "SIZE")]
    max_frame: Option<String>,
    /// Bytes of the heap for frames that fit into no slot or block [default: 0]
    #[arg(long, value_name = "SIZE")]
    spill: Option<String>,
    /// Where the reply lies: in the memory of the request, or in a frame of its own
    /// [default: share]
    #[arg(long, value_name = "share|copy")]
    reply: Option<String>,
    /// Connections at once; further ones wait to be accepted [default: 10000]
    #[arg(long, value_name = "N")]
    max_connections: Option<String>,
    /// How long a peer may take until its first byte, or off [default: 30s]
    #[arg(long, value_name = "TIME")]
    first_byte_timeout: Option<String>,
    /// How long a peer may take between two frames, or off [default: 5m]
    #[arg(long, value_name = "TIME")]
    idle_timeout: Option<String>,
    /// How long a peer may take from the first byte of a frame to its last [default: 10s]
    #[arg(long, value_name = "TIME")]
    frame_timeout: Option<String>,
    /// How long a peer may take none of its reply [default: 10s]
    #[arg(long, value_name = "TIME")]
    write_timeout: Option<String>,
    /// How long a connection waits for memory [default: 30s]
    #[arg(long, value_name = "TIME")]
    memory_timeout: Option<String>,
    /// How long connections may take to end after the first signal [default: 10s]
    #[arg(long, value_name = "TIME")]
    drain_timeout: Option<String>,
    /// Threads that serve connections [default: one for each core]
    #[arg(long, value_name = "N")]
    threads: Option<String>,
}

/// What the command line says.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) listen: ListenAddress,
    pub(crate) threads: Option<usize>,
    pub(crate) config: Config,
}

impl Flags {
    /// Reads all values and checks that they work together.
    ///
    /// # Errors
    ///
    /// Every reason why they do not.
    pub(crate) fn into_settings(self) -> Result<Settings, ConfigError> {
        let mut reader = Reader::default();
        let listen = reader.read("--listen", Some(&self.listen), text);
        let threads = reader.read("--threads", self.threads.as_deref(), threads);
        let config = self.config(&mut reader);

        let mut problems = reader.problems;
        // A default stands in for what could not be read; a conclusion from that would mislead.
        let sound =
            |problem: &Problem| !reader.unreadable.iter().any(|flag| problem.involves(flag));
        problems.extend(config.problems().into_iter().filter(sound));
        ConfigError::check(problems)?;

        let listen = listen.expect("an address that cannot be read is a problem");
        Ok(Settings { listen, threads, config })
    }

    fn config(&self, reader: &mut Reader) -> Config {
        let mut config = self.mode_defaults(reader);
        let sizes = [
            ("--capacity", &self.capacity, &mut config.capacity_bytes),
            ("--max-frame", &self.max_frame, &mut config.max_frame_bytes),
            ("--spill", &self.spill, &mut config.spill_bytes),
        ];
        for (flag, written, target) in sizes {
            if let Some(Size(bytes)) = reader.read(flag, written.as_deref(), text) {
                *target = bytes;
            }
        }
        if let Some(reply) = reader.read("--reply", self.reply.as_deref(), reply) {
            config.reply = reply;
        }
        let off_or_times = [
            ("--first-byte-timeout", &self.first_byte_timeout, &mut config.first_byte_timeout),
            ("--idle-timeout", &self.idle_timeout, &mut config.idle_timeout),
        ];
        for (flag, written, target) in off_or_times {
            if let Some(time) = reader.read(flag, written.as_deref(), off_or_time) {
                *target = time;
            }
        }
        let max_connections = self.max_connections.as_deref();
        if let Some(count) = reader.read("--max-connections", max_connections, count) {
            config.max_connections = count;
        }
        let times = [
            ("--frame-timeout", &self.frame_timeout, &mut config.frame_timeout),
            ("--write-timeout", &self.write_timeout, &mut config.write_timeout),
            ("--memory-timeout", &self.memory_timeout, &mut config.memory_timeout),
            ("--drain-timeout", &self.drain_timeout, &mut config.drain_timeout),
        ];
        for (flag, written, target) in times {
            if let Some(time) = reader.read(flag, written.as_deref(), time) {
                *target = time;
            }
        }
        config
    }

    /// The defaults of the mode, with its own flag applied.
    fn mode_defaults(&self, reader: &mut Reader) -> Config {
        let slot_size = reader.read::<Size>("--slot-size", self.slot_size.as_deref(), text);
        let min_block = reader.read::<Size>("--min-block", self.min_block.as_deref(), text);
        match self.mode.as_str() {
            "fixed" => {
                reader.refuse_other_mode("--min-block", self.min_block.as_deref(), "buddy");
                slot_size.map_or_else(Config::fixed, |Size(slot_bytes)| Config {
                    arena: ArenaKind::Fixed { slot_bytes },
                    max_frame_bytes: slot_bytes,
                    ..Config::fixed()
                })
            }
            "buddy" => {
                reader.refuse_other_mode("--slot-size", self.slot_size.as_deref(), "fixed");
                min_block.map_or_else(Config::buddy, |Size(min_block_bytes)| Config {
                    arena: ArenaKind::Buddy { min_block_bytes },
                    ..Config::buddy()
                })
            }
            other => {
                reader.refuse("--mode", other, "is no mode; set it to fixed or buddy");
                reader.unreadable.extend(["--capacity", "--max-frame"]);
                Config::buddy()
            }
        }
    }
}

/// Reads values and collects what is wrong with them.
#[derive(Debug, Default)]
struct Reader {
    problems: Vec<Problem>,
    unreadable: Vec<&'static str>,
}

impl Reader {
    /// Reads a value if it is written and can be read.
    fn read<T>(
        &mut self,
        flag: &'static str,
        written: Option<&str>,
        parse: fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let written = written?;
        parse(written).map_err(|reason| self.refuse(flag, written, reason)).ok()
    }

    fn refuse(&mut self, flag: &'static str, written: &str, reason: impl fmt::Display) {
        self.unreadable.push(flag);
        self.problems.push(Problem::about(flag, format_args!("'{written}'")).because(reason));
    }

    fn refuse_other_mode(&mut self, flag: &'static str, written: Option<&str>, mode: &str) {
        if let Some(written) = written {
            let reason = format_args!("only --mode {mode} has it; leave it out or set that mode");
            self.refuse(flag, written, reason);
        }
    }
}

fn text<T: FromStr<Err = String>>(written: &str) -> Result<T, String> {
    written.parse()
}

fn count(written: &str) -> Result<usize, String> {
    written.parse().map_err(|_| "is not a count; write a whole number".to_owned())
}

fn threads(written: &str) -> Result<usize, String> {
    let threads = count(written)?;
    if (1..=THREADS_MAX).contains(&threads) {
        Ok(threads)
    } else {
        Err(format!("set it to at least 1 and at most {THREADS_MAX}"))
    }
}

fn reply(written: &str) -> Result<Reply, String> {
    match written {
        "share" => Ok(Reply::Share),
        "copy" => Ok(Reply::Copy),
        _ => Err("is no kind of reply; set it to share or copy".to_owned()),
    }
}

fn off_or_time(written: &str) -> Result<Option<Duration>, String> {
    if written == "off" { Ok(None) } else { time(written).map(Some) }
}

fn time(written: &str) -> Result<Duration, String> {
    let unreadable = |_| "is not a time; write for example 500ms, 10s or 1m".to_owned();
    humantime::parse_duration(written).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(flags: &str) -> Result<Settings, Vec<String>> {
        let arguments = ["arena-echo"].into_iter().chain(flags.split_whitespace());
        let flags = Flags::try_parse_from(arguments).expect("known flags");
        let lines = |error: ConfigError| error.to_string().lines().map(str::to_owned).collect();
        flags.into_settings().map_err(lines)
    }

    #[test]
    fn without_flags_the_defaults_hold() {
        let settings = settings("").expect("the defaults work");
        assert_eq!(settings.listen, "127.0.0.1:9000".parse().unwrap());
        assert_eq!(settings.config.arena, ArenaKind::Buddy { min_block_bytes: 256 });
        assert_eq!(settings.config.capacity_bytes, 64 << 20);
        assert_eq!(settings.config.max_frame_bytes, 1 << 20);
    }

    #[test]
    fn in_fixed_mode_the_longest_frame_is_a_slot_unless_it_is_set() {
        let config = settings("--mode fixed --slot-size 4k").unwrap().config;
        assert_eq!(config.max_frame_bytes, 4096);
        let config = settings("--mode fixed --slot-size 4k --max-frame 1k").unwrap().config;
        assert_eq!(config.max_frame_bytes, 1024);
    }

    #[test]
    fn every_value_that_cannot_be_read_is_named_with_a_fix() {
        let flags = "--mode slab --listen nowhere --capacity lots --max-connections many \
                     --frame-timeout soon --threads 0";
        let expected = [
            "--listen 'nowhere': is not an address; write host:port, [::1]:port or :port",
            "--threads '0': set it to at least 1 and at most 1024",
            "--mode 'slab': is no mode; set it to fixed or buddy",
            "--capacity 'lots': is not a size; write for example 65536, 64k or 1MiB",
            "--max-connections 'many': is not a count; write a whole number",
            "--frame-timeout 'soon': is not a time; write for example 500ms, 10s or 1m",
        ];
        assert_eq!(settings(flags).unwrap_err(), expected);
    }

    #[test]
    fn what_cannot_be_read_and_what_cannot_work_are_reported_together() {
        let lines = settings("--capacity 3MiB --drain-timeout soon").unwrap_err();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("--drain-timeout 'soon'"));
        assert!(lines[1].starts_with("--capacity 3MiB"));
    }

    #[test]
    fn nothing_is_concluded_from_a_value_that_cannot_be_read() {
        let lines = settings("--capacity lots --max-frame 1GiB").unwrap_err();
        assert_eq!(lines.len(), 1, "{lines:?}");
    }

    #[test]
    fn a_flag_of_the_other_mode_is_refused() {
        let lines = settings("--slot-size 4k").unwrap_err();
        let expected = "--slot-size '4k': only --mode fixed has it; leave it out or set that mode";
        assert_eq!(lines, [expected]);
    }
}
