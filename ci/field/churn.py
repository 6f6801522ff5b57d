"""See ci/churn.sh."""

import sys
import time

from field import KIB, Failures, Server, load, machine, milliseconds, progress, say, seconds_of

seconds = seconds_of(sys.argv[1]) if len(sys.argv) > 1 else 8
failures = Failures()
say(f"# connection churn: 50 connections, 500 bytes, each for {seconds} s ({machine()})")
server = Server()
resident = []
for every in (None, 100, 10, 1):
    text = "connections that stay" if every is None else f"a new connection after {every} requests"
    progress(text)
    flags = [] if every is None else ["--reconnect-every", every]
    report = load("-c", 50, "-p", 1, "-s", 500, "-w", "1s", "-d", f"{seconds}s", *flags,
                  "--server-pid", server.pid, server.address)
    reconnects = report["adversaries"]["planned_reconnects"]
    resident.append(server.rss())
    say(f"  {text}: {report['rate']:.0f} requests/s, {reconnects / (seconds + 1):.0f} new connections/s, "
        f"p50 {milliseconds(report['latency_ns']['p50'])}, p99 {milliseconds(report['latency_ns']['p99'])}, "
        f"server CPU {report['server']['cpu_us_per_request']:.1f} us per request, RSS afterwards {resident[-1] / KIB:.0f} KiB")
    bad = report["errors"] + report["unanswered"] + report["mismatches"]
    failures.check(bad == 0, f"every request was answered, with its own bytes ({bad} were not)")
while server.descriptors() > 40:
    time.sleep(0.1)
say(f"  descriptors when all are gone: {server.descriptors()}")
failures.check(server.end() == 0, "the server ends by itself")
failures.end()
