#!/usr/bin/env python3
"""Compares RingQ with memcached, Redis and beanstalkd in one run and writes a dated result.

What is compared: put, get and mixed load over a grid of connections (c) and requests in flight on each (p). All
servers run on one core, the load generator on another. Each round gives every server its turn in a cell before the
next cell comes, so that drift of the machine meets all of them alike; servers whose turn it is not are stopped
(SIGSTOP), so that what they still have to do is done in their own time. Figures are medians over the rounds, ratios
are medians of the ratios within a round.

Usage: bench/compare.py [--quick] [--rounds N] [--seconds S] [--ringq PATH] [--bench PATH]
Environment: QUICK=1, ROUNDS, RINGQ, RINGQ_BENCH, SERVER_CPU (0), LOAD_CPU (1), TMPDIR (data; ./target if unset).

Only the Python standard library is used.
"""

import argparse
import datetime
import json
import os
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GRID = [(c, p) for p in (1, 16) for c in (1, 16, 64, 256)]
GRID_QUICK = [(1, 1), (64, 1), (64, 16)]
PHASES = ("put", "get", "mixed")
SIZE = 100
START_TIMEOUT_S = 15
STOP_TIMEOUT_S = 15
# A drain may take this many times as long as the fill before it is cut off (and finished outside the measurement).
DRAIN_SHARE_MAX = 4
# Rates over less than this are reported with a warning.
ELAPSED_S_MIN = 0.1

RATIOS = [
    ("default / Redis, AOF always", "ringq", "redis-always"),
    ("-N / memcached", "ringq-N", "memcached"),
    ("-N / Redis, volatile", "ringq-N", "redis"),
]


class Failure(Exception):
    """Something the user has to know; printed without a trace."""


class Server:
    """One server process: started once, stopped between its turns, ended by its pid."""

    def __init__(self, name, label, protocol, command, version, cache=False):
        self.name, self.label, self.protocol, self.cache = name, label, protocol, cache
        self.command, self.version = command, version
        self.process = None
        self.port = None
        self.log = None

    def start(self, port, directory, pin):
        self.port = port
        self.log = directory / f"{self.name}.log"
        data = directory / self.name
        data.mkdir()
        command = pin + self.command(str(port), str(data))
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + START_TIMEOUT_S
        while True:
            self.check()
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > end:
                    raise Failure(f"{self.label} does not listen after {START_TIMEOUT_S} s\n{self.log_tail()}") from None
                time.sleep(0.02)

    def check(self):
        if self.process.poll() is not None:
            raise Failure(f"{self.label} ended with {self.process.returncode}\n{self.log_tail()}")

    def log_tail(self):
        return self.log.read_text(errors="replace")[-2000:]

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.check()
        self.process.send_signal(signal.SIGCONT)

    def stop(self):
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def output_of(command):
    """The first line a command prints, or None."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return None
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0].strip() if done.returncode == 0 and lines else None


def find_servers(ringq):
    """All servers that are there, and a line for each that is not."""
    servers, missing = [], []

    def add(binary, name, label, protocol, arguments, version, cache=False):
        path = shutil.which(binary)
        if path is None:
            missing.append(f"{label}: {binary} not found, left out")
            return
        command = lambda port, data: [path] + arguments(port, data)
        servers.append(Server(name, label, protocol, command, output_of([path, version]), cache))

    def ringq_arguments(*extra):
        return lambda port, data: ["-p", port, "-l", "127.0.0.1", "-t", "1", "-H", data, "-m", "64", "--pin", "off", *extra]

    def redis_arguments(*extra):
        common = ["--bind", "127.0.0.1", "--save", "", "--auto-aof-rewrite-percentage", "0"]
        return lambda port, data: ["--port", port, "--dir", data, *common, *extra]

    def memcached_arguments(port, _):
        user = ["-u", "root"] if os.geteuid() == 0 else []
        return ["-p", port, "-l", "127.0.0.1", "-U", "0", "-t", "1", "-m", "256", "-c", "4096", *user]

    add(ringq, "ringq", "RingQ", "memcache", ringq_arguments(), "--version")
    add(ringq, "ringq-N", "RingQ -N", "memcache", ringq_arguments("-N"), "--version")
    add("memcached", "memcached", "memcached (cache)", "memcache", memcached_arguments, "--version", cache=True)
    add("redis-server", "redis", "Redis, volatile", "redis", redis_arguments("--appendonly", "no"), "--version")
    always = redis_arguments("--appendonly", "yes", "--appendfsync", "always")
    add("redis-server", "redis-always", "Redis, AOF always", "redis", always, "--version")
    add("beanstalkd", "beanstalkd", "beanstalkd, volatile", "beanstalkd", lambda port, _: ["-l", "127.0.0.1", "-p", port], "-v")
    return servers, missing


def free_ports(count):
    """Ports nobody listens on; all are held until all are found, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Comparison:
    def __init__(self, options, servers, directory):
        self.options, self.servers, self.directory = options, servers, directory
        self.started = datetime.datetime.now().astimezone()
        self.runs = []
        self.notes = []

    def load(self, server, workload, connections, pipeline, *extra):
        """One run of the load generator; its results."""
        path = self.directory / "run.json"
        command = [self.options.bench, workload, "-t", f"127.0.0.1:{server.port}", "--protocol", server.protocol]
        command += ["-c", str(connections), "-P", str(pipeline), "-s", str(SIZE), "--json", str(path)]
        command += ["--server-pid", str(server.process.pid), *self.options.load_pin, *extra]
        if server.cache:
            command.append("--cache")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failure(f"{server.label}: {' '.join(command)}\n{done.stderr}{server.log_tail()}")
        return json.loads(path.read_text())

    def measure(self, server, connections, pipeline, round_number):
        """Put, get and mixed of one server in one cell. It is empty before and after."""
        seconds = self.options.seconds
        timed = ["-d", str(seconds), "-w", str(seconds / 4)]
        server.resume()
        try:
            results = {"put": self.load(server, "fill", connections, pipeline, *timed)}
            drain = timed if server.cache else ["-d", str(DRAIN_SHARE_MAX * seconds)]
            results["get"] = self.load(server, "drain", connections, pipeline, *drain)
            self.empty(server)
            results["mixed"] = self.load(server, "mixed", max(2, connections), pipeline, *timed)
            self.empty(server)
        finally:
            server.pause()
        for phase, result in results.items():
            self.record(server, connections, pipeline, round_number, phase, result)

    def empty(self, server):
        if not server.cache:
            self.load(server, "drain", 16, 16)

    def record(self, server, connections, pipeline, round_number, phase, result):
        put, get = result["put"] or {}, result["get"] or {}
        operations = [operation for operation in (put, get) if operation]
        self.runs.append({
            "server": server.name,
            "cell": cell_name((connections, pipeline)),
            "round": round_number,
            "phase": phase,
            "per_second": sum(operation["per_second"] for operation in operations),
            "puts_per_second": put.get("per_second"),
            "gets_per_second": get.get("per_second"),
            "p50_us": max((operation["p50_us"] for operation in operations), default=None),
            "p99_us": max((operation["p99_us"] for operation in operations), default=None),
            "misses": result["misses"],
            "elapsed_s": result["elapsed_s"],
            "server_us_per_operation": result["server"]["us_per_operation"],
            "client_us_per_operation": result["client"]["us_per_operation"],
            "client_cores": result["client"]["cores"],
            "client_limited": result["client_limited"],
            "unexpected": result["unexpected"],
        })
        where = f"{server.label}, {phase} {cell_name((connections, pipeline))}, round {round_number}"
        for kind, count in result["unexpected"].items():
            self.notes.append(f"{where}: {count} unexpected answers: {kind}")
        if not operations or not self.runs[-1]["per_second"]:
            self.notes.append(f"{where}: no message got through")
        elif result["elapsed_s"] < ELAPSED_S_MIN:
            self.notes.append(f"{where}: lasted {result['elapsed_s']:.3f} s only")

    def run(self):
        for cell in self.options.grid:
            for round_number in range(1, self.options.rounds + 1):
                # The order turns, so that nobody always follows the same neighbour.
                turn = round_number % len(self.servers)
                for server in self.servers[turn:] + self.servers[:turn]:
                    self.measure(server, *cell, round_number)
            print(f"{cell_name(cell)} measured", file=sys.stderr)

    def values(self, server, cell, phase, field):
        """The field in each round, by round."""
        return {
            run["round"]: run[field]
            for run in self.runs
            if (run["server"], run["cell"], run["phase"]) == (server, cell_name(cell), phase) and run[field] is not None
        }

    def median(self, server, cell, phase, field="per_second"):
        values = self.values(server, cell, phase, field)
        return statistics.median(values.values()) if values else None

    def ratio(self, ours, theirs, cell, phase):
        ours, theirs = (self.values(name, cell, phase, "per_second") for name in (ours, theirs))
        ratios = [ours[number] / theirs[number] for number in ours if theirs.get(number)]
        return statistics.median(ratios) if ratios else None


def cell_name(cell):
    return f"c{cell[0]} p{cell[1]}"


def rate(value):
    if value is None:
        return "–"
    if value >= 999_500:
        return f"{value / 1e6:.2f}M"
    return f"{value / 1e3:.1f}k" if value < 99_950 else f"{value / 1e3:.0f}k"


def number(value, decimals):
    return "–" if value is None else f"{value:,.{decimals}f}"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def phase_table(comparison, phase, show):
    head = ["server"] + [cell_name(cell) for cell in comparison.options.grid]
    rows = [[server.label] + [show(server.name, cell, phase) for cell in comparison.options.grid] for server in comparison.servers]
    return table(head, rows)


def ratio_table(comparison):
    names = {server.name for server in comparison.servers}
    rows = []
    for label, ours, theirs in RATIOS:
        if ours in names and theirs in names:
            for phase in PHASES:
                ratios = [comparison.ratio(ours, theirs, cell, phase) for cell in comparison.options.grid]
                rows.append([label, phase] + [f"{ratio:.2f}x" if ratio else "–" for ratio in ratios])
    return table(["ratio", ""] + [cell_name(cell) for cell in comparison.options.grid], rows) if rows else ""


def mixed_rate(comparison):
    """`puts+gets` of a mixed run."""
    def show(server, cell, phase):
        return "+".join(rate(comparison.median(server, cell, phase, field)) for field in ("puts_per_second", "gets_per_second"))
    return show


def report(comparison, facts):
    """The result as Markdown."""
    options = comparison.options
    text = [f"# Comparison of {comparison.started:%Y-%m-%d %H:%M %Z}\n"]
    text.append(
        f"{SIZE} B messages; c = connections, p = requests in flight on each; {options.seconds} s of load a phase, "
        f"{options.rounds} rounds, medians.\nOne server core, one load core"
        f"{'' if options.server_pin else ' (not pinned: there is only one core)'}. memcached has a key per connection "
        f"and keeps it on a get; the others are queues.\nMade by `{' '.join(facts['command'])}`.\n"
    )
    ratios = ratio_table(comparison)
    if ratios:
        text.append("## Ratios\n\nMedians of the ratios within a round; mixed compares puts and gets together.\n\n" + ratios)
    text.append("## Puts per second\n\n" + phase_table(comparison, "put", lambda *at: rate(comparison.median(*at))))
    text.append("## Gets per second\n\n" + phase_table(comparison, "get", lambda *at: rate(comparison.median(*at))))
    text.append("## Mixed: puts + gets per second\n\nc1 uses two connections here.\n\n" + phase_table(comparison, "mixed", mixed_rate(comparison)))
    for phase in PHASES:
        latency = lambda *at: " / ".join(number(comparison.median(*at, field), 0) for field in ("p50_us", "p99_us"))
        cpu = lambda *at: " / ".join(
            number(comparison.median(*at, field), 2) for field in ("server_us_per_operation", "client_us_per_operation"))
        text.append(f"## {phase.capitalize()}: latency p50 / p99, µs\n\n" + phase_table(comparison, phase, latency))
        text.append(f"## {phase.capitalize()}: CPU µs per operation, server / load generator\n\n" + phase_table(comparison, phase, cpu))
    limited = sum(run["client_limited"] for run in comparison.runs)
    notes = list(comparison.notes)
    if limited:
        notes.append(f"In {limited} of {len(comparison.runs)} runs the load generator used all of its core: the server may be faster.")
    if notes:
        text.append("## Notes\n\n" + "".join(f"- {note}\n" for note in notes))
    machine = "".join(f"- {name}: {value}\n" for name, value in facts.items() if name not in ("command", "versions"))
    versions = "".join(f"- {label}: {version}\n" for label, version in facts["versions"].items())
    text.append("## Machine\n\n" + machine + "\n## Versions\n\n" + versions)
    return "\n".join(text)


def file_system(path):
    """The type of the file system `path` is on: durable figures mean nothing on tmpfs."""
    best = ("", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind = line.split()[:3]
        inside = str(path) == mount or str(path).startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best[0]):
            best = (mount, kind)
    return best[1]


def machine_facts(servers, missing, directory):
    def field(path, name):
        lines = Path(path).read_text().splitlines()
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "unknown")

    git = ["git", "-C", str(ROOT)]
    commit = output_of(git + ["rev-parse", "--short=12", "HEAD"]) or "unknown"
    changed = " with changes" if output_of(git + ["status", "--porcelain", "--untracked-files=no"]) else ""
    versions = {server.label: server.version or "unknown" for server in servers}
    versions.update(dict(line.split(": ", 1) for line in missing))
    return {
        "command": ["bench/compare.py"] + sys.argv[1:],
        "commit": commit + changed,
        "kernel": f"{os.uname().sysname} {os.uname().release}",
        "CPU": field("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memory": f"{int(field('/proc/meminfo', 'MemTotal').split()[0]) / 2**20:.1f} GiB",
        "file system of the data": file_system(directory),
        "load average at the start": " ".join(f"{value:.2f}" for value in os.getloadavg()),
        "versions": versions,
    }


def write_results(comparison, facts):
    directory = Path(comparison.options.results)
    directory.mkdir(parents=True, exist_ok=True)
    stem = directory / f"{comparison.started:%Y-%m-%d-%H%M}-compare"
    markdown = report(comparison, facts)
    stem.with_suffix(".md").write_text(markdown)
    result = {"started": comparison.started.isoformat(timespec="seconds"), "facts": facts, "rounds": comparison.options.rounds,
              "seconds": comparison.options.seconds, "runs": comparison.runs}
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(markdown)
    print(f"written: {stem}.md and {stem}.json", file=sys.stderr)


def parse_options():
    environment = os.environ.get
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", default=environment("QUICK", "") not in ("", "0"),
                        help="a smaller grid, 3 rounds, short phases: under two minutes")
    parser.add_argument("--rounds", type=int, default=environment("ROUNDS"), help="rounds [5; quick 3]")
    parser.add_argument("--seconds", type=float, help="seconds of a phase [2; quick 0.35]")
    parser.add_argument("--ringq", default=environment("RINGQ", str(ROOT / "target/release/ringq")), help="the server")
    parser.add_argument("--bench", default=environment("RINGQ_BENCH", str(ROOT / "target/release/ringq-bench")),
                        help="the load generator")
    parser.add_argument("--results", default=str(ROOT / "perf/results"), help="where results go")
    options = parser.parse_args()
    options.rounds = int(options.rounds or (3 if options.quick else 5))
    options.seconds = options.seconds or (0.35 if options.quick else 2.0)
    options.grid = GRID_QUICK if options.quick else GRID
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("rounds and seconds are positive")
    if shutil.which(options.bench) is None:
        parser.error(f"{options.bench} is not there; build it with: cargo build --release")
    options.server_pin, options.load_pin = pinning()
    return options


def pinning():
    """How to pin the servers and the load, or nothing on a machine with one core."""
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:
        return [], []
    server, load = (os.environ.get(name, str(cpu)) for name, cpu in zip(("SERVER_CPU", "LOAD_CPU"), available))
    return ["taskset", "-c", server], ["--pin", load]


def end_by_signal(signal_number, _):
    # Unwinds through `finally`, which ends the servers.
    raise SystemExit(128 + signal_number)


def compare():
    options = parse_options()
    for ending in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(ending, end_by_signal)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    servers, missing = find_servers(options.ringq)
    for line in missing:
        print(line, file=sys.stderr)
    if not servers:
        raise Failure("no server is installed")
    base = os.environ.get("TMPDIR") or str(ROOT / "target")
    Path(base).mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="compare-", dir=base)).resolve()
    try:
        facts = machine_facts(servers, missing, directory)
        for server, port in zip(servers, free_ports(len(servers))):
            server.start(port, directory, options.server_pin)
            server.pause()
        comparison = Comparison(options, servers, directory)
        comparison.run()
        write_results(comparison, facts)
    finally:
        for server in servers:
            server.stop()
        shutil.rmtree(directory, ignore_errors=True)


def main():
    try:
        compare()
    except Failure as failure:
        print(f"compare: {failure}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
