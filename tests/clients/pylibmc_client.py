"""pylibmc (libmemcached from Python) against a queue: the flags of text, bytes, numbers and pickles, compression, multi-get
and the administration calls.
Usage: python pylibmc_client.py HOST PORT"""

import os
import socket
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "common"))
import checks
from checks import check, check_raises, queue_name

HOST, PORT = checks.server_arguments()

try:
    import pylibmc
except ImportError as missing:
    checks.skip(f"the Python package pylibmc is not installed ({missing})")

TIMEOUT_S = 30
LARGE_SIZE = 900_000
TOO_LARGE_SIZE = 2 * 1024 * 1024
# pylibmc's own flag values, as they must come back from the server.
FLAG_PICKLE, FLAG_ZLIB, FLAG_TEXT = 1, 8, 16


def connected():
    """A client that speaks the text protocol."""
    return pylibmc.Client([f"{HOST}:{PORT}"], binary=False, behaviors={"cas": True})


def values():
    queue = queue_name("values")
    client = connected()
    sent = ["text", "größer", b"bytes \x00\r\nEND\r\n", bytes(range(256)), b"", 42, -1, 2.5, {"id": 7, "tags": ["a"]}, None]
    for value in sent:
        check(f"set {value!r:.40}", True, client.set(queue, value))
    for value in sent:
        check(f"get {value!r:.40}", value, client.get(queue))
    check("the empty queue is None", None, client.get(queue))


def flags_on_the_wire():
    queue = queue_name("flags")
    client = connected()
    client.set(queue, b"bytes")
    client.set(queue, "text")
    client.set(queue, ["pickled"])
    client.set(queue, b"x" * 10_000, min_compress_len=100)
    flags = [_flags_of_next(queue) for _ in range(4)]
    check("flags", [0, FLAG_TEXT, FLAG_PICKLE, FLAG_ZLIB], flags)
    client.set(queue, b"x" * 10_000, min_compress_len=100)
    check("a compressed body", b"x" * 10_000, client.get(queue))


def _flags_of_next(queue):
    with socket.create_connection((HOST, PORT), TIMEOUT_S) as raw:
        raw.sendall(f"get {queue}\r\n".encode())
        return int(raw.makefile("rb").readline().split()[2])


def several_keys():
    first, second, empty = queue_name("several-1"), queue_name("several-2"), queue_name("several-empty")
    client = connected()
    check("set_multi", [], client.set_multi({first: "one", second: ["two"]}))
    check("get_multi", {first: "one", second: ["two"]}, client.get_multi([first, empty, second]))
    check("get_multi of empty queues", {}, client.get_multi([first, empty, second]))


def cas_values():
    queue = queue_name("cas")
    client = connected()
    client.set(queue, "first")
    client.set(queue, "second")
    first, first_id = client.gets(queue)
    second, second_id = client.gets(queue)
    check("gets takes in order", ("first", "second"), (first, second))
    check("its cas values rise", True, 0 < first_id < second_id)


def large_values_and_refusals():
    queue = queue_name("large")
    large = os.urandom(LARGE_SIZE)
    client = connected()
    check("set 900 kB", True, client.set(queue, large))
    check("get 900 kB", True, client.get(queue) == large)
    check_raises("too large is refused", pylibmc.Error, lambda: client.set(queue, os.urandom(TOO_LARGE_SIZE)))
    client = connected()
    check("the server goes on", True, client.set(queue, "small"))
    check_raises("flush_all is refused", pylibmc.Error, client.flush_all)
    client = connected()
    check("refusals stored and removed nothing", "small", client.get(queue))
    check("and left nothing", None, client.get(queue))


def administration():
    queue = queue_name("counted")
    client = connected()
    check("set", True, client.set(queue, "a"))
    check("delete", True, client.delete(queue))
    check("delete again", False, client.delete(queue))
    client.set(queue, "b")
    (_, stats), = client.get_stats()
    check("stats tell the process id", True, int(stats["pid"]) > 0)
    check("stats counted the puts, under memcached's name", True, int(stats["cmd_set"]) >= 2)
    client.disconnect_all()
    check("usable after hanging up", "b", client.get(queue))


checks.run(values, flags_on_the_wire, several_keys, cas_values, large_values_and_refusals, administration)
