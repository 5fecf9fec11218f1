"""Every form of `stats` through every client: the names that it parses are those that a raw connection gets. What a client cannot send,
or cannot read, is checked to be so: the protocol's documentation says it.
Usage: python stats_forms.py HOST PORT"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from contextlib import closing

COMMON = os.path.join(os.path.dirname(os.path.abspath(__file__)), "common")
sys.path.insert(0, COMMON)
import checks
from checks import check, check_raises, queue_name

HOST, PORT = checks.server_arguments()
TIMEOUT_S = 30

try:
    from pymemcache.client.base import Client
    from pymemcache.exceptions import MemcacheIllegalInputError, MemcacheUnknownError
except ImportError as missing:
    checks.skip(f"the Python package pymemcache is not installed ({missing})")
for tool in ("memcstat", "php"):
    if not shutil.which(tool):
        checks.skip(f"{tool} is not installed")

QUEUE = queue_name("counted")
LISTINGS = ["", "queue", f"queue {QUEUE}", "queue nosuch", "latency", "commit", "settings", "conns", "shards", "sizes"]
RESETS = ["latency reset", "reset"]
# PHP's Memcache has a list of its own of what it sends.
MEMCACHE_SENDS = ["", "sizes", "reset"]
# A client has a connection of its own, which others do not see.
CONNECTION = re.compile(r"\d+/\d+")


class Raw:
    """Bytes as they are."""

    def __init__(self):
        self.socket = socket.create_connection((HOST, PORT), TIMEOUT_S)
        self.replies = self.socket.makefile("rb")

    def ask(self, request, last):
        """The reply's lines before the last one."""
        self.socket.sendall(request + b"\r\n")
        lines = []
        while (line := self.replies.readline()) != last + b"\r\n":
            if not line.endswith(b"\r\n"):
                raise EOFError(f"{request}: {lines} and no {last}")
            lines.append(line.removesuffix(b"\r\n"))
        return lines

    def stats(self, form):
        """Values by name."""
        lines = self.ask(f"stats {form}".encode(), b"END")
        return dict(line.decode().removeprefix("STAT ").split(" ", 1) for line in lines)


def pymemcache(form):
    with closing(Client((HOST, PORT), connect_timeout=TIMEOUT_S, timeout=TIMEOUT_S)) as client:
        return {name.decode(): value for name, value in client.stats(*form.split()).items()}


def memcstat(form):
    arguments = [f"--args={form}"] if form else []
    result = run(["memcstat", f"--servers={HOST}:{PORT}", *arguments])
    lines = [line for line in result.splitlines() if line.startswith("\t")]
    return dict(line.strip().rsplit(": ", 1) for line in lines)


def php(extension):
    def stats(form):
        arguments = [form] if form else []
        return json.loads(run(["php", os.path.join(COMMON, "stats.php"), extension, HOST, str(PORT), *arguments]))

    return stats


def run(command):
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S)
    if result.returncode == checks.EXIT_SKIPPED:
        checks.skip(result.stdout.strip())
    if result.returncode != 0:
        raise RuntimeError(f"{command} ended with {result.returncode}: {result.stdout}{result.stderr}")
    return result.stdout


CLIENTS = {"pymemcache": pymemcache, "memcstat": memcstat, "PHP Memcached": php("memcached"), "PHP Memcache": php("memcache")}


def listings():
    raw = Raw()
    raw.ask(b"set %b 0 0 3\r\nabc\r\nset %b 0 0 3\r\nabc" % (QUEUE.encode(), QUEUE.encode()), b"STORED")
    raw.replies.readline()
    raw.ask(b"set %b 0 0 3\r\nabc\r\nget %b" % (b"long".ljust(250, b"k"), QUEUE.encode()), b"END")
    for client, stats in CLIENTS.items():
        for form in LISTINGS:
            before = raw.stats(form)
            got = stats(form)
            after = raw.stats(form)
            name = f"{client}: {' '.join(['stats', *form.split()])}"
            if client == "PHP Memcache" and form not in MEMCACHE_SENDS:
                check(f"{name} is not sent", None, got)
                continue
            # PHP has null for an empty listing.
            got = got or {}
            # Latencies leave their window with time, so a name may go in between.
            always, ever = before.keys() & after.keys(), before.keys() | after.keys()
            extra = [other for other in got.keys() - ever if form != "conns" or not CONNECTION.fullmatch(other)]
            check(f"{name}: no name is missing", [], sorted(always - got.keys()))
            check(f"{name}: none is invented", [], sorted(extra))
            # Where nothing changes, the values are the same, too. This client reads a mask as hexadecimal, as memcached writes it.
            if form == f"queue {QUEUE}" or form == "settings":
                masks = {"umask"} if client == "pymemcache" else set()
                steady = [it for it in always - masks if before[it] == after[it]]
                differing = {it: (before[it], got[it]) for it in steady if text(got[it]) != before[it]}
                check(f"{name}: the values are the same", {}, differing)
    check("there is something to read in each", [], [form for form in LISTINGS if form != "queue nosuch" and not raw.stats(form)])


def text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


def resets():
    raw = Raw()
    for client, stats in CLIENTS.items():
        for form in RESETS:
            raw.ask(b"set q 0 0 1\r\nx", b"STORED")
            name = f"{client}: {' '.join(['stats', *form.split()])}"
            if client == "PHP Memcache" and form not in MEMCACHE_SENDS:
                check(f"{name} is not sent", None, stats(form))
                continue
            if client == "pymemcache":
                # It knows no answer but a listing; memcached's is the same.
                check_raises(name, MemcacheUnknownError, lambda: stats(form))
            else:
                check(f"{name}: nothing is listed", True, stats(form) in (None, True, {}))
            if form == "reset":
                check(f"{name}: it is done", "0", raw.stats("")["cmd_set"])
            else:
                check(f"{name}: it is done", False, "put.total.count" in raw.stats("latency"))


def words_are_arguments_of_their_own():
    with closing(Client((HOST, PORT), connect_timeout=TIMEOUT_S, timeout=TIMEOUT_S)) as client:
        check_raises("pymemcache: a space in an argument", MemcacheIllegalInputError, lambda: client.stats("latency reset"))


checks.run(listings, resets, words_are_arguments_of_their_own)
