"""The servers that are compared: which there are, and how one is started, stopped for a while, and ended.

A server is a process of its own with a data directory of its own. It is only ever signalled by its own pid, and its
data are removed with it.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from targets import BUSY, IDLE, MANY

START_TIMEOUT_S = 30
# Between two looks whether a server that starts answers already; what a start takes is known to that.
START_POLL_S = 0.002
# A server that has not written its database for so long has nothing more to write.
SETTLE_POLL_S = 0.05
SETTLE_TIMEOUT_S = 5
# Requests that change nothing and are answered with a line.
GREETINGS = {"memcache": b"version\r\n", "redis": b"PING\r\n", "beanstalkd": b"list-tube-used\r\n"}
MEMORY_MB = 64


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


def free_port():
    """A port nobody listens on; the system does not offer it again soon."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Server:
    """One server process.

    `kind` says what becomes of a message: a queue gives it up, a cache keeps it, a sink forgets it at once. `only` names
    the cells and phases of the grid it is there for; `None` is every cell with connections that work. `database` is where in
    its data directory it writes in the background, if it does.
    """

    def __init__(self, name, label, protocol, command, version, kind="queue", only=None, database=None):
        self.name, self.label, self.protocol, self.kind, self.only = name, label, protocol, kind, only
        self.database = database
        self.command, self.version = command, version
        self.process = self.port = self.log = self.data = None

    def start(self, directory, pin):
        """Starts it on a free port with its data below `directory`, and returns the seconds until it answered."""
        self.port = free_port()
        self.log = directory / f"{self.name}.log"
        self.data = directory / self.name
        self.data.mkdir(exist_ok=True)
        command = pin + self.command(str(self.port), str(self.data))
        begun = time.monotonic()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        while True:
            self.check()
            try:
                # The kernel connects as soon as somebody listens; an answer says that the start is over.
                self.ask(GREETINGS[self.protocol], START_TIMEOUT_S)
                return time.monotonic() - begun
            except OSError:
                if time.monotonic() > begun + START_TIMEOUT_S:
                    raise Failure(f"{self.label} does not answer after {START_TIMEOUT_S} s\n{self.log_tail()}") from None
                time.sleep(START_POLL_S)

    def ask(self, request, timeout_s):
        """The first line of the answer to a request, on a connection of its own."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s) as connection:
            connection.sendall(request)
            return read_line(connection)

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

    def settle(self):
        """Waits until nothing is left to be written in the background.

        A server stopped within a transaction takes it for a slow device when it goes on, and spares that.
        """
        if self.database is None:
            return
        self.ask(b"db_checkpoint\r\n", START_TIMEOUT_S)
        end = time.monotonic() + SETTLE_TIMEOUT_S
        written, before = self.database_written(), None
        while written != before and time.monotonic() < end:
            time.sleep(SETTLE_POLL_S)
            written, before = self.database_written(), written

    def database_written(self):
        """When the database was written last."""
        return (self.data / self.database).stat().st_mtime_ns

    def kill(self):
        """Ends it as a crash would; its data stay."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @contextlib.contextmanager
    def running(self, directory, pin):
        """Started here, killed and its data removed at the end."""
        try:
            self.start(directory, pin)
            yield self
        finally:
            self.kill()
            if self.data is not None:
                shutil.rmtree(self.data, ignore_errors=True)


def proc_status(pid, name):
    """A number from /proc/PID/status or /proc/PID/task/TID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def output_of(command):
    """The first line a command prints, or None."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return None
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0].strip() if done.returncode == 0 and lines else None


def ringq(options, name, label, *extra, threads=1, memory_mb=MEMORY_MB, only=None):
    """RingQ with these options, under a name of its own."""
    path = shutil.which(options.ringq)

    def command(port, data):
        own = ["-p", port, "-l", "127.0.0.1", "-H", data, "-t", str(threads), "-m", str(memory_mb), "--pin", "off"]
        return [path, *own, *extra]

    return Server(name, label, "memcache", command, output_of([path, "--version"]), only=only, database="store/data.mdb")


def find(options):
    """The servers of the grid that are there, by name, and why the others are not, by name."""
    servers, missing = {}, {}
    user = ["-u", "root"] if os.geteuid() == 0 else []

    def add_ringq(name, label, *extra, only=None):
        servers[name] = ringq(options, name, label, *extra, only=only)

    def add(name, binary, label, protocol, arguments, version, **how):
        path = shutil.which(binary)
        if path is None:
            missing[name] = f"{binary} not found"
            return
        servers[name] = Server(name, label, protocol, lambda port, data: [path, *arguments(port, data)],
                               output_of([path, version]), **how)

    def redis(*extra):
        common = ["--bind", "127.0.0.1", "--save", "", "--auto-aof-rewrite-percentage", "0"]
        return lambda port, data: ["--port", port, "--dir", data, *common, *extra]

    def memcached(port, _):
        return ["-p", port, "-l", "127.0.0.1", "-U", "0", "-t", "1", "-m", "256", "-c", "16384", *user]

    def beanstalkd(port, _):
        return ["-l", "127.0.0.1", "-p", port]

    def memcacheq(port, data):
        return ["-p", port, "-l", "127.0.0.1", "-t", "4", "-H", data, "-R", *user]

    def ceiling(port, _):
        return ["ceiling", "-p", port]

    idle = {IDLE: {"idle"}}
    add_ringq("ringq", "RingQ")
    add_ringq("ringq-N", "RingQ -N", "-N")
    add("memcached", "memcached", "memcached (cache)", "memcache", memcached, "--version", kind="cache")
    add("redis", "redis-server", "Redis, volatile", "redis", redis("--appendonly", "no"), "--version")
    always = redis("--appendonly", "yes", "--appendfsync", "always")
    add("redis-always", "redis-server", "Redis, AOF always", "redis", always, "--version")
    add("beanstalkd", "beanstalkd", "beanstalkd, volatile", "beanstalkd", beanstalkd, "-v")
    if options.memcacheq:
        add("memcacheq", options.memcacheq, "MemcacheQ, -t 4", "memcache", memcacheq, "-h")
    else:
        missing["memcacheq"] = "needs MEMCACHEQ=/path/to/memcacheq"
    if has_ceiling(options.bench):
        only = {MANY: {"put"}, BUSY: {"put"}}
        add("ceiling", options.bench, "ring without a queue", "memcache", ceiling, "--version", kind="sink", only=only)
    else:
        missing["ceiling"] = "the load generator has no `ceiling`"
    # Of their own, so that memory left by a load does not hide what connections take.
    add_ringq("ringq-idle", "RingQ, idle", only=idle)
    add("memcached-idle", "memcached", "memcached, idle", "memcache", memcached, "--version", only=idle)
    return servers, missing


def has_ceiling(bench):
    done = subprocess.run([bench, "ceiling", "--help"], capture_output=True, timeout=10, check=False)
    return done.returncode == 0
