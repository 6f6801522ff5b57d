"""See ci/slow_peers.sh."""

import os
import sys
import time

from field import MIB, Failures, Load, Server, fail, load, machine, median, milliseconds, progress, raise_descriptors, say, seconds_of, spread

slow = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
seconds = seconds_of(sys.argv[2]) if len(sys.argv) > 2 else 10
rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
# How long slow peers have before honest ones are measured; then the deadlines of ten seconds fall into a run of ten.
GATHER_SECONDS = 3
HONEST = ["-c", 16, "-p", 4, "-R", "2k", "-s", "uniform:64..16k", "-w", "1s", "-d", f"{seconds}s"]
SIDES = ("nobody", "slow peers of another server", "slow peers")

raise_descriptors(2 * slow + 512)
failures = Failures()
every = sorted(os.sched_getaffinity(0))
# Servers, honest peers and slow ones each have processors of their own, if there are enough.
are_apart = len(every) >= 6
servers_cpus, honest_cpus, slow_cpus = (every[:2], every[2:4], every[4:]) if are_apart else (every, every, every)


def on(cpus, start):
    """What `start` starts stays on these processors."""
    os.sched_setaffinity(0, cpus)
    try:
        return start()
    finally:
        os.sched_setaffinity(0, every)


def start_server(flags):
    return on(servers_cpus, lambda: Server("--max-connections", 2 * slow + 256, *flags))


def measure(*flags):
    """Medians of runs of each side, in turn, so that all meet the same machine."""
    server, other = start_server(flags), start_server(flags)
    runs = {side: [] for side in SIDES}
    last_attack = None
    for number in range(rounds):
        for side in SIDES:
            progress(f"{server.flags}: round {number + 1} of {rounds}, beside {side}")
            attacked = {SIDES[1]: other, SIDES[2]: server}.get(side)
            attack = None
            if attacked:
                attack = on(slow_cpus, lambda: Load(
                    "-c", 1, "-t", 1, "-R", 1, "-w", "0s", "-d", f"{seconds + GATHER_SECONDS + 2}s",
                    "--slow-senders", slow, "--slow-readers", slow, attacked.address))
                time.sleep(GATHER_SECONDS)
            runs[side].append(on(honest_cpus, lambda: load(*HONEST, "--server-pid", server.pid, server.address)))
            if attack:
                report = attack.report()
                last_attack = report["adversaries"] if attacked is server else last_attack

    say(f"arena-echo {server.flags}")
    say("  | beside | p50 | p99 | p99, times alone | p99.9 | server CPU per request |")
    say("  |---|---|---|---|---|---|")
    for side, reports in runs.items():
        def of(name):
            return milliseconds(median(report["latency_ns"][name] for report in reports))

        ratios = [report["latency_ns"]["p99"] / alone["latency_ns"]["p99"]
                  for report, alone in zip(reports, runs[SIDES[0]])]
        wanted = " (wanted: 2)" if side == SIDES[2] else ""
        cpu = median(report["server"]["cpu_us_per_request"] for report in reports)
        say(f"  | {side} | {of('p50')} | {of('p99')} | {spread(ratios, 2)}{wanted} | {of('p99_9')} | {cpu:.0f} us |")
    say(f"  peak RSS {runs[SIDES[2]][-1]['server']['rss_peak_bytes'] / MIB:.1f} MiB")
    for kind in ("slow_senders", "slow_readers"):
        counts = last_attack[kind]
        say(f"  {kind}: {counts['connects']} connections, {counts['closed_by_server']} of them closed by the server, "
            f"{counts['bytes_sent']} bytes sent, {counts['bytes_received']} received (last run)")
        failures.check(counts["connects"] >= slow, f"all {kind} were there")
    figures = server.metrics()
    if figures is not None:
        rejects = {name: int(value) for name, value in figures.items()
                   if name.startswith("echo_rejects_total") and value}
        say(f"  arena: at most {figures['arena_bytes_live_max'] / MIB:.1f} MiB of "
            f"{figures['arena_bytes_reserved'] / MIB:.0f} MiB in use; rejects {rejects}")
    reports = [report for reports in runs.values() for report in reports]
    failures.check(all(report["mismatches"] == 0 for report in reports), "no honest client got another byte than it sent")
    bad = sum(report["errors"] + report["unanswered"] for report in reports)
    failures.check(bad == 0, f"every honest request was answered ({bad} were not)")
    failures.check(all([server.end() == 0, other.end() == 0]), "the servers end by themselves")


if rounds < 1 or slow < 1:
    fail("both the count of slow peers and that of rounds must be 1 or more")
say(f"# {slow} slow senders and {slow} slow readers beside honest clients ({machine()})")
say(f"# honest: loadgen {' '.join(map(str, HONEST))}; {rounds} rounds, all sides in turn; medians (least to most)")
say(f"# {'servers, honest and slow clients have processors of their own' if are_apart else 'all share the processors'}")
for flags in [sys.argv[4:]] if len(sys.argv) > 4 else (["--mode", "buddy"], ["--mode", "fixed"], ["--mode", "buddy", "--capacity", "8MiB"]):
    measure(*flags)
failures.end()
