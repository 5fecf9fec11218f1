"""The setting all measurements share: options, where data go, who runs on which core, and the load generator."""

import contextlib
import json
import subprocess
import sys

from servers import Failure


class Setting:
    """`servers` are those of the grid that are there, by name; `missing` says why others are not."""

    def __init__(self, options, servers, missing, directory):
        self.options, self.servers, self.missing, self.directory = options, servers, missing, directory

    def say(self, text):
        """Tells whoever waits how far it is."""
        print(text, file=sys.stderr, flush=True)

    def running(self, server):
        """`server` on the servers' core for as long as the context lasts."""
        return server.running(self.directory, self.options.server_pin)

    def scaled(self, whole, least=1):
        """A length or a count of a whole run, in a run of this scale."""
        return max(least, type(whole)(whole * self.options.scale))

    def load(self, server, workload, *arguments, pin=None):
        """One run of the load generator; its results."""
        path = self.directory / "run.json"
        command = self.load_command(server, workload, *arguments, pin=pin) + ["--json", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failure(f"{server.label}: {' '.join(command)}\n{done.stderr}{server.log_tail()}")
        return json.loads(path.read_text())

    def load_command(self, server, workload, *arguments, pin=None):
        command = [self.options.bench, workload, "-t", f"127.0.0.1:{server.port}", "--protocol", server.protocol]
        command += ["--server-pid", str(server.process.pid), *(self.options.load_pin if pin is None else pin)]
        return command + (["--cache"] if server.kind == "cache" else []) + [str(argument) for argument in arguments]

    @contextlib.contextmanager
    def load_in_background(self, server, workload, *arguments):
        """A run whose results nobody wants, ended with the context if it has not ended by itself."""
        command = self.load_command(server, workload, *arguments)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            process.kill()
            process.wait()

    def empty(self, server):
        if server.kind == "queue":
            self.load(server, "drain", "-c", 16, "-P", 16)
