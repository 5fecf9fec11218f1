#!/usr/bin/env python3
"""What it costs to see into the server: one with everything on and one without, in alternating pairs.

    make overhead            # builds both and runs this
    bench/overhead.py WITH WITHOUT [--pairs N] [--seconds S]

Both are paths of `ringq` binaries. The first records latencies, and its admin listener is asked for /metrics and for all that the
page asks for, once a second; the second was built without recording, and has no listener. Each pair is one run of either, the order
changing from pair to pair, server and load pinned to a core each, whoever asks to the load's. The ratio of a pair is that of its rates; what is printed for each load is the median of all pairs, and an
interval that holds it in 95 of 100 resamplings. The result goes to perf/results/.
"""

import argparse
import contextlib
import datetime
import http.client
import os
import random
import statistics
import sys
import tempfile
import threading
from pathlib import Path

import machine
import servers
from compare import pinning
from setting import Setting

# Name, options of the server, and how the load is: the shard's core is the bottleneck in the first, the kernel in the second.
LOADS = [("-N, 64 x 16", ["-N"], 64, 16), ("-N, 64 x 1", ["-N"], 64, 1), ("durable, 64 x 16", [], 64, 16)]
RESAMPLINGS = 10_000
SCRAPE_EVERY_S = 1.0
SCRAPE_TIMEOUT_S = 10
# A scraper's, and the page's.
SCRAPED = ["/metrics", "/api/v1/overview", "/api/v1/latency", "/api/v1/queues?sort=ready&order=desc&limit=200", "/api/v1/shards"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binaries", nargs=2, metavar=("WITH", "WITHOUT"))
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--bench", default="target/release/ringq-bench")
    options = parser.parse_args()
    options.server_pin, options.load_pin = pinning()
    options.scale = 1.0
    lines = [f"# What seeing into the server costs, {datetime.date.today()}", ""]
    lines += [f"{options.pairs} alternating pairs of {options.seconds:g} s each. With it: latencies are recorded, and the admin listener is "
              f"asked for {', '.join(f'`{path}`' for path in SCRAPED)} every {SCRAPE_EVERY_S:g} s. Without it: neither.", ""]
    lines += ["| load | rate with it / without | 95 % interval | puts and gets per second with it | rounds of questions answered |",
              "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory(prefix="ringq-overhead-", dir="target") as directory:
        for name, arguments, connections, depth in LOADS:
            ratios, rates, rounds = measure(options, Path(directory), arguments, connections, depth)
            low, high = interval(ratios)
            lines.append(f"| {name} | {statistics.median(ratios):.3f} | {low:.3f} to {high:.3f} | {statistics.median(rates):,.0f} | {rounds} |")
            print(lines[-1], flush=True)
    facts = machine.facts([], {}, Path.cwd()) | {"command": " ".join(sys.argv)}
    lines += ["", *(f"- {name}: {fact}" for name, fact in facts.items() if fact)]
    path = Path("perf/results") / f"{datetime.datetime.now():%Y-%m-%d-%H%M}-overhead.md"
    path.write_text("\n".join(lines) + "\n")
    print(path)


def measure(options, directory, arguments, connections, depth):
    """The ratio of each pair, the rates of the server with it, and how often that was asked."""
    ratios, rates, rounds = [], [], 0
    for pair in range(options.pairs):
        result = {}
        for seen in (True, False) if pair % 2 == 0 else (False, True):
            result[seen], asked = run(options, directory, seen, arguments, connections, depth)
            rounds += asked
        ratios.append(result[True] / result[False])
        rates.append(result[True])
    return ratios, rates, rounds


def run(options, directory, seen, arguments, connections, depth):
    """Messages a second, put and got, and how often the server was asked meanwhile."""
    options.ringq = options.binaries[0 if seen else 1]
    port = servers.free_port()
    admin = f"127.0.0.1:{port}" if seen else "off"
    server = servers.ringq(options, "ringq-overhead", "RingQ", "--admin", admin, *arguments)
    setting = Setting(options, {}, {}, directory)
    with setting.running(server), Scraper(port, options.load_pin) if seen else contextlib.nullcontext() as scraper:
        result = setting.load(server, "ping-pong", "-c", connections, "-P", depth, "-d", options.seconds)
    return sum(result[operation]["per_second"] for operation in ("put", "get")), scraper.rounds if seen else 0


class Scraper:
    """Asks an admin listener at once and then regularly, for as long as the context lasts."""

    def __init__(self, port, load_pin):
        self.port, self.cores = port, {int(core) for core in load_pin[1:]}
        self.rounds, self.failure = 0, None
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.scrape)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, *_):
        self.ended.set()
        self.thread.join()
        if kind is None and (self.failure or not self.rounds):
            raise servers.Failure(f"the admin listener was not asked as it should have been: {self.failure or 'never'}")

    def scrape(self):
        if self.cores:
            os.sched_setaffinity(0, self.cores)
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SCRAPE_TIMEOUT_S)
            while True:
                for path in SCRAPED:
                    connection.request("GET", path)
                    answer = connection.getresponse()
                    answer.read()
                    if answer.status != http.client.OK:
                        raise OSError(f"{path} was answered {answer.status}")
                self.rounds += 1
                if self.ended.wait(SCRAPE_EVERY_S):
                    return
        except (OSError, http.client.HTTPException) as error:
            self.failure = error


def interval(ratios):
    """Where the median of so many pairs lies in 95 of 100 resamplings."""
    chance = random.Random(1)
    medians = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(RESAMPLINGS))
    return medians[RESAMPLINGS * 25 // 1000], medians[RESAMPLINGS * 975 // 1000]


if __name__ == "__main__":
    sys.exit(main())
