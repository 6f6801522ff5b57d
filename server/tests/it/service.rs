//! The program as a service: what its manager is told, sockets that it is passed, and SIGHUP.

use std::{
    fs::{self, File},
    net::TcpListener,
    os::{
        fd::OwnedFd,
        unix::{fs::symlink, net::UnixListener},
    },
    path::Path,
    process::Stdio,
};

use rustix::process::Signal;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::UnixDatagram,
    process::Command,
};

use crate::support::{
    client::Client,
    program::{self, Program},
    run,
    traffic::{exceed, frame, keep_busy},
};

/// The end of a service manager to which its services report.
struct Manager {
    folder: tempfile::TempDir,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a new path");
        Self { folder, socket }
    }

    fn service(&self, flags: &str) -> Command {
        let mut command = Command::new(program::PATH);
        command.stdin(Stdio::null()).args(flags.split_whitespace());
        command.env("NOTIFY_SOCKET", self.folder.path().join("notify"));
        command
    }

    /// Has so much to read that nobody can tell it any more.
    fn fall_behind(&self) {
        let others = UnixDatagram::unbound().expect("a socket");
        while others.try_send_to(b"STATUS=busy", self.folder.path().join("notify")).is_ok() {}
    }

    /// Whether there is a report that nobody has read.
    fn has_been_told_more(&self) -> bool {
        self.socket.try_recv(&mut [0; 4096]).is_ok()
    }

    /// Waits for a report that has this line, and returns it.
    async fn until_told(&self, line: &str) -> String {
        loop {
            let mut report = [0; 4096];
            let length = self.socket.recv(&mut report).await.expect("a report");
            let report = str::from_utf8(&report[..length]).expect("text").to_owned();
            if report.lines().any(|told| told == line) {
                return report;
            }
        }
    }
}

#[test]
fn the_manager_is_told_when_the_server_accepts_and_when_it_stops() {
    run(async {
        let manager = Manager::new();
        let server = Program::start_as(manager.service("--drain-timeout 2s")).await;
        let report = manager.until_told("READY=1").await;
        let status = format!("STATUS=accepting on {}", server.address);
        assert!(report.contains(&status), "{report}");

        server.signal(Signal::TERM);
        let report = manager.until_told("STOPPING=1").await;
        assert!(report.contains("STATUS=draining 0 connections"), "{report}");
        assert!(report.contains("EXTEND_TIMEOUT_USEC=7000000"), "{report}");
        assert!(server.ended().await.0.success());
    });
}

#[test]
fn a_manager_that_does_not_read_holds_up_nothing() {
    run(async {
        let manager = Manager::new();
        manager.fall_behind();
        let server = Program::start_as(manager.service("")).await;
        let mut client = Client::connect(server.address).await;
        client.echo(&frame(10, 1)).await;
        client.close_and_expect_end().await;
        server.stop().await;
    });
}

#[test]
fn the_watchdog_is_fed_if_there_is_one() {
    run(async {
        let manager = Manager::new();
        let mut command = manager.service("");
        command.env("WATCHDOG_USEC", "20000");
        let server = Program::start_as(command).await;
        for _ in 0..3 {
            manager.until_told("WATCHDOG=1").await;
        }
        server.stop().await;
    });
}

/// The program with one socket passed to it.
fn passed(socket: impl Into<OwnedFd>, flags: &str) -> Command {
    let mut command = Command::new("sh");
    // The variables name the process that the sockets are for: this one, until it is the program.
    let script = r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@" 3<&0 </dev/null"#;
    command.args(["-c", script, program::PATH]).args(flags.split_whitespace());
    command.stdin(Stdio::from(socket.into()));
    command
}

#[test]
fn a_socket_that_is_passed_takes_the_place_of_the_addresses() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a listener that is bound").to_string();
        // What waits in its queue is served, too.
        let mut early = Client::connect(address.parse().expect("an address")).await;
        early.send(&frame(10, 1)).await;

        let mut server = Program::launch(passed(listener, "--listen 127.0.0.1:1"), 1).await;
        assert_eq!(server.labels, [address]);
        server.until_logged("take the place of --listen").await;
        early.expect(&frame(10, 1)).await;
        early.close_and_expect_end().await;
        server.stop().await;
    });
}

#[test]
fn a_socket_in_the_file_system_that_is_passed_stays_there() {
    run(async {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("echo.sock");
        let listener = UnixListener::bind(&path).expect("a new path");
        let server = Program::launch(passed(listener, ""), 1).await;
        assert_eq!(server.labels, [format!("unix:{}", path.display())]);
        server.stop().await;
        assert!(path.exists(), "it belongs to whoever passed it");
    });
}

#[test]
fn what_is_passed_and_does_not_listen_is_refused() {
    run(async {
        let file = tempfile::tempfile().expect("a temporary file");
        let output = passed(file, "").kill_on_drop(true).output().await.expect("a program");
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("LISTEN_FDS: cannot listen on socket 1 of 1"), "{said}");
    });
}

#[test]
fn a_hangup_takes_over_what_can_be_and_says_what_cannot() {
    run(async {
        let manager = Manager::new();
        let file = manager.folder.path().join("a.toml");
        fs::write(&file, "frame-timeout = '1h'\nmax-connections = 1").expect("a new file");
        let command = manager.service(&format!("--config {}", file.display()));
        let mut server = Program::start_as(command).await;
        let mut old = Client::connect(server.address).await;
        old.echo(&frame(10, 1)).await;

        let new = "frame-timeout = '100ms'\nmax-connections = 2\ncapacity = '128MiB'";
        fs::write(&file, new).expect("a file that can be written");
        server.signal(Signal::HUP);
        manager.until_told("RELOADING=1").await;
        let report = manager.until_told("READY=1").await;
        assert!(report.contains(&format!("STATUS=accepting on {}\n", server.address)), "{report}");
        server.until_logged(r#"capacity from "64MiB" to "128MiB": only after a restart"#).await;
        server.until_logged("max-connections from 1 to 2").await;
        server.until_logged(r#"frame-timeout from "1h" to "100ms""#).await;

        // There is a second place now, with the new timeout; the first has the old one.
        let frame = frame(10, 2);
        let (begun, rest) = frame.split_at(7);
        old.send(begun).await;
        let mut slow = Client::connect(server.address).await;
        slow.send(begun).await;
        slow.expect_end().await;
        old.exchange(rest, &frame).await;
        drop((old, slow));
        server.stop().await;
    });
}

#[test]
fn a_hangup_with_errors_changes_nothing() {
    run(async {
        let manager = Manager::new();
        let file = manager.folder.path().join("a.toml");
        fs::write(&file, "").expect("a new file");
        let command = manager.service(&format!("--config {}", file.display()));
        let mut server = Program::start_as(command).await;
        manager.until_told("READY=1").await;
        fs::write(&file, "max-connections = 0\nlog-filter = 'off'").expect("a file");
        server.signal(Signal::HUP);
        let place = format!("{}:1: max-connections 0: set it to", file.display());
        server.until_logged(&place).await;
        server.until_logged("nothing has changed").await;
        let report = manager.until_told("READY=1").await;
        assert!(report.contains("; the last reload failed"), "{report}");

        let mut client = Client::connect(server.address).await;
        client.echo(&frame(10, 1)).await;
        drop(client);
        server.stop().await;
    });
}

/// Puts something in the place of a file that would hold up who reads it, and expects that the
/// server goes on and changes nothing, until the file is back.
pub(crate) async fn expect_reloads_to_need_a_regular_file(server: &mut Program, file: &Path) {
    let aside = file.with_extension("aside");
    fs::rename(file, &aside).expect("a file");
    let make_fifo = || std::process::Command::new("mkfifo").arg(file).status();
    let others: [(&str, &dyn Fn()); 5] = [
        ("it is a pipe; ", &|| assert!(make_fifo().expect("a program").success())),
        ("it is a directory; ", &|| fs::create_dir(file).expect("a new path")),
        ("it is a device; ", &|| symlink("/dev/zero", file).expect("a new path")),
        ("it is a socket; ", &|| drop(UnixListener::bind(file).expect("a new path"))),
        ("it is longer than 16MiB", &|| {
            File::create(file).and_then(|file| file.set_len(1 << 40)).expect("a new path");
        }),
    ];
    for (reason, make) in others {
        make();
        server.signal(Signal::HUP);
        let line = server.until_logged(": cannot read this file: ").await;
        assert!(line.contains(&file.display().to_string()) && line.contains(reason), "{line}");
        server.until_logged("reload: nothing has changed").await;
        fs::remove_file(file).or_else(|_| fs::remove_dir(file)).expect("what was made");
    }
    fs::rename(aside, file).expect("a file");
    server.signal(Signal::HUP);
    server.until_logged("reload: done").await;
}

#[test]
fn a_hangup_reads_nothing_but_a_regular_file() {
    run(async {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("a.toml");
        fs::write(&file, "").expect("a new file");
        let mut server = Program::start(&format!("--config {}", file.display())).await;
        expect_reloads_to_need_a_regular_file(&mut server, &file).await;
        Client::connect(server.address).await.echo(&frame(10, 1)).await;
        server.stop().await;
    });
}

/// The system has whoever opens a file wait until a lease on it is given up, for 45 seconds at
/// most. No crate offers that without code that is not safe.
const LEASE: &str = "\
import fcntl, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
file = open(sys.argv[1])
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print('taken', flush=True)
sys.stdin.read()
";

#[test]
fn a_file_that_hangs_holds_up_neither_peers_nor_the_end() {
    run(async {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("a.toml");
        fs::write(&file, "").expect("a new file");
        let manager = Manager::new();
        let patient = "--admin 127.0.0.1:0 --drain-timeout 1h --write-timeout 1h";
        let flags = format!("{patient} --config {}", file.display());
        let mut server = Program::start_as(manager.service(&flags)).await;
        let admin = server.admin().await;

        let mut lease = Command::new("python3");
        lease.args(["-c", LEASE]).arg(&file).stdin(Stdio::piped()).stdout(Stdio::piped());
        let Ok(mut lease) = lease.kill_on_drop(true).spawn() else { return };
        let mut output = BufReader::new(lease.stdout.take().expect("an output that is piped"));
        output.read_line(&mut String::new()).await.expect("a lease");

        server.signal(Signal::HUP);
        manager.until_told("RELOADING=1").await;
        Client::connect(server.address).await.echo(&frame(10, 1)).await;
        let line = server.until_logged("not read within 5s").await;
        assert!(line.contains(&file.display().to_string()), "{line}");
        server.until_logged("reload: nothing has changed").await;

        // The server lives until the end of the reload is logged.
        let deaf = keep_busy(server.address, admin).await;
        server.signal(Signal::HUP);
        manager.until_told("RELOADING=1").await;
        Client::connect(server.address).await.echo(&frame(10, 1)).await;
        server.signal(Signal::TERM);
        server.until_logged("reload: given up").await;
        deaf.abort();
        let (status, log) = server.ended().await;
        assert!(status.success(), "{log:#?}");
    });
}

#[test]
fn a_hangup_changes_what_is_logged() {
    run(async {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("a.toml");
        fs::write(&file, "log-filter = 'info'").expect("a new file");
        let mut server = Program::start(&format!("--config {}", file.display())).await;
        fs::write(&file, "log-filter = 'debug'").expect("a file that can be written");
        server.signal(Signal::HUP);
        server.until_logged(r#"log-filter from "info" to "debug""#).await;

        Client::connect(server.address).await.close_and_expect_end().await;
        server.until_logged("closed: the peer closed it").await;
        server.stop().await;
    });
}

#[test]
fn a_hangup_while_the_server_ends_changes_nothing() {
    run(async {
        let manager = Manager::new();
        let flags = "--admin 127.0.0.1:0 --drain-timeout 1h --write-timeout 1h";
        let mut server = Program::start_as(manager.service(flags)).await;
        let admin = server.admin().await;
        keep_busy(server.address, admin).await;
        server.signal(Signal::TERM);
        manager.until_told("STOPPING=1").await;

        server.signal(Signal::HUP);
        server.until_logged("reload: nothing is read, because the server is ending").await;
        assert!(!manager.has_been_told_more());
        server.signal(Signal::TERM);
        server.ended().await;
    });
}

#[test]
fn whoever_is_warned_of_is_named_whatever_is_logged() {
    run(async {
        let mut server = Program::start("--log-filter warn").await;
        exceed(server.address, 1 << 20).await;
        let line = server.until_logged("exceeds the limit").await;
        assert!(line.contains(r#"peer="127.0.0.1:"#), "{line}");
        server.stop().await;
    });
}

#[test]
fn log_lines_are_json_on_request() {
    run(async {
        let mut server = Program::start("--log-format json").await;
        exceed(server.address, 1 << 20).await;
        let line = server.until_logged("exceeds the limit").await;
        let line: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(line["level"], "WARN");
        assert!(line["fields"]["message"].is_string(), "{line}");
        assert!(line["span"]["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")));
        server.stop().await;
    });
}

/// The values of a key in a unit.
fn values<'u>(unit: &'u str, key: &str) -> Vec<&'u str> {
    let settings = unit.lines().filter_map(|line| line.split_once('='));
    settings.filter(|(name, _)| *name == key).map(|(_, value)| value).collect()
}

#[test]
fn the_units_fit_the_program() {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let read = |name| fs::read_to_string(configs.join(name)).expect("a unit");
    let (service, socket) = (read("arena-echo.service"), read("arena-echo.socket"));

    // Its commands are commands of the program, if its file is where the unit says.
    let file = configs.join("arena-echo.toml").display().to_string();
    let mut commands = [values(&service, "ExecStart"), values(&service, "ExecReload")].concat();
    commands.retain(|command| command.contains("arena-echo"));
    assert_eq!(commands.len(), 2);
    for command in commands {
        let command = command.replace("/etc/arena-echo/arena-echo.toml", &file);
        let mut arguments: Vec<_> = command.split_whitespace().skip(1).collect();
        if !arguments.contains(&"config") {
            arguments.push("config");
        }
        let output = std::process::Command::new(program::PATH).args(arguments).output();
        let output = output.expect("the program starts");
        assert!(output.status.success(), "{command}: {output:?}");
    }

    let defaults = std::process::Command::new(program::PATH).args(["config", "--print"]).output();
    let defaults = String::from_utf8(defaults.expect("the program starts").stdout).expect("text");
    let defaults: toml::Table = defaults.parse().expect("TOML");
    let default = |key: &str| defaults[key].as_integer().expect("a number");
    let descriptors: i64 = values(&service, "LimitNOFILE")[0].parse().expect("a number");
    assert!(descriptors >= default("max-connections") + 2 * default("backlog") + 64);
    assert_eq!(values(&socket, "Backlog"), [default("backlog").to_string()]);
    let address = defaults["listen"][0].as_str().expect("an address");
    assert_eq!(values(&socket, "ListenStream")[0], address);
}

/// The unit as it is, and with each way to TLS that its comments offer.
fn services(unit: &str) -> [String; 3] {
    let with = |wanted: &[&str]| {
        let enabled = |line: &str| match line.strip_prefix('#') {
            Some(setting) if wanted.iter().any(|word| setting.starts_with(word)) => {
                setting.to_owned()
            }
            _ => line.to_owned(),
        };
        unit.lines().map(|line| enabled(line) + "\n").collect()
    };
    let group = ["SupplementaryGroups=", "Environment=ARENA_ECHO_TLS_CERT=/"];
    let credentials = ["LoadCredential=", "Environment=ARENA_ECHO_TLS_CERT=%d"];
    [with(&[]), with(&group), with(&credentials)]
}

#[test]
fn systemd_accepts_the_units_where_there_is_one() {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let unit = |name: &str| fs::read_to_string(configs.join(name)).expect("a unit");
    let services = services(&unit("arena-echo.service"));
    assert!(services.iter().is_sorted_by(|one, other| one != other), "{services:?}");
    for service in services {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // It looks for the program, too.
        let service = service.replace("/usr/local/bin/arena-echo", program::PATH);
        let socket = unit("arena-echo.socket");
        let paths =
            ["arena-echo.service", "arena-echo.socket"].map(|name| folder.path().join(name));
        for (path, unit) in paths.iter().zip([service, socket]) {
            fs::write(path, unit).expect("a new file");
        }
        let analyze = |arguments: &[&str]| {
            let mut command = std::process::Command::new("systemd-analyze");
            command.args(arguments).args(&paths).output()
        };
        let Ok(output) = analyze(&["verify"]) else { return };
        let said = String::from_utf8_lossy(&output.stderr);
        // About other units of this machine it may say what it likes.
        assert!(!said.contains("arena-echo"), "{said}");
    }
}

#[test]
fn systemd_finds_the_service_well_confined_where_there_is_one() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/arena-echo.service");
    let mut command = std::process::Command::new("systemd-analyze");
    // Of a hundred: what is exposed is the network, and that limits may be raised.
    command.args(["security", "--offline=true", "--threshold=15"]).arg(unit);
    let Ok(output) = command.output() else { return };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}
