"""The grid: put, get and mixed load over connections and requests in flight, every server in turn.

Each round gives every server its turn in a cell before the next cell comes, so that drift of the machine meets all of
them alike; servers whose turn it is not are stopped (SIGSTOP), as soon as they have done what a turn left to do. Besides:
what a durable write and a round trip take by themselves (the floor under a durable put), and the memory of idle
connections.
"""

import contextlib
import json
import resource
import socket
import subprocess

import targets
from servers import Failure, proc_status, read_line
from targets import cell_name

CELLS = [(c, p) for p in (1, 16) for c in (1, 16, 64, 256)]
CELLS_QUICK = [(1, 1), (64, 1), (64, 16)]
PHASES = ("put", "get", "mixed")
SIZE = 100
# A drain may take this many times as long as the fill before it is cut off (and finished outside the measurement).
DRAIN_SHARE_MAX = 4
# Left to descriptors other than connections, here and in the server.
DESCRIPTORS_SPARE = 200
IDLE_TIMEOUT_S = 30


class Grid:
    """`servers` take part; `chosen` is what to measure of them, everything if it is None."""

    def __init__(self, setting, figures, servers, chosen):
        self.setting, self.figures, self.servers, self.chosen = setting, figures, servers, chosen
        self.options = setting.options
        # Warm-up included in what a phase takes.
        self.timed = ["-d", self.options.seconds, "-w", self.options.seconds / 4]

    def run(self):
        with contextlib.ExitStack() as running:
            for server in self.servers:
                running.enter_context(self.setting.running(server))
                server.pause()
            for cell in [*self.options.cells, targets.IDLE]:
                self.measure_cell(cell)

    def measure_cell(self, cell):
        servers = [server for server in self.servers if self.wanted(server, cell)]
        if not servers:
            return
        # A second look at idle connections would see the memory that the first one left.
        rounds = 1 if cell == targets.IDLE else self.options.rounds
        for round_number in range(1, rounds + 1):
            # The order turns, so that nobody always follows the same neighbour.
            turn = round_number % len(servers)
            for server in servers[turn:] + servers[:turn]:
                self.measure(server, cell, round_number)
        self.setting.say(f"grid: {cell_name(cell)} measured")

    def wanted(self, server, cell):
        """The phases to measure of a server in a cell: all it is there for, or those that the chosen rows rest on."""
        if server.only is None:
            able = set() if cell == targets.IDLE else {*PHASES}
            if server.name == "ringq" and cell == targets.ONE:
                able.add("floor")
        else:
            able = server.only.get(cell, set())
        if self.chosen is None or server.name in self.chosen["servers"]:
            return able
        return able & {phase for name, at, phase in self.chosen["needs"] if (name, at) == (server.name, cell)}

    def measure(self, server, cell, round_number):
        """The wanted phases of one server in one cell. It is empty before and after."""
        phases = self.wanted(server, cell)
        server.resume()
        try:
            if "idle" in phases:
                self.measure_idle(server, round_number)
            if phases & {"put", "get"}:
                self.measure_in_turn(server, cell, round_number, phases)
            if "mixed" in phases:
                self.record(server, cell, round_number, "mixed",
                            self.load(server, "mixed", (max(2, cell[0]), cell[1]), self.timed))
                self.setting.empty(server)
            if "floor" in phases:
                self.measure_floor(server, cell, round_number)
            server.settle()
        finally:
            server.pause()

    def load(self, server, workload, cell, length):
        return self.setting.load(server, workload, "-c", cell[0], "-P", cell[1], "-s", SIZE, *length)

    def record(self, server, cell, round_number, phase, result):
        self.figures.add_load("grid", server, cell, round_number, phase, result)

    def measure_in_turn(self, server, cell, round_number, phases):
        """Put, then get what was put."""
        self.record(server, cell, round_number, "put", self.load(server, "fill", cell, self.timed))
        if "get" in phases:
            length = self.timed if server.kind == "cache" else ["-d", DRAIN_SHARE_MAX * self.options.seconds]
            self.record(server, cell, round_number, "get", self.load(server, "drain", cell, length))
        self.setting.empty(server)

    def measure_floor(self, server, cell, round_number):
        """What a put with one connection cannot undercut: a durable write, and the way to the server and back."""
        self.record(server, cell, round_number, "round-trip", self.load(server, "round-trip", cell, self.timed))
        result, block = self.setting.directory / "device.json", self.setting.directory / "device.blocks"
        command = [*self.options.server_pin, self.options.bench, "device", "--file", str(block), "--json", str(result)]
        done = subprocess.run(command + ["-d", str(self.options.seconds)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            self.figures.notes.append(f"The device was not measured, round {round_number}: {done.stderr.strip()}")
            return
        device = json.loads(result.read_text())
        self.figures.add("grid", "device", cell, round_number, "write", p50_us=device["p50_us"], p99_us=device["p99_us"])

    def measure_idle(self, server, round_number):
        """Memory that connections take which asked one thing and then nothing more."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        count = min(targets.IDLE[0], hard - DESCRIPTORS_SPARE)
        if count < targets.IDLE[0]:
            self.figures.notes.append(f"{server.label}: {count} connections only, the limit of open files is {hard}")
        connections = []
        try:
            before_kb = proc_status(server.process.pid, "RssAnon")
            for _ in range(count):
                connections.append(socket.create_connection(("127.0.0.1", server.port), timeout=IDLE_TIMEOUT_S))
            for connection in connections:
                connection.sendall(b"version\r\n")
            for connection in connections:
                read_line(connection)
            grown_kb = proc_status(server.process.pid, "RssAnon") - before_kb
        except OSError as error:
            raise Failure(f"{server.label}: idle connections: {error}\n{server.log_tail()}") from None
        finally:
            for connection in connections:
                connection.close()
        self.figures.add("grid", server.name, targets.IDLE, round_number, "idle", connections=count,
                         rss_anon_kb_per_connection=grown_kb / count)
