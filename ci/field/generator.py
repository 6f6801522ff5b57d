"""See ci/generator.sh."""

import os
import sys
import time

from field import Failures, Load, fail, load_apart, machine, median, own_cpus, progress, say, seconds_of, spread

rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 11
long_seconds = seconds_of(sys.argv[2]) if len(sys.argv) > 2 else 600
cpus = own_cpus()
failures = Failures()
say(f"# the generator: 64 bytes, 64 in flight on each connection, one pinned thread ({machine()})")


def pinned(place, seconds, *flags):
    return load_apart(place, cpus, ("-p", 64, "-t", 1, "-s", 64, "-w", "1s", "-d", f"{seconds}s", *flags), [os.environ["RAW_ECHO"]])


def measure(connections):
    """Cost in closed loop, and time-keeping in open loop at half of the rate that it reached."""
    client, server, ratio, rate = [], [], [], []
    for number in range(rounds):
        progress(f"{connections} connections, closed loop, round {number + 1} of {rounds}")
        report = pinned(number, 3, "-c", connections)
        failures.check_answers(report)
        client.append(report["client"]["cpu_us_per_request"])
        server.append(report["server"]["cpu_us_per_request"])
        ratio.append(client[-1] / server[-1])
        rate.append(report["rate"])
    say(f"  {connections} connections, closed loop: {median(rate) / 1e6:.1f} M requests/s; CPU per request: generator "
        f"{spread(client, 3)} us, server {spread(server, 3)} us")
    say(f"    generator over server: {spread(ratio, 2)}, over all rounds {sum(client) / sum(server):.2f}  (wanted: 1.05)")

    half = int(median(rate) / 2)
    kept, lag = [], []
    for number in range(rounds):
        progress(f"{connections} connections, open loop at {half}/s, round {number + 1} of {rounds}")
        report = pinned(number, 3, "-c", connections, "-R", half)
        failures.check_answers(report)
        kept.append(100 * (report["rate"] / half - 1))
        lag.append(report["send_lag_ns"]["p99"] / 1000)
    say(f"    open loop at half of that, {half / 1e6:.2f} M requests/s: rate {spread(kept, 3)} % off  (wanted: 0.1), "
        f"send lag p99 {spread(lag, 0)} us  (wanted: below 100)")


for connections in (4, 10, 16):
    measure(connections)

if long_seconds:
    def resident(pid):
        with open(f"/proc/{pid}/smaps_rollup") as smaps:
            return next(int(line.split()[1]) for line in smaps if line.startswith("Rss:"))

    run = Load("-c", 64, "-p", 8, "-R", "20k", "-s", "uniform:64..4k", "-w", "10s", "-d", f"{long_seconds}s",
               "--", os.environ["ARENA_ECHO"], "--listen", "127.0.0.1:0", "--log-filter", "warn")
    samples, began = [], time.monotonic()
    while run.process.poll() is None and time.monotonic() < began + long_seconds:
        time.sleep(1)
        # What comes before is warming up.
        if time.monotonic() > began + min(60, long_seconds / 5) and run.process.poll() is None:
            samples.append(resident(run.process.pid))
        if len(samples) % 60 == 1:
            progress(f"{time.monotonic() - began:.0f} s: RSS {samples[-1]} KiB")
    report = run.report()
    failures.check_answers(report)
    if len(samples) < 2:
        fail("so short a run says nothing: give it a minute at least")
    early, late = (median(part) for part in (samples[:len(samples) // 2], samples[len(samples) // 2:]))
    say(f"  {long_seconds} s at 20,000 requests/s of 64 to 4,096 bytes: RSS {samples[0]} KiB after warming up, {samples[-1]} at the "
        f"end; median of the second half over that of the first {100 * (late / early - 1):+.2f} %")
    failures.check(late <= 1.01 * early, "the memory is flat to 1 %")
failures.end()
