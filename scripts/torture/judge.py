"""What must hold after each start: the run's files agree with each other, with the servers' right answers, and with what
was there before.
"""

import json
import subprocess

PASSES = "exhausted"  # the one kind of failure that may befall any prompt; it is asked again


class Wrong(Exception):
    """The program did what it must not."""


def check(holds, what):
    if not holds:
        raise Wrong(what)


class Judge:
    def __init__(self, swarm, shown, output):
        self.swarm, self.shown, self.output = swarm, shown, output
        self.run_folder = output.with_name(output.name + ".run")
        self.answered, self.doubled, self.checked, self.partials = set(), 0, 0, 0
        self.answerable = sum("text" in row for row in shown)

    def has_run(self):
        return (self.run_folder / "manifest.json").exists()

    def lines(self):
        """Outcomes on disk. A file's first line is its head."""
        return sum(max(0, file.read_bytes().count(b"\n") - 1) for file in self.shards())

    def shards(self):
        return sorted((self.run_folder / "shards").rglob("*.jsonl"))

    def command(self, *words):
        command = [self.swarm, *map(str, words)]
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30)
        check(ended.returncode == 0, f"{' '.join(command)} ended with {ended.returncode}: {ended.stdout.decode()}")
        return ended.stdout.decode()

    def status(self):
        """The run's own count, which has to add up at any moment."""
        counts = json.loads(self.command("status", self.output, "--json", "--verify"))
        found = counts["answered"] + counts["failed"] + counts["open"]
        check(counts["submitted"] == len(self.shown) == found, f"status does not add up: {counts}")
        return counts

    def row(self, row, where, calm=False):
        """Is it what it must be? Returns whether it is answered. After a calm start none has failed by servers' faults."""
        at, shown = row["index"], self.shown[row["index"]]
        check(row["id"] == shown["id"], f"{where}: row {at} has the id {row['id']!r} instead of {shown['id']!r}")
        if not row["success"]:
            allowed = {shown.get("kind")} | ({PASSES} if not calm else set())
            check(row["error"]["kind"] in allowed, f"{where}: row {at} failed with {row['error']}, allowed is {allowed}")
            return False
        check("text" in shown, f"{where}: row {at} is answered and must fail")
        for key in ("response", "finish_reason"):
            check(row[key] == shown[key], f"{where}: row {at} has {key} {row[key]!r} instead of {shown[key]!r}")
        return True

    def journal(self):
        """Every outcome on disk is right, and no answer of an earlier start is gone. Returns who is answered and who failed."""
        answered, failed, doubled = set(), set(), 0
        for file in self.shards():
            *whole, _torn = file.read_bytes().split(b"\n")
            for line in whole[1:]:
                row = json.loads(line)
                if self.row(row, file.name):
                    doubled += row["index"] in answered
                    answered.add(row["index"])
                else:
                    failed.add(row["index"])
        lost = self.answered - answered
        check(not lost, f"answers are lost: {sorted(lost)[:10]}")
        self.answered, self.doubled = answered, doubled
        return answered, failed - answered

    def after(self, code, calm, merge):
        """After a start: is the round finished? `merge` has it take what there is."""
        if not self.has_run():
            check(code not in (0, 3, 75) and not self.shards(), f"code {code} without a manifest")
            return False
        counts, (answered, failed) = self.status(), self.journal()
        found = (len(answered), len(failed))
        check((counts["answered"], counts["failed"]) == found, f"status counts {counts}, the shard files hold {found}")
        check(counts["state"] != "running", "status says that a dead run is running")
        if self.output.exists() or code in (0, 3):
            self.whole(calm)
            check(code not in (0, 3) or counts["state"] == "finished", f"code {code}, and {counts}")
            check(code not in (0, 3) or (code == 3) == (counts["failed"] > 0), f"code {code}, and {counts}")
        elif merge:
            self.partial(counts)
        return code in (0, 3) and len(answered) == self.answerable

    def whole(self, calm):
        """The output is there, and has each row once, in order, right."""
        check(self.output.exists(), "there is no output though the run ended well")
        rows = [json.loads(line) for line in self.output.read_text().splitlines()]
        indices = [row["index"] for row in rows]
        check(indices == list(range(len(self.shown))), "the output has not each row once, in order")
        for row in rows:
            self.row(row, self.output.name, calm)
        self.checked += len(rows)

    def partial(self, counts):
        place = self.output.with_name("so-far.jsonl")
        self.command("merge", self.output, "--partial", "--output", place, "--overwrite")
        rows = [json.loads(line) for line in place.read_text().splitlines()]
        indices = [row["index"] for row in rows]
        check(indices == sorted(set(indices)), "merge --partial has not each row once, in order")
        answered = sum(self.row(row, "merge --partial") for row in rows)
        check((answered, len(rows) - answered) == (counts["answered"], counts["failed"]), f"merge --partial has {answered} of {counts}")
        self.checked, self.partials = self.checked + len(rows), self.partials + 1
