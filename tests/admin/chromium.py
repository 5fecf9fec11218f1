"""A headless Chromium driven over its DevTools pipe (--remote-debugging-pipe), so that no Python package is needed: one browser, one
page, what the page complained about and what it fetched. It judges nothing."""

import base64
import json
import os
import queue
import shutil
import signal
import subprocess
import tempfile
import threading
import time

# How long Chromium may take for one command.
COMMAND_TIMEOUT_S = 60
KEYS = {"Enter": (13, "\r"), "Tab": (9, ""), "ArrowLeft": (37, ""), "ArrowRight": (39, ""), "Escape": (27, ""), "End": (35, ""), "Home": (36, "")}


def executable():
    """Chromium's path, or None where there is none. RINGQ_CHROMIUM names another one."""
    names = [os.environ.get("RINGQ_CHROMIUM"), "chromium", "chromium-browser", "google-chrome"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


class Browser:
    """A browser with one page. Close it in any case."""

    def __init__(self, path):
        self.profile = tempfile.mkdtemp(prefix="ringq-chromium-")
        to_browser, from_us = os.pipe()
        from_browser, to_us = os.pipe()
        flags = ["--headless=new", "--remote-debugging-pipe", f"--user-data-dir={self.profile}", "--no-first-run", "--disable-gpu",
                 "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
                 "--force-color-profile=srgb", "--hide-scrollbars"]
        if os.geteuid() == 0:
            # Chromium's sandbox refuses root, as which tests run in containers. It sees only the page under test.
            flags.append("--no-sandbox")

        def place_pipes():
            # Chromium reads commands from 3 and writes to 4. Duplicated first: one of the pipes may have these numbers itself.
            reading, writing = os.dup(to_browser), os.dup(to_us)
            os.dup2(reading, 3)
            os.dup2(writing, 4)

        self.log = open(os.path.join(self.profile, "log"), "wb")
        self.process = subprocess.Popen([path, *flags, "about:blank"], close_fds=False, preexec_fn=place_pipes, start_new_session=True,
                                        stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        os.close(to_browser)
        os.close(to_us)
        self.commands, self.answers = os.fdopen(from_us, "wb", 0), os.fdopen(from_browser, "rb")
        self.replies, self.number, self.session = queue.Queue(), 0, None
        # What the page logged as an error or threw, and every address it asked for.
        self.complaints, self.requests = [], []
        threading.Thread(target=self._read, daemon=True).start()
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(f"{domain}.enable")

    def close(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.profile, ignore_errors=True)

    def command(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.commands.write(json.dumps(message).encode() + b"\0")
        while True:
            reply = self.replies.get(timeout=COMMAND_TIMEOUT_S)
            if reply.get("id") == self.number:
                if "error" in reply:
                    raise RuntimeError(f"{method}: {reply['error']}")
                return reply["result"]

    def _read(self):
        buffer = b""
        while piece := os.read(self.answers.fileno(), 1 << 16):
            *messages, buffer = (buffer + piece).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self.replies.put(message)
                else:
                    self._note(message["method"], message["params"])

    def _note(self, method, params):
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"].get("exception", {}).get("description", params)))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(" ".join(str(each.get("value", each.get("description"))) for each in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Page.javascriptDialogOpening":
            self.complaints.append(f"a dialog: {params['message']}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def open(self, url):
        self.command("Page.navigate", url=url)

    def evaluate(self, expression):
        result = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait(self, expression, timeout_s=20):
        """Waits until the expression is true; tells whether it became so."""
        deadline = time.monotonic() + timeout_s
        while not self.evaluate(expression):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def press(self, key):
        code, text = KEYS[key]
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.command("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.command("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text):
        self.command("Input.insertText", text=text)

    def move(self, x, y):
        self.command("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def resize(self, width, height, mobile=False):
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2 if mobile else 1, mobile=mobile)

    def scheme(self, name):
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def screenshot(self, path, height_max=None):
        """The whole page, or its upper part."""
        size = self.command("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], height_max or size["height"]), "scale": 1}
        data = self.command("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))
