#!/usr/bin/env python3
"""What measuring latencies costs: the server with it and without it, in alternating pairs.

    make overhead            # builds both and runs this
    bench/overhead.py WITH WITHOUT [--pairs N] [--seconds S]

Both are paths of `ringq` binaries. Each pair is one run of either, the order changing from pair to pair, server and load
pinned to a core each. The ratio of a pair is that of its rates; what is printed for each load is the median of all pairs, and an
interval that holds it in 95 of 100 resamplings. The result goes to perf/results/.
"""

import argparse
import datetime
import random
import statistics
import sys
import tempfile
from pathlib import Path

import machine
import servers
from compare import pinning
from setting import Setting

# Name, options of the server, and how the load is: the shard's core is the bottleneck in the first, the kernel in the second.
LOADS = [("-N, 64 x 16", ["-N"], 64, 16), ("-N, 64 x 1", ["-N"], 64, 1), ("durable, 64 x 16", [], 64, 16)]
RESAMPLINGS = 10_000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binaries", nargs=2, metavar=("WITH", "WITHOUT"))
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--bench", default="target/release/ringq-bench")
    options = parser.parse_args()
    options.server_pin, options.load_pin = pinning()
    options.scale = 1.0
    lines = [f"# What measuring costs, {datetime.date.today()}", "", f"{options.pairs} alternating pairs of {options.seconds:g} s each.", ""]
    lines += ["| load | rate with it / without | 95 % interval | puts and gets per second with it |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory(prefix="ringq-overhead-", dir="target") as directory:
        for name, arguments, connections, depth in LOADS:
            ratios, rates = measure(options, Path(directory), arguments, connections, depth)
            low, high = interval(ratios)
            lines.append(f"| {name} | {statistics.median(ratios):.3f} | {low:.3f} to {high:.3f} | {statistics.median(rates):,.0f} |")
            print(lines[-1], flush=True)
    facts = machine.facts([], {}, Path.cwd()) | {"command": " ".join(sys.argv)}
    lines += ["", *(f"- {name}: {fact}" for name, fact in facts.items() if fact)]
    path = Path("perf/results") / f"{datetime.datetime.now():%Y-%m-%d-%H%M}-overhead.md"
    path.write_text("\n".join(lines) + "\n")
    print(path)


def measure(options, directory, arguments, connections, depth):
    """The ratio of each pair, and the rates of the server that measures."""
    ratios, rates = [], []
    for pair in range(options.pairs):
        order = options.binaries if pair % 2 == 0 else options.binaries[::-1]
        result = {binary: run(options, directory, binary, arguments, connections, depth) for binary in order}
        ratios.append(result[options.binaries[0]] / result[options.binaries[1]])
        rates.append(result[options.binaries[0]])
    return ratios, rates


def run(options, directory, binary, arguments, connections, depth):
    """Messages a second, put and got."""
    options.ringq = binary
    server = servers.ringq(options, "ringq-overhead", "RingQ", *arguments)
    setting = Setting(options, {}, {}, directory)
    with setting.running(server):
        result = setting.load(server, "ping-pong", "-c", connections, "-P", depth, "-d", options.seconds)
    return sum(result[operation]["per_second"] for operation in ("put", "get"))


def interval(ratios):
    """Where the median of so many pairs lies in 95 of 100 resamplings."""
    chance = random.Random(1)
    medians = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(RESAMPLINGS))
    return medians[RESAMPLINGS * 25 // 1000], medians[RESAMPLINGS * 975 // 1000]


if __name__ == "__main__":
    sys.exit(main())
