#!/usr/bin/env python3
"""Makes prompts from what is written about the software on this machine, and a copy with two prompts that must fail.

    prompts.py COUNT GOOD.jsonl BAD.jsonl

The texts are the descriptions of the installed Debian packages (ids: package names); where these are not enough, of the
Python packages of this interpreter. The same machine gives the same prompts. In BAD one prompt is longer than any
context of the test's server and one is empty; their ids are `too-long` and `empty`.
"""
import importlib.metadata
import json
import shutil
import subprocess
import sys

LENGTH = 400  # characters


def debian():
    """Name and description of every installed package, sorted by name."""
    if shutil.which("dpkg-query") is None:
        return
    form = "${db:Status-Abbrev}\t${Package}\t${Description}\x1e"
    listed = subprocess.run(["dpkg-query", "-W", "-f", form], capture_output=True, timeout=60, check=True)
    found = {}
    for record in listed.stdout.decode("utf-8", "replace").split("\x1e"):
        parts = record.split("\t", 2)
        if len(parts) == 3 and parts[0].startswith("ii"):
            # a paragraph's lines begin with a blank, and " ." stands for an empty one
            lines = [line.strip() for line in parts[2].splitlines()]
            found.setdefault(parts[1], " ".join(line for line in lines if line not in ("", ".")))
    yield from sorted(found.items())


def python():
    """The same of every Python package that this interpreter sees."""
    found = {}
    for package in importlib.metadata.distributions():
        about = package.metadata
        text = " ".join(f"{about.get('Summary') or ''} {about.get('Description') or about.get_payload() or ''}".split())
        found.setdefault(f"python-{about['Name']}", text)
    yield from sorted(found.items())


def pieces(described):
    """First the beginning of every text, then, should more be wanted, the stretches after it."""
    described = [(name, text) for name, text in described if text]
    round_ = 0
    while described:
        for name, text in described:
            mark = name if round_ == 0 else f"{name}.{round_ + 1}"
            yield mark, f"{mark}: {text}"[:LENGTH]
        round_ += 1
        described = [(name, text[LENGTH:]) for name, text in described if len(text) > LENGTH]


def write(path, rows):
    with open(path, "w", encoding="utf-8") as file:
        for name, text in rows:
            file.write(json.dumps({"id": name, "prompt": text}, ensure_ascii=False) + "\n")


def main():
    count, good, bad = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    packages = list(debian())
    if len(packages) < count:
        packages += python()
    rows = [row for row, _ in zip(pieces(packages), range(count))]
    if len(rows) < count:
        sys.exit(f"the packages of this machine describe themselves in {len(rows)} prompts only; {count} are wanted")
    write(good, rows)
    names = ", ".join(name for name, _ in rows[:3])
    everything = " ".join(text for _, text in rows)
    # About five characters a token here: well over a context of 2048 tokens, and not so long that it shows in bytes.
    rows[count // 3] = ("too-long", everything[:20000])
    rows[2 * count // 3] = ("empty", "")
    write(bad, rows)
    print(f"{count} of {len(everything) // count} characters each: {names}, …")


main()
