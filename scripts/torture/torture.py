"""Torture of the whole program; scripts/torture.sh starts it.

    torture.py FOLDER MINUTES SEED ROUND     FOLDER holds aurora-swarm and vllm-sim

A round is an input that is answered in several starts. Starts are disturbed until the plan has no more of them or time is
up (0 minutes are one whole round); the last one is calm, and has to end the round.
"""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request
from collections import Counter

from judge import Judge, Wrong, check
from plan import CHATML, Model, Rows, Start, sick
from processes import DIRECT, Job, Server, send, until

KEEP = bool(os.environ.get("KEEP"))
# What people do to a job, after which its launcher may make any code of it.
VIOLENT = {"rank", "mpiexec", "all", "stop", "term"}


class Round:
    def __init__(self, torture, number):
        self.torture, self.number, self.starts, self.window = torture, number, 0, 0
        self.folder = torture.scratch / f"round-{number}"
        self.job_folder = self.folder / "job"
        self.job_folder.mkdir(parents=True)
        rng = self.draw("round")
        self.rows = Rows(rng, self.folder)
        self.model = Model(rng, self.rows)
        self.disturbed, self.rebuild = rng.randint(2, 6), rng.random() < 0.3
        self.judge = Judge(torture.swarm, self.rows.shown, self.folder / "answers.jsonl")
        self.servers = [self.server(self.model.pace) for _ in range(self.model.servers)]
        self.deciding = ["run", str(self.rows.file), "--output", str(self.judge.output), "--bad-rows", "fail", "--temperature", "0",
                         "--api", self.rows.api, "--max-tokens", str(self.rows.max_tokens), "--progress", "none"]
        if self.rows.talks and rng.random() < 0.5:
            template = self.folder / "chatml.jinja"
            template.write_text(CHATML)
            self.deciding += ["--chat-template", str(template)]
        for server in self.servers:
            self.deciding += ["--endpoint", server.url]

    def server(self, pace):
        return Server(self.torture.sim, self.torture.ports, self.model.answers + pace, self.folder)

    def draw(self, *path):
        """Random numbers of its own for each part: none depends on how long another took."""
        return random.Random("/".join(str(it) for it in (self.torture.seed, self.number, *path)))

    def say(self, text):
        with open(self.folder / "story.txt", "a") as story:
            story.write(f"{time.strftime('%H:%M:%S')} {text}\n")

    def run(self):
        self.expect()
        finished = False
        while not finished:
            calm = self.starts >= self.disturbed or (self.torture.minutes > 0 and self.torture.is_over())
            start = self.next_start(calm)
            self.prepare(start)
            code = self.play(start)
            finished = self.judge.after(code, calm, merge=self.draw("merge", self.starts).random() < 0.3)
            check(finished or not calm, "a start without faults does not end the round")
        if self.rebuild:
            self.again()
        self.account()

    def next_start(self, calm):
        self.starts += 1
        return Start(self.draw("start", self.starts), self.model, calm)

    def expect(self):
        """Asks a server without faults for every answer, in lists."""
        oracle = self.server(["--instant"])
        oracle.start()
        groups = {}
        for shown in self.rows.answerable:
            groups.setdefault((shown["max_tokens"], shown["ignore_eos"]), []).append(shown)
        for (max_tokens, ignore_eos), group in groups.items():
            for part in (group[at:at + 500] for at in range(0, len(group), 500)):
                body = {"prompt": [it["text"] for it in part], "max_tokens": max_tokens, "ignore_eos": ignore_eos, "temperature": 0}
                headers = {"Content-Type": "application/json"}
                asked = urllib.request.Request(oracle.url + "/v1/completions", json.dumps(body).encode(), headers)
                with DIRECT.open(asked, timeout=60) as answer:
                    for choice in json.load(answer)["choices"]:
                        part[choice["index"]].update(response=choice["text"], finish_reason=choice["finish_reason"])
        oracle.end()
        texts = {it["text"] for it in self.rows.answerable}
        said = {it["response"][:8] for it in self.rows.answerable}
        assert len(said) >= 0.9 * len(texts), "prompts of the same answer prove nothing"

    def faults(self, rng):
        return sick(rng, self.rows.count // self.model.servers) if rng.random() < 0.6 else []

    def prepare(self, start):
        """All servers are there: some as they were, some with other faults; for a calm start all are well."""
        for at, server in enumerate(self.servers):
            rng = self.draw("start", self.starts, "server", at)
            if not start.calm and server.lives_on() and rng.random() < 0.4:
                continue
            server.end(rng.choice([signal.SIGTERM, signal.SIGKILL]))
            server.start([] if start.calm else self.faults(rng))

    def revive(self):
        """Servers that died come back after a while."""
        for at, server in enumerate(self.servers):
            if server.lives_on():
                continue
            rng = self.draw("start", self.starts, "server", at, "life", server.lives)
            if server.back_at is None:
                self.say(f"server {at} is dead")
                server.end()
                server.back_at = time.monotonic() + rng.uniform(0.2, 4)
            elif time.monotonic() >= server.back_at:
                server.start(self.faults(rng))
                self.say(f"server {at} is back")

    def play(self, start):
        """One start with all that befalls it: its exit code."""
        name, log = f"start {self.starts}", self.folder / f"start-{self.starts}.log"
        events, done, stopped, told_to_end = list(start.events), [], {}, None
        before, goal = self.judge.lines(), len(self.rows.shown) - len(self.judge.answered)
        command = [self.torture.swarm, *self.deciding, *start.options]
        self.say(f"{name}{' (calm)' if start.calm else ''}: ranks={start.ranks} {' '.join(start.options)} {start.events}")
        job = self.torture.job = Job(self.torture.launcher(start.ranks), command, self.job_folder, log)
        patience = self.patience(start)
        while job.runs():
            check(job.seconds() < patience, f"{name} hangs: it has run for {job.seconds():.0f} s")
            share = (self.judge.lines() - before) / goal if goal and events else 0
            for event in [it for it in events if job.seconds() >= it.get("after", 1e9) or share >= it.get("share", 1e9)]:
                events.remove(event)
                hit = self.befall(event, job, stopped)
                done += [event["what"]] * hit
                told_to_end = job.seconds() if event["what"] == "term" else told_to_end
                self.say(f"{event['what']} ({'done' if hit else 'nobody there'}) after {job.seconds():.2f} s")
            for pid in [pid for pid, (end, _) in stopped.items() if job.seconds() >= end]:
                send(pid, stopped.pop(pid)[1])
                self.say(f"rank goes on or is killed after {job.seconds():.2f} s")
            self.revive()
            time.sleep(0.01)
        took, code = job.seconds(), job.process.returncode
        self.say(f"{name} ended with {code} after {took:.2f} s")
        self.torture.count(start, done, took, outlasted=len(stopped))
        if "mpiexec" in done:  # nobody is left who could end a stopped rank
            for pid in stopped:
                send(pid, signal.SIGCONT)
        left = until(10, lambda: not job.processes()) or job.processes()
        check(left is True, f"{name} leaves processes behind: {left}")
        if done:  # what was under way may be asked again
            self.window += sum(server.now_seen().get("most_in_flight", 0) for server in self.servers)
        said = log.read_text(errors="replace")
        check("panicked" not in said and "this is a bug" not in said, f"{name} panicked")
        if "stop" not in done:
            check(start.walltime is None or took < start.walltime + 4, f"{name} has {start.walltime} s and took {took:.1f} s")
            check(told_to_end is None or took < told_to_end + 14, f"{name} took {took - (told_to_end or 0):.1f} s to end after SIGTERM")
        fine = {0, 3} if start.calm else {0, 3, 6, 75}
        check(code in fine or (VIOLENT & set(done) and code not in (2, 5, 70, 71)), f"{name} ended with {code}")
        return code

    def patience(self, start):
        """After this a start hangs: many times what it should take."""
        stops = sum(event["for"] for event in start.events if event["what"] == "stop")
        return 60 + 5 * self.model.seconds + 8 * start.timeout + 2 * start.ready + 4 * start.silence + stops

    def befall(self, event, job, stopped):
        """Carries out an event; false where it finds nobody."""
        what = event["what"]
        if what == "rank":
            return send(job.rank(event["who"]), signal.SIGKILL)
        if what in ("mpiexec", "term"):
            return send(job.process.pid, signal.SIGKILL if what == "mpiexec" else signal.SIGTERM)
        if what == "stop":
            pid = job.rank(event["who"])
            if not send(pid, signal.SIGSTOP):
                return False
            stopped[pid] = (job.seconds() + event["for"], event["then"])
        elif what == "all":
            job.kill_all()
        elif what == "server":
            self.servers[event["server"]].end()
            self.servers[event["server"]].back_at = time.monotonic() + event["for"]
        elif what == "look":
            if not self.judge.has_run():
                return False
            self.judge.status()
        return True

    def again(self):
        """The finished run without its output: made again, and nobody is asked."""
        before, answers = self.requests(), self.judge.output.read_bytes()
        self.judge.output.unlink()
        code = self.play(self.next_start(calm=True))
        check(code == (3 if len(self.rows.answerable) < self.rows.count else 0), f"made again, it ended with {code}")
        check(self.judge.output.read_bytes() == answers, "made again, the answers are others")
        check(self.requests() == before, "servers were asked though all was answered")
        self.torture.sums["outputs made again"] += 1

    def requests(self):
        return sum(server.total()["requests"] for server in self.servers)

    def account(self):
        """How many answers servers gave beyond one a prompt, and whether kills and faults explain them."""
        for server in self.servers:
            server.end(signal.SIGTERM)
        seen = sum((server.seen for server in self.servers), Counter())
        prompts = len(self.rows.answerable)
        again, reasons = seen["served"] - prompts, seen["spoilt"] + self.window
        self.torture.sums.update({
            "prompts": self.rows.count, "rows checked": self.judge.checked, "asked again": max(0, again),
            "twice in files": self.judge.doubled, "partial merges": self.judge.partials,
        })
        print(f"torture: round {self.number}: {self.rows.count} prompts, {self.model.servers} servers, {self.starts} starts; "
              f"asked again {again} (faults and windows: {reasons}), twice in files {self.judge.doubled}", flush=True)
        check(again <= 2 * reasons + prompts // 2 + 50, f"{again} prompts were asked again, and there is reason for {reasons}")


class Torture:
    def __init__(self, binaries, minutes, seed, first):
        self.began, self.minutes, self.seed, self.first = time.monotonic(), float(minutes), seed, int(first)
        self.scratch = pathlib.Path(tempfile.mkdtemp(prefix="torture."))
        for name in ("aurora-swarm", "vllm-sim"):  # whatever is compiled meanwhile
            shutil.copy(os.path.join(binaries, name), self.scratch)
        self.swarm, self.sim = str(self.scratch / "aurora-swarm"), str(self.scratch / "vllm-sim")
        # Below what the system gives to clients, so that a dead server's port is still its own when it comes back.
        first_port = 20_000 + os.getpid() % 1000 * 10
        self.ports = iter(range(first_port, first_port + 2_000))
        self.rounds, self.longest, self.kinds, self.sums = 0, 0.0, Counter(), Counter()
        self.job = self.round = None

    def launcher(self, ranks):
        if not ranks:
            return []
        mpiexec = os.environ["AURORA_MPIEXEC"]
        version = subprocess.run([mpiexec, "--version"], stdout=subprocess.PIPE, timeout=30).stdout.decode()
        openmpi = any(it in version for it in ("Open MPI", "OpenRTE", "PRRTE"))
        return [mpiexec, *(["--oversubscribe"] if openmpi else []), "-n", str(ranks)]

    def is_over(self):
        return time.monotonic() - self.began >= 60 * self.minutes

    def count(self, start, done, took, outlasted):
        self.sums["starts"] += 1
        self.longest = max(self.longest, took)
        self.kinds.update(done)
        self.kinds["walltime"] += start.walltime is not None
        self.kinds["ended though a rank stood still"] += outlasted

    def run(self):
        print(f"torture: seed {self.seed}, {self.scratch}", flush=True)
        while not self.rounds or not self.is_over():
            self.round = Round(self, self.first + self.rounds)
            self.round.run()
            if not KEEP:
                shutil.rmtree(self.round.folder)
            self.rounds += 1
        kinds = ", ".join(f"{count} {what}" for what, count in sorted(self.kinds.items()) if count)
        sums = ", ".join(f"{count} {what}" for what, count in self.sums.items())
        print(f"torture: {self.rounds} rounds, {sums} ({kinds}; longest start {self.longest:.0f} s), "
              f"{time.monotonic() - self.began:.0f} s, seed {self.seed}: nothing lost, doubled or wrong")

    def tidy(self):
        if self.job:
            self.job.kill_all()
            self.job.process.wait()
        for server in self.round.servers if self.round else []:
            if server.lives_on():
                server.process.kill()
                server.process.wait()

    def explain(self, error):
        folder = self.round.folder if self.round else self.scratch
        for log in sorted(folder.glob("start-*.log"), key=os.path.getmtime)[-2:] + sorted(folder.glob("story.txt")):
            print(f"--- {log}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-40:]), file=sys.stderr)
        number = self.round.number if self.round else 1
        print(f"FAILED torture: {error}\nseed {self.seed}, round {number}, kept: {folder}", file=sys.stderr)


def main():
    torture, keep = Torture(*sys.argv[1:]), KEEP
    for which in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(which, lambda number, _: sys.exit(128 + number))
    try:
        torture.run()
    except Exception as error:  # whatever it is, the folder tells more
        keep = True
        torture.explain(error if isinstance(error, Wrong) else traceback.format_exc())
        sys.exit(1)
    finally:
        torture.tidy()
        if not keep:
            shutil.rmtree(torture.scratch, ignore_errors=True)


main()
