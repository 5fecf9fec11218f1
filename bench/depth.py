"""Ten million messages queued: how fast they drain, what memory they take, and how long a start takes.

A drain from a deep queue is compared with one from a queue that never holds more than 10,000 messages. That one is over
in some 20 ms, so it is filled and drained over and over, and the drains' times are added up. Both are drained by few
connections with many requests in flight: accepting 64 would be a third of so short a drain, although its clock starts
when all are connected. A mixed load that holds the depth would not do: its puts take part of the time, and more of it
the slower gets are. The deep queue is drained in slices, one a round, in turn with the other; the first second of
each, in which what was read ahead before goes out, does not count. The two queues are in two servers, of which one is
stopped while the other works.

Starts are measured after kill -9 in the midst of puts, so that the journal has something to replay. The database's pages
are still in the page cache then.
"""

import time
from pathlib import Path

import servers
from servers import proc_status
from targets import DEEP_CELL

PART = "depth"
MESSAGES = 10_000_000
SHALLOW = 10_000
ROUNDS = 5
CYCLES = 40
STARTS = 5
# How long puts go on before a kill.
PUTS_BEFORE_KILL_S = 1.0
SLICE_WARMUP_S = 0.3
HOW = ["-c", DEEP_CELL[0], "-P", DEEP_CELL[1]]


def measure(setting, figures):
    deep = servers.ringq(setting.options, "ringq-deep", "RingQ, deep")
    shallow = servers.ringq(setting.options, "ringq-shallow", "RingQ, shallow")
    with setting.running(shallow), setting.running(deep):
        shallow.pause()
        messages = setting.scaled(MESSAGES)
        rss_mb = fill(setting, figures, deep, messages)
        rss_mb = max(rss_mb, measure_starts(setting, figures, deep))
        figures.add(PART, "ringq", DEEP_CELL, 1, "rss", rss_anon_mb=rss_mb)
        setting.say(f"{PART}: memory and starts measured")
        for round_number in range(1, ROUNDS + 1):
            drain_deep(setting, figures, deep, messages // ROUNDS, round_number)
            deep.settle()
            deep.pause()
            shallow.resume()
            drain_shallow(setting, figures, shallow, round_number)
            shallow.settle()
            shallow.pause()
            deep.resume()
    setting.say(f"{PART}: drains measured")


def fill(setting, figures, server, messages):
    """Fills the queue; returns the most RssAnon in MB that was seen meanwhile and after."""
    result = setting.load(server, "fill", *HOW, "-n", messages)
    during_mb, after_mb = (result["server"][field] / 2**20 for field in ("rss_anon_max_size", "rss_anon_end_size"))
    database_gb = (server.data / server.database).stat().st_size / 1e9
    figures.add_evidence(PART, f"{result['put']['count']:,} messages of 100 B put in {result['elapsed_s']:.1f} s, every message "
                               f"durable; the database has {database_gb:.1f} GB; RssAnon {after_mb:.0f} MB, at most {during_mb:.0f} MB")
    return max(during_mb, after_mb)


def measure_starts(setting, figures, server):
    """Kills and starts; returns the most RssAnon in MB that was seen after a start."""
    rss_mb, starts = 0, []
    for round_number in range(1, STARTS + 1):
        with setting.load_in_background(server, "fill", *HOW, "-d", 30):
            time.sleep(PUTS_BEFORE_KILL_S)
            server.kill()
        took_s = server.start(setting.directory, setting.options.server_pin)
        figures.add(PART, "ringq", DEEP_CELL, round_number, "start", start_s=took_s)
        starts.append(f"{took_s:.2f}")
        rss_mb = max(rss_mb, proc_status(server.process.pid, "RssAnon") / 1024)
    figures.add_evidence(PART, f"starts after kill -9 amid puts, until `version` is answered: {', '.join(starts)} s; "
                               f"RssAnon after a start at most {rss_mb:.0f} MB")
    return rss_mb


def drain_deep(setting, figures, server, messages, round_number):
    cpu_s = cpu_seconds(server)
    result = setting.load(server, "drain", *HOW, "-n", messages, "-w", setting.scaled(SLICE_WARMUP_S, 0.05))
    cpu_s = cpu_seconds(server) - cpu_s
    figures.add_load(PART, server, DEEP_CELL, round_number, "drain", result)
    figures.add_evidence(PART, f"round {round_number}: deep {result['get']['per_second']:,.0f}/s, "
                               f"{1e6 * cpu_s / messages:.2f} µs of server CPU a message")


def drain_shallow(setting, figures, server, round_number):
    count, elapsed_s, cpu_s, limited = 0, 0.0, 0.0, 0
    cycles = setting.scaled(CYCLES)
    for _ in range(cycles):
        setting.load(server, "fill", *HOW, "-n", SHALLOW)
        before_s = cpu_seconds(server)
        result = setting.load(server, "drain", *HOW)
        cpu_s += cpu_seconds(server) - before_s
        count += result["get"]["count"]
        elapsed_s += result["elapsed_s"]
        limited += result["client_limited"]
    figures.add(PART, server.name, DEEP_CELL, round_number, "drain", per_second=count / elapsed_s,
                client_limited=2 * limited > cycles)
    figures.add_evidence(PART, f"round {round_number}: shallow {count / elapsed_s:,.0f}/s in {cycles} drains, "
                               f"{1e6 * cpu_s / count:.2f} µs of server CPU a message")


def cpu_seconds(server):
    """CPU time of all threads that live, to the nanosecond, unlike /proc/PID/stat."""
    tasks = Path(f"/proc/{server.process.pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
