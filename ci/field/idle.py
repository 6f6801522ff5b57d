"""See ci/idle.sh."""

import os
import ssl
import subprocess
import sys
import tempfile
import time

from field import (KIB, Server, Failures, echo, machine, per, progress, raise_descriptors, say)

arguments = [argument for argument in sys.argv[1:] if argument != "--tls"]
count = int(arguments[0]) if arguments else 10_000
encrypts = "--tls" in sys.argv
raise_descriptors(count + 64)
failures = Failures()
say(f"# {count} idle {'encrypted ' if encrypts else ''}connections ({machine()})")


def certificate(folder):
    """A certificate that vouches for itself, as flags of the server."""
    cert, key = os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                    "-subj", "/CN=localhost", "-keyout", key, "-out", cert], check=True, capture_output=True)
    return ["--tls-cert", cert, "--tls-key", key]


def connect():
    stream = server.connect()
    return trusting.wrap_socket(stream) if encrypts else stream


trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
folder = tempfile.TemporaryDirectory()
server = Server(*(certificate(folder.name) if encrypts else []),
                "--max-connections", count + 1, "--backlog", 1024, "--capacity", "64MiB",
                # A timer takes the same memory however far away it is: nobody is closed meanwhile.
                "--first-byte-timeout", "1h", "--idle-timeout", "1h",
                descriptors=count + 2048)
if server.admin is None:
    say("  (this build has no admin listener: what the arena holds is left out)")


def arena_bytes():
    figures = server.metrics()
    return None if figures is None else int(figures["arena_bytes_live"])


def kernel_pages():
    with open("/proc/net/sockstat") as sockstat:
        for line in sockstat:
            if line.startswith("TCP:"):
                return int(line.split()[-1])


def settled():
    """Memory once nothing changes it any more."""
    before = server.memory()
    while True:
        time.sleep(0.5)
        now = server.memory()
        if now == before:
            return now
        before = now


def look(stage, connections):
    total, of_arena = settled()
    own, own_before = total - of_arena, baseline[0] - baseline[1]
    live = arena_bytes()
    say(f"  {stage:<46} RSS {total / KIB:8.0f} KiB, {of_arena / KIB:5.0f} of it pages of the arena"
        + (f", {per(own - own_before, connections):6.0f} bytes per connection" if connections else "")
        + ("" if live is None else f", arena holds {live}"))
    if live is not None:
        failures.check(live == 0, f"{stage}: the arena holds nothing")


baseline = settled()
look("no connection", 0)
pages_before = kernel_pages()
streams = []
began = time.monotonic()
while len(streams) < count:
    streams.append(connect())
    if len(streams) % 2500 == 0:
        progress(f"{len(streams)} of {count} connections, {time.monotonic() - began:.1f} s")
while server.descriptors() < count:
    time.sleep(0.1)
look(f"{count} connections that never said a word", count)
for done, stream in enumerate(streams, 1):
    failures.reasons += [] if echo(stream, os.urandom(1000)) else ["an echo is wrong"]
    if done % 2500 == 0:
        progress(f"{done} of {count} have had an echo")
look(f"{count} connections after an echo of 1000 bytes", count)
for stream in streams:
    stream.sendall(b"\x00\x00\x03\xe8" + b"x" * 1000)
for stream in streams:
    left = 1004
    while left > 0:
        left -= len(stream.recv(left))
look(f"{count} connections after an echo at once", count)
pages = kernel_pages() - pages_before
say(f"  the kernel's buffers of all TCP sockets, both ends: {pages} pages more than before")
for stream in streams:
    stream.close()
progress("closing")
while server.descriptors() > 64:
    time.sleep(0.1)
look("all closed again", 0)
failures.check(server.end() == 0, "the server ends by itself")
failures.end()
