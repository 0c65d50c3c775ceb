#!/usr/bin/env python3
"""Counts how names and documentation comments of src/ are written, and compares the counts with the project's limits.

    scripts/naming-stats.py            prints the counts and, for each limit, the items that weigh on it
    scripts/naming-stats.py --check    prints the counts; exits with 1 where a limit is exceeded

Test code (`mod tests`, `*tests.rs`) is left out. A type or function is *one word* if its name has one capitalised part
or no underscore. The limits are those of .github/CONTRIBUTING.md.
"""

import collections
import pathlib
import re
import sys

SRC = pathlib.Path(__file__).resolve().parent.parent / "src"
TYPE = re.compile(r"\s*(?:pub(?:\([^)]*\))? )?(?:struct|enum|trait|type|union) (\w+)")
FUNCTION = re.compile(r'\s*(?:pub(?:\([^)]*\))? )?(?:(?:const|async|unsafe|extern "C") )*fn (\w+)')
ODD_OPENING = re.compile(r"(?:What|Who|Whom|Whoever|Of|So|Where|Which)\b")
LIMITS = {
    "types of one word": 0.30,
    "types that share their name": 0.05,
    "functions of one word": 0.35,
    "documentation comments with an odd opening": 0.02,
    "documentation comments of four words or fewer": 0.12,
}


def sources():
    """Yields (path below src, lines) of each file, without its tests."""
    for path in sorted(SRC.rglob("*.rs")):
        name = path.relative_to(SRC).as_posix()
        if not name.endswith("tests.rs"):
            yield name, path.read_text().split("#[cfg(test)]\nmod tests {")[0].split("\n")


def is_one_word_type(name):
    return len(re.findall(r"[A-Z][a-z0-9]*", name)) <= 1


def collect():
    types, functions, docs = [], [], []
    for file, lines in sources():
        comment = []
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if text.startswith("///"):
                comment.append(text[3:].strip())
                continue
            if comment:
                docs.append((" ".join(comment), f"{file}:{number - len(comment)}"))
                comment = []
            if text.startswith("//"):
                continue
            if found := TYPE.match(line):
                types.append((found[1], f"{file}:{number}"))
            if found := FUNCTION.match(line):
                functions.append((found[1], f"{file}:{number}"))
    return types, functions, docs


def main():
    types, functions, docs = collect()
    # A module that is built in two ways (with and without a feature) defines a type twice.
    twins = {"parquet/disabled.rs"}
    times = collections.Counter(n for n, at in types if at.split(":")[0] not in twins)
    offenders = {
        "types of one word": [it for it in types if is_one_word_type(it[0])],
        "types that share their name": [it for it in types if times[it[0]] > 1],
        "functions of one word": [it for it in functions if "_" not in it[0]],
        "documentation comments with an odd opening": [it for it in docs if ODD_OPENING.match(it[0])],
        "documentation comments of four words or fewer": [it for it in docs if len(it[0].split()) <= 4],
    }
    totals = [len(types), len(types), len(functions), len(docs), len(docs)]
    exceeded = False
    for (what, limit), total in zip(LIMITS.items(), totals):
        found = offenders[what]
        share = len(found) / max(total, 1)
        exceeded |= share > limit
        mark = "exceeds" if share > limit else "within"
        print(f"{what}: {len(found)} of {total}, {100 * share:.1f} % ({mark} the limit of {100 * limit:.0f} %)")
        if "--check" not in sys.argv:
            for text, at in found:
                print(f"    {at}: {text[:100]}")
    return 1 if exceeded and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
