//! The keys of the configuration: one table, from which the flags, the environment variables, the
//! help and the checks of files are made.
//!
//! A key is spelled the same everywhere: `max-frame` in a file is `--max-frame` on the command line
//! and `ARENA_ECHO_MAX_FRAME` in the environment. No key may be named `port` or `service-...`:
//! Kubernetes sets variables of those names for a service that is called `arena-echo`. For the same
//! reason other variables that no key has are warned of, and are no errors as unknown flags and
//! keys of a file are.

/// One thing that can be configured.
#[derive(Debug)]
pub(crate) struct Key {
    /// Its name in a file.
    pub(crate) name: &'static str,
    /// Stands for its value in the help.
    pub(crate) placeholder: &'static str,
    pub(crate) section: Section,
    /// One line. Whole words, no full stop.
    pub(crate) help: &'static str,
    /// What the long help adds. Empty if there is nothing to add.
    pub(crate) more: &'static str,
    /// Its default, as the help shows it.
    pub(crate) default: &'static str,
    /// Whether a running server takes a new value over.
    pub(crate) is_reloadable: bool,
}

/// A group of keys in the help and in the printed configuration.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Section {
    Memory,
    Listening,
    Timeouts,
    Operation,
}

impl Section {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Memory => "Memory",
            Self::Listening => "Listening",
            Self::Timeouts => "Timeouts",
            Self::Operation => "Operation",
        }
    }
}

impl Key {
    /// The environment variable that sets it.
    pub(crate) fn variable(&self) -> String {
        match self.name {
            // What every program calls it that logs by the same library.
            "log-filter" => "RUST_LOG".to_owned(),
            name => variable(name),
        }
    }

    /// Whether it takes several values.
    pub(crate) fn is_list(&self) -> bool {
        self.name == "listen"
    }

    /// Whether its flag may stand without a value.
    pub(crate) fn is_switch(&self) -> bool {
        self.placeholder == "true|false"
    }
}

/// Looks a key up by its name, with or without the dashes of its flag.
pub(crate) fn find(name: &str) -> Option<&'static Key> {
    let name = name.strip_prefix("--").unwrap_or(name);
    KEYS.iter().find(|key| key.name == name)
}

/// How different a name may be from the key that is suggested for it.
const SIMILARITY_MIN: f64 = 0.6;

/// A part of a name is short of meaning if it has fewer letters.
const PART_MIN: usize = 4;

/// What names the file in which the keys are: a flag and a variable as those of the keys.
const FILE: &str = "config";

/// Says which key was meant by a name that is none, if that can be guessed.
pub(crate) fn meant_by(name: &str) -> Option<&'static str> {
    nearest(name, KEYS.iter().map(|key| key.name))
}

/// The same for the name of a flag, with or without its dashes.
pub(crate) fn flag_meant_by(name: &str) -> Option<&'static str> {
    nearest(name, KEYS.iter().map(|key| key.name).chain([FILE]))
}

/// The same for the name of an environment variable.
pub(crate) fn variable_meant_by(name: &str) -> Option<String> {
    let name = name.strip_prefix(VARIABLES)?.to_lowercase().replace('_', "-");
    let meant = flag_meant_by(&name)?;
    Some(find(meant).map_or_else(|| variable(meant), Key::variable))
}

fn nearest(name: &str, names: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let name = name.trim_start_matches('-');
    let similarity = |other: &str| strsim::normalized_damerau_levenshtein(name, other);
    let is_part = |other: &str| name.len() >= PART_MIN && other.contains(name);
    names
        .filter(|other| similarity(other) >= SIMILARITY_MIN || is_part(other))
        .max_by(|one, other| similarity(one).total_cmp(&similarity(other)))
}

/// What the names of variables begin with.
const VARIABLES: &str = "ARENA_ECHO_";

fn variable(flag: &str) -> String {
    format!("{VARIABLES}{}", flag.to_uppercase().replace('-', "_"))
}

/// Whether a variable seems to be meant for this program, which does not have it.
pub(crate) fn is_unknown_variable(name: &str) -> bool {
    let is_known = || name == variable(FILE) || KEYS.iter().any(|key| name == key.variable());
    name.starts_with(VARIABLES) && !is_of_kubernetes(name) && !is_known()
}

/// Whether Kubernetes sets such variables, for services whose names begin as that of this program.
fn is_of_kubernetes(name: &str) -> bool {
    let is_of_port = |(_, rest): (&str, &str)| rest.starts_with(|c: char| c.is_ascii_digit());
    ["_SERVICE_HOST", "_SERVICE_PORT"].iter().any(|part| name.contains(part))
        || (name.ends_with("_PORT") && name != variable("reuse-port"))
        || name.split_once("_PORT_").is_some_and(is_of_port)
}

/// Every key, in the order in which people read about them.
pub(crate) const KEYS: [Key; 26] = [
    Key {
        name: "mode",
        placeholder: "fixed|buddy",
        section: Section::Memory,
        help: "Equal slots, or blocks of powers of two",
        more: "Choose fixed if most frames have about the same size, and buddy if they have many: \
               then a short frame takes a small block.",
        default: "buddy",
        is_reloadable: false,
    },
    Key {
        name: "capacity",
        placeholder: "SIZE",
        section: Section::Memory,
        help: "All payload memory of the arena",
        more: "Reserved at the start; the system provides it as it is used. When all of it is in \
               use, connections wait, and so do their peers. In buddy mode a power of two; in \
               fixed mode it is rounded down to whole slots.",
        default: "64MiB",
        is_reloadable: false,
    },
    Key {
        name: "slot-size",
        placeholder: "SIZE",
        section: Section::Memory,
        help: "Bytes of a slot, in fixed mode",
        more: "A payload fits if it is not longer than the slot: its header needs no room.",
        default: "64KiB",
        is_reloadable: false,
    },
    Key {
        name: "min-block",
        placeholder: "SIZE",
        section: Section::Memory,
        help: "Bytes of the smallest block, in buddy mode",
        more: "A power of two. A smaller one wastes less behind short frames; the tables of the \
               arena grow with the number of smallest blocks.",
        default: "256",
        is_reloadable: false,
    },
    Key {
        name: "max-frame",
        placeholder: "SIZE",
        section: Section::Memory,
        help: "The longest payload that is answered",
        more: "A longer one is refused at its header: earlier replies are sent, then the \
               connection is closed. In fixed mode without --spill the default is the slot size, \
               which is also the most.",
        default: "1MiB",
        is_reloadable: false,
    },
    Key {
        name: "spill",
        placeholder: "SIZE",
        section: Section::Memory,
        help: "Heap memory for frames longer than a slot",
        more: "At least twice --max-frame, where that is longer than a slot. Rounded down to a \
               power of two, and so is --max-frame rounded up for it. All memory for \
               payloads is then --capacity and --spill together. Fixed mode only: the blocks of \
               buddy mode hold every frame.",
        default: "0",
        is_reloadable: false,
    },
    Key {
        name: "reply",
        placeholder: "share|copy",
        section: Section::Memory,
        help: "Answer with the request, or with a copy",
        more: "The memory of the request itself is shared. A copy is what a server with other \
               logic than an echo does; it waits for memory if there is none.",
        default: "share",
        is_reloadable: false,
    },
    Key {
        name: "listen",
        placeholder: "ADDR",
        section: Section::Listening,
        help: "Where to listen",
        more: "host:port, [::1]:port, :port or unix:/path, where :port is every address of this \
               machine, IPv6 and IPv4. May be given several times; in the environment, separated \
               by commas. Port 0 takes a free one. The output names the real ports, one line for \
               each, once all of them accept. Sockets that a service manager passes (LISTEN_FDS) \
               take the place of these addresses.",
        default: "127.0.0.1:9000",
        is_reloadable: false,
    },
    Key {
        name: "max-connections",
        placeholder: "N",
        section: Section::Listening,
        help: "Connections at once; others wait",
        more: "Others wait to be accepted. Each needs a file descriptor. The limit of the process \
               is raised to that as far as the system allows; where it does not, this is lowered.",
        default: "10000",
        is_reloadable: true,
    },
    Key {
        name: "backlog",
        placeholder: "N",
        section: Section::Listening,
        help: "Waiting connections per address",
        more: "Further ones are not accepted, and their peers try again. The system may allow \
               fewer: see net.core.somaxconn.",
        default: "1024",
        is_reloadable: false,
    },
    Key {
        name: "keepalive",
        placeholder: "TIME|off",
        section: Section::Listening,
        help: "Silence until a TCP peer is probed",
        more: "The system does that. A peer that answers none of six probes, ten seconds apart, \
               has vanished without a word, and its connection ends. Whole seconds.",
        default: "1m",
        is_reloadable: false,
    },
    Key {
        name: "reuse-port",
        placeholder: "true|false",
        section: Section::Listening,
        help: "Share ports with other servers",
        more: "SO_REUSEPORT: the system spreads connections over all of them. What waits in the \
               queue of one that stops is answered by that one.",
        default: "false",
        is_reloadable: false,
    },
    Key {
        name: "tls-cert",
        placeholder: "PATH|off",
        section: Section::Listening,
        help: "Encrypt with this certificate",
        more: "PEM: the certificate of the server, and behind it those that vouch for it. Needs \
               --tls-key. Then every address speaks TLS 1.3 or 1.2, but not unix:/path and not \
               --admin. SIGHUP reads the files again; connections that exist keep what they began \
               with.",
        default: "off",
        is_reloadable: true,
    },
    Key {
        name: "tls-key",
        placeholder: "PATH|off",
        section: Section::Listening,
        help: "The private key of that certificate",
        more: "PEM. Only the user of the server should be able to read it.",
        default: "off",
        is_reloadable: true,
    },
    Key {
        name: "tls-client-ca",
        placeholder: "PATH|off",
        section: Section::Listening,
        help: "Authorities that vouch for peers",
        more: "PEM: their certificates. Only peers are let in that show a certificate for which \
               one of them vouches.",
        default: "off",
        is_reloadable: true,
    },
    Key {
        name: "first-byte-timeout",
        placeholder: "TIME|off",
        section: Section::Timeouts,
        help: "Silence of a new connection",
        more: "With TLS this includes the time until both sides know each other.",
        default: "30s",
        is_reloadable: true,
    },
    Key {
        name: "idle-timeout",
        placeholder: "TIME|off",
        section: Section::Timeouts,
        help: "Silence between frames",
        more: "An idle connection holds a file descriptor and no arena memory.",
        default: "5m",
        is_reloadable: true,
    },
    Key {
        name: "frame-timeout",
        placeholder: "TIME",
        section: Section::Timeouts,
        help: "Time for a frame to arrive",
        more: "From its first byte to its last. Others may wait that long for the memory of a \
               peer that sends slowly.",
        default: "10s",
        is_reloadable: true,
    },
    Key {
        name: "write-timeout",
        placeholder: "TIME",
        section: Section::Timeouts,
        help: "Time without taking a reply",
        more: "It begins anew when the system takes more of a reply. That tells of a peer only \
               after up to 256KiB: one that takes as much in this time is not closed.",
        default: "10s",
        is_reloadable: true,
    },
    Key {
        name: "stall-timeout",
        placeholder: "TIME",
        section: Section::Timeouts,
        help: "Keeping memory others wait for",
        more: "It begins anew with each 64KiB that the peer sends or takes. Then the one that has \
               kept its memory longest is closed, if such peers have over a quarter of the arena \
               or of --spill, or if nobody else is served.",
        default: "1s",
        is_reloadable: false,
    },
    Key {
        name: "memory-timeout",
        placeholder: "TIME",
        section: Section::Timeouts,
        help: "Waiting for memory",
        more: "Longer than --frame-timeout and --write-timeout together, it outlasts any one peer \
               that holds memory.",
        default: "30s",
        is_reloadable: true,
    },
    Key {
        name: "drain-timeout",
        placeholder: "TIME",
        section: Section::Timeouts,
        help: "Ending connections at a signal",
        more: "What takes longer is cut off, and the exit status is 1.",
        default: "10s",
        is_reloadable: true,
    },
    Key {
        name: "threads",
        placeholder: "N|auto",
        section: Section::Operation,
        help: "Threads that serve",
        more: "auto is one per core.",
        default: "auto",
        is_reloadable: false,
    },
    Key {
        name: "admin",
        placeholder: "ADDR|off",
        section: Section::Operation,
        help: "Metrics, health and status over HTTP",
        more: "It has no password. So :port is 127.0.0.1:port here; write 0.0.0.0:port to open it \
               to others.",
        default: "off",
        is_reloadable: false,
    },
    Key {
        name: "log-format",
        placeholder: "text|json",
        section: Section::Operation,
        help: "How to write log lines",
        more: "They go to the standard error.",
        default: "text",
        is_reloadable: false,
    },
    Key {
        name: "log-filter",
        placeholder: "FILTER",
        section: Section::Operation,
        help: "What to log",
        more: "error, warn, info, debug, trace or off. Also by module: warn,arena_echo=debug. Its \
               environment variable is RUST_LOG.",
        default: "info",
        is_reloadable: true,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_variable_is_one_that_kubernetes_sets() {
        for key in &KEYS {
            let variable = key.variable();
            let taken = ["ARENA_ECHO_PORT", "ARENA_ECHO_SERVICE"];
            assert!(!taken.iter().any(|taken| variable.starts_with(taken)), "{variable}");
        }
    }

    #[test]
    fn a_key_is_suggested_for_a_slip_or_a_part_and_for_nothing_else() {
        let meant = |name| flag_meant_by(name);
        for (name, key) in [
            ("max_frame", "max-frame"),
            ("--mode", "mode"),
            ("capacty", "capacity"),
            ("slotsize", "slot-size"),
            ("slot", "slot-size"),
            ("filter", "log-filter"),
            ("--confg", "config"),
        ] {
            assert_eq!(meant(name), Some(key), "{name}");
        }
        assert_eq!(meant_by("confg"), None, "no file names another");
        for name in ["x", "to", "log", "colour", "limits", ""] {
            assert_eq!(meant(name), None, "{name}");
        }
    }

    #[test]
    fn variables_that_no_key_has_are_unknown_unless_kubernetes_sets_them() {
        for (name, meant) in [
            ("ARENA_ECHO_MAX_FRAM", Some("ARENA_ECHO_MAX_FRAME")),
            ("ARENA_ECHO_CONFIGS", Some("ARENA_ECHO_CONFIG")),
            ("ARENA_ECHO_LOG_FILTER", Some("RUST_LOG")),
            ("ARENA_ECHO_COLOUR", None),
        ] {
            assert!(is_unknown_variable(name), "{name}");
            assert_eq!(variable_meant_by(name).as_deref(), meant, "{name}");
        }
        for name in [
            "ARENA_ECHO_REUSE_PORT",
            "ARENA_ECHO_CONFIG",
            "ARENA_ECHO_SERVICE_HOST",
            "ARENA_ECHO_ADMIN_SERVICE_PORT_HTTP",
            "ARENA_ECHO_PORT",
            "ARENA_ECHO_ADMIN_PORT_9100_TCP_ADDR",
            "RUST_LOG",
            "ARENA_ECHOES",
        ] {
            assert!(!is_unknown_variable(name), "{name}");
        }
    }

    #[test]
    fn keys_stand_in_the_order_of_their_sections() {
        let titles: Vec<_> = KEYS.iter().map(|key| key.section.title()).collect();
        let mut sections = titles.clone();
        sections.dedup();
        assert_eq!(sections, ["Memory", "Listening", "Timeouts", "Operation"]);
    }
}
