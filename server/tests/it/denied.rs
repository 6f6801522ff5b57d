//! What the system denies the real program: threads, at the start and later, and system calls.

use std::{
    collections::BTreeMap,
    env,
    fs::File,
    path::Path,
    process::{self, Stdio},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread,
};

use rustix::process::{Resource, Signal, geteuid, getrlimit, kill_process};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    runtime::Handle,
};

use crate::{
    generator::LOADGEN,
    support::{
        client::Client,
        http::{Events, get},
        program::{self, Program, id},
        run,
        traffic::frame,
    },
};

/// Who starts the program: limits of threads hold for everybody but root.
struct User(Option<u32>);

impl User {
    /// The one who runs the tests. If that is root, somebody who has no process.
    fn new() -> Self {
        static NEW: AtomicU32 = AtomicU32::new(0);
        let number = process::id() * 16 + NEW.fetch_add(1, Relaxed);
        Self(geteuid().is_root().then_some(50_000 + number % 10_000))
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        self.0.map(|id| command.uid(id));
        command
    }

    /// The program, started by a shell that has done this before.
    fn program_after(&self, done: &str) -> Command {
        self.after(done, program::PATH)
    }

    /// Another program.
    fn after(&self, done: &str, program: impl AsRef<Path>) -> Command {
        let mut command = self.command("sh");
        // The user may not see its folder, but can execute what is open.
        command.args(["-c", &format!(r#"{done} && exec "$0" "$@""#), "/proc/self/fd/0"]);
        command.stdin(File::open(program).expect("a program"));
        command
    }

    /// The program with so many threads in all.
    fn program_with_threads(&self, threads: u32) -> Command {
        self.program_after(&limit(threads))
    }

    /// Lets a process of the user have so many threads in all from now on.
    async fn allow_threads(&self, server: &Program, threads: &str) {
        let mut command = self.command("prlimit");
        let id = server.id().as_raw_pid();
        command.args([format!("--pid={id}"), format!("--nproc={threads}:")]);
        assert!(command.status().await.expect("prlimit of util-linux").success());
    }
}

/// Limits a shell to so many threads. Shells differ in the letter.
fn limit(threads: u32) -> String {
    format!("{{ ulimit -p {threads} 2>&- || ulimit -u {threads}; }}")
}

#[test]
fn without_a_thread_to_have_the_map_is_not_drawn_and_everything_else_goes_on() {
    run(async {
        let user = User::new();
        let mut command = user.program_after("true");
        command.args(["--admin", "127.0.0.1:0"]);
        let mut server = Program::start_as(command).await;
        let admin = server.admin().await;
        let mut client = Client::connect(server.address).await;
        user.allow_threads(&server, "0").await;

        let mut events = Events::open(admin).await;
        let tick = events.next("tick").await.expect("an event");
        assert_eq!(tick["map"], Value::Null);
        server.until_logged("admin: the map is not drawn").await;
        client.echo(&frame(10, 1)).await;
        assert_eq!(get(admin, "/healthz").await.status, 200);

        // As many as this process may have.
        let allowed = getrlimit(Resource::Nproc).current;
        let allowed = allowed.map_or("unlimited".to_owned(), |allowed| allowed.to_string());
        user.allow_threads(&server, &allowed).await;
        while events.next("tick").await.expect("an event")["map"].is_null() {}
        client.close_and_expect_end().await;
        server.stop().await;
    });
}

/// Not even a few bytes were left, and the C library or the allocator has ended the program.
const OUT_OF_MEMORY: &str = "out of memory";

/// Starts the program, and stops it if it serves. If it does not, it must have said why in one
/// line, and that is returned.
async fn attempt(mut command: Command, flags: &str) -> Option<String> {
    command.args(flags.split_whitespace()).args(["--log-format", "json"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    serves_or_why(command.spawn().expect("a shell starts")).await
}

async fn serves_or_why(mut child: Child) -> Option<String> {
    let mut output = BufReader::new(child.stdout.take().expect("an output that is piped")).lines();
    let serves = output.next_line().await.expect("text").is_some();
    if serves {
        kill_process(id(&child), Signal::TERM).expect("a process that runs");
    }
    let output = child.wait_with_output().await.expect("a process that was started");
    let log = String::from_utf8(output.stderr).expect("text");
    if ["Fatal glibc error", "memory allocation of"].iter().any(|text| log.contains(text)) {
        return Some(OUT_OF_MEMORY.to_owned());
    }
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect(line));
    let mut errors = lines.filter(|line| line["level"] == "ERROR");
    let error = errors.next().map(|line| line["fields"]["message"].to_string());
    assert_eq!(errors.next(), None, "one line says it");
    assert_eq!(output.status.code(), Some(if serves { 0 } else { 1 }), "{log}");
    assert_eq!(error.is_none(), serves, "{log}");
    error
}

#[test]
fn with_too_few_threads_the_program_ends_and_says_what_to_change() {
    run(async {
        for listen in ["127.0.0.1:0", "localhost:0"] {
            let flags = format!("--threads 4 --listen {listen} --admin 127.0.0.1:0");
            // The program itself, its log, its files, and those that serve.
            for threads in 1..7 {
                let why = attempt(User::new().program_with_threads(threads), &flags).await;
                let why = why.expect("it needs seven");
                assert!(why.contains("TasksMax= in a unit"), "{why}");
                // Other processes of the user count, too.
                let is_alone = geteuid().is_root();
                assert!(!is_alone || why.contains("set --threads") == (threads > 2), "{why}");
            }
            if geteuid().is_root() {
                let user = User::new();
                assert_eq!(attempt(user.program_with_threads(7), &flags).await, None);
            }
        }
    });
}

#[test]
fn with_too_little_memory_or_descriptors_for_its_threads_the_program_says_so() {
    run(async {
        let flags = "--threads 64 --mode fixed --capacity 1MiB --listen 127.0.0.1:0";
        let limited_by = |limit: &str| User::new().program_after(&format!("ulimit {limit}"));
        // The stacks of 64 threads alone are 128 MiB. Where the last one leaves next to nothing,
        // others miss memory first: so the limits are a quarter of a stack apart.
        let mut why = OUT_OF_MEMORY.to_owned();
        for kib in [100_700, 101_200, 101_700, 102_200] {
            if why == OUT_OF_MEMORY {
                let limit = limited_by(&format!("-v {kib}"));
                why = attempt(limit, flags).await.expect("it does not serve");
            }
        }
        assert!(why.contains("`ulimit -v`"), "{why}");
        for descriptors in 5..8 {
            let why = attempt(limited_by(&format!("-n {descriptors}")), flags).await;
            let why = why.expect("it does not serve");
            assert!(why.contains("cannot start 64 threads that serve: "), "{why}");
            assert!(why.contains("`ulimit -n`"), "{why}");
        }
    });
}

/// Starts a command that may not call the system by this number.
fn without_call(number: i64, mut command: Command) -> Child {
    let arch = env::consts::ARCH.try_into().expect("an architecture of filters");
    // No conditions: always.
    let rules = BTreeMap::from([(number, Vec::new())]);
    let denied = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, denied, arch);
    let filter: BpfProgram = filter.and_then(TryInto::try_into).expect("a filter");
    // By fork: to start a process is a clone3 otherwise.
    command.uid(geteuid().as_raw());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let runtime = Handle::current();
    // A filter is for a thread and those that it starts, and is never taken away.
    let start = thread::spawn(move || {
        let _runtime = runtime.enter();
        apply_filter(&filter).expect("filters that there are");
        command.spawn().expect("the program starts")
    });
    start.join().expect("a thread that does not panic")
}

#[test]
fn a_limit_that_cannot_be_read_is_no_limit() {
    run(async {
        let mut command = Command::new(program::PATH);
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        let child = without_call(libc::SYS_prlimit64, command);
        let mut server = Program::of(child, 1).await;
        let admin = server.admin().await;
        server.until_logged("the limit of file descriptors is unknown").await;
        let mut clients = Vec::new();
        for seed in 0..3 {
            let mut client = Client::connect(server.address).await;
            client.echo(&frame(10, seed)).await;
            clients.push(client);
        }
        assert!(!get(admin, "/metrics").await.body.contains("process_max_fds"));
        drop(clients);
        server.stop().await;
    });
}

#[test]
fn a_limit_that_cannot_be_read_is_none_for_the_generator_either() {
    let loadgen = &*LOADGEN;
    run(async {
        let server = Program::start("").await;
        let mut command = Command::new(loadgen);
        command.args(["-n", "100", "-c", "10", "--plain", &server.address.to_string()]);
        let child = without_call(libc::SYS_prlimit64, command);
        let output = child.wait_with_output().await.expect("a process that was started");
        assert!(output.status.success(), "{output:?}");
        server.stop().await;
    });
}

#[test]
fn with_too_few_threads_the_generator_ends_and_says_so() {
    let loadgen = &*LOADGEN;
    run(async {
        let server = Program::start("").await;
        // The program itself, its signals, a look at the noise, and those that load.
        for threads in 1..4 {
            let mut command = User::new().after(&limit(threads), loadgen);
            command.args(["-n", "10", "-t", "2", "-c", "2", "--plain"]);
            let output = command.arg(server.address.to_string()).output().await;
            let output = output.expect("a shell starts");
            let said = String::from_utf8(output.stderr).expect("text");
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.starts_with("loadgen: ") && said.lines().count() == 1, "{said}");
        }
        server.stop().await;
    });
}

#[test]
fn threads_that_a_filter_refuses_are_named_as_the_cause() {
    run(async {
        let mut command = Command::new(program::PATH);
        command.args(["--log-format", "json"]);
        let child = without_call(libc::SYS_clone3, command);
        let why = serves_or_why(child).await.expect("it does not serve");
        assert!(why.contains("cannot log: the system refuses a thread: "), "{why}");
        assert!(why.contains("allow it in the filter of system calls"), "{why}");
        assert!(why.contains("threads need clone3"), "{why}");
    });
}
