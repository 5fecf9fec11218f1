"""The pictures of the dashboard for docs/images, of a server under a load as it might be at work: eight queues, one of which its
consumers do not keep up with, bursts in another, checkpoints in between. It starts and ends the server, its clients and the browser.
It judges only that the page is live and has nothing to complain about; whoever runs it looks at the pictures.

Usage: python screenshots.py RINGQ RINGQCTL DIRECTORY [--seconds N]

Writes dashboard-light.png, dashboard-dark.png and dashboard-phone.png, and top.txt: what `ringqctl top` says at the same time,
for OPERATIONS.md."""

import argparse
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import chromium

WIDTH, PHONE_WIDTH = 1360, 390
# Of the phone the first screens; the rest is the same as on the others.
PHONE_HEIGHT = 1300
# Clients send what is due since the last time.
TICK_S = 0.05
WAIT_MS = 2000
IN_FLIGHT = 16
BURST, BURST_EVERY_S, BURST_S = 3000, 75, 2
START_TIMEOUT_S = 30
CHECKPOINTS_AT = (0.4, 0.8)
TOKEN = "a-token-of-some-length"

# Queue, puts a second, bytes, gets a second; None: its consumers wait for messages, as many as there are. Only those of thumbnails
# are too slow.
QUEUES = [
    ("orders", 400, 600, None), ("mail", 180, 1400, None), ("thumbnails", 90, 300, 62), ("billing.invoices", 40, 900, None),
    ("search-index", 120, 200, 500), ("webhooks", 150, 800, 400), ("audit", 220, 250, 600), ("sms", 15, 160, None),
]


class Load:
    """Clients of a server, a connection each, until they are stopped."""

    def __init__(self, port):
        self.port, self.ended, self.failures = port, threading.Event(), []
        self.begun = time.monotonic()
        for name, puts, size, gets in QUEUES:
            self.begin(self.put, name, puts, size)
            for _ in range(2):
                self.begin(*((self.wait, name) if gets is None else (self.get, name, gets / 2)))

    def begin(self, run, *arguments):
        def client():
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
                    run(connection, connection.makefile("rb"), *arguments)
            except (OSError, ValueError) as error:
                if not self.ended.is_set():
                    self.failures.append(f"{run.__name__} {arguments}: {error!r}")

        threading.Thread(target=client, daemon=True).start()

    def due(self, rate):
        """How many requests are due, every time when some are."""
        done = 0.0
        while not self.ended.wait(TICK_S):
            now = time.monotonic() - self.begun
            count = int(total(rate, now) - done)
            done += count
            if count:
                yield count

    def put(self, connection, replies, name, rate, size):
        request = f"set {name} 0 0 {size}\r\n".encode() + b"x" * size + b"\r\n"
        bursts = 0
        for count in self.due(rate):
            if name == "search-index" and time.monotonic() - self.begun > (bursts + 0.5) * BURST_EVERY_S:
                bursts += 1
                count += BURST
            connection.sendall(request * count)
            for _ in range(count):
                reply = replies.readline()
                if reply != b"STORED\r\n":
                    raise ValueError(f"a put was answered {reply!r}")

    def get(self, connection, replies, name, rate):
        for count in self.due(rate):
            connection.sendall(f"get {name}\r\n".encode() * count)
            for _ in range(count):
                read_message(replies)

    def wait(self, connection, replies, name):
        request = f"get {name}/t={WAIT_MS}\r\n".encode()
        connection.sendall(request * IN_FLIGHT)
        while not self.ended.is_set():
            read_message(replies)
            connection.sendall(request)


def total(rate, seconds):
    """Requests due until then: the rate goes up and down by a quarter, in a minute and a half."""
    turn = 2 * math.pi / 90
    return rate * (seconds + 0.25 * (1 - math.cos(turn * seconds)) / turn)


def read_message(replies):
    line = replies.readline()
    if line.startswith(b"VALUE "):
        replies.read(int(line.split()[3]) + 2)
        line = replies.readline()
    if line != b"END\r\n":
        raise ValueError(f"a get was answered {line!r}")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def overview(url):
    with urllib.request.urlopen(f"{url}api/v1/overview", timeout=10) as answer:
        return json.load(answer)


def wait_for_start(server, url):
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            return overview(url)
        except OSError as error:
            if server.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the server does not answer: {error}")
            time.sleep(0.1)


def checkpoint(port):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(b"db_checkpoint\r\n")
        reply = connection.recv(100)
        if reply != b"OK\r\n":
            sys.exit(f"db_checkpoint was answered {reply!r}")


def draw(browser, directory):
    def shot(name, height=None):
        # A poll has to come and what moves has to rest.
        time.sleep(2.5)
        browser.screenshot(os.path.join(directory, f"dashboard-{name}.png"), height)

    for scheme in ("light", "dark"):
        browser.scheme(scheme)
        shot(scheme)
    browser.scheme("light")
    browser.resize(PHONE_WIDTH, 844, mobile=True)
    shot("phone", PHONE_HEIGHT)


def run(arguments, browser, port, url):
    load = Load(port)
    try:
        browser.resize(WIDTH, 900)
        browser.open(url)
        checkpoints = [share * arguments.seconds for share in CHECKPOINTS_AT]
        while (passed := time.monotonic() - load.begun) < arguments.seconds:
            if checkpoints and passed > checkpoints[0]:
                checkpoints.pop(0)
                checkpoint(port)
            if load.failures:
                sys.exit("\n".join(load.failures))
            time.sleep(0.2)
        top = subprocess.run([arguments.ringqctl, "top", "--once", "--server", f"127.0.0.1:{port}"], capture_output=True, text=True, check=True)
        with open(os.path.join(arguments.directory, "top.txt"), "w", encoding="utf-8") as file:
            file.write(top.stdout)
        if not browser.wait("document.getElementById('state-text').textContent === 'live'"):
            sys.exit("the page is not live")
        draw(browser, arguments.directory)
        if browser.complaints:
            sys.exit("the page complained:\n" + "\n".join(browser.complaints))
    finally:
        load.ended.set()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("ringq")
    parser.add_argument("ringqctl")
    parser.add_argument("directory")
    # As long as the charts show at first, so that they are full.
    parser.add_argument("--seconds", type=float, default=300)
    arguments = parser.parse_args()
    path = chromium.executable()
    if path is None:
        sys.exit("chromium is not installed: see make deps")
    os.makedirs(arguments.directory, exist_ok=True)
    scratch = tempfile.mkdtemp(prefix="ringq-screenshots-")
    server = browser = None
    try:
        port, admin, token = free_port(), f"127.0.0.1:{free_port()}", os.path.join(scratch, "token")
        with open(os.open(token, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as file:
            file.write(TOKEN)
        server = subprocess.Popen([arguments.ringq, "-l", "127.0.0.1", "-p", str(port), "-t", "2", "-H", os.path.join(scratch, "data"),
                                   "--admin", admin, "--admin-token-file", token], stdin=subprocess.DEVNULL)
        url = f"http://{admin}/"
        wait_for_start(server, url)
        browser = chromium.Browser(path)
        run(arguments, browser, port, url)
    finally:
        if browser is not None:
            browser.close()
        if server is not None:
            server.send_signal(signal.SIGKILL)
            server.wait()
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
