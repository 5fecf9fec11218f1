"""The targets RingQ holds itself to, and whether the figures of a comparison reach them.

A target is a bound on what was measured in one run on one machine: a ratio to a peer or to what the device can do, the
CPU time of a put, the memory of a connection. Rows marked as aims are what we strive for; the others must hold.

Every row says which part of the comparison it comes from, and those of the grid which servers, cells and phases they
need, so that `compare.py --only` measures no more than that. Judging knows only the figures; how they came about is not
its business.
"""

import os
import statistics

CONNECTIONS = (16, 64, 256)
# With so many cores two shards are judged by what they bring, with fewer by what they cost.
SHARD_CORES_MIN = 4

# Connections and requests in flight on each; the latter are a bound, seldom reached, where the load is an open loop.
ONE, MANY, BUSY, IDLE = (1, 1), (64, 1), (64, 16), (10_000, 0)
OPEN_CELL, CHECKPOINT_CELL = (16, 128), (16, 128)
DEEP_CELL = (8, 128)
QUEUES_LISTED = 10_000
ALL = ("put", "get", "mixed")


def cells(connections, pipelines):
    return [(c, p) for p in pipelines for c in connections]


class Row:
    """One target. `figure(figures, cell, phase)` gives what was measured in the part, or None.

    `phases` are what is judged, `also` what has to be measured for it besides.
    """

    def __init__(self, name, text, bound, servers, grid, phases, figure, unit="x", least=True, aim=False, also=(), part="grid"):
        self.name, self.text, self.bound, self.unit = name, text, bound, unit
        self.servers, self.grid, self.phases, self.also = servers, grid, phases, also
        self.figure, self.least, self.aim, self.part = figure, least, aim, part

    def needs(self):
        """Server, cell and phase of every measurement in the grid this row rests on."""
        if self.part != "grid":
            return []
        return [(server, cell, phase) for server in self.servers for cell in self.grid for phase in (*self.phases, *self.also)]

    def holds(self, figure):
        return figure >= self.bound if self.least else figure <= self.bound

    def bound_text(self):
        bound = f"{self.bound:g}{self.unit}" if self.bound else f"none{self.unit}"
        return ("" if not self.bound else "≥ " if self.least else "≤ ") + bound + (" (aim)" if self.aim else "")


def to_peer(ours, theirs, field="per_second"):
    return lambda figures, cell, phase: figures.ratio(ours, theirs, cell, phase, field)


def versus(name, text, bound, ours, theirs, grid, phases, aim=False, part="grid"):
    return Row(name, text, bound, (ours, theirs), grid, phases, to_peer(ours, theirs), aim=aim, part=part)


def median_of(server, field):
    return lambda figures, cell, phase: figures.median(server, cell, phase, field)


def of_phase(server, phase, field):
    """The median of a field of one phase, whatever the row calls what it judges."""
    return lambda figures, cell, _: figures.median(server, cell, phase, field)


def balance(server):
    """The slower side of a mixed load against the faster one, round by round."""
    def figure(figures, cell, phase):
        puts, gets = (figures.values(server, cell, phase, f"{side}_per_second") for side in ("puts", "gets"))
        shares = [min(puts[r], gets[r]) / max(puts[r], gets[r]) for r in puts if r in gets and max(puts[r], gets[r]) > 0]
        return statistics.median(shares) if shares else None
    return figure


def above_floor(figures, cell, phase):
    """Latency of a durable put against a bare durable write and a round trip without a queue, all of one round."""
    put, device, trip = (
        figures.values(server, cell, measured, "p50_us")
        for server, measured in (("ringq", phase), ("device", "write"), ("ringq", "round-trip"))
    )
    shares = [put[r] / (device[r] + trip[r]) for r in put if r in device and r in trip]
    return statistics.median(shares) if shares else None


def put_latency(figures, cell, percentile):
    return figures.ratio("ringq", "redis-always", cell, "mixed", f"put_{percentile}_us")


def with_checkpoints(figures, cell, _):
    return figures.ratio("ringq-checkpoints", "ringq-roomy", cell, "put", "put_p99_us")


def above_alone(figures, cell, percentile):
    """How much later requests are answered beside listings than without, ms: puts or gets, whichever is slower.

    Where the slowest hundredth was held up as long without listings, it tells nothing of them.
    """
    alone, listed = (figures.values("ringq-listing", cell, state, f"{percentile}_us") for state in ("alone", "listed"))
    more = [(listed[r] - alone[r]) / 1000 for r in listed if r in alone and alone[r] <= LISTING_MS * 1000]
    return statistics.median(more) if more else None


def deep_drain(figures, cell, _):
    return figures.ratio("ringq-deep", "ringq-shallow", cell, "drain")


def shards_row(cores):
    """Two shards against one: throughput where there are cores for both and the load, CPU time elsewhere."""
    enough = cores >= SHARD_CORES_MIN
    field = "per_second" if enough else "server_us_per_operation"

    def figure(figures, cell, mode):
        return figures.ratio(f"{mode}-t2", f"{mode}-t1", cell, "ping-pong", field)

    text = "two shards against one, 64 queues, half of the requests forwarded: " + (
        "messages per second" if enough else "CPU time of the server per request")
    return Row("two-shards", text, 1.7 if enough else 1.25, ("ringq", "ringq-N"), [MANY, BUSY], ("ringq", "ringq-N"), figure,
               least=enough, aim=enough, part="two-shards")


FLOOR = "every message durable: put with one connection, p50, against a 4 KiB direct synchronous write + a round trip"
SUSTAINED = "a minute of 1 KB messages far beyond `-m`: slowest second against the median one"
# A shard lists at most 1,024 queues or 16 KiB between two turns, so a request waits for one such piece, some 60 µs of work. All
# queues at once are some 1,000 µs of it: half of that tells the two apart, and leaves room for a noisy machine.
LISTING_MS = 0.5
DEPTH = "10 million messages of 100 B queued"

ROWS = [
    versus("durable", "every message durable, against Redis with its AOF synced always", 2.0,
           "ringq", "redis-always", cells((16, 64), (1, 16)), ALL),
    versus("durable-c256", "every message durable, 256 connections, against Redis with its AOF synced always", 1.6,
           "ringq", "redis-always", [(256, 1)], ALL),
    versus("memcacheq-c1", "every message durable, against MemcacheQ with four threads", 1.1,
           "ringq", "memcacheq", [ONE], ("put", "get")),
    versus("memcacheq-c64", "every message durable, 64 connections, against MemcacheQ with four threads", 12.0,
           "ringq", "memcacheq", [MANY], ("put", "get")),
    Row("floor", FLOOR, 1.4, ("ringq",), [ONE], ("put",), above_floor, least=False, also=("floor",)),
    Row("floor-aim", f"{FLOOR}, as it should be", 1.2,
        ("ringq",), [ONE], ("put",), above_floor, least=False, aim=True, also=("floor",)),
    versus("volatile-memcached-p1", "`-N` against memcached", 1.3,
           "ringq-N", "memcached", cells(CONNECTIONS, (1,)), ("put", "get"), aim=True),
    versus("volatile-memcached-p16", "`-N` against memcached, 16 in flight", 1.5,
           "ringq-N", "memcached", cells(CONNECTIONS, (16,)), ("put", "get"), aim=True),
    versus("volatile-redis-p1", "`-N` against Redis without persistence", 1.3,
           "ringq-N", "redis", cells(CONNECTIONS, (1,)), ("put", "get"), aim=True),
    versus("volatile-redis-p16", "`-N` against Redis without persistence, 16 in flight", 1.5,
           "ringq-N", "redis", cells(CONNECTIONS, (16,)), ("put", "get"), aim=True),
    versus("ceiling", "`-N` against a ring that answers without a queue", 0.9, "ringq-N", "ceiling", [MANY], ("put",)),
    Row("cpu", "`-N`: CPU time of the server per put", 0.6,
        ("ringq-N",), [BUSY], ("put",), median_of("ringq-N", "server_us_per_operation"), unit=" µs", least=False),
    Row("sustained", f"every message durable, {SUSTAINED}", 0.5,
        ("ringq",), [BUSY], ("put", "get"), median_of("ringq", "slowest_share"), part="sustained"),
    Row("sustained-N", f"`-N`, {SUSTAINED}", 0.5,
        ("ringq-N",), [BUSY], ("put", "get"), median_of("ringq-N", "slowest_share"), part="sustained"),
    versus("sustained-redis", "the durable rate of that minute against Redis with its AOF synced always", 1.5,
           "ringq", "redis-always", [BUSY], ("put", "get"), part="sustained"),
    Row("open-loop", "2,000 messages a second in and out, durable: latency of a put against Redis with its AOF synced always", 0.7,
        ("ringq", "redis-always"), [OPEN_CELL], ("p50", "p99"), put_latency, least=False, part="open-loop"),
    Row("balance", "mixed load, every message durable: slower side against faster side", 0.8,
        ("ringq",), [BUSY], ("mixed",), balance("ringq")),
    Row("balance-N", "mixed load, `-N`: slower side against faster side", 0.8,
        ("ringq-N",), [BUSY], ("mixed",), balance("ringq-N")),
    Row("checkpoint-latency", "10,000 durable puts of 1 KB a second: p99 with a checkpoint running against p99 without", 2.0,
        ("ringq",), [CHECKPOINT_CELL], ("put",), with_checkpoints, least=False, part="checkpoint-latency"),
    Row("listing", f"`-N`, `stats queue` over {QUEUES_LISTED:,} queues without a pause: latency of another connection's puts and gets, "
        "above what it is alone", LISTING_MS,
        ("ringq-N",), [ONE], ("p50", "p99"), above_alone, unit=" ms", least=False, part="listing"),
    Row("deep-drain", f"drain with {DEPTH} against drain with 10,000", 0.9,
        ("ringq",), [DEEP_CELL], ("get",), deep_drain, part="depth"),
    Row("rss", f"{DEPTH}, -m 64: memory of its own (RssAnon)", 128,
        ("ringq",), [DEEP_CELL], ("get",), of_phase("ringq", "rss", "rss_anon_mb"), unit=" MB", least=False, part="depth"),
    Row("start-up", f"{DEPTH}: from start after kill -9 to the first answer", 1.0,
        ("ringq",), [DEEP_CELL], ("get",), of_phase("ringq", "start", "start_s"), unit=" s", least=False, part="depth"),
    Row("idle", "memory of its own (RssAnon) for each of 10,000 idle connections", 0.5, ("ringq-idle",), [IDLE], ("idle",),
        median_of("ringq-idle", "rss_anon_kb_per_connection"), unit=" KB", least=False),
    Row("idle-server", "voluntary context switches of all threads of an idle server in a minute", 0, ("ringq",), [BUSY], ("idle",),
        median_of("ringq", "switches"), unit="", least=False, aim=True, part="idle-server"),
    shards_row(os.cpu_count()),
]


def cell_name(cell):
    return f"c{cell[0]} p{cell[1]}" if cell[1] else f"{cell[0]:,} connections"


def judge(figures, row, phase, reason):
    """One line of the table for a row and a phase: what it is about, target, medians, verdict.

    `reason` says why there is no figure, should there be none. A dagger marks a rate that is the load generator's.
    """
    figures = figures.part(row.part)
    measured = {cell: figure for cell in row.grid if (figure := row.figure(figures, cell, phase)) is not None}
    missed = [cell for cell, figure in measured.items() if not row.holds(figure)]

    def show(cell):
        figure = measured[cell]
        text = f"{figure:,}" if isinstance(figure, int) else f"{figure:,.2f}"
        where = f"{cell_name(cell)} " if len(row.grid) > 1 or row.part == "grid" else ""
        limited = row.unit == "x" and any(is_limited(figures, server, cell, phase) for server in row.servers)
        text = f"{where}{text}{row.unit}{'†' if limited else ''}"
        return f"**{text}**" if cell in missed else text

    if not measured:
        verdict = f"not measured: {reason}"
    else:
        verdict = ("aim missed" if row.aim else "missed") if missed else "holds"
        if len(measured) < len(row.grid):
            verdict += f", {len(measured)} of {len(row.grid)} cells measured"
    about = f"{row.text}, {phase}" if len(row.phases) > 1 else row.text
    return [row.name, about, row.bound_text(), ", ".join(map(show, measured)) or "–", verdict]


def is_limited(figures, server, cell, phase):
    """Whether in half of the runs or more the load generator used all of its cores."""
    limited, runs = figures.limited(server, cell, phase)
    return runs > 0 and 2 * limited >= runs


def judge_all(figures, rows, missing, is_quick):
    """The table. `missing` says why servers are not here, by name."""
    def reason(row):
        reasons = [missing[server] for server in row.servers if server in missing]
        unfit = "not in a quick run" if is_quick else "see the notes"
        return reasons[0] if reasons else unfit
    return [judge(figures, row, phase, reason(row)) for row in rows for phase in row.phases]
