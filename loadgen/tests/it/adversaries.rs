//! Clients that behave badly, beside honest ones: they are reported apart.

use std::time::Duration;

use loadgen::{Adversaries, Plan};
use serde_json::Value;

use crate::{
    command_line::{exits_with, loadgen},
    servers::{self, echo, plan, run},
};

#[test]
fn what_adversaries_do_is_in_no_figure_of_the_honest_clients() {
    let server = servers::start(|_, stream| echo(stream));
    let adversaries = Adversaries { slow_readers: 2, slow_senders: 2, resets: 2 };
    let duration = Some(Duration::from_secs(2));
    let report = run(&Plan { adversaries, duration, requests: None, ..plan(server, 1) });
    assert_eq!((report.counts.errors.total(), report.counts.unanswered), (0, 0), "{report:?}");
    assert_eq!(report.counts.mismatches.total(), 0);
    let kinds = report.adversaries;
    for counts in [kinds.slow_readers, kinds.slow_senders, kinds.resets] {
        assert_eq!(counts.clients, 2);
        assert!(counts.connects >= 2, "{kinds:?}");
        assert!(counts.bytes_sent > 0, "{kinds:?}");
    }
    assert!(kinds.resets.resets > 0, "{kinds:?}");
}

#[test]
fn adversaries_have_their_own_place_in_json() {
    let server = servers::start(|_, stream| echo(stream));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.json");
    let arguments = "-c 2 -d 2s -w 0s --slow-readers 3 --slow-senders 1 --resets 2 \
                     --reconnect-every 50 -o";
    let output = loadgen(arguments).arg(&file).arg(server.to_string()).output().unwrap();
    exits_with(0, &output);
    let report: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let adversaries = &report["adversaries"];
    assert_eq!(adversaries["slow_readers"]["clients"], 3);
    assert_eq!(adversaries["slow_senders"]["clients"], 1);
    assert_eq!(adversaries["resets"]["clients"], 2);
    assert!(adversaries["planned_reconnects"].as_u64().unwrap() > 0, "{adversaries}");
    assert_eq!(report["errors"], 0);
}
