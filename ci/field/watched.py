"""See ci/watched.sh."""

import sys
import threading
import urllib.request

from field import Failures, Server, load, machine, median, progress, say, seconds_of, spread

rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
seconds = seconds_of(sys.argv[2]) if len(sys.argv) > 2 else 4
PAGES = 4
IDLE_SECONDS = 20
failures = Failures()
LOAD = ["-c", 16, "-p", 16, "-s", 64, "-w", "500ms", "-d", f"{seconds}s"]


class Watchers:
    """Who looks at the status page all the time, and one who reads /metrics each second."""

    def __init__(self, server):
        self.end, self.ticks, self.scrapes = threading.Event(), 0, 0
        self.threads = [threading.Thread(target=self.look, args=(server,), daemon=True) for _ in range(PAGES)]
        self.threads.append(threading.Thread(target=self.scrape, args=(server,), daemon=True))
        for thread in self.threads:
            thread.start()

    def look(self, server):
        with urllib.request.urlopen(f"http://{server.admin}/events", timeout=30) as events:
            for line in events:
                self.ticks += line.startswith(b"data:")
                if self.end.is_set():
                    return

    def scrape(self, server):
        while not self.end.wait(1):
            server.metrics()
            self.scrapes += 1

    def leave(self):
        self.end.set()
        for thread in self.threads:
            thread.join()


say(f"# a server that is watched, beside itself when it is not ({machine()})")
say(f"# loadgen {' '.join(map(str, LOAD))}; {PAGES} status pages and a scrape each second; {rounds} rounds in turn; medians (least to most)")
server = Server("--mode", "buddy")
costs, rates, ticks, scrapes = {False: [], True: []}, {False: [], True: []}, 0, 0
for number in range(rounds):
    # Who begins changes, so that neither side always finds the machine as the other leaves it.
    for is_watched in (number % 2 == 0, number % 2 == 1):
        progress(f"round {number + 1} of {rounds}, {'watched' if is_watched else 'not watched'}")
        watchers = Watchers(server) if is_watched else None
        report = load(*LOAD, "--server-pid", server.pid, server.address)
        if watchers:
            watchers.leave()
            ticks, scrapes = ticks + watchers.ticks, scrapes + watchers.scrapes
        failures.check(report["errors"] + report["mismatches"] + report["unanswered"] == 0, "every request was answered")
        costs[is_watched].append(report["server"]["cpu_us_per_request"])
        rates[is_watched].append(report["rate"])

progress(f"{IDLE_SECONDS} s without load, not watched and watched")
alone = server.busy_share(IDLE_SECONDS)
watchers = Watchers(server)
watched = server.busy_share(IDLE_SECONDS)
watchers.leave()
say(f"  without load: {100 * watched:.3f} % of a core watched, {100 * alone:.3f} % not watched")
for is_watched, of in costs.items():
    say(f"  {'watched    ' if is_watched else 'not watched'}: server CPU per request {spread(of, 3)} us, "
        f"{median(rates[is_watched]) / 1e6:.2f} M requests/s")
for what, watched, alone in (("CPU per request", costs[True], costs[False]), ("requests/s", rates[True], rates[False])):
    ratios = [one / other for one, other in zip(watched, alone)]
    say(f"  {what}, watched over not watched: {spread(ratios, 3)}")
failures.check(ticks > rounds * PAGES and scrapes > 0, f"somebody watched: {ticks} ticks, {scrapes} scrapes")
failures.check(server.end() == 0, "the server ends by itself")
failures.end()
