#!/usr/bin/env python3
"""Compares RingQ with memcached, Redis, beanstalkd and MemcacheQ in one run and writes a dated result.

The result begins with a verdict on every target (targets.py). What the targets rest on is measured in parts: the grid of
put, get and mixed load over connections and requests in flight (grid.py), a minute of load far beyond memory
(endurance.py), latency at a fixed rate, with and without checkpoints (latency.py) and beside listings of ten thousand queues
(listing.py), ten million messages (depth.py), an idle server and a second shard (threads.py). All servers run on one core,
the load generator on another, unless a part says otherwise. Figures are medians over the rounds, ratios are medians of the ratios within a round.

Usage: bench/compare.py [--quick] [--only NAME,...] [--rounds N] [--seconds S] [--scale X] [--ringq PATH] [--bench PATH]
Environment: QUICK=1, ROUNDS, RINGQ, RINGQ_BENCH, MEMCACHEQ (a binary to compare with), SERVER_CPU (0), LOAD_CPU (1),
TMPDIR (data; ./target if unset).

Only the Python standard library is used.
"""

import argparse
import datetime
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import depth
import endurance
import grid
import latency
import listing
import machine
import servers
import targets
import threads
from figures import Figures
from report import Report
from servers import Failure
from setting import Setting

ROOT = machine.ROOT
# Besides the grid, in the order they are measured in. They take a quarter of an hour together and are not in a quick run.
PARTS = {
    "open-loop": latency.measure_open_loop,
    "checkpoint-latency": latency.measure_checkpoints,
    "listing": listing.measure,
    "two-shards": threads.measure_shards,
    "depth": depth.measure,
    "sustained": endurance.measure,
    "idle-server": threads.measure_idle,
}
# Not in a quick run: no target is about it.
SLOW_ONLY = ("beanstalkd",)


def parse_options():
    environment = os.environ.get
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", default=environment("QUICK", "") not in ("", "0"),
                        help="a smaller grid only, 3 rounds, short phases: under two minutes")
    parser.add_argument("--rounds", type=int, default=environment("ROUNDS"), help="rounds of the grid [5; quick 3]")
    parser.add_argument("--seconds", type=float, help="seconds of a phase of the grid [1.5; quick 0.35]")
    parser.add_argument("--scale", type=float, default=1.0,
                        help="lengths and counts of the parts besides the grid are multiplied by this; below 1 for a look [1]")
    parser.add_argument("--ringq", default=environment("RINGQ", str(ROOT / "target/release/ringq")), help="the server")
    parser.add_argument("--bench", default=environment("RINGQ_BENCH", str(ROOT / "target/release/ringq-bench")),
                        help="the load generator")
    parser.add_argument("--only", default="", metavar="NAME,...",
                        help="measure only these: names of targets or parts (what they rest on) or of servers (all of the grid)")
    parser.add_argument("--memcacheq", default=environment("MEMCACHEQ"), help="a MemcacheQ to compare with")
    parser.add_argument("--results", default=str(ROOT / "perf/results"), help="where results go")
    options = parser.parse_args()
    options.rounds = int(options.rounds or (3 if options.quick else 5))
    options.seconds = options.seconds or (0.35 if options.quick else 1.5)
    options.cells = grid.CELLS_QUICK if options.quick else grid.CELLS
    if options.rounds < 1 or options.seconds <= 0 or options.scale <= 0:
        parser.error("rounds, seconds and scale are positive")
    for binary in (options.ringq, options.bench):
        if shutil.which(binary) is None:
            parser.error(f"{binary} is not there; build it with: cargo build --release")
    options.server_pin, options.load_pin = pinning()
    return options


def pinning():
    """How to pin the servers and the load, or nothing on a machine with one core."""
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:
        return [], []
    server, load = (os.environ.get(name, str(cpu)) for name, cpu in zip(("SERVER_CPU", "LOAD_CPU"), available))
    return ["taskset", "-c", server], ["--pin", load]


class Choice:
    """What `--only` asks for: rows to judge, parts to measure, and of the grid the servers and phases (`None`: all)."""

    def __init__(self, options, found):
        names = {name for name in options.only.split(",") if name}
        parts = {row.part for row in targets.ROWS if row.name in names} | names & {*PARTS, "grid"}
        unknown = names - {row.name for row in targets.ROWS} - {*PARTS, "grid"} - set(found)
        if unknown:
            known = dict.fromkeys([*(row.name for row in targets.ROWS), *PARTS, "grid"])
            raise Failure(f"--only {', '.join(sorted(unknown))}: targets and parts are {', '.join(known)}; "
                          f"the servers found here are {', '.join(found)}")
        # Of a part besides the grid all is measured, so all is judged.
        self.rows = [row for row in targets.ROWS
                     if not names or row.name in names or row.part in parts - {"grid"} or row.part in names]
        self.parts = [part for part in PARTS if part in parts or not names and not options.quick]
        self.grid = None
        if names and "grid" not in names:
            needs = [need for row in self.rows if set(row.servers) <= set(found) for need in row.needs()]
            self.grid = {"servers": names & set(found), "needs": needs}
            wanted = self.grid["servers"] | {server for server, _, _ in needs}
        else:
            wanted = set(found) - set(SLOW_ONLY if options.quick else ())
        self.servers = [server for server in found.values() if server.name in wanted]


def end_by_signal(signal_number, _):
    # Unwinds through the contexts, which end the servers and remove their data.
    raise SystemExit(128 + signal_number)


def measure(setting, choice):
    figures = Figures()
    if choice.servers:
        grid.Grid(setting, figures, choice.servers, choice.grid).run()
    for part in choice.parts:
        begun = time.monotonic()
        PARTS[part](setting, figures)
        setting.say(f"{part}: took {time.monotonic() - begun:.0f} s")
    return figures


def write_results(options, markdown, figures, facts, started):
    directory = Path(options.results)
    directory.mkdir(parents=True, exist_ok=True)
    stem = directory / f"{started:%Y-%m-%d-%H%M}-compare"
    stem.with_suffix(".md").write_text(markdown)
    result = {"started": started.isoformat(timespec="seconds"), "facts": facts, "rounds": options.rounds,
              "seconds": options.seconds, "scale": options.scale, "runs": figures.runs}
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(markdown)
    print(f"written: {stem}.md and {stem}.json", file=sys.stderr)


def compare():
    options = parse_options()
    for ending in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(ending, end_by_signal)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    started = datetime.datetime.now().astimezone()
    found, missing = servers.find(options)
    for name, reason in missing.items():
        print(f"{name} is left out: {reason}", file=sys.stderr)
    choice = Choice(options, found)
    base = os.environ.get("TMPDIR") or str(ROOT / "target")
    Path(base).mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="compare-", dir=base)).resolve()
    try:
        setting = Setting(options, found, missing, directory)
        facts = machine.facts(found.values(), missing, directory)
        figures = measure(setting, choice)
        write_results(options, Report(setting, figures, choice.rows, started, facts).markdown(), figures, facts, started)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def main():
    try:
        compare()
    except Failure as failure:
        print(f"compare: {failure}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
