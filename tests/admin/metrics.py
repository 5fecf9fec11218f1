"""/metrics through Prometheus' own parsers for Python, in both formats: types, names, units, buckets, and as many queues as there are.
Ends with 0 if all is well, 1 if not, 77 without the parsers.

Usage: python metrics.py URL QUEUES"""

import math
import os
import sys
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "clients", "common"))
import checks
from checks import check

try:
    from prometheus_client.openmetrics import parser as open_metrics
    from prometheus_client import parser as text_format
except ImportError:
    checks.skip("prometheus_client is not installed")

OWN_SERIES = 1000
OTHERS = "(all others)"


# What a server of Prometheus sends, shortened, and what each format is called.
FORMATS = [
    (text_format, None, "text/plain; version=0.0.4; charset=utf-8"),
    (
        open_metrics,
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
    ),
]
UNITS = ("bytes", "seconds", "ratio")
# These begin with the first checkpoint, which may end between two answers.
NOT_ALWAYS = ("ringq_checkpoint_end_timestamp_seconds", "ringq_checkpoint_duration_seconds")


def main():
    url, queues = sys.argv[1], int(sys.argv[2])
    series = [read(url, queues, *form) for form in FORMATS]
    check("both formats have the same series", [], sorted(series[0] ^ series[1]))


def read(url, queues, parser, accept, kind):
    """Checks one format, and returns the names and labels of its series."""
    request = urllib.request.Request(url, headers={"Accept": accept} if accept else {})
    with urllib.request.urlopen(request, timeout=60) as answer:
        check("the content type is the format's", kind, answer.headers["Content-Type"])
        text = answer.read().decode()
    families = list(parser.text_string_to_metric_families(text))
    names = [family.name for family in families]
    check("each family is there once", len(set(names)), len(names))
    types = ("counter", "gauge", "histogram") + (("info",) if parser is open_metrics else ())
    check("each has a type", [], [family.name for family in families if family.type not in types])
    check("each has a help", [], [family.name for family in families if not family.documentation])
    if parser is open_metrics:
        units = {family.name: family.unit for family in families}
        expected = {name: next((unit for unit in UNITS if name.endswith(f"_{unit}")), "") for name in names}
        check("each has the unit that it is named for", expected, units)
        check("there are such", True, set(UNITS) <= set(units.values()))
    series = [(sample.name, tuple(sorted(sample.labels.items()))) for family in families for sample in family.samples]
    check("no series is there twice", len(set(series)), len(series))
    of = {family.name: family for family in families}
    for family in families:
        if family.type == "histogram":
            histogram(family)
    by_queue(of, queues)
    return {(name, labels) for name, labels in series if name not in NOT_ALWAYS}


def histogram(family):
    groups = {}
    for sample in family.samples:
        labels = tuple(sorted(item for item in sample.labels.items() if item[0] != "le"))
        groups.setdefault(labels, []).append(sample)
    for labels, samples in groups.items():
        buckets = [(float(sample.labels["le"]), sample.value) for sample in samples if sample.name.endswith("_bucket")]
        count = next(sample.value for sample in samples if sample.name.endswith("_count"))
        wrong = buckets != sorted(buckets) or [value for _, value in buckets] != sorted(value for _, value in buckets)
        if wrong or buckets[-1] != (math.inf, count):
            check(f"buckets of {family.name} {labels}", "cumulative, up to the count", str(buckets))
    check(f"{family.name} has buckets that add up", True, len(groups) > 0)


def by_queue(of, queues):
    check("all queues are counted", queues, int(of["ringq_queues"].samples[0].value))
    check("those without series are counted", queues - OWN_SERIES, int(of["ringq_queues_overflow"].samples[0].value))
    ready = {sample.labels["queue"]: sample.value for sample in of["ringq_queue_messages_ready"].samples}
    check("the number of series is bounded", OWN_SERIES + 1, len(ready))
    check("the rest is summed up", True, ready[OTHERS] > 0)
    check("nothing is missing from the sum", queues - 1, int(sum(ready.values())))
    puts = sum(sample.value for sample in of["ringq_queue_puts"].samples)
    check("nor from the puts", queues, int(puts))
    check("puts of all queues are puts of the server", puts, of["ringq_puts"].samples[0].value)
    shown = ['quote"inside', "back\\slash\\n", '}_1{a="b"}', "caf\u00e9", "#_HELP"]
    check("names come through as they are", [], [name for name in shown if name not in ready])
    check("two that are not UTF-8 stay two", 2, len([name for name in ready if name.startswith("not\ufffdutf8 #")]))


checks.run(main)
