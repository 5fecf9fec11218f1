"""A stand-in for the admin listener, to develop and test the dashboard without a server: the page's files with their headers, the API
with made-up load beside the queues that clients of its small memcache port fill, and actions with the token `secret`.
It keeps nothing: what was put is gone when it ends. Standard library only.

Usage: python mock.py HTTP_PORT MEMCACHE_PORT [--queues N] [--slow-disk]"""

import argparse
import collections
import json
import math
import os
import random
import socketserver
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE_DIR = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "src", "admin")
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TOKEN = "secret"
RATE_SPAN_S = 10
# A name that no server would take, for the page to show as text.
HOSTILE = "<img src=x onerror=alert(1)>"
PREFIXES = ["mail", "thumbnails", "billing.invoices", "search-index", "webhooks", "audit", "sms", "export"]
METRICS = {
    "put": ("command", 1100), "get_hit": ("command", 600), "get_miss": ("command", 40), "get_wait": ("command", 250_000),
    "delete": ("command", 0), "flush": ("command", 0), "checkpoint_command": ("command", 0), "stats": ("command", 90),
    "other": ("command", 20), "journal_collect": ("stage", 130), "journal_write": ("stage", 800), "commit": ("stage", 1000),
    "store_commit": ("stage", 9000), "store_load": ("stage", 300), "forward": ("stage", 60), "queued": ("stage", 700_000),
}

lock = threading.Lock()
started = time.time()


class Queue:
    """One queue: what clients did with it, or load that is computed from the time."""

    def __init__(self, number, name, load=None):
        self.number, self.name, self.load = number, name, load
        self.messages = collections.deque()
        self.put_times, self.get_times = collections.deque(), collections.deque()
        self.puts = self.gets = 0

    def describe(self, now):
        shown = {"id": str(self.number), "name": self.name, "shard": self.number % 2, "open": 0}
        if self.load:
            puts, gets, depth = self.load
            wave = math.sin(now / 17 + self.number)
            growth = (puts - gets) * (now - started)
            ready = max(0, int(depth * (1 + 0.3 * wave) + growth))
            return shown | {
                "ready": ready, "bytes": ready * 700, "puts": int(puts * (now - started)), "gets": int(gets * (now - started)),
                "put_rate": puts * (1 + 0.1 * wave), "get_rate": gets * (1 + 0.1 * wave), "waiters": self.number % 3 if ready == 0 and self.number < 40 else 0,
                "oldest_ms": int(ready / (gets or 1) * 1000) if ready else None,
            }
        rate = lambda times: sum(1 for at in times if at > now - RATE_SPAN_S) / RATE_SPAN_S
        return shown | {
            "ready": len(self.messages), "bytes": sum(len(body) for _, _, body in self.messages), "puts": self.puts, "gets": self.gets,
            "put_rate": rate(self.put_times), "get_rate": rate(self.get_times), "waiters": 0,
            "oldest_ms": int((now - self.messages[0][0]) * 1000) if self.messages else None,
        }


class State:
    """All queues, by name."""

    def __init__(self, loaded, slow_disk):
        self.queues = {}
        self.slow_disk = slow_disk
        chance = random.Random(1)
        for number in range(loaded):
            name = PREFIXES[number] if number < len(PREFIXES) else f"{PREFIXES[number % len(PREFIXES)]}.{number}"
            # A few busy queues, many that are nearly idle.
            puts = 40_000 / (number + 1) ** 1.5
            gets = puts * (0.94 if number == 2 else 1)
            if number == 30:
                name = HOSTILE
            self.add(name, (puts, gets, chance.choice([0, 3, 900, 20_000]) / (1 + number / 50)))

    def add(self, name, load=None):
        self.queues[name] = Queue(len(self.queues) + 1, name, load)
        return self.queues[name]

    def put(self, name, flags, body):
        with lock:
            queue = self.queues.get(name) or self.add(name)
            queue.messages.append((time.time(), flags, body))
            queue.put_times.append(time.time())
            queue.puts += 1

    def get(self, name):
        with lock:
            queue = self.queues.get(name)
            if not queue or not queue.messages:
                return None
            queue.get_times.append(time.time())
            queue.gets += 1
            return queue.messages.popleft()

    def described(self):
        now = time.time()
        with lock:
            return [queue.describe(now) for queue in self.queues.values()]

    def overview(self):
        now, queues = time.time(), self.described()
        uptime = now - started
        # A checkpoint every 15 s of the clock that takes 3 s.
        since = uptime % 15
        end = started + uptime // 15 * 15 if uptime >= 15 else 0
        total = lambda name: int(sum(queue[name] for queue in queues))
        return {
            "version": "1.0.0", "pid": os.getpid(), "uptime_s": int(uptime), "time_ms": int(now * 1000), "started_ms": int(started * 1000),
            "durable": True, "shards": 2, "actions": True, "queues": len(queues), "ready": total("ready"), "waiters": total("waiters"),
            "connections": {"current": 40 + int(8 * math.sin(now / 9)), "max": 65536, "total": int(uptime * 3), "rejected": 0},
            "memory": {"used": min(67108864, 700 * total("ready")), "limit": 67108864},
            "totals": {"puts": total("puts"), "gets": total("gets"), "get_misses": 5, "bytes_read": 1, "bytes_written": 1, "corrupt": 0},
            "journal": {"records": int(uptime * 900), "bytes": int(uptime * 1e6), "mutations": total("puts"), "used": int(since * 3e6),
                        "capacity": 134217728, "refuses_puts": False},
            "checkpoints": {"count": int(uptime / 15), "running": since > 12, "last_end_ms": int(end * 1000), "last_took_ms": 3000,
                            "backlog": int(since * 2e6)},
            "disk": {"free": 41_300_000_000, "min_free": 67108864},
        }

    def latency(self):
        def window(mean, count):
            if mean == 0:
                return dict.fromkeys(["count", "mean", "p50", "p90", "p99", "p999", "max"], 0)
            spread = [1, 1.6, 3, 7, 12]
            values = [int(mean * factor * random.uniform(0.85, 1.2)) for factor in spread]
            return {"count": count, "mean": mean * 1.1} | dict(zip(["p50", "p90", "p99", "p999", "max"], sorted(values)))

        metrics = []
        for name, (kind, mean) in METRICS.items():
            slow = 12 if self.slow_disk and name in ("put", "journal_write", "commit") else 1
            spans = {"total": time.time() - started, "10s": 10, "1m": 60, "5m": 300}
            windows = {span: window(mean * slow, int(900 * seconds) + 1) for span, seconds in spans.items()}
            metrics.append({"name": name, "kind": kind, "windows": windows})
        return {"unit": "us", "metrics": metrics}

    def listed(self, query):
        first = lambda name, default: query.get(name, [default])[0]
        everything = self.described()
        found = [queue for queue in everything if first("filter", "") in queue["name"]]
        column = {"oldest": "oldest_ms"}.get(first("sort", "name"), first("sort", "name"))
        # Ties by name, so that the order is one; queues without an age are the youngest.
        found.sort(key=lambda queue: queue["name"])
        found.sort(key=lambda queue: -1 if queue[column] is None else queue[column], reverse=first("order", "asc") == "desc")
        return {"total": len(everything), "matched": len(found), "queues": found[: int(first("limit", "200"))]}

    def shards(self):
        queues = self.described()
        one = lambda shard: {
            "shard": shard, "connections": 20, "queues": sum(1 for queue in queues if queue["shard"] == shard),
            "ready": sum(queue["ready"] for queue in queues if queue["shard"] == shard), "memory_used": 9_000_000, "pressure": 0.13,
            "waiters": 0, "journal": {"used": 5_000_000, "capacity": 67108864, "records": 812345, "bytes": 912345678, "mutations": 5_000_000,
                                      "under_way": 1},
        }
        return {"shards": [one(0), one(1)]}


class Admin(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state = None

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        answers = {
            "overview": self.state.overview, "latency": self.state.latency, "shards": self.state.shards,
            "queues": lambda: self.state.listed(urllib.parse.parse_qs(url.query)),
            "settings": lambda: {"settings": {"maxbytes": "67108864", "maxconns": "65536", "tcpport": "22201", "num_threads": "2",
                                              "item_size_max": "1048576", "durable": "yes"}},
        }
        name = url.path.removeprefix("/api/v1/")
        if url.path.startswith("/api/v1/") and name in answers:
            return self.answer(200, answers[name]())
        file = os.path.join(PAGE_DIR, "page.html" if url.path == "/" else os.path.basename(url.path))
        extension = os.path.splitext(file)[1]
        if extension in TYPES and os.path.isfile(file):
            with open(file, "rb") as source:
                return self.send(200, TYPES[extension], source.read())
        return self.answer(404, {"error": "there is nothing here"})

    def do_POST(self):
        self.act()

    def do_DELETE(self):
        self.act()

    def act(self):
        if self.headers.get("Authorization") != f"Bearer {TOKEN}" or self.headers.get("Content-Type") != "application/json":
            return self.answer(403, {"error": "the token is not right"})
        words = self.path.removeprefix("/api/v1/").split("/")
        if words == ["checkpoint"] and self.command == "POST":
            return self.answer(200, {"ok": True})
        with lock:
            queue = next((queue for queue in self.state.queues.values() if words[:2] == ["queues", str(queue.number)]), None)
            if queue is None:
                return self.answer(404, {"error": "there is no such queue"})
            queue.messages.clear()
            queue.load = None
            if self.command == "DELETE":
                del self.state.queues[queue.name]
        return self.answer(200, {"ok": True})

    def answer(self, status, value):
        self.send(status, "application/json", json.dumps(value).encode())

    def send(self, status, kind, body):
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": "no-store",
                   "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Content-Security-Policy": POLICY}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Memcache(socketserver.StreamRequestHandler):
    state = None

    def handle(self):
        while line := self.rfile.readline():
            words = line.decode("utf-8", "replace").split()
            if words[:1] == ["set"] and len(words) == 5:
                body = self.rfile.read(int(words[4]) + 2)[:-2]
                self.state.put(words[1], words[2], body)
                self.wfile.write(b"STORED\r\n")
            elif words[:1] == ["get"] and len(words) == 2:
                if taken := self.state.get(words[1]):
                    self.wfile.write(f"VALUE {words[1]} {taken[1]} {len(taken[2])}\r\n".encode() + taken[2] + b"\r\n")
                self.wfile.write(b"END\r\n")
            else:
                self.wfile.write(b"ERROR\r\n")


class MemcacheServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("http_port", type=int)
    parser.add_argument("memcache_port", type=int)
    parser.add_argument("--queues", type=int, default=3000)
    parser.add_argument("--slow-disk", action="store_true")
    arguments = parser.parse_args()
    Admin.state = Memcache.state = State(arguments.queues, arguments.slow_disk)
    memcache = MemcacheServer(("127.0.0.1", arguments.memcache_port), Memcache)
    threading.Thread(target=memcache.serve_forever, daemon=True).start()
    ThreadingHTTPServer(("127.0.0.1", arguments.http_port), Admin).serve_forever()


if __name__ == "__main__":
    main()
