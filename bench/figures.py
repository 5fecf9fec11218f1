"""Figures: every single run of a comparison, what was noticed on the way, and medians and ratios of them."""

import statistics

from targets import cell_name

# Rates over less than this are reported with a warning.
ELAPSED_S_MIN = 0.1


class Figures:
    """`runs` are dictionaries with at least part, server, cell, round and phase.

    `notes` are things gone wrong or strange, `evidence` what else a part saw that makes its figures believable, and
    `reasons` why a part has none.
    """

    def __init__(self, runs=()):
        self.runs = list(runs)
        self.notes, self.evidence, self.reasons = [], {}, {}

    def part(self, name):
        """The runs of one part."""
        return Figures(run for run in self.runs if run["part"] == name)

    def add(self, part, server, cell, round_number, phase, **fields):
        self.runs.append({"part": part, "server": server, "cell": cell_name(cell), "round": round_number, "phase": phase,
                          **fields})

    def add_evidence(self, part, text):
        self.evidence.setdefault(part, []).append(text)

    def add_load(self, part, server, cell, round_number, phase, result, **more):
        """Adds a run of the load generator."""
        put, get = result["put"] or {}, result["get"] or {}
        operations = [operation for operation in (put, get) if operation]
        self.add(
            part, server.name, cell, round_number, phase,
            per_second=sum(operation["per_second"] for operation in operations),
            puts_per_second=put.get("per_second"),
            gets_per_second=get.get("per_second"),
            p50_us=max((operation["p50_us"] for operation in operations), default=None),
            p99_us=max((operation["p99_us"] for operation in operations), default=None),
            max_us=max((operation["max_us"] for operation in operations), default=None),
            put_p50_us=put.get("p50_us"),
            put_p99_us=put.get("p99_us"),
            misses=result["misses"],
            elapsed_s=result["elapsed_s"],
            server_us_per_operation=result["server"]["us_per_operation"],
            client_us_per_operation=result["client"]["us_per_operation"],
            client_cores=result["client"]["cores"],
            client_limited=result["client_limited"],
            unexpected=result["unexpected"],
            **more,
        )
        where = f"{server.label}, {phase} {cell_name(cell)}, round {round_number}"
        for kind, count in result["unexpected"].items():
            self.notes.append(f"{where}: {count} unexpected answers: {kind}")
        if not self.runs[-1]["per_second"]:
            answered = sum(second["puts"] + second["gets"] for second in result["series"])
            self.notes.append(f"{where}: no message got through between the warm-up and the end; {answered} did over the "
                              "whole run, warm-up and what was answered late included")
        elif result["elapsed_s"] < ELAPSED_S_MIN:
            self.notes.append(f"{where}: lasted {result['elapsed_s']:.3f} s only")

    def values(self, server, cell, phase, field):
        """The field in each round, by round."""
        return {
            run["round"]: run[field]
            for run in self.runs
            if (run["server"], run["cell"], run["phase"]) == (server, cell_name(cell), phase) and run.get(field) is not None
        }

    def median(self, server, cell, phase, field="per_second"):
        values = self.values(server, cell, phase, field)
        return statistics.median(values.values()) if values else None

    def ratio(self, ours, theirs, cell, phase, field="per_second"):
        """The median of the ratios within a round."""
        ours, theirs = (self.values(name, cell, phase, field) for name in (ours, theirs))
        ratios = [ours[number] / theirs[number] for number in ours if theirs.get(number)]
        return statistics.median(ratios) if ratios else None

    def limited(self, server, cell, phase):
        """In how many runs the load generator used all of its cores, and of how many; (0, 0) if there are none."""
        values = self.values(server, cell, phase, "client_limited").values()
        return sum(values), len(values)
