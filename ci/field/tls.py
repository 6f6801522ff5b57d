"""See ci/tls.sh."""

import os
import subprocess
import sys
import tempfile

from field import Failures, load_apart, machine, median, own_cpus, progress, say, seconds_of, spread

rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 11
seconds = seconds_of(sys.argv[2]) if len(sys.argv) > 2 else 2
cpus = own_cpus()
failures = Failures()
folder = tempfile.TemporaryDirectory()
certificate, key = (os.path.join(folder.name, name) for name in ("cert.pem", "key.pem"))
subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
                "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", key, "-out", certificate],
               check=True, capture_output=True)
say(f"# TLS: 16 connections, one thread and one CPU for each side ({machine()})")


def run(place, encrypts, *flags):
    client = ["--tls", "--tls-ca", certificate] if encrypts else []
    server = ["--tls-cert", certificate, "--tls-key", key] if encrypts else []
    report = load_apart(place, cpus, ("-c", 16, "-t", 1, "-w", "500ms", "-d", f"{seconds}s", *flags, *client),
                        (os.environ["ARENA_ECHO"], "--mode", "buddy", "--threads", 1, "--listen", "127.0.0.1:0",
                         "--log-filter", "warn", *server))
    failures.check_answers(report)
    return report


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
    rates = [median(report["rate"] for report in reports[encrypts]) for encrypts in (False, True)]
    say(f"    of the generator's, TLS takes {spread(own, 3)} us by its own word; {rates[0]:,.0f} and {rates[1]:,.0f} requests/s")
failures.end()
