//! Threads that stay on one CPU each.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    command_line::loadgen,
    servers::{self, echo},
};

/// The CPUs on which each loading thread of a run may be, as the kernel writes them.
fn cpus_of_threads(pin: &str) -> Vec<String> {
    let server = servers::start(|_, stream| echo(stream));
    let arguments = format!("--pin {pin} -t 2 -c 2 -w 0s -d 1h -i 20ms {server}");
    let mut child =
        loadgen(&arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    // The load has begun.
    let mut progress = BufReader::new(child.stderr.take().unwrap()).lines();
    progress.next().unwrap().unwrap();
    let tasks = fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    let tasks = tasks.map(|task| task.unwrap().path());
    let loads = |name: &str| matches!(name.trim(), "loadgen-0" | "loadgen-1");
    let cpus = tasks
        .filter(|task| fs::read_to_string(task.join("comm")).is_ok_and(|name| loads(&name)))
        .map(|task| {
            let status = fs::read_to_string(task.join("status")).unwrap();
            let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
            list.unwrap().trim().to_owned()
        })
        .collect();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    progress.for_each(drop);
    assert!(child.wait().unwrap().success());
    cpus
}

#[test]
fn a_pinned_thread_has_one_cpu() {
    let cpus = cpus_of_threads("on");
    assert_eq!(cpus.len(), 2);
    assert!(cpus.iter().all(|list| list.parse::<u32>().is_ok()), "{cpus:?}");
}

#[test]
fn a_thread_that_is_not_pinned_has_all_cpus_of_the_process() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let ours = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    assert_eq!(cpus_of_threads("off"), [ours.trim(); 2]);
}
