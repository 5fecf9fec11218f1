"""Sustained load: a minute of 1 KB puts, then a minute of gets, far beyond any memory a server may use.

What a short phase hides shows here: buffers that fill up, checkpoints that hold up puts, reads that come from the disk.
Each server runs alone, one after the other. The figures are the rate, and the slowest whole second against the median
one; the first second, in which a load begins, is not among them.
"""

import shutil
import statistics
from pathlib import Path

from targets import BUSY

PART = "sustained"
SERVERS = ("ringq", "redis-always", "ringq-N")
SIZE = 1024
SECONDS = 60.0
# Puts end here at the latest: 6 GB of messages. Redis has them in memory and in its file, RingQ in its database.
MESSAGES_MAX = 6_000_000
# Shares of free disk space and of available memory that may be used; a database's pages are half full at worst.
DISK_SHARE, MEMORY_SHARE = 0.25, 0.5
SECONDS_MIN = 3


def measure(setting, figures):
    messages = message_count(setting)
    seconds = setting.scaled(SECONDS, SECONDS_MIN + 2.0)
    figures.add_evidence(PART, f"c{BUSY[0]} p{BUSY[1]}, {SIZE} B; puts and gets each end after {seconds:g} s or {messages:,} "
                               "messages, whichever is first; -m 64")
    for name in SERVERS:
        if name in setting.servers:
            measure_server(setting, figures, setting.servers[name], seconds, messages)
            setting.say(f"{PART}: {name} measured")


def message_count(setting):
    """As many as disk and memory can take."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    memory = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    room = min(shutil.disk_usage(setting.directory).free * DISK_SHARE, memory * MEMORY_SHARE)
    return min(setting.scaled(MESSAGES_MAX), int(room / SIZE))


def measure_server(setting, figures, server, seconds, messages):
    how = ["-c", BUSY[0], "-P", BUSY[1], "-d", seconds]
    with setting.running(server):
        fill = setting.load(server, "fill", *how, "-s", SIZE, "-n", messages)
        stored_gb = sum(file.stat().st_blocks * 512 for file in server.data.rglob("*") if file.is_file()) / 1e9
        figures.add_evidence(PART, f"{server.label}: {stored_gb:.1f} GB on disk after the puts")
        drain = setting.load(server, "drain", *how)
    for phase, result in (("put", fill), ("get", drain)):
        add_seconds(figures, server, phase, result)


def add_seconds(figures, server, phase, result):
    """The whole seconds but the first."""
    counts = [second[phase + "s"] for second in result["series"]][1:int(result["elapsed_s"])]
    enough = len(counts) >= SECONDS_MIN and any(counts)
    share = min(counts) / statistics.median(counts) if enough else None
    figures.add_load(PART, server, BUSY, 1, phase, result, slowest_share=share, seconds=counts)
    text = f"{server.label}, {phase}: {result[phase]['count']:,} messages in {result['elapsed_s']:.1f} s"
    if enough:
        text += (f"; a second's least {min(counts):,}, median {statistics.median(counts):,.0f}, most {max(counts):,}; "
                 f"longest wait {result[phase]['max_us'] / 1000:,.0f} ms")
    else:
        figures.notes.append(f"{PART}, {server.label}, {phase}: over in {result['elapsed_s']:.1f} s, too soon to compare seconds")
    figures.add_evidence(PART, text)
