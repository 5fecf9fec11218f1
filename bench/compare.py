#!/usr/bin/env python3
"""Compares RingQ with memcached, Redis, beanstalkd and MemcacheQ in one run and writes a dated result.

What is compared: put, get and mixed load over a grid of connections (c) and requests in flight on each (p). All
servers run on one core, the load generator on another. Each round gives every server its turn in a cell before the
next cell comes, so that drift of the machine meets all of them alike; servers whose turn it is not are stopped
(SIGSTOP), so that what they still have to do is done in their own time. Figures are medians over the rounds, ratios
are medians of the ratios within a round. Besides the grid: what a durable write and a round trip take by themselves
(the floor under a durable put), and the memory of idle connections. The result begins with a verdict on every target
(targets.py).

Usage: bench/compare.py [--quick] [--only NAME,...] [--rounds N] [--seconds S] [--ringq PATH] [--bench PATH]
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
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import targets
from targets import cell_name

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
# Left to descriptors other than connections, here and in the server.
DESCRIPTORS_SPARE = 200
IDLE_TIMEOUT_S = 30
# Requests that change nothing and are answered with a line.
GREETINGS = {"memcache": b"version\r\n", "redis": b"PING\r\n", "beanstalkd": b"list-tube-used\r\n"}
# Not in a quick run: no target is about it.
SLOW_ONLY = ("beanstalkd",)

RATIOS = [
    ("default / Redis, AOF always", "ringq", "redis-always"),
    ("-N / memcached", "ringq-N", "memcached"),
    ("-N / Redis, volatile", "ringq-N", "redis"),
    ("default / MemcacheQ, -t 4", "ringq", "memcacheq"),
]


class Failure(Exception):
    """Something the user has to know; printed without a trace."""


def read_line(connection):
    """One answer line of a connection, read byte by byte, so that what follows stays there."""
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            raise ConnectionError("the server closed the connection")
        line += byte
    return line


class Server:
    """One server process: started once, stopped between its turns, ended by its pid."""

    def __init__(self, name, label, protocol, command, version, cache=False):
        self.name, self.label, self.protocol, self.cache = name, label, protocol, cache
        # Measured with idle connections only, or in every cell of the grid.
        self.idle = name.endswith("-idle")
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
                # The kernel connects as soon as somebody listens; an answer says that the start is over.
                with socket.create_connection(("127.0.0.1", port), timeout=START_TIMEOUT_S) as connection:
                    connection.sendall(GREETINGS[self.protocol])
                    read_line(connection)
                return
            except OSError:
                if time.monotonic() > end:
                    raise Failure(f"{self.label} does not answer after {START_TIMEOUT_S} s\n{self.log_tail()}") from None
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


def find_servers(options):
    """All servers that are there, and a line for each that is not."""
    ringq = options.ringq
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
        return ["-p", port, "-l", "127.0.0.1", "-U", "0", "-t", "1", "-m", "256", "-c", "16384", *user]

    def memcacheq_arguments(port, data):
        user = ["-u", "root"] if os.geteuid() == 0 else []
        return ["-p", port, "-l", "127.0.0.1", "-t", "4", "-H", data, "-R", *user]

    add(ringq, "ringq", "RingQ", "memcache", ringq_arguments(), "--version")
    add(ringq, "ringq-N", "RingQ -N", "memcache", ringq_arguments("-N"), "--version")
    add("memcached", "memcached", "memcached (cache)", "memcache", memcached_arguments, "--version", cache=True)
    add("redis-server", "redis", "Redis, volatile", "redis", redis_arguments("--appendonly", "no"), "--version")
    always = redis_arguments("--appendonly", "yes", "--appendfsync", "always")
    add("redis-server", "redis-always", "Redis, AOF always", "redis", always, "--version")
    add("beanstalkd", "beanstalkd", "beanstalkd, volatile", "beanstalkd", lambda port, _: ["-l", "127.0.0.1", "-p", port], "-v")
    if options.memcacheq:
        add(options.memcacheq, "memcacheq", "MemcacheQ, -t 4", "memcache", memcacheq_arguments, "-h")
    # Of their own, so that memory left by a load does not hide what connections take.
    add(ringq, "ringq-idle", "RingQ, idle", "memcache", ringq_arguments(), "--version")
    add("memcached", "memcached-idle", "memcached, idle", "memcache", memcached_arguments, "--version")
    return servers, missing


def rss_anon_kb(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


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

    def wanted(self, server, cell):
        """The phases to measure of a server in a cell: all of them, or those that the chosen rows rest on."""
        chosen = self.options.chosen
        if chosen is None or server.name in chosen["servers"]:
            idle = {"idle"} if cell == targets.IDLE else set()
            phases = idle if server.idle or idle else {*PHASES, "floor"}
        else:
            phases = {phase for name, at, phase in chosen["needs"] if (name, at) == (server.name, cell)}
        if server.idle != (cell == targets.IDLE):
            return set()
        return phases if server.name == "ringq" and cell == targets.ONE else phases - {"floor"}

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

    def measure(self, server, cell, round_number):
        """The wanted phases of one server in one cell. It is empty before and after."""
        phases = self.wanted(server, cell)
        if not phases:
            return
        server.resume()
        try:
            if "idle" in phases:
                self.measure_idle(server, round_number)
            if phases & {"put", "get"}:
                self.measure_in_turn(server, cell, round_number, phases)
            if "mixed" in phases:
                self.record(server, cell, round_number, "mixed",
                            self.load(server, "mixed", max(2, cell[0]), cell[1], *self.options.timed))
                self.empty(server)
            if "floor" in phases:
                self.measure_floor(server, cell, round_number)
        finally:
            server.pause()

    def measure_in_turn(self, server, cell, round_number, phases):
        """Put, then get what was put."""
        self.record(server, cell, round_number, "put", self.load(server, "fill", *cell, *self.options.timed))
        if "get" in phases:
            drain = self.options.timed if server.cache else ["-d", str(DRAIN_SHARE_MAX * self.options.seconds)]
            self.record(server, cell, round_number, "get", self.load(server, "drain", *cell, *drain))
        self.empty(server)

    def measure_floor(self, server, cell, round_number):
        """What a put with one connection cannot undercut: a durable write, and the way to the server and back."""
        trip = self.load(server, "round-trip", *cell, *self.options.timed)
        self.record(server, cell, round_number, "round-trip", trip)
        result, block = self.directory / "device.json", self.directory / "device.blocks"
        command = [*self.options.server_pin, self.options.bench, "device", "--file", str(block), "--json", str(result)]
        done = subprocess.run(command + ["-d", str(self.options.seconds)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            self.notes.append(f"The device was not measured, round {round_number}: {done.stderr.strip()}")
            return
        self.runs.append({"server": "device", "cell": cell_name(cell), "round": round_number, "phase": "write",
                          **{field: json.loads(result.read_text())[field] for field in ("p50_us", "p99_us")}})

    def measure_idle(self, server, round_number):
        """Memory that connections take which asked one thing and then nothing more."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        count = min(targets.IDLE[0], hard - DESCRIPTORS_SPARE)
        if count < targets.IDLE[0]:
            self.notes.append(f"{server.label}: {count} connections only, the limit of open files is {hard}")
        connections = []
        try:
            before_kb = rss_anon_kb(server.process.pid)
            for _ in range(count):
                connections.append(socket.create_connection(("127.0.0.1", server.port), timeout=IDLE_TIMEOUT_S))
            for connection in connections:
                connection.sendall(b"version\r\n")
            for connection in connections:
                read_line(connection)
            grown_kb = rss_anon_kb(server.process.pid) - before_kb
        except OSError as error:
            raise Failure(f"{server.label}: idle connections: {error}\n{server.log_tail()}") from None
        finally:
            for connection in connections:
                connection.close()
        self.runs.append({"server": server.name, "cell": cell_name(targets.IDLE), "round": round_number, "phase": "idle",
                          "connections": count, "rss_anon_kb_per_connection": grown_kb / count})

    def empty(self, server):
        if not server.cache:
            self.load(server, "drain", 16, 16)

    def record(self, server, cell, round_number, phase, result):
        put, get = result["put"] or {}, result["get"] or {}
        operations = [operation for operation in (put, get) if operation]
        self.runs.append({
            "server": server.name,
            "cell": cell_name(cell),
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
        where = f"{server.label}, {phase} {cell_name(cell)}, round {round_number}"
        for kind, count in result["unexpected"].items():
            self.notes.append(f"{where}: {count} unexpected answers: {kind}")
        if not operations or not self.runs[-1]["per_second"]:
            self.notes.append(f"{where}: no message got through")
        elif result["elapsed_s"] < ELAPSED_S_MIN:
            self.notes.append(f"{where}: lasted {result['elapsed_s']:.3f} s only")

    def run(self):
        for cell in [*self.options.grid, targets.IDLE]:
            servers = [server for server in self.servers if self.wanted(server, cell)]
            # A second look at idle connections would see the memory that the first one left.
            rounds = 1 if cell == targets.IDLE else self.options.rounds
            for round_number in range(1, rounds + 1 if servers else 1):
                # The order turns, so that nobody always follows the same neighbour.
                turn = round_number % len(servers)
                for server in servers[turn:] + servers[:turn]:
                    self.measure(server, cell, round_number)
            if servers:
                print(f"{cell_name(cell)} measured", file=sys.stderr)

    def values(self, server, cell, phase, field):
        """The field in each round, by round."""
        return {
            run["round"]: run[field]
            for run in self.runs
            if (run["server"], run["cell"], run["phase"]) == (server, cell_name(cell), phase) and run.get(field) is not None
        }

    def median(self, server, cell, phase, field="per_second"):
        values = self.values(server, cell, phase, field)
        return statistics.median(values.values()) if values else None

    def ratio(self, ours, theirs, cell, phase):
        ours, theirs = (self.values(name, cell, phase, "per_second") for name in (ours, theirs))
        ratios = [ours[number] / theirs[number] for number in ours if theirs.get(number)]
        return statistics.median(ratios) if ratios else None


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


def phase_section(comparison, title, phase, show):
    """A heading and the phase's figures of all servers that have any; nothing if none has."""
    head = ["server"] + [cell_name(cell) for cell in comparison.options.grid]
    measured = {run["server"] for run in comparison.runs if run["phase"] == phase}
    rows = [
        [server.label] + [show(server.name, cell, phase) for cell in comparison.options.grid]
        for server in comparison.servers if server.name in measured
    ]
    return [f"## {title}\n\n" + table(head, rows)] if rows else []


def target_table(comparison):
    chosen = comparison.options.chosen
    rows = [row for row in targets.ROWS if chosen is None or row.name in chosen["rows"]]
    return table(["name", "what", "target", "measured", "verdict"], targets.judge_all(comparison, rows)) if rows else ""


def small_table(comparison):
    """What was measured besides the grid."""
    at = lambda server, cell, phase, field: comparison.median(server, cell, phase, field)
    rows = [[label, number(at(*where), 2), unit] for label, where, unit in (
        ("4 KiB direct synchronous write, p50", ("device", targets.ONE, "write", "p50_us"), "µs"),
        ("the same, p99", ("device", targets.ONE, "write", "p99_us"), "µs"),
        ("round trip to RingQ without a queue, p50", ("ringq", targets.ONE, "round-trip", "p50_us"), "µs"),
        ("RingQ: RssAnon of an idle connection", ("ringq-idle", targets.IDLE, "idle", "rss_anon_kb_per_connection"), "KB"),
        ("memcached: the same", ("memcached-idle", targets.IDLE, "idle", "rss_anon_kb_per_connection"), "KB"),
    ) if at(*where) is not None]
    return table(["what", "median", ""], rows) if rows else ""


def ratio_table(comparison):
    names = {server.name for server in comparison.servers}
    rows = []
    for label, ours, theirs in RATIOS:
        if ours in names and theirs in names:
            for phase in PHASES:
                ratios = [comparison.ratio(ours, theirs, cell, phase) for cell in comparison.options.grid]
                if any(ratios):
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
    verdicts = target_table(comparison)
    if verdicts:
        text.append("## Targets\n\nMedians; what misses its target is in bold. An aim is what we strive for, the others must hold.\n\n"
                    + verdicts)
    small = small_table(comparison)
    if small:
        text.append("## Besides the grid\n\n" + small)
    ratios = ratio_table(comparison)
    if ratios:
        text.append("## Ratios\n\nMedians of the ratios within a round; mixed compares puts and gets together.\n\n" + ratios)
    text += phase_section(comparison, "Puts per second", "put", lambda *at: rate(comparison.median(*at)))
    text += phase_section(comparison, "Gets per second", "get", lambda *at: rate(comparison.median(*at)))
    text += phase_section(comparison, "Mixed: puts + gets per second (c1 uses two connections)", "mixed", mixed_rate(comparison))
    for phase in PHASES:
        latency = lambda *at: " / ".join(number(comparison.median(*at, field), 0) for field in ("p50_us", "p99_us"))
        cpu = lambda *at: " / ".join(
            number(comparison.median(*at, field), 2) for field in ("server_us_per_operation", "client_us_per_operation"))
        text += phase_section(comparison, f"{phase.capitalize()}: latency p50 / p99, µs", phase, latency)
        text += phase_section(comparison, f"{phase.capitalize()}: CPU µs per operation, server / load generator", phase, cpu)
    limited = sum(run.get("client_limited", False) for run in comparison.runs)
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
    parser.add_argument("--only", default="", metavar="NAME,...",
                        help="measure only these: names of targets (what they rest on) or of servers (all of the grid)")
    parser.add_argument("--memcacheq", default=environment("MEMCACHEQ"), help="a MemcacheQ to compare with")
    parser.add_argument("--results", default=str(ROOT / "perf/results"), help="where results go")
    options = parser.parse_args()
    options.rounds = int(options.rounds or (3 if options.quick else 5))
    options.seconds = options.seconds or (0.35 if options.quick else 2.0)
    options.grid = GRID_QUICK if options.quick else GRID
    # Warm-up included in what a phase takes.
    options.timed = ["-d", str(options.seconds), "-w", str(options.seconds / 4)]
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("rounds and seconds are positive")
    if shutil.which(options.bench) is None:
        parser.error(f"{options.bench} is not there; build it with: cargo build --release")
    options.server_pin, options.load_pin = pinning()
    return options


def choose(options, servers):
    """Makes `options.chosen` of `--only`, and leaves out the servers nothing is asked of."""
    names = [name for name in options.only.split(",") if name]
    known = {server.name for server in servers}
    rows = [row for row in targets.ROWS if row.name in names]
    unknown = set(names) - known - {row.name for row in rows}
    if unknown:
        targets_known = ", ".join(row.name for row in targets.ROWS)
        raise Failure(f"--only {', '.join(sorted(unknown))}: the targets are {targets_known}; "
                      f"the servers found here are {', '.join(sorted(known))}")
    if not names:
        options.chosen = None
        return [server for server in servers if not (options.quick and server.name in SLOW_ONLY)]
    needs = [need for row in rows for need in row.needs()]
    options.chosen = {"rows": {row.name for row in rows}, "servers": set(names) & known, "needs": needs}
    needed = options.chosen["servers"] | {server for server, _, _ in needs}
    return [server for server in servers if server.name in needed]


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
    servers, missing = find_servers(options)
    for line in missing:
        print(line, file=sys.stderr)
    servers = choose(options, servers)
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
