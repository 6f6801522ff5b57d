"""See ci/tls.sh."""

import os
import statistics
import subprocess
import sys
import tempfile

from field import Failures, fail, load, machine, progress, say, seconds_of

rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 11
seconds = seconds_of(sys.argv[2]) if len(sys.argv) > 2 else 2
cpus = sorted(os.sched_getaffinity(0))
if len(cpus) < 2:
    fail("this needs two CPUs, one for each side: see taskset(1)")
failures = Failures()
folder = tempfile.TemporaryDirectory()
certificate, key = (os.path.join(folder.name, name) for name in ("cert.pem", "key.pem"))
subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
                "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", key, "-out", certificate],
               check=True, capture_output=True)
say(f"# TLS: 16 connections, one thread and one CPU for each side ({machine()})")


def run(place, encrypts, *flags):
    """One run with each side on a CPU of its own, which they change for each other from round to round."""
    ours, theirs = (cpus[-1], cpus[0]) if place % 2 == 0 else (cpus[0], cpus[-1])
    client = ["--tls", "--tls-ca", certificate] if encrypts else []
    server = ["--tls-cert", certificate, "--tls-key", key] if encrypts else []
    os.sched_setaffinity(0, {ours})
    try:
        report = load("-c", 16, "-t", 1, "-w", "500ms", "-d", f"{seconds}s", "--pin", "on", *flags, *client,
                      "--", "taskset", "-c", theirs, os.environ["ARENA_ECHO"], "--mode", "buddy", "--threads", 1,
                      "--listen", "127.0.0.1:0", "--log-filter", "warn", *server)
    finally:
        os.sched_setaffinity(0, cpus)
    bad = report["errors"] + report["mismatches"] + report["unanswered"]
    if bad:
        failures.check(False, f"every request was answered, with its own bytes ({bad} were not)")
    return report


def spread(values, digits):
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


for size, words, depth in ((64, "64 B", 64), ("16k", "16 KiB", 8)):
    reports = {False: [], True: []}
    for number in range(rounds):
        progress(f"{words}, {depth} in flight, round {number + 1} of {rounds}")
        for encrypts in (False, True) if number % 2 == 0 else (True, False):
            reports[encrypts].append(run(number, encrypts, "-s", size, "-p", depth))
    say(f"  {words}, {depth} in flight on each connection")
    for side in ("client", "server"):
        plain, encrypted = ([report[side]["cpu_us_per_request"] for report in reports[encrypts]] for encrypts in (False, True))
        ratios = [b / a for a, b in zip(plain, encrypted)]
        say(f"    {side}: CPU per request {spread(plain, 3)} us, with TLS {spread(encrypted, 3)} us: {spread(ratios, 2)} times")
    own = [report["client"]["tls_cpu_us_per_request"] for report in reports[True]]
    rates = [statistics.median(report["rate"] for report in reports[encrypts]) for encrypts in (False, True)]
    say(f"    of the generator's, TLS takes {spread(own, 3)} us by its own word; {rates[0]:,.0f} and {rates[1]:,.0f} requests/s")
failures.end()
