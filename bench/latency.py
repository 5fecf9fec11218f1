"""Latency below saturation, in an open loop: against Redis at a low rate, and with against without checkpoints."""

import contextlib

import servers
from targets import CHECKPOINT_CELL, OPEN_CELL
from threads import Background

ROUNDS = 5
SECONDS = 10.0
WARMUP_S = 1.0
# Puts and gets alike, so half of it is in and half of it out.
REQUESTS_PER_SECOND = 4_000
# 10 MB a second: slices of 1 MB and the pauses between them fill the time, so that a checkpoint runs all the time. What
# the roomy server keeps in ten seconds is half of what would make it begin one.
PUTS_PER_SECOND, PUT_SIZE = 10_000, 1024
LOOK_EVERY_S = 0.1


def timed(setting):
    return ["-d", setting.scaled(SECONDS, 1.0), "-w", WARMUP_S]


def measure_open_loop(setting, figures):
    """2,000 messages a second in and as many out, RingQ and Redis in turn."""
    names = ("ringq", "redis-always")
    if not setting.servers.keys() >= set(names):
        return
    with contextlib.ExitStack() as running:
        for name in names:
            running.enter_context(setting.running(setting.servers[name])).pause()
        for round_number in range(1, ROUNDS + 1):
            for server in (setting.servers[name] for name in names):
                server.resume()
                result = setting.load(server, "mixed", "-c", OPEN_CELL[0], "-r", REQUESTS_PER_SECOND, *timed(setting))
                figures.add_load("open-loop", server, OPEN_CELL, round_number, "mixed", result, lag=result["lag"])
                figures.add_evidence("open-loop", f"round {round_number}, {server.label}: {describe(result)}")
                setting.empty(server)
                server.settle()
                server.pause()
    setting.say("open-loop: measured")


def measure_checkpoints(setting, figures):
    """The same puts on a server that brings its journal into the database all the time, and on one that does not.

    The first has the usual memory and `-C 1`. The second has room for everything in memory and journal and no `-C`; what it
    has kept goes into the database between the rounds. When the database's file is written shows who did what.
    """
    # 1 GiB of journal: half of it is more than a run writes and the segment it begins in.
    roomy = ["-C", "0", "--journal-pages", "262144"]
    states = {
        "with": servers.ringq(setting.options, "ringq-checkpoints", "RingQ -C 1", "-C", "1"),
        "without": servers.ringq(setting.options, "ringq-roomy", "RingQ -m 2048, large journal", *roomy, memory_mb=2048),
    }
    with contextlib.ExitStack() as running:
        for server in states.values():
            running.enter_context(setting.running(server)).pause()
        for round_number in range(1, ROUNDS + 1):
            for state, server in states.items():
                server.resume()
                measure_checkpoint_state(setting, figures, state, server, round_number)
                setting.empty(server)
                server.settle()
                server.pause()
    setting.say("checkpoint-latency: measured")


def measure_checkpoint_state(setting, figures, state, server, round_number):
    with Changes(server) as changes:
        result = setting.load(server, "fill", "-c", CHECKPOINT_CELL[0], "-r", PUTS_PER_SECOND, "-s", PUT_SIZE,
                              *timed(setting))
    figures.add_evidence("checkpoint-latency", f"round {round_number}, {state}: {describe(result)}; the database was written in "
                                               f"{changes.changed} of {changes.looks} looks, one every {LOOK_EVERY_S:g} s")
    if (changes.changed > 0) != (state == "with"):
        figures.notes.append(f"checkpoint-latency, round {round_number}: left out, the run {state} checkpoints saw the database "
                             f"written {changes.changed} times")
        return
    figures.add_load("checkpoint-latency", server, CHECKPOINT_CELL, round_number, "put", result, lag=result["lag"])


def describe(result):
    put, lag = result["put"], result["lag"]
    return (f"{put['per_second']:,.0f} puts/s, p50 {put['p50_us']:,.0f}, p99 {put['p99_us']:,.0f}, longest {put['max_us']:,.0f} µs; "
            f"sent late by p99 {lag['p99_us']:,.0f} µs, never sent {lag['never_sent']}")


class Changes(Background):
    """Counts in how many looks a server's database had been written since the look before."""

    def __init__(self, server):
        super().__init__()
        self.server, self.looks, self.changed = server, 0, 0

    def run(self):
        seen = self.server.database_written()
        while not self.ended.wait(LOOK_EVERY_S):
            now = self.server.database_written()
            self.looks += 1
            self.changed += now != seen
            seen = now
