"""The result of a comparison as Markdown: targets and verdicts first, then what they rest on."""

import targets
from grid import PHASES, SIZE
from targets import cell_name

RATIOS = [
    ("default / Redis, AOF always", "ringq", "redis-always"),
    ("-N / memcached", "ringq-N", "memcached"),
    ("-N / Redis, volatile", "ringq-N", "redis"),
    ("-N / ring without a queue", "ringq-N", "ceiling"),
    ("default / MemcacheQ, -t 4", "ringq", "memcacheq"),
]


def rate(value):
    if value is None:
        return "–"
    if value >= 999_500:
        return f"{value / 1e6:.2f}M"
    return f"{value / 1e3:.1f}k" if value < 99_950 else f"{value / 1e3:.0f}k"


def number(value, decimals):
    return "–" if value is None else f"{value:,.{decimals}f}"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


class Report:
    """`rows` are the targets to judge; `facts` what machine.py knows."""

    def __init__(self, setting, figures, rows, started, facts):
        self.options, self.missing = setting.options, setting.missing
        self.all, self.grid = figures, figures.part("grid")
        self.rows, self.started, self.facts = rows, started, facts
        self.head = [cell_name(cell) for cell in self.options.cells]
        # In the order they are listed in; the device is none.
        self.labels = {server.name: server.label for server in setting.servers.values()}

    def markdown(self):
        text = [f"# Comparison of {self.started:%Y-%m-%d %H:%M %Z}\n"]
        for title, about, body in (
            ("Targets", "Medians; what misses its target is in bold. An aim is what we strive for, the others must hold. "
             "† marks where in half of the runs or more the load generator used all of its cores: such a figure is the load "
             "generator's and says little about the server.", self.targets()),
            ("What the targets outside the grid rest on", "", self.evidence()),
            ("The grid", self.about_grid(), ""),
            ("Besides the grid", "", self.floor()),
            ("Ratios", "Medians of the ratios within a round; mixed compares puts and gets together. † as above.", self.ratios()),
            ("Runs that the load generator limited", "In these it used all of its cores, so the server may be faster, and a ratio "
             "says nothing. A load generator that has to share its core is not noticed here.", self.limited()),
        ):
            if body or title == "The grid" and self.grid.runs:
                text.append(f"## {title}\n\n" + (about + "\n\n" if about and body else about + "\n" if about else "") + body)
        text += self.phases()
        if self.all.notes:
            text.append("## Notes\n\n" + "".join(f"- {note}\n" for note in self.all.notes))
        machine = "".join(f"- {name}: {value}\n" for name, value in self.facts.items() if name not in ("command", "versions"))
        versions = "".join(f"- {label}: {version}\n" for label, version in self.facts["versions"].items())
        text.append(f"## Machine\n\nMade by `{' '.join(self.facts['command'])}`.\n\n" + machine + "\n## Versions\n\n" + versions)
        return "\n".join(text)

    def targets(self):
        head = ["name", "what", "target", "measured", "verdict"]
        return table(head, targets.judge_all(self.all, self.rows, self.missing, self.options.quick)) if self.rows else ""

    def evidence(self):
        return "\n".join(f"{part}:\n\n" + "".join(f"- {line}\n" for line in lines) for part, lines in self.all.evidence.items())

    def about_grid(self):
        return (f"{SIZE} B messages; c = connections, p = requests in flight on each; {self.options.seconds} s of load a phase, "
                f"{self.options.rounds} rounds, medians.\nOne server core, one load core"
                f"{'' if self.options.server_pin else ' (not pinned: there is only one core)'}. memcached has a key per "
                "connection and keeps it on a get; the ring without a queue\nanswers and keeps nothing; the others are queues.")

    def floor(self):
        """What was measured besides the grid."""
        rows = [[label, number(self.grid.median(*where), 2), unit] for label, where, unit in (
            ("4 KiB direct synchronous write, p50", ("device", targets.ONE, "write", "p50_us"), "µs"),
            ("the same, p99", ("device", targets.ONE, "write", "p99_us"), "µs"),
            ("round trip to RingQ without a queue, p50", ("ringq", targets.ONE, "round-trip", "p50_us"), "µs"),
            ("RingQ: RssAnon of an idle connection", ("ringq-idle", targets.IDLE, "idle", "rss_anon_kb_per_connection"), "KB"),
            ("memcached: the same", ("memcached-idle", targets.IDLE, "idle", "rss_anon_kb_per_connection"), "KB"),
        ) if self.grid.median(*where) is not None]
        return table(["what", "median", ""], rows) if rows else ""

    def ratios(self):
        def show(ours, theirs, cell, phase):
            ratio = self.grid.ratio(ours, theirs, cell, phase)
            if ratio is None:
                return "–"
            limited = any(targets.is_limited(self.grid, server, cell, phase) for server in (ours, theirs))
            return f"{ratio:.2f}x{'†' if limited else ''}"

        rows = []
        for label, ours, theirs in RATIOS:
            for phase in PHASES:
                shown = [show(ours, theirs, cell, phase) for cell in self.options.cells]
                if any(text != "–" for text in shown):
                    rows.append([label, phase] + shown)
        return table(["ratio", "", *self.head], rows) if rows else ""

    def limited(self):
        rows = []
        for name, label in self.labels.items():
            for phase in PHASES:
                shares = [self.grid.limited(name, cell, phase) for cell in self.options.cells]
                if any(limited for limited, _ in shares):
                    rows.append([label, phase] + [f"{limited} of {runs}" if runs else "–" for limited, runs in shares])
        return table(["server", "", *self.head], rows) if rows else "None.\n" if self.grid.runs else ""

    def phase(self, title, phase, show):
        """A heading and the phase's figures of all servers that have any; nothing if none has."""
        measured = {run["server"] for run in self.grid.runs if run["phase"] == phase}
        rows = [[label] + [show(name, cell, phase) for cell in self.options.cells]
                for name, label in self.labels.items() if name in measured]
        return [f"### {title}\n\n" + table(["server", *self.head], rows)] if rows else []

    def phases(self):
        median = self.grid.median

        def joined(fields, show, between=" / "):
            return lambda *at: between.join(show(median(*at, field)) for field in fields)

        per_second = joined(["per_second"], rate)
        text = self.phase("Puts per second", "put", per_second)
        text += self.phase("Gets per second", "get", per_second)
        text += self.phase("Mixed: puts + gets per second (c1 uses two connections)", "mixed",
                           joined(["puts_per_second", "gets_per_second"], rate, "+"))
        for phase in PHASES:
            text += self.phase(f"{phase.capitalize()}: latency p50 / p99, µs", phase,
                               joined(["p50_us", "p99_us"], lambda value: number(value, 0)))
            text += self.phase(f"{phase.capitalize()}: CPU µs per operation, server / load generator", phase,
                               joined(["server_us_per_operation", "client_us_per_operation"], lambda value: number(value, 2)))
        return text
