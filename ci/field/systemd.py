"""See ci/systemd.sh."""

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

from field import Child, Failures, Load, echo, fail, load, machine, progress, say

SERVICE = "arena-echo.service"
SOCKET = "arena-echo.socket"
ADDRESS = "127.0.0.1:9000"

failures = Failures()


class Machine:
    """A systemd of its own, in namespaces of its own but for the network."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="systemd-")
        self.cgroups = list(new_cgroups())
        self.unshare = Child(["ci/field/systemd_boot.sh", self.folder.name, *self.cgroups])
        self.is_confined = eventually(self.is_below_ours, 5)
        if not self.is_confined or not eventually(lambda: self.inside("systemctl", "is-system-running").stdout.strip() == "running", 30):
            units = self.inside("systemctl", "--failed", "--no-pager").stdout if self.is_confined else ""
            reason = self.unshare.logged() if self.is_confined else "it is not in the control groups that were made for it"
            self.end()
            fail(f"systemd does not start here: {reason}{units}")

    def is_below_ours(self):
        """Whether its init has moved into a group below those that were made for it, and none is elsewhere."""
        pid = self.pid()
        if pid is None:
            return False
        with open(f"/proc/{pid}/cgroup") as file:
            paths = [line.rstrip("\n").split(":", 2)[1:] for line in file]
        name = f"/arena-echo-systemd-{os.getpid()}/"
        places = [path for controllers, path in paths if controllers in ("", "name=systemd")]
        return all(name in f"{path}/" for path in places) and any(path.endswith("init.scope") for path in places)

    def pid(self):
        """Of its init, as it is seen from here."""
        with open(f"/proc/{self.unshare.pid}/task/{self.unshare.pid}/children") as children:
            return (children.read().split() or [None])[0]

    def path(self, path):
        """Where a file of its file system is seen from here."""
        return f"/proc/{self.pid()}/root{path}"

    def inside(self, *command):
        """Runs a program there."""
        enter = ["nsenter", "--target", str(self.pid()), "--pid", "--mount", "--ipc", "--uts", "--cgroup", "--root", "--wd=/"]
        return subprocess.run([*enter, *command], stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def systemctl(self, *arguments):
        """Returns the exit status. Why it is not 0 is said for whoever reads along."""
        done = self.inside("systemctl", *arguments)
        for line in done.stderr.strip().splitlines()[:1]:
            progress(f"systemctl {' '.join(arguments)}: {line}")
        return done.returncode

    def show(self, name, unit=SERVICE):
        return self.inside("systemctl", "show", "--value", "--property", name, unit).stdout.strip()

    def main_pid(self):
        """Of the service, as it is seen from here: the last of its numbers is the one that it has there."""
        inner = self.show("MainPID")
        for status in os.listdir("/proc"):
            if status.isdigit():
                try:
                    with open(f"/proc/{status}/status") as file:
                        numbers = re.search(r"^NSpid:\s*(.*)$", file.read(), re.MULTILINE)[1].split()
                    if len(numbers) > 1 and numbers[-1] == inner and self.is_in_there(status):
                        return int(status)
                except OSError:
                    continue
        return None

    def is_in_there(self, pid):
        return os.readlink(f"/proc/{pid}/ns/pid") == os.readlink(f"/proc/{self.pid()}/ns/pid")

    def journal(self):
        return self.inside("journalctl", "--unit", SERVICE, "--output", "cat", "--no-pager").stdout

    def install(self, source, target):
        os.makedirs(os.path.dirname(self.path(target)), exist_ok=True)
        shutil.copy(source, self.path(target))

    def write(self, target, text):
        os.makedirs(os.path.dirname(self.path(target)), exist_ok=True)
        with open(self.path(target), "w") as file:
            file.write(text)

    def override(self, text):
        """What the unit says is changed by this alone; by nothing if it is empty."""
        self.write(f"/etc/systemd/system/{SERVICE}.d/test.conf", text)
        self.systemctl("daemon-reload")

    def end(self):
        self.unshare.end(signal.SIGKILL)
        if not eventually(lambda: all(map(remove_cgroup, self.cgroups))):
            say(f"  left over: {' '.join(filter(os.path.exists, self.cgroups))}")


def new_cgroups():
    """Makes one below ours in each hierarchy that systemd uses: all of what it does to them stays there."""
    with open("/proc/self/cgroup") as file:
        ours = [line.rstrip("\n").split(":", 2)[1:] for line in file]
    for controllers, path in ours:
        if controllers == "cpuset":
            # Of the first version, in which nothing starts without a set of processors. systemd does not use it.
            continue
        mounted = [f"/sys/fs/cgroup/{controllers.removeprefix('name=')}"] if controllers else ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        for root in mounted:
            if os.path.exists(f"{root}{path}/cgroup.procs"):
                cgroup = f"{root}{path.rstrip('/')}/arena-echo-systemd-{os.getpid()}"
                os.mkdir(cgroup)
                yield cgroup
                break


def remove_cgroup(cgroup):
    """Whether it is gone, with all below."""
    try:
        for folder, _, _ in os.walk(cgroup, topdown=False):
            os.rmdir(folder)
    except OSError:
        return False
    return True


def eventually(is_true, seconds=10):
    end = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def connect(address=ADDRESS):
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), 30)


def serves():
    try:
        with connect() as stream:
            return echo(stream, b"ping")
    except (OSError, EOFError):
        return False


def status_of(pid):
    with open(f"/proc/{pid}/status") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def is_active():
    return there.show("ActiveState") == "active"


def start_confined():
    say("the service, as the unit confines it")
    failures.check(there.systemctl("start", SERVICE) == 0, "it says that it is ready")
    failures.check(serves(), "it serves")
    status = there.show("StatusText")
    failures.check(ADDRESS in status, f"its status says where: {status}")
    of_process = status_of(there.main_pid())
    user = of_process["Uid"].split()[0]
    failures.check(user != "0" and int(of_process["CapEff"], 16) == 0, f"it is user {user}, without capabilities")
    failures.check(of_process["NoNewPrivs"] == "1" and of_process["Seccomp"] == "2", "it can get no more, and calls of the system are filtered")
    analysis = there.inside("systemd-analyze", "security", "--no-pager", SERVICE).stdout
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+ \w+)", analysis)
    say(f"  systemd-analyze security: exposure {exposure[1]}, where 0 is none and 10 is all")
    report = load("-c", 64, "-p", 16, "-s", "uniform:64..16k", "-d", "2s", "-w", "0s", ADDRESS)
    failures.check(report["exit_code"] == 0 and report["errors"] + report["mismatches"] + report["unanswered"] == 0,
                   f"{report['requests']:,} requests are answered with the right bytes")


def reload():
    say("systemctl reload")
    pid, path = there.show("MainPID"), "/etc/arena-echo/arena-echo.toml"
    with open(there.path(path)) as file:
        before = file.read()
    there.write(path, before + "\nmax-connections = 17\n")
    failures.check(there.systemctl("reload", SERVICE) == 0 and is_active(), "a change is taken")
    failures.check(eventually(lambda: "reload: done" in there.journal()), "the log says so")
    streams = [connect() for _ in range(17)]
    served = sum(echo(stream, b"ping") for stream in streams)
    with connect() as another:
        another.settimeout(0.5)
        another.sendall(b"\0\0\0\1x")
        try:
            waits = another.recv(5) == b""
        except TimeoutError:
            waits = True
    for stream in streams:
        stream.close()
    failures.check(served == 17 and waits, "it is in effect: 17 connections are served, and one waits")
    there.write(path, before + '\nmax-connections = "many"\nno-such-key = 1\n')
    failures.check(there.systemctl("reload", SERVICE) != 0, "a file with errors fails the reload")
    journal = there.journal()
    failures.check("many" in journal and "no-such-key" in journal, "the journal has both errors")
    failures.check(is_active() and there.show("MainPID") == pid and serves(), "the server goes on as it was")
    there.write(path, before)
    failures.check(there.systemctl("reload", SERVICE) == 0 and there.show("MainPID") == pid, "the right file is taken again")


def stop_in_the_middle():
    say("systemctl stop in the middle of a load")
    running = Load("-c", 32, "-p", 16, "-s", "uniform:64..4k", "-d", "6s", "-w", "0s", "--timeout", "20s", ADDRESS)
    time.sleep(2)
    failures.check(there.systemctl("stop", SERVICE) == 0, "it ends")
    running.report()
    answered = re.findall(r"answered (\d+) frames on \d+ connections; read (\d+) bytes, wrote (\d+)", there.journal())
    frames, read, wrote = map(int, answered[-1]) if answered else (0, 0, -1)
    failures.check(frames > 0 and read == wrote, f"all {read:,} bytes that it read are answered ({frames:,} frames)")
    failures.check(there.show("Result") == "success" and there.show("ExecMainStatus") == "0", "with exit status 0")


def cut_off():
    say("a peer that does not read, at the end of --drain-timeout")
    there.override("[Service]\nEnvironment=ARENA_ECHO_DRAIN_TIMEOUT=500ms\n")
    there.systemctl("start", SERVICE)
    with connect() as deaf:
        deaf.settimeout(2)
        try:
            while True:
                deaf.sendall(b"\0\0\xff\xff" + bytes(0xffff))
        except TimeoutError:
            pass
        there.systemctl("stop", SERVICE)
    failures.check(there.show("ExecMainStatus") == "1" and there.show("ActiveState") == "failed", "the unit shows as failed, with exit status 1")
    there.override("")
    there.systemctl("reset-failed", SERVICE)


def watchdog():
    say("a server that stands still")
    there.override("[Service]\nWatchdogSec=2s\n")
    there.systemctl("start", SERVICE)
    time.sleep(5)
    failures.check(is_active() and there.show("NRestarts") == "0", "the watchdog is fed while nobody asks for anything")
    os.kill(there.main_pid(), signal.SIGSTOP)
    failures.check(eventually(lambda: there.show("NRestarts") == "1" and is_active(), 20), "it is ended by the watchdog, and another one started")
    failures.check(serves(), "which serves")
    there.systemctl("stop", SERVICE)
    there.override("")
    there.systemctl("reset-failed", SERVICE)


def crash():
    say("a server that is killed, and one whose configuration cannot work")
    there.systemctl("start", SERVICE)
    os.kill(there.main_pid(), signal.SIGKILL)
    failures.check(eventually(lambda: there.show("NRestarts") == "1" and is_active()) and serves(), "another one is started after SIGKILL")
    there.systemctl("stop", SERVICE)
    there.override("[Service]\nEnvironment=ARENA_ECHO_CAPACITY=much\n")
    there.systemctl("reset-failed", SERVICE)
    failures.check(there.systemctl("start", SERVICE) != 0, "a wrong capacity fails the start")
    time.sleep(1)
    failures.check(there.show("ExecMainStatus") == "2" and there.show("NRestarts") == "0" and there.show("ActiveState") == "failed",
                   "it exits with 2, and is not tried again")
    failures.check("much" in there.journal(), "the journal says what is wrong")
    there.override("")
    there.systemctl("reset-failed", SERVICE)


def activate():
    say("socket activation")
    failures.check(there.systemctl("start", SOCKET) == 0 and not is_active(), "the sockets are open, and no server runs")
    failures.check(serves() and is_active(), "the first connection starts it")
    path = there.path("/run/arena-echo.sock")
    with socket.socket(socket.AF_UNIX) as stream:
        stream.connect(path)
        failures.check(echo(stream, b"ping"), "unix: is served, too")

    refused, closed, served, is_over = [], 0, 0, threading.Event()

    def come_and_go():
        nonlocal served, closed
        while not is_over.is_set():
            try:
                with connect() as stream:
                    served += echo(stream, b"ping")
            except EOFError:
                # Its request had not arrived when the server was told to stop.
                closed += 1
            except OSError as error:
                refused.append(error)

    clients = threading.Thread(target=come_and_go)
    clients.start()
    # As many starts as systemd allows in ten seconds, with the one before.
    restarts = 4
    pids = {there.show("MainPID")}
    for _ in range(restarts):
        time.sleep(0.5)
        there.systemctl("restart", SERVICE)
        pids.add(there.show("MainPID"))
    time.sleep(0.5)
    is_over.set()
    clients.join()
    failures.check(len(pids) == restarts + 1 and not refused and closed <= restarts,
                   f"{restarts} restarts, and of {served:,} clients that came one after another {len(refused)} were refused; "
                   f"{closed} had sent nothing yet and were closed {refused[:2] or ''}".rstrip())
    there.systemctl("stop", SOCKET, SERVICE)


def issue(common_name, folder):
    """Makes a certificate and its key in a folder of the machine, and returns their paths."""
    os.makedirs(there.path(folder), exist_ok=True)
    certificate, key = there.path(f"{folder}/server.pem"), there.path(f"{folder}/server-key.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30",
                    "-subj", f"/CN={common_name}", "-out", certificate, "-keyout", key], check=True, capture_output=True)
    return certificate, key


def peer_name():
    """The name in the certificate that the server shows, and whether it echoes."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    with connect() as plain, trusting.wrap_socket(plain) as stream:
        shown = ssl.DER_cert_to_PEM_cert(stream.getpeercert(binary_form=True))
        subject = subprocess.run(["openssl", "x509", "-noout", "-subject"], input=shown, capture_output=True, text=True).stdout
        return subject.rpartition("=")[2].strip() if echo(stream, b"ping") else None


def uncommented(unit, *keys):
    """The lines of a unit that are commented out and begin so."""
    with open(f"configs/{unit}") as file:
        lines = [line[1:] for line in file if line.startswith("#") and any(key in line for key in keys)]
    if len(lines) != len(keys):
        fail(f"configs/{unit} has {len(lines)} lines with {keys}")
    return "[Service]\n" + "".join(lines)


def encrypt():
    say("certificates, as the unit offers them")
    for name in ("first", "second"):
        for path in issue(f"{name}.example", "/etc/ssl/private"):
            os.chmod(path, 0o600)
        there.override(uncommented(SERVICE, "LoadCredential=server.pem", "LoadCredential=server-key", "TLS_CERT=%d"))
        failures.check(there.systemctl("restart", SERVICE) == 0 and peer_name() == f"{name}.example",
                       f"the {name} one is read as a credential, which only root could read")
    there.systemctl("stop", SERVICE)

    def issue_for_the_group(name):
        for path in issue(f"{name}.example", "/etc/arena-echo"):
            os.chown(path, 0, group)
            os.chmod(path, 0o640)

    group = 4711
    with open(there.path("/etc/group"), "a") as groups:
        groups.write(f"ssl-cert-test:x:{group}:\n")
    issue_for_the_group("third")
    lines = uncommented(SERVICE, "SupplementaryGroups=", "TLS_CERT=/etc/arena-echo")
    there.override(lines.replace("=ssl-cert\n", "=ssl-cert-test\n"))
    failures.check(there.systemctl("start", SERVICE) == 0 and peer_name() == "third.example", "one that a group may read is read")
    pid = there.show("MainPID")
    issue_for_the_group("fourth")
    failures.check(there.systemctl("reload", SERVICE) == 0 and eventually(lambda: peer_name() == "fourth.example") and there.show("MainPID") == pid,
                   "a new one is read at `systemctl reload`")
    there.write("/etc/arena-echo/server.pem", "no certificate")
    failures.check(there.systemctl("reload", SERVICE) != 0 and peer_name() == "fourth.example", "one that does not work changes nothing")
    there.systemctl("stop", SERVICE)
    there.override("")


# So that all that was started ends with this.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
say(f"# arena-echo under systemd ({machine()})")
progress("systemd starts")
there = Machine()
say(f"# {there.inside('systemctl', '--version').stdout.splitlines()[0]}")
try:
    there.install(os.environ["ARENA_ECHO"], "/usr/local/bin/arena-echo")
    there.install("configs/arena-echo.toml", "/etc/arena-echo/arena-echo.toml")
    for unit in (SERVICE, SOCKET):
        there.install(f"configs/{unit}", f"/etc/systemd/system/{unit}")
    there.systemctl("daemon-reload")
    verified = there.inside("systemd-analyze", "verify", f"/etc/systemd/system/{SERVICE}", f"/etc/systemd/system/{SOCKET}")
    failures.check(verified.returncode == 0 and "arena-echo" not in verified.stderr, f"systemd-analyze verify finds nothing {verified.stderr.strip()[:300]}")
    for part in (start_confined, reload, stop_in_the_middle, cut_off, watchdog, crash, activate, encrypt):
        part()
finally:
    there.end()
failures.end()
