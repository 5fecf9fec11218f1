"""What a result says about where it comes from: machine, commit, versions."""

import os
import sys
from pathlib import Path

from servers import output_of

ROOT = Path(__file__).resolve().parent.parent


def facts(servers, missing, directory):
    git = ["git", "-C", str(ROOT)]
    commit = output_of(git + ["rev-parse", "--short=12", "HEAD"]) or "unknown"
    changed = " with changes" if output_of(git + ["status", "--porcelain", "--untracked-files=no"]) else ""
    versions = {server.label: server.version or "unknown" for server in servers}
    return {
        "command": ["bench/compare.py"] + sys.argv[1:],
        "commit": commit + changed,
        "kernel": f"{os.uname().sysname} {os.uname().release}",
        "CPU": field("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memory": f"{int(field('/proc/meminfo', 'MemTotal').split()[0]) / 2**20:.1f} GiB",
        "file system of the data": file_system(directory),
        "load average at the start": " ".join(f"{value:.2f}" for value in os.getloadavg()),
        "versions": versions | missing,
    }


def field(path, name):
    lines = Path(path).read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "unknown")


def file_system(path):
    """The type of the file system `path` is on: durable figures mean nothing on tmpfs."""
    best = ("", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind = line.split()[:3]
        inside = str(path) == mount or str(path).startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best[0]):
            best = (mount, kind)
    return best[1]
