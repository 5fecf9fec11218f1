"""/metrics through Prometheus' own parser for Python: types, names, buckets, and as many queues as there are. Ends with 0 if all is
well, 1 if not, 77 without the parser.

Usage: python metrics.py URL QUEUES"""

import math
import os
import sys
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "clients", "common"))
import checks
from checks import check

try:
    from prometheus_client.parser import text_string_to_metric_families
except ImportError:
    checks.skip("prometheus_client is not installed")

OWN_SERIES = 1000
OTHERS = "(all others)"


def main():
    with urllib.request.urlopen(sys.argv[1], timeout=60) as answer:
        check("the content type is the format's", True, answer.headers["Content-Type"].startswith("text/plain; version=0.0.4"))
        text = answer.read().decode()
    families = list(text_string_to_metric_families(text))
    names = [family.name for family in families]
    check("each family is there once", len(set(names)), len(names))
    check("each has a type", [], [family.name for family in families if family.type not in ("counter", "gauge", "histogram")])
    check("each has a help", [], [family.name for family in families if not family.documentation])
    series = [(sample.name, tuple(sorted(sample.labels.items()))) for family in families for sample in family.samples]
    check("no series is there twice", len(set(series)), len(series))
    of = {family.name: family for family in families}
    for family in families:
        if family.type == "histogram":
            histogram(family)
    by_queue(of, int(sys.argv[2]))


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
