"""See ci/haproxy.sh."""

import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time

from field import (Child, Failures, Load, Server, fail, frame, http_status, machine, milliseconds, progress, receive, say)

PAYLOAD = 1000
FRAME = 4 + PAYLOAD
CONNECTIONS = 30
PIPELINE = 8
SECONDS = 16

failures = Failures()
folder = tempfile.TemporaryDirectory(prefix="haproxy-")
stats_path = f"{folder.name}/stats.sock"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def config(instances, port):
    """configs/haproxy.cfg, with the addresses of what runs here, and for fewer connections."""
    with open("configs/haproxy.cfg") as file:
        text = file.read()

    def replace(pattern, replacement):
        nonlocal text
        text, count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
        if count != 1:
            fail(f"configs/haproxy.cfg has {count} lines like {pattern}")

    replace(r"^( *bind) :9000$", rf"\1 127.0.0.1:{port}")
    # As many descriptors as the original asks for are more than a process may have by default.
    replace(r"^    maxconn \d+$", "    maxconn 2000")
    replace(r"^( *stats socket) \S+", rf"\1 {stats_path}")
    for number, instance in enumerate(instances, 1):
        admin_port = instance.admin.rpartition(":")[2]
        replace(rf"^( *server echo-{number}) \S+$", rf"\1 127.0.0.1:{instance.port} port {admin_port}")
    return text


def stats():
    """What HAProxy knows of each instance: by name, its columns."""
    with socket.socket(socket.AF_UNIX) as stream:
        stream.connect(stats_path)
        stream.sendall(b"show stat\n")
        text = b"".join(iter(lambda: stream.recv(65536), b"")).decode()
    names, *rows = [line.lstrip("# ").split(",") for line in text.splitlines() if line]
    rows = [dict(zip(names, row)) for row in rows]
    return {row["svname"]: row for row in rows if row["pxname"] == "echo"}


def until(what, is_true, seconds=20):
    began = time.monotonic()
    while not is_true():
        if time.monotonic() - began > seconds:
            failures.check(False, f"{what} within {seconds} s")
            return None
        time.sleep(0.02)
    return time.monotonic() - began


def is_up(number):
    return stats()[f"echo-{number}"]["status"].startswith("UP")


def finish(instance):
    """Waits for its end. Returns the exit status, and what it says of itself: frames answered, bytes read and written."""
    status = instance.process.wait(30)
    said = re.search(r"answered (\d+) frames .*; read (\d+) bytes, wrote (\d+)", instance.logged())
    if said is None:
        fail(f"the drained instance does not say what it did: {instance.logged()}")
    return status, *map(int, said.groups())


say(f"# three instances behind HAProxy ({machine()})")
instances = [Server("--threads", 1, log="info") for _ in range(3)]
if instances[0].admin is None:
    fail("this build has no admin listener, which the health checks ask")
port = free_port()
path = f"{folder.name}/haproxy.cfg"
with open(path, "w") as file:
    file.write(config(instances, port))
haproxy = Child([os.environ["HAPROXY"], "-f", path])
if until("HAProxy answers", lambda: os.path.exists(stats_path), 5) is None:
    fail(f"HAProxy does not run: {haproxy.logged()}")
until("all instances are up", lambda: all(map(is_up, (1, 2, 3))))

# Part 1: what has reached an instance when it is told to stop is answered, to the last frame.
frames_each, clients = 40, 30
say(f"drain 1: {clients} clients with {frames_each} requests each, told to stop when all have been passed on")


def connect():
    return socket.create_connection(("127.0.0.1", port), 20)


def answered(streams):
    """How many whole and right replies come before each connection ends."""
    counts = [0] * len(streams)

    def read(index):
        for number in range(frames_each):
            try:
                is_right = receive(streams[index], FRAME) == frame(bytes([number]) * PAYLOAD)
            except (EOFError, ConnectionError):
                return
            failures.reasons += [] if is_right else ["a reply has wrong bytes"]
            counts[index] += 1

    threads = [threading.Thread(target=read, args=(index,)) for index in range(len(streams))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counts


drained = instances[0]
streams = [connect() for _ in range(clients)]
until("HAProxy has connected all", lambda: sum(int(stats()[f"echo-{n}"]["scur"]) for n in (1, 2, 3)) == clients)
on_drained = int(stats()["echo-1"]["scur"])
before = int(stats()["echo-1"]["bin"])
for stream in streams:
    stream.sendall(b"".join(frame(bytes([number]) * PAYLOAD) for number in range(frames_each)))
expected = on_drained * frames_each * FRAME
until("HAProxy has passed all on", lambda: int(stats()["echo-1"]["bin"]) - before == expected)
drained.process.send_signal(signal.SIGTERM)
until("the drained instance is not ready, or gone", lambda: http_status(drained.admin, "/readyz") != 200)
counts = answered(streams)
status, frames, bytes_in, bytes_out = finish(drained)
say(f"  {on_drained} connections went to the drained instance: {on_drained * frames_each} requests reached it, "
    f"it read {bytes_in // FRAME} and answered {bytes_out // FRAME}")
failures.check(status == 0, "it exits with 0")
failures.check(bytes_in == bytes_out == expected and frames == on_drained * frames_each,
               "it answered as many as had reached it")
failures.check(counts == [frames_each] * clients, f"all {clients * frames_each} replies came back, through HAProxy")
for stream in streams:
    stream.close()
instances[0] = Server("--threads", 1, log="info", listen=drained.address, admin=drained.admin)
took = until("the instance that was started again is up", lambda: is_up(1))
if took is not None:
    say(f"  started again at once, it is up for HAProxy after {took:.1f} s")

# Part 2: the same under load that does not stop, and one that is killed.
say(f"drain 2: {CONNECTIONS} connections with up to {PIPELINE} requests in flight for {SECONDS} s; "
    f"one instance is drained at 5 s, one killed at 10 s")
load = Load("-c", CONNECTIONS, "-p", PIPELINE, "-R", "6k", "-s", PAYLOAD, "--verify", "full", "-w", "1s",
            "-d", f"{SECONDS - 1}s", "-i", "500ms", f"127.0.0.1:{port}")
time.sleep(5)
drained, killed, kept = instances[1], instances[2], instances[0]
progress("SIGTERM to the second instance")
drained.process.send_signal(signal.SIGTERM)
status, frames, bytes_in, bytes_out = finish(drained)
time.sleep(5)
progress("SIGKILL to the third instance")
killed.process.kill()
report = load.report()

part = bytes_in - bytes_out
say(f"  the drained instance read {bytes_in} bytes: {frames} whole requests, and {part} bytes of requests whose rest "
    f"came after it was told to stop")
failures.check(status == 0, "the drained instance exits with 0")
failures.check(bytes_out == frames * FRAME, f"it answered all {frames} requests that it had received")
failures.check(part < CONNECTIONS * FRAME, "it read nothing else but beginnings of requests")
failures.check(report["mismatches"] == 0, f"no wrong byte in {report['requests']} replies")
in_flight = CONNECTIONS * PIPELINE
lost = report["unanswered"]
say(f"  {report['requests']} requests answered; {lost} not, which were on their way to the drained or the killed instance; "
    f"{report['errors']} connections lost, {report['reconnects']} made again")
failures.check(lost <= 2 * in_flight, f"not more are unanswered than were in flight at two moments ({2 * in_flight})")
intervals = [interval for interval in report["intervals"] if not interval["is_warm_up"]]
ends = [interval["start_s"] + interval["length_s"] for interval in intervals]
after = [interval for interval, end in zip(intervals, ends) if end > 12 and interval["length_s"] > 0.4]
rate = sum(interval["requests"] for interval in after) / sum(interval["length_s"] for interval in after)
quiet = max((interval["length_s"] for interval in intervals if interval["requests"] == 0), default=0)
say(f"  p99 {milliseconds(report['latency_ns']['p99'])}, longest {milliseconds(report['latency_ns']['max'])}; "
    f"{rate:.0f}/s after both are gone (6000/s were asked for)")
failures.check(quiet == 0, "there was no half second without replies")
failures.check(rate > 0 and after[-1]["errors"] == 0, "the instance that is left carries on alone, without errors")
failures.check(kept.end() == 0, "it ends by itself")
haproxy.end()
failures.end()
say("the drained instance lost nothing, and the rest carried on")
