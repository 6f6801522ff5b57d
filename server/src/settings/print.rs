//! The effective values, as a file that can be read back, and what differs between two of them.

use std::{
    fmt::{self, Write},
    path::Path,
};

use arena_echo::{ArenaKind, Config, Reply, Size};
use toml::Value;

use crate::descriptors;

use super::{
    LogFormat, Settings,
    keys::{KEYS, Key},
    written::Origin,
};

/// One key whose value differs between two settings.
#[derive(Debug)]
pub(crate) struct Change {
    key: &'static Key,
    before: Option<Value>,
    after: Option<Value>,
    is_reloadable: bool,
}

impl Change {
    /// Whether a running server can take the new value over.
    pub(crate) fn is_reloadable(&self) -> bool {
        self.is_reloadable
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Option<Value>| {
            value.as_ref().map_or_else(|| "nothing".to_owned(), Value::to_string)
        };
        write!(f, "{} from {} to {}", self.key.name, text(&self.before), text(&self.after))
    }
}

impl Settings {
    /// Returns what differs in `after`.
    pub(crate) fn changes(&self, after: &Self) -> Vec<Change> {
        // Addresses begin to speak TLS, or cease to, when they are bound.
        let turns_tls = self.encryption.is_some() != after.encryption.is_some();
        let change = |key: &'static Key| {
            let is_reloadable = key.is_reloadable && !(turns_tls && key.name.starts_with("tls-"));
            Change { key, before: self.value(key), after: after.value(key), is_reloadable }
        };
        KEYS.iter().map(change).filter(|change| change.before != change.after).collect()
    }

    /// Prints every value with where it comes from, as TOML.
    pub(crate) fn to_toml(&self) -> String {
        let mut toml = format!("# arena-echo {}: what is in effect.\n", env!("CARGO_PKG_VERSION"));
        let lines: Vec<_> = KEYS.iter().map(|key| (key, self.line(key))).collect();
        let width = lines.iter().map(|(_, line)| line.chars().count()).max().unwrap_or_default();
        let mut section = None;
        for (key, line) in lines {
            if section != Some(key.section) {
                section = Some(key.section);
                let _ = writeln!(toml, "\n# {}", key.section.title());
            }
            let _ = writeln!(toml, "{line:width$}  # {}", self.source(key));
        }
        toml
    }

    /// A line of TOML. A comment if the mode does not have the key: a value would be refused.
    fn line(&self, key: &Key) -> String {
        match self.adjusted(key).map(|(value, _)| value).or_else(|| self.value(key)) {
            Some(value) => format!("{} = {value}", key.name),
            None => format!("#{} =", key.name),
        }
    }

    /// The value that is in effect in place of the one that is written, and why it is.
    fn adjusted(&self, key: &Key) -> Option<(Value, String)> {
        let plan = self.config.plan().ok()?;
        let (value, why) = match key.name {
            "capacity" => {
                (word(Size(plan.capacity_bytes())), ", rounded down to whole slots".to_owned())
            }
            "spill" => {
                (word(Size(plan.spill_bytes())), ", rounded down to a power of two".to_owned())
            }
            "max-connections" => {
                let (possible, allowed) = descriptors::shortage(self)?;
                (count(possible), format!("; the system allows {allowed} file descriptors"))
            }
            _ => return None,
        };
        (self.value(key).as_ref() != Some(&value)).then_some((value, why))
    }

    fn source(&self, key: &Key) -> String {
        match (self.adjusted(key), self.value(key)) {
            (Some((_, why)), Some(Value::String(written))) => {
                format!("{} {written}{why}", self.origin(key))
            }
            (Some((_, why)), Some(written)) => format!("{} {written}{why}", self.origin(key)),
            _ => self.origin(key),
        }
    }

    fn origin(&self, key: &Key) -> String {
        if self.value(key).is_none() {
            return match self.config.arena {
                ArenaKind::Fixed { .. } => "in buddy mode only".to_owned(),
                ArenaKind::Buddy { .. } => "in fixed mode only".to_owned(),
            };
        }
        match self.written.origin_of(key.name) {
            Origin::Default if key.name == "max-frame" && self.is_limited_by_slot() => {
                "default: the slot size".to_owned()
            }
            Origin::Default => "default".to_owned(),
            // A path is any text but a line break would end the comment.
            Origin::Line(path, line) => {
                format!("{}:{line}", path.display().to_string().escape_debug())
            }
            Origin::Variable => key.variable(),
            Origin::Flag => format!("--{}", key.name),
        }
    }

    fn is_limited_by_slot(&self) -> bool {
        let Config { arena, max_frame_bytes, spill_bytes, .. } = self.config;
        spill_bytes == 0 && arena == ArenaKind::Fixed { slot_bytes: max_frame_bytes }
    }

    /// The value of a key as it is written. `None` if the mode does not have it.
    fn value(&self, key: &Key) -> Option<Value> {
        let Self { config, .. } = self;
        Some(match key.name {
            "mode" => word(match config.arena {
                ArenaKind::Fixed { .. } => "fixed",
                ArenaKind::Buddy { .. } => "buddy",
            }),
            "slot-size" => match config.arena {
                ArenaKind::Fixed { slot_bytes } => word(Size(slot_bytes)),
                ArenaKind::Buddy { .. } => return None,
            },
            "min-block" => match config.arena {
                ArenaKind::Buddy { min_block_bytes } => word(Size(min_block_bytes)),
                ArenaKind::Fixed { .. } => return None,
            },
            "capacity" => word(Size(config.capacity_bytes)),
            "max-frame" => word(Size(config.max_frame_bytes)),
            "spill" => word(Size(config.spill_bytes)),
            "reply" => word(match config.reply {
                Reply::Share => "share",
                Reply::Copy => "copy",
            }),
            "listen" => Value::Array(self.listen.iter().map(word).collect()),
            "max-connections" => count(config.max_connections),
            "backlog" => count(self.backlog.into()),
            "keepalive" => or_off(self.keepalive.map(humantime::format_duration)),
            "reuse-port" => Value::Boolean(self.reuse_port),
            "tls-cert" => or_off(self.tls_paths.cert.as_deref().map(Path::display)),
            "tls-key" => or_off(self.tls_paths.key.as_deref().map(Path::display)),
            "tls-client-ca" => or_off(self.tls_paths.client_ca.as_deref().map(Path::display)),
            "first-byte-timeout" => {
                or_off(config.first_byte_timeout.map(humantime::format_duration))
            }
            "idle-timeout" => or_off(config.idle_timeout.map(humantime::format_duration)),
            "frame-timeout" => word(humantime::format_duration(config.frame_timeout)),
            "write-timeout" => word(humantime::format_duration(config.write_timeout)),
            "stall-timeout" => word(humantime::format_duration(config.stall_timeout)),
            "memory-timeout" => word(humantime::format_duration(config.memory_timeout)),
            "drain-timeout" => word(humantime::format_duration(config.drain_timeout)),
            "threads" => self.threads.map_or_else(|| word("auto"), count),
            "admin" => or_off(self.admin.as_ref()),
            "log-format" => word(match self.log_format {
                LogFormat::Text => "text",
                LogFormat::Json => "json",
            }),
            "log-filter" => word(&self.log_filter),
            name => unreachable!("{name} is not printed"),
        })
    }
}

fn word(value: impl fmt::Display) -> Value {
    Value::String(value.to_string())
}

fn or_off(value: Option<impl fmt::Display>) -> Value {
    value.map_or_else(|| word("off"), word)
}

fn count(count: usize) -> Value {
    Value::Integer(i64::try_from(count).unwrap_or(i64::MAX))
}
