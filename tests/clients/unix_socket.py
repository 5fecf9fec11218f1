"""pymemcache over a unix socket: the same replies as over TCP, to many clients at once.
Usage: python unix_socket.py PATH"""

import os
import sys
import threading
from contextlib import closing

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "common"))
import checks
from checks import check, queue_name

try:
    from pymemcache.client.base import Client
except ImportError as missing:
    checks.skip(f"the Python package pymemcache is not installed ({missing})")

PATH = sys.argv[1]
TIMEOUT_S = 30
CLIENTS = 8
MESSAGES = 100


def connected():
    return Client(f"unix:{PATH}", connect_timeout=TIMEOUT_S, timeout=TIMEOUT_S, default_noreply=False)


def messages_of_every_size():
    queue = queue_name("sizes")
    bodies = [b"", b"x", b"END\r\n", bytes(range(256)), b"l" * 900_000]
    with closing(connected()) as client:
        check("all are stored", [True] * len(bodies), [client.set(queue, body) for body in bodies])
        check("all come back in order", bodies, [client.get(queue) for _ in bodies])
        check("the empty queue is None", None, client.get(queue))


def clients_at_once():
    queue = queue_name("crowd")

    def put(number):
        with closing(connected()) as client:
            for n in range(MESSAGES):
                client.set(queue, f"{number}.{n}")

    threads = [threading.Thread(target=put, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with closing(connected()) as client:
        taken = [client.get(queue) for _ in range(CLIENTS * MESSAGES)]
        check("every message came once", CLIENTS * MESSAGES, len(set(taken)))
        check("and no other", None, client.get(queue))


checks.run(messages_of_every_size, clients_at_once)
