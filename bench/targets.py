"""The targets RingQ holds itself to, and whether the figures of a comparison reach them.

A target is a bound on what was measured in one run on one machine: a ratio to a peer or to what the device can do, the
CPU time of a put, the memory of a connection. Rows marked as aims are what we strive for; the others must hold.

Every row says which servers, cells and phases it needs, so that `compare.py --only` measures no more than that. Judging
knows only the comparison's figures; how they came about is not its business.
"""

import statistics

CONNECTIONS = (16, 64, 256)


def cells(connections, pipelines):
    return [(c, p) for p in pipelines for c in connections]


class Row:
    """One target. `figure(comparison, cell, phase)` gives what was measured, or None.

    `phases` are what is judged, `also` what has to be measured for it besides.
    """

    def __init__(self, name, text, bound, servers, grid, phases, figure, unit="x", least=True, aim=False, also=()):
        self.name, self.text, self.bound, self.unit = name, text, bound, unit
        self.servers, self.grid, self.phases, self.also = servers, grid, phases, also
        self.figure, self.least, self.aim = figure, least, aim

    def needs(self):
        """Server, cell and phase of every measurement this row rests on."""
        return [(server, cell, phase) for server in self.servers for cell in self.grid for phase in (*self.phases, *self.also)]

    def holds(self, figure):
        return figure >= self.bound if self.least else figure <= self.bound

    def bound_text(self):
        return f"{'≥' if self.least else '≤'} {self.bound:g}{self.unit}"


def to_peer(ours, theirs):
    return lambda comparison, cell, phase: comparison.ratio(ours, theirs, cell, phase)


def versus(name, text, bound, ours, theirs, grid, phases, aim=False):
    return Row(name, text, bound, (ours, theirs), grid, phases, to_peer(ours, theirs), aim=aim)


def balance(server):
    """The slower side of a mixed load against the faster one, round by round."""
    def figure(comparison, cell, phase):
        puts, gets = (comparison.values(server, cell, phase, f"{side}_per_second") for side in ("puts", "gets"))
        shares = [min(puts[r], gets[r]) / max(puts[r], gets[r]) for r in puts if r in gets and max(puts[r], gets[r]) > 0]
        return statistics.median(shares) if shares else None
    return figure


def above_floor(comparison, cell, phase):
    """Latency of a durable put against a bare durable write and a round trip without a queue, all of one round."""
    put, device, trip = (
        comparison.values(server, cell, measured, "p50_us")
        for server, measured in (("ringq", phase), ("device", "write"), ("ringq", "round-trip"))
    )
    shares = [put[r] / (device[r] + trip[r]) for r in put if r in device and r in trip]
    return statistics.median(shares) if shares else None


def cpu_of(server):
    return lambda comparison, cell, phase: comparison.median(server, cell, phase, "server_us_per_operation")


def idle_size(server):
    return lambda comparison, cell, phase: comparison.median(server, cell, phase, "rss_anon_kb_per_connection")


ONE, BUSY, IDLE = (1, 1), (64, 16), (10_000, 0)
ALL = ("put", "get", "mixed")
FLOOR = "every message durable: put with one connection, p50, against a 4 KiB direct synchronous write + a round trip"

ROWS = [
    versus("durable", "every message durable, against Redis with its AOF synced always", 2.0,
           "ringq", "redis-always", cells((16, 64), (1, 16)), ALL),
    versus("durable-c256", "the same with 256 connections", 1.6, "ringq", "redis-always", [(256, 1)], ALL),
    versus("volatile-memcached-p1", "`-N` against memcached", 1.3,
           "ringq-N", "memcached", cells(CONNECTIONS, (1,)), ("put", "get"), aim=True),
    versus("volatile-memcached-p16", "`-N` against memcached, 16 in flight", 1.5,
           "ringq-N", "memcached", cells(CONNECTIONS, (16,)), ("put", "get"), aim=True),
    versus("volatile-redis-p1", "`-N` against Redis without persistence", 1.3,
           "ringq-N", "redis", cells(CONNECTIONS, (1,)), ("put", "get"), aim=True),
    versus("volatile-redis-p16", "`-N` against Redis without persistence, 16 in flight", 1.5,
           "ringq-N", "redis", cells(CONNECTIONS, (16,)), ("put", "get"), aim=True),
    Row("balance", "mixed load, every message durable: slower side against faster side", 0.8,
        ("ringq",), [BUSY], ("mixed",), balance("ringq")),
    Row("balance-N", "mixed load, `-N`: slower side against faster side", 0.8,
        ("ringq-N",), [BUSY], ("mixed",), balance("ringq-N")),
    Row("floor", FLOOR, 1.4, ("ringq",), [ONE], ("put",), above_floor, least=False, also=("floor",)),
    Row("floor-aim", "the same, as it should be", 1.2,
        ("ringq",), [ONE], ("put",), above_floor, least=False, aim=True, also=("floor",)),
    Row("cpu", "`-N`: CPU time of the server per put", 0.6,
        ("ringq-N",), [BUSY], ("put",), cpu_of("ringq-N"), unit=" µs", least=False),
    Row("idle", "memory of its own (RssAnon) for each of 10,000 idle connections", 0.5,
        ("ringq-idle",), [IDLE], ("idle",), idle_size("ringq-idle"), unit=" KB", least=False),
    versus("memcacheq-c1", "every message durable, against MemcacheQ with four threads", 1.1,
           "ringq", "memcacheq", [ONE], ("put", "get")),
    versus("memcacheq-c64", "the same with 64 connections", 12.0, "ringq", "memcacheq", [(64, 1)], ("put", "get")),
]


def cell_name(cell):
    return f"c{cell[0]} p{cell[1]}" if cell[1] else f"{cell[0]:,} connections"


def judge(comparison, row, phase):
    """One line of the table for a row and a phase: what it is about, target, medians, verdict."""
    figures = {cell: row.figure(comparison, cell, phase) for cell in row.grid}
    measured = {cell: figure for cell, figure in figures.items() if figure is not None}
    missed = [cell for cell, figure in measured.items() if not row.holds(figure)]
    show = lambda cell: f"{cell_name(cell)} {measured[cell]:.2f}{row.unit}"
    medians = ", ".join(f"**{show(cell)}**" if cell in missed else show(cell) for cell in measured)
    if not measured:
        verdict = "not measured"
    else:
        verdict = "missed" if missed else "holds"
        if len(measured) < len(figures):
            verdict += f", {len(measured)} of {len(figures)} cells measured"
    about = f"{row.text}, {phase}" if len(row.phases) > 1 else row.text
    return [row.name, about, row.bound_text() + (" (aim)" if row.aim else ""), medians or "–", verdict]


def judge_all(comparison, rows):
    """The table, without rows about servers that are not here."""
    present = {server.name for server in comparison.servers}
    return [judge(comparison, row, phase) for row in rows if present.issuperset(row.servers) for phase in row.phases]
