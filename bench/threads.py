"""Threads: whether a server without work sleeps, what a second shard costs or brings, and one of our own beside a measurement."""

import contextlib
import os
import threading
import time
from pathlib import Path

import servers
from servers import proc_status
from targets import BUSY, MANY, SHARD_CORES_MIN

IDLE_SECONDS = 60.0
# A covering record and a checkpoint that follow the load are no idling.
SETTLE_SECONDS = 10.0
ROUNDS = 5
SECONDS = 2.0
QUEUES = 64


class Background:
    """Does `run` on a thread for as long as the context lasts. `run` ends soon after `ended` is set."""

    def __init__(self):
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()


def measure_idle(setting, figures):
    """Times that any thread of a server went to sleep by itself; one that sleeps all the time never does."""
    server = setting.servers["ringq"]
    with setting.running(server):
        setting.load(server, "mixed", "-c", BUSY[0], "-P", BUSY[1], "-d", 2)
        setting.empty(server)
        time.sleep(setting.scaled(SETTLE_SECONDS, 3.0))
        before = voluntary_switches(server)
        seconds = setting.scaled(IDLE_SECONDS)
        time.sleep(seconds)
        after = voluntary_switches(server)
    switches = {thread: count - before.get(thread, 0) for thread, count in after.items()}
    figures.add("idle-server", "ringq", BUSY, 1, "idle", switches=sum(switches.values()))
    figures.add_evidence("idle-server", f"after 2 s of load and a pause, in {seconds:g} s: " + ", ".join(
        f"{name} {count}" for (_, name), count in switches.items()))
    setting.say("idle-server: measured")


def voluntary_switches(server):
    """Of each thread, by its id and name."""
    tasks = Path(f"/proc/{server.process.pid}/task")
    return {(tid.name, (tid / "comm").read_text().strip()): proc_status(f"{server.process.pid}/task/{tid.name}",
                                                                        "voluntary_ctxt_switches")
            for tid in tasks.iterdir()}


def measure_shards(setting, figures):
    """One shard and two in turn, on the same cores, with and without `-N`.

    Each connection gets what it has put: a get that finds nothing is cheap, and how many do depends on how fast puts are.
    """
    with contextlib.ExitStack() as running:
        server_pin, load_pin = shard_pins(setting.options)
        shards = {}
        for mode in ("ringq", "ringq-N"):
            for count in (1, 2):
                name = f"{mode}-t{count}"
                extra = ["-N"] if mode == "ringq-N" else []
                label = f"RingQ {' '.join([*extra, '-t', str(count)])}"
                server = servers.ringq(setting.options, name, label, *extra, threads=count)
                running.enter_context(server.running(setting.directory, server_pin)).pause()
                shards[name] = server
        figures.add_evidence("two-shards", f"ping-pong, {QUEUES} queues, half of which a connection's shard does not own; "
                                           f"servers: {' '.join(server_pin) or 'not pinned'}, --pin off; "
                                           f"load: {' '.join(load_pin) or 'not pinned'}")
        seconds = setting.scaled(SECONDS, 0.5)
        for round_number in range(1, ROUNDS + 1):
            for cell in (MANY, BUSY):
                for server in shards.values():
                    server.resume()
                    result = setting.load(server, "ping-pong", "-c", cell[0], "-P", cell[1], "-q", QUEUES,
                                          "-d", seconds, "-w", seconds / 4, pin=load_pin)
                    figures.add_load("two-shards", server, cell, round_number, "ping-pong", result)
                    setting.load(server, "drain", "-c", 64, "-P", 16, "-q", QUEUES, pin=load_pin)
                    server.settle()
                    server.pause()
    setting.say("two-shards: measured")


def shard_pins(options):
    """Two cores for the servers and the rest for the load, or one each as always where there are not so many."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < SHARD_CORES_MIN:
        return options.server_pin, options.load_pin
    load = [str(core) for core in cores[2:4]]
    return ["taskset", "-c", f"{cores[0]},{cores[1]}"], ["--threads", str(len(load)), "--pin", ",".join(load)]
