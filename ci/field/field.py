"""What the measuring scripts share: a server to start and look at, a load generator, and lines of progress.

Standard library only. Every process that is started here is ended here.
"""

import atexit
import json
import os
import re
import resource
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

KIB = 1 << 10
MIB = 1 << 20
PAGE = resource.getpagesize()

_running = []


def say(*words):
    print(*words, flush=True)


def progress(*words):
    """A line for whoever waits, apart from the figures."""
    print("  ..", *words, file=sys.stderr, flush=True)


def fail(reason):
    sys.exit(f"{os.path.basename(sys.argv[0])}: {reason}")


class Failures:
    """What did not come true. The script goes on, and fails at the end."""

    def __init__(self):
        self.reasons = []

    def check(self, is_true, what):
        say(f"  {'ok' if is_true else 'FAILED'}: {what}")
        if not is_true:
            self.reasons.append(what)
        return is_true

    def check_answers(self, report):
        bad = report["errors"] + report["mismatches"] + report["unanswered"]
        if bad:
            self.check(False, f"every request was answered, with its own bytes ({bad} were not)")

    def end(self):
        if self.reasons:
            fail(f"{len(self.reasons)} of the checks failed: {'; '.join(self.reasons)}")


def raise_descriptors(count):
    """Makes room for so many descriptors in this process and those that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        fail(f"this needs {count} file descriptors, and the system allows {hard}: raise `ulimit -n`")
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


class Child:
    """A process and the lines of its output. Killed at the end of the script at the latest."""

    def __init__(self, command, descriptors=None):
        def limit():
            if descriptors is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

        self.lines = []
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log, text=True,
            preexec_fn=limit if descriptors is not None else None,
        )
        self.pid = self.process.pid
        _running.append(self.process)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def line(self, prefix, seconds):
        """The rest of the first line that begins so. None if it does not come in time."""
        end = time.monotonic() + seconds
        while True:
            has_ended = self.process.poll() is not None
            for line in list(self.lines):
                if line.startswith(prefix):
                    return line[len(prefix):]
            if has_ended or time.monotonic() > end:
                return None
            time.sleep(0.02)

    def logged(self):
        size = os.fstat(self.log.fileno()).st_size
        return os.pread(self.log.fileno(), size, 0).decode(errors="replace")

    def end(self, how=signal.SIGTERM, seconds=30):
        """Sends a signal, and returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        status = self.process.wait(seconds)
        self.reader.join(seconds)
        return status


@atexit.register
def _end_all():
    for process in _running:
        if process.poll() is None:
            process.kill()
            process.wait()


class Server(Child):
    """An `arena-echo` on free ports, if none are given."""

    def __init__(self, *flags, descriptors=None, log="warn", listen="127.0.0.1:0", admin="127.0.0.1:0"):
        command = [os.environ["ARENA_ECHO"], "--listen", listen, "--admin", admin]
        super().__init__([*command, "--log-filter", log, *map(str, flags)], descriptors)
        self.flags = " ".join(map(str, flags))
        self.address = self.line("listening on ", 10)
        if self.address is None:
            fail(f"the server did not start: {self.logged()}")
        self.port = int(self.address.rpartition(":")[2])
        self.admin = self.line("admin on ", 2)

    def metrics(self):
        """Every figure of the server: its name, with its labels, and its value. None without admin listener."""
        if self.admin is None:
            return None
        with urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    def is_ready(self):
        return http_status(self.admin, "/readyz") == 200

    def memory(self):
        """Resident bytes: all, and those of the arena's mapping, the largest that can be written."""
        mappings, total, size, is_arena = [], 0, 0, False
        with open(f"/proc/{self.pid}/smaps") as smaps:
            for line in smaps:
                first, *rest = line.split()
                if not first.endswith(":"):
                    # Others reserve more, but may not write to it.
                    is_arena = rest[0].startswith("rw") and len(rest) <= 4
                elif first == "Size:":
                    size = int(rest[0]) * KIB
                elif first == "Rss:":
                    resident = int(rest[0]) * KIB
                    total += resident
                    if is_arena:
                        mappings.append((size, resident))
        return total, max(mappings, default=(0, 0))[1]

    def rss(self):
        with open(f"/proc/{self.pid}/statm") as statm:
            return int(statm.read().split()[1]) * PAGE

    def cpu_seconds(self):
        """CPU time that it has used, to the nanosecond."""
        # The process's clock, as clock_getcpuclockid(3) names it.
        return time.clock_gettime(~self.pid << 3 | 2)

    def busy_share(self, seconds):
        """The share of a core that it uses in the next seconds."""
        before = self.cpu_seconds()
        time.sleep(seconds)
        return (self.cpu_seconds() - before) / seconds

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def connect(self, timeout=10):
        return socket.create_connection(("127.0.0.1", self.port), timeout)


def http_status(address, path):
    """The status code, or None if nobody answers."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as page:
            return page.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


class Load:
    """A `loadgen` that runs. Its progress goes to the standard error."""

    def __init__(self, *arguments):
        self.folder = tempfile.TemporaryDirectory(prefix="loadgen-")
        self.path = os.path.join(self.folder.name, "run.json")
        command = [os.environ["LOADGEN"], "--plain", "-o", self.path, *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
        _running.append(self.process)

    def report(self):
        """Waits for its end. Returns what it saved, with its exit code."""
        code = self.process.wait()
        try:
            with open(self.path) as file:
                report = json.load(file)
        except FileNotFoundError:
            fail(f"loadgen exits with {code} and saved nothing")
        return {**report, "exit_code": code}


def load(*arguments):
    return Load(*arguments).report()


def frame(payload):
    return struct.pack("!I", len(payload)) + payload


def receive(stream, count):
    parts = []
    while count > 0:
        part = stream.recv(min(count, MIB))
        if not part:
            raise EOFError("the server closed the connection")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def echo(stream, payload):
    """Sends a frame, and returns whether it came back."""
    stream.sendall(frame(payload))
    return receive(stream, 4 + len(payload)) == frame(payload)


def milliseconds(nanoseconds):
    return f"{nanoseconds / 1e6:.2f} ms"


def per(part, whole):
    return part / whole if whole else float("nan")


def machine():
    """One line about what this runs on."""
    model = "unknown"
    with open("/proc/cpuinfo") as cpuinfo:
        for line in cpuinfo:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    load_average = os.getloadavg()[0]
    return (f"{os.cpu_count()} cores of {model}, Linux {os.uname().release}, "
            f"load average {load_average:.1f} at the start")


def seconds_of(text):
    """`90`, `90s`, `2m` as seconds."""
    match = re.fullmatch(r"(\d+)([sm]?)", text)
    if match is None:
        fail(f"`{text}` is no time; write 90s or 2m")
    return int(match[1]) * (60 if match[2] == "m" else 1)


def spread(values, digits):
    """The median, and the least and the most."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def own_cpus():
    """The CPUs of this process, of which each side of a measurement gets one."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        fail("this needs two CPUs, one for each side: see taskset(1)")
    return cpus


def load_apart(place, cpus, flags, command):
    """Loads `command` with each side on a CPU of its own, which they change for each other from round to round."""
    ours, theirs = (cpus[-1], cpus[0]) if place % 2 == 0 else (cpus[0], cpus[-1])
    os.sched_setaffinity(0, {ours})
    try:
        return load(*flags, "--pin", "on", "--", "taskset", "-c", theirs, *command)
    finally:
        os.sched_setaffinity(0, cpus)


median = statistics.median
