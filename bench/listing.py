"""A listing of very many queues beside somebody else's requests: whether it holds them up."""

import os
import socket

import servers
from servers import Failure
from targets import LISTING_MS, ONE, QUEUES_LISTED
from threads import Background

ROUNDS = 5
SECONDS = 5.0
WARMUP_S = 0.5
# Far below what the server could do, at fixed times: a request that comes late makes the next one no later.
REQUESTS_PER_SECOND = 1_000
TIMEOUT_S = 30
RECEIVE_SIZE = 1 << 18
END = b"END\r\n"


def measure(setting, figures):
    """Puts and gets of one connection, alone and while another one asks for `stats queue` again and again.

    Without durability, so that the device's own p99 does not hide what the shard's turns add.
    """
    server = servers.ringq(setting.options, "ringq-listing", "RingQ -N", "-N")
    with setting.running(server):
        make_queues(server)
        for round_number in range(1, ROUNDS + 1):
            measure_state(setting, figures, server, round_number, "alone")
            p99_us = figures.values(server.name, ONE, "alone", "p99_us")[round_number]
            if p99_us > LISTING_MS * 1000:
                figures.notes.append(f"listing, round {round_number}: its p99 is left out, something else held up the slowest hundredth "
                                     f"for {p99_us:,.0f} µs already without listings")
            with Lister(server, setting.options.load_pin) as lister:
                result = measure_state(setting, figures, server, round_number, "listed")
            lister.check()
            seconds = result["elapsed_s"] + WARMUP_S
            figures.add_evidence("listing", f"round {round_number}: about {lister.listings / seconds:,.0f} listings a second, each "
                                            f"{lister.size / 1e6:.2f} MB; beside them p50 is "
                                            f"{share(figures, server, round_number, 'p50_us'):.2f}x and p99 "
                                            f"{share(figures, server, round_number, 'p99_us'):.2f}x of alone")
    setting.say("listing: measured")


def make_queues(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S) as connection:
        for first in range(0, QUEUES_LISTED, 100):
            names = range(first, first + 100)
            connection.sendall(b"".join(b"set listed-%05d 0 0 1\r\nx\r\n" % name for name in names))
            replies = b"".join(servers.read_line(connection) for _ in names)
            if replies != b"STORED\r\n" * len(names):
                raise Failure(f"{server.label}: a queue could not be made: {replies[:200]!r}")


def measure_state(setting, figures, server, round_number, state):
    result = setting.load(server, "ping-pong", "-c", ONE[0], "-P", ONE[1], "-r", REQUESTS_PER_SECOND,
                          "-d", setting.scaled(SECONDS, 1.0), "-w", WARMUP_S)
    figures.add_load("listing", server, ONE, round_number, state, result, lag=result["lag"])
    put, get, lag = result["put"], result["get"], result["lag"]
    figures.add_evidence("listing", f"round {round_number}, {state}: put p50 {put['p50_us']:,.0f}, p99 {put['p99_us']:,.0f}, get p50 "
                                    f"{get['p50_us']:,.0f}, p99 {get['p99_us']:,.0f}, longest {max(put['max_us'], get['max_us']):,.0f} µs; "
                                    f"sent late by p99 {lag['p99_us']:,.0f} µs")
    return result


def share(figures, server, round_number, field):
    alone, listed = (figures.values(server.name, ONE, state, field)[round_number] for state in ("alone", "listed"))
    return listed / alone


class Lister(Background):
    """Asks for all queues again and again, for as long as the context lasts.

    It shares a core with the load generator, which must not wait for it: the kernel runs it only when nothing else wants the core.
    """

    def __init__(self, server, load_pin):
        super().__init__()
        self.cores = {int(core) for core in load_pin[1:]}
        self.listings, self.size, self.failure = 0, 0, None
        self.connection = socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S)

    def __exit__(self, *_):
        super().__exit__()
        self.connection.close()

    def check(self):
        """Whether all queues were listed, and no less."""
        if self.failure is not None or not self.listings:
            raise Failure(f"`stats queue` was not answered as it should have been: {self.failure or 'never'}")

    def run(self):
        # Of this thread alone.
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        if self.cores:
            os.sched_setaffinity(0, self.cores)
        try:
            while not self.ended.is_set():
                self.list()
        except OSError as error:
            self.failure = error

    def list(self):
        self.connection.sendall(b"stats queue\r\n")
        size, lines, tail = 0, 0, b""
        while not tail.endswith(END):
            piece = self.connection.recv(RECEIVE_SIZE)
            if not piece:
                raise ConnectionError("the server closed the connection")
            size += len(piece)
            lines += piece.count(b"\n")
            tail = (tail + piece)[-len(END):]
        if lines - 1 < QUEUES_LISTED:
            raise OSError(f"{lines - 1} queues were listed")
        self.listings += 1
        self.size = size
