"""See ci/descriptors.sh."""

import resource
import sys
import time

from field import Failures, Server, echo, machine, progress, raise_descriptors, say

LIMIT = 128
failures = Failures()
raise_descriptors(2048)
say(f"# file descriptors run out ({machine()})")

say(f"a server that may have {LIMIT} descriptors, and 300 clients")
server = Server(descriptors=LIMIT)
clients = [server.connect() for _ in range(300)]
for client in clients:
    client.settimeout(0.0)
    client.sendall(b"\x00\x00\x00\x02hi")
served = set()


def collect():
    for index, client in enumerate(clients):
        if client is None or index in served:
            continue
        try:
            if client.recv(64) == b"\x00\x00\x00\x02hi":
                served.add(index)
        except BlockingIOError:
            pass


def settle():
    while True:
        before = len(served)
        time.sleep(0.3)
        collect()
        if len(served) == before:
            return


settle()
at_once = len(served)
say(f"  {at_once} are served at once, {300 - at_once} wait; {server.descriptors()} descriptors are open")
failures.check(0 < at_once <= LIMIT - 64, "64 descriptors are kept back")
failures.check("file descriptors" in server.logged(), "the log says what to raise")
say(f"  CPU meanwhile: {100 * server.busy_share(2):.1f} % of a core")
while len(served) < 300:
    before = len(served)
    for index in served:
        if clients[index] is not None:
            clients[index].close()
            clients[index] = None
    settle()
    if len(served) == before:
        break
failures.check(len(served) == 300, f"all are served as others leave: {len(served)} of 300")
for client in clients:
    if client is not None:
        client.close()
failures.check(server.end() == 0, "the server ends by itself")

say("a server whose limit is lowered while it runs, so that accepting fails (EMFILE)")
server = Server(log="warn")
held = [server.connect() for _ in range(50)]
failures.check(all(echo(client, b"before") for client in held), "50 clients are served")
limits = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (server.descriptors(), limits[1]))
progress("no descriptor is left")
turned_away = 0
for _ in range(5):
    late = server.connect()
    late.settimeout(5)
    try:
        late.sendall(b"\x00\x00\x00\x00")
        turned_away += late.recv(4) == b""
    except ConnectionError:
        turned_away += 1
    except TimeoutError:
        pass
    late.close()
say(f"  {turned_away} of 5 further clients are closed at once instead of waiting for nothing")
failures.check(all(echo(client, b"meanwhile") for client in held), "the 50 are still served")
say(f"  CPU meanwhile: {100 * server.busy_share(2):.1f} % of a core")
failures.check("descriptors" in server.logged() or "files" in server.logged(), "the log says so")
resource.prlimit(server.pid, resource.RLIMIT_NOFILE, limits)
began = time.monotonic()
more = [server.connect(20) for _ in range(50)]
failures.check(all(echo(client, b"after") for client in more),
               f"with descriptors again, 50 more are served ({time.monotonic() - began:.1f} s)")
for client in held + more:
    client.close()
failures.check(server.end() == 0, "the server ends by itself")
failures.end()
