"""What a round is made of, drawn from the seed alone: rows and what must become of them, servers and their faults,
starts and what befalls them. Nothing here knows of processes or of time.
"""

import gzip
import json
import signal

CONTEXT = 2048  # tokens, of every server
WORDS = "why how the rank sends a prompt to its node and waits until all have come".split()
# A conversation as the simulator renders it; the file lets `run` send conversations in lists.
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Rows that must fail, with the kind of their failure; a raw line where it is no JSON object's dump.
HOPELESS = [
    ("bad_row", "{oops"),
    ("bad_row", json.dumps({"prompt": 7})),
    ("bad_row", json.dumps({"messages": []})),
    ("empty_prompt", json.dumps({"prompt": "  "})),
    ("refused", json.dumps({"prompt": "some POISON in it"})),
    ("too_long", json.dumps({"prompt": "long " * 10_000})),
]


def render(messages):
    turns = "".join(f"<|im_start|>{it['role']}\n{it['content']}<|im_end|>\n" for it in messages)
    return turns + "<|im_start|>assistant\n"


class Rows:
    """An input, and of each row: its id, and either what the model is shown or the kind of its failure."""

    def __init__(self, rng, folder):
        self.count = rng.choice([rng.choice([0, rng.randint(1, 30)]), rng.randint(30, 600)] + [rng.randint(500, 3000)] * 6)
        self.max_tokens = rng.choice([4, 8, 16, 24])
        self.api = rng.choice(["auto", "auto", "completions"])
        kind = rng.choice(["txt", "jsonl", "jsonl", "jsonl.gz"])
        rich = kind != "txt"
        ids, own, talks, priorities, twins = (rich and rng.random() < 0.4 for _ in range(5))
        common = " ".join(rng.choices(WORDS, k=120)) if rng.random() < 0.3 else ""
        hopeless = set(rng.sample(range(self.count), min(self.count, rng.randint(1, 4)))) if rich and rng.random() < 0.4 else ()
        self.talks, self.shown, lines = talks and self.api == "auto", [], []
        for at in range(self.count):
            if at in hopeless:
                failure, line = rng.choice(HOPELESS)
                self.shown.append({"id": str(at), "kind": failure})
                lines.append(line)
                continue
            name = f"row {at // 2 if twins else at}"  # a twin asks what its neighbour does, and is answered for itself
            text = " ".join(filter(None, [common, name, *rng.choices(WORDS, k=rng.randint(1, 40))]))
            row, shown = {"prompt": text}, {"id": str(at), "max_tokens": self.max_tokens, "ignore_eos": False}
            if self.talks and rng.random() < 0.3:
                messages = [{"role": "system", "content": "be brief"}] * rng.randint(0, 1) + [{"role": "user", "content": text}]
                row = {"messages": messages}
            if ids and rng.random() < 0.9:
                row["id"] = shown["id"] = rng.choice([f"id-{at}", 1_000_000 + at])
            if own and rng.random() < 0.5:
                row["max_tokens"] = shown["max_tokens"] = rng.randint(1, 32)
                row["ignore_eos"] = shown["ignore_eos"] = rng.random() < 0.5
            if priorities:
                row["priority"] = rng.randint(-1, 1)
            by_chat = "messages" in row or self.api == "auto"
            shown["text"] = render(row.get("messages") or [{"role": "user", "content": text}]) if by_chat else text
            self.shown.append(shown)
            lines.append(json.dumps(row) if rich else text)
        self.file = folder / f"prompts.{kind}"
        content = "".join(line + "\n" for line in lines).encode()
        self.file.write_bytes(gzip.compress(content, mtime=0) if kind.endswith("gz") else content)
        self.answerable = [shown for shown in self.shown if "text" in shown]


class Model:
    """What all servers of a round share. `seconds` is how long they need together when nothing goes wrong."""

    def __init__(self, rng, rows):
        self.servers = rng.randint(1, 4)
        self.seconds = rng.uniform(1, 7)
        lengths = rng.choice([["--output", str(rng.randint(4, 24))], ["--lognormal", "10:0.8"]])
        self.answers = [*lengths, "--poison", "POISON", "--max-model-len", str(CONTEXT)]
        slots = rng.choice([8, 16, 32])
        self.least_window = 1 if rows.count < 200 else slots // 2  # a small one is as slow as it sounds
        step = self.seconds * 1e6 * slots * self.servers / max(1, rows.count * rows.max_tokens)
        self.pace = ["--max-num-seqs", str(slots), "--step-base-us", f"{min(max(step, 300), 40_000):.0f}"]


def sick(rng, answers):
    """Flags of a server with some faults. `answers` is about how many it would give, were it well."""
    request = rng.randint(1, max(2, answers))
    flags = []
    for _ in range(rng.randint(0, 3)):
        p = rng.choice([0.01, 0.05, 0.2])
        fault = rng.choice([
            f"status={rng.choice([429, 500, 502, 503, 503])},p={p}", f"cut-body,p={p}", f"eof,p={p}", f"error-under-200,p={p}",
            f"missing-choice,p={p}", f"doubled-index,p={p}", f"reverse-choices,p={p}", f"slow-first-byte={rng.randint(50, 3000)},p={p}",
            f"hang,p={p / 10}", f"hang,from={request},count={rng.randint(1, 40)}", f"status=404,from={request},count=20",
            f"engine-death,from={request}", f"stall,from={request}", f"status=503,from={request}",
        ])
        flags += ["--fault", fault]
    flags += rng.choice([
        [], [], [], ["--die", f"0@{rng.uniform(0, 8):.1f}s"], ["--die", f"0@{request}p"], ["--slow", "0=4"],
        ["--loading", f"{rng.uniform(0, 4):.1f}"], ["--max-queued", str(rng.randint(2, 40))], ["--keep-alive", "0.3"],
    ])
    return flags + ["--fault-seed", str(rng.randint(0, 10_000)), "--on-term", rng.choice(["exit", "drain", "hang"])]


class Start:
    """A start of the job: on how many ranks (0 is without mpiexec), with which settings, and what befalls it."""

    def __init__(self, rng, model, calm):
        self.calm = calm
        self.ranks = rng.choice([0, 1, 2, 2, 3, 3, 4, 5, 6])
        self.timeout, self.silence, self.ready = rng.randint(2, 10), rng.randint(1, 5), rng.randint(3, 10)
        self.options = ["--timeout", f"{self.timeout}s", "--rank-silence", f"{self.silence}s", "--ready-timeout", f"{self.ready}s"]
        self.options += rng.choice([[], ["--no-batch"], ["--batch-size", str(rng.choice([1, 3, 8, 32, 200]))]])
        window = max(rng.choice([1, 7, 32, 256]), model.least_window)
        self.options += rng.choice([[], [], ["--concurrency", str(window)]])
        self.options += rng.choice([[], ["--retries", str(rng.randint(1, 6))], ["--usage", "exact"], ["--max-wait", "200ms"]])
        self.walltime, self.events = None, []
        if not calm:
            if rng.random() < 0.15:
                self.walltime = rng.randint(2, 8)
                self.options += ["--walltime", f"{self.walltime}s"]
            for _ in range(rng.choice([0, 1, 1, 1, 1, 2])):
                self.events.append(self.event(rng, model))

    def event(self, rng, model):
        what = rng.choice(["rank", "rank", "mpiexec", "all", "all", "server", "server", "stop", "stop", "term", "look"])
        event = {"what": what, "who": rng.randrange(max(1, self.ranks)), "server": rng.randrange(model.servers)}
        if rng.random() < 0.4:  # while it begins to work, or at any time
            event["after"] = rng.choice([rng.uniform(0, 0.7), rng.uniform(0, model.seconds + 1)])
        else:  # when so much of what is open is answered: all of it is when the gathering begins
            event["share"] = rng.choice([rng.random(), rng.random(), rng.random(), 1.0])
        event["for"] = rng.uniform(0.2, 3)  # how long a server is away
        if what == "stop":  # shorter than a rank may be silent, or so long that the job should end before
            event["for"] = rng.choice([rng.uniform(0.1, 0.8 * self.silence), self.silence + rng.uniform(0.2, 3), 4 * self.silence + 20])
            event["then"] = rng.choice([signal.SIGCONT, signal.SIGCONT, signal.SIGKILL])
        return event
