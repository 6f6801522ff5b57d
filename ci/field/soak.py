"""See ci/soak.sh."""

import re
import sys
import time

from field import KIB, Failures, Load, Server, load, machine, median, milliseconds, per, progress, say, seconds_of

seconds = seconds_of(sys.argv[1]) if len(sys.argv) > 1 else 600
warm_up = max(20, seconds // 5)
failures = Failures()
say(f"# soak: {seconds} s, of which {warm_up} s are for warming up ({machine()})")
server = Server("--capacity", "16MiB", log="info")
# Once so full that all pages of the arena are there: what grows after that is not the arena.
burst = load("-c", 64, "-p", 4, "-s", "256k", "-w", "0s", "-d", "5s", server.address)
began = time.monotonic()
soak = Load("-c", 64, "-p", 8, "-R", "4k", "-s", "lognormal:p50=512,p99=32k,max=512k", "--reconnect-every", 200, "--verify", "full",
            "-w", "2s", "-d", f"{seconds - 2}s", "-i", "10s", "--server-pid", server.pid, server.address)
resident = []
parts = []
while soak.process.poll() is None:
    time.sleep(1)
    now = time.monotonic() - began
    if soak.process.poll() is None and now < seconds:
        resident.append((now, server.rss()))
        if now >= warm_up and len(resident) % 10 == 0:
            parts.append(server.memory())
        if len(resident) % 20 == 0:
            figures = server.metrics() or {}
            live = figures.get("arena_bytes_live")
            progress(f"{now:.0f} s: RSS {resident[-1][1] / KIB:.0f} KiB" + ("" if live is None else f", arena {live / KIB:.0f} KiB live"))
report = soak.report()

warm = [rss for moment, rss in resident if moment >= warm_up]
half = len(warm) // 2
first, last = median(warm[:half]), median(warm[half:])
say(f"  {report['requests']} requests at {report['rate']:.0f}/s, {report['adversaries']['planned_reconnects']} connections "
    f"changed, p99 {milliseconds(report['latency_ns']['p99'])}")
say(f"  RSS after warming up: {min(warm) / KIB:.0f} to {max(warm) / KIB:.0f} KiB; median of the first half "
    f"{first / KIB:.0f}, of the second {last / KIB:.0f}: {100 * (per(last, first) - 1):+.2f} %")
for name, moment in (("at first", parts[0]), ("at last", parts[-1])):
    say(f"    {name} {moment[1] / KIB:.0f} KiB pages of the arena that have ever been used, {(moment[0] - moment[1]) / KIB:.0f} KiB all else")
failures.check(last <= first * 1.01, "RSS is flat to 1 %")
bad = report["errors"] + report["unanswered"] + report["mismatches"]
failures.check(bad == 0, f"every request was answered, with its own bytes ({bad} were not)")

figures = server.metrics()
if figures is not None:
    say("  " + ", ".join(f"{name} {figures[name]:.0f}" for name in (
        "echo_frames_total", "arena_allocations_total", "arena_frees_total", "arena_bytes_live", "arena_waiters")))
    directions = {value for name, value in figures.items() if name.startswith("echo_bytes_total")}
    failures.check(len(directions) == 1, "/metrics: as many bytes were written as read")
    failures.check(figures["arena_allocations_total"] == figures["arena_frees_total"], "/metrics: allocations are frees")
    failures.check(figures["arena_bytes_live"] == 0, "/metrics: the arena holds nothing")
    failures.check(figures["echo_connections"] == 0, "/metrics: no connection is left")
failures.check(server.end() == 0, "the server ends by itself")
frames, read, wrote = map(int, re.search(r"answered (\d+) frames .*; read (\d+) bytes, wrote (\d+)", server.logged()).groups())
took, back, live = map(int, re.search(r"took (\d+) blocks, gave (\d+) back; (\d+) bytes", server.logged()).groups())
sent = burst["requests"] + report["requests"] + report["warm_up"]["requests"]
failures.check(frames >= sent and frames - sent <= 64 * (4 + 8), f"frames answered: {frames} by the server, {sent} counted by the clients")
failures.check(read == wrote, f"bytes read {read} = bytes written {wrote}")
failures.check(took == back and live == 0, f"blocks taken {took} = given back {back}, {live} bytes in use")
failures.end()
