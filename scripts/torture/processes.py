"""The processes of a torture: simulated servers that die and come back, and the job, by whose folder its ranks are found."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import time
import urllib.request
from collections import Counter

# An endpoint is asked directly, whatever proxy the environment names.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def until(seconds, holds):
    end = time.monotonic() + seconds
    while not (found := holds()) and time.monotonic() < end:
        time.sleep(0.02)
    return found


class Server:
    """A simulated server that dies and comes back on its port; `seen` adds up over its lives."""

    def __init__(self, program, ports, flags, folder):
        self.program, self.flags, self.folder = program, flags, folder
        self.process, self.back_at, self.lives, self.seen = None, None, 0, Counter()
        self.port = next(port for port in ports if is_free(port))
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self, more=()):
        """Another life. The port may be held for a moment by what the last one left."""
        self.lives, self.back_at = self.lives + 1, None
        self.log = self.folder / f"server-{self.port}-{self.lives}.log"
        command = [self.program, "--port", str(self.port), "--exit-with-parent", "--tell-seen", *self.flags, *more]

        def ready():
            with open(self.log, "w") as log:
                self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            until(10, lambda: "ready" in self.log.read_text() or not self.lives_on())
            return "ready" in self.log.read_text()

        if not until(15, ready):
            raise RuntimeError(f"no server on port {self.port}: {self.log.read_text()}")

    def lives_on(self):
        return self.process is not None and self.process.poll() is None

    def now_seen(self):
        """What this life has seen so far, by its own word; nothing where it hangs."""
        try:
            with DIRECT.open(self.url + "/sim/seen", timeout=2) as answer:
                return json.load(answer)
        except (OSError, ValueError):
            return {}

    def end(self, how=signal.SIGKILL):
        """Ends this life. What it has seen is asked before a kill, or told by a death of its own."""
        if self.process is None:
            return
        seen = {}
        if self.lives_on():
            seen = self.now_seen()
            self.process.send_signal(how)
            if not until(0.5, lambda: not self.lives_on()):  # it drains or hangs, as some do
                self.process.kill()
        self.process.wait()
        told = [line.split(" ", 2)[2] for line in self.log.read_text().splitlines() if line.startswith("seen ")]
        self.seen.update(numbers(json.loads(told[0]) if told else seen))
        self.process = None

    def total(self):
        alive = numbers(self.now_seen()) if self.lives_on() else {}
        return self.seen + Counter(alive)


def numbers(seen):
    """What of an endpoint's counts is added up; answers that a fault spoilt cost a whole list."""
    spoilt = seen.get("faults", 0) * max(1, seen.get("largest_list", 0))
    return {"served": seen.get("served", 0), "requests": seen.get("requests", 0), "spoilt": spoilt}


def is_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


class Job:
    """A start of the program in a folder of its own, by which its processes are known."""

    def __init__(self, launcher, command, folder, log):
        self.command, self.folder, self.alone, self.began = [*launcher, *command], str(folder), not launcher, time.monotonic()
        with open(log, "w") as out:
            out.write(f"$ {' '.join(self.command)}\n")
            out.flush()
            self.process = subprocess.Popen(self.command, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def runs(self):
        return self.process.poll() is None

    def seconds(self):
        return time.monotonic() - self.began

    def processes(self):
        return [int(it) for it in os.listdir("/proc") if it.isdigit() and read_link(f"/proc/{it}/cwd") == self.folder]

    def rank(self, number):
        """The process that is this rank; without a launcher the only one."""
        names = {f"{name}={number}".encode() for name in ("PMI_RANK", "OMPI_COMM_WORLD_RANK")}
        for pid in self.processes():
            program = read(f"/proc/{pid}/cmdline").split(b"\0")[0]
            if program.endswith(b"aurora-swarm") and (self.alone or names & set(read(f"/proc/{pid}/environ").split(b"\0"))):
                return pid
        return None

    def kill_all(self):
        for _ in range(3):  # some may be born meanwhile
            for pid in self.processes():
                send(pid, signal.SIGKILL)


def read(path):
    try:
        return pathlib.Path(path).read_bytes()
    except OSError:
        return b""


def read_link(path):
    try:
        return os.readlink(path)
    except OSError:
        return None


def send(pid, which):
    try:
        os.kill(pid, which)
        return True
    except (ProcessLookupError, TypeError):  # (no such rank is None)
        return False
