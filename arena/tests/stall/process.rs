//! A process for each test, and a watchdog that ends it.

use std::{
    any, env,
    fmt::Write as _,
    fs::{self, File},
    io::{self, Read, Write as _},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

/// In the environment of a child: the test that it runs.
const CHILD: &str = "ARENA_STALL_CHILD";

/// In the environment, for runs that take longer than a build should: for how many seconds a test
/// that could go on for ever does so.
const SECONDS: &str = "ARENA_STALL_SECONDS";

/// In the environment: to be unable to run a test is a failure.
const REQUIRE_ALL: &str = "ARENA_STALL_REQUIRE_ALL";

/// A test of no duration that takes longer than this hangs, also where others want the processors.
const WATCHDOG: Duration = Duration::from_secs(60);

/// How often the watchdog looks.
const TICK: Duration = Duration::from_millis(5);

/// For how long a test that could go on for ever does so.
pub(crate) fn duration() -> Duration {
    let asked = env::var(SECONDS).ok();
    let asked = asked.map(|text| text.parse().expect("ARENA_STALL_SECONDS is a number"));
    Duration::from_secs_f64(asked.unwrap_or(1.6))
}

/// Runs `body` in a process of its own, and panics if it fails or hangs.
///
/// `body` is a closure written in the test, which is named after it.
#[track_caller]
pub(crate) fn isolated(body: impl FnOnce()) {
    isolated_as(test_of(&body), body);
}

/// As [`isolated`], for the test in which another closure is written.
#[track_caller]
pub(crate) fn isolated_as(test: &str, body: impl FnOnce()) {
    run(test, body, |lock| lock.lock_shared());
}

/// As [`isolated`], while nothing else of this binary runs: for tests that take times.
#[track_caller]
pub(crate) fn alone(body: impl FnOnce()) {
    alone_as(test_of(&body), body);
}

/// As [`alone`], for the test in which another closure is written.
#[track_caller]
pub(crate) fn alone_as(test: &str, body: impl FnOnce()) {
    run(test, body, File::lock);
}

/// Says on the terminal that a test checks nothing here, and why.
///
/// # Panics
///
/// If `ARENA_STALL_REQUIRE_ALL` is set, for systems that are meant to have everything.
#[track_caller]
pub(crate) fn skip(test: &str, why: &str) {
    assert!(env::var_os(REQUIRE_ALL).is_none(), "{test} cannot run: {why}");
    // Not by a macro, whose output is captured.
    let _ = writeln!(io::stderr(), "SKIPPED {test}: {why}");
}

#[track_caller]
fn run(test: &str, body: impl FnOnce(), lock: impl FnOnce(&File) -> io::Result<()>) {
    let runs = format!("{test} runs\n");
    if env::var_os(CHILD).is_some_and(|child| child == test) {
        eprint!("{runs}");
        return body();
    }
    let file = File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("stall.lock")).unwrap();
    lock(&file).unwrap();
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--include-ignored", "--nocapture", "--test-threads=1"])
        .env(CHILD, test)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = child.stderr.take().expect("it is piped");
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        let _ = output.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    // Steps cost more time than is counted, and machines are slow.
    let limit = WATCHDOG + 5 * duration();
    let status = wait(&mut child, limit);
    let threads = status.is_none().then(|| describe_threads(&child));
    end_group(&mut child);
    let said = reader.join().expect("it only reads");
    eprint!("{said}");
    assert!(said.contains(&runs), "{test}: there is no test of this name");
    match status {
        Some(status) => assert!(status.success(), "{test}: {status}"),
        None => panic!("{test} hangs: killed after {limit:?}{}", threads.unwrap_or_default()),
    }
}

/// The name by which the test harness knows the test in which a closure is written.
pub(crate) fn test_of<F>(_closure: &F) -> &'static str {
    let closure = any::type_name::<F>();
    let (_, path) = closure.split_once("::").expect("the crate comes first");
    path.split("::{{closure}}").next().unwrap_or(path)
}

fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() > end {
            return None;
        }
        thread::sleep(TICK);
    }
}

/// Kills the test with all that it has forked.
fn end_group(child: &mut Child) {
    let group = libc::pid_t::try_from(child.id()).expect("a process id");
    // SAFETY: touches no memory. The group is that of the child, which leads it; nobody can have
    // its number before it is waited for, and members that are left keep the number in use.
    unsafe { libc::kill(-group, libc::SIGKILL) };
    let _ = child.wait();
}

/// What each thread of a process that hangs is doing.
fn describe_threads(child: &Child) -> String {
    let mut text = String::new();
    let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", child.id())) else { return text };
    for task in tasks.flatten() {
        let read = |file| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let (name, status) = (read("comm"), read("status"));
        let state = status.lines().find_map(|line| line.strip_prefix("State:")).unwrap_or("?");
        let call = read("syscall");
        let _ = write!(text, "\n  {:<16}{} in call {}", name.trim(), state.trim(), call.trim());
    }
    text
}
