"""pymemcache against a queue. Its writes are `noreply` unless told otherwise, and it insists on the exact echo of each key.
The last section is the largest: 8 producers and 4 consumers, every message exactly once and in its producer's order.
Usage: python pymemcache_client.py HOST PORT"""

import os
import sys
import threading
import time
from contextlib import closing

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "common"))
import checks
from checks import check, check_raises, queue_name

HOST, PORT = checks.server_arguments()

try:
    from pymemcache import serde
    from pymemcache.client.base import Client
    from pymemcache.exceptions import MemcacheError, MemcacheServerError, MemcacheUnknownCommandError
except ImportError as missing:
    checks.skip(f"the Python package pymemcache is not installed ({missing})")

TIMEOUT_S = 30
LARGE_SIZE = 900_000
TOO_LARGE_SIZE = 2 * 1024 * 1024
PRODUCERS = 8
CONSUMERS = 4
MESSAGES_PER_PRODUCER = 250
# How long the consumers look at an empty queue before the missing messages count as lost.
PATIENCE_S = 15


def connected(**options):
    """A client with timeouts, so that a server that does not answer fails a check instead of hanging the run."""
    return Client((HOST, PORT), connect_timeout=TIMEOUT_S, timeout=TIMEOUT_S, **options)


def quiet_puts_are_seen_by_the_next_get():
    queue = queue_name("quiet")
    with closing(connected()) as client:
        for n in range(100):
            client.set(queue, f"message {n}")
        taken = [client.get(queue) for _ in range(100)]
        check("quiet puts come back in order", [f"message {n}".encode() for n in range(100)], taken)
        check("the empty queue is None", None, client.get(queue))
        client.set(queue, "dropped")
        check("quiet delete", True, client.delete(queue))
        check("nothing is left after it", None, client.get(queue))


def answered_puts():
    queue = queue_name("answered")
    every_byte = bytes(range(256))
    with closing(connected(default_noreply=False)) as client:
        check("set", True, client.set(queue, every_byte))
        check("set with flags", True, client.set(queue, b"flagged", flags=4294967295))
        check("set an empty body", True, client.set(queue, b""))
        check("set line ends and protocol words", True, client.set(queue, b"END\r\nget x\r\n\r\n"))
        check("set with an expiry time", True, client.set(queue, b"kept", expire=3600))
        check("every byte value", every_byte, client.get(queue))
        check("raw flags", (b"flagged", 4294967295), _with_flags(queue))
        check("empty body", b"", client.get(queue))
        check("line ends and protocol words", b"END\r\nget x\r\n\r\n", client.get(queue))
        check("message with an expiry time", b"kept", client.get(queue))
        check("delete", True, client.delete(queue))
        check("delete again", False, client.delete(queue))


def _with_flags(queue):
    class KeepFlags:
        """Hands the flags through beside the value."""

        def serialize(self, key, value):
            return value, 0

        def deserialize(self, key, value, flags):
            return value, flags

    with closing(connected(serde=KeepFlags())) as client:
        return client.get(queue)


def pickled_values():
    queue = queue_name("pickled")
    values = [{"id": 7, "tags": ["a", "b"]}, 42, "text", b"bytes", None]
    with closing(connected(serde=serde.pickle_serde, default_noreply=False)) as client:
        for value in values:
            client.set(queue, value)
        check("values come back by their flags", values, [client.get(queue) for _ in values])


def several_keys():
    first, second, empty = queue_name("several-1"), queue_name("several-2"), queue_name("several-empty")
    odd = queue_name("Odd.name:with+signs~and#more")
    with closing(connected()) as client:
        client.set_many({first: "one", second: "two", odd: "three"})
        check("set_many and get_many", {first: b"one", second: b"two", odd: b"three"}, client.get_many([first, empty, second, odd]))
        check("get_many of empty queues", {}, client.get_many([first, empty, second, odd]))
        check("answered set_many", [], client.set_many({first: "four", second: "five"}, noreply=False))
        values = client.gets_many([first, second])
        check("gets_many", {first: b"four", second: b"five"}, {key: value for key, (value, _) in values.items()})
        longest = queue_name("longest").ljust(250, "k")
        check("the longest key", True, client.set(longest, "six", noreply=False))
        check("the longest key is echoed", b"six", client.get(longest))


def cas_values():
    queue = queue_name("cas")
    with closing(connected(default_noreply=False)) as client:
        client.set(queue, "first")
        client.set(queue, "second")
        first, first_id = client.gets(queue)
        second, second_id = client.gets(queue)
        check("gets takes in order", (b"first", b"second"), (first, second))
        check("its cas values are numbers that rise", True, 0 < int(first_id) < int(second_id))
        check("gets of the empty queue", (None, None), client.gets(queue))


def large_values_and_refusals():
    queue = queue_name("large")
    large = os.urandom(LARGE_SIZE)
    with closing(connected(default_noreply=False)) as client:
        check("set 900 kB", True, client.set(queue, large))
        check("get 900 kB", True, client.get(queue) == large)
        check_raises("too large is refused", MemcacheServerError, lambda: client.set(queue, bytes(TOO_LARGE_SIZE)))
        check("usable after the refusal", True, client.set(queue, "small"))
        check_raises("add is refused", MemcacheUnknownCommandError, lambda: client.add(queue, b"get injected"))
        check_raises("incr is refused", MemcacheError, lambda: client.incr(queue, 1))
        check_raises("flush_all is refused", MemcacheError, client.flush_all)
        check("refusals stored and removed nothing", b"small", client.get(queue))
        check("and left nothing", None, client.get(queue))


def administration():
    queue = queue_name("counted")
    with closing(connected(default_noreply=False)) as client:
        check("version has a major of 1", b"1.", client.version()[:2])
        client.set(queue, "a")
        client.set(queue, "b")
        client.get(queue)
        stats = client.stats()
        check("stats tell the process id as a number", int, type(stats.get(b"pid")))
        check("stats counted puts and gets", True, int(stats[b"set_hits"]) >= 2 and int(stats[b"get_hits"]) >= 1)
        check("memcached's names are there too", True, int(stats[b"cmd_set"]) >= 2 and int(stats[b"curr_items"]) >= 1)
        check("stats queue", b"2/1", client.stats("queue").get(queue.encode()))
        client.quit()
        check("usable after quit, on a new connection", b"b", client.get(queue))


def producers_and_consumers():
    queue = queue_name("busy")
    expected = PRODUCERS * MESSAGES_PER_PRODUCER
    taken = [[] for _ in range(CONSUMERS)]
    errors = []

    def guarded(work, *arguments):
        try:
            work(*arguments)
        except Exception as error:
            errors.append(f"{work.__name__}: {error!r}")

    def produce(producer):
        # Half of them do not wait for an answer; the get of an empty queue flushes what they sent before they hang up.
        with closing(connected(default_noreply=producer % 2 == 0)) as client:
            for n in range(MESSAGES_PER_PRODUCER):
                client.set(queue, f"{producer} {n}")
            client.get(queue_name("flush"))

    def consume(consumer):
        with closing(connected()) as client:
            last_hit = time.monotonic()
            while sum(map(len, taken)) < expected and time.monotonic() - last_hit < PATIENCE_S:
                message = client.get(queue)
                if message is not None:
                    taken[consumer].append(tuple(map(int, message.split())))
                    last_hit = time.monotonic()

    threads = [threading.Thread(target=guarded, args=(produce, n)) for n in range(PRODUCERS)]
    threads += [threading.Thread(target=guarded, args=(consume, n)) for n in range(CONSUMERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    everything = [message for messages in taken for message in messages]
    sent = {(producer, n) for producer in range(PRODUCERS) for n in range(MESSAGES_PER_PRODUCER)}
    check("no thread failed", [], errors)
    check("nothing is lost", [], sorted(sent - set(everything))[:10])
    check("nothing is taken twice", len(set(everything)), len(everything))
    check("nothing is invented", [], sorted(set(everything) - sent)[:10])
    for consumer, messages in enumerate(taken):
        for producer in range(PRODUCERS):
            numbers = [n for sender, n in messages if sender == producer]
            if numbers != sorted(numbers):
                checks.fail(f"consumer {consumer} sees producer {producer} in order", "rising numbers", numbers)
    with closing(connected()) as client:
        check("the queue is empty afterwards", None, client.get(queue))
        check("its counters agree", f"{expected}/{expected}".encode(), client.stats("queue").get(queue.encode()))


checks.run(
    quiet_puts_are_seen_by_the_next_get,
    answered_puts,
    pickled_values,
    several_keys,
    cas_values,
    large_values_and_refusals,
    administration,
    producers_and_consumers,
)
