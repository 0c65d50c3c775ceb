"""Parquet files between pyarrow and aurora-swarm: what one writes, the other has to read as it was meant.

    check.py PROGRAM MPIEXEC ENDPOINT FOLDER

Every input is written twice, as Parquet by pyarrow and as lines of JSON, and both runs have to be equal. Every output is
read by pyarrow and held against the lines of the same run.
"""

import csv
import datetime
import decimal
import gzip
import json
import pathlib
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq

PROGRAM, MPIEXEC, ENDPOINT, FOLDER = sys.argv[1], sys.argv[2], sys.argv[3], pathlib.Path(sys.argv[4])
checks = 0


def check(good, what):
    global checks
    checks += 1
    if not good:
        raise SystemExit(f"parquet: {what}")


def run(*arguments, ranks=1, code=0):
    command = [PROGRAM, *map(str, arguments)]
    if ranks > 1:
        command = [*MPIEXEC.split(), "-n", str(ranks), *command]
    ended = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=120)
    said = ended.stdout + ended.stderr
    check(ended.returncode == code, f"{' '.join(command)} ended with {ended.returncode}, not {code}:\n{said}")
    return said


def answer(name, output, *more, ranks=1, code=0):
    return run("run", name, "--output", output, "--endpoint", ENDPOINT, "--progress", "none", *more, ranks=ranks, code=code)


def lines(name):
    return [json.loads(line) for line in (FOLDER / name).read_text().splitlines()]


def plain(answer):
    """What two equal runs have in common."""
    kept = {name: value for name, value in answer.items() if name != "served"}
    if (kept.get("usage") or {}).get("estimated"):
        del kept["usage"]
    return kept


KEYS = set("id index prompt messages response responses reasoning model success error finish_reason usage params served row".split())


def columns(name):
    """A table of answers in the shape of its lines, but for kept rows, whose fields are columns."""
    rows = pq.read_table(FOLDER / name).to_pylist()
    for row in rows:
        for text in ("params", "messages", "row"):
            if row[text] is not None:
                row[text] = json.loads(row[text])
        for absent in ("prompt", "messages", "responses", "reasoning", "row"):
            if row[absent] is None:
                del row[absent]
        if row["served"]["row"] is None:
            del row["served"]["row"]
        # Keys that not every answer has are columns of text.
        for name in set(row) - KEYS:
            if row[name] is None:
                del row[name]
            else:
                row[name] = json.loads(row[name])
    return rows


def as_text(answer):
    """An id is a text in a table, and a kept row is."""
    return {**answer, "id": str(answer["id"])}


ROWS = 400
at = datetime.datetime(2026, 3, 4, 5, 6, 7, 250_000)
prompts = [f'{n}: what is "{n}"?\nand é {"x" * (n % 50)}' for n in range(ROWS)]
params = [{"max_tokens": 3 + n % 5, "seed": n} if n % 3 else None for n in range(ROWS)]
table = pa.table(
    {
        "id": pa.array(range(1000, 1000 + ROWS), pa.int64()),
        "prompt": pa.array(prompts),
        "temperature": pa.array([20.5 + n for n in range(ROWS)]),
        "kind": pa.array(["odd" if n % 2 else "even" for n in range(ROWS)]).dictionary_encode(),
        "at": pa.array([at] * ROWS, pa.timestamp("ns")),
        "utc": pa.array([at] * ROWS, pa.timestamp("us", tz="UTC")),
        "times": pa.array([[at]] * ROWS, pa.list_(pa.timestamp("ns", tz="America/New_York"))),
        "numbered": pa.array([[(n, "x")] for n in range(ROWS)], pa.map_(pa.int64(), pa.string())),
        "odd": pa.array([[({"key": n}, "x")] for n in range(ROWS)], pa.map_(pa.struct([("key", pa.int64())]), pa.string())),
        "never": pa.array([2**63 - 1] * ROWS, pa.int64()).cast(pa.timestamp("us", tz="UTC")),
        "price": pa.array([decimal.Decimal("1.50")] * ROWS, pa.decimal128(9, 2)),
        "tags": pa.array([["a", str(n)] for n in range(ROWS)]),
        "large": pa.array(prompts, pa.large_string()),
        "bytes": pa.array([text.encode() for text in prompts], pa.binary()),
        "picture": pa.array([b"\xff\xd8"] * ROWS, pa.binary()),
        "params": pa.array([it and json.dumps(it) for it in params]),
    }
)
with open(FOLDER / "in.jsonl", "w") as file:
    for n in range(ROWS):
        row = {"id": 1000 + n, "prompt": prompts[n], **({"params": params[n]} if params[n] else {})}
        file.write(json.dumps(row) + "\n")
answer("in.jsonl", "lines.jsonl")
expected = [plain(it) for it in lines("lines.jsonl")]
check(len(expected) == ROWS and all(it["success"] for it in expected), "the run of lines has all answers")

# Every compression, both page versions, row groups smaller and larger than a batch.
for number, (codec, page, group) in enumerate(
    [("none", "1.0", 7), ("snappy", "1.0", 1000), ("gzip", "2.0", 100), ("zstd", "2.0", 300), ("lz4", "1.0", 64), ("brotli", "1.0", 399)]
):
    name, ranks = f"in-{codec}.parquet", 1 + number % 3
    pq.write_table(table, FOLDER / name, compression=codec, data_page_version=page, row_group_size=group)
    answer(name, f"{codec}.jsonl", ranks=ranks)
    check([plain(it) for it in lines(f"{codec}.jsonl")] == expected, f"{name} is answered as the lines are")

# Out, in one go, and again from the shard files.
answer("in.jsonl", "out.parquet", ranks=3)
check([plain(it) for it in columns("out.parquet")] == [as_text(it) for it in expected], "the columns say what the lines do")
run("merge", "out.parquet", "--output", "merged.jsonl")
check(columns("out.parquet") == [as_text(it) for it in lines("merged.jsonl")], "all columns, who served it too")
run("merge", "lines.jsonl", "--output", "merged.parquet")
check(columns("merged.parquet") == [as_text(it) for it in lines("lines.jsonl")], "merge writes Parquet")

# Kept rows: a column for each field, of the type that holds all its values.
kept = []
for n in range(ROWS):
    row = {"prompt": prompts[n], "label": f"l{n % 3}", "count": n, "share": n / 3, "good": n % 2 == 0, "tags": ["a", n]}
    row |= {"mixed": n if n % 2 else f"t{n}", "huge": 2**63 + n, "nested": {"é": [n, None]}, "model": f"m{n}"}
    row |= {"late": n} if n > 300 else {"early": -n}
    kept.append(row | {"text": f'"{n}"\t\r\n\0\u2028', "none": None, "row_model": 1.0, "whole": 1 if n % 2 else 0.5})
kept[7]["half"] = True
with open(FOLDER / "kept.jsonl", "w") as file:
    for row in kept:
        file.write(json.dumps({name: value for name, value in row.items() if name != "model"}) + "\n")
answer("kept.jsonl", "kept.parquet", "--keep-row", ranks=3)
schema = pq.read_schema(FOLDER / "kept.parquet")
types = {"label": "string", "count": "int64", "share": "double", "good": "bool", "tags": "string", "mixed": "string"}
types |= {"huge": "string", "nested": "string", "late": "int64", "early": "int64", "text": "string", "none": "string"}
types |= {"row_model": "double", "whole": "double", "half": "bool", "row_prompt": "string", "row": "string"}
for name, kind in types.items():
    check(str(schema.field(name).type) == kind, f"{name} is {schema.field(name).type} and not {kind}")
for n, row in enumerate(pq.read_table(FOLDER / "kept.parquet").to_pylist()):
    for name, value in kept[n].items():
        if name == "model":
            continue
        if name in ("tags", "nested"):
            value = json.dumps(value)
            row[name] = json.dumps(json.loads(row[name]))
        elif name in ("huge", "mixed"):
            value = str(value)
        column = "row_prompt" if name == "prompt" else name
        check(row[column] == value, f"{column} of row {n} is {row[column]!r} and not {value!r}")
    absent = {"late", "early", "half"} - set(kept[n])
    check(all(row[name] is None for name in absent) and row["row"] is None, f"row {n} has no more than its fields")
answer("kept.jsonl", "kept-lines.jsonl", "--keep-row")
for ending in ("csv", "tsv", "csv.gz", "tsv.zst"):
    run("merge", "kept-lines.jsonl", "--output", f"kept.{ending}")
with open(FOLDER / "kept.csv", newline="") as file:
    rows = list(csv.DictReader(file))
with gzip.open(FOLDER / "kept.csv.gz", "rt", newline="") as file:
    check(rows == list(csv.DictReader(file)), "a compressed table is the same")
with open(FOLDER / "kept.tsv", newline="") as file:
    check(rows == list(csv.DictReader(file, dialect="excel-tab")), "a table with tabs is the same")
for row, line in zip(rows, lines("kept-lines.jsonl"), strict=True):
    for name, value in line["row"].items():
        shown = "" if value is None else value if isinstance(value, str) else json.dumps(value)
        column = "row_prompt" if name == "prompt" else name
        check(row[column].replace(" ", "") == shown.replace(" ", ""), f"{column} is {row[column]!r} and not {shown!r}")
# What was typed as a number in a table is one again.
pq.write_table(pa.table({"prompt": ["a", "b"], "year": pa.array([1999, None], pa.int32()), "at": [at, at]}), FOLDER / "typed.parquet")
answer("typed.parquet", "typed-out.parquet", "--keep-row")
typed = pq.read_table(FOLDER / "typed-out.parquet")
check(typed["year"].to_pylist() == [1999, None] and str(typed.schema.field("year").type) == "int64", "a column of integers stays one")

# Templates: columns by their names, whatever they are called and made of.
said = "{{kind}}|{{temperature}}|{{price}}|{{at}}|{{tags}}|{{large}}|{{bytes}}|{{utc}}|{{times}}|{{numbered}}"
answer("in-snappy.parquet", "template.jsonl", "--template", said, "--keep-row")
for n, it in enumerate(lines("template.jsonl")):
    wanted = f'{"odd" if n % 2 else "even"}|{20.5 + n}|1.50|2026-03-04T05:06:07.250|["a","{n}"]|{prompts[n]}|{prompts[n]}'
    wanted += f'|2026-03-04T05:06:07.250Z|["2026-03-04T05:06:07.250Z"]|{{"{n}":"x"}}'
    check(it["prompt"] == wanted, f"the template gives {it['prompt']!r} and not {wanted!r}")
    check(it["row"]["temperature"] == 20.5 + n and not {"picture", "odd", "never"} & set(it["row"]), "the row is kept, but for what has no text")

# Conversations, with fields that only some of their messages have.
chats = [[{"role": "system", "content": "be brief"}, {"role": "user", "content": text, "name": None}] for text in prompts]
pq.write_table(pa.table({"messages": chats}), FOLDER / "chats.parquet")
with open(FOLDER / "chats.jsonl", "w") as file:
    for chat in chats:
        file.write(json.dumps({"messages": [{k: v for k, v in it.items() if v is not None} for it in chat]}) + "\n")
answer("chats.jsonl", "chats-lines.jsonl")
answer("chats.parquet", "chats-table.jsonl", ranks=2)
same = [plain(it) for it in lines("chats-lines.jsonl")] == [plain(it) for it in lines("chats-table.jsonl")]
check(same, "conversations in a table are asked as those in lines are")

answer("chats.jsonl", "chats-out.parquet")
answer("chats-out.parquet", "chats-again.jsonl")
same = [plain(it) for it in lines("chats-lines.jsonl")] == [plain(it) for it in lines("chats-again.jsonl")]
check(same, "the conversations in a table of answers can be asked again")

# Failures and several sequences.
with open(FOLDER / "mixed.jsonl", "w") as file:
    file.write('{"id": "a", "prompt": ""}\n{"id": 7, "prompt": "two", "n": 2, "temperature": 1.0}\nno row\n')
answer("mixed.jsonl", "mixed.parquet", "--bad-rows", "fail", code=3)
run("merge", "mixed.parquet", "--output", "mixed-lines.jsonl")
for column, line in zip(columns("mixed.parquet"), lines("mixed-lines.jsonl"), strict=True):
    check(column == as_text(line), f"failures and sequences are in the table: {column} {line}")

# What is wrong is said, with exit code 5, before anything is asked.
pq.write_table(pa.table({"Prompt": ["a"]}), FOLDER / "named.parquet")
check('no `prompt` or `messages` column' in answer("named.parquet", "no1.jsonl", code=5), "a table without prompts is refused")
pq.write_table(pa.table({"prompt": ["a", None, "c"]}), FOLDER / "null.parquet")
check("null.parquet row 2" in answer("null.parquet", "no2.jsonl", code=5), "a null is named by file and row")
(FOLDER / "cut.parquet").write_bytes((FOLDER / "in-zstd.parquet").read_bytes()[:5000])
check("cut.parquet" in answer("cut.parquet", "no3.jsonl", code=5), "a cut file is named")
pq.write_table(pa.table({"prompt": pa.array([b"\xff"], pa.binary())}), FOLDER / "bytes.parquet")
check("bytes.parquet" in answer("bytes.parquet", "no4.jsonl", code=5), "bytes that are no text are refused")
check(not list(FOLDER.glob("no?.jsonl*")), "and nothing is left behind")
pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), FOLDER / "empty.parquet")
answer("empty.parquet", "empty-out.parquet")
check(pq.read_table(FOLDER / "empty-out.parquet").num_rows == 0, "no rows give an empty table")

print(f"parquet: {checks} checks against pyarrow {pa.__version__} held")
