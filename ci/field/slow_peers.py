"""See ci/slow_peers.sh."""

import sys

from field import (MIB, Failures, Server, load, machine, median, milliseconds, progress, raise_descriptors, say, seconds_of)

slow = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
seconds = seconds_of(sys.argv[2]) if len(sys.argv) > 2 else 15
ROUNDS = 3
raise_descriptors(2 * slow + 512)
failures = Failures()
honest = ["-c", 16, "-p", 4, "-R", "2k", "-s", "uniform:64..16k", "-w", "3s", "-d", f"{seconds}s"]
say(f"# {slow} slow senders and {slow} slow readers beside honest clients ({machine()})")
say(f"# honest: loadgen {' '.join(map(str, honest))}; {ROUNDS} runs each, in turn; medians")


def measure(*flags):
    """Medians of runs without and with slow peers, in turn, so that both meet the same machine."""
    server = Server("--max-connections", 2 * slow + 256, *flags)
    runs = {0: [], slow: []}
    for number in range(ROUNDS):
        for count in (0, slow):
            progress(f"{server.flags}: run {number + 1} of {ROUNDS}, {2 * count} slow peers")
            adversaries = ["--slow-senders", count, "--slow-readers", count] if count else []
            runs[count].append(load(*honest, *adversaries, "--server-pid", server.pid, server.address))
    say(f"arena-echo {server.flags}")
    medians = {}

    def best(count):
        # What else the machine does makes runs slower, never faster.
        return min(report["latency_ns"]["p99"] for report in runs[count])

    for count, reports in runs.items():
        of = {name: median(report["latency_ns"][name] for report in reports) for name in ("p50", "p99", "p99_9")}
        medians[count] = of
        all_p99 = ", ".join(milliseconds(report["latency_ns"]["p99"]) for report in reports)
        say(f"  {2 * count:5} slow peers: p50 {milliseconds(of['p50'])}, p99 {milliseconds(of['p99'])} "
            f"(runs: {all_p99}), p99.9 {milliseconds(of['p99_9'])}, "
            f"{median(report['rate'] for report in reports):.0f}/s")
    say(f"  ratio with to without: p50 {medians[slow]['p50'] / medians[0]['p50']:.2f}, "
        f"p99 {medians[slow]['p99'] / medians[0]['p99']:.2f}; of the best runs, p99 {best(slow) / best(0):.2f}")
    last = runs[slow][-1]
    say(f"  peak RSS {last['server']['rss_peak_bytes'] / MIB:.1f} MiB")
    for kind in ("slow_senders", "slow_readers"):
        counts = last["adversaries"][kind]
        say(f"  {kind}: {counts['connects']} connections, {counts['closed_by_server']} of them closed by the server, "
            f"{counts['bytes_sent']} bytes sent, {counts['bytes_received']} received (last run)")
    figures = server.metrics()
    if figures is not None:
        rejects = {name: int(value) for name, value in figures.items()
                   if name.startswith("echo_rejects_total") and value}
        say(f"  arena: at most {figures['arena_bytes_live_max'] / MIB:.1f} MiB of "
            f"{figures['arena_bytes_reserved'] / MIB:.0f} MiB in use; rejects {rejects}")
    every = [report for reports in runs.values() for report in reports]
    failures.check(all(report["mismatches"] == 0 for report in every), "no honest client got another byte than it sent")
    bad = sum(report["errors"] + report["unanswered"] for report in every)
    failures.check(bad == 0, f"every honest request was answered ({bad} were not)")
    failures.check(server.end() == 0, "the server ends by itself")


measure("--mode", "buddy")
measure("--mode", "fixed")
measure("--mode", "buddy", "--capacity", "8MiB")
failures.end()
